//! The rights of the component for addresses without a router: what the agents' Leases are without each of them.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::ensure;
use cluster::Timeline;
use datastore::{
    AddressLeaseEvent, AddressLeases, ClusterSettings, LeaseNotWritten, NodeWrites,
    watch_kubernetes,
};
use tests::wait::eventually;

use crate::rights::{self, Account};
use crate::{SOON, make, plane, refused};

const DURATION: Duration = Duration::from_secs(30);
const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));
const PAUSE: Duration = Duration::from_millis(200);
/// For longer than the test waits.
const ROUNDS: usize = 1_000;

/// What came of an account's attempts, in the words of the right that each shows.
type Done = Arc<Mutex<BTreeSet<&'static str>>>;

fn note(done: &Done, what: &'static str) {
    done.lock().unwrap().insert(what);
}

async fn start(account: Account, kubeconfig: PathBuf) -> Done {
    let settings = ClusterSettings {
        kubeconfig: Some(kubeconfig),
        node: account.name.clone(),
        namespace: account.name,
        services: false,
        node_writes: NodeWrites::default(),
    };
    let source = watch_kubernetes(&settings).await.unwrap();
    let leases = source.address_leases.unwrap();
    let done = Done::default();
    tokio::spawn(watch(leases.clone(), done.clone()));
    tokio::spawn(write(leases, done.clone()));
    done
}

async fn watch(leases: AddressLeases, done: Done) {
    let mut told = leases.watch();
    while let Some(event) = told.recv().await {
        let what = match event {
            AddressLeaseEvent::All(_) => "list leases",
            AddressLeaseEvent::Changed(..) => "watch leases",
        };
        note(&done, what);
    }
}

/// Takes the Lease as if nobody had it, once more, renews it and gives it up, again and again.
async fn write(leases: AddressLeases, done: Done) {
    for _ in 0..ROUNDS {
        tokio::time::sleep(PAUSE).await;
        // Or one that it could not give up.
        let taken = leases.hold(ADDRESS, None, DURATION).await;
        let (Ok(mut held) | Err(LeaseNotWritten::Conflict(Some(mut held)))) = taken else {
            continue;
        };
        let again = leases.hold(ADDRESS, None, DURATION).await;
        if let Err(LeaseNotWritten::Conflict(Some(_))) = again {
            note(&done, "get leases");
        }
        if let Ok(lease) = leases.hold(ADDRESS, Some(&held), DURATION).await {
            note(&done, "update leases");
            held = lease;
        }
        if leases.release(ADDRESS, &held).await.is_ok() {
            note(&done, "delete leases");
        }
    }
}

#[test]
fn every_right_of_layer2_lets_agents_do_something_with_leases_that_they_cannot_do_without() {
    let (base, own) = (rights::of_agent(), rights::of_layer2());
    let words: BTreeSet<String> = own.iter().map(rights::Right::words).collect();
    assert_eq!((own.len(), words.len()), (5, 5), "{words:?}");
    let all = [base, own.clone()].concat();
    let accounts = Account::all("layer2-", &own);
    let plane = plane();
    let objects = accounts.iter().flat_map(|account| account.objects(&all));
    make(plane, &objects.collect::<Vec<_>>());
    let timeline = Timeline::start().unwrap();
    let started: Vec<(Account, Done)> = accounts
        .into_iter()
        .map(|account| {
            let kubeconfig = account.kubeconfig(plane);
            let done = timeline.run(start(account.clone(), kubeconfig)).unwrap();
            (account, done)
        })
        .collect();
    eventually(
        SOON,
        "all that each may do, and a refusal of the rest",
        || {
            for (account, done) in &started {
                let lacks = account.lacks.iter().map(rights::Right::words);
                let lacks: BTreeSet<String> = lacks.collect();
                let done = done.lock().unwrap().clone();
                let mut expected: BTreeSet<&str> = words.iter().map(String::as_str).collect();
                expected.retain(|word| !lacks.contains(*word));
                // Who cannot list does not come to watch.
                if lacks.contains("list leases") {
                    expected.remove("watch leases");
                }
                ensure!(done == expected, "{}: {done:?}", account.name);
                let refused = refused(plane, &account.user());
                ensure!(refused == lacks, "{}: {refused:?}", account.name);
            }
            Ok(())
        },
    )
    .unwrap();
}
