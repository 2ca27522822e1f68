//! Tokens: which are believed, and by whose keys.
//!
//! What is cheap is looked at first: size, form, issuer, audience and times, and whether the key is
//! known. Only then is the signature looked at, and of each address only so many that turn out
//! wrong; see [`super::strikes`].

mod keys;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use jsonwebtoken::dangerous::insecure_decode_claims;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Header, Validation, decode, decode_header};
use postroad_proto::Time;
use postroad_proto::text::Printable;
use serde_json::{Map, Value};
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

use super::config::{JwtConfig, KeyUrl};
use super::judgement::Rejection;
use super::strikes::Strikes;
use crate::caller::Token;
use crate::clock;
use crate::discovery::get;
use crate::observe::identity as observe;
use crate::transport::PeerInfo;
use crate::watched_file::WatchedFile;
use keys::{Found, Key, KeySet};

/// Longest token, bytes. One in HELLO has at most 3 KiB.
const TOKEN_MAX: usize = 8 * 1024;
/// Largest set of keys, bytes.
const KEYS_MAX: u64 = 256 * 1024;
/// How often a file of keys is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often keys behind a URL are asked for, and while there are none yet.
const ASK_EVERY: Duration = Duration::from_secs(300);
const ASK_FIRST_EVERY: Duration = Duration::from_secs(5);
/// How often a token may have the keys looked at because its own is not known.
const LOOK_AGAIN_EVERY: Duration = Duration::from_secs(10);
/// How long a token waits for that.
const LOOK_AGAIN_WITHIN: Duration = Duration::from_secs(3);

/// A token's claims.
type Claims = Map<String, Value>;

/// Verifies tokens with keys that it keeps up to date.
#[derive(Debug)]
pub(crate) struct Verifier {
    inner: Arc<Inner>,
    following: AbortHandle,
}

#[derive(Debug)]
struct Inner {
    config: JwtConfig,
    keys: ArcSwap<KeySet>,
    strikes: Strikes,
    /// A token names a key that is not known.
    wanted: Notify,
    /// When a token had the keys looked at last, as a [`Time`].
    asked: AtomicU64,
    /// When the last look at the keys began that is done.
    looked: watch::Sender<Time>,
}

/// Where the keys are.
#[derive(Debug)]
enum KeySource {
    File(WatchedFile),
    Http { host: String, path: String },
}

impl KeySource {
    fn of(url: KeyUrl) -> Self {
        match url {
            KeyUrl::File(path) => Self::File(WatchedFile::new(path, KEYS_MAX)),
            KeyUrl::Http { host, path } => Self::Http { host, path },
        }
    }

    /// The keys, if they are others than those that were read last.
    async fn read(&mut self) -> Result<Option<KeySet>, String> {
        let text = match self {
            // A small file, once a second.
            Self::File(file) => file.look()?,
            Self::Http { host, path } => {
                let body = get(host, path).await.map_err(|error| error.to_string())?;
                if body.len() as u64 > KEYS_MAX {
                    return Err(format!("{host}: more than {KEYS_MAX} bytes"));
                }
                Some(String::from_utf8_lossy(&body).into_owned())
            }
        };
        text.map(|text| KeySet::read(&text)).transpose()
    }

    fn pause(&self, has_keys: bool) -> Duration {
        match self {
            Self::File(_) => LOOK_EVERY,
            Self::Http { .. } if has_keys => ASK_EVERY,
            Self::Http { .. } => ASK_FIRST_EVERY,
        }
    }
}

impl Drop for Verifier {
    fn drop(&mut self) {
        self.following.abort();
    }
}

impl Verifier {
    /// Reads the keys, and follows them from then on.
    ///
    /// # Errors
    /// If they are in a file that cannot be used. Keys behind a URL that cannot be asked for are
    /// asked for again.
    pub(crate) async fn start(config: &JwtConfig) -> Result<Self, String> {
        use jsonwebtoken::crypto::{CryptoProvider, aws_lc};
        if CryptoProvider::try_get_default().is_none() {
            // Another crate of the program has turned on a second one. If a third thread is faster,
            // there is one as well.
            let _ = aws_lc::DEFAULT_PROVIDER.install_default();
        }
        let url = KeyUrl::read(&config.jwks).ok_or("not a place of keys")?;
        let mut source = KeySource::of(url);
        let keys = match (source.read().await, &source) {
            (Ok(keys), _) => keys.unwrap_or_default(),
            (Err(why), KeySource::File(_)) => return Err(why),
            (Err(why), KeySource::Http { .. }) => {
                observe::no_keys(&config.jwks, &why);
                KeySet::default()
            }
        };
        let inner = Arc::new(Inner {
            config: config.clone(),
            keys: ArcSwap::from_pointee(keys),
            strikes: Strikes::default(),
            wanted: Notify::new(),
            asked: AtomicU64::new(0),
            looked: watch::Sender::new(clock::now()),
        });
        let following = tokio::spawn(follow(Arc::clone(&inner), source)).abort_handle();
        Ok(Self { inner, following })
    }

    /// Who the bearer of a token is.
    ///
    /// # Errors
    /// Why the token is not believed.
    pub(crate) async fn verify(&self, bytes: &[u8], peer: &PeerInfo) -> Result<Token, Rejection> {
        let inner = &*self.inner;
        if bytes.len() > TOKEN_MAX {
            let text = format!(
                "a token has at most {TOKEN_MAX} bytes, this one {}",
                bytes.len()
            );
            return Err(Rejection::wrong(text));
        }
        let header = decode_header(bytes).map_err(|error| {
            Rejection::wrong(match error.kind() {
                // `none` is one of those that there are not.
                ErrorKind::Json(_) => "the token's header is none, or its `alg` is not supported",
                _ => "this is not a token: a token is three parts with dots between them",
            })
        })?;
        let claims: Claims = insecure_decode_claims(bytes)
            .map_err(|_| Rejection::wrong("the token's claims are not an object of JSON"))?;
        inner.check(&claims, now_in_seconds())?;
        let key = inner.key(&header).await?;
        let address = peer.socket_address().map(|address| address.ip());
        inner.strikes.ask(address, clock::now()).map_err(|wait| {
            let text = "too many tokens of this address were wrong; come again later";
            Rejection::later(text, wait)
        })?;
        let mut validation = Validation::new(header.alg);
        validation.leeway = inner.config.leeway.as_secs();
        validation.validate_nbf = true;
        validation.set_issuer(&[&inner.config.issuer]);
        validation.set_audience(&[&inner.config.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        let claims = match decode::<Claims>(bytes, &key.key, &validation) {
            Ok(token) => token.claims,
            Err(error) => {
                if matches!(error.kind(), ErrorKind::InvalidSignature) {
                    inner.strikes.add(address, clock::now());
                }
                return Err(Rejection::wrong(format!("the token is wrong: {error}")));
            }
        };
        inner.token(claims)
    }
}

fn now_in_seconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// A time among claims, which may be written with a fraction.
fn seconds(claims: &Claims, name: &str) -> Result<Option<u64>, Rejection> {
    let Some(value) = claims.get(name) else {
        return Ok(None);
    };
    let fraction = || value.as_f64().filter(|at| (0.0..1e15).contains(at));
    let number = value.as_u64().or_else(|| fraction().map(|at| at as u64));
    let wrong = || Rejection::wrong(format!("the token's claim `{name}` is no time"));
    number.map(Some).ok_or_else(wrong)
}

/// Whether a claim is this text, or a list with it.
fn is_or_has(claim: Option<&Value>, wanted: &str) -> bool {
    match claim {
        Some(Value::String(text)) => text == wanted,
        Some(Value::Array(all)) => all.iter().any(|one| one.as_str() == Some(wanted)),
        _ => false,
    }
}

impl Inner {
    /// What can be said of a token before its signature is looked at.
    fn check(&self, claims: &Claims, now: u64) -> Result<(), Rejection> {
        let JwtConfig {
            issuer, audience, ..
        } = &self.config;
        let leeway = self.config.leeway.as_secs();
        if claims.get("iss").and_then(Value::as_str) != Some(issuer) {
            let text = format!("the token is not of the issuer {issuer:?} (claim `iss`)");
            return Err(Rejection::wrong(text));
        }
        if !is_or_has(claims.get("aud"), audience) {
            let text = format!("the token is not for {audience:?} (claim `aud`)");
            return Err(Rejection::wrong(text));
        }
        let expires = seconds(claims, "exp")?;
        let expires = expires
            .ok_or_else(|| Rejection::wrong("the token says not when it expires (claim `exp`)"))?;
        if expires.saturating_add(leeway) <= now {
            let text = format!(
                "the token has expired {} s ago: bring a new one",
                now - expires
            );
            return Err(Rejection::expired(text));
        }
        if let Some(begins) = seconds(claims, "nbf")?
            && begins > now.saturating_add(leeway)
        {
            let text = format!("the token begins in {} s only (claim `nbf`)", begins - now);
            return Err(Rejection::later(text, Duration::from_secs(begins - now)));
        }
        Ok(())
    }

    /// Has the keys looked at, unless they were a little while ago for the same reason: whoever
    /// makes up names of keys has them looked at no more often than that. Ready when they were
    /// looked at.
    async fn look_again(&self) {
        let (now, last) = (clock::now(), Time(self.asked.load(Ordering::Relaxed)));
        let is_time = last == Time(0) || now.since(last) >= LOOK_AGAIN_EVERY;
        let order = Ordering::Relaxed;
        let claim = || self.asked.compare_exchange(last.0, now.0, order, order);
        if is_time && claim().is_ok() {
            self.wanted.notify_one();
        }
        let asked = Time(self.asked.load(Ordering::Relaxed));
        let mut looked = self.looked.subscribe();
        let done = looked.wait_for(|looked| *looked >= asked);
        // If it takes longer, the keys are asked as they are.
        let _ = tokio::time::timeout(LOOK_AGAIN_WITHIN, done).await;
    }

    /// The key that a token says it is signed with.
    async fn key(&self, header: &Header) -> Result<Key, Rejection> {
        if let Some(found) = self.keys.load().find(header).known()? {
            return Ok(found);
        }
        self.look_again().await;
        if let Some(found) = self.keys.load().find(header).known()? {
            return Ok(found);
        }
        if self.keys.load().is_empty() {
            let text = "the keys of the issuer are not known yet; come again later";
            return Err(Rejection::later(text, ASK_FIRST_EVERY));
        }
        let kid = header.kid.as_deref().unwrap_or_default();
        let kid: String = kid.chars().take(64).collect();
        let text = format!(
            "the token's key {:?} is not known",
            Printable(&kid).to_string()
        );
        Err(Rejection::later(text, LOOK_AGAIN_EVERY))
    }

    /// What verified claims say.
    fn token(&self, claims: Claims) -> Result<Token, Rejection> {
        let expires = seconds(&claims, "exp")?.unwrap_or(0);
        let lasts = Duration::from_secs(expires).saturating_add(self.config.leeway);
        // Beyond what a clock can show: as late as can be.
        let expires = UNIX_EPOCH.checked_add(lasts);
        let expires = expires.unwrap_or(UNIX_EPOCH + Duration::from_secs(1 << 40));
        let subject = claims
            .get("sub")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let subject = subject.to_owned();
        let mut token = Token::new(subject, roles(&claims, &self.config.roles_claim), expires);
        token.claims = claims;
        Ok(token)
    }
}

/// The roles that a claim names.
fn roles(claims: &Claims, path: &str) -> Vec<String> {
    let whole = claims.get(path);
    let within = || {
        let mut names = path.split('.');
        let first = claims.get(names.next()?)?;
        names.try_fold(first, |value, name| value.get(name))
    };
    match whole.or_else(within) {
        Some(Value::String(text)) => text.split_whitespace().map(str::to_owned).collect(),
        Some(Value::Array(all)) => {
            let names = all.iter().filter_map(Value::as_str);
            names.map(str::to_owned).collect()
        }
        _ => Vec::new(),
    }
}

/// Keeps the keys up to date until it is aborted.
async fn follow(inner: Arc<Inner>, mut source: KeySource) {
    let mut told = None;
    loop {
        let pause = source.pause(!inner.keys.load().is_empty());
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = inner.wanted.notified() => {}
        }
        let begin = clock::now();
        let url = &inner.config.jwks;
        match source.read().await {
            Ok(None) => {}
            Ok(Some(keys)) => {
                told = None;
                if keys.names() != inner.keys.load().names() {
                    observe::keys(url, keys.len());
                }
                inner.keys.store(Arc::new(keys));
            }
            // The keys that are known stay. What is wrong is told once.
            Err(why) if told.as_ref() != Some(&why) => {
                observe::no_keys(url, &why);
                told = Some(why);
            }
            Err(_) => {}
        }
        inner.looked.send_replace(begin);
    }
}

impl Found<'_> {
    /// The key, if there is one. `None` if there may be one behind the issuer's URL.
    fn known(self) -> Result<Option<Key>, Rejection> {
        match self {
            Self::Key(key) => Ok(Some(key.clone())),
            Self::Unknown => Ok(None),
            Self::OtherAlgorithm => Err(Rejection::wrong(
                "the token is signed by another algorithm (`alg`) than its key is for",
            )),
            Self::Several => Err(Rejection::wrong(
                "the token names no key (`kid`), and the issuer has several",
            )),
        }
    }
}
