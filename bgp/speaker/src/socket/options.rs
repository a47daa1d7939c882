//! The options of one peer's sockets, and how they are put on a socket that dials, listens or was accepted.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

use nix::libc;
use nix::sys::socket::{GetSockOpt as _, SetSockOpt as _};
use socket2::SockRef;
use tokio::net::TcpStream;

use super::kernel::{MinHopCount, MinTtl, SaveSyn, SavedSyn};
use super::password::Password;
use super::ttl::Ttl;

/// What the sockets of one peer are given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SocketOptions {
    /// How far the session reaches.
    pub ttl: Ttl,
    /// The TCP MD5 key. On a listening socket it is set with [`crate::listener::Listener::set_keys`].
    pub password: Option<Password>,
    /// Which of our addresses to dial from.
    pub source: Option<IpAddr>,
    /// The interface the peer is on: packets go and come there only, and a link-local address needs no scope.
    pub interface: Option<String>,
}

/// DSCP CS6, network control (RFC 4594 §3.1), as the whole octet.
const NETWORK_CONTROL: u32 = 0xc0;
/// Bytes that TCP holds and has not sent; more would only delay what is said later.
const UNSENT: u32 = 128 * 1024;

/// Puts the options on a connection that was accepted; to be called before anything is read from it.
///
/// The TTL of its SYN is judged here too (GTSM, RFC 5082): a listening socket cannot demand 255 while it has peers
/// that send less, so handshakes from afar complete, and then the connection is closed before a byte of it is
/// read. The kernel keeps no SYN while it sends SYN cookies; then only what comes after this call is judged.
///
/// # Errors
/// When an option is refused, or the SYN crossed too many routers; the text names the peer and the option.
pub fn apply_accepted(stream: &TcpStream, options: &SocketOptions) -> io::Result<()> {
    let remote = stream.peer_addr()?;
    // The filter first: what arrives from now on has passed it.
    apply_ttl(stream, remote, options.ttl)?;
    apply_quality(stream, remote)?;
    let lowest = options.ttl.lowest();
    match syn_ttl(stream, remote)? {
        Some(ttl) if ttl < lowest => Err(io::Error::new(
            io::ErrorKind::ConnectionRefused,
            format!("peer {remote}: its SYN had TTL {ttl}, TTL security takes {lowest} and more"),
        )),
        _ => Ok(()),
    }
}

/// What a listening socket has for all peers: SYN-ACKs leave with TTL 255, since peers with GTSM take no other, and
/// SYNs are kept for [`apply_accepted`].
pub(crate) fn apply_listening(socket: &impl AsFd, address: SocketAddr) -> io::Result<()> {
    let named =
        |option: &'static str| move |error| option_error("listener", address, option, error);
    set_sent_ttl(socket, address, u8::MAX).map_err(named("TTL"))?;
    set_dscp(socket, address).map_err(named("DSCP"))?;
    SaveSyn
        .set(socket, &1)
        .map_err(|error| named("TCP_SAVE_SYN")(error.into()))
}

/// TTL and GTSM.
pub(super) fn apply_ttl(socket: &impl AsFd, remote: SocketAddr, ttl: Ttl) -> io::Result<()> {
    let named = |option: &'static str| move |error| option_error("peer", remote, option, error);
    set_sent_ttl(socket, remote, ttl.sent()).map_err(named("TTL"))?;
    let lowest = libc::c_int::from(ttl.lowest());
    match remote {
        SocketAddr::V4(_) => MinTtl.set(socket, &lowest),
        SocketAddr::V6(_) => MinHopCount.set(socket, &lowest),
    }
    .map_err(|error| named("TTL security")(error.into()))
}

/// How packets are treated on the way: at once, before others, with little unsent.
pub(super) fn apply_quality(socket: &impl AsFd, remote: SocketAddr) -> io::Result<()> {
    let named = |option: &'static str| move |error| option_error("peer", remote, option, error);
    let wrapped = SockRef::from(socket);
    wrapped
        .set_tcp_nodelay(true)
        .map_err(named("TCP_NODELAY"))?;
    wrapped
        .set_tcp_notsent_lowat(UNSENT)
        .map_err(named("TCP_NOTSENT_LOWAT"))?;
    set_dscp(socket, remote).map_err(named("DSCP"))
}

pub(crate) fn option_error(
    role: &str,
    subject: impl std::fmt::Display,
    option: &str,
    error: io::Error,
) -> io::Error {
    io::Error::new(error.kind(), format!("{role} {subject}: {option}: {error}"))
}

fn set_sent_ttl(socket: &impl AsFd, address: SocketAddr, ttl: u8) -> io::Result<()> {
    let socket = SockRef::from(socket);
    match address {
        SocketAddr::V4(_) => socket.set_ttl_v4(ttl.into()),
        SocketAddr::V6(_) => socket.set_unicast_hops_v6(ttl.into()),
    }
}

fn set_dscp(socket: &impl AsFd, address: SocketAddr) -> io::Result<()> {
    let socket = SockRef::from(socket);
    match address {
        SocketAddr::V4(_) => socket.set_tos_v4(NETWORK_CONTROL),
        SocketAddr::V6(_) => socket.set_tclass_v6(NETWORK_CONTROL),
    }
}

/// The TTL of the SYN a connection began with; `None` when the kernel kept none.
fn syn_ttl(stream: &TcpStream, remote: SocketAddr) -> io::Result<Option<u8>> {
    let headers = SavedSyn
        .get(stream)
        .map_err(|error| option_error("peer", remote, "TCP_SAVED_SYN", error.into()))?;
    let at = match remote {
        SocketAddr::V4(_) => 8,
        SocketAddr::V6(_) => 7,
    };
    Ok(headers.get(at).copied())
}
