//! Dialling a peer with its options set before the first packet.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;
use nix::net::if_::if_nametoindex;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::keys::set_key;
use super::options::{SocketOptions, apply_quality, apply_ttl, option_error};

const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// Dials with every option in place before the first SYN.
///
/// # Errors
/// When an option is refused (the text names the peer and the option), or there is no connection within 5 s.
pub async fn dial(remote: SocketAddr, options: &SocketOptions) -> io::Result<TcpStream> {
    let named = |option: &'static str| move |error| option_error("peer", remote, option, error);
    let socket = Socket::new(
        Domain::for_address(remote),
        Type::STREAM.nonblocking(),
        Some(Protocol::TCP),
    )
    .map_err(named("socket"))?;
    apply_ttl(&socket, remote, options.ttl)?;
    apply_quality(&socket, remote)?;
    if let Some(password) = &options.password {
        set_key(&socket, IpNet::from(remote.ip()), Some(password))
            .map_err(|error| named("password (TCP MD5)")(error.into()))?;
    }
    let mut target = remote;
    if let Some(interface) = &options.interface {
        let on = |error: io::Error| {
            option_error("peer", remote, &format!("interface {interface}"), error)
        };
        let index = if_nametoindex(interface.as_str()).map_err(|error| on(error.into()))?;
        socket.bind_device(Some(interface.as_bytes())).map_err(on)?;
        if let SocketAddr::V6(v6) = &mut target
            && v6.ip().is_unicast_link_local()
        {
            v6.set_scope_id(index);
        }
    }
    if let Some(source) = options.source {
        let mut address = SocketAddr::new(source, 0);
        if let (SocketAddr::V6(address), SocketAddr::V6(target)) = (&mut address, &target)
            && address.ip().is_unicast_link_local()
        {
            address.set_scope_id(target.scope_id());
        }
        let from = |error| option_error("peer", remote, &format!("source address {source}"), error);
        socket.bind(&address.into()).map_err(from)?;
    }
    let socket = TcpSocket::from_std_stream(socket.into());
    match timeout(DIAL_TIMEOUT, socket.connect(target)).await {
        Ok(result) => result,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}
