//! NFQUEUE: packets that wait in the kernel for our verdict.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use super::socket::{Read, Socket};
use super::wire::{Received, Request, array, messages};

const SUBSYSTEM: u8 = 3;
const PACKET: u8 = 0;
const VERDICT: u8 = 1;
const CONFIG: u8 = 2;

const CONFIG_COMMAND: u16 = 1;
const CONFIG_PARAMETERS: u16 = 2;
const CONFIG_LENGTH: u16 = 3;
const CONFIG_MASK: u16 = 4;
const CONFIG_FLAGS: u16 = 5;
const BIND: u8 = 1;
const COPY_PACKET: u8 = 2;
/// Where there is no room the packet goes on.
const FAIL_OPEN: u32 = 1;
/// Packets that the card is to cut up come whole.
const GSO: u32 = 4;

const PACKET_HEADER: u16 = 1;
const VERDICT_HEADER: u16 = 2;
const PAYLOAD: u16 = 10;
const NF_ACCEPT: u32 = 1;
/// `struct nlmsghdr`, `struct nfgenmsg` and attributes leave this much for the packet.
const COPY: u32 = 0xffff;

/// A packet that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    /// Its number, for the verdict.
    pub(crate) id: u32,
    /// From its IP header on.
    pub(crate) octets: Vec<u8>,
}

/// A queue of this network namespace.
#[derive(Debug)]
pub(crate) struct Queue {
    socket: Arc<Socket>,
    number: u16,
    waiting: VecDeque<Held>,
    buffer: Vec<u8>,
    overruns: u64,
}

/// Says what becomes of held packets.
#[derive(Clone, Debug)]
pub(crate) struct Verdicts {
    socket: Arc<Socket>,
    number: u16,
}

impl Queue {
    /// Binds a queue that holds so many packets at once; any more go on unheld.
    ///
    /// # Errors
    /// If another process has it (EBUSY), or the kernel has no NFQUEUE.
    pub(crate) async fn open(number: u16, length: u32) -> io::Result<Self> {
        let socket = Socket::open()?;
        let mut parameters = COPY.to_be_bytes().to_vec();
        parameters.push(COPY_PACKET);
        let flags = FAIL_OPEN | GSO;
        // All in one message: there is no moment in which packets wait and are not copied.
        let request = Request::acknowledged(SUBSYSTEM, CONFIG, number)
            .with(CONFIG_COMMAND, &[BIND, 0, 0, 0])
            .with(CONFIG_PARAMETERS, &parameters)
            .with(CONFIG_LENGTH, &length.to_be_bytes())
            .with(CONFIG_FLAGS, &flags.to_be_bytes())
            .with(CONFIG_MASK, &flags.to_be_bytes());
        let early = socket.request(&request.finish()).await?;
        Ok(Self {
            socket: Arc::new(socket),
            number,
            waiting: early.iter().flat_map(|datagram| held(datagram)).collect(),
            buffer: Socket::buffer(),
            overruns: 0,
        })
    }

    /// The way back.
    pub(crate) fn verdicts(&self) -> Verdicts {
        Verdicts {
            socket: Arc::clone(&self.socket),
            number: self.number,
        }
    }

    /// How often the kernel had more for us than there was room: those packets went on unheld.
    pub(crate) fn overruns(&self) -> u64 {
        self.overruns
    }

    /// Waits for a packet.
    ///
    /// # Errors
    /// If the socket is of no use any more.
    pub(crate) async fn next(&mut self) -> io::Result<Held> {
        loop {
            if let Some(held) = self.waiting.pop_front() {
                return Ok(held);
            }
            match self.socket.read(&mut self.buffer).await? {
                Read::Datagram(length) => {
                    let datagram = self.buffer.get(..length).unwrap_or_default();
                    self.waiting.extend(held(datagram));
                }
                Read::Overrun => self.overruns += 1,
            }
        }
    }
}

impl Verdicts {
    /// Lets a packet go on.
    ///
    /// # Errors
    /// If the socket is of no use any more. A packet that is gone already is none.
    pub(crate) fn accept(&self, id: u32) -> io::Result<()> {
        let mut header = NF_ACCEPT.to_be_bytes().to_vec();
        header.extend(id.to_be_bytes());
        let request = Request::silent(SUBSYSTEM, VERDICT, self.number);
        self.socket
            .send(&request.with(VERDICT_HEADER, &header).finish())
    }
}

fn held(datagram: &[u8]) -> impl Iterator<Item = Held> {
    messages(datagram).filter_map(|message| match message {
        Received::Message {
            subsystem: SUBSYSTEM,
            kind: PACKET,
            attributes,
        } => Some(Held {
            id: u32::from_be_bytes(array(attributes.get(PACKET_HEADER)?, 0)?),
            octets: attributes.get(PAYLOAD).unwrap_or_default().to_vec(),
        }),
        _ => None,
    })
}
