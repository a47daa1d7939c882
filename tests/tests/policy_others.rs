//! Rules of kube-proxy, Docker and firewalld keep working beside ours, and stay as they are; an emptied filter table leaks nothing.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]
#![allow(
    clippy::print_stdout,
    reason = "measured times are shown with --nocapture"
)]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tests::flow::{Flow, Kind, measure};
use tests::lab::{Lab, Options};
use tests::netns::Netns;
use tests::reach::{Transport, Verdict, attempt, server_at};
use tests::require_root;

/// What the issue promises.
const HEALED: Duration = Duration::from_secs(2);
const POLICY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: web}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress]
  ingress:
    - from: [{podSelector: {matchLabels: {app: cache}}}]
";
/// kube-proxy: a Service with an endpoint (DNAT, masquerade by its mark) and one without (REJECT); Docker: DROP as the
/// policy of FORWARD, its own bridge allowed; a reject at the end, as firewalld's old back end had it.
const OTHERS: &str = "
iptables-@ -t nat -N KUBE-SERVICES
iptables-@ -t nat -N KUBE-POSTROUTING
iptables-@ -t nat -A PREROUTING -j KUBE-SERVICES
iptables-@ -t nat -A OUTPUT -j KUBE-SERVICES
iptables-@ -t nat -A POSTROUTING -j KUBE-POSTROUTING
iptables-@ -t nat -A KUBE-SERVICES -d 10.96.0.10/32 -p tcp --dport 80 -j MARK --set-xmark 0x4000/0x4000
iptables-@ -t nat -A KUBE-SERVICES -d 10.96.0.10/32 -p tcp --dport 80 -j DNAT --to-destination WEB:8080
iptables-@ -t nat -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
iptables-@ -t nat -A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
iptables-@ -t nat -A KUBE-POSTROUTING -d 192.0.2.0/24 -j MASQUERADE
iptables-@ -N KUBE-FORWARD
iptables-@ -A FORWARD -j KUBE-FORWARD
iptables-@ -A FORWARD -d 10.96.0.11/32 -p tcp --dport 80 -j REJECT
iptables-@ -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
iptables-@ -A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
iptables-@ -N DOCKER-USER
iptables-@ -A FORWARD -j DOCKER-USER
iptables-@ -A DOCKER-USER -j RETURN
iptables-@ -A FORWARD -i docker0 -j ACCEPT
iptables-@ -A FORWARD -p tcp --dport 9999 -j REJECT
iptables-@ -P FORWARD DROP
ip6tables-@ -P FORWARD DROP
";

fn lab(tag: &str, backend: &str) -> Lab {
    let options = Options::for_test(tag, env!("CARGO_BIN_EXE_portolan-demo")).unwrap();
    let mut lab = Lab::new(options).unwrap();
    lab.drop_manifest("web-policy.yaml", POLICY).unwrap();
    let node = lab.node_mut(0).unwrap();
    node.agent.set_arguments(&["--iptables", backend]);
    node.agent.start(&node.netns).unwrap();
    node.agent.wait_synced().unwrap();
    for (namespace, name) in [("shop", "web"), ("shop", "cache"), ("team", "tester")] {
        lab.attach(0, namespace, name).unwrap();
    }
    lab.nodes[0].agent.wait_synced().unwrap();
    lab.nodes[0].agent.wait_settled().unwrap();
    lab
}

fn address(lab: &Lab, name: &str, is_ipv6: bool) -> SocketAddr {
    server_at(lab.place(name, is_ipv6).unwrap().1)
}

fn verdict(lab: &Lab, from: &str, to: SocketAddr) -> Verdict {
    let (from, _) = lab.place(from, false).unwrap();
    attempt(from, to, Transport::Tcp, Duration::from_millis(500)).unwrap()
}

/// Others' rules, line by line, without counters.
fn others(netns: &Netns, backend: &str) -> Vec<String> {
    let text = ["iptables", "ip6tables"]
        .map(|family| netns.run(&format!("{family}-{backend}-save"), &[]).unwrap())
        .concat();
    let is_others =
        |line: &&str| !line.starts_with('#') && !line.contains("PTL-") && !line.contains("ptl:");
    text.lines()
        .filter(is_others)
        .map(|line| line.split(" [").next().unwrap().to_owned())
        .collect()
}

#[test]
fn rules_of_kube_proxy_docker_and_firewalld_work_on_and_stay_as_they_are() {
    require_root!();
    for backend in ["nft", "legacy"] {
        let mut lab = lab("otr", backend);
        let node = &lab.nodes[0].netns;
        let web = address(&lab, "shop/web", false);
        let script = OTHERS
            .replace('@', backend)
            .replace("WEB", &web.ip().to_string());
        node.run("bash", &["-ec", &script]).unwrap();
        let theirs = others(node, backend);
        let check = |lab: &Lab| {
            let service: SocketAddr = "10.96.0.10:80".parse().unwrap();
            let no_endpoint: SocketAddr = "10.96.0.11:80".parse().unwrap();
            let rejected = SocketAddr::new(address(lab, "team/tester", false).ip(), 9999);
            for (from, to, expected) in [
                ("shop/cache", web, Verdict::Answered),
                ("team/tester", web, Verdict::Silent),
                (
                    "shop/cache",
                    address(lab, "shop/web", true),
                    Verdict::Answered,
                ),
                (
                    "team/tester",
                    address(lab, "shop/web", true),
                    Verdict::Silent,
                ),
                ("shop/cache", service, Verdict::Answered),
                ("team/tester", service, Verdict::Silent),
                ("shop/cache", no_endpoint, Verdict::Refused),
                ("shop/cache", rejected, Verdict::Refused),
            ] {
                assert_eq!(
                    verdict(lab, from, to),
                    expected,
                    "{backend}: {from} to {to}"
                );
            }
        };
        check(&lab);
        // A change, a restart and a repair of ours touch none of theirs.
        std::fs::remove_file(lab.manifests().join("web-policy.yaml")).unwrap();
        lab.nodes[0].agent.wait_synced().unwrap();
        assert_eq!(verdict(&lab, "team/tester", web), Verdict::Answered);
        lab.drop_manifest("web-policy.yaml", POLICY).unwrap();
        lab.nodes[0].agent.kill().unwrap();
        let node = lab.node_mut(0).unwrap();
        node.agent.start(&node.netns).unwrap();
        node.agent.wait_synced().unwrap();
        node.agent.wait_settled().unwrap();
        check(&lab);
        assert_eq!(others(&lab.nodes[0].netns, backend), theirs, "{backend}");
    }
}

#[test]
fn an_emptied_filter_table_leaks_nothing_and_what_is_allowed_is_back_within_two_seconds() {
    require_root!();
    for backend in ["nft", "legacy"] {
        let lab = lab("grd", backend);
        let rows = [
            ("team/tester", "shop/web", Kind::NewTcp, false),
            ("team/tester", "shop/web", Kind::Udp, false),
        ];
        let flows: Vec<(&Netns, Flow)> = [false, true]
            .into_iter()
            .flat_map(|is_ipv6| rows.map(|row| (is_ipv6, row)))
            .map(|(is_ipv6, (from, to, kind, is_allowed))| {
                let flow = Flow {
                    name: format!("{from} → {to}"),
                    kind,
                    is_allowed,
                    to: address(&lab, to, is_ipv6),
                    server: lab.place(to, is_ipv6).unwrap().0.name().to_owned(),
                    rate: 100,
                };
                (lab.place(from, is_ipv6).unwrap().0, flow)
            })
            .collect();
        let mut worst = Duration::ZERO;
        let outcomes = measure(&flows, Duration::from_secs(8), || {
            for _ in 0..3 {
                std::thread::sleep(Duration::from_secs(1));
                let flush = format!("iptables-{backend} -F; ip6tables-{backend} -F");
                lab.nodes[0].netns.run("bash", &["-c", &flush])?;
                let start = Instant::now();
                for is_ipv6 in [false, true] {
                    let (from, _) = lab.place("shop/cache", is_ipv6)?;
                    let to = address(&lab, "shop/web", is_ipv6);
                    while attempt(from, to, Transport::Udp, Duration::from_millis(50))?
                        != Verdict::Answered
                    {
                        anyhow::ensure!(start.elapsed() < HEALED, "{to} is not back");
                    }
                }
                worst = worst.max(start.elapsed());
            }
            Ok(())
        })
        .unwrap();
        println!(
            "{backend}: allowed flows are back after {} ms (worst of 3)",
            worst.as_millis()
        );
        for ((_, flow), outcome) in flows.iter().zip(&outcomes) {
            assert!(
                outcome.is_meaningful(),
                "{} {:?}: {outcome:?}",
                flow.name,
                flow.kind
            );
            assert_eq!(
                outcome.leaked, 0,
                "{backend}: {} {:?} {}: {outcome:?}",
                flow.name, flow.kind, flow.to
            );
        }
    }
}
