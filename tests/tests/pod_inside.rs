//! What a pod finds inside, by the real plugin and agent: addresses good at once, gateways that answer, an MTU that
//! follows the way out, limits of its traffic; and nothing of it left afterwards.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use tests::cni::Answer;
use tests::netns::Netns;
use tests::one_node::OneNode;
use tests::require_root;
use tests::snapshot::Snapshot;
use tests::wait::eventually;

const PATIENCE: Duration = Duration::from_secs(10);
/// A lost first packet is sent again after a second.
const AT_ONCE: Duration = Duration::from_millis(700);

fn fields(fields: &Value) -> Map<String, Value> {
    fields.as_object().unwrap().clone()
}

fn mtu(netns: &Netns, interface: &str) -> u64 {
    let shown = netns.ip_json(&format!("link show {interface}")).unwrap();
    shown[0]["mtu"].as_u64().unwrap()
}

/// Host ends and shapers of pods.
fn ours(node: &Netns) -> Vec<String> {
    let shown = node.ip_json("link show").unwrap();
    let names = shown.as_array().unwrap().iter();
    names
        .filter_map(|link| Some(link["ifname"].as_str()?.to_owned()))
        .filter(|name| name.starts_with("ptl") || name.starts_with("ptb"))
        .collect()
}

/// How long a connection takes, and what becomes of it.
fn connect(from: &Netns, to: SocketAddr) -> (Duration, Result<(), ErrorKind>) {
    from.inside(move || {
        let start = Instant::now();
        let made = TcpStream::connect_timeout(&to, Duration::from_secs(5));
        (
            start.elapsed(),
            made.map(drop).map_err(|error| error.kind()),
        )
    })
    .unwrap()
}

/// CHECK of the first pod, as a runtime asks for it.
fn check(lab: &OneNode) -> Answer {
    let pod = &lab.pods[0];
    let ips: Vec<Value> = pod
        .addresses
        .iter()
        .map(|ip| json!({"address": format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 })}))
        .collect();
    let previous = json!({"prevResult": {"cniVersion": "1.0.0", "ips": ips}});
    lab.call("CHECK", &pod.sandbox, fields(&previous)).unwrap()
}

fn listen(netns: &Netns, address: IpAddr) -> TcpListener {
    let listener = netns.inside(move || TcpListener::bind((address, 0)));
    listener.unwrap().unwrap()
}

#[test]
fn a_pod_uses_its_addresses_at_once_and_its_loopback_and_no_address_is_ever_tentative() {
    require_root!();
    let mut lab = OneNode::start("inside", "", &[]).unwrap();
    for number in 0..5 {
        let pod = lab.attach("default", &format!("pod{number}")).unwrap();
        let inside = &pod.sandbox.netns;
        let loopback = ["127.0.0.1", "::1"].map(|text| text.parse::<IpAddr>().unwrap());
        let addresses = pod.addresses.iter().copied().chain(loopback);
        for address in addresses {
            let listener = listen(inside, address);
            // From the pod itself, as containers of one pod speak.
            let (took, outcome) = connect(inside, listener.local_addr().unwrap());
            assert_eq!(outcome, Ok(()), "{address}");
            assert!(took < AT_ONCE, "{address}: {took:?}");
        }
        let shown = inside.ip("-6 addr show").unwrap();
        assert!(!shown.contains("tentative"), "{shown}");
        let pod = lab.pods.last().unwrap();
        for &address in &pod.addresses {
            let listener = listen(&pod.sandbox.netns, address);
            let (took, outcome) = connect(&lab.node, listener.local_addr().unwrap());
            assert_eq!(outcome, Ok(()), "the node to {address}");
            assert!(took < AT_ONCE, "the node to {address}: {took:?}");
        }
    }
}

#[test]
fn a_pod_that_lost_its_neighbour_entries_is_answered_by_both_gateways() {
    require_root!();
    let mut lab = OneNode::start("gateway", "", &[]).unwrap();
    lab.attach("default", "first").unwrap();
    lab.attach("default", "second").unwrap();
    let inside = &lab.pods[1].sandbox.netns;
    // What lies beyond the node is found before (its uplink's own link-local address may be tentative yet), so that
    // the gateway alone is looked for.
    for outside in ["192.0.2.10", "2001:db8::10"] {
        let listener = listen(&lab.outside, outside.parse().unwrap());
        let (_, outcome) = connect(inside, listener.local_addr().unwrap());
        assert_eq!(outcome, Ok(()), "{outside}");
    }
    inside.ip("neigh del 169.254.1.1 dev eth0").unwrap();
    inside.ip("neigh del fe80::1 dev eth0").unwrap();
    for (outside, gateway) in [("192.0.2.10", "169.254.1.1"), ("2001:db8::10", "fe80::1")] {
        let listener = listen(&lab.outside, outside.parse().unwrap());
        let (took, outcome) = connect(inside, listener.local_addr().unwrap());
        assert_eq!(outcome, Ok(()), "{outside}");
        assert!(took < AT_ONCE, "{outside}: {took:?}");
        let found = inside.ip("neigh show dev eth0").unwrap();
        let answered = format!("{gateway} lladdr ee:ee:ee:ee:ee:ee");
        assert!(found.contains(&answered), "{found}");
    }
    let (took, outcome) = connect(inside, "169.254.1.1:9".parse().unwrap());
    assert_eq!(outcome, Err(ErrorKind::ConnectionRefused));
    assert!(took < AT_ONCE, "{took:?}");
}

#[test]
fn router_advertisements_are_not_believed_and_ipv6_is_on() {
    require_root!();
    let mut lab = OneNode::start("sysctls", "", &[]).unwrap();
    let inside = &lab.attach("default", "pod").unwrap().sandbox.netns;
    for (name, wanted) in [
        ("net/ipv6/conf/eth0/disable_ipv6", "0"),
        ("net/ipv6/conf/lo/disable_ipv6", "0"),
        ("net/ipv6/conf/eth0/accept_ra", "0"),
        ("net/ipv6/conf/eth0/accept_dad", "0"),
    ] {
        let value = inside.run("cat", &[&format!("/proc/sys/{name}")]).unwrap();
        assert_eq!(value.trim(), wanted, "{name}");
    }
}

#[test]
fn a_mac_that_the_runtime_asks_for_is_the_pods_and_the_results() {
    require_root!();
    let mut lab = OneNode::start("mac", "", &[]).unwrap();
    let asked = json!({"runtimeConfig": {"mac": "02:00:5e:10:00:01"}});
    let pod = lab.attach_with("default", "pod", fields(&asked)).unwrap();
    let shown = pod.sandbox.netns.ip_json("link show eth0").unwrap();
    assert_eq!(shown[0]["address"], "02:00:5e:10:00:01");
    let answer = check(&lab);
    assert!(answer.is_success, "{answer:?}");
    let inside = &lab.pods[0].sandbox.netns;
    inside
        .ip("link set eth0 address 02:00:5e:10:00:02")
        .unwrap();
    let answer = check(&lab);
    assert!(
        answer.output.to_string().contains("02:00:5e:10:00:01"),
        "{answer:?}"
    );
}

fn mtus(lab: &OneNode) -> [u64; 2] {
    let host_end = ours(&lab.node)[0].clone();
    [
        mtu(&lab.pods[0].sandbox.netns, "eth0"),
        mtu(&lab.node, &host_end),
    ]
}

fn follows(lab: &OneNode, wanted: u64) {
    let start = Instant::now();
    eventually(PATIENCE, &format!("both ends to have MTU {wanted}"), || {
        let found = mtus(lab);
        if found == [wanted; 2] {
            Ok(())
        } else {
            Err(format!("{found:?}\n{}", lab.agent.log_end()))
        }
    })
    .unwrap();
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{wanted}: {:?}",
        start.elapsed()
    );
}

#[test]
fn the_mtu_of_new_and_running_pods_is_that_of_the_way_out_also_after_a_restart() {
    require_root!();
    let mut lab = OneNode::start("mtu", "", &[]).unwrap();
    let uplink = |lab: &OneNode, mtu: u64| {
        lab.node.ip(&format!("link set uplink mtu {mtu}")).unwrap();
    };
    lab.attach("default", "old").unwrap();
    assert_eq!(mtus(&lab), [1500; 2]);
    // A narrow interface that leads nowhere is none of the pods' business.
    lab.node.ip("link add docker0 type bridge").unwrap();
    lab.node.ip("link set docker0 mtu 1300 up").unwrap();
    for mtu in [1400, 9000] {
        uplink(&lab, mtu);
        follows(&lab, mtu);
        let answer = check(&lab);
        assert!(answer.is_success, "{answer:?}");
    }
    let added = {
        let sandbox = tests::cni::Sandbox::new("mtu", "default", "new").unwrap();
        let answer = lab
            .call("ADD", &sandbox, Map::new())
            .unwrap()
            .success()
            .unwrap();
        assert_eq!(mtu(&sandbox.netns, "eth0"), 9000);
        lab.call("DEL", &sandbox, Map::new())
            .unwrap()
            .success()
            .unwrap();
        answer
    };
    assert_eq!(
        added["interfaces"][1]["mtu"],
        Value::Null,
        "1.0.0 has no word for it: {added}"
    );
    // What changed while no agent was there, and what changes when the next one is.
    lab.agent.kill().unwrap();
    uplink(&lab, 1450);
    lab.agent.start(&lab.node).unwrap();
    lab.agent.wait_synced().unwrap();
    follows(&lab, 1450);
    uplink(&lab, 2000);
    follows(&lab, 2000);
    // A plugin behind ours may have lowered a pod's end; what is above the way out is CHECK's to find.
    let inside = &lab.pods[0].sandbox.netns;
    inside.ip("link set eth0 mtu 1400").unwrap();
    let answer = check(&lab);
    assert!(answer.is_success, "{answer:?}");
    inside.ip("link set eth0 mtu 2100").unwrap();
    let answer = check(&lab);
    assert!(answer.output.to_string().contains("MTU 2100"), "{answer:?}");
}

#[test]
fn a_fixed_mtu_is_that_of_every_pod_whatever_the_way_out_has() {
    require_root!();
    let mut lab = OneNode::start("mtufix", "", &["--mtu", "1330"]).unwrap();
    lab.attach("default", "pod").unwrap();
    assert_eq!(mtus(&lab), [1330; 2]);
    lab.node.ip("link set uplink mtu 1300").unwrap();
    lab.attach("default", "later").unwrap();
    assert_eq!(mtus(&lab), [1330; 2]);
}

/// Bits a second from one namespace to another by one TCP connection, after half a second of finding its pace.
fn throughput(from: &Netns, to: &Netns, address: IpAddr) -> f64 {
    const WARM_UP: Duration = Duration::from_millis(700);
    const MEASURED: Duration = Duration::from_secs(3);
    let listener = listen(to, address);
    let target = listener.local_addr().unwrap();
    let sender = from.inside(move || TcpStream::connect_timeout(&target, Duration::from_secs(5)));
    let mut sender = sender.unwrap().unwrap();
    sender
        .set_write_timeout(Some(Duration::from_secs(1)))
        .unwrap();
    let (mut receiver, _) = listener.accept().unwrap();
    receiver
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    let start = Instant::now();
    let writing = std::thread::spawn(move || {
        let block = [7; 16 * 1024];
        while start.elapsed() < WARM_UP + MEASURED && sender.write_all(&block).is_ok() {}
    });
    let (mut block, mut bytes) = ([0; 64 * 1024], 0);
    while start.elapsed() < WARM_UP + MEASURED {
        let read = match receiver.read(&mut block) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            read => read.unwrap(),
        };
        if start.elapsed() >= WARM_UP {
            bytes += read;
        }
        if read == 0 {
            break;
        }
    }
    drop(receiver);
    writing.join().unwrap();
    bytes as f64 * 8.0 / MEASURED.as_secs_f64()
}

#[test]
fn limits_that_the_runtime_asks_for_hold_in_both_directions_and_go_with_the_pod() {
    require_root!();
    let mut lab = OneNode::start("shape", "", &[]).unwrap();
    let before = Snapshot::of(&lab.node);
    let limit = 8_000_000;
    let asked = json!({"runtimeConfig": {"bandwidth": {
        "ingressRate": limit, "ingressBurst": 400_000, "egressRate": limit, "egressBurst": u32::MAX,
    }}});
    lab.attach_with("default", "slow", fields(&asked)).unwrap();
    lab.attach("default", "fast").unwrap();
    let [slow, fast] = [0, 1].map(|place| &lab.pods[place]);
    assert_eq!(ours(&lab.node).len(), 3, "two host ends and a shaper");
    let (slow_end, fast_end) = (&slow.sandbox.netns, &fast.sandbox.netns);
    let rows = [
        throughput(fast_end, slow_end, slow.addresses[0]),
        throughput(slow_end, fast_end, fast.addresses[0]),
        throughput(slow_end, &lab.outside, "2001:db8::10".parse().unwrap()),
    ];
    for row in rows {
        let share = row / f64::from(limit);
        assert!((0.70..=1.15).contains(&share), "{rows:?}");
    }
    let free = throughput(fast_end, &lab.outside, "192.0.2.10".parse().unwrap());
    assert!(free > 10.0 * f64::from(limit), "{free}");
    // An agent that comes back knows of the limits: CHECK finds one that is gone.
    lab.agent.kill().unwrap();
    lab.agent.start(&lab.node).unwrap();
    lab.agent.wait_synced().unwrap();
    let answer = check(&lab);
    assert!(answer.is_success, "{answer:?}");
    let shaper = ours(&lab.node)
        .into_iter()
        .find(|name| name.starts_with("ptb"))
        .unwrap();
    lab.node
        .run("tc", &["qdisc", "del", "dev", &shaper, "root"])
        .unwrap();
    let answer = check(&lab);
    assert!(
        answer.output.to_string().contains("what the pod sends"),
        "{answer:?}"
    );
    lab.detach("default", "slow").unwrap();
    lab.detach("default", "fast").unwrap();
    assert_eq!(ours(&lab.node), Vec::<String>::new());
    eventually(PATIENCE, "the node to be as before", || {
        let difference = before.difference(&Snapshot::of(&lab.node));
        if difference.is_empty() {
            Ok(())
        } else {
            Err(difference)
        }
    })
    .unwrap();
}

#[test]
fn a_shaper_goes_when_its_pods_namespace_goes_and_when_the_agent_comes_back() {
    require_root!();
    let mut lab = OneNode::start("lone", "", &[]).unwrap();
    let asked =
        json!({"runtimeConfig": {"bandwidth": {"egressRate": 1_000_000, "egressBurst": 100_000}}});
    lab.attach_with("default", "gone", fields(&asked)).unwrap();
    assert_eq!(ours(&lab.node).len(), 2);
    let none_left = |lab: &OneNode| {
        eventually(PATIENCE, "the shaper to go", || {
            let left = ours(&lab.node);
            if left.is_empty() {
                Ok(())
            } else {
                Err(format!("{left:?}"))
            }
        })
        .unwrap();
    };
    // The pod's namespace goes without a DEL.
    lab.pods.clear();
    none_left(&lab);
    lab.attach_with("default", "again", fields(&asked)).unwrap();
    lab.agent.kill().unwrap();
    lab.pods.clear();
    lab.agent.start(&lab.node).unwrap();
    lab.agent.wait_synced().unwrap();
    none_left(&lab);
}

#[test]
fn an_interface_of_that_name_is_left_alone_and_the_add_refused() {
    require_root!();
    let mut lab = OneNode::start("taken", "", &[]).unwrap();
    let sandbox = tests::cni::Sandbox::new("taken", "default", "pod").unwrap();
    sandbox
        .netns
        .ip("link add eth0 type veth peer name other0")
        .unwrap();
    let refused = lab.call("ADD", &sandbox, Map::new()).unwrap();
    assert!(refused.output.to_string().contains("eth0"), "{refused:?}");
    assert!(!refused.is_success);
    assert!(sandbox.netns.ip("link show").unwrap().contains("eth0"));
    assert_eq!(ours(&lab.node), Vec::<String>::new());
    sandbox.netns.ip("link del eth0").unwrap();
    // Nothing of the refused ADD stands in the way, and its addresses are free.
    lab.call("ADD", &sandbox, Map::new())
        .unwrap()
        .success()
        .unwrap();
    lab.attach("default", "other").unwrap();
    assert_eq!(ours(&lab.node).len(), 2);
}
