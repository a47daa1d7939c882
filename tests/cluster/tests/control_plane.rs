//! The control plane of the test cluster: what every other test here stands on.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use cluster::{ControlPlane, Options, Place};
use tests::netns::Netns;
use tests::require_root;
use tests::wait::eventually;

const READER: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: node-reader}
rules:
- {apiGroups: [''], resources: [nodes], verbs: [list]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: node-reader}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: node-reader}
subjects:
- {kind: ServiceAccount, namespace: default, name: reader}
- {kind: Group, name: readers, apiGroup: rbac.authorization.k8s.io}
---
apiVersion: v1
kind: ServiceAccount
metadata: {namespace: default, name: reader}
";

#[test]
fn who_asks_is_told_by_certificate_and_token_and_may_do_what_rbac_says() {
    let plane = ControlPlane::shared();
    plane.apply(READER);
    let nobody = plane.kubeconfig_for("eve", &["visitors"]);
    let refused = plane.kubectl_as(&nobody, &["get", "nodes"]).unwrap_err();
    assert!(
        refused
            .to_string()
            .contains(r#"User "eve" cannot list resource "nodes""#),
        "{refused}"
    );
    // The second of two groups has the right.
    let reader = plane.kubeconfig_for("ann", &["visitors", "readers"]);
    plane.kubectl_as(&reader, &["get", "nodes"]).unwrap();
    let account = plane.service_account_kubeconfig("default", "reader");
    plane.kubectl_as(&account, &["get", "nodes"]).unwrap();
    plane.kubectl_as(&account, &["get", "secrets"]).unwrap_err();

    let requests = plane.requests();
    let of_account = requests
        .iter()
        .filter(|request| request.user == "system:serviceaccount:default:reader");
    let asked: Vec<(&str, &str, u16)> = of_account
        .filter(|request| !request.resource.is_empty())
        .map(|request| {
            (
                request.verb.as_str(),
                request.resource.as_str(),
                request.code,
            )
        })
        .collect();
    assert_eq!(asked, [("list", "nodes", 200), ("list", "secrets", 403)]);
}

#[test]
fn a_stopped_api_server_comes_back_with_what_it_held() {
    let plane = ControlPlane::start(Options::default());
    plane.kubectl(&["create", "configmap", "kept", "--from-literal=key=value"]);
    plane.stop_api_server();
    let error = plane.try_kubectl(&["get", "configmaps"]).unwrap_err();
    assert!(error.to_string().contains("refused"), "{error}");
    plane.start_api_server();
    let value = plane.kubectl(&["get", "configmap", "kept", "-o", "jsonpath={.data.key}"]);
    assert_eq!(value, "value");
}

#[test]
fn controllers_and_scheduler_work() {
    let plane = ControlPlane::start(Options {
        controller_manager: true,
        scheduler: true,
        ..Options::default()
    });
    plane.apply(
        "
apiVersion: v1
kind: Node
metadata: {name: n1}
---
apiVersion: v1
kind: Pod
metadata: {namespace: default, name: web}
spec:
  tolerations: [{operator: Exists}]
  containers: [{name: web, image: none}]
",
    );
    // A scheduler puts nothing on a node without room.
    let room = r#"{"status": {"capacity": {"pods": "10"}, "allocatable": {"pods": "10"}}}"#;
    plane.kubectl(&["patch", "node", "n1", "--subresource=status", "-p", room]);
    let get = |object: &str, path: &str| plane.try_kubectl(&["get", object, "-o", path]);
    let assigned = || {
        let cidr = get("node/n1", "jsonpath={.spec.podCIDR}")?;
        let node = get("pod/web", "jsonpath={.spec.nodeName}")?;
        anyhow::ensure!(
            (cidr.as_str(), node.as_str()) == ("10.244.0.0/24", "n1"),
            "{cidr} {node}"
        );
        Ok(())
    };
    eventually(Duration::from_secs(60), "a Pod CIDR and a node", assigned).unwrap();
}

#[test]
fn a_control_plane_in_a_network_namespace_answers_there() {
    require_root!();
    let netns = Netns::new("plane", "api").unwrap();
    netns
        .ip("link add plane0 type veth peer name plane1")
        .unwrap();
    netns.ip("addr add 10.0.0.1/24 dev plane0").unwrap();
    netns.ip("link set plane0 up").unwrap();
    netns.ip("link set plane1 up").unwrap();
    let plane = ControlPlane::start(Options {
        place: Place::Namespace {
            name: netns.name().to_owned(),
            address: "10.0.0.1".parse().unwrap(),
        },
        ..Options::default()
    });
    assert_eq!(plane.url(), "https://10.0.0.1:26443");
    let endpoint = || -> anyhow::Result<()> {
        let slices = plane.try_kubectl(&["get", "endpointslices", "-o", "yaml"])?;
        anyhow::ensure!(slices.contains("- 10.0.0.1\n"), "{slices}");
        Ok(())
    };
    eventually(
        Duration::from_secs(60),
        "the API server's endpoint",
        endpoint,
    )
    .unwrap();
}

#[test]
fn a_killed_test_process_leaves_neither_programs_nor_files() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_portolan-control-plane"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut kubeconfig = String::new();
    let mut said = BufReader::new(child.stdout.take().unwrap());
    said.read_line(&mut kubeconfig).unwrap();
    let folder = Path::new(kubeconfig.trim()).parent().unwrap();
    let running = processes_with(folder);
    child.kill().unwrap();
    child.wait().unwrap();
    // The control plane's four, and the shell that removes the folder.
    assert_eq!(running.len(), 5, "{running:?}");
    eventually(Duration::from_secs(60), "the end of all of it", || {
        let left = processes_with(folder);
        anyhow::ensure!(left.is_empty() && !folder.exists(), "{left:?}");
        Ok(())
    })
    .unwrap();
}

/// The programs that have a folder in their command lines; the dead have none.
fn processes_with(folder: &Path) -> Vec<String> {
    let folder = folder.to_str().unwrap();
    let processes = std::fs::read_dir("/proc").unwrap();
    let lines = processes.filter_map(|entry| {
        let line = std::fs::read(entry.ok()?.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&line).into_owned())
    });
    lines.filter(|line| line.contains(folder)).collect()
}
