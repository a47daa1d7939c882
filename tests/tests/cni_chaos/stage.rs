//! The node, its policy, and two pods that stay: one that anybody reaches, one that only half of the others may.

use tests::netns::Netns;
use tests::one_node::OneNode;
use tests::reach::Server;
use tests::runtime::Runtime;

use crate::worker::{Pod, call};

/// So few addresses that each is used again and again.
pub(crate) const CIDRS: [&str; 2] = ["10.244.1.0/27", "fd00:244:1::/123"];

/// The label of who may enter the fort.
const POLICY: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: chaos}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: chaos, name: fort}
spec:
  podSelector: {matchLabels: {app: fort}}
  policyTypes: [Ingress]
  ingress:
    - from: [{podSelector: {matchLabels: {may: enter}}}]
";

/// All of it.
pub(crate) struct Stage {
    pub(crate) lab: OneNode,
    tag: String,
}

impl Stage {
    /// With a Pod object for each slot of each worker; those of even slots may enter the fort.
    pub(crate) fn set(tag: &str, workers: usize, slots: usize) -> Self {
        let mut text = format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: node1}}\nspec:\n  podCIDRs: [{}, \"{}\"]\nstatus:\n  \
             addresses: [{{type: InternalIP, address: 192.0.2.1}}]\n---{POLICY}",
            CIDRS[0], CIDRS[1]
        );
        let all = (0..workers).flat_map(|worker| (0..slots).map(move |slot| (worker, slot)));
        let pods = all.map(|(worker, slot)| {
            let may = if slot % 2 == 0 { "enter" } else { "stay-out" };
            (format!("w{worker}-{slot}"), "client", may)
        });
        let fixed = ["fort", "open"].map(|name| (name.to_owned(), name, "enter"));
        for (name, app, may) in pods.chain(fixed) {
            text.push_str(&format!(
                "---\napiVersion: v1\nkind: Pod\nmetadata: {{namespace: chaos, name: {name}, labels: {{app: {app}, may: {may}}}}}\n\
                 spec: {{nodeName: node1}}\n"
            ));
        }
        let mut lab = OneNode::start(tag, "", &[]).unwrap();
        let folder = lab.folder().join("manifests");
        std::fs::write(folder.join(".new"), text).unwrap();
        std::fs::rename(folder.join(".new"), folder.join("all.yaml")).unwrap();
        lab.agent.wait_synced().unwrap();
        Self {
            lab,
            tag: tag.to_owned(),
        }
    }

    /// Attaches the two pods that stay: the fort, then the open one.
    pub(crate) fn attach_fixed(&self) -> Vec<Pod> {
        let runtime = Runtime::of(&self.lab.agent).unwrap();
        let attach = |name: &str| {
            let netns = Netns::new(&self.tag, name).unwrap();
            let mut pod = Pod::new(
                format!("{name}-{}", std::process::id()),
                name.to_owned(),
                netns,
            );
            let answer = runtime.call(&self.lab.node, &call("ADD", &pod)).unwrap();
            pod.take(answer.success().unwrap());
            pod.server = Some(Server::start(&pod.netns).unwrap());
            pod
        };
        ["fort", "open"].map(attach).into()
    }

    /// Takes one of them away.
    pub(crate) fn delete(&self, pod: Pod) {
        let runtime = Runtime::of(&self.lab.agent).unwrap();
        let answer = runtime.call(&self.lab.node, &call("DEL", &pod)).unwrap();
        answer.success().unwrap();
    }

    /// The namespaces of this test but the node's and the outside's.
    pub(crate) fn namespaces_of_pods(&self) -> Vec<String> {
        let ours = format!("ptl-{}-{}-", self.tag, std::process::id());
        let stays = [self.lab.node.name(), self.lab.outside.name()];
        let all = tests::snapshot::namespaces().into_iter();
        all.filter(|name| name.starts_with(&ours) && !stays.contains(&name.as_str()))
            .collect()
    }
}
