//! What goes wrong with API servers, and what must not come of it.

use std::time::Duration;

use api::Key;

use crate::heard::Heard;
use crate::lab::{Lab, SILENCE, pod_names};
use crate::objects::{node, peer, pod, pool, secret};
use crate::store::{Fault, Store};

/// Streamed lists, or pages of 3.
fn modes() -> [fn(&Store); 2] {
    [
        |_| {},
        |store| {
            store.with(|state| {
                state.streams_lists = false;
                state.page_bound = 3;
            });
        },
    ]
}

fn pods(store: &Store, names: &[&str]) {
    for (index, name) in names.iter().enumerate() {
        store.put("pods", pod(name, &format!("10.1.0.{index}")));
    }
}

#[tokio::test]
async fn all_is_told_then_in_sync_then_changes() {
    for mode in modes() {
        let mut lab = Lab::in_sync(|store| {
            mode(store);
            pods(store, &["a", "b", "c", "d", "e", "f", "g"]);
            store.put("nodes", node("n1"));
        })
        .await;
        assert_eq!(pod_names(&lab), ["a", "b", "c", "d", "e", "f", "g"]);
        assert_eq!(
            lab.told.last().unwrap(),
            "InSync",
            "all before it: {:?}",
            lab.told
        );
        assert_eq!(lab.told.len(), 9);
        assert_eq!(lab.problems(), [""; 0]);
        lab.store.put("pods", pod("h", "10.1.0.9"));
        lab.store.delete("pods", "default/a");
        lab.until("so", |lab| lab.told.len() == 11).await;
        assert_eq!(lab.told[9..], ["+Pod default/h", "-Pod default/a"]);
        lab.until_silent().await;
        assert_eq!(lab.told.len(), 11);
    }
}

#[tokio::test]
async fn requests_are_those_of_a_good_client() {
    let lab = Lab::in_sync(|store| pods(store, &["a"])).await;
    let asked = lab.store.asked("pods");
    assert_eq!(
        asked.len(),
        1,
        "one streamed list that goes on as a watch: {asked:?}"
    );
    assert_eq!(asked[0].get("sendInitialEvents"), "true");
    assert_eq!(asked[0].get("resourceVersionMatch"), "NotOlderThan");
    assert_eq!(asked[0].get("allowWatchBookmarks"), "true");
    let lasts: u64 = asked[0].get("timeoutSeconds").parse().unwrap();
    assert!((300..=600).contains(&lasts), "{lasts}");
    let lasts: Vec<String> = lab.store.read(|state| {
        let lasts = state
            .asked
            .iter()
            .map(|asked| asked.get("timeoutSeconds").to_owned());
        lasts.collect()
    });
    assert!(lasts.iter().any(|other| *other != lasts[0]), "{lasts:?}");
    assert!(
        lab.store.asked("secrets").is_empty(),
        "no BGPPeer means any"
    );
}

#[tokio::test]
async fn a_first_list_that_is_cut_is_no_state_to_act_on() {
    for mode in modes() {
        let mut lab = Lab::start(|store| {
            mode(store);
            pods(store, &["a", "b", "c", "d", "e"]);
            if store.read(|state| state.streams_lists) {
                store.fault("pods", &[Fault::CutAfter(2), Fault::CutAfter(9)]);
            } else {
                // The refusal of the streamed list, the first page, and the second one cut.
                let refused = Fault::Status(422, None);
                store.fault("pods", &[refused, Fault::CutAfter(99), Fault::CutAfter(1)]);
            }
        })
        .await;
        let is_streamed = lab.store.read(|state| state.streams_lists);
        let came = if is_streamed { 2 } else { 4 };
        lab.until("so", |lab| pod_names(lab).len() == came).await;
        assert!(!lab.is_in_sync(), "{:?}", lab.told);
        // What vanishes before the list is whole was told, and is taken back.
        lab.store.delete("pods", "default/a");
        lab.until_in_sync().await;
        assert_eq!(pod_names(&lab), ["b", "c", "d", "e"]);
        assert_eq!(lab.told.last().unwrap(), "InSync");
    }
}

#[tokio::test]
async fn a_watch_that_has_expired_leads_to_a_list_told_as_differences() {
    for mode in modes() {
        let mut lab = Lab::in_sync(|store| {
            mode(store);
            pods(store, &["a", "b", "c", "d"]);
        })
        .await;
        let before = lab.told.len();
        // Away while things happen that nobody remembers afterwards.
        lab.store.with(|state| state.is_away = true);
        tokio::time::sleep(SILENCE).await;
        lab.store.delete("pods", "default/b");
        lab.store.put("pods", pod("c", "10.1.0.77"));
        lab.store.put("pods", pod("e", "10.1.0.5"));
        lab.store.compact();
        lab.store.with(|state| state.is_away = false);
        lab.until("so", |lab| pod_names(lab) == ["a", "c", "d", "e"])
            .await;
        lab.until_silent().await;
        let mut told = lab.told[before..].to_vec();
        told.sort();
        assert_eq!(told, ["+Pod default/c", "+Pod default/e", "-Pod default/b"]);
        let lists = lab.store.asked("pods");
        let last = lists.iter().rfind(|asked| asked.has("limit"));
        assert!(
            last.is_none_or(|list| !list.has("resourceVersion")),
            "none that may be older than what was told"
        );
    }
}

#[tokio::test]
async fn an_expired_version_in_the_midst_of_a_watch_tells_nothing_twice() {
    let mut lab = Lab::in_sync(|store| pods(store, &["a", "b"])).await;
    let before = lab.told.len();
    lab.store.fault("pods", &[Fault::ExpiredInWatch]);
    lab.store.end_watches();
    let store = std::sync::Arc::clone(&lab.store);
    let lists = || {
        let asked = store.asked("pods");
        asked
            .iter()
            .filter(|asked| asked.has("sendInitialEvents"))
            .count()
    };
    crate::lab::eventually(|| lists() == 2, || tokio::time::sleep(SILENCE / 10)).await;
    lab.until_silent().await;
    assert_eq!(lab.told.len(), before, "{:?}", lab.told);
}

#[tokio::test]
async fn a_list_whose_next_page_has_expired_is_begun_anew() {
    let mut lab = Lab::start(|store| {
        store.with(|state| {
            state.streams_lists = false;
            state.page_bound = 2;
        });
        pods(store, &["a", "b", "c", "d", "e"]);
        let whole = Fault::CutAfter(99);
        store.fault(
            "pods",
            &[Fault::Status(422, None), whole, Fault::Status(410, None)],
        );
    })
    .await;
    lab.until_in_sync().await;
    assert_eq!(pod_names(&lab), ["a", "b", "c", "d", "e"]);
    let asked = lab.store.asked("pods");
    let first_pages: Vec<bool> = asked
        .iter()
        .filter(|asked| asked.has("limit") && !asked.has("continue"))
        .map(|asked| asked.has("resourceVersion"))
        .collect();
    assert_eq!(
        first_pages,
        [true, false],
        "the second one from etcd: {asked:?}"
    );
}

#[tokio::test]
async fn a_server_that_asks_for_patience_is_given_it() {
    let mut lab = Lab::start(|store| {
        pods(store, &["a"]);
        store.fault("pods", &[Fault::Status(429, Some(2))]);
    })
    .await;
    lab.until_in_sync().await;
    let asked = lab.store.asked("pods");
    assert_eq!(asked.len(), 2, "{asked:?}");
    let pause = asked[1].at - asked[0].at;
    assert!(pause >= Duration::from_secs(2), "{pause:?}");
    assert!(pause < Duration::from_secs(5), "{pause:?}");
}

#[tokio::test]
async fn a_server_that_fails_again_and_again_is_asked_less_and_less_often() {
    let mut lab = Lab::start(|store| {
        pods(store, &["a"]);
        store.fault(
            "pods",
            &[
                Fault::Status(503, None),
                Fault::Reset,
                Fault::Status(500, None),
            ],
        );
    })
    .await;
    lab.until_in_sync().await;
    let asked = lab.store.asked("pods");
    assert_eq!(asked.len(), 4, "{asked:?}");
    let least = [250, 500, 1000].map(Duration::from_millis);
    for (pair, least) in asked.windows(2).zip(least) {
        let pause = pair[1].at - pair[0].at;
        assert!(pause >= least, "{pause:?} is less than {least:?}");
    }
    assert_eq!(lab.problems(), [""; 0], "it is over");
}

#[tokio::test]
async fn a_watch_goes_on_where_it_was_after_resets_and_garbage() {
    let mut lab = Lab::in_sync(|store| pods(store, &["a"])).await;
    let before = lab.told.len();
    lab.store.fault("pods", &[Fault::Garbage, Fault::Reset]);
    lab.store.end_watches();
    tokio::time::sleep(SILENCE).await;
    lab.store.put("pods", pod("b", "10.1.0.2"));
    lab.store.put("pods", pod("c", "10.1.0.3"));
    lab.until("so", |lab| pod_names(lab).len() == 3).await;
    lab.until_silent().await;
    assert_eq!(lab.told[before..], ["+Pod default/b", "+Pod default/c"]);
    let asked = lab.store.asked("pods");
    let lists = asked.iter().filter(|asked| asked.has("sendInitialEvents"));
    assert_eq!(lists.count(), 1, "nothing is listed anew: {asked:?}");
}

#[tokio::test]
async fn while_the_server_is_away_nothing_is_told_and_afterwards_what_has_changed() {
    let mut lab = Lab::in_sync(|store| pods(store, &["a", "b"])).await;
    let before = lab.told.len();
    lab.store.with(|state| state.is_away = true);
    lab.until_silent().await;
    assert_eq!(lab.told.len(), before);
    let store = std::sync::Arc::clone(&lab.store);
    crate::lab::eventually(
        || !lab.problems().is_empty(),
        || tokio::time::sleep(SILENCE / 10),
    )
    .await;
    let problems = lab.problems();
    assert!(
        problems
            .iter()
            .any(|line| line.starts_with("cannot read ") && line.contains("the last state stays")),
        "{problems:?}"
    );
    store.delete("pods", "default/a");
    store.with(|state| state.is_away = false);
    lab.until("so", |lab| pod_names(lab) == ["b"]).await;
    crate::lab::eventually(
        || lab.problems().is_empty(),
        || tokio::time::sleep(SILENCE / 10),
    )
    .await;
    assert_eq!(lab.told[before..], ["-Pod default/a"]);
}

#[tokio::test]
async fn a_kind_whose_definition_comes_later_is_picked_up() {
    let mut lab = Lab::in_sync(|store| {
        store.with(|state| {
            state.absent = vec!["ippools".to_owned(), "clusternetworkpolicies".to_owned()];
        });
        pods(store, &["a"]);
    })
    .await;
    let problems = lab.problems();
    assert_eq!(
        problems.len(),
        1,
        "ClusterNetworkPolicy need not be there: {problems:?}"
    );
    assert!(
        problems[0].starts_with("the cluster does not know IPPool: "),
        "{problems:?}"
    );
    lab.store.with(|state| state.absent.clear());
    lab.store.put("ippools", pool("p", "10.9.0.0/16"));
    // Who asks does not wait for the next look.
    lab.refresh().await;
    assert!(
        lab.state.contains_key(&Key::IpPool("p".to_owned())),
        "{:?}",
        lab.told
    );
    assert_eq!(lab.problems(), [""; 0]);
    let told = lab.told.iter().filter(|word| *word == "InSync");
    assert_eq!(told.count(), 1);
}

#[tokio::test]
async fn a_server_that_forgets_a_kind_is_not_believed_at_once() {
    let mut lab = Lab::in_sync(|store| store.put("ippools", pool("p", "10.9.0.0/16"))).await;
    lab.store.fault(
        "ippools",
        &[Fault::Status(404, None), Fault::Status(404, None)],
    );
    lab.store.end_watches();
    let before = lab.told.len();
    let store = std::sync::Arc::clone(&lab.store);
    let lists = || store.asked("ippools").len();
    crate::lab::eventually(|| lists() >= 4, || tokio::time::sleep(SILENCE / 10)).await;
    lab.until_silent().await;
    assert_eq!(lab.told.len(), before, "{:?}", lab.told);
    assert!(lab.state.contains_key(&Key::IpPool("p".to_owned())));
}

#[tokio::test]
async fn a_refresh_is_answered_when_all_has_been_sent_whatever_is_under_way() {
    for mode in modes() {
        let mut lab = Lab::in_sync(|store| {
            mode(store);
            pods(store, &["a"]);
        })
        .await;
        for round in 0..20 {
            let name = format!("p{round}");
            lab.store.put("pods", pod(&name, "10.1.0.9"));
            lab.refresh().await;
            assert!(
                pod_names(&lab).contains(&name),
                "round {round}: {:?}",
                lab.told
            );
        }
    }
}

#[tokio::test]
async fn a_refresh_of_many_objects_lists_none_of_them_anew() {
    let mut lab = Lab::in_sync(|store| {
        for index in 0..600 {
            store.put("pods", pod(&format!("p{index}"), "10.1.0.9"));
        }
    })
    .await;
    // Another kind's change: pods have nothing new, and only a bookmark says so.
    lab.store.put("nodes", node("n2"));
    lab.refresh().await;
    assert!(lab.state.contains_key(&Key::Node("n2".to_owned())));
    lab.store.put("pods", pod("new", "10.1.0.9"));
    lab.refresh().await;
    assert!(pod_names(&lab).contains(&"new".to_owned()));
    let lists = |collection: &str| {
        let asked = lab.store.asked(collection);
        asked
            .iter()
            .filter(|asked| asked.has("sendInitialEvents"))
            .count()
    };
    assert_eq!(lists("pods"), 1);
    assert!(lists("nodes") >= 3, "few are listed");
}

#[tokio::test]
async fn a_refresh_of_many_objects_lists_them_where_no_bookmarks_come() {
    let mut lab = Lab::in_sync(|store| {
        for index in 0..600 {
            store.put("pods", pod(&format!("p{index}"), "10.1.0.9"));
        }
        store.with(|state| state.sends_bookmarks = false);
    })
    .await;
    lab.store.put("nodes", node("n2"));
    let store = std::sync::Arc::clone(&lab.store);
    let ends = tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(1_200)).await;
            store.end_watches();
        }
    });
    lab.refresh().await;
    ends.abort();
    let asked = lab.store.asked("pods");
    let lists = asked.iter().filter(|asked| asked.has("sendInitialEvents"));
    assert_eq!(lists.count(), 2, "{asked:?}");
}

#[tokio::test]
async fn an_invalid_object_is_a_problem_that_names_it_and_its_last_state_stays() {
    let mut lab = Lab::in_sync(|store| store.put("ippools", pool("p", "10.9.0.0/16"))).await;
    let before = lab.state.clone();
    lab.store.put("ippools", pool("p", "nonsense"));
    lab.refresh().await;
    assert_eq!(lab.state, before);
    let problems = lab.problems();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].starts_with("IPPool p: "), "{problems:?}");
    assert!(
        problems[0].ends_with("its last valid state stays in force"),
        "{problems:?}"
    );
    assert_eq!(
        lab.source.problems.borrow()[0].object.as_deref(),
        Some("IPPool p")
    );
    lab.store.put("ippools", pool("p", "10.9.0.0/16"));
    lab.refresh().await;
    assert_eq!(lab.problems(), [""; 0]);
}

#[tokio::test]
async fn secrets_are_read_when_a_peer_means_them_and_no_others() {
    let mut lab = Lab::in_sync(|store| {
        store.put("secrets", secret("meant", "aHVzaA=="));
        store.put("secrets", secret("other", "aHVzaA=="));
        store.put("bgppeers", peer("tor", "meant"));
    })
    .await;
    let secrets = |lab: &Heard| {
        let keys = lab.state.keys().filter(|key| matches!(key, Key::Secret(_)));
        keys.map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(secrets(&lab), ["Secret portolan/meant"], "before InSync");
    lab.store.put("bgppeers", peer("tor", "other"));
    lab.until("so", |lab| secrets(lab) == ["Secret portolan/other"])
        .await;
    lab.store.put("secrets", secret("other", "bmV1"));
    let count = |lab: &Heard| {
        lab.told
            .iter()
            .filter(|word| *word == "+Secret portolan/other")
            .count()
    };
    lab.until("so", |lab| count(lab) == 2).await;
    lab.store.delete("bgppeers", "tor");
    lab.until("so", |lab| secrets(lab).is_empty()).await;
    assert!(!format!("{:?}", lab.source.problems.borrow()).contains("aHV"));
}
