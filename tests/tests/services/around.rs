//! What is around the rules: health checks of load balancers, `/healthz`, `portolan service`, metrics.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::fabric::{Fabric, PATIENCE};
use tests::netns::Netns;
use tests::rack::say;
use tests::require_root;
use tests::wait::eventually;

use super::{TELLS, at, start};

const CHECK: u16 = 32100;
const CLASH: u16 = 32101;
const HEALTHZ: u16 = 10256;
const NODE: &str = "10.71.1.1";
const METRICS: &str = "127.0.0.1:9179";
const RFC_3339_OF_OLD: &str = "2020-01-01T00:00:00Z";

/// A load balancer's Service.
fn balanced(name: &str, address: &str, check: u16, policy: &str) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec:
  type: LoadBalancer
  clusterIP: {address}
  clusterIPs: [{address}]
  ipFamilies: [IPv4]
  externalTrafficPolicy: {policy}
  healthCheckNodePort: {check}
  ports: [{{name: tcp, port: 80, nodePort: {}}}]
status: {{loadBalancer: {{ingress: [{{ip: 198.51.100.10}}]}}}}
---
",
        check + 100
    )
}

/// Its endpoint, on a node.
fn slice(name: &str, (node, address): (usize, IpAddr), conditions: &str, changed: &str) -> String {
    format!(
        "apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: {name}-1
  namespace: shop
  labels: {{kubernetes.io/service-name: {name}}}
  annotations: {{endpoints.kubernetes.io/last-change-trigger-time: \"{changed}\"}}
addressType: IPv4
ports: [{{name: tcp, port: {TELLS}}}]
endpoints: [{{addresses: [\"{address}\"], nodeName: node{node}, conditions: {{{conditions}}}}}]
---
"
    )
}

/// What a server answers to a GET: the status, and all of its text.
fn get(from: &Netns, to: SocketAddr, path: &str) -> Result<(u16, String)> {
    let patience = Duration::from_secs(3);
    let mut stream = from.inside(|| TcpStream::connect_timeout(&to, patience))??;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(
        format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes(),
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let status = text.split(' ').nth(1).context("a status")?.parse()?;
    Ok((status, text))
}

/// Waits until a load balancer hears this of a port of the node; nothing: nobody listens.
fn hears(lab: &Fabric, port: u16, expected: Option<(u16, usize)>) {
    let what = format!("{expected:?} of port {port}");
    eventually(PATIENCE, &what, || {
        let heard = get(&lab.router, at(NODE, port), "/");
        let Some((status, count)) = expected else {
            return ensure_refused(heard);
        };
        let (heard, text) = heard?;
        ensure!(heard == status, "{text}");
        let header = format!("x-load-balancing-endpoint-weight: {count}");
        ensure!(text.to_lowercase().contains(&header), "{text}");
        ensure!(
            text.contains(&format!("\"localEndpoints\":{count}")),
            "{text}"
        );
        Ok(())
    })
    .unwrap();
}

fn ensure_refused(heard: Result<(u16, String)>) -> Result<()> {
    match heard {
        Ok((status, text)) => anyhow::bail!("{status}: {text}"),
        Err(_) => Ok(()),
    }
}

fn errors(lab: &Fabric) -> Result<String> {
    Ok(lab.stations[0].agent.status()?["errors"].to_string())
}

const READY: &str = "ready: true";
const ENDS: &str = "ready: false, serving: true, terminating: true";

#[test]
fn rules_138_and_139_load_balancers_hear_where_endpoints_are_and_whether_the_node_stays() {
    require_root!();
    let (lab, _tellers) = start("svh");
    let pods: Vec<IpAddr> = lab.pods.iter().map(|pod| pod.addresses[0]).collect();
    let tell = |endpoint: (usize, IpAddr), conditions: &str| {
        let text = slice("lb", endpoint, conditions, RFC_3339_OF_OLD);
        lab.manifest("lb-slices.yaml", &text).unwrap();
    };
    lab.manifest("lb.yaml", &balanced("lb", "10.96.0.20", CHECK, "Local"))
        .unwrap();
    tell((1, pods[0]), READY);
    hears(&lab, CHECK, Some((200, 1)));
    let node = &lab.stations[0].netns;
    for address in ["127.0.0.1", "::1"] {
        assert_eq!(
            get(node, at(address, CHECK), "/x?y").unwrap().0,
            200,
            "{address}"
        );
    }
    tell((2, pods[1]), READY);
    hears(&lab, CHECK, Some((503, 0)));
    tell((1, pods[0]), ENDS);
    hears(&lab, CHECK, Some((503, 0)));
    tell((1, pods[0]), READY);
    hears(&lab, CHECK, Some((200, 1)));
    // The port comes and goes with the policy.
    for (policy, expected) in [("Cluster", None), ("Local", Some((200, 1)))] {
        lab.manifest("lb.yaml", &balanced("lb", "10.96.0.20", CHECK, policy))
            .unwrap();
        hears(&lab, CHECK, expected);
    }
    // The example of the docs, with the pod that is here.
    let example = example_of_the_docs().replace("10.48.0.1]", &format!("{}]", pods[0]));
    lab.manifest("docs.yaml", &example).unwrap();
    hears(&lab, 32080, Some((200, 1)));
    asks_as_the_docs(&lab);
    clashes(&lab);
    leaves(&lab);
    say("health checks: 9 answers, one clash told and ended, one node that goes");
}

fn example_of_the_docs() -> String {
    let page = include_str!("../../../docs/services.md");
    let block = page.split("```yaml\n").nth(1).unwrap();
    block.split("```").next().unwrap().to_owned()
}

/// What the page shows of `portolan service` is answered, for the Service that it shows.
fn asks_as_the_docs(lab: &Fabric) {
    let page = include_str!("../../../docs/services.md");
    let lines = page
        .lines()
        .filter_map(|line| line.strip_prefix("portolan "));
    let asked = lines.filter(|line| line.starts_with("service "));
    let mut count = 0;
    for line in asked {
        let line = line.split('#').next().unwrap().split('|').next().unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        let said = lab.stations[0].agent.verb(&words).unwrap();
        assert!(said.contains("web"), "{line}: {said}");
        count += 1;
    }
    assert!(count >= 3, "{count}");
}

/// A port that another has is told of, and taken when it is free.
fn clashes(lab: &Fabric) {
    let node = &lab.stations[0].netns;
    let other = node
        .inside(|| TcpListener::bind(("::", CLASH)))
        .unwrap()
        .unwrap();
    lab.manifest(
        "clash.yaml",
        &balanced("clash", "10.96.0.21", CLASH, "Local"),
    )
    .unwrap();
    let event = || lab.read_manifest(".status/node1.events.json");
    eventually(PATIENCE, "the clash told", || {
        let errors = errors(lab)?;
        ensure!(
            errors.contains("Service shop/clash: its healthCheckNodePort 32101"),
            "{errors}"
        );
        let event = event()?;
        ensure!(event.contains("FailedToStartServiceHealthcheck"), "{event}");
        Ok(())
    })
    .unwrap();
    hears(lab, CHECK, Some((200, 1)));
    drop(other);
    hears(lab, CLASH, Some((503, 0)));
    eventually(PATIENCE, "the clash over", || {
        let errors = errors(lab)?;
        ensure!(!errors.contains("healthCheckNodePort"), "{errors}");
        let event = event()?;
        ensure!(
            !event.contains("FailedToStartServiceHealthcheck"),
            "{event}"
        );
        Ok(())
    })
    .unwrap();
    lab.remove_manifest("clash.yaml").unwrap();
    hears(lab, CLASH, None);
}

/// A node that is about to go says so where kube-proxy does and where metrics are, and works on.
fn leaves(lab: &Fabric) {
    let node = &lab.stations[0].netns;
    let asked = |from: &Netns, to: SocketAddr, path: &str, expected: u16| {
        eventually(PATIENCE, &format!("{expected} of {to}{path}"), || {
            let (status, text) = get(from, to, path)?;
            ensure!(status == expected, "{text}");
            Ok(())
        })
        .unwrap();
    };
    let metrics: SocketAddr = METRICS.parse().unwrap();
    let manifest = lab.read_manifest("node1.yaml").unwrap();
    let tainted = "spec: {taints: [{key: ToBeDeletedByClusterAutoscaler, effect: NoSchedule}]}";
    for (text, expected) in [
        (manifest.clone(), 200),
        (format!("{manifest}{tainted}\n"), 503),
        (manifest, 200),
    ] {
        lab.manifest("node1.yaml", &text).unwrap();
        asked(&lab.router, at(NODE, HEALTHZ), "/healthz", expected);
        asked(node, metrics, "/healthz", expected);
        asked(&lab.router, at(NODE, HEALTHZ), "/livez", 200);
        asked(node, metrics, "/livez", 200);
        hears(lab, CHECK, Some((200, 1)));
    }
}

fn shown(lab: &Fabric, words: &[&str]) -> Result<Value> {
    let words = [&["service"], words, &["-o", "json"]].concat();
    Ok(serde_json::from_str(&lab.stations[0].agent.verb(&words)?)?)
}

#[test]
fn services_are_listed_and_shown_with_their_reasons_counters_and_times() {
    require_root!();
    let (lab, _tellers) = start("svs");
    let pod = &lab.pods[0];
    eventually(PATIENCE, "the first answer", || {
        super::seen(
            pod.netns(),
            at(super::FAR[0], super::PORT),
            super::Transport::Tcp,
        )
        .map(drop)
    })
    .unwrap();
    lists(&lab);
    shows(&lab);
    says_why(&lab);
    refuses(&lab);
    times(&lab);
}

fn lists(lab: &Fabric) {
    let agent = &lab.stations[0].agent;
    let list = shown(lab, &["list", "-n", "shop"]).unwrap();
    let rows = list["services"].as_array().unwrap();
    let counts: Vec<(&str, u64)> = rows
        .iter()
        .map(|row| {
            (
                row["name"].as_str().unwrap(),
                row["endpoints"].as_u64().unwrap(),
            )
        })
        .collect();
    assert_eq!(counts, [("far", 2), ("near", 2), ("nobody", 0)]);
    let table = agent.verb(&["service", "list"]).unwrap();
    let nobody = table
        .lines()
        .find(|line| line.starts_with("shop/nobody"))
        .unwrap();
    assert!(nobody.ends_with("no endpoints"), "{table}");
}

fn shows(lab: &Fabric) {
    let agent = &lab.stations[0].agent;
    let far = shown(lab, &["show", "far", "-n", "shop"]).unwrap();
    let port = &far["ports"][0];
    assert_eq!(port["frontends"][0]["address"], "10.96.0.10:81");
    assert_eq!(port["frontends"][0]["pods"], "to cluster");
    assert_eq!(port["frontends"][1]["address"], "*:30081");
    assert_eq!(port["endpoints"][0]["node"], "node2");
    assert_eq!(port["endpoints"][0]["askedBy"][0], "cluster");
    let counters = far["counters"].as_array().unwrap().iter();
    let counted = counters.filter(|one| one["what"] == "shop/far:tcp cluster IP");
    let packets: u64 = counted.filter_map(|one| one["packets"].as_u64()).sum();
    assert!(packets >= 1, "{far}");
    let table = agent.verb(&["service", "show", "shop/far"]).unwrap();
    for words in [
        "cluster IP",
        "node port",
        "*:30081",
        "node2",
        "shop/far:tcp cluster IP",
    ] {
        assert!(table.contains(words), "{words} is not in\n{table}");
    }
}

fn says_why(lab: &Fabric) {
    let agent = &lab.stations[0].agent;
    // One that ends beside one that is ready, and a Service whose address is another's.
    let ended = slice(
        "thief",
        (1, lab.pods[0].addresses[0]),
        ENDS,
        RFC_3339_OF_OLD,
    );
    let ready = slice(
        "thief",
        (2, lab.pods[1].addresses[0]),
        READY,
        RFC_3339_OF_OLD,
    );
    let ready = ready.replace("thief-1", "thief-2");
    let thief = balanced("thief", "10.96.0.30", CHECK, "Cluster");
    let thief = thief
        .replace("port: 80,", "port: 81,")
        .replace("198.51.100.10", super::FAR[0]);
    lab.manifest("thief.yaml", &format!("{thief}{ended}{ready}"))
        .unwrap();
    eventually(PATIENCE, "the address that another has", || {
        let table = agent.verb(&["service", "show", "shop/thief"])?;
        for words in [
            "10.96.0.10:81 is Service shop/far:tcp's",
            "it ends, and others are ready",
        ] {
            ensure!(table.contains(words), "{words} is not in\n{table}");
        }
        Ok(())
    })
    .unwrap();
}

fn refuses(lab: &Fabric) {
    let agent = &lab.stations[0].agent;
    let unknown = agent
        .verb(&["service", "show", "far"])
        .unwrap_err()
        .to_string();
    assert!(unknown.contains("there is shop/far"), "{unknown}");
    let unknown = agent
        .verb(&["service", "show", "zzz"])
        .unwrap_err()
        .to_string();
    assert!(
        unknown.contains("portolan service list -n default"),
        "{unknown}"
    );
    let without = lab.stations[1].agent.verb(&["service", "list"]);
    let without = without.unwrap_err().to_string();
    assert!(without.contains("does not serve Services"), "{without}");
}

/// Changes count from the moment that their slices tell, unless they are from before the agent or from the future.
fn times(lab: &Fabric) {
    let count = || -> Result<u64> {
        let report = lab.stations[0].agent.status()?;
        let counts = &report["services"]["programming"]["counts"];
        Ok(counts
            .as_array()
            .context("counts")?
            .iter()
            .filter_map(Value::as_u64)
            .sum())
    };
    assert_eq!(count().unwrap(), 0, "all of them were of long ago");
    let time = |when: &str| -> String {
        let words = ["-u", "-d", when, "+%Y-%m-%dT%H:%M:%S.%NZ"];
        let said = tests::netns::run("date", &words).unwrap();
        said.trim().to_owned()
    };
    let tell = |address: &str, at: &str| {
        let address: IpAddr = address.parse().unwrap();
        lab.manifest("timed.yaml", &slice("nobody", (2, address), READY, at))
            .unwrap();
        lab.stations[0]
            .agent
            .verb(&["sync", "--timeout", "30s"])
            .unwrap();
    };
    tell("10.48.200.1", &time("1 hour"));
    tell("10.48.200.2", "yesterday");
    assert_eq!(
        count().unwrap(),
        0,
        "a clock that goes ahead, and no time at all"
    );
    tell("10.48.200.3", &time("now"));
    eventually(PATIENCE, "the time of a change", || {
        ensure!(count()? == 1, "{}", count()?);
        Ok(())
    })
    .unwrap();
    let (_, text) = get(&lab.stations[0].netns, METRICS.parse().unwrap(), "/metrics").unwrap();
    assert!(
        text.contains("portolan_service_programming_seconds_count 1"),
        "{text}"
    );
    assert!(text.contains("portolan_service_services 4"), "{text}");
}
