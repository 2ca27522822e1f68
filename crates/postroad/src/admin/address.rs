//! Where a node tells how it does, and why it cannot.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use postroad_proto::code::{Fault, Retry};

/// Why a node does not tell how it does.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdminError {
    /// The address is not one.
    #[error("{url:?} is no address for health and metrics: {detail}")]
    Address {
        /// As it was written.
        url: String,
        /// What is wrong with it.
        detail: String,
    },
    /// Others could reach it.
    #[error(
        "{url} can be reached from other machines, and who asks is not checked yet: use \
         http://127.0.0.1:PORT, http://[::1]:PORT or unix:///PATH"
    )]
    Exposed {
        /// The address.
        url: String,
    },
    /// The operating system refuses it.
    #[error("listen on {url}: {source}")]
    Listen {
        /// The address.
        url: String,
        /// Why.
        source: io::Error,
    },
    /// The thread that answers cannot be started.
    #[error("the thread for health and metrics cannot be started: {0}")]
    Thread(io::Error),
}

impl AdminError {
    /// Who has to change something.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Address { .. } | Self::Exposed { .. } => Fault::Caller,
            Self::Listen { .. } | Self::Thread(_) => Fault::Environment,
        }
    }

    /// Whether trying again can help.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::Address { .. } | Self::Exposed { .. } => Retry::Never,
            Self::Listen { .. } | Self::Thread(_) => Retry::Here,
        }
    }

    /// Whether somebody else listens there already.
    #[must_use]
    pub fn is_taken(&self) -> bool {
        matches!(self, Self::Listen { source, .. } if source.kind() == io::ErrorKind::AddrInUse)
    }
}

/// Where a node tells how it does: `http://HOST:PORT` or `unix:///PATH`.
///
/// ```
/// use postroad::admin::AdminAddress;
///
/// let address: AdminAddress = "http://127.0.0.1:7490".parse().unwrap();
/// address.check_listen().unwrap();
/// let everybody: AdminAddress = "http://0.0.0.0:7490".parse().unwrap();
/// assert!(everybody.check_listen().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminAddress(Place);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Tcp {
        /// A name, or an address, of IPv6 without brackets.
        host: String,
        port: u16,
    },
    Unix(PathBuf),
}

impl AdminAddress {
    /// Host and port, unless it is a socket's path. IPv6 stands without brackets.
    #[must_use]
    pub fn host_and_port(&self) -> Option<(&str, u16)> {
        match &self.0 {
            Place::Tcp { host, port } => Some((host, *port)),
            Place::Unix(_) => None,
        }
    }

    /// The path of a Unix socket, if it is one.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match &self.0 {
            Place::Tcp { .. } => None,
            Place::Unix(path) => Some(path),
        }
    }

    /// Checks that nobody but this machine could ask.
    ///
    /// # Errors
    /// [`AdminError::Exposed`] if others could.
    pub fn check_listen(&self) -> Result<(), AdminError> {
        match (&self.0, self.socket_address()) {
            (Place::Unix(_), _) => Ok(()),
            (_, Some(address)) if address.ip().is_loopback() => Ok(()),
            _ => Err(AdminError::Exposed {
                url: self.to_string(),
            }),
        }
    }

    /// The address of a host that is no name; `localhost` is this machine's.
    pub(super) fn socket_address(&self) -> Option<SocketAddr> {
        let (host, port) = self.host_and_port()?;
        let ip = match host {
            "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
            host => host.parse().ok()?,
        };
        Some(SocketAddr::new(ip, port))
    }
}

impl FromStr for AdminAddress {
    type Err = AdminError;

    fn from_str(url: &str) -> Result<Self, AdminError> {
        let wrong = |detail: &str| AdminError::Address {
            url: url.to_owned(),
            detail: detail.to_owned(),
        };
        let form = "write http://127.0.0.1:PORT or unix:///PATH";
        if let Some(path) = url.strip_prefix("unix://") {
            return match path.starts_with('/') && cfg!(unix) {
                true => Ok(Self(Place::Unix(path.into()))),
                false => Err(wrong("a Unix socket has a whole path: write unix:///PATH")),
            };
        }
        let authority = url.strip_prefix("http://").ok_or_else(|| wrong(form))?;
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        let (host, port) = authority.rsplit_once(':').ok_or_else(|| wrong(form))?;
        let port = port.parse().map_err(|_| wrong("a port is 0 to 65535"))?;
        let inner = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let is_host = |host: &str| {
            !host.is_empty()
                && host
                    .chars()
                    .all(|c| c.is_alphanumeric() || ".-_".contains(c))
        };
        let host = match inner {
            Some(inner) if inner.parse::<std::net::Ipv6Addr>().is_ok() => inner,
            None if is_host(host) => host,
            _ => return Err(wrong(form)),
        };
        let host = host.to_owned();
        Ok(Self(Place::Tcp { host, port }))
    }
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Tcp { host, port } if host.contains(':') => write!(f, "http://[{host}]:{port}"),
            Place::Tcp { host, port } => write!(f, "http://{host}:{port}"),
            Place::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_this_machine_alone_can_reach_may_be_listened_on() {
        for url in [
            "http://127.0.0.1:7490",
            "http://127.9.0.1:1/",
            "http://[::1]:0",
            "http://localhost:7490",
            "unix:///run/node.sock",
        ] {
            let address: AdminAddress = url.parse().unwrap();
            address.check_listen().unwrap();
        }
        for url in [
            "http://0.0.0.0:7490",
            "http://[::]:7490",
            "http://10.0.0.1:7490",
            "http://example.org:7490",
        ] {
            let address: AdminAddress = url.parse().unwrap();
            let error = address.check_listen().unwrap_err();
            assert!(matches!(error, AdminError::Exposed { .. }));
            assert!(error.to_string().contains("http://127.0.0.1:PORT"));
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_the_form_of_one() {
        for url in [
            "",
            "127.0.0.1:7490",
            "https://127.0.0.1:7490",
            "http://127.0.0.1",
            "http://127.0.0.1:99999",
            "http://127.0.0.1:7490/metrics",
            "http://::1:7490",
            "http://[::1:7490",
            "http://user@127.0.0.1:1",
            "unix://run/node.sock",
        ] {
            let error = url.parse::<AdminAddress>().unwrap_err();
            assert!(matches!(error, AdminError::Address { .. }), "{url}");
        }
        let shown: AdminAddress = "http://[::1]:80/".parse().unwrap();
        assert_eq!(shown.to_string(), "http://[::1]:80");
    }
}
