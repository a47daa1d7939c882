//! Asks the kernel by netlink whether an address is in a set: some microseconds, where a program takes milliseconds.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, OwnedFd};

use ::tests::netns::Netns;
use anyhow::{Context as _, Result, bail};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};

/// `NFNL_SUBSYS_IPSET << 8 | IPSET_CMD_TEST`.
const TEST: u16 = 6 << 8 | 11;
/// `NLM_F_REQUEST | NLM_F_ACK`.
const ASK: u16 = 5;
const NLMSG_ERROR: u16 = 2;
const PROTOCOL: u16 = 1;
const SETNAME: u16 = 2;
const DATA: u16 = 7;
const IP: u16 = 1;
const IPADDR_IPV4: u16 = 1;
const NESTED: u16 = 0x8000;
const NET_BYTE_ORDER: u16 = 0x4000;
const IPSET_PROTOCOL: u8 = 6;
/// `IPSET_ERR_EXIST`: here, that it is not.
const NOT_THERE: i32 = -4103;

/// One set and one address, asked for again and again.
pub(crate) struct Membership {
    socket: OwnedFd,
    request: Vec<u8>,
}

impl Membership {
    /// Opens the socket inside the namespace.
    pub(crate) fn new(netns: &Netns, set: &str, address: Ipv4Addr) -> Result<Self> {
        let socket = netns.inside(|| {
            let raw = SockType::Raw;
            let netfilter = SockProtocol::NetlinkNetFilter;
            socket(
                AddressFamily::Netlink,
                raw,
                SockFlag::SOCK_CLOEXEC,
                netfilter,
            )
        })??;
        let request = request(set, address);
        Ok(Self { socket, request })
    }

    /// Whether the address is in the set now.
    pub(crate) fn is_there(&self) -> Result<bool> {
        send(self.socket.as_raw_fd(), &self.request, MsgFlags::empty())?;
        let mut buffer = [0; 4096];
        let length = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let answer = buffer.get(..length).context("an answer")?;
        let kind: [u8; 2] = *answer
            .get(4..)
            .and_then(|rest| rest.first_chunk())
            .context("a header")?;
        let code: [u8; 4] = *answer
            .get(16..)
            .and_then(|rest| rest.first_chunk())
            .context("a code")?;
        match (u16::from_ne_bytes(kind), i32::from_ne_bytes(code)) {
            (NLMSG_ERROR, 0) => Ok(true),
            (NLMSG_ERROR, NOT_THERE) => Ok(false),
            (kind, code) => bail!("the kernel answers {kind}, {code}"),
        }
    }
}

fn request(set: &str, address: Ipv4Addr) -> Vec<u8> {
    let ip = attribute(IPADDR_IPV4 | NET_BYTE_ORDER, &address.octets());
    let data = attribute(IP | NESTED, &ip);
    let name = [set.as_bytes(), &[0]].concat();
    let body = [
        // `struct nfgenmsg`: AF_INET, version 0, no resource.
        vec![2, 0, 0, 0],
        attribute(PROTOCOL, &[IPSET_PROTOCOL]),
        attribute(SETNAME, &name),
        attribute(DATA | NESTED, &data),
    ]
    .concat();
    let mut bytes = Vec::with_capacity(16 + body.len());
    bytes.extend(((16 + body.len()) as u32).to_ne_bytes());
    bytes.extend(TEST.to_ne_bytes());
    bytes.extend(ASK.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend(body);
    bytes
}

fn attribute(code: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(((4 + value.len()) as u16).to_ne_bytes());
    bytes.extend(code.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_there_and_another_address_is_not() {
        ::tests::require_root!();
        let netns = Netns::new("member", "n").unwrap();
        netns.run("ipset", &["create", "some", "hash:ip"]).unwrap();
        netns.run("ipset", &["add", "some", "192.0.2.1"]).unwrap();
        let asked = |last| {
            let address = Ipv4Addr::new(192, 0, 2, last);
            let asked = Membership::new(&netns, "some", address).unwrap();
            [asked.is_there().unwrap(), asked.is_there().unwrap()]
        };
        assert_eq!([asked(1), asked(2)], [[true; 2], [false; 2]]);
    }
}
