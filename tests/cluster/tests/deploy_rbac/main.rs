//! The rights that deploy/ gives, one by one, on the real API server: with all of them an agent, and the ingress controller, do
//! everything, and each one lets them do something that they cannot do without.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

mod agent;
mod effects;
mod ingress;
mod layer2;
mod rights;

use std::collections::BTreeSet;
use std::sync::OnceLock;
use std::time::Duration;

use agent::Agent;
use anyhow::{Result, ensure};
use cluster::{ControlPlane, Options, Timeline};
use effects::{Seen, is_seen};
use rights::{Account, Right};
use serde_json::{Value, json};
use tests::wait::eventually;

const TAINT: &str = "portolan.io/not-ready";
const SOON: Duration = Duration::from_secs(90);
/// How long those that lack a right are looked at after one that has all is done.
const A_WHILE: Duration = Duration::from_secs(3);
/// After so long a Lease is renewed, and a warning that comes again is written again.
const LATER: Duration = Duration::from_secs(601);
/// Of the account that lacks none.
const WHOLE: &str = "whole";

fn make(plane: &ControlPlane, objects: &[Value]) {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string();
    plane.kubectl_with(&["create", "-f", "-"], &list).unwrap();
}

/// A server as old ones are: on those that stream lists the right to list is needed for large kinds alone. For all agents.
fn plane() -> &'static ControlPlane {
    static PLANE: OnceLock<ControlPlane> = OnceLock::new();
    PLANE.get_or_init(|| {
        let plane = ControlPlane::start(Options {
            feature_gates: "WatchList=false".to_owned(),
            ..Options::default()
        });
        plane.install_crds();
        plane.install_cluster_network_policy();
        plane
    })
}

/// Agents of all accounts, in the timeline.
fn start(plane: &ControlPlane, timeline: &Timeline, accounts: &[Account]) -> Vec<Agent> {
    let start = |account: &Account| {
        let kubeconfig = account.kubeconfig(plane);
        timeline
            .run(Agent::start(account.clone(), kubeconfig))
            .unwrap()
    };
    accounts.iter().map(start).collect()
}

/// That all these rights are seen of an agent.
fn ensure_all(plane: &ControlPlane, agent: &Agent, rights: &[&Right]) -> Result<()> {
    let seen = Seen::now(plane)?;
    let missing: Vec<String> = rights
        .iter()
        .filter(|right| !is_seen(right, agent, &seen))
        .map(|right| right.words())
        .collect();
    ensure!(
        missing.is_empty(),
        "not seen: {missing:?}; {}",
        agent.heard().problems
    );
    Ok(())
}

/// Who has made its Lease only after a leap of the clock would not have to renew it.
fn ensure_leases(plane: &ControlPlane, agents: &[Agent], rights: &[Right]) -> Result<()> {
    let makes = |right: &&Right| right.words() == "create leases";
    let makes: Vec<&Right> = rights.iter().filter(makes).collect();
    assert_eq!(makes.len(), 1);
    for agent in agents {
        let lacks = agent.account.lacks.as_ref();
        if lacks.is_some_and(|right| right.words() == "update leases") {
            ensure_all(plane, agent, &makes)?;
        }
    }
    Ok(())
}

/// What each user was refused, as the rights' words.
fn refused(plane: &ControlPlane, user: &str) -> BTreeSet<String> {
    let requests = plane.requests().into_iter();
    requests
        .filter(|request| request.code == 403 && request.user == user)
        .map(|request| format!("{} {}", request.verb, request.resource))
        .collect()
}

/// As the server names the refusal of a right: an apply of what is not there needs two, and is logged as a patch.
fn as_refused(right: &Right) -> String {
    right
        .words()
        .replace("create bgpnodestatuses", "patch bgpnodestatuses")
}

#[test]
fn every_right_lets_the_agent_do_something_that_it_cannot_do_without() {
    let rights = rights::of_agent();
    assert!(rights.len() > 45, "{}", rights.len());
    let accounts = Account::all("", &rights);
    let plane = plane();
    let mut objects = Vec::new();
    for account in &accounts {
        objects.extend(account.objects(&rights));
        objects.extend(agent::objects(account));
    }
    make(plane, &objects);
    let timeline = Timeline::start().unwrap();
    let agents = start(plane, &timeline, &accounts);
    let whole = &agents[0];
    let of_verb = |verbs: &[&str]| -> Vec<&Right> {
        let has = |right: &&Right| verbs.contains(&right.verb.as_str());
        rights.iter().filter(has).collect()
    };
    eventually(SOON, "in sync", || {
        ensure_all(plane, whole, &of_verb(&["list"]))
    })
    .unwrap();

    // Those that may read everything work, and the others wait until they may.
    let reads = ["list", "watch"];
    let workers: Vec<Agent> = agents
        .iter()
        .filter(|agent| {
            let lacks = agent.account.lacks.as_ref();
            lacks.is_none_or(|right| !reads.contains(&right.verb.as_str()))
        })
        .cloned()
        .collect();
    eventually(SOON, "all that may read in sync", || {
        for agent in &workers {
            let heard = agent.heard();
            ensure!(
                heard.is_in_sync,
                "{}: {}",
                agent.account.name,
                heard.problems
            );
        }
        Ok(())
    })
    .unwrap();
    for worker in workers.clone() {
        timeline
            .run(async { drop(tokio::spawn(worker.work())) })
            .unwrap();
    }
    plane.apply(effects::LATER_OBJECTS);
    for name in [WHOLE, "no-watch-secrets"] {
        let change = r#"{"stringData":{"password":"second"}}"#;
        plane.kubectl(&["-n", name, "patch", "secret", "tor", "-p", change]);
    }
    eventually(SOON, "the first work", || {
        for agent in &workers {
            ensure!(
                agent.heard().done.contains("worked"),
                "{}",
                agent.account.name
            );
        }
        // Addresses are given once nothing can be under way of who had the Lease before, if others have written any.
        let later = ["update leases", "patch events", "patch services/status"];
        let is_first = |right: &&Right| !later.contains(&right.words().as_str());
        let first: Vec<&Right> = rights.iter().filter(is_first).collect();
        ensure_all(plane, whole, &first)?;
        ensure_leases(plane, &workers, &rights)
    })
    .unwrap();

    timeline.forward(LATER).unwrap();
    for worker in workers {
        timeline
            .run(async move { worker.say("two", 2).await })
            .unwrap();
    }
    let all: Vec<&Right> = rights.iter().collect();
    eventually(SOON, "all work", || ensure_all(plane, whole, &all)).unwrap();
    each_lacks_what_it_lacks(plane, &agents);
}

fn each_lacks_what_it_lacks(plane: &ControlPlane, agents: &[Agent]) {
    eventually(SOON, "a refusal of each", || {
        for agent in agents {
            let Account { name, lacks, .. } = &agent.account;
            let refused = refused(plane, &agent.account.user());
            ensure!(
                lacks.is_none() || !refused.is_empty(),
                "{name} was never refused"
            );
        }
        Ok(())
    })
    .unwrap();
    std::thread::sleep(A_WHILE);
    let seen = Seen::now(plane).unwrap();
    let mut looked_at = 0;
    for agent in agents {
        let Account { name, lacks, .. } = &agent.account;
        let refused = refused(plane, &agent.account.user());
        let wanted: BTreeSet<String> = lacks.iter().map(as_refused).collect();
        assert_eq!(refused, wanted, "{name}");
        let Some(right) = lacks else { continue };
        assert!(!is_seen(right, agent, &seen), "seen of {name}");
        if ["list", "watch"].contains(&right.verb.as_str()) {
            let said = agent.heard().problems;
            let is_said =
                said.to_lowercase().contains(&right.resource) && said.contains("orbidden");
            assert!(is_said, "{name}: {said}");
        }
        looked_at += 1;
    }
    assert_eq!(looked_at + 1, agents.len());
}
