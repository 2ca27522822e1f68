//! One server of a service: where it is, and what balancing needs to know of it.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::bounds::{TAG_MAX, URL_MAX, WEIGHT_MAX};
use crate::endpoint::{Endpoint, Protocol};

/// One server of a service.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Instance {
    /// Where it is.
    pub endpoint: Endpoint,
    /// Its share of the load, relative to the others; 1 by default, at most 65,535. One of weight 0
    /// gets nothing, unless all have 0.
    pub weight: u32,
    /// Which version or group it belongs to, such as `v2`.
    pub tag: Option<Arc<str>>,
    /// Where it stands, such as a data centre.
    pub zone: Option<Arc<str>>,
    /// Lower ones come first; others get load only when none of those can be used. From SRV
    /// records; 0 elsewhere.
    pub priority: u16,
}

impl Instance {
    /// An instance of weight 1.
    #[must_use]
    pub fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            weight: 1,
            tag: None,
            zone: None,
            priority: 0,
        }
    }

    /// Host and port of its address, if it has such.
    #[cfg(any(feature = "consul", feature = "nacos"))]
    pub(super) fn host_and_port(&self) -> Option<(String, u16)> {
        let (host, port) = self.endpoint.address().rsplit_once(':')?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        Some((host.to_owned(), port.parse().ok()?))
    }

    /// Why nobody could use it, if that is so.
    pub(super) fn flaw(&self) -> Option<String> {
        let too_long = |text: &Option<Arc<str>>| text.as_ref().is_some_and(|t| t.len() > TAG_MAX);
        if self.endpoint.to_string().len() > URL_MAX {
            Some(format!("its URL is longer than {URL_MAX} bytes"))
        } else if matches!(self.endpoint.protocol(), Protocol::Auto) {
            Some("`auto` is for listeners; name the protocol that it speaks".to_owned())
        } else if self.weight > WEIGHT_MAX {
            Some(format!("weight = {}: at most {WEIGHT_MAX}", self.weight))
        } else if too_long(&self.tag) || too_long(&self.zone) {
            Some(format!("its tag or zone is longer than {TAG_MAX} bytes"))
        } else {
            None
        }
    }
}

impl PartialEq for Instance {
    /// Two endpoints are the same if their URLs are.
    fn eq(&self, other: &Self) -> bool {
        let rest = |of: &Self| (of.weight, of.tag.clone(), of.zone.clone(), of.priority);
        rest(self) == rest(other) && self.endpoint.to_string() == other.endpoint.to_string()
    }
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.endpoint.fmt(f)
    }
}

/// An instance as registries and files keep it: `{"url": "tcp://10.0.0.1:7400", "weight": 10}`.
///
/// What else stands there is left alone, so that later versions can add to it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Record {
    pub(super) url: String,
    #[serde(default = "one")]
    pub(super) weight: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) tag: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) zone: Option<String>,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) priority: u16,
}

fn one() -> u32 {
    1
}

fn is_zero(number: &u16) -> bool {
    *number == 0
}

impl Record {
    pub(super) fn new(url: String) -> Self {
        Self {
            url,
            weight: one(),
            tag: None,
            zone: None,
            priority: 0,
        }
    }

    /// The instance that it describes.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn read(self) -> Result<Instance, String> {
        let endpoint: Endpoint = self.url.parse().map_err(|error| format!("{error}"))?;
        let instance = Instance {
            endpoint,
            weight: self.weight,
            tag: self.tag.map(Into::into),
            zone: self.zone.map(Into::into),
            priority: self.priority,
        };
        match instance.flaw() {
            None => Ok(instance),
            Some(flaw) => Err(flaw),
        }
    }
}

impl From<&Instance> for Record {
    fn from(instance: &Instance) -> Self {
        Self {
            url: instance.endpoint.to_string(),
            weight: instance.weight,
            tag: instance.tag.as_deref().map(str::to_owned),
            zone: instance.zone.as_deref().map(str::to_owned),
            priority: instance.priority,
        }
    }
}

/// Cuts a text of a source to a length that can be kept and logged.
pub(super) fn cut(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written_and_what_is_unknown_is_left_alone() {
        let mut instance = Instance::new("tcp://[::1]:7400".parse().unwrap());
        (instance.weight, instance.tag) = (7, Some("v2".into()));
        let text = serde_json::to_string(&Record::from(&instance)).unwrap();
        assert_eq!(text, r#"{"url":"tcp://[::1]:7400","weight":7,"tag":"v2"}"#);
        let again: Record = serde_json::from_str(&text).unwrap();
        assert_eq!(again.read().unwrap(), instance);
        let later: Record = serde_json::from_str(r#"{"url":"mem://x","rack":3}"#).unwrap();
        assert_eq!(later.read().unwrap().weight, 1);
    }

    #[test]
    fn a_record_that_nobody_could_use_says_why() {
        let flaw = |text: &str| {
            let record: Record = serde_json::from_str(text).unwrap();
            record.read().unwrap_err()
        };
        assert!(flaw(r#"{"url":"10.0.0.1:7400"}"#).contains("TRANSPORT"));
        assert!(flaw(r#"{"url":"tcp://h:1","weight":70000}"#).contains("at most 65535"));
        assert!(flaw(r#"{"url":"tcp+auto://h:1"}"#).contains("listeners"));
        let long = "z".repeat(300);
        assert!(flaw(&format!(r#"{{"url":"tcp://h:1","tag":"{long}"}}"#)).contains("255 bytes"));
        assert_eq!(cut("äöü", 3), "ä");
    }
}
