//! Graceful restart as BGPConfiguration and BGPPeer both have it.

use std::time::Duration;

use crate::{GoDuration, crd};

/// What an object says of graceful restart; what is absent is said elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GracefulRestart {
    /// `restartTime`: whole seconds up to 4095 (RFC 4724 §3, a field of 12 bits).
    pub restart_time: Option<Duration>,
    /// `longLivedStaleTime`: whole seconds up to 16777215 (RFC 9494 §3.1, 24 bits); zero is none.
    pub long_lived_stale_time: Option<Duration>,
    /// `notifications`: the N bit (RFC 8538 §2).
    pub notifications: Option<bool>,
}

const MAX_RESTART_TIME: u64 = 4095;
const MAX_STALE_TIME: u64 = (1 << 24) - 1;

/// Reads it; the error is the field and what is wrong with it.
pub(super) fn read(
    written: Option<crd::GracefulRestart>,
) -> Result<GracefulRestart, (&'static str, String)> {
    let written = written.unwrap_or_default();
    Ok(GracefulRestart {
        restart_time: seconds(
            "gracefulRestart.restartTime",
            written.restart_time,
            MAX_RESTART_TIME,
        )?,
        long_lived_stale_time: seconds(
            "gracefulRestart.longLivedStaleTime",
            written.long_lived_stale_time,
            MAX_STALE_TIME,
        )?,
        notifications: written.notifications,
    })
}

fn seconds(
    field: &'static str,
    time: Option<GoDuration>,
    most: u64,
) -> Result<Option<Duration>, (&'static str, String)> {
    match time {
        Some(GoDuration(time)) if time.subsec_nanos() != 0 || time.as_secs() > most => {
            Err((field, format!("is not whole seconds up to {most}s")))
        }
        time => Ok(time.map(|GoDuration(time)| time)),
    }
}
