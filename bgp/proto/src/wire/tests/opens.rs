//! The optional parameters and capabilities of an OPEN: what is well formed, what is not, and what is only not understood.

use super::super::notification::{code, open as subcode};
use super::super::*;
use super::{decode_all, encode, external, framed, hex};

/// An OPEN with these optional parameters, from their length on.
fn open_with(parameters: &str) -> Result<Open, Notification> {
    let body = [hex("04 fde9 005a 0a000001"), hex(parameters)].concat();
    match decode_all(&framed(1, &body), &external())?.remove(0) {
        Message::Open(open) => Ok(open),
        other => panic!("{other:?}"),
    }
}

/// The capabilities of an OPEN with this one, both ways if it is what we would write.
fn capability(tlv: &str) -> Result<Vec<Capability>, Notification> {
    let octets = hex(tlv);
    let len = u8::try_from(octets.len()).unwrap();
    let parameters = format!("{:02x} 02 {len:02x} {tlv}", len + 2);
    open_with(&parameters).map(|open| open.capabilities)
}

const V4: Family = Family::IPV4_UNICAST;
const V6: Family = Family::IPV6_UNICAST;

#[track_caller]
fn assert_malformed<T: fmt::Debug>(outcome: Result<T, Notification>) {
    let notification = outcome.unwrap_err();
    let seen = (notification.code, notification.subcode);
    assert_eq!(seen, (code::OPEN, subcode::UNSPECIFIC));
}

#[test]
fn each_capability_has_the_form_of_its_rfc() {
    let long_lived = |family, forwarding, stale_time| LongLivedFamily {
        family,
        forwarding,
        stale_time,
    };
    let table = [
        (
            "05 0c 0001 0001 0002 0002 0001 0002",
            Capability::ExtendedNextHop(vec![(V4, 2), (V6, 2)]),
        ),
        ("06 00", Capability::ExtendedMessage),
        ("09 01 00", Capability::Role(Role::Provider)),
        ("09 01 01", Capability::Role(Role::RouteServer)),
        ("09 01 02", Capability::Role(Role::RouteServerClient)),
        ("09 01 03", Capability::Role(Role::Customer)),
        ("09 01 04", Capability::Role(Role::Peer)),
        ("09 01 05", Capability::Role(Role::Unassigned(5))),
        (
            "45 0c 0001 01 01 0002 01 02 0001 04 03",
            Capability::AddPath(vec![
                (V4, AddPathMode::Receive),
                (V6, AddPathMode::Send),
                (Family { afi: 1, safi: 4 }, AddPathMode::Both),
            ]),
        ),
        ("46 00", Capability::EnhancedRouteRefresh),
        (
            "47 0e 0001 01 80 ffffff 0002 01 00 00003c",
            Capability::LongLivedGracefulRestart(vec![
                long_lived(V4, true, 0x00ff_ffff),
                long_lived(V6, false, 60),
            ]),
        ),
    ];
    for (tlv, expected) in table {
        assert_eq!(capability(tlv), Ok(vec![expected.clone()]), "{tlv}");
        let open = Open {
            asn: Asn(65001),
            hold_time: 90,
            bgp_id: "10.0.0.1".parse().unwrap(),
            capabilities: vec![expected],
        };
        let written = encode(&Message::Open(open), &external());
        assert!(written.ends_with(&hex(tlv)), "{tlv} as {written:02x?}");
    }
}

#[test]
fn a_capability_of_another_length_than_its_rfc_says_is_malformed() {
    for tlv in [
        "01 03 0001 00",
        "01 05 0001 00 01 00",
        "02 01 00",
        "05 05 0001 0001 00",
        "05 07 0001 0001 0002 00",
        "06 01 00",
        "09 00",
        "09 02 00 00",
        "40 01 00",
        "40 05 0078 0001 01",
        "41 03 00fde9",
        "41 05 0000fde9 00",
        "45 03 0001 01",
        "45 05 0001 01 03 00",
        "45 07 0001 01 09 0001 01", // malformed beats not understood
        "46 01 00",
        "47 06 0001 01 80 0000",
        "47 08 0001 01 80 000000 00",
        "05",       // cut before its length
        "05 06 00", // cut in its value
    ] {
        assert_malformed(capability(tlv));
    }
}

#[test]
fn an_add_path_mode_nobody_knows_makes_the_capability_not_understood() {
    let value = hex("0001 01 03 0002 01 04").into();
    let expected = Capability::Unknown { code: 69, value };
    let tlv = "45 08 0001 01 03 0002 01 04";
    assert_eq!(capability(tlv), Ok(vec![expected]));
}

#[test]
fn an_extended_next_hop_for_a_safi_of_two_octets_is_left_out() {
    let tlv = "05 0c 0001 0101 0002 0001 0001 0002";
    let expected = Capability::ExtendedNextHop(vec![(V4, 2)]);
    assert_eq!(capability(tlv), Ok(vec![expected]));
}

#[test]
fn several_roles_are_all_kept_for_the_session_to_judge() {
    let expected = [Role::Provider, Role::Peer].map(Capability::Role);
    assert_eq!(capability("09 01 00 09 01 04"), Ok(expected.to_vec()));
}

#[test]
fn the_type_255_alone_makes_the_extended_form() {
    let expected = Ok(vec![Capability::RouteRefresh]);
    for length in ["ff", "01", "fe"] {
        let parameters = format!("{length} ff 0005 02 0002 0200");
        let seen = open_with(&parameters).map(|open| open.capabilities);
        assert_eq!(seen, expected, "{length}");
    }
    let none = open_with("ff ff 0000").map(|open| open.capabilities);
    assert_eq!(none, Ok(vec![]));
}

#[test]
fn parameters_that_do_not_add_up_are_malformed() {
    for parameters in [
        "00 02",                   // more than the length says
        "05 02 02 0200",           // less
        "04 02 03 0200",           // a parameter overruns
        "03 02 01 02",             // a capability is cut
        "01 02",                   // no length of the parameter
        "ff ff",                   // no extended length
        "ff ff 0005 02 0003 0200", // a parameter overruns, extended
        "ff ff 0004 02 0002 0200", // more than the extended length says
        "ff ff 0006 02 0002 0200", // less
        "ff ff 0002 02 00",        // half a length
    ] {
        assert_malformed(open_with(parameters));
    }
}

#[test]
fn a_parameter_other_than_capabilities_is_unsupported_in_both_forms() {
    for parameters in ["03 01 01 00", "ff ff 0004 01 0001 00", "ff ff 0003 ff 0000"] {
        let notification = open_with(parameters).unwrap_err();
        assert_eq!(notification.subcode, subcode::UNSUPPORTED_PARAMETER);
    }
}
