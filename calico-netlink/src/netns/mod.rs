//! Network namespaces: open, enter on a thread of their own, make and remove named ones.
//!
//! A namespace belongs to a *thread*. This module never moves a thread it did not start: work in
//! another namespace runs on a new thread that ends with it.

mod named;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, RawFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};

pub use named::{NAMED_DIR, create_named, list_named, remove_named};

/// Why a namespace cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetnsError {
    /// The path leads nowhere (any more).
    #[error("network namespace {} does not exist", path.display())]
    Gone {
        /// The path.
        path: PathBuf,
    },
    /// The path leads to something else.
    #[error("{} is not a network namespace", path.display())]
    NotANamespace {
        /// The path.
        path: PathBuf,
    },
    /// A named namespace of this name exists.
    #[error("network namespace {name} exists already")]
    Exists {
        /// The name.
        name: String,
    },
    /// A name that is no file name.
    #[error("{name:?} cannot be the name of a network namespace")]
    Name {
        /// The name.
        name: String,
    },
    /// The system refused.
    #[error("cannot {doing} network namespace {}", path.display())]
    System {
        /// What was tried.
        doing: &'static str,
        /// On which.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
}

/// An open network namespace. It lives as long as this value, even if its last process ends.
#[derive(Debug)]
pub struct Netns {
    file: File,
    path: PathBuf,
}

impl Netns {
    /// Opens the namespace at a path, such as `/run/netns/pod1` or `/proc/4711/ns/net`.
    ///
    /// # Errors
    ///
    /// [`NetnsError::Gone`], or [`NetnsError::System`]. That the path is of another kind shows
    /// when the namespace is entered.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, NetnsError> {
        let path = path.as_ref();
        match File::open(path) {
            Ok(file) => Ok(Self { file, path: path.to_owned() }),
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound)
                    || error.raw_os_error() == Some(Errno::ESRCH as i32) =>
            {
                Err(NetnsError::Gone { path: path.to_owned() })
            }
            Err(source) => Err(NetnsError::System { doing: "open", path: path.to_owned(), source }),
        }
    }

    /// The namespace of the calling thread.
    ///
    /// # Errors
    ///
    /// [`NetnsError::System`] without a mounted `/proc`.
    pub fn current() -> Result<Self, NetnsError> {
        Self::open("/proc/thread-self/ns/net")
    }

    /// Makes one without a name. It ends with this value, with what it has in it, however the
    /// process ends. Its [`path`](Self::path) leads there from this process only.
    ///
    /// # Errors
    ///
    /// [`NetnsError::System`] without root.
    pub fn create() -> Result<Self, NetnsError> {
        let system = |source| NetnsError::System { doing: "make", path: "(new)".into(), source };
        // A thread that is there for it: the caller stays where it is.
        let made = std::thread::Builder::new().name("netns".into()).spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            File::open("/proc/thread-self/ns/net")
        });
        let joined = made.map_err(system)?.join();
        let file = joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let file = file.map_err(system)?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        Ok(Self { file, path })
    }

    /// Opens a namespace by its name in [`NAMED_DIR`].
    ///
    /// # Errors
    ///
    /// See [`open`](Self::open).
    pub fn named(name: &str) -> Result<Self, NetnsError> {
        Self::open(Path::new(NAMED_DIR).join(name))
    }

    /// Where it was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether both are the same namespace, whatever their paths.
    ///
    /// # Errors
    ///
    /// [`NetnsError::System`].
    pub fn is_same(&self, other: &Self) -> Result<bool, NetnsError> {
        Ok(self.identity()? == other.identity()?)
    }

    /// Moves the calling thread into it. For threads (and single-threaded programs) that are
    /// there for it; others use [`run`](Self::run).
    ///
    /// # Errors
    ///
    /// [`NetnsError::NotANamespace`], or [`NetnsError::System`] without the right (root) to.
    pub fn enter(&self) -> Result<(), NetnsError> {
        setns(&self.file, CloneFlags::CLONE_NEWNET).map_err(|errno| match errno {
            Errno::EINVAL => NetnsError::NotANamespace { path: self.path.clone() },
            errno => self.system("enter", errno.into()),
        })
    }

    /// Runs work inside, on a thread of its own, and waits for it.
    ///
    /// Whatever the work opens (sockets) stays in the namespace when it is used elsewhere later.
    ///
    /// # Errors
    ///
    /// Those of [`enter`](Self::enter), or if no thread can be started.
    ///
    /// # Panics
    ///
    /// If the work panics.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
        std::thread::scope(|scope| {
            let inside = move || {
                self.enter()?;
                Ok(work())
            };
            let thread = std::thread::Builder::new()
                .name("netns".into())
                .spawn_scoped(scope, inside)
                .map_err(|source| self.system("start a thread for", source))?;
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Whether this is a namespace of the kernel (`nsfs`) at all.
    pub fn is_netns(&self) -> bool {
        nix::sys::statfs::fstatfs(&self.file)
            .is_ok_and(|system| system.filesystem_type() == nix::sys::statfs::NSFS_MAGIC)
    }

    fn identity(&self) -> Result<(u64, u64), NetnsError> {
        let metadata = self.file.metadata().map_err(|source| self.system("inspect", source))?;
        Ok((metadata.dev(), metadata.ino()))
    }

    fn system(&self, doing: &'static str, source: io::Error) -> NetnsError {
        NetnsError::System { doing, path: self.path.clone(), source }
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Netns {
    /// Its descriptor, as requests to the kernel carry it.
    pub(crate) fn raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_without_a_namespace_is_told_apart() {
        assert!(matches!(Netns::open("/run/netns/cr-none"), Err(NetnsError::Gone { .. })));
        let file = Netns::open("/proc/self/status").unwrap();
        assert!(matches!(file.run(|| ()), Err(NetnsError::NotANamespace { .. })));
    }

    #[test]
    fn one_without_a_name_is_reached_by_its_path() {
        // The same conditions as for a test net, which this one needs nothing else of.
        if crate::testing::TestNet::new("unnamed").is_none() {
            return;
        }
        let made = Netns::create().unwrap();
        assert!(!made.is_same(&Netns::current().unwrap()).unwrap());
        let path = made.path().to_owned();
        assert!(made.is_same(&Netns::open(&path).unwrap()).unwrap());
        assert!(made.run(|| Netns::current().unwrap().is_same(&made).unwrap()).unwrap());
    }

    #[test]
    fn the_current_one_is_itself() {
        let here = Netns::current().unwrap();
        assert!(here.is_same(&Netns::open("/proc/self/ns/net").unwrap()).unwrap());
    }
}
