/* SPDX-License-Identifier: MIT */
/*
 * Clusters that change their guest addresses under those who read and write.
 * The linker puts a pause behind each pthread_mutex_unlock(), and the store one
 * before each transfer: what takes a lock too early shows within seconds.
 */
#include "config.h"

#include "assemble.h"
#include "builder.h"
#include "disk/view.h"
#include "disk/writer.h"
#include "memory_store.h"
#include "pause.h"
#include "suite.h"
#include "writer_case.h"

#include "meta/format.h"
#include "util/bytes.h"
#include "util/checked.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define CLUSTER  UINT64_C(512)
#define L1_RANGE (CLUSTER / 8 * CLUSTER) /* bytes that one L1 entry maps */
#define CLUSTERS UINT64_C(1024)
#define MOST     UINT64_C(24) /* clusters of one request */
#define PART     16           /* bytes of a stamp */
#define THREADS  8
#define MSECS    2500

int __real_pthread_mutex_unlock(pthread_mutex_t *mutex);
int __wrap_pthread_mutex_unlock(pthread_mutex_t *mutex);

int __wrap_pthread_mutex_unlock(pthread_mutex_t *mutex)
{
    int result = __real_pthread_mutex_unlock(mutex);

    pause_now(201, 1);
    return result;
}

/* --- A store that takes its time -------------------------------------------------------------- */

struct slow_store {
    struct store store;
    struct store *inner;
};

static struct store *inner_of(struct store *store)
{
    return ((struct slow_store *)(void *)store)->inner;
}

static int slow_read(struct store *store, uint64_t offset, void *buffer, size_t length)
{
    pause_now(23, 2000); /* long enough for a cluster to be dropped, freed and used again */
    return store_read(inner_of(store), offset, buffer, length);
}

static int slow_write(struct store *store, uint64_t offset, const void *buffer, size_t length)
{
    pause_now(23, 100);
    return store_write(inner_of(store), offset, buffer, length);
}

static int slow_sync(struct store *store)
{
    return store_sync(inner_of(store));
}

static int slow_punch(struct store *store, uint64_t offset, uint64_t length)
{
    return store_punch(inner_of(store), offset, length);
}

static int slow_resize(struct store *store, uint64_t size)
{
    return store_resize(inner_of(store), size);
}

static int slow_info(struct store *store, struct store_info *info)
{
    return store_info(inner_of(store), info);
}

static int slow_extent(struct store *store, uint64_t offset, uint64_t limit, bool *is_data,
                       uint64_t *length)
{
    return store_extent(inner_of(store), offset, limit, is_data, length);
}

static void slow_close(struct store *store)
{
    store_close(inner_of(store));
    free(store);
}

static struct store *slow_store_create(struct store *inner)
{
    static const struct store_ops ops = {
        .read = slow_read,
        .write = slow_write,
        .sync = slow_sync,
        .punch = slow_punch,
        .resize = slow_resize,
        .info = slow_info,
        .extent = slow_extent,
        .close = slow_close,
    };
    struct slow_store *slow = calloc(1, sizeof(*slow));

    ck_assert_ptr_nonnull(slow);
    slow->store.ops = &ops;
    slow->inner = inner;
    return &slow->store;
}

/* --- An image, and threads upon it -------------------------------------------------------------
 */

struct subject {
    struct log_lines log;
    struct store *memory;
    struct image *image;
    struct view *view;
    struct writer *writer;
    atomic_bool ends;
    atomic_uint wrong, generation;
};

static void subject_open(struct subject *subject, uint64_t size,
                         const struct writer_options *options)
{
    const struct cache_options caches = {.l2_entry_size = {true, 512}, .l2_size = {true, 4096}};
    struct builder_options made = builder_defaults();
    struct error error = {0};
    struct builder *builder;

    made.cluster_bits = 9;
    made.virtual_size = size;
    builder = builder_create(&made);
    log_lines_init(&subject->log);
    subject->memory = builder_store(builder);
    builder_destroy(builder);
    subject->image =
        assemble_image(slow_store_create(subject->memory), IMAGE_QCOW2, 0, &subject->log.log);
    ck_assert_int_eq(image_attach_cache(subject->image, &caches, &error), 0);
    ck_assert_msg(writer_open(subject->image, options, &subject->writer, &error) == 0, "%s",
                  error.text);
    ck_assert_int_eq(view_open_active(subject->image, &subject->view), 0);
}

/* Ends it; the file is in order, and no cluster is lost. */
static void subject_close(struct subject *subject)
{
    struct store *copy;

    view_close(subject->view);
    ck_assert_int_eq(writer_close(subject->writer), 0);
    copy =
        memory_store_from(memory_store_data(subject->memory), memory_store_size(subject->memory));
    image_close(subject->image);
    log_release(&subject->log.log);
    expect_sound(copy, false);
    store_close(copy);
}

struct worker {
    pthread_t thread;
    struct subject *subject;
    uint64_t random;
    unsigned number;
};

static uint64_t random_below(struct worker *worker, uint64_t below)
{
    worker->random = worker->random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (worker->random >> 33) % below;
}

static void expect_success(struct subject *subject, int result)
{
    if (result < 0) {
        atomic_fetch_add(&subject->wrong, 1);
    }
}

static void run(struct subject *subject, struct worker *workers, unsigned count,
                void *(*const *functions)(void *))
{
    unsigned i;

    for (i = 0; i < count; i++) {
        workers[i] = (struct worker){.subject = subject, .random = i + 1, .number = i};
        ck_assert_int_eq(pthread_create(&workers[i].thread, NULL, functions[i], &workers[i]), 0);
    }
}

static void join(struct worker *workers, unsigned count)
{
    unsigned i;

    for (i = 0; i < count; i++) {
        ck_assert_int_eq(pthread_join(workers[i].thread, NULL), 0);
    }
}

static void *flush_always(void *context)
{
    struct worker *worker = context;

    while (!atomic_load(&worker->subject->ends)) {
        expect_success(worker->subject, writer_flush(worker->subject->writer));
    }
    return NULL;
}

/* --- Reads that meet discards and reuse (R4) ------------------------------------------------- */

/* Each part of a cluster tells its guest address, and that it was written. */
static void stamp(uint8_t *bytes, uint64_t guest_offset, uint64_t length, uint64_t generation)
{
    uint64_t i;

    for (i = 0; i < length; i += PART) {
        store_be64(bytes + i, guest_offset / CLUSTER + 1);
        store_be64(bytes + i + 8, generation);
    }
}

/* Anything of another address is foreign; old or new is not the question here. */
static void expect_own(struct subject *subject, const uint8_t *bytes, uint64_t guest_offset,
                       uint64_t length)
{
    uint64_t i;

    for (i = 0; i < length; i += PART) {
        uint64_t found = load_be64(bytes + i);

        if (found != 0 && found != (guest_offset + i) / CLUSTER + 1) {
            atomic_fetch_add(&subject->wrong, 1);
        }
    }
}

static void read_some(struct worker *worker, uint64_t guest_offset, uint64_t length)
{
    uint8_t bytes[MOST * CLUSTER];
    int result = view_read(worker->subject->view, guest_offset, bytes, length);

    expect_success(worker->subject, result);
    if (result == 0) {
        expect_own(worker->subject, bytes, guest_offset, length);
    }
}

static void write_some(struct worker *worker, uint64_t guest_offset, uint64_t length)
{
    uint8_t bytes[MOST * CLUSTER];
    uint64_t generation = atomic_fetch_add(&worker->subject->generation, 1) + 1, i;

    for (i = 0; i < length; i += CLUSTER) {
        stamp(bytes + i, guest_offset + i, CLUSTER, generation);
    }
    if (random_below(worker, 4) == 0) { /* what stands before it is copied */
        guest_offset += 5 * PART;
        length = min_u64(length, CLUSTER) - 5 * PART;
    }
    expect_success(worker->subject,
                   writer_write(worker->subject->writer, guest_offset, bytes, length));
}

static void *change(void *context)
{
    struct worker *worker = context;

    while (!atomic_load(&worker->subject->ends)) {
        uint64_t count = 1 + random_below(worker, MOST);
        uint64_t guest_offset = random_below(worker, CLUSTERS - count) * CLUSTER;
        uint64_t kind = random_below(worker, 10);

        if (kind < 5) {
            write_some(worker, guest_offset, count * CLUSTER);
        } else {
            expect_success(worker->subject, writer_zero(worker->subject->writer, guest_offset,
                                                        count * CLUSTER, kind < 9, NULL));
        }
    }
    return NULL;
}

static void *look(void *context)
{
    struct worker *worker = context;

    while (!atomic_load(&worker->subject->ends)) {
        uint64_t count = 1 + random_below(worker, MOST);

        read_some(worker, random_below(worker, CLUSTERS - count) * CLUSTER, count * CLUSTER);
        pause_now(3, 10); /* or the readers would take all of a small host */
    }
    return NULL;
}

START_TEST(reads_that_meet_discards_and_reuse_see_nothing_foreign)
{
    static void *(*const functions[THREADS])(void *) = {look, look,   look,   change,
                                                        look, change, change, flush_always};
    const struct writer_options options = {
        .discard = true,
        .lazy_refcounts = {.set = true, .value = _i == 1},
    };
    struct subject *subject = calloc(1, sizeof(*subject));
    int64_t end = now_msecs() + MSECS;
    struct worker workers[THREADS];
    uint64_t at;

    subject_open(subject, CLUSTERS * CLUSTER, &options);
    run(subject, workers, THREADS, functions);
    while (now_msecs() < end && atomic_load(&subject->wrong) == 0) {
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    }
    atomic_store(&subject->ends, true);
    join(workers, THREADS);
    ck_assert_uint_eq(atomic_load(&subject->wrong), 0);
    ck_assert_uint_gt(atomic_load(&subject->generation), 10);
    for (at = 0; at < CLUSTERS; at++) {
        read_some(&workers[0], at * CLUSTER, CLUSTER);
    }
    ck_assert_uint_eq(atomic_load(&subject->wrong), 0);
    subject_close(subject);
    free(subject);
}
END_TEST

/* --- L1 entries that change while a commit takes them --------------------------------------------
 */

#define TABLES  UINT64_C(256)
#define WRITERS 4

/* Writes one cluster of each table that is this thread's. */
static void *make_tables(void *context)
{
    struct worker *worker = context;
    uint8_t bytes[CLUSTER];
    uint64_t table;

    for (table = worker->number; table < TABLES; table += WRITERS) {
        uint64_t guest_offset = table * L1_RANGE;

        stamp(bytes, guest_offset, CLUSTER, 1);
        expect_success(worker->subject,
                       writer_write(worker->subject->writer, guest_offset, bytes, CLUSTER));
    }
    return NULL;
}

static void expect_tables(struct subject *subject)
{
    uint64_t table;

    for (table = 0; table < TABLES; table++) {
        ck_assert_uint_ne(disk_l1_entry(subject->memory, table * L1_RANGE), 0);
        ck_assert_uint_ne(disk_l2_entry(subject->memory, table * L1_RANGE), 0);
    }
}

START_TEST(a_new_l2_table_is_on_the_disk_after_the_flush_whichever_commits_met_it)
{
    static void *(*const functions[WRITERS + 1])(void *) = {make_tables, make_tables, make_tables,
                                                            make_tables, flush_always};
    const struct writer_options options = {0};
    int64_t end = now_msecs() + MSECS;

    while (now_msecs() < end) {
        struct subject *subject = calloc(1, sizeof(*subject));
        struct worker workers[WRITERS + 1];

        subject_open(subject, TABLES * L1_RANGE, &options);
        run(subject, workers, WRITERS + 1, functions);
        join(workers, WRITERS);
        atomic_store(&subject->ends, true);
        join(workers + WRITERS, 1);
        ck_assert_int_eq(writer_flush(subject->writer), 0);
        ck_assert_uint_eq(atomic_load(&subject->wrong), 0);
        expect_tables(subject);
        subject_close(subject);
        free(subject);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("writer-races");
    TCase *tcase = tcase_create("races");

    tcase_add_loop_test(tcase, reads_that_meet_discards_and_reuse_see_nothing_foreign, 0, 2);
    tcase_add_test(tcase, a_new_l2_table_is_on_the_disk_after_the_flush_whichever_commits_met_it);
    tcase_set_timeout(tcase, 120);
    suite_add_tcase(suite, tcase);
    return suite_main(suite);
}
