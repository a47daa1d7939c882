//! Communities in the words of others: numbers, names, `large:` before large ones.

use api::resources::Community;

/// Names that GoBGP gives well-known communities (RFC 1997, RFC 3765, RFC 7611, RFC 7999, RFC 8326).
const NAMES: [(&str, u32); 8] = [
    ("internet", 0),
    ("planned-shut", 0xFFFF_0000),
    ("accept-own", 0xFFFF_0001),
    ("blackhole", 0xFFFF_029A),
    ("no-export", 0xFFFF_FF01),
    ("no-advertise", 0xFFFF_FF02),
    ("no-export-subconfed", 0xFFFF_FF03),
    ("no-peer", 0xFFFF_FF04),
];

/// A community as kube-router takes it: 32 bits, `aa:nn` or a name.
pub(super) fn of_gobgp(text: &str) -> Option<Community> {
    let named = NAMES.iter().find(|(name, _)| *name == text);
    named
        .map(|(_, bits)| Community::Standard(*bits))
        .or_else(|| text.parse().ok().map(Community::Standard))
        .or_else(|| standard(text))
}

/// A community as MetalLB takes it: `aa:nn` or `large:aa:nn:mm`.
pub(super) fn of_metallb(text: &str) -> Option<Community> {
    match text.strip_prefix("large:") {
        Some(large) => of_calico(large).filter(|found| matches!(found, Community::Large(..))),
        None => standard(text),
    }
}

/// A community as Calico takes it: `aa:nn` or `aa:nn:mm`, with leading zeros if need be.
pub(super) fn of_calico(text: &str) -> Option<Community> {
    let digits = |part: &str| -> Option<u32> {
        let plain = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        plain.then(|| part.parse().ok()).flatten()
    };
    let parts: Vec<u32> = text.split(':').map(digits).collect::<Option<_>>()?;
    match parts.as_slice() {
        [high @ ..=0xFFFF, low @ ..=0xFFFF] => Some(Community::Standard(high << 16 | low)),
        [global, local1, local2] => Some(Community::Large(*global, *local1, *local2)),
        _ => None,
    }
}

fn standard(text: &str) -> Option<Community> {
    of_calico(text).filter(|found| matches!(found, Community::Standard(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_finds_its_own_words_and_not_those_of_others() {
        let text = |found: Option<Community>| found.map(|one| one.to_string());
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(text(of_gobgp("no-export")), some("65535:65281"));
        assert_eq!(text(of_gobgp("4294967041")), some("65535:65281"));
        assert_eq!(text(of_gobgp("65000:7")), some("65000:7"));
        assert_eq!(text(of_gobgp("1:2:3")), None);
        assert_eq!(text(of_metallb("large:1:2:3")), some("1:2:3"));
        assert_eq!(text(of_metallb("1:2:3")), None);
        assert_eq!(text(of_metallb("large:1:2")), None);
        assert_eq!(text(of_calico("065000:01")), some("65000:1"));
        assert_eq!(text(of_calico("1:+2")), None);
        assert_eq!(text(of_calico("70000:1")), None);
    }
}
