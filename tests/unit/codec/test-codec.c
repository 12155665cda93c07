/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "codec/codec.h"
#include "suite.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <zlib.h>
#ifdef HAVE_ZSTD
#include <zstd.h>
#endif

#define CLUSTER_MIN 512
#define CLUSTER_MAX ((size_t)2 << 20)
#define CLUSTER     ((size_t)64 << 10)

/* A compressed cluster, what it holds, and room behind both. */
struct sample {
    size_t plain_size;
    size_t packed_size;
    uint8_t *plain;
    uint8_t *packed; /* PACKED_ROOM more bytes are allocated, zeros */
};

#define PACKED_ROOM 4096

static uint64_t random_next(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return *state >> 33;
}

/* Neither all random nor all repetition, so that every kind of symbol occurs. */
static void fill_plain(uint8_t *plain, size_t size, uint64_t seed)
{
    size_t i = 0;

    while (i < size) {
        size_t length = 1 + random_next(&seed) % 96;
        bool copy = i > 0 && random_next(&seed) % 2 == 0;
        size_t distance = copy ? 1 + random_next(&seed) % i : 0;

        for (; length > 0 && i < size; length--, i++) {
            plain[i] = copy ? plain[i - distance] : (uint8_t)random_next(&seed);
        }
    }
}

static size_t pack_deflate(const uint8_t *plain, size_t plain_size, uint8_t *packed, size_t room)
{
    z_stream stream = {0};
    size_t size;

    ck_assert_int_eq(deflateInit2(&stream, 9, Z_DEFLATED, -15, 9, Z_DEFAULT_STRATEGY), Z_OK);
    stream.next_in = (z_const Bytef *)(uintptr_t)plain;
    stream.avail_in = (uInt)plain_size;
    stream.next_out = packed;
    stream.avail_out = (uInt)room;
    ck_assert_int_eq(deflate(&stream, Z_FINISH), Z_STREAM_END);
    size = stream.total_out;
    deflateEnd(&stream);
    return size;
}

#ifdef HAVE_ZSTD
static size_t pack_zstd(const uint8_t *plain, size_t plain_size, uint8_t *packed, size_t room)
{
    size_t size = ZSTD_compress(packed, room, plain, plain_size, 3);

    ck_assert(!ZSTD_isError(size));
    return size;
}
#endif

static struct sample sample_make(uint8_t type, size_t plain_size, uint64_t seed)
{
    size_t room = plain_size + plain_size / 8 + PACKED_ROOM;
    struct sample sample = {.plain_size = plain_size};

    sample.plain = malloc(plain_size);
    sample.packed = calloc(1, room + PACKED_ROOM);
    ck_assert_ptr_nonnull(sample.plain);
    ck_assert_ptr_nonnull(sample.packed);
    fill_plain(sample.plain, plain_size, seed);
    if (type == COMPRESSION_DEFLATE) {
        sample.packed_size = pack_deflate(sample.plain, plain_size, sample.packed, room);
    }
#ifdef HAVE_ZSTD
    if (type == COMPRESSION_ZSTD) {
        sample.packed_size = pack_zstd(sample.plain, plain_size, sample.packed, room);
    }
#endif
    ck_assert_uint_gt(sample.packed_size, 0);
    return sample;
}

static void sample_free(struct sample *sample)
{
    free(sample->plain);
    free(sample->packed);
}

static struct codec *codec_make(uint8_t type, enum codec_backend backend)
{
    struct codec *codec;

    ck_assert_int_eq(codec_create(type, backend, &codec), 0);
    return codec;
}

/* Exactly sized buffers, so that AddressSanitizer sees every byte too far. */
static int decompress_exact(struct codec *codec, const uint8_t *packed, size_t packed_size,
                            uint8_t **output, size_t output_size)
{
    uint8_t *input = malloc(packed_size > 0 ? packed_size : 1);
    int result;

    ck_assert_ptr_nonnull(input);
    memcpy(input, packed, packed_size);
    *output = malloc(output_size);
    ck_assert_ptr_nonnull(*output);
    result = codec_decompress(codec, input, packed_size, *output, output_size);
    free(input);
    return result;
}

static void expect_plain(struct codec *codec, const struct sample *sample, size_t packed_size)
{
    uint8_t *output;

    ck_assert_int_eq(
        decompress_exact(codec, sample->packed, packed_size, &output, sample->plain_size), 0);
    ck_assert_int_eq(memcmp(output, sample->plain, sample->plain_size), 0);
    free(output);
}

static void expect_error(struct codec *codec, const uint8_t *packed, size_t packed_size,
                         size_t output_size)
{
    uint8_t *output;

    ck_assert_int_eq(decompress_exact(codec, packed, packed_size, &output, output_size), -EIO);
    free(output);
}

/* What the tests below run over: each compression type of this build with each backend. */
static const struct variant {
    uint8_t type;
    enum codec_backend backend;
} variants[] = {
    {COMPRESSION_DEFLATE, CODEC_FASTEST},
    {COMPRESSION_DEFLATE, CODEC_ZLIB},
#ifdef HAVE_ZSTD
    {COMPRESSION_ZSTD, CODEC_FASTEST},
    {COMPRESSION_ZSTD, CODEC_ZLIB},
#endif
};
#define VARIANTS ((int)(sizeof(variants) / sizeof(variants[0])))

START_TEST(clusters_of_every_size_come_back_exactly)
{
    struct codec *codec = codec_make(variants[_i].type, variants[_i].backend);

    for (size_t size = CLUSTER_MIN; size <= CLUSTER_MAX; size *= 2) {
        struct sample sample = sample_make(variants[_i].type, size, size);

        expect_plain(codec, &sample, sample.packed_size);
        sample_free(&sample);
    }
    codec_destroy(codec);
}
END_TEST

START_TEST(garbage_behind_the_data_is_ignored)
{
    static const size_t garbage[] = {1, 2, 7, 511, 512, PACKED_ROOM};
    struct codec *codec = codec_make(variants[_i].type, variants[_i].backend);
    struct sample sample = sample_make(variants[_i].type, CLUSTER, 2);

    for (size_t i = 0; i < sizeof(garbage) / sizeof(garbage[0]); i++) {
        expect_plain(codec, &sample, sample.packed_size + garbage[i]); /* zeros */
        memset(sample.packed + sample.packed_size, 0xff, garbage[i]);
        expect_plain(codec, &sample, sample.packed_size + garbage[i]);
        memset(sample.packed + sample.packed_size, 0, garbage[i]);
    }
    /* A second cluster's data, the likeliest garbage of all. */
    memcpy(sample.packed + sample.packed_size, sample.packed, 512);
    expect_plain(codec, &sample, sample.packed_size + 512);
    sample_free(&sample);
    codec_destroy(codec);
}
END_TEST

START_TEST(truncated_data_fails_wherever_it_was_cut)
{
    struct codec *codec = codec_make(variants[_i].type, variants[_i].backend);
    struct sample sample = sample_make(variants[_i].type, 4096, 3);

    /* The last bytes of a deflate stream may hold no more than its end mark. */
    for (size_t size = 0; size + 4 < sample.packed_size; size++) {
        expect_error(codec, sample.packed, size, sample.plain_size);
    }
    expect_plain(codec, &sample, sample.packed_size);
    sample_free(&sample);
    codec_destroy(codec);
}
END_TEST

START_TEST(empty_input_fails)
{
    struct codec *codec = codec_make(variants[_i].type, variants[_i].backend);
    uint8_t output[CLUSTER_MIN];

    ck_assert_int_eq(codec_decompress(codec, NULL, 0, output, sizeof(output)), -EIO);
    ck_assert_int_eq(codec_decompress(codec, "", 0, output, sizeof(output)), -EIO);
    codec_destroy(codec);
}
END_TEST

START_TEST(data_for_less_than_the_cluster_fails)
{
    struct codec *codec = codec_make(variants[_i].type, variants[_i].backend);
    struct sample sample = sample_make(variants[_i].type, CLUSTER - 1, 4);

    expect_error(codec, sample.packed, sample.packed_size, CLUSTER);
    expect_error(codec, sample.packed, sample.packed_size + PACKED_ROOM, CLUSTER);
    sample_free(&sample);
    codec_destroy(codec);
}
END_TEST

START_TEST(a_failure_does_not_spoil_the_next_cluster)
{
    struct codec *codec = codec_make(variants[_i].type, variants[_i].backend);
    struct sample sample = sample_make(variants[_i].type, CLUSTER, 5);

    for (int i = 0; i < 10; i++) {
        expect_error(codec, sample.packed, sample.packed_size / 2, sample.plain_size);
        expect_plain(codec, &sample, sample.packed_size);
    }
    sample_free(&sample);
    codec_destroy(codec);
}
END_TEST

/*
 * Runs both backends on `packed`. What the reference can read both can, and to
 * the same bytes. Counts in *lenient what only the fastest one takes: some code
 * tables that no compressor makes. Returns the verdict of the reference.
 */
static int decompress_compared(struct codec *fastest, struct codec *reference,
                               const uint8_t *packed, size_t packed_size, size_t output_size,
                               unsigned *lenient)
{
    uint8_t *fast_output, *output;
    int result = decompress_exact(reference, packed, packed_size, &output, output_size);
    int fast_result = decompress_exact(fastest, packed, packed_size, &fast_output, output_size);

    ck_assert(result == 0 || result == -EIO);
    ck_assert(fast_result == 0 || fast_result == -EIO);
    *lenient += fast_result == 0 && result != 0;
    if (result == 0) {
        ck_assert_int_eq(fast_result, 0);
        ck_assert_int_eq(memcmp(fast_output, output, output_size), 0);
    }
    free(fast_output);
    free(output);
    return result;
}

START_TEST(corrupted_data_gives_what_the_reference_gives)
{
    uint8_t type = variants[_i].type;
    struct codec *fastest = codec_make(type, CODEC_FASTEST);
    struct codec *reference = codec_make(type, CODEC_ZLIB);

    for (uint64_t seed = 0; seed < 3; seed++) {
        struct sample sample = sample_make(type, 4096, seed);
        unsigned failures = 0, lenient = 0;

        for (size_t i = 0; i < sample.packed_size; i++) {
            for (unsigned bit = 0; bit < 9; bit++) {
                uint8_t flip = (uint8_t)(bit < 8 ? 1U << bit : 0xff);

                sample.packed[i] ^= flip;
                failures +=
                    decompress_compared(fastest, reference, sample.packed, sample.packed_size,
                                        sample.plain_size, &lenient) != 0;
                sample.packed[i] ^= flip;
            }
        }
        ck_assert_uint_gt(failures, 0);
        ck_assert_uint_le(lenient, failures / 100);
        sample_free(&sample);
    }
    codec_destroy(fastest);
    codec_destroy(reference);
}
END_TEST

START_TEST(a_deflate_stream_longer_than_the_cluster_yields_the_cluster)
{
    struct codec *codec = codec_make(COMPRESSION_DEFLATE, variants[_i].backend);
    struct sample sample = sample_make(COMPRESSION_DEFLATE, 2 * CLUSTER, 6);

    for (size_t size = CLUSTER; size <= 2 * CLUSTER; size += 4093) {
        sample.plain_size = size;
        expect_plain(codec, &sample, sample.packed_size);
    }
    sample_free(&sample);
    codec_destroy(codec);
}
END_TEST

START_TEST(a_deflate_stream_cut_behind_its_last_byte_yields_the_cluster)
{
    struct codec *codec = codec_make(COMPRESSION_DEFLATE, variants[_i].backend);
    struct sample sample = sample_make(COMPRESSION_DEFLATE, CLUSTER, 7);
    z_stream stream = {0};

    /* A sync flush ends on a byte, and the stream without a last block. */
    ck_assert_int_eq(deflateInit2(&stream, 9, Z_DEFLATED, -15, 9, Z_DEFAULT_STRATEGY), Z_OK);
    stream.next_in = sample.plain;
    stream.avail_in = (uInt)sample.plain_size;
    stream.next_out = sample.packed;
    stream.avail_out = (uInt)(sample.packed_size + PACKED_ROOM);
    ck_assert_int_eq(deflate(&stream, Z_SYNC_FLUSH), Z_OK);
    ck_assert_uint_eq(stream.avail_in, 0);
    expect_plain(codec, &sample, stream.total_out);
    deflateEnd(&stream);
    sample_free(&sample);
    codec_destroy(codec);
}
END_TEST

struct reader {
    struct codec *codec;
    const struct sample *samples;
    uint64_t seed;
    unsigned wrong;
};

#define SAMPLES 8
#define READERS 8

static void *reader_run(void *argument)
{
    struct reader *reader = argument;
    uint8_t *output = malloc(CLUSTER);

    for (int i = 0; output != NULL && i < 100; i++) {
        const struct sample *sample = &reader->samples[random_next(&reader->seed) % SAMPLES];
        bool cut = random_next(&reader->seed) % 4 == 0;
        size_t size = cut ? sample->packed_size / 2 : sample->packed_size;
        int result =
            codec_decompress(reader->codec, sample->packed, size, output, sample->plain_size);

        reader->wrong +=
            cut ? result != -EIO : result != 0 || memcmp(output, sample->plain, CLUSTER) != 0;
    }
    reader->wrong += output == NULL;
    free(output);
    return NULL;
}

START_TEST(many_threads_share_one_codec)
{
    struct codec *codec = codec_make(variants[_i].type, variants[_i].backend);
    struct sample samples[SAMPLES];
    struct reader readers[READERS];
    pthread_t threads[READERS];

    for (uint64_t i = 0; i < SAMPLES; i++) {
        samples[i] = sample_make(variants[_i].type, CLUSTER, 100 + i);
    }
    for (uint64_t i = 0; i < READERS; i++) {
        readers[i] = (struct reader){.codec = codec, .samples = samples, .seed = i};
        ck_assert_int_eq(pthread_create(&threads[i], NULL, reader_run, &readers[i]), 0);
    }
    for (int i = 0; i < READERS; i++) {
        pthread_join(threads[i], NULL);
        ck_assert_uint_eq(readers[i].wrong, 0);
    }
    for (int i = 0; i < SAMPLES; i++) {
        sample_free(&samples[i]);
    }
    codec_destroy(codec);
}
END_TEST

/* What read_sample() copies, or the error in its place. */
struct source {
    const struct sample *sample;
    int error;
};

static int read_sample(void *context, void *input, size_t size)
{
    const struct source *source = context;

    memcpy(input, source->sample->packed, size);
    return source->error;
}

START_TEST(input_is_read_into_memory_of_the_codec)
{
    struct sample large = sample_make(COMPRESSION_DEFLATE, 4 * CLUSTER, 1);
    struct sample small = sample_make(COMPRESSION_DEFLATE, CLUSTER, 2);
    struct codec *codec = codec_make(COMPRESSION_DEFLATE, CODEC_FASTEST);
    const struct sample *samples[] = {&small, &large, &small};
    uint8_t *output = malloc(4 * CLUSTER);

    for (size_t i = 0; i < 3; i++) {
        const struct sample *sample = samples[i];
        struct source source = {.sample = sample};

        ck_assert_int_eq(codec_decompress_read(codec, read_sample, &source, sample->packed_size,
                                               output, sample->plain_size),
                         0);
        ck_assert_mem_eq(output, sample->plain, sample->plain_size);
        ck_assert_int_eq(codec_decompress_read(codec, read_sample, &source, sample->packed_size / 2,
                                               output, sample->plain_size),
                         -EBADMSG);
        source.error = -EIO;
        ck_assert_int_eq(codec_decompress_read(codec, read_sample, &source, sample->packed_size,
                                               output, sample->plain_size),
                         -EIO);
    }
    free(output);
    codec_destroy(codec);
    sample_free(&small);
    sample_free(&large);
}
END_TEST

START_TEST(types_have_the_names_of_qemu)
{
    ck_assert_str_eq(compression_type_name(COMPRESSION_DEFLATE), "zlib");
    ck_assert_str_eq(compression_type_name(COMPRESSION_ZSTD), "zstd");
    ck_assert_ptr_null(compression_type_name(2));
    ck_assert_ptr_null(compression_type_name(255));
}
END_TEST

START_TEST(a_type_that_the_build_cannot_read_is_refused_and_its_library_named)
{
    struct codec *codec = NULL;

    ck_assert_int_eq(codec_create(2, CODEC_FASTEST, &codec), -ENOTSUP);
    ck_assert_ptr_null(compression_type_missing(COMPRESSION_DEFLATE));
    ck_assert_ptr_null(compression_type_missing(2));
#ifdef HAVE_ZSTD
    ck_assert_ptr_null(compression_type_missing(COMPRESSION_ZSTD));
#else
    ck_assert_str_eq(compression_type_missing(COMPRESSION_ZSTD), "libzstd");
    ck_assert_int_eq(codec_create(COMPRESSION_ZSTD, CODEC_FASTEST, &codec), -ENOTSUP);
#endif
    codec_destroy(NULL);
}
END_TEST

#ifdef HAVE_ZSTD
START_TEST(zstd_frames_follow_one_another_until_the_cluster_is_full)
{
    struct codec *codec = codec_make(COMPRESSION_ZSTD, CODEC_FASTEST);
    struct sample sample = sample_make(COMPRESSION_ZSTD, CLUSTER, 8);
    size_t room = CLUSTER, third = CLUSTER / 3;
    size_t size = pack_zstd(sample.plain, third, sample.packed, room);

    /* An empty frame and a skippable one in the middle. */
    size += pack_zstd(sample.plain, 0, sample.packed + size, room - size);
    memcpy(sample.packed + size, "\x53\x2a\x4d\x18\x05\x00\x00\x00hello", 13);
    size += 13;
    size += pack_zstd(sample.plain + third, CLUSTER - third, sample.packed + size, room - size);
    expect_plain(codec, &sample, size);
    expect_plain(codec, &sample, size + 100);
    expect_error(codec, sample.packed, size - 1, CLUSTER);
    sample_free(&sample);
    codec_destroy(codec);
}
END_TEST

START_TEST(a_zstd_frame_that_holds_more_than_the_cluster_fails)
{
    struct codec *codec = codec_make(COMPRESSION_ZSTD, CODEC_FASTEST);
    struct sample sample = sample_make(COMPRESSION_ZSTD, CLUSTER, 9);

    expect_error(codec, sample.packed, sample.packed_size, CLUSTER - 1);
    expect_error(codec, sample.packed, sample.packed_size, CLUSTER / 2);
    sample_free(&sample);
    codec_destroy(codec);
}
END_TEST

START_TEST(zstd_frames_without_output_do_not_go_on_forever)
{
    struct codec *codec = codec_make(COMPRESSION_ZSTD, CODEC_FASTEST);
    uint8_t packed[4096] = {0};

    for (size_t i = 0; i < sizeof(packed); i += 8) { /* skippable frames of no content */
        memcpy(packed + i, "\x50\x2a\x4d\x18\x00\x00\x00\x00", 8);
    }
    expect_error(codec, packed, sizeof(packed), CLUSTER);
    memset(packed + 4, 0xff, 4); /* the first claims nearly 4 GiB */
    expect_error(codec, packed, sizeof(packed), CLUSTER);
    codec_destroy(codec);
}
END_TEST

START_TEST(a_zstd_frame_that_claims_the_largest_window_needs_no_such_memory)
{
    struct codec *codec = codec_make(COMPRESSION_ZSTD, CODEC_FASTEST);
    struct sample sample = sample_make(COMPRESSION_ZSTD, CLUSTER, 10);
    ZSTD_CCtx *cctx = ZSTD_createCCtx();
    ZSTD_inBuffer in = {sample.plain, CLUSTER, 0};
    ZSTD_outBuffer out = {sample.packed, sample.packed_size + PACKED_ROOM, 0};

    /* In a stream of unknown length the window's size stands behind magic and descriptor. */
    ck_assert_uint_gt(ZSTD_compressStream2(cctx, &out, &in, ZSTD_e_flush) + 1, 0);
    ck_assert_uint_eq(ZSTD_compressStream2(cctx, &out, &in, ZSTD_e_end), 0);
    ck_assert_uint_eq(sample.packed[4] & 0x20, 0);
    sample.packed[5] = /* 2 GiB, or 1 GiB where an address has 32 bits */
        (uint8_t)((ZSTD_dParam_getBounds(ZSTD_d_windowLogMax).upperBound - 10) << 3);
    /* A decoder with a window buffer refuses this frame. */
    expect_plain(codec, &sample, out.pos);
    ZSTD_freeCCtx(cctx);
    sample_free(&sample);
    codec_destroy(codec);
}
END_TEST

START_TEST(frames_from_before_the_zstd_format_was_fixed_fail)
{
    struct codec *codec = codec_make(COMPRESSION_ZSTD, CODEC_FASTEST);
    uint8_t packed[64] = {0};

    for (uint8_t version = 0x1e; version <= 0x27; version++) {
        memcpy(packed, (const uint8_t[]){version, 0xb5, 0x2f, 0xfd}, 4);
        expect_error(codec, packed, sizeof(packed), CLUSTER_MIN);
    }
    codec_destroy(codec);
}
END_TEST
#endif

static Suite *codec_suite(void)
{
    Suite *suite = suite_create("codec");
    TCase *tcase = tcase_create("codec");

    tcase_set_timeout(tcase, 120);
    tcase_add_loop_test(tcase, clusters_of_every_size_come_back_exactly, 0, VARIANTS);
    tcase_add_loop_test(tcase, garbage_behind_the_data_is_ignored, 0, VARIANTS);
    tcase_add_loop_test(tcase, truncated_data_fails_wherever_it_was_cut, 0, VARIANTS);
    tcase_add_loop_test(tcase, empty_input_fails, 0, VARIANTS);
    tcase_add_loop_test(tcase, data_for_less_than_the_cluster_fails, 0, VARIANTS);
    tcase_add_loop_test(tcase, a_failure_does_not_spoil_the_next_cluster, 0, VARIANTS);
    for (int i = 0; i < VARIANTS; i += 2) { /* this one runs both backends itself */
        tcase_add_loop_test(tcase, corrupted_data_gives_what_the_reference_gives, i, i + 1);
    }
    tcase_add_loop_test(tcase, a_deflate_stream_longer_than_the_cluster_yields_the_cluster, 0, 2);
    tcase_add_loop_test(tcase, a_deflate_stream_cut_behind_its_last_byte_yields_the_cluster, 0, 2);
    tcase_add_loop_test(tcase, many_threads_share_one_codec, 0, VARIANTS);
    tcase_add_test(tcase, input_is_read_into_memory_of_the_codec);
    tcase_add_test(tcase, types_have_the_names_of_qemu);
    tcase_add_test(tcase, a_type_that_the_build_cannot_read_is_refused_and_its_library_named);
#ifdef HAVE_ZSTD
    tcase_add_test(tcase, zstd_frames_follow_one_another_until_the_cluster_is_full);
    tcase_add_test(tcase, a_zstd_frame_that_holds_more_than_the_cluster_fails);
    tcase_add_test(tcase, zstd_frames_without_output_do_not_go_on_forever);
    tcase_add_test(tcase, a_zstd_frame_that_claims_the_largest_window_needs_no_such_memory);
    tcase_add_test(tcase, frames_from_before_the_zstd_format_was_fixed_fail);
#endif
    suite_add_tcase(suite, tcase);
    return suite;
}

int main(void)
{
    return suite_main(codec_suite());
}
