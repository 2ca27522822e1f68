//! What stands for a source whose feature is off.

use super::source::Source;
use super::url::Url;
use crate::error::TransportError;

pub(super) fn open(url: Url) -> Result<Source, TransportError> {
    let feature = match url.scheme.as_str() {
        "srv" => "dns",
        scheme => scheme,
    };
    Err(url.wrong(format!(
        "this program was built without the feature `{feature}`"
    )))
}
