//! What is broken on the node itself: switches, others' rules, policies; and a host port on the way.

use crate::path::Path;

const DB: &str = "shop/web shop/db:8080";
const CACHE: &str = "shop/web shop/cache:8080";
const NODE: &str = "node node1";

fn isolate(app: &str, direction: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{namespace: shop, name: nothing}}\n\
         spec: {{podSelector: {{matchLabels: {{app: {app}}}}}, policyTypes: [{direction}]}}\n"
    )
}

pub(crate) fn switches_and_rules(path: &mut Path) {
    path.node().sysctl("net.ipv4.ip_forward", "0").unwrap();
    path.ends_and_mends(DB, "forwarding", NODE, "net.ipv4.ip_forward is 0");
    path.node()
        .sysctl("net.ipv6.conf.all.forwarding", "0")
        .unwrap();
    path.ends_and_mends(
        "-6 shop/web shop/db:8080",
        "forwarding",
        NODE,
        "ipv6.conf.all.forwarding is 0",
    );
    let host_end = path.host_end("shop/web");
    path.node()
        .sysctl(&format!("net.ipv4.conf.{host_end}.forwarding"), "0")
        .unwrap();
    path.ends_and_mends(
        DB,
        "forwarding",
        NODE,
        &format!("forwarding is 0 for {host_end}"),
    );
    for target in [
        "DROP",
        "REJECT --reject-with icmp-port-unreachable",
        "REJECT --reject-with tcp-reset",
    ] {
        let rule = format!("iptables-nft -I FORWARD 2 -p tcp -d 10.244.2.0/24 -j {target}");
        path.run(&rule).unwrap();
        path.ends_and_mends(
            DB,
            "foreign-rule",
            NODE,
            "a rule in filter FORWARD drops it",
        );
    }
    path.run("iptables-nft -t raw -A PREROUTING -s 10.244.2.0/24 -j DROP")
        .unwrap();
    path.ends_and_mends(
        DB,
        "foreign-rule",
        NODE,
        "a rule in raw PREROUTING drops it",
    );
    path.run("nft add table ip other; nft 'add chain ip other f { type filter hook forward priority -300; }'; \
              nft add rule ip other f tcp dport 8080 drop")
        .unwrap();
    let remedy = path.ends(DB, "lost", NODE, "does not leave this node");
    let remedy = remedy.split(';').next().unwrap().to_owned();
    assert!(
        path.run(&remedy).unwrap().contains("tcp dport 8080 drop"),
        "{remedy}"
    );
    path.run("nft delete table ip other").unwrap();
    path.reached(DB);
}

pub(crate) fn policies(path: &mut Path) {
    for (words, app, direction, name, hop) in [
        (DB, "web", "Egress", "policy-egress", NODE),
        (CACHE, "web", "Egress", "policy-egress", NODE),
        (CACHE, "cache", "Ingress", "policy-ingress", NODE),
        (DB, "db", "Ingress", "policy-ingress", "node node2"),
        (
            "-6 shop/web shop/cache:8080",
            "cache",
            "Ingress",
            "policy-ingress",
            NODE,
        ),
    ] {
        path.apply("nothing.yaml", &isolate(app, direction));
        let remedy = path.ends(words, name, hop, "denies it");
        println!("{}", path.shown(words).0);
        let run_dir = path.lab.nodes[0].agent.run_dir();
        let why = path
            .run(&format!("{remedy} --run-dir {}", run_dir.display()))
            .unwrap();
        assert!(why.contains("shop/nothing"), "{remedy}: {why}");
        path.take_back("nothing.yaml");
        path.reached(words);
    }
}

/// A port of the node leads to a pod: the translation is shown, and what is behind it is told as the pod's.
pub(crate) fn host_port(path: &mut Path) {
    let cache = path.address("shop/cache");
    let rule = |port: u16| {
        format!(
            "PREROUTING -p tcp -d 10.10.1.2 --dport 30080 -j DNAT --to-destination {cache}:{port}"
        )
    };
    path.run(&format!("iptables-nft -t nat -A {}", rule(8080)))
        .unwrap();
    let trace = path.reached("shop/web 10.10.1.2:30080");
    let hops = trace["hops"].as_array().unwrap();
    let node = hops.iter().find(|hop| hop["hop"] == NODE).unwrap();
    let what = node["what"].as_str().unwrap();
    assert!(
        what.contains(&format!("its destination becomes {cache}:8080")),
        "{what}"
    );
    path.run(&format!(
        "iptables-nft -t nat -D {0}; iptables-nft -t nat -A {1}",
        rule(8080),
        rule(9)
    ))
    .unwrap();
    path.ends(
        "shop/web 10.10.1.2:30080",
        "listener",
        "target 10.10.1.2",
        "nothing listens",
    );
    path.run(&format!("iptables-nft -t nat -D {}", rule(9)))
        .unwrap();
}
