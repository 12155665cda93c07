/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "suite.h"
#include "util/size.h"

#include <errno.h>
#include <string.h>

static const struct {
    const char *text;
    uint64_t bytes;
} sizes[] = {
    {"0", 0},
    {"1", 1},
    {"010", 10},
    {"9223372036854775807", INT64_MAX},
    {"10b", 10},
    {"10B", 10},
    {"64k", 65536},
    {"64K", 65536},
    {"64KB", 65536},
    {"64kb", 65536},
    {"64KiB", 65536},
    {"64kIb", 65536},
    {"3M", UINT64_C(3) << 20},
    {"10G", UINT64_C(10) << 30},
    {"2t", UINT64_C(2) << 40},
    {"5P", UINT64_C(5) << 50},
    {"7E", UINT64_C(7) << 60},
    {"1e", UINT64_C(1) << 60}, /* a suffix, not an exponent */
    {"7EiB", UINT64_C(7) << 60},
    /* Fractions. */
    {"1.5G", UINT64_C(3) << 29},
    {"1.50GiB", UINT64_C(3) << 29},
    {"0.5k", 512},
    {"1.0", 1},
    {"1.000b", 1},
    {"1.1K", 1126},
    {"0.0009K", 0},
    {"0.0009765624K", 0},
    {"0.0009765625K", 1},
    /* Exact where a double is not: 2^53 + 1, and the last byte below 2^63. */
    {"8.0000000000000008881784197001252323389053344726562500P", (UINT64_C(1) << 53) + 1},
    {"7.99999999999999999999999999999999999999999999E", INT64_MAX},
    {"7.999999999999999999E", INT64_MAX - 1},
    {"0.3E", UINT64_C(345876451382054092)},
};

START_TEST(a_size_is_read_exactly)
{
    uint64_t bytes = 12345;

    ck_assert_msg(size_parse(sizes[_i].text, &bytes) == 0, "%s", sizes[_i].text);
    ck_assert_msg(bytes == sizes[_i].bytes, "%s is read as %ju", sizes[_i].text, (uintmax_t)bytes);
}
END_TEST

static const char *const not_sizes[] = {
    "",
    " ",
    "-1",
    "+1",
    " 1",
    "1 ",
    "1 K",
    "K",
    "B",
    "x",
    "1x",
    "12X",
    "1KK",
    "1Ki",
    "1KBi",
    "1KiBx",
    "1KB ",
    "1bB",
    "1biB",
    "1BB",
    "0x10",
    "0x10K",
    "1e3",
    "1e0",
    "1E3",
    "1.",
    "1.K",
    ".5K",
    ".",
    "1..5K",
    "1.5.5K",
    "1,5K",
    "1.5",
    "1.5b",
    "1.01B",
    "1.-5K",
    "1\xc2\xa0K",
    "inf",
    "nan",
    "1.5Kx",
    "1.5KiBB",
    "-1K",
    "99999999999999999999x",
    "0b1",
    "0.5",
};

START_TEST(what_is_not_a_size_is_refused)
{
    uint64_t bytes = 12345;

    ck_assert_msg(size_parse(not_sizes[_i], &bytes) == -EINVAL, "%s", not_sizes[_i]);
    ck_assert_uint_eq(bytes, 12345);
}
END_TEST

static const char *const too_large[] = {
    "9223372036854775808",
    "18446744073709551616",
    "99999999999999999999999999",
    "8E",
    "8192P",
    "16E",
    "17179869184G",
    "8.0E",
    "18014398509481984K",
    "9223372036854775808b",
    "8.5E",
    "18446744073709551615.9K",
};

START_TEST(what_exceeds_the_largest_file_is_out_of_range)
{
    uint64_t bytes = 12345;

    ck_assert_msg(size_parse(too_large[_i], &bytes) == -ERANGE, "%s", too_large[_i]);
    ck_assert_uint_eq(bytes, 12345);
}
END_TEST

static const struct {
    uint64_t bytes;
    const char *text;
} shown[] = {
    {0, "0 B"},
    {1, "1 B"},
    {512, "512 B"},
    {1023, "1023 B"},
    {1024, "1 KiB"},
    {1536, "1.5 KiB"},
    {1029, "1 KiB"},
    {1030, "1.01 KiB"},
    {65536, "64 KiB"},
    {10 * 1024 + 256, "10.3 KiB"}, /* 10.25, half up */
    {100 * 1024 + 511, "100 KiB"},
    {100 * 1024 + 512, "101 KiB"},
    {999 * 1024, "999 KiB"},
    {1000 * 1024, "1000 KiB"},
    {1023 * 1024, "1023 KiB"},
    {1024 * 1024 - 513, "1023 KiB"},
    {1024 * 1024 - 512, "1 MiB"},
    {1024 * 1024 - 1, "1 MiB"},
    {1024 * 1024, "1 MiB"},
    {10239, "10 KiB"},   /* 9.999 */
    {102399, "100 KiB"}, /* 99.999 */
    {UINT64_C(3) << 29, "1.5 GiB"},
    {UINT64_C(5) << 40, "5 TiB"},
    {UINT64_C(5) << 50, "5 PiB"},
    {INT64_MAX, "8 EiB"},
    {UINT64_MAX, "16 EiB"},
    {UINT64_C(1383505805528216371), "1.2 EiB"},
};

START_TEST(a_size_is_shown_rounded_in_the_largest_unit)
{
    char text[SIZE_TEXT_MAX];

    ck_assert_ptr_eq(size_format(shown[_i].bytes, text), text);
    ck_assert_str_eq(text, shown[_i].text);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("size");
    TCase *tests = tcase_create("all");

    tcase_add_loop_test(tests, a_size_is_read_exactly, 0, sizeof(sizes) / sizeof(sizes[0]));
    tcase_add_loop_test(tests, what_is_not_a_size_is_refused, 0,
                        sizeof(not_sizes) / sizeof(not_sizes[0]));
    tcase_add_loop_test(tests, what_exceeds_the_largest_file_is_out_of_range, 0,
                        sizeof(too_large) / sizeof(too_large[0]));
    tcase_add_loop_test(tests, a_size_is_shown_rounded_in_the_largest_unit, 0,
                        sizeof(shown) / sizeof(shown[0]));
    suite_add_tcase(suite, tests);
    return suite_main(suite);
}
