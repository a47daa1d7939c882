//! The plugin with an IPAM plugin named in its configuration: a script that notes what it was given, and fails in every way.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]
#![allow(clippy::print_stderr, reason = "a skipped test must be loud")]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use cni_spec::socket::{Request, Response, decode_frame, encode_frame};
use cni_spec::{AddResult, CniError, ErrorCode, IpConfig};
use serde_json::{Value, json};

/// Notes verb, namespace, environment and standard input; prints the file of its verb, and fails where one says so.
const SCRIPT: &str = r#"#!/bin/sh
dir=$(dirname "$0")
n=$(ls "$dir" | grep -c '^call')
cat > "$dir/call$n"
{ echo "$CNI_COMMAND"; readlink /proc/self/ns/net; echo "$CNI_CONTAINERID $CNI_IFNAME $CNI_ARGS $CNI_PATH $OTHER"; } > "$dir/env$n"
echo "said $CNI_COMMAND" >&2
[ ! -f "$dir/$CNI_COMMAND" ] || cat "$dir/$CNI_COMMAND"
[ ! -f "$dir/$CNI_COMMAND.fails" ]
"#;

/// A folder with an IPAM plugin, a socket and a state folder.
struct Stage {
    folder: tempfile::TempDir,
}

impl Stage {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let stage = Self { folder };
        fs::create_dir(stage.ipam()).unwrap();
        let program = stage.ipam().join("fake-ipam");
        fs::write(&program, SCRIPT).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        stage.say(
            "ADD",
            r#"{"cniVersion":"1.1.0","ips":[{"address":"10.9.0.7/24"}]}"#,
        );
        stage
    }

    fn ipam(&self) -> PathBuf {
        self.folder.path().join("ipam")
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn say(&self, verb: &str, text: &str) {
        fs::write(self.ipam().join(verb), text).unwrap();
    }

    fn fail(&self, verb: &str, text: &str) {
        self.say(verb, text);
        self.say(&format!("{verb}.fails"), "");
    }

    /// The verbs it was started with, each in the namespace of this test.
    fn verbs(&self) -> Vec<String> {
        let home = fs::read_link("/proc/thread-self/ns/net").unwrap();
        (0..)
            .map_while(|n| fs::read_to_string(self.ipam().join(format!("env{n}"))).ok())
            .map(|text| {
                let lines: Vec<&str> = text.lines().collect();
                assert_eq!(
                    Path::new(lines[1]),
                    home,
                    "an IPAM plugin belongs on the host"
                );
                lines[0].to_owned()
            })
            .collect()
    }

    fn config(&self) -> Value {
        json!({
            "cniVersion": "1.1.0", "name": "n", "type": "portolan-cni",
            "socket": self.path().join("cni.sock"), "stateDir": self.path().join("state"),
            "ipam": {"type": "fake-ipam", "ranges": [[{"subnet": "10.9.0.0/24"}]]},
            "ours": {"or": "not"},
        })
    }

    fn run(&self, verb: &str, config: &Value) -> Output {
        self.run_in("/proc/self/ns/net", verb, &config.to_string())
    }

    fn run_in(&self, netns: &str, verb: &str, config: &str) -> Output {
        let search = format!("/nowhere:{}", self.ipam().display());
        let mut child = Command::new(env!("CARGO_BIN_EXE_portolan-cni"))
            .env_clear()
            .envs([
                ("CNI_COMMAND", verb),
                ("CNI_CONTAINERID", "c1"),
                ("CNI_IFNAME", "ptest0"),
                ("CNI_NETNS", netns),
                ("CNI_NETNS_OVERRIDE", "1"),
                ("CNI_ARGS", "IgnoreUnknown=1;X=y"),
                ("CNI_PATH", &search),
                ("OTHER", "kept"),
                ("PATH", "/usr/bin:/bin"),
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(config.as_bytes()).unwrap();
        drop(stdin);
        child.wait_with_output().unwrap()
    }

    /// Answers as many requests as there are answers, each on a connection of its own.
    fn agent(&self, answers: Vec<Response>) -> JoinHandle<Vec<Request>> {
        let listener = UnixListener::bind(self.path().join("cni.sock")).unwrap();
        thread::spawn(move || {
            let serve = |answer: Response| {
                let (mut stream, _) = listener.accept().unwrap();
                let request = read_request(&mut stream)?;
                stream.write_all(&encode_frame(&answer).unwrap()).unwrap();
                Some(request)
            };
            answers.into_iter().filter_map(serve).collect()
        })
    }
}

/// `None` when the plugin hangs up without a request.
fn read_request(stream: &mut UnixStream) -> Option<Request> {
    let patience = Some(Duration::from_secs(10));
    stream.set_read_timeout(patience).unwrap();
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let count = stream.read(&mut buffer).unwrap();
        if count == 0 {
            return None;
        }
        bytes.extend_from_slice(&buffer[..count]);
        if let Some((request, _)) = decode_frame(&bytes).unwrap() {
            return Some(request);
        }
    }
}

fn attached() -> Response {
    Response::Result(AddResult {
        ips: vec![IpConfig {
            address: "10.9.0.7/32".parse().unwrap(),
            gateway: None,
            interface: None,
        }],
        ..AddResult::default()
    })
}

fn error(output: &Output) -> Value {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn refused() -> Response {
    Response::Error(CniError::new(ErrorCode::Failed, "no").details("the agent's"))
}

/// ADD enters the container's namespace, which takes root even where it is one's own.
fn is_root(test: &str) -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    let must = std::env::var("REQUIRE_NETNS").as_deref() == Ok("1");
    assert!(is_root || !must, "{test} needs root");
    if !is_root {
        eprintln!("SKIPPED {test}: it needs root to enter network namespaces");
    }
    is_root
}

#[test]
fn semantics_108_add_is_delegated_with_the_same_environment_and_the_whole_configuration() {
    if !is_root("delegated ADD") {
        return;
    }
    let stage = Stage::new();
    let agent = stage.agent(vec![attached()]);
    // As no writer of ours would put it: what arrives must be these very bytes.
    let config = stage
        .config()
        .to_string()
        .replace(r#""name""#, "\n \"name\"  ");
    let output = stage.run_in("/proc/self/ns/net", "ADD", &config);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(stage.verbs(), ["ADD"]);
    let given = fs::read_to_string(stage.ipam().join("call0")).unwrap();
    assert_eq!(given, config);
    let environment = fs::read_to_string(stage.ipam().join("env0")).unwrap();
    let search = format!("/nowhere:{}", stage.ipam().display());
    let expected = format!("c1 ptest0 IgnoreUnknown=1;X=y {search} kept");
    assert_eq!(environment.lines().nth(2), Some(expected.as_str()));
    assert!(String::from_utf8_lossy(&output.stderr).contains("said ADD"));
    let requests = agent.join().unwrap();
    let delegated = requests[0].delegated.clone().unwrap();
    assert_eq!(delegated.ips[0].address.to_string(), "10.9.0.7/24");
}

#[test]
fn semantics_108_an_ipam_result_of_every_version_is_read() {
    if !is_root("delegated ADD of every version") {
        return;
    }
    for (version, said) in [
        (
            "0.1.0",
            r#"{"ip4":{"ip":"10.9.0.7/24","routes":[{"dst":"0.0.0.0/0"}]}}"#,
        ),
        (
            "0.2.0",
            r#"{"cniVersion":"0.2.0","ip4":{"ip":"10.9.0.7/24"},"dns":{}}"#,
        ),
        (
            "0.3.0",
            r#"{"cniVersion":"0.3.0","ips":[{"version":"4","address":"10.9.0.7/24"}],"dns":{}}"#,
        ),
        (
            "0.3.1",
            r#"{"cniVersion":"0.3.1","ips":[{"version":"4","address":"10.9.0.7/24"}],"dns":{}}"#,
        ),
        (
            "0.4.0",
            r#"{"cniVersion":"0.4.0","ips":[{"version":"4","address":"10.9.0.7/24"}],"dns":{}}"#,
        ),
        (
            "1.0.0",
            r#"{"cniVersion":"1.0.0","ips":[{"address":"10.9.0.7/24"}],"dns":{}}"#,
        ),
        (
            "1.1.0",
            r#"{"cniVersion":"1.1.0","ips":[{"address":"10.9.0.7/24"}],"routes":[{"dst":"::/0","mtu":1400}]}"#,
        ),
    ] {
        let stage = Stage::new();
        stage.say("ADD", said);
        let agent = stage.agent(vec![attached()]);
        let mut config = stage.config();
        config["cniVersion"] = json!(version);
        let output = stage.run("ADD", &config);
        assert!(output.status.success(), "{version}: {output:?}");
        let requests = agent.join().unwrap();
        let delegated = requests[0].delegated.clone().unwrap();
        assert_eq!(
            delegated.ips[0].address.to_string(),
            "10.9.0.7/24",
            "{version}"
        );
    }
}

#[test]
fn semantics_93_an_add_that_fails_after_the_ipam_plugin_gave_has_it_given_back() {
    if !is_root("delegated rollback") {
        return;
    }
    let stage = Stage::new();
    let agent = stage.agent(vec![refused()]);
    let config = stage.config();
    assert_eq!(error(&stage.run("ADD", &config))["msg"], "no");
    agent.join().unwrap();
    assert_eq!(stage.verbs(), ["ADD", "DEL"]);
    let given = |n: usize| fs::read_to_string(stage.ipam().join(format!("call{n}"))).unwrap();
    assert_eq!(given(1), given(0));
}

#[test]
fn semantics_93_an_add_that_the_agent_dies_over_has_the_address_given_back() {
    if !is_root("delegated rollback") {
        return;
    }
    let stage = Stage::new();
    let listener = UnixListener::bind(stage.path().join("cni.sock")).unwrap();
    let dying = thread::spawn(move || drop(read_request(&mut listener.accept().unwrap().0)));
    assert_eq!(error(&stage.run("ADD", &stage.config()))["code"], 11);
    dying.join().unwrap();
    assert_eq!(stage.verbs(), ["ADD", "DEL"]);
}

#[test]
fn semantics_108_an_ipam_plugin_that_fails_is_passed_on_and_given_a_del() {
    if !is_root("failing IPAM plugin") {
        return;
    }
    for (said, code) in [
        (
            r#"{"cniVersion":"1.1.0","code":11,"msg":"full","details":"later"}"#,
            11,
        ),
        ("no JSON", 100),
        ("", 100),
    ] {
        let stage = Stage::new();
        let agent = stage.agent(vec![attached()]);
        stage.fail("ADD", said);
        let error = error(&stage.run("ADD", &stage.config()));
        assert_eq!(error["code"], code, "{error}");
        assert_eq!(stage.verbs(), ["ADD", "DEL"]);
        assert!(agent.join().unwrap().is_empty(), "the agent was asked");
        if code == 11 {
            assert_eq!(
                (&error["msg"], &error["details"]),
                (&json!("full"), &json!("later"))
            );
        }
    }
}

#[test]
fn an_ipam_plugin_that_says_nothing_of_use_fails_the_add_and_is_given_a_del() {
    if !is_root("useless IPAM plugin") {
        return;
    }
    for (said, code) in [
        ("", 6),
        ("[]", 6),
        (r#"{"cniVersion":"1.1.0"}"#, 100),
        (r#"{"cniVersion":"9.0.0","ips":[]}"#, 1),
        (
            r#"{"cniVersion":"1.1.0","ips":[{"address":"10.9.0.7"}]}"#,
            6,
        ),
    ] {
        let stage = Stage::new();
        let agent = stage.agent(vec![attached()]);
        stage.say("ADD", said);
        let error = error(&stage.run("ADD", &stage.config()));
        assert_eq!(error["code"], code, "{error}");
        assert_eq!(stage.verbs(), ["ADD", "DEL"]);
        agent.join().unwrap();
    }
}

#[test]
fn semantics_92_no_address_is_asked_for_where_the_interface_is_already() {
    if !is_root("an interface that is there") {
        return;
    }
    let stage = Stage::new();
    let agent = stage.agent(vec![attached()]);
    let mut child = Command::new("unshare")
        .args([
            "--net",
            "sh",
            "-c",
            "ip link add ptest0 type veth peer name ptest1; echo; exec sleep 60",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    let netns = format!("/proc/{}/ns/net", child.id());
    let output = stage.run_in(&netns, "ADD", &stage.config().to_string());
    child.kill().unwrap();
    child.wait().unwrap();
    let error = error(&output);
    assert_eq!(
        (&error["code"], &error["msg"]),
        (&json!(100), &json!("the interface exists"))
    );
    assert_eq!(stage.verbs(), Vec::<String>::new());
    agent.join().unwrap();
}

#[test]
fn add_with_the_agent_away_does_not_start_the_ipam_plugin() {
    let stage = Stage::new();
    assert_eq!(error(&stage.run("ADD", &stage.config()))["code"], 11);
    assert_eq!(stage.verbs(), Vec::<String>::new());
}

#[test]
fn semantics_108_del_check_and_gc_are_delegated_after_our_own_part() {
    for (verb, code) in [
        ("DEL", None),
        ("GC", None),
        ("DEL", Some(11)),
        ("GC", Some(5)),
    ] {
        let stage = Stage::new();
        let agent = stage.agent(vec![Response::Done]);
        let mut config = stage.config();
        config["cni.dev/valid-attachments"] = json!([]);
        if let Some(code) = code {
            stage.fail(verb, &json!({"code": code, "msg": "not now"}).to_string());
        }
        let output = stage.run(verb, &config);
        assert_eq!(stage.verbs(), [verb]);
        assert_eq!(agent.join().unwrap().len(), 1);
        match code {
            None => assert!(
                output.status.success() && output.stdout.is_empty(),
                "{output:?}"
            ),
            Some(code) => assert_eq!(error(&output)["code"], code),
        }
    }
}

#[test]
fn semantics_108_check_is_delegated_and_both_failures_are_told() {
    if !is_root("delegated CHECK") {
        return;
    }
    let stage = Stage::new();
    let agent = stage.agent(vec![refused()]);
    stage.fail("CHECK", r#"{"code":102,"msg":"not held"}"#);
    let mut config = stage.config();
    config["prevResult"] = json!({"cniVersion": "1.1.0"});
    let error = error(&stage.run("CHECK", &config));
    assert_eq!((&error["code"], &error["msg"]), (&json!(100), &json!("no")));
    let details = error["details"].as_str().unwrap();
    assert!(
        details.contains("the agent's") && details.contains("not held"),
        "{details}"
    );
    assert_eq!(agent.join().unwrap().len(), 1);
    assert_eq!(stage.verbs(), ["CHECK"]);
}

#[test]
fn semantics_98_gc_of_the_ipam_plugin_goes_on_when_ours_fails_and_both_are_told() {
    let stage = Stage::new();
    stage.fail("GC", r#"{"code":102,"msg":"its own"}"#);
    let mut config = stage.config();
    config["cni.dev/valid-attachments"] = json!([]);
    // No agent at all.
    let error = error(&stage.run("GC", &config));
    assert_eq!(error["code"], 11);
    assert!(
        error["details"].as_str().unwrap().contains("its own"),
        "{error}"
    );
    assert_eq!(stage.verbs(), ["GC"]);
}

#[test]
fn semantics_108_del_with_the_agent_away_is_written_down_and_delegated_all_the_same() {
    let stage = Stage::new();
    let gone = stage.path().join("gone").display().to_string();
    let config = stage.config().to_string();
    let output = stage.run_in(&gone, "DEL", &config);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(stage.verbs(), ["DEL"]);
    let pending = stage.path().join("state/pending-del");
    assert_eq!(fs::read_dir(&pending).unwrap().count(), 1);
    // Its failure is ours, so that the runtime comes again; what is ours stays written down.
    stage.fail("DEL", r#"{"code":11,"msg":"the daemon is away"}"#);
    let error = error(&stage.run_in("", "DEL", &config));
    assert_eq!(error["msg"], "the daemon is away");
    assert_eq!(fs::read_dir(&pending).unwrap().count(), 1);
}

#[test]
fn semantics_100_status_of_the_ipam_plugin_is_passed_on() {
    let stage = Stage::new();
    stage.fail("STATUS", r#"{"code":51,"msg":"no lease"}"#);
    let agent = stage.agent(vec![Response::Done]);
    assert_eq!(error(&stage.run("STATUS", &stage.config()))["code"], 51);
    agent.join().unwrap();

    let stage = Stage::new();
    fs::remove_file(stage.ipam().join("fake-ipam")).unwrap();
    let agent = stage.agent(vec![Response::Done]);
    let error = error(&stage.run("STATUS", &stage.config()));
    agent.join().unwrap();
    assert_eq!(
        (&error["code"], &error["msg"]),
        (&json!(50), &json!("the IPAM plugin is missing"))
    );
}

#[test]
fn a_missing_ipam_plugin_is_named_and_never_said_in_words_that_containerd_takes_for_done() {
    let stage = Stage::new();
    fs::remove_file(stage.ipam().join("fake-ipam")).unwrap();
    for verb in ["ADD", "DEL"] {
        let output = stage.run(verb, &stage.config());
        let text = error(&output).to_string();
        assert_eq!(error(&output)["code"], 7, "{text}");
        assert!(
            text.contains("fake-ipam is in none of the folders"),
            "{text}"
        );
        assert!(
            !text.contains("not found") && !text.contains("No such file"),
            "{text}"
        );
    }
}

#[test]
fn a_name_that_leads_elsewhere_or_to_ourselves_is_no_ipam_plugin() {
    for name in ["../fake-ipam", "/bin/true", "..", "portolan-cni"] {
        let stage = Stage::new();
        let mut config = stage.config();
        config["ipam"] = json!({"type": name});
        for verb in ["ADD", "DEL"] {
            let error = error(&stage.run(verb, &config));
            assert_eq!(
                (&error["code"], &error["msg"]),
                (&json!(7), &json!("invalid ipam.type"))
            );
        }
        assert_eq!(stage.verbs(), Vec::<String>::new());
    }
}
