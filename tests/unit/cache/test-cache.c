/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "cache/cache.h"
#include "suite.h"

#include <dirent.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <unistd.h>

#define BLOCK ((size_t)4096)
#define MIB   (UINT64_C(1) << 20)

/* A sanitizer keeps freed memory, and has an allocator of its own. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif

static struct cache *cache_make(uint64_t budget, unsigned clean_interval)
{
    struct cache_sizes sizes = {
        .l2_budget = budget,
        .l2_entry_size = BLOCK,
        .refcount_budget = budget + 1,
        .data_budget = budget + 2,
        .clean_interval = clean_interval,
    };
    struct cache *cache;

    ck_assert_int_eq(cache_create(&sizes, &cache), 0);
    return cache;
}

static int fill(void *context, void *data, size_t size)
{
    unsigned *fills = context;

    (*fills)++;
    memset(data, 0x5a, size);
    return 0;
}

/* Whether the block had to be filled. */
static bool use(struct cache_pool *pool, uint64_t number, size_t size)
{
    const struct cache_entry *entry;
    unsigned fills = 0;

    ck_assert_int_eq(
        cache_pool_get(pool, (struct cache_key){0, number * size}, size, fill, &fills, &entry), 0);
    cache_pool_unpin(pool, entry);
    return fills > 0;
}

static struct cache_pool_stats stats_of(struct cache_pool *pool)
{
    struct cache_pool_stats stats;

    cache_pool_stats(pool, &stats);
    return stats;
}

START_TEST(each_pool_has_its_own_budget)
{
    struct cache *cache = cache_make(MIB, 600);

    ck_assert_uint_eq(cache->sizes.clean_interval, 600);
    ck_assert_uint_eq(stats_of(cache->l2).budget, MIB);
    ck_assert_uint_eq(stats_of(cache->refcount).budget, MIB + 1);
    ck_assert_uint_eq(stats_of(cache->data).budget, MIB + 2);
    cache_destroy(cache);
    cache_destroy(NULL);
}
END_TEST

START_TEST(cleaning_drops_the_unused_entries_of_all_pools)
{
    struct cache *cache = cache_make(MIB, 600);

    use(cache->l2, 0, BLOCK);
    use(cache->l2, 1, BLOCK);
    use(cache->refcount, 0, BLOCK);
    use(cache->data, 0, BLOCK);
    ck_assert_uint_eq(cache_clean(cache), 0);
    ck_assert(!use(cache->l2, 1, BLOCK));
    ck_assert_uint_eq(cache_clean(cache), 3 * BLOCK);
    ck_assert(!use(cache->l2, 1, BLOCK));
    ck_assert(use(cache->l2, 0, BLOCK));
    cache_destroy(cache);
}
END_TEST

/* Starts the cleaner and returns when it is at work. The case's time limit is the only one. */
static void wait_until_cleaned(struct cache *cache)
{
    use(cache->l2, 0, BLOCK);
    ck_assert_int_eq(cache_start_cleaner(cache), 0);
    while (stats_of(cache->l2).entries + stats_of(cache->data).entries > 0) {
        usleep(10000);
    }
}

START_TEST(the_cleaner_drops_what_is_not_used)
{
    struct cache *cache = cache_make(MIB, 1);

    use(cache->refcount, 0, BLOCK);
    use(cache->data, 0, BLOCK);
    wait_until_cleaned(cache);
    ck_assert_uint_eq(stats_of(cache->refcount).entries, 0);
    ck_assert_uint_eq(stats_of(cache->l2).entries, 0);
    cache_destroy(cache);
}
END_TEST

START_TEST(an_interval_of_0_starts_no_cleaner)
{
    struct cache *cache = cache_make(MIB, 0);

    ck_assert_int_eq(cache_start_cleaner(cache), 0);
    ck_assert_ptr_null(cache->cleaner);
    cache_destroy(cache);
}
END_TEST

START_TEST(the_cleaner_stops_at_once_however_long_its_interval)
{
    for (unsigned i = 0; i < 100; i++) {
        struct cache *cache = cache_make(MIB, i % 2 == 0 ? UINT32_MAX : 1);

        ck_assert_int_eq(cache_start_cleaner(cache), 0);
        ck_assert_ptr_nonnull(cache->cleaner);
        if (i % 4 >= 2) {
            usleep(2000); /* most likely it sleeps by now */
        }
        cache_destroy(cache); /* a wait for the interval would run into the time limit */
    }
}
END_TEST

/* Copies what stands behind "name:" in a status file of /proc. False: no such line, or file. */
static bool status_line(const char *path, const char *name, char *value, size_t room)
{
    FILE *file = fopen(path, "r");
    size_t length = strlen(name);
    bool found = false;
    char line[256];

    while (file != NULL && !found && fgets(line, sizeof(line), file) != NULL) {
        if (strncmp(line, name, length) == 0 && line[length] == ':') {
            line[strcspn(line, "\n")] = '\0';
            snprintf(value, room, "%s", line + length + 1 + strspn(line + length + 1, " \t"));
            found = true;
        }
    }
    if (file != NULL) {
        fclose(file);
    }
    return found;
}

/* The signals that the thread called `name` blocks, bit n - 1 for signal n; 0: no such thread. */
static uint64_t signals_blocked_by(const char *name)
{
    DIR *tasks = opendir("/proc/self/task");
    const struct dirent *task;
    uint64_t blocked = 0;

    ck_assert_ptr_nonnull(tasks);
    while ((task = readdir(tasks)) != NULL) {
        char path[sizeof("/proc/self/task//status") + sizeof(task->d_name)];
        char found[64];

        snprintf(path, sizeof(path), "/proc/self/task/%s/status", task->d_name);
        if (status_line(path, "Name", found, sizeof(found)) && strcmp(found, name) == 0) {
            ck_assert(status_line(path, "SigBlk", found, sizeof(found)));
            blocked = strtoull(found, NULL, 16);
        }
    }
    closedir(tasks);
    return blocked;
}

START_TEST(the_cleaner_takes_no_signals_and_leaves_the_callers_alone)
{
    struct cache *cache = cache_make(MIB, 1);
    uint64_t wanted = UINT64_C(1) << (SIGTERM - 1) | UINT64_C(1) << (SIGINT - 1) |
                      UINT64_C(1) << (SIGHUP - 1) | UINT64_C(1) << (SIGUSR1 - 1);
    sigset_t mask;

    wait_until_cleaned(cache); /* a thread that only starts blocks all signals anyway */
    ck_assert_uint_eq(signals_blocked_by("cache-cleaner") & wanted, wanted);
    ck_assert_int_eq(pthread_sigmask(SIG_SETMASK, NULL, &mask), 0);
    ck_assert_int_eq(sigismember(&mask, SIGTERM), 0);
    cache_destroy(cache);
}
END_TEST

#if defined(HAVE_MALLOC_TRIM) && !defined(SANITIZED)
static uint64_t anonymous_memory(void)
{
    char kib[64];

    ck_assert(status_line("/proc/self/status", "RssAnon", kib, sizeof(kib)));
    return strtoull(kib, NULL, 10) * 1024;
}

START_TEST(a_full_pool_occupies_about_its_budget)
{
    struct cache *cache = cache_make(64 * MIB, 600);
    uint64_t before = anonymous_memory();

    for (uint64_t i = 0; i < 3 * 64 * MIB / BLOCK; i++) {
        use(cache->l2, i, BLOCK);
    }
    ck_assert_uint_ge(anonymous_memory(), before + 60 * MIB);
    ck_assert_uint_le(anonymous_memory(), before + 80 * MIB);
    cache_destroy(cache);
}
END_TEST

START_TEST(memory_goes_back_to_the_system_even_where_some_entries_stay)
{
    struct cache *cache = cache_make(64 * MIB, 600);
    uint64_t count = 64 * MIB / BLOCK, full;

    for (uint64_t i = 0; i < 64 * MIB / 65536; i++) {
        use(cache->data, i, 65536);
    }
    for (uint64_t i = 0; i < count; i++) { /* above the former in the heap */
        use(cache->l2, i, BLOCK);
    }
    full = anonymous_memory();
    cache_clean(cache);
    for (uint64_t i = 0; i < count; i += 16) { /* one a slab, as bad as it gets */
        ck_assert(!use(cache->l2, i, BLOCK));
    }
    cache_clean(cache);
    ck_assert_uint_le(anonymous_memory() + 100 * MIB, full);
    for (uint64_t i = 0; i < count; i += 16) {
        ck_assert(!use(cache->l2, i, BLOCK));
    }
    cache_destroy(cache);
}
END_TEST
#endif

static Suite *cache_suite(void)
{
    Suite *suite = suite_create("cache");
    TCase *tcase = tcase_create("cache");

    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, each_pool_has_its_own_budget);
    tcase_add_test(tcase, cleaning_drops_the_unused_entries_of_all_pools);
    tcase_add_test(tcase, the_cleaner_drops_what_is_not_used);
    tcase_add_test(tcase, an_interval_of_0_starts_no_cleaner);
    tcase_add_test(tcase, the_cleaner_stops_at_once_however_long_its_interval);
    tcase_add_test(tcase, the_cleaner_takes_no_signals_and_leaves_the_callers_alone);
#if defined(HAVE_MALLOC_TRIM) && !defined(SANITIZED)
    tcase_add_test(tcase, a_full_pool_occupies_about_its_budget);
    tcase_add_test(tcase, memory_goes_back_to_the_system_even_where_some_entries_stay);
#endif
    suite_add_tcase(suite, tcase);
    return suite;
}

int main(void)
{
    return suite_main(cache_suite());
}
