//! A control plane: etcd, the real kube-apiserver and, if asked for, kube-controller-manager and kube-scheduler.

mod flags;
mod kubeconfig;
mod requests;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use tests::process::Process;
use tests::wait::eventually;

pub use requests::{Request, refused};

use crate::certificates::Authority;
use crate::programs::Programs;
use crate::scratch::Scratch;
use crate::site::{ETCD, Place, Site};
use crate::spawner;
use kubeconfig::{Kubeconfig, User};

/// How long a program may take until it answers, on a machine that does much else.
const START: Duration = Duration::from_secs(120);

/// The ServiceAccount issuer, and audience, of the cluster.
pub(crate) const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// What a control plane is made of. Ranges are CIDRs, of two families with a comma between.
#[derive(Clone, Debug)]
pub struct Options {
    /// Runs kube-controller-manager, too: ServiceAccounts in new namespaces, Pod CIDRs, garbage collection.
    pub controller_manager: bool,
    /// Runs kube-scheduler, too.
    pub scheduler: bool,
    /// Where it listens.
    pub place: Place,
    /// What nodes get Pod CIDRs of.
    pub pod_cidrs: String,
    /// What Services get addresses of.
    pub service_cidrs: String,
    /// `Name=true,Other=false`.
    pub feature_gates: String,
    /// More names and addresses that the API server's certificate is good for.
    pub names: Vec<String>,
    /// More flags for kube-apiserver.
    pub api_server_flags: Vec<String>,
    /// More flags for kube-controller-manager.
    pub controller_manager_flags: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            controller_manager: false,
            scheduler: false,
            place: Place::default(),
            pod_cidrs: "10.244.0.0/16".to_owned(),
            service_cidrs: "10.96.0.0/16".to_owned(),
            feature_gates: String::new(),
            names: Vec::new(),
            api_server_flags: Vec::new(),
            controller_manager_flags: Vec::new(),
        }
    }
}

/// A running control plane. Dropping it ends its programs and removes its folder; when the test process is killed, the
/// kernel and a waiting shell do so.
#[derive(Debug)]
pub struct ControlPlane {
    // In the order in which they are dropped: clients before servers, and the folder last.
    clients: Vec<Process>,
    api_server: Mutex<Option<Process>>,
    _etcd: Process,
    options: Options,
    programs: Programs,
    authority: Authority,
    admin: PathBuf,
    kubeconfigs: AtomicU32,
    site: Site,
    scratch: Scratch,
}

impl ControlPlane {
    /// Starts one and waits until it is ready.
    ///
    /// # Panics
    /// When a program is missing or doesn't come up: says which, and what it logged.
    #[must_use]
    pub fn start(options: Options) -> Self {
        Self::try_start(options).unwrap_or_else(|error| panic!("no control plane: {error:#}"))
    }

    /// One of etcd and kube-apiserver alone for all tests of this file. They make objects with names of their own in
    /// it, and stop nothing.
    ///
    /// # Panics
    /// As [`Self::start`] does.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<ControlPlane> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(Options::default()))
    }

    fn try_start(options: Options) -> Result<Self> {
        let programs = Programs::find();
        let site = Site::take(options.place.clone())?;
        let scratch = Scratch::new("ptl-control-")?;
        let dir = scratch.path();
        let authority = Authority::new(&dir.join("pki"), "portolan-test")?;
        flags::write_files(&options, &site, &authority, dir)?;
        let etcd = launch(&site, &programs, dir, "etcd", flags::etcd(&site, dir))?;
        let mut plane = Self {
            clients: Vec::new(),
            api_server: Mutex::new(None),
            _etcd: etcd,
            options,
            programs,
            admin: dir.join("admin.kubeconfig"),
            authority,
            kubeconfigs: AtomicU32::new(0),
            site,
            scratch,
        };
        plane.write_kubeconfig(&plane.admin, "admin", &["system:masters"])?;
        plane.try_start_api_server()?;
        plane.startclients()?;
        Ok(plane)
    }

    /// The kubeconfig of one who may do everything.
    #[must_use]
    pub fn admin_kubeconfig(&self) -> &Path {
        &self.admin
    }

    /// The folder with everything of it: `pki/ca.crt`, `pki/ca.key`, the logs.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.scratch.path()
    }

    /// The authority that the API server believes and that has signed its certificate.
    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// `https://` and the API server's address.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{}", self.site.api_server())
    }

    /// Where its etcd listens, without TLS; in its network namespace, where it has one.
    #[must_use]
    pub fn etcd(&self) -> std::net::SocketAddr {
        self.site.private(ETCD)
    }

    /// A new kubeconfig for a client certificate of `user` in `groups`.
    ///
    /// # Panics
    /// When openssl fails.
    #[must_use]
    pub fn kubeconfig_for(&self, user: &str, groups: &[&str]) -> PathBuf {
        let path = self.next_kubeconfig();
        self.write_kubeconfig(&path, user, groups)
            .unwrap_or_else(|error| panic!("no kubeconfig for {user}: {error:#}"));
        path
    }

    /// A new kubeconfig with a token (good for a day) of a ServiceAccount, which must be there.
    ///
    /// # Panics
    /// When the API server gives none.
    #[must_use]
    pub fn service_account_kubeconfig(&self, namespace: &str, name: &str) -> PathBuf {
        self.token_kubeconfig(namespace, name, &[])
    }

    /// The same with a token as a kubelet gets it for a pod, which must be there and bound to a node.
    ///
    /// # Panics
    /// When the API server gives none.
    #[must_use]
    pub fn pod_kubeconfig(&self, namespace: &str, name: &str, pod: &str) -> PathBuf {
        let bound = ["--bound-object-kind=Pod", "--bound-object-name", pod];
        self.token_kubeconfig(namespace, name, &bound)
    }

    fn token_kubeconfig(&self, namespace: &str, name: &str, more: &[&str]) -> PathBuf {
        let args = ["-n", namespace, "create", "token", name, "--duration=24h"];
        let token = self.kubectl(&[&args, more].concat()).trim().to_owned();
        let path = self.next_kubeconfig();
        self.kubeconfig(User::Token(token))
            .write(&path)
            .unwrap_or_else(|error| panic!("no kubeconfig for {namespace}/{name}: {error:#}"));
        path
    }

    /// Runs kubectl as the admin and gives its output.
    ///
    /// # Panics
    /// When it fails.
    pub fn kubectl(&self, args: &[&str]) -> String {
        self.try_kubectl(args)
            .unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// Runs kubectl as the admin and gives its output.
    ///
    /// # Errors
    /// When it fails; the error holds what it said.
    pub fn try_kubectl(&self, args: &[&str]) -> Result<String> {
        self.kubectl_as(&self.admin, args)
    }

    /// Runs kubectl with this kubeconfig and gives its output.
    ///
    /// # Errors
    /// When it fails; the error holds what it said.
    pub fn kubectl_as(&self, kubeconfig: &Path, args: &[&str]) -> Result<String> {
        let mut command = self.kubectl_command(kubeconfig);
        command.args(args);
        kubeconfig::output_of(command, None)
    }

    /// `kubectl apply`, as the admin.
    ///
    /// # Panics
    /// When an object is refused.
    pub fn apply(&self, yaml: &str) {
        self.try_apply(yaml)
            .unwrap_or_else(|error| panic!("{error:#}\n{yaml}"));
    }

    /// `kubectl apply`, as the admin. What kubectl warned of is part of its output.
    ///
    /// # Errors
    /// When an object is refused.
    pub fn try_apply(&self, yaml: &str) -> Result<String> {
        self.kubectl_with(&["apply", "-f", "-"], yaml)
    }

    /// Runs kubectl as the admin with this standard input and gives its output, warnings last.
    ///
    /// # Errors
    /// When it fails; the error holds what it said.
    pub fn kubectl_with(&self, args: &[&str], input: &str) -> Result<String> {
        let mut command = self.kubectl_command(&self.admin);
        command.args(args);
        kubeconfig::output_of(command, Some(input))
    }

    /// Runs the words of a shell as an administrator's machine would, in the folder `dir`: kubectl and the programs of the
    /// folders `path` are found. The answer is what it wrote to both streams, the standard output first.
    ///
    /// # Errors
    /// When a command of it fails, or it takes longer than five minutes.
    pub fn shell(
        &self,
        dir: &Path,
        script: &str,
        path: &[&str],
        variables: &[(&str, &str)],
    ) -> Result<String> {
        let mut command = self.site.command(Path::new("timeout"));
        command.args(["300", "bash", "-euo", "pipefail", "-c", script]);
        let own = self.programs.dir().display();
        let path = format!("{own}:{}:/usr/sbin:/usr/bin:/sbin:/bin", path.join(":"));
        command.current_dir(dir).env("PATH", path);
        command.env("KUBECONFIG", &self.admin).env("HOME", dir);
        command.envs(variables.iter().copied());
        kubeconfig::output_of(command, None)
    }

    /// Installs the definitions of our own kinds, and waits until the API server serves them.
    ///
    /// # Panics
    /// When one is refused.
    pub fn install_crds(&self) {
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": api::crd::crds() });
        self.try_apply(&list.to_string())
            .unwrap_or_else(|error| panic!("{error:#}"));
        self.wait_for_crds();
    }

    /// Installs the definition of ClusterNetworkPolicy, with the fields of its experimental channel, and waits until the
    /// API server serves it.
    ///
    /// # Panics
    /// When it is refused.
    pub fn install_cluster_network_policy(&self) {
        let file = self.programs.path("clusternetworkpolicies.yaml");
        // Too large for the annotation that the usual apply writes.
        let apply = ["apply", "--server-side", "-f"];
        self.kubectl(&[&apply[..], &[&file.to_string_lossy()]].concat());
        self.wait_for_crds();
    }

    fn wait_for_crds(&self) {
        let wait = ["wait", "--for=condition=Established", "--timeout=60s"];
        self.kubectl(&[&wait[..], &["customresourcedefinitions", "--all"]].concat());
    }

    /// Kills the API server; what it stored stays.
    ///
    /// # Panics
    /// When it doesn't run.
    pub fn stop_api_server(&self) {
        let process = self.lock().take();
        let mut process = process.unwrap_or_else(|| panic!("the API server doesn't run"));
        process
            .kill()
            .unwrap_or_else(|error| panic!("the API server: {error:#}"));
    }

    /// Starts it again, with the same data and address, and waits until it is ready.
    ///
    /// # Panics
    /// When it doesn't come up.
    pub fn start_api_server(&self) {
        self.try_start_api_server()
            .unwrap_or_else(|error| panic!("{error:#}"));
    }

    /// Has etcd forget every state but the newest: a watch, or a page, of before is answered with 410 by a server that does
    /// not remember it itself.
    ///
    /// # Panics
    /// When etcd doesn't do so.
    pub fn compact(&self) {
        let ask = |path: &str, body: &Value| -> Result<Value> {
            let mut command = self.site.command(Path::new("curl"));
            let url = format!("http://{}/v3/kv/{path}", self.site.private(ETCD));
            command.args(["-sSf", "--max-time", "30", "-d", &body.to_string(), &url]);
            let answer = kubeconfig::output_of(command, None)?;
            serde_json::from_str(&answer).with_context(|| answer.clone())
        };
        let compacted = ask("range", &json!({ "key": "AA==" })).and_then(|answer| {
            let revision = answer.pointer("/header/revision");
            let revision = revision.with_context(|| answer.to_string())?;
            ask(
                "compaction",
                &json!({ "revision": revision, "physical": true }),
            )
        });
        compacted.unwrap_or_else(|error| panic!("etcd: {error:#}"));
    }

    /// All that the API server has logged.
    #[must_use]
    pub fn api_log(&self) -> String {
        std::fs::read_to_string(self.log("kube-apiserver")).unwrap_or_default()
    }

    /// Every request that the API server has answered so far, oldest first; watches as soon as they began.
    ///
    /// # Panics
    /// When the audit log can't be read.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        requests::read(&flags::audit_log(self.dir()))
            .unwrap_or_else(|error| panic!("the audit log: {error:#}"))
    }

    fn try_start_api_server(&self) -> Result<()> {
        let mut running = self.lock();
        if running.is_some() {
            bail!("the API server runs already");
        }
        let flags = flags::api_server(&self.options, &self.site, self.dir());
        let server = self.launch("kube-apiserver", flags)?;
        let server = running.insert(server);
        eventually(START, "kube-apiserver", || {
            server.check_running()?;
            self.try_kubectl(&["get", "--raw", "/readyz"])?;
            // Its own controllers make it after that.
            self.try_kubectl(&["get", "namespace", "default"])
        })?;
        Ok(())
    }

    fn startclients(&mut self) -> Result<()> {
        if self.options.controller_manager {
            let (user, path) = (
                "kube-controller-manager",
                self.dir().join("manager.kubeconfig"),
            );
            self.write_kubeconfig(&path, &format!("system:{user}"), &[])?;
            let flags = flags::controller_manager(&self.options, &self.site, self.dir(), &path);
            self.clients.push(self.launch(user, flags)?);
        }
        if self.options.scheduler {
            let (user, path) = ("kube-scheduler", self.dir().join("scheduler.kubeconfig"));
            self.write_kubeconfig(&path, &format!("system:{user}"), &[])?;
            let flags = flags::scheduler(&self.site, &path);
            self.clients.push(self.launch(user, flags)?);
        }
        if self.options.controller_manager {
            eventually(START, "kube-controller-manager's first work", || {
                self.try_kubectl(&["-n", "default", "get", "serviceaccount", "default"])
            })?;
        }
        Ok(())
    }

    fn launch(&self, name: &str, flags: Vec<String>) -> Result<Process> {
        launch(&self.site, &self.programs, self.dir(), name, flags)
    }

    fn log(&self, name: &str) -> PathBuf {
        self.dir().join(format!("{name}.log"))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Process>> {
        // A test that panicked with it doesn't hinder the others.
        self.api_server
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// A command that is kubectl with this kubeconfig.
    #[must_use]
    pub fn kubectl_command(&self, kubeconfig: &Path) -> Command {
        let mut command = self.site.command(&self.programs.path("kubectl"));
        command.arg("--kubeconfig").arg(kubeconfig);
        // What it remembers of a server is named by the server's address, which other clusters have, too.
        command.arg("--cache-dir").arg(self.dir().join("kubectl"));
        command
    }

    fn next_kubeconfig(&self) -> PathBuf {
        let number = self.kubeconfigs.fetch_add(1, Ordering::Relaxed);
        self.dir().join(format!("{number}.kubeconfig"))
    }

    fn write_kubeconfig(&self, path: &Path, user: &str, groups: &[&str]) -> Result<()> {
        let identity = self.authority.issue(user, groups, &[])?;
        self.kubeconfig(User::Certificate(identity)).write(path)
    }

    fn kubeconfig(&self, user: User) -> Kubeconfig {
        Kubeconfig {
            server: self.url(),
            authority: self.authority.certificate(),
            user,
        }
    }
}

fn launch(
    site: &Site,
    programs: &Programs,
    dir: &Path,
    name: &str,
    flags: Vec<String>,
) -> Result<Process> {
    let mut command = site.daemon(&programs.path(name));
    command.args(flags);
    let log = dir.join(format!("{name}.log"));
    spawner::start(name, command, &log).with_context(|| name.to_owned())
}
