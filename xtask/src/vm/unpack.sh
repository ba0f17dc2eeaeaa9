#!/bin/sh
# Downloads Debian's package of a kernel and leaves, in the current directory, `vmlinuz` and
# `modules/lib/modules/<release>` with the parts that tests of networking may need.
#   unpack.sh linux-image-<release>
set -eu
package=$1
release=${package#linux-image-}

# As root, apt-get warns of a directory that its own user cannot write to.
apt-get --quiet --quiet -o APT::Sandbox::User=root download "$package"
dpkg -x ./"$package"_*.deb unpacked

mkdir -p "modules/lib/modules/$release"
modules=$PWD/modules/lib/modules/$release
(
    cd "unpacked/lib/modules/$release"
    for part in net lib crypto arch/x86/crypto drivers/net/ifb.ko drivers/net/veth.ko drivers/net/vxlan; do
        # Newer releases compress modules.
        for it in "kernel/$part" "kernel/$part.xz"; do
            if [ -e "$it" ]; then cp -r --parents "$it" "$modules"; fi
        done
    done
    cp modules.order modules.builtin* "$modules"
)
find "$modules" -name '*.ko.xz' -exec xz -d {} +
depmod -b "$PWD/modules" "$release"

# Last, for it says that all is there.
mv "unpacked/boot/vmlinuz-$release" vmlinuz
rm -r unpacked ./"$package"_*.deb
