//! TCP MD5 keys (RFC 2385) as the kernel takes them.

use std::net::IpAddr;
use std::os::fd::AsFd;

use ipnet::IpNet;
use nix::libc;
use nix::sys::socket::SetSockOpt as _;

use super::kernel::{MD5_LEN, Md5Key};
use super::password::Password;

// Offsets in `struct tcp_md5sig`: an address of 128 octets, flags, prefix length, key length, ifindex, key.
const FLAGS: usize = 128;
const PREFIX_LEN: usize = 129;
const KEY_LEN: usize = 130;
const KEY: usize = 136;
/// TCP_MD5SIG_FLAG_PREFIX: the prefix length counts.
const FLAG_PREFIX: u8 = 1;

/// Sets, changes or (`None`) removes the key of a prefix.
///
/// The key of an interface (TCP_MD5SIG_FLAG_IFINDEX) is not used: Linux takes it for VRF masters alone, so a link-local
/// peer's key goes by its address, whatever the interface.
pub(crate) fn set_key(socket: &impl AsFd, net: IpNet, key: Option<&Password>) -> nix::Result<()> {
    match Md5Key.set(socket, &encode(net, key)) {
        // Removed before: what was wanted holds.
        Err(nix::errno::Errno::ENOENT) if key.is_none() => Ok(()),
        result => result,
    }
}

fn encode(net: IpNet, key: Option<&Password>) -> [u8; MD5_LEN] {
    let net = net.trunc();
    let mut option = [0; MD5_LEN];
    let mut put = |at: usize, octets: &[u8]| {
        for (to, from) in option.iter_mut().skip(at).zip(octets) {
            *to = *from;
        }
    };
    let (family, at) = match net.addr() {
        IpAddr::V4(_) => (libc::AF_INET, 4),
        IpAddr::V6(_) => (libc::AF_INET6, 8),
    };
    let family = u16::try_from(family).unwrap_or_default();
    put(0, &family.to_ne_bytes());
    match net.addr() {
        IpAddr::V4(address) => put(at, &address.octets()),
        IpAddr::V6(address) => put(at, &address.octets()),
    }
    put(FLAGS, &[FLAG_PREFIX]);
    put(PREFIX_LEN, &[net.prefix_len()]);
    let octets = key.map(Password::octets).unwrap_or_default();
    let len = u16::try_from(octets.len()).unwrap_or_default();
    put(KEY_LEN, &len.to_ne_bytes());
    put(KEY, octets);
    option
}
