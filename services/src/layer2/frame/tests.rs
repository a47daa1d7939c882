//! Frames as others write them, both ways, and cut anywhere.

use proptest::prelude::*;

use super::*;

const OURS: Mac = [2, 0, 0, 0, 0, 1];
const THEIRS: Mac = [2, 0, 0, 0, 0, 9];

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .bytes()
        .filter(|one| !one.is_ascii_whitespace())
        .collect();
    let pairs = digits.chunks(2);
    let octet = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    pairs.map(octet).collect()
}

fn v4(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Who has 192.0.2.7? Tell 192.0.2.200.
const WHO_HAS: &str = "ffffffffffff 020000000009 0806 0001 0800 06 04 0001
    020000000009 c00002c8 000000000000 c0000207";
/// The same of the kernel's own probe for an address in use (RFC 5227): from nobody.
const PROBE: &str = "ffffffffffff 020000000009 0806 0001 0800 06 04 0001
    020000000009 00000000 000000000000 c0000207";
const GRATUITOUS: &str = "ffffffffffff 020000000009 0806 0001 0800 06 04 0001
    020000000009 c0000207 000000000000 c0000207";
/// Taken off a link: fe80::c8 asks ff02::1:ff00:7 for fd00::7, with its own hardware address.
const SOLICIT: &str = "3333ff000007 020000000009 86dd 60000000 0020 3a ff
    fe8000000000000000000000000000c8 ff0200000000000000000001ff000007
    8700 7bbf 00000000 fd000000000000000000000000000007 0101 020000000009";

#[test]
fn a_question_is_read_and_answered_to_the_one_who_asks() {
    let asked = Question {
        address: v4("192.0.2.7"),
        asker: THEIRS,
        from: v4("192.0.2.200"),
    };
    assert_eq!(read(&hex(WHO_HAS)), Some(Heard::Question(asked)));
    let answered = answer(&asked, OURS).unwrap();
    let expected = "020000000009 020000000001 0806 0001 0800 06 04 0002
        020000000001 c0000207 020000000009 c00002c8";
    assert_eq!(answered, hex(expected));
    let claim = Heard::Claim {
        address: v4("192.0.2.7"),
        mac: OURS,
    };
    assert_eq!(read(&answered), Some(claim));
}

#[test]
fn who_probes_for_a_free_address_is_told_that_it_is_not() {
    let Some(Heard::Question(probe)) = read(&hex(PROBE)) else {
        panic!("no question")
    };
    assert_eq!(probe.from, v4("0.0.0.0"));
    let answered = answer(&probe, OURS).unwrap();
    assert_eq!(answered.get(..6), Some(&THEIRS[..]));
    assert_eq!(answered.get(38..), Some(&[0; 4][..]));
}

#[test]
fn a_gratuitous_request_is_a_claim_and_no_question() {
    let claim = Heard::Claim {
        address: v4("192.0.2.7"),
        mac: THEIRS,
    };
    assert_eq!(read(&hex(GRATUITOUS)), Some(claim));
}

#[test]
fn a_solicitation_is_read_and_answered_with_override() {
    let mut frame = hex(SOLICIT);
    set_checksum(&mut frame);
    let asked = Question {
        address: v4("fd00::7"),
        asker: THEIRS,
        from: v4("fe80::c8"),
    };
    assert_eq!(read(&frame), Some(Heard::Question(asked)));
    let answered = answer(&asked, OURS).unwrap();
    assert_eq!(answered.len(), 86);
    assert_eq!(answered.get(..6), Some(&THEIRS[..]));
    // Solicited and Override, from the address itself, to who asked.
    assert_eq!(answered.get(58), Some(&0x60));
    let claim = Heard::Claim {
        address: v4("fd00::7"),
        mac: OURS,
    };
    assert_eq!(read(&answered), Some(claim));
}

#[test]
fn duplicate_address_detection_is_answered_to_all_nodes() {
    let nobody = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    let asked = Question {
        address: v4("fd00::7"),
        asker: THEIRS,
        from: nobody,
    };
    let answered = answer(&asked, OURS).unwrap();
    assert_eq!(answered.get(..6), Some(&[0x33, 0x33, 0, 0, 0, 1][..]));
    assert_eq!(
        answered.get(58),
        Some(&0x20),
        "nobody solicited it (RFC 4861 §7.2.4)"
    );
    assert_eq!(answered.get(38..54), Some(&ALL_NODES.octets()[..]));
}

/// RFC 4861 §7.1.1: each by itself makes it no solicitation.
#[test]
fn a_solicitation_that_fails_a_check_is_none() {
    let mut good = hex(SOLICIT);
    set_checksum(&mut good);
    assert!(read(&good).is_some());
    let changes: [(&str, usize, u8); 5] = [
        ("hop limit", 21, 254),
        ("code", 55, 1),
        ("a target that is multicast", 62, 0xff),
        ("an option without a length", 79, 0),
        ("an option that is longer than the rest", 79, 2),
    ];
    for (what, at, octet) in changes {
        let mut bad = good.clone();
        bad[at] = octet;
        set_checksum(&mut bad);
        assert_eq!(read(&bad), None, "{what}");
    }
    let mut bad = good.clone();
    bad[56] ^= 1;
    assert_eq!(read(&bad), None, "checksum");
    for length in 0..good.len() {
        assert_eq!(read(&good[..length]), None, "cut to {length}");
    }
}

#[test]
fn an_announcement_claims_the_address() {
    for (address, frames) in [("192.0.2.7", 2), ("fd00::7", 1)] {
        let frames_sent = announcement(v4(address), OURS);
        assert_eq!(frames_sent.len(), frames);
        for frame in frames_sent {
            let claim = Heard::Claim {
                address: v4(address),
                mac: OURS,
            };
            assert_eq!(read(&frame), Some(claim));
            assert_eq!(frame[0] & 1, 1, "to all");
        }
    }
}

#[test]
fn who_asks_by_arp_without_an_address_of_its_own_is_heard_as_one_who_looks() {
    let asked = Question {
        address: v4("192.0.2.7"),
        asker: OURS,
        from: IpAddr::from([0; 4]),
    };
    let frame = question(&asked).unwrap();
    assert_eq!(read(&frame), Some(Heard::Question(asked)));
    assert_eq!(frame.get(..6), Some(&[0xff; 6][..]));
    let mixed = Question {
        address: v4("fd00::7"),
        ..asked
    };
    assert_eq!(question(&mixed), None);
}

#[test]
fn groups_are_of_the_last_24_bits() {
    let address: Ipv6Addr = "fd00::12:3456:789a".parse().unwrap();
    assert_eq!(solicited_node(address).to_string(), "ff02::1:ff56:789a");
}

fn set_checksum(frame: &mut [u8]) {
    frame[56..58].fill(0);
    let from = Ipv6Addr::from(<[u8; 16]>::try_from(&frame[22..38]).unwrap());
    let to = Ipv6Addr::from(<[u8; 16]>::try_from(&frame[38..54]).unwrap());
    let sum = checksum(from, to, &frame[54..]);
    frame[56..58].copy_from_slice(&sum.to_be_bytes());
}

proptest! {
    #[test]
    fn no_octets_are_too_strange(frame in prop::collection::vec(any::<u8>(), 0..120)) {
        let _ = read(&frame);
    }

    #[test]
    fn what_is_answered_and_announced_is_read_again(octets: [u8; 16], is_v6: bool, mac: Mac, asker: Mac) {
        let address = match is_v6 {
            true => IpAddr::from(octets),
            false => IpAddr::from([octets[0], octets[1], octets[2], octets[3]]),
        };
        prop_assume!(!address.is_multicast() && !address.is_unspecified());
        let question = Question { address, asker, from: address };
        let asked = super::question(&question).unwrap();
        let is_announced = matches!(address, IpAddr::V4(_));
        let heard = match is_announced {
            // Who asks for its own address announces it.
            true => Heard::Claim { address, mac: asker },
            false => Heard::Question(question),
        };
        prop_assert_eq!(read(&asked), Some(heard));
        let frames = announcement(address, mac).into_iter().chain(answer(&question, mac));
        for frame in frames {
            prop_assert_eq!(read(&frame), Some(Heard::Claim { address, mac }));
        }
    }
}
