//! Opening the socket with its keys, and changing them while it listens.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use socket2::{Domain, Protocol, Type};
use tokio::net::TcpListener;
use tokio::time::sleep;

use super::{Keys, State, lock};
use crate::socket::{apply_listening, option_error, set_key};

const BACKLOG: i32 = 128;
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(5);

/// The socket, once it is open, and the keys it has or is to have.
#[derive(Debug)]
pub(super) struct Socket {
    address: SocketAddr,
    open: Option<Arc<TcpListener>>,
    /// Those of the address's family.
    keys: Keys,
    /// Keys that the kernel refused, and why.
    refused: BTreeMap<IpNet, String>,
}

impl Socket {
    pub(super) fn closed(address: SocketAddr, keys: Keys) -> Self {
        Self {
            address,
            open: None,
            keys: canonical(address, keys),
            refused: BTreeMap::new(),
        }
    }

    /// Applies the difference; before the socket is open, `open` applies all.
    pub(super) fn set_keys(&mut self, keys: Keys) -> Vec<io::Error> {
        let former = std::mem::replace(&mut self.keys, canonical(self.address, keys));
        let Some(socket) = self.open.clone() else {
            return Vec::new();
        };
        let refused = std::mem::take(&mut self.refused);
        for net in former.keys().filter(|net| !self.keys.contains_key(net)) {
            if let Err(error) = set_key(&socket, *net, None) {
                tracing::warn!(peer = %net, %error, "its TCP MD5 key cannot be removed");
            }
        }
        let changed: Vec<IpNet> = self
            .keys
            .iter()
            .filter(|(net, key)| former.get(net) != Some(key) || refused.contains_key(net))
            .map(|(net, _)| *net)
            .collect();
        self.apply(&socket, &changed)
    }

    /// Whether connections from there were to have a key and cannot.
    pub(super) fn lacks_key(&self, remote: IpAddr) -> bool {
        let holds = |net: &&IpNet| net.contains(&remote);
        let longest = self
            .keys
            .keys()
            .filter(holds)
            .max_by_key(|net| net.prefix_len());
        longest.is_some_and(|net| self.refused.contains_key(net))
    }

    /// All refusals in one text.
    pub(super) fn refused_keys(&self) -> Option<String> {
        let texts: Vec<&str> = self.refused.values().map(String::as_str).collect();
        (!texts.is_empty()).then(|| texts.join("; "))
    }

    fn apply(&mut self, socket: &impl std::os::fd::AsFd, nets: &[IpNet]) -> Vec<io::Error> {
        let mut errors = Vec::new();
        for net in nets {
            let Err(error) = set_key(socket, *net, self.keys.get(net)) else {
                continue;
            };
            let option = match error {
                nix::errno::Errno::ENOMEM => "password (TCP MD5; raise sysctl net.core.optmem_max)",
                _ => "password (TCP MD5)",
            };
            let error = option_error("peer", net, option, error.into());
            self.refused.insert(*net, error.to_string());
            errors.push(error);
        }
        errors
    }
}

fn canonical(address: SocketAddr, keys: Keys) -> Keys {
    let same_family = |net: &IpNet| net.addr().is_ipv4() == address.is_ipv4();
    let keys = keys.into_iter().filter(|(net, _)| same_family(net));
    keys.map(|(net, key)| (net.trunc(), key)).collect()
}

pub(super) async fn open_until_open(state: &State) -> Arc<TcpListener> {
    let address = state.config.address;
    let mut wait = FIRST_RETRY;
    loop {
        match open(&mut lock(&state.socket)) {
            Ok(socket) => {
                state.set_error(None);
                return socket;
            }
            Err(error) => {
                let way_out = way_out(address, &error);
                tracing::warn!(%address, %error, "cannot listen, trying again{way_out}");
                state.set_error(Some(format!(
                    "cannot listen on {address}: {error}{way_out}"
                )));
            }
        }
        sleep(wait).await;
        wait = (wait * 2).min(LAST_RETRY);
    }
}

/// What to do about it, where that is known.
fn way_out(address: SocketAddr, error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied if address.port() < 1024 => {
            ": ports below 1024 need the capability NET_BIND_SERVICE: add it to securityContext.capabilities of the container"
        }
        _ => "",
    }
}

/// No IP_FREEBIND: an address that is not there (yet) is an error people see in the status, and the next try finds it.
fn open(state: &mut Socket) -> io::Result<Arc<TcpListener>> {
    let address = state.address;
    let socket = socket2::Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        // IPv4 peers have a socket of their own; mapped addresses would match no configured one.
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    apply_listening(&socket, address)?;
    socket.bind(&address.into())?;
    // Before anyone can connect.
    state.refused.clear();
    let nets: Vec<IpNet> = state.keys.keys().copied().collect();
    for error in state.apply(&socket, &nets) {
        tracing::warn!(%address, %error, "connections from there are refused");
    }
    socket.listen(BACKLOG)?;
    let socket = Arc::new(TcpListener::from_std(socket.into())?);
    state.open = Some(Arc::clone(&socket));
    Ok(socket)
}
