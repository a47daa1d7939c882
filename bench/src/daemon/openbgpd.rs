//! OpenBGPD as a daemon under test.

use anyhow::Result;
use tests::openbgpd::OpenBgpd;

use super::{Running, Setup};
use crate::rig::{DAEMON_AS, DAEMON_ID};

impl Running for OpenBgpd {
    fn log_end(&self) -> String {
        Self::log_end(self)
    }
}

pub(super) fn start(setup: &Setup<'_>) -> Result<Box<dyn Running>> {
    Ok(Box::new(OpenBgpd::start(setup.netns, &config(setup))?))
}

fn config(setup: &Setup<'_>) -> String {
    let mut text = format!("AS {DAEMON_AS}\nrouter-id {DAEMON_ID}\nfib-update no\n");
    for peer in setup.peers {
        text += &format!(
            "neighbor {} {{\n  remote-as {}\n  passive\n  holdtime 90\n  announce IPv4 unicast\n}}\n",
            peer.address, peer.asn
        );
    }
    text + "allow from any\nallow to any\n"
}
