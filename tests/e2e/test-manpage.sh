#!/bin/sh
# SPDX-License-Identifier: MIT
#
# The man page says what the program says, and is well-formed. TAP, as make check wants it.
set -u

source_dir=${QCOW2FS_SRCDIR:-$(cd "$(dirname "$0")/../.." && pwd)}
program=${QCOW2FS:-$source_dir/build/src/qcow2fs}
page=$source_dir/docs/qcow2fs.1
PATH=$PATH:/usr/sbin:/sbin

work=$(mktemp -d) || exit 99
trap 'rm -rf "$work"' EXIT

# report STATUS NUMBER SENTENCE FILE: one TAP line, and FILE as diagnostics of a failure.
report() {
    if [ "$1" -eq 0 ]; then
        echo "ok $2 - $3"
    else
        echo "not ok $2 - $3"
        sed 's/^/# /' "$4"
    fi
}

echo 1..3

"$program" --help=man >"$work/program" 2>"$work/errors"
status=$?
[ $status -ne 0 ] || [ -s "$work/program" ] || {
    echo "qcow2fs --help=man prints nothing" >"$work/errors"
    status=1
}
report $status 1 'qcow2fs --help=man prints the list of options' "$work/errors"

awk '/^\.\\" END OPTIONS/ { exit }
     inside { print }
     /^\.\\" BEGIN OPTIONS \(from qcow2fs --help=man\)/ { inside = 1 }' "$page" >"$work/page"
[ -s "$work/page" ] || echo "docs/qcow2fs.1 has no such list" >"$work/page"
diff -u --label docs/qcow2fs.1 --label 'qcow2fs --help=man' "$work/page" "$work/program" \
    >"$work/difference" 2>&1
report $? 2 'the options in docs/qcow2fs.1 are those of qcow2fs --help=man' "$work/difference"

if command -v mandoc >/dev/null; then
    mandoc -Tlint -Wwarning "$page" >"$work/lint" 2>&1
    status=$?
    [ ! -s "$work/lint" ] || status=1
    report $status 3 'mandoc has no warning about docs/qcow2fs.1' "$work/lint"
else
    echo 'ok 3 - mandoc has no warning about docs/qcow2fs.1 # SKIP mandoc is not installed'
fi
