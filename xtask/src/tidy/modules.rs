//! The modules of one crate and the names in them, so that a path can be followed to the file
//! that defines what it names.
//!
//! Names are found in the tokens, not by a compiler. Three things are simplified: names that a
//! macro makes count as defined where they are looked for, methods are not followed (only paths
//! are), and `macro_rules!` macros that are called without a path are not seen.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::imports::import_at;
use super::source::{Source, closing};
use super::tree::{parent, resolve};

/// Keywords that are followed by the name of what they define.
const DEFINING: &[&str] = &[
    "struct", "enum", "union", "trait", "type", "fn", "const", "static",
];

/// Imports of imports are followed this far; Rust forbids them to go round, half-written code
/// may.
const HOPS_MAX: usize = 16;

/// What a name in a module stands for.
#[derive(Debug)]
enum Meaning<'a> {
    Item,
    /// An import, as it is written.
    Path(Vec<&'a str>),
}

/// A module, or one of the files that take turns to be it.
#[derive(Debug)]
pub(crate) struct Module<'s, 'a> {
    pub(crate) source: &'s Source<'a>,
    /// Its place in the crate: empty for the root.
    pub(crate) path: Vec<&'a str>,
    /// Its code; part of the file if the module is written inline.
    pub(crate) body: Range<usize>,
    names: BTreeMap<&'a str, Vec<Meaning<'a>>>,
    globs: Vec<Vec<&'a str>>,
}

/// The modules of a crate that are compiled without tests.
#[derive(Debug, Default)]
pub(crate) struct Modules<'s, 'a> {
    pub(crate) all: Vec<Module<'s, 'a>>,
    by_path: BTreeMap<Vec<&'a str>, Vec<usize>>,
}

impl<'s, 'a> Modules<'s, 'a> {
    /// Follows the `mod` declarations from a crate's root file.
    pub(crate) fn of(root: &str, sources: &BTreeMap<&str, &'s Source<'a>>) -> Self {
        let mut modules = Self::default();
        modules.file(root, parent(root), &[], sources);
        modules
    }

    /// Adds one file, whose own modules live in `folder`.
    fn file(
        &mut self,
        file: &str,
        folder: &str,
        path: &[&'a str],
        sources: &BTreeMap<&str, &'s Source<'a>>,
    ) {
        if let Some(source) = sources.get(file)
            && !source.is_test
            && !self.all.iter().any(|module| module.source.path == file)
        {
            self.body(source, 0..source.code.len(), folder, path, sources);
        }
    }

    fn body(
        &mut self,
        source: &'s Source<'a>,
        body: Range<usize>,
        folder: &str,
        path: &[&'a str],
        sources: &BTreeMap<&str, &'s Source<'a>>,
    ) {
        let mut module = Module {
            source,
            path: path.to_vec(),
            body: body.clone(),
            names: BTreeMap::new(),
            globs: Vec::new(),
        };
        module.find_names();
        self.by_path
            .entry(path.to_vec())
            .or_default()
            .push(self.all.len());
        self.all.push(module);
        let declared = source.modules();
        for child in &declared {
            let is_deeper = declared.iter().any(|outer| {
                let inner = outer.body.as_ref().is_some_and(|b| b.contains(&child.at));
                inner && outer.at > body.start.saturating_sub(1) && body.contains(&outer.at)
            });
            if !body.contains(&child.at) || is_deeper || source.in_test(child.at) {
                continue;
            }
            let path = [path, &[child.name]].concat();
            if let Some(inline) = &child.body {
                let folder = format!("{folder}/{}", child.name);
                self.body(source, inline.clone(), &folder, &path, sources);
                continue;
            }
            for given in &child.paths {
                if let Some(file) = resolve(parent(source.path), given) {
                    self.file(&file, parent(&file), &path, sources);
                }
            }
            if !child.is_elsewhere {
                let below = format!("{folder}/{}", child.name);
                for file in [format!("{below}.rs"), format!("{below}/mod.rs")] {
                    self.file(&file, &below, &path, sources);
                }
            }
        }
    }

    /// The modules that define what `path` names where `module` writes it; none if that is a
    /// module itself, or of another crate.
    pub(crate) fn definers(&self, module: usize, path: &[&str]) -> BTreeSet<usize> {
        let mut found = BTreeSet::new();
        self.follow(module, path, HOPS_MAX, &mut found);
        found
    }

    fn follow(&self, from: usize, path: &[&str], hops: usize, found: &mut BTreeSet<usize>) {
        let mut at = self.all[from].path.clone();
        let mut rest = path;
        let mut is_relative = true;
        while let [first, after @ ..] = rest {
            match *first {
                "crate" => at.clear(),
                "super" => drop(at.pop()),
                "self" => {}
                _ => break,
            }
            is_relative = false;
            rest = after;
        }
        // A relative path begins with a name of the module, or else with another crate.
        if !is_relative || self.has_name(from, rest) {
            self.descend(&at, rest, hops, found);
        }
    }

    fn has_name(&self, module: usize, path: &[&str]) -> bool {
        let module = &self.all[module];
        path.first().is_some_and(|name| {
            let child = [&module.path[..], &[name]].concat();
            module.names.contains_key(name)
                || self.by_path.contains_key(&child)
                || module.globs.iter().any(|glob| {
                    self.target(module, glob).is_some_and(|target| {
                        let files = &self.by_path[&target];
                        files
                            .iter()
                            .any(|file| self.all[*file].names.contains_key(name))
                    })
                })
        })
    }

    /// The module that a glob means, if it means one of this crate.
    fn target(&self, module: &Module<'s, 'a>, glob: &[&'a str]) -> Option<Vec<&'a str>> {
        let mut at = module.path.clone();
        for part in glob {
            match *part {
                "crate" => at.clear(),
                "super" => drop(at.pop()),
                "self" => {}
                name => at.push(name),
            }
        }
        self.by_path.contains_key(&at).then_some(at)
    }

    /// Follows `path` from the module at `at`.
    fn descend(&self, at: &[&str], path: &[&str], hops: usize, found: &mut BTreeSet<usize>) {
        let [name, rest @ ..] = path else { return };
        let child = [at, &[name]].concat();
        if self.by_path.contains_key(&child) {
            return self.descend(&child, rest, hops, found);
        }
        let Some(files) = self.by_path.get(at) else {
            return;
        };
        for file in files {
            let module = &self.all[*file];
            for meaning in module.names.get(name).into_iter().flatten() {
                match meaning {
                    Meaning::Item => drop(found.insert(*file)),
                    Meaning::Path(import) if hops > 0 => {
                        self.follow(*file, &[import, rest].concat(), hops - 1, found);
                    }
                    Meaning::Path(_) => {}
                }
            }
            if module.names.contains_key(name) {
                continue;
            }
            let mut is_known = false;
            for glob in &module.globs {
                if let Some(target) = self.target(module, glob).filter(|_| hops > 0) {
                    let before = found.len();
                    self.descend(&target, path, hops - 1, found);
                    is_known |= found.len() > before;
                }
            }
            if !is_known && *name != "*" {
                // Made by a macro.
                found.insert(*file);
            }
        }
    }
}

impl<'a> Module<'_, 'a> {
    /// Items of the module itself, and imports wherever they stand in it.
    fn find_names(&mut self) {
        let code = &self.source.code;
        let mut depth_ends = Vec::new();
        let mut at = self.body.start;
        while at < self.body.end {
            let token = &code[at];
            while depth_ends.last().is_some_and(|end| *end <= at) {
                depth_ends.pop();
            }
            if self.source.in_test(at) {
                at += 1;
                continue;
            }
            if token.is("mod") && code.get(at + 2).is_some_and(|next| next.is("{")) {
                // A module of its own.
                at = closing(code, at + 2);
            } else if token.is("{") {
                depth_ends.push(closing(code, at));
            } else if token.is("use") {
                for import in import_at(code, at) {
                    self.import(&import.path, import.alias);
                }
            } else if depth_ends.is_empty()
                && (DEFINING.iter().any(|keyword| token.is(keyword)))
                && let Some(name) = code.get(at + 1)
            {
                self.names.entry(name.text).or_default().push(Meaning::Item);
            } else if token.is("macro_rules")
                && let Some(name) = code.get(at + 2)
            {
                self.names.entry(name.text).or_default().push(Meaning::Item);
            }
            at += 1;
        }
    }

    fn import(&mut self, path: &[&'a str], alias: Option<&'a str>) {
        let path = path.strip_suffix(&["self"]).unwrap_or(path);
        match path {
            [before @ .., "*"] => self.globs.push(before.to_vec()),
            // `use frame;` and the like would only mean themselves.
            [_] if alias.is_none() => {}
            [.., last] => {
                let name = alias.unwrap_or(last);
                let meaning = Meaning::Path(path.to_vec());
                self.names.entry(name).or_default().push(meaning);
            }
            [] => {}
        }
    }

    pub(crate) fn has_globs(&self) -> bool {
        !self.globs.is_empty()
    }
}
