//! The objects of a text, and a reader of their fields that notes what it cannot read.

use std::net::IpAddr;
use std::str::FromStr;

use api::GoDuration;
use datastore::{TextError, read_documents};
use serde_json::{Map, Value};

use super::report::{ObjectReport, Outcome, Place};

/// One object that was read.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Input {
    pub(super) api_version: String,
    pub(super) kind: String,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) line: u64,
    pub(super) value: Value,
}

impl Input {
    /// The group of its `apiVersion`.
    pub(super) fn group(&self) -> &str {
        self.api_version
            .split_once('/')
            .map_or("", |(group, _)| group)
    }

    /// What stands at a path of plain field names.
    pub(super) fn get(&self, path: &str) -> Option<&Value> {
        at(&self.value, path)
    }

    /// One of its annotations.
    pub(super) fn annotation(&self, key: &str) -> Option<&str> {
        self.get("metadata.annotations")?.get(key)?.as_str()
    }

    /// One of its labels.
    pub(super) fn label(&self, key: &str) -> Option<&str> {
        self.get("metadata.labels")?.get(key)?.as_str()
    }
}

/// What stands at a path of plain field names; null is as good as absent.
pub(super) fn at<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    let mut here = value;
    for key in path.split('.') {
        here = here.get(key)?;
    }
    (!here.is_null()).then_some(here)
}

/// How deep Lists may stand in Lists.
const LISTS: usize = 4;

/// Reads the objects of a text, those in Lists too.
///
/// # Errors
/// What is no YAML, or no object.
pub(super) fn read(text: &str) -> Result<Vec<Input>, TextError> {
    let mut inputs = Vec::new();
    for document in read_documents(text)? {
        take(document.value, document.line, LISTS, &mut inputs).map_err(|message| TextError {
            line: document.line,
            message,
        })?;
    }
    Ok(inputs)
}

fn take(value: Value, line: u64, depth: usize, into: &mut Vec<Input>) -> Result<(), String> {
    let field = |name| at(&value, name).and_then(Value::as_str);
    let (Some(kind), Some(api_version)) = (field("kind"), field("apiVersion")) else {
        return Err("this is no object: it has no kind or no apiVersion".to_owned());
    };
    // A kind of ours or theirs may end with List too, but has no items.
    if kind.ends_with("List") && value.get("items").is_some_and(Value::is_array) {
        if depth == 0 {
            return Err("Lists stand in Lists in Lists".to_owned());
        }
        let of = kind.strip_suffix("List").unwrap_or_default().to_owned();
        let api_version = api_version.to_owned();
        let Some(Value::Array(items)) = value.get("items").cloned() else {
            return Ok(());
        };
        for mut item in items {
            // Items of a typed list may leave out what the list says.
            if let (Value::Object(fields), false) = (&mut item, of.is_empty()) {
                fields.entry("kind").or_insert_with(|| of.clone().into());
                fields
                    .entry("apiVersion")
                    .or_insert_with(|| api_version.clone().into());
            }
            take(item, line, depth - 1, into)?;
        }
        return Ok(());
    }
    let text = |path| field(path).unwrap_or_default().to_owned();
    into.push(Input {
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        namespace: text("metadata.namespace"),
        name: text("metadata.name"),
        line,
        value,
    });
    Ok(())
}

/// Reads the fields of one object; what has the wrong shape is noted and read as absent.
pub(super) struct Reader<'a> {
    pub(super) input: &'a Input,
    pub(super) report: ObjectReport,
}

impl<'a> Reader<'a> {
    pub(super) fn new(input: &'a Input) -> Self {
        let name = match input.namespace.is_empty() {
            true => input.name.clone(),
            false => format!("{}/{}", input.namespace, input.name),
        };
        let object = format!("{} {name}", input.kind).escape_debug().to_string();
        let api_version = input.api_version.escape_debug().to_string();
        Self {
            input,
            report: ObjectReport::new(object, api_version, input.line),
        }
    }

    /// Notes that a field means the same in its new place.
    pub(super) fn carried(&mut self, field: &str, to: Place) {
        self.report.note(field, Outcome::Carried, vec![to], "");
    }

    /// Notes that a field means the same, with a word about it.
    pub(super) fn carried_so(&mut self, field: &str, to: Vec<Place>, note: &str) {
        self.report.note(field, Outcome::Carried, to, note);
    }

    /// Notes that a field is carried over, and what is different.
    pub(super) fn changed(&mut self, field: &str, to: Vec<Place>, note: &str) {
        self.report.note(field, Outcome::Changed, to, note);
    }

    /// Notes that a field has no counterpart, why, and what to do instead.
    pub(super) fn none(&mut self, field: &str, note: &str) {
        self.report
            .note(field, Outcome::NoCounterpart, Vec::new(), note);
    }

    /// Notes that nothing has to be carried over.
    pub(super) fn not_needed(&mut self, field: &str, note: &str) {
        self.report
            .note(field, Outcome::NotNeeded, Vec::new(), note);
    }

    /// Notes metadata and status, which every object has: names go with the object, the rest is the API server's.
    pub(super) fn common(&mut self, to: Option<Place>) {
        let fields = match self.input.get("metadata") {
            Some(Value::Object(fields)) => fields.keys().cloned().collect(),
            _ => Vec::new(),
        };
        for key in fields {
            let path = super::report::join("metadata", &key);
            match (key.as_str(), &to) {
                ("name", Some(to)) => self.carried(&path, to.clone()),
                ("labels" | "annotations", _) => self.metadata_map(&key),
                _ => self.not_needed(&path, "said by the object's place, or the API server's"),
            }
        }
        if self.input.get("status").is_some() {
            self.not_needed("status", "what the old network said of itself");
        }
    }

    /// Labels and annotations: those of tools that applied the object go, those of its people are named.
    fn metadata_map(&mut self, field: &str) {
        let path = format!("metadata.{field}");
        let Some(Value::Object(entries)) = self.input.get(&path) else {
            return self.not_needed(&path, "it is empty");
        };
        for key in entries.keys() {
            let path = super::report::join(&path, key);
            self.not_needed(
                &path,
                "nothing reads it here: put it on the new object if your tools do",
            );
        }
    }

    /// What stands at a path of plain field names.
    pub(super) fn get(&self, field: &str) -> Option<&'a Value> {
        self.input.get(field)
    }

    /// Notes a field that has the wrong shape.
    fn misread<T>(&mut self, field: &str, wanted: &str) -> Option<T> {
        self.none(field, &format!("it cannot be read: it should be {wanted}"));
        None
    }

    /// A text; an empty one is as good as absent, and noted so.
    pub(super) fn text(&mut self, field: &str) -> Option<&'a str> {
        match self.get(field)? {
            Value::String(text) if text.is_empty() => {
                self.not_needed(field, "it is empty");
                None
            }
            Value::String(text) => Some(text),
            _ => self.misread(field, "a text"),
        }
    }

    /// True or false.
    pub(super) fn flag(&mut self, field: &str) -> Option<bool> {
        match self.get(field)?.as_bool() {
            Some(flag) => Some(flag),
            None => self.misread(field, "true or false"),
        }
    }

    /// A whole number.
    pub(super) fn number<T: TryFrom<u64>>(&mut self, field: &str) -> Option<T> {
        let number = self
            .get(field)?
            .as_u64()
            .and_then(|number| number.try_into().ok());
        match number {
            Some(number) => Some(number),
            None => self.misread(field, "a whole number in range"),
        }
    }

    /// An AS number: a number, the same as a text, or `high.low`.
    pub(super) fn as_number(&mut self, field: &str) -> Option<u32> {
        let number = as_number(self.get(field)?);
        match number {
            Some(number) => Some(number),
            None => self.misread(field, "an AS number"),
        }
    }

    /// A duration as Go writes it; what is not whole seconds is rounded as BGP can say it.
    pub(super) fn seconds(&mut self, field: &str) -> Option<u64> {
        let text = self.text(field)?;
        match text.parse::<GoDuration>() {
            Ok(GoDuration(time)) => Some(time.as_secs() + u64::from(time.subsec_millis() >= 500)),
            Err(_) => self.misread(field, "a duration such as 90s"),
        }
    }

    /// An IP address.
    pub(super) fn address(&mut self, field: &str) -> Option<IpAddr> {
        let text = self.text(field)?;
        match IpAddr::from_str(text) {
            Ok(address) => Some(address),
            Err(_) => self.misread(field, "an IP address"),
        }
    }

    /// A list.
    pub(super) fn list(&mut self, field: &str) -> &'a [Value] {
        match self.get(field) {
            Some(Value::Array(values)) if values.is_empty() => {
                self.not_needed(field, "it is empty");
                &[]
            }
            Some(Value::Array(values)) => values,
            Some(_) => self
                .misread::<&[Value]>(field, "a list")
                .unwrap_or_default(),
            None => &[],
        }
    }

    /// The texts of a list; an entry that is none is noted.
    pub(super) fn texts(&mut self, field: &str) -> Vec<(String, &'a str)> {
        let mut texts = Vec::new();
        for (index, value) in self.list(field).iter().enumerate() {
            let path = format!("{field}[{index}]");
            match value.as_str() {
                Some(text) => texts.push((path, text)),
                None => drop(self.misread::<()>(&path, "a text")),
            }
        }
        texts
    }

    /// The fields of `spec`; one that is no object is noted.
    pub(super) fn spec(&mut self) -> Option<&'a Map<String, Value>> {
        match self.get("spec") {
            None => None,
            Some(Value::Object(fields)) => Some(fields),
            Some(_) => self.misread("spec", "an object"),
        }
    }

    /// Closes the report: what nobody looked at is named.
    pub(super) fn close(mut self) -> ObjectReport {
        self.report.close(&self.input.value);
        self.report
    }
}

/// An AS number: a number, the same as a text, or `high.low` (RFC 5396).
pub(super) fn as_number(value: &Value) -> Option<u32> {
    match value {
        Value::Number(number) => number.as_u64().and_then(|number| number.try_into().ok()),
        Value::String(text) => match text.split_once('.') {
            None => text.parse().ok(),
            Some((high, low)) => {
                let (high, low): (u16, u16) = (high.parse().ok()?, low.parse().ok()?);
                Some(u32::from(high) << 16 | u32::from(low))
            }
        },
        _ => None,
    }
}
