//! Nothing a peer sends, whole, cut or made up, makes a reader panic or read beyond what is there.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::collections::BTreeMap;

use cni_spec::socket::{MAX_FRAME, Request, Response, decode_frame, encode_frame};
use cni_spec::{AddResult, CniError, CniVersion, Environment, IpConfig, NetworkConfig, Route};
use ipnet::IpNet;
use proptest::prelude::*;
use serde_json::Value;

fn net() -> impl Strategy<Value = IpNet> {
    let v4 = (any::<[u8; 4]>(), 0..=32_u8).prop_map(|(ip, len)| IpNet::new(ip.into(), len));
    let v6 = (any::<[u8; 16]>(), 0..=128_u8).prop_map(|(ip, len)| IpNet::new(ip.into(), len));
    prop_oneof![v4, v6].prop_map(Result::unwrap)
}

fn result() -> impl Strategy<Value = AddResult> {
    let ip = (net(), proptest::option::of(0..4_u32)).prop_map(|(address, interface)| IpConfig {
        address,
        gateway: None,
        interface,
    });
    let route = (net(), proptest::option::of(any::<u32>())).prop_map(|(dst, mtu)| Route {
        mtu,
        ..Route::new(dst, None)
    });
    (
        prop::collection::vec(ip, 0..4),
        prop::collection::vec(route, 0..4),
    )
        .prop_map(|(ips, routes)| AddResult {
            ips,
            routes,
            ..AddResult::default()
        })
}

fn response() -> impl Strategy<Value = Response> {
    let error = (any::<u32>(), ".*", ".*")
        .prop_map(|(code, msg, details)| Response::Error(CniError { code, msg, details }));
    prop_oneof![
        result().prop_map(Response::Result),
        Just(Response::Done),
        error
    ]
}

fn json() -> impl Strategy<Value = Value> {
    let key = prop_oneof![
        prop::sample::select(vec![
            "command",
            "containerId",
            "interface",
            "args",
            "config",
            "cniVersion",
            "name",
            "ips",
            "address",
            "interfaces",
            "routes",
            "dst",
            "dns",
            "prevResult",
            "socket",
            "result",
            "error",
            "code",
            "ip4",
            "ip",
            "runtimeConfig",
            "cni.dev/valid-attachments",
        ])
        .prop_map(str::to_owned),
        ".*",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        prop::sample::select(vec![
            "ADD",
            "DEL",
            "GC",
            "0.2.0",
            "1.1.0",
            "10.0.0.1/8",
            "n"
        ])
        .prop_map(Value::from),
        ".*".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map(key.clone(), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn a_frame_cut_at_any_byte_asks_for_more(response in response()) {
        let frame = encode_frame(&response).unwrap();
        for cut in 0..frame.len() {
            prop_assert!(decode_frame::<Response>(&frame[..cut]).unwrap().is_none());
        }
    }

    #[test]
    fn a_frame_comes_back_and_leaves_what_follows(response in response(), rest: Vec<u8>) {
        let frame = encode_frame(&response).unwrap();
        let bytes = [frame.clone(), rest].concat();
        prop_assert_eq!(decode_frame(&bytes).unwrap(), Some((response, frame.len())));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
        let request = decode_frame::<Request>(&bytes);
        let _ = decode_frame::<Response>(&bytes);
        let _ = NetworkConfig::parse(&bytes);
        if let Ok(Some((_, used))) = request {
            prop_assert!(used <= bytes.len() && used <= MAX_FRAME + 4);
        }
    }

    #[test]
    fn arbitrary_json_never_panics(json in json()) {
        let frame = encode_frame(&json).unwrap();
        let _ = decode_frame::<Request>(&frame);
        let _ = decode_frame::<Response>(&frame);
        for version in CniVersion::SUPPORTED {
            let _ = AddResult::from_json(&json, version);
        }
        if let Ok(config) = NetworkConfig::parse(json.to_string().as_bytes()) {
            let _ = config.previous_result();
            let _ = config.requested_ips();
            let written = serde_json::to_vec(&config).unwrap();
            prop_assert_eq!(NetworkConfig::parse(&written).unwrap(), config);
        }
    }

    #[test]
    fn arbitrary_variables_never_let_a_word_in_that_could_end_a_line_or_leave_a_folder(
        id in ".*", interface in ".*", name in ".*", namespace in ".*",
    ) {
        let args = format!("IgnoreUnknown=1;K8S_POD_NAME={name};K8S_POD_NAMESPACE={namespace}");
        let variables: BTreeMap<String, String> = [
            ("CNI_COMMAND", "ADD"), ("CNI_CONTAINERID", &id), ("CNI_IFNAME", &interface),
            ("CNI_NETNS", "/n"), ("CNI_PATH", "/p"), ("CNI_ARGS", &args),
        ].map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        if let Ok(Environment::Invocation(read)) = Environment::parse(&variables) {
            for word in [read.container_id, read.interface].iter().chain(read.args.values()) {
                prop_assert!(!word.contains(['/', '\n', '\0', ' ']) && word != "..", "{word:?}");
            }
        }
    }

    #[test]
    fn addresses_and_routes_survive_every_version_that_can_say_them(result in result()) {
        for version in CniVersion::SUPPORTED {
            let Ok(json) = result.to_json(version) else {
                prop_assert!(version < CniVersion::V0_3_0 && result.ips.is_empty());
                continue;
            };
            let read = AddResult::from_json(&json, CniVersion::LATEST).unwrap();
            if version >= CniVersion::V0_3_0 {
                prop_assert_eq!(&read.ips, &result.ips);
                let targets = |r: &AddResult| r.routes.iter().map(|r| (r.dst, r.gw)).collect::<Vec<_>>();
                prop_assert_eq!(targets(&read), targets(&result));
            }
            let again = read.to_json(version).unwrap();
            prop_assert_eq!(again, json);
        }
    }
}
