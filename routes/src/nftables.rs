//! Transactions of nf_tables and readings of its tables, by nfnetlink; what stands in the requests is the caller's to know.

use std::collections::BTreeMap;

use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};

use crate::Error;
use crate::conn::{Conn, Refusal, Split, refusal};
use crate::links::blocking;

const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFNL_MSG_BATCH_BEGIN: u16 = 16;
const NFNL_MSG_BATCH_END: u16 = 17;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLMSG_ERROR: u16 = 2;
/// Bytes of struct nlmsghdr.
const HEADER: usize = 16;
/// The kernel keeps some of a socket's send buffer for itself.
const ROOM: usize = 64 << 10;

/// One request: what is asked (NFT_MSG_*), NLM_F_* besides those of every request, and the body from `struct nfgenmsg` on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NftRequest {
    /// NFT_MSG_*.
    pub kind: u8,
    /// NLM_F_*.
    pub flags: u16,
    /// The body.
    pub body: Vec<u8>,
}

/// A socket for one network namespace: that of the thread that opened it.
#[derive(Debug)]
pub struct NfTables {
    conn: Option<Conn>,
    port: u32,
}

impl NfTables {
    /// Opens it.
    ///
    /// # Errors
    /// When the socket can't be had.
    pub fn open() -> Result<Self, Error> {
        let conn = Conn::open_netfilter()?;
        let port = conn.port();
        Ok(Self {
            conn: Some(conn),
            port,
        })
    }

    /// The number by which notices of our own changes can be told.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Has all of it done, or nothing.
    ///
    /// # Errors
    /// When the kernel refuses some of it (nothing was done then), or the socket fails: then nothing is known of what was done.
    pub async fn commit(&mut self, requests: Vec<NftRequest>) -> Result<(), Error> {
        if requests.is_empty() {
            return Ok(());
        }
        self.with(move |conn| commit(conn, &requests)).await
    }

    /// All answers to a question: which message each is, and its body. Where there is no such table there are none.
    ///
    /// # Errors
    /// When the kernel can't be asked.
    pub async fn dump(&mut self, request: NftRequest) -> Result<Vec<(u8, Vec<u8>)>, Error> {
        self.with(move |conn| {
            let kind = NFNL_SUBSYS_NFTABLES << 8 | u16::from(request.kind);
            let what = "read a table of nftables";
            let told = conn.dump_raw(kind, &request.body, what, |header, body| {
                let [kind, _] = header.message_type.to_le_bytes();
                Some((kind, body.to_vec()))
            });
            match told {
                Err(Error::Refused { source, .. })
                    if source.raw_os_error() == Some(Errno::ENOENT as i32) =>
                {
                    Ok(Vec::new())
                }
                told => told,
            }
        })
        .await
    }

    async fn with<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Conn) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        // After a failure, or a wait that was given up, answers to an old question may come still: a fresh socket hears none.
        let mut conn = match self.conn.take() {
            Some(conn) => conn,
            None => Conn::open_netfilter()?,
        };
        self.port = conn.port();
        let (conn, done) = blocking(move || {
            let done = work(&mut conn)?;
            Ok((conn, done))
        })
        .await?;
        self.conn = Some(conn);
        Ok(done)
    }
}

fn commit(conn: &mut Conn, requests: &[NftRequest]) -> Result<(), Error> {
    let first = conn.number(requests.len() + 2);
    let bytes = batch(requests, first);
    let room = bytes.len() + ROOM;
    // A transaction is one datagram, whatever the system's limit is.
    setsockopt(conn, sockopt::SndBufForce, &room)
        .map_err(|error| Error::Socket("send buffer", error.into()))?;
    conn.send(&bytes)?;
    let count = u32::try_from(requests.len()).unwrap_or(u32::MAX);
    let mut refused: BTreeMap<u32, Refusal> = BTreeMap::new();
    loop {
        let mut is_done = false;
        let datagram = conn.next_datagram()?;
        for (header, body) in Split::new(datagram) {
            let place = header.sequence_number.wrapping_sub(first);
            if place > count || header.message_type != NLMSG_ERROR {
                continue;
            }
            let refusal = refusal(&header, body);
            // The kernel names the beginning where it can't take the whole.
            is_done |= place == count || place == 0;
            refused.extend(refusal.map(|refusal| (place, refusal)));
        }
        if is_done {
            break;
        }
    }
    match refused.pop_first() {
        None => Ok(()),
        Some((0, refusal)) => Err(refusal.into_error("commit a transaction of nftables")),
        Some((place, refusal)) => {
            let request = requests.get(place as usize - 1);
            let kind = request.map_or(0, |request| request.kind);
            let what = format!("request {place} of {count} to nftables (message {kind})");
            Err(refusal.into_error(what))
        }
    }
}

/// One datagram: a beginning, the requests, of which the last asks for an answer, and an end.
fn batch(requests: &[NftRequest], first: u32) -> Vec<u8> {
    let size: usize = requests.iter().map(|one| one.body.len() + HEADER).sum();
    let mut out = Vec::with_capacity(size + 64);
    let [high, low] = NFNL_SUBSYS_NFTABLES.to_be_bytes();
    let frame = [0, 0, high, low];
    let mut sequence = first;
    let mut push = |kind: u16, flags: u16, body: &[u8]| {
        let length = u32::try_from(body.len() + HEADER).unwrap_or(u32::MAX);
        out.extend(length.to_ne_bytes());
        out.extend(kind.to_ne_bytes());
        out.extend((flags | NLM_F_REQUEST).to_ne_bytes());
        out.extend(sequence.to_ne_bytes());
        out.extend([0; 4]);
        out.extend(body);
        sequence = sequence.wrapping_add(1);
    };
    push(NFNL_MSG_BATCH_BEGIN, 0, &frame);
    for (index, request) in requests.iter().enumerate() {
        let is_last = index + 1 == requests.len();
        let ack = if is_last { NLM_F_ACK } else { 0 };
        let kind = NFNL_SUBSYS_NFTABLES << 8 | u16::from(request.kind);
        push(kind, request.flags | ack, &request.body);
    }
    push(NFNL_MSG_BATCH_END, 0, &frame);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_has_a_beginning_an_end_and_one_question() {
        let request = |kind| NftRequest {
            kind,
            flags: 0x400,
            body: vec![2, 0, 0, 0],
        };
        let bytes = batch(&[request(0), request(3)], 7);
        let messages: Vec<_> = Split::new(&bytes).collect();
        let heads: Vec<_> = messages
            .iter()
            .map(|(header, _)| (header.message_type, header.flags, header.sequence_number))
            .collect();
        assert_eq!(
            heads,
            [
                (16, 1, 7),
                (0xa00, 0x401, 8),
                (0xa03, 0x405, 9),
                (17, 1, 10)
            ]
        );
        assert_eq!(
            (messages[0].1, messages[3].1),
            (&[0, 0, 0, 10][..], &[0, 0, 0, 10][..])
        );
    }
}
