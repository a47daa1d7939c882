//! The kubelet of a node, and kube-proxy beside it, as real programs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use serde_json::json;

use crate::ControlPlane;
use crate::Programs;
use crate::containerd::SOCKET;
use crate::node::Node;

/// What a node is called and where it is.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// In its link's subnet.
    pub v4: Ipv4Addr,
    /// In its link's subnet.
    pub v6: Ipv6Addr,
}

/// How kube-proxy makes Services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyMode {
    /// By iptables, in the back end that the node's `iptables` is.
    Iptables,
    /// By tables of its own in nftables.
    Nftables,
}

/// Starts the kubelet; the Node object is there once it has found the API server. Its Node is registered with the labels and
/// `taints` (`key=value:effect`), both by commas.
///
/// # Errors
/// When it can't be started.
pub fn start(
    node: &mut Node,
    plane: &ControlPlane,
    programs: &Programs,
    at: Addresses,
    (labels, taints): (&str, &str),
    dns: &[IpAddr],
) -> Result<()> {
    let name = node.name().to_owned();
    let user = format!("system:node:{name}");
    let kubeconfig = plane.kubeconfig_for(&user, &["system:nodes"]);
    node.write(
        "/etc/kubernetes/kubelet.kubeconfig",
        &std::fs::read_to_string(kubeconfig)?,
    )?;
    let names = [name.clone(), at.v4.to_string(), at.v6.to_string()];
    let server = plane.authority().issue(&user, &["system:nodes"], &names)?;
    node.write("/etc/kubernetes/kubelet.crt", &server.certificate)?;
    node.write("/etc/kubernetes/kubelet.key", &server.key)?;
    let authority = std::fs::read_to_string(plane.authority().certificate())?;
    node.write("/etc/kubernetes/ca.crt", &authority)?;
    let config = config(&node.cgroups().name(), dns);
    node.write("/etc/kubernetes/kubelet.json", &config)?;
    let args = [
        "--config=/etc/kubernetes/kubelet.json".to_owned(),
        "--kubeconfig=/etc/kubernetes/kubelet.kubeconfig".to_owned(),
        format!("--hostname-override={name}"),
        format!("--node-ip={},{}", at.v4, at.v6),
        format!("--node-labels={labels}"),
        format!("--register-with-taints={taints}"),
    ];
    node.start_program("kubelet", &programs.path("kubelet"), &args)
}

/// Starts kube-proxy.
///
/// # Errors
/// When it can't be started.
pub fn start_proxy(
    node: &mut Node,
    plane: &ControlPlane,
    programs: &Programs,
    pod_cidrs: &str,
    mode: ProxyMode,
) -> Result<()> {
    let mode = match mode {
        ProxyMode::Iptables => "iptables",
        ProxyMode::Nftables => "nftables",
    };
    let kubeconfig = plane.kubeconfig_for("system:kube-proxy", &[]);
    node.write(
        "/etc/kubernetes/proxy.kubeconfig",
        &std::fs::read_to_string(kubeconfig)?,
    )?;
    let args = [
        "--kubeconfig=/etc/kubernetes/proxy.kubeconfig".to_owned(),
        format!("--hostname-override={}", node.name()),
        format!("--cluster-cidr={pod_cidrs}"),
        format!("--proxy-mode={mode}"),
        // Those sysctls can be written in the first network namespace alone.
        "--conntrack-max-per-core=0".to_owned(),
        "--conntrack-min=0".to_owned(),
        "--iptables-min-sync-period=0s".to_owned(),
    ];
    node.start_program("kube-proxy", &programs.path("kube-proxy"), &args)
}

fn config(cgroup_root: &str, dns: &[IpAddr]) -> String {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": "/etc/kubernetes/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": "/etc/kubernetes/kubelet.crt",
        "tlsPrivateKeyFile": "/etc/kubernetes/kubelet.key",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cgroup_root,
        "failCgroupV1": false,
        "failSwapOn": false,
        "containerRuntimeEndpoint": format!("unix://{SOCKET}"),
        "clusterDNS": dns,
        "clusterDomain": "cluster.local",
        "resolvConf": "/etc/resolv.conf",
        // What was imported can't be pulled again.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "1Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "maxPods": 110,
        "nodeStatusUpdateFrequency": "5s",
        "nodeStatusReportFrequency": "30s",
        "shutdownGracePeriod": "0s",
    })
    .to_string()
}
