//! One ingress controller with a directory of its own, and what asks it.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;

/// A slow machine beside other tests is no reason to fail; what should happen happens long before.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Lab {
    folder: TempDir,
    process: Child,
    pub(crate) http: SocketAddr,
    pub(crate) https: SocketAddr,
    pub(crate) status: SocketAddr,
}

/// Ports that were free a moment ago. They are below those that connections of clients get.
fn free_port() -> SocketAddr {
    use std::sync::atomic::{AtomicU16, Ordering};
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = 20_000 + u16::try_from(std::process::id() % 9_000).unwrap();
    loop {
        let port = start + NEXT.fetch_add(1, Ordering::Relaxed) % 3_000;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

impl Lab {
    /// Starts the program with these manifests and flags, and waits until it is ready.
    pub(crate) fn start(manifests: &str, flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "class.yaml", CLASS, 0o644);
        write(folder.path(), "all.yaml", manifests, 0o644);
        let (http, https, status) = (free_port(), free_port(), free_port());
        let mut command = Command::new(env!("CARGO_BIN_EXE_portolan-ingress"));
        command
            .arg("--manifests")
            .arg(folder.path())
            .args(["--http", &http.to_string(), "--https", &https.to_string()])
            .args(["--status", &status.to_string(), "--drain-delay", "0s"])
            .args([
                "--access-log",
                &folder.path().join("access.log").display().to_string(),
            ])
            .args(flags)
            .stdin(Stdio::null());
        let lab = Self {
            process: command.spawn().unwrap(),
            folder,
            http,
            https,
            status,
        };
        eventually("ready", || lab.status("/readyz").0 == 200);
        lab
    }

    /// Replaces a manifest as an editor does, and waits until one more table has been made of it.
    pub(crate) fn put(&self, name: &str, text: &str) {
        let before = self.metric("portolan_ingress_compilations_total");
        write(self.folder.path(), name, text, 0o600);
        eventually("compiled", || {
            self.metric("portolan_ingress_compilations_total") > before
        });
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Sends SIGTERM.
    pub(crate) fn terminate(&self) {
        let sent = Command::new("kill")
            .arg(self.pid().to_string())
            .status()
            .unwrap();
        assert!(sent.success());
    }

    /// How the program ended, within the time that tests have.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < until, "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// A path of the status port.
    pub(crate) fn status(&self, path: &str) -> (u16, String) {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let text = raw(self.status, request.as_bytes());
        let code = text
            .get(9..12)
            .and_then(|code| code.parse().ok())
            .unwrap_or(0);
        let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        (code, body.to_owned())
    }

    /// The value of a metric, labels as they are written.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let (_, text) = self.status("/metrics");
        let mut lines = text
            .lines()
            .filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        lines
            .next()
            .and_then(|value| value.parse().ok())
            .unwrap_or(0)
    }

    /// The lines of the access log, once there are so many.
    pub(crate) fn log(&self, count: usize) -> Vec<serde_json::Value> {
        let path = self.folder.path().join("access.log");
        let read = || -> Vec<serde_json::Value> {
            let text = fs::read_to_string(&path).unwrap_or_default();
            text.lines()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect()
        };
        eventually("logged", || read().len() >= count);
        read()
    }

    /// curl, for a host that is at the program.
    pub(crate) fn curl(&self, url: &str, arguments: &[&str]) -> Answer {
        let output = self.curl_output(url, arguments);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (head, body) = text.rsplit_once("\r\n\r\n").unwrap_or(("", &text));
        // Of several heads (100 Continue) the last counts.
        let head = head.rsplit_once("\r\n\r\n").map_or(head, |(_, last)| last);
        let status = head
            .split_whitespace()
            .nth(1)
            .and_then(|code| code.parse().ok());
        Answer {
            status: status.unwrap_or(0),
            head: head.to_lowercase(),
            body: body.to_owned(),
            problem: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    pub(crate) fn curl_output(&self, url: &str, arguments: &[&str]) -> Output {
        let http = format!(":80:{}:{}", self.http.ip(), self.http.port());
        let https = format!(":443:{}:{}", self.https.ip(), self.https.port());
        Command::new("curl")
            .args(["-sSi", "--path-as-is", "--noproxy", "*", "--max-time", "20"])
            .args(["--connect-to", &http, "--connect-to", &https])
            .args(arguments)
            .arg(url)
            .output()
            .unwrap()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What curl got.
#[derive(Debug)]
#[expect(
    dead_code,
    reason = "what went wrong is seen where an assertion shows the answer"
)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Status line and headers in lower case.
    pub(crate) head: String,
    pub(crate) body: String,
    pub(crate) problem: String,
}

pub(crate) const CLASS: &str = "apiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata: {name: portolan}\nspec: {controller: portolan.io/ingress-controller}\n";

/// An Ingress for one host, all paths, to one Service.
pub(crate) fn ingress(name: &str, host: &str, service: &str, extra: &str) -> String {
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata:\n  name: {name}\n  namespace: shop\n{extra}\
         spec:\n  ingressClassName: portolan\n  rules:\n  - host: {host}\n    http:\n      paths:\n      \
         - {{path: /, pathType: Prefix, backend: {{service: {{name: {service}, port: {{number: 80}}}}}}}}\n"
    )
}

/// An Ingress whose host has a certificate.
pub(crate) fn secured(name: &str, host: &str, service: &str, secret: &str) -> String {
    let plain = ingress(name, host, service, "");
    format!("{plain}  tls:\n  - {{hosts: [{host}], secretName: {secret}}}\n")
}

/// A Service and its endpoints, each with its conditions.
pub(crate) fn service(name: &str, protocol: &str, endpoints: &[(SocketAddr, &str)]) -> String {
    let mut text = format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  ports: [{{port: 80{protocol}}}]\n"
    );
    for (index, (endpoint, conditions)) in endpoints.iter().enumerate() {
        text += &format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\nmetadata:\n  name: {name}-{index}\n  \
             namespace: shop\n  labels: {{kubernetes.io/service-name: {name}}}\nports: [{{name: \"\", port: {}}}]\nendpoints:\n\
             - {{addresses: [{}], conditions: {{{conditions}}}}}\n",
            endpoint.port(),
            endpoint.ip(),
        );
    }
    text
}

pub(crate) const READY: &str = "ready: true, serving: true";
pub(crate) const LEAVING: &str = "ready: false, serving: true, terminating: true";

/// A Secret with a new certificate for a host, and the certificate in PEM.
pub(crate) fn secret(name: &str, host: &str) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new([host.to_owned()])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    let indent = |pem: String| {
        pem.lines()
            .map(|line| format!("    {line}\n"))
            .collect::<String>()
    };
    let text = format!(
        "apiVersion: v1\nkind: Secret\ntype: kubernetes.io/tls\nmetadata: {{name: {name}, namespace: shop}}\nstringData:\n  tls.crt: |\n{}  tls.key: |\n{}",
        indent(certificate.pem()),
        indent(key.serialize_pem()),
    );
    (text, certificate.pem())
}

fn write(folder: &Path, name: &str, text: &str, mode: u32) {
    let beside: PathBuf = folder.join(format!(".{name}.new"));
    let _ = fs::remove_file(&beside);
    let mut options = fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&beside)
        .unwrap();
    file.write_all(text.as_bytes()).unwrap();
    fs::rename(beside, folder.join(name)).unwrap();
}

/// Sends octets as they are, and reads until the other side closes or is silent.
pub(crate) fn raw(to: SocketAddr, octets: &[u8]) -> String {
    let Ok(mut stream) = TcpStream::connect(to) else {
        return String::new();
    };
    stream
        .set_read_timeout(Some(Duration::from_secs(3)))
        .unwrap();
    if stream.write_all(octets).is_err() {
        return String::new();
    }
    let mut read = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        read.extend_from_slice(&buffer[..count]);
    }
    String::from_utf8_lossy(&read).into_owned()
}

pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < until, "not {what} in time");
        std::thread::sleep(Duration::from_millis(5));
    }
}
