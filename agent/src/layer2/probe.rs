//! Asks the link who has an address, beside the agent that may answer for it: what `portolan doctor` tells duplicates by.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use services::layer2::frame::{self, Mac, Question};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::links::{self, Link};
use super::socket::{PacketSocket, Speech};

/// For so long answers are waited for.
const WAIT: Duration = Duration::from_millis(700);
/// How often is asked in that time: one frame may be lost.
const TIMES: u32 = 2;

/// The hardware addresses that an address was said to be at, by interface. An interface that was asked on is there, with none if
/// nobody answered.
pub(crate) type Heard = BTreeMap<IpAddr, BTreeMap<String, BTreeSet<Mac>>>;

/// Asks for each of these addresses on its interfaces, all at once. This host's own answers are not heard: no frame comes back
/// to where it was sent.
///
/// # Errors
/// Interfaces cannot be listed, or none can be spoken on (it takes CAP_NET_RAW).
pub(crate) async fn ask(wanted: BTreeMap<IpAddr, BTreeSet<String>>) -> io::Result<Heard> {
    let links = links::links()?;
    let own: BTreeSet<Mac> = links.values().map(|link| link.mac).collect();
    let mut by_link: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
    for (address, names) in wanted {
        for name in names {
            by_link.entry(name).or_default().push(address);
        }
    }
    let mut asking = JoinSet::new();
    for (name, addresses) in by_link {
        if let Some(link) = links.get(&name).cloned() {
            for speech in [Speech::Arp, Speech::NeighbourDiscovery] {
                let is_arp = speech == Speech::Arp;
                let of = addresses.iter().filter(|one| one.is_ipv4() == is_arp);
                let of: Vec<IpAddr> = of.copied().collect();
                let name = name.clone();
                let link = link.clone();
                asking.spawn(async move { (name, on(&link, speech, &of).await) });
            }
        }
    }
    let (mut heard, mut failed) = (Heard::new(), None);
    while let Some(done) = asking.join_next().await {
        let Ok((name, answers)) = done else { continue };
        match answers {
            Ok(answers) => {
                for (address, macs) in answers {
                    let macs = macs.difference(&own).copied().collect();
                    heard.entry(address).or_default().insert(name.clone(), macs);
                }
            }
            // One that has gone down meanwhile keeps nobody from hearing of the others.
            Err(error) => failed = Some(error),
        }
    }
    match failed {
        Some(error) if heard.is_empty() => Err(error),
        _ => Ok(heard),
    }
}

async fn on(
    link: &Link,
    speech: Speech,
    addresses: &[IpAddr],
) -> io::Result<BTreeMap<IpAddr, BTreeSet<Mac>>> {
    let questions = addresses.iter().filter_map(|address| {
        let question = Question {
            address: *address,
            asker: link.mac,
            from: link.asks_from(*address)?,
        };
        Some((*address, frame::question(&question)?))
    });
    let questions: Vec<(IpAddr, Vec<u8>)> = questions.collect();
    let none = questions
        .iter()
        .map(|(address, _)| (*address, BTreeSet::new()));
    let mut heard: BTreeMap<IpAddr, BTreeSet<Mac>> = none.collect();
    if questions.is_empty() {
        return Ok(heard);
    }
    let socket = PacketSocket::open(&link.place, speech)?;
    let mut buffer = PacketSocket::buffer();
    for _ in 0..TIMES {
        for (_, question) in &questions {
            socket.send(question)?;
        }
        let until = Instant::now() + WAIT / TIMES;
        while let Ok(read) = tokio::time::timeout_at(until, socket.read(&mut buffer)).await {
            let said = frame::read(buffer.get(..read?).unwrap_or_default());
            if let Some(frame::Heard::Claim { address, mac }) = said
                && let Some(macs) = heard.get_mut(&address)
            {
                macs.insert(mac);
            }
        }
    }
    Ok(heard)
}
