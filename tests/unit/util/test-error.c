/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "suite.h"
#include "util/error.h"
#include "util/printable.h"

#include <errno.h>
#include <string.h>

START_TEST(set_fills_the_sentence_and_returns_the_negative_code)
{
    struct error error = {0};

    ck_assert_int_eq(error_set(&error, ENOENT, "%s: no such %s", "disk.qcow2", "image"), -ENOENT);
    ck_assert_int_eq(error.code, ENOENT);
    ck_assert_str_eq(error.text, "disk.qcow2: no such image");
}
END_TEST

START_TEST(set_without_an_error_only_returns_the_code)
{
    ck_assert_int_eq(error_set(NULL, EIO, "%s", "nobody reads this"), -EIO);
}
END_TEST

START_TEST(a_sentence_can_be_put_into_a_longer_one)
{
    struct error error = {0};

    error_set(&error, EINVAL, "the header is short");
    error_set(&error, error.code, "base.qcow2: %s, %s", error.text, error.text);
    ck_assert_str_eq(error.text, "base.qcow2: the header is short, the header is short");
}
END_TEST

static const struct {
    const char *given;
    const char *shown;
} cleaned[] = {
    {"plain text ~", "plain text ~"},
    /* C0 controls and DEL: escape sequences and line breaks lose their power. */
    {"\x01\x1f\x7f", "???"},
    {"a\x1b[31mb\r\n\tc", "a?[31mb???c"},
    /* UTF-8 of two, three and four bytes, at both ends of each range. */
    {"\xc2\xa0 \xdf\xbf", "\xc2\xa0 \xdf\xbf"},
    {"\xe0\xa0\x80 \xef\xbf\xbf", "\xe0\xa0\x80 \xef\xbf\xbf"},
    {"\xf0\x90\x80\x80 \xf4\x8f\xbf\xbf", "\xf0\x90\x80\x80 \xf4\x8f\xbf\xbf"},
    {"\xed\x9f\xbf \xee\x80\x80", "\xed\x9f\xbf \xee\x80\x80"},
    /* C1 controls, as code points and as bytes. */
    {"\xc2\x80 \xc2\x9b \xc2\x9f", "?? ?? ??"},
    {"\x9b", "?"},
    /* What turns the direction of a line, ends one, or is not seen; and the letters beside them. */
    {"a\xe2\x80\xaetxt.exe", "a???txt.exe"},
    {"\xe2\x80\x8e\xe2\x80\x8f \xd8\x9c", "?????? ??"},
    {"\xe2\x80\xa8 \xe2\x80\xa9 \xe2\x80\xaa \xe2\x80\xac", "??? ??? ??? ???"},
    {"\xe2\x81\xa6 \xe2\x81\xa7 \xe2\x81\xa8 \xe2\x81\xa9", "??? ??? ??? ???"},
    {"\xef\xbb\xbf \xef\xbf\xb9 \xf3\xa0\x81\x81", "??? ??? ????"},
    {"\xe2\x80\xa7\xe2\x80\xaf", "\xe2\x80\xa7\xe2\x80\xaf"},
    {"\xd7\xa9\xd9\x84\xe2\x80\x8d", "\xd7\xa9\xd9\x84\xe2\x80\x8d"},
    /* Not UTF-8: overlong, surrogates, past the last plane, lone, cut short. */
    {"\xc0\xaf \xc1\xbf", "?? ??"},
    {"\xe0\x9f\xbf", "???"},
    {"\xf0\x8f\xbf\xbf", "????"},
    {"\xed\xa0\x80 \xed\xbf\xbf", "??? ???"},
    {"\xf4\x90\x80\x80 \xf5\x80\x80\x80", "???? ????"},
    {"\xf8\x90\x80\x80 \xf8\x88\x80\x80\x80 \xfe \xff", "???? ????? ? ?"},
    {"\x80 \xbf", "? ?"},
    {"\xc3", "?"},
    {"\xe2\x82", "??"},
    {"\xf0\x9f\x98", "???"},
    /* What follows a broken sequence is not swallowed by it. */
    {"\xe2\x82z\xc3\xa9", "??z\xc3\xa9"},
    {"\xf0\xc3\xa9", "?\xc3\xa9"},
    {"\xc3\x1b", "??"},
};

START_TEST(what_a_terminal_could_take_for_a_command_is_shown_as_question_marks)
{
    struct error error;

    error_set(&error, EINVAL, "<%s>", cleaned[_i].given);
    ck_assert_uint_eq(strlen(error.text), strlen(cleaned[_i].shown) + 2);
    ck_assert_mem_eq(error.text + 1, cleaned[_i].shown, strlen(cleaned[_i].shown));
}
END_TEST

START_TEST(a_sentence_that_is_too_long_is_cut_to_fit)
{
    struct error error;

    error_set(&error, EINVAL, "%0*d", ERROR_TEXT_MAX - 1, 7);
    ck_assert_uint_eq(strlen(error.text), ERROR_TEXT_MAX - 1);
    ck_assert_int_eq(error.text[ERROR_TEXT_MAX - 2], '7');

    error_set(&error, EINVAL, "%0*d", 3 * ERROR_TEXT_MAX, 7);
    ck_assert_uint_eq(strlen(error.text), ERROR_TEXT_MAX - 1);
    ck_assert_int_eq(error.text[ERROR_TEXT_MAX - 2], '0');
}
END_TEST

/* Two, three and four bytes. */
static const char *const characters[] = {"\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80"};

START_TEST(a_cut_does_not_split_a_character)
{
    const char *character = characters[_i];
    size_t length = strlen(character);

    for (size_t room = 0; room <= length; room++) {
        int before = (int)(ERROR_TEXT_MAX - 1 - room);
        struct error error;

        error_set(&error, EINVAL, "%0*d%s%s", before, 0, character, character);
        if (room == length) {
            ck_assert_uint_eq(strlen(error.text), ERROR_TEXT_MAX - 1);
            ck_assert_str_eq(error.text + before, character);
        } else {
            ck_assert_uint_eq(strlen(error.text), before);
            ck_assert_int_eq(error.text[before - 1], '0');
        }
    }
}
END_TEST

START_TEST(a_cut_keeps_whole_characters_and_bytes_that_are_none)
{
    ck_assert_uint_eq(printable_cut("", 0), 0);
    ck_assert_uint_eq(printable_cut("abc", 3), 3);
    ck_assert_uint_eq(printable_cut("\xe2\x82\xac", 3), 3);
    ck_assert_uint_eq(printable_cut("\xe2\x82\xac", 2), 0);
    ck_assert_uint_eq(printable_cut("\xe2\x82\xac", 1), 0);
    ck_assert_uint_eq(printable_cut("\x80\x80\x80\x80\x80", 5), 5);
    ck_assert_uint_eq(printable_cut("\x80", 1), 1);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("error");
    TCase *tests = tcase_create("all");

    tcase_add_test(tests, set_fills_the_sentence_and_returns_the_negative_code);
    tcase_add_test(tests, set_without_an_error_only_returns_the_code);
    tcase_add_test(tests, a_sentence_can_be_put_into_a_longer_one);
    tcase_add_loop_test(tests, what_a_terminal_could_take_for_a_command_is_shown_as_question_marks,
                        0, sizeof(cleaned) / sizeof(cleaned[0]));
    tcase_add_test(tests, a_sentence_that_is_too_long_is_cut_to_fit);
    tcase_add_loop_test(tests, a_cut_does_not_split_a_character, 0,
                        sizeof(characters) / sizeof(characters[0]));
    tcase_add_test(tests, a_cut_keeps_whole_characters_and_bytes_that_are_none);
    suite_add_tcase(suite, tests);
    return suite_main(suite);
}
