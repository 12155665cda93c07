/* SPDX-License-Identifier: MIT */
/*
 * Requests that meet in the one order that matters: a read of the base, or a
 * write to the file, is held, and with it the request that needs it, until
 * another one has returned. What had returned must be there at the end.
 */
#include "config.h"

#include "assemble.h"
#include "builder.h"
#include "crypto/cipher.h"
#include "crypto/library.h"
#include "disk/prefetch.h"
#include "disk/view.h"
#include "disk/writer.h"
#include "disk/writer_internal.h"
#include "memory_store.h"
#include "suite.h"
#include "util/process.h"
#include "writer_case.h"

#include "meta/format.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define K         UINT64_C(1024)
#define M         (K * K)
#define CLUSTER   (64 * K)
#define UNIT      (2 * K) /* a subcluster */
#define BASE_SIZE (4 * M)

/* A disk of `size` bytes on a base of 'z'. */
static struct store *open_on_base(struct writer_case *subject, uint64_t size, bool extended_l2,
                                  const struct writer_options *writer_options)
{
    struct builder_options options = builder_defaults();
    uint8_t *bytes = malloc(BASE_SIZE);
    struct builder *builder;
    struct store *file, *base;

    ck_assert_ptr_nonnull(bytes);
    options.virtual_size = size;
    options.extended_l2 = extended_l2;
    builder = builder_create(&options);
    file = builder_store(builder);
    builder_destroy(builder);
    memset(bytes, 'z', BASE_SIZE);
    base = memory_store_from(bytes, BASE_SIZE);
    free(bytes);
    writer_case_open_on(subject, file, assemble_image(base, IMAGE_RAW, 1, NULL), writer_options);
    return base;
}

static void end_sound(struct writer_case *subject)
{
    struct store *file = writer_case_end(subject, NULL);

    expect_sound(file, false);
    store_close(file);
}

/* A request of another thread: of `length` bytes `fill`, or a preallocation where that is 0. */
struct request {
    struct writer_case *subject;
    uint64_t guest_offset;
    size_t length;
    int fill;
    pthread_t thread;
    int result;
    atomic_bool done;
};

static void *perform(void *context)
{
    struct request *request = context;
    uint8_t *bytes = malloc(request->length);

    ck_assert_ptr_nonnull(bytes);
    memset(bytes, request->fill, request->length);
    request->result =
        request->fill != 0
            ? writer_write(request->subject->writer, request->guest_offset, bytes, request->length)
            : writer_preallocate(request->subject->writer, request->guest_offset, request->length,
                                 NULL);
    atomic_store(&request->done, true);
    free(bytes);
    return NULL;
}

static void begin(struct request *request)
{
    ck_assert_int_eq(pthread_create(&request->thread, NULL, perform, request), 0);
}

static void end(struct request *request)
{
    ck_assert_int_eq(pthread_join(request->thread, NULL), 0);
    ck_assert_int_eq(request->result, 0);
}

/* Returns when some request waits for guest clusters that another one has locked. */
static void wait_for_lock(struct writer_case *subject)
{
    while (!range_locks_waited_for(&subject->writer->ranges)) {
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
}

static void write_now(struct writer_case *subject, uint64_t guest_offset, size_t length, int fill)
{
    struct request request = {
        .subject = subject,
        .guest_offset = guest_offset,
        .length = length,
        .fill = fill,
    };

    perform(&request);
    ck_assert_int_eq(request.result, 0);
}

static void expect_fill(struct writer_case *subject, uint64_t guest_offset, size_t length, int fill)
{
    uint8_t *seen = malloc(length);
    size_t same = 0;

    ck_assert_ptr_nonnull(seen);
    ck_assert_int_eq(view_read(subject->view, guest_offset, seen, length), 0);
    while (same < length && seen[same] == fill) {
        same++;
    }
    ck_assert_msg(same == length, "guest offset %zu shows %#x, not %#x",
                  (size_t)guest_offset + same, (unsigned)seen[same < length ? same : 0],
                  (unsigned)fill);
    free(seen);
}

/* --- A disk that grows --------------------------------------------------------------------- */

START_TEST(a_disk_that_grows_has_its_new_size_when_all_that_it_gains_is_zeros)
{
    const struct writer_options growable = {.growable = true};
    struct writer_case subject;
    struct store *base = open_on_base(&subject, M + 512, false, &growable);
    struct request second = {&subject, 2 * M + 512, M, 'b', 0, 0, false};
    struct request first = {&subject, M + CLUSTER, M - CLUSTER, 'a', 0, 0, false};

    /* The kernel sends one write past the end as several, at once. The second one makes the disk
       larger, and is held where it reads what the base has in the last cluster. */
    memory_store_block_reads(base, M, 512);
    begin(&second);
    memory_store_wait_blocked(base, 1);
    ck_assert_uint_eq(view_size(subject.view), M + 512); /* or the first one went in now */
    begin(&first);
    memory_store_release_reads(base);
    end(&second);
    end(&first);
    expect_fill(&subject, M + CLUSTER, M - CLUSTER, 'a');
    expect_fill(&subject, 2 * M, 512, 0);
    expect_fill(&subject, 2 * M + 512, M, 'b');
    end_sound(&subject);
}
END_TEST

START_TEST(a_write_to_the_last_cluster_while_the_disk_grows_is_kept)
{
    const struct writer_options growable = {.growable = true};
    struct writer_case subject;
    struct request grow = {&subject, 3 * M - 512, 512, 'g', 0, 0, false};

    open_on_base(&subject, M + 512, _i == 1, &growable);
    /* Clusters are there; from here on nothing but the growing needs a sync. */
    write_now(&subject, 0, 512, 'f');
    expect_flush(&subject);
    /* What it gains is zeros already, and the size is not there yet. */
    memory_store_block_syncs(subject.file);
    begin(&grow);
    memory_store_wait_syncs(subject.file, 1);
    ck_assert_uint_eq(view_size(subject.view), M + 512);
    write_now(&subject, M + 128, 256, 'w');
    memory_store_release_syncs(subject.file);
    end(&grow);
    expect_fill(&subject, M, 128, 'z');
    expect_fill(&subject, M + 128, 256, 'w');
    expect_fill(&subject, M + 384, 128, 'z');
    expect_fill(&subject, M + 512, 2 * M - 1024, 0);
    expect_fill(&subject, 3 * M - 512, 512, 'g');
    end_sound(&subject);
}
END_TEST

START_TEST(a_disk_that_fails_to_grow_is_as_it_was_and_keeps_what_was_written)
{
    const struct writer_options growable = {.growable = true};
    struct writer_case subject;
    uint8_t byte = 'x';

    open_on_base(&subject, M + 512, false, &growable);
    write_now(&subject, M, 512, 'k');
    memory_store_fail(subject.file, MEMORY_STORE_WRITE, (unsigned)_i + 1, ENOSPC);
    if (writer_write(subject.writer, 3 * M, &byte, 1) == 0) {
        ck_assert_uint_eq(view_size(subject.view), 3 * M + 1);
    } else {
        ck_assert_uint_eq((view_size(subject.view) + 511) / 512 * 512,
                          disk_u64(subject.file, HEADER_SIZE));
    }
    memory_store_fail(subject.file, MEMORY_STORE_WRITE, 0, 0);
    expect_fill(&subject, M, 512, 'k');
    write_now(&subject, 2 * M, CLUSTER, 'n');
    expect_fill(&subject, M + 512, M - 512, 0);
    expect_fill(&subject, 2 * M, CLUSTER, 'n');
    expect_flush(&subject);
    store_close(writer_case_end(&subject, NULL));
}
END_TEST

/* --- A disk that gets smaller --------------------------------------------------------------- */

struct looking {
    struct view *view;
    uint8_t bytes[2 * 64 * 1024]; /* the first two clusters */
    int result;
};

static void *look(void *context)
{
    struct looking *looking = context;

    looking->result = view_read(looking->view, 0, looking->bytes, sizeof(looking->bytes));
    return NULL;
}

/* The read looks up the second cluster when it has gone, and ends when the disk has its old size.
 */
START_TEST(a_read_beside_a_disk_that_is_smaller_for_a_while_sees_nothing_of_the_base)
{
    struct looking *looking = calloc(1, sizeof(*looking));
    struct writer_case subject;
    struct store *base = open_on_base(&subject, 2 * CLUSTER, false, NULL);
    pthread_t thread;

    ck_assert_ptr_nonnull(looking);
    looking->view = subject.view;
    write_now(&subject, CLUSTER, CLUSTER, 'w');
    memory_store_block_reads(base, 0, 512);
    ck_assert_int_eq(pthread_create(&thread, NULL, look, looking), 0);
    memory_store_wait_blocked(base, 1);
    ck_assert_int_eq(writer_resize(subject.writer, CLUSTER, NULL), 0);
    memory_store_block_reads(base, CLUSTER, 512);
    memory_store_wait_blocked(base, 1);
    ck_assert_int_eq(writer_resize(subject.writer, 2 * CLUSTER, NULL), 0);
    memory_store_release_reads(base);
    pthread_join(thread, NULL);
    ck_assert_int_eq(looking->result, 0);
    ck_assert_uint_eq(looking->bytes[0], 'z');
    ck_assert_uint_eq(looking->bytes[CLUSTER], 0);
    ck_assert_mem_eq(looking->bytes + CLUSTER, looking->bytes + CLUSTER + 1, CLUSTER - 1);
    expect_fill(&subject, CLUSTER, CLUSTER, 0);
    free(looking);
    end_sound(&subject);
}
END_TEST

/* --- Preallocation ------------------------------------------------------------------------- */

START_TEST(a_preallocation_does_not_bring_back_what_was_before_a_write)
{
    struct writer_case subject;
    struct store *base = open_on_base(&subject, M, true, NULL);
    struct request write = {&subject, UNIT + 512, 512, 'A', 0, 0, false};
    struct request preallocate = {&subject, 0, 4 * UNIT, 0, 0, 0, false};

    /* A write gives subcluster 1 a place, and is held at what stands around its data. */
    memory_store_block_reads(base, UNIT, UNIT);
    begin(&write);
    memory_store_wait_blocked(base, 1);
    /* The preallocation has seen subclusters without a place, and waits for that of the write. */
    begin(&preallocate);
    wait_for_lock(&subject);
    /* The write goes on; the preallocation is held where it reads the third of them. */
    memory_store_block_reads(base, 2 * UNIT, UNIT);
    end(&write);
    memory_store_wait_blocked(base, 1);
    write_now(&subject, UNIT + 512, 512, 'C');
    memory_store_release_reads(base);
    end(&preallocate);
    expect_fill(&subject, 0, UNIT + 512, 'z');
    expect_fill(&subject, UNIT + 512, 512, 'C');
    expect_fill(&subject, UNIT + K, 3 * UNIT - K, 'z');
    end_sound(&subject);
}
END_TEST

/* --- In place ------------------------------------------------------------------------------- */

/*
 * Zeros keep the cluster that a write is on its way to. Were the write answered with its data
 * there, where nobody looks, they would show as soon as the cluster is used again.
 */
START_TEST(a_write_in_place_that_zeros_overtake_is_not_left_where_nobody_looks)
{
    struct writer_case subject;
    struct request late = {&subject, 0, CLUSTER + 512, 'l', 0, 0, false};

    open_on_base(&subject, M, _i != 0, NULL);
    write_now(&subject, 0, 2 * CLUSTER, 'f');
    memory_store_hold_write(subject.file);
    begin(&late);
    memory_store_wait_blocked(subject.file, 1);
    expect_zero(&subject, 0, CLUSTER, false);
    expect_fill(&subject, 0, CLUSTER, 0);
    memory_store_release_write(subject.file);
    end(&late);
    expect_fill(&subject, 0, CLUSTER + 512, 'l');
    expect_fill(&subject, CLUSTER + 512, CLUSTER - 512, 'f');
    end_sound(&subject);
}
END_TEST

/*
 * Two requests that each bring a part of one sector, of an encrypted disk: the first has read the
 * rest when zeros take the cluster off the disk, and the second one fills it anew.
 */
START_TEST(what_a_part_of_a_sector_is_written_with_does_not_come_back_over_a_newer_write)
{
    struct writer_case subject;
    struct request late = {&subject, 0, 100, 'l', 0, 0, false},
                   newer = {&subject, 200, 100, 'n', 0, 0, false};

    open_on_base(&subject, M, false, NULL);
    ck_assert_int_eq(cipher_create_random(&subject.image->cipher), 0);
    write_now(&subject, 0, CLUSTER, 'f');
    memory_store_hold_write(subject.file);
    begin(&late);
    memory_store_wait_blocked(subject.file, 1);
    expect_zero(&subject, 0, CLUSTER, false);
    begin(&newer);
    while (!atomic_load(&newer.done) && !range_locks_waited_for(&subject.writer->sectors.locks)) {
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    memory_store_release_write(subject.file);
    end(&late);
    end(&newer);
    expect_fill(&subject, 100, 100, 0);
    expect_fill(&subject, 200, 100, 'n');
    expect_fill(&subject, 300, CLUSTER - 300, 0);
    end_sound(&subject);
}
END_TEST

/* A read of another thread, which must show one byte everywhere. */
static void *read_one(void *context)
{
    struct request *request = context;

    expect_fill(request->subject, request->guest_offset, request->length, request->fill);
    atomic_store(&request->done, true);
    return NULL;
}

/*
 * A read that has the first half of a sector when another request writes a part of that, and with
 * it, in CBC, all bytes that follow anew: what it shows is what stood there, not what the two
 * halves decrypt to.
 */
START_TEST(a_read_beside_a_write_to_its_sector_shows_nothing_that_was_never_there)
{
    static const struct cipher_kind kind = {"aes", "cbc", "plain64", ""};
    static const uint8_t key[16] = "sixteen bytes";
    struct writer_case subject;
    struct request reading = {&subject, 200, 512, 'f', 0, 0, false};
    uint64_t host_offset;

    open_on_base(&subject, M, false, NULL);
    ck_assert_int_eq(cipher_create(&kind, key, sizeof(key), &subject.image->cipher), 0);
    write_now(&subject, 0, CLUSTER, 'f');
    expect_flush(&subject);
    host_offset = l2_entry_host_offset(disk_l2_entry(subject.file, 0));
    memory_store_tear_read(subject.file, host_offset + 256);
    ck_assert_int_eq(pthread_create(&reading.thread, NULL, read_one, &reading), 0);
    memory_store_wait_blocked(subject.file, 1);
    write_now(&subject, 0, 100, 'n');
    memory_store_release_reads(subject.file);
    end(&reading);
    expect_fill(&subject, 0, 100, 'n');
    end_sound(&subject);
}
END_TEST

/* And one that begins while a write is under way waits for that, and shows what it wrote. */
START_TEST(a_read_that_begins_within_a_write_to_its_sector_waits)
{
    struct writer_case subject;
    struct request writing = {&subject, 0, 100, 'n', 0, 0, false},
                   reading = {&subject, 0, 100, 'n', 0, 0, false};

    open_on_base(&subject, M, false, NULL);
    ck_assert_int_eq(cipher_create_random(&subject.image->cipher), 0);
    write_now(&subject, 0, CLUSTER, 'f');
    memory_store_hold_write(subject.file);
    begin(&writing);
    memory_store_wait_blocked(subject.file, 1);
    expect_fill(&subject, 512, CLUSTER - 512, 'f'); /* others do not */
    ck_assert_int_eq(pthread_create(&reading.thread, NULL, read_one, &reading), 0);
    while (!range_locks_waited_for(&subject.writer->sectors.locks)) {
        ck_assert_msg(!atomic_load(&reading.done), "it did not wait");
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    memory_store_release_write(subject.file);
    end(&writing);
    end(&reading);
    end_sound(&subject);
}
END_TEST

/* --- The end ------------------------------------------------------------------------------- */

#define COMPRESSED 16 /* clusters */

static void *release_soon(void *base)
{
    nanosleep(&(struct timespec){.tv_nsec = 200000000}, NULL); /* an end that waits for nobody */
    memory_store_release_reads(base);
    return NULL;
}

START_TEST(a_writer_that_ends_while_it_reads_ahead_leaks_nothing)
{
    struct builder_options options = builder_defaults();
    struct writer_case subject;
    struct builder *builder;
    uint8_t *bytes = malloc(CLUSTER);
    struct store *file;
    uint64_t host_offset = 0;
    pthread_t releasing;

    ck_assert_ptr_nonnull(bytes);
    options.virtual_size = COMPRESSED * CLUSTER;
    builder = builder_create(&options);
    memset(bytes, 'c', CLUSTER);
    for (uint64_t i = 0; i < COMPRESSED; i++) {
        uint64_t at = builder_compressed(builder, i * CLUSTER, bytes, 0);

        host_offset = i == 8 ? at : host_offset;
    }
    free(bytes);
    writer_case_build(&subject, builder, NULL);
    if (process_processors() >= 2) {
        subject.image->may_start_threads = true;
        /* What the preallocation replaces it reads in order; a thread goes ahead, and is held. */
        memory_store_block_reads(subject.file, host_offset, 1);
        ck_assert_int_eq(writer_preallocate(subject.writer, 0, 4 * CLUSTER, NULL), 0);
        memory_store_wait_blocked(subject.file, 1);
        ck_assert_int_eq(pthread_create(&releasing, NULL, release_soon, subject.file), 0);
        file = writer_case_end(&subject, NULL);
        pthread_join(releasing, NULL);
        expect_sound(file, false);
        store_close(file);
    } else {
        end_sound(&subject);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("writer-order");
    TCase *grow = tcase_create("a disk that grows"),
          *shrink = tcase_create("a disk that gets smaller"),
          *place = tcase_create("preallocation"), *in_place = tcase_create("in place"),
          *last = tcase_create("the end");

    tcase_add_test(grow, a_disk_that_grows_has_its_new_size_when_all_that_it_gains_is_zeros);
    tcase_add_loop_test(grow, a_write_to_the_last_cluster_while_the_disk_grows_is_kept, 0, 2);
    tcase_add_loop_test(grow, a_disk_that_fails_to_grow_is_as_it_was_and_keeps_what_was_written, 0,
                        12);
    suite_add_tcase(suite, grow);
    tcase_add_test(shrink,
                   a_read_beside_a_disk_that_is_smaller_for_a_while_sees_nothing_of_the_base);
    suite_add_tcase(suite, shrink);
    tcase_add_test(place, a_preallocation_does_not_bring_back_what_was_before_a_write);
    suite_add_tcase(suite, place);
    tcase_add_loop_test(in_place,
                        a_write_in_place_that_zeros_overtake_is_not_left_where_nobody_looks, 0, 2);
    if (crypto_missing() == NULL) {
        tcase_add_test(
            in_place,
            what_a_part_of_a_sector_is_written_with_does_not_come_back_over_a_newer_write);
        tcase_add_test(in_place,
                       a_read_beside_a_write_to_its_sector_shows_nothing_that_was_never_there);
        tcase_add_test(in_place, a_read_that_begins_within_a_write_to_its_sector_waits);
    }
    suite_add_tcase(suite, in_place);
    tcase_add_test(last, a_writer_that_ends_while_it_reads_ahead_leaks_nothing);
    suite_add_tcase(suite, last);
    return suite_main(suite);
}
