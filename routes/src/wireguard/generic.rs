//! Generic netlink as far as WireGuard needs it: the family's number, one command that sets and one that lists.

use nix::errno::Errno;

use crate::Error;
use crate::batch::{Attributes, Batch, attribute, half};
use crate::conn::{Conn, Refusal};

/// GENL_ID_CTRL: the family that knows the others' numbers.
const CONTROL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
/// Octets of struct genlmsghdr: command, version, reserved.
pub(super) const HEAD: usize = 4;
const WG_CMD_GET_DEVICE: u8 = 0;
const WG_CMD_SET_DEVICE: u8 = 1;

/// A conversation with one family.
pub(super) struct Generic<'a> {
    conn: &'a mut Conn,
    family: u16,
}

impl<'a> Generic<'a> {
    /// Asks for the family's number, which the kernel gives out as drivers are loaded.
    pub(super) fn find(conn: &'a mut Conn, name: &str) -> Result<Self, Error> {
        let mut batch = Batch::default();
        batch.push_with(CONTROL, 0, |out| {
            out.extend_from_slice(&[CTRL_CMD_GETFAMILY, 1, 0, 0]);
            attribute(
                out,
                CTRL_ATTR_FAMILY_NAME,
                &[name.as_bytes(), &[0]].concat(),
            );
        });
        let mut family = None;
        let mut refused = conn.converse(&mut batch, |_, _, payload| {
            let attributes = payload.get(HEAD..).unwrap_or_default();
            let number = Attributes(attributes).find(|(kind, _)| *kind == CTRL_ATTR_FAMILY_ID);
            family = number.and_then(|(_, value)| half(value, 0));
        })?;
        let what = format!("asking for the netlink family {name}");
        match (refused.remove(&0), family) {
            (Some(refusal), _) if refusal.is(Errno::ENOENT) => Err(refusal.into_error(format!(
                "{what}, which this kernel has not: `modprobe {name}`"
            ))),
            (Some(refusal), _) => Err(refusal.into_error(what)),
            (None, Some(family)) => Ok(Self { conn, family }),
            (None, None) => Err(Error::Garbled(format!("{what}: no number"))),
        }
    }

    /// Changes a device; what is refused of it is refused whole, or up to a peer.
    pub(super) fn set(&mut self, attributes: &[u8]) -> Result<Option<Refusal>, Error> {
        let mut batch = Batch::default();
        batch.push_with(self.family, 0, |out| {
            out.extend_from_slice(&[WG_CMD_SET_DEVICE, 1, 0, 0]);
            out.extend_from_slice(attributes);
        });
        Ok(self.conn.transact(&mut batch)?.remove(&0))
    }

    /// Lists a device: each message's attributes go to `each`.
    pub(super) fn get<T>(
        &mut self,
        attributes: &[u8],
        mut each: impl FnMut(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        let mut body = vec![WG_CMD_GET_DEVICE, 1, 0, 0];
        body.extend_from_slice(attributes);
        self.conn.dump_raw(
            self.family,
            &body,
            "reading the WireGuard device",
            |_, payload| payload.get(HEAD..).and_then(&mut each),
        )
    }
}
