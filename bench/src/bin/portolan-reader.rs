//! `portolan-reader`: the source of some agents alone, with nothing behind it: what many nodes' watches cost an API server.
#![expect(
    clippy::print_stdout,
    reason = "its lines on standard output are what whoever started it waits for"
)]

use std::io::Read as _;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, bail};
use api::Event;
use clap::Parser;
use datastore::{ClusterSettings, NodeWrites, watch_kubernetes};

/// Reads a cluster as that many agents do, until standard input ends; says when each is in sync.
#[derive(Debug, Parser)]
struct Args {
    /// How the API server is reached.
    #[arg(long)]
    kubeconfig: PathBuf,
    /// How many agents.
    #[arg(long, default_value_t = 1)]
    count: usize,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let begin = Instant::now();
    for number in 1..=args.count {
        let settings = ClusterSettings {
            kubeconfig: Some(args.kubeconfig.clone()),
            node: format!("fleet-{number}"),
            namespace: "portolan".to_owned(),
            services: false,
            node_writes: NodeWrites::default(),
        };
        let mut source = watch_kubernetes(&settings).await?;
        loop {
            match source.events.recv().await {
                Some(Event::Change(_)) => {}
                Some(Event::InSync) => break,
                None => bail!("the source has ended"),
            }
        }
        println!("synced {:.3}", begin.elapsed().as_secs_f64());
        tokio::spawn(async move { while source.events.recv().await.is_some() {} });
    }
    let end = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    end.await??;
    Ok(())
}
