//! The BFD Control packet (RFC 5880 §4.1), both directions, and the checks that need no session (§6.8.6).

use std::fmt::{self, Display};
use std::time::Duration;

use serde::{Deserialize, Serialize};

const VERSION: u8 = 1;
const POLL: u8 = 0x20;
const FINAL: u8 = 0x10;
const CONTROL_PLANE_INDEPENDENT: u8 = 0x08;
const AUTHENTICATION: u8 = 0x04;
const DEMAND: u8 = 0x02;
const MULTIPOINT: u8 = 0x01;
/// The least Length with an Authentication Section.
const AUTHENTICATED_LENGTH: u8 = 26;

/// A BFD Control packet without authentication.
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// |Vers |  Diag   |Sta|P|F|C|A|D|M|  Detect Mult  |    Length     |
/// |                       My Discriminator                        |
/// |                      Your Discriminator                       |
/// |                    Desired Min TX Interval                    |
/// |                   Required Min RX Interval                    |
/// |                 Required Min Echo RX Interval                 |
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Why the sender's state last changed.
    pub diagnostic: Diagnostic,
    /// The sender's state.
    pub state: SessionState,
    /// P: the sender asks for a packet with F.
    pub poll: bool,
    /// F: the answer to P.
    pub final_bit: bool,
    /// C: the sender's BFD outlives its control plane.
    pub control_plane_independent: bool,
    /// D: the sender wants no periodic packets.
    pub demand: bool,
    /// How many packets may be lost.
    pub detect_multiplier: u8,
    /// The sender's discriminator; not zero in a packet that was received.
    pub my_discriminator: u32,
    /// The receiver's discriminator as the sender knows it, or zero.
    pub your_discriminator: u32,
    /// The least interval at which the sender wants to send.
    pub desired_min_tx: Duration,
    /// The least interval at which the sender can receive; zero asks for no periodic packets.
    pub required_min_rx: Duration,
    /// The least interval of Echo packets the sender can return; zero for none.
    pub required_min_echo_rx: Duration,
}

/// `bfd.SessionState`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum SessionState {
    /// Held down by the operator.
    AdminDown = 0,
    /// Down, or new.
    Down = 1,
    /// The peer is heard, but does not say that it hears us.
    Init = 2,
    /// Both hear each other.
    Up = 3,
}

/// Why a session's state last changed (RFC 5880 §4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Diagnostic {
    /// 0
    None,
    /// 1: nothing was heard for a Detection Time.
    ControlDetectionTimeExpired,
    /// 2
    EchoFunctionFailed,
    /// 3: the neighbour said that it is Down or AdminDown.
    NeighborSignaledSessionDown,
    /// 4
    ForwardingPlaneReset,
    /// 5
    PathDown,
    /// 6
    ConcatenatedPathDown,
    /// 7: by our own operator.
    AdministrativelyDown,
    /// 8
    ReverseConcatenatedPathDown,
    /// 9 to 31: reserved.
    Reserved(u8),
}

/// Why a packet is discarded (RFC 5880 §6.8.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketError {
    /// Fewer octets than the mandatory section.
    Truncated,
    /// Not version 1.
    Version(u8),
    /// The Length field is too small, or more than was received.
    Length(u8),
    /// The Detect Mult field is zero.
    DetectMultiplier,
    /// The Multipoint bit is set.
    Multipoint,
    /// My Discriminator is zero.
    MyDiscriminator,
    /// Your Discriminator is zero in a state that only follows from having heard us.
    YourDiscriminator,
    /// The packet has an Authentication Section, and none is configured.
    Authentication,
}

impl Packet {
    /// The octets of a packet: the mandatory section alone.
    pub const LENGTH: usize = 24;

    /// Reads one packet; octets after its Length are left alone.
    ///
    /// # Errors
    /// When RFC 5880 §6.8.6 has it discarded.
    pub fn decode(octets: &[u8]) -> Result<Self, PacketError> {
        let Some((header, _)) = octets.split_first_chunk::<{ Self::LENGTH }>() else {
            return Err(PacketError::Truncated);
        };
        let [first, flags, detect_multiplier, length, words @ ..] = *header;
        check(first, flags, detect_multiplier, length, octets.len())?;
        let mut words = words.chunks_exact(4).map(|word| match *word {
            [a, b, c, d] => u32::from_be_bytes([a, b, c, d]),
            _ => 0,
        });
        let mut word = || words.next().unwrap_or_default();
        let (my_discriminator, your_discriminator) = (word(), word());
        let mut interval = || Duration::from_micros(u64::from(word()));
        let packet = Self {
            diagnostic: Diagnostic::of_code(first & 0x1f),
            state: SessionState::of_bits(flags >> 6),
            poll: flags & POLL != 0,
            final_bit: flags & FINAL != 0,
            control_plane_independent: flags & CONTROL_PLANE_INDEPENDENT != 0,
            demand: flags & DEMAND != 0,
            detect_multiplier,
            my_discriminator,
            your_discriminator,
            desired_min_tx: interval(),
            required_min_rx: interval(),
            required_min_echo_rx: interval(),
        };
        packet.check_discriminators()?;
        if flags & AUTHENTICATION != 0 {
            return Err(PacketError::Authentication);
        }
        Ok(packet)
    }

    /// The packet as it is sent.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::LENGTH] {
        let mut flags = (self.state as u8) << 6;
        for (set, bit) in [
            (self.poll, POLL),
            (self.final_bit, FINAL),
            (self.control_plane_independent, CONTROL_PLANE_INDEPENDENT),
            (self.demand, DEMAND),
        ] {
            flags |= if set { bit } else { 0 };
        }
        let first = VERSION << 5 | self.diagnostic.code();
        let header = [first, flags, self.detect_multiplier, Self::LENGTH as u8];
        let words = [
            self.my_discriminator,
            self.your_discriminator,
            micros(self.desired_min_tx),
            micros(self.required_min_rx),
            micros(self.required_min_echo_rx),
        ];
        let mut octets = [0; Self::LENGTH];
        let from = header
            .into_iter()
            .chain(words.into_iter().flat_map(u32::to_be_bytes));
        for (to, octet) in octets.iter_mut().zip(from) {
            *to = octet;
        }
        octets
    }

    fn check_discriminators(&self) -> Result<(), PacketError> {
        if self.my_discriminator == 0 {
            return Err(PacketError::MyDiscriminator);
        }
        let may_be_unknown = matches!(self.state, SessionState::Down | SessionState::AdminDown);
        if self.your_discriminator == 0 && !may_be_unknown {
            return Err(PacketError::YourDiscriminator);
        }
        Ok(())
    }
}

fn check(first: u8, flags: u8, multiplier: u8, length: u8, len: usize) -> Result<(), PacketError> {
    let least = match flags & AUTHENTICATION {
        0 => Packet::LENGTH as u8,
        _ => AUTHENTICATED_LENGTH,
    };
    if first >> 5 != VERSION {
        Err(PacketError::Version(first >> 5))
    } else if length < least || usize::from(length) > len {
        Err(PacketError::Length(length))
    } else if multiplier == 0 {
        Err(PacketError::DetectMultiplier)
    } else if flags & MULTIPOINT != 0 {
        Err(PacketError::Multipoint)
    } else {
        Ok(())
    }
}

fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}

impl SessionState {
    /// Its name as RFC 5880 writes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AdminDown => "AdminDown",
            Self::Down => "Down",
            Self::Init => "Init",
            Self::Up => "Up",
        }
    }

    /// The state of the two low bits.
    fn of_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::AdminDown,
            1 => Self::Down,
            2 => Self::Init,
            _ => Self::Up,
        }
    }
}

impl Diagnostic {
    /// Its five bits.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::None => 0,
            Self::ControlDetectionTimeExpired => 1,
            Self::EchoFunctionFailed => 2,
            Self::NeighborSignaledSessionDown => 3,
            Self::ForwardingPlaneReset => 4,
            Self::PathDown => 5,
            Self::ConcatenatedPathDown => 6,
            Self::AdministrativelyDown => 7,
            Self::ReverseConcatenatedPathDown => 8,
            Self::Reserved(code) => code & 0x1f,
        }
    }

    /// The diagnostic of the five low bits.
    #[must_use]
    pub fn of_code(code: u8) -> Self {
        match code & 0x1f {
            0 => Self::None,
            1 => Self::ControlDetectionTimeExpired,
            2 => Self::EchoFunctionFailed,
            3 => Self::NeighborSignaledSessionDown,
            4 => Self::ForwardingPlaneReset,
            5 => Self::PathDown,
            6 => Self::ConcatenatedPathDown,
            7 => Self::AdministrativelyDown,
            8 => Self::ReverseConcatenatedPathDown,
            code => Self::Reserved(code),
        }
    }
}

impl Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "no diagnostic",
            Self::ControlDetectionTimeExpired => "control detection time expired",
            Self::EchoFunctionFailed => "echo function failed",
            Self::NeighborSignaledSessionDown => "neighbor signaled session down",
            Self::ForwardingPlaneReset => "forwarding plane reset",
            Self::PathDown => "path down",
            Self::ConcatenatedPathDown => "concatenated path down",
            Self::AdministrativelyDown => "administratively down",
            Self::ReverseConcatenatedPathDown => "reverse concatenated path down",
            Self::Reserved(code) => return write!(f, "diagnostic {code}"),
        })
    }
}

impl Display for PacketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => f.write_str("shorter than a control packet"),
            Self::Version(version) => write!(f, "version {version}"),
            Self::Length(length) => write!(f, "length field {length}"),
            Self::DetectMultiplier => f.write_str("detect multiplier is zero"),
            Self::Multipoint => f.write_str("multipoint bit is set"),
            Self::MyDiscriminator => f.write_str("my discriminator is zero"),
            Self::YourDiscriminator => f.write_str("your discriminator is zero"),
            Self::Authentication => f.write_str("authentication is not configured"),
        }
    }
}

impl std::error::Error for PacketError {}
