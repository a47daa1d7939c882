//! Manifests come, change, break and go.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use api::{Event, Key, Resource};
use datastore::{Error, Problem, watch_manifests};
use tokio::time::timeout;

use crate::lab::*;

#[tokio::test]
async fn first_everything_then_in_sync_then_only_differences() {
    let both = format!("{}---\n{}", labelled("one", "x"), namespace("two"));
    let mut lab = Lab::with(&[("a.yaml", &both), ("b.yml", &node("node1", "10.1.0.0/24"))]).await;
    assert_eq!(
        lab.names(),
        ["Namespace one", "Namespace two", "Node node1"]
    );
    assert_eq!(lab.events, 3);

    put(lab.path(), "a.yaml", &both.replace("a: x", "a: y"));
    lab.until("the label changes", |state| {
        label_of(state, "one").as_deref() == Some("y")
    })
    .await;
    lab.is_silent().await;
    assert_eq!(lab.events, 4);
}

#[tokio::test]
async fn json_files_and_lists_are_read_and_other_files_are_not() {
    let list = format!(
        "apiVersion: v1\nkind: List\nitems:\n- {}",
        namespace("listed").replace('\n', "\n  ")
    );
    let json = r#"{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "json"}}"#;
    let lab = Lab::with(&[
        ("a.json", json),
        ("b.yaml", &list),
        (".hidden.yaml", &namespace("hidden")),
        ("notes.txt", "{{{"),
        ("c.yaml~", "{{{"),
        ("folder/d.yaml", &namespace("deeper")),
    ])
    .await;
    assert_eq!(lab.names(), ["Namespace json", "Namespace listed"]);
    assert_eq!(*lab.source.problems.borrow(), []);
}

#[tokio::test]
async fn a_file_renamed_into_place_takes_effect_at_once() {
    let both = format!("{}---\n{}", namespace("one"), namespace("two"));
    let mut lab = Lab::with(&[("a.yaml", &both)]).await;
    let began = std::time::Instant::now();
    replace(lab.path(), "a.yaml", &namespace("one"));
    lab.until("two goes", |state| !has(state, "two")).await;
    assert!(
        began.elapsed() < Duration::from_millis(900),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(lab.names(), ["Namespace one"]);
}

#[tokio::test]
async fn an_editor_that_moves_the_old_file_away_first_loses_nothing() {
    let mut lab = Lab::with(&[("a.yaml", &labelled("one", "x"))]).await;
    fs::rename(lab.path().join("a.yaml"), lab.path().join("a.yaml~")).unwrap();
    put(lab.path(), "a.yaml", &labelled("one", "y"));
    lab.until("the label changes", |state| {
        label_of(state, "one").as_deref() == Some("y")
    })
    .await;
    lab.is_silent().await;
    assert_eq!(lab.events, 2, "the object was never removed");
}

#[tokio::test]
async fn a_config_map_whose_data_link_is_swapped_is_read_anew() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "..1/a.yaml", &labelled("one", "x"));
    std::os::unix::fs::symlink("..1", folder.path().join("..data")).unwrap();
    std::os::unix::fs::symlink("..data/a.yaml", folder.path().join("a.yaml")).unwrap();
    let source = watch_manifests(folder.path(), "node1").unwrap();
    let mut lab = Lab {
        folder,
        source,
        state: BTreeMap::new(),
        events: 0,
    };
    assert!(matches!(
        lab.source.events.recv().await,
        Some(Event::Change(_))
    ));
    assert_eq!(lab.source.events.recv().await, Some(Event::InSync));

    put(lab.path(), "..2/a.yaml", &labelled("one", "y"));
    std::os::unix::fs::symlink("..2", lab.path().join("..data_tmp")).unwrap();
    fs::rename(lab.path().join("..data_tmp"), lab.path().join("..data")).unwrap();
    lab.until("the label changes", |state| {
        label_of(state, "one").as_deref() == Some("y")
    })
    .await;
    assert_eq!(lab.events, 1);
}

#[tokio::test]
async fn a_deleted_file_takes_its_objects_along() {
    let mut lab = Lab::with(&[("a.yaml", &namespace("one")), ("b.yaml", &namespace("two"))]).await;
    fs::remove_file(lab.path().join("a.yaml")).unwrap();
    lab.until("one goes", |state| !has(state, "one")).await;
    assert_eq!(lab.names(), ["Namespace two"]);
    assert_eq!(lab.events, 3);
}

#[tokio::test]
async fn a_truncated_file_keeps_its_objects_for_a_second_and_then_is_believed() {
    let mut lab = Lab::with(&[("a.yaml", &namespace("one"))]).await;
    let began = std::time::Instant::now();
    put(lab.path(), "a.yaml", "");
    lab.is_silent().await;
    lab.until("one goes", |state| !has(state, "one")).await;
    assert!(
        began.elapsed() >= Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn a_file_emptied_and_filled_again_within_the_second_is_no_event() {
    let mut lab = Lab::with(&[("a.yaml", &namespace("one"))]).await;
    put(lab.path(), "a.yaml", "");
    tokio::time::sleep(Duration::from_millis(200)).await;
    put(lab.path(), "a.yaml", &namespace("one"));
    let event = timeout(Duration::from_millis(1_500), lab.source.events.recv()).await;
    assert!(event.is_err(), "unexpected {event:?}");
}

#[tokio::test]
async fn a_broken_file_is_reported_with_its_line_and_keeps_its_last_good_state() {
    let mut lab = Lab::with(&[("a.yaml", &labelled("one", "x"))]).await;
    let broken = format!("{}---\napiVersion: v1\nkind: [\n", labelled("one", "y"));
    put(lab.path(), "a.yaml", &broken);
    put(lab.path(), "b.yaml", &namespace("two"));
    lab.until("other files go on", |state| has(state, "two"))
        .await;
    let problems = lab
        .until_problems("it is reported", |problems| problems.len() == 1)
        .await;
    assert_eq!(problems[0].file, lab.path().join("a.yaml"));
    let line = problems[0].line.expect("a line");
    assert!((8..=9).contains(&line), "{:?}", problems[0]);
    assert_eq!(label_of(&lab.state, "one").as_deref(), Some("x"));

    replace(lab.path(), "a.yaml", &labelled("one", "y"));
    lab.until("it is whole again", |state| {
        label_of(state, "one").as_deref() == Some("y")
    })
    .await;
    lab.until_problems("nothing is wrong any more", <[_]>::is_empty)
        .await;
}

#[tokio::test]
async fn a_wrong_object_is_reported_with_its_name_and_the_line_of_its_document() {
    let peer = "# a peer\n---\napiVersion: portolan.io/v1alpha1\nkind: BGPPeer\nmetadata:\n  name: tor\n\
                spec:\n  peerAddress: 10.0.0.1\n  asNumber: 65000\n  bfd: {multiplier: 0}\n";
    let lab = Lab::with(&[("a.yaml", peer)]).await;
    let problems = lab.source.problems.borrow().clone();
    let expected = Problem {
        file: lab.path().join("a.yaml"),
        line: Some(3),
        object: Some("BGPPeer tor".to_owned()),
        message: "BGPPeer tor: spec.bfd.multiplier is 0".to_owned(),
    };
    assert_eq!(problems, [expected]);
    assert!(
        problems[0]
            .to_string()
            .ends_with("a.yaml:3: BGPPeer tor: spec.bfd.multiplier is 0")
    );
}

#[tokio::test]
async fn the_same_object_in_two_files_is_that_of_the_first_by_name() {
    let mut lab = Lab::with(&[
        ("b.yaml", &labelled("one", "b")),
        ("a.yaml", &labelled("one", "a")),
    ])
    .await;
    assert_eq!(label_of(&lab.state, "one").as_deref(), Some("a"));
    let problems = lab.source.problems.borrow().clone();
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].file, lab.path().join("b.yaml"));
    assert!(
        problems[0].message.contains("is already in a.yaml:1"),
        "{}",
        problems[0].message
    );

    fs::remove_file(lab.path().join("a.yaml")).unwrap();
    lab.until("the second takes over", |state| {
        label_of(state, "one").as_deref() == Some("b")
    })
    .await;
    lab.until_problems("no clash is left", <[_]>::is_empty)
        .await;
    assert_eq!(lab.events, 2, "changed, never removed");
}

#[tokio::test]
async fn a_file_over_4_mib_or_a_pipe_is_refused_and_nothing_waits_for_it() {
    let large = format!("{}# {}\n", namespace("large"), "x".repeat(4 * 1024 * 1024));
    let mut lab = Lab::with(&[("a.yaml", &large), ("b.yaml", &namespace("two"))]).await;
    assert_eq!(lab.names(), ["Namespace two"]);
    assert!(lab.source.problems.borrow()[0].message.contains("4 MiB"));
    let made = std::process::Command::new("mkfifo")
        .arg(lab.path().join("c.yaml"))
        .status();
    assert!(made.unwrap().success());
    let problems = lab
        .until_problems("the pipe is reported", |problems| problems.len() == 2)
        .await;
    assert!(
        problems[1].message.contains("not a regular file"),
        "{:?}",
        problems[1]
    );
}

#[tokio::test]
async fn touching_reading_and_rewriting_the_same_is_no_event() {
    let mut lab = Lab::with(&[("a.yaml", &namespace("one"))]).await;
    for _ in 0..3 {
        put(lab.path(), "a.yaml", &namespace("one"));
        fs::read(lab.path().join("a.yaml")).unwrap();
        replace(
            lab.path(),
            "a.yaml",
            &format!("# again\n{}", namespace("one")),
        );
        put(lab.path(), "notes.txt", "x");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    lab.is_silent().await;
    assert_eq!(lab.events, 1);
}

#[tokio::test]
async fn any_order_of_creation_gives_the_same_state() {
    let texts: Vec<(String, String)> = vec![
        (
            "a.yaml".into(),
            format!("{}---\n{}", namespace("shop"), labelled("one", "a")),
        ),
        ("b.yaml".into(), labelled("one", "b")),
        ("c.yaml".into(), node("node2", "10.2.0.0/24")),
        ("d.yaml".into(), pod("db", "node2")),
        (
            ".status/node2.json".into(),
            status("node2", &[("db", &["10.2.0.5"])]),
        ),
    ];
    let mut wanted: Option<(BTreeMap<Key, Resource>, Vec<String>)> = None;
    for order in [
        [0, 1, 2, 3, 4],
        [4, 3, 2, 1, 0],
        [2, 4, 0, 3, 1],
        [3, 1, 4, 0, 2],
    ] {
        let mut lab = Lab::with(&[]).await;
        for index in order {
            let (name, text) = &texts[index];
            put(lab.path(), name, text);
            tokio::time::sleep(Duration::from_millis(70)).await;
        }
        lab.until("all is there", |state| {
            state.len() == 4
                && ips_of(state, "db") == ["10.2.0.5"]
                && label_of(state, "one").as_deref() == Some("a")
        })
        .await;
        let problems = lab
            .until_problems("the clash is told", |problems| problems.len() == 1)
            .await;
        lab.is_silent().await;
        let found = (
            lab.state,
            problems
                .into_iter()
                .map(|problem| problem.message)
                .collect(),
        );
        assert_eq!(*wanted.get_or_insert_with(|| found.clone()), found);
    }
}

#[tokio::test]
async fn a_directory_that_is_replaced_is_watched_on() {
    let outer = tempfile::tempdir().unwrap();
    let dir = outer.path().join("manifests");
    put(&dir, "a.yaml", &namespace("one"));
    let source = watch_manifests(&dir, "node1").unwrap();
    let mut lab = Lab {
        folder: outer,
        source,
        state: BTreeMap::new(),
        events: 0,
    };
    assert!(matches!(
        lab.source.events.recv().await,
        Some(Event::Change(_))
    ));
    assert_eq!(lab.source.events.recv().await, Some(Event::InSync));

    fs::rename(&dir, lab.path().join("old")).unwrap();
    lab.until_problems("its absence is reported", |problems| problems.len() == 1)
        .await;
    lab.is_silent().await;
    put(&dir, "a.yaml", &namespace("one"));
    put(&dir, "b.yaml", &namespace("two"));
    lab.until("the new one is read", |state| has(state, "two"))
        .await;
    lab.until_problems("all is well", <[_]>::is_empty).await;
    put(&dir, "c.yaml", &namespace("three"));
    lab.until("the new one is watched", |state| has(state, "three"))
        .await;
}

#[tokio::test]
async fn what_cannot_be_watched_at_all_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let missing = watch_manifests(&folder.path().join("none"), "node1");
    assert!(matches!(missing, Err(Error::Directory { .. })));
    for name in ["", "../node1", "a/b", "Node1", "a\nb", &"a".repeat(241)] {
        let refused = watch_manifests(folder.path(), name);
        assert!(matches!(refused, Err(Error::NodeName(_))), "{name:?}");
    }
}

#[tokio::test]
async fn a_slow_reader_gets_everything_in_the_end() {
    let many: Vec<String> = (0..600)
        .map(|index| namespace(&format!("n{index}")))
        .collect();
    let lab = Lab::with(&[("a.yaml", &many.join("---\n"))]).await;
    assert_eq!(lab.state.len(), 600);
    assert_eq!(lab.events, 600);
}
