#!/bin/bash -eu
# SPDX-License-Identifier: MIT
#
# Builds the fuzz targets as OSS-Fuzz wants them: called in the sources, with its $CC, $CFLAGS,
# $LIB_FUZZING_ENGINE, $OUT and $WORK. A target stands alone in $OUT, so libraries are linked statically.

targets="bitmaps image luks partitions snapshots structure text"
top=$PWD
build=$WORK/qcow2fs

static() {
    printf -- '-l:lib%s.a ' "$@"
}

./autogen.sh
mkdir -p "$build"
cd "$build"
export ZLIB_LIBS ZSTD_LIBS LIBDEFLATE_LIBS JANSSON_LIBS GCRYPT_LIBS CHECK_LIBS
ZLIB_LIBS=$(static z)
ZSTD_LIBS=$(static zstd)
LIBDEFLATE_LIBS=$(static deflate)
JANSSON_LIBS=$(static jansson)
GCRYPT_LIBS=$(static gcrypt gpg-error)
CHECK_LIBS="$(static check_pic subunit) -lrt -lm"
ZLIB_CFLAGS=' ' ZSTD_CFLAGS=' ' LIBDEFLATE_CFLAGS=' ' JANSSON_CFLAGS=' ' GCRYPT_CFLAGS=' ' CHECK_CFLAGS=' ' \
    "$top/configure" --enable-fuzzers --without-blkid

for target in $targets; do
    make -j"$(nproc)" "tests/fuzz/fuzz-$target"
    cp "tests/fuzz/fuzz-$target" "$OUT/"
    # The inputs to begin with: those that are kept, and those that the target makes itself.
    seeds=$(mktemp -d)
    QCOW2FS_FUZZ_SEEDS=$seeds "tests/fuzz/fuzz-$target"
    zip -q -j -r "$OUT/fuzz-${target}_seed_corpus.zip" "$seeds" "$top/tests/fuzz/corpus/$target"
    rm -r "$seeds"
    if [ -e "$top/contrib/oss-fuzz/$target.dict" ]; then
        cp "$top/contrib/oss-fuzz/$target.dict" "$OUT/fuzz-$target.dict"
    fi
done
