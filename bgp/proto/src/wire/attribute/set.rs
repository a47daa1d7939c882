//! The attributes of one UPDATE while it is decoded: what each said, and what is wrong with them (RFC 7606).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::Bytes;

use super::as_path::{self, AsSize};
use super::mp::{self, Announced, Reach, Withdrawn};
use super::table::{self, Fault, OPTIONAL, OnError, PARTIAL, Row, TRANSITIVE, code};
use super::{aggregator, communities, next_hop, opaque, origin, reflection, scalar};
use crate::wire::notification::update as subcode;
use crate::wire::open::AS_TRANS;
use crate::wire::reader::{Reader, Short};
use crate::wire::writer::EXTENDED_LENGTH;
use crate::wire::{
    AsPathSegment, Asn, AttributeError, LargeCommunity, Notification, Origin, PathAttributes,
    Treatment, UnknownAttribute, WireContext,
};

/// Everything the path attributes of an UPDATE said.
#[derive(Debug, Default)]
pub(in crate::wire) struct AttributeSet {
    /// Which type codes came, one bit each.
    seen: [u128; 2],
    origin: Option<Origin>,
    as_path: Option<Vec<AsPathSegment>>,
    as4_path: Option<Vec<AsPathSegment>>,
    /// NEXT_HOP, for the routes of the NLRI field.
    pub(in crate::wire) next_hop: Option<Ipv4Addr>,
    med: Option<u32>,
    local_pref: Option<u32>,
    atomic_aggregate: bool,
    aggregator: Option<(Asn, Ipv4Addr)>,
    as4_aggregator: Option<(Asn, Ipv4Addr)>,
    communities: Vec<u32>,
    originator_id: Option<Ipv4Addr>,
    cluster_list: Vec<Ipv4Addr>,
    extended_communities: Vec<u64>,
    large_communities: Vec<LargeCommunity>,
    only_to_customer: Option<Asn>,
    unknown: Vec<UnknownAttribute>,
    partial: u64,
    pub(in crate::wire) reach: Option<Reach<Announced>>,
    pub(in crate::wire) unreach: Option<Reach<Withdrawn>>,
    /// What was wrong and survived.
    pub(in crate::wire) errors: Vec<AttributeError>,
    /// The first thing that makes the routes withdrawn, as the NOTIFICATION it becomes when there are none.
    pub(in crate::wire) withdraw: Option<Notification>,
}

/// The next hop of some of the routes of an UPDATE.
#[derive(Clone, Copy, Debug)]
pub(in crate::wire) struct NextHops {
    pub(in crate::wire) next_hop: IpAddr,
    pub(in crate::wire) link_local: Option<Ipv6Addr>,
}

/// One attribute as it lies in the message.
struct Raw<'a> {
    flags: u8,
    code: u8,
    value: &'a [u8],
    /// With its flags, code and length: the data of a NOTIFICATION about it.
    whole: &'a [u8],
}

impl<'a> Raw<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, Short> {
        let from = reader.peek();
        let flags = reader.u8()?;
        let code = reader.u8()?;
        let len = if flags & EXTENDED_LENGTH == 0 {
            u16::from(reader.u8()?)
        } else {
            reader.u16()?
        };
        let value = reader.take(usize::from(len))?;
        let whole = from.get(..from.len() - reader.peek().len()).unwrap_or(from);
        Ok(Self {
            flags,
            code,
            value,
            whole,
        })
    }

    fn notification(&self, subcode: u8) -> Notification {
        Notification::update_error(subcode).with_data(Bytes::copy_from_slice(self.whole))
    }
}

impl AttributeSet {
    /// Reads the Path Attributes field.
    ///
    /// # Errors
    /// Only what calls for a session reset whatever else is in the UPDATE.
    pub(in crate::wire) fn decode(
        &mut self,
        bytes: &[u8],
        ctx: &WireContext,
    ) -> Result<(), Notification> {
        let mut reader = Reader::new(bytes);
        while !reader.is_empty() {
            let rest = reader.peek();
            match Raw::read(&mut reader) {
                Ok(raw) => self.take(&raw, ctx)?,
                Err(Short) => {
                    self.overrun(rest)?;
                    break;
                }
            }
        }
        Ok(())
    }

    /// That the attributes are there without which no route can be (RFC 7606 §3 d).
    pub(in crate::wire) fn require(&mut self, mandatory: &[u8]) {
        for code in mandatory {
            if !self.has_seen(*code) {
                let data = Bytes::copy_from_slice(&[*code]);
                self.withdraw(*code, "missing", || {
                    Notification::update_error(subcode::MISSING_WELL_KNOWN).with_data(data)
                });
            }
        }
    }

    /// That packets can be sent to a next hop.
    pub(in crate::wire) fn check_next_hop(&mut self, code: u8, address: IpAddr) {
        if let Err(fault) = next_hop::check(address) {
            self.withdraw(code, fault.reason, || {
                Notification::update_error(fault.subcode)
            });
        }
    }

    /// How many attributes came, known or not.
    pub(in crate::wire) fn count(&self) -> u32 {
        self.seen.iter().map(|bits| bits.count_ones()).sum()
    }

    /// The attributes of routes with this next hop; `None` if a mandatory one is not there.
    pub(in crate::wire) fn into_attributes(self, hops: NextHops) -> Option<PathAttributes> {
        let as_trans = Asn(u32::from(AS_TRANS));
        // Whoever aggregated spoke two octets and did not keep AS4_PATH up to date (RFC 6793 §4.2.3).
        let outdated = self.as4_aggregator.is_some()
            && self.aggregator.is_some_and(|(asn, _)| asn != as_trans);
        let as_path = match (self.as_path?, self.as4_path) {
            (as_path, Some(as4_path)) if !outdated => as_path::merge(as_path, as4_path),
            (as_path, _) => as_path,
        };
        let aggregator = match self.aggregator {
            Some((asn, _)) if asn == as_trans => self.as4_aggregator.or(self.aggregator),
            aggregator => aggregator,
        };
        Some(PathAttributes {
            origin: self.origin?,
            as_path,
            next_hop: hops.next_hop,
            link_local_next_hop: hops.link_local,
            med: self.med,
            local_pref: self.local_pref,
            atomic_aggregate: self.atomic_aggregate,
            aggregator,
            communities: self.communities,
            originator_id: self.originator_id,
            cluster_list: self.cluster_list,
            extended_communities: self.extended_communities,
            large_communities: self.large_communities,
            only_to_customer: self.only_to_customer,
            unknown: self.unknown,
            partial: self.partial,
        })
    }

    fn take(&mut self, raw: &Raw<'_>, ctx: &WireContext) -> Result<(), Notification> {
        if !self.mark_seen(raw.code) {
            return self.again(raw);
        }
        let Some(row) = table::find(raw.code) else {
            return self.take_unknown(raw);
        };
        if !row.taken_from(ctx) {
            self.discard(raw.code, "not taken from this peer");
            return Ok(());
        }
        if raw.flags & (OPTIONAL | TRANSITIVE) != row.flags {
            // Wrong flags make MP_(UN)REACH_NLRI incorrect as a whole (RFC 7606 §5.3): its prefixes are not believed.
            if row.on_error == OnError::Reset {
                return Err(raw.notification(subcode::FLAGS));
            }
            self.withdraw(raw.code, "wrong flags", || raw.notification(subcode::FLAGS));
            return Ok(());
        }
        let outcome = if row.length.allows(raw.value.len(), ctx) {
            self.read_value(raw, ctx)
        } else {
            Err(Fault::LENGTH)
        };
        match outcome {
            Ok(()) if raw.flags & PARTIAL != 0 => self.partial |= row.partial_bit(),
            Ok(()) => {}
            Err(fault) => return self.fault(row, raw, fault),
        }
        Ok(())
    }

    fn read_value(&mut self, raw: &Raw<'_>, ctx: &WireContext) -> Result<(), Fault> {
        let value = raw.value;
        match raw.code {
            code::ORIGIN => self.origin = Some(origin::decode(value)?),
            code::AS_PATH => {
                let path = as_path::decode(value, AsSize::of(ctx))?;
                if !ctx.internal {
                    as_path::check_external(&path)?;
                }
                self.as_path = Some(path);
            }
            code::AS4_PATH => self.as4_path = Some(as_path::decode_as4(value)?),
            code::NEXT_HOP => self.next_hop = Some(next_hop::decode(value)?),
            code::MED => self.med = Some(scalar::decode(value)?),
            code::LOCAL_PREF => self.local_pref = Some(scalar::decode(value)?),
            code::ATOMIC_AGGREGATE => self.atomic_aggregate = true,
            code::AGGREGATOR => self.aggregator = Some(aggregator::decode(value)?),
            code::AS4_AGGREGATOR => self.as4_aggregator = Some(aggregator::decode(value)?),
            code::COMMUNITIES => self.communities = communities::decode(value)?,
            code::ORIGINATOR_ID => self.originator_id = Some(reflection::decode_originator(value)?),
            code::CLUSTER_LIST => self.cluster_list = reflection::decode_clusters(value)?,
            code::EXTENDED_COMMUNITIES => {
                self.extended_communities = communities::decode_extended(value)?;
            }
            code::LARGE_COMMUNITIES => self.large_communities = communities::decode_large(value)?,
            code::ONLY_TO_CUSTOMER => self.only_to_customer = Some(Asn(scalar::decode(value)?)),
            code::MP_REACH => {
                self.reach = Some(mp::decode_reach(value, ctx)?);
                if self.reach == Some(Reach::Ignored) {
                    self.discard(raw.code, "family not spoken on this session");
                }
            }
            code::MP_UNREACH => {
                self.unreach = Some(mp::decode_unreach(value, ctx)?);
                if self.unreach == Some(Reach::Ignored) {
                    self.discard(raw.code, "family not spoken on this session");
                }
            }
            _ => self.unknown.push(opaque::keep(raw.flags, raw.code, value)),
        }
        Ok(())
    }

    fn take_unknown(&mut self, raw: &Raw<'_>) -> Result<(), Notification> {
        if raw.flags & OPTIONAL == 0 {
            return Err(raw.notification(subcode::UNRECOGNIZED_WELL_KNOWN));
        }
        self.unknown
            .extend(opaque::unknown(raw.flags, raw.code, raw.value));
        Ok(())
    }

    /// An attribute that came before: the first one counts (RFC 7606 §3 g).
    fn again(&mut self, raw: &Raw<'_>) -> Result<(), Notification> {
        if matches!(raw.code, code::MP_REACH | code::MP_UNREACH) {
            return Err(Notification::update_error(subcode::MALFORMED_LIST));
        }
        self.discard(raw.code, "appears more than once");
        Ok(())
    }

    /// An attribute that overruns the field (RFC 7606 §4). If it holds prefixes, nobody knows which.
    fn overrun(&mut self, rest: &[u8]) -> Result<(), Notification> {
        let code = rest.get(1).copied().unwrap_or_default();
        let notification =
            || Notification::update_error(subcode::LENGTH).with_data(Bytes::copy_from_slice(rest));
        if matches!(code, code::MP_REACH | code::MP_UNREACH) {
            return Err(notification());
        }
        self.mark_seen(code);
        self.withdraw(code, "overruns the attributes", notification);
        Ok(())
    }

    fn fault(&mut self, row: &Row, raw: &Raw<'_>, fault: Fault) -> Result<(), Notification> {
        match row.on_error {
            OnError::Discard => self.discard(row.code, fault.reason),
            OnError::Withdraw => {
                self.withdraw(row.code, fault.reason, || raw.notification(fault.subcode));
            }
            OnError::Reset => return Err(raw.notification(fault.subcode)),
        }
        Ok(())
    }

    fn discard(&mut self, code: u8, reason: &'static str) {
        self.errors.push(AttributeError {
            code,
            treatment: Treatment::Discard,
            reason,
        });
    }

    fn withdraw(
        &mut self,
        code: u8,
        reason: &'static str,
        notification: impl FnOnce() -> Notification,
    ) {
        self.errors.push(AttributeError {
            code,
            treatment: Treatment::TreatAsWithdraw,
            reason,
        });
        self.withdraw.get_or_insert_with(notification);
    }

    /// Notes that a type code came; false if it had come before.
    fn mark_seen(&mut self, code: u8) -> bool {
        let fresh = !self.has_seen(code);
        if let Some(bits) = self.seen.get_mut(usize::from(code / 128)) {
            *bits |= 1 << (code % 128);
        }
        fresh
    }

    fn has_seen(&self, code: u8) -> bool {
        let bits = self
            .seen
            .get(usize::from(code / 128))
            .copied()
            .unwrap_or_default();
        bits & (1 << (code % 128)) != 0
    }
}
