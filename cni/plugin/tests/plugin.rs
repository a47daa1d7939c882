//! Drives the plugin's binary from outside as a runtime does, with a fake agent that fails in every way.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use cni_spec::socket::{Request, Response, decode_frame, encode_frame};
use cni_spec::{AddResult, CniError, ErrorCode};
use expect_test::{Expect, expect};
use serde_json::{Value, json};

/// What the binary came to: exit code and what it printed.
struct Outcome {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Outcome {
    fn error(&self) -> Value {
        assert_eq!(self.code, 1, "{}", self.stderr);
        serde_json::from_str(&self.stdout).unwrap()
    }
}

fn run(variables: &[(&str, &str)], stdin: &str) -> Outcome {
    let mut child = Command::new(env!("CARGO_BIN_EXE_portolan-cni"))
        .env_clear()
        .envs(variables.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It need not read what it has no use for.
    drop(child.stdin.take().unwrap().write_all(stdin.as_bytes()));
    let output = child.wait_with_output().unwrap();
    Outcome {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

const OWN_NETNS: [(&str, &str); 2] = [
    ("CNI_NETNS", "/proc/self/ns/net"),
    ("CNI_NETNS_OVERRIDE", "1"),
];

fn verb<'a>(command: &'a str, more: &[(&'a str, &'a str)], config: &Value) -> Outcome {
    let mut variables = vec![
        ("CNI_COMMAND", command),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_PATH", "/opt/cni/bin"),
    ];
    variables.extend(more);
    run(&variables, &config.to_string())
}

fn config(folder: &Path) -> Value {
    json!({
        "cniVersion": "1.1.0",
        "name": "portolan",
        "type": "portolan-cni",
        "socket": folder.join("cni.sock"),
        "stateDir": folder.join("state"),
    })
}

/// Takes one request and answers with the bytes given.
fn fake_agent(folder: &Path, answer: Vec<u8>) -> JoinHandle<Request> {
    let listener = UnixListener::bind(folder.join("cni.sock")).unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let request = read_request(&mut stream);
        stream.write_all(&answer).unwrap();
        request
    })
}

fn read_request(stream: &mut UnixStream) -> Request {
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let count = stream.read(&mut buffer).unwrap();
        assert_ne!(count, 0, "the plugin hung up");
        bytes.extend_from_slice(&buffer[..count]);
        if let Some((request, _)) = decode_frame(&bytes).unwrap() {
            return request;
        }
    }
}

fn assert_error(outcome: &Outcome, folder: &Path, expected: &Expect) {
    let text = serde_json::to_string_pretty(&outcome.error()).unwrap();
    expected.assert_eq(&text.replace(folder.to_str().unwrap(), "DIR"));
}

#[test]
fn version_needs_neither_configuration_nor_agent() {
    let outcome = run(&[("CNI_COMMAND", "VERSION")], "not json");
    assert_eq!(outcome.code, 0);
    expect![[r#"
        {"cniVersion":"1.1.0","supportedVersions":["0.1.0","0.2.0","0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}
    "#]]
    .assert_eq(&outcome.stdout);
    assert_eq!(outcome.stderr, "");
}

#[test]
fn version_does_not_wait_for_standard_input_to_end() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_portolan-cni"))
        .env_clear()
        .env("CNI_COMMAND", "VERSION")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let held_open = child.stdin.take();
    let deadline = Instant::now() + Duration::from_secs(10);
    while child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "it waits for standard input");
        thread::sleep(Duration::from_millis(5));
    }
    drop(held_open);
}

#[test]
fn started_by_hand_it_says_what_it_is_on_standard_error() {
    let outcome = run(&[], "");
    assert_eq!((outcome.code, outcome.stdout.as_str()), (0, ""));
    assert!(
        outcome.stderr.contains("0.4.0, 1.0.0, 1.1.0"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn what_is_wrong_with_the_call_is_said_by_its_code() {
    let folder = tempfile::tempdir().unwrap();
    let good = config(folder.path());
    let with = |key: &str, value: Value| {
        let mut config = good.clone();
        config[key] = value;
        config
    };
    let code = |outcome: Outcome| outcome.error()["code"].as_u64().unwrap();
    assert_eq!(code(run(&[("CNI_COMMAND", "MOVE")], "")), 4);
    assert_eq!(code(run(&[("CNI_COMMAND", "ADD")], "")), 4);
    assert_eq!(code(verb("ADD", &OWN_NETNS, &json!("text"))), 6);
    assert_eq!(
        code(verb("ADD", &OWN_NETNS, &with("cniVersion", json!("9.9.9")))),
        1
    );
    assert_eq!(code(verb("ADD", &OWN_NETNS, &with("name", json!("")))), 7);
    assert_eq!(
        code(verb("ADD", &OWN_NETNS, &with("name", json!("a/../b")))),
        7
    );
    assert_eq!(
        code(verb(
            "ADD",
            &OWN_NETNS,
            &with("ipam", json!({"type": "nobody-has-this"}))
        )),
        7
    );
    assert_eq!(
        code(verb(
            "CHECK",
            &OWN_NETNS,
            &with("cniVersion", json!("0.3.1"))
        )),
        1
    );
    assert_eq!(code(verb("CHECK", &OWN_NETNS, &good)), 7);
    assert_eq!(code(verb("GC", &[], &good)), 7);
    assert_eq!(
        code(verb("STATUS", &[], &with("cniVersion", json!("1.0.0")))),
        1
    );
    assert_eq!(code(verb("ADD", &[("CNI_NETNS", "/nowhere")], &good)), 8);
    assert_eq!(
        code(verb("ADD", &[("CNI_NETNS", "/proc/self/ns/net")], &good)),
        8
    );
}

#[test]
fn an_error_is_in_the_version_the_configuration_says_even_when_the_rest_is_wrong() {
    let outcome = verb(
        "ADD",
        &OWN_NETNS,
        &json!({"cniVersion": "0.4.0", "name": "-"}),
    );
    assert_eq!(outcome.error()["cniVersion"], "0.4.0");
}

#[test]
fn add_with_the_agent_away_says_at_once_to_try_again() {
    let folder = tempfile::tempdir().unwrap();
    let started = Instant::now();
    let outcome = verb("ADD", &OWN_NETNS, &config(folder.path()));
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_error(
        &outcome,
        folder.path(),
        &expect![[r#"
            {
              "cniVersion": "1.1.0",
              "code": 11,
              "details": "no answer from the agent on DIR/cni.sock: ENOENT: No such file or directory; see that the portolan agent runs on this node and that `socket` in its CNI configuration is the agent's",
              "msg": "try again later"
            }"#]],
    );
}

#[test]
fn status_with_the_agent_away_is_code_50_and_gc_is_to_be_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    assert_eq!(verb("STATUS", &[], &config).error()["code"], 50);
    config["cni.dev/valid-attachments"] = json!([]);
    assert_eq!(verb("GC", &[], &config).error()["code"], 11);
}

#[test]
fn del_with_the_agent_away_succeeds_and_is_written_down_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    config["prevResult"] = json!({"cniVersion": "1.1.0", "nonsense": true});
    for _ in 0..2 {
        let outcome = verb("DEL", &[("CNI_ARGS", "malformed")], &config);
        assert_eq!(
            (outcome.code, outcome.stdout.as_str()),
            (0, ""),
            "{}",
            outcome.stderr
        );
    }
    let pending = folder.path().join("state/pending-del");
    assert_eq!(
        fs::metadata(&pending).unwrap().permissions().mode() & 0o777,
        0o700
    );
    let files: Vec<_> = fs::read_dir(&pending)
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    assert_eq!(files.len(), 1, "{files:?}");
    assert_eq!(
        fs::metadata(&files[0]).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let request: Request = serde_json::from_slice(&fs::read(&files[0]).unwrap()).unwrap();
    assert_eq!(
        files[0].file_name().unwrap(),
        request.pending_deletion_name().as_str()
    );
    assert_eq!(
        (request.container_id.as_str(), request.interface.as_str()),
        ("c1", "eth0")
    );
    assert_eq!((request.netns, request.config.prev_result), (None, None));
}

#[test]
fn del_that_the_agent_dies_over_is_written_down_too() {
    let folder = tempfile::tempdir().unwrap();
    let agent = fake_agent(folder.path(), Vec::new());
    assert_eq!(verb("DEL", &[], &config(folder.path())).code, 0);
    agent.join().unwrap();
    assert_eq!(
        fs::read_dir(folder.path().join("state/pending-del"))
            .unwrap()
            .count(),
        1
    );
}

#[test]
fn del_that_can_neither_be_done_nor_written_down_fails() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(
        folder.path().join("state"),
        "a file where the folder should be",
    )
    .unwrap();
    assert_eq!(verb("DEL", &[], &config(folder.path())).error()["code"], 11);
}

#[test]
fn del_passes_the_call_on_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let agent = fake_agent(folder.path(), encode_frame(&Response::Done).unwrap());
    let args = [(
        "CNI_ARGS",
        "IgnoreUnknown=1;K8S_POD_NAMESPACE=web;K8S_POD_NAME=a-0;X=1",
    )];
    let outcome = verb("DEL", &args, &config(folder.path()));
    assert_eq!(
        (outcome.code, outcome.stdout.as_str()),
        (0, ""),
        "{}",
        outcome.stderr
    );
    let request = agent.join().unwrap();
    let args: Vec<_> = request
        .args
        .iter()
        .map(|(k, v)| format!("{k}={v}"))
        .collect();
    assert_eq!(args, ["K8S_POD_NAME=a-0", "K8S_POD_NAMESPACE=web"]);
    assert!(!folder.path().join("state").exists());
}

#[test]
fn an_agent_s_error_is_printed_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let error = CniError::new(ErrorCode::LimitedConnectivity, "no pool").details("add a CIDR");
    let agent = fake_agent(
        folder.path(),
        encode_frame(&Response::Error(error)).unwrap(),
    );
    let outcome = verb("STATUS", &[], &config(folder.path()));
    agent.join().unwrap();
    assert_error(
        &outcome,
        folder.path(),
        &expect![[r#"
            {
              "cniVersion": "1.1.0",
              "code": 51,
              "details": "add a CIDR",
              "msg": "no pool"
            }"#]],
    );
}

#[test]
fn garbage_and_another_verb_s_answer_are_errors() {
    for (answer, code) in [
        (b"\xff\xff\xff\xff".to_vec(), 50),
        (b"\0\0\0\x02{}".to_vec(), 50),
        (b"\0\0\0\x02{".to_vec(), 50),
        (
            encode_frame(&Response::Result(AddResult::default())).unwrap(),
            100,
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let agent = fake_agent(folder.path(), answer);
        let outcome = verb("STATUS", &[], &config(folder.path()));
        agent.join().unwrap();
        assert_eq!(outcome.error()["code"], code, "{}", outcome.stdout);
    }
}

#[test]
fn gc_passes_on_exactly_what_is_to_be_kept() {
    let folder = tempfile::tempdir().unwrap();
    let agent = fake_agent(folder.path(), encode_frame(&Response::Done).unwrap());
    let mut config = config(folder.path());
    config["cni.dev/valid-attachments"] = json!([{"containerID": "c2", "ifname": "eth0"}]);
    config["cni.dev/attachments"] = json!([]);
    assert_eq!(verb("GC", &[], &config).code, 0);
    let kept = agent.join().unwrap().config.valid_attachments.unwrap();
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0].container_id, "c2");
}

#[test]
fn semantics_89_standard_input_that_cannot_be_read_is_code_5() {
    let output = Command::new(env!("CARGO_BIN_EXE_portolan-cni"))
        .env_clear()
        .envs([("CNI_COMMAND", "STATUS"), ("CNI_PATH", "/opt/cni/bin")])
        .stdin(fs::File::open("/").unwrap())
        .output()
        .unwrap();
    let error: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &error["code"]), (Some(1), &json!(5)));
}
