/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "scratch.h"
#include "store/file.h"
#include "store/new_file.h"
#include "suite.h"

#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* How many names the scratch directory has. */
static unsigned count_names(void)
{
    DIR *directory = opendir(".");
    unsigned count = 0;

    ck_assert_ptr_nonnull(directory);
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;) {
        count += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    }
    closedir(directory);
    return count;
}

static void empty_directory(void)
{
    unlink("a");
    unlink("b");
    unlink("link");
    ck_assert_uint_eq(count_names(), 0);
}

static struct new_file *begin(const char *path, bool replace)
{
    struct error error = {0};
    struct new_file *file;
    int result = new_file_begin(path, "image", replace, &file, &error);

    ck_assert_msg(result == 0, "%s", error.text);
    ck_assert(!new_file_is_device(file));
    ck_assert_int_eq(store_write(new_file_store(file), 0, "new", 3), 0);
    return file;
}

static void finish(struct new_file *file)
{
    struct error error = {0};
    int result = new_file_finish(file, &error);

    ck_assert_msg(result == 0, "%s", error.text);
}

static void expect_content(const char *path, const char *expected)
{
    const struct store_file_options options = {.access = STORE_READ};
    struct error error = {0};
    struct store *store;
    char text[16] = "";

    ck_assert_msg(store_file_open(path, "image", &options, &store, &error) == 0, "%s", error.text);
    ck_assert_int_eq(store_read(store, 0, text, sizeof(text) - 1), 0);
    ck_assert_str_eq(text, expected);
    store_close(store);
}

static void expect_refused(const char *path, bool replace, int code, const char *text)
{
    struct error error = {0};
    struct new_file *file;
    int result = new_file_begin(path, "image", replace, &file, &error);

    ck_assert_int_eq(result, -code);
    ck_assert_ptr_null(file);
    ck_assert_msg(strncmp(error.text, path, strlen(path)) == 0, "%s", error.text);
    ck_assert_msg(strstr(error.text, text) != NULL, "%s: no '%s'", error.text, text);
}

START_TEST(it_has_no_name_before_it_is_finished)
{
    struct new_file *file = begin("a", false);

    ck_assert_int_eq(access("a", F_OK), -1);
    ck_assert_uint_eq(count_names(), 0);
    finish(file);
    ck_assert_uint_eq(count_names(), 1);
    expect_content("a", "new");
    empty_directory();
}
END_TEST

START_TEST(nothing_is_left_of_one_that_is_abandoned)
{
    new_file_abandon(begin("a", false));
    scratch_file("a", "old", 3);
    new_file_abandon(begin("a", true));
    expect_content("a", "old");
    empty_directory();
}
END_TEST

START_TEST(what_exists_is_refused_and_stays)
{
    scratch_file("a", "old", 3);
    expect_refused("a", false, EEXIST, "--force");
    expect_refused(".", false, EEXIST, "exists already");
    expect_refused(".", true, EISDIR, "directory");
    expect_content("a", "old");
    empty_directory();
}
END_TEST

START_TEST(one_that_came_meanwhile_is_not_overwritten)
{
    struct new_file *file = begin("a", false);
    struct error error = {0};

    scratch_file("a", "other", 5);
    ck_assert_int_eq(new_file_finish(file, &error), -EEXIST);
    ck_assert_msg(strstr(error.text, "meanwhile") != NULL, "%s", error.text);
    expect_content("a", "other");
    empty_directory();
}
END_TEST

START_TEST(what_is_replaced_is_there_until_the_new_one_is)
{
    struct new_file *file;
    struct stat status;

    scratch_file("a", "old", 3);
    ck_assert_int_eq(chmod("a", 0640), 0);
    file = begin("a", true);
    expect_refused("a", true, EBUSY, ""); /* locked by us */
    finish(file);
    expect_content("a", "new");
    ck_assert_int_eq(stat("a", &status), 0);
    ck_assert_uint_eq(status.st_mode & 07777, 0640);
    empty_directory();
}
END_TEST

START_TEST(a_symbolic_link_goes_on_to_lead_to_what_is_replaced)
{
    struct stat status;

    scratch_file("a", "old", 3);
    ck_assert_int_eq(symlink("a", "link"), 0);
    finish(begin("link", true));
    ck_assert_int_eq(lstat("link", &status), 0);
    ck_assert(S_ISLNK(status.st_mode));
    expect_content("a", "new");
    empty_directory();
}
END_TEST

START_TEST(the_umask_says_who_may_read_it)
{
    mode_t before = umask(027);
    struct stat status;

    finish(begin("a", false));
    umask(before);
    ck_assert_int_eq(stat("a", &status), 0);
    ck_assert_uint_eq(status.st_mode & 07777, 0640);
    empty_directory();
}
END_TEST

START_TEST(names_that_no_file_can_have_are_refused)
{
    expect_refused("no/such/file", false, ENOENT, "no/such/");
    expect_refused("a/", false, ENOENT, "a/");
    expect_refused("", false, ENOENT, "empty");
    empty_directory();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("new-file");
    TCase *tcase = tcase_create("new-file");

    tcase_add_unchecked_fixture(tcase, scratch_enter, scratch_leave);
    tcase_add_test(tcase, it_has_no_name_before_it_is_finished);
    tcase_add_test(tcase, nothing_is_left_of_one_that_is_abandoned);
    tcase_add_test(tcase, what_exists_is_refused_and_stays);
    tcase_add_test(tcase, one_that_came_meanwhile_is_not_overwritten);
    tcase_add_test(tcase, what_is_replaced_is_there_until_the_new_one_is);
    tcase_add_test(tcase, a_symbolic_link_goes_on_to_lead_to_what_is_replaced);
    tcase_add_test(tcase, the_umask_says_who_may_read_it);
    tcase_add_test(tcase, names_that_no_file_can_have_are_refused);
    suite_add_tcase(suite, tcase);
    return suite_main(suite);
}
