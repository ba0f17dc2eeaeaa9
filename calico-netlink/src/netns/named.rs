//! Namespaces with a name, kept alive by a mount under `/run/netns`, as `ip netns` does.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use super::{Netns, NetnsError};

/// Where named namespaces live; iproute2 and container runtimes use the same place.
pub const NAMED_DIR: &str = "/run/netns";

/// Makes a namespace and gives it a name; `ip netns exec <name>` finds it.
///
/// # Errors
///
/// [`NetnsError::Exists`], [`NetnsError::Name`], or [`NetnsError::System`] without root.
pub fn create_named(name: &str) -> Result<Netns, NetnsError> {
    let path = path_of(name)?;
    let system = |doing, source| NetnsError::System { doing, path: path.clone(), source };
    fs::create_dir_all(NAMED_DIR).map_err(|source| system("make the directory of", source))?;
    match fs::OpenOptions::new().write(true).create_new(true).open(&path) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(NetnsError::Exists { name: name.to_owned() });
        }
        Err(source) => return Err(system("make the file of", source)),
    }
    let made = std::thread::scope(|scope| {
        scope
            .spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET)?;
                mount(
                    Some("/proc/thread-self/ns/net"),
                    &path,
                    None::<&str>,
                    MsFlags::MS_BIND,
                    None::<&str>,
                )
            })
            .join()
            .unwrap_or(Err(Errno::EIO))
    });
    if let Err(errno) = made {
        // The empty file would look like a namespace; nothing else can be done if it stays.
        drop(fs::remove_file(&path));
        return Err(system("make", errno.into()));
    }
    Netns::open(&path)
}

/// Takes the name away; the namespace ends with its last process and descriptor. Done if there
/// is none of this name.
///
/// # Errors
///
/// [`NetnsError::Name`] or [`NetnsError::System`].
pub fn remove_named(name: &str) -> Result<(), NetnsError> {
    let path = path_of(name)?;
    let system = |doing, source| NetnsError::System { doing, path: path.clone(), source };
    match umount2(&path, MntFlags::MNT_DETACH) {
        // EINVAL: a file without a mount, left by a crash between the two steps.
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
        Err(errno) => return Err(system("unmount", errno.into())),
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(system("remove", error)),
        _ => Ok(()),
    }
}

/// The names there are, sorted.
///
/// # Errors
///
/// [`NetnsError::System`].
pub fn list_named() -> Result<Vec<String>, NetnsError> {
    let system = |source| NetnsError::System { doing: "list", path: NAMED_DIR.into(), source };
    let entries = match fs::read_dir(NAMED_DIR) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(system(source)),
    };
    let mut names = Vec::new();
    for entry in entries {
        if let Ok(name) = entry.map_err(system)?.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn path_of(name: &str) -> Result<PathBuf, NetnsError> {
    if name.is_empty() || name.len() > 255 || name.starts_with('.') || name.contains(['/', '\0']) {
        return Err(NetnsError::Name { name: name.to_owned() });
    }
    Ok(Path::new(NAMED_DIR).join(name))
}
