//! The flags and files of the control plane's programs.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::{ISSUER, Options};
use crate::certificates::{Authority, Identity, token_key};
use crate::site::{CONTROLLER_MANAGER, ETCD, ETCD_PEER, SCHEDULER, Site};

/// Every request with who asked it, without what it held; of deletions of our objects with what they insist on.
const AUDIT_POLICY: &str = "apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Request
  verbs: [delete]
  resources: [{group: portolan.io}]
- level: Metadata
";

pub(super) fn audit_log(dir: &Path) -> PathBuf {
    dir.join("audit.log")
}

/// Writes what the flags name.
pub(super) fn write_files(
    options: &Options,
    site: &Site,
    authority: &Authority,
    dir: &Path,
) -> Result<()> {
    let pki = dir.join("pki");
    let server = authority.issue("kube-apiserver", &[], &server_names(options, site)?)?;
    write_identity(&pki, "apiserver", &server)?;
    let client = authority.issue("kube-apiserver-kubelet-client", &["system:masters"], &[])?;
    write_identity(&pki, "kubelet-client", &client)?;
    token_key(&pki, "tokens")?;
    std::fs::write(dir.join("audit-policy.yaml"), AUDIT_POLICY)?;
    std::fs::write(audit_log(dir), "")?;
    Ok(())
}

pub(super) fn etcd(site: &Site, dir: &Path) -> Vec<String> {
    let client = format!("http://{}", site.private(ETCD));
    let peer = format!("http://{}", site.private(ETCD_PEER));
    vec![
        "--name=test".to_owned(),
        flag("data-dir", dir.join("etcd")),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=test={peer}"),
        "--log-level=warn".to_owned(),
        // The data is worth nothing after a power cut.
        "--unsafe-no-fsync".to_owned(),
    ]
}

pub(super) fn api_server(options: &Options, site: &Site, dir: &Path) -> Vec<String> {
    let pki = |name: &str| dir.join("pki").join(name);
    let mut flags = vec![
        format!("--etcd-servers=http://{}", site.private(ETCD)),
        format!("--bind-address={}", site.address()),
        format!("--advertise-address={}", site.address()),
        format!("--secure-port={}", site.api_server().port()),
        format!("--service-cluster-ip-range={}", options.service_cidrs),
        flag("tls-cert-file", pki("apiserver.crt")),
        flag("tls-private-key-file", pki("apiserver.key")),
        flag("client-ca-file", pki("ca.crt")),
        flag("kubelet-certificate-authority", pki("ca.crt")),
        flag("kubelet-client-certificate", pki("kubelet-client.crt")),
        flag("kubelet-client-key", pki("kubelet-client.key")),
        format!("--service-account-issuer={ISSUER}"),
        flag("service-account-key-file", pki("tokens.pub")),
        flag("service-account-signing-key-file", pki("tokens.key")),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--enable-admission-plugins=NodeRestriction".to_owned(),
        "--allow-privileged=true".to_owned(),
        flag("audit-policy-file", dir.join("audit-policy.yaml")),
        flag("audit-log-path", audit_log(dir)),
        flag("cert-dir", dir.join("apiserver")),
    ];
    if site.address().is_loopback() {
        // It can't be an endpoint of the Service kubernetes.
        flags.push("--endpoint-reconciler-type=none".to_owned());
    }
    if !options.feature_gates.is_empty() {
        flags.push(format!("--feature-gates={}", options.feature_gates));
    }
    flags.extend_from_slice(&options.api_server_flags);
    flags
}

pub(super) fn controller_manager(
    options: &Options,
    site: &Site,
    dir: &Path,
    kubeconfig: &Path,
) -> Vec<String> {
    let pki = |name: &str| dir.join("pki").join(name);
    let mut flags = client(site, CONTROLLER_MANAGER, kubeconfig);
    flags.extend([
        "--allocate-node-cidrs=true".to_owned(),
        format!("--cluster-cidr={}", options.pod_cidrs),
        format!("--service-cluster-ip-range={}", options.service_cidrs),
        "--use-service-account-credentials=true".to_owned(),
        flag("root-ca-file", pki("ca.crt")),
        flag("service-account-private-key-file", pki("tokens.key")),
        flag("cluster-signing-cert-file", pki("ca.crt")),
        flag("cluster-signing-key-file", pki("ca.key")),
        flag("cert-dir", dir.join("manager")),
    ]);
    flags.extend_from_slice(&options.controller_manager_flags);
    flags
}

pub(super) fn scheduler(site: &Site, kubeconfig: &Path) -> Vec<String> {
    client(site, SCHEDULER, kubeconfig)
}

/// What programs that work through the API server have in common.
fn client(site: &Site, port: u16, kubeconfig: &Path) -> Vec<String> {
    vec![
        flag("kubeconfig", kubeconfig.to_owned()),
        flag("authentication-kubeconfig", kubeconfig.to_owned()),
        flag("authorization-kubeconfig", kubeconfig.to_owned()),
        format!("--bind-address={}", site.private(port).ip()),
        format!("--secure-port={port}"),
        "--leader-elect=false".to_owned(),
        "--kube-api-qps=200".to_owned(),
        "--kube-api-burst=400".to_owned(),
    ]
}

/// What clients may call the API server.
fn server_names(options: &Options, site: &Site) -> Result<Vec<String>> {
    let mut names = options.names.clone();
    names.extend([site.address().to_string(), "localhost".to_owned()]);
    let mut name = "kubernetes".to_owned();
    for part in ["default", "svc", "cluster.local"] {
        names.push(name.clone());
        name = format!("{name}.{part}");
    }
    names.push(name);
    for cidr in options.service_cidrs.split(',') {
        names.push(first_address(cidr)?.to_string());
    }
    Ok(names)
}

/// The first address of a CIDR behind its own: the one of the Service kubernetes.
fn first_address(cidr: &str) -> Result<IpAddr> {
    let address = cidr.split('/').next().unwrap_or_default();
    let address: IpAddr = address.parse().with_context(|| cidr.to_owned())?;
    Ok(match address {
        IpAddr::V4(address) => IpAddr::V4((u32::from(address) + 1).into()),
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) + 1).into()),
    })
}

fn write_identity(dir: &Path, stem: &str, identity: &Identity) -> Result<()> {
    std::fs::write(dir.join(format!("{stem}.crt")), &identity.certificate)?;
    std::fs::write(dir.join(format!("{stem}.key")), &identity.key)?;
    Ok(())
}

fn flag(name: &str, path: PathBuf) -> String {
    format!("--{name}={}", path.display())
}
