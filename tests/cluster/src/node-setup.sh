#!/bin/bash
# The first process of a node: makes the node's root, then reaps what is orphaned in it. It runs in mount, PID, UTS,
# IPC and network namespaces of the node's own.
# setup.sh BASE NODE FOLDER...: BASE is the node's folder on disk; each FOLDER of the host is seen at the same place.
set -eu
base=$1 node=$2
shift 2
hostname "$node"
mount --make-rprivate /

# The root is the host's, and what is written to it is memory that goes with the namespace. In memory, because the
# upper layer of an overlay must not be part of its lower one.
memory=$base/memory root=$base/root
mkdir -p "$memory" "$root"
mount -t tmpfs -o mode=755 node "$memory"
mkdir "$memory/upper" "$memory/work"
mount -t overlay -o "lowerdir=/,upperdir=$memory/upper,workdir=$memory/work" node "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount --rbind /sys/fs/cgroup "$root/sys/fs/cgroup"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
# What outlives a power cut; and containerd's own overlays can't lie on an overlay.
for folder in /var/lib/containerd /var/lib/kubelet /var/lib/cni /var/lib/portolan /var/log/pods; do
    mkdir -p "$base/disk$folder" "$root$folder"
    mount --bind "$base/disk$folder" "$root$folder"
done
for folder in "$base" "$@"; do
    mkdir -p "$root$folder"
    mount --bind "$folder" "$root$folder"
done
# A kubelet insists on these and would write them, but they are the whole machine's: it is shown what it wants to see.
while read -r name value; do
    [ -e "$root/proc/sys/$name" ] || continue
    mkdir -p "$memory/sysctl"
    echo "$value" >"$memory/sysctl/${name//\//.}"
    mount --bind "$memory/sysctl/${name//\//.}" "$root/proc/sys/$name"
done <<'SYSCTLS'
vm/overcommit_memory 1
vm/panic_on_oom 0
kernel/panic 10
kernel/panic_on_oops 1
kernel/keys/root_maxkeys 1000000
kernel/keys/root_maxbytes 25000000
SYSCTLS

mkdir "$root/run/old"
cd "$root"
pivot_root . run/old
cd /
umount -l /run/old
rmdir /run/old
rm -rf /etc/cni /opt/cni /etc/kubernetes
mkdir -p /etc/cni/net.d /opt/cni/bin /etc/kubernetes /var/log/containers
# containerd asks for it besides whatever network there is; kubernetes-cni brings it on real nodes.
cp /usr/lib/cni/loopback /opt/cni/bin/
printf '127.0.0.1 localhost\n::1 localhost\n' >/etc/hosts
rm -f /etc/resolv.conf
: >/etc/resolv.conf
mount --make-rshared /
touch "$base/ready"
# bash waits for any child, so also for those that were orphaned; the node ends when this does.
sleep infinity &
wait
