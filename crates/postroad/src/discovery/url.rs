//! The parts of a target's URL: `SCHEME://HOST,HOST/PATH?option=value`.

use std::time::Duration;

use postroad_proto::units::parse_time;

use super::bounds::{KEEP, KEEP_MAX};
use crate::error::TransportError;

/// A target's URL, taken apart.
#[derive(Clone, Debug)]
pub(super) struct Url {
    text: String,
    /// In lower case.
    pub(super) scheme: String,
    /// What stands between `://` and `?`.
    pub(super) address: String,
    pub(super) options: Vec<(String, String)>,
}

impl Url {
    pub(super) fn parse(text: &str) -> Result<Self, TransportError> {
        let wrong = |detail: &str| TransportError::Endpoint {
            url: text.to_owned(),
            detail: detail.to_owned(),
        };
        let (scheme, rest) = text
            .split_once("://")
            .ok_or_else(|| wrong("expected SCHEME://ADDRESS, such as tcp://127.0.0.1:7400"))?;
        let (address, query) = rest.split_once('?').unwrap_or((rest, ""));
        if address.is_empty() {
            return Err(wrong("there is nothing behind ://"));
        }
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let options = pairs.map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (key.to_owned(), value.to_owned())
        });
        Ok(Self {
            text: text.to_owned(),
            scheme: scheme.to_ascii_lowercase(),
            address: address.to_owned(),
            options: options.collect(),
        })
    }

    /// The error of this URL.
    pub(super) fn wrong(&self, detail: impl Into<String>) -> TransportError {
        TransportError::Endpoint {
            url: self.text.clone(),
            detail: detail.into(),
        }
    }

    /// Takes an option out, the last one of that name.
    pub(super) fn take(&mut self, name: &str) -> Option<String> {
        let at = self.options.iter().rposition(|(key, _)| key == name)?;
        Some(self.options.remove(at).1)
    }

    /// Takes `keep` out: how long an empty list is not believed.
    pub(super) fn take_keep(&mut self) -> Result<Duration, TransportError> {
        let Some(text) = self.take("keep") else {
            return Ok(KEEP);
        };
        match parse_time(&text) {
            Ok(keep) if keep <= KEEP_MAX => Ok(keep),
            Ok(_) => Err(self.wrong(format!("keep={text}: at most a day"))),
            Err(error) => Err(self.wrong(format!("keep={text}: {error}"))),
        }
    }

    /// Fails on an option that nobody took.
    pub(super) fn check_rest(&self, known: &str) -> Result<(), TransportError> {
        match self.options.first() {
            None => Ok(()),
            Some((key, _)) => {
                let scheme = &self.scheme;
                Err(self.wrong(format!("unknown option {key:?}; {scheme} has {known}")))
            }
        }
    }

    /// Hosts and service of `etcd://HOST:PORT,HOST:PORT/SERVICE`.
    #[cfg(any(feature = "etcd", feature = "consul", feature = "nacos"))]
    pub(super) fn hosts_and_service(&self) -> Result<(Vec<String>, String), TransportError> {
        let (hosts, service) = self.address.split_once('/').unwrap_or((&self.address, ""));
        let is_name = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if service.is_empty() || !service.chars().all(is_name) || service.len() > 255 {
            let example = format!("{}://{hosts}/orders", self.scheme);
            return Err(self.wrong(format!(
                "a service is named behind the address, in letters, digits, `-`, `_`, `.`, as in \
                 {example}"
            )));
        }
        Ok((self.hosts(hosts)?, service.to_owned()))
    }
    /// Hosts and key of `etcd://HOST:PORT,HOST:PORT/FOLDER/KEY`, without the slash before it.
    #[cfg(any(feature = "etcd", feature = "consul", feature = "nacos"))]
    pub(super) fn hosts_and_key(&self) -> Result<(Vec<String>, String), TransportError> {
        let (hosts, key) = self.address.split_once('/').unwrap_or((&self.address, ""));
        let is_name = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let mut names = key.split('/');
        if key.len() > 255 || !names.all(|name| !name.is_empty() && name.chars().all(is_name)) {
            let example = format!("{}://{hosts}/postroad/node1", self.scheme);
            return Err(self.wrong(format!(
                "a key is named behind the address, in letters, digits, `-`, `_`, `.` and single \
                 `/`, as in {example}"
            )));
        }
        Ok((self.hosts(hosts)?, key.to_owned()))
    }

    /// The hosts of a registry.
    #[cfg(any(feature = "etcd", feature = "consul", feature = "nacos"))]
    fn hosts(&self, list: &str) -> Result<Vec<String>, TransportError> {
        let hosts: Vec<String> = list.split(',').map(str::to_owned).collect();
        for host in &hosts {
            let port = host.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
            if !matches!(port, Some(Ok(_))) {
                return Err(self.wrong(format!("{host:?} is not HOST:PORT")));
            }
        }
        Ok(hosts)
    }
}
