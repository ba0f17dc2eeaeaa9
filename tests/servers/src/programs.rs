//! The programs: found by `KUBEBUILDER_ASSETS` (as controllers' tests find them), or else built by
//! the Go toolchain from `tests/kube-apiserver`, once for each version of that module; and Felix'
//! calculation graph, in the same way from `tests/felix/graph`.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::workspace;

/// Where the programs are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programs {
    /// kube-apiserver.
    pub apiserver: PathBuf,
    /// An etcd of the API server's own time.
    pub etcd: PathBuf,
}

/// What a node and its cluster run besides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodePrograms {
    /// kubelet.
    pub kubelet: PathBuf,
    /// kube-controller-manager.
    pub controllers: PathBuf,
    /// kube-scheduler.
    pub scheduler: PathBuf,
    /// kube-proxy.
    pub proxy: PathBuf,
}

/// The programs, built if need be, which takes some minutes; `say` is told so.
///
/// # Errors
///
/// What is missing, and how to get it; the words of the Go toolchain.
pub fn find(say: impl Fn(&str)) -> Result<Programs, String> {
    const NAMES: [&str; 2] = ["kube-apiserver", "etcd"];
    if let Some(assets) = std::env::var_os("KUBEBUILDER_ASSETS") {
        let [apiserver, etcd] = NAMES.map(|name| Path::new(&assets).join(name));
        if let Some(missing) = [&apiserver, &etcd].into_iter().find(|program| !program.exists()) {
            return Err(format!("KUBEBUILDER_ASSETS has no {}", missing.display()));
        }
        return Ok(Programs { apiserver, etcd });
    }
    let [apiserver, etcd] = built(KUBERNETES, [(NAMES[0], "."), (NAMES[1], "etcd")], say)?;
    Ok(Programs { apiserver, etcd })
}

/// What runs pods, built if need be, which takes some minutes; `say` is told so.
///
/// # Errors
///
/// As of [`find`].
pub fn find_node(say: impl Fn(&str)) -> Result<NodePrograms, String> {
    let packages = [
        ("kubelet", "kubelet"),
        ("kube-controller-manager", "controller-manager"),
        ("kube-scheduler", "scheduler"),
        ("kube-proxy", "proxy"),
    ];
    let [kubelet, controllers, scheduler, proxy] = built(KUBERNETES, packages, say)?;
    Ok(NodePrograms { kubelet, controllers, scheduler, proxy })
}

/// kube-proxy alone, built if need be, in less than a minute after kube-apiserver; `say` is told so.
///
/// # Errors
///
/// As of [`find`].
pub fn find_proxy(say: impl Fn(&str)) -> Result<PathBuf, String> {
    let [proxy] = built(KUBERNETES, [("kube-proxy", "proxy")], say)?;
    Ok(proxy)
}

/// Felix' calculation graph, built if need be, which takes some minutes; `say` is told so.
///
/// # Errors
///
/// As of [`find`].
pub fn find_felix(say: impl Fn(&str)) -> Result<PathBuf, String> {
    let [graph] = built("tests/felix/graph", [("felix-graph", ".")], say)?;
    Ok(graph)
}

/// The module of Kubernetes' programs.
const KUBERNETES: &str = "tests/kube-apiserver";

/// Programs, each made of a package of the module.
fn built<const N: usize>(
    module: &str,
    packages: [(&str, &str); N],
    say: impl Fn(&str),
) -> Result<[PathBuf; N], String> {
    let root = workspace()?;
    let module = root.join(module);
    let mut hasher = DefaultHasher::new();
    for package in [".", "go.mod", "go.sum"].into_iter().chain(packages.map(|(_, package)| package))
    {
        hash(&module.join(package), &mut hasher)?;
    }
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), Into::into);
    let name = module.file_name().unwrap_or_default();
    let target = target.join("tmp").join(name);
    fs::create_dir_all(&target).map_err(file(&target))?;
    let built = target.join(format!("{:016x}", hasher.finish()));
    // Test programs of several crates may come here at the same time.
    let lock = File::create(target.join("lock")).and_then(|lock| lock.lock().map(|()| lock));
    let _lock = lock.map_err(file(&target))?;
    if !built.exists() {
        let unfinished = target.join("unfinished");
        fs::create_dir_all(&unfinished).map_err(file(&unfinished))?;
        let start = Instant::now();
        let names = packages.map(|(name, _)| name).join(", ");
        say(&format!("building with Go, once, for some minutes: {names}"));
        for (name, package) in packages {
            build(&module, &format!("./{package}"), &unfinished.join(name))?;
        }
        fs::rename(&unfinished, &built).map_err(file(&built))?;
        say(&format!("built after {} s: {names}", start.elapsed().as_secs()));
    }
    Ok(packages.map(|(name, _)| built.join(name)))
}

/// A file, or the Go files of a directory.
fn hash(path: &Path, hasher: &mut DefaultHasher) -> Result<(), String> {
    let mut files = vec![path.to_owned()];
    if path.is_dir() {
        let entries = fs::read_dir(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        files = entries.map_err(file(path))?.into_iter().map(|entry| entry.path()).collect();
        files.retain(|path| path.extension().is_some_and(|extension| extension == "go"));
        files.sort();
    }
    for path in files {
        fs::read(&path).map_err(file(&path))?.hash(hasher);
    }
    Ok(())
}

fn build(module: &Path, package: &str, program: &Path) -> Result<(), String> {
    let found = ["go", "/usr/local/go/bin/go", "/usr/lib/go/bin/go"].into_iter().find(|go| {
        let version = Command::new(go).arg("version").stdout(Stdio::null()).status();
        version.is_ok_and(|status| status.success())
    });
    let go = found.ok_or(
        "there is no Go toolchain to build the programs with: install Go 1.25 or later \
         (https://go.dev/dl); or, for kube-apiserver, set KUBEBUILDER_ASSETS to a directory that \
         has kube-apiserver and etcd; CALICO_SKIP_PRIVILEGED=1 leaves tests of it out",
    )?;
    // A module proxy that does not answer must not hold everything up for ever.
    let output = Command::new("timeout")
        .args(["2400", go])
        .current_dir(module)
        .env("CGO_ENABLED", "0")
        .args(["build", "-p=2", "-trimpath", "-ldflags=-s -w", "-o"])
        .args([program, Path::new(package)])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("cannot run {go}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    Err(format!("go build in {}: {errors}", module.display()))
}

fn file(path: &Path) -> impl FnOnce(std::io::Error) -> String {
    move |error| format!("{}: {error}", path.display())
}
