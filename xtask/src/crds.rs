//! `crds`: writes what is generated from the resource types.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use calico_core::resource::schema::deploy_files;

use crate::run::{self, Failure};

/// Writes every generated file below `deploy/`, and removes files that nothing generates.
pub(crate) fn write() -> Result<(), Failure> {
    let metadata = run::metadata()?;
    let root = metadata["workspace_root"].as_str().map(PathBuf::from);
    let deploy =
        root.ok_or_else(|| Failure::check("cargo metadata names no workspace"))?.join("deploy");
    let fail = |path: &PathBuf, error: std::io::Error| {
        Failure::check(format!("cannot write {}: {error}", path.display()))
    };
    let mut written = BTreeSet::new();
    for (path, text) in deploy_files() {
        let path = deploy.join(path);
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(|error| fail(&path, error))?;
        }
        fs::write(&path, text).map_err(|error| fail(&path, error))?;
        written.insert(path);
    }
    let directories: BTreeSet<_> = written.iter().filter_map(|path| path.parent()).collect();
    for entry in directories.iter().filter_map(|dir| fs::read_dir(dir).ok()).flatten().flatten() {
        let path = entry.path();
        if !written.contains(&path) {
            fs::remove_file(&path).map_err(|error| fail(&path, error))?;
        }
    }
    println!("{} files below {}", written.len(), deploy.display());
    Ok(())
}
