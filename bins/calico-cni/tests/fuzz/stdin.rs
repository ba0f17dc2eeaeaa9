//! What a runtime gives the plugin: network configuration, arguments, names. Whatever it is, it is
//! taken, or refused with an error as the specification says.

use calico_cni::facts::PodFacts;
use calico_cni::naming::Identity;
use calico_cni::spec::{Call, CniError, CniResult, NetConf, Verb, Version};
use serde_json::Value;

/// The first line is `CNI_COMMAND`, the next are `CNI_ARGS`, `CNI_CONTAINERID` and `CNI_IFNAME`;
/// the rest is stdin. True if all of it was taken.
pub(crate) fn run(data: &[u8]) -> bool {
    let text = String::from_utf8_lossy(data);
    let mut lines = text.splitn(5, '\n');
    let mut next = || lines.next().unwrap_or_default().to_owned();
    let (command, args, container, ifname, stdin) = (next(), next(), next(), next(), next());
    match take(&command, &args, &container, &ifname, &stdin) {
        Ok(()) => true,
        Err(error) => {
            refused(&error);
            false
        }
    }
}

fn take(
    command: &str,
    args: &str,
    container: &str,
    ifname: &str,
    stdin: &str,
) -> Result<(), CniError> {
    let verb: Verb = command.parse()?;
    let conf = NetConf::parse(stdin)?;
    let version = conf.version()?;
    let call = Call::new(verb, |name| {
        let value = match name {
            "CNI_ARGS" => args,
            "CNI_CONTAINERID" => container,
            "CNI_IFNAME" => ifname,
            "CNI_NETNS" => "/run/netns/fuzz",
            _ => return None,
        };
        Some(value.to_owned())
    })?;
    if let Some(result) = conf.prev_result()? {
        same_again(&result, version);
    }
    let facts = PodFacts::new(&conf, &call, None)?;
    assert!(facts.addresses.len() <= 2, "one of each family: {facts:?}");
    let id = Identity::new("node", &conf, &call);
    // The other commands are about no container.
    if matches!(verb, Verb::Add | Verb::Del | Verb::Check) {
        // Names of the kernel's, and keys of the datastore's.
        assert!(id.host_interface.len() <= 15 && id.host_interface.starts_with("cali"), "{id:?}");
        assert!(!id.handle.contains(['/', '\n', '\r']), "{id:?}");
    }
    Ok(())
}

/// A result is written so that it is read as the same, where the version can say all of it.
fn same_again(result: &CniResult, version: Version) {
    for version in [version, Version::LATEST] {
        let text = result.to_json(version);
        let value: Value = serde_json::from_str(&text).expect("JSON");
        let read = CniResult::read(&value).expect("what we write we can read");
        let (before, after): (Vec<_>, Vec<_>) =
            (result.addresses().collect(), read.addresses().collect());
        if version == Version::LATEST {
            assert_eq!(before, after, "{text}");
        } else {
            assert!(after.iter().all(|ip| before.contains(ip)), "{text}");
        }
    }
}

/// An error is what the specification says, in every version.
pub(crate) fn refused(error: &CniError) {
    for version in Version::ALL {
        let json: Value = serde_json::from_str(&error.to_json(version)).expect("JSON");
        assert_eq!(json["cniVersion"], version.as_str());
        assert!(json["code"].as_u64().is_some_and(|code| code > 0), "{json}");
        for part in ["msg", "details"] {
            let text = json[part].as_str().unwrap_or_default();
            assert!(!text.is_empty(), "no {part}: {json}");
            assert!(text.len() < 4096 + 8 * 1024, "a message that long helps nobody: {json}");
        }
    }
}
