#!/bin/sh
# Writes the image of deploy/kubernetes/calico.yaml without a registry: our programs, the libraries
# of this machine that they need, and Debian's containernetworking-plugins; nothing else, no shell.
#   deploy/kubernetes/image.sh target/release calico-rs.tar
# Then `ctr -n k8s.io images import calico-rs.tar` on each node, or `podman load -i calico-rs.tar`.
set -eu

programs=${1:?usage: image.sh DIRECTORY-OF-PROGRAMS FILE.tar [NAME]}
file=${2:?usage: image.sh DIRECTORY-OF-PROGRAMS FILE.tar [NAME]}
name=${3:-localhost/calico-rs:0.1.0}
plugins=/usr/lib/cni
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root

mkdir -p "$root/usr/bin" "$root/opt/cni/bin" "$root/etc" "$root/run" "$root/tmp" "$root/var"
chmod 1777 "$root/tmp"
# Runtimes name namespaces of pods below /var/run/netns; the agent is given /run/netns.
ln -s /run "$root/var/run"
echo 'root:x:0:0:root:/root:/sbin/nologin' > "$root/etc/passwd"
for program in calico-agent calico-cni calicoctl calico-fanout calico-rr; do
    cp "$programs/$program" "$root/usr/bin/"
    # Names and lines of the sources are most of a debug build.
    if command -v strip > /dev/null; then strip --strip-debug "$root/usr/bin/$program"; fi
    # Also the loader, which ldd names by its path alone.
    ldd "$root/usr/bin/$program" | grep -o '/[^ ]*' | while read -r library; do
        mkdir -p "$root${library%/*}"
        cp -L "$library" "$root$library"
    done
done
for plugin in bandwidth host-local loopback portmap tuning; do
    if [ ! -e "$plugins/$plugin" ]; then
        echo "image.sh: $plugins/$plugin is missing; install containernetworking-plugins" >&2
        exit 1
    fi
    cp -L "$plugins/$plugin" "$root/opt/cni/bin/"
done

tar -C "$root" --owner=0 --group=0 -cf "$work/layer.tar" .
digest=$(sha256sum "$work/layer.tar" | cut -d' ' -f1)
case $(uname -m) in aarch64) machine=arm64 ;; *) machine=amd64 ;; esac
cat > "$work/config.json" << END
{"architecture": "$machine", "os": "linux",
 "config": {"Env": ["PATH=/usr/bin"], "Cmd": ["/usr/bin/calico-agent"]},
 "rootfs": {"type": "layers", "diff_ids": ["sha256:$digest"]}}
END
cat > "$work/manifest.json" << END
[{"Config": "config.json", "RepoTags": ["$name"], "Layers": ["layer.tar"]}]
END
tar -C "$work" -cf "$file" manifest.json config.json layer.tar
