//! Backends and proxies on the loopback: the same backends, a proxy at a time, each with its own configuration in one folder.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ::tests::process::{Process, said_by};
use ::tests::wait::{eventually, pause};
use anyhow::{Context as _, Result, ensure};

use super::load::{Load, Outcome};

/// The host that all requests are for.
pub(super) const HOST: &str = "shop.example.com";
const BACKENDS: [u16; 2] = [18_601, 18_602];
const HTTP: u16 = 18_610;
const HTTPS: u16 = 18_611;
const STATUS: u16 = 18_612;
/// Time that a program has to answer after its start.
const START: Duration = Duration::from_secs(10);

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Proxy {
    Portolan,
    Nginx,
    Haproxy,
}

impl Proxy {
    pub(super) const ALL: [Self; 3] = [Self::Portolan, Self::Nginx, Self::Haproxy];

    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Portolan => "portolan-ingress",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
        }
    }
}

/// The backends, running, and the folder of all configurations.
pub(super) struct Lab {
    folder: tempfile::TempDir,
    _backend: Process,
}

impl Lab {
    pub(super) fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let path = folder.path();
        certificate(path)?;
        fs::write(path.join("backend.conf"), backend_conf(path))?;
        fs::write(path.join("nginx.conf"), nginx_conf(path))?;
        fs::write(path.join("haproxy.cfg"), haproxy_cfg(path))?;
        let manifests = path.join("manifests");
        fs::create_dir(&manifests)?;
        fs::write(manifests.join("all.yaml"), objects())?;
        let secret = manifests.join("secret.yaml");
        fs::write(&secret, secret_manifest(path)?)?;
        fs::set_permissions(secret, fs::Permissions::from_mode(0o600))?;
        let backend = nginx(path, "backend.conf")?;
        answers(BACKENDS[0])?;
        Ok(Self {
            folder,
            _backend: backend,
        })
    }

    /// Starts a proxy, warms it up, measures, and ends it.
    pub(super) fn measure(&self, proxy: Proxy, load: Load, seconds: usize) -> Result<Outcome> {
        let path = self.folder.path();
        let mut running = match proxy {
            Proxy::Portolan => portolan(path)?,
            Proxy::Nginx => nginx(path, "nginx.conf")?,
            Proxy::Haproxy => {
                let mut command = Command::new("haproxy");
                command.arg("-db").arg("-f").arg(path.join("haproxy.cfg"));
                Process::start("haproxy", command, &path.join("haproxy.log"))?
            }
        };
        answers(HTTP)?;
        running.check_running()?;
        let port = if load.is_tls() { HTTPS } else { HTTP };
        load.run(port, 1, path)?;
        let before = processor(running.id())?;
        let mut outcome = load.run(port, seconds, path)?;
        let used = processor(running.id())? - before;
        outcome.processor = used * 1e6 / (outcome.rate * seconds as f64);
        outcome.memory = memory(running.id())?;
        ensure!(
            outcome.failed == 0,
            "{} requests failed: {}",
            outcome.failed,
            running.log_end()
        );
        running.terminate(START)?;
        // The next one has the same ports.
        pause(Duration::from_millis(200))?;
        Ok(outcome)
    }
}

fn nginx(folder: &Path, file: &str) -> Result<Process> {
    let mut command = Command::new("nginx");
    command
        .arg("-p")
        .arg(folder)
        .arg("-c")
        .arg(folder.join(file));
    Process::start("nginx", command, &folder.join(format!("{file}.log")))
}

fn portolan(folder: &Path) -> Result<Process> {
    let binaries = std::env::var_os("PORTOLAN_BIN_DIR").context("PORTOLAN_BIN_DIR is not set")?;
    let mut command = Command::new(PathBuf::from(binaries).join("ingress/portolan-ingress"));
    command
        .arg("--manifests")
        .arg(folder.join("manifests"))
        .args(["--http", &format!("127.0.0.1:{HTTP}")])
        .args(["--https", &format!("127.0.0.1:{HTTPS}")])
        .args(["--status", &format!("127.0.0.1:{STATUS}")])
        // wrk names no server in its handshake.
        .args(["--default-certificate", "shop/own", "--drain-delay", "0s"])
        .arg("--access-log")
        .arg(folder.join("portolan.access"));
    Process::start("portolan-ingress", command, &folder.join("portolan.log"))
}

/// Waits until a request is answered there.
fn answers(port: u16) -> Result<()> {
    let url = format!("http://127.0.0.1:{port}/");
    let host = format!("Host: {HOST}");
    eventually(START, &format!("an answer at port {port}"), || {
        let arguments = [
            "-sS",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "-H",
            &host,
            &url,
        ];
        let code = said_by("curl", &arguments)?;
        ensure!(code == "200", "it is {code}");
        Ok(())
    })
}

/// A process and its children.
fn family(id: u32) -> Result<Vec<u32>> {
    let mut all = vec![id];
    let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children"))?;
    all.extend(
        children
            .split_whitespace()
            .filter_map(|child| child.parse::<u32>().ok()),
    );
    Ok(all)
}

/// Seconds of processor time of a process and its children.
fn processor(id: u32) -> Result<f64> {
    let mut ticks = 0.0;
    for one in family(id)? {
        let text = fs::read_to_string(format!("/proc/{one}/stat"))?;
        let after = text.rsplit_once(')').context("a stat without a name")?.1;
        let mut words = after.split_whitespace().skip(11);
        let mut next = || {
            words
                .next()
                .and_then(|word| word.parse::<f64>().ok())
                .unwrap_or_default()
        };
        ticks += next() + next();
    }
    Ok(ticks / 100.0)
}

/// Peak MiB of a process and its children together.
fn memory(id: u32) -> Result<f64> {
    let mut kib = 0.0;
    for one in family(id)? {
        let text = fs::read_to_string(format!("/proc/{one}/status"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let value = line.and_then(|line| line.split_whitespace().next());
        kib += value
            .and_then(|value| value.parse::<f64>().ok())
            .unwrap_or_default();
    }
    Ok(kib / 1024.0)
}

fn certificate(folder: &Path) -> Result<()> {
    let (key, certificate) = (folder.join("key.pem"), folder.join("crt.pem"));
    let output = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "3",
        ])
        .args([
            "-subj",
            &format!("/CN={HOST}"),
            "-addext",
            &format!("subjectAltName=DNS:{HOST}"),
        ])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .context("can't start openssl")?;
    ensure!(
        output.status.success(),
        "openssl failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let both = [fs::read(certificate)?, fs::read(key)?].concat();
    fs::write(folder.join("both.pem"), both)?;
    Ok(())
}

fn backend_conf(folder: &Path) -> String {
    let [first, second] = BACKENDS;
    let body = "0123456789".repeat(10);
    format!(
        "master_process off; daemon off; pid {0}/backend.pid; error_log {0}/backend.err warn;\n\
         events {{ worker_connections 4096; }}\n\
         http {{ access_log off; keepalive_requests 1000000000; keepalive_timeout 600s;\n\
         server {{ listen 127.0.0.1:{first}; listen 127.0.0.1:{second}; location / {{ return 200 \"{body}\"; }} }} }}\n",
        folder.display()
    )
}

fn nginx_conf(folder: &Path) -> String {
    let [first, second] = BACKENDS;
    format!(
        "worker_processes auto; daemon off; pid {0}/nginx.pid; error_log {0}/nginx.err warn;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\n\
         log_format j escape=json '{{\"time\":\"$time_iso8601\",\"id\":\"$request_id\",\"client\":\"$remote_addr:$remote_port\",\"version\":\"$server_protocol\",\"method\":\"$request_method\",\"host\":\"$host\",\"path\":\"$request_uri\",\"status\":$status,\"bytes\":$body_bytes_sent,\"seconds\":$request_time,\"endpoint\":\"$upstream_addr\",\"user_agent\":\"$http_user_agent\"}}';\n\
         access_log {0}/nginx.access j buffer=64k flush=1s; keepalive_requests 1000000000;\n\
         upstream backends {{ server 127.0.0.1:{first}; server 127.0.0.1:{second}; keepalive 128; keepalive_requests 1000000000; }}\n\
         server {{ listen 127.0.0.1:{HTTP}; listen 127.0.0.1:{HTTPS} ssl http2; server_name {HOST};\n\
         ssl_certificate {0}/crt.pem; ssl_certificate_key {0}/key.pem;\n\
         location / {{ proxy_pass http://backends; proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_set_header Host $http_host;\n\
         proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme; proxy_set_header X-Forwarded-Host $host;\n\
         proxy_set_header X-Forwarded-Port $server_port; proxy_set_header X-Real-IP $remote_addr; proxy_set_header X-Request-ID $request_id; }} }} }}\n",
        folder.display()
    )
}

fn haproxy_cfg(folder: &Path) -> String {
    let [first, second] = BACKENDS;
    format!(
        "global\n  maxconn 4096\ndefaults\n  mode http\n  timeout connect 2s\n  timeout client 75s\n  timeout server 60s\n  option forwardfor\n\
         frontend all\n  bind 127.0.0.1:{HTTP}\n  bind 127.0.0.1:{HTTPS} ssl crt {}/both.pem alpn h2,http/1.1\n\
         \x20 http-request set-header X-Forwarded-Proto %[ssl_fc,iif(https,http)]\n  use_backend web if {{ hdr(host) -i {HOST} }}\n\
         backend web\n  balance roundrobin\n  http-reuse always\n  server one 127.0.0.1:{first}\n  server two 127.0.0.1:{second}\n",
        folder.display()
    )
}

fn objects() -> String {
    let slices: Vec<String> = BACKENDS
        .iter()
        .map(|port| {
            format!(
                "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: web-{port}, namespace: shop, labels: {{kubernetes.io/service-name: web}}}}\n\
                 addressType: IPv4\nports: [{{name: \"\", port: {port}}}]\nendpoints: [{{addresses: [127.0.0.1]}}]\n"
            )
        })
        .collect();
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata: {{name: portolan}}\nspec: {{controller: portolan.io/ingress-controller}}\n---\n\
         apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: web, namespace: shop}}\nspec:\n  ingressClassName: portolan\n  rules:\n  - host: {HOST}\n\
         \x20   http: {{paths: [{{path: /, pathType: Prefix, backend: {{service: {{name: web, port: {{number: 80}}}}}}}}]}}\n---\n\
         apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: shop}}\nspec: {{ports: [{{port: 80}}]}}\n{}",
        slices.concat()
    )
}

fn secret_manifest(folder: &Path) -> Result<String> {
    let indented = |file: &str| -> Result<String> {
        let text = fs::read_to_string(folder.join(file))?;
        Ok(text.lines().map(|line| format!("    {line}\n")).collect())
    };
    Ok(format!(
        "apiVersion: v1\nkind: Secret\ntype: kubernetes.io/tls\nmetadata: {{name: own, namespace: shop}}\nstringData:\n  tls.crt: |\n{}  tls.key: |\n{}",
        indented("crt.pem")?,
        indented("key.pem")?
    ))
}
