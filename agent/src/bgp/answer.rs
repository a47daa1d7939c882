//! Asks the speaker what the command line wants to know.

use bgp_proto::speaker::PeerStatus;
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
            match peers.iter().find(|peer| peer.name == name) {
                Some(peer) => BgpAnswer::Peer(Box::new(view::peer(peer))),
                None => return Err(no_such_peer(&speaker, &name).await),
            }
        }
        BgpQuestion::Routes { within, limit } => {
            let routes = speaker.routes(within, limit).await.map_err(stopped)?;
            BgpAnswer::Routes(routes.iter().map(view::route).collect())
        }
        BgpQuestion::Advertised { peer, limit } => {
            let told = speaker.advertised(&peer, limit).await.map_err(stopped)?;
            match told {
                Some(told) => BgpAnswer::Advertised(told.iter().map(view::advertised).collect()),
                None => return Err(no_such_peer(&speaker, &peer).await),
            }
        }
        BgpQuestion::Received { peer, limit } => {
            let held = speaker.received(&peer, limit).await.map_err(stopped)?;
            match held {
                Some(held) => BgpAnswer::Received(held.iter().map(view::received).collect()),
                None => return Err(no_such_peer(&speaker, &peer).await),
            }
        }
        BgpQuestion::Explain { prefix } => {
            let told = speaker.explain(prefix).await.map_err(stopped)?;
            BgpAnswer::Explain(view::explanation(&told))
        }
        BgpQuestion::Refresh { peer } => {
            if !speaker.refresh(&peer).await.map_err(stopped)? {
                return Err(cannot_refresh(&speaker, &peer).await);
            }
            BgpAnswer::Done(format!("{peer} was asked for all its routes"))
        }
        BgpQuestion::Reset { peer, message } => {
            if !speaker.reset(&peer, &message).await.map_err(stopped)? {
                return Err(no_such_peer(&speaker, &peer).await);
            }
            BgpAnswer::Done(format!("{peer} starts again"))
        }
    })
}

/// Names those there are, the most like it first.
async fn no_such_peer(speaker: &Handle, name: &str) -> String {
    let peers = speaker.status().await.unwrap_or_default();
    unknown(name, peers.into_iter().map(|peer| peer.name).collect())
}

fn unknown(name: &str, known: Vec<String>) -> String {
    if known.is_empty() {
        return format!(
            "there is no peer {name}, nor any other: a BGPPeer whose nodeSelector matches this node makes one"
        );
    }
    let like = |peer: &&String| peer.contains(name) || peer.split('/').any(|part| name == part);
    let mut named: Vec<&String> = known.iter().filter(like).collect();
    if named.is_empty() {
        named = known.iter().collect();
    }
    let shown = named.iter().take(NAMED);
    let shown: Vec<&str> = shown.map(|peer| peer.as_str()).collect();
    let rest = if known.len() > shown.len() {
        "; `portolan bgp peers` lists all"
    } else {
        ""
    };
    format!(
        "there is no peer {name}; there is {}{rest}",
        shown.join(", ")
    )
}

/// So many peers are named in an error.
const NAMED: usize = 5;

async fn cannot_refresh(speaker: &Handle, name: &str) -> String {
    let peers = speaker.status().await.unwrap_or_default();
    match peers.iter().find(|peer| peer.name == name) {
        None => unknown(name, peers.into_iter().map(|peer| peer.name).collect()),
        Some(PeerStatus {
            negotiated: None,
            state,
            ..
        }) => format!(
            "peer {name} cannot be asked: its session is {}, not Established; `portolan bgp peer {name}` says why",
            state.name()
        ),
        Some(_) => format!(
            "peer {name} does not know route refresh (RFC 2918): `portolan bgp reset {name}` has it send all again"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(name: &str, known: &[&str]) -> String {
        unknown(name, known.iter().map(|&name| name.to_owned()).collect())
    }

    #[test]
    fn an_unknown_peer_is_answered_with_those_there_are() {
        assert!(said("tor", &[]).contains("BGPPeer"));
        assert_eq!(
            said("tor", &["tor-a", "tor-b"]),
            "there is no peer tor; there is tor-a, tor-b"
        );
        let all = ["mesh/n1", "mesh/n2", "tor-a"];
        assert_eq!(
            said("n2", &all),
            "there is no peer n2; there is mesh/n2; `portolan bgp peers` lists all"
        );
        let many: Vec<String> = (0..50).map(|number| format!("p{number}")).collect();
        let told = unknown("x", many);
        assert_eq!(
            told,
            "there is no peer x; there is p0, p1, p2, p3, p4; `portolan bgp peers` lists all"
        );
    }
}
