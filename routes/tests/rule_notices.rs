//! What others do to real nftables, legacy tables and sets is noticed, and nothing else; a namespace for each test.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test"
)]

mod lab;

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use lab::{in_netns, run};
use routes::conntrack::Family;
use routes::rule_notices::{
    LegacyTables, NftFamily, RuleNotice, RuleNotices, SetHeader, TableInfo, TablesChanged,
    set_headers,
};
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(5);
const SILENCE: Duration = Duration::from_millis(300);

async fn next(notices: &mut RuleNotices) -> TablesChanged {
    match timeout(SOON, notices.next()).await.unwrap() {
        RuleNotice::Tables(changed) => changed,
        RuleNotice::Overrun => panic!("an overrun"),
    }
}

/// How many notices come before it is silent.
async fn count(notices: &mut RuleNotices) -> usize {
    let mut count = 0;
    while timeout(SILENCE, notices.next()).await.is_ok() {
        count += 1;
    }
    count
}

fn tables(list: &[(NftFamily, &str)]) -> BTreeSet<(NftFamily, String)> {
    list.iter()
        .map(|(family, name)| (*family, (*name).to_owned()))
        .collect()
}

#[test]
fn each_change_by_iptables_nft_is_noticed_with_its_table_and_program() {
    in_netns(|| async {
        run("iptables-nft", "-N PTL-FORWARD");
        run("iptables-nft", "-A PTL-FORWARD -j RETURN");
        run("iptables-nft", "-A FORWARD -j PTL-FORWARD");
        let mut notices = RuleNotices::open().unwrap();
        let filter = tables(&[(NftFamily::Ip, "filter")]);
        for change in [
            "-I FORWARD -j ACCEPT",
            "-D FORWARD -j PTL-FORWARD",
            "-F",
            "-X PTL-FORWARD",
            "-P FORWARD DROP",
        ] {
            run("iptables-nft", change);
            let noticed = next(&mut notices).await;
            assert_eq!(noticed.tables, filter, "{change}");
            assert!(noticed.program.starts_with("iptables"), "{noticed:?}");
            assert!(noticed.process.is_some_and(|process| process > 1));
            assert_eq!(count(&mut notices).await, 0, "{change}");
        }
        run("ip6tables-nft", "-t mangle -A POSTROUTING -j ACCEPT");
        let noticed = next(&mut notices).await;
        assert_eq!(noticed.tables, tables(&[(NftFamily::Ip6, "mangle")]));
    });
}

#[test]
fn our_own_child_is_told_apart_by_its_process() {
    in_netns(|| async {
        run("iptables-nft", "-A FORWARD -j ACCEPT");
        let mut notices = RuleNotices::open().unwrap();
        let mut child = Command::new("iptables-nft")
            .args(["-A", "FORWARD", "-j", "DROP"])
            .spawn()
            .unwrap();
        let process = child.id();
        assert!(child.wait().unwrap().success());
        let noticed = next(&mut notices).await;
        assert_eq!(noticed.port, process, "{noticed:?}");
    });
}

#[test]
fn nothing_is_noticed_while_nothing_changes_or_others_change_what_is_not_ours() {
    in_netns(|| async {
        run("iptables-nft", "-A FORWARD -j ACCEPT");
        run("ipset", "create ptl4-a hash:ip");
        let mut notices = RuleNotices::open().unwrap();
        for _ in 0..5 {
            run("iptables-nft", "-S");
            run("iptables-nft-save", "-c");
            run("ipset", "save");
        }
        run("ipset", "add ptl4-a 10.0.0.1");
        run("ip", "link add up0 type veth peer name up1");
        run("arptables-nft", "-A INPUT -j ACCEPT");
        assert_eq!(count(&mut notices).await, 0);
        run("iptables-nft", "-F");
        assert_eq!(count(&mut notices).await, 1);
    });
}

fn info(legacy: &LegacyTables, family: Family, table: &str) -> TableInfo {
    legacy.info(family, table).unwrap().unwrap()
}

#[test]
fn a_change_of_a_legacy_table_shows_in_its_size_and_no_table_is_made_by_asking() {
    in_netns(|| async {
        let legacy = LegacyTables::open().unwrap();
        for (program, family) in [
            ("iptables-legacy", Family::V4),
            ("ip6tables-legacy", Family::V6),
        ] {
            assert_eq!(legacy.info(family, "filter").unwrap(), None);
            assert_eq!(legacy.info(family, "filter").unwrap(), None);
            run(program, "-N PTL-FORWARD");
            run(program, "-A PTL-FORWARD -j RETURN");
            run(program, "-A FORWARD -j PTL-FORWARD");
            assert_eq!(legacy.info(family, "mangle").unwrap(), None);
            let mut before = info(&legacy, family, "filter");
            // Three chains and the end of the table, a head and a foot of ours, two rules.
            assert_eq!(before.entries, 3 + 1 + 2 + 2);
            for _ in 0..5 {
                run(program, "-S");
                assert_eq!(info(&legacy, family, "filter"), before);
            }
            for change in ["-I FORWARD -j ACCEPT", "-D FORWARD -j PTL-FORWARD", "-F"] {
                run(program, change);
                let now = info(&legacy, family, "filter");
                assert_ne!(now, before, "{program} {change}");
                before = now;
            }
        }
        let long = "a-name-longer-than-any-table-may-have";
        assert_eq!(legacy.info(Family::V4, long).unwrap(), None);
    });
}

#[test]
fn a_change_of_a_set_shows_in_its_header_and_sets_of_others_are_left_out() {
    in_netns(|| async {
        assert!(set_headers().await.unwrap().is_empty());
        run("ipset", "create ptl4-a hash:ip");
        run("ipset", "create ptl6-b hash:net,iface family inet6");
        run("ipset", "create theirs hash:ip");
        run("ipset", "add ptl4-a 10.0.0.1");
        run("ipset", "add ptl4-a 10.0.0.2");
        run("ipset", "add ptl6-b fd00::1,eth0");
        run(
            "iptables-nft",
            "-A FORWARD -m set --match-set ptl4-a src -j DROP",
        );
        let header = |kind: &str, entries, references| SetHeader {
            kind: kind.to_owned(),
            entries,
            references,
        };
        let headers = set_headers().await.unwrap();
        let names: Vec<&str> = headers.keys().map(String::as_str).collect();
        assert_eq!(names, ["ptl4-a", "ptl6-b"]);
        assert_eq!(headers["ptl4-a"], header("hash:ip", 2, 1));
        assert_eq!(headers["ptl6-b"], header("hash:net,iface", 1, 0));
        for _ in 0..5 {
            run("ipset", "save");
            run("ipset", "test ptl4-a 10.0.0.1");
            assert_eq!(set_headers().await.unwrap(), headers);
        }

        run("ipset", "del ptl4-a 10.0.0.2");
        assert_eq!(set_headers().await.unwrap()["ptl4-a"].entries, 1);
        run("ipset", "flush ptl4-a");
        assert_eq!(set_headers().await.unwrap()["ptl4-a"].entries, 0);
        run("iptables-nft", "-F FORWARD");
        assert_eq!(set_headers().await.unwrap()["ptl4-a"].references, 0);
        run("ipset", "destroy ptl6-b");
        assert!(!set_headers().await.unwrap().contains_key("ptl6-b"));
        // Destroyed and made anew under the same name, as another type.
        run("ipset", "destroy ptl4-a");
        run("ipset", "create ptl4-a hash:net");
        assert_eq!(set_headers().await.unwrap()["ptl4-a"].kind, "hash:net");
    });
}

#[test]
fn headers_of_more_sets_than_one_answer_holds_are_all_there() {
    in_netns(|| async {
        let text: String = (0..500)
            .map(|n| format!("create ptl4-{n} hash:ip\nadd ptl4-{n} 10.0.0.1\n"))
            .collect();
        lab::run_with("ipset", "restore", &text);
        let headers = set_headers().await.unwrap();
        assert_eq!(headers.len(), 500);
        assert!(headers.values().all(|header| header.entries == 1));
    });
}
