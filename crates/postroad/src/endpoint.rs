//! Where and how: `TRANSPORT[+DIALECT]://ADDRESS[?option=value&...]`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use postroad_proto::Time;
use postroad_proto::dialect::{Crc, Dialect, DialectCodec, Envelope, PriorityHeader, Reader};
use postroad_proto::limits::ROUTE_NAME_MAX;
use postroad_proto::session::{Call, DialectConfig, Failure, Mapping, Session};

use crate::Bytes;
use crate::config::ConnectionConfig;
use crate::error::{CallError, TransportError};

/// What is spoken at an endpoint.
#[derive(Clone, Debug)]
pub enum Protocol {
    /// Postroad's own.
    Native,
    /// Whatever the first bytes say: native, `sequence`, `opcode` or `compact`. For listeners only.
    Auto,
    /// One dialect.
    Dialect(DialectCodec),
}

/// A parsed endpoint URL.
///
/// ```
/// let endpoint: postroad::Endpoint = "tcp+session://127.0.0.1:7401?crc=modbus".parse()?;
/// assert_eq!((endpoint.transport(), endpoint.address()), ("tcp", "127.0.0.1:7401"));
/// # Ok::<(), postroad::transport::TransportError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Endpoint {
    url: String,
    transport: String,
    address: String,
    protocol: Protocol,
    mapping: Arc<Mapping>,
    options: Vec<(String, String)>,
    has_heartbeat: bool,
    is_ipv6_only: bool,
}

impl Endpoint {
    /// Whether a client sends heartbeats there; a dialect's peer may not know them.
    #[must_use]
    pub fn has_heartbeat(&self) -> bool {
        self.has_heartbeat
    }

    /// The URL as it was written.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The scheme before `+`: which transport.
    #[must_use]
    pub fn transport(&self) -> &str {
        &self.transport
    }

    /// What stands between `://` and `?`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What is spoken there.
    #[must_use]
    pub fn protocol(&self) -> &Protocol {
        &self.protocol
    }

    /// How a dialect's frames find their routes.
    #[must_use]
    pub fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    /// The same endpoint with another mapping, from a configuration that says more than a URL can.
    #[must_use]
    pub fn with_mapping(mut self, mapping: Mapping) -> Self {
        self.mapping = Arc::new(mapping);
        self
    }

    /// An option of the transport, such as `ca` of `tls`.
    #[must_use]
    pub fn option(&self, name: &str) -> Option<&str> {
        self.options
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// Fails on the first option that is not among `known`.
    ///
    /// # Errors
    /// The option, and those that there are.
    pub fn check_options(&self, known: &[&str]) -> Result<(), TransportError> {
        match self
            .options
            .iter()
            .find(|(key, _)| !known.contains(&key.as_str()))
        {
            None => Ok(()),
            Some((key, _)) => {
                let known = [known, self.protocol_options()].concat().join(", ");
                let known = if known.is_empty() { "none" } else { &known };
                let scheme = self.url.split("://").next().unwrap_or_default();
                let detail = format!("unknown option {key:?}; {scheme} has {known}");
                Err(wrong(&self.url, detail))
            }
        }
    }

    /// Options that belong to what is spoken, beside those of the transport.
    fn protocol_options(&self) -> &'static [&'static str] {
        match &self.protocol {
            Protocol::Native => &[],
            Protocol::Auto => &["envelope", "route"],
            Protocol::Dialect(codec) => match codec.dialect {
                Dialect::Session => &["crc", "envelope", "route", "heartbeat"],
                Dialect::Priority => &["header", "envelope", "route", "heartbeat"],
                _ => &["envelope", "route", "heartbeat"],
            },
        }
    }

    /// Says why a call can never be made here, whatever the server does: its route has no code in
    /// the dialect, its payload does not fit into a line or an envelope, or it is too large for a
    /// frame. `config` is that of the client which is to make it.
    ///
    /// Makes no connection: a session that leads nowhere is asked to make the call, so the answer
    /// is the one that a real call would have got. What only the server knows (whether it has the
    /// route, and how large the messages are that it accepts) is not looked at.
    ///
    /// # Errors
    /// [`CallError::Unsendable`], with the reason.
    pub fn check_call(
        &self,
        config: &ConnectionConfig,
        route: &str,
        payload: &Bytes,
    ) -> Result<(), CallError> {
        let config = config.session(false);
        let Some(dialect) = self.dialect(config.limits.max_dialect_payload) else {
            let (len, max) = (route.len(), ROUTE_NAME_MAX);
            if (1..=max).contains(&len) {
                return Ok(());
            }
            let why = format!("route name of {len} bytes, 1 to {max} are allowed");
            return Err(CallError::Unsendable(why));
        };
        let call = Call {
            route,
            payload,
            codec: 0,
            priority: 3,
            deadline: Time::NEVER,
            attempt: 0,
            no_retry: false,
            trace: None,
            metadata: &[],
        };
        let mut session = Session::dialect_client(config, dialect, Time(0));
        match session.call(Time(0), &call) {
            Err(failure @ Failure::Unsendable(_)) => {
                Err(CallError::Unsendable(failure.to_string()))
            }
            _ => Ok(()),
        }
    }

    /// Whether a listener on `[::]` leaves IPv4 to another one.
    pub(crate) fn is_ipv6_only(&self) -> bool {
        self.is_ipv6_only
    }

    /// Of the endpoints that one server listens on, those on `[::]` leave IPv4 to the one that has
    /// `0.0.0.0` on the same port: whoever writes both wants both.
    pub(crate) fn share_ports(endpoints: &mut [Self]) {
        let on_ipv4 =
            |endpoint: &Self| endpoint.address.strip_prefix("0.0.0.0:").map(str::to_owned);
        let ports: Vec<String> = endpoints.iter().filter_map(on_ipv4).collect();
        for endpoint in endpoints {
            let port = endpoint.address.strip_prefix("[::]:");
            endpoint.is_ipv6_only =
                port.is_some_and(|port| ports.iter().any(|other| other == port));
        }
    }

    /// The dialect and its settings for a session.
    pub(crate) fn dialect(&self, max_payload: usize) -> Option<DialectConfig> {
        let Protocol::Dialect(codec) = &self.protocol else {
            return None;
        };
        let mut codec = codec.clone();
        codec.max_payload = max_payload;
        Some(DialectConfig {
            codec,
            mapping: Arc::clone(&self.mapping),
        })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

fn wrong(url: &str, detail: impl Into<String>) -> TransportError {
    TransportError::Endpoint {
        url: url.to_owned(),
        detail: detail.into(),
    }
}

impl FromStr for Endpoint {
    type Err = TransportError;

    fn from_str(url: &str) -> Result<Self, TransportError> {
        let example = "expected TRANSPORT[+DIALECT]://ADDRESS, such as tcp://127.0.0.1:7400";
        let (scheme, rest) = url.split_once("://").ok_or_else(|| wrong(url, example))?;
        let (address, query) = rest.split_once('?').unwrap_or((rest, ""));
        if scheme.is_empty() || address.is_empty() {
            return Err(wrong(url, example));
        }
        // Schemes may be written in any case (RFC 3986, section 3.1).
        let scheme = scheme.to_ascii_lowercase();
        let (transport, dialect) = scheme.split_once('+').unwrap_or((&scheme, "native"));
        let mut protocol = match dialect {
            "native" => Protocol::Native,
            "auto" => Protocol::Auto,
            name => {
                let dialect = Dialect::from_name(name).ok_or_else(|| {
                    let names = Dialect::ALL.map(Dialect::name).join(", ");
                    wrong(
                        url,
                        format!("no dialect {name:?}; there are native, auto, {names}"),
                    )
                })?;
                Protocol::Dialect(DialectCodec::new(dialect, Reader::Client))
            }
        };
        let (mut mapping, mut options) = (Mapping::default(), Vec::new());
        let mut has_heartbeat = true;
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            if (key, value) == ("heartbeat", "off") && matches!(protocol, Protocol::Dialect(_)) {
                has_heartbeat = false;
            } else if !protocol_option(&mut protocol, &mut mapping, key, value)
                .map_err(|d| wrong(url, d))?
            {
                options.push((key.to_owned(), value.to_owned()));
            }
        }
        let (transport, address) = (transport.to_owned(), address.to_owned());
        let mapping = Arc::new(mapping);
        let url = url.to_owned();
        Ok(Self {
            url,
            transport,
            address,
            protocol,
            mapping,
            options,
            has_heartbeat,
            is_ipv6_only: false,
        })
    }
}

/// Applies an option of the protocol; false if it is none.
fn protocol_option(
    protocol: &mut Protocol,
    mapping: &mut Mapping,
    key: &str,
    value: &str,
) -> Result<bool, String> {
    match (key, protocol) {
        ("crc", Protocol::Dialect(codec)) if codec.dialect == Dialect::Session => {
            codec.crc = Crc::from_name(value).ok_or_else(|| {
                format!(
                    "no checksum {value:?}; there are {}",
                    Crc::ALL.map(Crc::name).join(", ")
                )
            })?;
        }
        ("header", Protocol::Dialect(codec)) if codec.dialect == Dialect::Priority => {
            let header = value.parse().ok().and_then(PriorityHeader::from_bytes);
            codec.header =
                header.ok_or_else(|| format!("header={value}: it has 9, 10 or 12 bytes"))?;
        }
        ("envelope", Protocol::Dialect(_) | Protocol::Auto) => {
            let envelope = Envelope::from_name(value);
            mapping.envelope = Some(envelope.ok_or_else(|| {
                format!("no envelope {value:?}; there are json, msgpack, protobuf, packet")
            })?);
        }
        ("route", Protocol::Dialect(_) | Protocol::Auto) => mapping.fixed = Some(value.into()),
        _ => return Ok(false),
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(url: &str) -> String {
        url.parse::<Endpoint>().unwrap_err().to_string()
    }

    #[test]
    fn every_form_of_the_documentation_parses() {
        for url in [
            "tcp://127.0.0.1:7400",
            "tcp+auto://0.0.0.0:7400",
            "tcp+session://0.0.0.0:7401?crc=modbus",
            "tcp+priority://h:1?header=12&route=x",
            "tls://host:7443?ca=ca.pem",
            "unix:///run/postroad.sock",
            "mem://name",
        ] {
            let endpoint: Endpoint = url.parse().unwrap();
            assert_eq!(endpoint.to_string(), url);
        }
        let endpoint: Endpoint = "unix:///run/postroad.sock".parse().unwrap();
        assert_eq!(endpoint.address(), "/run/postroad.sock");
        let endpoint: Endpoint = "TCP+Line://h:1".parse().unwrap();
        assert_eq!(endpoint.transport(), "tcp");
    }

    #[test]
    fn a_call_that_can_never_be_made_is_known_without_a_connection() {
        let check = |url: &str, route: &str, payload: &[u8]| {
            let endpoint: Endpoint = url.parse().unwrap();
            let payload = Bytes::copy_from_slice(payload);
            endpoint.check_call(&ConnectionConfig::default(), route, &payload)
        };
        let long = "r".repeat(300);
        let large = vec![b'x'; 70_000];
        for (url, route, payload, says) in [
            ("tcp+line://h:1", "command/1", &b"one\ntwo"[..], "one line"),
            ("tcp+session://h:1", "command/1", &large, "70000"),
            ("tcp+session://h:1", "hello", b"", "hello"),
            ("tcp+session://h:1", "command/255", b"", "0xff"),
            ("tcp+session://h:1", "command/300", b"", "command/300"),
            ("tcp+opcode://h:1", "opcode/0", b"", "0x00"),
            (
                "tcp+sequence://h:1?envelope=json",
                "command/1",
                b"xxx",
                "json envelope",
            ),
            ("tcp://h:1", "", b"", "1 to 255"),
            ("tcp://h:1", &long, b"", "300 bytes"),
        ] {
            let refused = check(url, route, payload).expect_err("it cannot be made");
            let refused = refused.to_string();
            assert!(refused.contains(says), "{url} {route}: {refused}");
            assert!(refused.starts_with("CLI-E-400"), "{refused}");
        }
        check("tcp+line://h:1", "command/1", b"one").unwrap();
        check("tcp+sequence://h:1?envelope=json", "command/1", b"{}").unwrap();
        check("tcp://h:1", "postroad/echo", &large).unwrap();
    }

    #[test]
    fn a_wrong_url_says_what_is_wrong_and_what_there_is() {
        assert!(refusal("127.0.0.1:7400").contains("tcp://127.0.0.1:7400"));
        assert!(refusal("tcp+morse://h:1").contains("session, sequence"));
        assert!(refusal("tcp+session://h:1?crc=md5").contains("ibm-3740, modbus"));
        assert!(refusal("tcp+priority://h:1?header=11").contains("9, 10 or 12"));
    }
}
