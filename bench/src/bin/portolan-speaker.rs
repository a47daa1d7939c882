//! `portolan-speaker FILE`: the project's speaker in a process of its own, told what to be by a file; SIGHUP reads it again.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bench::daemon::SpeakerFile;
use bgp_proto::wire::Asn;
use bgp_speaker::{Config, Forwarding, PeerAs, PeerConfig, Shutdown, SpeakerConfig, spawn_after};
use tokio::signal::unix::{SignalKind, signal};

fn main() -> Result<()> {
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
    handle.shutdown(Shutdown::Cease).await?;
    Ok(())
}

fn read(file: &Path) -> Result<Config> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let said: SpeakerFile = serde_json::from_str(&text)?;
    let peer = |peer: &bench::peer::Identity| PeerConfig {
        address: (peer.address, 179).into(),
        asn: PeerAs::Number(Asn(peer.asn)),
        local_address: None,
        passive: true,
        hold_time: Duration::from_secs(90),
        keepalive_time: None,
        max_prefixes: 2_000_000,
        import_reject: said.reject.iter().copied().collect(),
    };
    let named = |one: &bench::peer::Identity| (one.address.to_string(), peer(one));
    Ok(Config {
        speaker: SpeakerConfig {
            asn: Asn(said.asn),
            router_id: said.router_id,
            listen: said.listen.clone(),
            restart_time: Duration::from_secs(120),
        },
        peers: said.peers.iter().map(named).collect(),
        originate: said.originate.iter().copied().collect(),
    })
}
