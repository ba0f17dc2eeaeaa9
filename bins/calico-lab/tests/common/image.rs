//! An image for containers, made here.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

/// Its name.
pub(crate) const IMAGE: &str = "lab.test/busybox:1";

/// Writes `image.tar`: busybox alone, as `docker save` would.
pub(crate) fn image(root: &Path) {
    let layer: PathBuf = root.join("layer");
    fs::create_dir_all(layer.join("bin")).unwrap();
    let busybox = String::from_utf8(command("sh", &["-c", "command -v busybox"])).unwrap();
    fs::copy(busybox.trim(), layer.join("bin/busybox")).unwrap();
    for name in ["sh", "ip", "nc", "echo"] {
        symlink("busybox", layer.join("bin").join(name)).unwrap();
    }
    let at = |name: &str| root.join(name).to_str().unwrap().to_owned();
    command("tar", &["-C", layer.to_str().unwrap(), "-cf", &at("layer.tar"), "."]);
    let digest = String::from_utf8(command("sha256sum", &[&at("layer.tar")])).unwrap();
    let digest = digest.split_whitespace().next().unwrap();
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        // What a sandbox of Kubernetes runs, which names no command.
        "config": { "Env": ["PATH=/bin"], "Cmd": ["/bin/busybox", "sleep", "100000000"] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{digest}")] },
    });
    fs::write(root.join("config.json"), config.to_string()).unwrap();
    let manifest =
        json!([{ "Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"] }]);
    fs::write(root.join("manifest.json"), manifest.to_string()).unwrap();
    command(
        "tar",
        &["-C", &at(""), "-cf", &at("image.tar"), "manifest.json", "config.json", "layer.tar"],
    );
}

fn command(program: &str, arguments: &[&str]) -> Vec<u8> {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}
