//! Runs tests in order that share one cluster, and speaks as the usual test harness does, because its summary is what is
//! added up.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;

use crate::cluster::{Boot, Cluster};
use crate::kubelet::ProxyMode;
use crate::portolan;
use crate::traces::Traces;

/// A test: its name, and what it does with the cluster that all share.
pub type Test = (&'static str, fn(&mut Cluster));

/// Tests by the names of their functions.
#[macro_export]
macro_rules! in_order {
    ($($module:ident::$name:ident,)*) => { &[$((stringify!($name), $module::$name)),*] };
}

/// Runs the tests that the command line's words choose, in order. Starting the cluster is a test, too, and so is that
/// nothing of it is left. `program` is the name under which a run without root's rights is told.
#[must_use]
pub fn run(program: &str, tests: &[Test]) -> ExitCode {
    run_with(program, tests, Boot::default().proxy)
}

/// The same in a cluster with this kube-proxy, or none.
#[must_use]
pub fn run_with(program: &str, tests: &[Test], proxy: Option<ProxyMode>) -> ExitCode {
    let filter: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with('-'))
        .collect();
    if std::env::args().any(|word| word == "--list") {
        return ExitCode::SUCCESS;
    }
    if !tests::root::is_granted(program) {
        return ExitCode::SUCCESS;
    }
    let mut tally = Tally::default();
    let is_chosen =
        |name: &str| filter.is_empty() || filter.iter().any(|word| name.contains(word.as_str()));
    let chosen: Vec<&Test> = tests.iter().filter(|(name, _)| is_chosen(name)).collect();
    if chosen.is_empty() {
        return tally.finish();
    }
    let before = traces();
    let mut cluster = None;
    tally.run("a_cluster_of_two_nodes_starts", || {
        cluster = Some(started(proxy).unwrap_or_else(|error| panic!("{error:#}")));
    });
    if let Some(mut cluster) = cluster {
        for (name, test) in chosen {
            tally.run(name, || test(&mut cluster));
        }
        tally.run("nothing_is_left_of_a_cluster", || {
            drop(cluster);
            assert_eq!(traces(), before, "what was left");
        });
    }
    tally.finish()
}

fn traces() -> Traces {
    Traces::now().unwrap_or_else(|error| panic!("{error:#}"))
}

fn started(proxy: Option<ProxyMode>) -> Result<Cluster> {
    Cluster::start_with(&[portolan::image()?], proxy)
}

#[derive(Default)]
struct Tally {
    passed: usize,
    failed: Vec<&'static str>,
}

impl Tally {
    fn run(&mut self, name: &'static str, test: impl FnOnce()) {
        let start = Instant::now();
        // The cluster stays usable for the next one, whatever state this one left it in.
        let result = catch_unwind(AssertUnwindSafe(test));
        let seconds = start.elapsed().as_secs_f32();
        match result {
            Ok(()) => {
                self.passed += 1;
                print(&format!("test {name} ... ok ({seconds:.1} s)"));
            }
            Err(_) => {
                self.failed.push(name);
                print(&format!("test {name} ... FAILED ({seconds:.1} s)"));
            }
        }
    }

    fn finish(self) -> ExitCode {
        let is_ok = self.failed.is_empty();
        if !is_ok {
            print(&format!("\nfailures:\n    {}", self.failed.join("\n    ")));
        }
        let word = if is_ok { "ok" } else { "FAILED" };
        print(&format!(
            "\ntest result: {word}. {} passed; {} failed; 0 ignored; 0 measured; 0 filtered out",
            self.passed,
            self.failed.len()
        ));
        if is_ok {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "what a test harness says")]
fn print(text: &str) {
    println!("{text}");
}
