//! A peer of bare bytes: says what no daemon says, and can stop reading.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tests::netns::Netns;
use tests::wait::eventually;

use crate::lab::{DEADLINE, OUR_V4};

const OPEN: u8 = 1;
const UPDATE: u8 = 2;
const KEEPALIVE: u8 = 4;

/// An Established session of IPv4 unicast with four-byte AS numbers, hold time 0.
pub struct Raw {
    stream: TcpStream,
    asn: u32,
}

impl Raw {
    /// Dials us from an address inside a namespace until the session is up.
    pub fn connect(netns: &Netns, from: &str, asn: u32) -> Self {
        let from: Ipv4Addr = from.parse().unwrap();
        eventually(DEADLINE, "the raw session", || {
            netns.inside(|| Self::dial(from, asn))?
        })
        .unwrap()
    }

    fn dial(from: Ipv4Addr, asn: u32) -> anyhow::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        // Little room, so that it is soon full when nobody reads.
        socket.set_recv_buffer_size(4_096)?;
        socket.bind(&SocketAddr::from((from, 0)).into())?;
        socket.connect(&SocketAddr::from((OUR_V4, 179)).into())?;
        let mut stream: TcpStream = socket.into();
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut open = vec![4];
        open.extend(23_456_u16.to_be_bytes());
        open.extend(0_u16.to_be_bytes());
        open.extend(from.octets());
        let mut capabilities = vec![1, 4, 0, 1, 0, 1, 65, 4];
        capabilities.extend(asn.to_be_bytes());
        open.extend([u8::try_from(capabilities.len() + 2)?, 2]);
        open.push(u8::try_from(capabilities.len())?);
        open.extend(capabilities);
        stream.write_all(&message(OPEN, &open))?;
        let mut raw = Self { stream, asn };
        anyhow::ensure!(raw.read()?.0 == OPEN, "no OPEN");
        raw.stream.write_all(&message(KEEPALIVE, &[]))?;
        anyhow::ensure!(raw.read()?.0 == KEEPALIVE, "no KEEPALIVE");
        Ok(raw)
    }

    fn read(&mut self) -> anyhow::Result<(u8, Vec<u8>)> {
        let mut header = [0; 19];
        self.stream.read_exact(&mut header)?;
        let length = usize::from(u16::from_be_bytes([header[16], header[17]]));
        let mut body = vec![0; length - 19];
        self.stream.read_exact(&mut body)?;
        Ok((header[18], body))
    }

    /// Announces a prefix, with one more attribute as it goes on the wire.
    pub fn announce_with(&mut self, prefix: &str, next_hop: &str, attribute: &[u8]) {
        let net: ipnet::Ipv4Net = prefix.parse().unwrap();
        let hop: Ipv4Addr = next_hop.parse().unwrap();
        let mut attributes = vec![0x40, 1, 1, 0, 0x40, 2, 6, 2, 1];
        attributes.extend(self.asn.to_be_bytes());
        attributes.extend([0x40, 3, 4]);
        attributes.extend(hop.octets());
        attributes.extend(attribute);
        let mut body = vec![0, 0];
        body.extend(u16::try_from(attributes.len()).unwrap().to_be_bytes());
        body.extend(attributes);
        body.push(net.prefix_len());
        let octets = usize::from(net.prefix_len().div_ceil(8));
        body.extend(&net.addr().octets()[..octets]);
        self.stream.write_all(&message(UPDATE, &body)).unwrap();
    }
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xFF; 16];
    bytes.extend(u16::try_from(19 + body.len()).unwrap().to_be_bytes());
    bytes.push(kind);
    bytes.extend(body);
    bytes
}
