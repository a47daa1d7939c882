//! What the tests share that run on Debian's stock kernel in a machine of their own (`make vm-test`).

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tests::netns::{self, Netns};
use tests::reach::{Server, Transport, Verdict, attempt, server_at};

/// How long a connection may take: a machine in software is slow.
const PATIENCE: Duration = Duration::from_secs(30);

/// The kernel's release, such as `6.1.0-40-amd64`.
///
/// # Errors
/// When the system does not say.
pub fn release() -> Result<String> {
    let name = nix::sys::utsname::uname()?;
    let release = name.release().to_str().context("a release in UTF-8")?;
    Ok(release.to_owned())
}

/// Two namespaces with a veth between them: `eth0` has 192.0.2.1/24 on the left, 192.0.2.2/24 on the right.
///
/// # Errors
/// When `ip` fails.
pub fn pair(tag: &str) -> Result<(Netns, Netns)> {
    let (left, right) = (Netns::new(tag, "left")?, Netns::new(tag, "right")?);
    netns::join((&left, "eth0"), (&right, "eth0"))?;
    left.ip("addr add 192.0.2.1/24 dev eth0")?;
    right.ip("addr add 192.0.2.2/24 dev eth0")?;
    Ok((left, right))
}

/// Has `from` connect to an echo server in `to` at `address`.
///
/// # Errors
/// When no echo comes.
pub fn connect(from: &Netns, to: &Netns, address: &str) -> Result<()> {
    let server = Server::start(to)?;
    let address: IpAddr = address.parse()?;
    let verdict = attempt(from, server_at(address), Transport::Tcp, PATIENCE)?;
    drop(server);
    ensure!(verdict == Verdict::Answered, "{address}: {verdict:?}");
    Ok(())
}

/// How many packets the interface has received and sent.
///
/// # Errors
/// When there is no such interface.
pub fn packets(netns: &Netns, interface: &str) -> Result<(u64, u64)> {
    let all = netns.ip_json(&format!("-s link show dev {interface}"))?;
    let count = |way: &str| {
        let counter = all.pointer(&format!("/0/stats64/{way}/packets"));
        counter
            .and_then(|value| value.as_u64())
            .with_context(|| format!("the {way} packets of {interface} in {all}"))
    };
    Ok((count("rx")?, count("tx")?))
}
