//! `[service.NAME]`: a name for a target, and what is done when one of its servers is slow, wrong
//! or gone.

use std::path::PathBuf;
use std::time::Duration;

use postroad::ClientConfig;
use postroad::client::Policies;
use postroad::discovery::Target;
use postroad::identity::TokenSource;
use postroad_proto::units::parse_time;
use serde::Deserialize;
use serde::de::Error as _;

use super::source::Source;

/// Keys that are no policies.
const OWN: [&str; 4] = ["target", "timeout", "copy", "token_file"];

/// A target, and how it is called.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    pub(crate) target: Target,
    pub(crate) config: ClientConfig,
}

impl Service {
    /// A target without a section: the library decides.
    pub(crate) fn of(target: Target) -> Self {
        let config = ClientConfig::default();
        Self { target, config }
    }

    /// What a section says, which [`check`] has looked at.
    pub(super) fn read(section: &toml::Table) -> Result<Self, String> {
        let written = Written::deserialize(section.clone());
        let written = written.map_err(|error| error.message().to_owned())?;
        let target = written.target.ok_or("missing key `target`")?;
        let mut service = Self::of(target);
        service.config.timeout = written.timeout.unwrap_or(service.config.timeout);
        service.config.copy = written.copy;
        service.config.token = written.token_file.map(TokenSource::file);
        service.config.policies = Some(written.policies);
        service.config.check().map_err(|error| error.to_string())?;
        Ok(service)
    }
}

/// A section as it is written. What it says of policies is read by the library's own structure.
struct Written {
    target: Option<Target>,
    timeout: Option<Duration>,
    copy: Option<PathBuf>,
    /// Read when a connection is opened, and again before its token expires.
    token_file: Option<PathBuf>,
    policies: Policies,
}

impl<'de> Deserialize<'de> for Written {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let mut table = toml::Table::deserialize(from)?;
        let mut text = |key: &str| match table.remove(key) {
            None => Ok(None),
            Some(toml::Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(D::Error::custom(format!(
                "{key} = {other}: write it in quotes"
            ))),
        };
        let target = text("target")?.map(|url| url.parse()).transpose();
        let timeout = text("timeout")?.map(|time| parse_time(&time)).transpose();
        let copy = text("copy")?.map(PathBuf::from);
        let token_file = text("token_file")?.map(PathBuf::from);
        Ok(Self {
            target: target.map_err(D::Error::custom)?,
            timeout: timeout.map_err(D::Error::custom)?,
            copy,
            token_file,
            policies: Policies::deserialize(table).map_err(|error| {
                let own = OWN.map(|key| format!("`{key}`")).join(", ");
                let all = format!("expected one of {own}, `balance`");
                D::Error::custom(error.message().replace("expected one of `balance`", &all))
            })?,
        })
    }
}

/// Looks at every key of a section by itself, and then at all of them together.
pub(super) fn check(
    source: &Source,
    name: &str,
    section: &toml::Value,
    wrong: &mut dyn FnMut(std::ops::Range<usize>, &str),
) {
    let place = format!("service.{name}");
    let Some(table) = section.as_table() else {
        return wrong(
            source.key(&place),
            "write [service.NAME] and its keys below",
        );
    };
    let mut is_sound = true;
    for (key, value) in table {
        let alone = toml::Table::from_iter([(key.clone(), value.clone())]);
        if let Err(error) = Written::deserialize(alone) {
            is_sound = false;
            wrong(
                at_fault(source, &place, key, error.message()),
                error.message(),
            );
        }
    }
    if !is_sound {
        return;
    }
    if let Err(what) = Service::read(table) {
        let key = what.split(" = ").next().unwrap_or_default();
        let path = format!("{place}.{key}");
        let at = match source.place(&path) {
            Some(_) => source.value(&path),
            None => source.key(&place),
        };
        wrong(at, &what);
    }
}

/// Where the mistake in this key stands: an unknown key within its table has a place of its own.
pub(super) fn at_fault(
    source: &Source,
    place: &str,
    key: &str,
    what: &str,
) -> std::ops::Range<usize> {
    let path = format!("{place}.{key}");
    let unknown = what.split("unknown field `").nth(1);
    match unknown.and_then(|rest| rest.split('`').next()) {
        Some(unknown) if unknown == key => source.key(&path),
        Some(unknown) => source.key(&format!("{path}.{unknown}")),
        None => source.value(&path),
    }
}
