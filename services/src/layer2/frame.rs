//! The frames by which addresses are asked for and answered on a link: ARP (RFC 826, RFC 5227) and neighbour discovery
//! (RFC 4861). Octets in, octets out; who answers is decided elsewhere.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An interface's hardware address.
pub type Mac = [u8; 6];

const BROADCAST: Mac = [0xff; 6];
const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;
/// Ethernet, IPv4, and the lengths of their addresses (RFC 826).
const ARP_HEAD: [u8; 6] = [0, 1, 8, 0, 6, 4];
const REQUEST: u16 = 1;
const REPLY: u16 = 2;
const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// Whoever forwards a packet lowers it, so that neighbours alone are heard (RFC 4861 §7.1).
const HOP_LIMIT: u8 = 255;
/// The flags of an advertisement (RFC 4861 §4.4): it was asked for; it replaces what is known.
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;
const SOURCE_LINK_LAYER: u8 = 1;
const TARGET_LINK_LAYER: u8 = 2;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// What a frame means for whoever answers for addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Someone looks for the holder of an address, or asks whether it has one.
    Question(Question),
    /// Someone says that an address is at this hardware address.
    Claim {
        /// The address.
        address: IpAddr,
        /// Where it is said to be.
        mac: Mac,
    },
}

/// Who has this address?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// The address.
    pub address: IpAddr,
    /// Where the answer goes.
    pub asker: Mac,
    /// Who asks; unspecified, if it only wants to know whether the address is free (RFC 5227 §2.1.1, RFC 4862 §5.4).
    pub from: IpAddr,
}

/// What a frame means; nothing, if it is none of the kind or fails a check of RFC 826 or RFC 4861 §7.1.
pub fn read(frame: &[u8]) -> Option<Heard> {
    let mut reader = Reader(frame);
    let (_, source) = (reader.take::<6>()?, reader.take::<6>()?);
    match u16::from_be_bytes(reader.take()?) {
        ARP => read_arp(reader),
        IPV6 => read_ipv6(reader, source),
        _ => None,
    }
}

fn read_arp(mut reader: Reader<'_>) -> Option<Heard> {
    if reader.take::<6>()? != ARP_HEAD {
        return None;
    }
    let operation = u16::from_be_bytes(reader.take()?);
    let (asker, from) = (reader.take::<6>()?, Ipv4Addr::from(reader.take::<4>()?));
    let (_, address) = (reader.take::<6>()?, Ipv4Addr::from(reader.take::<4>()?));
    match operation {
        // A request for one's own address, and any reply, says where it is.
        REQUEST if from != address => Some(Heard::Question(Question {
            address: address.into(),
            asker,
            from: from.into(),
        })),
        REQUEST | REPLY if !from.is_unspecified() => Some(Heard::Claim {
            address: from.into(),
            mac: asker,
        }),
        _ => None,
    }
}

fn read_ipv6(mut reader: Reader<'_>, source_mac: Mac) -> Option<Heard> {
    reader.take::<4>()?;
    let length = usize::from(u16::from_be_bytes(reader.take()?));
    let [next, hops] = reader.take()?;
    let (from, to) = (reader.take::<16>()?, reader.take::<16>()?);
    let (from, to) = (Ipv6Addr::from(from), Ipv6Addr::from(to));
    let message = reader.0.get(..length)?;
    if next != ICMPV6 || hops != HOP_LIMIT || checksum(from, to, message) != 0 {
        return None;
    }
    let mut reader = Reader(message);
    let [kind, code] = reader.take()?;
    let (_, _) = (reader.take::<2>()?, reader.take::<4>()?);
    let address = Ipv6Addr::from(reader.take::<16>()?);
    if code != 0 || address.is_multicast() {
        return None;
    }
    match kind {
        SOLICITATION => {
            let said = link_layer(reader.0, SOURCE_LINK_LAYER)?;
            if from.is_unspecified() && (said.is_some() || to != solicited_node(address)) {
                return None;
            }
            Some(Heard::Question(Question {
                address: address.into(),
                asker: said.unwrap_or(source_mac),
                from: from.into(),
            }))
        }
        ADVERTISEMENT => Some(Heard::Claim {
            address: address.into(),
            mac: link_layer(reader.0, TARGET_LINK_LAYER)?.unwrap_or(source_mac),
        }),
        _ => None,
    }
}

/// The hardware address of that option, if there is one; nothing at all, if an option has no length (RFC 4861 §4.6).
fn link_layer(mut options: &[u8], wanted: u8) -> Option<Option<Mac>> {
    let mut found = None;
    while let [kind, units, rest @ ..] = options {
        let length = usize::from(*units).checked_mul(8)?.checked_sub(2)?;
        if *kind == wanted {
            found = rest.get(..6).and_then(|mac| mac.try_into().ok());
        }
        options = rest.get(length..)?;
    }
    Some(found)
}

/// What says to the asker that the address is at `mac`.
pub fn answer(question: &Question, mac: Mac) -> Option<Vec<u8>> {
    match (question.address, question.from) {
        (IpAddr::V4(address), IpAddr::V4(from)) => {
            let target = (question.asker, from);
            Some(arp(REPLY, question.asker, (mac, address), target))
        }
        // Who has no address yet hears what is for all (RFC 4861 §7.2.4).
        (IpAddr::V6(address), IpAddr::V6(from)) if from.is_unspecified() => Some(advertisement(
            address,
            mac,
            (multicast(ALL_NODES), ALL_NODES),
            OVERRIDE,
        )),
        (IpAddr::V6(address), IpAddr::V6(from)) => {
            let to = (question.asker, from);
            Some(advertisement(address, mac, to, SOLICITED | OVERRIDE))
        }
        _ => None,
    }
}

/// What says to everybody that the address is at `mac` from now on: by ARP as request and as reply, for each of both there is
/// who minds no other (RFC 5944 §4.6); by neighbour discovery to all nodes (RFC 4861 §7.2.6).
pub fn announcement(address: IpAddr, mac: Mac) -> Vec<Vec<u8>> {
    match address {
        IpAddr::V4(address) => {
            let of = (mac, address);
            let request = arp(REQUEST, BROADCAST, of, ([0; 6], address));
            vec![request, arp(REPLY, BROADCAST, of, (BROADCAST, address))]
        }
        IpAddr::V6(address) => {
            let to = (multicast(ALL_NODES), ALL_NODES);
            vec![advertisement(address, mac, to, OVERRIDE)]
        }
    }
}

/// What asks everybody on the link who has an address, and changes nothing that anybody knows: by ARP as one who has no address
/// itself (RFC 5227 §2.1.1); by neighbour discovery from an address of the asker's, since who has none is answered to all
/// (RFC 4861 §7.2.4). Nothing, if that is of the other family.
pub fn question(question: &Question) -> Option<Vec<u8>> {
    let Question {
        address,
        asker,
        from,
    } = *question;
    match (address, from) {
        (IpAddr::V4(address), IpAddr::V4(from)) => {
            Some(arp(REQUEST, BROADCAST, (asker, from), ([0; 6], address)))
        }
        (IpAddr::V6(address), IpAddr::V6(from)) => {
            let group = solicited_node(address);
            let said = (address, [SOURCE_LINK_LAYER, 1], asker);
            let to = (multicast(group), group);
            Some(discovery([SOLICITATION, 0], said, (asker, from), to))
        }
        _ => None,
    }
}

/// The group by which an address's holder is asked for (RFC 4291 §2.7.1): a switch that looks on brings questions only to those
/// who are in it.
pub fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    let last = u16::from_be_bytes([b, c]);
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), last)
}

/// RFC 2464 §7.
fn multicast(group: Ipv6Addr) -> Mac {
    let [.., a, b, c, d] = group.octets();
    [0x33, 0x33, a, b, c, d]
}

fn arp(operation: u16, to: Mac, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Vec<u8> {
    let mut frame = Vec::with_capacity(42);
    frame.extend(to);
    frame.extend(sender.0);
    frame.extend(ARP.to_be_bytes());
    frame.extend(ARP_HEAD);
    frame.extend(operation.to_be_bytes());
    for (mac, address) in [sender, target] {
        frame.extend(mac);
        frame.extend(address.octets());
    }
    frame
}

fn advertisement(address: Ipv6Addr, mac: Mac, to: (Mac, Ipv6Addr), flags: u8) -> Vec<u8> {
    let said = (address, [TARGET_LINK_LAYER, 1], mac);
    discovery([ADVERTISEMENT, flags], said, (mac, address), to)
}

/// A message of neighbour discovery with its kind and flags: of an address, and with one option.
fn discovery(
    [kind, flags]: [u8; 2],
    (address, option, of_option): (Ipv6Addr, [u8; 2], Mac),
    (mac, from): (Mac, Ipv6Addr),
    to: (Mac, Ipv6Addr),
) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, flags, 0, 0, 0];
    message.extend(address.octets());
    message.extend(option);
    message.extend(of_option);
    let sum = checksum(from, to.1, &message).to_be_bytes();
    for (octet, of_sum) in message.iter_mut().skip(2).zip(sum) {
        *octet = of_sum;
    }
    let mut frame = Vec::with_capacity(86);
    frame.extend(to.0);
    frame.extend(mac);
    frame.extend(IPV6.to_be_bytes());
    frame.extend([0x60, 0, 0, 0, 0, 32, ICMPV6, HOP_LIMIT]);
    frame.extend(from.octets());
    frame.extend(to.1.octets());
    frame.extend(message);
    frame
}

/// RFC 4443 §2.3; 0 over a message whose own checksum is right.
fn checksum(from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> u16 {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let head = [from.octets(), to.octets()].concat();
    let tail = [length.to_be_bytes(), [0, 0, 0, ICMPV6]].concat();
    let mut sum = 0_u64;
    for part in [head.as_slice(), &tail, message] {
        for pair in part.chunks(2) {
            let (high, low) = (pair.first().copied(), pair.get(1).copied());
            let word = [high.unwrap_or_default(), low.unwrap_or_default()];
            sum += u64::from(u16::from_be_bytes(word));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}

/// Takes octets off the front.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }
}

#[cfg(test)]
mod tests;
