//! etcd by the JSON gateway of its version 3: `etcd://host:2379,host2:2379/orders`.
//!
//! Instances are the keys `/postroad/orders/ID`, their values the JSON of a record. The list is
//! read once, and then changes are heard from the revision at which it was read. What was compacted
//! away in between is read again.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hyper::Method;
use serde::{Deserialize, Deserializer};
use serde_json::json;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::bounds::{APPLY_EVERY, BEAT_EVERY, FORGET_AFTER, INSTANCES_MAX};
use super::error::DiscoveryError;
use super::http::{Ask, Http, Lines};
use super::instance::{Instance, Record};
use super::keyed::{Keyed, Version};
use super::source::{Discovery, Registered, Registry, Source};
use super::updates::Updates;
use super::url::Url;
use crate::error::TransportError;
use crate::transport::BoxFuture;

/// How often it is checked that nothing was missed: a connection may be dead without a sign.
const CHECK_EVERY: Duration = Duration::from_secs(10);

/// One service in etcd.
#[derive(Debug)]
struct Etcd {
    http: Http,
    /// `/postroad/orders/`.
    prefix: String,
}

pub(super) fn open(url: Url) -> Result<Source, TransportError> {
    let (hosts, service) = url.hosts_and_service()?;
    url.check_rest("keep")?;
    Ok(Source::both(Arc::new(Etcd {
        http: Http::new(hosts),
        prefix: format!("/postroad/{service}/"),
    })))
}

/// One key in etcd.
#[derive(Debug)]
struct Key {
    http: Http,
    /// `/postroad/node1`, as the gateway wants it.
    encoded: String,
}

pub(super) fn keyed(url: Url) -> Result<Arc<dyn Keyed>, TransportError> {
    let (hosts, key) = url.hosts_and_key()?;
    url.check_rest("none")?;
    Ok(Arc::new(Key {
        http: Http::new(hosts),
        encoded: BASE64.encode(format!("/{key}")),
    }))
}

impl Key {
    /// The key, or nothing if it is not there, and the revision of the answer.
    async fn pair(&self) -> Result<(Option<Pair>, u64), DiscoveryError> {
        let body = json!({"key": self.encoded}).to_string();
        let ask = Ask::new(Method::POST, "/v3/kv/range").body(body.into_bytes());
        let mut range: Range = self.http.ask(ask).await?.json()?;
        Ok((range.kvs.pop(), range.header.revision))
    }

    /// Waits until the key may have changed after this revision.
    async fn hear(&self, revision: u64) -> Result<(), DiscoveryError> {
        let from = (revision + 1).to_string();
        let create = json!({"create_request": {"key": self.encoded, "start_revision": from}});
        let ask = Ask::new(Method::POST, "/v3/watch").body(create.to_string().into_bytes());
        let mut lines: Lines = self.http.lines(ask).await?;
        loop {
            let Ok(line) = timeout(CHECK_EVERY, lines.next()).await else {
                return Ok(());
            };
            let change: Change =
                serde_json::from_slice(&line?).map_err(DiscoveryError::nonsense)?;
            if let Some(error) = change.error {
                return Err(DiscoveryError::refused(error.message));
            }
            let heard = change.result.unwrap_or_default();
            if heard.canceled || !heard.events.is_empty() {
                return Ok(());
            }
        }
    }
}

impl Keyed for Key {
    fn read(&self, seen: Option<u64>) -> BoxFuture<'_, Result<Version, DiscoveryError>> {
        Box::pin(async move {
            loop {
                let (pair, revision) = self.pair().await?;
                // A key that is not there has no revision of its own.
                let now = pair.as_ref().map_or(0, |pair| pair.mod_revision);
                if seen != Some(now) {
                    let text = pair.map(|pair| text(&pair.value)).transpose()?;
                    return Ok(Version { text, seen: now });
                }
                self.hear(revision).await?;
            }
        })
    }
}

/// The text of a value.
fn text(value: &str) -> Result<String, DiscoveryError> {
    let bytes = BASE64.decode(value).map_err(DiscoveryError::nonsense)?;
    String::from_utf8(bytes).map_err(DiscoveryError::nonsense)
}

impl Etcd {
    async fn ask<T: for<'de> Deserialize<'de>>(
        &self,
        path: &str,
        body: &serde_json::Value,
    ) -> Result<T, DiscoveryError> {
        let ask = Ask::new(Method::POST, path).body(body.to_string().into_bytes());
        self.http.ask(ask).await?.json()
    }

    /// The keys of the service, as the gateway wants them.
    fn range(&self) -> (String, String) {
        let mut end = self.prefix.clone();
        // The character that follows `/`: the end of what begins with the prefix.
        end.pop();
        end.push('0');
        (BASE64.encode(&self.prefix), BASE64.encode(end))
    }

    async fn follow(&self, updates: &Updates) -> Result<Infallible, DiscoveryError> {
        loop {
            let (key, range_end) = self.range();
            let body = json!({"key": key, "range_end": range_end});
            let list: Range = self.ask("/v3/kv/range", &body).await?;
            let mut table = Table::default();
            for pair in list.kvs {
                table.put(pair, updates)?;
            }
            updates.set(table.instances());
            let from = list.header.revision + 1;
            self.hear(from, table, updates).await?;
            // Something was missed. It is read again, but never in a loop without a pause.
            sleep(APPLY_EVERY).await;
        }
    }

    /// Hears of changes until some may have been missed.
    async fn hear(
        &self,
        from: u64,
        mut table: Table,
        updates: &Updates,
    ) -> Result<(), DiscoveryError> {
        let (key, range_end) = self.range();
        let create = json!({"create_request": {
            "key": key, "range_end": range_end, "start_revision": from.to_string(),
        }});
        let ask = Ask::new(Method::POST, "/v3/watch").body(create.to_string().into_bytes());
        let mut lines: Lines = self.http.lines(ask).await?;
        let mut check_at = Instant::now() + CHECK_EVERY;
        let mut tell_at = None;
        loop {
            tokio::select! {
                line = lines.next() => {
                    let change = serde_json::from_slice(&line?);
                    let change: Change = change.map_err(DiscoveryError::nonsense)?;
                    if table.take(change, updates)? {
                        return Ok(());
                    }
                    tell_at.get_or_insert(Instant::now() + APPLY_EVERY);
                }
                () = sleep_until(tell_at.unwrap_or(check_at)), if tell_at.is_some() => {
                    tell_at = None;
                    updates.set(table.instances());
                }
                () = sleep_until(check_at) => {
                    if self.has_missed(&table).await? {
                        return Ok(());
                    }
                    check_at = Instant::now() + CHECK_EVERY;
                }
            }
        }
    }

    /// Whether etcd has another list than we have: how many keys there are, and which is newest.
    async fn has_missed(&self, table: &Table) -> Result<bool, DiscoveryError> {
        let (key, range_end) = self.range();
        let body = json!({
            "key": key, "range_end": range_end, "keys_only": true, "limit": "1",
            "sort_order": "DESCEND", "sort_target": "MOD",
        });
        let newest: Range = self.ask("/v3/kv/range", &body).await?;
        let revision = newest.kvs.first().map_or(0, |pair| pair.mod_revision);
        Ok((newest.count, revision) != (table.0.len() as u64, table.newest()))
    }
}

/// The keys of a service: when each was written, and its instance, if it describes one.
#[derive(Default)]
struct Table(HashMap<String, (u64, Option<Instance>)>);

impl Table {
    fn put(&mut self, pair: Pair, updates: &Updates) -> Result<(), DiscoveryError> {
        let value = BASE64.decode(&pair.value).unwrap_or_default();
        let record: Result<Record, _> = serde_json::from_slice(&value);
        let read = record
            .map_err(|error| error.to_string())
            .and_then(Record::read);
        let instance = match read {
            Ok(instance) => Some(instance),
            Err(why) => {
                let key = BASE64.decode(&pair.key).unwrap_or_default();
                updates.skipped(&String::from_utf8_lossy(&key), why);
                None
            }
        };
        self.0.insert(pair.key, (pair.mod_revision, instance));
        if self.0.len() > INSTANCES_MAX {
            let error = format!("more than {INSTANCES_MAX} instances");
            return Err(DiscoveryError::nonsense(error));
        }
        Ok(())
    }

    /// Takes a change. Whether the list has to be read again.
    fn take(&mut self, change: Change, updates: &Updates) -> Result<bool, DiscoveryError> {
        if let Some(error) = change.error {
            return Err(DiscoveryError::refused(error.message));
        }
        let result = change.result.unwrap_or_default();
        if result.canceled {
            return Ok(true);
        }
        for event in result.events {
            if event.kind == "DELETE" {
                self.0.remove(&event.kv.key);
            } else {
                self.put(event.kv, updates)?;
            }
        }
        Ok(false)
    }

    fn newest(&self) -> u64 {
        let revisions = self.0.values().map(|(revision, _)| *revision);
        revisions.max().unwrap_or(0)
    }

    /// The instances, the newest last: it counts if a URL is there twice.
    fn instances(&self) -> Vec<Instance> {
        let mut all: Vec<_> = self.0.values().collect();
        all.sort_by_key(|(revision, _)| *revision);
        let instances = all.into_iter().filter_map(|(_, instance)| instance.clone());
        instances.collect()
    }
}

/// Numbers of the gateway are texts, because JavaScript has none of 64 bits.
fn number<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let text = String::deserialize(from)?;
    text.parse().map_err(serde::de::Error::custom)
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Header {
    #[serde(deserialize_with = "number")]
    revision: u64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Pair {
    key: String,
    value: String,
    #[serde(deserialize_with = "number")]
    mod_revision: u64,
}

#[derive(Deserialize)]
struct Range {
    header: Header,
    #[serde(default)]
    kvs: Vec<Pair>,
    #[serde(default, deserialize_with = "number")]
    count: u64,
}

#[derive(Deserialize)]
struct Change {
    result: Option<Heard>,
    error: Option<Wrong>,
}

#[derive(Deserialize)]
struct Wrong {
    #[serde(default)]
    message: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Heard {
    events: Vec<Event>,
    /// Among others because what was asked for is compacted.
    canceled: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Event {
    /// `DELETE`; a PUT is not named.
    #[serde(rename = "type")]
    kind: String,
    kv: Pair,
}

impl Discovery for Arc<Etcd> {
    fn watch<'a>(&'a self, updates: &'a Updates) -> BoxFuture<'a, DiscoveryError> {
        Box::pin(async move {
            match self.follow(updates).await {
                Err(error) => error,
            }
        })
    }
}

#[derive(Deserialize)]
struct Grant {
    #[serde(rename = "ID")]
    id: String,
}

#[derive(Deserialize)]
struct Kept {
    result: Option<Ttl>,
}

#[derive(Deserialize)]
struct Ttl {
    /// Absent when there is no such lease any more.
    #[serde(rename = "TTL", default, deserialize_with = "number")]
    ttl: u64,
}

impl Registry for Arc<Etcd> {
    fn register<'a>(
        &'a self,
        instance: &'a Instance,
    ) -> BoxFuture<'a, Result<Box<dyn Registered>, DiscoveryError>> {
        Box::pin(async move {
            let ttl = FORGET_AFTER.as_secs().to_string();
            let grant: Grant = self.ask("/v3/lease/grant", &json!({"TTL": ttl})).await?;
            let value = serde_json::to_vec(&Record::from(instance));
            let value = value.map_err(DiscoveryError::nonsense)?;
            // A server that comes back replaces what it was, whatever lease that has.
            let key = format!("{}{}", self.prefix, instance.endpoint);
            let pair = json!({
                "key": BASE64.encode(key), "value": BASE64.encode(value), "lease": grant.id,
            });
            let _: serde_json::Value = self.ask("/v3/kv/put", &pair).await?;
            let etcd = Self::clone(self);
            Ok(Box::new(Leased { etcd, id: grant.id }) as Box<dyn Registered>)
        })
    }
}

/// An instance with its lease.
struct Leased {
    etcd: Arc<Etcd>,
    id: String,
}

impl Registered for Leased {
    fn every(&self) -> Duration {
        BEAT_EVERY
    }

    fn beat(&mut self) -> BoxFuture<'_, Result<(), DiscoveryError>> {
        Box::pin(async move {
            let body = json!({"ID": self.id});
            let kept: Kept = self.etcd.ask("/v3/lease/keepalive", &body).await?;
            match kept.result {
                Some(Ttl { ttl: 1.. }) => Ok(()),
                _ => Err(DiscoveryError::refused("the lease is gone")),
            }
        })
    }

    fn leave(&mut self) -> BoxFuture<'_, Result<(), DiscoveryError>> {
        Box::pin(async move {
            let body = json!({"ID": self.id});
            let _: serde_json::Value = self.etcd.ask("/v3/lease/revoke", &body).await?;
            Ok(())
        })
    }
}
