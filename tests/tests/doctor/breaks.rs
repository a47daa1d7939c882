//! What is broken while the agent runs, one thing at a time.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use tests::lab::{Lab, OUTSIDE};
use tests::reach::{Transport, Verdict, attempt, server_at};

use crate::clinic::{Clinic, SILENT};

const BFDD: &str = "bfd\n peer 10.10.1.2\n  receive-interval 300\n  transmit-interval 300\n";
const ISOLATED: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: nobody}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress]
";

pub(crate) fn switches(clinic: &mut Clinic) {
    clinic.sysctl("net.ipv4.ip_forward", "0");
    clinic.found_and_mended("forwarding", "failure", "net.ipv4.ip_forward is 0");
    clinic.sysctl("net.ipv6.conf.all.forwarding", "0");
    clinic.found_and_mended("forwarding", "failure", "net.ipv6.conf.all.forwarding is 0");
    clinic.sysctl("net.ipv4.conf.uplink.forwarding", "0");
    clinic.found_and_mended("forwarding", "failure", "forwarding is 0 for uplink");
    clinic.ip("link add second type veth peer name other");
    clinic.ip("addr add 10.10.9.2/24 dev second");
    clinic.ip("link set other up");
    clinic.ip("link set second up");
    clinic.ip("route add 198.51.100.0/24 via 10.10.9.1");
    clinic.sysctl("net.ipv4.conf.second.rp_filter", "1");
    clinic.found_and_mended("rp-filter", "warning", "strict on second, one of 2 uplinks");
    clinic.sysctl("net.ipv4.conf.all.rp_filter", "0");
    clinic.ip("link del second");
    clinic.sysctl("net.ipv4.conf.all.route_localnet", "1");
    clinic.found_and_mended(
        "route-localnet",
        "warning",
        "packets for 127.0.0.0/8 are taken, and no rule drops them",
    );
    let max = fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_max").unwrap();
    let max: usize = max.trim().parse().unwrap();
    fill_conntrack(clinic, max * 91 / 100);
    // The number holds for the whole machine: here the connections go instead.
    let remedy = clinic.finds(
        "conntrack-room",
        "warning",
        &format!("connections of {max}"),
    );
    assert_eq!(
        remedy,
        format!("sysctl -w net.netfilter.nf_conntrack_max={}", max * 2)
    );
    clinic.node().run("conntrack", &["-F"]).unwrap();
    clinic.is_well("conntrack-room");
}

pub(crate) fn fill_conntrack(clinic: &Clinic, count: usize) {
    let file = clinic.path("flows");
    let mut text = String::new();
    for number in 0..count {
        let (port, host) = (1024 + number % 50_000, number / 50_000);
        text.push_str(&format!(
            "-A -t 300 -s 198.18.0.{host} -d 198.19.0.1 -r 198.19.0.1 -q 198.18.0.{host} -p udp --sport {port} --dport 9 \
             --reply-port-src 9 --reply-port-dst {port}\n"
        ));
    }
    fs::write(&file, text).unwrap();
    clinic
        .node()
        .run("conntrack", &["-R", &file.display().to_string()])
        .unwrap();
}

pub(crate) fn runtime(clinic: &mut Clinic) {
    let binary = clinic.path("bin").join("portolan-cni");
    let config = clinic.path("net.d").join("10-portolan.conflist");
    fs::remove_file(&binary).unwrap();
    clinic.found_and_mended("cni-plugin", "failure", "is not there");
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o644)).unwrap();
    clinic.found_and_mended("cni-plugin", "failure", "may not be executed");
    let mut bytes = fs::read(&binary).unwrap();
    bytes.push(0);
    fs::remove_file(&binary).unwrap();
    fs::write(&binary, bytes).unwrap();
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).unwrap();
    clinic.found_and_mended("cni-plugin", "warning", "is not the plugin of this release");
    fs::remove_file(&config).unwrap();
    clinic.found_and_mended("cni-config", "failure", "holds no network configuration");
    let other = clinic.path("net.d").join("05-lab.conflist");
    fs::write(&other, r#"{"name":"lab","plugins":[{"type":"bridge"}]}"#).unwrap();
    clinic.found_and_mended("cni-config", "failure", "(network lab) comes first");
    fs::write(&other, "{").unwrap();
    clinic.found_and_mended("cni-config", "failure", "is no network configuration");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("/cni.sock", "/other.sock")).unwrap();
    clinic.found_and_mended("cni-config", "failure", "other.sock");
}

pub(crate) fn rules(clinic: &mut Clinic) {
    let run = |clinic: &Clinic, command: &str| drop(clinic.run(command).unwrap());
    run(
        clinic,
        "iptables-nft -t mangle -A PREROUTING -i none -j MARK --set-xmark 0x1/0xffffffff",
    );
    clinic.found_and_mended(
        "mark-clash",
        "warning",
        "-j MARK --set-xmark 0x1/0xffffffff` in mangle PREROUTING",
    );
}

pub(crate) fn services(clinic: &mut Clinic) {
    let kubelet = clinic.path("kubelet.yaml");
    fs::write(&kubelet, format!("clusterDNS:\n- {OUTSIDE}\n")).unwrap();
    // kube-proxy's restart, which is the command here, is its chain in this lab.
    let remedy = clinic.finds("service-proxy", "failure", "nothing programs Services");
    assert_eq!(
        remedy,
        "kubectl -n kube-system rollout restart daemonset/kube-proxy"
    );
    clinic.run("iptables-nft -t nat -N KUBE-SERVICES").unwrap();
    clinic.is_well("service-proxy");
    let rule = "KUBE-SERVICES -d 10.96.0.11/32 -p tcp -m comment --comment 'shop/web:http has no endpoints' -j REJECT";
    clinic
        .run(&format!(
            "iptables-nft -N KUBE-SERVICES; iptables-nft -A {rule}"
        ))
        .unwrap();
    let remedy = clinic.finds(
        "service-endpoints",
        "warning",
        "Service shop/web:http has no endpoints",
    );
    assert!(
        remedy.ends_with("kubectl -n shop describe service web"),
        "{remedy}"
    );
    clinic
        .run(&format!(
            "iptables-nft -D {rule}; iptables-nft -X KUBE-SERVICES"
        ))
        .unwrap();
    clinic.is_well("service-endpoints");
    clinic.run("iptables-nft -t nat -X KUBE-SERVICES").unwrap();
    fs::remove_file(&kubelet).unwrap();
    for (code, verdict, words) in [
        (SILENT, "failure", "does not answer"),
        (2, "failure", "with code 2"),
        (
            3,
            "warning",
            "does not know kubernetes.default.svc.cluster.local",
        ),
    ] {
        clinic.dns.say(code);
        clinic.finds("dns", verdict, words);
        clinic.dns.say(0);
        clinic.is_well("dns");
    }
}

pub(crate) fn sessions(clinic: &mut Clinic) {
    clinic.lab.frr.kill_bgpd().unwrap();
    let remedy = clinic.finds("bgp-session", "failure", "tor-node1");
    clinic.run(&remedy).unwrap();
    let Lab { frr, tor, .. } = &mut clinic.lab;
    frr.restart_bgpd(tor).unwrap();
    clinic.lab.wait_established().unwrap();
    clinic.is_well("bgp-session");
    let frr = |clinic: &Clinic, word: &str| {
        let line = format!("{word}neighbor 10.10.1.2 graceful-restart-disable");
        let words = ["configure terminal", "router bgp 65000", line.as_str()];
        clinic.lab.frr.vtysh(&words).unwrap();
        clinic.lab.frr.vtysh(&["clear bgp 10.10.1.2"]).unwrap();
    };
    frr(clinic, "");
    let remedy = clinic.finds(
        "bgp-graceful-restart",
        "warning",
        "does not speak graceful restart",
    );
    assert!(remedy.contains("bgp graceful-restart"), "{remedy}");
    frr(clinic, "no ");
    clinic.lab.wait_established().unwrap();
    clinic.is_well("bgp-graceful-restart");
    let manifest = clinic.lab.manifests().join("30-bgp.yaml");
    let before = fs::read_to_string(&manifest).unwrap();
    let with_bfd = before.replace(
        "peerAddress: 10.10.1.1\n",
        "peerAddress: 10.10.1.1\n  bfd: {minRx: 300ms, minTx: 300ms, multiplier: 3}\n",
    );
    assert_ne!(with_bfd, before);
    clinic.lab.drop_manifest("30-bgp.yaml", &with_bfd).unwrap();
    // The peer never spoke it.
    clinic.finds("bfd", "failure", "BFD with tor-node1");
    let Lab { frr, tor, .. } = &mut clinic.lab;
    frr.start_bfdd(tor, BFDD).unwrap();
    clinic.says("bfd", "up with 1 peers; it runs in the agent (C bit 0)");
    clinic.lab.frr.kill_bfdd().unwrap();
    clinic.finds("bfd", "failure", "BFD with tor-node1");
    let Lab { frr, tor, .. } = &mut clinic.lab;
    frr.start_bfdd(tor, BFDD).unwrap();
    clinic.is_well("bfd");
    clinic.lab.drop_manifest("30-bgp.yaml", &before).unwrap();
    clinic.lab.wait_established().unwrap();
}

pub(crate) fn routes_and_pods(clinic: &mut Clinic) {
    clinic.ip("route add 10.244.2.0/24 via 10.10.1.1 proto static");
    clinic.found_and_mended(
        "route-foreign",
        "failure",
        "of protocol 4 to 10.244.2.0/24 by uplink",
    );
    clinic.ip("route add 10.244.1.64/26 dev uplink proto static");
    clinic.found_and_mended("route-foreign", "failure", "10.244.1.64/26");
    let end = clinic.host_end(0);
    clinic.ip(&format!("link set {end} down"));
    clinic.found_and_mended("pod-link", "failure", "of Pod shop/web");
    clinic.ip("link add ptl0123456789a type veth peer name lone");
    clinic.found_and_mended(
        "pod-link",
        "warning",
        "ptl0123456789a belongs to no attachment",
    );
    clinic.is_well("route-missing");
    let end = clinic.host_end(2);
    clinic.ip(&format!("link del {end}"));
    clinic.found_and_mended("pod-link", "failure", "Pod team/tester has no interface");
}

pub(crate) fn policy(clinic: &mut Clinic) {
    clinic.lab.drop_manifest("isolated.yaml", ISOLATED).unwrap();
    clinic.lab.wait_synced().unwrap();
    let remedy = clinic.finds(
        "policy-isolates",
        "warning",
        "Pod shop/web is isolated for ingress",
    );
    assert_eq!(remedy, "kubectl -n shop edit networkpolicy nobody");
    let (cache, _) = clinic.lab.place("shop/cache", false).unwrap();
    let (_, web) = clinic.lab.place("shop/web", false).unwrap();
    let patience = Duration::from_millis(300);
    let verdict = attempt(cache, server_at(web), Transport::Tcp, patience).unwrap();
    assert_eq!(verdict, Verdict::Silent);
    let remedy = clinic.finds("policy-drops", "warning", "shop/cache");
    let why = clinic.run(&remedy).unwrap();
    assert!(why.contains("nobody"), "{remedy}: {why}");
    fs::remove_file(clinic.lab.manifests().join("isolated.yaml")).unwrap();
    clinic.lab.wait_synced().unwrap();
    clinic.is_well("policy-isolates");
}
