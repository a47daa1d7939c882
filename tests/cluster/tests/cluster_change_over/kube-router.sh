#!/bin/bash
# Stands in for kube-router 2.9 on a node: leaves there what it leaves, and speaks BGP by GoBGP, as it does. It takes
# kube-router's flags. What kube-router asks the API server is in the environment:
# of each node, NODE_CIDR, NODE_ADDRESS, and NODE_ROUTER, the router on its link.
set -eu

# It writes the whole filter table back without its own rules, and destroys every set that no rule uses, whosever it is.
if [ "$*" = --cleanup-config ]; then
    iptables-save -t filter | grep -Ev 'KUBE-ROUTER-|KUBE-POD-FW-|KUBE-NWPLCY-' | iptables-restore -w
    ipset list -n | while read -r set; do ipset destroy "$set" 2>/dev/null || true; done
    exit
fi

node=$NODE_NAME
others=$(env | sed -n 's/^\(.*\)_CIDR=.*/\1/p' | grep -vx "$node")
of() { local name="$1_$2"; echo "${!name}"; }
router=$(of "$node" ROUTER)

conflist=/etc/cni/net.d/10-kuberouter.conflist
[ -e $conflist ] || cat >$conflist <<END
{"cniVersion": "0.3.0", "name": "mynet", "plugins": [
  {"name": "kubernetes", "type": "bridge", "bridge": "kube-bridge", "isDefaultGateway": true,
   "ipam": {"type": "host-local", "subnet": "$(of "$node" CIDR)"}}]}
END
sysctl -qw net.ipv4.ip_forward=1 net.bridge.bridge-nf-call-iptables=1
[ -e /sys/class/net/kube-bridge ] || ip link add kube-bridge type bridge
ip link set kube-bridge up

# The chains of 2.9 as they are before any pod is known.
has() { iptables -w -C "$@" 2>/dev/null; }
first() { has "$@" || iptables -w -I "$@"; }
last() { has "$@" || iptables -w -A "$@"; }
for chain in KUBE-ROUTER-INPUT KUBE-ROUTER-FORWARD KUBE-ROUTER-OUTPUT KUBE-NWPLCY-DEFAULT KUBE-NWPLCY-COMMON; do
    iptables -w -N $chain 2>/dev/null || true
done
for hook in INPUT FORWARD OUTPUT; do
    first $hook -m comment --comment "kube-router netpol" -j KUBE-ROUTER-$hook
    last KUBE-ROUTER-$hook -m comment --comment "complies to network policies" -m mark --mark 0x20000/0x20000 -j ACCEPT
done
last KUBE-NWPLCY-DEFAULT -j MARK --set-xmark 0x10000/0x10000
last KUBE-NWPLCY-COMMON -m conntrack --ctstate INVALID -j DROP
last KUBE-NWPLCY-COMMON -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
first FORWARD -m comment --comment "allow outbound traffic from pods" -i kube-bridge -j ACCEPT
first FORWARD -m comment --comment "allow inbound traffic to pods" -o kube-bridge -j ACCEPT
first FORWARD -m comment --comment "allow outbound node port traffic on node interface" -o eth0 -j ACCEPT
# Policy first, as its controller keeps it.
iptables -w -D FORWARD -m comment --comment "kube-router netpol" -j KUBE-ROUTER-FORWARD
iptables -w -I FORWARD -m comment --comment "kube-router netpol" -j KUBE-ROUTER-FORWARD
for set in kube-router-pod-subnets kube-router-node-ips; do
    ipset create -exist $set hash:net timeout 0
done

# Where the nodes are in one subnet kube-router writes what it learns, by protocol 17, and does not take it back at its end.
for other in $others; do
    ip route replace "$(of "$other" CIDR)" via "$router" proto 17
done

neighbor() {
    cat <<END
[[neighbors]]
  [neighbors.config]
    neighbor-address = "$1"
    peer-as = $2
  [neighbors.timers.config]
    connect-retry = 5
    hold-time = 9
  [neighbors.graceful-restart.config]
    enabled = true
    restart-time = 90
  [[neighbors.afi-safis]]
    [neighbors.afi-safis.config]
      afi-safi-name = "ipv4-unicast"
    [neighbors.afi-safis.mp-graceful-restart.config]
      enabled = true
END
}
config=/run/kube-router.toml
cat >$config <<END
[global.config]
  as = 64512
  router-id = "$(of "$node" ADDRESS)"
# Of what it knows it tells others only what is its own.
[global.apply-policy.config]
  export-policy-list = ["own"]
  default-export-policy = "reject-route"
[[defined-sets.prefix-sets]]
  prefix-set-name = "own"
  [[defined-sets.prefix-sets.prefix-list]]
    ip-prefix = "$(of "$node" CIDR)"
[[policy-definitions]]
  name = "own"
  [[policy-definitions.statements]]
    name = "own"
    [policy-definitions.statements.conditions.match-prefix-set]
      prefix-set = "own"
      match-set-options = "any"
    [policy-definitions.statements.actions]
      route-disposition = "accept-route"
END
neighbor "$router" 65100 >>$config
for other in $others; do neighbor "$(of "$other" ADDRESS)" 64512 >>$config; done
(
    for _ in $(seq 100); do
        gobgp global rib add "$(of "$node" CIDR)" nexthop "$(of "$node" ADDRESS)" 2>/dev/null && break
        sleep 0.2
    done
) &
exec gobgpd -t toml -f $config --api-hosts 127.0.0.1:50051 --pprof-disable
