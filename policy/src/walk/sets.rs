//! Whether a packet is in a set, without a look at every member.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use netfilter::{InterfaceName, Member, Protocol, SetDirection};

use super::Packet;

/// A set's members, and the prefix lengths that its networks have.
#[derive(Debug)]
pub(super) struct Members<'a> {
    members: &'a BTreeSet<Member>,
    lengths: Vec<u8>,
}

impl<'a> Members<'a> {
    pub(super) fn new(members: &'a BTreeSet<Member>) -> Self {
        // All members are of one kind: the first tells whether there are networks.
        let has_networks = matches!(members.first(), Some(Member::Net(_) | Member::NetIface(..)));
        let mut seen = [false; 129];
        for member in members.iter().take_while(|_| has_networks) {
            if let Member::Net(net) | Member::NetIface(net, _) = member
                && let Some(seen) = seen.get_mut(usize::from(net.prefix_len()))
            {
                *seen = true;
            }
        }
        let lengths = (0..=128u8).zip(seen).filter(|(_, seen)| *seen);
        Self {
            members,
            lengths: lengths.map(|(length, _)| length).collect(),
        }
    }

    pub(super) fn has(&self, direction: SetDirection, packet: &Packet) -> bool {
        match direction {
            SetDirection::Source => self.has_address(packet.source),
            SetDirection::Destination => self.has_address(packet.destination),
            SetDirection::SourceAndIn => self.has_behind(packet.source, packet.input.as_ref()),
            SetDirection::SourceAndOut => self.has_behind(packet.source, packet.output.as_ref()),
            SetDirection::DestinationAndOut => {
                self.has_behind(packet.destination, packet.output.as_ref())
            }
            SetDirection::DestinationAndPort => {
                let protocols = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].into_iter();
                let mut of_packet = protocols.filter(|one| one.number() == packet.protocol);
                of_packet.next().is_some_and(|protocol| {
                    let member = Member::IpPort(packet.destination, protocol, packet.port);
                    self.members.contains(&member)
                })
            }
        }
    }

    fn has_address(&self, address: IpAddr) -> bool {
        if self.lengths.is_empty() {
            return self.members.contains(&Member::Ip(address));
        }
        let mut nets = self.networks_around(address);
        nets.any(|net| self.members.contains(&Member::Net(net)))
    }

    fn has_behind(&self, address: IpAddr, interface: Option<&InterfaceName>) -> bool {
        interface.is_some_and(|name| {
            let mut nets = self.networks_around(address);
            nets.any(|net| self.members.contains(&Member::NetIface(net, name.clone())))
        })
    }

    /// The network of each length in use that holds an address.
    fn networks_around(&self, address: IpAddr) -> impl Iterator<Item = IpNet> {
        let nets = self
            .lengths
            .iter()
            .map(move |length| IpNet::new(address, *length));
        nets.flatten().map(|net| net.trunc())
    }
}
