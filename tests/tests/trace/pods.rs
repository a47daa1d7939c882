//! What is broken inside of the pods, and at their links.

use crate::path::Path;

const OUT: &str = "team/tester 192.0.2.10:8080";

/// The pod that sends.
pub(crate) fn sender(path: &mut Path) {
    let pod = "pod team/tester";
    path.reached(OUT);
    let host_end = path.host_end("team/tester");
    let at_host_end = format!("host end {host_end}");
    let inside = |path: &Path, words: &str| drop(path.pod("team/tester").ip(words).unwrap());

    inside(path, "route del default");
    path.ends_and_mends(OUT, "pod-route", pod, "the pod has no route to 192.0.2.10");
    let address = path.address("team/tester");
    inside(path, &format!("addr del {address}/32 dev eth0"));
    path.ends_and_mends(OUT, "pod-address", pod, &format!("does not have {address}"));
    inside(
        path,
        "neigh replace 169.254.1.1 lladdr 02:00:00:00:00:99 dev eth0 nud permanent",
    );
    path.ends_and_mends(OUT, "pod-neighbour", &at_host_end, "another MAC");
    let rule = ["-A", "OUTPUT", "-p", "tcp", "--dport", "8080", "-j", "DROP"];
    path.pod("team/tester").run("iptables-nft", &rule).unwrap();
    let remedy = path.ends(OUT, "pod-rules", pod, "");
    assert!(
        path.run(&remedy).unwrap().contains("--dport 8080 -j DROP"),
        "{remedy}"
    );
    path.pod("team/tester")
        .run("iptables-nft", &["-F", "OUTPUT"])
        .unwrap();
    path.reached(OUT);
    path.ip(&format!("link set {host_end} down"));
    path.ends_and_mends(OUT, "host-end", &at_host_end, "is down");
    inside(path, "link set eth0 down");
    path.ends_and_mends(OUT, "pod-link", pod, "eth0 of the pod is down");
}

/// The pod that is to get it.
pub(crate) fn target(path: &mut Path) {
    let cache = "shop/web shop/cache:8080";
    let at = "target shop/cache";
    path.reached(cache);
    let rule = ["-A", "INPUT", "-p", "tcp", "--dport", "8080", "-j", "DROP"];
    path.pod("shop/cache").run("iptables-nft", &rule).unwrap();
    let remedy = path.ends(cache, "target-silent", at, "the pod says nothing");
    assert!(
        path.run(&remedy).unwrap().contains("--dport 8080 -j DROP"),
        "{remedy}"
    );
    path.pod("shop/cache")
        .run("iptables-nft", &["-F", "INPUT"])
        .unwrap();
    path.reached(cache);
    for (words, at) in [
        ("shop/web shop/cache:9", "target shop/cache"),
        ("shop/web shop/cache:9/udp", "target shop/cache"),
        ("shop/web shop/db:9", "target shop/db"),
        ("shop/web shop/db:9/udp", "target shop/db"),
        ("shop/web 192.0.2.10:9", "target 192.0.2.10"),
        ("-6 shop/web shop/cache:9", "target shop/cache"),
    ] {
        path.ends(words, "listener", at, "nothing listens on port 9");
    }
    path.pod("shop/cache").ip("link set eth0 down").unwrap();
    path.ends_and_mends(cache, "target-link", at, "is down");
    let host_end = path.host_end("shop/cache");
    path.ip(&format!("link set {host_end} down"));
    path.ends_and_mends(cache, "target-link", at, "is down");
}
