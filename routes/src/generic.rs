//! Generic netlink as far as WireGuard and IPVS need it: a family's number, commands that change and commands that list.

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
pub(crate) const HEAD: usize = 4;
/// The version of each family's words that we speak: there is one.
const VERSION: u8 = 1;

/// A family's number, which the kernel gives out as drivers are loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Number(u16);

/// A conversation with one family.
pub(crate) struct Generic<'a> {
    conn: &'a mut Conn,
    family: u16,
}

/// Adds a command to a batch, for [`Conn::transact`].
pub(crate) fn command(batch: &mut Batch, Number(family): Number, command: u8, attributes: &[u8]) {
    batch.push_with(family, 0, |out| {
        out.extend_from_slice(&[command, VERSION, 0, 0]);
        out.extend_from_slice(attributes);
    });
}

impl<'a> Generic<'a> {
    /// Asks for the family's number.
    /// `driver` is the module that brings it.
    pub(crate) fn find(conn: &'a mut Conn, name: &str, driver: &str) -> Result<Self, Error> {
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
                "{what}, which this kernel has not: `modprobe {driver}`"
            ))),
            (Some(refusal), _) => Err(refusal.into_error(what)),
            (None, Some(family)) => Ok(Self { conn, family }),
            (None, None) => Err(Error::Garbled(format!("{what}: no number"))),
        }
    }

    /// The family's number.
    pub(crate) fn number(&self) -> Number {
        Number(self.family)
    }

    /// Sends one command that changes something.
    pub(crate) fn set(&mut self, set: u8, attributes: &[u8]) -> Result<Option<Refusal>, Error> {
        let mut batch = Batch::default();
        command(&mut batch, self.number(), set, attributes);
        Ok(self.conn.transact(&mut batch)?.remove(&0))
    }

    /// Sends one command that lists: each message's attributes go to `each`.
    pub(crate) fn get<T>(
        &mut self,
        get: u8,
        attributes: &[u8],
        what: &str,
        mut each: impl FnMut(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        let mut body = vec![get, VERSION, 0, 0];
        body.extend_from_slice(attributes);
        self.conn.dump_raw(self.family, &body, what, |_, payload| {
            payload.get(HEAD..).and_then(&mut each)
        })
    }
}
