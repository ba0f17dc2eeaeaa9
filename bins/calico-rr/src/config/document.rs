//! A TOML document that is read to its end whatever is wrong with it: each problem is noted with
//! its place, and reading goes on.

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::similar::nearest;

/// Something wrong in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// From 1.
    pub(crate) line: usize,
    /// From 1, in characters.
    pub(crate) column: usize,
    /// Where in the document, such as `neighbor[2].hold_time`; empty for the document as such.
    pub(crate) path: String,
    /// What is wrong, and what to do.
    pub(crate) text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.line, self.column)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.text)
    }
}

/// The text and what was found wrong in it so far.
#[derive(Debug)]
pub(crate) struct Document<'t> {
    text: &'t str,
    found: RefCell<Vec<(usize, String, String)>>,
}

impl<'t> Document<'t> {
    /// Parses a text; `None` if it is no TOML, of which the problems tell.
    pub(crate) fn parse(text: &'t str) -> (Self, Option<Spanned<DeTable<'t>>>) {
        let document = Self { text, found: RefCell::default() };
        let (table, errors) = DeTable::parse_recoverable(text);
        for error in &errors {
            let at = error.span().map_or(0, |span| span.start);
            document.note(at, String::new(), error.message().trim().replace('\n', "; "));
        }
        let table = errors.is_empty().then_some(table);
        (document, table)
    }

    /// The document as a table.
    pub(crate) fn root<'d>(&'d self, table: &'d Spanned<DeTable<'t>>) -> Table<'d, 't> {
        Table::new(self, String::new(), 0, table.get_ref())
    }

    fn note(&self, at: usize, path: String, text: String) {
        self.found.borrow_mut().push((at, path, text));
    }

    /// What is wrong, in the order of the text.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        let mut found = self.found.borrow().clone();
        found.sort();
        found.dedup();
        let place = |(at, path, text): (usize, String, String)| {
            let before = self.text.get(..at.min(self.text.len())).unwrap_or(self.text);
            let start = before.rfind('\n').map_or(0, |newline| newline + 1);
            Problem {
                line: before.matches('\n').count() + 1,
                column: before[start..].chars().count() + 1,
                path,
                text,
            }
        };
        found.into_iter().map(place).collect()
    }
}

/// A value with its place.
#[derive(Debug, Clone)]
pub(crate) struct Located<'d, 't, T> {
    pub(crate) value: T,
    document: &'d Document<'t>,
    at: usize,
    path: String,
}

impl<'d, 't, T> Located<'d, 't, T> {
    /// Another value at the same place.
    pub(crate) fn with<V>(&self, value: V) -> Located<'d, 't, V> {
        Located { value, document: self.document, at: self.at, path: self.path.clone() }
    }

    /// Notes that something is wrong with the value.
    pub(crate) fn problem(&self, text: impl Into<String>) {
        self.document.note(self.at, self.path.clone(), text.into());
    }
}

/// What a value of the file is read into.
pub(crate) trait Value: Sized {
    /// Reads a value, or says what is wrong with it and what to write.
    fn read(value: &DeValue<'_>) -> Result<Self, String>;
}

/// One table of the document. Keys that nobody asks for are unknown keys.
#[derive(Debug)]
pub(crate) struct Table<'d, 't> {
    document: &'d Document<'t>,
    path: String,
    at: usize,
    entries: &'d DeTable<'t>,
    known: Vec<&'static str>,
}

impl<'d, 't> Table<'d, 't> {
    fn new(document: &'d Document<'t>, path: String, at: usize, entries: &'d DeTable<'t>) -> Self {
        Self { document, path, at, entries, known: Vec::new() }
    }

    fn find(&mut self, key: &'static str) -> Option<&'d Spanned<DeValue<'t>>> {
        self.known.push(key);
        let mut entries = self.entries.iter();
        entries.find(|(name, _)| name.get_ref().as_ref() == key).map(|(_, value)| value)
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// The value of a key, if it is there and right.
    pub(crate) fn get<T: Value>(&mut self, key: &'static str) -> Option<Located<'d, 't, T>> {
        let value = self.find(key)?;
        self.read(value, self.path_of(key))
    }

    /// The value of a key that must be there.
    pub(crate) fn need<T: Value>(
        &mut self,
        key: &'static str,
        example: &str,
    ) -> Option<Located<'d, 't, T>> {
        let value = self.get(key);
        if value.is_none() && !self.has(key) {
            self.problem(format!("`{key}` is missing; add `{key} = {example}`"));
        }
        value
    }

    /// Whether a key is there.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.entries.keys().any(|name| name.get_ref().as_ref() == key)
    }

    /// The values of a key: a list, or one value that stands for a list of one.
    pub(crate) fn list<T: Value>(
        &mut self,
        key: &'static str,
    ) -> Option<Located<'d, 't, Vec<Located<'d, 't, T>>>> {
        let found = self.find(key)?;
        let path = self.path_of(key);
        let items: Vec<_> = match found.get_ref() {
            DeValue::Array(items) => {
                let path = |n: usize| format!("{path}[{}]", n + 1);
                items.iter().enumerate().map(|(n, item)| self.read(item, path(n))).collect()
            }
            _ => vec![self.read(found, path.clone())],
        };
        let value = items.into_iter().collect::<Option<Vec<_>>>()?;
        Some(Located { value, document: self.document, at: found.span().start, path })
    }

    /// The tables of a key that is written `[[key]]`.
    pub(crate) fn tables(&mut self, key: &'static str) -> Vec<Self> {
        let Some(found) = self.find(key) else { return Vec::new() };
        let path = self.path_of(key);
        match found.get_ref() {
            DeValue::Array(items) => self.tables_of(items, &path),
            other => {
                let text = format!("is {}; write it as tables [[{path}]]", kind(other));
                self.document.note(found.span().start, path, text);
                Vec::new()
            }
        }
    }

    fn tables_of(&self, items: &'d DeArray<'t>, path: &str) -> Vec<Self> {
        let mut tables = Vec::new();
        for (n, item) in items.iter().enumerate() {
            let (at, path) = (item.span().start, format!("{path}[{}]", n + 1));
            match item.get_ref() {
                DeValue::Table(entries) => {
                    tables.push(Self::new(self.document, path, at, entries));
                }
                other => {
                    let text = format!("is {}; write a table", kind(other));
                    self.document.note(at, path, text);
                }
            }
        }
        tables
    }

    /// The tables below a key by their names: `[key.NAME]`.
    pub(crate) fn named(&mut self, key: &'static str) -> Vec<(Located<'d, 't, String>, Self)> {
        self.each_named(key, "a table", |value| match value {
            DeValue::Table(entries) => Some(entries),
            _ => None,
        })
        .into_iter()
        .map(|(name, entries)| {
            let table = Self::new(self.document, name.path.clone(), name.at, entries);
            (name, table)
        })
        .collect()
    }

    /// The lists of tables below a key by their names: `[[key.NAME]]`.
    pub(crate) fn named_lists(
        &mut self,
        key: &'static str,
    ) -> Vec<(Located<'d, 't, String>, Vec<Self>)> {
        self.each_named(key, "tables [[…]]", |value| match value {
            DeValue::Array(items) => Some(items),
            _ => None,
        })
        .into_iter()
        .map(|(name, items)| {
            let tables = self.tables_of(items, &name.path);
            (name, tables)
        })
        .collect()
    }

    fn each_named<V>(
        &mut self,
        key: &'static str,
        wanted: &str,
        take: impl Fn(&'d DeValue<'t>) -> Option<V>,
    ) -> Vec<(Located<'d, 't, String>, V)> {
        let Some(found) = self.find(key) else { return Vec::new() };
        let path = self.path_of(key);
        let DeValue::Table(entries) = found.get_ref() else {
            let text = format!("is {}; give it names: [{path}.NAME]", kind(found.get_ref()));
            self.document.note(found.span().start, path, text);
            return Vec::new();
        };
        let mut all = Vec::new();
        for (name, value) in entries {
            let path = format!("{path}.{}", name.get_ref());
            match take(value.get_ref()) {
                Some(taken) => {
                    let (at, value) = (name.span().start, name.get_ref().to_string());
                    let name = Located { value, document: self.document, at, path };
                    all.push((name, taken));
                }
                None => {
                    let text = format!("is {}; write {wanted}", kind(value.get_ref()));
                    self.document.note(value.span().start, path, text);
                }
            }
        }
        all
    }

    /// A table that is the value of a key.
    pub(crate) fn table(&mut self, key: &'static str) -> Option<Self> {
        let found = self.find(key)?;
        let path = self.path_of(key);
        let DeValue::Table(entries) = found.get_ref() else {
            let text = format!("is {}; write a table {{ … }}", kind(found.get_ref()));
            self.document.note(found.span().start, path, text);
            return None;
        };
        Some(Self::new(self.document, path, found.span().start, entries))
    }

    /// Whether the value of a key is a table.
    pub(crate) fn is_table(&self, key: &str) -> bool {
        let mut entries = self.entries.iter();
        entries.any(|(name, value)| name.get_ref().as_ref() == key && value.get_ref().is_table())
    }

    fn read<T: Value>(
        &self,
        value: &Spanned<DeValue<'t>>,
        path: String,
    ) -> Option<Located<'d, 't, T>> {
        let Range { start: at, .. } = value.span();
        match T::read(value.get_ref()) {
            Ok(value) => Some(Located { value, document: self.document, at, path }),
            Err(text) => {
                self.document.note(at, path, text);
                None
            }
        }
    }

    /// Notes that something is wrong with the table.
    pub(crate) fn problem(&self, text: impl Into<String>) {
        self.document.note(self.at, self.path.clone(), text.into());
    }

    /// Notes the keys that nobody asked for.
    pub(crate) fn finish(self) {
        for name in self.entries.keys() {
            let key = name.get_ref().as_ref();
            if self.known.contains(&key) {
                continue;
            }
            let text = match nearest(key, &self.known) {
                Some(similar) => format!("unknown key; did you mean `{similar}`?"),
                None => {
                    let mut known = self.known.clone();
                    known.sort_unstable();
                    known.dedup();
                    format!("unknown key; known here are {}", known.join(", "))
                }
            };
            self.document.note(name.span().start, self.path_of(key), text);
        }
    }
}

/// What a value is, with its article.
pub(crate) const fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_problem_has_its_place() {
        let text = "a = 1\nb = 'x'\n\n[[t]]\n  nmae = 2\n[[t]]\nname = 3\n";
        let (document, table) = Document::parse(text);
        let table = table.unwrap();
        let mut root = document.root(&table);
        assert_eq!(root.get::<u8>("a").unwrap().value, 1);
        assert!(root.get::<u8>("b").is_none());
        for mut table in root.tables("t") {
            table.get::<u8>("name");
            table.finish();
        }
        root.need::<u8>("c", "1");
        root.finish();
        let found: Vec<String> = document.problems().iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "1:1: `c` is missing; add `c = 1`",
                "2:5: b: is a text; write a number from 0 to 255",
                "5:3: t[1].nmae: unknown key; did you mean `name`?",
            ]
        );
    }

    #[test]
    fn what_is_no_toml_is_told_with_every_place() {
        let (document, table) = Document::parse("a = \nb = = 2\n");
        assert!(table.is_none());
        let lines: BTreeSet<usize> = document.problems().iter().map(|p| p.line).collect();
        assert_eq!(lines, BTreeSet::from([1, 2]));
    }
}
