//! How long the RIBs take for a prefix, stage by stage, and how much memory: `rib_rate feed|mesh|same`.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a measurement for people at a terminal"
)]

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use bgp_proto::rib::{
    ExportPolicy, ImportPolicy, Multipath, PeerId, PeerInfo, PeerPolicy, Rib, RibConfig,
};
use bgp_proto::wire::{
    AsPathSegment, Asn, Decoder, Family, Message, Nlri, PathAttributes, SegmentKind, WireContext,
    encode_updates,
};
use bytes::{Bytes, BytesMut};
use ipnet::{IpNet, Ipv4Net};

fn main() {
    let what = std::env::args().nth(1).unwrap_or_else(|| "feed".into());
    match what.as_str() {
        "mesh" => mesh(20, 10_000),
        "same" => same(10, 100_000),
        _ => feed(1_000_000, 180_000),
    }
    println!("VmHWM {} kB, VmRSS {} kB", status("VmHWM"), status("VmRSS"));
}

/// Stages of the work, summed up.
#[derive(Default)]
struct Stages {
    decode: Duration,
    update: Duration,
    best: Duration,
    transmit: Duration,
    octets: usize,
}

impl Stages {
    fn print(&self, what: &str, prefixes: usize) {
        let each = |spent: Duration| spent.as_nanos() as f64 / prefixes as f64;
        let all = self.decode + self.update + self.best + self.transmit;
        println!(
            "{what}: ns/prefix decode {:.0}, handle_update {:.0}, best {:.0}, transmit {:.0}, all {:.0}; {:.3} s, {} octets out",
            each(self.decode),
            each(self.update),
            each(self.best),
            each(self.transmit),
            each(all),
            all.as_secs_f64(),
            self.octets
        );
    }

    /// Takes in one read's worth of a peer's stream and gives every peer its share.
    fn step(&mut self, rib: &mut Rib, from: (PeerId, &mut Decoder), bytes: &[u8], to: &[PeerId]) {
        let (peer, decoder) = from;
        let context = context();
        let start = Instant::now();
        decoder.push(bytes);
        let mut updates = Vec::new();
        while let Some(message) = decoder.next(&context).unwrap() {
            if let Message::Update(update) = message {
                updates.push(update);
            }
        }
        let decoded = Instant::now();
        for update in &updates {
            rib.handle_update(peer, update).unwrap();
        }
        drop(updates);
        let updated = Instant::now();
        while !rib.poll_best_changes(4_096).is_empty() {}
        let decided = Instant::now();
        for peer in to {
            while let Some(octets) = rib.poll_transmit(*peer, 64 * 1024) {
                self.octets += octets.len();
            }
        }
        self.decode += decoded - start;
        self.update += updated - decoded;
        self.best += decided - updated;
        self.transmit += decided.elapsed();
    }
}

fn feed(prefixes: u32, sets: u32) {
    let wire = stream(1, prefixes, sets, 0);
    println!(
        "{} octets in, VmRSS before {} kB",
        wire.len(),
        status("VmRSS")
    );
    let before = status("VmRSS");
    let mut rib = rib();
    let feed = up(&mut rib, 1);
    let sink = up(&mut rib, 2);
    let mut stages = Stages::default();
    let mut decoder = Decoder::default();
    for piece in wire.chunks(64 * 1024) {
        stages.step(&mut rib, (feed, &mut decoder), piece, &[sink, feed]);
    }
    stages.print("1 feed to 1 peer", prefixes as usize);
    assert_eq!(rib.counts(sink).sent, prefixes as usize);
    let grown = status("VmRSS") - before;
    println!(
        "the RIBs take {grown} kB: {} octets a prefix",
        grown * 1024 / prefixes as usize
    );
    let start = Instant::now();
    rib.handle_peer_down(feed, &[]);
    let down = start.elapsed();
    let mut withdrawn = 0;
    while rib.has_work() {
        withdrawn += rib.poll_best_changes(4_096).len();
        while rib.poll_transmit(sink, 64 * 1024).is_some() {}
    }
    println!(
        "peer down {down:?}, withdrawn {withdrawn} in {:?}",
        start.elapsed()
    );
}

fn mesh(peers: u8, prefixes: u32) {
    let mut rib = rib();
    let ids: Vec<PeerId> = (1..=peers).map(|n| up(&mut rib, n)).collect();
    let wires: Vec<Bytes> = (1..=peers)
        .map(|n| stream(n, prefixes, prefixes / 5, u32::from(n) * prefixes))
        .collect();
    run(
        "each to all",
        &mut rib,
        &ids,
        &wires,
        prefixes as usize * usize::from(peers),
    );
    let others = prefixes as usize * (usize::from(peers) - 1);
    assert!(ids.iter().all(|id| rib.counts(*id).sent == others));
}

fn same(peers: u8, prefixes: u32) {
    let mut rib = rib();
    let ids: Vec<PeerId> = (1..=peers).map(|n| up(&mut rib, n)).collect();
    let sink = up(&mut rib, peers + 1);
    let wires: Vec<Bytes> = (1..=peers)
        .map(|n| stream(n, prefixes, prefixes / 5, 0))
        .collect();
    let all: Vec<PeerId> = ids.iter().copied().chain([sink]).collect();
    let paths = prefixes as usize * usize::from(peers);
    run("the same from all", &mut rib, &all, &wires, paths);
    assert_eq!(rib.counts(sink).sent, prefixes as usize);
}

/// All streams a piece at a time in turn, as they come from so many sockets.
fn run(what: &str, rib: &mut Rib, to: &[PeerId], wires: &[Bytes], prefixes: usize) {
    let mut stages = Stages::default();
    let mut decoders: Vec<Decoder> = wires.iter().map(|_| Decoder::default()).collect();
    let longest = wires.iter().map(Bytes::len).max().unwrap_or(0);
    for at in (0..longest).step_by(64 * 1024) {
        for (n, wire) in wires.iter().enumerate() {
            let piece = wire.get(at..wire.len().min(at + 64 * 1024));
            let from = (to[n], &mut decoders[n]);
            stages.step(rib, from, piece.unwrap_or_default(), to);
        }
    }
    stages.print(what, prefixes);
}

fn rib() -> Rib {
    let router_id = Ipv4Addr::new(10, 0, 0, 100);
    let config = RibConfig {
        asn: Asn(64_513),
        router_id,
        cluster_id: router_id,
        multipath: Multipath::default(),
    };
    Rib::new(config, 0x5eed)
}

fn up(rib: &mut Rib, n: u8) -> PeerId {
    let id = rib.add_peer(PeerPolicy {
        name: format!("peer {n}").into(),
        import: ImportPolicy {
            reject_default_route: true,
            enforce_first_as: true,
            ..ImportPolicy::default()
        },
        export: ExportPolicy {
            transit: true,
            ..ExportPolicy::default()
        },
        max_prefixes: 2_000_000,
        warn_at: None,
        route_reflector_client: false,
    });
    let address = Ipv4Addr::new(10, 0, 1, n);
    rib.handle_peer_up(
        id,
        PeerInfo {
            asn: Asn(65_000 + u32::from(n)),
            router_id: address,
            address: (address, 179).into(),
            local_address: Ipv4Addr::new(10, 0, 0, 100).into(),
            local_link_local: None,
            link: None,
            external: true,
            context: context(),
            enhanced_refresh: true,
            role: None,
            llgr_peer: false,
        },
    );
    id
}

fn context() -> WireContext {
    WireContext {
        four_byte_as: true,
        families: vec![Family::IPV4_UNICAST],
        ..WireContext::default()
    }
}

/// UPDATEs of so many prefixes, scattered over the address space, with so many sets of attributes.
fn stream(peer: u8, prefixes: u32, sets: u32, first: u32) -> Bytes {
    let mut out = BytesMut::new();
    let mut batch: Vec<Nlri> = Vec::new();
    let each = prefixes.div_ceil(sets);
    for set in 0..sets {
        batch.clear();
        for n in set * each..(set * each + each).min(prefixes) {
            batch.push(prefix(first + n).into());
        }
        if batch.is_empty() {
            break;
        }
        let attributes = std::sync::Arc::new(attributes(peer, set));
        encode_updates(&attributes, &batch, &context(), &mut out);
    }
    out.freeze()
}

/// Different for every number below 2^24, mostly /24.
fn prefix(n: u32) -> IpNet {
    let scattered = n.wrapping_mul(0x9e_3779).wrapping_add(0x00_0b00) & 0xff_ffff;
    let net = Ipv4Net::new(Ipv4Addr::from_bits(scattered << 8), 24).unwrap();
    IpNet::V4(net)
}

fn attributes(peer: u8, set: u32) -> PathAttributes {
    let next_hop = IpAddr::from([10, 0, 1, peer]);
    let mut asns = vec![Asn(65_000 + u32::from(peer))];
    asns.extend(
        (0..2 + set % 4).map(|n| Asn(1 + (set.wrapping_mul(2_654_435_761) >> (n + 12)) % 60_000)),
    );
    PathAttributes {
        as_path: vec![AsPathSegment {
            kind: SegmentKind::Sequence,
            asns,
        }],
        communities: (0..set % 4).map(|n| set << 8 | n).collect(),
        med: set.is_multiple_of(3).then_some(set),
        ..PathAttributes::originated(next_hop)
    }
}

/// A line of /proc/self/status, in kB.
fn status(name: &str) -> usize {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(name));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}
