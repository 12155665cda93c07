/* SPDX-License-Identifier: MIT */
/* Many threads that read one view. */
#include "config.h"

#include "assemble.h"
#include "builder.h"
#include "disk/prefetch.h"
#include "disk/view.h"
#include "memory_store.h"
#include "suite.h"
#include "util/process.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define K        UINT64_C(1024)
#define THREADS  16
#define CLUSTER  (4 * K)
#define CLUSTERS UINT64_C(200)
#define SIZE     (CLUSTERS * CLUSTER)

/* An image of data, compressed, zero and unallocated clusters in turn, with what it reads as. */
struct subject {
    struct image *image;
    struct view *view;
    uint8_t *expected;
    uint64_t data, compressed; /* host offsets of clusters 0 and 1 */
};

static void subject_open(struct subject *subject, const struct cache_options *options)
{
    struct builder_options made = builder_defaults();
    struct error error = {0};
    struct builder *builder;
    uint8_t *bytes;

    made.cluster_bits = 12;
    made.virtual_size = SIZE;
    builder = builder_create(&made);
    subject->expected = bytes = calloc(1, SIZE);
    for (uint64_t at = 0; at < SIZE; at += 4 * CLUSTER) {
        uint64_t data, compressed;

        builder_pattern(bytes + at, 2 * CLUSTER, (uint32_t)(at / CLUSTER));
        data = builder_data(builder, at, bytes + at, CLUSTER);
        /* Each in clusters of its own, so that a test can block one of them. */
        compressed = builder_compressed(builder, at + CLUSTER, bytes + at + CLUSTER,
                                        builder_allocate(builder, 2));
        builder_zero(builder, at + 2 * CLUSTER, false);
        if (at == 0) {
            subject->data = data;
            subject->compressed = compressed;
        }
    }
    subject->image = assemble_built(builder, 0, NULL);
    ck_assert_int_eq(image_attach_cache(subject->image, options, &error), 0);
    ck_assert_int_eq(view_open_active(subject->image, &subject->view), 0);
}

static void subject_close(struct subject *subject)
{
    view_close(subject->view);
    image_close(subject->image);
    free(subject->expected);
}

/* What one thread reads, and whether that was right. No assertion is made but by the main one. */
struct reader {
    pthread_t thread;
    struct subject *subject;
    uint64_t seed, guest_offset;
    size_t length;
    unsigned wrong;
};

static void read_once(struct reader *reader, uint64_t guest_offset, size_t length)
{
    const struct subject *subject = reader->subject;
    uint8_t *buffer = malloc(length + 1);

    if (view_read(subject->view, guest_offset, buffer, length) != 0 ||
        memcmp(buffer, subject->expected + guest_offset, length) != 0) {
        reader->wrong++;
    }
    free(buffer);
}

static void *read_range(void *context)
{
    struct reader *reader = context;

    read_once(reader, reader->guest_offset, reader->length);
    return NULL;
}

static void *read_at_random(void *context)
{
    struct reader *reader = context;
    uint64_t state = reader->seed;

    for (unsigned i = 0; i < 500; i++) {
        uint64_t guest_offset, length;

        state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        guest_offset = (state >> 33) % SIZE;
        length = (state >> 20) % (5 * CLUSTER) + 1;
        length = length < SIZE - guest_offset ? length : SIZE - guest_offset;
        read_once(reader, guest_offset, length);
    }
    return NULL;
}

static void run(struct subject *subject, void *(*function)(void *), struct reader *readers)
{
    for (unsigned i = 0; i < THREADS; i++) {
        readers[i].subject = subject;
        readers[i].seed = i + 1;
        ck_assert_int_eq(pthread_create(&readers[i].thread, NULL, function, &readers[i]), 0);
    }
}

static void join(struct reader *readers)
{
    for (unsigned i = 0; i < THREADS; i++) {
        ck_assert_int_eq(pthread_join(readers[i].thread, NULL), 0);
        ck_assert_uint_eq(readers[i].wrong, 0);
    }
}

START_TEST(threads_that_read_at_random_all_read_what_is_there)
{
    const struct cache_options options = {.l2_entry_size = {true, 512}};
    struct reader readers[THREADS] = {0};
    struct subject subject;

    subject_open(&subject, &options);
    run(&subject, read_at_random, readers);
    join(readers);
    subject_close(&subject);
}
END_TEST

START_TEST(they_do_so_with_caches_too_small_for_anything)
{
    const struct cache_options options = {
        .l2_entry_size = {true, 512},
        .l2_size = {true, 1},
        .data_size = {true, 3 * CLUSTER},
    };
    struct reader readers[THREADS] = {0};
    struct subject subject;

    subject_open(&subject, &options);
    run(&subject, read_at_random, readers);
    join(readers);
    subject_close(&subject);
}
END_TEST

START_TEST(threads_that_want_one_compressed_cluster_inflate_it_once)
{
    const struct cache_options options = {0};
    struct reader readers[THREADS] = {0};
    struct subject subject;
    unsigned before;

    subject_open(&subject, &options);
    readers[0].subject = &subject;
    read_once(&readers[0], 0, 1); /* the L2 slice */
    before = memory_store_calls(subject.image->file, MEMORY_STORE_READ);
    for (unsigned i = 0; i < THREADS; i++) {
        readers[i].guest_offset = CLUSTER + i * 100;
        readers[i].length = 512;
    }
    run(&subject, read_range, readers);
    join(readers);
    ck_assert_uint_eq(memory_store_calls(subject.image->file, MEMORY_STORE_READ), before + 1);
    subject_close(&subject);
}
END_TEST

/* From the beginning to the end, in pieces, as a program does that copies the disk. */
static void *read_in_order(void *context)
{
    struct reader *reader = context;
    size_t piece = (size_t)512 << (reader->seed % 10);

    for (uint64_t at = 0; at < SIZE; at += piece) {
        read_once(reader, at, SIZE - at < piece ? SIZE - at : piece);
    }
    return NULL;
}

START_TEST(threads_that_read_in_order_all_read_what_is_there)
{
    static const uint64_t budgets[] = {0, 3 * CLUSTER, 1 << 20, 32 << 20};
    const struct cache_options options = {.data_size = {true, budgets[_i]}};
    struct reader readers[THREADS] = {0};
    struct subject subject;

    subject_open(&subject, &options);
    subject.image->may_start_threads = true;
    run(&subject, read_in_order, readers);
    join(readers);
    run(&subject, read_at_random, readers);
    join(readers);
    subject_close(&subject);
}
END_TEST

START_TEST(a_bad_compressed_cluster_ahead_fails_alone_and_can_be_read_again)
{
    const struct cache_options options = {0};
    struct subject subject;
    struct reader reader = {.subject = &subject};
    uint8_t buffer[CLUSTER];

    subject_open(&subject, &options);
    subject.image->may_start_threads = true;
    memory_store_fail_reads(subject.image->file, subject.compressed, 1, EIO);
    for (unsigned round = 0; round < 20; round++) {
        for (uint64_t at = 0; at < SIZE; at += CLUSTER) {
            if (at == CLUSTER) {
                ck_assert_int_eq(view_read(subject.view, at, buffer, CLUSTER), -EIO);
            } else {
                read_once(&reader, at, CLUSTER);
            }
        }
    }
    ck_assert_int_eq(view_read(subject.view, 0, buffer, 1), 0);
    memory_store_fail_reads(subject.image->file, 0, 0, 0);
    read_once(&reader, CLUSTER, CLUSTER);
    ck_assert_uint_eq(reader.wrong, 0);
    subject_close(&subject);
}
END_TEST

START_TEST(a_disk_read_in_order_leaves_the_cache_to_others)
{
    const struct cache_options options = {0};
    struct cache_pool_stats stats;
    struct subject subject;
    struct reader reader = {.subject = &subject};

    subject_open(&subject, &options);
    subject.image->may_start_threads = true;
    /* From the middle of one compressed cluster to that of the next. */
    for (uint64_t at = CLUSTER + CLUSTER / 2; at + 4 * CLUSTER <= SIZE; at += 4 * CLUSTER) {
        read_once(&reader, at, 4 * CLUSTER);
    }
    ck_assert_uint_eq(reader.wrong, 0);
    view_close(subject.view); /* ends what is done ahead */
    cache_pool_stats(subject.image->cache->data, &stats);
    if (process_processors() > 1) {
        ck_assert_uint_lt(stats.entries, CLUSTERS / 8); /* a quarter is compressed */
    }
    subject.view = NULL;
    subject_close(&subject);
}
END_TEST

/* Blocks reads of `host_offset`, starts one that gets there, and reads all others meanwhile. */
static void expect_not_blocked(uint64_t cluster, bool compressed)
{
    const struct cache_options options = {0};
    struct reader other = {0}, blocked = {.guest_offset = cluster * CLUSTER, .length = CLUSTER};
    struct subject subject;
    struct store *file;

    subject_open(&subject, &options);
    other.subject = blocked.subject = &subject;
    file = subject.image->file;
    memory_store_block_reads(file, compressed ? subject.compressed : subject.data, 1);
    ck_assert_int_eq(pthread_create(&blocked.thread, NULL, read_range, &blocked), 0);
    memory_store_wait_blocked(file, 1);
    for (uint64_t at = 0; at < SIZE; at += CLUSTER) {
        if (at != cluster * CLUSTER) {
            read_once(&other, at, CLUSTER);
        }
    }
    ck_assert_uint_eq(other.wrong, 0);
    memory_store_release_reads(file);
    ck_assert_int_eq(pthread_join(blocked.thread, NULL), 0);
    ck_assert_uint_eq(blocked.wrong, 0);
    subject_close(&subject);
}

START_TEST(a_read_that_waits_for_data_holds_nobody_up)
{
    expect_not_blocked(0, false);
}
END_TEST

START_TEST(a_read_that_waits_for_compressed_data_holds_nobody_up)
{
    expect_not_blocked(1, true);
}
END_TEST

START_TEST(a_read_that_waits_for_an_l2_slice_holds_up_only_those_that_need_it)
{
    const struct cache_options options = {.l2_entry_size = {true, 512}};
    struct reader other = {0}, blocked = {.length = 1};
    struct subject subject;
    struct store *file;

    subject_open(&subject, &options);
    other.subject = blocked.subject = &subject;
    file = subject.image->file;
    /* The L2 table is in front of all that the clusters take but the first. */
    memory_store_block_reads(file, subject.data + CLUSTER, 512);
    ck_assert_int_eq(pthread_create(&blocked.thread, NULL, read_range, &blocked), 0);
    memory_store_wait_blocked(file, 1);
    for (uint64_t at = 64 * CLUSTER; at < SIZE; at += CLUSTER) { /* 64 entries a slice */
        read_once(&other, at, CLUSTER);
    }
    ck_assert_uint_eq(other.wrong, 0);
    memory_store_release_reads(file);
    ck_assert_int_eq(pthread_join(blocked.thread, NULL), 0);
    ck_assert_uint_eq(blocked.wrong, 0);
    subject_close(&subject);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("view, threads");
    TCase *tcase = tcase_create("threads");

    tcase_add_test(tcase, threads_that_read_at_random_all_read_what_is_there);
    tcase_add_test(tcase, they_do_so_with_caches_too_small_for_anything);
    tcase_add_test(tcase, threads_that_want_one_compressed_cluster_inflate_it_once);
    tcase_add_test(tcase, a_read_that_waits_for_data_holds_nobody_up);
    tcase_add_test(tcase, a_read_that_waits_for_compressed_data_holds_nobody_up);
    tcase_add_test(tcase, a_read_that_waits_for_an_l2_slice_holds_up_only_those_that_need_it);
    tcase_add_loop_test(tcase, threads_that_read_in_order_all_read_what_is_there, 0, 4);
    tcase_add_test(tcase, a_bad_compressed_cluster_ahead_fails_alone_and_can_be_read_again);
    tcase_add_test(tcase, a_disk_read_in_order_leaves_the_cache_to_others);
    suite_add_tcase(suite, tcase);
    return suite_main(suite);
}
