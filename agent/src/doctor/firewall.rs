//! Checks of iptables: one back end, the accepting rule under a policy of DROP, our jumps first, and nobody else's hands on our marks.

use std::collections::BTreeSet;

use netfilter::Family;

use super::bound;
use super::catalog::{FORWARD_ACCEPT, IPTABLES_BACKEND, JUMPS_FIRST, MARK_CLASH};
use super::finding::Finding;
use super::listing::{Chain, Listing, is_ours, leads_to_ours, target, words};
use crate::firewall::{Backend, Look};

/// Built-in chains of the filter table into which our jumps go, as far as there are any.
const ENTRANCES: [&str; 3] = ["INPUT", "FORWARD", "OUTPUT"];
/// What a mark is written or read with, in the words of `iptables-save`.
const MARK_WORDS: [&str; 4] = ["--set-xmark", "--mark", "--nfmask", "--set-mark"];
/// How many findings of one kind are told.
const TOLD: usize = 4;

/// What is in the kernel.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// Of both back ends, or why that is not known.
    pub(super) listings: Result<Vec<Listing>, String>,
    /// Which one the agent writes to, if it answers.
    pub(super) chosen: Option<Backend>,
    /// Whether an agent answers that is to have policy in force.
    pub(super) has_agent: bool,
    /// Our bits.
    pub(super) mask: u32,
}

impl Facts {
    /// Reads both back ends.
    pub(super) fn gather(chosen: Option<&str>, has_agent: bool, mask: u32) -> Self {
        let named = |name: &str| Backend::BOTH.into_iter().find(|one| one.name() == name);
        let listings = match bound::asynchronous(Look::now()) {
            Ok(Ok(look)) => Ok(parsed(&look)),
            Ok(Err(error)) => Err(error.to_string()),
            Err(error) => Err(format!("iptables-save: {error}")),
        };
        Self {
            listings,
            chosen: chosen.and_then(named),
            has_agent,
            mask,
        }
    }
}

fn parsed(look: &Look) -> Vec<Listing> {
    let of = |(backend, texts): (&Backend, &[String; 2])| {
        let [v4, v6] = texts;
        [(Family::V4, v4), (Family::V6, v6)]
            .map(|(family, text)| Listing::parse(*backend, family, text))
    };
    look.listings.iter().flat_map(of).collect()
}

/// Judges.
pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let listings = match &facts.listings {
        Ok(listings) => listings,
        Err(why) => {
            let checks = [
                &IPTABLES_BACKEND,
                &FORWARD_ACCEPT,
                &JUMPS_FIRST,
                &MARK_CLASH,
            ];
            return checks
                .map(|check| check.skipped(format!("rules cannot be read: {why}")))
                .into();
        }
    };
    let mut findings = backend(facts, listings);
    let ours: Vec<&Listing> = listings
        .iter()
        .filter(|listing| listing.has_ours())
        .collect();
    findings.extend(accepts(listings, &ours));
    findings.extend(jumps(facts, &ours));
    findings.extend(marks(facts, listings));
    findings
}

fn backend(facts: &Facts, listings: &[Listing]) -> Vec<Finding> {
    let used = |backend: Backend| {
        let of_it = listings.iter().filter(move |one| one.backend == backend);
        let mut rules = of_it.flat_map(|one| one.others().map(move |(chain, _)| (one, chain)));
        let mut chains: Vec<String> = Vec::new();
        for (listing, chain) in rules.by_ref() {
            let named = format!("{} -t {} -F {}", listing.program(), chain.table, chain.name);
            if !chains.contains(&named) {
                chains.push(named);
            }
        }
        chains
    };
    let ours_in = |backend: Backend| {
        let mut listings = listings.iter();
        listings.any(|one| one.backend == backend && one.has_ours())
    };
    let holds_ours = Backend::BOTH.into_iter().find(|backend| ours_in(*backend));
    let right = facts.chosen.or(holds_ours).unwrap_or(Backend::Nft);
    let wrong = right.other();
    let mut findings = Vec::new();
    let (here, there) = (used(right), used(wrong));
    if !here.is_empty() && !there.is_empty() {
        let what = format!(
            "rules of others are in both back ends: {} chains in {}, {} in {}",
            here.len(),
            right.name(),
            there.len(),
            wrong.name()
        );
        let cause = format!(
            "every packet passes both, and who looks at one sees half of it; {}look with `iptables-{}-save` whose they are: a \
             program that uses the other `iptables` of this host, or leftovers",
            match (facts.has_agent, facts.chosen) {
                (true, None) => "the agent writes nothing until that is decided; ",
                _ => "",
            },
            wrong.name()
        );
        let remedy = there.into_iter().take(TOLD).collect::<Vec<_>>().join("; ");
        findings.push(match facts.chosen {
            None if facts.has_agent => IPTABLES_BACKEND.failure(what, cause, remedy),
            _ => IPTABLES_BACKEND.warning(what, cause, remedy),
        });
    }
    if ours_in(right) && ours_in(wrong) {
        findings.push(IPTABLES_BACKEND.warning(
            format!(
                "rules of ours are in both back ends; the agent writes to {}",
                right.name()
            ),
            "the agent was started with another --iptables, and what it left is still in force",
            super::agent::RESTART,
        ));
    }
    IPTABLES_BACKEND.or_ok(
        findings,
        format!("{}, and no rules in {}", right.name(), wrong.name()),
    )
}

/// A policy of DROP hurts whatever our last rule does not accept.
fn accepts(listings: &[Listing], ours: &[&Listing]) -> Vec<Finding> {
    let is_accept = |rule: &String| is_ours(rule) && target(rule) == Some("ACCEPT");
    let forward = |listing: &&Listing| listing.chain("filter", "FORWARD").cloned();
    let accepted = |family: Family| {
        let mut of_family = ours.iter().filter(|listing| listing.family == family);
        of_family.any(|one| forward(one).is_some_and(|chain| chain.rules.iter().any(is_accept)))
    };
    let mut findings = Vec::new();
    for listing in listings {
        let drops = forward(&listing).is_some_and(|chain| chain.policy == "DROP");
        if drops && !accepted(listing.family) {
            findings.push(FORWARD_ACCEPT.failure(
                format!("{}: the policy of FORWARD is DROP, and no rule of ours accepts", listing.program()),
                "Docker and some firewalls set that policy; the agent accepts what policy allowed as its last rule there, so it \
                 is not running, or somebody removed the rule",
                format!("{} -P FORWARD ACCEPT", listing.program()),
            ));
        }
    }
    FORWARD_ACCEPT.or_ok(findings, "what policy allows is accepted")
}

fn jumps(facts: &Facts, ours: &[&Listing]) -> Vec<Finding> {
    if ours.is_empty() {
        let what = "no chain of ours is in the kernel";
        return vec![match facts.has_agent {
            true => JUMPS_FIRST.failure(
                what,
                "policy is not in force: the agent could not write its rules, and says why",
                "portolan status",
            ),
            false => JUMPS_FIRST.skipped(what),
        }];
    }
    let mut findings = Vec::new();
    for listing in ours {
        for name in ENTRANCES {
            if let Some(chain) = listing.chain("filter", name) {
                findings.extend(jump(listing, chain));
            }
        }
    }
    JUMPS_FIRST.or_ok(findings, "packets come to our chains first")
}

fn jump(listing: &Listing, chain: &Chain) -> Option<Finding> {
    let program = listing.program();
    let name = &chain.name;
    let Some(place) = chain.rules.iter().position(|rule| leads_to_ours(rule)) else {
        // Only FORWARD has a jump whatever there is.
        return (name == "FORWARD").then(|| {
            JUMPS_FIRST.failure(
                format!("{program}: FORWARD does not lead into our chains"),
                "policy is not in force for this family: somebody emptied FORWARD, and the agent does not run or cannot write",
                format!("{program} -I FORWARD 1 -j PTL-FORWARD"),
            )
        });
    };
    let rule = chain.rules.get(place).filter(|_| place > 0)?;
    let first = chain.rules.first()?;
    Some(JUMPS_FIRST.warning(
        format!("{program}: {name} has {place} rules before ours, the first is `{first}`"),
        "what they accept passes whatever policy says; the agent moves its jump back within seconds, so it is not running or \
         cannot write",
        format!("{program} -D {name} {rule}; {program} -I {name} 1 {rule}"),
    ))
}

fn marks(facts: &Facts, listings: &[Listing]) -> Vec<Finding> {
    let mut touched = 0;
    let mut clashes = Vec::new();
    for listing in listings {
        for (chain, rule) in listing.others() {
            let bits = mark_bits(rule);
            touched |= bits;
            if bits & facts.mask != 0 {
                clashes.push((listing, chain, rule, bits));
            }
        }
    }
    let programs: BTreeSet<&str> = clashes
        .iter()
        .map(|(_, chain, ..)| chain.name.as_str())
        .collect();
    let names: Vec<&str> = programs.into_iter().collect();
    let free = free_mask(touched | kube_proxy_bits());
    let way_out = match free {
        Some(mask) => format!(
            "no rule here touches {mask:#010x}: the agent can have that by --mark-mask instead"
        ),
        None => {
            "give that rule a mask (--set-xmark VALUE/MASK) that leaves our bits out".to_owned()
        }
    };
    let findings = clashes.iter().take(TOLD).map(|(listing, chain, rule, bits)| {
        let program = listing.program();
        MARK_CLASH.warning(
            format!(
                "{program}: `{rule}` in {} {} touches bits {bits:#010x} of packet marks, ours are {:#010x}",
                chain.table, chain.name, facts.mask
            ),
            format!("what policy noted on a packet is overwritten or misread ({}); {way_out}", names.join(", ")),
            format!("{program} -t {} -D {} {rule}", chain.table, chain.name),
        )
    });
    MARK_CLASH.or_ok(
        findings.collect(),
        format!("nobody else uses {:#010x}", facts.mask),
    )
}

/// The bits of packet marks that a rule writes or reads.
fn mark_bits(rule: &str) -> u32 {
    let words = words(rule);
    let mut bits = 0;
    let mut module = "";
    for pair in words.windows(2) {
        let [word, value] = pair else { continue };
        match *word {
            "-m" | "-j" => module = value,
            // `--mark` of connmark reads the connection's mark, not the packet's.
            "--mark" if module == "connmark" => {}
            word if MARK_WORDS.contains(&word) => bits |= bits_of(word, value),
            _ => {}
        }
    }
    bits
}

/// `VALUE/MASK` touches both; without a mask it touches all; a mask alone is itself.
fn bits_of(word: &str, value: &str) -> u32 {
    let number = |text: &str| match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    };
    // `! --mark` has its value behind as well; what is no number touches nothing that can be told.
    match (word, value.split_once('/')) {
        ("--nfmask", _) => number(value).unwrap_or_default(),
        (_, Some((value, mask))) => {
            number(value).unwrap_or_default() | number(mask).unwrap_or_default()
        }
        (_, None) => number(value).map_or(0, |_| u32::MAX),
    }
}

/// KUBE-MARK-DROP and KUBE-MARK-MASQ.
fn kube_proxy_bits() -> u32 {
    0x0000_c000
}

/// Four bits in a row that nobody uses.
fn free_mask(touched: u32) -> Option<u32> {
    let candidates = (0..8).rev().map(|nibble| 0xf_u32 << (nibble * 4));
    candidates.into_iter().find(|mask| touched & mask == 0)
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::super::listing::tests::nft;
    use super::*;

    const OURS: &str = "*filter\n:FORWARD ACCEPT [0:0]\n:PTL-FORWARD - [0:0]\n-A FORWARD -m comment --comment \"ptl:0a\" -j PTL-FORWARD\n\
        -A FORWARD -m mark --mark 0x10000/0x10000 -m comment --comment \"ptl:0b\" -j ACCEPT\nCOMMIT\n";

    fn judged(text: &str) -> Vec<Finding> {
        let legacy = Listing::parse(Backend::Legacy, Family::V4, "");
        judge(&Facts {
            listings: Ok(vec![nft(text), legacy]),
            chosen: Some(Backend::Nft),
            has_agent: true,
            mask: 0x000f_0000,
        })
    }

    fn only_bad(text: &str) -> Finding {
        Finding::only_bad(judged(text))
    }

    #[test]
    fn ours_alone_are_well_and_a_policy_of_drop_is_well_with_our_accepting_rule() {
        for text in [
            OURS.to_owned(),
            OURS.replace("FORWARD ACCEPT", "FORWARD DROP"),
        ] {
            let verdicts: Vec<Verdict> = judged(&text).iter().map(|f| f.verdict).collect();
            assert_eq!(verdicts, [Verdict::Ok; 4]);
        }
        let without = OURS
            .replace("FORWARD ACCEPT", "FORWARD DROP")
            .replace("-j ACCEPT", "-j RETURN");
        let found = only_bad(&without);
        assert_eq!(found.remedy, "iptables-nft -P FORWARD ACCEPT");
    }

    #[test]
    fn a_rule_before_our_jump_is_told_with_how_to_move_ours() {
        let text = OURS.replacen("-A FORWARD", "-A FORWARD -j DOCKER\n-A FORWARD", 1);
        let found = only_bad(&text);
        assert_eq!(
            (found.check, found.verdict),
            ("jumps-first", Verdict::Warning)
        );
        assert!(
            found
                .remedy
                .ends_with("-I FORWARD 1 -m comment --comment \"ptl:0a\" -j PTL-FORWARD")
        );
        let found = only_bad(&OURS.replace("-j PTL-FORWARD", "-j RETURN"));
        assert_eq!(
            (found.check, found.verdict),
            ("jumps-first", Verdict::Failure)
        );
    }

    #[test]
    fn rules_of_others_in_the_other_back_end_are_told_with_their_chains() {
        let legacy = "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -i x -j DROP\nCOMMIT\n";
        let theirs = OURS.replace("COMMIT", "-A FORWARD -j LOG\nCOMMIT");
        let facts = Facts {
            listings: Ok(vec![
                nft(&theirs),
                Listing::parse(Backend::Legacy, Family::V4, legacy),
            ]),
            chosen: None,
            has_agent: true,
            mask: 0x000f_0000,
        };
        let found = judge(&facts).remove(0);
        assert_eq!(found.verdict, Verdict::Failure);
        assert_eq!(found.remedy, "iptables-legacy -t filter -F FORWARD");
    }

    #[test]
    fn marks_that_touch_our_bits_are_told_and_kube_proxys_are_not() {
        for (rule, bits) in [
            ("-j MARK --set-xmark 0x4000/0x4000", 0x4000),
            ("-m mark --mark 0x10000/0xf0000 -j DROP", 0xf0000),
            ("-m mark ! --mark 0x1 -j DROP", u32::MAX),
            ("-m connmark --mark 0x10000 -j DROP", 0),
            (
                "-j CONNMARK --restore-mark --nfmask 0xff0000 --ctmask 0xff",
                0xff_0000,
            ),
            ("-j MARK --set-xmark 0x1/0xffffffff", u32::MAX),
            ("-m comment --comment \"--mark 0x10000\" -j DROP", 0),
        ] {
            assert_eq!(mark_bits(rule), bits, "{rule}");
        }
        let text = OURS.replace(
            "COMMIT",
            "-A FORWARD -m mark --mark 0x20000/0x20000 -j DROP\nCOMMIT",
        );
        let found = only_bad(&text);
        assert_eq!(found.check, "mark-clash");
        assert!(found.cause.contains("0xf0000000"), "{}", found.cause);
        assert!(
            found
                .remedy
                .starts_with("iptables-nft -t filter -D FORWARD -m mark")
        );
    }
}
