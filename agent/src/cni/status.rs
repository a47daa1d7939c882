//! CNI STATUS: whether an ADD would work.

use cni_spec::socket::Request;
use cni_spec::{CniError, ErrorCode};
use tokio::sync::oneshot;

use super::server::Server;
use crate::message::Message;

impl Server {
    /// Answers from what is known: the runtime asks every few seconds.
    pub(super) async fn status(&self, request: &Request) -> Result<(), CniError> {
        let not_available = |why: String| {
            CniError::new(ErrorCode::NotAvailable, "pods cannot be attached now").details(why)
        };
        let in_force = {
            let firewall = self.firewall.borrow();
            match &firewall.error {
                Some(error) => Err(error.clone()),
                None if firewall.generation == 0 => {
                    Err("the sources are not in sync yet".to_owned())
                }
                None => Ok(()),
            }
        };
        in_force.map_err(not_available)?;
        if request.config.ipam_plugin()?.is_some() {
            // Its room is that plugin's to know, which has been asked by ours.
            return Ok(());
        }
        let (reply, answer) = oneshot::channel();
        let room = self.ask(Message::Room(reply), answer).await;
        let room = room.map_err(|error| not_available(error.to_string()))?;
        room.map_err(not_available)
    }
}
