//! Every table as a person sees it, and every name that `-o json` prints.

use super::super::view::{AttributesView, ExplainedPath, RouteView, SentView, SessionView};
use super::*;

fn path(peer: Option<&str>, best: bool) -> PathView {
    PathView {
        prefix: "10.1.0.0/16".parse().unwrap(),
        path_id: 0,
        peer: peer.map(str::to_owned),
        best,
        multipath: !best,
        stale: !best,
        problem: None,
        attributes: AttributesView {
            next_hop: "10.0.0.1".to_owned(),
            as_path: "65000".to_owned(),
            origin: "IGP".to_owned(),
            local_pref: Some(100),
            communities: vec!["no-export".to_owned()],
            ..AttributesView::default()
        },
    }
}

fn tor() -> PeerView {
    PeerView {
        name: "tor".to_owned(),
        address: Some("10.0.0.1:179".to_owned()),
        local_address: Some("10.0.0.9".to_owned()),
        as_number: Some(65_000),
        router_id: Some("10.0.0.1".to_owned()),
        state: "Established".to_owned(),
        established_seconds: Some(192),
        flaps: 1,
        last_down: Some("hold timer expired".to_owned()),
        last_down_seconds_ago: Some(200),
        prefixes_received: 4,
        prefixes_accepted: 3,
        prefixes_rejected: 1,
        prefixes_stale: 2,
        prefixes_sent: 5,
        max_prefixes: 100,
        updates_received: 7,
        updates_sent: 8,
        bfd: Some("Up".to_owned()),
        session: Some(SessionView {
            external: true,
            hold_seconds: 90,
            keepalive_seconds: 30,
            kept_when_silent_seconds: 120,
            families: vec!["IPv4 unicast".to_owned()],
            capabilities: vec!["route refresh (RFC 2918)".to_owned()],
        }),
        ..PeerView::default()
    }
}

fn explanation() -> ExplainView {
    ExplainView {
        prefix: "10.1.0.0/16".parse().unwrap(),
        paths: vec![ExplainedPath {
            path: path(Some("tor"), true),
            outcome: "best".to_owned(),
        }],
        sent: vec![SentView {
            peer: "node2".to_owned(),
            sent: false,
            reason: "a node is no transit".to_owned(),
        }],
    }
}

#[test]
fn peers_are_a_line_each() {
    let down = PeerView {
        name: "mesh/n2".to_owned(),
        state: "Active".to_owned(),
        ..PeerView::default()
    };
    let expected = "\
PEER     ADDRESS       AS     STATE        FOR    ACCEPTED  REJECTED  STALE  SENT  BFD  LAST DOWN
mesh/n2  -             -      Active       -      0         0         0      0     -    -
tor      10.0.0.1:179  65000  Established  3m12s  3         1         2      5     Up   hold timer expired

";
    assert_eq!(render(&BgpAnswer::Peers(vec![down, tor()])), expected);
}

#[test]
fn a_peer_is_told_in_full() {
    let expected = "\
peer                   tor
state                  Established
address                10.0.0.1:179
our address            10.0.0.9
AS                     65000
router ID              10.0.0.1
established for        3m12s
went down              1 times
last down              hold timer expired
BFD                    Up
prefixes               4 received, 3 accepted, 1 rejected, 2 stale, 5 sent; at most 100 of each family
UPDATEs                7 received, 8 sent
kind                   external
HoldTime               90 s
KeepaliveTime          30 s
families               IPv4 unicast
agreed on              route refresh (RFC 2918)
";
    assert_eq!(render(&BgpAnswer::Peer(Box::new(tor()))), expected);
}

#[test]
fn routes_mark_the_best_and_those_beside_it() {
    let route = RouteView {
        prefix: "10.1.0.0/16".parse().unwrap(),
        paths: vec![path(Some("tor"), true), path(None, false)],
    };
    let expected = "\x20  PREFIX       NEXT HOP  PEER       LOCAL PREF  MED  AS PATH    NOTES
>  10.1.0.0/16  10.0.0.1  tor        100         -    65000 IGP  no-export
=  10.1.0.0/16  10.0.0.1  this node  100         -    65000 IGP  stale, no-export

";
    assert_eq!(render(&BgpAnswer::Routes(vec![route])), expected);
    assert_eq!(render(&BgpAnswer::Routes(Vec::new())), "no routes\n");
}

#[test]
fn an_explanation_names_every_path_and_every_peer() {
    let expected = "\
10.1.0.0/16
  from tor, next hop 10.0.0.1:
    best
  not sent to node2: a node is no transit
";
    assert_eq!(render(&BgpAnswer::Explain(explanation())), expected);
}

#[test]
fn no_peers_says_what_makes_one() {
    let table = render(&BgpAnswer::Peers(Vec::new()));
    assert!(table.contains("BGPPeer"), "{table}");
}

#[test]
fn durations_have_two_units() {
    let texts = [59, 192, 18_420, 1_051_200].map(duration);
    assert_eq!(texts, ["59s", "3m12s", "5h7m", "12d4h"]);
}

/// The names of an answer, in order.
fn names(answer: &BgpAnswer, at: &str) -> Vec<String> {
    let json: serde_json::Value = serde_json::from_str(&answer.json().unwrap()).unwrap();
    let object = json.pointer(at).unwrap().as_object().unwrap();
    let mut names: Vec<String> = object.keys().cloned().collect();
    names.sort();
    names
}

#[test]
fn the_names_in_json_are_what_programs_rely_on() {
    let peers = BgpAnswer::Peers(vec![tor()]);
    assert_eq!(
        names(&peers, "/0"),
        [
            "address",
            "asNumber",
            "bfd",
            "establishedSeconds",
            "flaps",
            "heldDownSeconds",
            "lastDown",
            "lastDownSecondsAgo",
            "localAddress",
            "maxPrefixes",
            "name",
            "prefixesAccepted",
            "prefixesReceived",
            "prefixesRejected",
            "prefixesSent",
            "prefixesStale",
            "routerID",
            "session",
            "shutDown",
            "staleSecondsLeft",
            "state",
            "updatesReceived",
            "updatesSent",
        ]
    );
    let agreed = [
        "capabilities",
        "external",
        "families",
        "holdSeconds",
        "keepaliveSeconds",
        "keptWhenSilentSeconds",
    ];
    assert_eq!(names(&peers, "/0/session"), agreed);
    let of_a_path = [
        "asPath",
        "best",
        "communities",
        "localPref",
        "med",
        "multipath",
        "nextHop",
        "origin",
        "pathID",
        "peer",
        "prefix",
        "problem",
        "stale",
    ];
    let received = BgpAnswer::Received(vec![path(Some("tor"), true)]);
    assert_eq!(names(&received, "/0"), of_a_path);
    let told = BgpAnswer::Explain(explanation());
    assert_eq!(names(&told, ""), ["paths", "prefix", "sent"]);
    assert_eq!(names(&told, "/sent/0"), ["peer", "reason", "sent"]);
    let mut with_outcome = of_a_path.to_vec();
    with_outcome.insert(8, "outcome");
    assert_eq!(names(&told, "/paths/0"), with_outcome);
}
