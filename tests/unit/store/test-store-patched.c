/* SPDX-License-Identifier: MIT */
/* A store with other bytes in places: read across their borders, and what is lost behind the end.
 */
#include "config.h"

#include "store/patched.h"

#include "memory_store.h"
#include "suite.h"

#include <errno.h>
#include <string.h>

#define FAR (UINT64_C(1) << 54)

static struct store *store;

static void open_store(void)
{
    struct store *inner = memory_store_from("0123456789", 10);

    ck_assert_int_eq(store_patch(inner, 16, &store), 0);
    ck_assert_int_eq(store_patch_add(store, 2, "ab", 2), 0);
    ck_assert_int_eq(store_patch_add(store, FAR, "far away", 8), 0);
    ck_assert_int_eq(store_patch_add(store, 6, "c", 1), 0);
}

static void close_store(void)
{
    store_close(store);
}

START_TEST(each_range_is_read_with_the_bytes_that_replace_others)
{
    const char whole[16] = "01ab45c789";
    char read[16];

    for (size_t at = 0; at < 16; at++) {
        for (size_t length = 1; length <= 16 - at; length++) {
            ck_assert_int_eq(store_read(store, at, read, length), 0);
            ck_assert_mem_eq(read, whole + at, length);
        }
    }
    ck_assert_int_eq(store_read(store, FAR + 4, read, 4), 0);
    ck_assert_mem_eq(read, "away", 4);
}
END_TEST

START_TEST(what_is_between_the_end_and_a_range_behind_it_is_lost)
{
    struct store_info info;
    uint64_t length;
    bool is_data;
    char read[16];

    ck_assert_int_eq(store_read(store, 15, read, 2), -EIO);
    ck_assert_int_eq(store_read(store, 1 << 20, read, 1), -EIO);
    ck_assert_int_eq(store_read(store, FAR - 1, read, 2), -EIO);
    ck_assert_int_eq(store_info(store, &info), 0);
    ck_assert_uint_eq(info.size, FAR + 8);
    ck_assert_int_eq(store_extent(store, 1 << 20, 4096, &is_data, &length), 0);
    ck_assert(is_data);
}
END_TEST

START_TEST(the_same_range_can_be_given_again)
{
    char read[4];

    ck_assert_int_eq(store_patch_add(store, 2, "xy", 2), 0);
    ck_assert_int_eq(store_read(store, 1, read, 4), 0);
    ck_assert_mem_eq(read, "1xy4", 4);
}
END_TEST

START_TEST(nothing_can_be_written)
{
    ck_assert_int_eq(store_write(store, 0, "x", 1), -EROFS);
    ck_assert_int_eq(store_punch(store, 0, 1), -EROFS);
    ck_assert_int_eq(store_resize(store, 5), -EROFS);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("patched store");
    TCase *tcase = tcase_create("patched store");

    tcase_add_checked_fixture(tcase, open_store, close_store);
    tcase_add_test(tcase, each_range_is_read_with_the_bytes_that_replace_others);
    tcase_add_test(tcase, what_is_between_the_end_and_a_range_behind_it_is_lost);
    tcase_add_test(tcase, the_same_range_can_be_given_again);
    tcase_add_test(tcase, nothing_can_be_written);
    suite_add_tcase(suite, tcase);
    return suite_main(suite);
}
