//! Two namespaces: the daemon's and the generator's, with one veth or several between them.

use std::net::Ipv4Addr;

use anyhow::Result;
use tests::netns::{Netns, join};

use crate::peer::Identity;

/// The AS of the daemon under test.
pub const DAEMON_AS: u32 = 65_000;
/// Its BGP Identifier, and its address on the first link.
pub const DAEMON_ID: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);

/// A daemon's surroundings.
#[derive(Debug)]
pub struct Rig {
    /// Where the daemon runs.
    pub daemon: Netns,
    /// Where the generator's sockets are.
    pub generator: Netns,
    /// The peers to be: AS 65001 and up, on the links in turn.
    pub peers: Vec<Identity>,
}

impl Rig {
    /// Makes namespaces, `links` veth pairs and the addresses of `peers` peers.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn new(peers: u8, links: u8) -> Result<Self> {
        let daemon = Netns::new("bench", "d")?;
        let generator = Netns::new("bench", "g")?;
        for link in 0..links {
            let (here, there) = (Self::link(link), format!("g{link}"));
            join((&daemon, &here), (&generator, &there))?;
            daemon.ip(&format!("addr add 10.99.{link}.1/24 dev {here}"))?;
        }
        let mut identities = Vec::new();
        for index in 0..peers {
            let link = index % links.max(1);
            let address = Ipv4Addr::new(10, 99, link, 10 + index);
            generator.ip(&format!("addr add {address}/24 dev g{link}"))?;
            identities.push(Identity {
                asn: DAEMON_AS + 1 + u32::from(index),
                address,
                daemon: Ipv4Addr::new(10, 99, link, 1),
            });
        }
        Ok(Self {
            daemon,
            generator,
            peers: identities,
        })
    }

    /// The daemon's interface on a link.
    #[must_use]
    pub fn link(link: u8) -> String {
        format!("d{link}")
    }
}
