//! Who a client is, where several of its requests have something in common: a rate, a version.

use std::net::IpAddr;

use crate::transport::{ConnectionId, PeerInfo};

/// A client as it is told apart from others: by its identity, or by where it comes from as long as
/// it has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ClientKey<'a> {
    /// The subject of its token or certificate.
    Named(&'a str),
    /// Its address, whatever its port.
    Address(IpAddr),
    /// The user of a process on this machine.
    User(u32),
    /// Nothing is known but that it is one.
    Connection(ConnectionId),
}

impl<'a> ClientKey<'a> {
    pub(crate) fn of(peer: &PeerInfo, subject: Option<&'a str>) -> Self {
        if let Some(name) = subject {
            return Self::Named(name);
        }
        let (address, credentials) = (peer.socket_address(), peer.unix_credentials());
        match (address, credentials) {
            (Some(address), _) => Self::Address(address.ip()),
            (None, Some(credentials)) => Self::User(credentials.uid),
            (None, None) => Self::Connection(peer.connection()),
        }
    }
}
