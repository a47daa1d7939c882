//! Two sites by name over HTTPS, from outside: `portolan-ingress` on both nodes behind one announced address.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tests::announced::{Is, slice, wait_for_ways};
use tests::lab::Lab;
use tests::netns;
use tests::process::Process;
use tests::wait::eventually;

/// As `examples/demo-ingress/front.yaml` has it.
const ADDRESS: &str = "198.51.100.20";
/// Where `portolan-ingress` listens in its pods, and web servers in theirs.
const HTTP: u16 = 8180;
const HTTPS: u16 = 8143;
const WEB: u16 = 8081;
/// Pods with a web server: what each serves, and of which Service (namespace and name) it is an endpoint.
const SITES: [(&str, &str, &str, &str); 3] = [
    ("shop/web", "index.html", "shop", "shop"),
    ("shop/db", "docs/index.html", "shop", "docs"),
    ("team/client", "index.html", "team", "wiki"),
];
/// Pods with an ingress, one on each node.
const INGRESSES: [&str; 2] = ["team/tester", "shop/db"];
/// Whose certificate is for which name.
const CERTIFICATES: [(&str, &str, &str); 2] = [
    ("shop", "shop-tls", "shop.example"),
    ("team", "wiki-tls", "*.wiki.example"),
];
/// What is asked for, and by which pod it is to be answered.
const ASKED: [(&str, &str, &str); 4] = [
    ("shop.example", "/", "shop/web"),
    ("shop.example", "/docs/", "shop/db"),
    ("de.wiki.example", "/", "team/client"),
    ("en.wiki.example", "/", "team/client"),
];
/// How often.
const TIMES: usize = 10;
const PATIENCE: Duration = Duration::from_secs(60);

/// The programs behind the sites; they end with it.
pub(crate) struct Sites(Vec<Process>);

impl Sites {
    /// They go on in a lab that is kept.
    pub(crate) fn keep(&self) {
        self.0.iter().for_each(Process::keep);
    }
}

/// Starts web servers and ingresses, has the address announced, and asks for everything by name.
pub(crate) fn show(lab: &mut Lab, examples: &Path, binaries: &Path) -> Result<Sites> {
    let home = lab.manifests().with_file_name("sites");
    let manifests = home.join("manifests");
    fs::create_dir_all(&manifests)?;
    let mut running = Vec::new();
    for (pod, page, namespace, service) in SITES {
        running.push(web_server(lab, &home, pod, page)?);
        let slice = slice(
            lab,
            (namespace, service),
            &[("http", WEB)],
            &[(pod, Is::Ready)],
        )?;
        fs::write(manifests.join(format!("{service}-slice.json")), slice)?;
    }
    for (namespace, secret, name) in CERTIFICATES {
        certificate(&home, (namespace, secret), name)?;
    }
    let sites = examples.join("demo-ingress/sites.yaml");
    fs::copy(&sites, manifests.join("sites.yaml")).with_context(|| sites.display().to_string())?;
    for pod in INGRESSES {
        running.push(ingress(
            lab,
            &home,
            pod,
            &binaries.join("portolan-ingress"),
        )?);
    }
    let front = examples.join("demo-ingress/front.yaml");
    let text = fs::read_to_string(&front).with_context(|| front.display().to_string())?;
    lab.drop_manifest("front-ingress.yaml", &text)?;
    let ports = [("http", HTTP), ("https", HTTPS)];
    let slice = slice(
        lab,
        ("ingress", "front"),
        &ports,
        &INGRESSES.map(|pod| (pod, Is::Ready)),
    )?;
    lab.drop_manifest("front-ingress-slice.yaml", &slice)?;
    lab.wait_synced()?;
    let nodes: Vec<&str> = lab.nodes.iter().map(|node| node.address).collect();
    wait_for_ways(lab, ADDRESS, &nodes, PATIENCE)?;
    ask_all(lab, &home)?;
    Ok(Sites(running))
}

fn file_name(of: &str) -> String {
    of.replace(['/', '*'], "-")
}

fn web_server(lab: &Lab, home: &Path, pod: &str, page: &str) -> Result<Process> {
    let root = home.join(file_name(pod));
    let page = root.join(page);
    fs::create_dir_all(page.parent().context("a folder")?)?;
    fs::write(page, format!("{pod}\n"))?;
    let (netns, _) = lab.place(pod, false)?;
    let mut command = netns.command("busybox");
    command.args(["httpd", "-f", "-p", &WEB.to_string(), "-h"]);
    command.arg(&root);
    Process::start(pod, command, &home.join(format!("{}.log", file_name(pod))))
}

fn ingress(lab: &Lab, home: &Path, pod: &str, program: &Path) -> Result<Process> {
    let (netns, _) = lab.place(pod, false)?;
    let mut command = netns.command(program);
    command.arg("--manifests").arg(home.join("manifests"));
    command.args(["--http", &format!("0.0.0.0:{HTTP}")]);
    command.args(["--https", &format!("0.0.0.0:{HTTPS}")]);
    command.args(["--status", "127.0.0.1:9180"]);
    let log = home.join(format!("ingress-{}.log", file_name(pod)));
    let mut process = Process::start("portolan-ingress", command, &log)?;
    eventually(PATIENCE, "portolan-ingress is ready", || {
        process.check_running()?;
        netns.run("curl", &["-sSf", "http://127.0.0.1:9180/readyz"])?;
        Ok::<(), anyhow::Error>(())
    })
    .with_context(|| fs::read_to_string(&log).unwrap_or_default())?;
    Ok(process)
}

/// A certificate that signs itself, and the Secret with it.
fn certificate(home: &Path, (namespace, secret): (&str, &str), name: &str) -> Result<()> {
    let (key, crt) = (
        home.join(format!("{secret}.key")),
        certificate_of(home, secret),
    );
    let (key_path, crt_path) = (key.display().to_string(), crt.display().to_string());
    let subject = format!("/CN={name}");
    let names = format!("subjectAltName=DNS:{name}");
    let words = [
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
    ];
    let mut words = words.to_vec();
    words.extend(["-nodes", "-days", "7", "-subj", &subject, "-addext", &names]);
    words.extend(["-keyout", &key_path, "-out", &crt_path]);
    netns::run("openssl", &words)?;
    let manifest = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {"namespace": namespace, "name": secret},
        "stringData": {"tls.crt": fs::read_to_string(crt)?, "tls.key": fs::read_to_string(key)?},
    });
    let path = home.join("manifests").join(format!("{secret}.json"));
    let aside = home.join(format!("{secret}.new"));
    fs::write(&aside, manifest.to_string())?;
    // Secrets that others can read are not taken.
    fs::set_permissions(&aside, fs::Permissions::from_mode(0o600))?;
    Ok(fs::rename(aside, path)?)
}

fn certificate_of(home: &Path, secret: &str) -> PathBuf {
    home.join(format!("{secret}.crt"))
}

fn ask_all(lab: &Lab, home: &Path) -> Result<()> {
    for (name, path, pod) in ASKED {
        let url = format!("https://{name}{path}");
        let certificate = CERTIFICATES
            .iter()
            .find(|(_, _, of)| name.ends_with(of.trim_start_matches('*')));
        let (_, secret, _) = certificate.context("a certificate")?;
        let certificate = certificate_of(home, secret).display().to_string();
        let place = format!("{name}:443:{ADDRESS}");
        let words = [
            "-sS",
            "--max-time",
            "5",
            "--cacert",
            &certificate,
            "--resolve",
            &place,
        ];
        let mut words = words.to_vec();
        words.extend(["-w", "%{http_version} %{http_code}", &url]);
        let mut told = String::new();
        for _ in 0..TIMES {
            told = lab.outside.run("curl", &words)?;
            let lines: Vec<&str> = told.lines().collect();
            ensure!(lines == [pod, "2 200"], "{url}: {told}");
        }
        let version = told.lines().last().unwrap_or_default();
        println!("  {url:<28} → {pod:<12} {TIMES} of {TIMES}, HTTP/{version}");
    }
    // Nobody's name is nobody's site.
    let url = format!("http://{ADDRESS}/");
    let words = [
        "-sS",
        "--max-time",
        "5",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        &url,
    ];
    let code = lab.outside.run("curl", &words)?;
    println!("  {url:<28} → {code}, for no Ingress has that name");
    ensure!(code == "404", "{url}: {code}");
    Ok(())
}
