//! ClusterNetworkPolicies in the directory.

use api::resources::{ClusterNetworkPolicy, ClusterPeer, Tier};
use api::{Key, Resource};

use crate::lab::*;

fn deny_all(name: &str, priority: u32) -> String {
    format!(
        "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata:\n  name: {name}\n\
         spec:\n  tier: Admin\n  priority: {priority}\n  subject: {{namespaces: {{}}}}\n  \
         ingress: [{{action: Deny, from: [{{namespaces: {{}}}}]}}]\n"
    )
}

fn policy(lab: &Lab, name: &str) -> ClusterNetworkPolicy {
    match &lab.state[&Key::ClusterNetworkPolicy(name.to_owned())] {
        Resource::ClusterNetworkPolicy(policy) => policy.clone(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_cluster_policy_is_there_before_in_sync_changes_and_goes() {
    let mut lab = Lab::with(&[("a.yaml", &deny_all("lockdown", 7))]).await;
    assert_eq!(lab.names(), ["ClusterNetworkPolicy lockdown"]);
    let first = policy(&lab, "lockdown");
    assert_eq!((first.tier, first.priority), (Tier::Admin, 7));
    replace(lab.path(), "a.yaml", &deny_all("lockdown", 8));
    let key = Key::ClusterNetworkPolicy("lockdown".to_owned());
    lab.until("it has another priority", |state| {
        matches!(&state[&key], Resource::ClusterNetworkPolicy(policy) if policy.priority == 8)
    })
    .await;
    replace(lab.path(), "a.yaml", "# nothing\n");
    lab.until("it is gone", |state| state.is_empty()).await;
    assert_eq!(*lab.source.problems.borrow(), []);
}

#[tokio::test]
async fn a_cluster_policy_that_becomes_wrong_is_named_with_its_line_and_the_last_good_one_stays() {
    let good = format!("{}---\n{}", namespace("shop"), deny_all("lockdown", 7));
    let mut lab = Lab::with(&[("a.yaml", &good)]).await;
    let before = policy(&lab, "lockdown");
    replace(
        lab.path(),
        "a.yaml",
        &good.replace("priority: 7", "priority: 7000"),
    );
    let problems = lab
        .until_problems("the priority is told", |problems| problems.len() == 1)
        .await;
    assert_eq!(problems[0].line, Some(6));
    assert_eq!(
        problems[0].object.as_deref(),
        Some("ClusterNetworkPolicy lockdown")
    );
    assert!(problems[0].message.contains("spec.priority"));
    lab.is_silent().await;
    assert_eq!(policy(&lab, "lockdown"), before);
}

#[tokio::test]
async fn a_cluster_policy_with_a_peer_of_a_newer_api_stays_in_force_and_fails_closed() {
    let newer = deny_all("lockdown", 7).replace(
        "from: [{namespaces: {}}]",
        "from: [{serviceAccounts: {name: x}}]",
    );
    let lab = Lab::with(&[("a.yaml", &newer)]).await;
    let policy = policy(&lab, "lockdown");
    let peers = &policy.ingress[0].peers;
    assert!(
        matches!(&peers[..], [ClusterPeer::Unsupported(why)] if why.contains("serviceAccounts"))
    );
}

#[tokio::test]
async fn a_policy_of_the_older_version_is_refused_with_what_to_write_instead() {
    let older = deny_all("lockdown", 7)
        .replace("v1alpha2", "v1alpha1")
        .replace("kind: ClusterNetworkPolicy", "kind: AdminNetworkPolicy");
    let lab = Lab::with(&[("a.yaml", &older)]).await;
    assert_eq!(lab.names(), [""; 0]);
    let problems = lab.source.problems.borrow().clone();
    assert_eq!(problems.len(), 1);
    assert_eq!(
        problems[0].object.as_deref(),
        Some("AdminNetworkPolicy lockdown")
    );
    assert!(problems[0].message.contains("write a ClusterNetworkPolicy"));
}

#[tokio::test]
async fn hostile_names_of_cluster_policies_are_refused_on_one_line_and_the_rest_stays() {
    let names = [
        "a\n-A FORWARD -j ACCEPT",
        "a\0b",
        "a\" --comment",
        "a'b",
        "../etc",
        "$(id)",
        "A",
        "",
    ];
    let mut files = vec![("good.yaml".to_owned(), deny_all("good", 1))];
    for (number, name) in names.iter().enumerate() {
        let mut object = serde_json::json!({
            "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
            "metadata": {}, "spec": {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}},
        });
        object["metadata"]["name"] = (*name).into();
        files.push((format!("{number}.json"), object.to_string()));
    }
    let files: Vec<(&str, &str)> = files
        .iter()
        .map(|(name, text)| (name.as_str(), text.as_str()))
        .collect();
    let lab = Lab::with(&files).await;
    assert_eq!(lab.names(), ["ClusterNetworkPolicy good"]);
    let problems = lab.source.problems.borrow().clone();
    assert_eq!(problems.len(), names.len());
    for problem in problems {
        assert!(
            !problem.message.contains(char::is_control),
            "{:?}",
            problem.message
        );
    }
}
