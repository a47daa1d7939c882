//! What runs in the cluster meanwhile: a web server behind a Service, a vault that only friends may reach, and who asks.

use cluster::cluster::Cluster;
use cluster::image::TOOLS;
use cluster::pods::Pod;

/// The Namespace of all that runs.
pub(crate) const SHOP: &str = "shop";

/// The port of the Service of the web servers on every node.
pub(crate) const NODE_PORT: u16 = 30080;

/// In the DaemonSets' pods are echo servers of the test's own.
const MANIFESTS: &str = r"
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  strategy: {rollingUpdate: {maxSurge: 1, maxUnavailable: 0}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 5
      topologySpreadConstraints:
      - maxSkew: 1
        topologyKey: kubernetes.io/hostname
        whenUnsatisfiable: ScheduleAnyway
        labelSelector: {matchLabels: {app: web}}
        matchLabelKeys: [pod-template-hash]
      containers:
      - name: server
        image: IMAGE
        command: [agnhost, netexec, --http-port=8080]
        ports: [{containerPort: 8080}]
        # Without a request it would have next to no share of a machine that does much else, and answer late.
        resources: {requests: {cpu: 300m}}
        readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1, timeoutSeconds: 3}
        # Longer than every kube-proxy takes to hear that it goes.
        lifecycle: {preStop: {sleep: {seconds: 3}}}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web, namespace: shop}
spec: {minAvailable: 2, selector: {matchLabels: {app: web}}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080, nodePort: 30080}]
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: vault, namespace: shop}
spec:
  selector: {matchLabels: {app: vault}}
  template:
    metadata: {labels: {app: vault}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - {name: asker, image: IMAGE, command: [sleep, '86400']}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: client, namespace: shop}
spec:
  selector: {matchLabels: {app: client}}
  template:
    metadata: {labels: {app: client}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - {name: asker, image: IMAGE, command: [sleep, '86400']}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: friend, namespace: shop}
spec:
  selector: {matchLabels: {app: friend}}
  template:
    metadata: {labels: {app: friend, role: friend}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - {name: asker, image: IMAGE, command: [sleep, '86400']}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: vault-from-friends, namespace: shop}
spec:
  podSelector: {matchLabels: {app: vault}}
  policyTypes: [Ingress]
  ingress:
  - from: [{podSelector: {matchLabels: {role: friend}}}]
";

/// Makes all of it, and waits until it runs.
pub(crate) fn open(cluster: &Cluster) {
    cluster.plane().apply(&MANIFESTS.replace("IMAGE", TOOLS));
    wait(cluster);
    cluster.tell("the shop is open");
}

/// Waits until all of it runs.
pub(crate) fn wait(cluster: &Cluster) {
    for what in [
        "deployment/web",
        "daemonset/vault",
        "daemonset/client",
        "daemonset/friend",
    ] {
        cluster.wait_rollout(SHOP, what);
    }
}

/// The pod of a DaemonSet on a node.
pub(crate) fn on(cluster: &Cluster, node: &str, app: &str) -> Pod {
    cluster.pod_on(node, SHOP, &format!("app={app}")).unwrap()
}

/// Spreads the web servers over all nodes again: pods don't come back by themselves.
pub(crate) fn spread(cluster: &Cluster) {
    cluster.kubectl(&["-n", SHOP, "rollout", "restart", "deployment/web"]);
    wait(cluster);
}
