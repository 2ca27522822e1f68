//! The public keys of an issuer, from its JSON Web Key Set.

use jsonwebtoken::jwk::{
    AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, PublicKeyUse,
};
use jsonwebtoken::{Algorithm, DecodingKey, Header};

/// A key, and the algorithms that it is for.
#[derive(Clone, Debug)]
pub(super) struct Key {
    kid: Option<String>,
    algorithms: Vec<Algorithm>,
    pub(super) key: DecodingKey,
}

/// The keys of an issuer.
#[derive(Debug, Default)]
pub(super) struct KeySet(Vec<Key>);

/// What a set has for a token.
pub(super) enum Found<'a> {
    Key(&'a Key),
    /// No key of that name.
    Unknown,
    /// A key of that name, which is not for the token's algorithm.
    OtherAlgorithm,
    /// The token names no key, and more than one would fit.
    Several,
}

/// The algorithms by which a key may have signed. A key's own `alg` says which; without one its
/// kind does. Never one with a secret that both ends know: whoever can read the public key could
/// make tokens with it.
fn algorithms(jwk: &Jwk) -> Vec<Algorithm> {
    use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
    let of_kind = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => vec![RS256, RS384, RS512, PS256, PS384, PS512],
        AlgorithmParameters::EllipticCurve(key) => match key.curve {
            EllipticCurve::P256 => vec![ES256],
            EllipticCurve::P384 => vec![ES384],
            _ => Vec::new(),
        },
        AlgorithmParameters::OctetKeyPair(key) => match key.curve {
            EllipticCurve::Ed25519 => vec![EdDSA],
            _ => Vec::new(),
        },
        _ => Vec::new(),
    };
    let only = |named: KeyAlgorithm| Algorithm::try_from(named).ok();
    match jwk.common.key_algorithm {
        None => of_kind,
        Some(named) => {
            let named = only(named);
            of_kind
                .into_iter()
                .filter(|one| Some(*one) == named)
                .collect()
        }
    }
}

impl KeySet {
    /// The keys of a set that can be used; others are passed over, as the standard asks for.
    pub(super) fn read(text: &str) -> Result<Self, String> {
        let set: JwkSet = serde_json::from_str(text)
            .map_err(|error| format!("the keys are not a JSON Web Key Set: {error}"))?;
        let usable = |jwk: &Jwk| {
            let is_for_signatures = jwk.common.public_key_use != Some(PublicKeyUse::Encryption);
            let algorithms = algorithms(jwk);
            if !is_for_signatures || algorithms.is_empty() {
                return None;
            }
            Some(Key {
                kid: jwk.common.key_id.clone(),
                algorithms,
                key: DecodingKey::from_jwk(jwk).ok()?,
            })
        };
        let keys: Vec<_> = set.keys.iter().filter_map(usable).collect();
        match keys.is_empty() {
            true => Err("no key of the set can be used: RSA, P-256, P-384, Ed25519".to_owned()),
            false => Ok(Self(keys)),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn names(&self) -> Vec<Option<&str>> {
        self.0.iter().map(|key| key.kid.as_deref()).collect()
    }

    pub(super) fn find(&self, header: &Header) -> Found<'_> {
        let fits = |key: &&Key| key.algorithms.contains(&header.alg);
        match &header.kid {
            Some(kid) => {
                let mut named = self.0.iter().filter(|key| key.kid.as_ref() == Some(kid));
                let mut all = named.clone().peekable();
                match (named.find(fits), all.peek()) {
                    (Some(key), _) => Found::Key(key),
                    (None, Some(_)) => Found::OtherAlgorithm,
                    (None, None) => Found::Unknown,
                }
            }
            None => {
                let mut all = self.0.iter().filter(fits);
                match (all.next(), all.next()) {
                    (Some(key), None) => Found::Key(key),
                    (Some(_), Some(_)) => Found::Several,
                    (None, _) if self.is_empty() => Found::Unknown,
                    (None, _) => Found::OtherAlgorithm,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(keys: &str) -> Result<KeySet, String> {
        KeySet::read(&format!("{{\"keys\": [{keys}]}}"))
    }

    const EC: &str = r#"{"kty":"EC","crv":"P-256","kid":"e",
        "x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;

    #[test]
    fn a_secret_is_never_a_key_and_what_is_not_known_is_passed_over() {
        let secret = r#"{"kty":"oct","k":"c2VjcmV0","kid":"s","alg":"HS256"}"#;
        let strange = r#"{"kty":"AKP","alg":"ML-DSA-44","kid":"q","pub":"x"}"#;
        assert!(set(secret).unwrap_err().contains("no key of the set"));
        let keys = set(&format!("{secret},{strange},{EC}")).unwrap();
        assert_eq!(keys.names(), [Some("e")]);
        assert!(KeySet::read("[]").is_err());
        assert!(set("").is_err(), "an empty set is an accident");
    }

    #[test]
    fn a_key_is_found_by_name_and_algorithm() {
        let keys = set(EC).unwrap();
        let header = |alg, kid: Option<&str>| {
            let mut header = Header::new(alg);
            header.kid = kid.map(str::to_owned);
            header
        };
        let is = |alg, kid| match keys.find(&header(alg, kid)) {
            Found::Key(_) => "key",
            Found::Unknown => "unknown",
            Found::OtherAlgorithm => "other",
            Found::Several => "several",
        };
        assert_eq!(is(Algorithm::ES256, Some("e")), "key");
        assert_eq!(is(Algorithm::ES256, None), "key");
        assert_eq!(is(Algorithm::HS256, Some("e")), "other");
        assert_eq!(is(Algorithm::RS256, None), "other");
        assert_eq!(is(Algorithm::ES256, Some("f")), "unknown");
        let two = set(&format!("{EC},{}", EC.replace("\"e\"", "\"f\""))).unwrap();
        assert!(matches!(
            two.find(&header(Algorithm::ES256, None)),
            Found::Several
        ));
    }
}
