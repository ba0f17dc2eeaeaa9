//! Which datastore: from the command line, the settings file, or the environment.

use std::path::{Path, PathBuf};

use calico_datastore::DatastoreConfig;
use serde::Deserialize;

use crate::cli::StoreArgs;
use crate::failure::Failure;

/// Read if nothing else is said and it exists.
const DEFAULT_FILE: &str = "/etc/calico/calicoctl.cfg";

/// Upstream's settings file, with the two types of datastore that are ours.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    #[serde(default, rename = "metadata")]
    _metadata: serde_json::Value,
    spec: Spec,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Spec {
    datastore_type: String,
    /// For `remote`.
    socket: Option<PathBuf>,
    /// For `embedded`.
    path: Option<PathBuf>,
}

/// Finds the datastore. `env` reads an environment variable.
///
/// What the command line says wins, then `CALICO_DATASTORE_SOCKET`, the default settings file,
/// and `DATASTORE_TYPE`.
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
    match env("DATASTORE_TYPE").or_else(|| env("CALICO_DATASTORE_TYPE")) {
        Some(name) => by_name(&name, None, None).map_err(Failure::Usage),
        None => Ok(DatastoreConfig::default()),
    }
}

fn from_file(path: &Path, text: &str) -> Result<DatastoreConfig, Failure> {
    let fail = |reason: String| Failure::Settings { path: path.to_owned(), reason };
    // The type is looked at first: files for upstream's stores have many more fields.
    let any: serde_json::Value =
        serde_saphyr::from_str(text).map_err(|error| fail(error.without_snippet().to_string()))?;
    let named = any["spec"]["datastoreType"].as_str().unwrap_or_default();
    if !["", "embedded", "remote"].contains(&named) {
        return by_name(named, None, None).map_err(fail);
    }
    let file: File = serde_json::from_value(any).map_err(|error| fail(error.to_string()))?;
    if file.kind != "CalicoAPIConfig" || file.api_version != calico_core::API_VERSION {
        return Err(fail(format!(
            "expected kind CalicoAPIConfig of {}, found {} of {}",
            calico_core::API_VERSION,
            file.kind,
            file.api_version
        )));
    }
    by_name(&file.spec.datastore_type, file.spec.socket, file.spec.path).map_err(fail)
}

fn by_name(
    name: &str,
    socket: Option<PathBuf>,
    path: Option<PathBuf>,
) -> Result<DatastoreConfig, String> {
    match name {
        "remote" => Ok(socket
            .map_or_else(DatastoreConfig::default, |socket| DatastoreConfig::Remote { socket })),
        "embedded" => match path {
            Some(path) => Ok(DatastoreConfig::Embedded { path, durability: Default::default() }),
            None => Err("an embedded datastore needs spec.path".to_owned()),
        },
        "etcdv3" => Ok(DatastoreConfig::Etcdv3),
        "kubernetes" => Ok(DatastoreConfig::Kubernetes),
        other => Err(format!("datastore type {other:?} is none of embedded, remote")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(
            read(&file("{datastoreType: etcdv3, etcdEndpoints: 'http://x'}")).unwrap(),
            DatastoreConfig::Etcdv3,
            "known, so that opening it can say what is supported"
        );
        let error = read(&file("{datastoreType: remote, sokcet: /x}")).unwrap_err();
        assert!(error.contains("x.cfg") && error.contains("sokcet"), "{error}");
        assert!(read("kind: [").is_err());
    }
}
