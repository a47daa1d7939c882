//! An agent that reaches the API server by the Service which it serves itself (semantics 146): after a reboot each waits for the
//! other.

use std::net::SocketAddr;

use api::NamespacedName;

use super::super::Core;

impl Core {
    /// What is to be told where the API server is asked at `server`, if that is an address of the Service `kubernetes` and this
    /// agent leads there.
    pub(crate) fn asks_by_itself(&self, server: SocketAddr) -> Option<String> {
        let services = self.services.as_ref()?;
        let served = services
            .model
            .service(&NamespacedName::new("default", "kubernetes"))?;
        let mut frontends = served.ports.iter().flat_map(|port| &port.frontends);
        let is_it =
            frontends.any(|one| one.address == Some(server.ip()) && one.port == server.port());
        is_it.then(|| {
            format!(
                "the API server is asked at {server}, which is Service default/kubernetes, and this agent serves that itself: after a \
                 reboot of the node nobody leads there. Give the agent an address that needs no Service, by --kubeconfig or \
                 KUBERNETES_SERVICE_HOST and _PORT (docs/services.md)"
            )
        })
    }
}
