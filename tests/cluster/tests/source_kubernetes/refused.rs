//! The server asks for patience by API Priority and Fairness, and forgets a list in its midst.

use std::process::{Child, Stdio};
use std::time::Duration;

use cluster::ControlPlane;
use serde_json::json;
use tests::wait::{eventually, pause};
use tokio::net::TcpListener;

use crate::crowd::fill;
use crate::heard::Heard;
use crate::watched::{Watched, plane, requests};

/// A level with no seat: a request has one only while no other is worked on. It is for NetworkPolicies of one user, and for
/// what another does.
const JAIL: &str = "
apiVersion: flowcontrol.apiserver.k8s.io/v1
kind: PriorityLevelConfiguration
metadata: {name: jail}
spec:
  type: Limited
  limited: {nominalConcurrencyShares: 0, lendablePercent: 0, borrowingLimitPercent: 0, limitResponse: {type: Reject}}
---
apiVersion: flowcontrol.apiserver.k8s.io/v1
kind: FlowSchema
metadata: {name: jail}
spec:
  matchingPrecedence: 2
  priorityLevelConfiguration: {name: jail}
  rules:
  - subjects: [{kind: User, user: {name: watcher}}]
    resourceRules:
    - {verbs: ['*'], apiGroups: [networking.k8s.io], resources: [networkpolicies], clusterScope: true, namespaces: ['*']}
  - subjects: [{kind: User, user: {name: holder}}]
    resourceRules:
    - {verbs: ['*'], apiGroups: [''], resources: [configmaps], clusterScope: true, namespaces: ['*']}
";

const RIGHTS: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: watcher}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}
subjects:
- {kind: User, apiGroup: rbac.authorization.k8s.io, name: watcher}
- {kind: User, apiGroup: rbac.authorization.k8s.io, name: holder}
";

/// How long the kind is refused: less than the API server waits for a TLS session with a webhook (10 s).
const REFUSED: Duration = Duration::from_secs(6);

/// How long it may wait for the webhook in all.
const HELD: Duration = Duration::from_secs(30);

/// Has the API server ask someone who doesn't answer before it makes a ConfigMap; then someone makes one, and holds the
/// level's seat so long.
async fn hold_the_seat(plane: &ControlPlane) -> Child {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    let webhook = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "hold"},
        "webhooks": [{
            "name": "hold.portolan.io", "failurePolicy": "Ignore", "sideEffects": "None",
            "admissionReviewVersions": ["v1"], "timeoutSeconds": HELD.as_secs(), "clientConfig": {"url": url},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"], "operations": ["CREATE"]}],
        }],
    });
    plane.apply(&webhook.to_string());
    plane.kubectl(&[
        "wait",
        "--for=condition=Dangling=False",
        "--timeout=60s",
        "flowschema/jail",
    ]);
    let holder = plane.kubeconfig_for("holder", &[]);
    let mut command = plane.kubectl_command(&holder);
    command
        .args(["create", "configmap", "slow"])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let child = command.spawn().unwrap();
    let asked = tokio::time::timeout(Duration::from_secs(60), listener.accept());
    let (asked, _) = asked.await.expect("the webhook is asked").unwrap();
    // Until the server gives up.
    tokio::spawn(async move {
        tokio::time::sleep(2 * HELD).await;
        drop((asked, listener));
    });
    child
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kind_that_has_no_seat_waits_as_it_is_told_and_the_others_go_on() {
    let plane = plane("", &[]);
    plane.install_crds();
    plane.install_cluster_network_policy();
    plane.apply(RIGHTS);
    let kubeconfig = plane.kubeconfig_for("watcher", &[]);
    let mut watched = Watched::start_as(&plane, &kubeconfig).await;
    watched.until_in_sync().await;
    plane.apply(JAIL);
    let mut holder = hold_the_seat(&plane).await;
    watched.cut();
    watched.mend();
    plane.kubectl(&["create", "namespace", "shop"]);
    let has_shop = |heard: &Heard| heard.keys("Namespace").contains(&"shop".to_owned());
    let took = watched.until("another kind", has_shop).await;
    let problem = eventually(Duration::from_secs(30), "a problem", || {
        let problems = watched.problems();
        let line = problems.iter().find(|line| line.contains("429"));
        line.cloned().ok_or_else(|| anyhow::anyhow!("{problems:?}"))
    });
    let problem = problem.unwrap();
    assert!(
        problem.starts_with("cannot read NetworkPolicy from the API server"),
        "{problem}"
    );
    pause(REFUSED).unwrap();

    let asked = plane.requests().into_iter();
    let refused = asked.filter(|asked| {
        asked.code == 429 && asked.agent == "portolan-agent" && asked.resource == "networkpolicies"
    });
    let refused: Vec<f64> = refused.map(|asked| seconds(&asked.at)).collect();
    println!(
        "another kind after {took:?}; {} refused requests: {refused:?}",
        refused.len()
    );
    assert!((2..=6).contains(&refused.len()), "{refused:?}");
    let pauses = refused.windows(2).map(|pair| pair[1] - pair[0]);
    // Retry-After: 1.
    assert!(pauses.clone().all(|pause| pause >= 0.99), "{refused:?}");
    assert!(holder.try_wait().unwrap().is_none(), "the seat was held");
    plane.kubectl(&["delete", "flowschema", "jail"]);
    let policy = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "late", "namespace": "default"}, "spec": {"podSelector": {}},
    });
    plane.apply(&policy.to_string());
    let has_policy = |heard: &Heard| heard.keys("NetworkPolicy") == ["default/late"];
    let took = watched.until("the policy", has_policy).await;
    println!("free again: {took:?}");
    assert!(took < Duration::from_secs(45), "{took:?}");
    watched.refresh().await;
    assert_eq!(watched.problems(), [""; 0]);
    holder.wait().unwrap();
}

/// The seconds since midnight of an RFC 3339 time.
fn seconds(at: &str) -> f64 {
    let (_, time) = at.trim_end_matches('Z').split_once('T').unwrap();
    let parts = time.split(':').map(|part| part.parse::<f64>().unwrap());
    parts.fold(0.0, |sum, part| sum * 60.0 + part)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_whose_next_page_has_been_compacted_away_is_begun_anew_and_takes_nothing_away() {
    // Neither streamed nor from the server's own memory: each page is etcd's.
    let plane = plane("WatchList=false,ListFromCacheSnapshot=false", &[]);
    fill(&plane);
    let folder = tempfile::tempdir().unwrap();
    let admin = plane.admin_kubeconfig();
    // A first list that fails: the next one may not be any that the server has at hand, which has no pages.
    let mut watched = Watched::start_in(&plane, admin, folder.path(), false).await;
    eventually(Duration::from_secs(30), "a failure", || {
        anyhow::ensure!(!watched.problems().is_empty());
        Ok(())
    })
    .unwrap();
    watched.mend();
    // Nobody takes the events: the reader stands in the midst of its pages.
    let pages = || requests(&plane, "pods").len();
    eventually(Duration::from_secs(30), "some pages", || {
        let before = pages();
        pause(Duration::from_secs(1))?;
        anyhow::ensure!(before >= 2 && pages() == before, "{before}");
        Ok(())
    })
    .unwrap();
    plane.kubectl(&[
        "delete",
        "pod",
        "p0-0",
        "p7-299",
        "--grace-period=0",
        "--force",
    ]);
    plane.compact();
    watched.until_in_sync().await;
    watched.refresh().await;
    let asked = plane.requests().into_iter();
    let asked = asked.filter(|asked| asked.resource == "pods" && asked.agent == "portolan-agent");
    let codes: Vec<u16> = asked.map(|asked| asked.code).collect();
    assert!(codes.contains(&410), "{codes:?}");
    assert_eq!(watched.keys("Pod").len(), 2_398);
    let count = |sign: &str| {
        let told = watched.told.iter();
        told.filter(|word| word.starts_with(sign)).count()
    };
    // What the pages before the deletion had shown is taken back, once.
    assert_eq!(count("+Pod ") - count("-Pod "), 2_398);
    assert!(count("-Pod ") <= 2, "{} deletions", count("-Pod "));
}
