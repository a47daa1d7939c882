//! This node's WireGuard keys: kept on disk, and published for the other nodes.

mod cli;
mod publish;
mod report;
mod store;

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ::overlay::keys::{Time, Timing};

pub(crate) use cli::{WireGuardArgs, run};
pub(crate) use publish::{Publication, run_task};
pub(crate) use report::{WireGuardNode, WireGuardSlot, WireGuardState};
pub(crate) use store::{KeyStore, StoredKey};

/// What the flags say.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// This node's name.
    pub(crate) node: String,
    /// The folder that survives a reboot.
    pub(crate) state_dir: PathBuf,
    /// How long a key lives; zero: until someone asks for another.
    pub(crate) lifetime: Duration,
}

/// Parses how long a key lives: `24h`, `90m`; 0 is for ever.
pub(crate) fn lifetime(text: &str) -> Result<Duration, String> {
    let hours = text.strip_suffix('h').map(|hours| {
        let hours: u64 = hours
            .parse()
            .map_err(|_| format!("'{text}' is not a number of hours, as 24h"))?;
        Ok(Duration::from_secs(hours.saturating_mul(3600)))
    });
    let lifetime = hours.unwrap_or_else(|| crate::cli::duration(text))?;
    let least = Timing::LEAST.as_secs();
    if !lifetime.is_zero() && lifetime < Timing::LEAST {
        return Err(format!(
            "'{text}' is too short: other nodes are to hear of each key; {least}s at least, or 0 for ever"
        ));
    }
    Ok(lifetime)
}

/// The time now, as keys' files and rotations have it.
pub(crate) fn now() -> Time {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lifetime_is_of_hours_or_minutes_or_for_ever_and_never_too_short() {
        assert_eq!(lifetime("24h"), Ok(Duration::from_secs(86_400)));
        assert_eq!(lifetime("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(lifetime("0"), Ok(Duration::ZERO));
        for bad in ["119s", "h", "1.5h", "soon", "-1h"] {
            assert!(lifetime(bad).is_err(), "{bad}");
        }
    }
}
