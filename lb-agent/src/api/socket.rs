//! The socket file: who may use it, and that there is one agent behind it.
//!
//! The socket is made in a directory that only root may enter, gets its owner and mode there, and
//! is moved to its place: nobody can connect before the permissions are right, whatever the umask,
//! and a dead socket is replaced without a moment in which there is none.

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::{
        fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
        net::SocketAddr,
    },
    path::{Path, PathBuf},
};

use nix::unistd::Group;
use tokio::net::{UnixListener, UnixStream};

/// Why the socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Somebody answers there.
    #[error("another agent answers at `{}`; stop it first, or set `api.socket`", .0.display())]
    InUse(PathBuf),
    /// It is no socket.
    #[error(
        "`{}` exists and is no socket; it is left alone. Remove it, or set `api.socket`",
        .0.display()
    )]
    NotASocket(PathBuf),
    /// A socket cannot have this path.
    #[error("`{}` cannot be the path of a socket: {cause}. Set `api.socket`", path.display())]
    BadPath {
        /// The path.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// The file system refused.
    #[error("cannot make the socket `{}`: {call}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// What was tried.
        call: &'static str,
        /// What came back.
        #[source]
        io_error: io::Error,
    },
}

/// A listening socket file; removed when dropped, unless somebody else has taken its place.
#[derive(Debug)]
pub(super) struct ApiSocket {
    pub(super) listener: UnixListener,
    path: PathBuf,
    inode: (u64, u64),
}

impl ApiSocket {
    /// Listens at `path`, open to root and, where it exists, to `group`.
    pub(super) async fn bind(path: &Path, group: Option<&str>) -> Result<Self, SocketError> {
        let parent = parent_of(path)?;
        let failed =
            |call| move |io_error| SocketError::Io { path: path.to_owned(), call, io_error };
        fs::create_dir_all(parent).map_err(failed("create its directory"))?;
        refuse_unless_dead(path).await?;

        let nursery = Nursery::new(parent).map_err(failed("create a private directory"))?;
        let newborn = nursery.0.join("s");
        let listener = UnixListener::bind(&newborn).map_err(failed("bind"))?;
        let (gid, mode) = owner(group);
        std::os::unix::fs::chown(&newborn, None, gid).map_err(failed("set its group"))?;
        fs::set_permissions(&newborn, Permissions::from_mode(mode))
            .map_err(failed("set its mode"))?;
        fs::rename(&newborn, path).map_err(failed("move it to its place"))?;
        let metadata = fs::symlink_metadata(path).map_err(failed("look at it"))?;
        let inode = (metadata.dev(), metadata.ino());
        Ok(Self { listener, path: path.to_owned(), inode })
    }
}

impl Drop for ApiSocket {
    fn drop(&mut self) {
        let is_ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.inode);
        if is_ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!("cannot remove the socket `{}`: {error}", self.path.display());
        }
    }
}

/// The directory of a path that a socket can have.
fn parent_of(path: &Path) -> Result<&Path, SocketError> {
    let bad = |cause: String| SocketError::BadPath { path: path.to_owned(), cause };
    SocketAddr::from_pathname(path).map_err(|error| bad(error.to_string()))?;
    if !path.is_absolute() {
        return Err(bad("it is not absolute".to_owned()));
    }
    path.parent().ok_or_else(|| bad("it has no directory".to_owned()))
}

/// Only a socket that nobody listens on may be replaced.
async fn refuse_unless_dead(path: &Path) -> Result<(), SocketError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(io_error) => {
            return Err(SocketError::Io { path: path.to_owned(), call: "look at it", io_error });
        }
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(SocketError::NotASocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path).await {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound
            ) =>
        {
            Ok(())
        }
        // Connected, or its queue is full: somebody is there.
        _ => Err(SocketError::InUse(path.to_owned())),
    }
}

/// Group and mode of the socket. A group that does not exist leaves it to root.
fn owner(group: Option<&str>) -> (Option<u32>, u32) {
    let Some(name) = group else { return (None, 0o600) };
    match Group::from_name(name) {
        Ok(Some(group)) => (Some(group.gid.as_raw()), 0o660),
        Ok(None) => {
            tracing::info!(
                "there is no group `{name}` (`api.group`): the API socket is for root only; \
                 `groupadd --system {name}` and restart to open it to its members"
            );
            (None, 0o600)
        }
        Err(error) => {
            tracing::warn!("cannot look up the group `{name}`: {error}; the socket is root's");
            (None, 0o600)
        }
    }
}

/// A directory that only we may enter; removed when dropped.
struct Nursery(PathBuf);

impl Nursery {
    fn new(parent: &Path) -> io::Result<Self> {
        // A predecessor with our process id that was killed here may have left one.
        let path = parent.join(format!(".api-{}", std::process::id()));
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Nursery {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!("cannot remove `{}`: {error}", self.0.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> tempfile::TempDir {
        tempfile::tempdir().expect("a directory")
    }

    #[tokio::test]
    async fn socket_is_for_root_and_one_group() {
        let directory = directory();
        let path = directory.path().join("deep/api.sock");
        let mode = |path: &Path| fs::metadata(path).expect("a socket").mode() & 0o777;
        let socket = ApiSocket::bind(&path, Some("root")).await.expect("a socket");
        assert_eq!(mode(&path), 0o660);
        let names: Vec<_> = fs::read_dir(directory.path().join("deep"))
            .expect("a directory")
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        assert_eq!(names, ["api.sock"], "nothing but the socket is left");
        drop(socket);
        assert!(!path.exists());
        let _socket =
            ApiSocket::bind(&path, Some("no-such-group-anywhere")).await.expect("a socket");
        assert_eq!(mode(&path), 0o600);
    }

    #[tokio::test]
    async fn living_socket_is_refused_and_dead_one_replaced() {
        let directory = directory();
        let path = directory.path().join("api.sock");
        let first = ApiSocket::bind(&path, None).await.expect("a socket");
        let error = ApiSocket::bind(&path, None).await.expect_err("in use");
        assert!(matches!(error, SocketError::InUse(_)), "{error}");
        drop(first);
        drop(crate::dead_socket::dead_socket(&path));
        let _second = ApiSocket::bind(&path, None).await.expect("the dead one is replaced");
        UnixStream::connect(&path).await.expect("somebody listens");
    }

    #[tokio::test]
    async fn what_is_not_ours_stays() {
        let directory = directory();
        let path = directory.path().join("api.sock");
        fs::write(&path, "precious").expect("a file");
        let error = ApiSocket::bind(&path, None).await.expect_err("a file is there");
        assert!(matches!(error, SocketError::NotASocket(_)), "{error}");
        assert_eq!(fs::read(&path).expect("a file"), b"precious");

        fs::remove_file(&path).expect("a file");
        let first = ApiSocket::bind(&path, None).await.expect("a socket");
        fs::remove_file(&path).expect("a socket");
        let _usurper = std::os::unix::net::UnixListener::bind(&path).expect("another socket");
        drop(first);
        assert!(path.exists(), "another's socket is not removed");
    }

    #[tokio::test]
    async fn impossible_paths_are_named() {
        for path in ["relative.sock".into(), format!("/tmp/{}", "x".repeat(200))] {
            let error = ApiSocket::bind(Path::new(&path), None).await.expect_err("bad");
            assert!(matches!(error, SocketError::BadPath { .. }), "{error}");
        }
    }
}
