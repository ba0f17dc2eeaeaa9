//! The unix socket.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use nix::unistd::Uid;
use tokio::net::{UnixListener, UnixStream};

use super::client::{Connect, Transport};
use super::server::Listen;
use super::wire::{Welcome, encode};

/// A unix socket that lets in root and the user of this process. Dropping it removes the socket.
#[derive(Debug)]
pub struct LocalListener {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode, to remove no other process's socket.
    identity: Option<(u64, u64)>,
}

impl LocalListener {
    /// Listens at `path` (mode 0600); its directory is created if needed. A socket that another
    /// process left behind is replaced.
    ///
    /// # Errors
    ///
    /// `AddrInUse` if a process listens there, `InvalidInput` for a path longer than the kernel
    /// takes (107 bytes), and what creating the socket fails with.
    pub fn bind(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref();
        let explain = |error: io::Error| {
            io::Error::new(error.kind(), format!("cannot listen on {}: {error}", path.display()))
        };
        Self::try_bind(path).map_err(explain)
    }

    fn try_bind(path: &Path) -> io::Result<Self> {
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            fs::create_dir_all(parent)?;
        }
        // Connecting to a file of another type is "refused" too.
        if fs::symlink_metadata(path).is_ok_and(|meta| !meta.file_type().is_socket()) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file is in the way"));
        }
        match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => {
                return Err(io::Error::new(io::ErrorKind::AddrInUse, "a process listens there"));
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                fs::remove_file(path)?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        // Between the two calls, the check of the peer's user keeps others out.
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, Permissions::from_mode(0o600))?;
        let identity = identity(path);
        Ok(Self { listener, path: path.to_owned(), identity })
    }
}

impl Drop for LocalListener {
    fn drop(&mut self) {
        if self.identity.is_some() && identity(&self.path) == self.identity {
            // It is replaced at the next start otherwise.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[async_trait]
impl Listen for LocalListener {
    type Io = UnixStream;

    async fn accept(&mut self) -> io::Result<UnixStream> {
        loop {
            let (stream, _) = self.listener.accept().await?;
            let peer = stream.peer_cred()?.uid();
            if is_allowed(peer, Uid::effective().as_raw()) {
                return Ok(stream);
            }
            tracing::warn!(uid = peer, path = %self.path.display(), "refused a client");
            let reason = format!("user {peer} may not use it; run as root or as the server's user");
            if let Some(frame) = encode(&Welcome::Refused { reason }) {
                // A courtesy; the buffer of a new socket has room for it.
                let _ = stream.try_write(&frame);
            }
        }
    }
}

/// Where a [`RemoteStore`](super::RemoteStore) finds its server.
#[derive(Debug, Clone)]
pub struct LocalSocket(pub PathBuf);

#[async_trait]
impl Connect for LocalSocket {
    async fn connect(&self) -> io::Result<Box<dyn Transport>> {
        Ok(Box::new(UnixStream::connect(&self.0).await?))
    }

    fn describe(&self) -> String {
        self.0.display().to_string()
    }

    fn advice(&self, error: &io::Error) -> Option<&'static str> {
        match error.kind() {
            io::ErrorKind::PermissionDenied => {
                Some("run as root or as the user that calico-agent runs as")
            }
            // What the server said says enough.
            io::ErrorKind::Other | io::ErrorKind::InvalidData => None,
            io::ErrorKind::TimedOut => Some("calico-agent is stuck or overloaded; see its log"),
            _ => Some("check that calico-agent runs on this host and serves this socket"),
        }
    }
}

const fn is_allowed(peer: u32, own: u32) -> bool {
    peer == 0 || peer == own
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_the_own_user_are_let_in() {
        assert!(is_allowed(0, 1000) && is_allowed(1000, 1000) && is_allowed(0, 0));
        assert!(!is_allowed(1000, 0) && !is_allowed(1001, 1000));
    }

    #[tokio::test]
    async fn a_socket_has_one_listener_and_is_removed_by_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/datastore.sock");
        let listener = LocalListener::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let error = LocalListener::bind(&path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        drop(listener);
        assert!(!path.exists());

        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "left behind");
        let listener = LocalListener::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "").unwrap();
        drop(listener);
        assert!(path.exists(), "it is another file now");
    }

    #[tokio::test]
    async fn a_file_in_the_way_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("precious");
        fs::write(&path, "data").unwrap();
        assert!(LocalListener::bind(&path).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "data");
    }
}
