//! Results in every version, as we convert them and as the reference implementation's own types do.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::io::Write as _;
use std::process::{Command, Stdio};

use cni_spec::{AddResult, CniVersion};
use serde_json::{Value, json};
use tests::cnitool::reference;

/// Results of every version, with what each can say and some of what it cannot.
fn samples() -> Vec<Value> {
    let interfaces = json!([
        {"name": "ptl0123456789a", "mac": "ee:ee:ee:ee:ee:ee"},
        {"name": "eth0", "mac": "02:00:00:00:00:01", "sandbox": "/run/netns/p"},
    ]);
    let mut newest = json!({
        "cniVersion": "1.1.0", "interfaces": interfaces,
        "ips": [
            {"address": "10.244.1.5/32", "gateway": "169.254.1.1", "interface": 1},
            {"address": "fd00:1::5/128", "gateway": "fe80::1", "interface": 1},
        ],
        "routes": [
            {"dst": "0.0.0.0/0", "gw": "169.254.1.1", "mtu": 1400, "advmss": 1360, "priority": 100, "table": 50, "scope": 200},
            {"dst": "::/0", "gw": "fe80::1"}, {"dst": "10.0.0.0/8"},
        ],
        "dns": {"nameservers": ["10.96.0.10", "fd00::a"], "domain": "d", "search": ["a", "b"], "options": ["ndots:5"]},
    });
    newest["interfaces"][1]["mtu"] = json!(1450);
    newest["interfaces"][1]["socketPath"] = json!("/run/s");
    newest["interfaces"][1]["pciID"] = json!("0000:00:1f.6");
    let mut all = vec![newest];
    for version in ["0.3.0", "0.3.1", "0.4.0"] {
        all.push(json!({
            "cniVersion": version, "interfaces": interfaces,
            "ips": [{"version": "4", "address": "10.1.2.3/24", "gateway": "10.1.2.1", "interface": 1},
                    {"version": "6", "address": "fd00::3/64"}],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "fd01::/16", "gw": "fd00::1"}], "dns": {},
        }));
    }
    all.extend([
        json!({"ip4": {"ip": "10.1.2.3/24"}}),
        json!({"cniVersion": "0.1.0", "ip6": {"ip": "fd00::3/64", "gateway": "fd00::1", "routes": [{"dst": "::/0"}]}, "dns": {}}),
        json!({"cniVersion": "0.2.0", "ip4": {"ip": "10.1.2.3/24", "gateway": "10.1.2.1", "routes": [
            {"dst": "0.0.0.0/0"}, {"dst": "10.0.0.0/8", "gw": "10.1.2.9"}]}, "ip6": {"ip": "fd00::3/64"}, "dns": {"search": ["a"]}}),
        // Two addresses of a family, of which the oldest can say one; no address, of which they can say nothing.
        json!({"cniVersion": "1.0.0", "ips": [{"address": "10.1.2.3/24"}, {"address": "10.1.2.4/24", "gateway": "10.1.2.1"},
            {"address": "fd00::3/64"}, {"address": "fd00::4/64"}], "dns": {}}),
        json!({"cniVersion": "1.0.0", "interfaces": [{"name": "lo", "sandbox": "/run/netns/p"}], "dns": {}}),
        json!({"cniVersion": "1.0.0", "ips": null, "interfaces": null, "routes": null, "dns": {"nameservers": null}}),
        json!({"cniVersion": "1.1.0"}),
        // What nobody can read.
        json!({"cniVersion": "1.0.0", "ips": [{"address": "10.1.2.3"}]}),
        json!({"cniVersion": "1.0.0", "ips": {}}),
        json!({"cniVersion": "0.5.0", "ips": []}),
    ]);
    all
}

#[test]
fn semantics_107_every_result_is_converted_to_every_version_as_the_reference_types_do() {
    let samples = samples();
    let mut child = Command::new(reference("cni-convert").unwrap())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let text: String = samples.iter().map(|one| format!("{one}\n")).collect();
    stdin.write_all(text.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let answers = String::from_utf8(output.stdout).unwrap();
    let answers: Vec<Value> = answers
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(answers.len(), samples.len());
    let (mut converted, mut refused) = (0, 0);
    for (sample, answer) in samples.iter().zip(&answers) {
        for version in CniVersion::SUPPORTED {
            let theirs = &answer[version.as_str()];
            let ours = AddResult::from_json(sample, CniVersion::V0_1_0);
            let ours = ours.and_then(|result| result.to_json(version));
            match ours {
                Ok(ours) => {
                    let theirs = as_specified(theirs.clone(), version);
                    assert_eq!(as_specified(ours, version), theirs, "{sample} in {version}");
                    converted += 1;
                }
                Err(error) => {
                    assert!(
                        theirs.get("error").is_some(),
                        "{sample} in {version}: {error}: {theirs}"
                    );
                    refused += 1;
                }
            }
        }
    }
    assert!(converted > 70 && refused > 20, "{converted} {refused}");
}

/// Without what the reference implementation leaves in a result of a version that cannot say it, because one type
/// serves several; and an absent `dns` is an empty one.
fn as_specified(mut result: Value, version: CniVersion) -> Value {
    let none = json!({});
    let fields = result.as_object_mut().unwrap();
    if fields.get("dns").is_none_or(|dns| *dns == none) {
        fields.remove("dns");
    }
    if version < CniVersion::V1_1_0 {
        for (list, late) in [
            ("interfaces", ["mtu", "socketPath", "pciID", "", ""]),
            ("routes", ["mtu", "advmss", "priority", "table", "scope"]),
        ] {
            for one in result[list].as_array_mut().into_iter().flatten() {
                one.as_object_mut()
                    .unwrap()
                    .retain(|key, _| !late.contains(&key.as_str()));
            }
        }
        let fields = result.as_object_mut().unwrap();
        fields.retain(|_, value| !value.is_null());
    }
    result
}
