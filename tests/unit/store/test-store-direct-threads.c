/* SPDX-License-Identifier: MIT */
/* Many threads that read, write and cut one file past the host's page cache. */
#include "config.h"

#include "direct_case.h"
#include "scratch.h"
#include "suite.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define THREADS 4
#define STRIPE  100 /* bytes: several lie in each block */
#define STRIPES 200

struct striper {
    struct store *store;
    uint8_t *bytes; /* what the file is to hold; each stripe belongs to one thread */
    unsigned number;
};

static void *write_stripes(void *context)
{
    struct striper *striper = context;
    unsigned seed = striper->number;

    for (unsigned round = 0; round < 200; round++) {
        size_t stripe = (size_t)rand_r(&seed) % (STRIPES / THREADS) * THREADS + striper->number;
        uint8_t *bytes = striper->bytes + stripe * STRIPE, found[STRIPE];

        if (round % 8 == 7) {
            memset(bytes, 0, STRIPE);
            ck_assert_int_eq(store_punch(striper->store, stripe * STRIPE, STRIPE), 0);
        } else {
            direct_fill(bytes, STRIPE, &seed);
            ck_assert_int_eq(store_write(striper->store, stripe * STRIPE, bytes, STRIPE), 0);
        }
        ck_assert_int_eq(store_read(striper->store, stripe * STRIPE, found, STRIPE), 0);
        ck_assert_int_eq(memcmp(found, bytes, STRIPE), 0);
    }
    return NULL;
}

START_TEST(neighbours_in_one_block_do_not_lose_each_others_bytes)
{
    struct striper stripers[THREADS];
    pthread_t threads[THREADS];
    uint8_t *bytes = calloc(STRIPES, STRIPE);
    struct store *store;

    direct_ask_for(_i);
    scratch_file("a", bytes, STRIPES * STRIPE);
    store = direct_open("a");
    for (unsigned i = 0; store != NULL && i < THREADS; i++) {
        stripers[i] = (struct striper){.store = store, .bytes = bytes, .number = i};
        ck_assert_int_eq(pthread_create(&threads[i], NULL, write_stripes, &stripers[i]), 0);
    }
    for (unsigned i = 0; store != NULL && i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    store_close(store);
    direct_expect_file("a", bytes, STRIPES * STRIPE);
    free(bytes);
}
END_TEST

struct appender {
    struct store *store;
    atomic_size_t *end;
    uint8_t *bytes;
    unsigned seed;
};

/* Appends pieces of all sizes; the next one is under way before this one has ended. */
static void *append(void *context)
{
    struct appender *appender = context;
    uint8_t *memory = aligned_alloc(4096, 16384);

    for (unsigned i = 0; i < 60; i++) {
        size_t length = (size_t)rand_r(&appender->seed) % 3000 + 1, at;

        if (i % 3 == 0) {
            length = 4096;
        }
        at = atomic_fetch_add(appender->end, length);
        direct_fill(memory, length, &appender->seed);
        memcpy(appender->bytes + at, memory, length);
        ck_assert_int_eq(store_write(appender->store, at, memory, length), 0);
    }
    free(memory);
    return NULL;
}

START_TEST(a_file_that_grows_at_many_ends_keeps_every_byte_and_its_exact_size)
{
    struct appender appenders[THREADS];
    pthread_t threads[THREADS];
    uint8_t *bytes = calloc(1, (size_t)THREADS * 60 * 4096);
    atomic_size_t end = 0;
    struct store *store;

    direct_ask_for(_i);
    scratch_file("a", NULL, 0);
    store = direct_open("a");
    for (unsigned i = 0; store != NULL && i < THREADS; i++) {
        appenders[i] = (struct appender){store, &end, bytes, i};
        ck_assert_int_eq(pthread_create(&threads[i], NULL, append, &appenders[i]), 0);
    }
    for (unsigned i = 0; store != NULL && i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    store_close(store);
    direct_expect_file("a", bytes, end);
    free(bytes);
}
END_TEST

struct resizer {
    struct store *store;
    atomic_bool stop;
};

static void *write_second_hundred(void *context)
{
    struct resizer *resizer = context;
    uint8_t bytes[100];

    memset(bytes, 9, sizeof(bytes));
    while (!atomic_load(&resizer->stop)) {
        ck_assert_int_eq(store_write(resizer->store, 100, bytes, sizeof(bytes)), 0);
    }
    return NULL;
}

START_TEST(what_was_cut_off_or_punched_does_not_come_back_with_a_neighbour)
{
    struct resizer resizer = {0};
    uint8_t bytes[100], zeros[100] = {0};
    pthread_t thread;

    direct_ask_for(_i);
    scratch_file("a", NULL, 0);
    resizer.store = direct_open("a");
    if (resizer.store == NULL) {
        return;
    }
    pthread_create(&thread, NULL, write_second_hundred, &resizer);
    for (unsigned i = 0; i < 100; i++) {
        uint64_t at = i % 2 == 0 ? 0 : 300;

        memset(bytes, (int)i + 1, sizeof(bytes));
        ck_assert_int_eq(store_write(resizer.store, at, bytes, sizeof(bytes)), 0);
        ck_assert_int_eq(
            at == 0 ? store_punch(resizer.store, at, 100) : store_resize(resizer.store, 200), 0);
        ck_assert_int_eq(store_read(resizer.store, at, bytes, sizeof(bytes)), 0);
        ck_assert_int_eq(memcmp(bytes, zeros, sizeof(bytes)), 0);
    }
    atomic_store(&resizer.stop, true);
    pthread_join(thread, NULL);
    store_close(resizer.store);
    ck_assert_int_eq(direct_size("a"), 200);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("direct I/O of threads");
    TCase *tcase = tcase_create("direct-threads");

    tcase_add_unchecked_fixture(tcase, scratch_enter, scratch_leave);
    tcase_add_checked_fixture(tcase, direct_restore, direct_restore);
    tcase_add_loop_test(tcase, neighbours_in_one_block_do_not_lose_each_others_bytes, 0,
                        DIRECT_ALIGNMENTS);
    tcase_add_loop_test(tcase, a_file_that_grows_at_many_ends_keeps_every_byte_and_its_exact_size,
                        0, DIRECT_ALIGNMENTS);
    tcase_add_loop_test(tcase, what_was_cut_off_or_punched_does_not_come_back_with_a_neighbour, 0,
                        DIRECT_ALIGNMENTS);
    suite_add_tcase(suite, tcase);
    return suite_main(suite);
}
