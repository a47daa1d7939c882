//! BGPConfiguration `default`: what holds for every node's speaker.

use std::time::Duration;

/// The BGPConfiguration named `default`, defaults applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BgpConfiguration {
    /// Its name.
    pub name: String,
    /// `asNumber` of nodes that have no annotation of their own (64512).
    pub as_number: u32,
    /// `listenPort` (179).
    pub listen_port: u16,
    /// `nodeToNodeMeshEnabled` (true).
    pub node_to_node_mesh_enabled: bool,
    /// `gracefulRestart.restartTime` (120 s).
    pub restart_time: Duration,
    /// `installRoutes` (true).
    pub install_routes: bool,
}

impl Default for BgpConfiguration {
    /// What holds when no BGPConfiguration is there.
    fn default() -> Self {
        Self {
            name: "default".to_owned(),
            as_number: 64512,
            listen_port: 179,
            node_to_node_mesh_enabled: true,
            restart_time: Duration::from_secs(120),
            install_routes: true,
        }
    }
}
