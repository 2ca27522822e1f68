//! Nacos by its HTTP API: `nacos://127.0.0.1:8848/orders`.
//!
//! Version 1 of the API by default, which Nacos 1 and 2 have; `?api=v2` is for Nacos 2 and later.
//! The list is asked for every few seconds. An instance says its URL in its metadata; one that
//! others have registered without is taken for `tcp://IP:PORT`.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;
use tokio::time::sleep;

use super::bounds::{BEAT_EVERY, FORGET_AFTER, WEIGHT_MAX};
use super::error::DiscoveryError;
use super::http::{Ask, Http, encode};
use super::instance::{Instance, Record};
use super::keyed::{Keyed, Version};
use super::source::{Discovery, Registered, Registry, Source};
use super::updates::Updates;
use super::url::Url;
use crate::error::TransportError;
use crate::transport::BoxFuture;

/// How often the list is asked for.
const ASK_EVERY: Duration = Duration::from_secs(2);
/// What Nacos answers to the beat of an instance that it does not know.
const UNKNOWN: i64 = 20_404;

/// One service in Nacos.
#[derive(Debug)]
struct Nacos {
    http: Http,
    service: String,
    /// `/nacos/v1/ns/instance`.
    path: &'static str,
    /// `serviceName=orders&groupName=...`, as each request names the service.
    query: String,
}

pub(super) fn open(mut url: Url) -> Result<Source, TransportError> {
    let (hosts, service) = url.hosts_and_service()?;
    let path = match url.take("api").as_deref() {
        None | Some("v1") => "/nacos/v1/ns/instance",
        Some("v2") => "/nacos/v2/ns/instance",
        Some(other) => return Err(url.wrong(format!("api={other}: v1 or v2"))),
    };
    let mut query = format!("serviceName={}&ephemeral=true", encode(&service));
    for (option, key) in [("group", "groupName"), ("namespace", "namespaceId")] {
        if let Some(value) = url.take(option) {
            query.push_str(&format!("&{key}={}", encode(&value)));
        }
    }
    url.check_rest("api, group, namespace, keep")?;
    Ok(Source::both(Arc::new(Nacos {
        http: Http::new(hosts),
        service,
        path,
        query,
    })))
}

/// What version 2 of the API answers if there is no such text.
const NO_SUCH_TEXT: i64 = 20_004;

/// One text in Nacos.
#[derive(Debug)]
struct Text {
    http: Http,
    /// With its query.
    path: String,
    is_v2: bool,
}

pub(super) fn keyed(mut url: Url) -> Result<Arc<dyn Keyed>, TransportError> {
    let (hosts, key) = url.hosts_and_key()?;
    let (group, id) = key.split_once('/').unwrap_or(("DEFAULT_GROUP", &key));
    if id.contains('/') {
        return Err(url.wrong("Nacos has no folders: write GROUP/NAME"));
    }
    let (path, namespace, is_v2) = match url.take("api").as_deref() {
        None | Some("v1") => ("/nacos/v1/cs/configs", "tenant", false),
        Some("v2") => ("/nacos/v2/cs/config", "namespaceId", true),
        Some(other) => return Err(url.wrong(format!("api={other}: v1 or v2"))),
    };
    let mut path = format!("{path}?dataId={}&group={}", encode(id), encode(group));
    if let Some(id) = url.take("namespace") {
        path.push_str(&format!("&{namespace}={}", encode(&id)));
    }
    url.check_rest("api, namespace")?;
    let http = Http::new(hosts);
    Ok(Arc::new(Text { http, path, is_v2 }))
}

#[derive(Deserialize)]
struct TextEnvelope {
    code: i64,
    #[serde(default)]
    message: String,
    data: Option<String>,
}

impl Text {
    async fn now(&self) -> Result<Option<String>, DiscoveryError> {
        let answer = self.http.ask(Ask::new(Method::GET, &self.path)).await?;
        if answer.head.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        if !self.is_v2 {
            answer.done()?;
            let text = String::from_utf8(answer.body.to_vec());
            return text.map(Some).map_err(DiscoveryError::nonsense);
        }
        let envelope: TextEnvelope = answer.json()?;
        match envelope.code {
            0 => Ok(envelope.data),
            NO_SUCH_TEXT => Ok(None),
            code => {
                let error = format!("it answers {code}: {}", envelope.message);
                Err(DiscoveryError::refused(error))
            }
        }
    }
}

impl Keyed for Text {
    fn read(&self, seen: Option<u64>) -> BoxFuture<'_, Result<Version, DiscoveryError>> {
        Box::pin(async move {
            if seen.is_some() {
                sleep(ASK_EVERY).await;
            }
            // It numbers nothing: whoever reads compares.
            let text = self.now().await?;
            Ok(Version { text, seen: 0 })
        })
    }
}

/// The answer of version 2 of the API: what version 1 answers, within an envelope.
#[derive(Deserialize)]
struct Envelope {
    code: i64,
    #[serde(default)]
    message: String,
    data: Option<List>,
}

#[derive(Default, Deserialize)]
struct List {
    #[serde(default)]
    hosts: Vec<Host>,
}

#[derive(Deserialize)]
struct Host {
    ip: String,
    port: u16,
    weight: Option<f64>,
    enabled: Option<bool>,
    healthy: Option<bool>,
    metadata: Option<HashMap<String, String>>,
}

impl Host {
    /// Whether it is to get calls.
    fn is_up(&self) -> bool {
        self.enabled.unwrap_or(true) && self.healthy.unwrap_or(true)
    }

    fn read(self) -> Result<Instance, String> {
        let mut meta = self.metadata.unwrap_or_default();
        let (ip, port) = (self.ip, self.port);
        let plain = match ip.contains(':') {
            true => format!("tcp://[{ip}]:{port}"),
            false => format!("tcp://{ip}:{port}"),
        };
        let mut record = Record::new(meta.remove("postroad.url").unwrap_or(plain));
        if let Some(weight) = self.weight {
            if !(0.0..=f64::from(WEIGHT_MAX)).contains(&weight) {
                return Err(format!("weight {weight}: 0 to {WEIGHT_MAX}"));
            }
            // Weights of Nacos may be fractions; only 0 means nothing at all.
            record.weight = weight.ceil() as u32;
        }
        record.tag = meta.remove("postroad.tag");
        record.zone = meta.remove("postroad.zone");
        record.read()
    }
}

impl Nacos {
    fn is_v2(&self) -> bool {
        self.path.contains("/v2/")
    }

    async fn list(&self) -> Result<List, DiscoveryError> {
        let path = format!("{}/list?{}&healthyOnly=true", self.path, self.query);
        let answer = self.http.ask(Ask::new(Method::GET, path)).await?;
        if !self.is_v2() {
            return answer.json();
        }
        let envelope: Envelope = answer.json()?;
        match (envelope.code, envelope.data) {
            (0, Some(list)) => Ok(list),
            (code, _) => {
                let error = format!("it answers {code}: {}", envelope.message);
                Err(DiscoveryError::refused(error))
            }
        }
    }

    async fn follow(&self, updates: &Updates) -> Result<Infallible, DiscoveryError> {
        loop {
            let mut instances = Vec::new();
            for host in self.list().await?.hosts.into_iter().filter(Host::is_up) {
                let entry = format!("{}:{}", host.ip, host.port);
                match host.read() {
                    Ok(instance) => instances.push(instance),
                    Err(why) => updates.skipped(&entry, why),
                }
            }
            updates.set(instances);
            sleep(ASK_EVERY).await;
        }
    }

    /// What every request about an instance says of it.
    fn about(&self, instance: &Instance) -> Result<String, DiscoveryError> {
        let (ip, port) = instance.host_and_port().ok_or_else(|| {
            DiscoveryError::refused(format!("{instance} has no IP:PORT, which Nacos wants"))
        })?;
        Ok(format!("{}&ip={}&port={port}", self.query, encode(&ip)))
    }

    fn metadata(instance: &Instance) -> serde_json::Value {
        let millis = |time: Duration| time.as_millis().to_string();
        let mut meta = json!({
            "postroad.url": instance.endpoint.to_string(),
            "preserved.heart.beat.interval": millis(BEAT_EVERY),
            "preserved.heart.beat.timeout": millis(FORGET_AFTER),
            "preserved.ip.delete.timeout": millis(FORGET_AFTER),
        });
        if let Some(tag) = &instance.tag {
            meta["postroad.tag"] = (**tag).into();
        }
        if let Some(zone) = &instance.zone {
            meta["postroad.zone"] = (**zone).into();
        }
        meta
    }

    async fn ask(&self, method: Method, path: String) -> Result<bytes::Bytes, DiscoveryError> {
        let answer = self.http.ask(Ask::new(method, path)).await?;
        answer.done()?;
        Ok(answer.body)
    }
}

impl Discovery for Arc<Nacos> {
    fn watch<'a>(&'a self, updates: &'a Updates) -> BoxFuture<'a, DiscoveryError> {
        Box::pin(async move {
            match self.follow(updates).await {
                Err(error) => error,
            }
        })
    }
}

impl Registry for Arc<Nacos> {
    fn register<'a>(
        &'a self,
        instance: &'a Instance,
    ) -> BoxFuture<'a, Result<Box<dyn Registered>, DiscoveryError>> {
        Box::pin(async move {
            let about = self.about(instance)?;
            let metadata = Nacos::metadata(instance);
            let path = format!(
                "{}?{about}&weight={}&enabled=true&healthy=true&metadata={}",
                self.path,
                instance.weight,
                encode(&metadata.to_string()),
            );
            self.ask(Method::POST, path).await?;
            let beat = json!({
                "serviceName": self.service, "weight": instance.weight, "metadata": metadata,
                "ip": instance.host_and_port().map(|(ip, _)| ip),
                "port": instance.host_and_port().map(|(_, port)| port),
            });
            let nacos = Self::clone(self);
            Ok(Box::new(Beating {
                nacos,
                about,
                beat: beat.to_string(),
            }) as Box<dyn Registered>)
        })
    }
}

/// An instance that beats.
struct Beating {
    nacos: Arc<Nacos>,
    about: String,
    /// The instance as a beat describes it.
    beat: String,
}

#[derive(Deserialize)]
struct BeatAnswer {
    code: Option<i64>,
}

impl Registered for Beating {
    fn every(&self) -> Duration {
        BEAT_EVERY
    }

    fn beat(&mut self) -> BoxFuture<'_, Result<(), DiscoveryError>> {
        Box::pin(async move {
            let (path, about) = (self.nacos.path, &self.about);
            let path = format!("{path}/beat?{about}&beat={}", encode(&self.beat));
            let body = self.nacos.ask(Method::PUT, path).await?;
            let answer: BeatAnswer =
                serde_json::from_slice(&body).map_err(DiscoveryError::nonsense)?;
            if answer.code == Some(UNKNOWN) {
                return Err(DiscoveryError::refused(
                    "it does not know the instance any more",
                ));
            }
            Ok(())
        })
    }

    fn leave(&mut self) -> BoxFuture<'_, Result<(), DiscoveryError>> {
        Box::pin(async move {
            let path = format!("{}?{}", self.nacos.path, self.about);
            self.nacos.ask(Method::DELETE, path).await.map(drop)
        })
    }
}
