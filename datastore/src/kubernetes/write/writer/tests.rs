//! Writers against an API server in memory, in virtual time.

use std::time::Duration;

use api::Key;
use http::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::*;
use crate::EventType;
use crate::kubernetes::write::fake::{Asked, Fake, Fault};

const NODE: &str = "/api/v1/nodes/n1";
const STATUS: &str = "/apis/portolan.io/v1alpha1/bgpnodestatuses/n1";
const PEER: &str = "/apis/portolan.io/v1alpha1/bgppeers/tor";
const TAINT: &str = "portolan.io/not-ready";

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn node(taints: &Value) -> Value {
    let ready = json!({"type": "Ready", "status": "True"});
    json!({
        "metadata": {"name": "n1"},
        "spec": {"taints": taints},
        "status": {"conditions": [ready]},
    })
}

fn peer() -> Value {
    json!({"metadata": {"name": "tor"}, "spec": {"peerAddress": "10.0.0.1"}})
}

/// A server that knows this node and one BGPPeer.
fn server() -> Fake {
    let server = Fake::default();
    server.put(NODE, node(&json!([])));
    server.put(PEER, peer());
    server
}

fn writer(server: &Fake) -> Writer {
    let (connection, facts) = server.connect("n1");
    let writes = NodeWrites {
        condition: true,
        remove_taints: vec![TAINT.to_owned()],
    };
    let (refresher, _) = server.refresher(0);
    Writer::new(connection, (facts, refresher), writes)
}

fn established(established: u32) -> BgpNodeStatusStatus {
    BgpNodeStatusStatus {
        established,
        ..BgpNodeStatusStatus::default()
    }
}

fn warning(count: u32) -> EventRecord {
    EventRecord {
        regarding: (&Key::BgpPeer("tor".to_owned())).into(),
        reason: "PeerRefused".to_owned(),
        event_type: EventType::Warning,
        message: "no AS".to_owned(),
        count,
        first_timestamp: None,
        last_timestamp: None,
    }
}

fn accepted(message: &str) -> Vec<ObjectCondition> {
    vec![ObjectCondition {
        key: Key::BgpPeer("tor".to_owned()),
        type_: "Accepted".to_owned(),
        status: true,
        reason: "Valid".to_owned(),
        message: message.to_owned(),
    }]
}

async fn publish_all(writer: &Writer) {
    writer.publish_node(NodeHealth::Up).await.unwrap();
    writer.publish_bgp(established(2)).await.unwrap();
    writer.publish_events(vec![warning(1)]).await.unwrap();
    writer.publish_conditions(accepted("fine")).await.unwrap();
}

fn writes(asked: &[Asked]) -> Vec<String> {
    let asked = asked.iter().filter(|asked| asked.method != Method::GET);
    asked
        .map(|asked| format!("{} {}", asked.method, asked.path))
        .collect()
}

fn condition(server: &Fake) -> Option<Value> {
    let node = server.object(NODE)?;
    let conditions = node["status"]["conditions"].as_array()?.iter();
    let mut ours = conditions.filter(|one| one["type"] == "NetworkUnavailable");
    let found = ours.next().cloned();
    assert!(ours.next().is_none(), "one condition of a type");
    found
}

#[tokio::test(start_paused = true)]
async fn a_hundred_same_publications_are_one_write_of_each_thing_and_a_quiet_minute_is_quiet() {
    let server = server();
    let writer = writer(&server);
    for _ in 0..100 {
        publish_all(&writer).await;
        sleep(Duration::from_millis(200)).await;
    }
    let asked = server.asked();
    let mut written = writes(&asked);
    written.sort();
    let event = written.iter().find(|one| one.contains("events.k8s.io"));
    assert_eq!(
        event.unwrap(),
        "POST /apis/events.k8s.io/v1/namespaces/default/events"
    );
    let expected = [
        format!("PATCH {NODE}/status"),
        format!("PATCH {STATUS}"),
        format!("PATCH {STATUS}/status"),
        format!("PATCH {PEER}/status"),
        "POST /apis/coordination.k8s.io/v1/namespaces/portolan/leases".to_owned(),
        "POST /apis/events.k8s.io/v1/namespaces/default/events".to_owned(),
    ];
    let mut expected = expected.to_vec();
    expected.sort();
    assert_eq!(written, expected);

    for _ in 0..60 {
        publish_all(&writer).await;
        sleep(seconds(1)).await;
    }
    assert_eq!(server.asked().len(), asked.len(), "a quiet minute");
    let owner = &server.object(STATUS).unwrap()["metadata"]["ownerReferences"][0];
    let uid = &server.object(NODE).unwrap()["metadata"]["uid"];
    assert_eq!((&owner["kind"], &owner["uid"]), (&json!("Node"), uid));
}

#[tokio::test(start_paused = true)]
async fn a_restarted_agent_writes_again_only_what_is_not_there() {
    let server = server();
    let first = writer(&server);
    publish_all(&first).await;
    sleep(seconds(30)).await;
    drop(first);
    let before = server.asked().len();
    let second = writer(&server);
    publish_all(&second).await;
    sleep(seconds(30)).await;
    let written = writes(&server.asked()[before..]);
    // Who writes the BGPNodeStatus does not know what was there; the Event is refused as there.
    assert_eq!(
        written,
        [
            format!("PATCH {STATUS}"),
            format!("PATCH {STATUS}/status"),
            "POST /apis/events.k8s.io/v1/namespaces/default/events".to_owned(),
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn up_takes_off_the_startup_taint_and_down_is_said_with_its_reason() {
    let server = server();
    let other = json!({"key": "gpu", "effect": "NoSchedule"});
    let ours = json!({"key": TAINT, "effect": "NoSchedule"});
    server.put(NODE, node(&json!([ours, other])));
    let writer = writer(&server);
    let down = NodeHealth::Down {
        message: "no BGP".to_owned(),
    };
    writer.publish_node(down).await.unwrap();
    let said = condition(&server).unwrap();
    assert_eq!(
        (&said["status"], &said["message"]),
        (&json!("True"), &json!("no BGP"))
    );
    let taints = server.object(NODE).unwrap()["spec"]["taints"].clone();
    assert_eq!(taints.as_array().unwrap().len(), 2, "not before it is up");
    writer.publish_node(NodeHealth::Up).await.unwrap();
    assert_eq!(condition(&server).unwrap()["reason"], "PortolanIsUp");
    assert_eq!(
        server.object(NODE).unwrap()["spec"]["taints"],
        json!([other])
    );
}

#[tokio::test(start_paused = true)]
async fn a_taint_that_another_puts_meanwhile_is_not_lost() {
    let server = server();
    let ours = json!({"key": TAINT, "effect": "NoSchedule"});
    let first = json!({"key": "unreachable", "effect": "NoExecute"});
    let last = json!({"key": "gpu", "effect": "NoSchedule"});
    server.put(NODE, node(&json!([ours])));
    let meanwhile = node(&json!([first, ours, last]));
    server.fail(
        |asked| asked.how.contains("json-patch"),
        Fault::Meanwhile(NODE.to_owned(), meanwhile),
    );
    let writer = writer(&server);
    writer.publish_node(NodeHealth::Up).await.unwrap();
    // The other's Node has lost the condition, too.
    assert_eq!(server.asked_of(&Method::PATCH, "nodes/n1").len(), 4);
    let taints = server.object(NODE).unwrap()["spec"]["taints"].clone();
    assert_eq!(taints, json!([first, last]));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_registered_anew_is_told_again() {
    let server = server();
    let writer = writer(&server);
    writer.publish_node(NodeHealth::Up).await.unwrap();
    sleep(seconds(1)).await;
    server.remove(NODE);
    server.put(NODE, node(&json!([{"key": TAINT, "effect": "NoSchedule"}])));
    let before = server.asked().len();
    sleep(seconds(40)).await;
    assert_eq!(condition(&server).unwrap()["status"], "False");
    assert_eq!(server.object(NODE).unwrap()["spec"]["taints"], json!([]));
    assert_eq!(server.asked().len(), before + 2, "two patches");
}

#[tokio::test(start_paused = true)]
async fn who_writes_the_condition_otherwise_again_and_again_is_answered_ever_more_slowly() {
    let server = server();
    let writer = writer(&server);
    writer.publish_node(NodeHealth::Up).await.unwrap();
    let start = server.asked().len();
    for _ in 0..3600 {
        if condition(&server).is_some_and(|one| one["reason"] == "PortolanIsUp") {
            server.put(NODE, node(&json!([])));
        }
        sleep(seconds(1)).await;
    }
    let written = writes(&server.asked()[start..]).len();
    assert!((5..=12).contains(&written), "{written}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_asks_for_patience_gets_it() {
    let server = server();
    server.fail(|asked| asked.path.starts_with(NODE), Fault::Refused(429, 7));
    let writer = writer(&server);
    writer.publish_node(NodeHealth::Up).await.unwrap();
    let asked = server.asked();
    let waited = asked[1].at - asked[0].at;
    assert!(waited >= seconds(7) && waited < seconds(9), "{waited:?}");

    // More than one request waits for: the caller's backoff does.
    server.fail(
        |asked| asked.path.starts_with(NODE),
        Fault::Refused(429, 45),
    );
    let down = NodeHealth::Down {
        message: "stopping".to_owned(),
    };
    let before = server.asked().len();
    let error = writer.publish_node(down).await.unwrap_err().to_string();
    assert!(error.contains("429"), "{error}");
    sleep(seconds(44)).await;
    assert_eq!(server.asked().len(), before + 1);
    sleep(seconds(5)).await;
    assert_eq!(condition(&server).unwrap()["reason"], "PortolanIsDown");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_answers_holds_up_nobody_and_is_told_in_the_end() {
    let server = server();
    for _ in 0..40 {
        server.fail(|_| true, Fault::Hang);
    }
    let writer = writer(&server);
    let start = Instant::now();
    writer.publish_bgp(established(2)).await.unwrap();
    writer.publish_events(vec![warning(1)]).await.unwrap();
    writer.publish_conditions(accepted("fine")).await.unwrap();
    assert_eq!(Instant::now(), start, "nothing waits");
    let error = writer.publish_node(NodeHealth::Up).await.unwrap_err();
    assert!(
        error.to_string().contains("no answer within 10 s"),
        "{error}"
    );
    assert!(Instant::now() - start < seconds(60));
    sleep(seconds(900)).await;
    assert_eq!(condition(&server).unwrap()["reason"], "PortolanIsUp");
    assert_eq!(server.object(STATUS).unwrap()["status"]["established"], 2);
    let peer = server.object(PEER).unwrap();
    assert_eq!(peer["status"]["conditions"][0]["reason"], "Valid");
    assert!(server.asked_of(&Method::POST, "/events").len() > 1);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_away_for_an_hour_is_asked_seldom_and_told_everything_when_it_is_back() {
    let server = server();
    server.set_away(true);
    let writer = writer(&server);
    let _ = writer.publish_node(NodeHealth::Up).await;
    writer.publish_bgp(established(1)).await.unwrap();
    writer.publish_events(vec![warning(1)]).await.unwrap();
    writer.publish_conditions(accepted("fine")).await.unwrap();
    sleep(seconds(3600)).await;
    let asked = server.asked().len();
    assert!((100..1500).contains(&asked), "four tasks: {asked}");
    writer.publish_bgp(established(2)).await.unwrap();
    server.set_away(false);
    sleep(seconds(120)).await;
    assert_eq!(condition(&server).unwrap()["status"], "False");
    assert_eq!(server.object(STATUS).unwrap()["status"]["established"], 2);
    assert!(server.object(PEER).unwrap()["status"].is_object());
    assert!(server.asked_of(&Method::POST, "/events").len() > 1);
    let before = server.asked().len();
    sleep(seconds(60)).await;
    assert_eq!(server.asked().len(), before);
}

#[tokio::test(start_paused = true)]
async fn a_status_that_changes_every_second_is_written_every_ten() {
    let server = server();
    let writer = writer(&server);
    for number in 0..60 {
        writer.publish_bgp(established(number)).await.unwrap();
        sleep(seconds(1)).await;
    }
    sleep(seconds(15)).await;
    let written = server.asked_of(&Method::PATCH, "bgpnodestatuses/n1/status");
    assert!((7..=9).contains(&written.len()), "{}", written.len());
    assert_eq!(server.object(STATUS).unwrap()["status"]["established"], 59);
    assert!(written.iter().all(|asked| asked.how.contains("apply")));
}

#[tokio::test(start_paused = true)]
async fn a_status_whose_node_is_registered_anew_is_made_again_and_is_the_new_nodes() {
    let server = server();
    let writer = writer(&server);
    writer.publish_bgp(established(2)).await.unwrap();
    sleep(seconds(20)).await;
    server.remove(NODE);
    sleep(seconds(20)).await;
    server.put(NODE, node(&json!([])));
    sleep(seconds(20)).await;
    let owner = server.object(STATUS).unwrap()["metadata"]["ownerReferences"][0].clone();
    assert_eq!(
        owner["uid"],
        server.object(NODE).unwrap()["metadata"]["uid"]
    );
    // Someone deletes it by hand: the next change makes it again.
    server.remove(STATUS);
    writer.publish_bgp(established(3)).await.unwrap();
    sleep(seconds(20)).await;
    assert_eq!(server.object(STATUS).unwrap()["status"]["established"], 3);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_written_before_the_server_has_told_of_the_node_and_all_after() {
    let server = Fake::default();
    let writer = writer(&server);
    writer.publish_bgp(established(2)).await.unwrap();
    let error = writer.publish_node(NodeHealth::Up).await.unwrap_err();
    assert!(error.to_string().contains("not told"), "{error}");
    sleep(seconds(60)).await;
    assert!(server.asked().is_empty());
    server.put(NODE, node(&json!([])));
    sleep(seconds(120)).await;
    assert_eq!(condition(&server).unwrap()["reason"], "PortolanIsUp");
    assert_eq!(server.object(STATUS).unwrap()["status"]["established"], 2);
}

#[tokio::test(start_paused = true)]
async fn an_event_that_comes_again_counts_in_a_series_and_one_that_expired_is_made_anew() {
    let server = server();
    let writer = writer(&server);
    writer.publish_events(vec![warning(1)]).await.unwrap();
    sleep(seconds(5)).await;
    let made = server.asked_of(&Method::POST, "/events");
    let name = made[0].body["metadata"]["name"].as_str().unwrap();
    let path = format!("{}/{name}", made[0].path);
    let uid = &server.object(PEER).unwrap()["metadata"]["uid"];
    assert_eq!(&made[0].body["regarding"]["uid"], uid);
    writer.publish_events(vec![warning(4)]).await.unwrap();
    sleep(seconds(590)).await;
    assert!(server.object(&path).unwrap().get("series").is_none());
    sleep(seconds(20)).await;
    assert_eq!(server.object(&path).unwrap()["series"]["count"], 4);
    server.remove(&path);
    writer.publish_events(vec![warning(5)]).await.unwrap();
    sleep(seconds(620)).await;
    assert!(server.object(&path).is_some());
    assert_eq!(server.asked_of(&Method::POST, "/events").len(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_event_that_a_server_just_started_refuses_is_there_soon_after() {
    let server = server();
    // As long as it knows nobody's rights, or not all of its kinds.
    for code in [403, 404] {
        let posted =
            |asked: &Asked| asked.method == Method::POST && asked.path.ends_with("/events");
        server.fail(posted, Fault::Refused(code, 0));
    }
    let writer = writer(&server);
    writer.publish_events(vec![warning(1)]).await.unwrap();
    sleep(seconds(5)).await;
    // It is no wait that grows with what is said anew meanwhile.
    writer.publish_events(vec![warning(2)]).await.unwrap();
    sleep(seconds(55)).await;
    assert_eq!(server.asked_of(&Method::POST, "/events").len(), 3);
    assert_eq!(server.asked_of(&Method::PATCH, "/events").len(), 0);
    sleep(seconds(600)).await;
    assert_eq!(
        server.asked_of(&Method::POST, "/events").len(),
        3,
        "it is there"
    );
}

#[tokio::test(start_paused = true)]
async fn an_event_that_the_server_will_never_have_is_tried_ever_more_seldom() {
    let server = server();
    for _ in 0..100 {
        let event = |asked: &Asked| asked.path.ends_with("/events");
        server.fail(event, Fault::Refused(403, 0));
    }
    let writer = writer(&server);
    writer.publish_events(vec![warning(1)]).await.unwrap();
    sleep(seconds(3600)).await;
    let tried = server.asked_of(&Method::POST, "/events").len();
    // At 0, 10, 40, 130 and 400 s, then every 600 s.
    assert_eq!(tried, 10);
}

#[tokio::test(start_paused = true)]
async fn of_many_nodes_that_claim_a_block_at_once_one_has_it() {
    let server = server();
    let cidr: IpNet = "10.48.0.0/26".parse().unwrap();
    let claims = (0..20).map(|number| {
        let (connection, _) = server.connect(&format!("n{number}"));
        let calls = Calls::new(connection.client);
        async move {
            blocks::claim(&calls, &format!("n{number}"), &cidr)
                .await
                .unwrap()
        }
    });
    let claims = futures_util::future::join_all(claims).await;
    let ours = claims.iter().filter(|claim| **claim == Claim::Ours).count();
    assert_eq!(ours, 1);
    let block = server.object("/apis/portolan.io/v1alpha1/ipamblocks/10-48-0-0-26");
    let node = block.unwrap()["spec"]["node"].as_str().map(str::to_owned);
    let taken = Claim::Taken { node };
    assert_eq!(claims.iter().filter(|claim| **claim == taken).count(), 19);
}

#[tokio::test(start_paused = true)]
async fn a_claim_whose_answer_is_lost_is_ours_and_is_given_back_by_us_alone() {
    let server = server();
    let writer = writer(&server);
    let cidr: IpNet = "10.48.0.0/26".parse().unwrap();
    server.fail(|asked| asked.method == Method::POST, Fault::AnswerLost);
    assert_eq!(writer.claim_block(cidr).await.unwrap(), Claim::Ours);
    let (other, _) = server.connect("n2");
    let other = Calls::new(other.client);
    let refused = blocks::release(&other, "n2", &cidr).await.unwrap();
    assert_eq!(refused, Release::NotOurs(Some("n1".to_owned())));
    writer.release_block(cidr).await.unwrap();
    writer.release_block(cidr).await.unwrap();
    assert_eq!(
        blocks::claim(&other, "n2", &cidr).await.unwrap(),
        Claim::Ours
    );
    let error = writer.release_block(cidr).await.unwrap_err().to_string();
    assert_eq!(
        error,
        "the block 10.48.0.0/26 is held by n2: only its node releases it"
    );
}

#[tokio::test(start_paused = true)]
async fn a_block_that_changes_hands_while_it_is_released_stays_with_its_new_node() {
    let server = server();
    let writer = writer(&server);
    let cidr: IpNet = "10.48.0.0/26".parse().unwrap();
    writer.claim_block(cidr).await.unwrap();
    let path = "/apis/portolan.io/v1alpha1/ipamblocks/10-48-0-0-26";
    let mut others = server.object(path).unwrap();
    others["spec"]["node"] = json!("n2");
    server.fail(
        |asked| asked.method == Method::DELETE,
        Fault::Meanwhile(path.to_owned(), others),
    );
    assert!(writer.release_block(cidr).await.is_err());
    assert_eq!(server.object(path).unwrap()["spec"]["node"], "n2");
}

#[tokio::test(start_paused = true)]
async fn keys_are_written_by_themselves_and_the_object_is_made_where_there_is_none() {
    let server = server();
    let writer = writer(&server);
    sleep(seconds(1)).await;
    let key = |slot: u8, letter: u8| api::crd::NodeWireGuardKey {
        slot,
        public_key: char::from(letter).to_string(),
        port: 51820 + u16::from(slot),
        retiring: slot == 1,
    };
    let keys = NodeWireGuard {
        keys: vec![key(0, b'a'), key(1, b'b')],
    };
    writer.publish_keys(keys.clone()).await.expect("written");
    writer.publish_keys(keys).await.expect("written again");
    let asked = server.asked();
    let status = asked
        .iter()
        .filter(|one| one.path == format!("{STATUS}/status"));
    let applied: Vec<&Asked> = status.collect();
    assert_eq!(
        applied.len(),
        3,
        "one before the object was there: {applied:?}"
    );
    for one in &applied {
        assert_eq!(one.query, "fieldManager=portolan-wireguard", "{one:?}");
        assert_eq!(one.how, "application/apply-patch+yaml");
        let said: Vec<&String> = one.body["status"]
            .as_object()
            .expect("fields")
            .keys()
            .collect();
        assert_eq!(said, ["wireGuard"]);
    }
    assert_eq!(
        applied[2].body["status"]["wireGuard"]["keys"][1]["retiring"],
        json!(true)
    );
    let made = asked
        .iter()
        .filter(|one| one.path == STATUS && one.method == Method::PATCH);
    let made: Vec<&Asked> = made.collect();
    assert_eq!(made.len(), 1);
    assert_eq!(made[0].query, "fieldManager=portolan-agent");
}
