//! Passwords of BGP sessions, from files as a kubelet mounts Secrets: `<directory>/<name>/<key>`.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::PathBuf;
use std::time::Duration;

use calico_bgp::speaker::Password;
use calico_peering::{Secret, SecretRef};

/// Time between looks at the files, which change without the datastore knowing.
pub const INTERVAL: Duration = Duration::from_secs(2);

/// More than any password; the rest of a longer file is not read.
const MAX_FILE: u64 = 4096;

/// Where the files are.
#[derive(Debug, Clone)]
pub struct SecretFiles {
    directory: PathBuf,
    /// What was asked for at the last look.
    known: BTreeSet<SecretRef>,
}

impl SecretFiles {
    /// In this directory.
    #[must_use]
    pub const fn new(directory: PathBuf) -> Self {
        Self { directory, known: BTreeSet::new() }
    }

    /// Reads those that are wanted and were not at the last look.
    pub fn read_new(&mut self, wanted: BTreeSet<SecretRef>) -> Vec<(SecretRef, Secret)> {
        let new = wanted.difference(&self.known).map(|secret| (secret.clone(), self.read(secret)));
        let new = new.collect();
        self.known = wanted;
        new
    }

    /// Reads all that are wanted.
    #[must_use]
    pub fn read_all(&self) -> Vec<(SecretRef, Secret)> {
        self.known.iter().map(|secret| (secret.clone(), self.read(secret))).collect()
    }

    /// Reads one. A line break at the end is not part of it.
    fn read(&self, secret: &SecretRef) -> Secret {
        let is_name = |text: &str| !text.is_empty() && !text.contains('/') && text != "..";
        if !is_name(&secret.name) || !is_name(&secret.key) {
            return Err("has a name that no file can have".to_owned());
        }
        let path = self.directory.join(&secret.name).join(&secret.key);
        let mut octets = Vec::new();
        let read = File::open(&path).and_then(|f| f.take(MAX_FILE).read_to_end(&mut octets));
        match read {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(format!("is not there: no file {}", path.display()));
            }
            Err(error) => return Err(format!("cannot be read from {}: {error}", path.display())),
        }
        let octets = octets.strip_suffix(b"\n").unwrap_or(&octets);
        let octets = octets.strip_suffix(b"\r").unwrap_or(octets);
        Password::new(octets).map_err(|error| format!("is unusable ({}): {error}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(name: &str, key: &str) -> SecretRef {
        SecretRef { name: name.into(), key: key.into() }
    }

    #[test]
    fn files_are_read_when_wanted_and_when_they_change() {
        let directory = tempfile::tempdir().unwrap();
        let mounted = directory.path().join("tor");
        std::fs::create_dir(&mounted).unwrap();
        std::fs::write(mounted.join("password"), "one\n").unwrap();
        let mut files = SecretFiles::new(directory.path().to_owned());
        let wanted = BTreeSet::from([secret("tor", "password")]);
        let one = (secret("tor", "password"), Ok(Password::new("one").unwrap()));
        assert_eq!(files.read_new(wanted.clone()), [one]);
        assert_eq!(files.read_new(wanted), []);
        std::fs::write(mounted.join("password"), "two").unwrap();
        assert_eq!(files.read_all()[0].1, Ok(Password::new("two").unwrap()));
        std::fs::remove_file(mounted.join("password")).unwrap();
        let why = files.read_all().remove(0).1.unwrap_err();
        assert!(
            why.starts_with("is not there: no file ") && why.ends_with("tor/password"),
            "{why}"
        );
    }

    #[test]
    fn what_cannot_be_a_password_is_named() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("s")).unwrap();
        std::fs::write(directory.path().join("s/long"), "x".repeat(81)).unwrap();
        std::fs::write(directory.path().join("s/empty"), "\n").unwrap();
        let files = SecretFiles::new(directory.path().to_owned());
        let why = |name, key| files.read(&secret(name, key)).unwrap_err();
        assert!(why("s", "long").contains("1 to 80 octets, not 81"));
        assert!(why("s", "empty").contains("1 to 80 octets, not 0"));
        assert!(why("..", "passwd").contains("no file can have"));
        assert!(why("s", "a/b").contains("no file can have"));
    }
}
