//! Who computes the checksums of what a tunnel carries: the NIC below it, or the kernel before the packet gets into the tunnel.
#![expect(
    unsafe_code,
    reason = "SIOCETHTOOL takes a pointer in a structure; no library wraps that"
)]

use std::io;
use std::os::fd::AsRawFd as _;

use nix::errno::Errno;
use nix::libc;
use socket2::{Domain, Socket, Type};

use crate::Error;
use crate::links::blocking;

/// linux/sockios.h; its type differs between C libraries.
const SIOCETHTOOL: libc::Ioctl = 0x8946;
/// linux/ethtool.h: reads and writes whether checksums are left to the device.
const READ: u32 = 0x16;
const WRITE: u32 = 0x17;

/// Struct ethtool_value.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// Leaves checksums of what is sent by an interface to the device below it, or has the kernel compute them first; then it cuts
/// TCP into packets, too. `false` when it was so already, or there is no such interface.
///
/// # Errors
/// When the kernel refuses.
pub async fn leave_checksums_to_device(interface: &str, is_left: bool) -> Result<bool, Error> {
    let name = interface.to_owned();
    blocking(move || {
        let failed = |source| Error::Refused {
            what: format!("changing who computes checksums on {name}"),
            source,
            said: String::new(),
        };
        match settle(&name, is_left) {
            Err(error) if error.raw_os_error() == Some(Errno::ENODEV as i32) => Ok(false),
            outcome => outcome.map_err(failed),
        }
    })
    .await
}

fn settle(name: &str, is_left: bool) -> io::Result<bool> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    if (ask(&socket, name, READ, 0)? != 0) == is_left {
        return Ok(false);
    }
    ask(&socket, name, WRITE, u32::from(is_left))?;
    Ok(true)
}

fn ask(socket: &Socket, name: &str, command: u32, data: u32) -> io::Result<u32> {
    let mut value = Value { command, data };
    // SAFETY: all zeroes are a valid ifreq: it is an array of characters and a union of plain numbers and pointers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(Errno::ENODEV.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: the socket is open while it is borrowed; for these two commands the kernel reads and writes one ethtool_value at
    // the pointer, which lives until after the call.
    let answer = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    Errno::result(answer)?;
    Ok(value.data)
}
