//! What `portolan convert` makes of every example, and of whole clusters of others, is taken by a real API server with our kinds: their rules hold.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::io::Write as _;
use std::process::{Command, Stdio};

use cluster::ControlPlane;
use tests::agent::binaries;

/// Pages with examples, and what their inputs are marked with.
const PAGES: [(&str, &str); 3] = [
    ("calico", include_str!("../../../docs/from-calico.md")),
    (
        "kube-router",
        include_str!("../../../docs/from-kube-router.md"),
    ),
    ("metallb", include_str!("../../../docs/from-metallb.md")),
];

/// Inputs with nearly every field that is known.
const WHOLE: [(&str, &str); 3] = [
    (
        "calico",
        include_str!("../../../agent/src/convert/tests/calico.yaml"),
    ),
    (
        "kube-router",
        include_str!("../../../agent/src/convert/tests/kube-router.yaml"),
    ),
    (
        "metallb",
        include_str!("../../../agent/src/convert/tests/metallb.yaml"),
    ),
];

/// What the verb writes.
fn converted(input: &str) -> String {
    let mut command = Command::new(binaries().unwrap().join("portolan"));
    command.args(["convert", "-"]);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let code = output.status.code().unwrap();
    assert!(code == 0 || code == 2, "{code}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

fn examples(page: &str, whose: &str) -> Vec<String> {
    let marker = format!("```yaml {whose}\n");
    page.split(&marker)
        .skip(1)
        .map(|part| part.split_once("\n```").unwrap().0.to_owned())
        .collect()
}

/// Applies it as the pages say, and gives the number of objects.
fn taken(plane: &ControlPlane, whose: &str, manifests: &str) -> usize {
    let apply = [
        "apply",
        "--server-side",
        "--force-conflicts",
        "--validate=strict",
        "-f",
        "-",
    ];
    let said = plane
        .kubectl_with(&apply, manifests)
        .unwrap_or_else(|error| panic!("{whose}: {error:#}\n{manifests}"));
    assert!(!said.contains("Warning"), "{whose}: {said}");
    said.matches("serverside-applied").count()
}

#[test]
fn what_is_converted_is_taken_by_the_server() {
    let plane = ControlPlane::shared();
    plane.install_crds();
    plane.apply("{apiVersion: v1, kind: Namespace, metadata: {name: portolan}}");
    let mut objects = 0;
    let mut inputs = 0;
    let pages = PAGES
        .iter()
        .flat_map(|(whose, page)| examples(page, whose).into_iter().map(|text| (*whose, text)));
    let whole = WHOLE
        .iter()
        .map(|(whose, text)| (*whose, (*text).to_owned()));
    for (whose, input) in pages.chain(whole) {
        let manifests = converted(&input);
        objects += taken(plane, whose, &manifests);
        inputs += 1;
    }
    assert!(inputs >= 6 && objects >= 30, "{objects} of {inputs}");
}
