//! How the session with a BGPPeer runs: times, distance, password, BFD, limits.

use std::time::Duration;

use super::target::PeerTarget;
use super::{DEFAULT_HOLD_TIME, Wrong, wrong};
use crate::GoDuration;
use crate::crd::{self, BgpPeerSpec, Password};
use crate::metadata::is_dns_subdomain;

/// How far away the peer may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hops {
    /// As usual: an external peer on the same link, an internal one anywhere.
    #[default]
    Usual,
    /// `multihop`: an external peer at most so far away.
    Multihop(u8),
    /// `ttlSecurity` (GTSM, RFC 5082): packets from further away are dropped; 1 to 254.
    TtlSecurity(u8),
}

/// A key of a Secret in the agent's namespace (`portolan` in the directory mode).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PasswordRef {
    /// The Secret's name.
    pub secret: String,
    /// The key in it.
    pub key: String,
}

/// Bidirectional forwarding detection, defaults applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bfd {
    /// `minTx` (300 ms; 10 ms to 60 s).
    pub min_tx: Duration,
    /// `minRx` (300 ms; 10 ms to 60 s).
    pub min_rx: Duration,
    /// `multiplier` (3), never 0.
    pub multiplier: u8,
    /// `strict` (false): the session waits for BFD to be up.
    pub strict: bool,
    /// The peer may be more than one hop away: RFC 5883 (port 4784) instead of RFC 5881 (port 3784).
    pub multihop: bool,
}

/// How many prefixes of each address family the peer may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxPrefixes {
    /// `limit` (100,000), never 0.
    pub limit: u32,
    /// `warnAt` as a number of prefixes, at least 1 and at most `limit`.
    pub warn_at: Option<u32>,
    /// `restartAfter`: whole seconds, at least one; without it a session that was ended stays down until its BGPPeer changes.
    pub restart_after: Option<Duration>,
}

impl Default for MaxPrefixes {
    fn default() -> Self {
        Self {
            limit: 100_000,
            warn_at: None,
            restart_after: None,
        }
    }
}

const BFD_INTERVAL: Duration = Duration::from_millis(300);
const BFD_SHORTEST: Duration = Duration::from_millis(10);
const BFD_LONGEST: Duration = Duration::from_secs(60);
const BFD_MULTIPLIER: u8 = 3;
const LONGEST_DELAY: Duration = Duration::from_secs(600);

pub(super) fn hops(spec: &BgpPeerSpec, target: &PeerTarget) -> Result<Hops, Wrong> {
    let on_link = matches!(
        target,
        PeerTarget::LinkLocal { .. } | PeerTarget::Interface(_)
    );
    let (field, hops) = match (spec.ttl_security, spec.multihop) {
        (None, None) => return Ok(Hops::Usual),
        (Some(_), Some(_)) => {
            return wrong(
                "ttlSecurity",
                "and multihop exclude each other: ttlSecurity says how far away the peer may be too",
            );
        }
        (Some(0 | 255), None) => return wrong("ttlSecurity", "is not from 1 to 254"),
        (None, Some(0)) => return wrong("multihop", "is not from 1 to 255"),
        (Some(hops), None) => ("ttlSecurity", Hops::TtlSecurity(hops)),
        (None, Some(hops)) => ("multihop", Hops::Multihop(hops)),
    };
    if on_link && hops.is_far() {
        return wrong(
            field,
            "is more than 1, but a link-local peer is one hop away; leave it out",
        );
    }
    Ok(hops)
}

impl Hops {
    /// Whether the peer may be more than one hop away by what is written.
    #[must_use]
    pub fn is_far(self) -> bool {
        matches!(self, Self::Multihop(hops) | Self::TtlSecurity(hops) if hops > 1)
    }
}

/// Hold time 0 (none) or 3 s to 65535 s, in whole seconds (RFC 4271 §4.2).
pub(super) fn timers(spec: &BgpPeerSpec) -> Result<(Duration, Option<Duration>), Wrong> {
    let hold = spec
        .hold_time
        .map_or(DEFAULT_HOLD_TIME, |GoDuration(time)| time);
    if hold.subsec_nanos() != 0 || !matches!(hold.as_secs(), 0 | 3..=65_535) {
        return wrong("holdTime", "is not 0s or whole seconds from 3s to 65535s");
    }
    let keepalive = spec.keepalive_time.map(|GoDuration(time)| time);
    match keepalive {
        Some(time) if time.subsec_nanos() != 0 => wrong("keepaliveTime", "is not whole seconds"),
        Some(time) if !hold.is_zero() && (time.is_zero() || time >= hold) => {
            wrong("keepaliveTime", "is not between 1s and the hold time")
        }
        _ => Ok((hold, keepalive)),
    }
}

pub(super) fn delay_open(time: Option<GoDuration>) -> Result<Option<Duration>, Wrong> {
    match time.map(|GoDuration(time)| time) {
        Some(time) if time > LONGEST_DELAY => wrong("delayOpen", "is more than 10m"),
        time => Ok(time.filter(|time| !time.is_zero())),
    }
}

pub(super) fn password(password: Password) -> Result<PasswordRef, Wrong> {
    let reference = password.secret_key_ref;
    if !is_dns_subdomain(&reference.name) {
        return wrong(
            "password.secretKeyRef.name",
            format!("{:?} is no Secret's name", reference.name),
        );
    }
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let key = &reference.key;
    if !(1..=253).contains(&key.len()) || !key.bytes().all(inner) {
        return wrong(
            "password.secretKeyRef.key",
            format!("{key:?} is no key of a Secret"),
        );
    }
    Ok(PasswordRef {
        secret: reference.name,
        key: reference.key,
    })
}

pub(super) fn bfd(written: &crd::Bfd, hops: Hops) -> Result<Bfd, Wrong> {
    let interval = |field, time: Option<GoDuration>| {
        let time = time.map_or(BFD_INTERVAL, |GoDuration(time)| time);
        match (BFD_SHORTEST..=BFD_LONGEST).contains(&time) {
            true => Ok(time),
            false => wrong(field, "is not from 10ms to 60s"),
        }
    };
    let multiplier = written.multiplier.unwrap_or(BFD_MULTIPLIER);
    if multiplier == 0 {
        return wrong("bfd.multiplier", "is 0");
    }
    Ok(Bfd {
        min_tx: interval("bfd.minTx", written.min_tx)?,
        min_rx: interval("bfd.minRx", written.min_rx)?,
        multiplier,
        strict: written.strict.unwrap_or(false),
        multihop: hops.is_far(),
    })
}

pub(super) fn max_prefixes(written: Option<crd::MaxPrefixes>) -> Result<MaxPrefixes, Wrong> {
    let written = written.unwrap_or_default();
    let limit = written.limit.unwrap_or(MaxPrefixes::default().limit);
    if limit == 0 {
        return wrong("maxPrefixes.limit", "is 0");
    }
    let warn_at = match written.warn_at {
        None => None,
        Some(percent @ 1..=100) => Some(share_of(limit, percent)),
        Some(_) => return wrong("maxPrefixes.warnAt", "is not a percentage from 1 to 100"),
    };
    let restart_after = written.restart_after.map(|GoDuration(time)| time);
    if restart_after.is_some_and(|time| time.is_zero() || time.subsec_nanos() != 0) {
        return wrong(
            "maxPrefixes.restartAfter",
            "is not whole seconds, at least 1s",
        );
    }
    Ok(MaxPrefixes {
        limit,
        warn_at,
        restart_after,
    })
}

/// So many percent, rounded up.
fn share_of(limit: u32, percent: u8) -> u32 {
    let share = (u64::from(limit) * u64::from(percent)).div_ceil(100);
    u32::try_from(share).unwrap_or(limit)
}
