//! Asks the speaker what the command line wants to know.

use bgp_speaker::Handle;

use super::view::{self, BgpAnswer, BgpQuestion};

/// Answers one question.
///
/// # Errors
/// If there is no speaker, or no such peer; in words that say what to do.
pub(crate) async fn answer(
    speaker: Option<Handle>,
    question: BgpQuestion,
) -> Result<BgpAnswer, String> {
    let speaker = speaker.ok_or(
        "no BGP speaker runs: the agent has no Node of its own yet, or runs without --features bgp",
    )?;
    let stopped = |error: bgp_speaker::Stopped| error.to_string();
    Ok(match question {
        BgpQuestion::Peers => {
            let peers = speaker.status().await.map_err(stopped)?;
            BgpAnswer::Peers(peers.iter().map(view::peer).collect())
        }
        BgpQuestion::Peer { name } => {
            let peers = speaker.status().await.map_err(stopped)?;
            let known = peers.iter().find(|peer| peer.name == name);
            let peer = known.ok_or_else(|| no_such_peer(&name))?;
            BgpAnswer::Peer(Box::new(view::peer(peer)))
        }
        BgpQuestion::Routes { within, limit } => {
            let routes = speaker.routes(within, limit).await.map_err(stopped)?;
            BgpAnswer::Routes(routes.iter().map(view::route).collect())
        }
        BgpQuestion::Advertised { peer, limit } => {
            let told = speaker.advertised(&peer, limit).await.map_err(stopped)?;
            let told = told.ok_or_else(|| no_such_peer(&peer))?;
            BgpAnswer::Advertised(told.iter().map(view::advertised).collect())
        }
        BgpQuestion::Received { peer, limit } => {
            let held = speaker.received(&peer, limit).await.map_err(stopped)?;
            let held = held.ok_or_else(|| no_such_peer(&peer))?;
            BgpAnswer::Received(held.iter().map(view::received).collect())
        }
        BgpQuestion::Explain { prefix } => {
            let told = speaker.explain(prefix).await.map_err(stopped)?;
            BgpAnswer::Explain(view::explanation(&told))
        }
        BgpQuestion::Refresh { peer } => {
            if !speaker.refresh(&peer).await.map_err(stopped)? {
                return Err(format!(
                    "peer {peer} cannot be asked: it is not Established, does not know route refresh, or there is none of that name"
                ));
            }
            BgpAnswer::Done(format!("{peer} was asked for all its routes"))
        }
        BgpQuestion::Reset { peer, message } => {
            if !speaker.reset(&peer, &message).await.map_err(stopped)? {
                return Err(no_such_peer(&peer));
            }
            BgpAnswer::Done(format!("{peer} starts again"))
        }
    })
}

fn no_such_peer(name: &str) -> String {
    format!("there is no peer {name}: `portolan bgp peers` lists them")
}
