//! Writing what there is: the one loop by which callers, handlers and the driver write.
//!
//! It knows the connection only by what it needs of it, so that `model.rs` can run the same loop
//! with a lock that is interrupted everywhere.

use std::io;
use std::ops::DerefMut;
use std::task::Context;

use super::line::{Flow, Line, Writes};

/// What is behind a connection's lock, as a writer sees it.
pub(super) trait Source {
    /// Who may write.
    fn line(&mut self) -> &mut Line;

    /// Puts the next bytes into a buffer; false if there are none.
    fn poll_transmit(&mut self, out: &mut Vec<u8>) -> bool;

    /// Whether there are more.
    fn has_output(&self) -> bool;

    /// The transport takes bytes again, or takes none any more.
    fn handle_written(&mut self, flow: Flow);
}

/// A lock, and a transport that is used without it.
pub(super) trait Shared {
    type Source: Source;
    type Guard<'a>: DerefMut<Target = Self::Source>
    where
        Self: 'a;

    fn lock(&self) -> Self::Guard<'_>;

    /// Writes some bytes. With a context, its task is woken when a full transport takes bytes
    /// again.
    fn write(&self, cx: Option<&mut Context<'_>>, bytes: &[u8]) -> io::Result<usize>;
}

/// Writes what there is, unless somebody else does already or the transport takes nothing.
///
/// The driver brings its context, and is woken when a full transport takes bytes again. For anybody
/// else it has to be woken afterwards, if [`Line::needs_driver`].
///
/// The lock is given back while the transport is asked, so others can queue meanwhile. What they
/// queue is written here too: they find the line taken, and the source is asked for more until it
/// has nothing, under the lock under which the line becomes free. What is more than one turn's
/// share is left to the driver, which gives way to other connections before it goes on.
#[inline]
pub(super) fn transmit<'a, S: Shared>(
    shared: &'a S,
    mut guard: S::Guard<'a>,
    mut cx: Option<&mut Context<'_>>,
) -> S::Guard<'a> {
    let who = match cx {
        Some(_) => Writes::Driver,
        None => Writes::Caller,
    };
    let Some(mut token) = guard.line().begin(who) else {
        return guard;
    };
    while token.has_bytes() || token.may_take_more() && guard.poll_transmit(token.buffer()) {
        drop(guard);
        let result = shared.write(cx.as_deref_mut(), token.bytes());
        guard = shared.lock();
        if !guard.line().note(&mut token, result) {
            break;
        }
    }
    let has_more = !token.may_take_more() && guard.has_output();
    match guard.line().end(token, has_more) {
        Flow::Open => {}
        flow => guard.handle_written(flow),
    }
    guard
}
