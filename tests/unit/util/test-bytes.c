/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "suite.h"
#include "util/bytes.h"
#include "util/checked.h"

static const unsigned char digits[] = {0x00, 0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 0x10};

START_TEST(loads_most_significant_byte_first_at_any_alignment)
{
    ck_assert_uint_eq(load_be16(digits + 1), 0x0123);
    ck_assert_uint_eq(load_be32(digits + 1), 0x01234567);
    ck_assert_uint_eq(load_be64(digits + 1), UINT64_C(0x0123456789abcdef));
    ck_assert_uint_eq(load_be64(digits + 2), UINT64_C(0x23456789abcdef10));
}
END_TEST

START_TEST(stores_what_it_loads_and_nothing_beside_it)
{
    unsigned char bytes[12];

    memset(bytes, 0xee, sizeof(bytes));
    store_be16(bytes + 1, 0x0123);
    ck_assert_mem_eq(bytes, "\xee\x01\x23\xee", 4);

    memset(bytes, 0xee, sizeof(bytes));
    store_be32(bytes + 1, 0x01234567);
    ck_assert_mem_eq(bytes, "\xee\x01\x23\x45\x67\xee", 6);

    memset(bytes, 0xee, sizeof(bytes));
    store_be64(bytes + 1, UINT64_C(0x0123456789abcdef));
    ck_assert_mem_eq(bytes, "\xee\x01\x23\x45\x67\x89\xab\xcd\xef\xee", 10);
}
END_TEST

START_TEST(sum_that_does_not_fit_is_refused)
{
    uint64_t sum;

    ck_assert(checked_add(UINT64_MAX - 1, 1, &sum));
    ck_assert_uint_eq(sum, UINT64_MAX);
    ck_assert(!checked_add(UINT64_MAX, 1, &sum));
    ck_assert(!checked_add(UINT64_MAX, UINT64_MAX, &sum));
}
END_TEST

START_TEST(product_that_does_not_fit_is_refused)
{
    uint64_t product;

    ck_assert(checked_mul(UINT64_C(0xffffffff), UINT64_C(0x100000001), &product));
    ck_assert_uint_eq(product, UINT64_MAX);
    ck_assert(checked_mul(UINT64_MAX, 0, &product));
    ck_assert_uint_eq(product, 0);
    ck_assert(!checked_mul(UINT64_C(1) << 32, UINT64_C(1) << 32, &product));
}
END_TEST

START_TEST(powers_of_two_are_those_with_one_bit)
{
    ck_assert(!is_power_of_two(0));
    ck_assert(is_power_of_two(1));
    ck_assert(is_power_of_two(512));
    ck_assert(is_power_of_two(UINT64_C(1) << 63));
    ck_assert(!is_power_of_two(513));
    ck_assert(!is_power_of_two(UINT64_MAX));
}
END_TEST

START_TEST(rounding_up_to_a_power_of_two_is_exact_or_refused)
{
    uint64_t rounded;

    ck_assert(checked_round_up(0, 4096, &rounded));
    ck_assert_uint_eq(rounded, 0);
    ck_assert(checked_round_up(1, 4096, &rounded));
    ck_assert_uint_eq(rounded, 4096);
    ck_assert(checked_round_up(4096, 4096, &rounded));
    ck_assert_uint_eq(rounded, 4096);
    ck_assert(checked_round_up(UINT64_MAX - 4095, 4096, &rounded));
    ck_assert_uint_eq(rounded, UINT64_MAX - 4095);
    ck_assert(!checked_round_up(UINT64_MAX - 4094, 4096, &rounded));
}
END_TEST

START_TEST(rounding_down_keeps_multiples)
{
    ck_assert_uint_eq(round_down(0, 512), 0);
    ck_assert_uint_eq(round_down(511, 512), 0);
    ck_assert_uint_eq(round_down(512, 512), 512);
    ck_assert_uint_eq(round_down(UINT64_MAX, 512), UINT64_MAX - 511);
}
END_TEST

START_TEST(units_that_cover_a_value_count_the_last_part)
{
    ck_assert_uint_eq(div_round_up(0, 10), 0);
    ck_assert_uint_eq(div_round_up(1, 10), 1);
    ck_assert_uint_eq(div_round_up(10, 10), 1);
    ck_assert_uint_eq(div_round_up(11, 10), 2);
    ck_assert_uint_eq(div_round_up(UINT64_MAX, 2), UINT64_C(1) << 63);
}
END_TEST

START_TEST(min_and_max_compare_all_64_bits)
{
    ck_assert_uint_eq(min_u64(UINT64_C(1) << 63, 7), 7);
    ck_assert_uint_eq(min_u64(7, UINT64_C(1) << 63), 7);
    ck_assert_uint_eq(max_u64(UINT64_C(1) << 63, 7), UINT64_C(1) << 63);
    ck_assert_uint_eq(max_u64(7, UINT64_C(1) << 63), UINT64_C(1) << 63);
}
END_TEST

START_TEST(what_no_memory_can_hold_is_the_largest_size)
{
    ck_assert_uint_eq(in_memory(UINT64_MAX), SIZE_MAX);
    ck_assert_uint_eq(in_memory(0), 0);
    ck_assert_uint_eq(in_memory(SIZE_MAX), SIZE_MAX);
    ck_assert(sizeof(size_t) > 4 || in_memory(UINT64_C(0x100000001)) == SIZE_MAX);
    ck_assert_uint_eq(min_size(UINT64_C(0x100000001), 512), 512);
    ck_assert_uint_eq(min_size(512, UINT64_C(0x100000001)), 512);
}
END_TEST

START_TEST(range_within_does_not_wrap)
{
    ck_assert(range_within(0, 10, 10));
    ck_assert(range_within(10, 0, 10));
    ck_assert(range_within(9, 1, 10));
    ck_assert(!range_within(9, 2, 10));
    ck_assert(!range_within(11, 0, 10));
    ck_assert(!range_within(UINT64_MAX, 2, 10));
    ck_assert(!range_within(2, UINT64_MAX, 10));
    ck_assert(range_within(1, UINT64_MAX - 1, UINT64_MAX));
}
END_TEST

START_TEST(ranges_overlap_when_they_share_a_byte)
{
    ck_assert(ranges_overlap(0, 10, 9, 1));
    ck_assert(ranges_overlap(9, 1, 0, 10));
    ck_assert(ranges_overlap(5, 1, 0, 10));
    ck_assert(ranges_overlap(5, 5, 5, 5));
    ck_assert(!ranges_overlap(0, 10, 10, 1));
    ck_assert(!ranges_overlap(10, 1, 0, 10));
    ck_assert(!ranges_overlap(5, 0, 0, 10));
    ck_assert(!ranges_overlap(0, 10, 5, 0));
    /* Ends past 2^64 are not there to be computed. */
    ck_assert(ranges_overlap(UINT64_MAX - 1, 10, UINT64_MAX, 10));
    ck_assert(!ranges_overlap(UINT64_MAX, 10, 0, 5));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("bytes");
    TCase *tests = tcase_create("all");

    tcase_add_test(tests, loads_most_significant_byte_first_at_any_alignment);
    tcase_add_test(tests, stores_what_it_loads_and_nothing_beside_it);
    tcase_add_test(tests, sum_that_does_not_fit_is_refused);
    tcase_add_test(tests, product_that_does_not_fit_is_refused);
    tcase_add_test(tests, powers_of_two_are_those_with_one_bit);
    tcase_add_test(tests, rounding_up_to_a_power_of_two_is_exact_or_refused);
    tcase_add_test(tests, rounding_down_keeps_multiples);
    tcase_add_test(tests, units_that_cover_a_value_count_the_last_part);
    tcase_add_test(tests, min_and_max_compare_all_64_bits);
    tcase_add_test(tests, what_no_memory_can_hold_is_the_largest_size);
    tcase_add_test(tests, range_within_does_not_wrap);
    tcase_add_test(tests, ranges_overlap_when_they_share_a_byte);
    suite_add_tcase(suite, tests);
    return suite_main(suite);
}
