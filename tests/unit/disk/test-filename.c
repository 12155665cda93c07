/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "disk/filename.h"
#include "scratch.h"
#include "suite.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void expect_path(const char *overlay, const char *name, bool also_cwd, const char *expected)
{
    struct error error = {0};
    char *path;
    int result = filename_resolve(overlay, "backing file", name, also_cwd, &path, &error);

    ck_assert_msg(result == 0, "%s", error.text);
    ck_assert_str_eq(path, expected);
    free(path);
}

static void expect_refused(const char *what, const char *name, int code, const char *text)
{
    struct error error = {0};
    char *path;

    ck_assert_int_eq(filename_resolve("dir/over.qcow2", what, name, true, &path, &error), -code);
    ck_assert_ptr_null(path);
    ck_assert_int_eq(strncmp(error.text, "dir/over.qcow2: ", 16), 0);
    ck_assert_msg(strstr(error.text, name) != NULL, "%s", error.text);
    ck_assert_msg(strstr(error.text, text) != NULL, "%s", error.text);
}

START_TEST(an_absolute_name_is_kept)
{
    expect_path("/images/over.qcow2", "/base", false, "/base");
    expect_path("over.qcow2", "/a/../b", true, "/a/../b");
    expect_path("/images/over.qcow2", "file:/base", false, "/base");
    expect_path("/images/over.qcow2", "file:///base", false, "///base");
}
END_TEST

START_TEST(a_relative_name_is_in_the_directory_of_the_overlay)
{
    expect_path("/images/over.qcow2", "base", false, "/images/base");
    expect_path("/images/over.qcow2", "../base", false, "/images/../base");
    expect_path("over.qcow2", "base", false, "base");
    expect_path("./over.qcow2", "base", false, "./base");
    expect_path("/over.qcow2", "base", false, "/base");
    expect_path("a/b/c", "d/e", false, "a/b/d/e");
}
END_TEST

START_TEST(a_relative_name_after_file_is_beside_the_overlay_too)
{
    expect_path("/images/over.qcow2", "file:base", false, "/images/base");
}
END_TEST

START_TEST(a_colon_behind_a_slash_or_file_is_part_of_the_name)
{
    expect_path("/images/over.qcow2", "./a:b", false, "/images/./a:b");
    expect_path("/images/over.qcow2", "dir/a:b", false, "/images/dir/a:b");
    expect_path("/images/over.qcow2", "/a:b", false, "/a:b");
    expect_path("/images/over.qcow2", "file:nbd:x", false, "/images/nbd:x");
    expect_path("/ima:ges/over.qcow2", "base", false, "/ima:ges/base");
}
END_TEST

START_TEST(names_that_are_no_files_are_refused_by_their_protocol)
{
    expect_refused("backing file", "nbd://host/disk", ENOTSUP, "protocol 'nbd:'");
    expect_refused("backing file", "https://host/disk", ENOTSUP, "'https:'");
    expect_refused("backing file", "rbd:pool/disk", ENOTSUP, "backing_file=PATH");
    expect_refused("data file", "fat:dir", ENOTSUP, "data_file=");
}
END_TEST

START_TEST(json_descriptions_are_refused)
{
    expect_refused("backing file", "json:{\"driver\":\"qcow2\"}", ENOTSUP, "QEMU's syntax");
}
END_TEST

START_TEST(a_hostile_name_cannot_command_the_terminal)
{
    struct error error = {0};
    char *path;

    ck_assert_int_eq(filename_resolve("o", "backing file", "\x1b[2J:x", false, &path, &error),
                     -ENOTSUP);
    ck_assert_ptr_null(strchr(error.text, '\x1b'));
}
END_TEST

START_TEST(a_file_in_the_current_directory_alone_is_taken_where_qemu_would)
{
    ck_assert_int_eq(mkdir("dir", 0755), 0);
    scratch_file("here", "x", 1);
    expect_path("dir/over.qcow2", "here", true, "here");
    expect_path("dir/over.qcow2", "file:here", false, "here");
    expect_path("dir/over.qcow2", "here", false, "dir/here");
}
END_TEST

START_TEST(a_file_that_exists_nowhere_is_expected_beside_the_overlay)
{
    expect_path("dir/over.qcow2", "nowhere", true, "dir/nowhere");
}
END_TEST

START_TEST(one_file_under_both_names_is_not_ambiguous)
{
    ck_assert_int_eq(mkdir("dir", 0755), 0);
    scratch_file("one", "x", 1);
    ck_assert_int_eq(link("one", "dir/one"), 0);
    expect_path("dir/over.qcow2", "one", true, "dir/one");
    expect_path("over.qcow2", "one", true, "one");
}
END_TEST

START_TEST(two_different_files_of_one_name_are_refused)
{
    ck_assert_int_eq(mkdir("dir", 0755), 0);
    scratch_file("two", "x", 1);
    scratch_file("dir/two", "x", 1);
    expect_refused("data file", "two", EINVAL, "could be dir/two or ./two");
    expect_path("dir/over.qcow2", "two", false, "dir/two");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("filename");
    TCase *names = tcase_create("names"), *files = tcase_create("files");

    tcase_add_test(names, an_absolute_name_is_kept);
    tcase_add_test(names, a_relative_name_is_in_the_directory_of_the_overlay);
    tcase_add_test(names, a_relative_name_after_file_is_beside_the_overlay_too);
    tcase_add_test(names, a_colon_behind_a_slash_or_file_is_part_of_the_name);
    tcase_add_test(names, names_that_are_no_files_are_refused_by_their_protocol);
    tcase_add_test(names, json_descriptions_are_refused);
    tcase_add_test(names, a_hostile_name_cannot_command_the_terminal);
    suite_add_tcase(suite, names);
    tcase_add_checked_fixture(files, scratch_enter, scratch_leave);
    tcase_add_test(files, a_file_in_the_current_directory_alone_is_taken_where_qemu_would);
    tcase_add_test(files, a_file_that_exists_nowhere_is_expected_beside_the_overlay);
    tcase_add_test(files, one_file_under_both_names_is_not_ambiguous);
    tcase_add_test(files, two_different_files_of_one_name_are_refused);
    suite_add_tcase(suite, files);
    return suite_main(suite);
}
