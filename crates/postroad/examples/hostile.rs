//! What floods of hostile peers cost a server and its other clients: for each of them the median
//! and the 99th percentile of a good client's calls, without it and beside it, and the processor
//! time of the server. `cargo run --release -p postroad --all-features --example hostile`; with the
//! name of a flood, that one alone.

use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use postroad::identity::JwtConfig;
use postroad::{BlockingClient, Client, Router, Server, ServerConfig};
use postroad_proto::Time;
use postroad_proto::frame::{Head, Kind, put_frame};
use postroad_proto::session::{self, Session};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

type Done<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

/// How long a good client calls each time.
const TIME: Duration = Duration::from_secs(4);

/// What the floods are aimed at.
struct Target {
    tcp: SocketAddr,
    tls: SocketAddr,
    root: String,
    forged: String,
    expired: String,
    is_over: AtomicBool,
    /// Frames or connections so far.
    sent: AtomicU64,
}

impl Target {
    fn goes_on(&self) -> bool {
        !self.is_over.load(Ordering::Relaxed)
    }

    fn count(&self, many: u64) {
        self.sent.fetch_add(many, Ordering::Relaxed);
    }

    /// A connection that has said HELLO and was welcomed.
    fn open(&self) -> Done<TcpStream> {
        let mut hello = Vec::new();
        let config = session::Config {
            offered: 0,
            ..session::Config::default()
        };
        Session::client(config, Time(0)).poll_transmit(&mut hello);
        let mut stream = TcpStream::connect(self.tcp)?;
        stream.write_all(&hello)?;
        stream.read_exact(&mut [0; 8])?;
        Ok(stream)
    }

    /// Sends frames again and again, and takes the answers or does not.
    fn repeat(&self, first: &[u8], head: Head, body: &[u8], reads: bool) -> Done {
        let mut stream = self.open()?;
        stream.write_all(first)?;
        stream.set_write_timeout(Some(Duration::from_millis(100)))?;
        let mut reader = stream.try_clone()?;
        if reads {
            thread::spawn(move || {
                let mut piece = vec![0; 1 << 18];
                while reader.read(&mut piece).is_ok_and(|read| read > 0) {}
            });
        }
        let mut frames = Vec::new();
        let many = if body.len() > 1000 { 64 } else { 1000 };
        for id in 0..many {
            // Calls that are in flight have ids of their own.
            let head = match head.is(Kind::Request) {
                true => head.with_id(id),
                false => head,
            };
            put_frame(&mut frames, head, &[], body, false);
        }
        while self.goes_on() {
            // One that is not read stands still in the middle of a frame, and goes on there.
            let mut left = &frames[..];
            while self.goes_on() && !left.is_empty() {
                match stream.write(left) {
                    Ok(written) => left = &left[written..],
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(_) => return Ok(()),
                }
            }
            self.count(u64::from(many));
        }
        Ok(())
    }

    /// Connects again and again, as a client with this token.
    fn connect_again(&self, url: &str, token: Option<&str>) -> Done {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            while self.goes_on() {
                let client = Client::builder(url);
                let connected = match token {
                    Some(token) => client.token(token.to_owned()).connect().await,
                    None => client.connect().await,
                };
                drop(connected);
                self.count(1);
            }
        });
        Ok(())
    }
}

fn route(name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let head = Head::new(Kind::Route).with_id(1);
    put_frame(&mut out, head, &[], name.as_bytes(), false);
    out
}

fn silent(target: &Target) -> Done {
    let mut silent = Vec::new();
    while target.goes_on() && silent.len() < 10_000 {
        silent.push(target.open()?);
        target.count(1);
    }
    while target.goes_on() {
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn a_byte_a_second(target: &Target) -> Done {
    let mut slow = Vec::new();
    for _ in 0..2000 {
        slow.push(target.open()?);
    }
    while target.goes_on() {
        let begin = Instant::now();
        for stream in &mut slow {
            // The first bytes of the head of a long frame.
            stream.write_all(&[0])?;
        }
        target.count(slow.len() as u64);
        while target.goes_on() && begin.elapsed() < Duration::from_secs(1) {
            thread::sleep(Duration::from_millis(10));
        }
    }
    Ok(())
}

fn deaf(target: &Target) -> Done {
    let call = Head::new(Kind::Request).with_route(1).with_arg(u32::MAX);
    target.repeat(&route("postroad/echo"), call, &[1; 30_000], false)
}

fn cancels(target: &Target) -> Done {
    let cancel = Head::new(Kind::Cancel).with_id(77 << 16);
    target.repeat(b"", cancel, b"", true)
}

fn pings(target: &Target) -> Done {
    target.repeat(b"", Head::new(Kind::Ping).with_id(1), b"8 bytes.", true)
}

fn unknown_routes(target: &Target) -> Done {
    let call = Head::new(Kind::Request).with_route(1).with_arg(u32::MAX);
    target.repeat(&route("no/such/route"), call, b"", true)
}

fn tcp_handshakes(target: &Target) -> Done {
    while target.goes_on() {
        drop(target.open()?);
        target.count(1);
    }
    Ok(())
}

fn tls_handshakes(target: &Target) -> Done {
    let url = format!("tls://{}?name=localhost&ca={}", target.tls, target.root);
    target.connect_again(&url, None)
}

fn forged_tokens(target: &Target) -> Done {
    target.connect_again(&format!("tcp://{}", target.tcp), Some(&target.forged))
}

fn expired_tokens(target: &Target) -> Done {
    target.connect_again(&format!("tcp://{}", target.tcp), Some(&target.expired))
}

type Flood = fn(&Target) -> Done;

/// Each flood, and how many threads make it.
const FLOODS: [(&str, Flood, usize); 10] = [
    ("silent", silent, 1),
    ("byte-a-second", a_byte_a_second, 1),
    ("deaf", deaf, 4),
    ("cancels", cancels, 1),
    ("pings", pings, 1),
    ("unknown-routes", unknown_routes, 1),
    ("tcp-handshakes", tcp_handshakes, 1),
    ("tls-handshakes", tls_handshakes, 1),
    ("forged-tokens", forged_tokens, 1),
    ("expired-tokens", expired_tokens, 1),
];

/// A server in a process of its own.
struct Node {
    process: Child,
    tcp: SocketAddr,
    tls: SocketAddr,
}

impl Node {
    fn start(folder: &Path) -> Done<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .arg("serve")
            .arg(folder)
            .stdout(Stdio::piped())
            .spawn()?;
        let mut lines = BufReader::new(process.stdout.take().ok_or("it has a stdout")?).lines();
        let mut address = || -> Done<SocketAddr> {
            let line = lines.next().ok_or("the server has ended")??;
            Ok(line.parse()?)
        };
        let (tcp, tls) = (address()?, address()?);
        Ok(Self { process, tcp, tls })
    }

    /// Processor time so far, and resident memory in KiB.
    fn spent(&self) -> Done<(Duration, u64)> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id()))?;
        let (_, fields) = stat.rsplit_once(')').ok_or("a line of numbers")?;
        let fields: Vec<_> = fields.split_whitespace().collect();
        let number = |at: usize| -> Done<u64> { Ok(fields.get(at).ok_or("a number")?.parse()?) };
        let ticks = number(11)? + number(12)?;
        Ok((Duration::from_millis(ticks * 10), number(21)? * 4))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Serves until it is killed.
fn serve(folder: &Path) -> Done {
    let runtime = tokio::runtime::Runtime::new()?;
    let file = |name: &str| folder.join(name).display().to_string();
    runtime.block_on(async {
        let mut config = ServerConfig::default();
        config.workers = Some(thread::available_parallelism()?.get());
        let keys = format!("file://{}", file("jwks.json"));
        config.identity.jwt = Some(JwtConfig::new("https://id.example", "orders", keys));
        let tls = format!(
            "tls://127.0.0.1:0?cert={}&key={}",
            file("cert.pem"),
            file("key.pem")
        );
        let server = Server::new(Router::<()>::new()).config(config);
        let server = server
            .listen("tcp://127.0.0.1:0".parse()?)
            .listen(tls.parse()?);
        let server = server.start().await?;
        server
            .addresses()
            .iter()
            .for_each(|address| println!("{address}"));
        std::future::pending().await
    })
}

/// A key that signs tokens, and what is known of it in public.
fn signer() -> Done<(EncodingKey, Jwk)> {
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let key = EncodingKey::from_ec_der(&pair.serialize_der());
    let mut public = Jwk::from_encoding_key(&key, Algorithm::ES256)?;
    public.common.key_id = Some("one".to_owned());
    Ok((key, public))
}

fn token(key: &EncodingKey, seconds: i64) -> Done<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() as i64;
    let claims = serde_json::json!({
        "iss": "https://id.example", "aud": "orders", "sub": "ada", "exp": now + seconds,
    });
    let mut header = Header::new(Algorithm::ES256);
    header.kid = Some("one".to_owned());
    Ok(encode(&header, &claims, key)?)
}

/// Writes what the server needs; a forged token and one that has expired.
fn prepare(folder: &Path) -> Done<(String, String)> {
    let key = rcgen::KeyPair::generate()?;
    let certificate = rcgen::CertificateParams::new(vec!["localhost".to_owned()])?;
    let certificate = certificate.self_signed(&key)?.pem();
    std::fs::write(folder.join("cert.pem"), certificate)?;
    std::fs::write(folder.join("key.pem"), key.serialize_pem())?;
    let ((key, public), (other, _)) = (signer()?, signer()?);
    let keys = JwkSet { keys: vec![public] };
    std::fs::write(folder.join("jwks.json"), serde_json::to_string(&keys)?)?;
    Ok((token(&other, 600)?, token(&key, -3600)?))
}

/// What a good client's calls take, one every two milliseconds: median and 99th percentile.
fn good(tcp: SocketAddr) -> Done<(Duration, Duration)> {
    let client = BlockingClient::connect(&format!("tcp://{tcp}"))?;
    let (begin, mut took) = (Instant::now(), Vec::new());
    while begin.elapsed() < TIME {
        let called = Instant::now();
        client.with("postroad/echo", |call| {
            call.timeout(Duration::from_secs(10)).call_raw("fine")
        })?;
        took.push(called.elapsed());
        thread::sleep(Duration::from_millis(2));
    }
    took.sort_unstable();
    Ok((took[took.len() / 2], took[took.len() * 99 / 100]))
}

fn measure(name: &str, flood: Flood, threads: usize) -> Done {
    let folder = tempfile::tempdir()?;
    let (forged, expired) = prepare(folder.path())?;
    let node = Node::start(folder.path())?;
    let (before, before_p99) = good(node.tcp)?;
    let target = Arc::new(Target {
        tcp: node.tcp,
        tls: node.tls,
        root: folder.path().join("cert.pem").display().to_string(),
        forged,
        expired,
        is_over: AtomicBool::new(false),
        sent: AtomicU64::new(0),
    });
    let floods: Vec<_> = (0..threads)
        .map(|_| {
            let target = Arc::clone(&target);
            thread::spawn(move || flood(&target))
        })
        .collect();
    // Silent connections have to be opened first.
    thread::sleep(Duration::from_secs(1));
    let (cpu, _) = node.spent()?;
    let (begin, sent) = (Instant::now(), target.sent.load(Ordering::Relaxed));
    let (beside, beside_p99) = good(node.tcp)?;
    let (cpu_after, memory) = node.spent()?;
    let seconds = begin.elapsed().as_secs_f64();
    let many = target.sent.load(Ordering::Relaxed) - sent;
    target.is_over.store(true, Ordering::Relaxed);
    for flood in floods {
        flood.join().map_err(|_| "a flood has panicked")??;
    }
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    println!(
        "{name:<16} {:>8.2} {:>8.2} {:>8.2} {:>8.2} {:>6.0}% {:>11.0} {:>7}",
        ms(before),
        ms(before_p99),
        ms(beside),
        ms(beside_p99),
        (cpu_after - cpu).as_secs_f64() / seconds * 100.0,
        many as f64 / seconds,
        memory / 1024,
    );
    Ok(())
}

fn main() -> Done {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            ..limit
        },
    )?;
    let args: Vec<_> = std::env::args().skip(1).collect();
    if let [word, folder] = &args[..]
        && word == "serve"
    {
        return serve(Path::new(folder));
    }
    println!("flood             p50 without p99   p50 beside p99    CPU   a second     MiB");
    for (name, flood, threads) in FLOODS {
        if args.is_empty() || args.iter().any(|wanted| wanted == name) {
            measure(name, flood, threads)?;
        }
    }
    Ok(())
}
