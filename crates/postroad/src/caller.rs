//! Who calls: what a certificate and a token say of the other end of a connection.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Map, Value};

/// The certificate that a client has shown, after it was verified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerCertificate {
    /// The subject's distinguished name, such as `CN=orders, O=Example`.
    pub subject: String,
    /// The subject's alternative names, in the certificate's order. Those of other kinds than
    /// [`SubjectName`] are left out.
    pub names: Vec<SubjectName>,
    /// When it expires, if that could be read.
    pub expires: Option<SystemTime>,
}

/// An alternative name of a certificate's subject.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SubjectName {
    /// A name of the domain name system.
    Dns(String),
    /// An URI, such as a SPIFFE id.
    Uri(String),
    /// An address of electronic mail.
    Email(String),
    /// An address of the internet.
    Ip(IpAddr),
}

/// What a token says of who calls, after it was verified. The token itself is not kept.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Token {
    /// Whom it is about: its claim `sub`, or empty.
    pub subject: String,
    /// The roles that it gives.
    pub roles: Vec<String>,
    /// When it expires.
    pub expires: SystemTime,
    /// All of its claims.
    pub claims: Map<String, Value>,
}

impl Token {
    /// A token about somebody, for tests and for gateways that have verified one by themselves.
    #[must_use]
    pub fn new(subject: impl Into<String>, roles: Vec<String>, expires: SystemTime) -> Self {
        Self {
            subject: subject.into(),
            roles,
            expires,
            claims: Map::new(),
        }
    }
}

impl fmt::Debug for Token {
    /// Without the claims, which may hold what is nobody's business in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("subject", &self.subject)
            .field("roles", &self.roles)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

/// Who calls, as the server has found out: by the certificate that the client has shown, by the
/// token that it has presented, by both, or not at all.
///
/// A handler gets it by the extractor [`Identity`](crate::extract::Identity):
///
/// ```
/// use postroad::Router;
/// use postroad::extract::Identity;
///
/// let router = Router::new().route("who/am-i", async |Identity(caller): Identity| {
///     match caller.has_role("trader") {
///         true => format!("{caller}, who may trade"),
///         false => caller.to_string(),
///     }
/// });
/// # let _ = router;
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    token: Option<Arc<Token>>,
    certificate: Option<Arc<PeerCertificate>>,
}

impl Caller {
    /// Who has these.
    #[must_use]
    pub fn new(token: Option<Arc<Token>>, certificate: Option<Arc<PeerCertificate>>) -> Self {
        Self { token, certificate }
    }

    /// Nobody in particular.
    #[must_use]
    pub fn anonymous() -> Self {
        Self::default()
    }

    /// Whether nothing says who it is.
    #[must_use]
    pub fn is_anonymous(&self) -> bool {
        self.token.is_none() && self.certificate.is_none()
    }

    /// The token that it has presented last.
    #[must_use]
    pub fn token(&self) -> Option<&Token> {
        self.token.as_deref()
    }

    /// The certificate that it has shown.
    #[must_use]
    pub fn certificate(&self) -> Option<&PeerCertificate> {
        self.certificate.as_deref()
    }

    /// Whom the token is about, or the distinguished name of the certificate's subject where there
    /// is no token.
    #[must_use]
    pub fn subject(&self) -> Option<&str> {
        let of_certificate = || self.certificate().map(|certificate| &*certificate.subject);
        let of_token = self.token().map(|token| &*token.subject);
        of_token.or_else(of_certificate)
    }

    /// The roles that its token gives.
    #[must_use]
    pub fn roles(&self) -> &[String] {
        self.token().map_or(&[], |token| &token.roles)
    }

    /// Whether its token gives this role.
    #[must_use]
    pub fn has_role(&self, role: &str) -> bool {
        self.roles().iter().any(|has| has == role)
    }

    /// Its SPIFFE ids: of its certificate, and of a token whose subject is one.
    pub fn spiffe_ids(&self) -> impl Iterator<Item = &str> {
        let names = self.certificate().map(|certificate| &certificate.names);
        let of_certificate = names.into_iter().flatten().filter_map(|name| match name {
            SubjectName::Uri(uri) => Some(&**uri),
            _ => None,
        });
        let of_token = self.token().map(|token| &*token.subject);
        let all = of_certificate.chain(of_token);
        all.filter(|id| id.starts_with("spiffe://"))
    }

    /// When the first of what says who it is expires. After that its calls are refused.
    #[must_use]
    pub fn expires(&self) -> Option<SystemTime> {
        let of_token = self.token().map(|token| token.expires);
        let of_certificate = self.certificate().and_then(|shown| shown.expires);
        of_token.into_iter().chain(of_certificate).min()
    }
}

impl fmt::Display for Caller {
    /// A name for logs: the subject, or `anonymous`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.subject() {
            Some("") => f.write_str("a token without a subject"),
            // Whoever has made the token or the certificate has chosen it.
            Some(subject) => postroad_proto::text::Printable(subject).fmt(f),
            None => f.write_str("anonymous"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_caller_is_what_its_token_and_its_certificate_say() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let certificate = PeerCertificate {
            subject: "CN=desk".to_owned(),
            names: vec![
                SubjectName::Uri("https://x".to_owned()),
                SubjectName::Uri("spiffe://plant/desk/7".to_owned()),
            ],
            expires: Some(at(50)),
        };
        let token = Token::new("spiffe://plant/ada", vec!["trader".to_owned()], at(90));
        let caller = Caller::new(None, Some(Arc::new(certificate.clone())));
        assert_eq!(
            (caller.subject(), caller.has_role("trader")),
            (Some("CN=desk"), false)
        );
        assert_eq!(
            caller.spiffe_ids().collect::<Vec<_>>(),
            ["spiffe://plant/desk/7"]
        );
        let caller = Caller::new(Some(Arc::new(token)), Some(Arc::new(certificate)));
        assert_eq!(caller.to_string(), "spiffe://plant/ada");
        assert_eq!(caller.expires(), Some(at(50)), "whatever ends first");
        assert_eq!(caller.spiffe_ids().count(), 2);
        assert!(caller.has_role("trader") && !caller.is_anonymous());
        assert_eq!(Caller::anonymous().to_string(), "anonymous");
        assert_eq!(Caller::anonymous().expires(), None);
    }

    #[test]
    fn claims_and_line_breaks_stay_out_of_logs() {
        let mut token = Token::new("ada\nroot logged in", Vec::new(), SystemTime::UNIX_EPOCH);
        token.claims.insert("ssn".to_owned(), "123-45".into());
        assert!(!format!("{token:?}").contains("123-45"));
        let caller = Caller::new(Some(Arc::new(token)), None);
        assert!(!caller.to_string().contains('\n'), "{caller}");
    }
}
