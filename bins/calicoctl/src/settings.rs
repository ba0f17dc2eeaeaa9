//! Which datastore: from the command line, the settings file, or the environment.

use std::path::{Path, PathBuf};

use calico_datastore::DatastoreConfig;
use calico_datastore::config::{ApiConfig, ApiConfigSpec};

use crate::cli::StoreArgs;
use crate::failure::Failure;

/// Read if nothing else is said and it exists.
const DEFAULT_FILE: &str = "/etc/calico/calicoctl.cfg";

/// Finds the datastore. `env` reads an environment variable.
///
/// What the command line says wins, then `CALICO_DATASTORE_SOCKET`, the default settings file,
/// and upstream's environment variables.
pub(crate) fn datastore(
    args: &StoreArgs,
    env: impl Fn(&str) -> Option<String>,
) -> Result<DatastoreConfig, Failure> {
    if let Some(socket) = &args.socket {
        return Ok(DatastoreConfig::Remote { socket: socket.clone() });
    }
    if args.config.is_none()
        && let Some(socket) = env("CALICO_DATASTORE_SOCKET").filter(|path| !path.is_empty())
    {
        return Ok(DatastoreConfig::Remote { socket: socket.into() });
    }
    let (path, required) = match &args.config {
        Some(path) => (path.clone(), true),
        None => (PathBuf::from(DEFAULT_FILE), false),
    };
    match std::fs::read_to_string(&path) {
        Ok(text) => return from_file(&path, &text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !required => {}
        Err(source) => return Err(Failure::Read { path, source }),
    }
    let spec = ApiConfigSpec::from_env(env).map_err(Failure::Usage)?;
    if spec.names_one() {
        spec.datastore().map_err(Failure::Usage)
    } else {
        Ok(DatastoreConfig::default())
    }
}

fn from_file(path: &Path, text: &str) -> Result<DatastoreConfig, Failure> {
    let fail = |reason: String| Failure::Settings { path: path.to_owned(), reason };
    let file: ApiConfig =
        serde_saphyr::from_str(text).map_err(|error| fail(error.without_snippet().to_string()))?;
    file.datastore().map_err(fail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use calico_datastore::config::EtcdConfig;

    fn read(text: &str) -> Result<DatastoreConfig, String> {
        from_file(Path::new("x.cfg"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn the_command_line_wins() {
        let env = |name: &str| match name {
            "CALICO_DATASTORE_SOCKET" => Some("/env".to_owned()),
            _ => Some("etcdv3".to_owned()),
        };
        let remote = |socket: &str| DatastoreConfig::Remote { socket: socket.into() };
        let args = StoreArgs { socket: Some("/s".into()), ..StoreArgs::default() };
        assert_eq!(datastore(&args, env).unwrap(), remote("/s"));
        assert_eq!(datastore(&StoreArgs::default(), env).unwrap(), remote("/env"));
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "{apiVersion: projectcalico.org/v3, kind: CalicoAPIConfig, \
                    spec: {datastoreType: remote, socket: /file}}";
        std::fs::write(file.path(), text).unwrap();
        let args = StoreArgs { config: Some(file.path().to_owned()), ..StoreArgs::default() };
        assert_eq!(datastore(&args, env).unwrap(), remote("/file"));
    }

    #[test]
    fn a_file_that_was_named_must_exist() {
        let args = StoreArgs { config: Some("/nonexistent/x.cfg".into()), ..StoreArgs::default() };
        assert!(matches!(datastore(&args, |_| None), Err(Failure::Read { .. })));
    }

    #[test]
    fn files_are_read_strictly() {
        let file = |spec: &str| {
            format!(
                "apiVersion: projectcalico.org/v3\nkind: CalicoAPIConfig\nmetadata:\nspec: {spec}\n"
            )
        };
        assert_eq!(
            read(&file("{datastoreType: embedded, path: /x}")).unwrap(),
            DatastoreConfig::Embedded { path: "/x".into(), durability: Default::default() }
        );
        let etcd = read(&file("{etcdEndpoints: 'http://x:1, http://y:2'}"));
        let DatastoreConfig::Etcd(etcd) = etcd.unwrap() else { panic!("the type is implied") };
        assert_eq!(etcd.endpoints, ["http://x:1", "http://y:2"]);
        let half = "{etcdEndpoints: 'http://x:1', etcdKeyFile: /x}";
        let half = read(&file(half)).unwrap_err();
        assert!(half.contains("give both"), "{half}");
        let error = read(&file("{datastoreType: remote, sokcet: /x}")).unwrap_err();
        assert!(error.contains("x.cfg") && error.contains("sokcet"), "{error}");
        assert!(read("kind: [").is_err());
    }

    #[test]
    fn upstreams_environment_is_read() {
        let named = |name: &'static str, value: &'static str| {
            datastore(&StoreArgs::default(), |asked| (asked == name).then(|| value.to_owned()))
        };
        if Path::new(DEFAULT_FILE).exists() {
            println!("SKIPPED ({DEFAULT_FILE} exists and would win)");
            return;
        }
        assert_eq!(named("HOME", "/").unwrap(), DatastoreConfig::default());
        let etcd = DatastoreConfig::Etcd(EtcdConfig::new(["http://e:2379"]));
        assert_eq!(named("ETCD_ENDPOINTS", "http://e:2379").unwrap(), etcd);
        let error = named("DATASTORE_TYPE", "consul").unwrap_err().to_string();
        assert!(error.contains("consul"), "{error}");
    }
}
