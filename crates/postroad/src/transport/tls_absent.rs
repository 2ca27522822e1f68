//! Stands where TLS would, so that `tls://` says what to do instead of being unknown.

use std::io;

use super::{BoxFuture, Listener, Stream, Transport, Use, io_error};
use crate::endpoint::Endpoint;
use crate::error::TransportError;

#[derive(Debug)]
pub(super) struct Tls;

fn absent(action: &'static str, endpoint: &Endpoint) -> TransportError {
    let text = "this program was built without the feature `tls`";
    io_error(
        action,
        endpoint,
        io::Error::new(io::ErrorKind::Unsupported, text),
    )
}

impl Transport for Tls {
    fn dial<'a>(&'a self, endpoint: &'a Endpoint) -> BoxFuture<'a, Result<Stream, TransportError>> {
        Box::pin(async move { Err(absent("connect to", endpoint)) })
    }

    fn listen<'a>(
        &'a self,
        endpoint: &'a Endpoint,
    ) -> BoxFuture<'a, Result<Box<dyn Listener>, TransportError>> {
        Box::pin(async move { Err(absent("listen on", endpoint)) })
    }

    fn check(&self, endpoint: &Endpoint, _use_as: Use) -> Result<(), TransportError> {
        Err(absent("use", endpoint))
    }

    fn has_integrity(&self) -> bool {
        true
    }
}
