/* SPDX-License-Identifier: MIT */
/* The pool of one thread: what it finds, keeps and gives back. */
#include "config.h"

#include "pool_case.h"
#include "suite.h"

#include <errno.h>
#include <string.h>

/* Gets the block and leaves it pinned; returns whether it had to be filled. */
static bool get_sized(struct cache_pool *pool, struct cache_key key, size_t size,
                      const struct cache_entry **entry)
{
    struct source source = {.key = key};
    const uint8_t *data;

    ck_assert_int_eq(cache_pool_get(pool, key, size, source_fill, &source, entry), 0);
    ck_assert_uint_eq((*entry)->size, size);
    ck_assert_uint_eq((*entry)->key.owner, key.owner);
    ck_assert_uint_eq((*entry)->key.host_offset, key.host_offset);
    data = (*entry)->data;
    ck_assert_uint_eq(data[0], source_stamp(key));
    ck_assert_int_eq(memcmp(data, data + 1, size - 1), 0);
    ck_assert_uint_le(source.fills, 1);
    return source.fills == 1;
}

/* The same for the block at number * BLOCK of owner 0, unpinned again at once. */
static bool use(struct cache_pool *pool, uint64_t number)
{
    const struct cache_entry *entry;
    struct cache_key key = {.owner = 0, .host_offset = number * BLOCK};
    bool filled = get_sized(pool, key, BLOCK, &entry);

    cache_pool_unpin(pool, entry);
    return filled;
}

START_TEST(a_block_is_filled_once_and_then_hit)
{
    struct cache_pool *pool = source_pool(100 * BLOCK);
    struct cache_pool_stats stats;

    for (uint64_t i = 0; i < 10; i++) {
        ck_assert(use(pool, i));
    }
    for (uint64_t i = 0; i < 10; i++) {
        ck_assert(!use(pool, i));
        ck_assert(!use(pool, i));
    }
    stats = source_stats(pool);
    ck_assert_uint_eq(stats.misses, 10);
    ck_assert_uint_eq(stats.hits, 20);
    ck_assert_uint_eq(stats.evictions, 0);
    ck_assert_uint_eq(stats.writebacks, 0);
    ck_assert_uint_eq(stats.entries, 10);
    ck_assert_uint_eq(stats.bytes, 10 * BLOCK);
    ck_assert_uint_eq(stats.budget, 100 * BLOCK);
    cache_pool_destroy(pool);
    cache_pool_destroy(NULL);
}
END_TEST

/* So many that several share a bucket. */
#define OWNERS 2000

START_TEST(owners_have_blocks_of_their_own)
{
    struct cache_pool *pool = source_pool(OWNERS * BLOCK);
    const struct cache_entry *entries[OWNERS];

    for (uint64_t owner = 0; owner < OWNERS; owner++) {
        ck_assert(get_sized(pool, (struct cache_key){owner, BLOCK}, BLOCK, &entries[owner]));
    }
    for (uint64_t owner = 0; owner < OWNERS; owner++) {
        const uint8_t *data = entries[owner]->data;

        ck_assert_uint_eq(data[0], source_stamp(entries[owner]->key));
        cache_pool_unpin(pool, entries[owner]);
    }
    cache_pool_destroy(pool);
}
END_TEST

START_TEST(blocks_of_every_size_are_aligned)
{
    struct cache_pool *pool = source_pool(UINT64_C(64) << 20);

    for (size_t size = 512; size <= (size_t)2 << 20; size *= 2) {
        const struct cache_entry *entry;

        get_sized(pool, (struct cache_key){0, size}, size, &entry);
        ck_assert_uint_eq((uintptr_t)entry->data % (size < 4096 ? size : 4096), 0);
        cache_pool_unpin(pool, entry);
    }
    cache_pool_destroy(pool);
}
END_TEST

START_TEST(a_failed_fill_is_reported_and_leaves_nothing)
{
    static const uint64_t budgets[] = {0, BLOCK, 100 * BLOCK};
    struct cache_pool *pool = source_pool(budgets[_i]);
    struct source source = {.error = -EIO};
    const struct cache_entry *entry;

    for (unsigned i = 1; i <= 3; i++) {
        ck_assert_int_eq(cache_pool_get(pool, source.key, BLOCK, source_fill, &source, &entry),
                         -EIO);
        ck_assert_uint_eq(source.fills, i);
        ck_assert_uint_eq(source_stats(pool).entries, 0);
        ck_assert_uint_eq(source_stats(pool).bytes, 0);
    }
    ck_assert(use(pool, 0));
    cache_pool_destroy(pool);
}
END_TEST

START_TEST(another_size_for_a_known_key_is_refused)
{
    struct cache_pool *pool = source_pool(100 * BLOCK);
    struct source source = {.key = {0, BLOCK}};
    const struct cache_entry *entry;

    use(pool, 1);
    ck_assert_int_eq(cache_pool_get(pool, source.key, 2 * BLOCK, source_fill, &source, &entry),
                     -EINVAL);
    ck_assert(!use(pool, 1));
    cache_pool_destroy(pool);
}
END_TEST

START_TEST(the_budget_is_kept)
{
    static const uint64_t budgets[] = {1, 2, 3, 16, 100, 1000}; /* blocks */
    struct cache_pool *pool = source_pool(budgets[_i] * BLOCK + BLOCK / 2);
    struct cache_pool_stats stats;

    for (uint64_t i = 0; i < 3000; i++) {
        const struct cache_entry *entry;

        /* By then room was made for it, if need be in another shard. */
        get_sized(pool, (struct cache_key){0, i * BLOCK}, BLOCK, &entry);
        ck_assert_uint_le(source_stats(pool).bytes, budgets[_i] * BLOCK);
        cache_pool_unpin(pool, entry);
    }
    stats = source_stats(pool);
    ck_assert_uint_eq(stats.entries, budgets[_i]);
    ck_assert_uint_eq(stats.evictions, 3000 - budgets[_i]);
    cache_pool_destroy(pool);
}
END_TEST

START_TEST(blocks_in_steady_use_stay)
{
    struct cache_pool *pool = source_pool(256 * BLOCK);

    use(pool, 0);
    use(pool, 1);
    for (uint64_t i = 2; i < 5000; i++) {
        use(pool, i);
        ck_assert(!use(pool, 0));
        ck_assert(!use(pool, 1));
    }
    cache_pool_destroy(pool);
}
END_TEST

START_TEST(the_least_recently_used_blocks_go_first)
{
    struct cache_pool *pool = source_pool(1024 * BLOCK);
    unsigned old = 0, recent = 0;

    for (uint64_t i = 0; i < 1024; i++) {
        use(pool, i);
    }
    for (uint64_t i = 0; i < 512; i++) { /* the first half becomes the newer one */
        use(pool, i);
    }
    for (uint64_t i = 5000; i < 5000 + 256; i++) {
        use(pool, i);
    }
    for (uint64_t i = 0; i < 512; i++) {
        recent += use(pool, i);
    }
    ck_assert_uint_eq(recent, 0);
    for (uint64_t i = 512; i < 1024; i++) {
        old += use(pool, i);
    }
    ck_assert_uint_ge(old, 256);
    cache_pool_destroy(pool);
}
END_TEST

START_TEST(a_pinned_block_is_never_evicted)
{
    struct cache_pool *pool = source_pool(4 * BLOCK);
    const struct cache_entry *pinned, *again;
    struct cache_key key = {.owner = 9, .host_offset = 512};

    get_sized(pool, key, BLOCK, &pinned);
    for (uint64_t i = 0; i < 1000; i++) {
        use(pool, i);
        if (i % 100 == 0) {
            cache_pool_clean(pool);
        }
    }
    ck_assert(!get_sized(pool, key, BLOCK, &again));
    ck_assert_ptr_eq(again, pinned);
    cache_pool_unpin(pool, again);
    cache_pool_unpin(pool, pinned);
    cache_pool_destroy(pool);
}
END_TEST

START_TEST(memory_of_pinned_blocks_over_the_budget_is_given_back_by_unpin)
{
    struct cache_pool *pool = source_pool(10 * BLOCK);
    const struct cache_entry *entries[100];

    for (uint64_t i = 0; i < 100; i++) {
        ck_assert(get_sized(pool, (struct cache_key){0, i * BLOCK}, BLOCK, &entries[i]));
    }
    ck_assert_uint_eq(source_stats(pool).bytes, 100 * BLOCK);
    for (uint64_t i = 0; i < 100; i++) {
        uint64_t left = 99 - i;

        cache_pool_unpin(pool, entries[i]);
        ck_assert_uint_eq(source_stats(pool).bytes, (left > 10 ? left : 10) * BLOCK);
    }
    cache_pool_destroy(pool);
}
END_TEST

START_TEST(what_is_not_there_is_not_found_and_not_filled)
{
    const struct cache_key key = {.host_offset = BLOCK};
    struct cache_pool *pool = source_pool(100 * BLOCK);
    const struct cache_entry *entry;

    ck_assert_int_eq(cache_pool_find(pool, key, BLOCK, &entry), -ENOENT);
    use(pool, 1);
    ck_assert_int_eq(cache_pool_find(pool, key, BLOCK, &entry), 0);
    ck_assert_uint_eq(*(const uint8_t *)entry->data, source_stamp(key));
    cache_pool_unpin(pool, entry);
    ck_assert_int_eq(cache_pool_find(pool, key, 2 * BLOCK, &entry), -EINVAL);
    cache_pool_destroy(pool);
}
END_TEST

START_TEST(the_last_use_of_a_block_makes_room_unless_others_use_it)
{
    const struct cache_key key = {.host_offset = BLOCK};
    struct cache_pool *pool = source_pool(100 * BLOCK);
    const struct cache_entry *first, *second;

    get_sized(pool, key, BLOCK, &first);
    get_sized(pool, key, BLOCK, &second);
    cache_pool_unpin_last(pool, first);
    ck_assert_uint_eq(source_stats(pool).bytes, BLOCK);
    cache_pool_unpin(pool, second);
    ck_assert_uint_eq(source_stats(pool).bytes, BLOCK);
    ck_assert(!use(pool, 1));
    ck_assert_int_eq(cache_pool_find(pool, key, BLOCK, &first), 0);
    cache_pool_unpin_last(pool, first);
    ck_assert_uint_eq(source_stats(pool).bytes, 0);
    ck_assert_uint_eq(source_stats(pool).entries, 0);
    ck_assert(use(pool, 1));
    cache_pool_destroy(pool);
}
END_TEST

START_TEST(a_budget_of_0_keeps_nothing)
{
    struct cache_pool *pool = source_pool(0);
    const struct cache_entry *first, *second;

    ck_assert(use(pool, 1));
    ck_assert(use(pool, 1));
    ck_assert_uint_eq(source_stats(pool).entries, 0);
    ck_assert(get_sized(pool, (struct cache_key){0, 0}, BLOCK, &first));
    ck_assert(!get_sized(pool, (struct cache_key){0, 0}, BLOCK, &second));
    cache_pool_unpin(pool, first);
    ck_assert_uint_eq(source_stats(pool).entries, 1);
    cache_pool_unpin(pool, second);
    ck_assert_uint_eq(source_stats(pool).entries, 0);
    ck_assert_uint_eq(source_stats(pool).bytes, 0);
    cache_pool_destroy(pool);
}
END_TEST

START_TEST(tens_of_thousands_of_blocks_are_all_found_again)
{
    struct cache_pool *pool;

    /* So wrong a typical size that the tables have to grow. */
    ck_assert_int_eq(cache_pool_create(UINT64_C(64) << 20, (size_t)1 << 30, &pool), 0);
    for (uint64_t i = 0; i < 50000; i++) {
        const struct cache_entry *entry;

        ck_assert(get_sized(pool, (struct cache_key){i % 3, i * 512}, 512, &entry));
        cache_pool_unpin(pool, entry);
    }
    for (uint64_t i = 0; i < 50000; i++) {
        const struct cache_entry *entry;

        ck_assert(!get_sized(pool, (struct cache_key){i % 3, i * 512}, 512, &entry));
        cache_pool_unpin(pool, entry);
    }
    cache_pool_destroy(pool);
}
END_TEST

START_TEST(cleaning_drops_what_was_not_used_since_the_last_time)
{
    struct cache_pool *pool = source_pool(1000 * BLOCK);
    const struct cache_entry *pinned;

    for (uint64_t i = 0; i < 100; i++) {
        use(pool, i);
    }
    get_sized(pool, (struct cache_key){5, 0}, BLOCK, &pinned);
    ck_assert_uint_eq(cache_pool_clean(pool), 0);
    for (uint64_t i = 0; i < 30; i++) {
        ck_assert(!use(pool, i));
    }
    ck_assert_uint_eq(cache_pool_clean(pool), 70 * BLOCK);
    for (uint64_t i = 0; i < 30; i++) {
        ck_assert(!use(pool, i));
    }
    ck_assert_uint_eq(cache_pool_clean(pool), 0);
    ck_assert_uint_eq(cache_pool_clean(pool), 30 * BLOCK);
    ck_assert_uint_eq(source_stats(pool).entries, 1);
    cache_pool_unpin(pool, pinned); /* counts as a use */
    ck_assert_uint_eq(cache_pool_clean(pool), 0);
    ck_assert_uint_eq(cache_pool_clean(pool), BLOCK);
    ck_assert_uint_eq(source_stats(pool).entries, 0);
    ck_assert_uint_eq(source_stats(pool).evictions, 0);
    ck_assert(use(pool, 1));
    cache_pool_destroy(pool);
}
END_TEST

struct nested {
    struct cache_pool *pool;
    uint64_t depth;
};

static int nested_fill(void *context, void *data, size_t size)
{
    struct nested *nested = context;
    const struct cache_entry *below;
    int result;

    if (nested->depth == 100) {
        memset(data, 42, size);
        return 0;
    }
    nested->depth++;
    result = cache_pool_get(nested->pool, (struct cache_key){1, nested->depth * BLOCK}, size,
                            nested_fill, nested, &below);
    if (result != 0) {
        return result;
    }
    memcpy(data, below->data, size);
    cache_pool_unpin(nested->pool, below);
    return 0;
}

START_TEST(a_fill_may_use_the_pool_itself)
{
    struct cache_pool *pool = source_pool(10 * BLOCK);
    struct nested nested = {.pool = pool};
    const struct cache_entry *entry;
    const uint8_t *data;

    ck_assert_int_eq(
        cache_pool_get(pool, (struct cache_key){1, 0}, BLOCK, nested_fill, &nested, &entry), 0);
    data = entry->data;
    ck_assert_uint_eq(data[BLOCK - 1], 42);
    cache_pool_unpin(pool, entry);
    ck_assert_uint_le(source_stats(pool).bytes, 10 * BLOCK);
    cache_pool_destroy(pool);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("pool");
    TCase *tcase = tcase_create("pool");

    tcase_set_timeout(tcase, 120);
    tcase_add_test(tcase, a_block_is_filled_once_and_then_hit);
    tcase_add_test(tcase, owners_have_blocks_of_their_own);
    tcase_add_test(tcase, blocks_of_every_size_are_aligned);
    tcase_add_loop_test(tcase, a_failed_fill_is_reported_and_leaves_nothing, 0, 3);
    tcase_add_test(tcase, another_size_for_a_known_key_is_refused);
    tcase_add_loop_test(tcase, the_budget_is_kept, 0, 6);
    tcase_add_test(tcase, blocks_in_steady_use_stay);
    tcase_add_test(tcase, the_least_recently_used_blocks_go_first);
    tcase_add_test(tcase, a_pinned_block_is_never_evicted);
    tcase_add_test(tcase, memory_of_pinned_blocks_over_the_budget_is_given_back_by_unpin);
    tcase_add_test(tcase, what_is_not_there_is_not_found_and_not_filled);
    tcase_add_test(tcase, the_last_use_of_a_block_makes_room_unless_others_use_it);
    tcase_add_test(tcase, a_budget_of_0_keeps_nothing);
    tcase_add_test(tcase, tens_of_thousands_of_blocks_are_all_found_again);
    tcase_add_test(tcase, cleaning_drops_what_was_not_used_since_the_last_time);
    tcase_add_test(tcase, a_fill_may_use_the_pool_itself);
    suite_add_tcase(suite, tcase);
    return suite_main(suite);
}
