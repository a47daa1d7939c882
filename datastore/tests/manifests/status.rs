//! What nodes publish of their pods, and what they may not.

use std::fs;
use std::path::Path;

use datastore::PodStatus;

use crate::lab::*;

/// Two nodes with a pod each.
fn two_nodes() -> String {
    [
        node("node1", "10.1.0.0/24"),
        node("node2", "10.2.0.0/24"),
        pod("web", "node1"),
        pod("db", "node2"),
    ]
    .join("---\n")
}

#[tokio::test]
async fn pods_get_the_addresses_that_their_own_node_publishes() {
    let mut lab = Lab::with(&[("a.yaml", &two_nodes())]).await;
    assert_eq!(ips_of(&lab.state, "db"), [""; 0]);
    replace_status(
        lab.path(),
        "node2",
        &status("node2", &[("db", &["10.2.0.5"])]),
    );
    lab.until("db has its address", |state| {
        ips_of(state, "db") == ["10.2.0.5"]
    })
    .await;
    replace_status(
        lab.path(),
        "node2",
        &status("node2", &[("db", &["10.2.0.6"])]),
    );
    lab.until("db has another", |state| {
        ips_of(state, "db") == ["10.2.0.6"]
    })
    .await;
    fs::remove_file(lab.path().join(".status/node2.json")).unwrap();
    lab.until("db has none", |state| ips_of(state, "db").is_empty())
        .await;
    assert_eq!(lab.events, 4 + 3);
}

fn replace_status(folder: &Path, node: &str, text: &str) {
    put(folder, ".status/.draft", text);
    let path = folder.join(".status").join(format!("{node}.json"));
    fs::rename(folder.join(".status/.draft"), path).unwrap();
}

#[tokio::test]
async fn a_node_speaks_of_its_own_pods_and_addresses_only() {
    let evil = [
        // Another node's pod, and another node's address.
        (
            "node1.json",
            status(
                "node1",
                &[("db", &["10.1.0.9"]), ("web", &["10.2.0.9", "10.1.0.7"])],
            ),
        ),
        // A file that speaks for someone else.
        ("node2.json", status("node1", &[("web", &["10.1.0.8"])])),
        // A node and a pod that have no manifest.
        ("node3.json", status("node3", &[("web", &["10.1.0.3"])])),
        ("Node4.json", status("Node4", &[])),
    ];
    let mut files = vec![("a.yaml".to_owned(), two_nodes())];
    files.extend(
        evil.into_iter()
            .map(|(name, text)| (format!(".status/{name}"), text)),
    );
    let files: Vec<(&str, &str)> = files
        .iter()
        .map(|(name, text)| (name.as_str(), text.as_str()))
        .collect();
    let lab = Lab::with(&files).await;
    assert_eq!(ips_of(&lab.state, "web"), ["10.1.0.7"]);
    assert_eq!(ips_of(&lab.state, "db"), [""; 0]);
    let problems = lab.source.problems.borrow().clone();
    let messages: Vec<&str> = problems
        .iter()
        .map(|problem| problem.message.as_str())
        .collect();
    assert_eq!(
        messages,
        [
            "the file is not named after a node",
            "Pod shop/web: address 10.2.0.9 is outside the Pod CIDRs of node node1 and of all IPPools",
            "the file speaks for node \"node1\", not for its own",
        ]
    );
}

#[tokio::test]
async fn malicious_names_and_links_in_status_files_are_refused() {
    let evil = serde_json::json!({"node": "node1", "generation": 1, "pods": [
        {"namespace": "../..", "name": "web", "uid": "", "podIPs": ["10.1.0.2"]},
        {"namespace": "shop", "name": "web\n-A INPUT -j ACCEPT", "uid": "", "podIPs": ["10.1.0.3"]},
        {"namespace": "shop", "name": "web", "uid": "", "podIPs": ["10.1.0.4"]},
        {"namespace": "shop", "name": "unknown", "uid": "", "podIPs": ["10.1.0.5"]},
    ]});
    let mut lab = Lab::with(&[
        ("a.yaml", &two_nodes()),
        (".status/node1.json", &evil.to_string()),
    ])
    .await;
    assert_eq!(ips_of(&lab.state, "web"), ["10.1.0.4"]);
    let problems = lab.source.problems.borrow().clone();
    assert_eq!(problems.len(), 2);
    assert!(
        problems
            .iter()
            .all(|problem| !problem.message.contains('\n')),
        "{problems:?}"
    );

    std::os::unix::fs::symlink("node1.json", lab.path().join(".status/node2.json")).unwrap();
    let problems = lab
        .until_problems("the link is told", |problems| problems.len() == 3)
        .await;
    assert!(
        problems
            .iter()
            .any(|problem| problem.message == "is not a regular file")
    );
}

#[tokio::test]
async fn one_address_given_to_two_pods_is_the_first_ones() {
    let both = [
        node("node1", "10.1.0.0/24"),
        pod("a", "node1"),
        pod("b", "node1"),
    ]
    .join("---\n");
    let twice = status(
        "node1",
        &[("a", &["10.1.0.2"]), ("b", &["10.1.0.2", "10.1.0.3"])],
    );
    let lab = Lab::with(&[("a.yaml", &both), (".status/node1.json", &twice)]).await;
    assert_eq!(ips_of(&lab.state, "a"), ["10.1.0.2"]);
    assert_eq!(ips_of(&lab.state, "b"), ["10.1.0.3"]);
    assert_eq!(lab.source.problems.borrow().len(), 1);
}

#[tokio::test]
async fn what_is_published_comes_back_and_is_whole_on_disk() {
    let mut lab = Lab::with(&[("a.yaml", &two_nodes())]).await;
    let web = PodStatus {
        namespace: "shop".to_owned(),
        name: "web".to_owned(),
        uid: "u1".to_owned(),
        pod_ips: vec!["10.1.0.7".parse().unwrap()],
    };
    lab.source.status.publish(vec![web.clone()]).await.unwrap();
    lab.until("web has its address", |state| {
        ips_of(state, "web") == ["10.1.0.7"]
    })
    .await;
    let path = lab.path().join(".status/node1.json");
    let read = || serde_json::from_slice::<serde_json::Value>(&fs::read(&path).unwrap()).unwrap();
    let expected = serde_json::json!({"node": "node1", "generation": 1, "pods": [
        {"namespace": "shop", "name": "web", "uid": "u1", "podIPs": ["10.1.0.7"]},
    ]});
    assert_eq!(read(), expected);

    lab.source.status.publish(vec![web]).await.unwrap();
    assert_eq!(
        read()["generation"],
        1,
        "what is there already is not written"
    );
    lab.source.status.publish(Vec::new()).await.unwrap();
    assert_eq!(read()["generation"], 2);
    lab.until("web has none", |state| ips_of(state, "web").is_empty())
        .await;
    let left: Vec<_> = fs::read_dir(lab.path().join(".status")).unwrap().collect();
    assert_eq!(left.len(), 1, "no draft is left behind");
}

#[tokio::test]
async fn a_draft_that_a_killed_agent_left_or_a_link_in_its_place_does_no_harm() {
    let lab = Lab::with(&[("a.yaml", &two_nodes()), (".status/.x", "")]).await;
    let victim = lab.path().join("victim");
    fs::write(&victim, "precious").unwrap();
    std::os::unix::fs::symlink(&victim, lab.path().join(".status/.node1.json")).unwrap();
    lab.source.status.publish(Vec::new()).await.unwrap();
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    assert!(
        fs::symlink_metadata(lab.path().join(".status/node1.json"))
            .unwrap()
            .is_file()
    );
}

#[tokio::test]
async fn bgp_status_is_a_whole_object_for_people_that_no_reader_minds() {
    let lab = Lab::with(&[
        ("a.yaml", &two_nodes()),
        (".status/node2.bgpnodestatus.json", "{ not yet whole"),
    ])
    .await;
    assert_eq!(*lab.source.problems.borrow(), []);
    let status = api::crd::BgpNodeStatusStatus {
        as_number: Some(64_512),
        established: 1,
        ..Default::default()
    };
    lab.source.status.publish_bgp(status).await.unwrap();
    let folder = lab.path().join(".status");
    let text = fs::read(folder.join("node1.bgpnodestatus.json")).unwrap();
    let object: serde_json::Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(object["apiVersion"], "portolan.io/v1alpha1");
    assert_eq!(object["kind"], "BGPNodeStatus");
    assert_eq!(object["metadata"]["name"], "node1");
    assert_eq!(object["spec"]["node"], "node1");
    assert_eq!(object["status"]["asNumber"], 64_512);
    let names = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let drafts: Vec<String> = names.filter(|name| name.starts_with('.')).collect();
    assert_eq!(drafts, [""; 0], "no draft is left behind");
    lab.source.refresh.refresh().await;
    assert_eq!(*lab.source.problems.borrow(), []);
}

#[tokio::test]
async fn a_node_may_not_be_called_as_if_its_pods_were_another_nodes_sessions() {
    let folder = tempfile::tempdir().unwrap();
    let refused = datastore::watch_manifests(folder.path(), "node1.bgpnodestatus");
    assert!(matches!(refused, Err(datastore::Error::NodeName(_))));
}
