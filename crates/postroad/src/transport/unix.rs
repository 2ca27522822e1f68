//! Unix sockets: a path, its stale file removed, its new one private to the user.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{UnixListener, UnixStream};

use super::quiet::QuietSocket;
use super::{
    BoxFuture, Incoming, Listener, PeerInfo, Stream, Transport, UnixCredentials, Use, io_error,
};
use crate::endpoint::Endpoint;
use crate::error::TransportError;

/// Bytes of a socket's path, which the operating system keeps in a field of fixed size with a zero
/// at its end.
const PATH_MAX: usize = if cfg!(target_os = "linux") { 107 } else { 103 };

/// Connections that the kernel queues before they are accepted.
const BACKLOG: i32 = 4096;

#[derive(Debug)]
pub(super) struct Unix;

impl Transport for Unix {
    fn dial<'a>(&'a self, endpoint: &'a Endpoint) -> BoxFuture<'a, Result<Stream, TransportError>> {
        Box::pin(async move {
            let connect = async {
                let stream = UnixStream::connect(endpoint.address()).await?;
                QuietSocket::new(stream.into_std()?)
            };
            let socket = connect.await;
            socket
                .map(Stream::from)
                .map_err(|error| io_error("connect to", endpoint, error))
        })
    }

    fn listen<'a>(
        &'a self,
        endpoint: &'a Endpoint,
    ) -> BoxFuture<'a, Result<Box<dyn Listener>, TransportError>> {
        Box::pin(async move {
            let path = PathBuf::from(endpoint.address());
            let fail = |error| io_error("listen on", endpoint, error);
            let listener = {
                let path = path.clone();
                // Somebody else may hold the folder's lock.
                let bound = tokio::task::spawn_blocking(move || bind(&path)).await;
                let bound = bound.map_err(io::Error::other).and_then(|bound| bound);
                bound.and_then(UnixListener::from_std).map_err(fail)?
            };
            let file = SocketFile::new(path);
            Ok(Box::new(Bound { listener, file }) as Box<dyn Listener>)
        })
    }

    fn check(&self, endpoint: &Endpoint, _use_as: Use) -> Result<(), TransportError> {
        endpoint.check_options(&[])?;
        check_path(Path::new(endpoint.address())).map_err(|error| TransportError::Endpoint {
            url: endpoint.to_string(),
            detail: error.to_string(),
        })
    }

    fn has_integrity(&self) -> bool {
        true
    }
}

/// Fails if the operating system has no room for this path.
fn check_path(path: &Path) -> io::Result<()> {
    let len = path.as_os_str().len();
    if len <= PATH_MAX {
        return Ok(());
    }
    let text =
        format!("the path of a Unix socket has at most {PATH_MAX} bytes, this one has {len}");
    Err(io::Error::new(io::ErrorKind::InvalidInput, text))
}

/// Binds; a socket file that nobody answers at is left over from a killed process and is replaced.
///
/// The folder is locked meanwhile. Without that, of two servers that find the same old file, the
/// second could remove the socket on which the first listens by then. Where a file system has no
/// locks, that small gap stays.
pub(crate) fn bind(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    check_path(path)?;
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let folder = File::open(folder).ok();
    let _locked = folder.filter(|folder| folder.lock().is_ok());
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Linux gives the file the mode of the socket, so that nobody else can ever connect. Elsewhere
    // that fails, and the file is private a moment after it was made.
    let _ = rustix::fs::fchmod(&socket, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR);
    socket.bind(&SockAddr::unix(path)?)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Removes a socket at which nobody listens. Anything else that stands there stays, and is an
/// error.
fn remove_stale(path: &Path) -> io::Result<()> {
    let Ok(found) = std::fs::symlink_metadata(path) else {
        return Ok(());
    };
    let refuse = |kind, text: String| Err(io::Error::new(kind, text));
    if !found.file_type().is_socket() {
        let text = "a file that is not a socket stands there";
        return refuse(io::ErrorKind::AlreadyExists, text.to_owned());
    }
    let of_user = |error: io::Error| {
        let uid = found.uid();
        let text =
            format!("a socket of user {uid} stands there that is not ours to look at: {error}");
        io::Error::new(io::ErrorKind::PermissionDenied, text)
    };
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    // Only a refusal shows that nobody listens: a busy server may just be too busy to answer.
    match socket.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(of_user)
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(of_user(error)),
        _ => refuse(
            io::ErrorKind::AddrInUse,
            "another process listens there".to_owned(),
        ),
    }
}

struct Bound {
    listener: UnixListener,
    file: SocketFile,
}

/// The file of a socket at which somebody listens.
pub(crate) struct SocketFile {
    path: PathBuf,
    inode: Option<u64>,
}

impl SocketFile {
    /// Of a socket that was just bound there.
    pub(crate) fn new(path: PathBuf) -> Self {
        let inode = inode(&path);
        Self { path, inode }
    }
}

fn inode(path: &Path) -> Option<u64> {
    std::fs::symlink_metadata(path)
        .ok()
        .map(|found| found.ino())
}

impl Drop for SocketFile {
    /// Removes the socket, unless another has taken its place.
    fn drop(&mut self) {
        if self.inode.is_some() && inode(&self.path) == self.inode {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Listener for Bound {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Incoming>> {
        Box::pin(async {
            let (stream, _) = self.listener.accept().await?;
            let peer = match stream.peer_cred() {
                Ok(cred) => {
                    PeerInfo::unix(UnixCredentials::new(cred.pid(), cred.uid(), cred.gid()))
                }
                Err(_) => PeerInfo::named("unix"),
            };
            let stream = stream.into_std()?;
            Ok(Incoming {
                peer,
                open: Box::new(move || {
                    Box::pin(async move { QuietSocket::new(stream).map(Stream::from) })
                }),
            })
        })
    }

    fn local_address(&self) -> String {
        self.file.path.display().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_may_be_as_long_as_the_system_allows_and_the_error_names_the_number() {
        let folder = tempfile::tempdir().expect("a folder");
        let base = folder.path().as_os_str().len() + 1;
        let longest = folder.path().join("x".repeat(PATH_MAX - base));
        let listener = bind(&longest).expect("it is within the limit");
        let mode = std::fs::metadata(&longest).expect("it is there").mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(listener);
        let error = bind(&folder.path().join("x".repeat(PATH_MAX - base + 1))).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(&PATH_MAX.to_string()), "{text}");
        assert!(text.contains(&(PATH_MAX + 1).to_string()), "{text}");
    }

    #[test]
    fn of_many_servers_that_find_an_old_socket_one_listens() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("s");
        for _ in 0..20 {
            let _ = std::fs::remove_file(&path);
            drop(std::os::unix::net::UnixListener::bind(&path).expect("an old one"));
            let bound: Vec<_> = std::thread::scope(|scope| {
                let all: Vec<_> = (0..8).map(|_| scope.spawn(|| bind(&path))).collect();
                let all = all.into_iter().map(|each| each.join().expect("no panic"));
                all.filter_map(Result::ok).collect()
            });
            assert_eq!(bound.len(), 1);
        }
    }
}
