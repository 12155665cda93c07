/* SPDX-License-Identifier: MIT */
/* The pool when many threads use it at once. */
#include "config.h"

#include "pool_case.h"
#include "suite.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#define THREADS 8

/* One block that all threads want at once. */
struct crowd {
    struct cache_pool *pool;
    atomic_uint arrived, fills;
    bool fail;
};

struct member {
    struct crowd *crowd;
    bool filled;
    int filled_with; /* what this thread's own fill returned */
    int result;
};

static int crowd_fill(void *context, void *data, size_t size)
{
    struct member *member = context;
    unsigned fill = atomic_fetch_add(&member->crowd->fills, 1);

    /* Give the others time to meet the fill; the test holds without it, but tells less. */
    while (atomic_load(&member->crowd->arrived) < THREADS) {
        usleep(100);
    }
    usleep(10000);
    memset(data, 77, size);
    member->filled = true;
    member->filled_with = member->crowd->fail ? -(int)(1000 + fill) : 0;
    return member->filled_with;
}

static void *crowd_run(void *argument)
{
    struct member *member = argument;
    const struct cache_entry *entry;

    atomic_fetch_add(&member->crowd->arrived, 1);
    member->result = cache_pool_get(member->crowd->pool, (struct cache_key){3, 0}, BLOCK,
                                    crowd_fill, member, &entry);
    if (member->result == 0) {
        const uint8_t *data = entry->data;

        if (data[0] != 77 || data[BLOCK - 1] != 77) {
            member->result = -EBADMSG;
        }
        cache_pool_unpin(member->crowd->pool, entry);
    }
    return NULL;
}

static void crowd_meet(struct crowd *crowd, struct member members[THREADS])
{
    pthread_t threads[THREADS];

    for (unsigned i = 0; i < THREADS; i++) {
        members[i] = (struct member){.crowd = crowd};
        ck_assert_int_eq(pthread_create(&threads[i], NULL, crowd_run, &members[i]), 0);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
}

START_TEST(a_block_that_many_threads_miss_at_once_is_read_once)
{
    struct crowd crowd = {.pool = source_pool(100 * BLOCK)};
    struct member members[THREADS];
    struct cache_pool_stats stats;

    crowd_meet(&crowd, members);
    for (unsigned i = 0; i < THREADS; i++) {
        ck_assert_int_eq(members[i].result, 0);
    }
    ck_assert_uint_eq(atomic_load(&crowd.fills), 1);
    stats = source_stats(crowd.pool);
    ck_assert_uint_eq(stats.misses, 1);
    ck_assert_uint_eq(stats.hits, THREADS - 1);
    cache_pool_destroy(crowd.pool);
}
END_TEST

START_TEST(a_failed_fill_is_reported_to_all_that_waited)
{
    struct crowd crowd = {.pool = source_pool(100 * BLOCK), .fail = true};
    struct member members[THREADS];
    int fills;

    crowd_meet(&crowd, members);
    fills = (int)atomic_load(&crowd.fills);
    for (unsigned i = 0; i < THREADS; i++) {
        /* Its own fill's error, or that of a fill that it waited for. */
        if (members[i].filled) {
            ck_assert_int_eq(members[i].result, members[i].filled_with);
        } else {
            ck_assert_int_le(members[i].result, -1000);
            ck_assert_int_gt(members[i].result, -1000 - fills);
        }
    }
    ck_assert_uint_eq(source_stats(crowd.pool).entries, 0);
    ck_assert_uint_eq(source_stats(crowd.pool).bytes, 0);
    cache_pool_destroy(crowd.pool);
}
END_TEST

#define PINS_HELD 3
#define KEYS      200

struct worker {
    struct cache_pool *pool;
    uint64_t seed;
    unsigned wrong;
};

static uint64_t random_next(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return *state >> 33;
}

static bool entry_is_right(const struct cache_entry *entry, struct cache_key key, size_t size)
{
    const uint8_t *data = entry->data;

    return entry->size == size && entry->key.host_offset == key.host_offset &&
           entry->key.owner == key.owner && data[0] == source_stamp(key) &&
           memcmp(data, data + 1, size - 1) == 0;
}

static void *worker_run(void *argument)
{
    struct worker *worker = argument;
    const struct cache_entry *held[PINS_HELD] = {NULL};

    for (unsigned i = 0; i < 5000; i++) {
        uint64_t number = random_next(&worker->seed) % KEYS;
        const struct cache_entry **slot = &held[random_next(&worker->seed) % PINS_HELD];
        struct cache_key key = {.owner = number % 5, .host_offset = number * BLOCK};
        size_t size = number % 2 == 0 ? BLOCK : 512;
        struct source source = {.key = key, .error = i % 50 == 0 ? -EIO : 0};
        int result;

        if (*slot != NULL) {
            worker->wrong += !entry_is_right(*slot, (*slot)->key, (*slot)->size);
            cache_pool_unpin(worker->pool, *slot);
            *slot = NULL;
        }
        result = cache_pool_get(worker->pool, key, size, source_fill, &source, slot);
        /* -EIO comes from the own fill or from another thread's that was waited for. */
        worker->wrong += result != 0 && result != -EIO;
        worker->wrong += source.fills > 0 && result != source.error;
        worker->wrong += result == 0 && !entry_is_right(*slot, key, size);
        if (result != 0) {
            *slot = NULL;
        }
        if (i % 1000 == 0) {
            cache_pool_clean(worker->pool);
        }
    }
    for (unsigned i = 0; i < PINS_HELD; i++) {
        if (held[i] != NULL) {
            cache_pool_unpin(worker->pool, held[i]);
        }
    }
    return NULL;
}

START_TEST(threads_that_get_pin_and_clean_at_random_always_see_their_blocks)
{
    static const uint64_t budgets[] = {0, 10 * BLOCK, 50 * BLOCK, KEYS * BLOCK};
    struct cache_pool *pool = source_pool(budgets[_i]);
    struct worker workers[THREADS];
    pthread_t threads[THREADS];
    struct cache_pool_stats stats;

    for (unsigned i = 0; i < THREADS; i++) {
        workers[i] = (struct worker){.pool = pool, .seed = i};
        ck_assert_int_eq(pthread_create(&threads[i], NULL, worker_run, &workers[i]), 0);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        ck_assert_uint_eq(workers[i].wrong, 0);
    }
    stats = source_stats(pool);
    ck_assert_uint_le(stats.bytes, budgets[_i]);
    ck_assert_uint_le(stats.hits + stats.misses, THREADS * 5000);
    cache_pool_clean(pool);
    cache_pool_clean(pool);
    ck_assert_uint_eq(source_stats(pool).entries, 0);
    ck_assert_uint_eq(source_stats(pool).bytes, 0);
    cache_pool_destroy(pool);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("pool-threads");
    TCase *tcase = tcase_create("pool-threads");

    tcase_set_timeout(tcase, 120);
    tcase_add_test(tcase, a_block_that_many_threads_miss_at_once_is_read_once);
    tcase_add_test(tcase, a_failed_fill_is_reported_to_all_that_waited);
    tcase_add_loop_test(tcase, threads_that_get_pin_and_clean_at_random_always_see_their_blocks, 0,
                        4);
    suite_add_tcase(suite, tcase);
    return suite_main(suite);
}
