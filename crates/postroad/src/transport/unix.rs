//! Unix sockets: a path, its stale file removed, its new one private to the user.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

use super::quiet::QuietSocket;
use super::{
    BoxFuture, Incoming, Listener, PeerInfo, Stream, Transport, UnixCredentials, Use, io_error,
};
use crate::endpoint::Endpoint;
use crate::error::TransportError;

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
            let listener = bind(&path)
                .await
                .map_err(|error| io_error("listen on", endpoint, error))?;
            let inode = inode(&path);
            Ok(Box::new(Bound {
                listener,
                path,
                inode,
            }) as Box<dyn Listener>)
        })
    }

    fn check(&self, endpoint: &Endpoint, _use_as: Use) -> Result<(), TransportError> {
        endpoint.check_options(&[])
    }

    fn has_integrity(&self) -> bool {
        true
    }
}

/// Binds; a socket file that nobody answers at is left over from a killed process and is replaced.
///
/// The socket is made under another name, closed to other users, and then moved into its place at
/// once: nobody can connect before it is private.
async fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Ok(found) = std::fs::symlink_metadata(path) {
        if !found.file_type().is_socket() {
            let text = "a file that is not a socket stands there";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
        }
        // Only a refusal shows that nobody listens: a busy server may just be too busy to answer.
        match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            _ => {
                let text = "another process listens there";
                return Err(io::Error::new(io::ErrorKind::AddrInUse, text));
            }
        }
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    let temporary = PathBuf::from(name);
    let _ = std::fs::remove_file(&temporary);
    let listener = UnixListener::bind(&temporary)?;
    std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&temporary, path)?;
    Ok(listener)
}

struct Bound {
    listener: UnixListener,
    path: PathBuf,
    inode: Option<u64>,
}

fn inode(path: &Path) -> Option<u64> {
    std::fs::symlink_metadata(path)
        .ok()
        .map(|found| found.ino())
}

impl Drop for Bound {
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
        self.path.display().to_string()
    }
}
