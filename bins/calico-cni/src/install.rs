//! `calico-cni install`: puts plugin and network configuration where container runtimes look for
//! them; `calico-cni uninstall` takes them away.
//!
//! Settings are environment variables, as of upstream's installer:
//!
//! | Variable | Default | |
//! |---|---|---|
//! | `CNI_BIN_DIR` | `/opt/cni/bin` | ours: where the plugins go |
//! | `CNI_NET_DIR` | `/etc/cni/net.d` | where the configuration goes |
//! | `CNI_CONF_NAME` | `10-calico.conflist` | its name |
//! | `CNI_OLD_CONF_NAME` | none | a file of an earlier installation, to be removed |
//! | `CNI_NETWORK_CONFIG` | below | the configuration itself |
//! | `CNI_NETWORK_CONFIG_FILE` | none | a file with it |
//! | `SKIP_CNI_BINARIES` | none | comma-separated names that are not to be written |
//! | `UPDATE_CNI_BINARIES` | `true` | whether to replace those that are there |
//! | `CNI_PLUGINS_DIR` | none | ours: plugins of others, copied where the node has none of that name |
//! | `KUBERNETES_NODE_NAME` | host name | and others that the configuration has as `__NAME__` |
//!
//! Every file is written under another name and renamed, so that a runtime never sees half of one;
//! the configuration goes last, because runtimes start pods as soon as it is there. Nothing is
//! written if the configuration is not valid.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::spec::NetConf;

/// Names under which the program is called.
const NAMES: [&str; 2] = ["calico", "calico-ipam"];

/// Upstream's default list, for an agent.
const DEFAULT_CONFIG: &str = r#"{
  "name": "k8s-pod-network",
  "cniVersion": "1.0.0",
  "plugins": [
    {
      "type": "calico",
      "log_level": "__LOG_LEVEL__",
      "nodename": "__KUBERNETES_NODE_NAME__",
      "mtu": __CNI_MTU__,
      "ipam": { "type": "calico-ipam" },
      "policy": { "type": "k8s" }
    },
    { "type": "portmap", "snat": true, "capabilities": { "portMappings": true } }
  ]
}
"#;

/// Why nothing, or not everything, was installed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InstallError {
    /// The configuration makes no sense.
    #[error("the network configuration is not valid: {reason}")]
    Config {
        /// What is wrong with it.
        reason: String,
    },
    /// A file cannot be read, written or removed.
    #[error("cannot {action} {path}", path = path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// What to install, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installation {
    /// Directory of plugins.
    pub bin_dir: PathBuf,
    /// Directory of network configurations.
    pub net_dir: PathBuf,
    /// Name of the configuration.
    pub conf_name: String,
    /// Name that it had before.
    pub old_conf_name: Option<String>,
    /// Plugins not to write.
    pub skip: Vec<String>,
    /// Whether plugins that are there are replaced.
    pub update: bool,
    /// Directory of plugins of others, such as `portmap`, which the node may lack.
    pub plugins_dir: Option<PathBuf>,
    /// The configuration's text.
    pub config: String,
}

impl Installation {
    /// Reads the environment through `variable`; `host` is the name of this node if nothing else
    /// says it.
    ///
    /// # Errors
    ///
    /// If the configuration's file cannot be read, or what it holds is no list of plugins.
    pub fn new(
        variable: impl Fn(&str) -> Option<String>,
        host: &str,
    ) -> Result<Self, InstallError> {
        let get = |name: &str| variable(name).filter(|value| !value.is_empty());
        let template = match (get("CNI_NETWORK_CONFIG_FILE"), get("CNI_NETWORK_CONFIG")) {
            (Some(path), _) => fs::read_to_string(&path).map_err(file("read", Path::new(&path)))?,
            (None, Some(text)) => text,
            (None, None) => DEFAULT_CONFIG.to_owned(),
        };
        let config = fill_in(&template, |name| {
            get(name).or_else(|| match name {
                "LOG_LEVEL" => Some("info".to_owned()),
                "CNI_MTU" => Some("0".to_owned()),
                "KUBERNETES_NODE_NAME" => get("NODENAME").or_else(|| Some(host.to_owned())),
                _ => None,
            })
        });
        check(&config)?;
        let list = get("SKIP_CNI_BINARIES").unwrap_or_default();
        Ok(Self {
            bin_dir: get("CNI_BIN_DIR").unwrap_or_else(|| "/opt/cni/bin".into()).into(),
            net_dir: get("CNI_NET_DIR").unwrap_or_else(|| "/etc/cni/net.d".into()).into(),
            conf_name: get("CNI_CONF_NAME").unwrap_or_else(|| "10-calico.conflist".into()),
            old_conf_name: get("CNI_OLD_CONF_NAME"),
            skip: list.split(',').map(|name| name.trim().to_owned()).collect(),
            update: get("UPDATE_CNI_BINARIES").is_none_or(|value| value != "false"),
            plugins_dir: get("CNI_PLUGINS_DIR").map(PathBuf::from),
            config,
        })
    }

    /// Writes the plugins, copies of `program`, and then the configuration; returns what was
    /// written. Repeated, it does the same again.
    ///
    /// # Errors
    ///
    /// [`InstallError::File`]; what is there already stays whole.
    pub fn install(&self, program: &Path) -> Result<Vec<PathBuf>, InstallError> {
        let mut written = Vec::new();
        for directory in [&self.bin_dir, &self.net_dir] {
            fs::create_dir_all(directory).map_err(file("make", directory))?;
        }
        for name in NAMES {
            let path = self.bin_dir.join(name);
            if self.skip.iter().any(|skip| skip == name) || (!self.update && path.exists()) {
                continue;
            }
            let bytes = fs::read(program).map_err(file("read", program))?;
            replace(&path, &bytes, 0o755)?;
            written.push(path);
        }
        self.install_others(&mut written)?;
        let path = self.net_dir.join(&self.conf_name);
        // Upstream's may hold credentials, so only root reads it.
        replace(&path, self.config.as_bytes(), 0o600)?;
        written.push(path);
        if let Some(old) = self.old_conf_name.as_ref().filter(|old| **old != self.conf_name) {
            remove(&self.net_dir.join(old))?;
        }
        Ok(written)
    }

    /// Copies plugins of others that the node lacks. They stay when ours are taken away: other
    /// networks may use them by then.
    fn install_others(&self, written: &mut Vec<PathBuf>) -> Result<(), InstallError> {
        let Some(directory) = &self.plugins_dir else { return Ok(()) };
        let entries = fs::read_dir(directory).map_err(file("read", directory))?;
        for entry in entries {
            let entry = entry.map_err(file("read", directory))?;
            let path = self.bin_dir.join(entry.file_name());
            let skipped = |skip: &String| entry.file_name().to_str() == Some(skip);
            if path.exists() || self.skip.iter().any(skipped) {
                continue;
            }
            let bytes = fs::read(entry.path()).map_err(file("read", &entry.path()))?;
            replace(&path, &bytes, 0o755)?;
            written.push(path);
        }
        Ok(())
    }

    /// Takes away what [`install`](Self::install) writes: the configuration first, so that runtimes
    /// do not call plugins that are gone. Pods that run keep their network. Returns what was there.
    ///
    /// # Errors
    ///
    /// [`InstallError::File`].
    pub fn uninstall(&self) -> Result<Vec<PathBuf>, InstallError> {
        let configuration = self.net_dir.join(&self.conf_name);
        let plugins = NAMES.iter().filter(|name| !self.skip.iter().any(|skip| skip == *name));
        let paths = std::iter::once(configuration).chain(plugins.map(|n| self.bin_dir.join(n)));
        let mut removed = Vec::new();
        for path in paths {
            if remove(&path)? {
                removed.push(path);
            }
        }
        Ok(removed)
    }
}

/// Replaces each `__NAME__` that `value` knows. Values go into JSON, so what would end a text
/// there is escaped.
fn fill_in(template: &str, value: impl Fn(&str) -> Option<String>) -> String {
    let mut text = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(start) = rest.find("__") {
        let (before, from) = rest.split_at(start);
        text.push_str(before);
        let name_end = from[2..].find("__").map(|end| end + 2);
        let found = name_end.and_then(|end| {
            let name = &from[2..end];
            let fits = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
            let known = !name.is_empty() && name.chars().all(fits);
            Some((end + 2, known.then(|| value(name)).flatten()?))
        });
        match found {
            Some((end, value)) => {
                let quoted = Value::from(value).to_string();
                text.push_str(&quoted[1..quoted.len() - 1]);
                rest = &from[end..];
            }
            None => {
                text.push_str("__");
                rest = &from[2..];
            }
        }
    }
    text.push_str(rest);
    text
}

/// A list whose plugins our own parser accepts where they are ours.
fn check(config: &str) -> Result<(), InstallError> {
    let bad = |reason: String| InstallError::Config { reason };
    let list: Value = serde_json::from_str(config).map_err(|error| bad(error.to_string()))?;
    let plugins = match list.get("plugins").map(Value::as_array) {
        Some(Some(plugins)) if !plugins.is_empty() => plugins.clone(),
        Some(_) => return Err(bad("`plugins` is no list of plugins".into())),
        // A single plugin, as of old versions.
        None => vec![list.clone()],
    };
    for plugin in plugins {
        let Value::Object(mut plugin) = plugin else {
            return Err(bad("a plugin of the list is no JSON object".into()));
        };
        let Some(kind) = plugin.get("type").and_then(Value::as_str) else {
            return Err(bad("a plugin of the list has no `type`".into()));
        };
        if NAMES.contains(&kind) {
            for key in ["name", "cniVersion"] {
                if let Some(value) = list.get(key) {
                    plugin.insert(key.to_owned(), value.clone());
                }
            }
            let conf = NetConf::parse(&Value::Object(plugin).to_string());
            conf.and_then(|conf| conf.version()).map_err(|error| bad(error.to_string()))?;
        }
    }
    Ok(())
}

/// Writes a file so that whoever opens it sees all of the old or all of the new. A program that
/// runs keeps running on the old one.
fn replace(path: &Path, contents: &[u8], mode: u32) -> Result<(), InstallError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let draft = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let write = || {
        let mut options = File::options();
        let mut draft = options.write(true).create(true).truncate(true).mode(mode).open(&draft)?;
        draft.write_all(contents)?;
        draft.sync_all()
    };
    let written = write().and_then(|()| fs::rename(&draft, path));
    written.map_err(|source| {
        let _ = fs::remove_file(&draft);
        file("write", path)(source)
    })
}

fn remove(path: &Path) -> Result<bool, InstallError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(file("remove", path)(source)),
    }
}

fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> InstallError + use<> {
    let path = path.to_owned();
    move |source| InstallError::File { action, path, source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn installation(root: &Path, more: &[(&str, &str)]) -> Result<Installation, InstallError> {
        let at = |name: &str| root.join(name).display().to_string();
        Installation::new(
            |name| match (name, more.iter().find(|(key, _)| *key == name)) {
                (_, Some((_, value))) => Some((*value).to_owned()),
                ("CNI_BIN_DIR", _) => Some(at("bin")),
                ("CNI_NET_DIR", _) => Some(at("net.d")),
                _ => None,
            },
            "host-1",
        )
    }

    fn files(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_is_installed_is_whole_and_goes_again() {
        let root = tempfile::tempdir().unwrap();
        let (bin, net) = (root.path().join("bin"), root.path().join("net.d"));
        let program = root.path().join("program");
        fs::write(&program, "first").unwrap();
        let old = [("CNI_OLD_CONF_NAME", "05-old.conf")];
        let installation = installation(root.path(), &old).unwrap();
        fs::create_dir_all(&net).unwrap();
        fs::write(net.join("05-old.conf"), "{}").unwrap();
        fs::write(net.join("99-other.conf"), "{}").unwrap();
        assert_eq!(installation.install(&program).unwrap().len(), 3);
        fs::write(&program, "second").unwrap();
        installation.install(&program).unwrap();
        assert_eq!(fs::read_to_string(bin.join("calico-ipam")).unwrap(), "second");
        assert_eq!(files(&bin), NAMES);
        assert_eq!(files(&net), ["10-calico.conflist", "99-other.conf"]);
        let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(bin.join("calico")), 0o755);
        assert_eq!(mode(net.join("10-calico.conflist")), 0o600);
        let config = fs::read_to_string(net.join("10-calico.conflist")).unwrap();
        assert!(config.contains(r#""nodename": "host-1""#) && !config.contains("__"), "{config}");

        assert_eq!(installation.uninstall().unwrap().len(), 3);
        assert!(installation.uninstall().unwrap().is_empty());
        assert_eq!((files(&bin).len(), files(&net)), (0, vec!["99-other.conf".to_owned()]));
    }

    #[test]
    fn plugins_of_others_come_where_there_are_none() {
        let root = tempfile::tempdir().unwrap();
        let (bin, others) = (root.path().join("bin"), root.path().join("others"));
        let program = root.path().join("program");
        fs::write(&program, "ours").unwrap();
        for directory in [&bin, &others] {
            fs::create_dir_all(directory).unwrap();
            fs::write(directory.join("portmap"), directory.display().to_string()).unwrap();
        }
        for name in ["loopback", "calico", "tuning"] {
            fs::write(others.join(name), name).unwrap();
        }
        let directory = others.display().to_string();
        let settings = [("CNI_PLUGINS_DIR", &*directory), ("SKIP_CNI_BINARIES", "tuning")];
        installation(root.path(), &settings).unwrap().install(&program).unwrap();
        assert_eq!(files(&bin), ["calico", "calico-ipam", "loopback", "portmap"]);
        assert_eq!(fs::read_to_string(bin.join("calico")).unwrap(), "ours");
        assert_eq!(fs::read_to_string(bin.join("portmap")).unwrap(), bin.display().to_string());

        let missing = [("CNI_PLUGINS_DIR", "/nonexistent")];
        let error = installation(root.path(), &missing).unwrap().install(&program).unwrap_err();
        assert_eq!(error.to_string(), "cannot read /nonexistent");
    }

    #[test]
    fn plugins_may_be_skipped_or_kept() {
        let root = tempfile::tempdir().unwrap();
        let program = root.path().join("program");
        fs::write(&program, "new").unwrap();
        fs::create_dir_all(root.path().join("bin")).unwrap();
        fs::write(root.path().join("bin/calico"), "old").unwrap();
        let settings = [("SKIP_CNI_BINARIES", "calico-ipam, x"), ("UPDATE_CNI_BINARIES", "false")];
        installation(root.path(), &settings).unwrap().install(&program).unwrap();
        assert_eq!(files(&root.path().join("bin")), ["calico"]);
        assert_eq!(fs::read_to_string(root.path().join("bin/calico")).unwrap(), "old");
    }

    #[test]
    fn nothing_is_written_of_a_bad_configuration() {
        let root = tempfile::tempdir().unwrap();
        for config in [
            "",
            "{",
            "[]",
            r#"{"name": "n"}"#,
            r#"{"name": "n", "plugins": []}"#,
            r#"{"name": "n", "plugins": ["calico"]}"#,
            r#"{"name": "n", "plugins": [{"type": "calico", "mtu": "big"}]}"#,
            r#"{"name": "a b", "plugins": [{"type": "calico"}]}"#,
            r#"{"name": "n", "cniVersion": "7", "plugins": [{"type": "calico"}]}"#,
        ] {
            let path = root.path().join("template");
            fs::write(&path, config).unwrap();
            let settings = [("CNI_NETWORK_CONFIG_FILE", path.to_str().unwrap())];
            let error = installation(root.path(), &settings).unwrap_err();
            assert!(matches!(error, InstallError::Config { .. }), "{config}: {error}");
        }
    }

    #[test]
    fn placeholders_cannot_break_out_of_their_text() {
        let value = |name: &str| match name {
            "A" => Some(r#"x", "type": "evil"#.to_owned()),
            "A_B" => Some("ok".to_owned()),
            _ => None,
        };
        let text =
            r#"{"a": "__A__", "b": "__A_B__", "c": "__UNKNOWN__", "d": "__", "e": "x__y__"}"#;
        let filled = fill_in(text, value);
        let parsed: Value = serde_json::from_str(&filled).unwrap();
        assert_eq!(parsed["a"], r#"x", "type": "evil"#);
        assert_eq!((&parsed["b"], &parsed["c"]), (&"ok".into(), &"__UNKNOWN__".into()));
        assert_eq!((&parsed["d"], &parsed["e"]), (&"__".into(), &"x__y__".into()));
    }
}
