//! Tests that need another kernel than the machine's: IP-in-IP and flow tables are modules that many
//! kernels of cloud machines lack. They run in a virtual machine, emulated, with Debian's kernel.

mod image;
mod kernel;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::run::{self, Failure, Step};

/// Test programs whose ignored tests are for the virtual machine: the package, and its test or
/// [`LIB`]; and tests that run everywhere, of which an older kernel has another side (it knows no
/// tables that outlive their owner).
const PROGRAMS: &[(&str, &str, &[&str])] =
    &[("calico-lab", "ipip", &[]), ("calico-netlink", LIB, &["owner::who_wants_to_own"])];
/// The tests within the library.
const LIB: &str = "--lib";
/// Programs of the workspace that those tests run.
const OWN: &[&str] = &["calico-agent", "calico-cni", "calico-lab", "calicoctl"];
/// What the machine prints, before its end, when all went well.
const PASSED: &str = "vm: every test passed";
/// Emulated code is some twenty times slower; what takes longer than this hangs.
const DEADLINE: Duration = Duration::from_secs(600);

/// Runs the tests, with `args` for each test program; the workspace has been built.
pub(crate) fn run(args: &[String]) -> Result<(), Failure> {
    if std::env::consts::ARCH != "x86_64" {
        return Err(Failure::check(
            "the virtual machine of the tests is an x86_64; on this machine load the modules ipip and \
             nft_flow_offload and run `cargo test -p calico-lab --test ipip -- --ignored` and \
             `cargo test -p calico-netlink --lib -- --ignored`",
        ));
    }
    let target = run::target_dir()?;
    let directory = target.join("tmp/vm");
    let kernel = kernel::fetch(&directory)?;
    let tests = PROGRAMS
        .iter()
        .map(|(package, test, _)| test_program(package, test))
        .collect::<Result<Vec<_>, _>>()?;
    let own: Vec<PathBuf> = OWN.iter().map(|name| target.join("debug").join(name)).collect();
    let image = image::build(&directory, &kernel, &init(&tests, args), &tests, &own)?;
    let log = directory.join("console.log");
    let console = format!("stdio,id=console,signal=off,logfile={}", log.display());
    Step::new("virtual machine", "qemu-system-x86_64")
        .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "2048"])
        .args(["-display", "none", "-no-reboot", "-nic", "none"])
        .args(["-chardev", &console, "-serial", "chardev:console"])
        .args([Path::new("-kernel"), &kernel.image, Path::new("-initrd"), &image])
        .args(["-append", "console=ttyS0 quiet panic=-1 rdinit=/init"])
        .deadline(DEADLINE)
        .run()?;
    let text = fs::read(&log).map_err(|error| Failure::io("read", &log, &error))?;
    if String::from_utf8_lossy(&text).lines().any(|line| line.trim_end() == PASSED) {
        return Ok(());
    }
    Err(Failure::check(format!(
        "tests failed in the virtual machine; what it printed is in {}",
        log.display()
    )))
}

/// Where cargo has put a test program.
fn test_program(package: &str, test: &str) -> Result<PathBuf, Failure> {
    let mut args = vec!["test", "-p", package, "--no-run", "--message-format", "json"];
    let (kind, name) = match test {
        LIB => ("lib", package.replace('-', "_")),
        test => ("test", test.to_owned()),
    };
    match test {
        LIB => args.push(LIB),
        test => args.extend(["--test", test]),
    }
    let text = run::output(&args)?;
    text.lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == name && message["target"]["kind"][0] == kind)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .ok_or_else(|| Failure::check(format!("cargo names no program of the test {name}")))
}

/// The first process of the machine.
fn init(tests: &[PathBuf], args: &[String]) -> String {
    // Measurements say little on a busy machine; they run when they are asked for.
    let usual = ["--skip".to_owned(), "figures_".to_owned()];
    let asked = if args.is_empty() { &usual[..] } else { args };
    let quoted: Vec<String> =
        asked.iter().map(|arg| format!("'{}'", arg.replace('\'', r"'\''"))).collect();
    let mut script = format!(
        "#!/bin/busybox sh\n\
         export PATH=/usr/bin:/bin:/sbin CALICO_BIN_DIR={own} RUST_BACKTRACE=1\n\
         /bin/busybox --install -s /bin\n\
         mount -t proc proc /proc\n\
         mount -t sysfs sysfs /sys\n\
         mount -t devtmpfs devtmpfs /dev\n\
         mount -t tmpfs tmpfs /run\n\
         ip link set lo up\n\
         passed=y\n",
        own = image::PROGRAMS,
    );
    let names = tests.iter().filter_map(|test| test.file_name()?.to_str());
    for (name, (_, _, everywhere)) in names.zip(PROGRAMS) {
        let mut run = |args: &str| {
            let program = format!("{}/{name} --nocapture --test-threads=1", image::PROGRAMS);
            script += &format!("{program} {args} </dev/null || passed=n\n");
        };
        run(&format!("--ignored {}", quoted.join(" ")));
        if args.is_empty() && !everywhere.is_empty() {
            run(&everywhere.join(" "));
        }
    }
    script + &format!("[ $passed = y ] && echo '{PASSED}'\npoweroff -f\n")
}
