//! FRR as a daemon under test: bgpd alone where the kernel is not touched, else with zebra.

use anyhow::Result;
use tests::frr::Frr;
use tests::process::Process;

use super::{Kernel, Running, Setup};
use crate::rig::{DAEMON_AS, DAEMON_ID};

/// A bgpd without zebra.
#[derive(Debug)]
struct Alone {
    process: Process,
    _dir: tempfile::TempDir,
}

impl Running for Alone {
    fn log_end(&self) -> String {
        self.process.log_end()
    }
}

impl Running for Frr {
    fn log_end(&self) -> String {
        Self::log_end(self)
    }
}

pub(super) fn start(setup: &Setup<'_>) -> Result<Box<dyn Running>> {
    if setup.kernel == Kernel::Untouched {
        return Ok(Box::new(start_alone(setup)?));
    }
    Ok(Box::new(Frr::start(setup.netns, &config(setup))?))
}

pub(super) fn version() -> Result<String> {
    tests::process::said_by("/usr/lib/frr/bgpd", &["--version"])
}

fn start_alone(setup: &Setup<'_>) -> Result<Alone> {
    let dir = tempfile::Builder::new().prefix("ptl-frr-").tempdir()?;
    let path = dir.path();
    std::fs::write(path.join("bgpd.conf"), config(setup))?;
    // The daemon runs as Debian's user frr, who must own what it writes into.
    tests::netns::run("chown", &["-R", "frr:frr", &path.to_string_lossy()])?;
    let mut command = setup.netns.command("/usr/lib/frr/bgpd");
    command
        .arg("--no_zebra")
        .arg("-f")
        .arg(path.join("bgpd.conf"));
    command.arg("-i").arg(path.join("bgpd.pid"));
    command.arg("--vty_socket").arg(path);
    command.args(["--log", "stdout", "-A", "127.0.0.1"]);
    let process = Process::start("bgpd", command, &path.join("bgpd.log"))?;
    Ok(Alone { process, _dir: dir })
}

fn config(setup: &Setup<'_>) -> String {
    let paths = if setup.kernel == Kernel::Multipath {
        2
    } else {
        1
    };
    let mut text = format!(
        "hostname dut\nrouter bgp {DAEMON_AS}\n bgp router-id {DAEMON_ID}\n \
         no bgp ebgp-requires-policy\n no bgp network import-check\n \
         bgp bestpath as-path multipath-relax\n"
    );
    for peer in setup.peers {
        let address = peer.address;
        text += &format!(
            " neighbor {address} remote-as {}\n neighbor {address} passive\n \
             neighbor {address} timers 30 90\n",
            peer.asn
        );
    }
    text + &format!(" address-family ipv4 unicast\n  maximum-paths {paths}\n exit-address-family\n")
}
