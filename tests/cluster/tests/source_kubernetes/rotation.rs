//! Tokens, certificates and authorities are replaced in their files while the source runs, in time and too late.

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cluster::{Authority, ControlPlane};
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::wait::{eventually, pause};

use crate::heard::Heard;
use crate::watched::{Watched, plane};

/// How long the server may believe a token that is gone (10 s), on a busy machine.
const BELIEVED: Duration = Duration::from_secs(60);

/// How long it may take until a file is used that has been replaced: the longest pause of a reader, and some.
const BOUND: Duration = Duration::from_secs(40);

/// A kubeconfig whose authorities and user are in files beside it.
struct Files(TempDir);

impl Files {
    fn new(plane: &ControlPlane, user: &Value) -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": plane.url(), "certificate-authority": files.path("ca.crt")}}],
            "users": [{"name": "u", "user": user}],
        });
        let authority = std::fs::read_to_string(plane.authority().certificate()).unwrap();
        files.replace("ca.crt", &authority);
        files.replace("kubeconfig", &config.to_string());
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// As the kubelet does it: the new one is there whole, or not at all.
    fn replace(&self, name: &str, text: &str) {
        let new = self.path(&format!("{name}.new"));
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.path(name)).unwrap();
    }
}

fn policy(plane: &ControlPlane, name: &str) {
    let policy = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": "default"}, "spec": {"podSelector": {}},
    });
    plane.apply(&policy.to_string());
}

/// Whether the policy has come.
fn came(name: &str) -> impl Fn(&Heard) -> bool {
    let name = format!("default/{name}");
    move |heard| heard.keys("NetworkPolicy").contains(&name)
}

fn deployed(plane: &ControlPlane) {
    plane.install_crds();
    plane.install_cluster_network_policy();
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/kubernetes");
    for name in ["namespace.yaml", "rbac.yaml"] {
        plane.apply(&std::fs::read_to_string(deploy.join(name)).unwrap());
    }
}

/// A token of the agent's ServiceAccount that is good as long as the Secret `name` is there.
fn token(plane: &ControlPlane, name: &str) -> String {
    plane.kubectl(&["-n", "portolan", "create", "secret", "generic", name]);
    let bound = ["--bound-object-kind=Secret", "--bound-object-name", name];
    let create = ["-n", "portolan", "create", "token", "portolan-agent"];
    plane.kubectl(&[&create[..], &bound].concat())
}

/// Ends a token, and waits until the server knows.
fn end(plane: &ControlPlane, name: &str, token: &str) {
    plane.kubectl(&["-n", "portolan", "delete", "secret", name]);
    let file = plane.dir().join(format!("{name}.ended"));
    let text = std::fs::read_to_string(plane.admin_kubeconfig()).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    config["users"][0]["user"] = json!({"token": token.trim()});
    std::fs::write(&file, config.to_string()).unwrap();
    eventually(BELIEVED, "a token that is refused", || {
        let asked = plane.kubectl_as(&file, &["get", "namespaces"]);
        anyhow::ensure!(
            format!("{asked:?}").contains("must be logged in"),
            "{asked:?}"
        );
        Ok(())
    })
    .unwrap();
}

/// Requests of ours that were refused with 401, as nobody's.
fn refused(plane: &ControlPlane) -> usize {
    let asked = plane.requests().into_iter();
    asked
        .filter(|request| request.code == 401 && request.agent == "portolan-agent")
        .count()
}

/// Waits until a problem has these words.
fn said(heard: &Heard, words: &[&str]) {
    eventually(BOUND, "a problem", || {
        let problems = heard.problems();
        let has_all = |line: &String| words.iter().all(|word| line.contains(word));
        anyhow::ensure!(problems.iter().any(has_all), "{words:?}: {problems:?}");
        Ok(())
    })
    .unwrap();
}

/// Waits until nothing is wrong, as it may be for a while after a definition has come.
async fn well(heard: &mut Heard) {
    heard.refresh().await;
    eventually(BOUND, "no problem", || {
        let problems = heard.problems();
        anyhow::ensure!(problems.is_empty(), "{problems:?}");
        Ok(())
    })
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_replaced_in_time_is_used_at_once_and_one_that_is_refused_is_named_until_it_is() {
    let plane = plane("", &[]);
    deployed(&plane);
    let [one, two, three] = ["one", "two", "three"].map(|name| token(&plane, name));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    let files = Files::new(&plane, &json!({"tokenFile": file}));
    std::fs::write(&file, &one).unwrap();
    let mut watched = Watched::start_as(&plane, &files.path("kubeconfig")).await;
    watched.until_in_sync().await;
    well(&mut watched).await;
    policy(&plane, "before");
    watched.until("a policy", came("before")).await;

    // In time: the file is new, the old one is refused, and every connection has to be made again.
    std::fs::write(&file, &two).unwrap();
    end(&plane, "one", &one);
    watched.cut();
    watched.mend();
    policy(&plane, "in-time");
    let took = watched.until("a policy", came("in-time")).await;
    println!("with a new token, on a new connection: {took:?}");
    assert_eq!(refused(&plane), 0, "the old token was never sent again");

    // Too late.
    end(&plane, "two", &two);
    policy(&plane, "on-the-old-watch");
    watched
        .until("a watch that goes on", came("on-the-old-watch"))
        .await;
    let (before, state) = (watched.told.len(), watched.state.clone());
    watched.cut();
    watched.mend();
    said(
        &watched,
        &[
            "the token in ",
            &file.to_string_lossy(),
            "it has not expired",
        ],
    );
    policy(&plane, "late");
    pause(Duration::from_secs(10)).unwrap();
    watched.until_silent(Duration::from_millis(100)).await;
    assert_eq!(watched.told.len(), before, "what is in force stays");
    assert_eq!(watched.state, state);
    let times = refused(&plane);
    // 11 readers, each after 0.25, 0.5, 1, 2, 4 and 8 s at the soonest.
    assert!(
        (11..=11 * 7).contains(&times),
        "{times} requests were refused"
    );
    std::fs::write(&file, &three).unwrap();
    let took = watched.until("the policy", came("late")).await;
    println!("after {times} refused requests, with a new token: {took:?}");
    assert!(took < BOUND, "{took:?}");
    well(&mut watched).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn authorities_and_client_certificates_are_read_again_and_named_while_they_do_not_fit() {
    let plane = plane("", &[]);
    plane.install_crds();
    plane.install_cluster_network_policy();
    let user = json!({"client-certificate": "me.crt", "client-key": "me.key"});
    let files = Files::new(&plane, &user);
    let put = |authority: &Authority, name: &str| {
        let identity = authority.issue(name, &["system:masters"], &[]).unwrap();
        files.replace("me.crt", &identity.certificate);
        files.replace("me.key", &identity.key);
    };
    put(plane.authority(), "first");
    let users = |name: &str| {
        let asked = plane.requests().into_iter();
        asked.filter(|request| request.user == name).count()
    };
    let mut watched =
        Watched::start_in(&plane, &files.path("kubeconfig"), files.0.path(), true).await;
    watched.until_in_sync().await;
    assert!(users("first") > 10);

    // A client certificate: as soon as something is asked, connections or not. Half of one is not used.
    let half = plane.authority().issue("half", &[], &[]).unwrap();
    files.replace("me.crt", &half.certificate);
    watched.refresh().await;
    assert_eq!(watched.connections(), 1);
    put(plane.authority(), "second");
    watched.refresh().await;
    assert_eq!((watched.connections(), users("half")), (2, 0));
    assert!(users("second") > 10);

    // One that the server does not know.
    let other = Authority::new(&plane.dir().join("other"), "other").unwrap();
    put(&other, "third");
    watched.cut();
    watched.mend();
    let certificate = files.path("me.crt");
    said(
        &watched,
        &["the client certificate in ", &certificate.to_string_lossy()],
    );
    policy(&plane, "known-again");
    put(plane.authority(), "fourth");
    let took = watched.until("a policy", came("known-again")).await;
    println!("with a new client certificate: {took:?}");
    assert!(took < BOUND, "{took:?}");

    // The server has a certificate of another authority.
    let names = [
        "127.0.0.1".to_owned(),
        plane.url().split(['/', ':']).nth(3).unwrap().to_owned(),
    ];
    let server = other.issue("kube-apiserver", &[], &names).unwrap();
    let pki = plane.dir().join("pki");
    std::fs::write(pki.join("apiserver.crt"), server.certificate).unwrap();
    std::fs::write(pki.join("apiserver.key"), server.key).unwrap();
    let both =
        [plane.authority(), &other].map(|one| std::fs::read_to_string(one.certificate()).unwrap());
    believe(plane.admin_kubeconfig(), &both.concat());
    plane.stop_api_server();
    plane.start_api_server();
    let authorities = files.path("ca.crt");
    said(
        &watched,
        &["UnknownIssuer", "those in ", &authorities.to_string_lossy()],
    );
    assert!(watched.source.away.borrow().is_some());
    policy(&plane, "believed-again");
    files.replace("ca.crt", &both.concat());
    let took = watched.until("a policy", came("believed-again")).await;
    println!("with new authorities: {took:?}");
    assert!(took < BOUND, "{took:?}");
}

/// Has a kubeconfig of the lab's believe these authorities.
fn believe(kubeconfig: &Path, authorities: &str) {
    let text = std::fs::read_to_string(kubeconfig).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    config["clusters"][0]["cluster"]["certificate-authority-data"] =
        STANDARD.encode(authorities).into();
    std::fs::write(kubeconfig, config.to_string()).unwrap();
}
