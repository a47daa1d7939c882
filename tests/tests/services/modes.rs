//! The mode nftables, and switches between modes under traffic: every way as by iptables, damage mended, nothing lost.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Result, ensure};
use tests::fabric::PATIENCE;
use tests::flow::{Flow, Kind, Outcome, measure, measure_while};
use tests::netns::Netns;
use tests::rack::say;
use tests::reach::{self, Transport, attempt};
use tests::require_root;
use tests::station::Station;
use tests::wait::eventually;

use super::{ANSWER, FAR, PORT, at, right_ways, seen, start};

const ECHO: [&str; 2] = ["10.96.0.20", "fd96::20"];
const ECHO_PORT: u16 = 7;
/// Probes a second of each flow.
const RATE: u32 = 100;

/// A Service of both families: the echo server of a pod on another node, which every pod of the lab has.
fn echo(addresses: &[IpAddr]) -> String {
    let [v4, v6] = ECHO;
    let ports = |target: &str| {
        let each = ["TCP", "UDP"].map(|protocol| {
            let name = protocol.to_lowercase();
            format!("{{name: {name}, protocol: {protocol}, port: {target}}}")
        });
        each.join(", ")
    };
    let mut text = format!(
        "apiVersion: v1
kind: Service
metadata: {{name: echo, namespace: shop}}
spec: {{clusterIP: {v4}, clusterIPs: [{v4}, \"{v6}\"], ipFamilies: [IPv4, IPv6], ports: [{}]}}
---
",
        ports(&ECHO_PORT.to_string())
    );
    for address in addresses {
        let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
        text += &format!(
            "apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: echo-{}, namespace: shop, labels: {{kubernetes.io/service-name: echo}}}}
addressType: {family}
ports: [{}]
endpoints: [{{addresses: [\"{address}\"], nodeName: node2, conditions: {{ready: true}}}}]
---
",
            family.to_lowercase(),
            ports(&reach::PORT.to_string())
        );
    }
    text
}

/// Starts the agent anew, with other flags; back once what it knows is in the kernel.
fn restart(station: &mut Station, features: &str, mode: &str) -> Result<()> {
    restart_with(station, &["--features", features, "--proxy-mode", mode])
}

/// Likewise, with these flags alone.
pub(super) fn restart_with(station: &mut Station, words: &[&str]) -> Result<()> {
    station.agent.terminate()?;
    station.agent.set_arguments(words);
    station.start()?;
    station.agent.wait_synced()
}

pub(super) const ALL: &str = "bgp,policy,cni,services";

/// Waits until there are chains of Services (or not), and tables (or not).
fn settled(node: &Netns, has_chains: bool, has_tables: bool) -> Result<()> {
    eventually(PATIENCE, "the mode's objects alone", || -> Result<()> {
        let saved = node.run("iptables-save", &[])? + &node.run("ip6tables-save", &[])?;
        ensure!(saved.contains("KUBE-SERVICES") == has_chains, "{saved}");
        let tables = node.run("nft", &["list", "tables"])?;
        let count = tables.matches("portolan-services").count();
        ensure!(count == if has_tables { 2 } else { 0 }, "{tables}");
        Ok(())
    })
}

/// By tables of our own, too: none beside another's chains, and there again when those are gone.
pub(super) fn beside_another(station: &mut Station) -> Result<()> {
    restart(station, ALL, "nftables")?;
    settled(&station.netns, false, true)?;
    let iptables = |words: &str| {
        let words: Vec<&str> = words.split(' ').collect();
        station.netns.run("iptables", &words)
    };
    iptables("-t nat -N KUBE-SERVICES")?;
    iptables("-t nat -A KUBE-SERVICES -d 10.96.9.9/32 -j RETURN")?;
    settled(&station.netns, true, false)?;
    let errors = station.agent.status()?["errors"].to_string();
    ensure!(errors.contains("KUBE-SERVICES"), "{errors}");
    iptables("-t nat -F KUBE-SERVICES")?;
    iptables("-t nat -X KUBE-SERVICES")?;
    settled(&station.netns, false, true)
}

/// Established and new TCP connections and UDP of both families, from a pod.
fn flows<'a>(from: &'a Netns, server: &str) -> Vec<(&'a Netns, Flow)> {
    let kinds = [Kind::EstablishedTcp, Kind::NewTcp, Kind::Udp];
    let each = ECHO.iter().flat_map(|to| kinds.map(|kind| (to, kind)));
    let flow = |(to, kind): (&&str, Kind)| Flow {
        name: format!("{} to {to}", kind.name()),
        kind,
        is_allowed: true,
        to: SocketAddr::new(to.parse().unwrap(), ECHO_PORT),
        server: server.to_owned(),
        rate: RATE,
    };
    each.map(|one| (from, flow(one))).collect()
}

fn sums(outcomes: &[Outcome]) -> (u64, u64) {
    let sent = outcomes.iter().map(|one| one.sent).sum();
    (sent, outcomes.iter().map(|one| one.lost).sum())
}

/// One lab for all of it: iptables, nftables and iptables again under traffic; then, with nothing to lose, nobody, and nftables.
#[test]
fn a_live_switch_of_modes_loses_nothing_and_nftables_serves_every_way_and_mends_damage() {
    require_root!();
    let (mut lab, _tellers) = start("svm");
    let text = echo(&lab.pods[1].addresses);
    lab.manifest("echo.yaml", &text).unwrap();
    lab.stations[0].agent.wait_synced().unwrap();
    settled(&lab.stations[0].netns, true, false).unwrap();
    let outcomes = {
        let (pods, stations) = (&lab.pods, &mut lab.stations);
        let flows = flows(pods[0].netns(), pods[1].netns().name());
        measure_while(&flows, || {
            restart(&mut stations[0], ALL, "nftables")?;
            settled(&stations[0].netns, false, true)?;
            restart(&mut stations[0], ALL, "iptables")?;
            settled(&stations[0].netns, true, false)
        })
        .unwrap()
    };
    let (sent, lost) = sums(&outcomes);
    say(&format!(
        "iptables, nftables, iptables: {lost} of {sent} lost"
    ));
    assert!(outcomes.iter().all(Outcome::is_meaningful), "{outcomes:?}");
    assert!(sent >= 500, "{sent}");
    assert_eq!(lost, 0, "{outcomes:?}");

    // What is lost is seen: where nobody serves Services, new connections are.
    let features = "bgp,policy,cni";
    restart(&mut lab.stations[0], features, "iptables").unwrap();
    settled(&lab.stations[0].netns, false, false).unwrap();
    let (pod, server) = (lab.pods[0].netns(), lab.pods[1].netns().name());
    let new: Vec<_> = flows(pod, server)
        .into_iter()
        .filter(|(_, flow)| flow.kind == Kind::NewTcp)
        .collect();
    let (sent, lost) = sums(&measure(&new, Duration::from_secs(1), || Ok(())).unwrap());
    assert!(sent > 0 && lost == sent, "{lost} of {sent}");

    restart(&mut lab.stations[0], ALL, "nftables").unwrap();
    settled(&lab.stations[0].netns, false, true).unwrap();
    assert_eq!(right_ways(&lab), 16);
    let words = ["service", "show", "shop/far", "-o", "json"];
    let shown = lab.stations[0].agent.verb(&words).unwrap();
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let counters = shown["counters"].as_array().unwrap();
    let led = |family: &str| {
        let place = format!("set {family} portolan-services services");
        let mut of_set = counters.iter().filter(|one| one["place"] == *place);
        of_set.any(|one| one["packets"].as_u64() > Some(0))
    };
    assert!(led("ip") && led("ip6"), "{shown:#}");
    // Semantics 127: another port of a cluster IP is refused.
    let node = &lab.stations[0].netns;
    let other = attempt(pod_of(&lab), at(FAR[0], 9), Transport::Tcp, ANSWER).unwrap();
    assert_eq!(other, reach::Verdict::Refused);
    for damage in [
        "delete table ip portolan-services",
        "flush set ip6 portolan-services services",
        "flush map ip portolan-services doors",
        "flush chain ip portolan-services prerouting",
    ] {
        node.run("nft", &damage.split(' ').collect::<Vec<_>>())
            .unwrap();
        for to in FAR {
            eventually(PATIENCE, damage, || {
                seen(pod_of(&lab), at(to, PORT), Transport::Tcp).map(drop)
            })
            .unwrap();
        }
    }
    settled(node, false, true).unwrap();
    assert_eq!(right_ways(&lab), 16);
    super::rules::policy_beside(&lab);
    killed_under_traffic(&mut lab);
    super::rules::node_ports_where_they_are_said(&mut lab, ALL, "nftables");
    lab.stations[0].agent.kill().unwrap();
    for _ in 0..5 {
        seen(pod_of(&lab), at(FAR[0], PORT), Transport::Tcp).unwrap();
    }
    let run_dir = lab.stations[0].agent.run_dir();
    let words = ["cleanup", "--run-dir", run_dir.to_str().unwrap()];
    let program = tests::agent::binaries().unwrap().join("portolan");
    let program = program.to_str().unwrap();
    lab.stations[0].netns.run(program, &words).unwrap();
    settled(&lab.stations[0].netns, false, false).unwrap();
}

/// Twice killed and started again, with established and new connections all the while.
fn killed_under_traffic(lab: &mut tests::fabric::Fabric) {
    let (pods, stations) = (&lab.pods, &mut lab.stations);
    let outcomes = measure_while(&flows(pods[0].netns(), pods[1].netns().name()), || {
        for _ in 0..2 {
            stations[0].agent.kill()?;
            std::thread::sleep(Duration::from_millis(300));
            stations[0].start()?;
            stations[0].agent.wait_synced()?;
            settled(&stations[0].netns, false, true)?;
        }
        Ok(())
    });
    let outcomes = outcomes.unwrap();
    let (sent, lost) = sums(&outcomes);
    say(&format!("nftables, killed twice: {lost} of {sent} lost"));
    assert!(outcomes.iter().all(Outcome::is_meaningful), "{outcomes:?}");
    assert!(sent >= 500, "{sent}");
    assert_eq!(lost, 0, "{outcomes:?}");
}

fn pod_of(lab: &tests::fabric::Fabric) -> &Netns {
    lab.pods[0].netns()
}
