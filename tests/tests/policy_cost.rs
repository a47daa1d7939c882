//! What a packet costs: the rules it is tried against with one isolated pod on the node and with 500, counted by the kernel.
//!
//! A rule's own counter counts packets that matched it, not those that were tried against it. So in front of each rule of
//! ours the test puts one without conditions and without a target: all it does is count each packet that gets there, which
//! is then tried against the next one. The sum of these counters is exact, on both back ends. What is counted is also held
//! against `policy::walk`, which finds the worst of the 500 pods beforehand.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test"
)]

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use netfilter::{COMMENT_PREFIX, CtState, Family, InterfaceName};
use policy::{Compiled, Packet, Tables};
use tests::netns::Netns;
use tests::policy_lab::{BackEnd, PORTS, Wires, address_of, interface_of, isolated, outside};
use tests::require_root;

const PODS: usize = 500;
/// `DESIGN.md` §6.
const MOST_MORE: usize = 12;
const FAMILIES: [Family; 2] = [Family::V4, Family::V6];
const COUNTING: &str = "-m comment --comment tried";

/// Where a flow begins or ends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Outside,
    /// The one or the other pod that has a link.
    Pod(usize),
}

/// A flow's first packet, the answer to it, and the next one.
type Counts = [usize; 3];

struct Stage {
    wires: Wires,
    pods: [usize; 2],
    compiled: std::sync::Arc<Compiled>,
    back_end: BackEnd,
}

impl Stage {
    /// `pods` have links; as many others as wanted are there on paper.
    fn new(back_end: BackEnd, pods: [usize; 2], here: impl IntoIterator<Item = usize>) -> Self {
        let compiled = isolated(here).compile();
        let wires = Wires::new("cost", pods).unwrap();
        wires.install(back_end, &compiled).unwrap();
        for family in FAMILIES {
            let text = wires.save(back_end, family, &[]).unwrap();
            let counting = counting(&text);
            wires.restore(back_end, family, &[], &counting).unwrap();
        }
        Self {
            wires,
            pods,
            compiled,
            back_end,
        }
    }

    fn netns(&self, end: End) -> &Netns {
        match end {
            End::Outside => &self.wires.outside,
            End::Pod(number) => &self.wires.pods[number],
        }
    }

    fn address(&self, end: End, family: Family) -> IpAddr {
        match end {
            End::Outside => outside(family),
            End::Pod(number) => address_of(self.pods[number], family),
        }
    }

    fn interface(&self, end: End) -> InterfaceName {
        let name = match end {
            End::Outside => "out0".to_owned(),
            End::Pod(number) => interface_of(self.pods[number]),
        };
        InterfaceName::new(&name).unwrap()
    }

    /// Rules tried in all, and packets that came in.
    fn counted(&self, family: Family) -> (usize, usize) {
        let text = self.wires.save(self.back_end, family, &["-c"]).unwrap();
        let mut table = "";
        let (mut tried, mut came) = (0, 0);
        for line in text.lines() {
            if let Some(name) = line.strip_prefix('*') {
                table = name;
            }
            if !line.ends_with(COUNTING) {
                continue;
            }
            let packets = line[1..].split(':').next().unwrap();
            let packets: usize = packets.parse().unwrap();
            tried += packets;
            if table == "raw" && line.contains("-A PREROUTING ") {
                came += packets;
            }
        }
        (tried, came)
    }

    /// What one packet is tried against; `None` if another packet came meanwhile.
    fn cost(&self, family: Family, from: &UdpSocket, to: &UdpSocket) -> Option<usize> {
        let before = self.counted(family);
        let end = to.local_addr().unwrap();
        from.send_to(b"?", end).unwrap();
        let (_, source) = to
            .recv_from(&mut [0; 8])
            .expect("the packet arrives: it is allowed");
        assert_eq!(source, from.local_addr().unwrap());
        let after = self.counted(family);
        (after.1 - before.1 == 1).then_some(after.0 - before.0)
    }

    /// By the kernel's counters.
    fn measure(&self, family: Family, from: End, to: End) -> Counts {
        let port = PORTS[0] + 1;
        let server = self.socket(family, to, port);
        for _ in 0..20 {
            let client = self.socket(family, from, 0);
            let new = self.cost(family, &client, &server);
            let reply = self.cost(family, &server, &client);
            let next = self.cost(family, &client, &server);
            if let (Some(new), Some(reply), Some(next)) = (new, reply, next) {
                return [new, reply, next];
            }
        }
        panic!("other packets come all the time");
    }

    fn socket(&self, family: Family, end: End, port: u16) -> UdpSocket {
        let address = SocketAddr::new(self.address(end, family), port);
        let socket = self.netns(end).inside(|| UdpSocket::bind(address));
        let socket = socket.unwrap().unwrap();
        let patience = Some(Duration::from_secs(10));
        socket.set_read_timeout(patience).unwrap();
        socket
    }

    /// By walking through the same rules.
    fn walked(&self, family: Family, from: End, to: End) -> Counts {
        let rules = match family {
            Family::V4 => &self.compiled.v4,
            Family::V6 => &self.compiled.v6,
        };
        let tables = Tables::compiled(rules);
        let (client, server) = (self.interface(from), self.interface(to));
        let there = [self.address(from, family), self.address(to, family)];
        let back = [there[1], there[0]];
        let new = udp(there, [&client, &server], CtState::New);
        let next = udp(there, [&client, &server], CtState::Established);
        let mut reply = udp(back, [&server, &client], CtState::Established);
        (reply.reply, reply.source_port, reply.port) = (true, new.port, new.source_port);
        [new, reply, next].map(|packet| tables.walk(&packet).trail.len())
    }
}

fn udp(
    [source, destination]: [IpAddr; 2],
    [input, output]: [&InterfaceName; 2],
    state: CtState,
) -> Packet {
    Packet {
        source,
        destination,
        input: Some(input.clone()),
        output: Some(output.clone()),
        protocol: 17,
        source_port: 40_000,
        port: PORTS[0] + 1,
        state,
        syn: false,
        reply: false,
        source_local: false,
        destination_local: false,
        mark: 0,
    }
}

/// What was saved, with a counting rule in front of each rule of ours.
fn counting(saved: &str) -> String {
    let mut text = String::new();
    for line in saved.lines() {
        let words = line.strip_prefix("-A ");
        if let Some((chain, rule)) = words.and_then(|words| words.split_once(' '))
            && (chain.starts_with("PTL-") || rule.contains(COMMENT_PREFIX))
        {
            text += &format!("-A {chain} {COUNTING}\n");
        }
        text += line;
        text.push('\n');
    }
    assert!(text.contains(COUNTING), "nothing of ours in {saved}");
    text
}

/// The two pods to which, and from which, a new packet passes the most rules.
fn worst() -> [usize; 2] {
    let compiled = isolated(0..PODS).compile();
    let tables = Tables::compiled(&compiled.v4);
    let out = InterfaceName::new("out0").unwrap();
    let mut costs: Vec<(usize, usize)> = (0..PODS)
        .map(|pod| {
            let here = InterfaceName::new(&interface_of(pod)).unwrap();
            let ends = [outside(Family::V4), address_of(pod, Family::V4)];
            let to = udp(ends, [&out, &here], CtState::New);
            let from = udp([ends[1], ends[0]], [&here, &out], CtState::New);
            let cost = |packet| tables.walk(&packet).trail.len();
            (cost(to).max(cost(from)), pod)
        })
        .collect();
    costs.sort_unstable();
    [costs[PODS - 1].1, costs[PODS - 2].1]
}

/// Both ways between the pod and the host outside, with one pod and with 500; then between two pods, which each have their
/// own way through the tree.
fn compare(back_end: BackEnd) {
    require_root!();
    let pods = worst();
    let one = Stage::new(back_end, pods, [pods[0]]);
    let two = Stage::new(back_end, pods, pods);
    let all = Stage::new(back_end, pods, 0..PODS);
    let mut ways = BTreeSet::new();
    for family in FAMILIES {
        for (few, from, to) in [
            (&one, End::Outside, End::Pod(0)),
            (&one, End::Pod(0), End::Outside),
            (&two, End::Pod(0), End::Pod(1)),
        ] {
            let trees = if to == End::Pod(1) { 2 } else { 1 };
            let [least, most] = [few, &all].map(|stage| {
                let counted = stage.measure(family, from, to);
                assert_eq!(
                    counted,
                    stage.walked(family, from, to),
                    "{from:?} to {to:?}"
                );
                counted
            });
            let said = format!("{family:?} {from:?} to {to:?}: {least:?}, with {PODS}: {most:?}");
            println!("{} {said}", back_end.name());
            assert!(most[0] <= least[0] + MOST_MORE * trees, "{said}");
            assert_eq!(most[1..], least[1..], "established: {said}");
            ways.insert(said);
        }
    }
    assert_eq!(ways.len(), 6);
}

#[test]
fn with_500_pods_a_packet_is_tried_against_at_most_12_rules_more_than_with_one_on_nft() {
    compare(BackEnd::Nft);
}

#[test]
fn with_500_pods_a_packet_is_tried_against_at_most_12_rules_more_than_with_one_on_legacy() {
    compare(BackEnd::Legacy);
}
