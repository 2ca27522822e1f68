//! Why a token is not believed.

use std::time::Duration;

use postroad_proto::code::{Code, Retry};
use postroad_proto::session::Denial;

use crate::error::Error;

/// Why a token is not believed, as its bearer is told. It never shows anything of the token but
/// what is needed to find the mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rejection {
    pub(crate) code: Code,
    pub(crate) text: String,
    pub(crate) retry: Retry,
    pub(crate) after: Duration,
}

impl Rejection {
    /// The token is wrong, and will be.
    pub(crate) fn wrong(text: impl Into<String>) -> Self {
        Self {
            code: Code::UNAUTHENTICATED,
            text: text.into(),
            retry: Retry::Never,
            after: Duration::ZERO,
        }
    }

    /// It may be right, and cannot be judged now.
    #[cfg(feature = "jwt")]
    pub(crate) fn later(text: impl Into<String>, after: Duration) -> Self {
        Self {
            retry: Retry::Here,
            after,
            ..Self::wrong(text)
        }
    }

    /// It was right.
    #[cfg(feature = "jwt")]
    pub(crate) fn expired(text: impl Into<String>) -> Self {
        Self {
            code: Code::EXPIRED,
            ..Self::wrong(text)
        }
    }

    /// As a client is told in the opening.
    pub(crate) fn denial(&self) -> Denial {
        Denial {
            text: format!("{} {}", self.code, self.text),
            retry: self.retry,
            after: self.after,
        }
    }

    /// As a caller is told.
    pub(crate) fn error(&self) -> Error {
        Error::of(self.code, &*self.text).with_retry(self.retry, self.after)
    }
}
