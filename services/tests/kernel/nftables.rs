//! The mode nftables in the real kernel, both families: what is written reads back, and leads as the rules say.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use netfilter::Family;
use netfilter::nft::{Parts, removal, repair};

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
            "set services",
            "comment \"shop/s41:http tcp cluster IP\"",
            "map endpoints-2",
            "numgen random mod 2",
            "goto one-of-2",
            "goto svc-",
        ] {
            assert!(text.contains(words), "{words}: {text}");
        }
        let held: Arc<Parts> = cluster.tables().clone();
        cluster.endpoints(41, &[1, 2, 3]);
        let more = tables.change(&held, cluster.tables());
        // The first with three: chains of their own number come, and those with two go.
        assert!(
            (10..=24).contains(&more),
            "{more} requests for one endpoint more"
        );
        let held: Arc<Parts> = cluster.tables().clone();
        cluster.endpoints(41, &[1, 2, 4]);
        // It goes, it comes, and it may ask itself.
        assert_eq!(
            tables.change(&held, cluster.tables()),
            3,
            "another endpoint"
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
            chains <= 8 && elements == 0,
            "{chains} chains, {elements} elements are left"
        );
        tables.write(removal(family));
        assert!(tables.read().is_empty());
        assert_eq!(listing(), "");
    });
}

/// As the releases before wrote it: a chain for each Service, with a map of its own for its endpoints.
fn of_an_earlier_release(family: Family) -> String {
    let (ip, kind) = match family {
        Family::V4 => ("ip", "ipv4_addr"),
        Family::V6 => ("ip6", "ipv6_addr"),
    };
    let (service, endpoint) = (Cluster::cluster_ip(family, 3), Cluster::endpoint(family, 1));
    format!(
        "table {ip} portolan-services {{
            map services {{ type {kind} . inet_proto . inet_service : verdict; counter; }}
            map node-ports {{ type inet_proto . inet_service : verdict; counter; }}
            set cluster-ips {{ type {kind}; elements = {{ {service} }}; }}
            set hairpin {{ type {kind} . {kind}; elements = {{ {endpoint} . {endpoint} }}; }}
            chain refused {{ reject; }}
            chain svc-0123456789abcdef {{
                meta l4proto tcp dnat {ip} to numgen random mod 1 map {{ 0 : {endpoint} . 8080 }};
            }}
            chain prerouting {{
                type nat hook prerouting priority -99;
                {ip} daddr . meta l4proto . th dport vmap @services;
            }}
            chain output {{
                type nat hook output priority -99;
                {ip} daddr . meta l4proto . th dport vmap @services;
            }}
        }}
        add element {ip} portolan-services services {{ {service} . tcp . 80 : goto svc-0123456789abcdef }}"
    )
}

#[test]
fn tables_of_an_earlier_release_are_replaced_at_once_and_lead_until_then() {
    with_each_family(|family| {
        Cluster::make_links(family);
        let mut tables = Tables::open(family);
        let listener = TcpListener::bind((Cluster::endpoint(family, 1), 8080)).unwrap();
        let mut cluster = Cluster::new(family);
        cluster.plain_service(3);
        cluster.endpoints(3, &[1]);
        run("nft", &["-f", "-"], &of_an_earlier_release(family));
        let service = SocketAddr::new(Cluster::cluster_ip(family, 3), 80);
        let mut kept = TcpStream::connect(service).unwrap();
        let (mut answering, _) = listener.accept().unwrap();
        let steps = repair(family, &tables.read(), cluster.tables());
        assert_eq!(steps.transactions.len(), 1, "nobody sees half of it");
        tables.write(steps);
        tables.check(cluster.tables());
        assert!(ask(&listener, service).is_ok());
        kept.write_all(b"still").unwrap();
        let mut heard = [0; 5];
        answering.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"still", "an established connection is conntrack's");
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
            format!("flush set {table} services"),
            format!("flush map {table} endpoints-2"),
            format!("flush chain {table} prerouting"),
            format!("add rule {table} refused counter"),
            format!("add chain {table} stranger"),
            format!("add element {table} node-ports {{ tcp . 9999 }}"),
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
        assert_eq!(mended, 9);
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
