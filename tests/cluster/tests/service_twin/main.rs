//! The twin: the real kube-proxy and our agent watch one API server, each in a world of its own of the same shape, and every
//! sender at every address and port of every Service gets the same from both, or the difference is a listed decision.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

mod around;
mod ask;
mod cases;
mod changes;
mod compare;
mod differences;
mod lab;
mod objects;
mod world;

use std::collections::BTreeSet;

use tests::rack::say;
use tests::require_root;

use crate::compare::{Question, Tally, compare, questions};
use crate::differences::Difference;
use crate::lab::{Lab, Mode};
use crate::objects::Case;

/// Fewer would say that Services or senders are missing.
const LEAST: [usize; 4] = [3700, 2800, 400, 420];

fn all_of(cases: &[Case]) -> Vec<Question> {
    cases
        .iter()
        .flat_map(|case| questions(case).unwrap())
        .collect()
}

/// Every Service as it is first made.
fn static_comparison(
    lab: &Lab,
    cases: &[Case],
    differences: &'static [Difference],
    what: &str,
) -> Tally {
    let tally = compare(&lab.worlds, &all_of(cases), differences)
        .unwrap_or_else(|error| panic!("{error:#}"));
    tally.tell(what);
    let shown: BTreeSet<&str> = tally.differ.keys().copied().collect();
    let listed: BTreeSet<&str> = differences
        .iter()
        .map(|difference| difference.name)
        .collect();
    assert_eq!(
        shown, listed,
        "a listed difference that doesn't show is none"
    );
    let found = [tally.questions, tally.answered, tally.refused, tally.silent];
    for (found, least) in found.into_iter().zip(LEAST) {
        assert!(found >= least, "{found:?} of {LEAST:?}");
    }
    tally
}

/// The chains that people look for: both have those of the same names, in both families.
fn same_chains(lab: &Lab) {
    let [theirs, ours] = [0, 1].map(|world| changes::chains(&lab.saved(world).unwrap()));
    assert_eq!(theirs, ours);
    assert!(theirs.len() > 600, "{} chains", theirs.len());
    say(&format!("{} chains of the same names", theirs.len()));
}

/// What the document says of this mode is what the test has.
#[test]
fn listed_differences_stand_in_the_document() {
    let text = include_str!("../../../../docs/design/services.md");
    let (_, section) = text.split_once("## Differs from kube-proxy").unwrap();
    let section = section.split("\n## ").next().unwrap();
    for (mode, list) in differences::MODES {
        let rows = section.lines().filter_map(|line| {
            let mut cells = line.split('|').skip(1).map(str::trim);
            let (what, shown) = (cells.next()?, cells.next()?);
            shown
                .split(", ")
                .any(|shown| shown == *mode)
                .then_some(what)
        });
        let listed: BTreeSet<&str> = list.iter().map(|difference| difference.name).collect();
        assert_eq!(rows.collect::<BTreeSet<&str>>(), listed, "{mode}");
    }
}

#[test]
fn kube_proxy_and_we_do_the_same_for_every_sender_at_every_address() {
    require_root!();
    let mut lab = Lab::start().unwrap();
    let cases = cases::all();
    lab.create(&cases).unwrap();
    let mut first = "create";
    for (mode, differences) in [
        (Mode::Iptables, differences::IPTABLES),
        (Mode::Nftables, differences::NFTABLES),
    ] {
        lab.start_proxies(mode).unwrap();
        lab.settle(first, &[]).unwrap();
        first = "replace";
        say(&format!(
            "{mode:?}: {} Services are served by both",
            cases.len()
        ));
        static_comparison(&lab, &cases, differences, &format!("{mode:?}"));
        match mode {
            Mode::Iptables => same_chains(&lab),
            Mode::Nftables => changes::nothing_of_iptables_is_left(&lab).unwrap(),
        }
        let (asked, well) = around::health_checks(&lab).unwrap_or_else(|error| panic!("{error:#}"));
        say(&format!(
            "{asked} health checks answered alike, {well} of them with 200"
        ));
        assert!(asked >= 14 && well >= 4 && well < asked, "{asked} {well}");
        let zones = around::zones(&mut lab, &cases, differences);
        let zones = zones.unwrap_or_else(|error| panic!("{error:#}"));
        zones.tell("two changes of the node's zone");
        assert!(zones.questions >= 300, "{zones:?}");
        let series = changes::series(&mut lab, differences);
        let (tally, steps) = series.unwrap_or_else(|error| panic!("{error:#}"));
        tally.tell(&format!("{steps} changes"));
        assert!(steps >= 16 && tally.questions >= 550, "{steps} {tally:?}");
        let count = changes::many_endpoints(&mut lab).unwrap();
        say(&format!(
            "{count} endpoints in two slices answer in both worlds"
        ));
    }
    changes::nothing_is_left(&lab).unwrap();
}
