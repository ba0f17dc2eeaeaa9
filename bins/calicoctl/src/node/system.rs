//! `node checksystem`: whether this host's kernel has what the agent uses.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::failure::Failure;
use crate::output::table::Table;

/// The oldest kernel whose nftables can do what the agent asks of them.
const MIN_KERNEL: (u32, u32) = (5, 2);

/// A feature: option of the kernel's configuration, module, whether nothing works without it, and
/// what it is for.
struct Feature {
    option: &'static str,
    module: &'static str,
    required: bool,
    purpose: &'static str,
}

const fn feature(
    option: &'static str,
    module: &'static str,
    required: bool,
    purpose: &'static str,
) -> Feature {
    Feature { option, module, required, purpose }
}

const FEATURES: &[Feature] = &[
    feature("CONFIG_NF_TABLES", "nf_tables", true, "policy"),
    feature("CONFIG_NFT_CT", "nft_ct", true, "stateful policy"),
    feature("CONFIG_NF_CONNTRACK", "nf_conntrack", true, "stateful policy"),
    feature("CONFIG_NFT_NAT", "nft_nat", true, "natOutgoing, floating addresses"),
    feature("CONFIG_NFT_MASQ", "nft_masq", true, "natOutgoing"),
    feature("CONFIG_NFT_REJECT", "nft_reject", false, "action Reject"),
    feature("CONFIG_NFT_LOG", "nft_log", false, "action Log, drop reports"),
    feature("CONFIG_NFT_FIB_INET", "nft_fib_inet", false, "source address checks"),
    feature("CONFIG_NFT_FLOW_OFFLOAD", "nft_flow_offload", false, "flow tables"),
    feature("CONFIG_VETH", "veth", true, "interfaces of pods"),
    feature("CONFIG_NET_IPIP", "ipip", false, "IP-in-IP"),
    feature("CONFIG_VXLAN", "vxlan", false, "VXLAN"),
    feature("CONFIG_WIREGUARD", "wireguard", false, "encryption"),
    feature("CONFIG_DUMMY", "dummy", false, "floating and service addresses"),
    feature("CONFIG_IP_SET", "ip_set", false, "the iptables backend"),
    feature("CONFIG_BPF_SYSCALL", "", false, "the eBPF backend"),
];

/// Where the facts about a kernel are.
#[derive(Debug, Clone)]
pub(crate) struct Kernel {
    /// As `uname -r` says.
    pub(crate) release: String,
    /// Its configuration, if one was named.
    pub(crate) config: Option<PathBuf>,
    /// The root of the file system: `/`, except in tests.
    pub(crate) root: PathBuf,
}

impl Kernel {
    /// The one that runs.
    pub(crate) fn running(config: Option<PathBuf>) -> Result<Self, Failure> {
        let path = Path::new("/proc/sys/kernel/osrelease");
        let release = fs::read_to_string(path)
            .map_err(|source| Failure::Read { path: path.to_owned(), source })?;
        Ok(Self { release: release.trim().to_owned(), config, root: "/".into() })
    }
}

/// Checks the kernel. What it says, and whether the agent can run.
pub(crate) fn check(kernel: &Kernel) -> Result<(String, bool), Failure> {
    let mut out = String::new();
    let (mut fits, mut unknown) = (true, false);
    let (major, minor) = MIN_KERNEL;
    let new_enough = version(&kernel.release).is_some_and(|found| found >= MIN_KERNEL);
    fits &= new_enough;
    out.push_str(&format!(
        "Kernel {}: {}\n",
        kernel.release,
        if new_enough { "ok".to_owned() } else { format!("too old; {major}.{minor} is needed") }
    ));
    let (options, from) = options(kernel)?;
    out.push_str(&match from {
        Some(path) => format!("Configuration: {}\n", path.display()),
        None => "Configuration: not found; modules are looked at instead\n".to_owned(),
    });
    let modules = modules(kernel);
    let mut table = Table::new(&["FEATURE", "NEEDED", "FOUND", "FOR"]);
    for feature in FEATURES {
        let found = match options.get(feature.option).map(String::as_str) {
            Some("y") => "built in",
            Some("m") => "module",
            _ if !feature.module.is_empty() && modules.iter().any(|m| m == feature.module) => {
                "module"
            }
            _ if options.is_empty() && (feature.module.is_empty() || modules.is_empty()) => {
                "unknown"
            }
            _ => "no",
        };
        fits &= !(feature.required && found == "no");
        unknown |= feature.required && found == "unknown";
        table.rows.push(vec![
            feature.option.trim_start_matches("CONFIG_").to_owned(),
            if feature.required { "yes" } else { "if used" }.to_owned(),
            found.to_owned(),
            feature.purpose.to_owned(),
        ]);
    }
    out.push_str(&table.aligned());
    out.push_str(match (fits, unknown) {
        (false, _) => "\nThis host lacks what Calico needs.\n",
        (true, true) => "\nNobody knows what this kernel has; name its configuration with -f.\n",
        (true, false) => "\nThis host has what Calico needs.\n",
    });
    fits &= !unknown;
    Ok((out, fits))
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Options of the kernel's configuration, and the file that has them.
fn options(kernel: &Kernel) -> Result<(BTreeMap<String, String>, Option<PathBuf>), Failure> {
    let release = &kernel.release;
    let usual = [
        format!("boot/config-{release}"),
        format!("lib/modules/{release}/config"),
        format!("usr/lib/modules/{release}/config"),
        "usr/src/linux/.config".to_owned(),
    ];
    let text = match &kernel.config {
        Some(path) => {
            let text = fs::read_to_string(path)
                .map_err(|source| Failure::Read { path: path.clone(), source })?;
            Some((text, path.clone()))
        }
        None => usual.iter().find_map(|path| {
            let path = kernel.root.join(path);
            fs::read_to_string(&path).ok().map(|text| (text, path))
        }),
    };
    let Some((text, path)) = text.or_else(|| own_config(kernel)) else {
        return Ok((BTreeMap::new(), None));
    };
    let options = text.lines().filter_map(|line| line.split_once('='));
    let options = options.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    Ok((options, Some(path)))
}

/// What the running kernel says about itself, if it was built to.
fn own_config(kernel: &Kernel) -> Option<(String, PathBuf)> {
    let path = kernel.root.join("proc/config.gz");
    let output = Command::new("gzip").args(["-dc".as_ref(), path.as_os_str()]).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then_some((text, path))
}

/// Names of modules that are loaded, built in, or can be loaded.
fn modules(kernel: &Kernel) -> Vec<String> {
    let read = |path: String| fs::read_to_string(kernel.root.join(path)).unwrap_or_default();
    let mut names: Vec<String> = read("proc/modules".to_owned())
        .lines()
        .filter_map(|line| line.split(' ').next().map(str::to_owned))
        .collect();
    for file in ["modules.builtin", "modules.dep"] {
        for line in read(format!("lib/modules/{}/{file}", kernel.release)).lines() {
            let path = line.split(':').next().unwrap_or_default();
            let name = path.rsplit('/').next().unwrap_or_default();
            let name = name.split(".ko").next().unwrap_or_default();
            names.push(name.replace('-', "_"));
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_and_modules_count() {
        let dir = tempfile::tempdir().unwrap();
        let mut kernel =
            Kernel { release: "6.1.0-13-amd64".into(), config: None, root: dir.path().into() };
        let (text, fits) = check(&kernel).unwrap();
        assert!(!fits && text.contains("Configuration: not found"), "{text}");
        let lib = dir.path().join("lib/modules/6.1.0-13-amd64");
        fs::create_dir_all(&lib).unwrap();
        let names = ["nf_tables", "nft_ct", "nft_nat", "nft_masq"];
        let dep: String = names.map(|n| format!("kernel/net/{n}.ko.xz: other.ko\n")).concat();
        fs::write(lib.join("modules.dep"), dep).unwrap();
        fs::write(lib.join("modules.builtin"), "kernel/drivers/net/veth.ko\n").unwrap();
        let config = dir.path().join("config");
        fs::write(&config, "# CONFIG_X is not set\nCONFIG_NF_CONNTRACK=y\nCONFIG_VXLAN=m\n")
            .unwrap();
        kernel.config = Some(config);
        let (text, fits) = check(&kernel).unwrap();
        assert!(fits, "{text}");
        assert!(text.contains("NF_CONNTRACK       yes       built in   stateful policy"), "{text}");
        assert!(text.contains("VXLAN              if used   module     VXLAN"), "{text}");
        kernel.release = "4.19.1".to_owned();
        let (text, fits) = check(&kernel).unwrap();
        assert!(!fits && text.contains("Kernel 4.19.1: too old; 5.2 is needed"), "{text}");
    }
}
