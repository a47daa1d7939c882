//! Every example of the documentation loads without a problem.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use api::Event;
use datastore::watch_manifests;

fn documents() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let docs = std::fs::read_dir(root.join("docs")).unwrap();
    let docs = docs.map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> = docs
        .chain([root.join("README.md")])
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect();
    found.sort();
    found
}

/// The blocks that begin with ```yaml.
fn blocks(text: &str) -> Vec<String> {
    let after = text.split("```yaml\n").skip(1);
    after
        .map(|rest| rest.split("```").next().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn every_yaml_block_of_the_documentation_is_a_manifest_that_loads() {
    let mut loaded = 0;
    for document in documents() {
        let text = std::fs::read_to_string(&document).unwrap();
        let folder = tempfile::tempdir().unwrap();
        for (number, block) in blocks(&text).into_iter().enumerate() {
            let file = folder.path().join(format!("{number:02}.yaml"));
            std::fs::write(&file, block).unwrap();
            // One of them shows a Secret.
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        let mut source = watch_manifests(folder.path(), "node1").unwrap();
        while let Some(Event::Change(change)) = source.events.recv().await {
            loaded += 1;
            let text = format!("{:?}", change.value);
            assert!(
                !text.contains("Unsupported("),
                "a part that is wrong: {text}"
            );
        }
        assert_eq!(*source.problems.borrow(), [], "{}", document.display());
    }
    assert!(loaded >= 10, "only {loaded} objects were found");
}
