//! Why a call has failed, as far as the engine and the recorder have to know: each
//! [target](crate::targets) has failures of its own.

use std::borrow::Cow;
use std::time::Duration;

/// How far a call came that has failed: whether it is made again, and what it says of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The server has refused it, or may have got it. Made again, it would be another call.
    Left,
    /// There is no connection that could carry it. It can be made later.
    NoConnection,
    /// The connection carries as many as it may: the caller is told to wait. It can be made later.
    Full,
    /// Its time was over before it could leave.
    Expired,
    /// It can never be sent as it is.
    Unsendable,
}

/// Why a call has failed.
pub(crate) trait Failure: Sized + 'static {
    /// What failures of the same kind are counted under.
    fn code(&self) -> Cow<'_, str>;

    /// The reason in words, without the code: each code is shown with one as an example.
    fn text(&self) -> String;

    /// How far the call came.
    fn outcome(&self) -> Outcome;

    /// Why a call has failed whose time was over before its connection took it. `last` is what the
    /// connection said when it was asked last.
    fn expired(last: Option<&Self>, timeout: Duration) -> Self;
}
