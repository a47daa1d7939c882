//! CoreDNS as a Deployment behind the Service that pods' resolvers name.

use std::net::IpAddr;

use crate::image::COREDNS;

/// The manifests; `addresses` are the Service's, one of each family.
#[must_use]
pub fn manifests(addresses: &[IpAddr]) -> String {
    let addresses: Vec<String> = addresses.iter().map(|ip| format!("\"{ip}\"")).collect();
    let first = addresses.first().cloned().unwrap_or_default();
    TEMPLATE
        .replace("FIRST", &first)
        .replace("ADDRESSES", &addresses.join(", "))
        .replace("IMAGE", COREDNS)
}

/// The rest of the world is a server block of its own: within one, `template` comes before `kubernetes`. `ready` stands beside
/// `kubernetes`, for it asks the plugins of its own block. Who ends answers for five seconds more and says at once that it isn't
/// ready: by the third look of the kubelet, some two seconds later, nobody is led there any more.
const TEMPLATE: &str = r"
apiVersion: v1
kind: ServiceAccount
metadata: {name: coredns, namespace: kube-system}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: coredns}
rules:
- {apiGroups: [''], resources: [services, pods, namespaces], verbs: [list, watch]}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: coredns}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: coredns}
subjects: [{kind: ServiceAccount, name: coredns, namespace: kube-system}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: coredns, namespace: kube-system}
data:
  Corefile: |
    cluster.local:53 in-addr.arpa:53 ip6.arpa:53 {
        errors
        health :8080 {
            lameduck 5s
        }
        ready :8181
        kubernetes cluster.local in-addr.arpa ip6.arpa {
            pods insecure
            ttl 1
        }
    }
    .:53 {
        errors
        template ANY ANY {
            rcode NXDOMAIN
        }
    }
---
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system}
spec:
  selector: {k8s-app: kube-dns}
  ipFamilyPolicy: PreferDualStack
  clusterIP: FIRST
  clusterIPs: [ADDRESSES]
  ports:
  - {name: dns, port: 53, protocol: UDP}
  - {name: dns-tcp, port: 53, protocol: TCP}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: coredns, namespace: kube-system, labels: {k8s-app: kube-dns}}
spec:
  replicas: 2
  strategy: {rollingUpdate: {maxSurge: 1, maxUnavailable: 0}}
  selector: {matchLabels: {k8s-app: kube-dns}}
  template:
    metadata: {labels: {k8s-app: kube-dns}}
    spec:
      serviceAccountName: coredns
      priorityClassName: system-cluster-critical
      dnsPolicy: Default
      terminationGracePeriodSeconds: 30
      topologySpreadConstraints:
      - maxSkew: 1
        topologyKey: kubernetes.io/hostname
        whenUnsatisfiable: ScheduleAnyway
        labelSelector: {matchLabels: {k8s-app: kube-dns}}
      containers:
      - name: coredns
        image: IMAGE
        imagePullPolicy: Never
        args: [-conf, /etc/coredns/Corefile]
        ports: [{containerPort: 53, protocol: UDP}, {containerPort: 53, protocol: TCP}]
        readinessProbe: {httpGet: {path: /ready, port: 8181}, periodSeconds: 1, timeoutSeconds: 3}
        volumeMounts: [{name: config, mountPath: /etc/coredns}]
      volumes:
      - {name: config, configMap: {name: coredns}}
";
