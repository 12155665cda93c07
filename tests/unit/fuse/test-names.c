/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "fuse/names.h"
#include "suite.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Snapshots of these names; their IDs are "1", "2", ... */
static char **make(const char *const *from, size_t count)
{
    struct snapshot *snapshots = calloc(count, sizeof(*snapshots));
    char **names = NULL;

    ck_assert_ptr_nonnull(snapshots);
    for (size_t i = 0; i < count; i++) {
        ck_assert_int_ge(asprintf(&snapshots[i].id, "%zu", i + 1), 0);
        snapshots[i].name = strdup(from[i]);
    }
    ck_assert_int_eq(names_make(snapshots, count, &names), 0);
    for (size_t i = 0; i < count; i++) {
        free(snapshots[i].id);
        free(snapshots[i].name);
    }
    free(snapshots);
    return names;
}

static void expect_one(const char *name, const char *expected)
{
    char **names = make(&name, 1);

    ck_assert_str_eq(names[0], expected);
    names_free(names, 1);
}

/* With IDs given by the test. */
static char **make_with_ids(const char *const (*from)[2], size_t count)
{
    struct snapshot *snapshots = calloc(count, sizeof(*snapshots));
    char **names = NULL;

    ck_assert_ptr_nonnull(snapshots);
    for (size_t i = 0; i < count; i++) {
        snapshots[i].name = strdup(from[i][0]);
        snapshots[i].id = strdup(from[i][1]);
    }
    ck_assert_int_eq(names_make(snapshots, count, &names), 0);
    for (size_t i = 0; i < count; i++) {
        free(snapshots[i].id);
        free(snapshots[i].name);
    }
    free(snapshots);
    return names;
}

static int compare_strings(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Sorts, and looks at each pair of neighbours; every name must be one that a directory can have. */
static void expect_valid_and_unique(char **names, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        ck_assert_uint_ge(strlen(names[i]), 1);
        ck_assert_uint_le(strlen(names[i]), NAMES_MAX);
        ck_assert_ptr_null(strchr(names[i], '/'));
        ck_assert_str_ne(names[i], ".");
        ck_assert_str_ne(names[i], "..");
    }
    qsort(names, count, sizeof(*names), compare_strings);
    for (size_t i = 1; i < count; i++) {
        ck_assert_str_ne(names[i - 1], names[i]);
    }
}

START_TEST(ordinary_names_are_kept)
{
    expect_one("before-upgrade", "before-upgrade");
    expect_one("two words @ 12:00 \\ \"x\"", "two words @ 12:00 \\ \"x\"");
    expect_one("...", "...");
    expect_one(".hidden", ".hidden");
}
END_TEST

START_TEST(bytes_that_a_file_name_or_a_terminal_cannot_bear_are_quoted)
{
    expect_one("a/b", "a%2Fb");
    expect_one("100%", "100%25");
    expect_one("a\nb\x1b[31m", "a%0Ab%1B[31m");
    expect_one("\x7f\x1f ", "%7F%1F ");
    expect_one("\xc2\x80 \xc2\x9b \xc2\xa0", "%C2%80 %C2%9B \xc2\xa0");
}
END_TEST

START_TEST(dot_and_dot_dot_are_quoted)
{
    expect_one(".", "%2E");
    expect_one("..", "%2E%2E");
    expect_one("../x", "..%2Fx");
}
END_TEST

START_TEST(utf8_is_kept_and_what_is_not_utf8_is_quoted)
{
    expect_one("\xc3\xa9t\xc3\xa9", "\xc3\xa9t\xc3\xa9");
    expect_one("\xe2\x82\xac", "\xe2\x82\xac");
    expect_one("\xf0\x9f\x90\xa7", "\xf0\x9f\x90\xa7");
    expect_one("\xed\x9f\xbf", "\xed\x9f\xbf"); /* the last before the surrogates */
    expect_one("\xf4\x8f\xbf\xbf", "\xf4\x8f\xbf\xbf");
    expect_one("\xe9t\xe9", "%E9t%E9");             /* Latin-1 */
    expect_one("\x80", "%80");                      /* a continuation byte alone */
    expect_one("\xc3", "%C3");                      /* cut off */
    expect_one("\xe2\x82", "%E2%82");               /* cut off */
    expect_one("\xf0\x9f\x90", "%F0%9F%90");        /* cut off */
    expect_one("\xc0\xaf", "%C0%AF");               /* overlong '/' */
    expect_one("\xc1\xbf", "%C1%BF");               /* overlong */
    expect_one("\xe0\x80\xaf", "%E0%80%AF");        /* overlong '/' */
    expect_one("\xf0\x80\x80\xaf", "%F0%80%80%AF"); /* overlong '/' */
    expect_one("\xed\xa0\x80", "%ED%A0%80");        /* a surrogate */
    expect_one("\xf4\x90\x80\x80", "%F4%90%80%80"); /* past U+10FFFF */
    expect_one("\xf5\x80\x80\x80\xff", "%F5%80%80%80%FF");
}
END_TEST

START_TEST(an_empty_name_becomes_its_id)
{
    static const char *const from[][2] = {{"", "7"}, {"", "a/b"}, {"", ""}};
    char **names = make_with_ids(from, 3);

    ck_assert_str_eq(names[0], "id-7");
    ck_assert_str_eq(names[1], "id-a%2Fb");
    ck_assert_str_eq(names[2], "id-");
    names_free(names, 3);
}
END_TEST

START_TEST(every_one_of_equal_names_gets_its_id)
{
    static const char *const from[] = {"daily", "weekly", "daily"};
    char **names = make(from, 3);

    ck_assert_str_eq(names[0], "daily@1");
    ck_assert_str_eq(names[1], "weekly");
    ck_assert_str_eq(names[2], "daily@3");
    names_free(names, 3);
}
END_TEST

START_TEST(an_id_in_a_name_is_quoted_too)
{
    static const char *const from[][2] = {{"x", "../1"}, {"x", "2%"}};
    char **names = make_with_ids(from, 2);

    ck_assert_str_eq(names[0], "x@..%2F1");
    ck_assert_str_eq(names[1], "x@2%25");
    names_free(names, 2);
}
END_TEST

START_TEST(a_name_that_looks_like_anothers_suffixed_form_gets_the_index)
{
    static const char *const from[] = {"x", "x", "x@1", "x@1%#0"};
    char **names = make(from, 4);

    ck_assert_str_eq(names[0], "x%#0");
    ck_assert_str_eq(names[1], "x@2");
    ck_assert_str_eq(names[2], "x@1%#2");
    ck_assert_str_eq(names[3], "x@1%25#0");
    names_free(names, 4);
}
END_TEST

START_TEST(equal_names_with_equal_ids_are_told_apart)
{
    static const char *const from[][2] = {{"x", "1"}, {"x", "1"}, {"x", "2"}, {"", ""}, {"", ""}};
    char **names = make_with_ids(from, 5);

    ck_assert_str_eq(names[0], "x%#0");
    ck_assert_str_eq(names[1], "x%#1");
    ck_assert_str_eq(names[2], "x@2");
    expect_valid_and_unique(names, 5);
    names_free(names, 5);
}
END_TEST

START_TEST(a_long_name_is_cut_between_characters)
{
    char name[400] = "";
    char **names;
    const char *one = name;

    memset(name, 'a', 254);
    memcpy(name + 254, "\xe2\x82\xac", 4); /* would end at 257 */
    names = make(&one, 1);
    ck_assert_uint_eq(strlen(names[0]), 254);
    names_free(names, 1);

    memcpy(name + 254, "/bc", 4); /* %2F would end at 257 */
    names = make(&one, 1);
    ck_assert_uint_eq(strlen(names[0]), 254);
    names_free(names, 1);

    memcpy(name + 254, "xyz", 4);
    names = make(&one, 1);
    ck_assert_uint_eq(strlen(names[0]), 255);
    ck_assert_int_eq(names[0][254], 'x');
    names_free(names, 1);
}
END_TEST

START_TEST(long_names_that_are_cut_to_the_same_are_told_apart)
{
    char a[1000], b[1000], id[3000];
    const char *const from[][2] = {{a, "1"}, {b, "2"}, {a, id}, {b, id}};
    char **names;

    memset(a, 'n', sizeof(a));
    memset(b, 'n', sizeof(b));
    memset(id, '/', sizeof(id));
    a[999] = b[998] = id[2999] = '\0';
    names = make_with_ids(from, 4);
    ck_assert_uint_eq(strlen(names[0]), NAMES_MAX);
    ck_assert_str_eq(names[0] + NAMES_MAX - 2, "@1");
    ck_assert_str_eq(names[1] + NAMES_MAX - 2, "@2");
    expect_valid_and_unique(names, 4);
    names_free(names, 4);
}
END_TEST

START_TEST(an_image_without_snapshots_has_no_names)
{
    char **names = NULL;

    ck_assert_int_eq(names_make(NULL, 0, &names), 0);
    names_free(names, 0);
    names_free(NULL, 0);
}
END_TEST

/* The whole table of a hostile image: all forms that could collide, many times each. */
START_TEST(names_are_unique_over_the_largest_hostile_table)
{
    struct snapshot *snapshots = calloc(SNAPSHOTS_MAX, sizeof(*snapshots));
    char **names = NULL;

    ck_assert_ptr_nonnull(snapshots);
    for (size_t i = 0; i < SNAPSHOTS_MAX; i++) {
        static const char *const forms[] = {"x", "x@%zu", "x@%zu%%#%zu", "%%#%zu", "", "x%%#%zu"};
        char name[64];

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        snprintf(name, sizeof(name), forms[i % 6], i % 100, i);
#pragma GCC diagnostic pop
        snapshots[i].name = strdup(name);
        ck_assert_int_ge(asprintf(&snapshots[i].id, "%zu", i % 50), 0);
    }
    ck_assert_int_eq(names_make(snapshots, SNAPSHOTS_MAX, &names), 0);
    expect_valid_and_unique(names, SNAPSHOTS_MAX);
    names_free(names, SNAPSHOTS_MAX);
    for (size_t i = 0; i < SNAPSHOTS_MAX; i++) {
        free(snapshots[i].name);
        free(snapshots[i].id);
    }
    free(snapshots);
}
END_TEST

START_TEST(a_name_is_made_of_a_file_name_only_where_it_is_shown_so)
{
    static const struct {
        const char *file_name, *name; /* NULL: there is none */
    } cases[] = {
        {"plain", "plain"}, {"a%2Fb", "a/b"}, {"%2E", "."},   {"%2E%2E", ".."}, {"100%25", "100%"},
        {"id-7", "id-7"},   {"a@b", "a@b"},   {"100%", NULL}, {"a%2fb", NULL},  {"%41", NULL},
        {"%00", NULL},      {".", NULL},      {"\x01", NULL}, {"\xff", NULL},   {"%FF", "\xff"},
        {"a%#0", NULL},     {"%", NULL},      {"%2", NULL},
    };
    char name[NAMES_MAX + 1], longest[NAMES_MAX + 2];

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int result = names_unquote(cases[i].file_name, name);

        ck_assert_msg(result == (cases[i].name != NULL ? 0 : -EINVAL), "%s", cases[i].file_name);
        if (result == 0) {
            ck_assert_str_eq(name, cases[i].name);
        }
    }
    memset(longest, 'x', sizeof(longest));
    longest[NAMES_MAX + 1] = '\0';
    ck_assert_int_eq(names_unquote(longest, name), -ENAMETOOLONG);
    longest[NAMES_MAX] = '\0';
    ck_assert_int_eq(names_unquote(longest, name), 0);
    ck_assert_str_eq(name, longest);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("names");
    TCase *tcase = tcase_create("names");

    suite_add_tcase(suite, tcase);
    tcase_add_test(tcase, ordinary_names_are_kept);
    tcase_add_test(tcase, bytes_that_a_file_name_or_a_terminal_cannot_bear_are_quoted);
    tcase_add_test(tcase, dot_and_dot_dot_are_quoted);
    tcase_add_test(tcase, utf8_is_kept_and_what_is_not_utf8_is_quoted);
    tcase_add_test(tcase, an_empty_name_becomes_its_id);
    tcase_add_test(tcase, every_one_of_equal_names_gets_its_id);
    tcase_add_test(tcase, an_id_in_a_name_is_quoted_too);
    tcase_add_test(tcase, a_name_that_looks_like_anothers_suffixed_form_gets_the_index);
    tcase_add_test(tcase, equal_names_with_equal_ids_are_told_apart);
    tcase_add_test(tcase, a_long_name_is_cut_between_characters);
    tcase_add_test(tcase, long_names_that_are_cut_to_the_same_are_told_apart);
    tcase_add_test(tcase, an_image_without_snapshots_has_no_names);
    tcase_add_test(tcase, names_are_unique_over_the_largest_hostile_table);
    tcase_add_test(tcase, a_name_is_made_of_a_file_name_only_where_it_is_shown_so);
    return suite_main(suite);
}
