/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "suite.h"
#include "util/json.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#ifdef HAVE_JANSSON

static void expect_line(struct json *json, const char *expected)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);

    ck_assert_ptr_nonnull(out);
    ck_assert_int_eq(json_print_line(json, out), 0);
    fclose(out);
    ck_assert_str_eq(text, expected);
    free(text);
    json_free(json);
}

START_TEST(members_are_printed_in_the_order_of_the_calls)
{
    struct json *object = json_new_object(), *list = json_new_array();

    json_add_text(list, "b");
    json_add_number(list, 7);
    json_put_text(object, "text", "a");
    json_put_number(object, "number", 5);
    json_put_signed(object, "signed", -5);
    json_put_bool(object, "yes", true);
    json_put(object, "list", list);
    json_put(object, "object", json_new_object());
    expect_line(object, "{\"text\": \"a\", \"number\": 5, \"signed\": -5, \"yes\": true, "
                        "\"list\": [\"b\", 7], \"object\": {}}\n");
}
END_TEST

START_TEST(numbers_of_63_bits_keep_every_digit)
{
    struct json *list = json_new_array();

    json_add_number(list, INT64_MAX);
    json_add_number(list, 0);
    expect_line(list, "[9223372036854775807, 0]\n");
}
END_TEST

START_TEST(larger_numbers_are_still_numbers)
{
    struct json *list = json_new_array();
    char *text;

    json_add_number(list, UINT64_MAX);
    text = json_text(list);
    ck_assert_ptr_nonnull(strstr(text, "1.8446744073709552e19"));
    free(text);
    json_free(list);
}
END_TEST

START_TEST(bytes_that_are_not_utf_8_are_replaced_and_no_others)
{
    static const struct {
        const char *text, *shown;
    } cases[] = {
        {"caf\xc3\xa9", "[\"caf\xc3\xa9\"]\n"},
        {"caf\xe9", "[\"caf\xef\xbf\xbd\"]\n"},
        {"\xc3\xa9\xff\xe2\x82\xac", "[\"\xc3\xa9\xef\xbf\xbd\xe2\x82\xac\"]\n"},
        {"\xf0\x9f\x98\x80\x80", "[\"\xf0\x9f\x98\x80\xef\xbf\xbd\"]\n"},
        {"\xe2\x82", "[\"\xef\xbf\xbd\xef\xbf\xbd\"]\n"},
        {"\xed\xa0\x80", "[\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"]\n"},
        {"", "[\"\"]\n"},
        /* What a terminal would obey is escaped, and stays the same text. */
        {"\x1b[2J\x7f\xc2\x9b", "[\"\\u001B[2J\\u007F\\u009B\"]\n"},
        {"\xe2\x80\xae\xe2\x81\xa6z", "[\"\\u202E\\u2066z\"]\n"},
        {"\xf3\xa0\x81\x81", "[\"\\uDB40\\uDC41\"]\n"},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct json *list = json_new_array();

        json_add_text(list, cases[i].text);
        expect_line(list, cases[i].shown);
    }
}
END_TEST

START_TEST(what_is_incomplete_is_not_printed)
{
    struct json *object = json_new_object();

    json_put(object, "lost", NULL); /* as after memory ran out */
    ck_assert_ptr_null(json_text(object));
    ck_assert_int_eq(json_print(object, stderr), -ENOMEM);
    json_free(object);
    object = json_new_object();
    json_put(object, "list", json_new_array());
    json_put_text(NULL, "key", "text");
    json_add(NULL, json_new_array());
    ck_assert_ptr_null(json_text(NULL));
    json_free(NULL);
    json_free(object);
}
END_TEST

START_TEST(what_a_part_lacks_the_whole_lacks)
{
    struct json *object = json_new_object(), *part = json_new_array();

    json_add(part, NULL);
    json_put(object, "part", part);
    ck_assert_ptr_null(json_text(object));
    json_free(object);
}
END_TEST

START_TEST(output_that_nobody_gets_is_an_error)
{
    FILE *full = fopen("/dev/full", "w");
    struct json *object = json_new_object();

    ck_assert_ptr_nonnull(full);
    setvbuf(full, NULL, _IONBF, 0);
    ck_assert_int_eq(json_print(object, full), -ENOSPC);
    fclose(full);
    json_free(object);
}
END_TEST

START_TEST(the_library_is_there)
{
    struct error error = {0};

    ck_assert(json_available());
    ck_assert_int_eq(json_require(&error), 0);
    ck_assert_int_eq(error.code, 0);
}
END_TEST

static void add_tests(TCase *tcase)
{
    tcase_add_test(tcase, members_are_printed_in_the_order_of_the_calls);
    tcase_add_test(tcase, numbers_of_63_bits_keep_every_digit);
    tcase_add_test(tcase, larger_numbers_are_still_numbers);
    tcase_add_test(tcase, bytes_that_are_not_utf_8_are_replaced_and_no_others);
    tcase_add_test(tcase, what_is_incomplete_is_not_printed);
    tcase_add_test(tcase, what_a_part_lacks_the_whole_lacks);
    tcase_add_test(tcase, output_that_nobody_gets_is_an_error);
    tcase_add_test(tcase, the_library_is_there);
}

#else

START_TEST(without_the_library_a_sentence_names_it)
{
    struct error error = {0};

    ck_assert(!json_available());
    ck_assert_int_eq(json_require(&error), -ENOTSUP);
    ck_assert_ptr_nonnull(strstr(error.text, "jansson"));
    ck_assert_ptr_null(json_new_object());
    ck_assert_int_lt(json_print(NULL, stderr), 0);
}
END_TEST

static void add_tests(TCase *tcase)
{
    tcase_add_test(tcase, without_the_library_a_sentence_names_it);
}

#endif

int main(void)
{
    Suite *suite = suite_create("JSON");
    TCase *tcase = tcase_create("JSON");

    add_tests(tcase);
    suite_add_tcase(suite, tcase);
    return suite_main(suite);
}
