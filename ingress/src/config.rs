//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use api::{GoDuration, NamespacedName};
use clap::Parser;

use crate::kubernetes::{self, Publish};
use crate::objects::BackendPort;
use crate::proxy::{Limits, TrustedRange};
use crate::settings::{CONTROLLER, Settings};

/// An ingress controller: HTTP and HTTPS from outside to pods, by host and path.
///
/// It follows Ingresses of the IngressClasses whose spec.controller is its own, and asks the endpoints of their Services directly.
/// SIGTERM drains: readyz says no, new connections are taken for --drain-delay longer, requests under way are finished.
#[derive(Clone, Debug, Parser)]
#[command(name = "portolan-ingress", version, args_override_self = true)]
pub struct Args {
    /// Read objects from the manifests in this directory instead of a cluster; it is watched
    #[arg(long, value_name = "DIR")]
    pub manifests: Option<PathBuf>,
    /// Reach the API server as this file says; in a pod the service account does
    #[arg(long, value_name = "FILE", conflicts_with = "manifests")]
    pub kubeconfig: Option<PathBuf>,
    /// Write the addresses of this Service, by which the controller is reached, into the statuses of Ingresses
    #[arg(long, value_name = "NAMESPACE/SERVICE", conflicts_with = "manifests")]
    pub publish_service: Option<String>,
    /// Write these addresses or names there instead
    #[arg(long, value_name = "ADDRESS,…", value_delimiter = ',', conflicts_with_all = ["manifests", "publish_service"])]
    pub publish_address: Vec<String>,
    /// The Lease, in the namespace of the controller's pod, of the replica that writes; another one for each --controller
    #[arg(long, value_name = "NAME", default_value = "portolan-ingress")]
    pub lease: String,
    /// The namespace of the controller's pod
    #[arg(
        long,
        value_name = "NAMESPACE",
        env = "POD_NAMESPACE",
        default_value = "portolan-ingress"
    )]
    pub namespace: String,
    /// The name of the controller's pod: the Lease's holder; else the host's name
    #[arg(long, value_name = "NAME", env = "POD_NAME")]
    pub pod: Option<String>,
    /// Listen here for HTTP/1.1 and HTTP/2 in plain text; may be repeated
    #[arg(long, value_name = "ADDR:PORT", default_values = ["[::]:80"])]
    pub http: Vec<SocketAddr>,
    /// Listen here for TLS; may be repeated
    #[arg(long, value_name = "ADDR:PORT", default_values = ["[::]:443"])]
    pub https: Vec<SocketAddr>,
    /// Answer /livez, /readyz and /metrics here
    #[arg(long, value_name = "ADDR:PORT", default_value = "[::]:9180")]
    pub status: SocketAddr,
    /// IngressClasses with this spec.controller are ours
    #[arg(long, value_name = "NAME", default_value = CONTROLLER)]
    pub controller: String,
    /// Where requests go that no Ingress wants, else they are answered 404
    #[arg(long, value_name = "NAMESPACE/SERVICE:PORT")]
    pub default_backend: Option<String>,
    /// The Secret with the certificate for names that no Ingress has one for; else their handshake fails
    #[arg(long, value_name = "NAMESPACE/SECRET")]
    pub default_certificate: Option<String>,
    /// Proxies whose X-Forwarded-*, X-Real-IP and X-Request-ID are believed; anybody else's are overwritten
    #[arg(long, value_name = "CIDR,…", value_delimiter = ',')]
    pub trusted_proxies: Vec<TrustedRange>,
    /// Where the access log goes: - (standard output), none, or a file
    #[arg(long, value_name = "FILE", default_value = "-")]
    pub access_log: String,
    /// Threads that serve; 0: one a core
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub workers: usize,
    /// For a connection to an endpoint; then another is tried
    #[arg(long, value_name = "TIME", default_value = "2s")]
    pub connect_timeout: String,
    /// For an endpoint's machine to acknowledge what it is sent; the connection ends then, and another endpoint is asked
    #[arg(long, value_name = "TIME", default_value = "5s")]
    pub unacknowledged_timeout: String,
    /// How many endpoints a request tries to connect to
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub tries: usize,
    /// From a request's end to the head of its response: 504 after that
    #[arg(long, value_name = "TIME", default_value = "60s")]
    pub response_timeout: String,
    /// For a request's head from its first octet on, and for a TLS handshake
    #[arg(long, value_name = "TIME", default_value = "10s")]
    pub header_timeout: String,
    /// A client's connection without a request
    #[arg(long, value_name = "TIME", default_value = "75s")]
    pub keep_alive: String,
    /// A client's connection with requests on which nothing passes
    #[arg(long, value_name = "TIME", default_value = "5m")]
    pub stream_idle_timeout: String,
    /// A websocket on which nothing passes
    #[arg(long, value_name = "TIME", default_value = "1h")]
    pub tunnel_idle_timeout: String,
    /// Octets of a request's head
    #[arg(long, value_name = "OCTETS", default_value_t = 32 * 1024)]
    pub max_header_size: usize,
    /// Octets of a request's body: 413 above; absent: no limit
    #[arg(long, value_name = "OCTETS")]
    pub max_body_size: Option<u64>,
    /// Connections of clients at once; more are closed
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    pub max_connections: usize,
    /// How long new connections are taken after SIGTERM: until load balancers have seen that readyz says no
    #[arg(long, value_name = "TIME", default_value = "5s")]
    pub drain_delay: String,
    /// How long requests may take to finish after that
    #[arg(long, value_name = "TIME", default_value = "30s")]
    pub drain_timeout: String,
    /// What is logged on standard error, as RUST_LOG has it
    #[arg(long, value_name = "FILTER", default_value = "info")]
    pub log: String,
}

impl Args {
    /// What compilations are told.
    ///
    /// # Errors
    /// A name that is none.
    pub fn settings(&self) -> anyhow::Result<Settings> {
        let mut settings = Settings::of_controller(&self.controller);
        if let Some(text) = &self.default_backend {
            let wrong = || format!("--default-backend {text:?} should be NAMESPACE/SERVICE:PORT");
            let (name, port) = text.rsplit_once(':').with_context(wrong)?;
            let port = match port.parse() {
                Ok(number) => BackendPort::Number(number),
                Err(_) => BackendPort::Name(port.to_owned()),
            };
            settings.default_backend = Some((named(name).with_context(wrong)?, port));
        }
        if let Some(text) = &self.default_certificate {
            let wrong = || format!("--default-certificate {text:?} should be NAMESPACE/SECRET");
            settings.default_certificate = Some(named(text).with_context(wrong)?);
        }
        Ok(settings)
    }

    /// How the API server is reached, and what is written there.
    ///
    /// # Errors
    /// A name that is none, or no name for this replica.
    pub fn kubernetes(&self) -> anyhow::Result<kubernetes::Settings> {
        let publish = match &self.publish_service {
            Some(text) => {
                let wrong = || format!("--publish-service {text:?} should be NAMESPACE/SERVICE");
                Publish::Service(named(text).with_context(wrong)?)
            }
            None if self.publish_address.is_empty() => Publish::Nothing,
            None => Publish::Addresses(self.publish_address.clone()),
        };
        let identity = match &self.pod {
            Some(pod) => pod.clone(),
            None => {
                let host = std::fs::read_to_string("/proc/sys/kernel/hostname");
                host.context("--pod is not given, and the host has no name")?
            }
        };
        Ok(kubernetes::Settings {
            kubeconfig: self.kubeconfig.clone(),
            namespace: self.namespace.clone(),
            lease: self.lease.clone(),
            identity: identity.trim().to_owned(),
            controller: self.controller.clone(),
            publish,
        })
    }

    /// What a connection or request may not exceed.
    ///
    /// # Errors
    /// A time that is none, or a limit that lets nothing pass.
    pub fn limits(&self) -> anyhow::Result<Limits> {
        ensure!(self.tries > 0, "--tries is 0: nobody would be asked");
        ensure!(
            self.max_header_size >= 1024,
            "--max-header-size is below 1024: most requests would be refused"
        );
        Ok(Limits {
            connect: duration("--connect-timeout", &self.connect_timeout)?,
            unacknowledged: duration("--unacknowledged-timeout", &self.unacknowledged_timeout)?,
            tries: self.tries,
            response: duration("--response-timeout", &self.response_timeout)?,
            stream_idle: duration("--stream-idle-timeout", &self.stream_idle_timeout)?,
            tunnel_idle: duration("--tunnel-idle-timeout", &self.tunnel_idle_timeout)?,
            head: duration("--header-timeout", &self.header_timeout)?,
            keep_alive: duration("--keep-alive", &self.keep_alive)?,
            head_size: self.max_header_size,
            body_size: self.max_body_size,
            connections: self.max_connections,
            ..Limits::default()
        })
    }

    /// How long to accept after SIGTERM, and how long to finish then.
    ///
    /// # Errors
    /// A time that is none.
    pub fn drain(&self) -> anyhow::Result<(Duration, Duration)> {
        Ok((
            duration("--drain-delay", &self.drain_delay)?,
            duration("--drain-timeout", &self.drain_timeout)?,
        ))
    }
}

fn named(text: &str) -> Option<NamespacedName> {
    let (namespace, name) = text.split_once('/')?;
    let is_name = !namespace.is_empty() && !name.is_empty() && !name.contains('/');
    is_name.then(|| NamespacedName::new(namespace, name))
}

/// A Go duration.
fn duration(flag: &str, text: &str) -> anyhow::Result<Duration> {
    let read: GoDuration = text
        .parse()
        .map_err(|error| anyhow::anyhow!("{flag} {text:?}: {error}"))?;
    Ok(read.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(extra: &[&str]) -> Args {
        let base = ["portolan-ingress", "--manifests", "/tmp"];
        Args::parse_from(base.iter().chain(extra))
    }

    #[test]
    fn names_and_times_are_read_or_refused_with_the_flag() {
        let settings = args(&[
            "--default-backend",
            "web/app:http",
            "--default-certificate",
            "web/tls",
        ])
        .settings()
        .unwrap();
        assert_eq!(
            settings.default_backend.unwrap().1,
            BackendPort::Name("http".to_owned())
        );
        assert_eq!(
            settings.default_certificate,
            Some(NamespacedName::new("web", "tls"))
        );
        let limits = args(&["--connect-timeout", "1500ms"]).limits().unwrap();
        assert_eq!(limits.connect, Duration::from_millis(1500));
        for wrong in [
            ["--default-backend", "app:80"],
            ["--default-certificate", "tls"],
        ] {
            assert!(
                args(&wrong)
                    .settings()
                    .unwrap_err()
                    .to_string()
                    .contains(wrong[0])
            );
        }
        assert!(
            args(&["--keep-alive", "soon"])
                .limits()
                .unwrap_err()
                .to_string()
                .contains("--keep-alive")
        );
        assert!(args(&["--tries", "0"]).limits().is_err());
    }

    #[test]
    fn what_is_published_is_a_services_addresses_or_those_given() {
        let of = |words: &[&str]| {
            let base = ["portolan-ingress", "--pod", "a"];
            Args::parse_from(base.iter().chain(words)).kubernetes()
        };
        assert_eq!(of(&[]).unwrap().publish, Publish::Nothing);
        let service = Publish::Service(NamespacedName::new("a", "b"));
        assert_eq!(of(&["--publish-service", "a/b"]).unwrap().publish, service);
        let given = Publish::Addresses(vec!["192.0.2.1".to_owned(), "lb.example.org".to_owned()]);
        let words = ["--publish-address", "192.0.2.1,lb.example.org"];
        assert_eq!(of(&words).unwrap().publish, given);
        let error = of(&["--publish-service", "b"]).unwrap_err().to_string();
        assert!(error.contains("--publish-service"), "{error}");
    }

    #[test]
    fn a_trusted_range_holds_its_addresses_of_either_spelling() {
        let args = args(&["--trusted-proxies", "10.0.0.0/8,2001:db8::1"]);
        let trusts = |text: &str| {
            let address = text.parse().unwrap();
            args.trusted_proxies
                .iter()
                .any(|range| range.contains(address))
        };
        assert!(trusts("10.255.0.1") && trusts("::ffff:10.1.1.1") && trusts("2001:db8::1"));
        assert!(!trusts("11.0.0.1") && !trusts("2001:db8::2") && !trusts("::"));
        assert!(
            "0.0.0.0/0"
                .parse::<TrustedRange>()
                .unwrap()
                .contains("9.9.9.9".parse().unwrap())
        );
        assert!(
            "10.0.0.0/33".parse::<TrustedRange>().is_err() && "x".parse::<TrustedRange>().is_err()
        );
    }
}
