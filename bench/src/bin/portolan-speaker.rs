//! `portolan-speaker FILE`: the project's speaker in a process of its own, told what to be by a file; SIGHUP reads it again.

use std::path::Path;

use anyhow::{Context as _, Result};
use bench::daemon::SpeakerFile;
use bgp_proto::rib::Originated;
use bgp_proto::session::PeerAs;
use bgp_proto::wire::Asn;
use bgp_speaker::{Config, Forwarding, Peer, Shutdown, spawn_after};
use tokio::signal::unix::{SignalKind, signal};

fn main() -> Result<()> {
    // Its end is shown when a measurement fails.
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let file = std::env::args_os().nth(1).context("no file is named")?;
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(run(Path::new(&file)))
}

async fn run(file: &Path) -> Result<()> {
    let mut again = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let (handle, mut events) = spawn_after(read(file)?, Forwarding::Lost);
    loop {
        tokio::select! {
            // Taken and dropped, as by an agent that installs no routes.
            event = events.next() => if event.is_none() { break },
            _ = again.recv() => handle.configure(read(file)?).await?,
            _ = terminate.recv() => break,
        }
    }
    handle.shutdown(Shutdown::Cease(String::new())).await?;
    Ok(())
}

fn read(file: &Path) -> Result<Config> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let said: SpeakerFile = serde_json::from_str(&text)?;
    let peer = |peer: &bench::peer::Identity| {
        let address = (peer.address, 179).into();
        let mut at = Peer::at(address, PeerAs::Number(Asn(peer.asn)), None);
        at.session.passive = true;
        at.session.transit = true;
        at.session.max_prefixes.limit = 2_000_000;
        at.session.import_reject = said.reject.iter().copied().collect();
        at
    };
    let named = |one: &bench::peer::Identity| (one.address.to_string(), peer(one));
    let originated = |prefix: &ipnet::IpNet| (*prefix, Originated::default());
    Ok(Config {
        listen: said.listen.clone(),
        peers: said.peers.iter().map(named).collect(),
        originate: said.originate.iter().map(originated).collect(),
        // As a route server that installs nothing.
        route_events: false,
        ..Config::new(Asn(said.asn), said.router_id)
    })
}
