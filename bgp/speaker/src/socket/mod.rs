//! What every BGP socket is given before a byte crosses it: TTL and GTSM, a TCP MD5 key, source, interface, DSCP.
//!
//! An option the kernel refuses is an error that names the peer and the option: a session without the protection it
//! was configured with is worse than none.

mod dial;
mod kernel;
mod keys;
mod options;
mod password;
mod ttl;

pub use dial::dial;
pub(crate) use keys::set_key;
pub use options::{SocketOptions, apply_accepted};
pub(crate) use options::{apply_listening, option_error};
pub use password::{InvalidPassword, Password};
pub use ttl::Ttl;
