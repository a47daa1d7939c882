//! A node's network stack with pods, a remote node and a host outside around it, each in a namespace; no agent runs.

use std::fs::File;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result};
use nix::sched::{CloneFlags, CpuSet, sched_getaffinity, sched_setaffinity, setns};
use nix::unistd::Pid;
use tests::netns::{self, Netns};

use crate::wire::{FarEnd, NodeEnd};

/// How many places for local pods there are.
pub(crate) const SLOTS: usize = 10;
/// How many addresses of pods of the remote node there are.
pub(crate) const REMOTES: usize = 5;

/// Where packets are sent from and arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Place {
    /// Behind the interface of a local pod.
    Slot(usize),
    /// The other node: its own addresses and its pods'.
    Remote,
    /// A host outside the cluster.
    Outside,
    /// The node itself.
    Node,
}

impl Place {
    /// Every place but the node.
    fn far() -> impl Iterator<Item = Self> {
        (0..SLOTS)
            .map(Self::Slot)
            .chain([Self::Remote, Self::Outside])
    }

    /// What it sends from, and is sent to at.
    pub(crate) fn addresses(self, is_ipv4: bool) -> Vec<IpAddr> {
        let both = |v4: [u8; 4], v6: [u16; 3]| -> IpAddr {
            if is_ipv4 {
                Ipv4Addr::from(v4).into()
            } else {
                Ipv6Addr::new(0xfd00, v6[0], v6[1], 0, 0, 0, 0, v6[2]).into()
            }
        };
        match self {
            Self::Slot(slot) => vec![slot_address(slot, is_ipv4)],
            Self::Remote => {
                let pods = (0..REMOTES).map(|number| remote_address(number, is_ipv4));
                pods.chain([both([10, 10, 1, 2], [0x10, 0, 2])]).collect()
            }
            Self::Outside => vec![
                both([192, 0, 2, 10], [0x192, 0, 0x10]),
                both([198, 51, 100, 7], [0x198, 0, 7]),
            ],
            Self::Node => vec![
                both([192, 0, 2, 1], [0x192, 0, 1]),
                both([10, 10, 1, 1], [0x10, 0, 1]),
            ],
        }
    }

    fn number(self) -> usize {
        match self {
            Self::Slot(slot) => slot,
            Self::Remote => SLOTS,
            Self::Outside => SLOTS + 1,
            Self::Node => SLOTS + 2,
        }
    }

    /// The node's interface there.
    fn interface(self) -> String {
        match self {
            Self::Slot(slot) => interface_of(slot),
            Self::Remote => "rem0".to_owned(),
            Self::Outside => "out0".to_owned(),
            Self::Node => "lo".to_owned(),
        }
    }

    fn mac(self, side: u8) -> [u8; 6] {
        [2, 0, 0, 0, side, u8::try_from(self.number()).unwrap()]
    }
}

/// A local pod's address.
pub(crate) fn slot_address(slot: usize, is_ipv4: bool) -> IpAddr {
    numbered(1, slot, is_ipv4)
}

/// The address of a pod of the remote node.
pub(crate) fn remote_address(number: usize, is_ipv4: bool) -> IpAddr {
    numbered(2, number, is_ipv4)
}

fn numbered(node: u8, number: usize, is_ipv4: bool) -> IpAddr {
    let last = u8::try_from(number + 1).unwrap();
    if is_ipv4 {
        Ipv4Addr::new(10, 244, node, last).into()
    } else {
        Ipv6Addr::new(0xfd00, 0x244, node.into(), 0, 0, 0, 0, last.into()).into()
    }
}

/// The host end of a local pod's veth, of the form the agent gives it: `ptl` and eleven hex digits.
pub(crate) fn interface_of(slot: usize) -> String {
    let hash = netfilter::short_hash(&[slot.to_string()], 11);
    format!("ptl{hash}")
}

/// The namespaces and the sockets in them. The thread that makes it is in the node's namespace from then on, and stays
/// on one processor, so that packets are handled in the order in which they are sent.
pub(crate) struct Lab {
    far: Vec<FarEnd>,
    pub(crate) node: NodeEnd,
    all_processors: CpuSet,
    one_processor: CpuSet,
    /// Removed last.
    _spaces: Vec<Netns>,
}

impl Lab {
    /// Lays it all out, on a processor by number.
    pub(crate) fn new(tag: &str, processor: usize) -> Result<Self> {
        let node = Netns::new(tag, "node")?;
        for (name, value) in [
            ("net.ipv4.ip_forward", "1"),
            ("net.ipv6.conf.all.forwarding", "1"),
            ("net.ipv4.conf.all.rp_filter", "0"),
            ("net.ipv4.conf.default.rp_filter", "0"),
            ("net.ipv4.conf.all.send_redirects", "0"),
            ("net.ipv4.conf.default.send_redirects", "0"),
            ("net.ipv6.conf.default.accept_dad", "0"),
        ] {
            node.sysctl(name, value)?;
        }
        let mut spaces = Vec::new();
        let mut links = String::new();
        for place in Place::far() {
            let space = Netns::new(tag, &place.interface())?;
            space.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
            links += &link(place, &node, &space);
            spaces.push(space);
        }
        batch(&["-batch"], &links)?;
        for space in &spaces {
            space.ip("link set eth0 up")?;
        }
        batch(&["-n", node.name(), "-batch"], &node_setup())?;
        let mut far = Vec::new();
        for (place, space) in Place::far().zip(&spaces) {
            far.push(space.inside(|| FarEnd::new(place, place.mac(1), place.mac(2)))??);
        }
        setns(File::open(node.path())?, CloneFlags::CLONE_NEWNET)?;
        let all_processors = sched_getaffinity(Pid::from_raw(0))?;
        let usable: Vec<usize> = (0..CpuSet::count())
            .filter(|number| all_processors.is_set(*number).unwrap_or(false))
            .collect();
        let mut one_processor = CpuSet::new();
        one_processor.set(usable[processor % usable.len()])?;
        sched_setaffinity(Pid::from_raw(0), &one_processor)?;
        spaces.push(node);
        Ok(Self {
            far,
            node: NodeEnd::new()?,
            all_processors,
            one_processor,
            _spaces: spaces,
        })
    }

    /// The far ends.
    pub(crate) fn far(&mut self) -> &mut [FarEnd] {
        &mut self.far
    }

    /// The far end at a place; `None` for the node.
    pub(crate) fn far_end(&mut self, place: Place) -> Option<&mut FarEnd> {
        self.far.get_mut(place.number())
    }

    /// How many refusals came to the far ends: what is denied meets silence.
    pub(crate) fn refusals(&self) -> u64 {
        self.far.iter().map(FarEnd::refusals).sum()
    }

    /// Starts a program that may run on any processor, beside this thread.
    pub(crate) fn beside<T>(&self, start: impl FnOnce() -> T) -> Result<T> {
        sched_setaffinity(Pid::from_raw(0), &self.all_processors)?;
        let started = start();
        sched_setaffinity(Pid::from_raw(0), &self.one_processor)?;
        Ok(started)
    }
}

fn text_of(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn link(place: Place, node: &Netns, space: &Netns) -> String {
    let (name, near, far) = (
        place.interface(),
        text_of(place.mac(1)),
        text_of(place.mac(2)),
    );
    let (node, space) = (node.name(), space.name());
    format!(
        "link add {name} address {near} netns {node} type veth peer name eth0 address {far} netns {space}\n"
    )
}

/// The node's addresses, routes and neighbours. All neighbours are known, so that no packet waits for an answer.
fn node_setup() -> String {
    let mut text = String::new();
    for place in Place::far() {
        text += &format!("link set {} up\n", place.interface());
    }
    for (dev, v4, v6) in [
        ("rem0", "10.10.1.1/24", "fd00:10::1/64"),
        ("out0", "192.0.2.1/24", "fd00:192::1/64"),
    ] {
        text += &format!("addr add {v4} dev {dev}\naddr add {v6} dev {dev} nodad\n");
    }
    for is_ipv4 in [true, false] {
        for place in Place::far() {
            let (dev, mac) = (place.interface(), text_of(place.mac(2)));
            for address in place.addresses(is_ipv4) {
                text += &format!("route replace {address} dev {dev}\n");
                text += &format!("neigh replace {address} lladdr {mac} dev {dev} nud permanent\n");
            }
        }
    }
    text
}

fn batch(arguments: &[&str], lines: &str) -> Result<()> {
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(lines.as_bytes())?;
    let path = file.path().to_str().context("a temporary file's name")?;
    let arguments: Vec<&str> = arguments.iter().copied().chain([path]).collect();
    netns::run("ip", &arguments).map(drop)
}
