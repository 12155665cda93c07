/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "memory_store.h"
#include "store/limited.h"
#include "store/scratch.h"
#include "suite.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#define MAX UINT64_C(1000)

static struct store *inner, *store;

static void setup(void)
{
    inner = memory_store_create(100);
    ck_assert_int_eq(store_limit(inner, MAX, &store), 0);
}

static void teardown(void)
{
    store_close(store); /* and what it is around */
}

static uint64_t size_of(struct store *of)
{
    struct store_info info;

    ck_assert_int_eq(store_info(of, &info), 0);
    return info.size;
}

START_TEST(up_to_its_bound_it_grows)
{
    ck_assert_int_eq(store_write(store, MAX - 1, "x", 1), 0);
    ck_assert_uint_eq(size_of(store), MAX);
    ck_assert_int_eq(store_resize(store, 10), 0);
    ck_assert_int_eq(store_resize(store, MAX), 0);
}
END_TEST

START_TEST(behind_its_bound_there_is_no_space)
{
    uint8_t bytes[2];

    ck_assert_int_eq(store_write(store, MAX - 1, "xy", 2), -ENOSPC);
    ck_assert_int_eq(store_resize(store, MAX + 1), -ENOSPC);
    ck_assert_int_eq(store_write(store, UINT64_MAX, "xy", 2), -EFBIG);
    ck_assert_uint_eq(size_of(store), 100);
    ck_assert_uint_eq(memory_store_calls(inner, MEMORY_STORE_WRITE), 0);
    ck_assert_int_eq(store_write(store, 98, "ab", 2), 0); /* what is within it can be written */
    ck_assert_int_eq(store_read(store, 98, bytes, 2), 0);
    ck_assert_mem_eq(bytes, "ab", 2);
}
END_TEST

START_TEST(what_is_longer_already_stays_so_and_can_be_written)
{
    ck_assert_int_eq(store_resize(inner, 2 * MAX), 0);
    ck_assert_int_eq(store_write(store, 2 * MAX - 2, "ab", 2), 0);
    ck_assert_int_eq(store_resize(store, 2 * MAX), 0);
    ck_assert_int_eq(store_resize(store, 2 * MAX + 1), -ENOSPC);
    ck_assert_int_eq(store_resize(store, MAX + 5), 0);
    ck_assert_int_eq(store_resize(store, MAX + 6), -ENOSPC);
}
END_TEST

START_TEST(its_room_is_what_is_left_of_the_bound)
{
    struct store *file, *bounded;
    uint64_t room;

    ck_assert_int_eq(store_scratch_create(".", &file), 0);
    ck_assert_int_eq(store_limit(file, 65536, &bounded), 0);
    ck_assert_int_eq(store_room(bounded, &room), 0);
    ck_assert_uint_eq(room, 65536);
    ck_assert_int_eq(store_write(bounded, 0, "x", 1), 0);
    ck_assert_int_eq(store_room(bounded, &room), 0);
    ck_assert_uint_le(room, 65536 - 512);
    store_close(bounded);
}
END_TEST

static bool refuse_holes(struct store *of)
{
    (void)of;
    return true;
}

static void close_nothing(struct store *of)
{
    (void)of;
}

START_TEST(that_the_host_makes_no_holes_is_known_through_it)
{
    static const struct store_ops stubborn = {.refuses_holes = refuse_holes,
                                              .close = close_nothing};
    struct store host = {&stubborn}, *bounded;

    ck_assert_int_eq(store_limit(&host, MAX, &bounded), 0);
    ck_assert(store_refuses_holes(bounded));
    store_close(bounded);
    ck_assert(!store_refuses_holes(store));
}
END_TEST

START_TEST(a_file_to_throw_away_has_no_name_and_is_private)
{
    struct store_info info;
    struct store *file;

    ck_assert_int_eq(store_scratch_create(".", &file), 0);
    ck_assert_int_eq(store_info(file, &info), 0);
    ck_assert_uint_eq(info.mode & 0777, 0600);
    ck_assert_uint_eq(info.size, 0);
    store_close(file);
    ck_assert_int_eq(store_scratch_create("not/there", &file), -ENOENT);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("limited");
    TCase *tcase = tcase_create("limited");

    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, up_to_its_bound_it_grows);
    tcase_add_test(tcase, behind_its_bound_there_is_no_space);
    tcase_add_test(tcase, what_is_longer_already_stays_so_and_can_be_written);
    tcase_add_test(tcase, its_room_is_what_is_left_of_the_bound);
    tcase_add_test(tcase, that_the_host_makes_no_holes_is_known_through_it);
    tcase_add_test(tcase, a_file_to_throw_away_has_no_name_and_is_private);
    suite_add_tcase(suite, tcase);
    return suite_main(suite);
}
