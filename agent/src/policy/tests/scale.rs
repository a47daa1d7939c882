//! Ten thousand pods and a thousand policies: what holds up the core, and how long a person waits.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use super::super::explain::explain;
use super::super::list::list;
use super::super::show::show;
use super::{known, own};

const NAMESPACES: usize = 100;
const PODS: usize = 10_000;
const POLICIES: usize = 1_000;
/// Without optimisation, beside other tests; what is measured is printed. A copy is all that the core waits for.
const COPY: Duration = Duration::from_secs(1);
const ANSWER: Duration = Duration::from_secs(60);

fn cluster() -> String {
    let mut text = String::new();
    for number in 0..NAMESPACES {
        writeln!(
            text,
            "---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: n{number}}}"
        )
        .unwrap();
    }
    for number in 0..PODS {
        let (namespace, high, low) = (number % NAMESPACES, number / 250, number % 250);
        writeln!(
            text,
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{namespace: n{namespace}, name: p{number}, labels: {{app: a{}}}}}\n\
             spec: {{nodeName: n2, containers: [{{name: c, image: i}}]}}\nstatus: {{podIPs: [{{ip: 10.9.{high}.{low}}}]}}",
            number / NAMESPACES % 10
        )
        .unwrap();
    }
    for number in 0..POLICIES {
        let (namespace, app) = (number % NAMESPACES, number / NAMESPACES % 10);
        writeln!(
            text,
            "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{namespace: n{namespace}, name: x{number}}}\n\
             spec:\n  podSelector: {{matchLabels: {{app: a{app}}}}}\n  ingress: [{{from: [{{podSelector: {{}}}}]}}]"
        )
        .unwrap();
    }
    text
}

fn timed<T>(what: &str, limit: Duration, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let done = work();
    let took = start.elapsed();
    println!("{what}: {} ms", took.as_millis());
    assert!(took < limit, "{what}: {took:?}");
    done
}

#[test]
fn ten_thousand_pods_and_a_thousand_policies_are_answered_in_time() {
    let known = known(&cluster());
    let copy = timed("a copy of the objects", COPY, || known.objects.clone());
    assert_eq!(copy, known.objects);
    let rows = timed("list", ANSWER, || list(&known)).policies;
    assert_eq!(rows.len(), POLICIES + 4);
    let row = rows.iter().find(|row| row.name == "n7/x7").unwrap();
    assert_eq!((row.pods, row.local_pods), (10, 0));
    let place = "n7/p7".parse().unwrap();
    let view = timed("show", ANSWER, || show(&known, &place)).unwrap();
    assert!(view.directions[0].isolated);
    let (from, to) = ("shop/cache".parse().unwrap(), "n7/p7:80".parse().unwrap());
    let view = timed("explain", ANSWER, || explain(&known, &own(), &from, &to)).unwrap();
    assert!(!view.families[0].allowed && !view.differs());
}
