//! `portolan trace` through a tunnel and through egress SNAT, and from the other end: each hop is broken in turn, and named.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::fabric::{Fabric, PATIENCE, Underlay, pools};
use tests::reach::{Transport, attempt, server_at};
use tests::require_root;
use tests::wait::eventually;

use crate::TUNNEL;

/// The hop of the tunnel.
const HOP: &str = "tunnel vxlan.portolan";

struct Tracer<'a> {
    lab: &'a Fabric,
    /// Breaks that were told.
    named: BTreeSet<String>,
    count: usize,
}

impl Tracer<'_> {
    /// From the first node's pod.
    fn forth(&self, words: &str) -> Result<Value> {
        let words: Vec<&str> = words.split_whitespace().collect();
        self.lab.stations[0].agent.trace(&words)
    }

    /// What comes to the third node's pod from the first one's, which tries meanwhile.
    fn arriving(&self, words: &str, to: IpAddr) -> Result<Value> {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let patience = Duration::from_millis(200);
                    let from = self.lab.pods[0].netns();
                    let _ = attempt(from, server_at(to), Transport::Tcp, patience);
                }
            });
            let words: Vec<&str> = ["--arriving"]
                .into_iter()
                .chain(words.split_whitespace())
                .collect();
            let trace = self.lab.stations[2].agent.trace(&words);
            done.store(true, Ordering::Relaxed);
            trace
        })
    }

    /// Waits until it ends there for that reason; gives the command.
    fn ends(
        &mut self,
        trace: impl Fn(&Self) -> Result<Value>,
        (name, hop, what): (&str, &str, &str),
    ) -> String {
        let remedy = eventually(PATIENCE, &format!("{name} at {hop}: {what}"), || {
            let trace = trace(self)?;
            let broken = &trace["break"];
            ensure!(broken["name"] == name && broken["hop"] == hop, "{trace:#}");
            let said = broken["what"].as_str().unwrap_or_default();
            ensure!(said.contains(what), "{trace:#}");
            Ok(broken["remedy"].as_str().unwrap_or_default().to_owned())
        });
        self.named.insert(name.to_owned());
        self.count += 1;
        remedy.unwrap()
    }

    /// Waits until it is reached; gives what a hop says.
    fn reached(&self, trace: impl Fn(&Self) -> Result<Value>, hop: &str) -> String {
        let said = eventually(PATIENCE, &format!("reached by {hop}"), || {
            let trace = trace(self)?;
            ensure!(trace["outcome"] == "reached", "{trace:#}");
            let hops = trace["hops"].as_array().context("hops")?;
            let found = hops.iter().find(|one| one["hop"] == hop);
            let found = found.with_context(|| format!("no {hop}: {hops:#?}"))?;
            Ok(found["what"].as_str().unwrap_or_default().to_owned())
        });
        said.unwrap()
    }

    fn run(&self, node: usize, script: &str) -> String {
        let netns = &self.lab.stations[node].netns;
        netns.run("bash", &["-ec", script]).unwrap()
    }
}

const NOTHING: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: nothing, namespace: shop}
spec: {podSelector: {}, policyTypes: [Ingress], ingress: []}
";

#[test]
fn a_tunnel_is_shown_as_a_hop_and_each_thing_that_breaks_it_is_named_from_both_ends() {
    require_root!();
    let mut lab = Fabric::start("vxt", Underlay::V4, TUNNEL, &pools("VXLAN")).unwrap();
    for number in 1..=3 {
        let pod = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{namespace: shop, name: pod{number}}}\nspec: {{nodeName: node{number}}}\n"
        );
        lab.manifest(&format!("pod{number}.yaml"), &pod).unwrap();
    }
    lab.wait_synced().unwrap();
    lab.all_reach_all().unwrap();
    let [v4, v6] = [lab.pods[2].addresses[0], lab.pods[2].addresses[1]];
    let mut tracer = Tracer {
        lab: &lab,
        named: BTreeSet::new(),
        count: 0,
    };
    for words in [
        "shop/pod1 shop/pod3:8080",
        "-6 shop/pod1 shop/pod3:8080",
        "shop/pod1 shop/pod3/icmp",
    ] {
        let said = tracer.reached(|t| t.forth(words), HOP);
        assert_eq!(
            said,
            "from 10.71.1.1 to 10.71.2.3 by eth0, which takes 1500 octets; 1450 are left for what is in it"
        );
    }
    for (words, to) in [
        ("shop/pod1 shop/pod3:8080", v4),
        ("-6 shop/pod1 shop/pod3:8080", v6),
    ] {
        let came = tracer.reached(|t| t.arriving(words, to), "link eth0");
        assert_eq!(came, "it comes in a tunnel from 10.71.1.1");
        let node = tracer.reached(|t| t.arriving(words, to), "node node3");
        assert!(!node.is_empty());
    }
    let quiet = |t: &Tracer<'_>| {
        let words = ["--arriving", "--wait", "1s", "shop/pod1", "shop/pod3:8080"];
        t.lab.stations[2].agent.trace(&words)
    };
    tracer.ends(
        quiet,
        ("not-arrived", "node node3", "nothing came from 10.48."),
    );
    lab.manifest("nothing.yaml", NOTHING).unwrap();
    let arrives = |t: &Tracer<'_>| t.arriving("shop/pod1 shop/pod3:8080", v4);
    let denied = ("policy-ingress", "node node3", "ingress policy of");
    tracer.ends(arrives, denied);
    lab.remove_manifest("nothing.yaml").unwrap();
    tracer.reached(arrives, "link vxlan.portolan");
    far(&mut tracer, v4);
    let (named, count) = (tracer.named, tracer.count);
    // Nobody is to heal what is broken on the first and the third node.
    for node in [0, 2] {
        lab.stations[node].agent.kill().unwrap();
    }
    let mut tracer = Tracer {
        lab: &lab,
        named,
        count,
    };
    near(&mut tracer, v4);
    far_alone(&mut tracer, v4);
    for name in ["tunnel", "tunnel-in", "not-arrived", "route-back"] {
        assert!(tracer.named.contains(name), "{:?}", tracer.named);
    }
    assert!(tracer.count >= 10, "{}", tracer.count);
}

/// The other node's own firewall takes the tunnel's port for a stranger's.
fn far(tracer: &mut Tracer<'_>, to: IpAddr) {
    let words = "shop/pod1 shop/pod3:8080";
    tracer.run(2, "iptables -I INPUT -p udp --dport 4789 -j DROP");
    let here = (
        "tunnel",
        HOP,
        "for 10.71.2.3, the other end, and nothing comes back",
    );
    let remedy = tracer.ends(|t| t.forth(words), here);
    assert_eq!(
        remedy,
        format!("on 10.71.2.3: portolan trace --arriving {words}")
    );
    let there = (
        "foreign-rule",
        "node node3",
        "a rule in filter INPUT drops it",
    );
    let remedy = tracer.ends(|t| t.arriving(words, to), there);
    tracer.run(2, &remedy);
    tracer.reached(|t| t.forth(words), HOP);
}

/// What is broken on the sender's node.
fn near(tracer: &mut Tracer<'_>, to: IpAddr) {
    let words = format!("shop/pod1 {to}:8080");
    let trace = |t: &Tracer<'_>| t.forth(&words);
    tracer.reached(trace, HOP);
    let entries = tracer.lab.entries(0).unwrap();
    let entry = entries.lines().find(|line| line.contains("dst 10.71.2.3 "));
    let mac = entry.unwrap().split(' ').next().unwrap().to_owned();
    let fdb = |verb: &str| format!("bridge fdb {verb} {mac} dev {TUNNEL} dst 10.71.2.3");
    let next = tracer.run(0, &format!("ip route get {to}"));
    let next = next
        .split(" via ")
        .nth(1)
        .unwrap()
        .split(' ')
        .next()
        .unwrap()
        .to_owned();
    let neighbour = format!("{next} lladdr {mac} dev {TUNNEL} nud permanent");
    let output = "OUTPUT -p udp --dport 4789 -j DROP";
    for (breaks, mends, name, hop, what) in [
        (
            fdb("del"),
            format!("{} self permanent", fdb("append")),
            "tunnel",
            HOP,
            "no forwarding entry of",
        ),
        (
            format!("ip neigh del {next} dev {TUNNEL}"),
            format!("ip neigh replace {neighbour}"),
            "tunnel",
            HOP,
            "no neighbour entry of",
        ),
        (
            "ip route del default".to_owned(),
            "ip route add default via 10.71.1.254".to_owned(),
            "tunnel",
            HOP,
            "there is no route to 10.71.2.3",
        ),
        (
            format!("iptables -I {output}"),
            format!("iptables -D {output}"),
            "foreign-rule",
            "this node",
            "a rule in filter OUTPUT drops it",
        ),
    ] {
        tracer.run(0, &breaks);
        tracer.ends(trace, (name, hop, what));
        tracer.run(0, &mends);
        tracer.reached(trace, HOP);
    }
    tracer.lab.router.ip("link set eth1 down").unwrap();
    tracer.run(0, "ip neigh flush dev eth0");
    let silent = (
        "tunnel",
        HOP,
        "10.71.1.254, the next hop to the other end 10.71.2.3, does not answer",
    );
    tracer.ends(trace, silent);
    tracer.lab.router.ip("link set eth1 up").unwrap();
    tracer.reached(trace, HOP);
}

/// What is broken on the receiver's node, without an agent there.
fn far_alone(tracer: &mut Tracer<'_>, to: IpAddr) {
    let from = tracer.lab.pods[0].addresses[0];
    let words = format!("{from} {to}:8080");
    let trace = |t: &Tracer<'_>| t.arriving(&words, to);
    tracer.reached(trace, "link vxlan.portolan");
    let back = format!("unreachable {from}");
    let again = again(tracer.lab);
    for (breaks, mends, name, hop, what) in [
        // Routes and neighbours go with the link.
        (
            format!("ip link set {TUNNEL} down"),
            format!("ip link set {TUNNEL} up; {again}"),
            "tunnel-in",
            "link eth0",
            "it does not come out of this node's tunnel device",
        ),
        (
            format!("ip neigh flush dev {TUNNEL} nud permanent"),
            again,
            "tunnel",
            HOP,
            "no neighbour entry of",
        ),
        (
            // Else the packet itself is dropped: a source without a way back.
            format!("echo 0 > /proc/sys/net/ipv4/conf/{TUNNEL}/rp_filter; ip route add {back}"),
            format!("ip route del {back}"),
            "route-back",
            "this node",
            "the answer has no way back",
        ),
    ] {
        tracer.run(2, &breaks);
        tracer.ends(trace, (name, hop, what));
        tracer.run(2, &mends);
        tracer.reached(trace, "link vxlan.portolan");
    }
}

/// The commands that write the third node's routes and neighbours of IPv4 once more.
fn again(lab: &Fabric) -> String {
    let mut commands = Vec::new();
    for route in lab.tunnelled(2).unwrap() {
        if !route.contains("::") {
            commands.push(format!("ip route replace {route} dev {TUNNEL}"));
        }
    }
    for entry in lab.entries(2).unwrap().lines() {
        let words: Vec<&str> = entry.split_whitespace().collect();
        if let [address, "lladdr", mac, ..] = words.as_slice()
            && !address.contains("::")
        {
            commands.push(format!(
                "ip neigh replace {address} lladdr {mac} dev {TUNNEL} nud permanent"
            ));
        }
    }
    assert!(commands.len() >= 4, "{commands:?}");
    commands.join("; ")
}

#[test]
fn what_leaves_with_the_nodes_address_is_shown_so_and_what_does_not_is_told_why() {
    require_root!();
    let nat = pools("VXLAN").replace(
        "encapsulation: VXLAN",
        "encapsulation: VXLAN, natOutgoing: true",
    );
    let mut lab = Fabric::start("vxs", Underlay::V4, TUNNEL, &nat).unwrap();
    // The router answers for itself, and drops what bears a pod's address.
    let words = "shop/pod1 10.71.1.254/icmp";
    let tracer = Tracer {
        lab: &lab,
        named: BTreeSet::new(),
        count: 0,
    };
    let said = tracer.reached(|t| t.forth(words), "node node1");
    assert!(said.contains("its source becomes 10.71.1.1;"), "{said}");
    let seen = lab.seen_by_router().unwrap();
    lab.stations[0].agent.kill().unwrap();
    let mut tracer = Tracer {
        lab: &lab,
        named: BTreeSet::new(),
        count: 0,
    };
    tracer.run(0, "iptables -t nat -F POSTROUTING");
    let bare = ("router", "behind 10.71.1.254", "nothing comes back");
    tracer.ends(|t| t.forth(words), bare);
    let cause = tracer.forth(words).unwrap()["break"]["cause"].to_string();
    assert!(cause.contains("natOutgoing"), "{cause}");
    assert!(lab.seen_by_router().unwrap() > seen);
    let station = &mut lab.stations[0];
    station.agent.start(&station.netns).unwrap();
    lab.wait_synced().unwrap();
    let tracer = Tracer {
        lab: &lab,
        named: BTreeSet::new(),
        count: 0,
    };
    let said = tracer.reached(|t| t.forth(words), "node node1");
    assert!(said.contains("its source becomes 10.71.1.1;"), "{said}");
}
