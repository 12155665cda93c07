/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "codec/compress.h"
#include "suite.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <zlib.h>

#define CLUSTER_MIN 512
#define CLUSTER_MAX ((size_t)2 << 20)

static const size_t sizes[] = {CLUSTER_MIN, 4096, 65536, CLUSTER_MAX};

/* Each compressor that this build has. */
static const struct {
    uint8_t type;
    enum codec_backend backend;
} kinds[] = {
    {COMPRESSION_DEFLATE, CODEC_FASTEST},
    {COMPRESSION_DEFLATE, CODEC_ZLIB},
#ifdef HAVE_ZSTD
    {COMPRESSION_ZSTD, CODEC_FASTEST},
#endif
};

#define KINDS (sizeof(kinds) / sizeof(kinds[0]))
#define SIZES (sizeof(sizes) / sizeof(sizes[0]))

static uint64_t random_next(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return *state >> 33;
}

/* `letters` different bytes: 1 compresses to nothing, 256 not at all. */
static uint8_t *make(size_t size, unsigned letters)
{
    uint64_t state = size + letters;
    uint8_t *plain = malloc(size);

    ck_assert_ptr_nonnull(plain);
    for (size_t i = 0; i < size; i++) {
        plain[i] = (uint8_t)(random_next(&state) % letters);
    }
    return plain;
}

static struct compressor *compressor_make(unsigned kind)
{
    struct compressor *compressor;

    ck_assert_int_eq(compressor_create(kinds[kind].type, kinds[kind].backend, &compressor), 0);
    return compressor;
}

/* Into memory of exactly `room` bytes, and back again with every decoder. */
static size_t roundtrip(struct compressor *compressor, uint8_t type, const uint8_t *plain,
                        size_t size, size_t room)
{
    uint8_t *packed = malloc(room), *again = malloc(size);
    size_t length = compressor_run(compressor, plain, size, packed, room);

    ck_assert_uint_le(length, room);
    for (unsigned backend = CODEC_FASTEST; backend <= CODEC_ZLIB && length > 0; backend++) {
        struct codec *codec;

        ck_assert_int_eq(codec_create(type, (enum codec_backend)backend, &codec), 0);
        memset(again, 0xa5, size);
        ck_assert_int_eq(codec_decompress(codec, packed, length, again, size), 0);
        ck_assert_int_eq(memcmp(again, plain, size), 0);
        codec_destroy(codec);
    }
    free(packed);
    free(again);
    return length;
}

START_TEST(what_is_compressed_can_be_read_again)
{
    unsigned kind = (unsigned)_i % KINDS;
    size_t size = sizes[(unsigned)_i / KINDS];
    struct compressor *compressor = compressor_make(kind);

    /* One after the other by the same compressor: nothing of one is in the next. */
    for (unsigned letters = 1; letters <= 64; letters *= 4) {
        uint8_t *plain = make(size, letters);
        size_t length = roundtrip(compressor, kinds[kind].type, plain, size, size - 1);

        ck_assert_uint_gt(length, 0);
        if (letters == 1 && size > CLUSTER_MIN) {
            ck_assert_uint_lt(length, size / 100);
        }
        free(plain);
    }
    compressor_destroy(compressor);
}
END_TEST

START_TEST(what_does_not_get_smaller_is_not_compressed)
{
    unsigned kind = (unsigned)_i % KINDS;
    size_t size = sizes[(unsigned)_i / KINDS];
    struct compressor *compressor = compressor_make(kind);
    uint8_t *plain = make(size, 256), *simple = make(size, 2);
    size_t length;

    ck_assert_uint_eq(roundtrip(compressor, kinds[kind].type, plain, size, size - 1), 0);
    /* Nor what would fit with one byte more; afterwards it works as before. */
    length = roundtrip(compressor, kinds[kind].type, simple, size, size - 1);
    ck_assert_uint_gt(length, 0);
    ck_assert_uint_eq(roundtrip(compressor, kinds[kind].type, simple, size, length / 2), 0);
    ck_assert_uint_eq(roundtrip(compressor, kinds[kind].type, simple, size, 0), 0);
    ck_assert_uint_eq(roundtrip(compressor, kinds[kind].type, simple, size, size - 1), length);
    free(simple);
    free(plain);
    compressor_destroy(compressor);
}
END_TEST

/* The size that QEMU's way of compressing has: zlib's default level, looking back 4 KiB. */
static size_t size_of_qemu(const uint8_t *plain, size_t size)
{
    z_stream stream = {0};
    uint8_t *packed = malloc(2 * size);
    size_t length;

    ck_assert_int_eq(
        deflateInit2(&stream, Z_DEFAULT_COMPRESSION, Z_DEFLATED, -12, 9, Z_DEFAULT_STRATEGY), Z_OK);
    stream.next_in = (z_const Bytef *)(uintptr_t)plain;
    stream.avail_in = (uInt)size;
    stream.next_out = packed;
    stream.avail_out = (uInt)(2 * size);
    ck_assert_int_eq(deflate(&stream, Z_FINISH), Z_STREAM_END);
    length = stream.total_out;
    deflateEnd(&stream);
    free(packed);
    return length;
}

/* Of this program, as a disk would hold it. */
START_TEST(deflate_is_not_larger_than_with_qemu)
{
    struct compressor *compressor = compressor_make((unsigned)_i);
    size_t size = 65536, ours = 0, of_qemu = 0, clusters = 0;
    uint8_t *plain = malloc(size);
    FILE *file = fopen("/proc/self/exe", "rb");

    ck_assert_ptr_nonnull(file);
    while (fread(plain, size, 1, file) == 1) {
        ours += roundtrip(compressor, COMPRESSION_DEFLATE, plain, size, size - 1);
        of_qemu += size_of_qemu(plain, size);
        clusters++;
    }
    fclose(file);
    ck_assert_uint_gt(clusters, 0);
    ck_assert_uint_le(ours, of_qemu * 102 / 100);
    free(plain);
    compressor_destroy(compressor);
}
END_TEST

START_TEST(a_type_that_is_not_known_is_refused)
{
    struct compressor *compressor;

    ck_assert_int_eq(compressor_create(2, CODEC_FASTEST, &compressor), -ENOTSUP);
    ck_assert_ptr_null(compressor);
    compressor_destroy(NULL);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("compress");
    TCase *tests = tcase_create("all");

    tcase_add_loop_test(tests, what_is_compressed_can_be_read_again, 0, KINDS * SIZES);
    tcase_add_loop_test(tests, what_does_not_get_smaller_is_not_compressed, 0, KINDS * SIZES);
    tcase_add_loop_test(tests, deflate_is_not_larger_than_with_qemu, 0, 2);
    tcase_add_test(tests, a_type_that_is_not_known_is_refused);
    suite_add_tcase(suite, tests);
    return suite_main(suite);
}
