//! Compiled Services in the real kernel: both back ends of iptables and both families, each in a network namespace.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "a test, which starts the real programs"
)]
mod nftables;
mod programs;
mod services;
mod tables;

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use netfilter::{Actual, Effort, Ruleset, plan};

use crate::programs::{run, with_each_program};
use crate::services::Cluster;

fn save(program: &str) -> Actual {
    Actual::parse(&run(&format!("{program}-save"), &["-c"], "")).unwrap()
}

/// Writes what is wanted; returns how many rules that took. What is read back must be it.
fn apply(program: &str, wanted: &Ruleset) -> usize {
    let made = plan(&save(program), wanted, Effort::Exact);
    if let Some(text) = &made.restore {
        run(&format!("{program}-restore"), &["--noflush", "-w"], text);
    }
    let again = plan(&save(program), wanted, Effort::Exact);
    assert_eq!(again.restore, None, "{program}: not what was wanted");
    made.rules_written
}

#[test]
fn rule_147_both_back_ends_take_the_rules_read_back_the_same_and_a_change_is_small() {
    with_each_program(|program, family| {
        let mut cluster = Cluster::new(family);
        // More than 500 chains: those that iptables-nft is told of in another order.
        for number in 0..120 {
            cluster.service(number, "Cluster");
            cluster.endpoints(number, &[1, 2, 3]);
        }
        cluster.service(120, "Local");
        let all = apply(program, cluster.rules());
        assert!(all > 120 * 3 * 3, "{all}");
        assert_eq!(
            save(program).other_proxy(),
            None,
            "our chains are told from another's"
        );
        assert_eq!(
            apply(program, cluster.rules()),
            0,
            "a restart changes nothing"
        );
        cluster.endpoints(7, &[1, 2, 3, 4]);
        let more = apply(program, cluster.rules());
        assert!(
            (5..=14).contains(&more),
            "{more} rules for one endpoint more"
        );
        apply(program, &Ruleset::default());
        let text = run(&format!("{program}-save"), &[], "");
        assert!(!text.contains("KUBE-") && !text.contains("PTL-"), "{text}");
    });
}

#[test]
fn rule_149_chains_of_another_proxy_are_told_and_left_alone() {
    with_each_program(|program, family| {
        let others = "*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-SVC-XPGD46QRK7WJZT7O - [0:0]\n\
            -A KUBE-SERVICES -m comment --comment \"ns1/svc1:p80 cluster IP\" -j KUBE-SVC-XPGD46QRK7WJZT7O\nCOMMIT\n";
        run(&format!("{program}-restore"), &["--noflush"], others);
        let found = save(program);
        assert_eq!(found.other_proxy(), Some("KUBE-SERVICES"));
        assert_eq!(
            plan(&found, &Ruleset::default(), Effort::Exact).restore,
            None
        );
        let mut cluster = Cluster::new(family);
        cluster.service(1, "Cluster");
        for what in ["-F", "-X"] {
            run(program, &["-t", "nat", what], "");
        }
        assert!(apply(program, cluster.rules()) > 0);
    });
}

/// Asks an address; says who answered saw asking.
pub(crate) fn ask(listener: &TcpListener, to: SocketAddr) -> Result<IpAddr, ErrorKind> {
    let asked = TcpStream::connect_timeout(&to, Duration::from_secs(8));
    let _stream = asked.map_err(|error| error.kind())?;
    Ok(listener.accept().unwrap().1.ip())
}

#[test]
fn rules_125_128_132_the_node_reaches_endpoints_by_every_address_and_is_refused_without_one() {
    with_each_program(|program, family| {
        let node = Cluster::node(family);
        Cluster::make_links(family);
        let listener = TcpListener::bind((Cluster::endpoint(family, 1), 8080)).unwrap();
        let mut cluster = Cluster::new(family);
        cluster.service(1, "Cluster");
        cluster.service(2, "Cluster");
        cluster.endpoints(1, &[1]);
        apply(program, cluster.rules());
        let at = |number, port| SocketAddr::new(Cluster::cluster_ip(family, number), port);
        assert!(ask(&listener, at(1, 80)).is_ok(), "{program}");
        assert!(
            ask(&listener, SocketAddr::new(node, 30_001)).is_ok(),
            "{program}: node port"
        );
        assert_eq!(
            ask(&listener, at(2, 80)),
            Err(ErrorKind::ConnectionRefused),
            "{program}"
        );
        let none = SocketAddr::new(node, 30_002);
        assert_eq!(
            ask(&listener, none),
            Err(ErrorKind::ConnectionRefused),
            "{program}"
        );
        cluster.endpoints(1, &[]);
        apply(program, cluster.rules());
        assert_eq!(
            ask(&listener, at(1, 80)),
            Err(ErrorKind::ConnectionRefused),
            "{program}"
        );
    });
}
