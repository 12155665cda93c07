/* SPDX-License-Identifier: MIT */
/* What is written to a writer that compresses, and how it lies in the file then. */
#include "config.h"

#include "codec/codec.h"
#include "disk/compressing.h"
#include "memory_store.h"
#include "meta/format.h"
#include "suite.h"
#include "writer_case.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define K       UINT64_C(1024)
#define CLUSTER (64 * K) /* of builder_defaults() */

static const struct writer_options compress = {.compress = "", .discard = true};

static void open_new(struct writer_case *subject, const struct builder_options *options)
{
    struct builder_options usual = builder_defaults();

    writer_case_build(subject, builder_create(options != NULL ? options : &usual), &compress);
}

static bool is_compressed(struct writer_case *subject, uint64_t guest_offset)
{
    return l2_entry_is_compressed(disk_l2_entry(subject->file, guest_offset));
}

/* Closes it, and looks at all of the file; it is opened again to see `length` bytes of a pattern.
 */
static void expect_kept(struct writer_case *subject, size_t length, uint32_t seed)
{
    struct store *file = writer_case_end(subject, NULL);

    expect_sound(file, false);
    writer_case_open(subject, file, &compress);
    expect_pattern(subject, 0, length, seed, 0);
    writer_case_close(subject);
}

/* Bytes that nothing makes smaller. */
static uint8_t *noise(size_t length)
{
    uint8_t *bytes = malloc(length);
    uint64_t state = 88172645463325252;

    ck_assert_ptr_nonnull(bytes);
    for (size_t i = 0; i < length; i++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes[i] = (uint8_t)(state >> 32);
    }
    return bytes;
}

/* --- What is compressed, and what is not
 * ---------------------------------------------------------- */

static void whole_clusters_are_compressed(const struct builder_options *options)
{
    struct writer_case subject;
    uint64_t first, second;
    uint32_t bits;

    open_new(&subject, options);
    bits = subject.image->header->cluster_bits;
    expect_write(&subject, 0, 8 << bits, 5);
    expect_pattern(&subject, 0, 8 << bits, 5, 0);
    expect_flush(&subject);
    for (uint64_t i = 0; i < 8; i++) {
        ck_assert(is_compressed(&subject, i << bits));
    }
    /* One behind the other, byte after byte, and counted as often. */
    first = l2_entry_compressed_offset(disk_l2_entry(subject.file, 0), bits);
    second = l2_entry_compressed_offset(disk_l2_entry(subject.file, UINT64_C(1) << bits), bits);
    ck_assert_uint_gt(second, first);
    ck_assert_uint_lt(second, first + (UINT64_C(1) << bits));
    if (options == NULL || options->refcount_order == 4) {
        ck_assert_uint_ge(disk_refcount(subject.file, first), 2);
    }
    expect_kept(&subject, 8 << bits, 5);
}

START_TEST(whole_clusters_that_are_new_are_compressed_and_share_clusters)
{
    whole_clusters_are_compressed(NULL);
}
END_TEST

START_TEST(so_they_are_in_every_kind_of_image)
{
    struct builder_options options = builder_defaults();

    switch (_i) {
    case 0:
        options.version = 2;
        break;
    case 1:
        options.extended_l2 = true;
        break;
    case 2:
        options.refcount_order = 2;
        break;
    case 3:
        options.cluster_bits = 12;
        break;
    default:
        options.compression_type = COMPRESSION_ZSTD;
        if (compression_type_missing(COMPRESSION_ZSTD) != NULL) {
            return;
        }
        break;
    }
    whole_clusters_are_compressed(&options);
}
END_TEST

START_TEST(where_a_count_has_one_bit_each_has_a_cluster_of_its_own)
{
    struct builder_options options = builder_defaults();
    struct writer_case subject;

    options.refcount_order = 0;
    open_new(&subject, &options);
    expect_write(&subject, 0, 8 * CLUSTER, 5);
    expect_flush(&subject);
    for (uint64_t i = 0; i < 8; i++) {
        uint64_t entry = disk_l2_entry(subject.file, i * CLUSTER);

        ck_assert(l2_entry_is_compressed(entry));
        ck_assert_uint_eq(l2_entry_compressed_offset(entry, 16) % CLUSTER, 0);
    }
    expect_kept(&subject, 8 * CLUSTER, 5);
}
END_TEST

START_TEST(what_does_not_get_smaller_is_plain)
{
    struct writer_case subject;
    uint8_t *bytes = noise(6 * CLUSTER), *seen = malloc(6 * CLUSTER);
    struct store *file;

    memset(bytes + 2 * CLUSTER, 7, 2 * CLUSTER);
    open_new(&subject, NULL);
    ck_assert_int_eq(writer_write(subject.writer, 0, bytes, 6 * CLUSTER), 0);
    expect_flush(&subject);
    for (uint64_t i = 0; i < 6; i++) {
        ck_assert_int_eq(is_compressed(&subject, i * CLUSTER), i == 2 || i == 3);
    }
    ck_assert_int_eq(view_read(subject.view, 0, seen, 6 * CLUSTER), 0);
    ck_assert_mem_eq(seen, bytes, 6 * CLUSTER);
    file = writer_case_end(&subject, NULL);
    expect_sound(file, false);
    store_close(file);
    free(bytes);
    free(seen);
}
END_TEST

START_TEST(parts_of_clusters_and_what_is_written_again_are_plain)
{
    struct writer_case subject;

    open_new(&subject, NULL);
    expect_write(&subject, 0, 3 * CLUSTER - 512, 1); /* the third in part */
    expect_write(&subject, 4 * CLUSTER, 2 * CLUSTER, 2);
    expect_write(&subject, 4 * CLUSTER + 4096, 512, 3); /* into one that is compressed */
    expect_flush(&subject);
    ck_assert(is_compressed(&subject, 0));
    ck_assert(!is_compressed(&subject, 2 * CLUSTER));
    ck_assert(!is_compressed(&subject, 4 * CLUSTER));
    ck_assert(is_compressed(&subject, 5 * CLUSTER));
    expect_pattern(&subject, 0, 3 * CLUSTER - 512, 1, 0);
    expect_zeros(&subject, 3 * CLUSTER - 512, 512);
    expect_pattern(&subject, 4 * CLUSTER, 4096, 2, 0);
    expect_pattern(&subject, 4 * CLUSTER + 4096, 512, 3, 0);
    expect_pattern(&subject, 4 * CLUSTER + 4608, 2 * CLUSTER - 4608, 2, 4608);
    expect_write(&subject, 0, 3 * CLUSTER, 4); /* all of them, once more */
    expect_flush(&subject);
    ck_assert(!is_compressed(&subject, 0));
    expect_kept(&subject, 3 * CLUSTER, 4);
}
END_TEST

START_TEST(a_write_that_begins_and_ends_within_clusters_has_those_between_compressed)
{
    struct writer_case subject;

    open_new(&subject, NULL);
    expect_write(&subject, 4096, 4 * CLUSTER, 1);
    expect_flush(&subject);
    for (uint64_t i = 0; i < 5; i++) {
        ck_assert_int_eq(is_compressed(&subject, i * CLUSTER), i > 0 && i < 4);
    }
    expect_zeros(&subject, 0, 4096);
    expect_pattern(&subject, 4096, 4 * CLUSTER, 1, 0);
    expect_zeros(&subject, 4 * CLUSTER + 4096, CLUSTER - 4096);
    writer_case_close(&subject);
}
END_TEST

START_TEST(a_cluster_in_which_the_disk_ends_is_whole_and_has_zeros_behind_that)
{
    struct builder_options options = builder_defaults();
    struct writer_case subject;

    options.virtual_size = 2 * CLUSTER + 1536;
    open_new(&subject, &options);
    expect_write(&subject, 0, 2 * CLUSTER + 1536, 1);
    expect_flush(&subject);
    ck_assert(is_compressed(&subject, 2 * CLUSTER));
    ck_assert_int_eq(writer_resize(subject.writer, 3 * CLUSTER, NULL), 0);
    expect_pattern(&subject, 0, 2 * CLUSTER + 1536, 1, 0);
    expect_zeros(&subject, 2 * CLUSTER + 1536, CLUSTER - 1536);
    expect_kept(&subject, 2 * CLUSTER + 1536, 1);
}
END_TEST

START_TEST(a_part_of_it_that_reaches_the_end_is_plain)
{
    struct builder_options options = builder_defaults();
    struct writer_case subject;

    options.virtual_size = 2 * CLUSTER + 1536;
    open_new(&subject, &options);
    expect_write(&subject, 2 * CLUSTER + 512, 1024, 1);
    expect_flush(&subject);
    ck_assert(!is_compressed(&subject, 2 * CLUSTER));
    expect_zeros(&subject, 2 * CLUSTER, 512);
    expect_pattern(&subject, 2 * CLUSTER + 512, 1024, 1, 0);
    writer_case_close(&subject);
}
END_TEST

START_TEST(a_cluster_with_a_place_of_its_own_keeps_it)
{
    struct builder_options options = builder_defaults();
    struct builder *builder = builder_create(&options);
    uint64_t zero = builder_zero(builder, CLUSTER, true);
    struct writer_case subject;

    writer_case_build(&subject, builder, &compress);
    expect_write(&subject, 0, 3 * CLUSTER, 1);
    expect_flush(&subject);
    ck_assert(is_compressed(&subject, 0));
    ck_assert_uint_eq(disk_l2_entry(subject.file, CLUSTER), zero | ENTRY_COPIED);
    ck_assert(is_compressed(&subject, 2 * CLUSTER));
    expect_kept(&subject, 3 * CLUSTER, 1);
}
END_TEST

START_TEST(a_cluster_that_was_discarded_is_new)
{
    struct writer_case subject;

    open_new(&subject, NULL);
    expect_write(&subject, 0, 4 * CLUSTER, 1);
    expect_zero(&subject, 0, 4 * CLUSTER, true);
    expect_flush(&subject);
    expect_zeros(&subject, 0, 4 * CLUSTER);
    expect_write(&subject, 0, 4 * CLUSTER, 2);
    expect_flush(&subject);
    ck_assert(is_compressed(&subject, 3 * CLUSTER));
    expect_kept(&subject, 4 * CLUSTER, 2);
}
END_TEST

/* --- R1, R4
 * ---------------------------------------------------------------------------------------- */

START_TEST(the_entry_is_written_when_the_data_is_stable)
{
    struct writer_case subject;
    struct memory_log *log = memory_log_create();
    uint64_t place, data_at, entry_at;
    size_t data = 0, entry = 0, sync = 0;

    open_new(&subject, NULL);
    expect_write(&subject, CLUSTER, CLUSTER, 1); /* has an L2 table made */
    expect_flush(&subject);
    memory_store_set_log(subject.file, log);
    expect_write(&subject, 0, CLUSTER, 2);
    expect_flush(&subject);
    place = disk_l2_entry(subject.file, 0);
    ck_assert(l2_entry_is_compressed(place));
    data_at = l2_entry_compressed_offset(place, 16);
    entry_at = disk_l2_place(subject.file, 0);
    for (size_t i = 0; i < memory_log_count(log); i++) {
        const struct memory_log_entry *each = memory_log_at(log, i);

        if (each->kind == MEMORY_LOG_SYNC && data > 0 && entry == 0) {
            sync = i;
        } else if (each->kind == MEMORY_LOG_WRITE && each->offset == data_at) {
            data = i + 1;
        } else if (each->kind == MEMORY_LOG_WRITE && each->offset <= entry_at &&
                   entry_at < each->offset + each->length) {
            entry = i;
        }
    }
    ck_assert_uint_gt(data, 0);
    ck_assert_uint_gt(sync, 0);
    ck_assert_uint_gt(entry, sync); /* R1 */
    writer_case_close(&subject);
    memory_log_destroy(log);
}
END_TEST

/* The cache knows decompressed clusters by their place, which is handed out again. */
START_TEST(what_was_read_of_a_place_is_not_shown_when_something_else_lies_there)
{
    struct writer_case subject;
    struct builder_options options = builder_defaults();
    uint64_t first = 0;
    unsigned again = 0;

    options.cluster_bits = 18; /* runs of 1 MiB have few */
    open_new(&subject, &options);
    for (unsigned i = 0; i < 100 && again == 0; i++) {
        expect_write(&subject, 0, 4 * CLUSTER, i);
        expect_pattern(&subject, 0, 512, i, 0); /* now it is in the cache */
        expect_flush(&subject);
        first = i == 0 ? disk_l2_entry(subject.file, 0) : first;
        again += i > 0 && disk_l2_entry(subject.file, 0) == first;
        expect_zero(&subject, 0, 4 * CLUSTER, true);
        expect_flush(&subject);
    }
    ck_assert_uint_gt(again, 0); /* or this test sees nothing */
    writer_case_close(&subject);
}
END_TEST

/* --- Requests that meet
 * ------------------------------------------------------------------------------ */

struct request {
    struct writer_case *subject;
    uint64_t guest_offset;
    size_t length;
    const uint8_t *data;
    int result;
    pthread_t thread;
};

static void *do_request(void *context)
{
    struct request *request = context;

    request->result = writer_write(request->subject->writer, request->guest_offset, request->data,
                                   request->length);
    return NULL;
}

/*
 * Has it write its first cluster, which it is kept from, having offered its part of the second. As
 * counts are lazy no other write comes before that one, with a lock held.
 */
static void begin_first(struct writer_case *subject, struct request *first)
{
    static const struct writer_options lazy = {.compress = "",
                                               .lazy_refcounts = {.set = true, .value = true}};
    struct builder_options options = builder_defaults();

    writer_case_build(subject, builder_create(&options), &lazy);
    expect_write(subject, 8 * CLUSTER, CLUSTER, 9);
    memory_store_hold_write(subject->file);
    ck_assert_int_eq(pthread_create(&first->thread, NULL, do_request, first), 0);
    memory_store_wait_blocked(subject->file, 1);
}

START_TEST(of_two_requests_that_meet_within_a_cluster_the_second_writes_that_for_both)
{
    struct writer_case subject;
    uint8_t *bytes = malloc(4 * CLUSTER);
    struct request first = {.subject = &subject, .length = CLUSTER + 20 * K, .data = bytes};

    ck_assert_ptr_nonnull(bytes);
    builder_pattern(bytes, 4 * CLUSTER, 1);
    begin_first(&subject, &first);
    ck_assert_int_eq(writer_write(subject.writer, first.length, bytes + first.length,
                                  4 * CLUSTER - first.length),
                     0);
    expect_pattern(&subject, CLUSTER, 3 * CLUSTER, 1, CLUSTER);
    memory_store_release_write(subject.file);
    ck_assert_int_eq(pthread_join(first.thread, NULL), 0);
    ck_assert_int_eq(first.result, 0);
    expect_flush(&subject);
    for (uint64_t i = 0; i < 4; i++) {
        ck_assert(is_compressed(&subject, i * CLUSTER));
    }
    expect_kept(&subject, 4 * CLUSTER, 1);
    free(bytes);
}
END_TEST

START_TEST(what_the_second_could_not_write_fails_for_both)
{
    struct writer_case subject;
    uint8_t *bytes = malloc(4 * CLUSTER);
    struct request first = {.subject = &subject, .length = CLUSTER + 20 * K, .data = bytes};
    struct store *file;

    ck_assert_ptr_nonnull(bytes);
    builder_pattern(bytes, 4 * CLUSTER, 1);
    begin_first(&subject, &first);
    memory_store_fail_from(subject.file, MEMORY_STORE_WRITE, 1, ENOSPC);
    ck_assert_int_eq(writer_write(subject.writer, first.length, bytes + first.length,
                                  4 * CLUSTER - first.length),
                     -ENOSPC);
    memory_store_fail_from(subject.file, MEMORY_STORE_WRITE, 0, 0);
    memory_store_release_write(subject.file);
    ck_assert_int_eq(pthread_join(first.thread, NULL), 0);
    ck_assert_int_eq(first.result, -ENOSPC);
    /* Nothing stands in the way of trying again. */
    ck_assert_int_eq(writer_write(subject.writer, 0, bytes, 4 * CLUSTER), 0);
    expect_pattern(&subject, 0, 4 * CLUSTER, 1, 0);
    file = writer_case_end(&subject, NULL);
    expect_sound(file, false);
    store_close(file);
    free(bytes);
}
END_TEST

/* --- A host that fails
 * ------------------------------------------------------------------------------- */

START_TEST(whichever_call_fails_the_disk_shows_the_old_or_the_new_and_loses_no_cluster)
{
    static const enum memory_store_call calls[] = {MEMORY_STORE_WRITE, MEMORY_STORE_RESIZE,
                                                   MEMORY_STORE_READ};
    static const int errors[] = {ENOSPC, EIO, EFBIG};
    struct writer_case subject;
    struct store *file;

    for (unsigned n = 1; n < 8; n++) {
        uint8_t *bytes = malloc(8 * CLUSTER), *seen = malloc(8 * CLUSTER);
        int result;

        builder_pattern(bytes, 8 * CLUSTER, n);
        open_new(&subject, NULL);
        memory_store_fail(subject.file, calls[_i % 3], n, errors[_i / 3]);
        result = writer_write(subject.writer, 0, bytes, 8 * CLUSTER);
        memory_store_fail(subject.file, calls[_i % 3], 0, 0);
        ck_assert_int_eq(view_read(subject.view, 0, seen, 8 * CLUSTER), 0);
        for (uint64_t at = 0; at < 8 * CLUSTER; at += 512) {
            if (memcmp(seen + at, bytes + at, 512) != 0 && (result == 0 || seen[at + 511] != 0)) {
                ck_abort_msg("call %u: neither the old nor the new", n);
            }
        }
        ck_assert_int_eq(writer_write(subject.writer, 0, bytes, 8 * CLUSTER), 0);
        expect_pattern(&subject, 0, 8 * CLUSTER, n, 0);
        file = writer_case_end(&subject, NULL);
        expect_sound(file, false);
        store_close(file);
        free(bytes);
        free(seen);
    }
}
END_TEST

/* --- Images that have no compressed clusters
 * --------------------------------------------------------- */

static void expect_refused(const struct header *header, const char *type, const char *words)
{
    struct error error = {0};

    ck_assert_int_eq(compressing_check(header, type, "a.qcow2", &error), -EINVAL);
    ck_assert_msg(strstr(error.text, words) != NULL, "%s", error.text);
    ck_assert_ptr_null(strchr(error.text, '\n'));
}

START_TEST(the_type_is_that_of_the_image)
{
    struct header header = {.cluster_bits = 16, .cluster_size = CLUSTER};
    struct error error = {0};

    ck_assert_int_eq(compressing_check(&header, "", "a.qcow2", &error), 0);
    ck_assert_int_eq(compressing_check(&header, "zlib", "a.qcow2", &error), 0);
    expect_refused(&header, "zstd", "the compression type of this image is zlib");
    header.compression_type = COMPRESSION_ZSTD;
    expect_refused(&header, "zlib", "the compression type of this image is zstd");
    if (compression_type_missing(COMPRESSION_ZSTD) == NULL) {
        ck_assert_int_eq(compressing_check(&header, "zstd", "a.qcow2", &error), 0);
    } else {
        expect_refused(&header, "", "built without");
    }
}
END_TEST

START_TEST(images_that_can_have_no_compressed_clusters_are_refused_with_a_sentence)
{
    const struct header usual = {.cluster_bits = 16, .cluster_size = CLUSTER};
    struct header header = usual;

    header.external_data_file = true;
    expect_refused(&header, "", "data file");
    header = usual;
    header.crypt_method = CRYPT_LUKS;
    expect_refused(&header, "", "encrypted");
    header = usual;
    header.cluster_bits = 21;
    header.cluster_size = 2048 * K;
    expect_refused(&header, "", "2 MiB");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("compressing");
    TCase *tcase = tcase_create("compressing");

    tcase_add_test(tcase, whole_clusters_that_are_new_are_compressed_and_share_clusters);
    tcase_add_loop_test(tcase, so_they_are_in_every_kind_of_image, 0, 5);
    tcase_add_test(tcase, where_a_count_has_one_bit_each_has_a_cluster_of_its_own);
    tcase_add_test(tcase, what_does_not_get_smaller_is_plain);
    tcase_add_test(tcase, parts_of_clusters_and_what_is_written_again_are_plain);
    tcase_add_test(tcase,
                   a_write_that_begins_and_ends_within_clusters_has_those_between_compressed);
    tcase_add_test(tcase, a_cluster_in_which_the_disk_ends_is_whole_and_has_zeros_behind_that);
    tcase_add_test(tcase, a_part_of_it_that_reaches_the_end_is_plain);
    tcase_add_test(tcase, a_cluster_with_a_place_of_its_own_keeps_it);
    tcase_add_test(tcase, a_cluster_that_was_discarded_is_new);
    tcase_add_test(tcase, the_entry_is_written_when_the_data_is_stable);
    tcase_add_test(tcase, what_was_read_of_a_place_is_not_shown_when_something_else_lies_there);
    tcase_add_test(tcase,
                   of_two_requests_that_meet_within_a_cluster_the_second_writes_that_for_both);
    tcase_add_test(tcase, what_the_second_could_not_write_fails_for_both);
    tcase_add_loop_test(
        tcase, whichever_call_fails_the_disk_shows_the_old_or_the_new_and_loses_no_cluster, 0, 9);
    tcase_add_test(tcase, the_type_is_that_of_the_image);
    tcase_add_test(tcase, images_that_can_have_no_compressed_clusters_are_refused_with_a_sentence);
    suite_add_tcase(suite, tcase);
    return suite_main(suite);
}
