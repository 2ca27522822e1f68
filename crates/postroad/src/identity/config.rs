//! What a server is told of identity, and which values are within bounds.

use std::path::PathBuf;
use std::time::Duration;

use postroad_proto::units::{size, time};
use serde::Deserialize;

use crate::config::{ConfigError, bound};
use crate::observe::audit::Place;

/// How a server finds out who calls.
///
/// # Defaults
/// No tokens: callers are known by their certificates, if at all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct IdentityConfig {
    /// Which tokens are believed. `None`: none is looked at.
    pub jwt: Option<JwtConfig>,
    /// Where it is written down who called what. `None`: nowhere.
    pub audit: Option<AuditConfig>,
}

/// Where it is written down who called what, and what was decided: one line a call.
///
/// A call never waits for that: what cannot be written in time is left out, and a line says how
/// many were. The file is not forced to the disk.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct AuditConfig {
    /// The file. It is made if it is not there, for its owner alone; lines are added at its end.
    pub file: PathBuf,
    /// How a line is written.
    #[serde(default)]
    pub format: AuditFormat,
    /// What is written.
    #[serde(default)]
    pub which: AuditWhich,
    /// Bytes after which the file gets the name `FILE.1`, and another is begun. Default 64 MiB, at
    /// least 4 KiB.
    #[serde(default = "max_size", deserialize_with = "size::deserialize")]
    pub max_size: usize,
    /// How many files of before are kept, 1 to 1,000. Default 5.
    #[serde(default = "keep")]
    pub keep: u32,
}

/// How a line of the audit log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum AuditFormat {
    /// An object of JSON.
    #[default]
    Json,
}

/// What is written into the audit log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum AuditWhich {
    /// Every call, and every token that was not believed.
    #[default]
    All,
    /// What a caller may not call, and tokens that were not believed.
    Denied,
}

fn max_size() -> usize {
    64 << 20
}

fn keep() -> u32 {
    5
}

impl AuditConfig {
    /// Every call, in this file.
    #[must_use]
    pub fn new(file: impl Into<PathBuf>) -> Self {
        Self {
            file: file.into(),
            format: AuditFormat::Json,
            which: AuditWhich::All,
            max_size: max_size(),
            keep: keep(),
        }
    }

    fn check(&self) -> Result<(), ConfigError> {
        let file = !self.file.as_os_str().is_empty();
        bound(file, "identity.audit.file", &self.file, "a path")?;
        let size = self.max_size;
        bound(
            size >= 4096,
            "identity.audit.max_size",
            size,
            "at least 4KiB",
        )?;
        let keep = self.keep;
        bound(
            (1..=1000).contains(&keep),
            "identity.audit.keep",
            keep,
            "1 to 1000",
        )
    }

    pub(crate) fn place(&self) -> Place {
        Place {
            file: self.file.clone(),
            max_size: self.max_size as u64,
            keep: self.keep,
            all: self.which == AuditWhich::All,
        }
    }
}

/// Which tokens (JSON Web Tokens) a server believes: those of one issuer, made for this audience,
/// signed by one of its keys with RS256 to RS512, PS256 to PS512, ES256, ES384 or EdDSA. Tokens
/// that are not signed, or signed with a secret that both ends know, are never believed.
///
/// ```
/// use postroad::identity::JwtConfig;
///
/// let jwt = JwtConfig::new("https://id.example", "orders", "file:///etc/jwks.json");
/// assert_eq!(jwt.roles_claim, "roles");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct JwtConfig {
    /// Who makes them: what their claim `iss` has to be.
    pub issuer: String,
    /// Whom they are for: what has to be among their claim `aud`.
    pub audience: String,
    /// Where the issuer's public keys are, as a JSON Web Key Set: `file:///etc/jwks.json`, which is
    /// read again when it has changed, or `http://host:port/path`, which is asked every five
    /// minutes. Both are looked at at once when a token names a key that is not known, but not more
    /// often than every ten seconds. Keys that cannot be read do not replace those that are known.
    pub jwks: String,
    /// How wrong the clocks of issuer and server may be together: a token is believed for so long
    /// before it begins and after it has expired. Default 30 s, at most an hour.
    #[serde(default = "leeway", deserialize_with = "time::deserialize")]
    pub leeway: Duration,
    /// The claim that names the roles: a list of them, or a text with spaces between them. A claim
    /// within others is named with dots, such as `realm_access.roles`. Default `roles`.
    #[serde(default = "roles_claim")]
    pub roles_claim: String,
}

fn leeway() -> Duration {
    Duration::from_secs(30)
}

fn roles_claim() -> String {
    "roles".to_owned()
}

impl JwtConfig {
    /// Tokens of this issuer, for this audience, signed by one of the keys behind this URL.
    #[must_use]
    pub fn new(
        issuer: impl Into<String>,
        audience: impl Into<String>,
        jwks: impl Into<String>,
    ) -> Self {
        Self {
            issuer: issuer.into(),
            audience: audience.into(),
            jwks: jwks.into(),
            leeway: leeway(),
            roles_claim: roles_claim(),
        }
    }

    fn check(&self) -> Result<(), ConfigError> {
        let has_feature = cfg!(feature = "jwt");
        let needed = "a build with the feature `jwt`, which this one is not";
        bound(has_feature, "identity.jwt", &self.issuer, needed)?;
        let words = "a text that is not empty";
        bound(
            !self.issuer.is_empty(),
            "identity.jwt.issuer",
            &self.issuer,
            words,
        )?;
        bound(
            !self.audience.is_empty(),
            "identity.jwt.audience",
            &self.audience,
            words,
        )?;
        bound(
            !self.roles_claim.is_empty(),
            "identity.jwt.roles_claim",
            &self.roles_claim,
            words,
        )?;
        let leeway = self.leeway;
        let hour = Duration::from_secs(3600);
        bound(
            leeway <= hour,
            "identity.jwt.leeway",
            leeway,
            "at most an hour",
        )?;
        let allowed = "file:///PATH or http://HOST:PORT/PATH; for https put a file there, or a \
                       proxy on this machine";
        bound(
            KeyUrl::read(&self.jwks).is_some(),
            "identity.jwt.jwks",
            &self.jwks,
            allowed,
        )
    }
}

/// Where keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum KeyUrl {
    File(PathBuf),
    Http { host: String, path: String },
}

impl KeyUrl {
    pub(super) fn read(url: &str) -> Option<Self> {
        if let Some(path) = url.strip_prefix("file://") {
            return path.starts_with('/').then(|| Self::File(path.into()));
        }
        let rest = url.strip_prefix("http://")?;
        let (host, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, "/"),
        };
        if host.is_empty() || host.contains('@') || rest.contains(char::is_whitespace) {
            return None;
        }
        let has_port = host
            .rsplit_once(':')
            .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let host = match has_port {
            true => host.to_owned(),
            false => format!("{host}:80"),
        };
        let path = path.to_owned();
        Some(Self::Http { host, path })
    }
}

impl IdentityConfig {
    /// Checks every bound.
    ///
    /// # Errors
    /// The first that does not hold: its name, its value and what is allowed.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.jwt.iter().try_for_each(JwtConfig::check)?;
        self.audit.iter().try_for_each(AuditConfig::check)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_in_a_file_or_behind_http() {
        let http = |host: &str, path: &str| {
            let (host, path) = (host.to_owned(), path.to_owned());
            Some(KeyUrl::Http { host, path })
        };
        assert_eq!(
            KeyUrl::read("file:///etc/k.json"),
            Some(KeyUrl::File("/etc/k.json".into()))
        );
        assert_eq!(KeyUrl::read("http://id:81/a/b"), http("id:81", "/a/b"));
        assert_eq!(KeyUrl::read("http://[::1]/k"), http("[::1]:80", "/k"));
        for wrong in [
            "file://etc/k",
            "https://id/k",
            "http:///k",
            "http://a:b@id/k",
            "k.json",
            "",
        ] {
            assert_eq!(KeyUrl::read(wrong), None, "{wrong}");
        }
    }

    #[cfg(feature = "jwt")]
    #[test]
    fn a_setting_out_of_bounds_is_named_with_value_and_bound() {
        let wrong = |change: fn(&mut JwtConfig)| {
            let mut jwt = JwtConfig::new("https://id", "orders", "file:///k.json");
            change(&mut jwt);
            jwt.check().expect_err("it is wrong").to_string()
        };
        assert!(wrong(|jwt| jwt.issuer.clear()).contains("identity.jwt.issuer"));
        assert!(wrong(|jwt| jwt.leeway = Duration::from_secs(3601)).contains("an hour"));
        let error = wrong(|jwt| jwt.jwks = "https://id/k".to_owned());
        assert!(error.contains("file:///PATH"), "{error}");
    }
}
