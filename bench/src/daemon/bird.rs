//! BIRD 2 as a daemon under test.

use anyhow::Result;
use tests::bird::Bird;

use super::{Kernel, Running, Setup};
use crate::rig::{DAEMON_AS, DAEMON_ID};

impl Running for Bird {
    fn log_end(&self) -> String {
        Self::log_end(self)
    }
}

pub(super) fn start(setup: &Setup<'_>) -> Result<Box<dyn Running>> {
    Ok(Box::new(Bird::start(setup.netns, &config(setup))?))
}

pub(super) fn version() -> Result<String> {
    tests::process::said_by("bird", &["--version"])
}

fn config(setup: &Setup<'_>) -> String {
    let kernel = match setup.kernel {
        Kernel::Untouched => "",
        Kernel::Best => "protocol kernel { ipv4 { import none; export all; }; }\n",
        Kernel::Multipath => {
            "protocol kernel { ipv4 { import none; export all; }; merge paths yes; }\n"
        }
    };
    let mut text = format!(
        "router id {DAEMON_ID};\nprotocol device {{ }}\n{kernel}\
         template bgp peer {{\n  local as {DAEMON_AS};\n  passive yes;\n  hold time 90;\n  \
         ipv4 {{ import all; export all; }};\n}}\n"
    );
    for (index, peer) in setup.peers.iter().enumerate() {
        text += &format!(
            "protocol bgp p{index} from peer {{ neighbor {} as {}; }}\n",
            peer.address, peer.asn
        );
    }
    text
}
