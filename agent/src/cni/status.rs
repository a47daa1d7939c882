//! CNI STATUS: whether an ADD would work.

use cni_spec::{CniError, ErrorCode};

use super::server::Server;

impl Server {
    /// Answers from what is known: the runtime asks every few seconds.
    pub(super) fn status(&self) -> Result<(), CniError> {
        let firewall = self.firewall.borrow();
        let not_available = |why: &str| {
            Err(CniError::new(ErrorCode::NotAvailable, "pods cannot be attached now").details(why))
        };
        match &firewall.error {
            Some(error) => not_available(error),
            None if firewall.generation == 0 => not_available("the sources are not in sync yet"),
            None => Ok(()),
        }
    }
}
