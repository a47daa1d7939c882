//! The mode nftables in the real kernel, both families: what is written reads back, and leads as the rules say.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use netfilter::nft::{Parts, removal};

use crate::ask;
use crate::programs::{run, with_each_family};
use crate::services::Cluster;
use crate::tables::Tables;

fn listing() -> String {
    run("nft", &["list", "ruleset"], "")
}

#[test]
fn nftables_takes_the_tables_reads_back_the_same_and_a_change_is_small() {
    with_each_family(|family| {
        let (mut cluster, mut tables) = (Cluster::new(family), Tables::open(family));
        for number in 0..40 {
            cluster.service(number, "Cluster");
            cluster.endpoints(number, &[1, 2, 3]);
        }
        cluster.service(40, "Local");
        cluster.plain_service(41);
        cluster.endpoints(41, &[1, 2]);
        let all = tables.apply(cluster.tables());
        assert!(all > 40 * 5, "{all}");
        assert_eq!(
            tables.apply(cluster.tables()),
            0,
            "a restart changes nothing"
        );
        // What people see: names, addresses, and which Service a chain is of.
        let text = listing();
        for words in [
            "portolan-services",
            "map services",
            "comment \"shop/s41:http tcp cluster IP\"",
            "numgen random mod 2",
            "goto svc-",
        ] {
            assert!(text.contains(words), "{words}: {text}");
        }
        let held: Arc<Parts> = cluster.tables().clone();
        cluster.endpoints(41, &[1, 2, 3]);
        let more = tables.change(&held, cluster.tables());
        assert!(
            (4..=8).contains(&more),
            "{more} requests for one endpoint more"
        );
        let held = cluster.tables().clone();
        cluster.endpoints(7, &[]);
        cluster.endpoints(8, &[3]);
        tables.change(&held, cluster.tables());
        let held = cluster.tables().clone();
        for number in 0..42 {
            cluster.remove(number);
        }
        tables.change(&held, cluster.tables());
        let (chains, _, elements) = tables.read().sizes();
        assert!(
            chains <= 6 && elements == 0,
            "{chains} chains, {elements} elements are left"
        );
        tables.write(removal(family));
        assert!(tables.read().is_empty());
        assert_eq!(listing(), "");
    });
}

#[test]
fn what_others_did_to_the_tables_is_mended_by_what_differs() {
    with_each_family(|family| {
        let (mut cluster, mut tables) = (Cluster::new(family), Tables::open(family));
        for number in 0..4 {
            cluster.plain_service(number);
            cluster.endpoints(number, &[1, 2]);
        }
        tables.apply(cluster.tables());
        let table = format!(
            "{} portolan-services",
            if family.bits() == 32 { "ip" } else { "ip6" }
        );
        let mut mended = 0;
        for damage in [
            format!("flush map {table} services"),
            format!("flush chain {table} prerouting"),
            format!("add rule {table} refused counter"),
            format!("add chain {table} stranger"),
            format!("add element {table} node-ports {{ tcp . 9999 : goto dropped }}"),
            format!("delete table {table}"),
            "flush ruleset".to_owned(),
            format!(
                "delete table {table}; add table {table}; add chain {table} prerouting {{ type filter hook prerouting priority 0; }}"
            ),
        ] {
            run("nft", &["-f", "-"], &damage);
            assert!(tables.apply(cluster.tables()) > 0, "{damage}");
            mended += 1;
        }
        assert_eq!(mended, 8);
    });
}

#[test]
fn rules_125_127_128_132_137_by_nftables_the_node_reaches_endpoints_and_is_refused_without_one() {
    with_each_family(|family| {
        let node = Cluster::node(family);
        Cluster::make_links(family);
        let mut tables = Tables::open(family);
        let listener = TcpListener::bind((Cluster::endpoint(family, 1), 8080)).unwrap();
        let mut cluster = Cluster::new(family);
        // The first has affinity.
        cluster.service(1, "Cluster");
        cluster.service(2, "Cluster");
        cluster.plain_service(3);
        cluster.endpoints(1, &[1]);
        cluster.endpoints(3, &[1]);
        tables.apply(cluster.tables());
        let at = |number, port| SocketAddr::new(Cluster::cluster_ip(family, number), port);
        for _ in 0..5 {
            assert!(ask(&listener, at(1, 80)).is_ok(), "a client's own endpoint");
            assert!(ask(&listener, at(3, 80)).is_ok());
        }
        assert!(
            ask(&listener, SocketAddr::new(node, 30_001)).is_ok(),
            "node port"
        );
        let counted: u64 = tables
            .counted("services")
            .iter()
            .map(|one| one.packets)
            .sum();
        assert_eq!(counted, 10, "each element counts the flows that it led");
        let refused = Err(ErrorKind::ConnectionRefused);
        assert_eq!(ask(&listener, at(2, 80)), refused, "no endpoint");
        assert_eq!(ask(&listener, SocketAddr::new(node, 30_002)), refused);
        assert_eq!(
            ask(&listener, at(3, 81)),
            refused,
            "a port that no Service has"
        );
        // A client whose endpoint is gone gets another.
        cluster.endpoints(1, &[2]);
        tables.apply(cluster.tables());
        cluster.endpoints(1, &[1]);
        tables.apply(cluster.tables());
        assert!(ask(&listener, at(1, 80)).is_ok(), "another endpoint");
        cluster.endpoints(1, &[]);
        tables.apply(cluster.tables());
        assert_eq!(ask(&listener, at(1, 80)), refused);
    });
}
