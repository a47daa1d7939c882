//! The one system call for which no safe wrapper exists: getsockopt with a question in its buffer.
#![expect(
    unsafe_code,
    reason = "IPT_SO_GET_INFO reads the table's name from the buffer it answers into; no library wraps that"
)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::libc;

use super::TableInfo;
use crate::conntrack::Family;

/// IPT_SO_GET_INFO and IP6T_SO_GET_INFO.
const GET_INFO: libc::c_int = 64;
/// Bytes of a table's name with its NUL (XT_TABLE_MAXNAMELEN).
const NAME_BYTES: usize = 32;
/// Bytes of struct ipt_getinfo: name, valid hooks, five entry points, five underflows, entries, size.
const INFO_BYTES: usize = NAME_BYTES + 4 + 5 * 4 + 5 * 4 + 4 + 4;

/// Asks for a table's size.
///
/// # Errors
/// What the kernel says; ENOENT without such a table.
pub(super) fn table_info(fd: &OwnedFd, family: Family, table: &str) -> io::Result<TableInfo> {
    let level = match family {
        Family::V4 => libc::SOL_IP,
        Family::V6 => libc::SOL_IPV6,
    };
    let mut info = [0_u8; INFO_BYTES];
    if table.len() >= NAME_BYTES {
        return Err(io::ErrorKind::NotFound.into());
    }
    for (to, from) in info.iter_mut().zip(table.as_bytes()) {
        *to = *from;
    }
    let mut length = libc::socklen_t::try_from(INFO_BYTES).unwrap_or(0);
    // SAFETY: the descriptor is open for as long as `fd` is borrowed; the kernel reads and writes at most `length`
    // bytes at `info`, which has exactly that many, and writes one socklen_t at `length`. Both outlive the call, and
    // any bytes are valid values of either.
    let answer = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            level,
            GET_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if answer != 0 {
        return Err(io::Error::last_os_error());
    }
    let number = |at| crate::batch::word(&info, at).unwrap_or(0);
    Ok(TableInfo {
        entries: number(INFO_BYTES - 8),
        size: number(INFO_BYTES - 4),
    })
}
