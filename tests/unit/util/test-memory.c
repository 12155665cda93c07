/* SPDX-License-Identifier: MIT */
/* The store in memory, on which the tests of all other modules stand. */
#include "config.h"

#include "memory_store.h"
#include "suite.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

START_TEST(bytes_written_are_read_and_zeros_follow_the_end)
{
    struct store *store = memory_store_create(10);
    char buffer[20];

    ck_assert_int_eq(store_write(store, 8, "abcd", 4), 0);
    ck_assert_uint_eq(memory_store_size(store), 12);
    memset(buffer, 'x', sizeof(buffer));
    ck_assert_int_eq(store_read(store, 6, buffer, sizeof(buffer)), 0);
    ck_assert_mem_eq(buffer, "\0\0abcd\0\0\0\0\0\0\0\0\0\0\0\0\0\0", sizeof(buffer));
    ck_assert_mem_eq(memory_store_data(store) + 8, "abcd", 4);
    ck_assert_int_eq(store_read(store, UINT64_MAX - 3, buffer, 8), 0);
    ck_assert_int_eq(buffer[7], 0);
    ck_assert_int_eq(store_write(store, INT64_MAX, "a", 1), -EFBIG);
    store_close(store);
}
END_TEST

START_TEST(a_store_can_be_larger_than_memory_and_grow)
{
    struct store *store;
    char byte;

    if (sizeof(size_t) < sizeof(uint64_t)) {
        return; /* one is a range of addresses */
    }
    store = memory_store_create(UINT64_C(1) << 38);

    ck_assert_int_eq(store_write(store, UINT64_C(1) << 39, "z", 1), 0);
    ck_assert_uint_eq(memory_store_size(store), (UINT64_C(1) << 39) + 1);
    ck_assert_int_eq(store_read(store, UINT64_C(1) << 39, &byte, 1), 0);
    ck_assert_int_eq(byte, 'z');
    store_close(store);
}
END_TEST

START_TEST(what_was_cut_off_or_punched_reads_as_zeros)
{
    struct store *store = memory_store_from("abcdefgh", 8);
    char buffer[8];

    ck_assert_int_eq(store_resize(store, 4), 0);
    ck_assert_int_eq(store_resize(store, 8), 0);
    ck_assert_int_eq(store_punch(store, 1, 2), 0);
    ck_assert_int_eq(store_punch(store, 7, UINT64_MAX), 0);
    ck_assert_int_eq(store_punch(store, 100, 1), 0);
    ck_assert_int_eq(store_read(store, 0, buffer, sizeof(buffer)), 0);
    ck_assert_mem_eq(buffer, "a\0\0d\0\0\0\0", sizeof(buffer));
    ck_assert_uint_eq(memory_store_size(store), 8);
    store_close(store);
}
END_TEST

START_TEST(the_nth_call_fails_once_and_calls_are_counted)
{
    struct store *store = memory_store_from("abc", 3);
    char buffer[3];

    memory_store_fail(store, MEMORY_STORE_READ, 2, EIO);
    memory_store_fail(store, MEMORY_STORE_WRITE, 1, ENOSPC);
    memory_store_fail(store, MEMORY_STORE_SYNC, 1, EDQUOT);
    ck_assert_int_eq(store_read(store, 0, buffer, 3), 0);
    ck_assert_int_eq(store_read(store, 0, buffer, 3), -EIO);
    ck_assert_mem_ne(buffer, "abc", 3);
    ck_assert_int_eq(store_read(store, 0, buffer, 3), 0);
    ck_assert_int_eq(store_write(store, 0, "xyz", 3), -ENOSPC);
    ck_assert_mem_eq(memory_store_data(store), "abc", 3);
    ck_assert_int_eq(store_write(store, 0, "xyz", 3), 0);
    ck_assert_int_eq(store_sync(store), -EDQUOT);
    ck_assert_int_eq(store_sync(store), 0);
    ck_assert_uint_eq(memory_store_calls(store, MEMORY_STORE_READ), 3);
    ck_assert_uint_eq(memory_store_calls(store, MEMORY_STORE_WRITE), 2);
    ck_assert_uint_eq(memory_store_calls(store, MEMORY_STORE_SYNC), 2);
    ck_assert_uint_eq(memory_store_calls(store, MEMORY_STORE_PUNCH), 0);
    store_close(store);
}
END_TEST

START_TEST(reads_that_touch_the_failing_range_fail)
{
    struct store *store = memory_store_create(100);
    char buffer[10];

    memory_store_fail_reads(store, 50, 10, EIO);
    ck_assert_int_eq(store_read(store, 40, buffer, 10), 0);
    ck_assert_int_eq(store_read(store, 41, buffer, 10), -EIO);
    ck_assert_int_eq(store_read(store, 59, buffer, 1), -EIO);
    ck_assert_int_eq(store_read(store, 60, buffer, 10), 0);
    memory_store_fail_reads(store, 0, 0, 0);
    ck_assert_int_eq(store_read(store, 50, buffer, 10), 0);
    store_close(store);
}
END_TEST

static void *read_one_byte(void *store)
{
    char byte = 0;

    return store_read(store, 50, &byte, 1) == 0 && byte == 'x' ? NULL : store;
}

START_TEST(a_blocked_read_waits_while_others_go_on)
{
    struct store *store = memory_store_create(100);
    pthread_t threads[2];
    void *result;
    char byte;

    memory_store_block_reads(store, 50, 1);
    for (int i = 0; i < 2; i++) {
        ck_assert_int_eq(pthread_create(&threads[i], NULL, read_one_byte, store), 0);
    }
    memory_store_wait_blocked(store, 2);
    ck_assert_int_eq(store_read(store, 49, &byte, 1), 0);
    /* They have read nothing yet. */
    ck_assert_int_eq(store_write(store, 50, "x", 1), 0);
    memory_store_release_reads(store);
    for (int i = 0; i < 2; i++) {
        ck_assert_int_eq(pthread_join(threads[i], &result), 0);
        ck_assert_ptr_null(result);
    }
    ck_assert_int_eq(store_read(store, 50, &byte, 1), 0);
    store_close(store);
}
END_TEST

static void expect_extent(struct store *store, uint64_t offset, uint64_t limit, bool data,
                          uint64_t length)
{
    uint64_t found;
    bool is_data;

    ck_assert_int_eq(store_extent(store, offset, limit, &is_data, &found), 0);
    ck_assert_int_eq(is_data, data);
    ck_assert_uint_eq(found, length);
}

START_TEST(extents_are_all_data_or_by_block_where_sparse)
{
    struct store *store = memory_store_create(5 * MEMORY_STORE_BLOCK);

    memory_store_data(store)[2 * MEMORY_STORE_BLOCK + 7] = 1;
    expect_extent(store, 10, UINT64_MAX, true, 5 * MEMORY_STORE_BLOCK - 10);
    expect_extent(store, 5 * MEMORY_STORE_BLOCK, 33, false, 33);
    memory_store_set_sparse(store, true);
    expect_extent(store, 10, UINT64_MAX, false, 2 * MEMORY_STORE_BLOCK - 10);
    expect_extent(store, 10, 100, false, 100);
    expect_extent(store, 2 * MEMORY_STORE_BLOCK + 9, UINT64_MAX, true, MEMORY_STORE_BLOCK - 9);
    expect_extent(store, 3 * MEMORY_STORE_BLOCK, UINT64_MAX / 2, false, UINT64_MAX / 2);
    store_close(store);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("memory store");
    TCase *tcase = tcase_create("memory");

    tcase_add_test(tcase, bytes_written_are_read_and_zeros_follow_the_end);
    tcase_add_test(tcase, a_store_can_be_larger_than_memory_and_grow);
    tcase_add_test(tcase, what_was_cut_off_or_punched_reads_as_zeros);
    tcase_add_test(tcase, the_nth_call_fails_once_and_calls_are_counted);
    tcase_add_test(tcase, reads_that_touch_the_failing_range_fail);
    tcase_add_test(tcase, a_blocked_read_waits_while_others_go_on);
    tcase_add_test(tcase, extents_are_all_data_or_by_block_where_sparse);
    suite_add_tcase(suite, tcase);
    return suite_main(suite);
}
