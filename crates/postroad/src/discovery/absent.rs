//! What stands for a source whose feature is off.

use std::sync::Arc;

use super::keyed::Keyed;
use super::source::Source;
use super::url::Url;
use crate::error::TransportError;

pub(super) fn open(url: Url) -> Result<Source, TransportError> {
    Err(wrong(&url))
}

#[allow(dead_code, reason = "names that stand for addresses have no keys")]
pub(super) fn keyed(url: Url) -> Result<Arc<dyn Keyed>, TransportError> {
    Err(wrong(&url))
}

fn wrong(url: &Url) -> TransportError {
    let feature = match url.scheme.as_str() {
        "srv" => "dns",
        scheme => scheme,
    };
    url.wrong(format!(
        "this program was built without the feature `{feature}`"
    ))
}
