#!/bin/sh
# The inside of a node: runs in namespaces of its own, with a control group of its own as the root
# of each hierarchy, and ends with all of its programs when it is killed.
#   node.sh DIRECTORY NODE
# DIRECTORY has the arguments of each program, one a line, in args/NAME in the order of the names.
set -eu
dir=$1
hostname "$2"
mount -t proc proc /proc

# `ip netns exec` mounted /sys anew: without control groups.
mount -t tmpfs -o mode=755 cgroup /sys/fs/cgroup
while read -r controller; do
    mkdir "/sys/fs/cgroup/$controller"
    mount -t cgroup -o "$controller" cgroup "/sys/fs/cgroup/$controller"
done < "$dir/controllers"

# What a node writes goes to DIRECTORY, not to this machine.
mkdir -p "$dir/etc" "$dir/etc-work" "$dir/var-lib" "$dir/var-log" "$dir/opt" "$dir/logs"
mount -t overlay -o "lowerdir=/etc,upperdir=$dir/etc,workdir=$dir/etc-work" overlay /etc
rm -rf /etc/cni /etc/calico
mount --bind "$dir/var-lib" /var/lib
mount --bind "$dir/var-log" /var/log
mount --bind "$dir/opt" /opt
mount -t tmpfs -o mode=755 run /run
# As on every host: mounts in the namespaces of pods are seen by containers that ask for it.
mount --make-rshared /

for args in "$dir"/args/*; do
    name=${args##*-}
    case $name in
    kubelet)
        until ctr version > /dev/null 2>&1; do sleep 0.1; done
        for image in "$dir"/images/*.tar; do
            ctr -n k8s.io images import "$image" > "$dir/logs/import" 2>&1
        done
        ;;
    esac
    xargs -d '\n' -a "$args" env > "$dir/logs/$name" 2>&1 &
done
wait
