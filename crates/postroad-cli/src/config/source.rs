//! A configuration file with the place of each of its keys.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use postroad::config::{ConnectionConfig, Limits};
use postroad::identity::IdentityConfig;
use postroad::transport::{Transports, Use};
use postroad::{Endpoint, ServerConfig};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue};

use super::problems::Problems;
use super::{AdminConfig, File, Listen, Register, Workers};

/// Looks at a service's section, and tells each mistake with its place.
pub(super) type CheckService = fn(&Source, &str, &toml::Value, &mut dyn FnMut(Range<usize>, &str));

/// Looks at all rules of routes.
pub(super) type CheckRules = fn(&Source, &[toml::Value], &mut Problems);

/// A file that is TOML; whether it says what a node understands, [`Source::check`] finds out.
pub(super) struct Source {
    path: String,
    text: String,
    table: toml::Table,
    /// Where keys and values stand, by path: `limits.max_calls`, `listen.0.url`.
    places: HashMap<String, (Range<usize>, Range<usize>)>,
}

impl Source {
    /// Reads the text as TOML.
    pub(super) fn parse(path: &str, text: &str) -> Result<Self, Problems> {
        let wrong = |error: &toml::de::Error| {
            let mut problems = Problems::new(path, text);
            problems.add(error.span().unwrap_or(0..0), error.message());
            problems
        };
        let spanned = DeTable::parse(text).map_err(|error| wrong(&error))?;
        let mut places = HashMap::new();
        record("", spanned.get_ref(), &mut places);
        Ok(Self {
            path: path.to_owned(),
            text: text.to_owned(),
            table: toml::from_str(text).map_err(|error| wrong(&error))?,
            places,
        })
    }

    /// Nothing found yet in this file.
    pub(super) fn problems(&self) -> Problems {
        Problems::new(&self.path, &self.text)
    }

    /// Where this key stands, such as `postroad.toml:3`; `None` if it does not.
    pub(super) fn place(&self, path: &str) -> Option<String> {
        let (key, _) = self.places.get(path)?;
        let line = self.text.get(..key.start)?.matches('\n').count() + 1;
        Some(format!("{}:{line}", self.path))
    }

    /// The place of every key that has one.
    pub(super) fn origins(&self) -> BTreeMap<String, String> {
        let paths = self.places.keys();
        let places = paths.filter_map(|path| Some((path.clone(), self.place(path)?)));
        places.collect()
    }

    /// The rules of routes as they are written, in their order.
    pub(super) fn rules(&self) -> impl Iterator<Item = &toml::Value> {
        let rules = self.table.get("route").and_then(toml::Value::as_array);
        rules.into_iter().flatten()
    }

    pub(super) fn table(&self) -> toml::Table {
        self.table.clone()
    }

    /// The whole file, after [`Source::check`].
    pub(super) fn file(&self) -> Result<File, Problems> {
        File::deserialize(self.table.clone()).map_err(|error| {
            let mut problems = self.problems();
            problems.add(0..0, error.message());
            problems
        })
    }

    /// Looks at every key by itself, so that no mistake hides another.
    pub(super) fn check(
        &self,
        check_service: CheckService,
        check_rules: CheckRules,
    ) -> Result<(), Problems> {
        let mut problems = self.problems();
        for (section, value) in &self.table {
            match (section.as_str(), value) {
                ("server", value) => self.section::<ServerConfig>(section, value, &mut problems),
                ("connection", value) => {
                    self.section::<ConnectionConfig>(section, value, &mut problems);
                }
                ("identity", value) => {
                    self.section::<IdentityConfig>(section, value, &mut problems);
                    self.identity(value, &mut problems);
                }
                ("limits", value) => self.section::<Limits>(section, value, &mut problems),
                ("admin", value) => self.section::<AdminConfig>(section, value, &mut problems),
                ("workers", value) => self.section::<Workers>(section, value, &mut problems),
                ("register", value) => {
                    self.section::<Register>(section, value, &mut problems);
                    self.register(value, &mut problems);
                }
                ("service", toml::Value::Table(all)) => {
                    for (name, section) in all {
                        let mut wrong = |at, what: &str| problems.add(at, what);
                        check_service(self, name, section, &mut wrong);
                    }
                }
                ("listen", toml::Value::Array(all)) => self.listeners(all, &mut problems),
                ("route", toml::Value::Array(all)) => check_rules(self, all, &mut problems),
                ("listen" | "route", _) => {
                    let what = format!("write [[{section}]], with two brackets");
                    problems.add(self.key(section), &what);
                }
                _ => {
                    let known = "server, connection, limits, workers, identity, listen, route, \
                                 service, register, admin";
                    let what = format!("unknown section `{section}`; there are {known}");
                    problems.add(self.key(section), &what);
                }
            }
        }
        self.bounds(&mut problems);
        problems.into_result()
    }

    fn section<T: DeserializeOwned>(
        &self,
        name: &str,
        value: &toml::Value,
        problems: &mut Problems,
    ) {
        let Some(table) = value.as_table() else {
            problems.add(
                self.key(name),
                &format!("write [{name}] and its keys below"),
            );
            return;
        };
        for (key, value) in table {
            let alone = toml::Table::from_iter([(key.clone(), value.clone())]);
            if let Err(error) = T::deserialize(alone) {
                let is_unknown = error.message().contains("unknown field");
                let path = format!("{name}.{key}");
                let at = if is_unknown {
                    self.key(&path)
                } else {
                    self.value(&path)
                };
                problems.add(at, error.message());
            }
        }
    }

    /// The section as a whole; its single keys have been looked at.
    fn register(&self, section: &toml::Value, problems: &mut Problems) {
        let Ok(register) = Register::deserialize(section.clone()) else {
            return;
        };
        if let Err((key, what)) = register.at().map(drop) {
            let path = format!("register.{key}");
            let at = match self.place(&path) {
                Some(_) => self.value(&path),
                None => self.key("register"),
            };
            problems.add(at, &what);
        }
    }

    /// The same: what is out of its bounds is told by its path.
    fn identity(&self, section: &toml::Value, problems: &mut Problems) {
        let identity = IdentityConfig::deserialize(section.clone());
        let Some(error) = identity.ok().and_then(|identity| identity.check().err()) else {
            return;
        };
        let what = error.to_string();
        let path = what.split(" = ").next().unwrap_or_default();
        let at = match self.place(path) {
            Some(_) => self.value(path),
            None => self.key("identity"),
        };
        problems.add(at, &what);
    }

    fn listeners(&self, all: &[toml::Value], problems: &mut Problems) {
        let mut addresses: HashMap<String, String> = HashMap::new();
        for (index, value) in all.iter().enumerate() {
            let place = format!("listen.{index}");
            let listen = match Listen::deserialize(value.clone()) {
                Ok(listen) => listen,
                Err(error) => {
                    let keys = value.as_table().into_iter().flat_map(toml::Table::keys);
                    let named = |key: &&String| error.message().contains(&format!("`{key}`"));
                    let key = keys.into_iter().find(named);
                    let at = key.map_or_else(
                        || self.key(&place),
                        |key| self.key(&format!("{place}.{key}")),
                    );
                    problems.add(at, error.message());
                    continue;
                }
            };
            let url = self.value(&format!("{place}.url"));
            match listen.endpoint() {
                Err(wrong) => {
                    let at = self.value(&format!("{place}.{}", wrong.key));
                    problems.add(at, &wrong.detail);
                }
                Ok(endpoint) => {
                    let transports = Transports::default();
                    let checked = transports
                        .get(&endpoint)
                        .and_then(|transport| transport.check(&endpoint, Use::Listen));
                    if let Err(error) = checked {
                        problems.add(url.clone(), &error.to_string());
                    }
                    let (taken, spoken) = (address(&endpoint), endpoint.to_string());
                    if let Some(other) = taken.and_then(|at| addresses.insert(at, spoken)) {
                        let what = format!("{other} already listens on this address");
                        problems.add(url, &what);
                    }
                }
            }
        }
    }

    /// Takes each value out that is out of its bounds until the rest is within them.
    fn bounds(&self, problems: &mut Problems) {
        let mut table = self.sound();
        while let Ok(file) = File::deserialize(table.clone()) {
            let Err(error) = file.settings(None).check() else {
                return;
            };
            let mut what = error.to_string();
            let name = what.split(" = ").next().unwrap_or_default().to_owned();
            let cause = cause(&name);
            let section_of = |key: &str| {
                let holds = |(_, value): &(&String, &toml::Value)| value.get(key).is_some();
                table.iter().find(holds).map(|(section, _)| section.clone())
            };
            let own = match name.split_once('.') {
                Some((section, path)) => {
                    let key = path.split('.').next().unwrap_or_default();
                    Some((section.to_owned(), key.to_owned()))
                }
                None => section_of(&name).map(|section| (section, name.clone())),
            };
            let Some((section, key)) =
                own.or_else(|| section_of(cause).map(|section| (section, cause.to_owned())))
            else {
                return;
            };
            if key == cause {
                let set = table[&section][&key].clone();
                what = format!("you set {cause} = {set}, so {name} must be changed too: {what}");
            }
            // What is wrong with the identity was told with its place.
            if section != "identity" {
                problems.add(self.value(&format!("{section}.{key}")), &what);
            }
            let keys = table.get_mut(&section).and_then(toml::Value::as_table_mut);
            if keys.and_then(|keys| keys.remove(&key)).is_none() {
                return;
            }
        }
    }

    /// The keys that can be read, each by itself: what is wrong with the others is already said.
    fn sound(&self) -> toml::Table {
        let mut sound = toml::Table::new();
        for (section, value) in &self.table {
            for (key, value) in value.as_table().into_iter().flatten() {
                let key = toml::Table::from_iter([(key.clone(), value.clone())]);
                let alone = toml::Table::from_iter([(section.clone(), key.clone().into())]);
                if File::deserialize(alone).is_ok() {
                    let empty = || toml::Value::Table(toml::Table::new());
                    let section = sound.entry(section.clone()).or_insert_with(empty);
                    section
                        .as_table_mut()
                        .into_iter()
                        .for_each(|all| all.extend(key.clone()));
                }
            }
        }
        sound
    }

    pub(super) fn key(&self, path: &str) -> Range<usize> {
        self.places.get(path).map_or(0..0, |(key, _)| key.clone())
    }

    pub(super) fn value(&self, path: &str) -> Range<usize> {
        self.places
            .get(path)
            .map_or(0..0, |(_, value)| value.clone())
    }
}

/// The other key that the bound of this one depends on: it may be the one that the user has set.
pub(super) fn cause(name: &str) -> &'static str {
    match name {
        "assembly_max" => "max_message",
        "outbox_max" => "outbox_pause",
        "outbox_pause" => "outbox_max",
        _ => "",
    }
}

/// What only one listener can have; `None` where the system chooses.
fn address(endpoint: &Endpoint) -> Option<String> {
    let address = endpoint.address();
    match endpoint.transport() {
        "tcp" | "tls" if address.ends_with(":0") => None,
        "tcp" | "tls" => Some(address.to_owned()),
        other => Some(format!("{other} {address}")),
    }
}

fn record(
    prefix: &str,
    table: &DeTable<'_>,
    places: &mut HashMap<String, (Range<usize>, Range<usize>)>,
) {
    for (key, value) in table {
        let path = format!("{prefix}{}", key.get_ref());
        places.insert(path.clone(), (key.span(), value.span()));
        match value.get_ref() {
            DeValue::Table(inner) => record(&format!("{path}."), inner, places),
            DeValue::Array(all) => {
                for (index, each) in all.iter().enumerate() {
                    let path = format!("{path}.{index}");
                    places.insert(path.clone(), (each.span(), each.span()));
                    if let DeValue::Table(inner) = each.get_ref() {
                        record(&format!("{path}."), inner, places);
                    }
                }
            }
            _ => {}
        }
    }
}
