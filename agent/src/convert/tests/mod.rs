//! Conversions of whole texts: every field accounted for, every object taken, meanings kept.
#![allow(clippy::indexing_slicing, reason = "a test")]

mod any_input;
mod docs;
mod meaning;
mod schemas;

use serde_json::Value;

use super::{Conversion, Entry, Outcome, convert};

fn converted(text: &str) -> Conversion {
    convert(text, "portolan").unwrap()
}

/// The object of a kind and name that was written.
fn written<'a>(conversion: &'a Conversion, kind: &str, name: &str) -> &'a Value {
    let found = conversion
        .objects
        .iter()
        .find(|object| object.value["kind"] == kind && object.value["metadata"]["name"] == name);
    &found.unwrap_or_else(|| panic!("no {kind} {name}")).value
}

/// What became of a field of an object.
fn entry<'a>(conversion: &'a Conversion, object: &str, field: &str) -> &'a Entry {
    let reports = conversion.report.iter();
    let mut entries = reports
        .filter(|report| report.object == object)
        .flat_map(|report| &report.fields);
    let found = entries.find(|entry| entry.field == field);
    found.unwrap_or_else(|| panic!("nothing of {object} {field}"))
}

fn outcome(conversion: &Conversion, object: &str, field: &str) -> Outcome {
    entry(conversion, object, field).outcome
}
