//! Blocks of pools: each has one node, and what is no claim takes nothing away.

use std::collections::BTreeMap;
use std::fs;

use api::{Key, Resource};
use datastore::{Claim, StatusWriter, watch_manifests};

use crate::lab::*;

fn pool(name: &str, cidr: &str, block_size: u8) -> String {
    format!(
        "apiVersion: portolan.io/v1alpha1\nkind: IPPool\nmetadata:\n  name: {name}\nspec:\n  cidr: {cidr}\n  blockSize: {block_size}\n"
    )
}

fn block(cidr: &str, node: &str) -> (String, String) {
    let name = cidr.replace(['.', ':', '/'], "-");
    let file = cidr.replace([':', '/'], "_");
    let text = serde_json::json!({"apiVersion": "portolan.io/v1alpha1", "kind": "IPAMBlock",
        "metadata": {"name": name}, "spec": {"cidr": cidr, "node": node}});
    (format!(".status/blocks/{file}.json"), text.to_string())
}

/// Whose each block is.
fn holders(state: &BTreeMap<Key, Resource>) -> Vec<String> {
    let blocks = state.values().filter_map(|resource| match resource {
        Resource::IpamBlock(block) => Some(format!("{} {}", block.cidr, block.node)),
        _ => None,
    });
    blocks.collect()
}

async fn lab(manifests: &[String], blocks: &[(String, String)]) -> Lab {
    let text = manifests.join("---\n");
    let mut files = vec![("a.yaml", text.as_str())];
    files.extend(
        blocks
            .iter()
            .map(|(name, text)| (name.as_str(), text.as_str())),
    );
    Lab::with(&files).await
}

fn messages(lab: &Lab) -> Vec<String> {
    let problems = lab.source.problems.borrow().clone();
    problems
        .into_iter()
        .map(|problem| problem.message)
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_eight_nodes_that_claim_64_blocks_at_the_same_time_one_gets_each() {
    let folder = tempfile::tempdir().unwrap();
    let nodes: Vec<String> = (1..=8).map(|number| format!("node{number}")).collect();
    let mut manifests: Vec<String> = nodes.iter().map(|name| node(name, "10.1.0.0/24")).collect();
    manifests.push(pool("pods", "10.48.0.0/24", 30));
    put(folder.path(), "a.yaml", &manifests.join("---\n"));
    let writer = |name: &String| watch_manifests(folder.path(), name).unwrap().status;
    let writers: Vec<StatusWriter> = nodes.iter().map(writer).collect();
    let claiming = writers.into_iter().map(|writer| {
        tokio::spawn(async move {
            let mut own = Vec::new();
            for number in 0..64 {
                let cidr = format!("10.48.0.{}/30", number * 4).parse().unwrap();
                match writer.claim_block(cidr).await.unwrap() {
                    Claim::Ours => own.push(cidr.to_string()),
                    Claim::Taken { node } => assert!(node.is_some(), "a claim is whole"),
                }
            }
            own
        })
    });
    let claiming: Vec<_> = claiming.collect();
    let mut told = Vec::new();
    for (claims, name) in claiming.into_iter().zip(&nodes) {
        let own = claims.await.unwrap();
        told.extend(own.into_iter().map(|cidr| format!("{cidr} {name}")));
    }
    told.sort();
    assert_eq!(told.len(), 64, "each block was won once");
    let mut source = watch_manifests(folder.path(), "node1").unwrap();
    let mut state = BTreeMap::new();
    while let Some(api::Event::Change(change)) = source.events.recv().await {
        state.insert(change.key, change.value.unwrap());
    }
    let mut read = holders(&state);
    read.sort();
    assert_eq!(read, told, "everybody reads what the winners were told");
    let left = fs::read_dir(folder.path().join(".status/blocks")).unwrap();
    assert_eq!(left.count(), 64, "no draft is left behind");
}

#[tokio::test]
async fn a_claim_is_told_to_everybody_and_so_is_its_release() {
    let mut lab = lab(
        &[
            node("node1", "10.1.0.0/24"),
            pool("pods", "10.48.0.0/16", 26),
        ],
        &[],
    )
    .await;
    let cidr = "10.48.3.64/26".parse().unwrap();
    assert_eq!(
        lab.source.status.claim_block(cidr).await.unwrap(),
        Claim::Ours
    );
    lab.until("the claim", |state| {
        holders(state) == ["10.48.3.64/26 node1"]
    })
    .await;
    lab.source.status.release_block(cidr).await.unwrap();
    lab.until("the release", |state| holders(state).is_empty())
        .await;
    // The folder is watched by now.
    assert_eq!(
        lab.source.status.claim_block(cidr).await.unwrap(),
        Claim::Ours
    );
    lab.until("the second claim", |state| {
        holders(state) == ["10.48.3.64/26 node1"]
    })
    .await;
    assert_eq!(messages(&lab), [""; 0]);
}

#[tokio::test]
async fn what_is_in_no_pool_or_in_another_block_is_ignored_and_reported() {
    let manifests = [
        node("node1", "10.1.0.0/24"),
        pool("four", "10.48.0.0/16", 26),
        pool("six", "fd00:48::/64", 122),
    ];
    let lab = lab(
        &manifests,
        &[
            block("10.48.0.0/26", "node1"),
            block("fd00:48::40/122", "node1"),
            block("10.49.0.0/26", "node1"),
            block("10.48.0.0/17", "node1"),
            block("10.48.0.32/27", "node1"),
            block("10.48.200.0/27", "node1"),
            block("10.48.1.0/26", "node9"),
        ],
    )
    .await;
    let found = holders(&lab.state);
    let expected = [
        "10.48.0.0/26 node1",
        "10.48.1.0/26 node9",
        "10.48.200.0/27 node1",
        "fd00:48::40/122 node1",
    ];
    assert_eq!(found, expected);
    assert_eq!(
        messages(&lab),
        [
            "IPAMBlock 10-48-0-0-17: is ignored: 10.48.0.0/17 of node node1 overlaps 10.48.0.0/26 of node node1",
            "IPAMBlock 10-48-0-32-27: is ignored: 10.48.0.32/27 of node node1 overlaps 10.48.0.0/26 of node node1",
            "IPAMBlock 10-48-1-0-26: is held by node node9, which has no manifest: remove the file if the node is gone for good",
            "IPAMBlock 10-49-0-0-26: is ignored: 10.49.0.0/26 of node node1 is in no IPPool; was the cidr of one changed?",
        ]
    );
}

#[tokio::test]
async fn garbage_among_the_blocks_is_reported_and_harms_no_block() {
    let mut files = vec![
        block("10.48.0.0/26", "node1"),
        (
            ".status/blocks/10.48.0.64_26.json".to_owned(),
            "{".to_owned(),
        ),
        (
            ".status/blocks/x.json".to_owned(),
            block("10.48.0.128/26", "node1").1,
        ),
        (
            ".status/blocks/.draft".to_owned(),
            "nobody reads it".to_owned(),
        ),
    ];
    files.push((
        ".status/blocks/10.48.1.0_26.json".to_owned(),
        block("10.48.1.0/26", "a\nb").1,
    ));
    let lab = lab(
        &[
            node("node1", "10.1.0.0/24"),
            pool("pods", "10.48.0.0/16", 26),
        ],
        &files,
    )
    .await;
    std::os::unix::fs::symlink(
        "10.48.0.0_26.json",
        lab.path().join(".status/blocks/10.48.2.0_26.json"),
    )
    .unwrap();
    lab.source.refresh.refresh().await;
    assert_eq!(holders(&lab.state), ["10.48.0.0/26 node1"]);
    let told = messages(&lab);
    assert_eq!(told.len(), 4, "{told:?}");
    assert!(
        told.iter()
            .all(|one| one.starts_with("it is ignored: ") && !one.contains('\n'))
    );
    // Nobody takes over what cannot be read: it may be someone's.
    let cidr = "10.48.0.64/26".parse().unwrap();
    let claim = lab.source.status.claim_block(cidr).await.unwrap();
    assert_eq!(claim, Claim::Taken { node: None });
}

#[tokio::test]
async fn a_block_of_a_manifest_is_refused() {
    let own = "apiVersion: portolan.io/v1alpha1\nkind: IPAMBlock\nmetadata:\n  name: 10-48-0-0-26\nspec:\n  cidr: 10.48.0.0/26\n  node: node1\n";
    let lab = lab(&[pool("pods", "10.48.0.0/16", 26), own.to_owned()], &[]).await;
    assert_eq!(holders(&lab.state), [""; 0]);
    let told = messages(&lab);
    assert!(
        told.len() == 1 && told[0].contains("take it out of the manifests"),
        "{told:?}"
    );
}

#[tokio::test]
async fn pods_may_have_addresses_of_pools_and_of_another_nodes_cidr_only_if_they_ask_for_them() {
    let fixed = pod("asked", "node1").replace(
        "  name: asked\n",
        "  name: asked\n  annotations:\n    portolan.io/ip-addresses: '[\"10.2.0.7\"]'\n",
    );
    let manifests = [
        node("node1", "10.1.0.0/24"),
        node("node2", "10.2.0.0/24"),
        pool("pods", "10.48.0.0/16", 26),
        pod("web", "node1"),
        pod("db", "node1"),
        fixed,
    ];
    let pods: [(&str, &[&str]); 3] = [
        ("web", &["10.48.7.7"]),
        ("db", &["10.2.0.9", "10.50.0.1"]),
        ("asked", &["10.2.0.7"]),
    ];
    let file = (".status/node1.json".to_owned(), status("node1", &pods));
    let lab = lab(&manifests, &[block("10.48.7.0/26", "node2"), file]).await;
    assert_eq!(ips_of(&lab.state, "web"), ["10.48.7.7"]);
    assert_eq!(ips_of(&lab.state, "asked"), ["10.2.0.7"]);
    assert_eq!(ips_of(&lab.state, "db"), [""; 0]);
    assert_eq!(messages(&lab).len(), 2);
}

#[tokio::test]
async fn a_file_in_the_place_of_the_blocks_folder_costs_no_manifest() {
    let lab = lab(
        &[
            node("node1", "10.1.0.0/24"),
            pool("pods", "10.48.0.0/16", 26),
        ],
        &[(".status/blocks".to_owned(), String::new())],
    )
    .await;
    assert_eq!(lab.names(), ["IPPool pods", "Node node1"]);
    let cidr = "10.48.0.0/26".parse().unwrap();
    assert!(lab.source.status.claim_block(cidr).await.is_err());
}
