# shellcheck shell=sh
# SPDX-License-Identifier: MIT
#
# Sourced by contrib/quickstart, contrib/try-* and tests/run: which packages they need, and how a
# source tree is made ready to be built. The functions speak on stderr and return 0 or 1.

# An ordinary user's PATH often lacks the place of mkfs.ext4, debugfs, losetup and blkid.
PATH=$PATH:/usr/sbin:/sbin

# group, Debian package (or the names that it has had, the newest first), and what shows that it is there,
# from wherever it came.
SETUP_PACKAGES='
build   gcc             command cc
build   libc6-dev       file    /usr/include/stdlib.h
build   make            command make
build   autoconf        command autoreconf
build   automake        command automake
build   pkg-config      command pkg-config
build   libfuse3-dev    module  fuse3
build   zlib1g-dev      module  zlib
build   libzstd-dev     module  libzstd
build   libdeflate-dev  module  libdeflate
build   libjansson-dev  module  jansson
build   libblkid-dev    module  blkid
build   libgcrypt20-dev module  libgcrypt
build   libnbd-dev      module  libnbd
build   libseccomp-dev  module  libseccomp
mount   fuse3           command fusermount3
look    e2fsprogs       command debugfs
look    fdisk           command sfdisk
look    mount           command losetup
look    util-linux      command blkid
example qemu-utils      command qemu-img
tests   qemu-system-common command qemu-storage-daemon
tests   check           module  check
tests   python3         command python3
tests   xz-utils        command xz
tests   e2fsprogs       command mkfs.ext4
tests   xfsprogs        command mkfs.xfs
tests   btrfs-progs     command mkfs.btrfs
tests   fio             command fio
tests   fuse2fs         command fuse2fs
tests   dosfstools      command mkfs.vfat
tests   mtools          command mcopy
tests   fusefat         command fusefat
tests   ntfs-3g         command ntfs-3g
tests   exfatprogs      command mkfs.exfat
tests   exfat-fuse      command mount.exfat-fuse
tests   squashfs-tools  command mksquashfs
tests   squashfuse      command squashfuse
tests   genisoimage     command genisoimage
tests   fuseiso         command fuseiso
tests   erofs-utils     command mkfs.erofs
tests   bash-completion file    /usr/share/bash-completion/bash_completion
tests   fish            command fish
tests   zsh             command zsh
tests   tmux            command tmux
tests   strace          command strace
tests   nbdkit          command nbdkit
tests   libnbd-bin      command nbdcopy
tests   dropbear-bin    command dropbear
tests   openssh-sftp-server file /usr/lib/sftp-server
tests   openssl         command openssl
tests   rsync           command rsync
tests   systemd         command systemd-analyze
tests   libxml2-utils   command xmllint
tests   procps          file    /bin/kill
tests   sleuthkit       command fls
tests   gddrescue       command ddrescuelog
tests   photorec|testdisk command photorec
tests   ewf-tools       command ewfacquire
tests   xmount          command xmount
tests   dpkg-dev        command dpkg-checkbuilddeps
tests   rpm             command rpmspec
package debhelper       command dh
package dpkg-dev        command dpkg-buildpackage
package lintian         command lintian
browser chromium        command chromium
ceph    ceph-mon        command ceph-mon
ceph    ceph-osd        command ceph-osd
ceph    ceph-common     command rbd
ceph    qemu-block-extra any    /usr/lib/*/qemu/block-rbd.so
fuzz    clang           command clang
fuzz    libclang-rt-dev fuzzer clang
lint    clang-format    format  14
lint    mandoc          command mandoc
lint    shellcheck      command shellcheck
try     debootstrap     command debootstrap
try     util-linux-extra|util-linux command pivot_root
'

# setup_has KIND NAME
setup_has() {
    case $1 in
    command) command -v "$2" >/dev/null 2>&1 ;;
    module) pkg-config --exists "$2" 2>/dev/null ;;
    file) [ -e "$2" ] ;;
    any)
        # shellcheck disable=SC2086
        set -- $2
        [ -e "$1" ]
        ;;
    # Another Debian has another version, which is of no use.
    format) setup_formatter >/dev/null 2>&1 || ! setup_has_formatter ;;
    fuzzer) "$2" -fsanitize=fuzzer -x c -o /dev/null - >/dev/null 2>&1 <<END ;;
int LLVMFuzzerTestOneInput(const unsigned char *data, unsigned long size);
int LLVMFuzzerTestOneInput(const unsigned char *data, unsigned long size)
{
    return (int)(size * 0) * *data;
}
END
    esac
}

# setup_formatter: prints the clang-format that the sources are formatted with. Others break lines in
# other places, so no other is asked.
setup_formatter() {
    for setup_name in clang-format-14 clang-format; do
        case $("$setup_name" --version 2>/dev/null) in
        *' version 14.'*) echo "$setup_name" && return 0 ;;
        esac
    done
    echo "The sources are formatted with clang-format 14, which is not here" >&2
    return 1
}

# setup_has_formatter: whether this is the Debian whose clang-format that is.
setup_has_formatter() (
    # shellcheck source=/dev/null
    [ -r /etc/os-release ] && . /etc/os-release && [ "${ID-}:${VERSION_ID-}" = debian:12 ]
)

# setup_missing GROUP...: the packages of these groups that are not there, on one line.
setup_missing() {
    echo "$SETUP_PACKAGES" | while read -r group package kind name; do
        case " $* " in
        *" $group "*) setup_has "$kind" "$name" || printf '%s ' "$package" ;;
        esac
    done | sed 's/ $//'
}

# setup_named PACKAGES: the same, each with the name that it has in this release; the oldest where nobody
# can tell.
setup_named() {
    setup_names=
    for setup_package in $1; do
        while [ "${setup_package#*|}" != "$setup_package" ] &&
            ! apt-cache show "${setup_package%%|*}" >/dev/null 2>&1; do
            setup_package=${setup_package#*|}
        done
        setup_names="$setup_names${setup_names:+ }${setup_package%%|*}"
    done
    echo "$setup_names"
}

# setup_apt WORD...: apt-get that asks nothing.
setup_apt() {
    DEBIAN_FRONTEND=noninteractive apt-get -q -y -o Dpkg::Use-Pty=0 "$@"
}

# setup_require GROUP...: returns 0 when everything is there; root on Debian gets it installed.
setup_require() {
    setup_wanted=$(setup_missing "$@")
    [ -n "$setup_wanted" ] || return 0
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        setup_wanted=$(setup_named "$setup_wanted")
        echo "Missing: $setup_wanted. Install with: sudo apt-get install $setup_wanted" >&2
        return 1
    fi
    echo "Installing $setup_wanted" >&2
    # The list is to be split into words.
    # shellcheck disable=SC2046
    setup_log=$({ setup_apt update &&
        setup_apt install --no-install-recommends $(setup_named "$setup_wanted"); } </dev/null 2>&1) || {
        echo "$setup_log" >&2
        return 1
    }
    setup_wanted=$(setup_missing "$@")
    [ -z "$setup_wanted" ] || {
        echo "Still missing after the installation: $setup_wanted" >&2
        return 1
    }
}

# setup_in_place TOP DIRECTORY...: whether these directories can be built in, under TOP. They
# cannot where the tree is not ours to write, or was configured itself (automake's VPATH builds
# need a source tree without objects of its own).
setup_in_place() {
    [ -w "$1" ] && [ ! -e "$1/config.status" ] || return 1
    cd "$1" || return 1
    shift
    for setup_dir; do
        [ ! -e "$setup_dir" ] || [ -w "$setup_dir" ] || return 1
    done
}

# setup_copy TOP COPY: copies the sources, and nothing that was made from them.
setup_copy() {
    mkdir -p "$2" || return 1
    tar -C "$1" --exclude=./.git --exclude='./build*' --exclude='./qcow2fs-[0-9]*' \
        --exclude=./autom4te.cache --exclude=./configure --exclude=./config.status \
        --exclude=./config.h --exclude='./stamp-h*' --exclude=./Makefile \
        --exclude=./src/qcow2fs --exclude=./tests/tmp --exclude='*.[oa]' --exclude=.deps \
        --exclude=.dirstamp --exclude='*.log' --exclude='*.trs' -cf - . |
        tar -C "$2" --no-same-owner -xf - || return 1
    chmod -R u+w "$2" || return 1
    find "$2/tests/unit" -name 'test-*' ! -name '*.c' -exec rm -f {} +
    rm -f "$2/tests/fuzz/dump" "$2"/tests/fuzz/fuzz-image "$2"/tests/fuzz/fuzz-structure \
        "$2"/tests/fuzz/fuzz-text
}

# setup_generate TOP: makes or renews ./configure.
setup_generate() {
    if [ ! -e "$1/configure" ] || [ ! -e "$1/Makefile.in" ] ||
        [ -n "$(find "$1/configure.ac" "$1/Makefile.am" "$1/src/sources.mk" \
            "$1/tests/tests.mk" -newer "$1/configure")" ]; then
        "$1/autogen.sh" >&2
    fi
}

# setup_configure TOP DIRECTORY OPTION...: configures DIRECTORY, anew where it has other options.
setup_configure() (
    top=$1
    directory=$2
    shift 2
    [ ! -e "$directory/config.status" ] || [ ! -e "$directory/setup-options" ] ||
        [ "$(cat "$directory/setup-options")" != "$*" ] || exit 0
    rm -rf "$directory"
    mkdir -p "$directory" && cd "$directory" && "$top/configure" "$@" &&
        echo "$*" >setup-options
)

# setup_step SENTENCE COMMAND...: what it says is only of interest when it fails, and is in the file
# `log` of the caller's directory $place; the caller has a function fail.
setup_step() {
    echo "-- $1"
    shift
    # shellcheck disable=SC2154
    "$@" >"$place/log" 2>&1 || {
        status=$?
        tail -n 60 "$place/log"
        fail "$1 ended with status $status"
    }
}
