//! NFLOG: copies of packets that rules show us.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use super::socket::{Read, Socket};
use super::wire::{Attributes, Received, Request, messages};

const SUBSYSTEM: u8 = 4;
const PACKET: u8 = 0;
const CONFIG: u8 = 1;

const CONFIG_COMMAND: u16 = 1;
const CONFIG_MODE: u16 = 2;
const CONFIG_TIMEOUT: u16 = 4;
const CONFIG_THRESHOLD: u16 = 5;
const CONFIG_FLAGS: u16 = 6;
const BIND: u8 = 1;
const COPY_PACKET: u8 = 2;
/// Each copy bears a number, one more than the one before.
const NUMBERED: u16 = 1;

const TIMESTAMP: u16 = 3;
const INPUT: u16 = 4;
const OUTPUT: u16 = 5;
const PAYLOAD: u16 = 9;
const PREFIX: u16 = 10;
const SEQUENCE: u16 = 12;

/// The headers are all that is read: IPv6 with a few extension headers, and ports.
const COPY: u32 = 256;
/// The kernel gathers so many before it tells us, but no longer than a tenth of a second.
const TOGETHER: u32 = 16;
const AT_LATEST_HUNDREDTHS: u32 = 10;

/// A copy of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    /// The rule's prefix.
    pub(crate) prefix: String,
    /// When the packet came in, since 1970; packets of this host bear none.
    pub(crate) time: Option<Duration>,
    /// Index of the interface that it came in by.
    pub(crate) input: Option<u32>,
    /// Index of the interface that it was to leave by.
    pub(crate) output: Option<u32>,
    /// Its number.
    pub(crate) sequence: Option<u32>,
    /// Its first octets, from its IP header on.
    pub(crate) octets: Vec<u8>,
}

/// A group of this network namespace.
#[derive(Debug)]
pub(crate) struct Log {
    socket: Socket,
    waiting: VecDeque<Shown>,
    buffer: Vec<u8>,
    last: Option<u32>,
    lost: u64,
}

impl Log {
    /// Binds a group.
    ///
    /// # Errors
    /// If another process has it (EBUSY), or the kernel has no NFLOG.
    pub(crate) async fn open(group: u16) -> io::Result<Self> {
        let socket = Socket::open()?;
        let mut mode = COPY.to_be_bytes().to_vec();
        mode.extend([COPY_PACKET, 0]);
        let request = Request::acknowledged(SUBSYSTEM, CONFIG, group)
            .with(CONFIG_COMMAND, &[BIND])
            .with(CONFIG_MODE, &mode)
            .with(CONFIG_TIMEOUT, &AT_LATEST_HUNDREDTHS.to_be_bytes())
            .with(CONFIG_THRESHOLD, &TOGETHER.to_be_bytes())
            .with(CONFIG_FLAGS, &NUMBERED.to_be_bytes());
        let early = socket.request(&request.finish()).await?;
        Ok(Self {
            socket,
            waiting: early.iter().flat_map(|datagram| shown(datagram)).collect(),
            buffer: Socket::buffer(),
            last: None,
            lost: 0,
        })
    }

    /// How many copies never came.
    pub(crate) fn lost(&self) -> u64 {
        self.lost
    }

    /// Waits for a copy.
    ///
    /// # Errors
    /// If the socket is of no use any more.
    pub(crate) async fn next(&mut self) -> io::Result<Shown> {
        loop {
            if let Some(shown) = self.waiting.pop_front() {
                if let Some(sequence) = shown.sequence {
                    let expected = self.last.map_or(0, |last| last.wrapping_add(1));
                    self.lost += u64::from(sequence.wrapping_sub(expected));
                    self.last = Some(sequence);
                }
                return Ok(shown);
            }
            // The numbers tell how many an overrun has cost.
            if let Read::Datagram(length) = self.socket.read(&mut self.buffer).await? {
                let datagram = self.buffer.get(..length).unwrap_or_default();
                self.waiting.extend(shown(datagram));
            }
        }
    }
}

fn shown(datagram: &[u8]) -> impl Iterator<Item = Shown> {
    messages(datagram).filter_map(|message| match message {
        Received::Message {
            subsystem: SUBSYSTEM,
            kind: PACKET,
            attributes,
        } => Some(read(attributes)),
        _ => None,
    })
}

fn read(attributes: Attributes<'_>) -> Shown {
    let prefix = attributes.get(PREFIX).unwrap_or_default();
    let prefix = prefix.split(|octet| *octet == 0).next().unwrap_or_default();
    Shown {
        prefix: String::from_utf8_lossy(prefix).trim().to_owned(),
        time: attributes.time(TIMESTAMP),
        input: attributes.number(INPUT),
        output: attributes.number(OUTPUT),
        sequence: attributes.number(SEQUENCE),
        octets: attributes.get(PAYLOAD).unwrap_or_default().to_vec(),
    }
}
