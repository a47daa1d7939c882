//! `--drop-log GROUP[:RATE]`.

use policy::DropLog;

/// Enough to see what is denied, and too little to drown in.
const DEFAULT_RATE: u16 = 10;
/// The kernel's `limit` counts in ten-thousandths of a second.
const HIGHEST_RATE: u16 = 10_000;

/// Parses the flag.
///
/// # Errors
/// Says what it should look like.
pub(crate) fn drop_log(text: &str) -> Result<DropLog, String> {
    let (group, rate) = match text.split_once(':') {
        Some((group, rate)) => (group, rate.parse().ok()),
        None => (text, Some(DEFAULT_RATE)),
    };
    let rate = rate.filter(|rate| (1..=HIGHEST_RATE).contains(rate));
    match (group.parse(), rate) {
        (Ok(group), Some(rate)) => Ok(DropLog { group, rate }),
        (Err(_), _) => Err(format!(
            "'{group}' is no NFLOG group: 0 to 65535, as in 7 or 7:20"
        )),
        (_, None) => Err(format!(
            "the rate in '{text}' is packets a second for each rule: 1 to {HIGHEST_RATE}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_may_bear_a_rate() {
        let log = |group, rate| Ok(DropLog { group, rate });
        assert_eq!(drop_log("7"), log(7, 10));
        assert_eq!(drop_log("0:200"), log(0, 200));
        for text in ["", "x", "70000", "7:", "7:0", "7:20000", "7:-1", "7:1:1"] {
            assert!(drop_log(text).is_err(), "{text}");
        }
    }
}
