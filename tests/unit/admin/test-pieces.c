/* SPDX-License-Identifier: MIT */
/* A file made of pieces of others: reads and holes across their borders, and its bound. */
#include "config.h"

#include "admin/pieces.h"

#include "memory_store.h"
#include "suite.h"

#include <errno.h>
#include <string.h>

static struct store *one, *two;
static struct pieces pieces;

static void open_stores(void)
{
    one = memory_store_from("0123456789", 10);
    two = memory_store_from("abcdefghij", 10);
    pieces = (struct pieces){0};
}

static void close_stores(void)
{
    pieces_release(&pieces);
    store_close(one);
    store_close(two);
}

static void add(struct store *store, uint64_t host_offset, uint64_t length)
{
    const struct piece piece = {.store = store, .host_offset = host_offset};

    ck_assert_int_eq(pieces_add(&pieces, &piece, length), 0);
}

START_TEST(each_range_is_read_across_the_borders_of_pieces)
{
    const char whole[] = "2345hij89a";
    char read[sizeof(whole)];

    add(one, 2, 4);
    add(two, 7, 3);
    add(one, 8, 0);
    add(one, 8, 2);
    add(two, 0, 1);
    ck_assert_uint_eq(pieces.size, 10);
    for (size_t at = 0; at < 10; at++) {
        for (size_t length = 1; length <= 10 - at; length++) {
            ck_assert_int_eq(pieces_read(&pieces, at, read, length), 0);
            ck_assert_mem_eq(read, whole + at, length);
        }
    }
}
END_TEST

START_TEST(what_goes_on_is_one_piece)
{
    struct piece other = {.store = one, .host_offset = 6, .what = "slack"};

    add(one, 0, 4);
    add(one, 4, 2);
    ck_assert_uint_eq(pieces.count, 1);
    ck_assert_int_eq(pieces_add(&pieces, &other, 1), 0);
    other.host_offset = 7;
    other.snapshot = 1;
    ck_assert_int_eq(pieces_add(&pieces, &other, 1), 0);
    add(two, 8, 1);
    ck_assert_uint_eq(pieces.count, 4);
    ck_assert_uint_eq(pieces_length(&pieces, 0), 6);
    ck_assert_uint_eq(pieces_length(&pieces, 3), 1);
}
END_TEST

START_TEST(what_are_too_many_pieces_is_left_out_from_there_on)
{
    for (size_t i = 0; i < PIECES_MAX; i++) {
        add(one, 2 * (i % 4), 1);
    }
    ck_assert_uint_eq(pieces.left_out, 0);
    add(one, 7, 2); /* this one goes on where the last ended */
    ck_assert_uint_eq(pieces.size, PIECES_MAX + 2);
    add(two, 0, 5);
    add(two, 5, 1);
    ck_assert_uint_eq(pieces.left_out, 6);
    ck_assert_uint_eq(pieces.size, PIECES_MAX + 2);
    ck_assert_uint_eq(pieces.count, PIECES_MAX);
}
END_TEST

START_TEST(what_is_longer_than_a_file_can_be_is_left_out)
{
    add(one, 0, INT64_MAX);
    add(two, 0, 1);
    ck_assert_uint_eq(pieces.size, INT64_MAX);
    ck_assert_uint_eq(pieces.left_out, 1);
}
END_TEST

START_TEST(an_error_of_one_piece_fails_what_touches_it)
{
    char read[10];

    add(one, 0, 5);
    add(two, 0, 5);
    memory_store_fail_reads(two, 0, 10, EIO);
    ck_assert_int_eq(pieces_read(&pieces, 0, read, 5), 0);
    ck_assert_int_eq(pieces_read(&pieces, 0, read, 6), -EIO);
}
END_TEST

START_TEST(holes_of_the_host_are_found_across_pieces)
{
    struct store *sparse = memory_store_create(1 << 20);

    ck_assert_int_eq(store_write(sparse, 512 << 10, "x", 1), 0);
    ck_assert_int_eq(store_punch(sparse, 0, 256 << 10), 0);
    add(one, 0, 10);
    add(sparse, 0, 1 << 20);
    ck_assert_uint_eq(pieces_seek(&pieces, 3, pieces.size, true), 3);
    ck_assert_uint_eq(pieces_seek(&pieces, 3, 8, false), 8);
    for (uint64_t at = pieces_seek(&pieces, 0, pieces.size, false); at < pieces.size;) {
        uint64_t data = pieces_seek(&pieces, at, pieces.size, true);

        for (char byte; at < data; at += 512) {
            ck_assert_int_eq(pieces_read(&pieces, at, &byte, 1), 0);
            ck_assert_int_eq(byte, 0);
        }
        at = pieces_seek(&pieces, data, pieces.size, false);
    }
    store_close(sparse);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("pieces");
    TCase *tcase = tcase_create("pieces");

    tcase_add_checked_fixture(tcase, open_stores, close_stores);
    tcase_add_test(tcase, each_range_is_read_across_the_borders_of_pieces);
    tcase_add_test(tcase, what_goes_on_is_one_piece);
    tcase_add_test(tcase, what_are_too_many_pieces_is_left_out_from_there_on);
    tcase_add_test(tcase, what_is_longer_than_a_file_can_be_is_left_out);
    tcase_add_test(tcase, an_error_of_one_piece_fails_what_touches_it);
    tcase_add_test(tcase, holes_of_the_host_are_found_across_pieces);
    suite_add_tcase(suite, tcase);
    return suite_main(suite);
}
