//! GoBGP as a daemon under test.

use anyhow::Result;
use tests::gobgp::GoBgp;

use super::{Running, Setup};
use crate::rig::{DAEMON_AS, DAEMON_ID};

impl Running for GoBgp {
    fn log_end(&self) -> String {
        Self::log_end(self)
    }
}

pub(super) fn start(setup: &Setup<'_>) -> Result<Box<dyn Running>> {
    Ok(Box::new(GoBgp::start(setup.netns, &config(setup))?))
}

fn config(setup: &Setup<'_>) -> String {
    let mut text = format!(
        "[global.config]\n  as = {DAEMON_AS}\n  router-id = \"{DAEMON_ID}\"\n  port = 179\n"
    );
    for peer in setup.peers {
        text += &format!(
            "[[neighbors]]\n  [neighbors.config]\n    neighbor-address = \"{}\"\n    peer-as = {}\n  \
             [neighbors.transport.config]\n    passive-mode = true\n  \
             [neighbors.timers.config]\n    hold-time = 90\n    keepalive-interval = 30\n  \
             [[neighbors.afi-safis]]\n    [neighbors.afi-safis.config]\n      \
             afi-safi-name = \"ipv4-unicast\"\n",
            peer.address, peer.asn
        );
    }
    text
}
