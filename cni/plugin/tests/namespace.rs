//! What the plugin does inside a pod's network namespace, in namespaces these tests make: needs root.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]
#![allow(clippy::print_stderr, reason = "a skipped test must be loud")]

use std::fs::{self, File};
use std::io::{IoSliceMut, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use cni_spec::socket::{DESCRIPTORS, Request, Response, decode_frame, encode_frame};
use cni_spec::{AddResult, CniError, ErrorCode, Interface, IpConfig, Route};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recv, recvmsg, send};
use serde_json::{Value, json};

/// Whether namespaces can be made; says so where they cannot, and fails where they must be.
fn can_make_namespaces(test: &str) -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    assert_ne!(
        std::env::var("REQUIRE_NETNS").as_deref(),
        Ok("1"),
        "{test} needs root"
    );
    eprintln!("SKIPPED {test}: it needs root to make network namespaces");
    false
}

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace with a pair of interfaces, `probe0` and `probe1`, and a thread that lives in it.
struct Pod {
    netns: File,
    jobs: SyncSender<Job>,
}

impl Pod {
    fn new() -> Self {
        let (jobs, queue): (SyncSender<Job>, Receiver<Job>) = sync_channel(1);
        let (ready, netns) = sync_channel(1);
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let made = Command::new("ip")
                .args([
                    "link", "add", "probe0", "type", "veth", "peer", "name", "probe1",
                ])
                .status();
            assert!(made.unwrap().success());
            ready
                .send(File::open("/proc/thread-self/ns/net").unwrap())
                .unwrap();
            queue.into_iter().for_each(|job| job());
        });
        Self {
            netns: netns.recv_timeout(Duration::from_secs(10)).unwrap(),
            jobs,
        }
    }

    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.netns.as_raw_fd())
    }

    /// Runs in the namespace.
    fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (answer, result) = sync_channel(1);
        self.jobs
            .send(Box::new(move || answer.send(job()).unwrap()))
            .unwrap();
        result.recv_timeout(Duration::from_secs(10)).unwrap()
    }

    fn sysctl(&self, name: &'static str) -> String {
        self.run(move || fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{name}")).unwrap())
            .trim()
            .to_owned()
    }
}

fn plugin(command: &str, netns: &str, config: &Value) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_portolan-cni"))
        .env_clear()
        .envs([
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", "c1"),
            ("CNI_IFNAME", "eth0"),
        ])
        .envs([("CNI_NETNS", netns), ("CNI_PATH", "/opt/cni/bin")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(config.to_string().as_bytes())
        .unwrap();
    child.wait_with_output().unwrap()
}

fn config(folder: &Path, version: &str) -> Value {
    json!({
        "cniVersion": version,
        "name": "portolan",
        "type": "portolan-cni",
        "socket": folder.join("cni.sock"),
        "dns": {"nameservers": ["10.96.0.10"]},
    })
}

/// Takes one request with its descriptors, does something with them and answers.
fn fake_agent(folder: &Path, answer: Response) -> JoinHandle<(Request, Vec<OwnedFd>)> {
    let listener = UnixListener::bind(folder.join("cni.sock")).unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let received = receive(&stream);
        stream.write_all(&encode_frame(&answer).unwrap()).unwrap();
        received
    })
}

#[expect(
    unsafe_code,
    reason = "descriptors just received belong to nobody else"
)]
fn receive(stream: &UnixStream) -> (Request, Vec<OwnedFd>) {
    let (mut bytes, mut descriptors) = (Vec::new(), Vec::new());
    loop {
        let mut buffer = [0; 512];
        let mut control = nix::cmsg_space!([RawFd; DESCRIPTORS]);
        let mut data = [IoSliceMut::new(&mut buffer)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message =
            recvmsg::<()>(stream.as_raw_fd(), &mut data, Some(&mut control), flags).unwrap();
        assert_ne!(message.bytes, 0, "the plugin hung up");
        for control in message.cmsgs().unwrap() {
            if let ControlMessageOwned::ScmRights(fds) = control {
                assert!(bytes.is_empty(), "descriptors come with the first byte");
                // SAFETY: the kernel has just made these descriptors for this process.
                descriptors.extend(
                    fds.into_iter()
                        .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }),
                );
            }
        }
        let count = message.bytes;
        bytes.extend_from_slice(&buffer[..count]);
        if let Some((request, _)) = decode_frame(&bytes).unwrap() {
            return (request, descriptors);
        }
    }
}

/// Asks a route netlink socket for its namespace's links; the first part of the raw answer.
fn links(netlink: &OwnedFd) -> Vec<u8> {
    const RTM_GETLINK: u16 = 18;
    const NLM_F_REQUEST_DUMP: u16 = 0x301;
    let mut request = Vec::new();
    request.extend_from_slice(&32_u32.to_ne_bytes());
    request.extend_from_slice(&RTM_GETLINK.to_ne_bytes());
    request.extend_from_slice(&NLM_F_REQUEST_DUMP.to_ne_bytes());
    request.resize(32, 0);
    send(netlink.as_raw_fd(), &request, MsgFlags::empty()).unwrap();
    let mut answer = vec![0; 1 << 16];
    let count = recv(netlink.as_raw_fd(), &mut answer, MsgFlags::empty()).unwrap();
    answer.truncate(count);
    answer
}

fn result() -> AddResult {
    AddResult {
        interfaces: vec![
            Interface {
                name: "ptl0123456789a".to_owned(),
                ..Interface::default()
            },
            Interface {
                name: "eth0".to_owned(),
                mac: "02:00:00:00:00:01".to_owned(),
                mtu: Some(1500),
                sandbox: "/run/netns/p".to_owned(),
                ..Interface::default()
            },
        ],
        ips: vec![IpConfig {
            address: "10.244.1.5/32".parse().unwrap(),
            gateway: Some("169.254.1.1".parse().unwrap()),
            interface: Some(1),
        }],
        routes: vec![Route::new(
            "0.0.0.0/0".parse().unwrap(),
            Some("169.254.1.1".parse().unwrap()),
        )],
        ..AddResult::default()
    }
}

#[test]
fn add_passes_the_namespace_and_a_netlink_socket_in_it_and_sets_the_pod_s_sysctls() {
    if !can_make_namespaces("add") {
        return;
    }
    let (folder, pod) = (tempfile::tempdir().unwrap(), Pod::new());
    let agent = fake_agent(folder.path(), Response::Result(result()));
    let output = plugin("ADD", &pod.path(), &config(folder.path(), "0.4.0"));
    let (request, descriptors) = agent.join().unwrap();
    assert!(output.status.success(), "{output:?}");

    assert_eq!(request.netns, Some(pod.path()));
    let [netns, netlink] = <[OwnedFd; DESCRIPTORS]>::try_from(descriptors).unwrap();
    let inode = |file: &File| file.metadata().unwrap().ino();
    assert_eq!(inode(&File::from(netns)), inode(&pod.netns));
    let links = links(&netlink);
    assert!(
        links.windows(5).any(|name| name == b"probe"),
        "no link of the pod is seen"
    );
    for name in [
        "default/accept_dad",
        "default/accept_ra",
        "all/accept_ra",
        "all/disable_ipv6",
    ] {
        assert_eq!(pod.sysctl(name), "0", "{name}");
    }

    let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(printed["cniVersion"], "0.4.0");
    assert_eq!(printed["ips"][0]["version"], "4");
    assert_eq!(printed["interfaces"][1].get("mtu"), None);
    assert_eq!(printed["dns"], json!({"nameservers": ["10.96.0.10"]}));
}

#[test]
fn check_passes_the_descriptors_and_changes_nothing_in_the_pod() {
    if !can_make_namespaces("check") {
        return;
    }
    let (folder, pod) = (tempfile::tempdir().unwrap(), Pod::new());
    pod.run(|| fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "1").unwrap());
    let agent = fake_agent(folder.path(), Response::Done);
    let mut config = config(folder.path(), "0.4.0");
    config["prevResult"] = result().to_json("0.4.0".parse().unwrap()).unwrap();
    let output = plugin("CHECK", &pod.path(), &config);
    let (request, descriptors) = agent.join().unwrap();
    assert!(
        output.status.success() && output.stdout.is_empty(),
        "{output:?}"
    );
    assert_eq!(descriptors.len(), DESCRIPTORS);
    let previous = request.config.previous_result().unwrap().unwrap();
    assert_eq!(previous.ips, result().ips);
    assert_eq!(pod.sysctl("default/accept_dad"), "1");
}

#[test]
fn add_with_the_agent_away_leaves_the_pod_s_sysctls_alone() {
    if !can_make_namespaces("agent away") {
        return;
    }
    let (folder, pod) = (tempfile::tempdir().unwrap(), Pod::new());
    let before = pod.sysctl("default/accept_dad");
    let output = plugin("ADD", &pod.path(), &config(folder.path(), "1.0.0"));
    let error: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (output.status.code(), &error["code"]),
        (Some(1), &json!(11))
    );
    assert_eq!(pod.sysctl("default/accept_dad"), before);
}

#[test]
fn an_agent_s_refusal_and_a_death_in_the_middle_fail_the_add() {
    if !can_make_namespaces("refusal") {
        return;
    }
    let pod = Pod::new();
    let folder = tempfile::tempdir().unwrap();
    let refusal = CniError::new(ErrorCode::Failed, "eth0 exists");
    let agent = fake_agent(folder.path(), Response::Error(refusal));
    let output = plugin("ADD", &pod.path(), &config(folder.path(), "1.1.0"));
    agent.join().unwrap();
    let error: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        error,
        json!({"cniVersion": "1.1.0", "code": 100, "msg": "eth0 exists"})
    );

    let folder = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(folder.path().join("cni.sock")).unwrap();
    let dying = thread::spawn(move || drop(receive(&listener.accept().unwrap().0)));
    let output = plugin("ADD", &pod.path(), &config(folder.path(), "1.1.0"));
    dying.join().unwrap();
    let error: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (output.status.code(), &error["code"]),
        (Some(1), &json!(11))
    );
}

#[test]
fn a_file_that_is_no_network_namespace_is_code_8() {
    if !can_make_namespaces("no namespace") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let _listener = UnixListener::bind(folder.path().join("cni.sock")).unwrap();
    for path in ["/proc/self/status", "/proc/self/ns/uts"] {
        let output = plugin("ADD", path, &config(folder.path(), "1.0.0"));
        let error: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(
            (output.status.code(), &error["code"]),
            (Some(1), &json!(8)),
            "{error}"
        );
    }
}
