//! Pods get addresses from blocks of pools: each block has one node, and every pod is reached by BGP alone.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

mod lab;

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;

use anyhow::ensure;
use ipnet::IpNet;
use tests::require_root;
use tests::wait::eventually;

use lab::{Lab, PATIENCE, pod, pool};

/// 16 blocks of 14 pods each, and as many for IPv6.
fn two_pools() -> [String; 2] {
    [
        pool("pods", "10.48.0.0/24", 28),
        pool("pods6", "fd00:48::/120", 124),
    ]
}

#[test]
fn nodes_started_at_once_share_no_block_and_their_pods_reach_each_other() {
    require_root!();
    let mut lab = Lab::new("ipp", 3, &two_pools()).unwrap();
    lab.start(&[]).unwrap();
    for node in 0..3 {
        for name in ["a", "b"] {
            let addresses = lab.attach(node, &format!("{name}{node}")).unwrap();
            assert_eq!(addresses.len(), 2, "{addresses:?}");
            let own = lab.blocks_of(&format!("node{}", node + 1)).unwrap();
            let inside = |ip: &IpAddr| own.iter().any(|block| block.contains(ip));
            assert!(addresses.iter().all(inside), "{addresses:?} {own:?}");
        }
    }
    assert_eq!(lab.blocks().unwrap().len(), 6, "one a family and node");
    for (from, to) in [(0, 2), (2, 4), (4, 0), (0, 1)] {
        for address in &lab.pods[to].addresses {
            lab.reaches(&lab.pods[from].sandbox.netns, *address)
                .unwrap();
        }
    }
    let routes = lab.stations[0].netns.ip("route show").unwrap();
    let own = lab.blocks_of("node1").unwrap();
    let blackhole = own.iter().find(|block| block.addr().is_ipv4()).unwrap();
    assert!(
        routes.contains(&format!("blackhole {blackhole} ")),
        "{routes}"
    );
    let learned = lab.blocks_of("node2").unwrap();
    let learned = learned.iter().find(|block| block.addr().is_ipv4()).unwrap();
    assert!(
        routes.contains(&format!("{learned} via 10.66.0.2")),
        "{routes}"
    );
}

#[test]
fn a_full_node_takes_a_further_block_until_none_is_left_and_empty_ones_go_back() {
    require_root!();
    // Four blocks of two addresses each.
    let mut lab = Lab::new("ipf", 2, &[pool("pods", "10.48.0.0/28", 30)]).unwrap();
    lab.start(&["--idle-block-time", "2s"]).unwrap();
    eventually(PATIENCE, "a block for each", || {
        ensure!(lab.blocks().unwrap().len() == 2, "not yet");
        Ok(())
    })
    .unwrap();
    let mut given = BTreeSet::new();
    for number in 0..6 {
        let addresses = lab.attach(0, &format!("p{number}")).unwrap();
        assert!(given.insert(addresses[0]), "{addresses:?} twice");
    }
    assert_eq!(lab.blocks_of("node1").unwrap().len(), 3);
    assert_eq!(lab.blocks_of("node2").unwrap().len(), 1, "never borrowed");
    let full = lab.sandbox("full").unwrap();
    let refused = lab.add(0, &full).unwrap();
    assert!(!refused.is_success, "{refused:?}");
    let said = refused.output.to_string();
    assert!(
        said.contains("no block of an IPPool with a free IPv4 address"),
        "{said}"
    );
    for _ in 0..6 {
        lab.detach_last(0).unwrap();
    }
    eventually(PATIENCE, "empty blocks to go back, but the last", || {
        let left = lab.blocks_of("node1").unwrap().len();
        ensure!(left <= 2, "{left} left");
        Ok(())
    })
    .unwrap();
    // The other node has read that, too.
    lab.stations[1].agent.wait_synced().unwrap();
    for number in 0..4 {
        lab.attach(1, &format!("q{number}")).unwrap();
    }
    assert!(lab.blocks_of("node2").unwrap().len() >= 2);
}

#[test]
fn of_four_nodes_started_at_once_each_gets_one_of_four_blocks() {
    require_root!();
    let mut lab = Lab::new("ip4", 4, &[pool("pods", "10.48.0.0/26", 28)]).unwrap();
    lab.start(&[]).unwrap();
    eventually(PATIENCE, "a block for each", || {
        let holders: BTreeSet<String> = lab.blocks().unwrap().into_values().collect();
        ensure!(holders.len() == 4, "{holders:?}");
        Ok(())
    })
    .unwrap();
    let mut given = BTreeSet::new();
    for round in 0..3 {
        for node in 0..4 {
            let addresses = lab.attach(node, &format!("p{round}{node}")).unwrap();
            assert!(given.insert(addresses[0]), "{addresses:?} twice");
        }
    }
    let drafts = fs::read_dir(lab.blocks_folder()).unwrap();
    assert_eq!(drafts.count(), 4, "no draft is left behind");
}

#[test]
fn a_killed_agent_has_its_blocks_and_its_pods_when_it_is_back() {
    require_root!();
    let mut lab = Lab::new("ipk", 2, &[pool("pods", "10.48.0.0/24", 28)]).unwrap();
    lab.start(&[]).unwrap();
    let held = lab.attach(0, "kept").unwrap();
    lab.attach(1, "other").unwrap();
    let before = lab.blocks().unwrap();
    for _ in 0..3 {
        let station = &mut lab.stations[0];
        station.agent.kill().unwrap();
        station.agent.start(&station.netns).unwrap();
        station.agent.wait_synced().unwrap();
    }
    assert_eq!(lab.blocks().unwrap(), before);
    lab.reaches(&lab.pods[1].sandbox.netns, held[0]).unwrap();
    let next = lab.attach(0, "next").unwrap();
    assert_ne!(next, held);
    let own = lab.blocks_of("node1").unwrap();
    assert!(
        own.iter().any(|block| block.contains(&next[0])),
        "{next:?} {own:?}"
    );
}

#[test]
fn a_fixed_address_of_another_nodes_block_is_reached_and_never_given_by_that_node() {
    require_root!();
    let mut lab = Lab::new("ipx", 2, &[pool("pods", "10.48.0.0/24", 28)]).unwrap();
    lab.start(&[]).unwrap();
    lab.attach(0, "first").unwrap();
    let block = lab.blocks_of("node1").unwrap()[0];
    let IpNet::V4(hosts) = block else {
        panic!("{block}")
    };
    let fixed = hosts.hosts().nth(7).unwrap();
    let text = fixed.to_string();
    let manifests = [
        pod("guest", "node2", Some(&text)),
        pod("late", "node1", Some(&text)),
    ];
    lab.manifest("pods.yaml", &manifests.join("---\n")).unwrap();
    lab.stations
        .iter_mut()
        .for_each(|station| station.agent.wait_synced().unwrap());
    assert_eq!(lab.attach(1, "guest").unwrap(), [IpAddr::V4(fixed)]);
    lab.reaches(&lab.pods[0].sandbox.netns, fixed.into())
        .unwrap();
    let routes = lab.stations[0].netns.ip("route show").unwrap();
    assert!(
        routes.contains(&format!("{fixed} via 10.66.0.2")),
        "{routes}"
    );
    let told = lab.blocks_folder().with_file_name("node2.json");
    eventually(PATIENCE, "the other node to tell of its pod", || {
        ensure!(fs::read_to_string(&told)?.contains(&text), "not yet");
        Ok(())
    })
    .unwrap();
    lab.stations[0].agent.wait_synced().unwrap();
    // The owner of the block refuses it by name while it is held, and never comes to it by itself.
    let late = lab.sandbox("late").unwrap();
    let refused = lab.add(0, &late).unwrap();
    let said = refused.output.to_string();
    assert!(
        said.contains("is held by Pod shop/guest of node node2"),
        "{said}"
    );
    for number in 0..12 {
        let given = lab.attach(0, &format!("p{number}")).unwrap();
        assert!(!given.contains(&fixed.into()), "{given:?}");
    }
}

#[test]
fn where_nothing_can_be_claimed_a_pod_is_told_to_come_later_and_status_says_why() {
    require_root!();
    let mut lab = Lab::new("ipr", 1, &[pool("pods", "10.48.0.0/24", 28)]).unwrap();
    // A file in the folder's place: nothing can be written there, by root neither.
    let folder = lab.blocks_folder();
    fs::create_dir_all(folder.parent().unwrap()).unwrap();
    fs::write(&folder, "").unwrap();
    lab.start(&[]).unwrap();
    let sandbox = lab.sandbox("web").unwrap();
    let refused = lab.add(0, &sandbox).unwrap();
    assert_eq!(refused.code(), Some(11), "{refused:?}");
    let status = lab.stations[0].agent.status().unwrap().to_string();
    assert!(
        status.contains("cannot claim the block 10.48.0."),
        "{status}"
    );
    fs::remove_file(&folder).unwrap();
    eventually(PATIENCE, "the claim to be tried again", || {
        ensure!(lab.blocks().unwrap().len() == 1, "not yet");
        Ok(())
    })
    .unwrap();
    lab.attach(0, "web").unwrap();
}

#[test]
fn reserved_addresses_are_given_to_nobody_who_does_not_ask_for_them() {
    require_root!();
    let reservation = "apiVersion: portolan.io/v1alpha1\nkind: IPReservation\nmetadata: {name: printers}\nspec: {reservedCIDRs: [10.48.0.0/29, 10.48.0.9]}\n";
    let manifests = [
        pool("pods", "10.48.0.0/28", 28),
        reservation.to_owned(),
        pod("printer", "node1", Some("10.48.0.9")),
    ];
    let mut lab = Lab::new("ipv", 1, &manifests).unwrap();
    lab.start(&[]).unwrap();
    let mut given: Vec<String> = (0..6)
        .map(|number| lab.attach(0, &format!("p{number}")).unwrap()[0].to_string())
        .collect();
    given.sort();
    let expected = [
        "10.48.0.10",
        "10.48.0.11",
        "10.48.0.12",
        "10.48.0.13",
        "10.48.0.14",
        "10.48.0.8",
    ];
    assert_eq!(given, expected);
    assert_eq!(
        lab.attach(0, "printer").unwrap()[0].to_string(),
        "10.48.0.9"
    );
}

#[test]
fn the_example_runs_as_its_page_says() {
    require_root!();
    let mut lab = Lab::of_the_example("ipe").unwrap();
    lab.start(&[]).unwrap();
    let web = lab.attach(0, "web").unwrap();
    let db = lab.attach(1, "db").unwrap();
    assert_eq!(db[0].to_string(), "10.48.255.9");
    let own = lab.blocks_of("node2").unwrap();
    assert!(
        own.iter().any(|block| block.contains(&db[1])),
        "{own:?} {db:?}"
    );
    for (from, to) in [(0, &db), (1, &web)] {
        for address in to {
            lab.reaches(&lab.pods[from].sandbox.netns, *address)
                .unwrap();
        }
    }
    let routes = lab.stations[0].netns.ip("route show").unwrap();
    assert!(routes.contains("10.48.255.9 via 10.66.0.2"), "{routes}");
    let status = lab.stations[0].agent.status().unwrap();
    assert_eq!(
        status["sources"][0]["problems"],
        serde_json::json!([]),
        "{status}"
    );
}
