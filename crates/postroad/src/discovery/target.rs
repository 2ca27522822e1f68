//! Where messages go, as a URL says it.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;

use super::bounds::{INSTANCES_MAX, KEEP};
use super::follow::Follower;
use super::found::Found;
use super::instance::{Instance, Record};
use super::source::{Discovery, Registry, Source};
use super::url::Url;
use super::{consul, dns, etcd, file, nacos};
use crate::endpoint::Endpoint;
use crate::error::TransportError;

/// Where messages go: one endpoint, a list of them, or a source that knows them.
///
/// | target | means |
/// | --- | --- |
/// | `tcp://10.0.0.1:7400` | one endpoint |
/// | `tcp://10.0.0.1:7400?weight=2,10.0.0.2:7400` | a fixed list |
/// | `file:///etc/orders.toml` | a list in a file, looked at twice a second |
/// | `dns://orders.internal:7400` | the addresses of a name (feature `dns`) |
/// | `srv://_orders._tcp.internal` | SRV records, with priority and weight (feature `dns`) |
/// | `etcd://10.0.0.5:2379,10.0.0.6:2379/orders` | etcd from 3.4 (feature `etcd`) |
/// | `consul://127.0.0.1:8500/orders` | a service in Consul (feature `consul`) |
/// | `nacos://127.0.0.1:8848/orders` | a service in Nacos (feature `nacos`) |
///
/// In a list, `weight`, `tag` and `zone` belong to the address before them. Every other option
/// stands behind the last address and belongs to all.
///
/// Sources have the option `keep=60s`: for how long an empty list that follows a list with
/// instances is not believed.
///
/// ```
/// use postroad::discovery::Target;
///
/// let target: Target = "tcp://10.0.0.1:7400?weight=2,10.0.0.2:7400?tag=v2".parse()?;
/// assert!(target.endpoint().is_none(), "there are two");
/// # Ok::<(), postroad::transport::TransportError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Target {
    url: String,
    kind: Kind,
    keep: Duration,
}

#[derive(Clone, Debug)]
enum Kind {
    Endpoint(Box<Endpoint>),
    List(Arc<[Instance]>),
    Source(Source),
}

impl Target {
    /// The endpoint, if the target is one alone, without weight, tag or zone.
    #[must_use]
    pub fn endpoint(&self) -> Option<&Endpoint> {
        match &self.kind {
            Kind::Endpoint(endpoint) => Some(endpoint),
            Kind::List(_) | Kind::Source(_) => None,
        }
    }

    /// A source of one's own. It is shown by its `Debug`; if that is long, by the name before the
    /// first bracket.
    pub fn of(discovery: impl Discovery) -> Self {
        Self {
            url: title(format!("{discovery:?}")),
            kind: Kind::Source(Source::of(discovery)),
            keep: KEEP,
        }
    }

    /// A source of one's own at which servers can register.
    #[must_use]
    pub fn with_registry(mut self, registry: impl Registry) -> Self {
        if let Kind::Source(source) = &mut self.kind {
            source.registry = Some(Arc::new(registry));
        }
        self
    }

    pub(super) fn registry(&self) -> Option<&Arc<dyn Registry>> {
        match &self.kind {
            Kind::Source(source) => source.registry.as_ref(),
            Kind::Endpoint(_) | Kind::List(_) => None,
        }
    }

    /// The same target, with another time for which an empty list that follows a list with
    /// instances is not believed. Default 60 s; 0 believes it at once.
    #[must_use]
    pub fn with_keep(mut self, keep: Duration) -> Self {
        self.keep = keep;
        self
    }

    /// What is known of the instances, from now on. A source is followed by a task of the present
    /// runtime, which ends when all receivers are dropped. `copy` is a file that keeps the last
    /// list, for a start while the source is down.
    ///
    /// # Errors
    /// If there is no runtime.
    pub fn follow(&self, copy: Option<&Path>) -> Result<watch::Receiver<Found>, TransportError> {
        let runtime = Handle::try_current().map_err(|error| TransportError::Io {
            action: "follow",
            endpoint: self.url.clone(),
            source: std::io::Error::other(error.to_string()),
        })?;
        let discovery = match &self.kind {
            Kind::Endpoint(endpoint) => {
                let instance = Instance::new((**endpoint).clone());
                return Ok(fixed(&runtime, Arc::new([instance])));
            }
            Kind::List(list) => return Ok(fixed(&runtime, Arc::clone(list))),
            Kind::Source(source) => Arc::clone(&source.discovery),
        };
        let (found, receiver) = watch::channel(Found::default());
        let copy = copy.map(Path::to_owned);
        let follower = Follower::new(self.url.clone(), discovery, self.keep, copy, found);
        runtime.spawn(follower.run());
        Ok(receiver)
    }
}

/// A list that never changes. Its sender lives as long as its receivers, for a receiver without a
/// sender is never quiet.
fn fixed(runtime: &Handle, instances: Arc<[Instance]>) -> watch::Receiver<Found> {
    let (found, receiver) = watch::channel(Found::fixed(instances));
    runtime.spawn(async move { found.closed().await });
    receiver
}

/// A longer text is no name, bytes.
const TITLE_MAX: usize = 64;

/// What a source of one's own is called in errors and logs.
fn title(debug: String) -> String {
    let name = debug.split(['(', '{', '[']).next().unwrap_or_default();
    match debug.len() > TITLE_MAX && !name.trim().is_empty() {
        true => name.trim().to_owned(),
        false => debug,
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

impl From<Endpoint> for Target {
    fn from(endpoint: Endpoint) -> Self {
        Self {
            url: endpoint.to_string(),
            kind: Kind::Endpoint(Box::new(endpoint)),
            keep: KEEP,
        }
    }
}

impl FromStr for Target {
    type Err = TransportError;

    fn from_str(text: &str) -> Result<Self, TransportError> {
        let scheme = text.split_once("://").map_or("", |(scheme, _)| scheme);
        let mut keep = KEEP;
        let mut source = |open: fn(Url) -> Result<Source, TransportError>| {
            let mut url = Url::parse(text)?;
            keep = url.take_keep()?;
            open(url).map(Kind::Source)
        };
        let kind = match scheme.to_ascii_lowercase().as_str() {
            "file" => source(file::open)?,
            "dns" | "srv" => source(dns::open)?,
            "etcd" => source(etcd::open)?,
            "consul" => source(consul::open)?,
            "nacos" => source(nacos::open)?,
            _ => list(text)?,
        };
        let url = text.to_owned();
        Ok(Self { url, kind, keep })
    }
}

/// One endpoint, or several behind one scheme.
fn list(text: &str) -> Result<Kind, TransportError> {
    let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
    let (records, common) = split(scheme, rest).map_err(|detail| TransportError::Endpoint {
        url: text.to_owned(),
        detail,
    })?;
    if let [record] = &records[..]
        && record.weight == 1
        && record.tag.is_none()
        && record.zone.is_none()
    {
        // As it was written, for the errors that name it.
        return text.parse().map(Box::new).map(Kind::Endpoint);
    }
    let instances = records.into_iter().map(|mut record| {
        record.url.push_str(&common);
        record.read().map_err(|detail| TransportError::Endpoint {
            url: text.to_owned(),
            detail,
        })
    });
    let instances: Vec<Instance> = instances.collect::<Result<_, _>>()?;
    Ok(Kind::List(instances.into()))
}

/// The addresses of a list with what belongs to each, and what belongs to all: `?ca=ca.pem`.
fn split(scheme: &str, rest: &str) -> Result<(Vec<Record>, String), String> {
    let (mut records, mut common) = (Vec::new(), String::new());
    let many = rest.split(',').count();
    if many > INSTANCES_MAX {
        return Err(format!("{many} addresses; at most {INSTANCES_MAX}"));
    }
    for (at, address) in rest.split(',').enumerate() {
        let (address, query) = address.split_once('?').unwrap_or((address, ""));
        if address.is_empty() && many > 1 {
            return Err("there is nothing between two commas, or behind the last".to_owned());
        }
        let mut record = Record::new(format!("{scheme}://{address}"));
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            match key {
                "weight" => {
                    let wrong = |_| format!("weight={value}: a whole number from 0 to 65535");
                    record.weight = value.parse::<u16>().map_err(wrong)?.into();
                }
                "tag" => record.tag = Some(value.to_owned()),
                "zone" => record.zone = Some(value.to_owned()),
                _ if at + 1 == many => {
                    common.push(if common.is_empty() { '?' } else { '&' });
                    common.push_str(pair);
                }
                _ => {
                    return Err(format!(
                        "{key:?} belongs to all addresses and stands behind the last one; only \
                         weight, tag and zone belong to one address"
                    ));
                }
            }
        }
        records.push(record);
    }
    Ok((records, common))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instances(text: &str) -> Arc<[Instance]> {
        match text.parse::<Target>().unwrap().kind {
            Kind::List(list) => list,
            other => panic!("{other:?}"),
        }
    }

    fn refusal(text: &str) -> String {
        text.parse::<Target>().unwrap_err().to_string()
    }

    #[test]
    fn a_source_of_ones_own_has_a_short_name() {
        let short = "Listed(3)".to_owned();
        assert_eq!(title(short.clone()), short);
        let long = format!("Listed {{ list: {:?} }}", [7; 100]);
        assert_eq!(title(long), "Listed");
        let nameless = format!("{:?}", [7; 100]);
        assert_eq!(title(nameless.clone()), nameless);
    }

    #[test]
    fn one_address_is_an_endpoint_as_it_always_was() {
        for url in [
            "tcp://127.0.0.1:7400",
            "tcp+session://127.0.0.1:7401?crc=modbus",
            "tls://host:7443?ca=ca.pem&name=x",
            "unix:///run/postroad.sock",
            "mem://name",
        ] {
            let target: Target = url.parse().unwrap();
            assert_eq!(target.to_string(), url);
            assert_eq!(target.endpoint().unwrap().to_string(), url);
        }
        assert!(refusal("127.0.0.1:7400").contains("tcp://127.0.0.1:7400"));
    }

    #[test]
    fn in_a_list_weight_tag_and_zone_belong_to_one_address_and_the_rest_to_all() {
        let list = instances("tls://[::1]:1?weight=0&tag=v2,b:2?zone=z&ca=ca.pem&name=x");
        let urls: Vec<_> = list.iter().map(ToString::to_string).collect();
        let expected = [
            "tls://[::1]:1?ca=ca.pem&name=x",
            "tls://b:2?ca=ca.pem&name=x",
        ];
        assert_eq!(urls, expected);
        assert_eq!((list[0].weight, list[0].tag.as_deref()), (0, Some("v2")));
        assert_eq!((list[1].weight, list[1].zone.as_deref()), (1, Some("z")));
        assert_eq!(instances("tcp://a:1?weight=3").len(), 1);
    }

    #[test]
    fn a_list_that_could_be_misread_is_refused_with_what_to_write() {
        assert!(refusal("tls://a:1?ca=x,b:2").contains("behind the last one"));
        assert!(refusal("tcp://a:1,,b:2").contains("between two commas"));
        assert!(refusal("tcp://a:1?weight=-1,b:2").contains("0 to 65535"));
        assert!(refusal("tcp+morse://a:1,b:2").contains("no dialect"));
        assert!(refusal("file:///x?colour=red").contains("unknown option \"colour\""));
        assert!(refusal("file:///x?keep=soon").contains("keep=soon"));
    }
}
