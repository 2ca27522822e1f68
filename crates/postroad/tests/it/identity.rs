//! Who calls, and what callers may call: tokens in the opening and on an open connection, rules
//! that change while a server runs.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use postroad::extract::{Identity, Request};
use postroad::identity::{AuditConfig, AuditWhich, Caller, JwtConfig, Token, TokenSource};
use postroad::route::RouteRule;
use postroad::{
    Bytes, CallError, Client, ClientConfig, Router, RunningServer, Server, ServerConfig,
};
use serde_json::{Value, json};

use crate::support::{PATIENCE, Tested};

/// Who makes tokens.
pub(crate) struct Issuer {
    key: EncodingKey,
    algorithm: Algorithm,
    kid: &'static str,
    public: Jwk,
}

impl Issuer {
    pub(crate) fn new(algorithm: Algorithm, kid: &'static str) -> Self {
        let pair = match algorithm {
            Algorithm::ES256 => rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
            Algorithm::RS256 => rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256),
            _ => rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519),
        };
        let pair = pair.expect("a key");
        let der = pair.serialize_der();
        let key = match algorithm {
            Algorithm::ES256 => EncodingKey::from_ec_der(&der),
            // The key itself stands behind 26 bytes that say of which kind it is.
            Algorithm::RS256 => EncodingKey::from_rsa_der(&der[26..]),
            _ => EncodingKey::from_ed_der(&der),
        };
        let mut public = match algorithm {
            Algorithm::EdDSA => {
                let x = encoded(pair.public_key_raw());
                let jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": x});
                serde_json::from_value(jwk).expect("a public key")
            }
            _ => Jwk::from_encoding_key(&key, algorithm).expect("a public key"),
        };
        public.common.key_id = Some(kid.to_owned());
        Self {
            key,
            algorithm,
            kid,
            public,
        }
    }

    fn sign(&self, claims: &Value) -> String {
        let mut header = Header::new(self.algorithm);
        header.kid = Some(self.kid.to_owned());
        encode(&header, claims, &self.key).expect("it signs")
    }

    /// A right token of this subject with these roles, for so many seconds.
    pub(crate) fn token(&self, subject: &str, roles: &[&str], seconds: i64) -> String {
        self.sign(&claims(subject, roles, seconds))
    }
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("it is past 1970").as_secs() as i64
}

fn claims(subject: &str, roles: &[&str], seconds: i64) -> Value {
    json!({
        "iss": "https://id.example", "aud": ["orders", "other"], "sub": subject, "roles": roles,
        "exp": now() + seconds,
    })
}

fn write_keys(path: &Path, issuers: &[&Issuer]) {
    let keys = issuers.iter().map(|issuer| issuer.public.clone()).collect();
    let text = serde_json::to_string(&JwkSet { keys }).expect("it is JSON");
    // As one file in the place of another, so that nobody reads half of it.
    let next = path.with_extension("next");
    std::fs::write(&next, text).expect("it is written");
    std::fs::rename(&next, path).expect("it takes the place");
}

fn rule(name: &str, allow: &[&str]) -> RouteRule {
    let mut rule = RouteRule::of(name);
    rule.allow = Some(allow.iter().map(|word| (*word).to_owned()).collect());
    rule
}

fn routes() -> Router {
    let who = async |Identity(caller): Identity| {
        let roles = caller.roles().join(",");
        format!("{caller}:{roles}")
    };
    Router::new()
        .route("Orders.place", who)
        .route("public", who)
        .route("slow", async |Identity(_): Identity| {
            std::future::pending::<()>().await;
        })
}

/// A server that believes the tokens of an issuer, with the file of its keys.
pub(crate) struct Locked {
    pub(crate) server: RunningServer,
    issuer: Issuer,
    folder: tempfile::TempDir,
}

impl Locked {
    pub(crate) async fn start(name: &str, rules: Vec<RouteRule>) -> Tested<Self> {
        Self::start_as(name, rules, Issuer::new(Algorithm::ES256, "one")).await
    }

    async fn start_as(name: &str, rules: Vec<RouteRule>, issuer: Issuer) -> Tested<Self> {
        let folder = tempfile::tempdir()?;
        let keys = folder.path().join("jwks.json");
        write_keys(&keys, &[&issuer]);
        let mut config = ServerConfig::default();
        let url = format!("file://{}", keys.display());
        let mut jwt = JwtConfig::new("https://id.example", "orders", url);
        jwt.leeway = Duration::ZERO;
        config.identity.jwt = Some(jwt);
        config.rules = rules;
        let server = Server::new(routes()).config(config);
        let server = server.listen(format!("mem://{name}").parse()?);
        let server = server
            .listen("tcp+auto://127.0.0.1:0".parse()?)
            .listen("tcp+line://127.0.0.1:0".parse()?)
            .start()
            .await?;
        Ok(Self {
            server,
            issuer,
            folder,
        })
    }

    /// A right token of somebody for so many seconds.
    pub(crate) fn token(&self, seconds: i64) -> String {
        self.issuer.token("ada", &["trader"], seconds)
    }

    fn url(&self) -> String {
        format!("tcp://{}", self.server.addresses()[1])
    }

    pub(crate) async fn client(&self, token: impl Into<TokenSource>) -> Result<Client, String> {
        let client = Client::builder(&self.url()).token(token).connect().await;
        client.map_err(|error| error.to_string())
    }
}

async fn call(client: &Client, route: &str) -> Result<Bytes, CallError> {
    client
        .request(route)
        .timeout(PATIENCE)
        .call_raw("null")
        .await
}

async fn code(client: &Client, route: &str) -> String {
    match call(client, route).await {
        Ok(_) => "ok".to_owned(),
        Err(error) => error.code().to_string(),
    }
}

fn trade_only() -> Vec<RouteRule> {
    vec![
        rule("Orders.*", &["role:trader"]),
        rule("public", &["anonymous"]),
    ]
}

#[tokio::test]
async fn a_handler_knows_who_has_presented_a_token_signed_by_any_kind_of_key() -> Tested {
    for (name, algorithm) in [
        ("who-es", Algorithm::ES256),
        ("who-rs", Algorithm::RS256),
        ("who-ed", Algorithm::EdDSA),
    ] {
        let issuer = Issuer::new(algorithm, "one");
        let locked = Locked::start_as(name, trade_only(), issuer).await?;
        let trader = locked.issuer.token("ada", &["trader", "reader"], 60);
        let client = locked.client(trader).await?;
        assert_eq!(call(&client, "Orders.place").await?, "ada:trader,reader");
        let reader = locked
            .client(locked.issuer.token("bob", &["reader"], 60))
            .await?;
        assert_eq!(call(&reader, "public").await?, "bob:reader");
        let error = call(&reader, "Orders.place")
            .await
            .expect_err("it takes a role");
        let text = error.to_string();
        assert!(
            text.contains("AUT-E-403") && text.contains("bob") && text.contains("role:trader"),
            "{text}"
        );
        assert_eq!(error.retry(), postroad::Retry::Never);
        locked.server.shutdown().await;
    }
    Ok(())
}

#[tokio::test]
async fn what_no_rule_allows_is_denied_and_health_and_identify_stay_open() -> Tested {
    let locked = Locked::start("denied", trade_only()).await?;
    let stranger = Client::connect(&locked.url()).await?;
    assert_eq!(call(&stranger, "public").await?, "anonymous:");
    for route in [
        "Orders.place",
        "postroad/echo",
        "postroad/routes",
        "no/such/route",
    ] {
        assert_eq!(code(&stranger, route).await, "AUT-E-401", "{route}");
    }
    assert_eq!(code(&stranger, "postroad/health").await, "ok");
    let who = call(&stranger, "postroad/identify").await?;
    assert!(who.starts_with(b"{\"caller\":\"anonymous\""), "{who:?}");
    let stats = locked.server.stats();
    assert_eq!(
        stats.failed, 4,
        "they are counted, and their handlers did not run"
    );
    // A dialect cannot name a caller: its requests without a route are echoed to who may be echoed.
    let line = format!("tcp+line://{}", locked.server.addresses()[2]);
    let line = Client::connect(&line).await?;
    let error = line
        .request("")
        .call_raw("hello")
        .await
        .expect_err("denied");
    assert!(error.to_string().contains("AUT-E-401"), "{error}");
    locked.server.shutdown().await;
    Ok(())
}

#[tokio::test]
async fn rules_change_while_a_server_runs_all_of_them_or_none() -> Tested {
    let locked = Locked::start("rules", Vec::new()).await?;
    let client = Client::connect(&locked.url()).await?;
    assert_eq!(
        code(&client, "Orders.place").await,
        "ok",
        "no rule says who may"
    );
    locked.server.set_rules(trade_only())?;
    assert_eq!(code(&client, "Orders.place").await, "AUT-E-401");
    let wrong = vec![rule("Orders.*", &["anonymous"]), rule("x", &["nonsense"])];
    let error = locked
        .server
        .set_rules(wrong)
        .expect_err("a word is wrong")
        .to_string();
    assert!(
        error.contains("nonsense") && error.contains("role:NAME"),
        "{error}"
    );
    assert_eq!(
        code(&client, "Orders.place").await,
        "AUT-E-401",
        "nothing has changed"
    );
    locked
        .server
        .set_rules(vec![rule("Orders.*", &["anonymous"])])?;
    assert_eq!(code(&client, "Orders.place").await, "ok");
    assert_eq!(code(&client, "public").await, "AUT-E-401");
    // Routes that come later are under the same rules.
    locked
        .server
        .routes()
        .add(Router::new().route("later", async || "late"));
    assert_eq!(code(&client, "later").await, "AUT-E-401");
    locked.server.shutdown().await;
    Ok(())
}

#[tokio::test]
async fn a_token_that_expires_on_an_open_connection_is_replaced_there() -> Tested {
    let locked = Locked::start("expiry", trade_only()).await?;
    let short = locked.issuer.token("ada", &["trader"], 2);
    let client = locked.client(short).await?;
    assert_eq!(code(&client, "Orders.place").await, "ok");
    let expired = async { while code(&client, "Orders.place").await == "ok" {} };
    tokio::time::timeout(PATIENCE, expired).await?;
    for route in ["Orders.place", "public"] {
        let error = call(&client, route).await.expect_err("it has expired");
        assert!(error.to_string().contains("AUT-E-498"), "{error}");
        assert!(error.to_string().contains("postroad/identify"), "{error}");
    }
    assert_eq!(code(&client, "postroad/health").await, "ok");
    let identify = async |token: String| {
        let answer = client.request("postroad/identify").call_raw(token).await;
        answer.map_err(|error| error.to_string())
    };
    // Of somebody else it is not taken here, and a wrong one changes nothing.
    let eve = identify(locked.issuer.token("eve", &["trader"], 60)).await;
    assert!(eve.is_err_and(|error| error.contains("another subject")));
    assert!(
        identify("a.b.c".to_owned())
            .await
            .is_err_and(|error| error.contains("AUT-E-401"))
    );
    assert_eq!(code(&client, "Orders.place").await, "AUT-E-498");
    let answer = identify(locked.issuer.token("ada", &["trader"], 60)).await?;
    let answer: Value = serde_json::from_slice(&answer)?;
    assert_eq!(
        (&answer["caller"], &answer["roles"][0]),
        (&json!("ada"), &json!("trader"))
    );
    assert!(
        answer["expires_in"]
            .as_u64()
            .is_some_and(|left| (50..=60).contains(&left))
    );
    assert_eq!(code(&client, "Orders.place").await, "ok");
    locked.server.shutdown().await;
    Ok(())
}

#[tokio::test]
async fn a_client_with_a_source_of_tokens_is_never_refused_though_each_expires() -> Tested {
    let locked = Locked::start("fresh", trade_only()).await?;
    let (issuer, made) = (std::sync::Arc::new(Issuer::new(Algorithm::ES256, "two")), 0);
    write_keys(
        &locked.folder.path().join("jwks.json"),
        &[&locked.issuer, &issuer],
    );
    let (counter, mut count) = tokio::sync::watch::channel(made);
    let source = {
        let issuer = std::sync::Arc::clone(&issuer);
        TokenSource::from_fn(move || {
            counter.send_modify(|made| *made += 1);
            let token = issuer.token("ada", &["trader"], 3);
            async move { Ok::<_, std::io::Error>(token) }
        })
    };
    let client = locked.client(source).await?;
    // Three tokens on one connection: each lives three seconds.
    let fourth = count.wait_for(|made| *made >= 4);
    tokio::pin!(fourth);
    loop {
        assert_eq!(code(&client, "Orders.place").await, "ok");
        tokio::select! {
            _ = &mut fourth => break,
            () = tokio::task::yield_now() => {}
        }
    }
    assert_eq!(locked.server.stats().accepted, 1, "on the same connection");
    locked.server.shutdown().await;
    Ok(())
}

/// Base64 for URLs.
fn encoded(bytes: &[u8]) -> String {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let mut bits = chunk
            .iter()
            .fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
        bits <<= 8 * (3 - chunk.len());
        for at in 0..=chunk.len() {
            text.push(char::from(LETTERS[(bits >> (18 - 6 * at) & 63) as usize]));
        }
    }
    text
}

/// Tokens that are wrong, each with words of the reason that is told.
fn wrong_tokens(issuer: &Issuer) -> Vec<(String, &'static str)> {
    let right = claims("ada", &["trader"], 60);
    let with = |key: &str, value: Value| {
        let mut claims = right.clone();
        claims[key] = value;
        issuer.sign(&claims)
    };
    let without = |key: &str| {
        let mut claims = right.clone();
        claims.as_object_mut().expect("an object").remove(key);
        issuer.sign(&claims)
    };
    let part = |value: &Value| encoded(value.to_string().as_bytes());
    let none = format!(
        "{}.{}.",
        part(&json!({"alg": "none", "kid": "one"})),
        part(&right)
    );
    // The public key, which everybody has, as the secret of a signature that needs one.
    let public = serde_json::to_string(&issuer.public).expect("it is JSON");
    let mut header = Header::new(Algorithm::HS256);
    header.kid = Some("one".to_owned());
    let secret = EncodingKey::from_secret(public.as_bytes()).expect("it is not empty");
    let hs256 = encode(&header, &right, &secret).expect("it signs");
    let forger = Issuer::new(Algorithm::RS256, "one").sign(&right);
    let unknown = Issuer::new(Algorithm::RS256, "unknown").sign(&right);
    let mut changed = issuer.sign(&right);
    let dot = changed.find('.').expect("three parts");
    changed.replace_range(dot + 1..dot + 2, "f");
    vec![
        (none, "`alg` is not supported"),
        (hs256, "another algorithm"),
        (forger, "InvalidSignature"),
        (unknown, "\"unknown\" is not known"),
        (
            with("exp", json!(now() - 5)),
            "AUT-E-498 the token has expired",
        ),
        (with("exp", json!("tomorrow")), "`exp` is no time"),
        (without("exp"), "`exp`"),
        (with("nbf", json!(now() + 100)), "begins in"),
        (with("aud", json!("billing")), "not for \"orders\""),
        (without("aud"), "not for \"orders\""),
        (with("iss", json!("https://evil")), "not of the issuer"),
        (
            with("iss", json!(["https://id.example"])),
            "not of the issuer",
        ),
        (changed, "AUT-E-401"),
        ("gibberish".to_owned(), "this is not a token"),
        ("a.b.c".to_owned(), "AUT-E-401"),
        ("....".to_owned(), "AUT-E-401"),
    ]
}

#[tokio::test]
async fn a_token_that_is_wrong_in_any_way_is_refused_in_the_opening_with_the_reason() -> Tested {
    let issuer = Issuer::new(Algorithm::RS256, "one");
    let locked = Locked::start_as("wrong", trade_only(), issuer).await?;
    let issuer = &locked.issuer;
    for (token, words) in wrong_tokens(issuer) {
        let Err(error) = locked.client(&*token).await else {
            panic!("{words}: it was taken");
        };
        assert!(
            error.contains("refused (authentication)") && error.contains(words),
            "{words}: {error}"
        );
        assert!(!error.contains(&token), "nothing of the token is shown");
    }
    let right = claims("ada", &["trader"], 60);
    let mut padded = right.clone();
    padded["pad"] = json!("x".repeat(1 << 20));
    let huge = issuer.sign(&padded);
    let error = locked.client(&*huge).await.expect_err("it does not fit");
    assert!(error.contains("room for 3072"), "{error}");
    let client = Client::connect(&locked.url()).await?;
    let error = client.request("postroad/identify").call_raw(huge).await;
    let error = error.expect_err("a megabyte").to_string();
    assert!(error.contains("at most 8192 bytes"), "{error}");
    // Whoever is right is taken after all that.
    let client = locked.client(issuer.sign(&right)).await?;
    assert_eq!(code(&client, "Orders.place").await, "ok");
    locked.server.shutdown().await;
    Ok(())
}

#[tokio::test]
async fn a_key_that_is_new_is_found_and_keys_that_cannot_be_read_replace_none() -> Tested {
    let locked = Locked::start("rotation", trade_only()).await?;
    let path = locked.folder.path().join("jwks.json");
    let next = Issuer::new(Algorithm::EdDSA, "two");
    assert!(
        locked
            .client(next.token("ada", &["trader"], 60))
            .await
            .is_err()
    );
    std::fs::write(&path, "{\"keys\": [")?;
    let client = locked
        .client(locked.issuer.token("ada", &["trader"], 60))
        .await?;
    assert_eq!(code(&client, "Orders.place").await, "ok");
    write_keys(&path, &[&locked.issuer, &next]);
    let taken = async {
        while locked
            .client(next.token("ada", &["trader"], 60))
            .await
            .is_err()
        {}
    };
    tokio::time::timeout(PATIENCE, taken).await?;
    // A server whose keys are not there at all does not start.
    std::fs::remove_file(&path)?;
    let mut config = ServerConfig::default();
    let url = format!("file://{}", path.display());
    config.identity.jwt = Some(JwtConfig::new("https://id.example", "orders", url));
    let server = Server::new(routes())
        .config(config)
        .listen("mem://keyless".parse()?);
    let error = server.start().await.expect_err("no keys").to_string();
    assert!(error.contains("jwks.json"), "{error}");
    locked.server.shutdown().await;
    Ok(())
}

#[tokio::test]
async fn what_a_gateway_asks_for_its_own_client_is_under_the_rules() -> Tested {
    let locked = Locked::start("gateway", trade_only()).await?;
    let routes = locked.server.routes();
    let answer = routes.call(Request::to("Orders.place", "null")).await?;
    assert_eq!(
        answer.payload, "anonymous:",
        "the program itself may call everything"
    );
    let nobody = Request::to("Orders.place", "null").with_caller(Caller::anonymous());
    let refused = routes.call(nobody).await.expect_err("nobody");
    assert_eq!(refused.code().as_str(), "AUT-E-401");
    let until = SystemTime::now() + Duration::from_secs(60);
    let token = Token::new("ada", vec!["trader".to_owned()], until);
    let ada = Caller::new(Some(token.into()), None);
    let request = Request::to("Orders.place", "null").with_caller(ada);
    assert_eq!(routes.call(request).await?.payload, "ada:trader");
    locked.server.shutdown().await;
    Ok(())
}

#[tokio::test]
async fn tokens_and_claims_are_shown_nowhere() -> Tested {
    let mut config = ClientConfig::default();
    config.token = Some(TokenSource::from("secret-marker"));
    assert!(!format!("{config:?}").contains("secret-marker"));
    let builder = Client::builder("tcp://127.0.0.1:1").token("secret-marker");
    assert!(!format!("{builder:?}").contains("secret-marker"));
    Ok(())
}

/// The lines of an audit log.
fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).expect("the log is there");
    text.lines()
        .map(|line| serde_json::from_str(line).expect("each line is JSON"))
        .collect()
}

#[tokio::test]
async fn the_audit_log_says_who_called_what_and_what_was_decided() -> Tested {
    for which in [AuditWhich::All, AuditWhich::Denied] {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("audit.log");
        let issuer = Issuer::new(Algorithm::ES256, "one");
        let keys = folder.path().join("jwks.json");
        write_keys(&keys, &[&issuer]);
        let mut config = ServerConfig::default();
        let url = format!("file://{}", keys.display());
        config.identity.jwt = Some(JwtConfig::new("https://id.example", "orders", url));
        let mut audit = AuditConfig::new(&path);
        audit.which = which;
        config.identity.audit = Some(audit);
        config.rules = trade_only();
        let server = Server::new(routes()).config(config);
        let server = server.listen("tcp://127.0.0.1:0".parse()?).start().await?;
        let url = format!("tcp://{}", server.addresses()[0]);
        let trader = issuer.token("ada", &["trader"], 60);
        let client = Client::builder(&url).token(&*trader).connect().await?;
        assert_eq!(code(&client, "Orders.place").await, "ok");
        assert_eq!(code(&client, "postroad/echo").await, "AUT-E-403");
        let wrong = Client::builder(&url).token("gibberish").connect().await;
        assert!(wrong.is_err());
        server.shutdown().await;
        let lines = lines(&path);
        let decided: Vec<_> = lines
            .iter()
            .map(|line| {
                (
                    line["decision"].as_str(),
                    line["route"].as_str(),
                    line["caller"].as_str(),
                )
            })
            .collect();
        let denied = (Some("denied"), Some("postroad/echo"), Some("ada"));
        let rejected = (Some("denied"), Some("postroad/identify"), Some("anonymous"));
        let allowed = (Some("allowed"), Some("Orders.place"), Some("ada"));
        assert!(
            decided.contains(&denied) && decided.contains(&rejected),
            "{decided:?}"
        );
        assert_eq!(
            decided.contains(&allowed),
            which == AuditWhich::All,
            "{decided:?}"
        );
        for line in &lines {
            assert!(
                line["address"]
                    .as_str()
                    .is_some_and(|at| at.starts_with("127.0.0.1:"))
            );
            assert!(
                line["time"].as_str().is_some_and(|at| at.ends_with('Z')),
                "{line}"
            );
            let is_allowed = line["decision"] == "allowed";
            assert_eq!(is_allowed, line["micros"].is_u64(), "{line}");
            assert_eq!(!is_allowed, line["code"].is_string(), "{line}");
            let is_token = line["route"] == "postroad/identify";
            assert!(is_token || line["trace"].is_string(), "{line}");
        }
        let text = std::fs::read_to_string(&path)?;
        assert!(!text.contains(&trader) && !text.contains("gibberish"));
    }
    Ok(())
}

#[tokio::test]
async fn an_audit_log_that_cannot_be_opened_is_told_before_anything_is_served() -> Tested {
    let mut config = ServerConfig::default();
    config.identity.audit = Some(AuditConfig::new("/no/such/folder/audit.log"));
    let server = Server::new(routes()).config(config);
    let error = server.listen("mem://unaudited".parse()?).start().await;
    let error = error.expect_err("there is no such folder").to_string();
    assert!(error.contains("/no/such/folder/audit.log"), "{error}");
    Ok(())
}

/// The greatest of all but one hundredth of these.
fn p99(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() * 99 / 100]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_ten_thousand_forged_tokens_a_few_signatures_are_looked_at() -> Tested {
    let locked = Locked::start("forged", trade_only()).await?;
    let trader = locked
        .client(locked.issuer.token("ada", &["trader"], 600))
        .await?;
    let stranger = Client::connect(&locked.url()).await?;
    let measure = async |until: &(dyn Fn() -> bool + Sync)| {
        let mut times = Vec::new();
        while !until() || times.len() < 1000 {
            let begin = std::time::Instant::now();
            assert_eq!(code(&trader, "Orders.place").await, "ok");
            times.push(begin.elapsed());
        }
        p99(times)
    };
    let before = measure(&|| true).await;
    let is_over = std::sync::atomic::AtomicBool::new(false);
    let began = std::time::Instant::now();
    let forger = Issuer::new(Algorithm::ES256, "one");
    let flood = async {
        let mut looked_at = 0;
        let forged = forger.token("ada", &["trader"], 600);
        let made_up = Issuer::new(Algorithm::ES256, "made-up").token("ada", &["trader"], 600);
        for number in 0..10_000 {
            // Half of them name a key that there is not.
            let token = [&forged, &made_up][number % 2].clone();
            let refused = stranger
                .request("postroad/identify")
                .timeout(PATIENCE)
                .call_raw(token);
            let error = refused.await.expect_err("it is forged").to_string();
            assert!(error.contains("AUT-E-401"), "{error}");
            looked_at += u32::from(error.contains("InvalidSignature"));
        }
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        looked_at
    };
    let over = || is_over.load(std::sync::atomic::Ordering::Relaxed);
    let (looked_at, during) = tokio::join!(flood, measure(&over));
    let seconds = began.elapsed().as_secs() as u32;
    eprintln!("p99 of another client: {before:?}, while it lasts {during:?}");
    assert!(
        looked_at <= 20 + 2 * (seconds + 1),
        "{looked_at} in {seconds} s"
    );
    // Another client is right, and comes from elsewhere.
    let right = locked.issuer.token("bob", &["trader"], 60);
    let elsewhere = Client::builder("mem://forged")
        .token(right)
        .connect()
        .await?;
    assert_eq!(code(&elsewhere, "Orders.place").await, "ok");
    locked.server.shutdown().await;
    Ok(())
}
