//! `--cluster-dns NAMESPACE/LABEL=VALUE`.

use std::collections::BTreeSet;

use api::LabelSelector;
use api::labels::Requirement;

/// Where the pods of the cluster's DNS are: a namespace, and labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClusterDns(pub(crate) (String, LabelSelector));

/// Parses the flag.
///
/// # Errors
/// Says what it should look like.
pub(crate) fn cluster_dns(text: &str) -> Result<ClusterDns, String> {
    let wrong = || {
        format!(
            "'{text}' is no NAMESPACE/LABEL=VALUE[,LABEL=VALUE], as in kube-system/k8s-app=kube-dns"
        )
    };
    // A label's key may have a slash of its own.
    let (namespace, labels) = text.split_once('/').ok_or_else(wrong)?;
    let requirement = |label: &str| {
        let (key, value) = label.split_once('=').ok_or_else(wrong)?;
        if key.is_empty() {
            return Err(wrong());
        }
        let values = BTreeSet::from([value.to_owned()]);
        Ok(Requirement::In(key.to_owned(), values))
    };
    let requirements = labels.split(',').map(requirement);
    let requirements = requirements.collect::<Result<_, _>>()?;
    if !api::metadata::is_dns_label(namespace) {
        return Err(wrong());
    }
    Ok(ClusterDns((
        namespace.to_owned(),
        LabelSelector { requirements },
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_and_labels_are_taken_and_nothing_less() {
        let ClusterDns((namespace, selector)) =
            cluster_dns("kube-system/k8s-app=kube-dns,a/b=c").unwrap();
        assert_eq!(namespace, "kube-system");
        assert_eq!(selector.requirements.len(), 2);
        for text in [
            "",
            "kube-system",
            "kube-system/",
            "/a=b",
            "a/b",
            "a/=c",
            "A b/c=d",
        ] {
            assert!(cluster_dns(text).is_err(), "{text}");
        }
    }
}
