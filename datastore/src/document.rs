//! From a manifest's text to objects, with the line that each begins at.

use std::sync::Arc;

use api::{Key, Resource};
use serde_json::Value;

/// What one file says.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Contents {
    /// Its objects in order.
    pub(crate) objects: Vec<Object>,
    /// What is wrong in it.
    pub(crate) faults: Vec<Fault>,
}

/// One object of a file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Object {
    pub(crate) key: Key,
    /// Shared with every state made of the file, for it seldom changes.
    pub(crate) resource: Arc<Resource>,
    /// Where its document begins, counted from 1.
    pub(crate) line: u64,
}

/// Something wrong at a place of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) line: Option<u64>,
    pub(crate) object: Option<String>,
    pub(crate) message: String,
}

/// Reads a file by the form that its name promises.
pub(crate) fn read(file_name: &str, text: &str) -> Contents {
    let mut contents = Contents::default();
    let documents = match file_name.ends_with(".json") {
        true => vec![Document {
            line: 1,
            text: text.to_owned(),
            is_json: true,
        }],
        false => split(text),
    };
    for document in documents {
        if document.is_blank() {
            continue;
        }
        match document.value() {
            Ok(Value::Null) => {}
            Ok(value) => contents.take(document.first_line(), value),
            Err(fault) => contents.faults.push(fault),
        }
    }
    contents
}

impl Contents {
    /// Takes one document: an object, or a `List` of them as `kubectl get -o yaml` writes it.
    fn take(&mut self, line: u64, value: Value) {
        let field = |name| value.get(name).and_then(Value::as_str).map(str::to_owned);
        let (Some(kind), Some(api_version)) = (field("kind"), field("apiVersion")) else {
            let message = "the document has no kind or no apiVersion".to_owned();
            return self.faults.push(Fault {
                line: Some(line),
                object: None,
                message,
            });
        };
        match value {
            Value::Object(mut fields) if kind == "List" && api_version == "v1" => {
                let items = match fields.remove("items") {
                    Some(Value::Array(items)) => items,
                    _ => Vec::new(),
                };
                for item in items {
                    self.take_one_of_list(line, item);
                }
            }
            value => self.parse(line, &kind, &api_version, value),
        }
    }

    fn take_one_of_list(&mut self, line: u64, item: Value) {
        if item.get("kind").and_then(Value::as_str) == Some("List") {
            let message = "a List stands in a List".to_owned();
            return self.faults.push(Fault {
                line: Some(line),
                object: None,
                message,
            });
        }
        self.take(line, item);
    }

    /// What is left when others than the file's owner can read or write it.
    pub(crate) fn without_secrets(mut self, mode: u32) -> Self {
        let (secrets, others) = std::mem::take(&mut self.objects)
            .into_iter()
            .partition(|object| matches!(object.key, Key::Secret(_)));
        self.objects = others;
        let fault = |object: Object| Fault {
            line: Some(object.line),
            object: Some(object.key.to_string()),
            message: format!(
                "{}: the file is open to others than its owner (mode {mode:04o}), a Secret's must not be: chmod 600 it",
                object.key
            ),
        };
        let secrets: Vec<Object> = secrets;
        self.faults.extend(secrets.into_iter().map(fault));
        self
    }

    fn parse(&mut self, line: u64, kind: &str, api_version: &str, value: Value) {
        if kind == "Secret" && !is_of_our_namespace(&value) {
            return;
        }
        match api::parse(kind, api_version, value) {
            Ok(None) => {}
            Ok(Some((key, resource))) => self.objects.push(Object {
                key,
                resource: Arc::new(resource),
                line,
            }),
            Err(error) => self.faults.push(Fault {
                line: Some(line),
                object: error.object().map(str::to_owned),
                message: error.to_string(),
            }),
        }
    }
}

/// The namespace that Secrets named by BGPPeers are in (in a cluster: the agent's).
const OUR_NAMESPACE: &str = "portolan";

fn is_of_our_namespace(value: &Value) -> bool {
    let metadata = value.get("metadata");
    let namespace = metadata.and_then(|metadata| metadata.get("namespace"));
    namespace.and_then(Value::as_str) == Some(OUR_NAMESPACE)
}

/// A part of a file between two document markers.
pub(crate) struct Document {
    /// The line that `text` begins at, counted from 1.
    line: u64,
    text: String,
    is_json: bool,
}

impl Document {
    pub(crate) fn is_blank(&self) -> bool {
        self.content_offset().is_none()
    }

    /// How many lines stand before the first one that is not empty, a comment or the marker.
    fn content_offset(&self) -> Option<u64> {
        let silent = |line: &str| {
            let line = line.strip_prefix("---").unwrap_or(line).trim();
            line.is_empty() || line == "..." || (line.starts_with(['#', '%']) && !self.is_json)
        };
        let lines = self.text.lines().zip(0_u64..);
        lines
            .filter(|(line, _)| !silent(line))
            .map(|(_, index)| index)
            .next()
    }

    pub(crate) fn first_line(&self) -> u64 {
        self.line + self.content_offset().unwrap_or(0)
    }

    pub(crate) fn value(&self) -> Result<Value, Fault> {
        let fault = |line: Option<u64>, message: String| Fault {
            line: line
                .filter(|line| *line > 0)
                .map(|line| line + self.line - 1),
            object: None,
            message,
        };
        if self.is_json {
            return serde_json::from_str(&self.text)
                .map_err(|error| fault(u64::try_from(error.line()).ok(), error.to_string()));
        }
        let options = serde_saphyr::options! { with_snippet: false, strict_booleans: true };
        serde_saphyr::from_str_with_options(&self.text, options).map_err(|error| {
            let line = error.location().map(|location| location.line());
            fault(line, error.to_string())
        })
    }
}

/// Cuts a YAML stream at its `---` lines, which cannot be part of any scalar (YAML 1.2.2 §9.1.2).
pub(crate) fn split(text: &str) -> Vec<Document> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut documents = vec![Document {
        line: 1,
        text: String::new(),
        is_json: false,
    }];
    for (line, number) in text.split_inclusive('\n').zip(1_u64..) {
        let after = line.strip_prefix("---");
        let is_marker =
            after.is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace));
        if is_marker {
            documents.push(Document {
                line: number,
                text: String::new(),
                is_json: false,
            });
        }
        if let Some(document) = documents.last_mut() {
            document.text.push_str(line);
        }
    }
    documents
}
