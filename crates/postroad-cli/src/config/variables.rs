//! Environment variables over the file: `POSTROAD_SECTION__KEY`.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::{Table, Value};

use super::File;
use super::problems::in_words_of_users;
use super::source::cause;

/// Sections that variables can set keys of.
const SECTIONS: [&str; 6] = [
    "server",
    "connection",
    "limits",
    "workers",
    "register",
    "admin",
];

/// The file with the variables over it.
pub(super) struct Laid {
    pub(super) file: File,
    /// The section `register` as it is written.
    pub(super) register: Option<Table>,
    /// Which variable has set which key, such as `server.drain`.
    pub(super) set: BTreeMap<String, String>,
}

/// Lays the variables over a file that was checked; all their mistakes at once, each with its
/// variable's name.
pub(super) fn lay_over(
    original: &Table,
    variables: impl Iterator<Item = (String, String)>,
) -> Result<Laid, String> {
    let (mut table, mut set) = (original.clone(), BTreeMap::new());
    let mut mistakes = BTreeMap::new();
    for (name, value) in variables {
        let Some(setting) = name.strip_prefix("POSTROAD_") else {
            continue;
        };
        let Some((section, key)) = setting.split_once("__") else {
            if let Some(meant) = with_two_underscores(setting) {
                let what = format!("write {meant}, with two underscores after the section");
                mistakes.insert(name, what);
            }
            continue;
        };
        let (section, key) = (section.to_lowercase(), key.to_lowercase());
        if section == "listen" {
            let what = "listeners are set by the file or by --listen".to_owned();
            mistakes.insert(name, what);
            continue;
        }
        if let Some(what) = only_of_files(&section) {
            mistakes.insert(name, format!("{what} are set by the file"));
            continue;
        }
        // Numbers are numbers, everything else is text.
        let value = value
            .parse::<i64>()
            .map_or_else(|_| flag(value), Value::Integer);
        let alone = Table::from_iter([(key.clone(), value.clone())]);
        let alone = Table::from_iter([(section.clone(), Value::Table(alone))]);
        if let Err(error) = File::deserialize(alone) {
            mistakes.insert(name, in_words_of_users(error.message()));
            continue;
        }
        put(&mut table, &section, &key, Some(value));
        set.insert(format!("{section}.{key}"), name);
    }
    take_out_of_bounds(original, &mut table, &mut set, &mut mistakes);
    if mistakes.is_empty() {
        let file = File::deserialize(table.clone()).map_err(|error| error.message().to_owned())?;
        let register = table.get("register").and_then(Value::as_table).cloned();
        return Ok(Laid {
            file,
            register,
            set,
        });
    }
    let lines = mistakes.iter();
    let lines = lines.map(|(name, what)| format!("environment variable {name}: {what}"));
    Err(lines.collect::<Vec<_>>().join("\n"))
}

/// Takes those that are out of their bounds out again, one by one until the rest is within them.
fn take_out_of_bounds(
    original: &Table,
    table: &mut Table,
    set: &mut BTreeMap<String, String>,
    mistakes: &mut BTreeMap<String, String>,
) {
    while let Ok(file) = File::deserialize(table.clone()) {
        let Err(error) = file.settings(None).check() else {
            break;
        };
        let what = error.to_string();
        let name = what.split(" = ").next().unwrap_or_default();
        // A name may be that of a key, or of its section and it.
        let ends_with = |wanted: &str| {
            let mut keys = set
                .keys()
                .filter_map(|path| Some((path, path.split_once('.')?)));
            let found = keys.find(|(path, (_, key))| *key == wanted || *path == wanted);
            found.map(|(_, parts)| parts)
        };
        let Some((section, key)) = ends_with(name).or_else(|| ends_with(cause(name))) else {
            break;
        };
        let (section, key) = (section.to_owned(), key.to_owned());
        let before = original.get(&section).and_then(|all| all.get(&key));
        put(table, &section, &key, before.cloned());
        if let Some(variable) = set.remove(&format!("{section}.{key}")) {
            mistakes.insert(variable, what);
        }
    }
}

/// What a section holds that has no keys that a variable could name.
fn only_of_files(section: &str) -> Option<&'static str> {
    match section {
        "service" => Some("services"),
        "route" => Some("rules of routes"),
        _ => None,
    }
}

/// `true` and `false` are what they say, everything else is text.
fn flag(value: String) -> Value {
    match value.as_str() {
        "true" => Value::Boolean(true),
        "false" => Value::Boolean(false),
        _ => Value::String(value),
    }
}

/// Sets a key, or takes it out.
fn put(table: &mut Table, section: &str, key: &str, value: Option<Value>) {
    let empty = || Value::Table(Table::new());
    let section = table.entry(section.to_owned()).or_insert_with(empty);
    let Some(keys) = section.as_table_mut() else {
        return;
    };
    match value {
        Some(value) => drop(keys.insert(key.to_owned(), value)),
        None => drop(keys.remove(key)),
    }
}

/// What was meant by `SERVER_DRAIN`; `None` if it names no section.
fn with_two_underscores(setting: &str) -> Option<String> {
    let (section, key) = setting.split_once('_')?;
    let is_section = SECTIONS.contains(&section.to_lowercase().as_str());
    is_section.then(|| format!("POSTROAD_{section}__{key}"))
}
