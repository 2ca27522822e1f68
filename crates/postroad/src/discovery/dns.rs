//! DNS: `dns://orders.internal:7400` for the addresses of a name, `srv://_orders._tcp.internal` for
//! SRV records. Both are asked again when their time to live is over.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, Record, RecordType};
use tokio::time::sleep;

use super::error::DiscoveryError;
use super::instance::Instance;
use super::source::{Discovery, Source};
use super::updates::Updates;
use super::url::Url;
use crate::error::TransportError;
use crate::transport::BoxFuture;

/// For one question to one server.
const ANSWER_MAX: Duration = Duration::from_secs(3);
/// Shortest and longest time after which DNS is asked again, whatever a record says.
const ASK_MIN: Duration = Duration::from_secs(1);
const ASK_MAX: Duration = Duration::from_secs(300);
/// After how long it is asked again when there was no record.
const ASK_NONE: Duration = Duration::from_secs(5);
/// Most SRV records whose addresses are asked for, so that one answer makes no flood of questions.
const SRV_MAX: usize = 256;

/// A name in DNS.
#[derive(Debug)]
struct Dns {
    name: String,
    /// The port, where the name is asked for its addresses.
    port: Option<u16>,
    server: Option<SocketAddr>,
    /// `tcp`, `tls`, `tcp+session`.
    transport: String,
    /// What follows the address in each endpoint: `?ca=ca.pem`.
    options: String,
    /// Whether an endpoint has to say the name that a certificate must bear.
    has_name: bool,
}

pub(super) fn open(mut url: Url) -> Result<Source, TransportError> {
    let server = match url.take("server") {
        None => None,
        Some(text) => {
            let wrong = |_| url.wrong(format!("server={text}: IP:PORT, as in 127.0.0.1:53"));
            Some(text.parse().map_err(wrong)?)
        }
    };
    let transport = url.take("transport").unwrap_or_else(|| "tcp".to_owned());
    let has_name = transport.split('+').next() == Some("tls")
        && !url.options.iter().any(|(key, _)| key == "name");
    let (name, port) = match url.scheme.as_str() {
        "srv" => (url.address.clone(), None),
        _ => {
            let wrong = || url.wrong("a name and a port, as in dns://orders.internal:7400");
            let (name, port) = url.address.rsplit_once(':').ok_or_else(wrong)?;
            (name.to_owned(), Some(port.parse().map_err(|_| wrong())?))
        }
    };
    let pairs = url
        .options
        .iter()
        .map(|(key, value)| format!("{key}={value}"));
    let options = pairs.collect::<Vec<_>>().join("&");
    let dns = Dns {
        name,
        port,
        server,
        transport,
        options,
        has_name,
    };
    // A wrong transport or dialect is told now, not when there is an address.
    let trial = dns
        .endpoint(IpAddr::from([127, 0, 0, 1]), 1, "name")
        .parse::<crate::Endpoint>();
    trial.map_err(|error| url.wrong(error.to_string()))?;
    Ok(Source::of(dns))
}

/// Some records, and when to ask for them again.
struct Answer {
    records: Vec<Record>,
    again: Duration,
}

impl Dns {
    fn endpoint(&self, ip: IpAddr, port: u16, name: &str) -> String {
        let address = SocketAddr::new(ip, port);
        let mut options = self.options.clone();
        if self.has_name {
            let before = if options.is_empty() { "" } else { "&" };
            options = format!("{options}{before}name={}", name.trim_end_matches('.'));
        }
        let mark = if options.is_empty() { "" } else { "?" };
        format!("{}://{address}{mark}{options}", self.transport)
    }

    fn resolver(&self) -> Result<TokioResolver, NetError> {
        let mut builder = match self.server {
            None => TokioResolver::builder_tokio()?,
            Some(server) => {
                let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
                let connections = connections.map(|mut connection| {
                    connection.port = server.port();
                    connection
                });
                let server = NameServerConfig::new(server.ip(), true, connections.to_vec());
                let config = ResolverConfig::from_name_servers(vec![server]);
                TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            }
        };
        let options = builder.options_mut();
        options.timeout = ANSWER_MAX;
        // We ask when the time to live is over, so a cache could only be late.
        options.cache_size = 0;
        if self.server.is_some() {
            options.use_hosts_file = ResolveHosts::Never;
        }
        builder.build()
    }

    async fn follow(&self, updates: &Updates) -> Result<Infallible, DiscoveryError> {
        let resolver = self.resolver().map_err(DiscoveryError::unreachable)?;
        loop {
            let (instances, again) = match self.port {
                Some(port) => self.addresses(&resolver, port).await?,
                None => self.services(&resolver, updates).await?,
            };
            updates.set(instances);
            sleep(again).await;
        }
    }

    async fn addresses(
        &self,
        resolver: &TokioResolver,
        port: u16,
    ) -> Result<(Vec<Instance>, Duration), DiscoveryError> {
        let (addresses, again) = ips(resolver, &self.name).await?;
        let endpoints = addresses
            .into_iter()
            .map(|ip| self.endpoint(ip, port, &self.name));
        let instances = endpoints.filter_map(|url| url.parse().ok().map(Instance::new));
        Ok((instances.collect(), again))
    }

    async fn services(
        &self,
        resolver: &TokioResolver,
        updates: &Updates,
    ) -> Result<(Vec<Instance>, Duration), DiscoveryError> {
        let mut found = records(resolver, &self.name, RecordType::SRV).await?;
        if found.records.len() > SRV_MAX {
            let many = found.records.len();
            let error = format!("{many} SRV records; at most {SRV_MAX}");
            return Err(DiscoveryError::nonsense(error));
        }
        let mut instances = Vec::new();
        for record in found.records {
            let RData::SRV(service) = record.data else {
                continue;
            };
            let target = service.target.to_string();
            // The root as a target says that there is no such service (RFC 2782).
            if target == "." {
                continue;
            }
            let (addresses, again) = ips(resolver, &target).await?;
            if addresses.is_empty() {
                updates.skipped(&target, "it has no address");
            }
            found.again = found.again.min(again);
            for ip in addresses {
                let url = self.endpoint(ip, service.port, &target);
                let endpoint = url.parse().map_err(DiscoveryError::nonsense)?;
                let mut instance = Instance::new(endpoint);
                instance.weight = service.weight.into();
                instance.priority = service.priority;
                instances.push(instance);
            }
        }
        Ok((instances, found.again))
    }
}

/// The addresses of a name, of both families. A family that cannot be asked does not take the other
/// away, but no address counts as none only if both say so.
async fn ips(
    resolver: &TokioResolver,
    name: &str,
) -> Result<(Vec<IpAddr>, Duration), DiscoveryError> {
    let (old, new) = tokio::join!(
        records(resolver, name, RecordType::A),
        records(resolver, name, RecordType::AAAA),
    );
    let (mut found, mut again, mut failed) = (Vec::new(), ASK_MAX, None);
    for family in [old, new] {
        match family {
            Ok(answer) => {
                if !answer.records.is_empty() {
                    again = again.min(answer.again);
                }
                found.extend(
                    answer
                        .records
                        .into_iter()
                        .filter_map(|record| match record.data {
                            RData::A(address) => Some(IpAddr::V4(address.0)),
                            RData::AAAA(address) => Some(IpAddr::V6(address.0)),
                            _ => None,
                        }),
                );
            }
            Err(error) => failed = Some(error),
        }
    }
    match failed {
        Some(error) if found.is_empty() => Err(error),
        // The family that failed is asked again soon.
        Some(_) => Ok((found, again.min(ASK_NONE))),
        None if found.is_empty() => Ok((found, ASK_NONE)),
        None => Ok((found, again)),
    }
}

/// The records of one type. That there are none is an answer, and no other error is.
async fn records(
    resolver: &TokioResolver,
    name: &str,
    kind: RecordType,
) -> Result<Answer, DiscoveryError> {
    match resolver.lookup(name, kind).await {
        Ok(lookup) => {
            let records = lookup.answers().to_vec();
            let lives = records.iter().map(|record| record.ttl).min();
            let lives = lives.map_or(ASK_NONE, |seconds| Duration::from_secs(seconds.into()));
            Ok(Answer {
                records,
                again: lives.clamp(ASK_MIN, ASK_MAX),
            })
        }
        Err(error) if error.is_no_records_found() => Ok(Answer {
            records: Vec::new(),
            again: ASK_NONE,
        }),
        Err(error) => Err(DiscoveryError::unreachable(format!(
            "{kind} {name}: {error}"
        ))),
    }
}

impl Discovery for Dns {
    fn watch<'a>(&'a self, updates: &'a Updates) -> BoxFuture<'a, DiscoveryError> {
        Box::pin(async move {
            match self.follow(updates).await {
                Err(error) => error,
            }
        })
    }
}
