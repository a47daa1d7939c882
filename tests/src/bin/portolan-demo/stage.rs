//! The order of the demo's steps, their progress and verdicts, and the comparison of before and after.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tests::lab::{Lab, Options};
use tests::snapshot::{Snapshot, marked_processes, namespaces};
use tests::wait::{eventually, interrupt};

use crate::sites::{self, Sites};
use crate::{Run, announced, crash, kept, matrix, service, sessions};

/// All that an agent can do: nobody else serves Services here.
const FEATURES: &str = "bgp,policy,cni,services,load-balancer";

/// Counts verdicts and prints progress.
pub(crate) struct Stage {
    passed: u32,
    failed: u32,
    start: Instant,
}

impl Stage {
    /// Runs one step: its title, whatever it prints, and its verdict. Gives its value if it went well.
    pub(crate) fn step<T>(&mut self, title: &str, work: impl FnOnce() -> Result<T>) -> Option<T> {
        println!("\n[{:6.1} s] {title}", self.start.elapsed().as_secs_f64());
        match work() {
            Ok(value) => {
                println!("  ok: {title}");
                self.passed += 1;
                Some(value)
            }
            Err(error) => {
                println!("  FAILED: {title}: {error:#}");
                self.failed += 1;
                None
            }
        }
    }
}

/// Runs the demo; true if everything was as it should be.
pub(crate) fn run(run: &Run) -> Result<bool> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "it makes network namespaces: run it as root"
    );
    unwind_on_signals()?;
    let before = Snapshot::of_host();
    let mut stage = Stage {
        passed: 0,
        failed: 0,
        start: Instant::now(),
    };
    let options = Options {
        tag: "demo".to_owned(),
        binaries: run.bin_dir.canonicalize().context("--bin-dir")?,
        server: std::env::current_exe()?,
        manifests: run.examples.join("demo"),
    };
    let lab = stage.step(
        "the lab: a ToR (FRR, AS 65000), node1, node2, a host outside",
        || Lab::new(options),
    );
    if let Some(mut lab) = lab {
        let shown = show(&mut stage, &mut lab, run);
        if let (true, Some(sites)) = (run.keep, &shown) {
            sites.iter().for_each(Sites::keep);
            kept::record(lab)?;
        } else {
            drop(shown);
            take_down(&mut stage, lab, &before);
        }
    }
    println!("\n{} passed, {} failed", stage.passed, stage.failed);
    Ok(stage.failed == 0)
}

/// The steps while the lab stands. Without agents or pods there is nothing more to show: `None`.
fn show(stage: &mut Stage, lab: &mut Lab, run: &Run) -> Option<Option<Sites>> {
    let examples = run.examples.as_path();
    stage.step("the agents: started, in sync, their sessions up", || {
        for node in &mut lab.nodes {
            node.agent.set_arguments(&["--features", FEATURES]);
        }
        lab.start_agents()
    })?;
    stage.step("the pods: five, attached by the CNI plugin", || {
        lab.attach_all()?;
        sessions::show_pods(lab)
    })?;
    stage.step("sessions, as the agents and as FRR see them", || {
        sessions::show(lab)
    });
    stage.step("routes, in the nodes' kernels and on the ToR", || {
        sessions::show_routes(lab)
    });
    let before = matrix::Policy::Absent;
    stage.step("who reaches whom, without a policy", || {
        matrix::show(lab, before)
    });
    let example = examples.join("demo-service/front.yaml");
    stage.step(
        "a Service and its EndpointSlice are dropped into the directory",
        || service::show(lab, &example),
    );
    let policy = examples.join("demo-policy/db-only-from-web.yaml");
    let dropped = stage.step("a policy file is dropped into the directory", || {
        let text =
            std::fs::read_to_string(&policy).with_context(|| policy.display().to_string())?;
        lab.drop_manifest("db-only-from-web.yaml", &text)?;
        lab.wait_synced()
    });
    if dropped.is_some() {
        let after = matrix::Policy::InForce;
        stage.step("who reaches whom, with the policy", || {
            matrix::show(lab, after)
        });
        stage.step(
            "control: a link cut of 50 ms is seen by every allowed flow",
            || crash::show_cut(lab),
        );
        stage.step("kill -9 of node1's agent, started again after 1 s", || {
            crash::show_kill(lab)
        });
    }
    stage.step("the ToR shuts node1's session: its routes go", || {
        sessions::show_cut(lab)
    });
    stage.step("the session comes back: so do the routes", || {
        sessions::show_return(lab)
    });
    Some(show_announced(stage, lab, run))
}

/// What comes from outside to announced addresses.
fn show_announced(stage: &mut Stage, lab: &mut Lab, run: &Run) -> Option<Sites> {
    stage.step(
        "a Service's address is announced by both nodes, and one of them dies",
        || announced::show(lab, &run.examples),
    )?;
    stage.step(
        "two sites by name over HTTPS, by portolan-ingress on both nodes",
        || sites::show(lab, &run.examples, &run.bin_dir),
    )
}

fn take_down(stage: &mut Stage, mut lab: Lab, before: &Snapshot) {
    stage.step("the pods are detached by DEL", || {
        lab.detach_all()?;
        for node in &lab.nodes {
            // DEL answers when link and address are gone; the rest may follow in a batch.
            eventually(
                Duration::from_secs(10),
                "no interface of a pod is left",
                || {
                    let links = node.netns.ip("-o link show")?;
                    ensure!(!links.contains(": ptl"), "{links}");
                    Ok(())
                },
            )?;
        }
        Ok(())
    });
    stage.step("the agents stop at SIGTERM", || {
        lab.nodes
            .iter_mut()
            .try_for_each(|node| node.agent.terminate())
    });
    drop(lab);
    stage.step("nothing is left behind", || {
        let prefix = format!("ptl-demo-{}-", std::process::id());
        let left: Vec<_> = namespaces()
            .into_iter()
            .filter(|n| n.starts_with(&prefix))
            .collect();
        ensure!(left.is_empty(), "namespaces: {left:?}");
        // A killed process may still be on its way out.
        eventually(
            Duration::from_secs(10),
            "no process of the lab is left",
            || {
                let processes = marked_processes(std::process::id());
                ensure!(processes.is_empty(), "{processes:?}");
                Ok(())
            },
        )?;
        let difference = before.difference(&Snapshot::of_host());
        ensure!(
            difference.is_empty(),
            "this machine has changed:\n{difference}"
        );
        Ok(())
    });
}

/// SIGINT and SIGTERM make every wait fail; the lab then unwinds like after any failure.
fn unwind_on_signals() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (mut int, mut term) = {
        let _inside = runtime.enter();
        (
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
        )
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! { _ = int.recv() => {}, _ = term.recv() => {} }
        });
        println!("\ninterrupted: cleaning up");
        interrupt();
    });
    Ok(())
}
