//! The answer: what it says, or where on its way back through this node it ends.

use routes::{NoWay, Way};

use super::super::catalog::{LISTENER, LOST};
use super::super::evidence::{Evidence, Purpose};
use super::super::packet::{IcmpError, Kind, Transport};
use super::super::watch::{Direction, Place};
use super::inside::{counted, reverse_path};
use super::{Step, Walk};

pub(super) fn judge(walk: &mut Walk<'_>) -> Step {
    let e = walk.evidence;
    if let Some(answer) = answer(e) {
        return match answer {
            Answer::Takes(words) => {
                walk.passed(walk.target(), words);
                Step::On
            }
            Answer::Refuses => refused(walk),
        };
    }
    let came_by = e
        .answers(Place::Node, Direction::In)
        .next()
        .map(|one| one.link);
    let Some(link) = came_by else {
        return Step::On;
    };
    let name = e.link_name(link);
    if let Some(broken) = counted(walk) {
        return broken.into();
    }
    if e.node.way_back == Some(Way::Nowhere(NoWay::ReversePath)) {
        return reverse_path(walk, &name).into();
    }
    let (to, source) = (walk.host_end(), e.ends.from);
    LOST.at(
        walk.node(),
        format!("the answer comes back by {name} and does not get to the pod"),
        "no counted rule and no reverse path filter explains it: the pod's route may be missing, or the kernel does not know the \
         connection any more",
        format!("ip route get {source}; ip link show dev {to}; portolan doctor"),
    )
    .into()
}

enum Answer {
    Takes(&'static str),
    Refuses,
}

/// What came back to the pod.
fn answer(e: &Evidence) -> Option<Answer> {
    let numbers: Vec<u16> = e.numbers(Purpose::Reach).collect();
    let here = e
        .sightings
        .iter()
        .filter(|one| one.place == Place::Source && one.direction == Direction::In);
    let mut answers = here.filter_map(|one| match one.seen.kind {
        Kind::Accepted(number) if numbers.contains(&number) => {
            Some(Answer::Takes("the connection is taken (SYN, ACK)"))
        }
        Kind::Answered(number) if number.is_none_or(|number| numbers.contains(&number)) => {
            Some(Answer::Takes("it answers"))
        }
        Kind::Refused(number) if numbers.contains(&number) => Some(Answer::Refuses),
        Kind::Error {
            number,
            error: IcmpError::PortClosed,
        } if numbers.contains(&number) => Some(Answer::Refuses),
        _ => None,
    });
    answers.next()
}

fn refused(walk: &Walk<'_>) -> Step {
    let e = walk.evidence;
    let port = e.ends.port;
    let flag = if e.ends.transport == Transport::Udp {
        "-lun"
    } else {
        "-ltn"
    };
    let enter = e.target.as_ref().map_or("", |target| target.enter.as_str());
    let place = match (&e.target, &e.ends.target_node) {
        (None, Some(node)) => format!(" (in the pod, on node {node})"),
        _ => String::new(),
    };
    LISTENER
        .at(
            walk.target(),
            format!("it is reached, and refuses: nothing listens on port {port}"),
            "the program has ended, has not started yet, listens on another port, or on 127.0.0.1 alone",
            format!("{enter} ss {flag}{place}").trim().to_owned(),
        )
        .into()
}
