//! Chores of the workspace, each one command: `cargo xtask <chore>`.

mod crds;
mod deps;
mod packages;
mod run;
mod vm;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use run::{Failure, Step};

const USAGE: &str = "\
usage: cargo xtask <chore>

  demo [ARGS]   install what the demo needs, build, and run `calico-lab demo ARGS`, such as
                --store etcd, --store kubernetes, or --topology rr
  test [ARGS]   install what the tests need, build once, and run `cargo test --workspace ARGS`
  vm [ARGS]     run the tests that need Debian's kernel (IP-in-IP) in a virtual machine
  kills [N]     as the tests: N agents (100) are killed under traffic; nothing is lost or let in
  crash [N]     as the tests: N pods (10000) come and go while plugin and agent are killed
  simulate [STEPS [SEED]]  hosts that race for addresses and crash, STEPS steps (10000000) on end
  soak [SECONDS [SEED]]  watches of an etcd cluster whose members are killed, stopped and cut off (300)
  felix [N [SEED]]  build Felix' calculation graph (Go), hold the recordings in tests/felix/cases and N
                random stories (200) against it, and measure it beside ours; --record writes them anew
  containers [N]  as the tests: containerd starts and stops N containers (100) at once
  firewalld     run Debian's firewalld beside the agent, on the nodes of a lab
  kubelet       run deploy/kubernetes/calico.yaml under a real kubelet, with pods over it
  pods [N]      measure memory for following N pods (25000) of a real API server
  bench [ARGS]  install what the bench needs, build releases, and run `calico-lab bench ARGS`
  plugin        build the CNI plugin as it ships, small and quick to start, and say where it is
  check-deps    hold the dependencies between the workspace's crates against their table
  seeds [DIR]   write the seeds of the fuzz targets to DIR (fuzz/corpus)
  crds          write deploy/crds and deploy/schemas from the resource types

demo, test, vm, kills, kubelet, firewalld and bench need root (network namespaces) and Debian or Ubuntu (apt-get).
CALICO_SKIP_INSTALL=1 leaves the system's packages alone.";

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let chore = args.next();
    let rest: Vec<String> = args.collect();
    let outcome = match chore.as_deref() {
        Some("demo") => demo(&rest),
        Some("test") => test(&rest),
        Some("vm") => vm(&rest),
        Some("kills") => kills(&rest),
        Some("crash") => crash(&rest),
        Some("felix") => felix(&rest),
        Some("containers") => containers(&rest),
        Some("simulate") => simulate(&rest),
        Some("soak") => soak(&rest),
        Some("kubelet") => kubelet(),
        Some("firewalld") => firewalld(),
        Some("pods") => pods(&rest),
        Some("bench") => bench(&rest),
        Some("plugin") => plugin(),
        Some("check-deps") => check_deps(),
        Some("seeds") => seeds(&rest),
        Some("crds") => crds::write(),
        Some("help" | "--help" | "-h") => {
            println!("{USAGE}");
            Ok(())
        }
        Some(other) => Err(Failure::usage(format!("unknown chore {other:?}\n\n{USAGE}"))),
        None => Err(Failure::usage(USAGE)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("xtask: {failure}");
            ExitCode::from(failure.code())
        }
    }
}

fn demo(args: &[String]) -> Result<(), Failure> {
    run::require_root("the demo")?;
    packages::install(packages::DEMO)?;
    let names = |store: &str| args.iter().any(|arg| arg.trim_start_matches("--store=") == store);
    if names("etcd") {
        packages::install(packages::DEMO_ETCD)?;
    }
    build("--bins")?;
    let lab = run::target_dir()?.join("debug/calico-lab");
    // The first lab on Kubernetes builds kube-apiserver.
    let minutes = if names("kubernetes") { 45 } else { 5 };
    Step::new("demo", lab).arg("demo").args(args).deadline(Duration::from_secs(60 * minutes)).run()
}

fn test(args: &[String]) -> Result<(), Failure> {
    let privileged = std::env::var_os("CALICO_SKIP_PRIVILEGED").is_none();
    if privileged {
        run::require_root("the tests of the kernel and of the lab")?;
        packages::install(packages::TEST)?;
    }
    // The lab's tests run the workspace's programs, which `cargo test` alone does not build. With
    // all targets at once, every dependency is built once.
    build("--all-targets")?;
    Step::cargo("tests")
        .args(["test", "--workspace", "--locked", "--no-fail-fast"])
        .args(args)
        .deadline(Duration::from_secs(40 * 60))
        .run()?;
    // Arguments choose tests, which these then are not.
    if privileged && args.is_empty() { vm::run(&[]) } else { Ok(()) }
}

fn vm(args: &[String]) -> Result<(), Failure> {
    run::require_root("what the tests run")?;
    packages::install(packages::TEST)?;
    build("--bins")?;
    vm::run(args)
}

fn kills(args: &[String]) -> Result<(), Failure> {
    let number = number_of(args, "100")?;
    run::require_root("the kills")?;
    packages::install(packages::DEMO)?;
    build("--bins")?;
    Step::cargo("kills")
        .args(["test", "-p", "calico-lab", "--locked", "--test", "restart"])
        .args(["--test", "pod_start", "--", "--nocapture"])
        .env("CALICO_KILLS", number)
        .deadline(Duration::from_secs(60 * 60))
        .run()
}

fn crash(args: &[String]) -> Result<(), Failure> {
    let number = number_of(args, "10000")?;
    run::require_root("the crashes")?;
    packages::install(packages::DEMO)?;
    build("--bins")?;
    Step::cargo("crash")
        .args(["test", "-p", "calico-lab", "--locked", "--test", "crash", "--", "--nocapture"])
        .env("CALICO_CRASH_CYCLES", number)
        .env("CALICO_CRASH_SECONDS", "3600")
        .deadline(Duration::from_secs(2 * 60 * 60))
        .run()
}

fn containers(args: &[String]) -> Result<(), Failure> {
    let number = number_of(args, "100")?;
    run::require_root("the containers")?;
    packages::install(packages::TEST)?;
    build("--bins")?;
    Step::cargo("containers")
        .args(["test", "-p", "calico-lab", "--locked", "--test", "containerd", "--", "--nocapture"])
        .env("CALICO_CONTAINERS", number)
        .deadline(Duration::from_secs(30 * 60))
        .run()
}

fn felix(args: &[String]) -> Result<(), Failure> {
    let package = ["-p", "calico-felix-tests", "--locked"];
    let live = Step::cargo("felix")
        .arg("test")
        .args(package)
        .args(["--test", "live", "--", "--ignored", "--nocapture", "--test-threads=1"])
        .deadline(Duration::from_secs(60 * 60));
    if args.iter().any(|arg| arg == "--record") {
        return live.arg("recordings").env("CALICO_FELIX_RECORD", "1").run();
    }
    let stories = number_of(args, "200")?;
    let live = live.env("CALICO_FELIX_STORIES", stories);
    match args.get(1..).unwrap_or_default() {
        [] => live.run()?,
        seed => live.env("CALICO_DIFF_SEED", number_of(seed, "0")?).run()?,
    }
    Step::cargo("felix")
        .arg("bench")
        .args(package)
        .args(["--bench", "peer"])
        .deadline(Duration::from_secs(60 * 60))
        .run()
}

fn simulate(args: &[String]) -> Result<(), Failure> {
    let steps = number_of(args, "10000000")?;
    let seed = number_of(args.get(1..).unwrap_or_default(), "0")?;
    Step::cargo("simulate")
        .args(["test", "-p", "calico-ipam", "--locked", "--test", "simulation"])
        .env("CALICO_SIMULATION_STEPS", steps)
        .env("CALICO_SIMULATION_SEED", seed)
        .deadline(Duration::from_secs(12 * 60 * 60))
        .run()
}

fn soak(args: &[String]) -> Result<(), Failure> {
    let seconds = number_of(args, "300")?;
    let seed = number_of(args.get(1..).unwrap_or_default(), "1")?;
    packages::install(packages::TEST)?;
    Step::cargo("soak")
        .args(["test", "-p", "calico-datastore", "--locked", "--test", "etcd", "--"])
        .args(["soak::", "--nocapture"])
        .env("CALICO_SOAK_SECONDS", seconds)
        .env("CALICO_SOAK_SEED", seed)
        .deadline(Duration::from_secs(12 * 60 * 60))
        .run()
}

/// The tests that know the seeds write them.
fn seeds(args: &[String]) -> Result<(), Failure> {
    let usual = "fuzz/corpus".to_owned();
    let place = std::path::absolute(args.first().unwrap_or(&usual));
    let place = place.map_err(|error| Failure::usage(format!("{args:?}: {error}")))?;
    for package in ["calico-bgp", "calico-cni", "calico-policy"] {
        Step::cargo("seeds")
            .args(["test", "-p", package, "--locked", "--test", "fuzz", "--", "--ignored"])
            .args(["--exact", "write_seeds"])
            .env("SEEDS", &place.display().to_string())
            .deadline(Duration::from_secs(20 * 60))
            .run()?;
    }
    println!("the seeds are in {}", place.display());
    Ok(())
}

fn kubelet() -> Result<(), Failure> {
    run::require_root("the kubelet")?;
    packages::install(packages::TEST)?;
    build("--bins")?;
    // The first time, Go builds what a node of Kubernetes runs.
    Step::cargo("kubelet")
        .args(["test", "-p", "calico-lab", "--locked", "--test", "kubelet"])
        .args(["--", "--ignored", "--nocapture"])
        .deadline(Duration::from_secs(60 * 60))
        .run()
}

fn firewalld() -> Result<(), Failure> {
    run::require_root("the firewall")?;
    packages::install(packages::TEST)?;
    packages::install(packages::FIREWALLD)?;
    let unpacked = run::target_dir()?.join("tmp/firewalld");
    packages::unpack_firewalld(&unpacked)?;
    build("--bins")?;
    Step::cargo("firewalld")
        .args(["test", "-p", "calico-lab", "--locked", "--test", "firewalls"])
        .args(["--", "--ignored", "--nocapture"])
        .env("CALICO_FIREWALLD", &unpacked.display().to_string())
        .deadline(Duration::from_secs(20 * 60))
        .run()
}

fn pods(args: &[String]) -> Result<(), Failure> {
    let number = number_of(args, "25000")?;
    packages::install(packages::TEST)?;
    Step::cargo("pods")
        .args(["test", "-p", "calico-datastore", "--locked", "--test", "kubernetes"])
        .args(["--", "memory::many", "--ignored", "--nocapture"])
        .env("CALICO_PODS", number)
        .deadline(Duration::from_secs(60 * 60))
        .run()
}

/// The only argument, if any: how many.
fn number_of<'a>(args: &'a [String], usual: &'a str) -> Result<&'a str, Failure> {
    let number = args.first().map_or(usual, String::as_str);
    if number.parse::<u32>().is_err() {
        return Err(Failure::usage(format!("{number:?} is no number\n\n{USAGE}")));
    }
    Ok(number)
}

fn bench(args: &[String]) -> Result<(), Failure> {
    run::require_root("the bench")?;
    packages::install(packages::DEMO)?;
    Step::cargo("build")
        .args(["build", "--release", "--locked", "--bins"])
        .args(["--package", "calico-agent", "--package", "calico-lab", "--package", "calicoctl"])
        .deadline(Duration::from_secs(60 * 60))
        .run()?;
    let release = run::target_dir()?.join("release");
    let plugin = build_plugin()?;
    let place = release.join("calico-cni");
    std::fs::copy(&plugin, &place).map_err(|error| Failure::io("write", &place, &error))?;
    let lab = release.join("calico-lab");
    Step::new("bench", lab).arg("bench").args(args).deadline(Duration::from_secs(600)).run()
}

fn plugin() -> Result<(), Failure> {
    println!("{}", build_plugin()?.display());
    Ok(())
}

/// The plugin as it ships. On its own, since in one build with others it would carry their
/// datastores. It is started for every pod, so its start counts: linked statically with musl, whose
/// start does not ask the processor for its features (which a virtual machine makes slow, as it has
/// to answer itself), and at a fixed address, so that no page has to be changed before it runs. That
/// is a fifth of what it takes with a static glibc.
fn build_plugin() -> Result<PathBuf, Failure> {
    let version = run::output(&["--version", "--verbose"])?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.ok_or_else(|| Failure::check("cargo does not tell its host".to_owned()))?;
    let musl = host.replace("-gnu", "-musl");
    let installed = Step::new("musl target", "rustup")
        .args(["target", "add", &musl])
        .deadline(Duration::from_secs(10 * 60))
        .run();
    let (target, flags) = match installed {
        Ok(()) => (musl.as_str(), "-C relocation-model=static"),
        Err(_) => {
            eprintln!("xtask: the plugin is linked with glibc, with which it starts more slowly");
            (host, "-C relocation-model=static -C target-feature=+crt-static")
        }
    };
    // For a target by name, so that the flags are not those of its build scripts.
    Step::cargo("build the plugin")
        .args(["build", "--package", "calico-cni", "--release", "--locked", "--target", target])
        .env("RUSTFLAGS", flags)
        .deadline(Duration::from_secs(60 * 60))
        .run()?;
    Ok(run::target_dir()?.join(target).join("release/calico-cni"))
}

fn build(targets: &str) -> Result<(), Failure> {
    Step::cargo("build")
        .args(["build", "--workspace", targets, "--locked"])
        .deadline(Duration::from_secs(30 * 60))
        .run()
}

fn check_deps() -> Result<(), Failure> {
    let edges = deps::workspace_edges()?;
    let wrong = deps::violations(&edges);
    let large = deps::too_large()?;
    if !large.is_empty() {
        return Err(Failure::check(large.join("\n")));
    }
    if wrong.is_empty() {
        println!("{} dependencies between the workspace's crates, all allowed", edges.len());
        return Ok(());
    }
    let lines: Vec<String> = wrong.iter().map(|edge| format!("  {edge}")).collect();
    Err(Failure::check(format!(
        "dependencies that the table in xtask/src/deps.rs does not allow:\n{}",
        lines.join("\n")
    )))
}
