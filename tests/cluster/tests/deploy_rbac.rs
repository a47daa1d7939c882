//! The rights that deploy/ gives, on the real API server: with them the source is in sync, and without any one of those to
//! read it is not, and says why.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use cluster::ControlPlane;
use datastore::{ClusterSettings, NodeWrites, Source, watch_kubernetes};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(60);
/// How long those that lack a right are looked at after one that has all is in sync.
const A_WHILE: Duration = Duration::from_secs(5);

const PEER: &str = "
apiVersion: portolan.io/v1alpha1
kind: BGPPeer
metadata: {name: tor}
spec:
  peerAddress: 192.0.2.1
  asNumber: 64600
  password: {secretKeyRef: {name: tor, key: password}}
";

fn documents() -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/kubernetes/rbac.yaml");
    let text = std::fs::read_to_string(path).unwrap();
    let documents = datastore::read_documents(&text).unwrap();
    documents
        .into_iter()
        .map(|document| document.value)
        .collect()
}

fn has(list: &Value, word: &str) -> bool {
    list.as_array().unwrap().iter().any(|entry| entry == word)
}

/// The resources that are watched, of both roles.
fn watched() -> Vec<String> {
    let mut all = Vec::new();
    for document in documents() {
        let rules = document["rules"].as_array().cloned().unwrap_or_default();
        for rule in rules.iter().filter(|rule| has(&rule["verbs"], "watch")) {
            let resources = rule["resources"].as_array().unwrap();
            all.extend(
                resources
                    .iter()
                    .filter_map(Value::as_str)
                    .map(str::to_owned),
            );
        }
    }
    all
}

/// Makes an account with the rights of deploy/, under another name, without reading one resource.
fn account(plane: &ControlPlane, name: &str, without: Option<&str>) -> PathBuf {
    for mut document in documents() {
        document["metadata"]["name"] = json!(name);
        if document["roleRef"].is_object() {
            document["roleRef"]["name"] = json!(name);
            document["subjects"][0]["name"] = json!(name);
        }
        for rule in document["rules"].as_array_mut().into_iter().flatten() {
            if has(&rule["verbs"], "watch") {
                let resources = rule["resources"].as_array_mut().unwrap();
                resources.retain(|resource| resource.as_str() != without);
            }
        }
        let rules = document["rules"].as_array_mut();
        rules
            .into_iter()
            .for_each(|rules| rules.retain(|rule| rule["resources"] != json!([])));
        plane.apply(&document.to_string());
    }
    plane.service_account_kubeconfig("portolan", name)
}

async fn source(kubeconfig: PathBuf) -> Source {
    let settings = ClusterSettings {
        kubeconfig: Some(kubeconfig),
        node: "n1".to_owned(),
        namespace: "portolan".to_owned(),
        node_writes: NodeWrites::default(),
    };
    watch_kubernetes(&settings).await.unwrap()
}

async fn in_sync(source: &mut Source, patience: Duration) -> bool {
    let wait = async {
        while let Some(event) = source.events.recv().await {
            if event == api::Event::InSync {
                return true;
            }
        }
        false
    };
    tokio::time::timeout(patience, wait).await.unwrap_or(false)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_any_one_right_to_read_the_agent_never_acts() {
    let plane = ControlPlane::shared();
    plane.install_crds();
    plane.install_cluster_network_policy();
    plane.apply(r#"{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "portolan"}}"#);
    // Secrets are read as soon as a BGPPeer means one.
    plane.apply(PEER);
    let resources = watched();
    assert_eq!(resources.len(), 12, "{resources:?}");
    let mut lacking = Vec::new();
    for resource in &resources {
        let kubeconfig = account(plane, &format!("without-{resource}"), Some(resource));
        lacking.push((resource, source(kubeconfig).await));
    }
    let mut whole = source(account(plane, "portolan-agent", None)).await;
    assert!(
        in_sync(&mut whole, SOON).await,
        "{:?}",
        whole.problems.borrow()
    );
    tokio::time::sleep(A_WHILE).await;
    for (resource, mut source) in lacking {
        let problems: Vec<String> = source
            .problems
            .borrow()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert!(
            !in_sync(&mut source, Duration::from_millis(100)).await,
            "without {resource}"
        );
        let said = problems.join("\n");
        assert!(
            said.to_lowercase().contains(resource) && said.contains("orbidden"),
            "without {resource}: {said}"
        );
    }
    let requests = plane.requests().into_iter();
    let refused: Vec<_> = requests
        .filter(|request| request.user.ends_with(":portolan-agent") && request.code == 403)
        .collect();
    assert!(refused.is_empty(), "{refused:?}");
}
