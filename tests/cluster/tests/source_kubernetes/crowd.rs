//! Thousands of pods: how long a list takes, what a refresh costs, and that pages give what streamed lists give.

use std::fmt::Write as _;
use std::time::Duration;

use cluster::ControlPlane;

use crate::watched::{Watched, plane, requests};

const PODS: usize = 2_400;

/// kubectl's own limit makes one of them slow: some at once.
pub(crate) fn fill(plane: &ControlPlane) {
    plane.apply(
        "{apiVersion: v1, kind: ServiceAccount, metadata: {name: default, namespace: default}}",
    );
    std::thread::scope(|scope| {
        for part in 0..8 {
            scope.spawn(move || {
                let mut text = String::new();
                for index in 0..PODS / 8 {
                    write!(
                        text,
                        "apiVersion: v1\nkind: Pod\nmetadata: {{name: p{part}-{index}, namespace: default, labels: {{app: web, part: '{part}'}}}}\n\
                         spec:\n  nodeName: n{part}\n  automountServiceAccountToken: false\n  containers:\n  - {{name: c, image: i, ports: [{{name: http, containerPort: 80}}]}}\n---\n"
                    )
                    .unwrap();
                }
                plane.kubectl_with(&["create", "-f", "-"], &text).unwrap();
            });
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_pods_are_the_same_streamed_and_in_pages_and_a_refresh_lists_them_not() {
    let mut states = Vec::new();
    for gates in ["", "WatchList=false"] {
        let plane = plane(gates, &[]);
        fill(&plane);
        let mut watched = Watched::start(&plane).await;
        let took = watched.until_in_sync().await;
        println!("{PODS} pods, gates {gates:?}: in sync after {took:?}");
        assert_eq!(watched.keys("Pod").len(), PODS);
        let lists = || {
            let asked = requests(&plane, "pods").into_iter();
            asked
                .filter(|(_, uri)| uri.contains("sendInitialEvents") || uri.contains("limit=500"))
                .count()
        };
        let before = lists();
        // Another kind's change, so that the newest version is none of a pod's.
        plane.kubectl(&["create", "namespace", "other"]);
        let took = watched.refresh().await;
        println!("a refresh with {PODS} pods: {took:?}");
        assert!(took < Duration::from_secs(20), "{took:?}");
        assert!(watched.keys("Namespace").contains(&"other".to_owned()));
        plane.kubectl(&["delete", "pod", "p0-0", "--grace-period=0", "--force"]);
        watched.refresh().await;
        assert_eq!(watched.keys("Pod").len(), PODS - 1);
        assert_eq!(lists(), before, "{gates}: pods were listed anew");
        let mut names = watched.keys("Pod");
        names.sort();
        states.push(names);
    }
    assert_eq!(states[0], states[1]);
}
