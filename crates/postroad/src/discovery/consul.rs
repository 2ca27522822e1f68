//! Consul: `consul://127.0.0.1:8500/orders`.
//!
//! The list comes by blocking queries: Consul holds the answer back until there is another list or
//! the wait is over. An instance says its URL in its metadata; one that others have registered
//! without is taken for `tcp://ADDRESS:PORT`.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hyper::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;
use tokio::time::sleep;

use super::bounds::{APPLY_EVERY, BEAT_EVERY, FORGET_AFTER};
use super::error::DiscoveryError;
use super::http::{Answer, Ask, Http, encode};
use super::instance::{Instance, Record};
use super::keyed::{Keyed, Version};
use super::source::{Discovery, Registered, Registry, Source};
use super::updates::Updates;
use super::url::Url;
use crate::error::TransportError;
use crate::transport::BoxFuture;

/// How long Consul holds an answer back at most. It adds a sixteenth by itself.
const HOLD: Duration = Duration::from_secs(55);

/// One service in Consul.
#[derive(Debug)]
struct Consul {
    http: Http,
    service: String,
}

pub(super) fn open(url: Url) -> Result<Source, TransportError> {
    let (hosts, service) = url.hosts_and_service()?;
    url.check_rest("keep")?;
    let http = Http::new(hosts);
    Ok(Source::both(Arc::new(Consul { http, service })))
}

/// One key in Consul's store.
#[derive(Debug)]
struct Key {
    http: Http,
    /// `/v1/kv/postroad/node1`.
    path: String,
}

pub(super) fn keyed(url: Url) -> Result<Arc<dyn Keyed>, TransportError> {
    let (hosts, key) = url.hosts_and_key()?;
    url.check_rest("none")?;
    let http = Http::new(hosts);
    let path = format!("/v1/kv/{key}");
    Ok(Arc::new(Key { http, path }))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Value {
    /// Absent if it is empty.
    value: Option<String>,
}

impl Keyed for Key {
    fn read(&self, seen: Option<u64>) -> BoxFuture<'_, Result<Version, DiscoveryError>> {
        Box::pin(async move {
            let (path, hold) = (&self.path, HOLD.as_secs());
            let path = format!("{path}?index={}&wait={hold}s", seen.unwrap_or(0));
            let ask = Ask::new(Method::GET, path).held(HOLD + HOLD / 16);
            let answer = self.http.ask(ask).await?;
            let is_there = answer.head.status() != StatusCode::NOT_FOUND;
            let values: Vec<Value> = match is_there {
                true => answer.json()?,
                false => Vec::new(),
            };
            let now = index(&answer)?;
            // A number that goes back is from a Consul that began anew.
            let is_anew = seen.is_some_and(|seen| now < seen);
            let text = values.into_iter().next().map(|value| {
                let bytes = BASE64.decode(value.value.unwrap_or_default());
                let bytes = bytes.map_err(DiscoveryError::nonsense)?;
                String::from_utf8(bytes).map_err(DiscoveryError::nonsense)
            });
            let text = text.transpose()?;
            let seen = if is_anew { 0 } else { now };
            Ok(Version { text, seen })
        })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    #[serde(default)]
    node: Node,
    service: Service,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Node {
    address: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Service {
    #[serde(rename = "ID")]
    id: String,
    address: String,
    port: u16,
    meta: Option<HashMap<String, String>>,
    weights: Option<Weights>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Weights {
    passing: u32,
}

impl Entry {
    fn read(self) -> Result<Instance, String> {
        let Service {
            address,
            port,
            meta,
            weights,
            ..
        } = self.service;
        let mut meta = meta.unwrap_or_default();
        let address = match address.is_empty() {
            true => self.node.address,
            false => address,
        };
        let plain = match address.contains(':') {
            true => format!("tcp://[{address}]:{port}"),
            false => format!("tcp://{address}:{port}"),
        };
        let mut record = Record::new(meta.remove("postroad-url").unwrap_or(plain));
        // Consul knows no weight of 0.
        record.weight = match meta.get("postroad-weight") {
            Some(weight) => weight.parse().map_err(|_| format!("weight {weight:?}"))?,
            None => weights.map_or(record.weight, |weights| weights.passing),
        };
        record.tag = meta.remove("postroad-tag");
        record.zone = meta.remove("postroad-zone");
        record.read()
    }
}

/// The number of the list, at least 1: with 0 Consul would answer at once, again and again.
fn index(answer: &Answer) -> Result<u64, DiscoveryError> {
    let header = answer.head.headers().get("x-consul-index");
    let index = header.and_then(|text| text.to_str().ok()?.parse::<u64>().ok());
    let missing = || DiscoveryError::nonsense("its answer has no number in X-Consul-Index");
    Ok(index.ok_or_else(missing)?.max(1))
}

impl Consul {
    async fn follow(&self, updates: &Updates) -> Result<Infallible, DiscoveryError> {
        let service = encode(&self.service);
        let mut last = 0;
        loop {
            let hold = HOLD.as_secs();
            let path = format!("/v1/health/service/{service}?passing=1&index={last}&wait={hold}s");
            let ask = Ask::new(Method::GET, path).held(HOLD + HOLD / 16);
            let answer = self.http.ask(ask).await?;
            let entries: Vec<Entry> = answer.json()?;
            let mut instances = Vec::with_capacity(entries.len());
            for entry in entries {
                let id = entry.service.id.clone();
                match entry.read() {
                    Ok(instance) => instances.push(instance),
                    Err(why) => updates.skipped(&id, why),
                }
            }
            updates.set(instances);
            let now = index(&answer)?;
            // A number that goes back is from a Consul that began anew.
            last = if now < last { 0 } else { now };
            sleep(APPLY_EVERY).await;
        }
    }

    /// A name that can stand in a path.
    fn id(&self, instance: &Instance) -> String {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let endpoint = instance.endpoint.to_string();
        format!(
            "{}-{}",
            self.service,
            endpoint.replace(|c| !is_plain(c), "-")
        )
    }

    async fn put(&self, path: String, body: Vec<u8>) -> Result<(), DiscoveryError> {
        let ask = Ask::new(Method::PUT, path).body(body);
        self.http.ask(ask).await?.done()
    }

    async fn announce(&self, instance: &Instance) -> Result<(), DiscoveryError> {
        let mut meta = HashMap::from([
            ("postroad-url", instance.endpoint.to_string()),
            ("postroad-weight", instance.weight.to_string()),
        ]);
        let tag = instance.tag.as_deref().map(|tag| ("postroad-tag", tag));
        let zone = instance.zone.as_deref().map(|zone| ("postroad-zone", zone));
        let more = tag.into_iter().chain(zone);
        meta.extend(more.map(|(key, value)| (key, value.to_owned())));
        let weight = instance.weight.max(1);
        let ttl = format!("{}s", FORGET_AFTER.as_secs());
        let mut body = json!({
            "ID": self.id(instance), "Name": self.service, "Meta": meta,
            "Weights": {"Passing": weight, "Warning": weight},
            "Check": {
                "TTL": ttl, "Status": "passing", "DeregisterCriticalServiceAfter": "1m",
            },
        });
        // For others that read the registry. An address that is none of a network is left out.
        if let Some((host, port)) = instance.host_and_port() {
            body["Address"] = host.into();
            body["Port"] = port.into();
        }
        let path = "/v1/agent/service/register".to_owned();
        self.put(path, body.to_string().into_bytes()).await
    }
}

impl Discovery for Arc<Consul> {
    fn watch<'a>(&'a self, updates: &'a Updates) -> BoxFuture<'a, DiscoveryError> {
        Box::pin(async move {
            match self.follow(updates).await {
                Err(error) => error,
            }
        })
    }
}

impl Registry for Arc<Consul> {
    fn register<'a>(
        &'a self,
        instance: &'a Instance,
    ) -> BoxFuture<'a, Result<Box<dyn Registered>, DiscoveryError>> {
        Box::pin(async move {
            self.announce(instance).await?;
            let (consul, id) = (Self::clone(self), self.id(instance));
            Ok(Box::new(Checked { consul, id }) as Box<dyn Registered>)
        })
    }
}

/// An instance with its check.
struct Checked {
    consul: Arc<Consul>,
    id: String,
}

impl Registered for Checked {
    fn every(&self) -> Duration {
        BEAT_EVERY
    }

    fn beat(&mut self) -> BoxFuture<'_, Result<(), DiscoveryError>> {
        let path = format!("/v1/agent/check/pass/service:{}", self.id);
        Box::pin(self.consul.put(path, Vec::new()))
    }

    fn leave(&mut self) -> BoxFuture<'_, Result<(), DiscoveryError>> {
        let path = format!("/v1/agent/service/deregister/{}", self.id);
        Box::pin(self.consul.put(path, Vec::new()))
    }
}
