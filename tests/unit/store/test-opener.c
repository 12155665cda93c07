/* SPDX-License-Identifier: MIT */
/* What the process that opens files does, whatever it is asked. */
#include "config.h"

#include "scratch.h"
#include "store/opener.h"
#include "suite.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const given[] = {"here/image", "other", NULL};
static const struct opener_new makes[] = {
    {.path = "here/made"},
    {.path = "here/part", .becomes = "here/whole"},
    {.path = NULL},
};

static void setup(void)
{
    if (mkdir("here", 0755) == 0) { /* else by the test before */
        scratch_file("here/image", "image", 5);
        scratch_file("here/base", "base", 4);
        scratch_file("outside", "outside", 7);
    }
}

static void start(bool follows, bool beneath)
{
    const struct opener_policy policy = {
        .given = given,
        .makes = makes,
        .follows = follows,
        .beneath = beneath,
    };

    ck_assert_int_eq(opener_start(&policy), 0);
}

/* 0 and what is read there, or the error. */
static int open_as(const char *path, const char *named_by, enum store_access access)
{
    const struct store_file_options options = {.access = access, .named_by = named_by};
    struct error error = {0};
    struct store *file;
    char byte[1];
    int r = store_file_open(path, "image", &options, &file, &error);

    if (r == 0) {
        ck_assert_int_eq(store_read(file, 0, byte, 1), 0);
        store_close(file);
    } else {
        ck_assert_int_eq(error.code, -r);
        ck_assert_uint_gt(strlen(error.text), 0);
    }
    return r;
}

START_TEST(what_the_user_named_is_opened_and_nothing_else)
{
    start(true, false);
    ck_assert_int_eq(open_as("here/image", NULL, STORE_READ), 0);
    ck_assert_int_eq(open_as("here/image", NULL, STORE_READ_SHARED), 0);
    ck_assert_int_eq(open_as("other", NULL, STORE_READ), -ENOENT);
    ck_assert_int_eq(open_as("outside", NULL, STORE_READ), -EPERM);
    ck_assert_int_eq(open_as("./here/image", NULL, STORE_READ), -EPERM);
    opener_stop();
    ck_assert_int_eq(open_as("outside", NULL, STORE_READ), 0);
}
END_TEST

START_TEST(nothing_is_opened_for_writing)
{
    start(true, false);
    ck_assert_int_eq(open_as("here/image", NULL, STORE_WRITE), -EPERM);
    ck_assert_int_eq(open_as("here/image", NULL, (enum store_access)77), -EPERM);
    ck_assert_int_eq(open_as("here/image", NULL, STORE_READ), 0);
    ck_assert_int_eq(open_as("here/base", "here/image", STORE_WRITE), -EPERM);
    opener_stop();
}
END_TEST

START_TEST(what_an_image_names_is_opened_only_where_that_image_is_open)
{
    start(true, false);
    ck_assert_int_eq(open_as("here/base", "here/image", STORE_READ), -EPERM);
    ck_assert_int_eq(open_as("here/image", NULL, STORE_READ), 0);
    ck_assert_int_eq(open_as("here/base", "here/image", STORE_READ), 0);
    ck_assert_int_eq(open_as("outside", "here/base", STORE_READ), 0);
    ck_assert_int_eq(open_as("here", "here/base", STORE_READ), -EISDIR);
    ck_assert_int_eq(open_as("/proc/self/status", "here/base", STORE_READ), -EINVAL);
    ck_assert_int_eq(open_as("outside", "here/nobody", STORE_READ), -EPERM);
    opener_stop();
}
END_TEST

START_TEST(the_policy_holds_whatever_is_asked)
{
    start(true, true);
    ck_assert_int_eq(open_as("here/image", NULL, STORE_READ), 0);
    ck_assert_int_eq(open_as("here/base", "here/image", STORE_READ), 0);
    ck_assert_int_eq(open_as("outside", "here/image", STORE_READ), -EXDEV);
    ck_assert_int_eq(open_as("here/../outside", "here/image", STORE_READ), -EXDEV);
    opener_stop();
    start(false, false);
    ck_assert_int_eq(open_as("here/image", NULL, STORE_READ), 0);
    ck_assert_int_eq(open_as("here/base", "here/image", STORE_READ), -EPERM);
    opener_stop();
}
END_TEST

START_TEST(with_the_rights_of_the_owner_of_the_image)
{
    const uid_t nobody = 65534;

    if (geteuid() != 0) {
        return; /* who can do no more than the owner */
    }
    ck_assert_int_eq(chown("here/image", nobody, nobody), 0);
    ck_assert_int_eq(chmod("outside", 0600), 0);
    start(true, false);
    ck_assert_int_eq(open_as("here/image", NULL, STORE_READ), 0);
    ck_assert_int_eq(open_as("outside", "here/image", STORE_READ), -EACCES);
    opener_stop();
    ck_assert_int_eq(chown("here/image", 0, 0), 0);
    start(true, false);
    ck_assert_int_eq(open_as("here/image", NULL, STORE_READ), 0);
    ck_assert_int_eq(open_as("outside", "here/image", STORE_READ), 0);
    opener_stop();
}
END_TEST

START_TEST(with_the_rights_of_all_whose_images_led_there)
{
    const uid_t nobody = 65534;

    if (geteuid() != 0) {
        return;
    }
    ck_assert_int_eq(chown("here/image", nobody, nobody), 0);
    ck_assert_int_eq(chmod("here/base", 0644), 0);
    ck_assert_int_eq(chmod("outside", 0600), 0);
    start(true, false);
    ck_assert_int_eq(open_as("here/image", NULL, STORE_READ), 0);
    ck_assert_int_eq(open_as("here/base", "here/image", STORE_READ), 0);
    ck_assert_int_eq(open_as("outside", "here/base", STORE_READ), -EACCES);
    opener_stop();
    ck_assert_int_eq(chown("here/image", 0, 0), 0);
    start(true, false);
    ck_assert_int_eq(open_as("here/image", NULL, STORE_READ), 0);
    ck_assert_int_eq(open_as("here/base", "here/image", STORE_READ), 0);
    ck_assert_int_eq(open_as("outside", "here/base", STORE_READ), 0);
    opener_stop();
}
END_TEST

static bool is_there(const char *path)
{
    struct stat status;

    return stat(path, &status) == 0;
}

START_TEST(what_the_user_named_is_made_and_nothing_else)
{
    int made;

    start(true, false);
    ck_assert_int_eq(opener_make("here/new"), -EPERM);
    ck_assert_int_eq(opener_make("here/whole"), -EPERM);
    made = opener_make("here/made");
    ck_assert_int_ge(made, 0);
    ck_assert_int_eq(write(made, "x", 1), 1);
    close(made);
    ck_assert_int_eq(opener_make("here/made"), -EEXIST);
    ck_assert_int_eq(opener_remove("here/made"), -EPERM);
    ck_assert_int_eq(opener_replace("here/made", "here/image"), -EPERM);
    scratch_file("here/part", "here before", 11);
    ck_assert_int_eq(opener_remove("here/part"), -EPERM);
    ck_assert_int_eq(opener_replace("here/part", "here/whole"), -EPERM);
    ck_assert_int_eq(unlink("here/part"), 0);
    made = opener_make("here/part");
    ck_assert_int_ge(made, 0);
    close(made);
    ck_assert_int_eq(opener_remove("outside"), -EPERM);
    ck_assert_int_eq(opener_remove("here/part"), 0);
    ck_assert(!is_there("here/part"));
    made = opener_make("here/part");
    ck_assert_int_ge(made, 0);
    close(made);
    ck_assert_int_eq(opener_replace("here/part", "here/image"),
                     0); /* the name that was agreed on */
    ck_assert(is_there("here/whole") && is_there("here/image"));
    opener_stop();
    ck_assert_int_eq(unlink("here/made"), 0);
    ck_assert_int_eq(unlink("here/whole"), 0);
}
END_TEST

START_TEST(names_are_looked_at_as_without_it)
{
    char target[16], *with, *without;
    struct stat a, b;

    if (!is_there("link")) {
        ck_assert_int_eq(symlink("here", "link"), 0);
    }
    start(true, false);
    with = opener_real_path("link/image");
    ck_assert_int_eq(opener_stat("link/image", &a), 0);
    ck_assert_int_eq(opener_stat("gone", &b), -ENOENT);
    ck_assert_ptr_null(opener_real_path("gone"));
    ck_assert_int_eq(errno, ENOENT);
    ck_assert_int_eq(opener_read_link("link", target, sizeof(target)), 4);
    ck_assert_str_eq(target, "here");
    ck_assert_int_eq(opener_read_link("here", target, sizeof(target)), -1);
    opener_stop();
    without = opener_real_path("link/image");
    ck_assert_ptr_nonnull(with);
    ck_assert_str_eq(with, without);
    ck_assert_int_eq(opener_stat("here/image", &b), 0);
    ck_assert_uint_eq(a.st_ino, b.st_ino);
    ck_assert_int_eq(opener_read_link("link", target, sizeof(target)), 4);
    ck_assert_str_eq(target, "here");
    free(with);
    free(without);
}
END_TEST

START_TEST(a_name_of_any_length_is_refused_or_opened)
{
    char *path = malloc(100001);

    ck_assert_ptr_nonnull(path);
    memset(path, 'a', 100000);
    path[100000] = '\0';
    start(true, false);
    ck_assert_int_eq(open_as(path, NULL, STORE_READ), -ENAMETOOLONG);
    ck_assert_int_eq(open_as("outside", path, STORE_READ), -ENAMETOOLONG);
    ck_assert_int_eq(opener_make(path), -ENAMETOOLONG);
    opener_stop();
    free(path);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("opener");
    TCase *tcase = tcase_create("opener");

    tcase_add_unchecked_fixture(tcase, scratch_enter, scratch_leave);
    tcase_add_checked_fixture(tcase, setup, NULL);
    tcase_add_test(tcase, what_the_user_named_is_opened_and_nothing_else);
    tcase_add_test(tcase, nothing_is_opened_for_writing);
    tcase_add_test(tcase, what_an_image_names_is_opened_only_where_that_image_is_open);
    tcase_add_test(tcase, the_policy_holds_whatever_is_asked);
    tcase_add_test(tcase, with_the_rights_of_the_owner_of_the_image);
    tcase_add_test(tcase, with_the_rights_of_all_whose_images_led_there);
    tcase_add_test(tcase, what_the_user_named_is_made_and_nothing_else);
    tcase_add_test(tcase, names_are_looked_at_as_without_it);
    tcase_add_test(tcase, a_name_of_any_length_is_refused_or_opened);
    suite_add_tcase(suite, tcase);
    return suite_main(suite);
}
