//! What is wrong with a certificate or a key, in words for whoever has to mend it.

use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::CertificateError;
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{ASN1Time, FromDer, X509Certificate};

/// A certificate that ends within this time is worth a warning.
const ENDS_SOON: Duration = Duration::from_secs(14 * 24 * 3600);

/// The same error, in plainer words where there are some.
pub(super) fn explain(error: io::Error) -> io::Error {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    match inner.and_then(words) {
        Some(text) => io::Error::new(error.kind(), text),
        None => error,
    }
}

/// Words for the mistakes that are made most.
pub(super) fn words(error: &rustls::Error) -> Option<String> {
    use rustls::AlertDescription as Alert;
    match error {
        rustls::Error::InvalidCertificate(error) => certificate_words(error),
        rustls::Error::AlertReceived(Alert::CertificateRequired) => {
            Some("the server wants a certificate of this client: ?cert=FILE&key=FILE".to_owned())
        }
        rustls::Error::AlertReceived(Alert::UnknownCA) => Some(
            "the other end does not trust the authority that issued this end's certificate".into(),
        ),
        rustls::Error::AlertReceived(Alert::CertificateExpired) => {
            Some("the other end says that this end's certificate has expired".to_owned())
        }
        rustls::Error::InconsistentKeys(_) => {
            Some("the key does not belong to the certificate".to_owned())
        }
        rustls::Error::AlertReceived(Alert::DecryptError) => Some(
            "the other end cannot verify this end's certificate: it trusts an authority of that \
             name, but with another key"
                .to_owned(),
        ),
        rustls::Error::AlertReceived(Alert::CertificateUnknown | Alert::BadCertificate) => Some(
            "the other end does not accept this end's certificate, and alone knows why".to_owned(),
        ),
        _ => None,
    }
}

fn certificate_words(error: &CertificateError) -> Option<String> {
    Some(match error {
        CertificateError::ExpiredContext { not_after, .. } => {
            let date = date(not_after.as_secs());
            format!("the other end's certificate expired on {date}")
        }
        CertificateError::Expired => "the other end's certificate has expired".to_owned(),
        CertificateError::NotValidYetContext { not_before, .. } => {
            let date = date(not_before.as_secs());
            format!("the other end's certificate is valid from {date} on; is the clock right?")
        }
        CertificateError::UnknownIssuer => {
            "the other end's certificate comes from an authority that is not trusted here; a \
             client names its root with ?ca=FILE, for a self-signed certificate that certificate \
             itself, and a listener with ?client_ca=FILE"
                .to_owned()
        }
        // An authority of that name is trusted, but the signature is not by its key.
        CertificateError::BadSignature
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "the other end's certificate names an authority that is trusted here, whose key has \
             not signed it: there may be two of that name, such as localhost; a client names its \
             root with ?ca=FILE, for a self-signed certificate that certificate itself"
                .to_owned()
        }
        // It has no variant of its own, so its name in the text is all there is to go by.
        CertificateError::Other(_) if format!("{error:?}").contains("CaUsedAsEndEntity") => {
            "the other end's certificate is an authority's (CA:TRUE), as `openssl req -x509` makes \
             them by default; make it with -addext basicConstraints=critical,CA:FALSE"
                .to_owned()
        }
        _ => return None,
    })
}

/// Why a key file cannot be used, if its text shows that.
pub(super) fn key_words(path: &Path) -> Option<&'static str> {
    let text = std::fs::read_to_string(path).ok()?;
    if text.contains("ENCRYPTED") {
        return Some(
            "the key is encrypted, and nobody is asked for its passphrase; \
             `openssl pkey -in OLD -out NEW` writes it in the clear",
        );
    }
    let has_certificate = text.contains("-----BEGIN CERTIFICATE");
    has_certificate.then_some("there is a certificate in it, and no key")
}

/// What a user should know about how long this end's own certificate is valid.
pub(super) fn validity(certificate: &CertificateDer<'_>, now: SystemTime) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let now = now.duration_since(UNIX_EPOCH).ok()?;
    let end = u64::try_from(certificate.validity().not_after.timestamp()).ok()?;
    let begin = certificate.validity().not_before.timestamp();
    let date = date(end);
    let days = |time: Duration| time.as_secs() / (24 * 3600);
    match Duration::from_secs(end).checked_sub(now) {
        None => {
            let ago = days(now - Duration::from_secs(end));
            Some(format!("the certificate expired on {date}, {ago} days ago"))
        }
        Some(left) if left <= ENDS_SOON => {
            let left = days(left);
            Some(format!("the certificate expires on {date}, in {left} days"))
        }
        Some(_) if u64::try_from(begin).is_ok_and(|begin| begin > now.as_secs()) => {
            let date = self::date(begin as u64);
            Some(format!("the certificate is valid from {date} on"))
        }
        Some(_) => None,
    }
}

fn date(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok();
    let time = time.and_then(|time| ASN1Time::from_timestamp(time).ok());
    time.map_or_else(
        || format!("second {seconds} of UNIX time"),
        |time| time.to_string(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expired_certificate_is_told_with_its_date() {
        let error = CertificateError::ExpiredContext {
            time: rustls::pki_types::UnixTime::since_unix_epoch(Duration::from_secs(1_795_911_591)),
            not_after: rustls::pki_types::UnixTime::since_unix_epoch(Duration::from_secs(
                1_580_515_200,
            )),
        };
        let error = io::Error::other(rustls::Error::InvalidCertificate(error));
        let text = explain(error).to_string();
        assert!(
            text.contains("2020") && text.contains("expired on"),
            "{text}"
        );
    }

    #[test]
    fn a_certificate_that_signed_itself_is_answered_with_what_to_do() {
        for error in [
            CertificateError::UnknownIssuer,
            CertificateError::BadSignature,
            CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext {
                signature_algorithm_id: vec![6, 3, 43, 101, 112],
                public_key_algorithm_id: vec![6, 8],
            },
        ] {
            let error = io::Error::other(rustls::Error::InvalidCertificate(error));
            let text = explain(error).to_string();
            let advice = "?ca=FILE, for a self-signed certificate that certificate itself";
            assert!(text.contains(advice), "{text}");
        }
    }

    #[test]
    fn a_certificate_that_has_expired_or_soon_will_is_worth_a_warning() {
        let mut made = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
        made.not_before = rcgen::date_time_ymd(2024, 1, 1);
        made.not_after = rcgen::date_time_ymd(2024, 2, 1);
        let key = rcgen::KeyPair::generate().expect("a key");
        let made = made.self_signed(&key).expect("a certificate");
        let at = |days: u64| UNIX_EPOCH + Duration::from_secs((19_723 + days) * 24 * 3600);
        assert_eq!(validity(made.der(), at(5)), None);
        let soon = validity(made.der(), at(25)).expect("six days are left");
        assert!(soon.contains("in 6 days"), "{soon}");
        let past = validity(made.der(), at(131)).expect("it is past");
        assert!(
            past.contains("100 days ago") && past.contains("2024"),
            "{past}"
        );
    }
}
