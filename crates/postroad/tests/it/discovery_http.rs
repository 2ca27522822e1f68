//! Stand-ins for Consul and Nacos, and registries that answer nonsense, too much, or too slowly.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use postroad::discovery::{Registration, Target};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{interval, timeout};

use super::discovery::{instance, until, until_urls};
use super::support::{PATIENCE, Tested};

/// How a stand-in's answer ends; it moves between threads.
pub(crate) type Answered<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

/// What a stand-in was asked.
pub(crate) struct Asked {
    method: String,
    pub(crate) path: String,
    query: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Asked {
    pub(crate) fn get(&self, key: &str) -> &str {
        self.query.get(key).map_or("", String::as_str)
    }
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, more)) = rest.split_first() {
        let hex = more.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match (first, hex.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &more[2..];
            }
            _ => {
                bytes.push(*first);
                rest = more;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Reads one request.
async fn read(stream: &mut TcpStream) -> Answered<Asked> {
    let mut reader = BufReader::new(stream);
    let (mut first, mut length) = (String::new(), 0);
    reader.read_line(&mut first).await?;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).await?;
        let line = line.trim().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).await?;
    let mut words = first.split(' ');
    let method = words.next().ok_or("a method")?.to_owned();
    let target = words.next().ok_or("a path")?;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let pair = |pair: &str| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key.to_owned(), decode(value))
    };
    Ok(Asked {
        method,
        path: path.to_owned(),
        query: query.split('&').map(pair).collect(),
        body,
    })
}

pub(crate) async fn reply(
    stream: &mut TcpStream,
    status: &str,
    more: &str,
    body: &str,
) -> Answered {
    let len = body.len();
    let head = format!("HTTP/1.1 {status}\r\n{more}content-length: {len}\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    Ok(())
}

/// Something that answers HTTP. It ends with the test.
pub(crate) struct Stand {
    pub(crate) port: u16,
    _tasks: JoinSet<()>,
}

impl Stand {
    pub(crate) async fn start<F, A>(answer: F) -> Tested<Self>
    where
        F: Fn(Asked, TcpStream) -> A + Clone + Send + 'static,
        A: Future<Output = Answered> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let answer = answer.clone();
                connections.spawn(async move {
                    // A client that hangs up is no failure of the stand-in.
                    if let Ok(asked) = read(&mut stream).await {
                        drop(answer(asked, stream).await);
                    }
                });
            }
        });
        Ok(Self {
            port,
            _tasks: tasks,
        })
    }

    fn target(&self, scheme: &str) -> Tested<Target> {
        Ok(format!("{scheme}://127.0.0.1:{}/orders", self.port).parse()?)
    }
}

/// How long the stand-in for Consul holds an answer back.
const HOLD: Duration = Duration::from_secs(2);

/// What a stand-in for Consul knows: services by id, and the number of the list.
#[derive(Clone, Default)]
struct Consul {
    services: BTreeMap<String, Value>,
    index: u64,
    /// How often the list was asked for at once, whatever its number.
    asked_anew: u32,
}

async fn consul(state: watch::Sender<Consul>, asked: Asked, mut stream: TcpStream) -> Answered {
    let ok = "200 OK";
    if asked.path == "/v1/health/service/orders" {
        let last: u64 = asked.get("index").parse()?;
        state.send_modify(|consul| consul.asked_anew += u32::from(last == 0));
        let mut seen = state.subscribe();
        let hold = timeout(
            HOLD,
            seen.wait_for(|consul| last == 0 || consul.index > last),
        );
        // Nothing has changed, or it has: both are answered with the list.
        let _ = hold.await;
        let now = state.borrow().clone();
        let entry = |service: &Value| json!({"Node": {"Address": "10.9.9.9"}, "Service": service});
        let list: Vec<_> = now.services.values().map(entry).collect();
        let more = format!("X-Consul-Index: {}\r\n", now.index);
        return reply(&mut stream, ok, &more, &Value::from(list).to_string()).await;
    }
    let (_, id) = asked.path.rsplit_once('/').ok_or("a path")?;
    let id = id.trim_start_matches("service:");
    let is_known = state.borrow().services.contains_key(id);
    if asked.path == "/v1/agent/service/register" {
        let service: Value = serde_json::from_slice(&asked.body)?;
        assert_eq!(service["Check"]["TTL"], "20s");
        let id = service["ID"].as_str().ok_or("an id")?.to_owned();
        state.send_modify(|consul| {
            consul.services.insert(id, service);
            consul.index += 1;
        });
    } else if !is_known {
        return reply(&mut stream, "404 Not Found", "", "unknown").await;
    } else if asked.path.starts_with("/v1/agent/service/deregister/") {
        state.send_modify(|consul| {
            consul.services.remove(id);
            consul.index += 1;
        });
    } else {
        assert!(asked.path.starts_with("/v1/agent/check/pass/"));
    }
    assert_eq!(asked.method, "PUT");
    reply(&mut stream, ok, "", "").await
}

#[tokio::test]
async fn consul_is_followed_by_blocking_queries_also_when_it_begins_anew() -> Tested {
    let state = watch::Sender::new(Consul {
        index: 70,
        ..Consul::default()
    });
    let shared = state.clone();
    let stand = Stand::start(move |asked, stream| consul(shared.clone(), asked, stream)).await?;
    let target = stand.target("consul")?;
    let mut found = target.follow(None)?;
    until(&mut found, |found| found.gone.is_some()).await;
    let mut light = instance("tcp://[::1]:7400");
    (light.weight, light.tag) = (0, Some("v2".into()));
    let registration = Registration::start(&target, light.clone())?;
    let seen = until_urls(&mut found, &["tcp://[::1]:7400"]).await;
    assert_eq!(seen.instances[0], light);

    // It has lost all, its numbers begin anew, and others register without our metadata.
    let foreign = json!({"ID": "f", "Address": "", "Port": 80, "Weights": {"Passing": 3}});
    let broken = json!({"ID": "g", "Meta": {"postroad-url": "nowhere"}});
    state.send_modify(|consul| {
        consul.services = BTreeMap::from([("f".to_owned(), foreign), ("g".to_owned(), broken)]);
        consul.index = 1;
    });
    let anew = until_urls(&mut found, &["tcp://10.9.9.9:80"]).await;
    assert_eq!(anew.instances[0].weight, 3);
    let anew = state.subscribe();
    assert_eq!(anew.borrow().asked_anew, 1, "at the beginning");
    // The next beat is refused, and so it registers again.
    until_urls(&mut found, &["tcp://10.9.9.9:80", "tcp://[::1]:7400"]).await;
    assert_eq!(anew.borrow().asked_anew, 2, "since the number went back");
    registration.leave().await?;
    until_urls(&mut found, &["tcp://10.9.9.9:80"]).await;
    Ok(())
}

/// A stand-in for Nacos: instances by address.
type Hosts = Arc<Mutex<BTreeMap<String, Value>>>;

async fn nacos(hosts: Hosts, asked: Asked, mut stream: TcpStream) -> Answered {
    assert_eq!(asked.get("serviceName"), "orders");
    let key = format!("{}:{}", asked.get("ip"), asked.get("port"));
    let v2 = asked.path.contains("/v2/");
    let path = asked.path.replace("/v2/", "/v1/");
    let answer = {
        let mut hosts = hosts.lock().map_err(|_| "poisoned")?;
        match (asked.method.as_str(), path.as_str()) {
            ("GET", "/nacos/v1/ns/instance/list") => {
                let list: Vec<_> = hosts.values().cloned().collect();
                match v2 {
                    true => json!({"code": 0, "message": "success", "data": {"hosts": list}}),
                    false => json!({"hosts": list}),
                }
            }
            ("POST", "/nacos/v1/ns/instance") => {
                let metadata: Value = serde_json::from_str(asked.get("metadata"))?;
                let (port, weight): (u16, f64) =
                    (asked.get("port").parse()?, asked.get("weight").parse()?);
                let host = json!({
                    "ip": asked.get("ip"), "port": port, "weight": weight, "healthy": true,
                    "metadata": metadata,
                });
                hosts.insert(key, host);
                json!("ok")
            }
            ("PUT", "/nacos/v1/ns/instance/beat") => match hosts.contains_key(&key) {
                true => json!({"code": 10_200}),
                false => json!({"code": 20_404}),
            },
            ("DELETE", "/nacos/v1/ns/instance") => {
                hosts.remove(&key);
                json!("ok")
            }
            other => return Err(format!("{other:?}").into()),
        }
    };
    reply(&mut stream, "200 OK", "", &answer.to_string()).await
}

#[tokio::test]
async fn nacos_is_asked_beaten_and_left_in_both_versions_of_its_api() -> Tested {
    let hosts = Hosts::default();
    let shared = Arc::clone(&hosts);
    let stand = Stand::start(move |asked, stream| nacos(shared.clone(), asked, stream)).await?;
    let target = stand.target("nacos")?;
    let second: Target = format!("{target}?api=v2").parse()?;
    let (mut found, mut found_too) = (target.follow(None)?, second.follow(None)?);
    let mut ours = instance("tcp+session://127.0.0.1:7401?crc=modbus");
    (ours.weight, ours.zone) = (7, Some("a".into()));
    let registration = Registration::start(&target, ours.clone())?;
    let url = ["tcp+session://127.0.0.1:7401?crc=modbus"];
    let seen = until_urls(&mut found, &url).await;
    assert_eq!(seen.instances[0], ours);
    until_urls(&mut found_too, &url).await;

    // Nacos has lost it, and knows others.
    let foreign = json!({"ip": "10.0.0.9", "port": 80, "weight": 0.5});
    let down = json!({"ip": "10.0.0.8", "port": 80, "healthy": false});
    *hosts.lock().map_err(|_| "poisoned")? =
        BTreeMap::from([("x".to_owned(), foreign), ("y".to_owned(), down)]);
    let lost = until_urls(&mut found, &["tcp://10.0.0.9:80"]).await;
    assert_eq!(lost.instances[0].weight, 1);
    until_urls(&mut found, &[url[0], "tcp://10.0.0.9:80"]).await;
    registration.leave().await?;
    until_urls(&mut found, &["tcp://10.0.0.9:80"]).await;

    let wrong = Registration::start(&second, instance("mem://here"))?;
    let said = timeout(PATIENCE, async {
        loop {
            match wrong.trouble() {
                Some(trouble) if trouble.said.contains("IP:PORT") => return trouble.said,
                _ => tokio::task::yield_now().await,
            }
        }
    });
    assert!(said.await?.contains("mem://here"));
    Ok(())
}

/// A registry that answers with `head`, then with `piece` in each `pause`.
async fn bad(head: String, piece: &'static str, pause: Duration) -> Tested<Stand> {
    Stand::start(move |_, mut stream: TcpStream| {
        let head = head.clone();
        async move {
            stream.write_all(head.as_bytes()).await?;
            let mut ticks = interval(pause);
            while !piece.is_empty() {
                ticks.tick().await;
                stream.write_all(piece.as_bytes()).await?;
            }
            Ok(())
        }
    })
    .await
}

#[tokio::test]
async fn a_registry_that_answers_nonsense_too_much_or_too_slowly_is_told_so() -> Tested {
    let head = "HTTP/1.1 200 OK\r\nX-Consul-Index: 1\r\n";
    let endless = format!("{head}\r\n[");
    let nonsense = format!("{head}content-length: 9\r\n\r\n{{\"a\": [[}}");
    let large = "[".repeat(64 * 1024).leak();
    let now = Duration::from_micros(1);
    let second = Duration::from_secs(1);
    let refusal = "HTTP/1.1 503 No\r\ncontent-length: 5\r\n\r\nlater".to_owned();
    for (stand, says) in [
        (bad(nonsense, "", now).await?, "not its JSON"),
        (
            bad(endless.clone(), large, now).await?,
            "longer than 8388608",
        ),
        (bad(endless, " ", second).await?, "did not come within 5s"),
        (bad(head.to_owned(), "X: y\r\n", now).await?, "127.0.0.1"),
        (bad(head.to_owned(), "X", second).await?, "no answer within"),
        (bad("SSH-2.0-x\r\n".to_owned(), "", now).await?, "127.0.0.1"),
        (
            bad(refusal, "", now).await?,
            "503 Service Unavailable: later",
        ),
    ] {
        for scheme in ["etcd", "nacos"] {
            let mut found = stand.target(scheme)?.follow(None)?;
            let seen = until(&mut found, |found| found.trouble.is_some()).await;
            let said = seen.to_string();
            assert!(said.contains(says), "{scheme}, wanted {says:?}: {said}");
            assert!(!seen.has_answered && seen.instances.is_empty());
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_watch_that_is_cancelled_by_compaction_is_begun_anew_with_the_whole_list() -> Tested {
    let ranges = Arc::new(Mutex::new(0));
    let stand = Stand::start(move |asked: Asked, mut stream: TcpStream| {
        let ranges = Arc::clone(&ranges);
        async move {
            if asked.path == "/v3/watch" {
                let line = json!({"result": {"canceled": true, "compact_revision": "9"}});
                let head = format!("HTTP/1.1 200 OK\r\n\r\n{line}\n");
                stream.write_all(head.as_bytes()).await?;
                // The stream itself stays open.
                return std::future::pending().await;
            }
            let many = {
                let mut ranges = ranges.lock().map_err(|_| "poisoned")?;
                *ranges += 1;
                *ranges
            };
            // The JSON of tcp://a:1 and tcp://b:1 in base64.
            let (a, b) = (
                "eyJ1cmwiOiJ0Y3A6Ly9hOjEifQ==",
                "eyJ1cmwiOiJ0Y3A6Ly9iOjEifQ==",
            );
            let value = if many == 1 { a } else { b };
            let pair = json!({"key": "eA==", "value": value, "mod_revision": many.to_string()});
            let list = json!({"header": {"revision": "5"}, "kvs": [pair], "count": "1"});
            reply(&mut stream, "200 OK", "", &list.to_string()).await
        }
    })
    .await?;
    let mut found = stand.target("etcd")?.follow(None)?;
    // Long before the check that something was missed.
    let limit = Duration::from_secs(8);
    let seen = timeout(limit, until_urls(&mut found, &["tcp://b:1"])).await?;
    assert!(seen.trouble.is_none(), "compaction is no trouble: {seen}");
    Ok(())
}
