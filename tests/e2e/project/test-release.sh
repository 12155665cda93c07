#!/bin/sh
# SPDX-License-Identifier: MIT
#
# What a release must have right beforehand (docs/releasing.md). TAP, as make check wants it.
set -u

source_dir=${QCOW2FS_SRCDIR:-$(cd "$(dirname "$0")/../../.." && pwd)}
qcow2fs=${QCOW2FS:-$source_dir/build/src/qcow2fs}
qcow2ctl=${QCOW2CTL:-$source_dir/build/src/qcow2ctl}
number=0

# report STATUS SENTENCE [DIAGNOSTICS]
report() {
    number=$((number + 1))
    if [ "$1" -eq 0 ]; then
        echo "ok $number - $2"
    else
        echo "not ok $number - $2"
        printf '%s\n' "${3-}" | sed 's/^/# /'
    fi
}

# worth WRONG: the status that this is worth, 0 where nothing is wrong.
worth() {
    if [ -z "$1" ]; then echo 0; else echo 1; fi
}

echo 1..4
version=$(sed -n 's/^AC_INIT(\[qcow2fs\], \[\(.*\)\])$/\1/p' "$source_dir/configure.ac")

wrong=$(for program in "$qcow2fs" "$qcow2ctl"; do
    "$program" -V 2>&1 | grep -qF " ${version:-(none)}" || echo "$program -V does not say $version"
done)
report "$(worth "$wrong")" "both programs tell the version of configure.ac" "$wrong"

wrong=$(for page in "$source_dir"/docs/*.1 "$source_dir"/docs/mount.qcow2.8; do
    grep -q "^\.TH .*\"qcow2fs $version\"" "$page" || echo "$page is not of $version"
done)
report "$(worth "$wrong")" "the man pages are those of that version" "$wrong"

first=$(grep -m 1 '^[0-9]' "$source_dir/NEWS")
case $first in "$version ("*) status=0 ;; *) status=1 ;; esac
report $status "NEWS begins with that version" "it begins with $first"

wrong=$("$source_dir/tests/floors" "$source_dir" 2>&1)
report $? "no file includes a header of a room above its own" "$wrong"
