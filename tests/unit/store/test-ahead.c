/* SPDX-License-Identifier: MIT */
/* Read-ahead of a store that is far away: every byte, whose it is, and what a write makes of it. */
#include "config.h"

#include "memory_store.h"
#include "pause.h"
#include "store/ahead.h"
#include "suite.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define KIB  UINT64_C(1024)
#define MIB  (1024 * KIB)
#define SIZE (24 * MIB + 1000)
#define PAGE (4 * KIB)

/* A store whose reads of a range have read, and do not return before they are let go. */
struct gate {
    struct store store;
    struct store *inner;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    uint64_t offset, end;
    unsigned held;
};

static struct gate gate;
static struct store *memory, *store;
static uint8_t *buffer;

static int gate_read(struct store *of, uint64_t offset, void *bytes, size_t length)
{
    int result = store_read(gate.inner, offset, bytes, length);

    (void)of;
    pthread_mutex_lock(&gate.mutex);
    gate.held++;
    pthread_cond_broadcast(&gate.changed);
    while (offset < gate.end && offset + length > gate.offset) {
        pthread_cond_wait(&gate.changed, &gate.mutex);
    }
    gate.held--;
    pthread_mutex_unlock(&gate.mutex);
    return result;
}

static int gate_write(struct store *of, uint64_t offset, const void *bytes, size_t length)
{
    (void)of;
    return store_write(gate.inner, offset, bytes, length);
}

static int gate_punch(struct store *of, uint64_t offset, uint64_t length)
{
    (void)of;
    return store_punch(gate.inner, offset, length);
}

static int gate_info(struct store *of, struct store_info *info)
{
    (void)of;
    return store_info(gate.inner, info);
}

static void gate_close(struct store *of)
{
    (void)of;
    store_close(gate.inner);
}

static const struct store_ops gate_ops = {
    .read = gate_read,
    .write = gate_write,
    .punch = gate_punch,
    .info = gate_info,
    .close = gate_close,
};

static void gate_set(uint64_t offset, uint64_t end)
{
    pthread_mutex_lock(&gate.mutex);
    gate.offset = offset;
    gate.end = end;
    pthread_cond_broadcast(&gate.changed);
    pthread_mutex_unlock(&gate.mutex);
}

static void gate_wait(void)
{
    pthread_mutex_lock(&gate.mutex);
    while (gate.held == 0) {
        pthread_cond_wait(&gate.changed, &gate.mutex);
    }
    pthread_mutex_unlock(&gate.mutex);
}

static uint8_t byte_at(uint64_t offset)
{
    return (uint8_t)(offset * 31 + offset / 4099);
}

static void setup(void)
{
    uint8_t *bytes;

    memory = memory_store_create(SIZE);
    bytes = memory_store_data(memory);
    for (uint64_t i = 0; i < SIZE; i++) {
        bytes[i] = byte_at(i);
    }
    gate = (struct gate){.store = {.ops = &gate_ops}, .inner = memory};
    pthread_mutex_init(&gate.mutex, NULL);
    pthread_cond_init(&gate.changed, NULL);
    ck_assert_int_eq(store_read_ahead(&gate.store, &store), 0);
    buffer = malloc(2 * MIB);
    ck_assert_ptr_nonnull(buffer);
}

static void teardown(void)
{
    store_close(store); /* and what it is around */
    free(buffer);
}

static void check_read(uint64_t offset, size_t length)
{
    memset(buffer, 0xee, length);
    ck_assert_int_eq(store_read(store, offset, buffer, length), 0);
    for (size_t i = 0; i < length; i++) {
        uint8_t expected = offset + i < SIZE ? byte_at(offset + i) : 0;

        if (buffer[i] != expected) {
            ck_abort_msg("at %llu: %u", (unsigned long long)(offset + i), buffer[i]);
        }
    }
}

static void read_in_order(uint64_t offset, uint64_t end, size_t length)
{
    for (; offset < end; offset += length) {
        check_read(offset, length);
    }
}

static unsigned reads(void)
{
    return memory_store_calls(memory, MEMORY_STORE_READ);
}

START_TEST(all_that_is_read_in_order_is_right)
{
    static const size_t lengths[] = {4096, 65536, 100003, 131072, 1048576, 1999999};

    store_may_start_threads(store);
    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        read_in_order(i * 77, SIZE + MIB, lengths[i]);
    }
}
END_TEST

/* What nobody has asked for is being read. */
static void check_is_ahead(void)
{
    gate_wait();
    gate_set(0, 0);
    read_in_order(2 * MIB, SIZE, 128 * KIB);
}

START_TEST(a_reader_in_order_has_more_read_than_it_asks_for)
{
    store_may_start_threads(store);
    gate_set(2 * MIB, SIZE);
    read_in_order(0, 2 * MIB, 128 * KIB);
    check_is_ahead();
}
END_TEST

START_TEST(requests_that_overtake_each_other_are_one_reading)
{
    store_may_start_threads(store);
    gate_set(2 * MIB, SIZE);
    for (uint64_t at = 0; at < 2 * MIB; at += 512 * KIB) {
        check_read(at + 256 * KIB, 128 * KIB);
        check_read(at, 128 * KIB);
        check_read(at + 384 * KIB, 128 * KIB);
        check_read(at + 128 * KIB, 128 * KIB);
    }
    check_is_ahead();
}
END_TEST

START_TEST(small_tables_in_a_row_are_a_reading)
{
    store_may_start_threads(store);
    gate_set(2 * MIB, SIZE);
    read_in_order(0, 2 * MIB, PAGE);
    check_is_ahead();
}
END_TEST

START_TEST(who_reads_here_and_there_asks_the_store_alone)
{
    uint64_t at = 0;

    store_may_start_threads(store);
    for (unsigned i = 0; i < 200; i++) {
        at = (at + 7 * MIB + 20 * KIB) % (SIZE - PAGE);
        check_read(at, PAGE);
    }
    ck_assert_uint_eq(reads(), 200);
}
END_TEST

START_TEST(before_threads_may_be_started_nothing_is_read_ahead)
{
    read_in_order(0, 16 * MIB, 128 * KIB);
    ck_assert_uint_eq(reads(), 128);
}
END_TEST

START_TEST(what_could_not_be_read_ahead_is_the_readers_own_error)
{
    store_may_start_threads(store);
    memory_store_fail_reads(memory, 3 * MIB, 1, EIO);
    read_in_order(0, 3 * MIB, 128 * KIB);
    ck_assert_int_eq(store_read(store, 3 * MIB, buffer, 128 * KIB), -EIO);
    check_read(3 * MIB + 128 * KIB, 128 * KIB);
    memory_store_fail_reads(memory, 0, 0, 0);
    read_in_order(3 * MIB, SIZE, 128 * KIB);
}
END_TEST

START_TEST(what_is_written_is_read_where_a_block_has_it_already)
{
    store_may_start_threads(store);
    read_in_order(0, 2 * MIB + 128 * KIB, 128 * KIB); /* the block goes on */
    ck_assert_int_eq(store_write(store, 2 * MIB + 200 * KIB, "new", 3), 0);
    ck_assert_int_eq(store_read(store, 2 * MIB + 200 * KIB, buffer, 3), 0);
    ck_assert_mem_eq(buffer, "new", 3);
    ck_assert_int_eq(store_punch(store, 2 * MIB + 128 * KIB, 64 * KIB), 0);
    ck_assert_int_eq(store_read(store, 2 * MIB + 128 * KIB, buffer, 64 * KIB), 0);
    for (size_t i = 0; i < 64 * KIB; i++) {
        ck_assert_uint_eq(buffer[i], 0);
    }
}
END_TEST

START_TEST(what_is_written_while_a_block_is_read_is_in_no_block)
{
    store_may_start_threads(store);
    gate_set(2 * MIB, SIZE); /* these have their bytes, and are held */
    read_in_order(0, 2 * MIB, 128 * KIB);
    gate_wait();
    ck_assert_int_eq(store_write(store, 2 * MIB + 5, "new", 3), 0);
    gate_set(0, 0);
    ck_assert_int_eq(store_read(store, 2 * MIB, buffer, 128 * KIB), 0);
    ck_assert_mem_eq(buffer + 5, "new", 3);
}
END_TEST

/* --- Many at once ----------------------------------------------------------------------------- */

static _Atomic unsigned written; /* each page of the store begins with this, or a higher number */
static atomic_bool over;

static void *keep_reading(void *argument)
{
    unsigned *errors = argument;
    uint8_t *bytes = malloc(128 * KIB);

    while (!atomic_load(&over)) {
        for (uint64_t at = 0; at < 16 * MIB && !atomic_load(&over); at += 128 * KIB) {
            unsigned least = atomic_load(&written), found;

            *errors += store_read(store, at, bytes, 128 * KIB) != 0;
            for (uint64_t i = 0; i < 128 * KIB; i += 8 * PAGE) {
                memcpy(&found, bytes + i, sizeof(found));
                *errors += found < least;
            }
        }
    }
    free(bytes);
    return NULL;
}

/* All pages, in pieces that several blocks meet; then they count as written. */
static void write_all(unsigned number, uint64_t end)
{
    for (uint64_t at = 0; at < end; at += 8 * PAGE) {
        ck_assert_int_eq(store_write(store, at, &number, sizeof(number)), 0);
    }
    atomic_store(&written, number);
}

START_TEST(no_reader_sees_what_a_write_had_replaced_before_it_asked)
{
    unsigned errors[4] = {0};
    pthread_t threads[4];
    int64_t end = now_msecs() + 1500;

    store_may_start_threads(store);
    write_all(1, 16 * MIB);
    for (unsigned i = 0; i < 4; i++) {
        ck_assert_int_eq(pthread_create(&threads[i], NULL, keep_reading, &errors[i]), 0);
    }
    for (unsigned number = 2; now_msecs() < end; number++) {
        write_all(number, 16 * MIB);
    }
    atomic_store(&over, true);
    for (unsigned i = 0; i < 4; i++) {
        ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
        ck_assert_uint_eq(errors[i], 0);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("ahead");
    TCase *tcase = tcase_create("ahead");

    tcase_set_timeout(tcase, 120);
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, all_that_is_read_in_order_is_right);
    tcase_add_test(tcase, a_reader_in_order_has_more_read_than_it_asks_for);
    tcase_add_test(tcase, requests_that_overtake_each_other_are_one_reading);
    tcase_add_test(tcase, small_tables_in_a_row_are_a_reading);
    tcase_add_test(tcase, who_reads_here_and_there_asks_the_store_alone);
    tcase_add_test(tcase, before_threads_may_be_started_nothing_is_read_ahead);
    tcase_add_test(tcase, what_could_not_be_read_ahead_is_the_readers_own_error);
    tcase_add_test(tcase, what_is_written_is_read_where_a_block_has_it_already);
    tcase_add_test(tcase, what_is_written_while_a_block_is_read_is_in_no_block);
    tcase_add_test(tcase, no_reader_sees_what_a_write_had_replaced_before_it_asked);
    suite_add_tcase(suite, tcase);
    return suite_main(suite);
}
