//! The configuration of a node: a TOML file, environment variables over it, flags over both.
//!
//! A variable is `POSTROAD_SECTION__KEY`, such as `POSTROAD_SERVER__DRAIN=10s`. Unknown keys are
//! refused everywhere.

mod admin;
mod differ;
mod file_watch;
mod last_good;
mod place;
mod print;
mod problems;
mod register;
mod rules;
mod service;
mod source;
mod variables;
mod warnings;
mod watch;

use std::collections::BTreeMap;
use std::path::Path;

use postroad::config::{ConnectionConfig, Envelope, Limits, Mapping};
use postroad::identity::IdentityConfig;
use postroad::route::RouteRule;
use postroad::{Endpoint, ServerConfig};
use serde::Deserialize;

pub(crate) use admin::{AdminConfig, AdminListen, DEFAULT_ADMIN};
pub(crate) use place::{DEFAULT_FILE, Place};
pub(crate) use problems::Problems;
pub(crate) use register::Register;
pub(crate) use service::Service;
use source::Source;
use variables::Laid;
pub(crate) use watch::{Flags, Watch};

/// Where a node listens if nobody says.
pub(crate) const DEFAULT_LISTEN: &str = "tcp+auto://127.0.0.1:7400";

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("{path}: {source}")]
    Read {
        path: String,
        source: std::io::Error,
    },
    /// All mistakes of the file, each with its place.
    #[error("{0}")]
    File(Problems),
    /// All mistakes of the environment, each with its variable's name.
    #[error("{0}")]
    Variables(String),
    #[error("{0}")]
    Wrong(String),
    /// A registry that does not tell its key.
    #[error("{0}")]
    Unreachable(String),
    /// A flag, not the configuration.
    #[error("{0}")]
    Flag(String),
}

impl ConfigError {
    /// Tells the log, one line a mistake.
    pub(crate) fn log(&self) {
        let lines = match self {
            Self::File(problems) => problems.lines(),
            other => other.to_string().lines().map(str::to_owned).collect(),
        };
        for line in lines {
            tracing::error!(target: "postroad::config", "{line}");
        }
    }
}

/// The file as it is written: each section is the library's own structure.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    server: ServerConfig,
    connection: ConnectionConfig,
    limits: Limits,
    workers: Workers,
    listen: Vec<Listen>,
    route: Vec<RouteRule>,
    service: BTreeMap<String, toml::Table>,
    register: Option<Register>,
    identity: IdentityConfig,
    admin: AdminConfig,
}

/// `[workers]`: the threads for routes that compute or block.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Workers {
    cpu: Option<usize>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Listen {
    url: String,
    route: Option<String>,
    envelope: Option<String>,
    #[serde(default)]
    codes: BTreeMap<String, String>,
}

/// A configuration that was checked.
#[derive(Debug)]
pub(crate) struct NodeConfig {
    pub(crate) server: ServerConfig,
    pub(crate) listen: Vec<Endpoint>,
    /// What can be called by name.
    pub(crate) services: BTreeMap<String, Service>,
    /// Where the node says that it is there.
    pub(crate) register: Option<Register>,
    /// Where the node tells how it does.
    pub(crate) admin: AdminConfig,
    /// Sections that name what is called, and where a node registers, as they are written.
    written: Vec<(String, toml::Table)>,
    /// The rules of routes as they are written, in their order.
    rules: Vec<toml::Table>,
    /// What an operator should know although a node can start with it.
    pub(crate) warnings: Option<Problems>,
    /// Where the value of a key comes from, such as `server.drain`; by default if it is not here.
    origins: BTreeMap<String, String>,
}

impl NodeConfig {
    /// Reads the file, if there is one, and the environment; flags replace what they name.
    pub(crate) fn load(
        file: Option<&Path>,
        variables: impl Iterator<Item = (String, String)>,
        listen: &[String],
        workers: Option<usize>,
    ) -> Result<Self, ConfigError> {
        let text = file.map_or_else(|| Ok(String::new()), place::read_file)?;
        let path = file.map_or_else(
            || "configuration".to_owned(),
            |path| path.display().to_string(),
        );
        Self::read(&path, &text, variables, listen, workers)
    }

    /// The same, of a text that was read from this place.
    pub(crate) fn read(
        path: &str,
        text: &str,
        variables: impl Iterator<Item = (String, String)>,
        listen: &[String],
        workers: Option<usize>,
    ) -> Result<Self, ConfigError> {
        // The file alone first: a mistake in it has a place, and none of them hides another.
        let source = Source::parse(path, text).map_err(ConfigError::File)?;
        source
            .check(service::check, rules::check)
            .map_err(ConfigError::File)?;
        source.file().map_err(ConfigError::File)?;
        let laid = variables::lay_over(&source.table(), variables);
        let Laid {
            file: parsed,
            register: laid_register,
            set,
        } = laid.map_err(ConfigError::Variables)?;
        let mut origins = source.origins();
        origins.extend(set);
        let listen_on = parsed.listeners(listen)?;
        let warnings = match listen {
            [] => warnings::find(&source, &listen_on, &parsed.route).some(),
            _ => None,
        };
        let mut services = BTreeMap::new();
        let mut written = Vec::new();
        for (name, section) in &parsed.service {
            let wrong = |what| ConfigError::Wrong(format!("{path}: service.{name}: {what}"));
            services.insert(name.clone(), Service::read(section).map_err(wrong)?);
            written.push((format!("service.{name}"), section.clone()));
        }
        let register = parsed.register.clone();
        if let Some(register) = &register {
            let wrong = |(key, what)| ConfigError::Wrong(format!("{path}: register.{key}: {what}"));
            register.check(listen_on.first()).map_err(wrong)?;
            written.extend(laid_register.map(|section| ("register".to_owned(), section)));
        }
        let admin = parsed.admin.clone();
        let identity = source.table().remove("identity");
        if let Some(toml::Value::Table(section)) = identity {
            written.push(("identity".to_owned(), section));
        }
        let server = parsed.settings(workers);
        server
            .check()
            .map_err(|error| ConfigError::Wrong(format!("{path}: {error}")))?;
        let rules = source.rules().filter_map(toml::Value::as_table);
        Ok(Self {
            server,
            listen: listen_on,
            services,
            register,
            admin,
            written,
            rules: rules.cloned().collect(),
            warnings,
            origins,
        })
    }
}

/// The environment, as far as it is text: nothing else can be a setting.
pub(crate) fn variables() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

impl NodeConfig {
    /// What each rule of routes means, in a sentence, in their order.
    pub(crate) fn explain_rules(&self) -> Vec<String> {
        rules::explain(&self.server.rules)
    }
}

impl File {
    /// Where the node listens: where the flags say, or the file, or at the default.
    fn listeners(&self, flags: &[String]) -> Result<Vec<Endpoint>, ConfigError> {
        let flag = |url: &String| {
            let wrong = |error| ConfigError::Flag(format!("--listen: {error}"));
            url.parse::<Endpoint>().map_err(wrong)
        };
        if !flags.is_empty() {
            return flags.iter().map(flag).collect();
        }
        let endpoints = self.listen.iter().map(Listen::endpoint);
        let endpoints = endpoints.collect::<Result<Vec<_>, _>>();
        let listen_on = endpoints.map_err(|wrong| ConfigError::Wrong(wrong.detail))?;
        if !listen_on.is_empty() {
            return Ok(listen_on);
        }
        let default = DEFAULT_LISTEN.parse::<Endpoint>();
        Ok(vec![
            default.map_err(|error| ConfigError::Wrong(error.to_string()))?,
        ])
    }

    /// The node's settings; without a number of workers, one a core.
    fn settings(self, workers: Option<usize>) -> ServerConfig {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let mut config = self.server;
        config.workers = Some(workers.or(config.workers).unwrap_or(cores));
        config.cpu_workers = Some(self.workers.cpu.unwrap_or(cores));
        config.rules = self.route;
        config.identity = self.identity;
        config.connection = self.connection;
        config.connection.limits = self.limits;
        config
    }
}

/// What is wrong with a listener, and at which of its keys.
struct WrongKey {
    key: &'static str,
    detail: String,
}

impl Listen {
    fn endpoint(&self) -> Result<Endpoint, WrongKey> {
        let wrong = |key, detail| WrongKey { key, detail };
        let endpoint: Endpoint =
            self.url
                .parse()
                .map_err(|error: postroad::transport::TransportError| {
                    wrong("url", error.to_string())
                })?;
        let mut mapping = Mapping::clone(endpoint.mapping());
        if let Some(name) = &self.envelope {
            let envelope = Envelope::from_name(name);
            let known = "json, msgpack, protobuf, packet";
            let none = || {
                wrong(
                    "envelope",
                    format!("envelope = {name:?}: there are {known}"),
                )
            };
            mapping.envelope = Some(envelope.ok_or_else(none)?);
        }
        let mut routes = self.codes.values().chain(&self.route);
        let key = if self.codes.is_empty() {
            "route"
        } else {
            "codes"
        };
        if let Some(route) = routes.find(|route| route.is_empty() || route.len() > 255) {
            return Err(wrong(
                key,
                format!("route {route:?}: a name has 1 to 255 bytes"),
            ));
        }
        if let Some(route) = &self.route {
            mapping.fixed = Some(route.as_str().into());
        }
        for (code, route) in &self.codes {
            let number = match code.strip_prefix("0x") {
                Some(hex) => u8::from_str_radix(hex, 16),
                None => code.parse(),
            };
            let number = number.map_err(|_| {
                wrong(
                    "codes",
                    format!("codes: {code:?} is not 0 to 255, 0x00 to 0xff"),
                )
            })?;
            if mapping
                .codes
                .insert(number, route.as_str().into())
                .is_some()
            {
                return Err(wrong(
                    "codes",
                    format!("codes: {code:?} names 0x{number:02x} a second time"),
                ));
            }
        }
        Ok(endpoint.with_mapping(mapping))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn load(text: &str, variables: &[(&str, &str)]) -> Result<NodeConfig, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let variables = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        NodeConfig::load(Some(file.path()), variables, &[], None).map_err(|error| error.to_string())
    }

    #[test]
    fn an_empty_file_is_the_documented_default() {
        let config = load("", &[]).unwrap();
        assert_eq!(config.listen[0].to_string(), DEFAULT_LISTEN);
        assert_eq!(config.server.max_connections, 65_536);
    }

    #[test]
    fn an_unknown_key_is_refused_with_line_and_column() {
        let error = load("[server]\nworkers = 1\ndrian = \"5s\"\n", &[]).unwrap_err();
        assert!(
            error.contains("line 3, column 1") && error.contains("drian"),
            "{error}"
        );
    }

    #[test]
    fn a_wrong_value_is_refused_with_its_place() {
        let error = load("[server]\ndrain = \"soon\"\n", &[]).unwrap_err();
        assert!(
            error.contains("line 2, column 9") && error.contains("\"soon\" is not a time"),
            "{error}"
        );
        let config = load("[limits]\nmax_message = \"4MiB\"\n", &[]).unwrap();
        assert_eq!(config.server.connection.limits.max_message, 4 << 20);
        let error = load("[limits]\nmax_message = \"4 apples\"\n", &[]).unwrap_err();
        assert!(
            error.contains("line 2, column 15") && error.contains("\"4 apples\" is not a size"),
            "{error}"
        );
        let error = load("[limits]\nmax_calls = 70000\n", &[]).unwrap_err();
        assert!(
            error.contains("max_calls = 70000") && error.contains("1 to 65536"),
            "{error}"
        );
        let error = load("[[listen]]\nurl = \"tcp+morse://h:1\"\n", &[]).unwrap_err();
        assert!(error.contains("morse"), "{error}");
    }

    #[test]
    fn the_environment_lies_over_the_file_and_is_checked_like_it() {
        let variables = [
            ("POSTROAD_SERVER__DRAIN", "7s"),
            ("POSTROAD_LIMITS__MAX_CALLS", "5"),
            ("HOME", "/"),
        ];
        let config = load("[server]\ndrain = \"1s\"\nmax_requests = 9\n", &variables).unwrap();
        assert_eq!(config.server.drain, Duration::from_secs(7));
        assert_eq!(
            (
                config.server.connection.limits.max_calls,
                config.server.max_requests
            ),
            (5, 9)
        );
        let error = load("", &[("POSTROAD_SERVER__DRIAN", "7s")]).unwrap_err();
        assert!(
            error.contains("POSTROAD_SERVER__DRIAN") && error.contains("did you mean `drain`?"),
            "{error}"
        );
    }

    #[test]
    fn codes_and_envelopes_of_a_listener_become_its_mapping() {
        let text = "[[listen]]\nurl = \"tcp+session://h:1\"\nenvelope = \"json\"\ncodes = { \"0x17\" = \"a\" }\n";
        let config = load(text, &[]).unwrap();
        assert_eq!(config.listen[0].mapping().codes[&0x17].as_ref(), "a");
        let error = load(
            "[[listen]]\nurl = \"tcp://h:1\"\ncodes = { \"300\" = \"a\" }\n",
            &[],
        )
        .unwrap_err();
        assert!(error.contains("300"), "{error}");
        let text = "[[listen]]\nurl = \"tcp://h:1\"\ncodes = { \"1\" = \"a\", \"0x01\" = \"b\" }\n";
        assert!(load(text, &[]).unwrap_err().contains("a second time"));
        let error = load("[[listen]]\nurl = \"tcp://h:1\"\nroute = \"\"\n", &[]).unwrap_err();
        assert!(error.contains("1 to 255 bytes"), "{error}");
    }
}
