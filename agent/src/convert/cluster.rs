//! What one object's meaning hangs on in the others: nodes and their labels, names that are referred to.

use std::collections::BTreeSet;

use serde_json::Value;

use super::input::{Input, as_number};

/// All objects that were read.
pub(super) struct Cluster<'a> {
    pub(super) inputs: &'a [Input],
}

impl<'a> Cluster<'a> {
    pub(super) fn new(inputs: &'a [Input]) -> Self {
        Self { inputs }
    }

    /// The objects of a group and kind.
    pub(super) fn all(&self, group: &str, kind: &str) -> impl Iterator<Item = &'a Input> {
        let wanted = self
            .inputs
            .iter()
            .filter(move |input| input.kind == kind && input.group().ends_with(group));
        wanted.collect::<Vec<_>>().into_iter()
    }

    /// The object of a group, kind and name.
    pub(super) fn find(&self, group: &str, kind: &str, name: &str) -> Option<&'a Input> {
        self.all(group, kind).find(|input| input.name == name)
    }

    /// The Nodes of Kubernetes.
    pub(super) fn nodes(&self) -> impl Iterator<Item = &'a Input> {
        self.inputs
            .iter()
            .filter(|input| input.kind == "Node" && input.api_version == "v1")
    }

    /// A selector for one node, and whether its label is known (else it is taken for the node's name).
    pub(super) fn only(&self, node: &str) -> (String, bool) {
        let found = self.nodes().find(|input| input.name == node);
        let label = found.and_then(|input| input.label(HOSTNAME));
        let selector = match literal(label.unwrap_or(node)) {
            Some(value) => format!("{HOSTNAME} == {value}"),
            None => NOBODY.to_owned(),
        };
        (selector, label.is_some())
    }

    /// A set of nodes by their label, as `{'n1', 'n2'}`.
    pub(super) fn set(&self, nodes: &BTreeSet<&str>) -> String {
        let label = |node: &&str| {
            let found = self.nodes().find(|input| input.name == **node);
            literal(
                found
                    .and_then(|input| input.label(HOSTNAME))
                    .unwrap_or(node),
            )
        };
        let values: Vec<String> = nodes.iter().filter_map(label).collect();
        format!("{{{}}}", values.join(", "))
    }

    /// A selector for these nodes.
    pub(super) fn among(&self, nodes: &BTreeSet<&str>) -> String {
        format!("{HOSTNAME} in {}", self.set(nodes))
    }

    /// Whether an address is an InternalIP of a Node.
    pub(super) fn has_address(input: &Input, address: std::net::IpAddr) -> bool {
        let addresses = input.get("status.addresses").and_then(Value::as_array);
        addresses.into_iter().flatten().any(|entry| {
            let text = |field| entry.get(field).and_then(Value::as_str);
            text("type") == Some("InternalIP")
                && text("address").and_then(|text| text.parse().ok()) == Some(address)
        })
    }

    /// The AS of nodes by Calico's BGPConfiguration `default`, or its default.
    pub(super) fn calico_as(&self) -> u32 {
        let found = self.find("projectcalico.org", "BGPConfiguration", "default");
        let number = found.and_then(|input| input.get("spec.asNumber"));
        number.and_then(as_number).unwrap_or(64512)
    }
}

/// A selector that no node matches.
pub(super) const NOBODY: &str = "!all()";

/// A text as a selector has it, in the quotes that it does not hold; `None` if it holds both.
pub(super) fn literal(text: &str) -> Option<String> {
    match (text.contains('\''), text.contains('"')) {
        (false, _) => Some(format!("'{text}'")),
        (true, false) => Some(format!("\"{text}\"")),
        (true, true) => None,
    }
}

/// The label that every kubelet gives its Node.
pub(super) const HOSTNAME: &str = "kubernetes.io/hostname";
