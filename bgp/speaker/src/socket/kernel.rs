//! Socket options that neither socket2 nor nix names: TCP MD5 keys, GTSM, a connection's SYN.

use std::ffi::c_void;

use nix::libc;
use nix::sys::socket::sockopt::Get;
use nix::{getsockopt_impl, setsockopt_impl, sockopt_impl};

/// `struct tcp_md5sig` of linux/tcp.h.
pub(super) const MD5_LEN: usize = 216;
/// Octets kept of a SYN: IPv4 with options is at most 60, IPv6 with extension headers is seldom longer than 200, TCP is
/// at most 60. Only the first eight are looked at.
const SYN_LEN: usize = 512;

// Not in libc 0.2; linux/tcp.h.
const TCP_SAVE_SYN: libc::c_int = 27;
const TCP_SAVED_SYN: libc::c_int = 28;

sockopt_impl!(
    /// TCP_MD5SIG_EXT: a key for the segments of a prefix.
    Md5Key, SetOnly, libc::IPPROTO_TCP, libc::TCP_MD5SIG_EXT, [u8; MD5_LEN]
);
sockopt_impl!(
    /// Packets of a lower TTL are dropped.
    MinTtl, Both, libc::IPPROTO_IP, libc::IP_MINTTL, libc::c_int
);
sockopt_impl!(
    /// Packets of a lower hop limit are dropped.
    MinHopCount, Both, libc::IPPROTO_IPV6, libc::IPV6_MINHOPCOUNT, libc::c_int
);
sockopt_impl!(
    /// A listening socket keeps the headers of each SYN for the connection that comes of it.
    SaveSyn, SetOnly, libc::IPPROTO_TCP, TCP_SAVE_SYN, libc::c_int
);
sockopt_impl!(
    /// Those headers; the kernel gives them once.
    SavedSyn, GetOnly, libc::IPPROTO_TCP, TCP_SAVED_SYN, Vec<u8>, Syn
);

/// Room for a SYN's headers, of any length and any content.
struct Syn {
    len: libc::socklen_t,
    octets: [u8; SYN_LEN],
}

impl Get<Vec<u8>> for Syn {
    fn uninit() -> Self {
        let octets = [0; SYN_LEN];
        Self {
            len: libc::socklen_t::try_from(SYN_LEN).unwrap_or_default(),
            octets,
        }
    }

    fn ffi_ptr(&mut self) -> *mut c_void {
        self.octets.as_mut_ptr().cast()
    }

    fn ffi_len(&mut self) -> *mut libc::socklen_t {
        &raw mut self.len
    }

    // SAFETY: needs no promise of the caller, for the octets are zeros from the start.
    #[expect(unsafe_code, reason = "the trait declares its method so")]
    unsafe fn assume_init(self) -> Vec<u8> {
        let len = usize::try_from(self.len).unwrap_or(SYN_LEN);
        self.octets.get(..len).unwrap_or_default().to_vec()
    }
}
