//! The objects that are written: names given once, each checked as the agent will check it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::report::Place;

const API_VERSION: &str = "portolan.io/v1alpha1";

/// An object of ours that is being written.
pub(super) struct Draft {
    kind: &'static str,
    name: String,
    spec: Map<String, Value>,
}

impl Draft {
    /// Sets a field of the spec.
    pub(super) fn set(&mut self, field: &str, value: impl Into<Value>) -> Place {
        self.spec.insert(field.to_owned(), value.into());
        self.place(field)
    }

    /// Where a field of the spec will stand.
    pub(super) fn place(&self, field: &str) -> Place {
        Place {
            kind: self.kind,
            name: self.name.clone(),
            field: format!("spec.{field}"),
        }
    }

    /// The object itself.
    pub(super) fn itself(&self) -> Place {
        Place {
            kind: self.kind,
            name: self.name.clone(),
            field: String::new(),
        }
    }

    pub(super) fn has(&self, field: &str) -> bool {
        self.spec.contains_key(field)
    }
}

/// What is to be written, in the order in which it is best applied.
pub(super) struct Output {
    namespace: String,
    configuration: Map<String, Value>,
    secrets: BTreeMap<String, BTreeMap<String, SecretText>>,
    drafts: Vec<Draft>,
    taken: BTreeSet<(&'static str, String)>,
    nodes: BTreeMap<String, BTreeMap<String, String>>,
}

/// A Secret's value: never in a report, and without `Debug`.
pub(super) enum SecretText {
    /// As it is.
    Plain(String),
    /// In base64.
    Base64(String),
}

/// One object that is written.
#[derive(Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Written {
    /// The object.
    pub value: Value,
    /// A word to people before it, one line each.
    #[serde(skip)]
    pub comment: Vec<String>,
}

/// An object that would be refused: kind, name and why.
pub(super) type Refused = (&'static str, String, String);

impl Output {
    pub(super) fn new(namespace: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            configuration: Map::new(),
            secrets: BTreeMap::new(),
            drafts: Vec::new(),
            taken: BTreeSet::new(),
            nodes: BTreeMap::new(),
        }
    }

    /// The namespace that Secrets are written to: the agent's.
    pub(super) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Begins an object; a name that is taken gets a number.
    pub(super) fn draft(&mut self, kind: &'static str, name: &str) -> Draft {
        let candidates = (2..).map(|number: u32| format!("{name}-{number}"));
        let name = std::iter::once(name.to_owned())
            .chain(candidates)
            .find(|name| self.taken.insert((kind, name.clone())))
            .unwrap_or_default();
        Draft {
            kind,
            name,
            spec: Map::new(),
        }
    }

    /// Writes an object.
    pub(super) fn add(&mut self, draft: Draft) {
        self.drafts.push(draft);
    }

    /// Sets a field of the BGPConfiguration.
    ///
    /// # Errors
    /// Why it cannot be: it would be refused, or something else stands there already.
    pub(super) fn configure(&mut self, field: &str, value: Value) -> Result<Place, String> {
        if let Some(there) = self.configuration.get(field)
            && *there != value
        {
            return Err(format!(
                "the BGPConfiguration has {field} {there} already, from another object"
            ));
        }
        let mut tried = self.configuration.clone();
        tried.insert(field.to_owned(), value);
        check(&configuration(&tried))?;
        self.configuration = tried;
        Ok(Place {
            kind: "BGPConfiguration",
            name: "default".to_owned(),
            field: format!("spec.{field}"),
        })
    }

    /// Sets a field of the BGPConfiguration whatever stands there.
    ///
    /// # Errors
    /// Why it would be refused.
    pub(super) fn replace(&mut self, field: &str, value: Value) -> Result<Place, String> {
        let before = self.configuration.remove(field);
        let outcome = self.configure(field, value);
        if let (Err(_), Some(before)) = (&outcome, before) {
            self.configuration.insert(field.to_owned(), before);
        }
        outcome
    }

    /// What a field of the BGPConfiguration holds so far.
    pub(super) fn configured(&self, field: &str) -> Option<&Value> {
        self.configuration.get(field)
    }

    /// Writes a value of a Secret.
    pub(super) fn secret(&mut self, name: &str, key: &str, text: SecretText) -> Place {
        let values = self.secrets.entry(name.to_owned()).or_default();
        values.insert(key.to_owned(), text);
        Place {
            kind: "Secret",
            name: name.to_owned(),
            field: key.to_owned(),
        }
    }

    /// Annotates a node.
    pub(super) fn annotate(&mut self, node: &str, key: &str, value: &str) -> Place {
        let annotations = self.nodes.entry(node.to_owned()).or_default();
        annotations.insert(key.to_owned(), value.to_owned());
        Place {
            kind: "Node",
            name: node.to_owned(),
            field: super::report::join("metadata.annotations", key),
        }
    }

    /// All objects that the agent takes, and those that it would refuse.
    pub(super) fn finish(self) -> (Vec<Written>, Vec<Refused>) {
        let (mut written, mut refused) = (Vec::new(), Vec::new());
        let mut offer = |kind, name: &str, value: Value, comment| match check(&value) {
            Ok(()) => written.push(Written { value, comment }),
            Err(why) => refused.push((kind, name.to_owned(), why)),
        };
        if !self.configuration.is_empty() {
            let value = configuration(&self.configuration);
            offer("BGPConfiguration", "default", value, Vec::new());
        }
        for (name, values) in &self.secrets {
            let comment =
                vec!["A Secret: keep this text as safe as the passwords in it.".to_owned()];
            offer(
                "Secret",
                name,
                secret(&self.namespace, name, values),
                comment,
            );
        }
        const ORDER: [&str; 4] = ["BGPFilter", "IPPool", "IPReservation", "BGPPeer"];
        let mut drafts = self.drafts;
        drafts.sort_by_key(|draft| ORDER.iter().position(|kind| *kind == draft.kind));
        for draft in drafts {
            let metadata = json!({"name": draft.name});
            let value = object(draft.kind, metadata, "spec", Value::Object(draft.spec));
            offer(draft.kind, &draft.name, value, Vec::new());
        }
        for (name, annotations) in &self.nodes {
            let value = json!({
                "apiVersion": "v1", "kind": "Node",
                "metadata": {"name": name, "annotations": annotations},
            });
            let pairs = annotations
                .iter()
                .map(|(key, value)| format!("{key}={value}"));
            let pairs: Vec<String> = pairs.collect();
            let comment = vec![
                format!(
                    "kubectl annotate node {name} --overwrite {}",
                    pairs.join(" ")
                ),
                "or kubectl apply --server-side, which adds them to the Node that is there"
                    .to_owned(),
            ];
            offer("Node", name, value, comment);
        }
        (written, refused)
    }
}

fn object(kind: &str, metadata: Value, body: &str, content: Value) -> Value {
    json!({"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, body: content})
}

fn configuration(spec: &Map<String, Value>) -> Value {
    object(
        "BGPConfiguration",
        json!({"name": "default"}),
        "spec",
        Value::Object(spec.clone()),
    )
}

fn secret(namespace: &str, name: &str, values: &BTreeMap<String, SecretText>) -> Value {
    let (mut data, mut plain) = (Map::new(), Map::new());
    for (key, text) in values {
        match text {
            SecretText::Plain(text) => plain.insert(key.clone(), text.as_str().into()),
            SecretText::Base64(text) => data.insert(key.clone(), text.as_str().into()),
        };
    }
    let mut value = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
        "metadata": {"name": name, "namespace": namespace},
    });
    for (field, values) in [("data", data), ("stringData", plain)] {
        if let (false, Value::Object(fields)) = (values.is_empty(), &mut value) {
            fields.insert(field.to_owned(), Value::Object(values));
        }
    }
    value
}

/// Whether the agent takes an object.
///
/// # Errors
/// Its own words why not.
fn check(value: &Value) -> Result<(), String> {
    let field = |name| value.get(name).and_then(Value::as_str).unwrap_or_default();
    match api::parse(field("kind"), field("apiVersion"), value.clone()) {
        Ok(_) => Ok(()),
        Err(api::ParseError::Invalid { message, .. }) => Err(message),
        Err(error) => Err(error.to_string()),
    }
}
