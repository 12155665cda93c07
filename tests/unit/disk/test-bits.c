/* SPDX-License-Identifier: MIT */
/* Bits of a bitmap in memory: what counts is where one was set, and no thread loses one. */
#include "config.h"

#include "suite.h"

#include "disk/tracking_internal.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define PAGE_BITS (UINT64_C(4096) * 8)
#define PAGES     1000
#define WORDS     (PAGES * PAGE_BITS / WORD_BITS)
#define EMPTY     (UINT64_C(128) * 1024 + 16 * 8) /* bytes: with a bit for each page */
#define THREADS   4

static bool is_set(struct bits *bits, uint64_t bit)
{
    return (atomic_load(&bits->word[bit / WORD_BITS]) >> bit % WORD_BITS & 1) != 0;
}

START_TEST(of_a_large_array_a_page_counts_when_a_bit_is_set_in_it)
{
    _Atomic int64_t memory = 1 << 20;
    struct bits *bits = bits_create(&memory, WORDS);

    ck_assert_ptr_nonnull(bits);
    ck_assert_uint_eq(bits_taken(bits), EMPTY);
    ck_assert(bits_set(bits, &memory, 5, 7));
    ck_assert(bits_set(bits, &memory, PAGE_BITS - 1, PAGE_BITS - 1));
    ck_assert_uint_eq(bits_taken(bits), EMPTY + 4096);
    ck_assert(bits_set(bits, &memory, 7 * PAGE_BITS - 1, 7 * PAGE_BITS));
    ck_assert(bits_add_word(bits, &memory, 100 * PAGE_BITS / WORD_BITS, 0));
    ck_assert_uint_eq(bits_taken(bits), EMPTY + 3 * 4096);
    ck_assert_int_eq(atomic_load(&memory), (1 << 20) - (int64_t)bits_taken(bits));
    ck_assert(is_set(bits, 5) && is_set(bits, 7) && !is_set(bits, 4) && !is_set(bits, 8));
    ck_assert(bits_may_have(bits, 0) && bits_may_have(bits, 7 * PAGE_BITS / WORD_BITS + 511));
    ck_assert(!bits_may_have(bits, PAGE_BITS / WORD_BITS));
    ck_assert(!bits_may_have(bits, 100 * PAGE_BITS / WORD_BITS));
    ck_assert(is_set(bits, PAGE_BITS - 1) && is_set(bits, 7 * PAGE_BITS));
    bits_free(bits);
}
END_TEST

START_TEST(without_memory_no_page_is_added_and_those_that_are_there_go_on)
{
    _Atomic int64_t memory = EMPTY + 2 * 4096;
    struct bits *bits = bits_create(&memory, WORDS);

    ck_assert_ptr_nonnull(bits);
    ck_assert(bits_set(bits, &memory, 0, 0));
    ck_assert(bits_set(bits, &memory, 500 * PAGE_BITS, 500 * PAGE_BITS));
    ck_assert(!bits_set(bits, &memory, 3 * PAGE_BITS, 3 * PAGE_BITS));
    ck_assert(!is_set(bits, 3 * PAGE_BITS));
    ck_assert(bits_set(bits, &memory, 1, PAGE_BITS - 1));
    ck_assert_int_eq(atomic_load(&memory), 0);
    ck_assert_ptr_null(bits_create(&memory, 1));
    bits_free(bits);
    memory = EMPTY - 1;
    ck_assert_ptr_null(bits_create(&memory, WORDS));
    ck_assert_int_eq(atomic_load(&memory), EMPTY - 1);
}
END_TEST

START_TEST(of_a_small_array_all_counts_at_once)
{
    _Atomic int64_t memory = 100;
    struct bits *bits = bits_create(&memory, 10);

    ck_assert_ptr_nonnull(bits);
    ck_assert_uint_eq(bits_taken(bits), 80);
    ck_assert(bits_set(bits, &memory, 0, 10 * WORD_BITS + 5)); /* as far as there are such */
    ck_assert_ptr_null(bits_create(&memory, 10));
    ck_assert_int_eq(atomic_load(&memory), 20);
    bits_free(bits);
}
END_TEST

struct worker {
    struct bits *bits;
    _Atomic int64_t *memory;
    unsigned number;
};

/* All in the same words, so that all come to the same pages at once. */
static void *work(void *context)
{
    const struct worker *worker = context;

    for (uint64_t i = worker->number; i < PAGES * 8; i += THREADS) {
        uint64_t bit = i / 8 * PAGE_BITS + i % 8;

        ck_assert(bits_set(worker->bits, worker->memory, bit, bit));
    }
    return NULL;
}

START_TEST(threads_that_meet_in_pages_lose_no_bit_and_count_each_page_once)
{
    _Atomic int64_t memory = 64 << 20;
    struct bits *bits = bits_create(&memory, WORDS);
    struct worker workers[THREADS];
    pthread_t threads[THREADS];

    ck_assert_ptr_nonnull(bits);
    for (unsigned i = 0; i < THREADS; i++) {
        workers[i] = (struct worker){bits, &memory, i};
        ck_assert_int_eq(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    for (uint64_t i = 0; i < WORDS; i++) {
        uint64_t expected = i % (PAGE_BITS / WORD_BITS) == 0 ? 0xff : 0;

        if (atomic_load_explicit(&bits->word[i], memory_order_relaxed) != expected) {
            ck_abort_msg("word %llu", (unsigned long long)i);
        }
    }
    ck_assert_uint_eq(bits_taken(bits), EMPTY + PAGES * UINT64_C(4096));
    ck_assert_int_eq(atomic_load(&memory), (64 << 20) - (int64_t)bits_taken(bits));
    bits_free(bits);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("bits");
    TCase *tcase = tcase_create("bits");

    tcase_add_test(tcase, of_a_large_array_a_page_counts_when_a_bit_is_set_in_it);
    tcase_add_test(tcase, without_memory_no_page_is_added_and_those_that_are_there_go_on);
    tcase_add_test(tcase, of_a_small_array_all_counts_at_once);
    tcase_add_test(tcase, threads_that_meet_in_pages_lose_no_bit_and_count_each_page_once);
    suite_add_tcase(suite, tcase);
    return suite_main(suite);
}
