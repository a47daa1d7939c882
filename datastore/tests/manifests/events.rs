//! What a node tells people of objects that it cannot carry out.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use api::{Key, NamespacedName};
use datastore::{EventRecord, EventType, Regarding};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use crate::lab::*;

fn event(name: &str, message: &str) -> EventRecord {
    let key = Key::NetworkPolicy(NamespacedName::new("shop", name));
    EventRecord {
        regarding: Regarding::from(&key),
        reason: "PolicyNotEnforced".to_owned(),
        event_type: EventType::Warning,
        message: message.to_owned(),
        count: 1,
        first_timestamp: None,
        last_timestamp: None,
    }
}

fn file(lab: &Lab) -> PathBuf {
    lab.path().join(".status/node1.events.json")
}

fn read(lab: &Lab) -> Value {
    serde_json::from_slice(&fs::read(file(lab)).unwrap()).unwrap()
}

#[tokio::test]
async fn events_are_a_whole_file_of_records_that_no_reader_minds() {
    let mut lab = Lab::with(&[
        ("a.yaml", &node("node1", "10.1.0.0/24")),
        (".status/node2.events.json", "{ not yet whole"),
    ])
    .await;
    let at: Time = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
    let cluster = Key::ClusterNetworkPolicy("lockdown".to_owned());
    let seen = EventRecord {
        regarding: Regarding::from(&cluster),
        count: 3,
        first_timestamp: Some(at),
        ..event("", "spec.egress[0].to[0]: none is there")
    };
    let events = vec![seen, event("web", "a set could not be loaded")];
    lab.source.status.publish_events(events).await.unwrap();
    let expected = json!({"node": "node1", "events": [
        {"regarding": {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "namespace": "shop", "name": "web"},
            "reason": "PolicyNotEnforced", "type": "Warning", "message": "a set could not be loaded", "count": 1},
        {"regarding": {"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy", "name": "lockdown"},
            "reason": "PolicyNotEnforced", "type": "Warning", "message": "spec.egress[0].to[0]: none is there",
            "count": 3, "firstTimestamp": "2026-01-01T00:00:00Z"},
    ]});
    assert_eq!(read(&lab), expected);
    let names = fs::read_dir(lab.path().join(".status"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let drafts: Vec<String> = names.filter(|name| name.starts_with('.')).collect();
    assert_eq!(drafts, [""; 0], "no draft is left behind");
    lab.source.refresh.refresh().await;
    lab.is_silent().await;
    assert_eq!(*lab.source.problems.borrow(), []);
}

#[tokio::test]
async fn the_same_events_in_any_order_are_not_written_again_and_gone_ones_go() {
    let lab = Lab::with(&[]).await;
    let publish = |events| lab.source.status.publish_events(events);
    publish(Vec::new()).await.unwrap();
    assert!(!file(&lab).exists(), "there is nothing to tell");
    let (a, b) = (event("a", "x"), event("b", "y"));
    publish(vec![a.clone(), b.clone()]).await.unwrap();
    let inode = || fs::metadata(file(&lab)).unwrap().ino();
    let first = inode();
    // An inode that is in use is nobody else's.
    let _held = fs::File::open(file(&lab)).unwrap();
    publish(vec![b.clone(), a]).await.unwrap();
    assert_eq!(inode(), first);
    publish(vec![b]).await.unwrap();
    assert_ne!(inode(), first);
    assert_eq!(read(&lab)["events"].as_array().unwrap().len(), 1);
    publish(Vec::new()).await.unwrap();
    assert_eq!(read(&lab), json!({"node": "node1", "events": []}));
}

#[tokio::test]
async fn more_than_a_thousand_events_end_with_how_many_more_there_are() {
    let lab = Lab::with(&[]).await;
    let events = |count: usize| (0..count).map(|number| event(&format!("p{number:04}"), "x"));
    let publish = |count| lab.source.status.publish_events(events(count).collect());
    publish(1000).await.unwrap();
    assert_eq!(read(&lab)["events"].as_array().unwrap().len(), 1000);
    publish(1234).await.unwrap();
    let told = read(&lab);
    let told = told["events"].as_array().unwrap();
    assert_eq!(told.len(), 1001);
    assert_eq!(told[999]["regarding"]["name"], "p0999");
    let last = &told[1000];
    assert_eq!(last["message"], "234 more are not shown");
    assert_eq!(last["reason"], "TooManyEvents");
    assert_eq!(
        last["regarding"],
        json!({"apiVersion": "v1", "kind": "Node", "name": "node1"})
    );
}

#[tokio::test]
async fn a_message_is_cut_to_what_an_event_takes_and_quotes_nothing_raw() {
    let lab = Lab::with(&[]).await;
    let hostile = format!("\"\n\0\u{1b}{}", "é".repeat(600));
    lab.source
        .status
        .publish_events(vec![event("web", &hostile)])
        .await
        .unwrap();
    let text = fs::read_to_string(file(&lab)).unwrap();
    assert!(!text.contains(['\0', '\u{1b}']));
    let told = read(&lab);
    let message = told["events"][0]["message"].as_str().unwrap();
    assert!(
        message.len() <= 1024 && message.ends_with("é…"),
        "{message}"
    );
}

#[tokio::test]
async fn a_link_in_the_place_of_the_events_or_their_draft_does_no_harm() {
    let lab = Lab::with(&[(".status/.x", "")]).await;
    let victim = lab.path().join("victim");
    fs::write(&victim, "precious").unwrap();
    for name in ["node1.events.json", ".node1.events.json"] {
        std::os::unix::fs::symlink(&victim, lab.path().join(".status").join(name)).unwrap();
    }
    let events = vec![event("web", "x")];
    lab.source.status.publish_events(events).await.unwrap();
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    assert!(fs::symlink_metadata(file(&lab)).unwrap().is_file());
}

#[tokio::test]
async fn a_node_may_not_be_called_as_if_its_pods_were_another_nodes_events() {
    let folder = tempfile::tempdir().unwrap();
    let refused = datastore::watch_manifests(folder.path(), "node1.events");
    assert!(matches!(refused, Err(datastore::Error::NodeName(_))));
    assert!(datastore::watch_manifests(folder.path(), "events").is_ok());
}

#[test]
fn every_kind_of_key_is_named_as_its_manifest_is() {
    let name = || NamespacedName::new("shop", "x");
    for (key, api_version, kind) in [
        (Key::Pod(name()), "v1", "Pod"),
        (Key::Secret(name()), "v1", "Secret"),
        (
            Key::NetworkPolicy(name()),
            "networking.k8s.io/v1",
            "NetworkPolicy",
        ),
        (Key::Node("x".to_owned()), "v1", "Node"),
        (Key::Namespace("x".to_owned()), "v1", "Namespace"),
        (
            Key::BgpPeer("x".to_owned()),
            "portolan.io/v1alpha1",
            "BGPPeer",
        ),
        (
            Key::BgpFilter("x".to_owned()),
            "portolan.io/v1alpha1",
            "BGPFilter",
        ),
        (
            Key::BgpConfiguration("x".to_owned()),
            "portolan.io/v1alpha1",
            "BGPConfiguration",
        ),
        (
            Key::ClusterNetworkPolicy("x".to_owned()),
            "policy.networking.k8s.io/v1alpha2",
            "ClusterNetworkPolicy",
        ),
    ] {
        let regarding = Regarding::from(&key);
        assert_eq!((regarding.api_version, regarding.kind), (api_version, kind));
        assert!(key.to_string().starts_with(kind));
        assert_eq!(regarding.namespace.is_some(), key.to_string().contains('/'));
        assert_eq!(regarding.name, "x");
    }
}
