//! Notices of nftables: which table a transaction changed, and whose transaction it was.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::io::ErrorKind;
use std::time::Duration;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{AsyncSocket, SocketAddr, TokioSocket};
use nix::errno::Errno;

use crate::Error;
use crate::batch::Attributes;
use crate::conn::{Header, Split, enlarge};
use crate::wire::{INET, INET6};

const NFNLGRP_NFTABLES: u32 = 7;
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFT_MSG_NEWTABLE: u16 = 0;
const NFT_MSG_DELTABLE: u16 = 2;
const NFT_MSG_NEWCHAIN: u16 = 3;
const NFT_MSG_DELCHAIN: u16 = 5;
const NFT_MSG_NEWRULE: u16 = 6;
const NFT_MSG_DELRULE: u16 = 8;
const NFT_MSG_NEWSET: u16 = 9;
const NFT_MSG_DELSET: u16 = 11;
const NFT_MSG_NEWSETELEM: u16 = 12;
const NFT_MSG_DELSETELEM: u16 = 14;
const NFT_MSG_NEWGEN: u16 = 15;
/// NFTA_TABLE_NAME, NFTA_CHAIN_TABLE, NFTA_RULE_TABLE and those of sets are all the same.
const NFTA_TABLE: u16 = 1;
const NFTA_GEN_PROC_PID: u16 = 2;
const NFTA_GEN_PROC_NAME: u16 = 3;
/// Bytes of struct nfgenmsg.
const NFGENMSG: usize = 4;

/// Bytes waiting for us: a restore of 10,000 rules tells each of them.
const BUFFER_BYTES: usize = 16 << 20;
/// The largest datagram of notices, with room to spare.
const DATAGRAM_BYTES: usize = 64 * 1024;
/// How long to wait after an error that is not understood.
const PAUSE: Duration = Duration::from_millis(100);

/// The families that `iptables` (nft back end) uses; tables of other families are never ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NftFamily {
    /// `ip`: IPv4.
    Ip,
    /// `ip6`: IPv6.
    Ip6,
}

/// A transaction that changed tables, chains, rules or sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TablesChanged {
    /// The tables, by family and name, such as `filter`.
    pub tables: BTreeSet<(NftFamily, String)>,
    /// The process, as the machine counts processes: in a container with a pid namespace of its own the program
    /// itself knows another number.
    pub process: Option<u32>,
    /// The port of its netlink socket: by habit the process id as the program itself knows it.
    pub port: u32,
    /// The program's name, up to 15 bytes, such as `iptables-restor`.
    pub program: String,
}

/// What was noticed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuleNotice {
    /// A transaction is in force.
    Tables(TablesChanged),
    /// Notices were lost: anything may have changed.
    Overrun,
}

/// Listens to nftables. Changes of other families' tables are left out, and those that packets make in sets: nobody tells of them.
pub struct RuleNotices {
    socket: TokioSocket,
    reader: Reader,
    buffer: Vec<u8>,
    waiting: std::collections::VecDeque<RuleNotice>,
}

impl std::fmt::Debug for RuleNotices {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut out = f.debug_struct("RuleNotices");
        out.field("waiting", &self.waiting).finish_non_exhaustive()
    }
}

impl RuleNotices {
    /// Listens in the calling thread's network namespace, from now on.
    ///
    /// # Errors
    /// When the socket can't be had, or the kernel has no nftables.
    pub fn open() -> Result<Self, Error> {
        let mut socket =
            TokioSocket::new(NETLINK_NETFILTER).map_err(|e| Error::Socket("open", e))?;
        let inner = socket.socket_mut();
        inner
            .bind(&SocketAddr::new(0, 0))
            .map_err(|e| Error::Socket("bind", e))?;
        enlarge(inner, BUFFER_BYTES);
        inner
            .add_membership(NFNLGRP_NFTABLES)
            .map_err(|e| Error::Socket("join the group of nftables", e))?;
        Ok(Self {
            socket,
            reader: Reader::default(),
            buffer: Vec::with_capacity(DATAGRAM_BYTES),
            waiting: std::collections::VecDeque::new(),
        })
    }

    /// Waits for the next transaction. May be dropped and called again: nothing is lost.
    pub async fn next(&mut self) -> RuleNotice {
        loop {
            if let Some(notice) = self.waiting.pop_front() {
                return notice;
            }
            self.wait().await;
        }
    }

    async fn wait(&mut self) {
        self.buffer.clear();
        let Self { socket, buffer, .. } = self;
        match poll_fn(|cx| socket.poll_recv(cx, buffer)).await {
            Ok(()) => {
                let Self {
                    reader,
                    buffer,
                    waiting,
                    ..
                } = self;
                let read = Split::new(buffer);
                waiting.extend(read.filter_map(|(header, body)| reader.handle(&header, body)));
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => {
                // What was gathered of a transaction whose rest is lost is part of "anything".
                self.reader = Reader::default();
                self.waiting.push_back(RuleNotice::Overrun);
                if error.raw_os_error() != Some(Errno::ENOBUFS as i32) {
                    tracing::warn!(%error, "notices of nftables can't be read");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

/// Gathers the tables of a transaction until the kernel says that it is in force (NFT_MSG_NEWGEN).
#[derive(Default)]
struct Reader {
    tables: BTreeSet<(NftFamily, String)>,
}

impl Reader {
    fn handle(&mut self, header: &Header, body: &[u8]) -> Option<RuleNotice> {
        if header.message_type >> 8 != NFNL_SUBSYS_NFTABLES {
            return None;
        }
        match header.message_type & 0xff {
            NFT_MSG_NEWTABLE | NFT_MSG_DELTABLE | NFT_MSG_NEWCHAIN | NFT_MSG_DELCHAIN
            | NFT_MSG_NEWRULE | NFT_MSG_DELRULE | NFT_MSG_NEWSET | NFT_MSG_DELSET
            | NFT_MSG_NEWSETELEM | NFT_MSG_DELSETELEM => {
                self.handle_table(body);
                None
            }
            NFT_MSG_NEWGEN => self.handle_generation(header, body),
            _ => None,
        }
    }

    fn handle_table(&mut self, body: &[u8]) {
        let family = match body.first().copied() {
            Some(INET) => NftFamily::Ip,
            Some(INET6) => NftFamily::Ip6,
            _ => return,
        };
        let attributes = body.get(NFGENMSG..).unwrap_or_default();
        if let Some((_, name)) = Attributes(attributes).find(|(kind, _)| *kind == NFTA_TABLE) {
            self.tables.insert((family, text(name)));
        }
    }

    fn handle_generation(&mut self, header: &Header, body: &[u8]) -> Option<RuleNotice> {
        let tables = std::mem::take(&mut self.tables);
        if tables.is_empty() {
            return None;
        }
        let (mut process, mut program) = (None, String::new());
        for (kind, value) in Attributes(body.get(NFGENMSG..).unwrap_or_default()) {
            match kind {
                NFTA_GEN_PROC_PID => process = value.try_into().ok().map(u32::from_be_bytes),
                NFTA_GEN_PROC_NAME => program = text(value),
                _ => {}
            }
        }
        Some(RuleNotice::Tables(TablesChanged {
            tables,
            process,
            port: header.port_number,
            program,
        }))
    }
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value)
        .trim_end_matches('\0')
        .to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::batch::attribute;

    fn header(message: u16) -> Header {
        Header {
            message_type: NFNL_SUBSYS_NFTABLES << 8 | message,
            flags: 0,
            sequence_number: 0,
            port_number: 77,
        }
    }

    fn body(family: u8, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut body = vec![family, 0, 0, 0];
        for (kind, value) in attributes {
            attribute(&mut body, *kind, value);
        }
        body
    }

    #[test]
    fn a_transaction_is_told_once_it_is_in_force_with_the_tables_of_our_families() {
        let mut reader = Reader::default();
        let table = |family, name: &[u8]| body(family, &[(NFTA_TABLE, name)]);
        for (message, body) in [
            (NFT_MSG_NEWRULE, table(INET, b"filter\0")),
            (NFT_MSG_DELRULE, table(INET, b"filter\0")),
            (NFT_MSG_DELCHAIN, table(INET6, b"mangle\0")),
            // The family inet, and an object (NFT_MSG_NEWOBJ).
            (NFT_MSG_NEWRULE, table(1, b"firewalld\0")),
            (18, table(INET, b"nat\0")),
            (NFT_MSG_DELSETELEM, table(INET, b"maps\0")),
        ] {
            assert_eq!(reader.handle(&header(message), &body), None);
        }
        let generation = [
            (NFTA_GEN_PROC_PID, 4711_u32.to_be_bytes().to_vec()),
            (NFTA_GEN_PROC_NAME, b"iptables\0".to_vec()),
        ];
        let generation: Vec<_> = generation.iter().map(|(k, v)| (*k, v.as_slice())).collect();
        let generation = body(0, &generation);
        let expected = TablesChanged {
            tables: BTreeSet::from([
                (NftFamily::Ip, "filter".to_owned()),
                (NftFamily::Ip, "maps".to_owned()),
                (NftFamily::Ip6, "mangle".to_owned()),
            ]),
            process: Some(4711),
            port: 77,
            program: "iptables".to_owned(),
        };
        let told = reader.handle(&header(NFT_MSG_NEWGEN), &generation);
        assert_eq!(told, Some(RuleNotice::Tables(expected)));
        assert_eq!(reader.handle(&header(NFT_MSG_NEWGEN), &generation), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(message in 0_u16..20, body in prop::collection::vec(any::<u8>(), 0..100)) {
            let mut reader = Reader::default();
            reader.handle(&header(message), &body);
            prop_assert!(reader.tables.len() <= 1);
        }
    }
}
