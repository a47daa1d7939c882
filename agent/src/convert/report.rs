//! What became of each field: carried over, changed in meaning, or without a counterpart.

use std::collections::BTreeSet;
use std::fmt;

use serde::Serialize;
use serde_json::Value;

/// What became of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// It means the same where it stands now.
    Carried,
    /// It is carried over, and the note says what is different.
    Changed,
    /// It cannot be said; the note says why, and what to do instead.
    NoCounterpart,
    /// There is nothing to carry over: the API server's or the old agent's notes, or what Portolan needs no word for.
    NotNeeded,
}

/// Where something stands in what is written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The kind of the object that is written.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// The field in it.
    pub field: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A name that was read may hold anything.
        write!(f, "{} {}", self.kind, self.name.escape_debug())?;
        match self.field.is_empty() {
            true => Ok(()),
            false => write!(f, " {}", self.field.escape_debug()),
        }
    }
}

impl Serialize for Place {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One field of an object that was read, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Its path, as `spec.peerIP` or `spec.importV4[0].cidr`; a default that nobody wrote stands in parentheses.
    pub field: String,
    /// What became of it.
    pub outcome: Outcome,
    /// Where it stands now.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub to: Vec<Place>,
    /// What is different, or why it has no counterpart and what to do instead.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// What became of one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectReport {
    /// Its kind, namespace and name.
    pub object: String,
    /// Its `apiVersion`.
    pub api_version: String,
    /// The line that its document begins at.
    pub line: u64,
    /// Its fields.
    pub fields: Vec<Entry>,
    #[serde(skip)]
    covered: BTreeSet<String>,
}

/// How many fields had each outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// Carried over.
    pub carried: usize,
    /// Changed in meaning.
    pub changed: usize,
    /// Without a counterpart.
    pub no_counterpart: usize,
    /// Not needed.
    pub not_needed: usize,
}

impl Counts {
    /// Counts the entries of reports.
    pub fn of(reports: &[ObjectReport]) -> Self {
        let mut counts = Self::default();
        for entry in reports.iter().flat_map(|report| &report.fields) {
            *match entry.outcome {
                Outcome::Carried => &mut counts.carried,
                Outcome::Changed => &mut counts.changed,
                Outcome::NoCounterpart => &mut counts.no_counterpart,
                Outcome::NotNeeded => &mut counts.not_needed,
            } += 1;
        }
        counts
    }
}

impl ObjectReport {
    pub(super) fn new(object: String, api_version: String, line: u64) -> Self {
        Self {
            object,
            api_version,
            line,
            fields: Vec::new(),
            covered: BTreeSet::new(),
        }
    }

    /// Notes what became of a field, and with it of all that stands in it.
    pub(super) fn note(&mut self, field: &str, outcome: Outcome, to: Vec<Place>, note: &str) {
        self.covered.insert(field.to_owned());
        self.fields.push(Entry {
            field: field.to_owned(),
            outcome,
            to,
            note: note.replace(char::is_control, " "),
        });
    }

    /// What was left out takes with it all that was carried into it.
    pub(super) fn withdraw(&mut self, kind: &str, name: &str, why: &str) {
        for entry in &mut self.fields {
            let before = entry.to.len();
            entry.to.retain(|to| to.kind != kind || to.name != name);
            if entry.to.len() < before
                && entry.to.is_empty()
                && matches!(entry.outcome, Outcome::Carried | Outcome::Changed)
            {
                entry.outcome = Outcome::NoCounterpart;
                let note = format!("left out with {kind} {name}, which would be refused: {why}");
                entry.note = note.replace(char::is_control, " ");
            }
        }
    }

    /// Takes out places in objects that were not written after all, for whatever reason.
    pub(super) fn keep(&mut self, is_written: impl Fn(&Place) -> bool) {
        for entry in &mut self.fields {
            let before = entry.to.len();
            entry.to.retain(&is_written);
            let carried = matches!(entry.outcome, Outcome::Carried | Outcome::Changed);
            if entry.to.len() < before && entry.to.is_empty() && carried {
                (entry.outcome, entry.note) = match entry.field.as_str() {
                    "metadata.name" => (
                        Outcome::NotNeeded,
                        "nothing else of it is written".to_owned(),
                    ),
                    _ => (
                        Outcome::NoCounterpart,
                        "left out with the object that it would stand in".to_owned(),
                    ),
                };
            }
        }
    }

    /// Names every field that nothing was said about: nothing is dropped in silence.
    pub(super) fn close(&mut self, value: &Value) {
        let mut left = Vec::new();
        leaves("", value, &mut |path, value| {
            if !matches!(path, "apiVersion" | "kind") && !self.covers(path) {
                left.push((path.to_owned(), is_empty(value)));
            }
        });
        for (path, is_empty) in left {
            let (outcome, note) = match is_empty {
                true => (Outcome::NotNeeded, "it is empty"),
                false => (Outcome::NoCounterpart, UNKNOWN),
            };
            self.note(&path, outcome, Vec::new(), note);
        }
    }

    /// Whether a field or one that it stands in has been noted.
    fn covers(&self, path: &str) -> bool {
        let ends = path.match_indices(['.', '[']).map(|(index, _)| index);
        ends.chain([path.len()])
            .filter_map(|end| path.get(..end))
            .any(|prefix| self.covered.contains(prefix))
    }
}

/// What is said of a field that nothing was said about.
pub(super) const UNKNOWN: &str = "Portolan does not know this field";

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(fields) => fields.is_empty(),
        Value::Array(values) => values.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

/// Calls with the path of every value that holds no others: what is empty counts.
pub(super) fn leaves(path: &str, value: &Value, found: &mut impl FnMut(&str, &Value)) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (key, inner) in fields {
                leaves(&join(path, key), inner, found);
            }
        }
        Value::Array(values) if !values.is_empty() => {
            for (index, inner) in values.iter().enumerate() {
                leaves(&format!("{path}[{index}]"), inner, found);
            }
        }
        Value::Null => {}
        _ => found(path, value),
    }
}

/// A field in another; a key with more than letters, digits and dashes stands in brackets.
pub(super) fn join(path: &str, key: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    match (path.is_empty(), !key.is_empty() && key.chars().all(plain)) {
        (true, true) => key.to_owned(),
        (false, true) => format!("{path}.{key}"),
        (_, false) => format!("{path}[{}]", key.escape_debug()),
    }
}
