//! YAML and JSON as programs besides the watchers need them: a text to its documents, and a value to a document.

use serde_json::Value;

use crate::document;

/// One document of a text.
#[derive(Clone, Debug, PartialEq)]
pub struct TextDocument {
    /// The line it begins at, counted from 1.
    pub line: u64,
    /// What it says; never null.
    pub value: Value,
}

/// A text that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct TextError {
    /// Where it is wrong, counted from 1.
    pub line: u64,
    /// What is wrong there.
    pub message: String,
}

/// Reads every document of a YAML stream (JSON is YAML); empty ones are left out.
///
/// # Errors
/// The first place that is no YAML.
pub fn read_documents(text: &str) -> Result<Vec<TextDocument>, TextError> {
    let mut documents = Vec::new();
    for document in document::split(text) {
        if document.is_blank() {
            continue;
        }
        let line = document.first_line();
        match document.value() {
            Ok(Value::Null) => {}
            Ok(value) => documents.push(TextDocument { line, value }),
            Err(fault) => {
                let line = fault.line.unwrap_or(line);
                let message = fault.message.replace(char::is_control, " ");
                return Err(TextError { line, message });
            }
        }
    }
    Ok(documents)
}

/// Writes a value as one YAML document, without a marker before it.
///
/// # Errors
/// What cannot be written: nothing that was read from JSON or YAML.
pub fn write_document(value: &Value) -> Result<String, TextError> {
    serde_saphyr::to_string(value).map_err(|error| TextError {
        line: 1,
        message: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn documents_are_read_with_the_line_each_begins_at() {
        let text = "# a word\n---\nkind: A\n---\n\n---\n# two\nkind: B\nitems: [1, '2', no]\n";
        let documents = read_documents(text).unwrap();
        let lines: Vec<u64> = documents.iter().map(|document| document.line).collect();
        assert_eq!(lines, [3, 8]);
        assert_eq!(documents[1].value["items"], json!([1, "2", "no"]));
        assert_eq!(read_documents("{\"kind\": \"C\"}").unwrap().len(), 1);
        assert_eq!(read_documents("a: 1\n---\nb: [").unwrap_err().line, 3);
    }

    #[test]
    fn texts_that_other_readers_take_for_something_else_are_quoted() {
        // YAML 1.1, which kubectl reads, has more booleans and numbers than 1.2.
        for word in [
            "yes", "no", "on", "off", "y", "n", "true", "null", "~", "1", "0x1f", "1e3", "010",
            "12:30", "65000:1", "",
        ] {
            let written = write_document(&json!({"a": word})).unwrap();
            let quoted =
                written.contains(&format!("'{word}'")) || written.contains(&format!("\"{word}\""));
            assert!(quoted, "{written}");
        }
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            "[-:#{}\\[\\]&*!|>'\"%@`, \n\ta-c0-9.~]{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-zA-Z0-9./_-]{1,12}", inner, 0..4)
                    .prop_map(Value::from_iter),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_as_the_same(value in values()) {
            let value = json!({"inner": value});
            let text = write_document(&value).unwrap();
            let documents = read_documents(&text);
            prop_assert!(documents.is_ok(), "{documents:?}\n{text}");
            let documents = documents.unwrap();
            prop_assert_eq!(documents.len(), 1, "{}", text);
            prop_assert_eq!(&documents[0].value, &value, "{}", text);
        }
    }
}
