#!/bin/sh
# SPDX-License-Identifier: MIT
#
# The man pages say what the programs say, and are well-formed. TAP, as make check wants it.
set -u

source_dir=${QCOW2FS_SRCDIR:-$(cd "$(dirname "$0")/../../.." && pwd)}
qcow2fs=${QCOW2FS:-$source_dir/build/src/qcow2fs}
qcow2ctl=${QCOW2CTL:-$source_dir/build/src/qcow2ctl}
PATH=$PATH:/usr/sbin:/sbin

work=$(mktemp -d) || exit 99
trap 'rm -rf "$work"' EXIT
number=0

# report STATUS SENTENCE FILE: one TAP line, and FILE as diagnostics of a failure.
report() {
    number=$((number + 1))
    if [ "$1" -eq 0 ]; then
        echo "ok $number - $2"
    else
        echo "not ok $number - $2"
        sed 's/^/# /' "$3"
    fi
}

# same_options PAGE WHAT PROGRAM...: the list of options in PAGE that begins and ends with the
# comments "BEGIN OPTIONS WHAT" and "END OPTIONS" is what PROGRAM --help=man prints.
same_options() {
    page=$1
    what=$2
    shift 2
    status=0
    "$@" --help=man >"$work/program" 2>"$work/difference" || status=$?
    if [ $status -eq 0 ]; then
        awk -v begin=".\\\\\" BEGIN OPTIONS $what" '
            /^\.\\" END OPTIONS/ { inside = 0 }
            inside { print }
            $0 == begin { inside = 1 }' "$source_dir/docs/$page" >"$work/page"
        [ -s "$work/page" ] || echo "docs/$page has no such list" >"$work/page"
        diff -u --label "docs/$page" --label "--help=man" "$work/page" "$work/program" \
            >"$work/difference" 2>&1 || status=$?
    fi
    report $status "the options in docs/$page are those of --help=man: $what" "$work/difference"
}

# well_formed PAGE
well_formed() {
    if command -v mandoc >/dev/null; then
        mandoc -Tlint -Wwarning "$source_dir/docs/$1" >"$work/lint" 2>&1
        status=$?
        [ ! -s "$work/lint" ] || status=1
        report $status "mandoc has no warning about docs/$1" "$work/lint"
    elif [ "${CI-}" = true ]; then
        report 1 "mandoc has no warning about docs/$1: mandoc is not installed" /dev/null
    else
        report 0 "mandoc has no warning about docs/$1 # SKIP mandoc is not installed" /dev/null
    fi
}

# named_options PAGE SCRIPT: each option that SCRIPT --help begins a line with is in PAGE.
named_options() {
    status=0
    python3 "$source_dir/$2" --help >"$work/help" 2>"$work/missing" || status=$?
    sed -n 's/^  \(-[-a-z]*\)[ ,].*/\1/p' "$work/help" >"$work/options"
    [ -s "$work/options" ] || status=1
    while read -r option; do
        grep -qF -- "$(printf %s "$option" | sed 's/-/\\-/g')" "$source_dir/docs/$1" || {
            echo "docs/$1 does not name $option" >>"$work/missing"
            status=1
        }
    done <"$work/options"
    report $status "docs/$1 names each option of $2" "$work/missing"
}

# installed PAGE...: make install would install each.
installed() {
    status=0
    for page; do
        grep -q "^dist_man_MANS = .*docs/$page" "$source_dir/Makefile.am" || status=1
    done
    report $status "the man pages are installed: $*" /dev/null
}

commands=$("$qcow2ctl" --help=names | grep -v '^-')
# shellcheck disable=SC2086 # a list of words
set -- $commands
echo "1..$(($# + 7))"
same_options qcow2fs.1 '(from qcow2fs --help=man)' "$qcow2fs"
for command; do
    same_options qcow2ctl.1 "$command" "$qcow2ctl" "$command"
done
well_formed qcow2fs.1
well_formed qcow2ctl.1
well_formed qcow2fs-domain.1
well_formed mount.qcow2.8
named_options qcow2fs-domain.1 contrib/libvirt/qcow2fs-domain
installed qcow2fs.1 qcow2ctl.1 qcow2fs-domain.1
