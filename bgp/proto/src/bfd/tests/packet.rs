//! The BFD Control packet octet by octet, and each check of RFC 5880 §6.8.6.

use proptest::prelude::*;

use super::*;

const UP: [u8; 24] = [
    0x20, 0xc0, 3, 24, 0, 0, 0, 2, 0, 0, 0, 1, 0, 1, 0x86, 0xa0, 0, 1, 0x86, 0xa0, 0, 0, 0, 0,
];

fn with(changes: &[(usize, u8)]) -> Vec<u8> {
    let mut octets = UP.to_vec();
    for (at, octet) in changes {
        octets[*at] = *octet;
    }
    octets
}

#[test]
fn a_packet_is_these_octets_both_ways() {
    assert_eq!(Packet::decode(&UP), Ok(told(SessionState::Up)));
    assert_eq!(told(SessionState::Up).encode(), UP);
    let all_flags = Packet {
        diagnostic: Diagnostic::ControlDetectionTimeExpired,
        poll: true,
        control_plane_independent: true,
        demand: true,
        detect_multiplier: 255,
        required_min_echo_rx: Duration::from_micros(7),
        ..told(SessionState::Init)
    };
    let octets = all_flags.encode();
    assert_eq!(octets[..4], [0x21, 0x80 | 0x20 | 0x08 | 0x02, 255, 24]);
    assert_eq!(octets[23], 7);
    assert_eq!(Packet::decode(&octets), Ok(all_flags));
}

#[test]
fn each_reception_check_of_section_6_8_6_discards() {
    let down_from_nobody = with(&[(1, 0x40), (11, 0)]);
    let admin_down_from_nobody = with(&[(1, 0), (11, 0)]);
    let authenticated = |length: u8| {
        let mut octets = with(&[(1, 0xc4), (3, length)]);
        octets.extend([1, 2, 1, 0]);
        octets
    };
    let mut trailing = UP.to_vec();
    trailing.extend([0xff; 9]);
    let table: Vec<(&str, Vec<u8>, Option<PacketError>)> = vec![
        ("as it should be", UP.to_vec(), None),
        ("octets after Length", trailing, None),
        ("Down, Your Discriminator 0", down_from_nobody, None),
        (
            "AdminDown, Your Discriminator 0",
            admin_down_from_nobody,
            None,
        ),
        ("version 0", with(&[(0, 0)]), Some(PacketError::Version(0))),
        (
            "version 2",
            with(&[(0, 0x40)]),
            Some(PacketError::Version(2)),
        ),
        ("length 23", with(&[(3, 23)]), Some(PacketError::Length(23))),
        (
            "length over the payload",
            with(&[(3, 25)]),
            Some(PacketError::Length(25)),
        ),
        (
            "A with length 24",
            authenticated(24),
            Some(PacketError::Length(24)),
        ),
        (
            "A with length 25",
            authenticated(25),
            Some(PacketError::Length(25)),
        ),
        (
            "A while none is configured",
            authenticated(28),
            Some(PacketError::Authentication),
        ),
        (
            "Detect Mult 0",
            with(&[(2, 0)]),
            Some(PacketError::DetectMultiplier),
        ),
        (
            "Multipoint",
            with(&[(1, 0xc1)]),
            Some(PacketError::Multipoint),
        ),
        (
            "My Discriminator 0",
            with(&[(7, 0)]),
            Some(PacketError::MyDiscriminator),
        ),
        (
            "Up, Your Discriminator 0",
            with(&[(11, 0)]),
            Some(PacketError::YourDiscriminator),
        ),
        (
            "Init, Your Discriminator 0",
            with(&[(1, 0x80), (11, 0)]),
            Some(PacketError::YourDiscriminator),
        ),
    ];
    for (what, octets, error) in table {
        assert_eq!(Packet::decode(&octets).err(), error, "{what}");
    }
}

#[test]
fn every_truncation_is_refused() {
    for len in 0..UP.len() {
        assert_eq!(
            Packet::decode(&UP[..len]),
            Err(PacketError::Truncated),
            "{len}"
        );
    }
}

#[test]
fn every_diagnostic_keeps_its_code() {
    for code in 0..32 {
        assert_eq!(Diagnostic::of_code(code).code(), code);
    }
}

#[test]
fn intervals_too_long_for_the_field_are_sent_as_its_maximum() {
    let packet = Packet {
        desired_min_tx: Duration::from_secs(100_000),
        ..told(SessionState::Up)
    };
    let read = Packet::decode(&packet.encode()).unwrap();
    assert_eq!(
        read.desired_min_tx,
        Duration::from_micros(u64::from(u32::MAX))
    );
}

proptest! {
    #[test]
    fn what_decodes_encodes_to_the_same_octets(octets in proptest::array::uniform24(any::<u8>())) {
        let mut octets = octets;
        octets[0] = 0x20 | octets[0] & 0x1f;
        octets[1] &= !0x05;
        octets[3] = 24;
        if let Ok(packet) = Packet::decode(&octets) {
            prop_assert_eq!(packet.encode(), octets);
        }
    }

    #[test]
    fn no_octets_panic(octets in proptest::collection::vec(any::<u8>(), 0..64)) {
        let _ = Packet::decode(&octets);
    }
}
