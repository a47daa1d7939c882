//! Secrets in the directory: kept while a peer names them, refused where others can read the file, never shown.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use api::{Key, NamespacedName, Resource};

use crate::lab::*;

const PASSWORD: &str = "hunter2-hunter2";

fn secret(namespace: &str, name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata:\n  namespace: {namespace}\n  name: {name}\n\
         stringData:\n  md5: {PASSWORD}\n"
    )
}

fn peer(secret: &str) -> String {
    format!(
        "apiVersion: portolan.io/v1alpha1\nkind: BGPPeer\nmetadata:\n  name: tor\nspec:\n  \
         peerAddress: 10.0.0.1\n  asNumber: 65000\n  \
         password: {{secretKeyRef: {{name: {secret}, key: md5}}}}\n"
    )
}

fn mode(folder: &Path, name: &str, mode: u32) {
    fs::set_permissions(folder.join(name), fs::Permissions::from_mode(mode)).unwrap();
}

/// Puts a file that only its owner can read at any moment.
fn put_private(folder: &Path, name: &str, text: &str) {
    put(folder, ".draft", text);
    mode(folder, ".draft", 0o600);
    fs::rename(folder.join(".draft"), folder.join(name)).unwrap();
}

fn key(name: &str) -> Key {
    Key::Secret(NamespacedName::new("portolan", name))
}

#[tokio::test]
async fn a_secret_is_kept_while_a_peer_names_it() {
    let mut lab = Lab::with(&[("peer.yaml", &peer("bgp"))]).await;
    let two = format!(
        "{}---\n{}",
        secret("portolan", "bgp"),
        secret("portolan", "other")
    );
    put_private(lab.path(), "secrets.yaml", &two);
    lab.until("the Secret comes", |state| state.contains_key(&key("bgp")))
        .await;
    let Some(Resource::Secret(held)) = lab.state.get(&key("bgp")) else {
        panic!()
    };
    let value = held.get("md5").map(api::resources::SecretValue::expose);
    assert_eq!(value, Some(PASSWORD.as_bytes()));
    assert_eq!(lab.names(), ["BGPPeer tor", "Secret portolan/bgp"]);
    assert!(!format!("{:?}", lab.state).contains(PASSWORD));

    replace(lab.path(), "peer.yaml", &peer("other"));
    lab.until("the other one is named", |state| {
        state.contains_key(&key("other")) && !state.contains_key(&key("bgp"))
    })
    .await;
    assert_eq!(*lab.source.problems.borrow(), []);
}

#[tokio::test]
async fn a_file_that_others_can_read_gives_no_secret_and_says_how_to_mend_it() {
    for open in [0o644, 0o640, 0o604, 0o660] {
        let both = format!("{}---\n{}", secret("portolan", "bgp"), namespace("beside"));
        let mut lab = Lab::with(&[("peer.yaml", &peer("bgp"))]).await;
        put(lab.path(), ".draft", &both);
        mode(lab.path(), ".draft", open);
        fs::rename(lab.path().join(".draft"), lab.path().join("a.yaml")).unwrap();
        let problems = lab
            .until_problems("a complaint", |problems| !problems.is_empty())
            .await;
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert_eq!(problems[0].object.as_deref(), Some("Secret portolan/bgp"));
        let text = problems[0].to_string();
        assert!(text.ends_with("chmod 600 it"), "{text}");
        assert!(text.contains(&format!("mode {open:04o}")), "{text}");
        assert!(!text.contains(PASSWORD), "{text}");
        lab.until("what else it holds comes", |state| has(state, "beside"))
            .await;
        assert!(!lab.state.contains_key(&key("bgp")));

        mode(lab.path(), "a.yaml", 0o600);
        lab.until("the Secret comes once the file is private", |state| {
            state.contains_key(&key("bgp"))
        })
        .await;
        lab.until_problems("no complaint", <[_]>::is_empty).await;
    }
}

#[tokio::test]
async fn a_secret_that_becomes_readable_stays_in_force_and_is_complained_about() {
    let mut lab = Lab::with(&[("peer.yaml", &peer("bgp"))]).await;
    put_private(lab.path(), "a.yaml", &secret("portolan", "bgp"));
    lab.until("the Secret comes", |state| state.contains_key(&key("bgp")))
        .await;
    mode(lab.path(), "a.yaml", 0o644);
    lab.until_problems("a complaint", |problems| !problems.is_empty())
        .await;
    lab.is_silent().await;
    assert!(lab.state.contains_key(&key("bgp")));
}

#[tokio::test]
async fn other_namespaces_secrets_are_nothing_to_us_whatever_they_look_like() {
    let broken = secret("shop", "bgp").replace("stringData", "data");
    let text = format!("{broken}---\n{}", namespace("shop"));
    let lab = Lab::with(&[("a.yaml", &text), ("peer.yaml", &peer("bgp"))]).await;
    assert_eq!(lab.names(), ["BGPPeer tor", "Namespace shop"]);
    assert_eq!(*lab.source.problems.borrow(), []);
}

#[tokio::test]
async fn a_secret_that_cannot_be_read_is_named_but_not_quoted() {
    let mut lab = Lab::with(&[("peer.yaml", &peer("bgp"))]).await;
    let broken = secret("portolan", "bgp").replace("stringData", "data");
    put_private(lab.path(), "a.yaml", &broken);
    let problems = lab
        .until_problems("a complaint", |problems| !problems.is_empty())
        .await;
    let text = problems[0].to_string();
    assert!(
        text.contains("Secret portolan/bgp: its data must map"),
        "{text}"
    );
    assert!(!text.contains("hunter2"), "{text}");
}
