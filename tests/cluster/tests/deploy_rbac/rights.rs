//! The rights that deploy/ gives, one by one, and accounts that have all of them but one.

use std::path::{Path, PathBuf};

use cluster::ControlPlane;
use serde_json::{Value, json};

use crate::WHOLE;

/// One verb on one resource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Right {
    pub(crate) verb: String,
    /// With its subresource.
    pub(crate) resource: String,
    group: String,
    /// The one object that it is for.
    name: Option<String>,
    /// Whether it holds in the agent's own namespace only.
    is_of_namespace: bool,
}

impl Right {
    /// `patch nodes/status`, as requests are written down, too.
    pub(crate) fn words(&self) -> String {
        format!("{} {}", self.verb, self.resource)
    }

    /// Part of names of objects.
    fn label(&self) -> String {
        let of = self.name.iter().map(|name| format!("-{name}"));
        let of: String = of.collect();
        format!("{}-{}{of}", self.verb, self.resource.replace('/', "-"))
    }

    /// The same for another object, if it is for one.
    pub(crate) fn for_object(self, name: &str) -> Self {
        Self {
            name: self.name.map(|_| name.to_owned()),
            ..self
        }
    }

    fn rule(&self) -> Value {
        let mut rule = json!({
            "apiGroups": [self.group], "resources": [self.resource], "verbs": [self.verb],
        });
        if let Some(name) = &self.name {
            rule["resourceNames"] = json!([name]);
        }
        rule
    }
}

fn words(list: &Value) -> Vec<String> {
    let words = list.as_array().into_iter().flatten();
    words
        .map(|word| word.as_str().unwrap().to_owned())
        .collect()
}

fn read(path: &str) -> Vec<Value> {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy");
    documents(&std::fs::read_to_string(deploy.join(path)).unwrap())
}

fn documents(text: &str) -> Vec<Value> {
    let documents = datastore::read_documents(text).unwrap().into_iter();
    documents.map(|document| document.value).collect()
}

/// Every right of the base, and of the components that take a taint off nodes and give load balancers' addresses.
pub(crate) fn of_agent() -> Vec<Right> {
    let mut rights = of_roles("kubernetes/rbac.yaml", "portolan");
    for component in ["not-ready-taint", "load-balancer"] {
        rights.extend(of_component(component));
    }
    assert_once(&rights);
    rights
}

/// Those of the component for addresses without a router alone: they stand beside the base's.
pub(crate) fn of_layer2() -> Vec<Right> {
    of_component("layer2")
}

/// Those of the ingress controller.
pub(crate) fn of_ingress() -> Vec<Right> {
    let rights = of_roles("components/ingress/rbac.yaml", "portolan-ingress");
    assert_once(&rights);
    rights
}

fn assert_once(rights: &[Right]) {
    let mut once = rights.to_vec();
    once.sort();
    once.dedup();
    assert_eq!(once.len(), rights.len(), "a right is given twice");
}

/// Of the roles in a file, for the accounts of one namespace.
fn of_roles(path: &str, namespace: &str) -> Vec<Right> {
    let mut rights = Vec::new();
    for role in read(path) {
        let is_of_namespace = match role["kind"].as_str().unwrap() {
            "ClusterRole" => false,
            "Role" => {
                assert_eq!(role["metadata"]["namespace"], namespace);
                true
            }
            "ServiceAccount" | "ClusterRoleBinding" | "RoleBinding" => continue,
            other => panic!("what rights does a {other} give?"),
        };
        for rule in role["rules"].as_array().unwrap() {
            rights.extend(of_rule(rule, is_of_namespace));
        }
    }
    rights
}

/// What a component adds to the agent's roles.
fn of_component(name: &str) -> Vec<Right> {
    let component = read(&format!("components/{name}/kustomization.yaml")).remove(0);
    let mut rights = Vec::new();
    for patch in component["patches"].as_array().unwrap() {
        let is_of_namespace = match patch["target"]["kind"].as_str().unwrap() {
            "ClusterRole" => false,
            "Role" => true,
            _ => continue,
        };
        let operations = documents(patch["patch"].as_str().unwrap());
        for operation in operations.iter().filter_map(Value::as_array).flatten() {
            rights.extend(of_rule(&operation["value"], is_of_namespace));
        }
    }
    rights
}

fn of_rule(rule: &Value, is_of_namespace: bool) -> Vec<Right> {
    let fields = rule.as_object().unwrap().keys();
    let known = ["apiGroups", "resources", "resourceNames", "verbs"];
    for field in fields {
        assert!(known.contains(&field.as_str()), "{field}: {rule}");
    }
    let names = words(&rule["resourceNames"]);
    assert!(names.len() < 2, "{rule}");
    let mut rights = Vec::new();
    for group in words(&rule["apiGroups"]) {
        for resource in words(&rule["resources"]) {
            for verb in words(&rule["verbs"]) {
                assert!(![&group, &resource, &verb].contains(&&"*".to_owned()));
                rights.push(Right {
                    verb,
                    resource: resource.clone(),
                    group: group.clone(),
                    name: names.first().cloned(),
                    is_of_namespace,
                });
            }
        }
    }
    rights
}

/// Who is somebody's, with a namespace of its own, so that it shares neither Lease nor Secrets with another.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    /// Of the account, of its namespace and node, and of all objects that are its own.
    pub(crate) name: String,
    /// Its own part of addresses.
    pub(crate) number: usize,
    /// What it may not do; the one that may do all has none.
    pub(crate) lacks: Option<Right>,
}

impl Account {
    /// One with every right first, then those that lack one each; all names begin so.
    pub(crate) fn all(prefix: &str, rights: &[Right]) -> Vec<Self> {
        let lacking = rights.iter().cloned().map(Some);
        let lacking = std::iter::once(None).chain(lacking).enumerate();
        let named = |(number, lacks): (usize, Option<Right>)| Self {
            name: match &lacks {
                None => format!("{prefix}{WHOLE}"),
                Some(right) => format!("{prefix}no-{}", right.label()),
            },
            number,
            lacks,
        };
        lacking.map(named).collect()
    }

    /// The user's name in the server's log.
    pub(crate) fn user(&self) -> String {
        format!("system:serviceaccount:{0}:{0}", self.name)
    }

    /// The account, and what it may do.
    pub(crate) fn objects(&self, rights: &[Right]) -> Vec<Value> {
        let name = &self.name;
        let has = rights
            .iter()
            .filter(|right| Some(*right) != self.lacks.as_ref());
        let (of_namespace, of_cluster): (Vec<&Right>, Vec<&Right>) =
            has.partition(|right| right.is_of_namespace);
        let rules =
            |rights: Vec<&Right>| -> Vec<Value> { rights.into_iter().map(Right::rule).collect() };
        let metadata = json!({"name": name, "namespace": name});
        let subjects = json!([{"kind": "ServiceAccount", "name": name, "namespace": name}]);
        let group = "rbac.authorization.k8s.io";
        let version = "rbac.authorization.k8s.io/v1";
        vec![
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}),
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}),
            json!({"apiVersion": version, "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules(of_cluster)}),
            json!({"apiVersion": version, "kind": "Role", "metadata": metadata, "rules": rules(of_namespace)}),
            json!({
                "apiVersion": version, "kind": "ClusterRoleBinding", "metadata": {"name": name},
                "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": name}, "subjects": subjects,
            }),
            json!({
                "apiVersion": version, "kind": "RoleBinding", "metadata": metadata,
                "roleRef": {"apiGroup": group, "kind": "Role", "name": name}, "subjects": subjects,
            }),
        ]
    }

    pub(crate) fn kubeconfig(&self, plane: &ControlPlane) -> PathBuf {
        plane.service_account_kubeconfig(&self.name, &self.name)
    }
}
