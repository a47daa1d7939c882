//! `portolan crds`: the definitions of our kinds, as deploy/ has them.

use std::io::Write as _;

use serde_json::Value;

const HEAD: &str = "# Made by `portolan crds` from the types in api/src/crd.";

/// Prints them.
///
/// # Errors
/// If standard output is closed.
pub(crate) fn print() -> anyhow::Result<()> {
    std::io::stdout().write_all(text()?.as_bytes())?;
    Ok(())
}

/// The definitions as YAML documents.
///
/// # Errors
/// If one cannot be written as YAML.
fn text() -> anyhow::Result<String> {
    let mut text = HEAD.to_owned() + "\n";
    for definition in api::crd::crds() {
        let mut definition = serde_json::to_value(definition)?;
        bare(&mut definition);
        text += "---\n";
        text += &datastore::write_document(&definition)?;
    }
    Ok(text)
}

/// Without what says nothing.
fn bare(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, field| {
                !(field.is_null() || name == "shortNames" && *field == Value::Array(Vec::new()))
            });
            fields.values_mut().for_each(bare);
        }
        Value::Array(items) => items.iter_mut().for_each(bare),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn what_deploy_installs_is_what_the_types_say() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kubernetes/crds.yaml");
        let text = text().unwrap();
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            fs::write(&path, &text).unwrap();
        }
        assert!(
            fs::read_to_string(&path).unwrap_or_default() == text,
            "deploy/kubernetes/crds.yaml is old: UPDATE_EXPECT=1 cargo test -p agent crds"
        );
    }

    #[test]
    fn what_is_printed_reads_back_as_the_definitions() {
        let text = text().unwrap();
        let documents = datastore::read_documents(&text).unwrap();
        let read: Vec<Value> = documents
            .into_iter()
            .map(|document| document.value)
            .collect();
        let definitions: Vec<Value> = api::crd::crds()
            .into_iter()
            .map(|definition| {
                let mut definition = serde_json::to_value(definition).unwrap();
                bare(&mut definition);
                definition
            })
            .collect();
        assert_eq!(read, definitions);
        assert_eq!(read.len(), 7);
    }
}
