//! What the code that `#[postroad::service]` writes needs of the library. Nobody else uses it.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Error;

/// What a method of a service returns: a `Result`, also by an alias.
#[diagnostic::on_unimplemented(
    message = "a method of a service cannot return `{Self}`",
    label = "neither a `Result` nor an alias of one, or its error is none",
    note = "methods return `Result<T, E>` or an alias of it, where `postroad::Error: From<E>`; \
            `Result<T, postroad::Error>` will do"
)]
pub trait MethodResult {
    /// What the caller gets if all is well.
    type Ok;

    /// With the error that travels.
    ///
    /// # Errors
    /// The method's own.
    fn into_result(self) -> Result<Self::Ok, Error>;
}

impl<T, E> MethodResult for Result<T, E>
where
    Error: From<E>,
{
    type Ok = T;

    fn into_result(self) -> Result<T, Error> {
        self.map_err(Error::from)
    }
}

/// Compiles if values of this type can travel.
#[must_use]
pub const fn travels<T: Serialize + DeserializeOwned>() -> bool {
    true
}
