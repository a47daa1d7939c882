//! The ingress controller as deploy/ installs it: two sites by name from outside, its address in statuses, Events, and what is
//! served while endpoints, certificates, replicas and the API server come and go.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use cluster::cluster::Cluster;
use cluster::fabric::TOR_AS;
use cluster::kustomization::Kustomization;
use tests::wait::{eventually, pause};

use crate::outside::{Counted, Way, counted_while};
use crate::served::asked_while;
use crate::workloads::{SHOP, client_on};

const PATIENCE: Duration = Duration::from_secs(90);
const HOME: &str = "portolan-ingress";
/// The one address of the pool, in a range that is announced.
const ADDRESS: &str = "198.51.100.80";
const SITE: &str = "shop.example.org";
/// Requests on one connection.
const KEPT: usize = 40;
/// How often the ToR's ways to the address change at most while replicas of two nodes are replaced: each node leaves, and comes.
const CHANGES: usize = 4;
/// How long the API server is away.
const AWAY: Duration = Duration::from_secs(5);

/// The controller's Service gets its address of the pool, the range is announced, and each site is behind a Deployment that waits before it ends.
const MANIFESTS: &str = r"
apiVersion: portolan.io/v1alpha1
kind: IPPool
metadata: {name: outside}
spec: {cidr: 198.51.100.80/32, blockSize: 32, allowedUses: [LoadBalancer]}
---
apiVersion: portolan.io/v1alpha1
kind: BGPConfiguration
metadata: {name: default}
spec:
  nodeToNodeMeshEnabled: false
  serviceLoadBalancerIPs: [{cidr: 198.51.100.0/24}]
  serviceLoadBalancerAggregation: Disabled
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: site, namespace: shop}
spec:
  ingressClassName: portolan
  tls: [{hosts: [shop.example.org], secretName: site}]
  rules:
  - host: shop.example.org
    http:
      paths:
      - {path: /, pathType: Prefix, backend: {service: {name: rolled, port: {name: http}}}}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: nowhere, namespace: shop}
spec:
  ingressClassName: portolan
  rules:
  - host: nowhere.example.org
    http:
      paths:
      - {path: /, pathType: Prefix, backend: {service: {name: absent, port: {number: 80}}}}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: anothers, namespace: shop}
spec:
  ingressClassName: another
  defaultBackend: {service: {name: rolled, port: {name: http}}}
";

/// A certificate of its own for the site, with its key, as a Secret that replaces the one before.
fn set_certificate(cluster: &Cluster, folder: &Path) {
    let path = |name: &str| folder.join(name).to_string_lossy().into_owned();
    let (key, certificate) = (path("tls.key"), path("tls.crt"));
    let words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2";
    let made = Command::new("openssl")
        .args(words.split(' '))
        .args(["-subj", "/CN=site", "-addext"])
        .arg(format!("subjectAltName=DNS:{SITE}"))
        .args(["-keyout", &key, "-out", &certificate])
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let secret = cluster.kubectl(&[
        "-n",
        SHOP,
        "create",
        "secret",
        "tls",
        "site",
        &format!("--key={key}"),
        &format!("--cert={certificate}"),
        "--dry-run=client",
        "-o",
        "yaml",
    ]);
    cluster.plane().apply(&secret);
}

/// Asks the site over HTTPS from outside, believing the certificate in the folder alone.
fn https(cluster: &Cluster, folder: &Path, words: &[&str]) -> Result<String> {
    let resolve = format!("{SITE}:443:{ADDRESS}");
    let authority = folder.join("tls.crt");
    let authority = authority.to_string_lossy();
    let url = format!("https://{SITE}/hostname");
    let args = [
        "-s",
        "-f",
        "-m",
        "20",
        "--resolve",
        &resolve,
        "--cacert",
        &authority,
    ];
    let all = [&args[..], words, &[&url]].concat();
    cluster.fabric().outside().run("curl", &all)
}

fn addresses(cluster: &Cluster, ingress: &str) -> Result<Vec<String>> {
    let found = cluster.get(&["-n", SHOP, "ingress", ingress])?;
    let points = found.pointer("/status/loadBalancer/ingress").cloned();
    let points = points.unwrap_or_default();
    let points = points.as_array().cloned().unwrap_or_default();
    let ips = points.iter().filter_map(|point| point["ip"].as_str());
    Ok(ips.map(str::to_owned).collect())
}

fn wait_addresses(cluster: &Cluster, ingress: &str, expected: &[&str]) {
    eventually(PATIENCE, &format!("addresses of {ingress}"), || {
        let found = addresses(cluster, ingress)?;
        ensure!(found == expected, "{found:?}");
        Ok(())
    })
    .unwrap();
}

/// The uids and restarts of the controller's pods.
fn replicas(cluster: &Cluster) -> Vec<String> {
    let list = cluster.get(&["-n", HOME, "pods"]).unwrap();
    let pods = list["items"].as_array().unwrap().iter();
    let mut told: Vec<String> = pods
        .map(|pod| {
            let restarts = &pod["status"]["containerStatuses"][0]["restartCount"];
            format!("{} {restarts}", pod["metadata"]["uid"])
        })
        .collect();
    told.sort();
    told
}

pub(crate) fn sites_are_reached_from_outside_by_name_over_https(cluster: &mut Cluster) {
    let text = "components: [deploy/components/ingress]\n";
    let kustomization = Kustomization::new(text).unwrap();
    cluster.kubectl(&["apply", "-k", &kustomization.folder().to_string_lossy()]);
    let folder = tempfile::tempdir().unwrap();
    set_certificate(cluster, folder.path());
    cluster.plane().apply(MANIFESTS);
    cluster.wait_rollout(HOME, "deployment/portolan-ingress");
    wait_addresses(cluster, "site", &[ADDRESS]);
    let said = eventually(PATIENCE, "an answer by the announced address", || {
        https(cluster, folder.path(), &[])
    });
    assert!(said.unwrap().starts_with("rolled-"));
    let by_http2 = https(
        cluster,
        folder.path(),
        &["--http2", "-w", " %{http_version}"],
    )
    .unwrap();
    assert!(by_http2.ends_with(" 2"), "{by_http2}");
    // What cannot be served is told, once, and another's Ingress is left alone.
    eventually(PATIENCE, "an Event", || -> Result<()> {
        let events = cluster.get(&["-n", SHOP, "events.events.k8s.io"])?;
        let events = events["items"].as_array().cloned().unwrap_or_default();
        let ours: Vec<_> = events
            .iter()
            .filter(|event| event["reportingController"] == "portolan.io/ingress-controller")
            .collect();
        ensure!(ours.len() == 1, "{ours:?}");
        ensure!(ours[0]["reason"] == "ServiceNotFound", "{ours:?}");
        ensure!(ours[0]["regarding"]["name"] == "nowhere", "{ours:?}");
        Ok(())
    })
    .unwrap();
    wait_addresses(cluster, "anothers", &[]);
    // An Ingress that becomes another's loses the address that we wrote.
    let class = |name: &str| {
        let patch = format!(r#"{{"spec":{{"ingressClassName":"{name}"}}}}"#);
        cluster.kubectl(&["-n", SHOP, "patch", "ingress", "site", "-p", &patch]);
    };
    class("another");
    wait_addresses(cluster, "site", &[]);
    class("portolan");
    wait_addresses(cluster, "site", &[ADDRESS]);
    cluster.tell("ingress: a site by name over HTTPS, its address in the status, an Event");
}

fn server() -> SocketAddr {
    (ADDRESS.parse::<IpAddr>().unwrap(), 80).into()
}

pub(crate) fn an_ingress_fails_no_request_while_all_behind_it_changes(cluster: &mut Cluster) {
    let folder = tempfile::tempdir().unwrap();
    set_certificate(cluster, folder.path());
    let shown = |cluster: &Cluster, folder: &Path| {
        eventually(PATIENCE, "the new certificate", || {
            https(cluster, folder, &[])
        })
        .unwrap();
    };
    shown(cluster, folder.path());
    let before = replicas(cluster);
    assert_eq!(before.len(), 2, "{before:?}");
    let began = Instant::now();
    let kept = ask_on_one_connection(cluster);
    let outside = cluster.fabric().outside();
    let counts = asked_while(&[(outside, server())], SITE, || {
        // Endpoints.
        cluster.kubectl(&["-n", SHOP, "rollout", "restart", "deployment/rolled"]);
        cluster.wait_rollout(SHOP, "deployment/rolled");
        // The certificate.
        let other = tempfile::tempdir().unwrap();
        set_certificate(cluster, other.path());
        shown(cluster, other.path());
        // The API server.
        cluster.plane().stop_api_server();
        pause(AWAY).unwrap();
        cluster.plane().start_api_server();
    });
    let took = began.elapsed();
    let said = kept.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let numbers = said.lines().filter_map(|line| {
        let (connects, code) = line.strip_prefix("= ")?.split_once(' ')?;
        Some((connects.parse::<usize>().ok()?, code))
    });
    let (connects, codes): (Vec<usize>, Vec<&str>) = numbers.unzip();
    assert_eq!(connects.iter().sum::<usize>(), 1, "{said}");
    assert_eq!(codes, ["200"; KEPT], "{said}");
    assert!(counts[0] > 200, "{counts:?}");
    assert_eq!(replicas(cluster), before, "a replica was started anew");
    cluster.tell(&format!(
        "ingress: {counts:?} requests in {took:?}, none failed, and {KEPT} on one connection"
    ));
}

/// One connection with a request every half second.
fn ask_on_one_connection(cluster: &Cluster) -> Child {
    let resolve = format!("{SITE}:443:{ADDRESS}");
    let urls = vec![format!("https://{SITE}/hostname"); KEPT];
    let mut command = cluster.fabric().outside().command("curl");
    command
        .args(["-s", "-k", "--rate", "120/m", "--resolve", &resolve])
        .args(["-w", "\n= %{num_connects} %{http_code}\n"])
        .args(&urls)
        .stdout(Stdio::piped());
    command.spawn().unwrap()
}

/// Has every replica replaced; those that end do so after it is said to be over.
fn update(cluster: &Cluster) {
    let restart = ["rollout", "restart", "deployment/portolan-ingress"];
    cluster.kubectl(&[&["-n", HOME], &restart[..]].concat());
    cluster.wait_rollout(HOME, "deployment/portolan-ingress");
    pause(Duration::from_secs(6)).unwrap();
}

/// The controller itself is updated: replicas drain while others take over, and the Lease goes on. Asked by pods at its cluster
/// IP, and from outside at the address that the pool gave it.
pub(crate) fn the_ingress_is_updated_and_fails_no_request(cluster: &mut Cluster) {
    let holder = |cluster: &Cluster| -> Result<String> {
        let lease = cluster.get(&["-n", HOME, "lease", HOME])?;
        let holder = lease["spec"]["holderIdentity"].as_str();
        Ok(holder.context("no holder")?.to_owned())
    };
    let before = holder(cluster).unwrap();
    let clients = ["n1", "n2"].map(|node| {
        let pod = client_on(cluster, node);
        cluster.netns_of(&pod).unwrap()
    });
    let service = cluster.get(&["-n", HOME, "service", HOME]).unwrap();
    let ip: IpAddr = service["spec"]["clusterIP"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    let asking = [0, 1].map(|at| (&clients[at], SocketAddr::from((ip, 80))));
    spread(cluster);
    let mut counts = Vec::new();
    let local = outside_while(cluster, "Local", || {
        counts = asked_while(&asking, SITE, || update(cluster));
    });
    assert!(counts[0] > 100, "{counts:?}");
    eventually(PATIENCE, "another holder", || -> Result<()> {
        let now = holder(cluster)?;
        ensure!(now != before && !now.is_empty(), "{now}");
        Ok(())
    })
    .unwrap();
    cluster.tell(&format!(
        "ingress: updated, {counts:?} requests of pods, none failed"
    ));
    let policy = r#"{"spec":{"externalTrafficPolicy":"Cluster"}}"#;
    cluster.kubectl(&["-n", HOME, "patch", "service", HOME, "-p", policy]);
    let shared = outside_while(cluster, "Cluster", || update(cluster));
    for counted in &shared {
        assert!(counted.failed.is_empty(), "{counted:?}");
    }
    // Where a node announces the address no more, or again, the ToR leads connections that are open to another one, which does not
    // know them: what is under way on them just then is lost, and the next request is not.
    for counted in &local {
        let failed = counted.failed.len();
        assert!(failed <= CHANGES && counted.run <= 1, "{counted:?}");
    }
}

/// The ToR spreads over nodes, which have an AS each, and by ports, too: else one client is always led to one node.
fn spread(cluster: &Cluster) {
    let hash = "net.ipv4.fib_multipath_hash_policy";
    cluster.fabric().tor().sysctl(hash, "1").unwrap();
    let router = format!("router bgp {TOR_AS}");
    let relax = "bgp bestpath as-path multipath-relax";
    let words = ["configure terminal", &router, relax];
    cluster.fabric().frr().vtysh(&words).unwrap();
}

/// What clients outside count at the announced address, of a policy.
fn outside_while(cluster: &Cluster, policy: &str, during: impl FnOnce()) -> Vec<Counted> {
    eventually(PATIENCE, "a way by each node", || -> Result<()> {
        let routes = cluster
            .fabric()
            .tor()
            .ip(&format!("route show {ADDRESS}"))?;
        ensure!(routes.matches("nexthop").count() == 2, "{routes}");
        Ok(())
    })
    .unwrap();
    let ways = [Way::New, Way::New, Way::Kept, Way::Kept];
    let clients = ways.map(|way| (way, server()));
    let outside = cluster.fabric().outside();
    let counts = counted_while(outside, &clients, SITE, during);
    for (way, counted) in ways.iter().zip(&counts) {
        let Counted {
            asked,
            connections,
            again,
            failed,
            ..
        } = counted;
        cluster.tell(&format!(
            "ingress: updated, policy {policy}, outside, {way:?}: {asked} requests on {connections} connections, {again} asked \
             again, failed {failed:?}"
        ));
        assert!(*asked > 100, "{counted:?}");
    }
    counts
}
