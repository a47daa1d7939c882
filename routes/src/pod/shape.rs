//! Limits of a pod's traffic: token buckets on the host end (to the pod) and on a device that all it sends passes (from it).

use nix::errno::Errno;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoKind, LinkAttribute, LinkInfo, LinkMessage,
};

use super::{PodLink, Steps};
use crate::batch::{Attributes, attribute, nested, word};
use crate::conn::Conn;
use crate::links::{self, LINK_PREFIX, SHAPER_PREFIX};
use crate::{Error, batch};

/// What a packet waits at most, as with the reference bandwidth plugin.
const LATENCY_MILLIS: u64 = 25;
/// Bursts from here on (2³¹-1 bits) are what runtimes write when nobody asked for one.
const UNASKED_BURST: u64 = i32::MAX as u64;
/// An unasked burst is what passes in this time, or one segment as the kernel cuts them (64 KiB).
const DEFAULT_BURST_MILLIS: u64 = 100;
const SEGMENT_BYTES: u64 = 64 * 1024;
/// Link-layer and VLAN header: the kernel drops packets that are larger than the bucket.
const HEADER_BYTES: u64 = 22;
/// The MTU that a bucket suits at least, so that a path's jumbo frames pass later on.
const LEAST_MTU: u32 = 9000;
/// The kernel's own MTU of a new link.
const DEFAULT_MTU: u32 = 1500;

const RTM_NEWQDISC: u16 = 36;
const RTM_GETQDISC: u16 = 38;
const RTM_NEWTFILTER: u16 = 44;
const RTM_GETTFILTER: u16 = 46;
const NLM_F_ECHO: u16 = 0x8;
const NLM_F_EXCL_CREATE: u16 = 0x200 | 0x400;
const TC_H_ROOT: u32 = u32::MAX;
const TC_H_CLSACT: u32 = 0xffff_fff1;
const TC_H_CLSACT_INGRESS: u32 = 0xffff_fff2;
const CLSACT_HANDLE: u32 = 0xffff_0000;
const TBF_HANDLE: u32 = 0x0001_0000;
const FILTER_PRIORITY: u32 = 1;
const ETH_P_ALL: u16 = 3;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;
const TCA_U32_SEL: u16 = 5;
const TCA_U32_ACT: u16 = 7;
const TCA_ACT_KIND: u16 = 1;
const TCA_ACT_OPTIONS: u16 = 2;
const TCA_MIRRED_PARMS: u16 = 2;
const TC_ACT_STOLEN: u32 = 4;
const TCA_EGRESS_REDIR: u32 = 1;
/// Bytes of struct tcmsg.
const TCMSG: usize = 20;

/// The limit of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shaping {
    /// Bits a second, link-layer headers included.
    pub rate: u64,
    /// Bits that may pass at once; 0, or 2³¹-1 and more as runtimes write by default, leaves it to us.
    pub burst: u64,
}

impl Shaping {
    fn rate_bytes(self) -> u64 {
        (self.rate / 8).max(1)
    }

    fn burst_bytes(self, mtu: u32) -> u32 {
        let asked = if self.burst == 0 || self.burst >= UNASKED_BURST {
            let share = self.rate_bytes().saturating_mul(DEFAULT_BURST_MILLIS) / 1000;
            share.max(SEGMENT_BYTES)
        } else {
            self.burst / 8
        };
        let least = u64::from(mtu.max(LEAST_MTU)) + HEADER_BYTES;
        u32::try_from(asked.max(least)).unwrap_or(u32::MAX)
    }

    fn limit_bytes(self, mtu: u32) -> u32 {
        let waiting = self.rate_bytes().saturating_mul(LATENCY_MILLIS) / 1000;
        let limit = waiting.saturating_add(self.burst_bytes(mtu).into());
        u32::try_from(limit).unwrap_or(u32::MAX)
    }
}

/// The device that shapes what a pod sends, by the host end's name.
pub(super) fn shaper(host_interface: &str) -> String {
    let hash = host_interface.strip_prefix(LINK_PREFIX);
    format!("{SHAPER_PREFIX}{}", hash.unwrap_or(host_interface))
}

/// Puts a link's limits in force; the host end is still down.
pub(super) fn apply(host: &mut Conn, link: &PodLink, index: u32) -> Result<(), Error> {
    let mtu = link.mtu.unwrap_or(DEFAULT_MTU);
    let name = &link.host_interface;
    let mut steps = Steps::default();
    if let Some(shaping) = link.egress {
        let device = make_device(host, &shaper(name), mtu)?;
        steps.add(without_addresses(device), 0, || {
            "the shaper's settings".into()
        });
        add_bucket(&mut steps, device, shaping, mtu, "the pod's sending");
        steps.add(links::up(device), 0, || "setting the shaper up".into());
        steps.add_with(
            (RTM_NEWQDISC, NLM_F_EXCL_CREATE),
            || format!("the classifier of {name}"),
            |out| {
                header(out, index, CLSACT_HANDLE, TC_H_CLSACT, 0);
                attribute(out, TCA_KIND, b"clsact\0");
            },
        );
        steps.add_with(
            (RTM_NEWTFILTER, NLM_F_EXCL_CREATE),
            || format!("leading what {name} receives to its shaper"),
            |out| redirect(out, index, device),
        );
    }
    if let Some(shaping) = link.ingress {
        add_bucket(&mut steps, index, shaping, mtu, "the pod's receiving");
    }
    steps.run(host)
}

/// Compares a link's limits with what is in force.
pub(super) fn check(
    host: &mut Conn,
    link: &PodLink,
    index: u32,
    wrong: &mut Vec<String>,
) -> Result<(), Error> {
    let mtu = link.mtu.unwrap_or(DEFAULT_MTU);
    // One that was made when the MTU was another may have another, too.
    let suits = |found: Option<(u64, u32)>, shaping: Shaping| {
        let limits = [mtu, DEFAULT_MTU].map(|mtu| shaping.limit_bytes(mtu));
        found.is_some_and(|(rate, limit)| rate == shaping.rate_bytes() && limits.contains(&limit))
    };
    if let Some(shaping) = link.ingress
        && !suits(bucket(host, index)?, shaping)
    {
        wrong.push("the limit of what the pod receives is not in force".to_owned());
    }
    let Some(shaping) = link.egress else {
        return Ok(());
    };
    let name = shaper(&link.host_interface);
    let Some(device) = links::find(host, &name)?.filter(|device| device.up) else {
        wrong.push(format!("the host has no interface {name}, or it is down"));
        return Ok(());
    };
    if !suits(bucket(host, device.index)?, shaping) {
        wrong.push("the limit of what the pod sends is not in force".to_owned());
    }
    if !redirects(host, index)?.contains(&device.index) {
        wrong.push(format!("what the pod sends does not pass {name}"));
    }
    Ok(())
}

/// Makes the device anew: one of that name is what a crashed run left.
fn make_device(host: &mut Conn, name: &str, mtu: u32) -> Result<u32, Error> {
    links::delete_one(host, name)?;
    let mut device = links::named(name);
    device.attributes.push(LinkAttribute::Mtu(mtu));
    device
        .attributes
        .push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Ifb)]));
    let mut steps = Steps::default();
    let message = RouteNetlinkMessage::NewLink(device);
    steps.add(message, NLM_F_EXCL_CREATE, || {
        format!("making interface {name}")
    });
    steps.run(host)?;
    let made = links::find(host, name)?.ok_or_else(|| Error::NoInterface(name.to_owned()))?;
    Ok(made.index)
}

/// A shaper has no IPv6 address of its own.
fn without_addresses(index: u32) -> RouteNetlinkMessage {
    let mut link = LinkMessage::default();
    link.header.index = index;
    let mode = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
    link.attributes
        .push(LinkAttribute::AfSpecUnspec(vec![mode]));
    RouteNetlinkMessage::SetLink(link)
}

fn add_bucket(steps: &mut Steps, index: u32, shaping: Shaping, mtu: u32, what: &str) {
    let what = format!("the limit of {what}");
    steps.add_with(
        (RTM_NEWQDISC, NLM_F_EXCL_CREATE),
        || what,
        |out| {
            header(out, index, TBF_HANDLE, TC_H_ROOT, 0);
            attribute(out, TCA_KIND, b"tbf\0");
            nested(out, TCA_OPTIONS, |out| {
                attribute(out, TCA_TBF_PARMS, &parameters(shaping, mtu));
                attribute(out, TCA_TBF_RATE64, &shaping.rate_bytes().to_ne_bytes());
                attribute(out, TCA_TBF_BURST, &shaping.burst_bytes(mtu).to_ne_bytes());
            });
        },
    );
}

/// Struct tc_tbf_qopt: rate and peak rate (struct tc_ratespec, 12 bytes each), limit, buffer, mtu. The burst goes
/// in bytes by an attribute of its own: as a time, here, it would not fit for slow rates.
fn parameters(shaping: Shaping, mtu: u32) -> [u8; 36] {
    const LINK_LAYER_ETHERNET: u8 = 1;
    let mut bytes = [0; 36];
    let rate = u32::try_from(shaping.rate_bytes()).unwrap_or(u32::MAX);
    let mut write = |at: usize, value: &[u8]| {
        if let Some(field) = bytes.get_mut(at..at + value.len()) {
            field.copy_from_slice(value);
        }
    };
    write(1, &[LINK_LAYER_ETHERNET]);
    write(8, &rate.to_ne_bytes());
    write(24, &shaping.limit_bytes(mtu).to_ne_bytes());
    bytes
}

/// A filter that takes every packet, of any protocol, and sends it out by the device.
fn redirect(out: &mut Vec<u8>, index: u32, device: u32) {
    const TERMINAL_ONE_KEY: [u8; 4] = [1, 0, 1, 0];
    let info = FILTER_PRIORITY << 16 | u32::from(ETH_P_ALL.to_be());
    header(out, index, 0, TC_H_CLSACT_INGRESS, info);
    attribute(out, TCA_KIND, b"u32\0");
    nested(out, TCA_OPTIONS, |out| {
        // Struct tc_u32_sel and one key (16 bytes each) whose mask matches all.
        let mut selector = [0; 32];
        if let Some(start) = selector.first_chunk_mut() {
            *start = TERMINAL_ONE_KEY;
        }
        attribute(out, TCA_U32_SEL, &selector);
        nested(out, TCA_U32_ACT, |out| {
            nested(out, 1, |out| {
                attribute(out, TCA_ACT_KIND, b"mirred\0");
                nested(out, TCA_ACT_OPTIONS, |out| {
                    // Struct tc_mirred: index, capabilities, action, two counts; then what to do and where.
                    let words = [0, 0, TC_ACT_STOLEN, 0, 0, TCA_EGRESS_REDIR, device];
                    let words = words.map(u32::to_ne_bytes).concat();
                    attribute(out, TCA_MIRRED_PARMS, &words);
                });
            });
        });
    });
}

/// Struct tcmsg.
fn header(out: &mut Vec<u8>, index: u32, handle: u32, parent: u32, info: u32) {
    out.extend_from_slice(&[0; 4]);
    for field in [index, handle, parent, info] {
        out.extend_from_slice(&field.to_ne_bytes());
    }
}

/// Rate and limit, in bytes, of an interface's token bucket.
fn bucket(host: &mut Conn, index: u32) -> Result<Option<(u64, u32)>, Error> {
    let mut batch = batch::Batch::default();
    batch.push_with(RTM_GETQDISC, NLM_F_ECHO, |out| {
        header(out, index, 0, TC_H_ROOT, 0);
    });
    let mut found = None;
    let refused = host.converse(&mut batch, |_, header, payload| {
        if header.message_type == RTM_NEWQDISC {
            found = read_bucket(payload);
        }
    })?;
    match refused.into_values().next() {
        None => Ok(found),
        Some(refusal) if refusal.is(Errno::ENOENT) || refusal.is(Errno::ENODEV) => Ok(None),
        Some(refusal) => Err(refusal.into_error("looking for a limit")),
    }
}

fn read_bucket(payload: &[u8]) -> Option<(u64, u32)> {
    let attributes = payload.get(TCMSG..)?;
    find(attributes, TCA_KIND).filter(|kind| *kind == b"tbf\0")?;
    let options = find(attributes, TCA_OPTIONS)?;
    let parameters = find(options, TCA_TBF_PARMS)?;
    let exact = find(options, TCA_TBF_RATE64).and_then(|rate| rate.try_into().ok());
    let rate = match exact {
        Some(bytes) => u64::from_ne_bytes(bytes),
        None => word(parameters, 8)?.into(),
    };
    Some((rate, word(parameters, 24)?))
}

/// Where an interface's filter sends what it receives.
fn redirects(host: &mut Conn, index: u32) -> Result<Vec<u32>, Error> {
    let mut body = Vec::new();
    header(&mut body, index, 0, TC_H_CLSACT_INGRESS, 0);
    host.dump_raw(
        RTM_GETTFILTER,
        &body,
        "listing filters",
        |header, payload| {
            let filter = (header.message_type == RTM_NEWTFILTER).then_some(payload)?;
            read_redirect(filter)
        },
    )
}

fn read_redirect(payload: &[u8]) -> Option<u32> {
    let options = find(payload.get(TCMSG..)?, TCA_OPTIONS)?;
    let action = find(find(options, TCA_U32_ACT)?, 1)?;
    find(action, TCA_ACT_KIND).filter(|kind| *kind == b"mirred\0")?;
    let parameters = find(find(action, TCA_ACT_OPTIONS)?, TCA_MIRRED_PARMS)?;
    word(parameters, 24)
}

fn find(attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    let mut all = Attributes(attributes);
    all.find(|(kind, _)| *kind == wanted)
        .map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_nobody_asked_for_is_a_tenth_of_a_second_and_at_least_a_segment() {
        let bytes = |rate, burst| Shaping { rate, burst }.burst_bytes(1500);
        for unasked in [0, i32::MAX as u64, u32::MAX.into(), u64::MAX] {
            assert_eq!(bytes(8_000_000, unasked), 100_000);
            assert_eq!(bytes(8_000, unasked), 65_536);
        }
        assert_eq!(bytes(8_000_000, 800_000), 100_000);
        assert_eq!(bytes(8_000_000, 8), 9022, "a whole packet always fits");
        let jumbo = Shaping { rate: 8, burst: 8 }.burst_bytes(65_535);
        assert_eq!(jumbo, 65_557);
        assert_eq!(bytes(u64::MAX, 0), u32::MAX);
    }

    #[test]
    fn the_queue_holds_the_burst_and_25_milliseconds() {
        let shaping = Shaping {
            rate: 8_000_000,
            burst: 800_000,
        };
        assert_eq!(shaping.limit_bytes(1500), 125_000);
        let huge = Shaping {
            rate: u64::MAX,
            burst: 800_000,
        };
        assert_eq!(huge.limit_bytes(1500), u32::MAX);
    }

    #[test]
    fn a_shaper_is_called_as_its_host_end() {
        assert_eq!(shaper("ptl0123456789a"), "ptb0123456789a");
    }
}
