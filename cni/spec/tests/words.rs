//! Tables of what is read from a runtime and what is refused with which code, and the frames of plugin and agent.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::collections::BTreeMap;

use cni_spec::socket::{MAX_FRAME, Request, Response, decode_frame, encode_frame};
use cni_spec::{
    AddResult, CniError, CniVersion, Command, Environment, ErrorCode, Interface, Invocation,
    NetworkConfig,
};
use expect_test::expect;
use serde_json::{Value, json};

#[test]
fn error_codes_are_the_specification_s() {
    let codes = [
        ErrorCode::IncompatibleVersion,
        ErrorCode::UnsupportedField,
        ErrorCode::UnknownContainer,
        ErrorCode::InvalidEnvironment,
        ErrorCode::Io,
        ErrorCode::Decoding,
        ErrorCode::InvalidConfig,
        ErrorCode::InvalidNetns,
        ErrorCode::TryAgainLater,
        ErrorCode::NotAvailable,
        ErrorCode::LimitedConnectivity,
    ];
    assert_eq!(
        codes.map(|code| code as u32),
        [1, 2, 3, 4, 5, 6, 7, 8, 11, 50, 51]
    );
    let error = CniError::new(ErrorCode::TryAgainLater, "try again later");
    expect![[r#"{"cniVersion":"0.4.0","code":11,"msg":"try again later"}"#]]
        .assert_eq(&error.to_json(CniVersion::V0_4_0).to_string());
    expect!["try again later: soon (CNI error 11)"].assert_eq(&error.details("soon").to_string());
}

fn environment(changes: &[(&str, &str)]) -> Result<Environment, CniError> {
    let mut variables: BTreeMap<String, String> = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_NETNS", "/run/netns/p"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_PATH", "/opt/cni/bin"),
    ]
    .into_iter()
    .chain(changes.iter().copied())
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect();
    variables.retain(|_, value| value != "unset");
    Environment::parse(&variables)
}

fn invocation(changes: &[(&str, &str)]) -> Invocation {
    match environment(changes).unwrap() {
        Environment::Invocation(invocation) => invocation,
        other => panic!("{other:?}"),
    }
}

fn refusal(changes: &[(&str, &str)]) -> String {
    let error = environment(changes).unwrap_err();
    assert_eq!(error.code, 4);
    error.to_string()
}

#[test]
fn the_environment_is_refused_with_what_is_wrong_in_it() {
    let table = [
        refusal(&[("CNI_COMMAND", "add")]),
        refusal(&[("CNI_NETNS", ""), ("CNI_PATH", "unset")]),
        refusal(&[("CNI_COMMAND", "CHECK"), ("CNI_NETNS", "unset")]),
        refusal(&[("CNI_COMMAND", "DEL"), ("CNI_CONTAINERID", "unset")]),
        refusal(&[("CNI_COMMAND", "GC"), ("CNI_PATH", "unset")]),
        refusal(&[("CNI_CONTAINERID", "-a")]),
        refusal(&[("CNI_CONTAINERID", "a/../b")]),
        refusal(&[("CNI_IFNAME", "sixteen-letters-")]),
        refusal(&[("CNI_ARGS", "K8S_POD_NAME")]),
        refusal(&[("CNI_ARGS", "K8S_POD_NAME=a;FOO=1")]),
        refusal(&[("CNI_ARGS", "IgnoreUnknown=maybe")]),
        refusal(&[("CNI_ARGS", "K8S_POD_NAMESPACE=../etc")]),
        refusal(&[("CNI_ARGS", "K8S_POD_NAME=a\"\n-A INPUT")]),
    ];
    expect![[r#"
        unknown CNI_COMMAND "add" (CNI error 4)
        required env variables missing: ADD needs CNI_NETNS, CNI_PATH (CNI error 4)
        required env variables missing: CHECK needs CNI_NETNS (CNI error 4)
        required env variables missing: DEL needs CNI_CONTAINERID (CNI error 4)
        required env variables missing: GC needs CNI_PATH (CNI error 4)
        invalid CNI_CONTAINERID: "-a" is not of [a-zA-Z0-9][a-zA-Z0-9_.-]* (CNI error 4)
        invalid CNI_CONTAINERID: "a/../b" is not of [a-zA-Z0-9][a-zA-Z0-9_.-]* (CNI error 4)
        invalid CNI_IFNAME: "sixteen-letters-" is not an interface name: 1 to 15 bytes, not . or .., without / : % and spaces (CNI error 4)
        invalid CNI_ARGS: "K8S_POD_NAME" is not of the form KEY=VALUE (CNI error 4)
        unknown key in CNI_ARGS: "FOO": set IgnoreUnknown=1 to have it ignored (CNI error 4)
        invalid CNI_ARGS: IgnoreUnknown cannot be "maybe" (CNI error 4)
        invalid value in CNI_ARGS: K8S_POD_NAMESPACE cannot be "../etc" (CNI error 4)
        invalid value in CNI_ARGS: K8S_POD_NAME cannot be "a\"\n-A INPUT" (CNI error 4)"#]].assert_eq(&table.join("\n"));
    for name in ["", ".", "..", "a/b", "a:b", "a b", "a\tb", "eth%d", "a\nb"] {
        refusal(&[("CNI_IFNAME", name)]);
    }
}

#[test]
fn the_environment_is_read_as_each_verb_needs_it() {
    assert_eq!(
        environment(&[("CNI_COMMAND", "unset")]),
        Ok(Environment::NoCommand)
    );
    assert_eq!(
        Environment::parse(&BTreeMap::from([(
            "CNI_COMMAND".to_owned(),
            "VERSION".to_owned()
        )])),
        Ok(Environment::Version)
    );

    let add = invocation(&[
        (
            "CNI_ARGS",
            "IgnoreUnknown=TRUE;K8S_POD_NAMESPACE=web;K8S_POD_NAME=a.b-0;K8S_POD_UID=;FOO=x",
        ),
        ("CNI_NETNS_OVERRIDE", "true"),
    ]);
    assert_eq!(add.command, Command::Add);
    assert_eq!(add.netns.as_deref(), Some("/run/netns/p"));
    assert_eq!(
        json!(add.args),
        json!({"K8S_POD_NAMESPACE": "web", "K8S_POD_NAME": "a.b-0"})
    );
    assert!(add.netns_override);

    let del = invocation(&[
        ("CNI_COMMAND", "DEL"),
        ("CNI_NETNS", ""),
        ("CNI_ARGS", "nonsense"),
    ]);
    assert_eq!(
        (del.netns, del.args.len(), del.netns_override),
        (None, 0, false)
    );

    let gc = invocation(&[
        ("CNI_COMMAND", "GC"),
        ("CNI_CONTAINERID", "-"),
        ("CNI_IFNAME", "unset"),
    ]);
    assert_eq!((gc.container_id.as_str(), gc.interface.as_str()), ("", ""));
}

fn config(changes: Value) -> Result<NetworkConfig, CniError> {
    let mut config = json!({"cniVersion": "1.1.0", "name": "portolan", "type": "portolan-cni"});
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    NetworkConfig::parse(config.to_string().as_bytes())
}

#[test]
fn a_configuration_is_read_with_its_defaults_and_unknown_keys_ignored() {
    let plain = config(json!({"mtu": 1500, "ipam": {}, "prevResult": null})).unwrap();
    assert_eq!(plain.socket, "/run/portolan/cni.sock");
    assert_eq!(plain.state_dir, "/var/lib/portolan");
    assert_eq!(
        (&plain.prev_result, &plain.valid_attachments),
        (&None, &None)
    );
    plain.check_command(Command::Add).unwrap();
    let old = NetworkConfig::parse(br#"{"name":"n"}"#).unwrap();
    assert_eq!(old.cni_version, CniVersion::V0_1_0);

    let legacy = json!([{"containerID": "a", "ifname": "eth0"}]);
    let both = config(json!({"cni.dev/attachments": legacy, "cni.dev/valid-attachments": []}));
    assert_eq!(both.unwrap().valid_attachments, Some(Vec::new()));
    let only_legacy = config(json!({"cni.dev/attachments": legacy})).unwrap();
    assert_eq!(only_legacy.valid_attachments.unwrap().len(), 1);
}

#[test]
fn a_configuration_is_refused_by_code() {
    let code = |changes: Value| config(changes).unwrap_err().code;
    assert_eq!(NetworkConfig::parse(b"{").unwrap_err().code, 6);
    assert_eq!(code(json!({"name": 5})), 6);
    assert_eq!(code(json!({"cniVersion": "1.1"})), 1);
    assert_eq!(code(json!({"name": ""})), 7);
    assert_eq!(code(json!({"name": ".."})), 7);
    assert_eq!(code(json!({"socket": "relative.sock"})), 7);
    assert_eq!(code(json!({"stateDir": "../up"})), 7);
}

#[test]
fn verbs_need_their_version_and_their_keys() {
    let code = |changes: Value, verb| {
        config(changes)
            .unwrap()
            .check_command(verb)
            .err()
            .map(|e| e.code)
    };
    let result = json!({"cniVersion": "1.0.0"});
    assert_eq!(
        code(
            json!({"cniVersion": "0.3.1", "prevResult": result}),
            Command::Check
        ),
        Some(1)
    );
    assert_eq!(
        code(
            json!({"cniVersion": "0.4.0", "prevResult": result}),
            Command::Check
        ),
        None
    );
    assert_eq!(code(json!({}), Command::Check), Some(7));
    assert_eq!(code(json!({"cniVersion": "1.0.0"}), Command::Gc), Some(1));
    assert_eq!(code(json!({}), Command::Gc), Some(7));
    assert_eq!(
        code(json!({"cni.dev/valid-attachments": []}), Command::Gc),
        None
    );
    assert_eq!(code(json!({}), Command::Status), None);
    for (name, expected) in [
        ("host-local", None),
        ("", None),
        ("a/b", Some(7)),
        ("..", Some(7)),
    ] {
        let ipam = json!({"ipam": {"type": name}});
        assert_eq!(code(ipam.clone(), Command::Add), expected, "{name:?}");
        assert_eq!(code(ipam, Command::Del), None);
    }
}

#[test]
fn requested_addresses_come_with_and_without_a_prefix_length() {
    let ips = |changes: Value| config(changes).unwrap().requested_ips();
    assert_eq!(ips(json!({})).unwrap().len(), 0);
    let asked = ips(json!({"runtimeConfig": {"ips": ["10.0.0.5/24", "fd00::5"]}})).unwrap();
    assert_eq!(
        asked.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["10.0.0.5", "fd00::5"]
    );
    assert_eq!(
        ips(json!({"args": {"cni": {"ips": ["10.0.0.6"]}}}))
            .unwrap()
            .len(),
        1
    );
    assert_eq!(
        ips(json!({"runtimeConfig": {"ips": "10.0.0.5"}}))
            .unwrap_err()
            .code,
        7
    );
    assert_eq!(
        ips(json!({"runtimeConfig": {"ips": ["10.0.0.5", 7]}}))
            .unwrap_err()
            .code,
        7
    );
}

fn request() -> Request {
    let changes = json!({
        "prevResult": {"ips": []},
        "runtimeConfig": {"mac": "02:00:00:00:00:01"},
        "args": {"cni": {}},
        "dns": {"search": ["a.b"]},
        "ipam": {"type": "x"},
        "capabilities": {"ips": true},
        "cni.dev/valid-attachments": [{"containerID": "a", "ifname": "eth0"}],
    });
    Request::new(
        invocation(&[("CNI_ARGS", "K8S_POD_NAME=a")]),
        config(changes).unwrap(),
    )
}

#[test]
fn requests_and_responses_come_back_from_their_frames() {
    let frame = encode_frame(&request()).unwrap();
    assert_eq!(
        decode_frame(&frame).unwrap(),
        Some((request(), frame.len()))
    );
    let error = CniError::new(ErrorCode::InvalidNetns, "no").details("why");
    let interface = Interface {
        name: "eth0".to_owned(),
        mtu: Some(1500),
        ..Interface::default()
    };
    let result = AddResult {
        interfaces: vec![interface],
        ..AddResult::default()
    };
    for response in [
        Response::Result(result),
        Response::Done,
        Response::Error(error),
    ] {
        let frame = encode_frame(&response).unwrap();
        assert_eq!(decode_frame(&frame).unwrap(), Some((response, frame.len())));
    }
}

#[test]
fn the_agent_refuses_what_the_plugin_would_not_have_sent() {
    let good = serde_json::to_value(request()).unwrap();
    let refused = |pointer: &str, value: Value| {
        let mut request = good.clone();
        *request.pointer_mut(pointer).unwrap() = value;
        let frame = encode_frame(&request).unwrap();
        assert!(decode_frame::<Request>(&frame).is_err(), "{pointer}");
    };
    refused("/containerId", json!("../x"));
    refused("/containerId", json!(""));
    refused("/interface", json!("eth0\n"));
    refused("/args/K8S_POD_NAME", json!("a b"));
    refused("/args", json!({"OTHER": "1"}));
    refused("/config/name", json!("a\"b"));
    refused("/config/cniVersion", json!("3"));
    refused("/command", json!("VERSION"));
}

#[test]
fn a_frame_too_long_is_refused_before_it_is_read_and_never_written() {
    let length = u32::try_from(MAX_FRAME + 1).unwrap();
    assert!(decode_frame::<Value>(&length.to_be_bytes()).is_err());
    assert!(encode_frame(&"x".repeat(MAX_FRAME - 1)).is_err());
    let longest = encode_frame(&"x".repeat(MAX_FRAME - 2)).unwrap();
    assert_eq!(
        decode_frame::<String>(&longest).unwrap().unwrap().1,
        MAX_FRAME + 4
    );
}

#[test]
fn a_pending_deletion_s_name_is_a_hash_of_container_and_interface_alone() {
    let name = request().pending_deletion_name();
    expect!["ec43057c07aaa51f882664a65fed7b18.json"].assert_eq(&name);
    let mut other = request();
    other.args.clear();
    other.command = Command::Del;
    assert_eq!(other.pending_deletion_name(), name);
    other.interface = "eth1".to_owned();
    assert_ne!(other.pending_deletion_name(), name);
}

#[test]
fn semantics_92_an_interface_that_a_plugin_before_us_made_in_the_same_namespace_is_refused() {
    let code = |previous: Value, interface: &str| {
        let config = config(json!({"prevResult": previous})).unwrap();
        config
            .check_previous(interface, "/run/netns/p")
            .err()
            .map(|error| error.code)
    };
    let made = json!({"cniVersion": "1.0.0", "interfaces": [
        {"name": "eth0", "sandbox": "/run/netns/p"}, {"name": "eth1"}, {"name": "eth2", "sandbox": "/other"},
    ]});
    assert_eq!(code(made.clone(), "eth0"), Some(100));
    assert_eq!(code(made.clone(), "eth1"), None);
    assert_eq!(code(made, "eth2"), None);
    assert_eq!(
        code(
            json!({"cniVersion": "0.2.0", "ip4": {"ip": "10.0.0.1/24"}}),
            "eth0"
        ),
        None
    );
    assert_eq!(
        code(json!({"cniVersion": "1.0.0", "ips": 1}), "eth0"),
        Some(6)
    );
    assert_eq!(code(json!([]), "eth0"), Some(6));
}
