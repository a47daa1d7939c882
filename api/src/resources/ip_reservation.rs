//! IPReservation: addresses that no pod is given unless it asks for them.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::ParseError;
use crate::crd::IPReservation;
use crate::metadata::Subject;

/// An IPReservation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpReservation {
    /// Its name.
    pub name: String,
    /// `reservedCIDRs`, host bits cleared; an address is a CIDR of its own.
    pub cidrs: Vec<IpNet>,
}

const MOST_CIDRS: usize = 256;

impl TryFrom<IPReservation> for IpReservation {
    type Error = ParseError;

    fn try_from(reservation: IPReservation) -> Result<Self, ParseError> {
        let subject = Subject::cluster("IPReservation", &reservation.metadata)?;
        let written = reservation.spec.reserved_cidrs;
        if written.is_empty() || written.len() > MOST_CIDRS {
            let why = format!("spec.reservedCIDRs has not from 1 to {MOST_CIDRS} entries");
            return Err(subject.error(why));
        }
        let read = |text: &String| {
            let cidr = text.parse::<IpNet>().map(|cidr| cidr.trunc());
            cidr.or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
                .map_err(|_| {
                    let why =
                        format!("spec.reservedCIDRs: {text:?} is neither a CIDR nor an address");
                    subject.error(why)
                })
        };
        Ok(Self {
            cidrs: written.iter().map(read).collect::<Result<_, _>>()?,
            name: subject.name().to_owned(),
        })
    }
}
