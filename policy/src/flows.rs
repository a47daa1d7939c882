//! Which connections that conntrack holds would be denied if they were opened now: what a change of policy cuts.
//!
//! Judged by the rules that are in force, never by the policies: an entry goes only where its next packet, were it a new
//! one, would be dropped, so that a connection which is still allowed never loses a packet (`DESIGN.md` §4).

mod dirty;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;
use netfilter::{CtState, InterfaceName, Protocol};

use crate::{Compiled, Endpoint, Packet, Tables, WalkVerdict};
pub use dirty::Dirty;

/// The type of an echo request, by family: what conntrack follows of ICMP is mostly that.
const ECHO_REQUEST: [u16; 2] = [8, 128];

/// One direction of a connection as conntrack knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tuple {
    /// Who sends in this direction.
    pub source: IpAddr,
    /// Whom.
    pub destination: IpAddr,
    /// 0 where the protocol has no ports.
    pub source_port: u16,
    /// 0 where the protocol has no ports.
    pub destination_port: u16,
}

/// A connection that conntrack holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Entry {
    /// The IP protocol's number.
    pub protocol: u8,
    /// As the first packet came: before any translation.
    pub original: Tuple,
    /// As answers come: its source is who really answers, after a Service's address was translated; its destination
    /// whom they are sent to, which is a node where the source was masqueraded.
    pub reply: Tuple,
}

/// Who is on this node.
#[derive(Clone, Copy, Debug)]
pub struct Local<'a> {
    /// This node's own addresses, those of its tunnels and gateways too.
    pub addresses: &'a BTreeSet<IpAddr>,
    /// This node's Pod CIDRs.
    pub pod_cidrs: &'a [IpNet],
    /// The pods attached here, by the host end's interface. Take them after conntrack was listed: what came in between
    /// then belongs to a pod that is there.
    pub endpoints: &'a BTreeMap<InterfaceName, Endpoint>,
}

/// Why an entry is to be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cut {
    /// The rules drop it as a new connection.
    Denied,
    /// One end is an address of this node's Pod CIDRs that no pod holds any more (semantics 52).
    Orphaned,
}

/// What is asked of the rules: two connections that agree in it are judged alike.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Question {
    protocol: u8,
    source: IpAddr,
    destination: IpAddr,
    port: u16,
}

/// Judges entries by the rules in force.
#[derive(Debug)]
pub struct Judge<'a> {
    v4: Tables<'a>,
    v6: Tables<'a>,
    local: Local<'a>,
    interfaces: HashMap<IpAddr, &'a InterfaceName>,
    outside: InterfaceName,
}

impl<'a> Judge<'a> {
    /// Takes what is in force and who is here.
    pub fn new(compiled: &'a Compiled, local: Local<'a>) -> Self {
        let mut interfaces = HashMap::new();
        for (interface, endpoint) in local.endpoints {
            interfaces.extend(
                endpoint
                    .addresses
                    .iter()
                    .map(|address| (*address, interface)),
            );
        }
        Self {
            v4: Tables::compiled(&compiled.v4),
            v6: Tables::compiled(&compiled.v6),
            local,
            interfaces,
            outside: InterfaceName::new("outside").expect("a constant interface name is valid"),
        }
    }

    /// The entries to delete, by their place in the list. With `dirty` only those that a change may have touched are
    /// asked; orphaned ones are found in any case.
    pub fn cuts(&self, entries: &[Entry], dirty: Option<&Dirty>) -> Vec<(usize, Cut)> {
        let dirty = dirty.map(|dirty| dirty.reach(self.local.endpoints));
        let mut known: HashMap<Question, bool> = HashMap::new();
        let mut cuts = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            let question = Question {
                protocol: entry.protocol,
                source: entry.original.source,
                destination: entry.reply.source,
                port: entry.reply.source_port,
            };
            if self.is_own(question.source) {
                continue;
            }
            if self.is_orphaned(question.source) || self.is_orphaned(question.destination) {
                cuts.push((index, Cut::Orphaned));
                continue;
            }
            let ends = [question.source, question.destination];
            if dirty
                .as_ref()
                .is_some_and(|dirty| !ends.iter().any(|end| dirty.touches(*end)))
            {
                continue;
            }
            if *known
                .entry(question)
                .or_insert_with(|| self.is_denied(&question))
            {
                cuts.push((index, Cut::Denied));
            }
        }
        cuts
    }

    fn is_own(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.local.addresses.contains(&address)
    }

    fn is_orphaned(&self, address: IpAddr) -> bool {
        let mut cidrs = self.local.pod_cidrs.iter();
        cidrs.any(|cidr| cidr.contains(&address))
            && !self.interfaces.contains_key(&address)
            && !self.is_own(address)
    }

    /// As FORWARD sees the first packet (after DNAT, before SNAT); INPUT where this node itself is asked. Neither end
    /// here: our rules say nothing of it.
    fn is_denied(&self, question: &Question) -> bool {
        let interface = |address| self.interfaces.get(&address).copied();
        let (input, output) = (interface(question.source), interface(question.destination));
        if input.is_none() && output.is_none() {
            return false;
        }
        let to_self = output.is_none() && self.is_own(question.destination);
        let v4 = question.source.is_ipv4();
        let [echo, echo6] = ECHO_REQUEST;
        let port = match question.protocol {
            number if number == Protocol::Icmp.number() => echo,
            number if number == Protocol::Icmpv6.number() => echo6,
            _ => question.port,
        };
        let packet = Packet {
            source: question.source,
            destination: question.destination,
            input: Some(input.unwrap_or(&self.outside).clone()),
            output: (!to_self).then(|| output.unwrap_or(&self.outside).clone()),
            protocol: question.protocol,
            source_port: 0,
            port,
            state: CtState::New,
            syn: true,
            reply: false,
            source_local: false,
            destination_local: to_self,
            mark: 0,
        };
        let tables = if v4 { &self.v4 } else { &self.v6 };
        tables.verdict(&packet) == WalkVerdict::Dropped
    }
}
