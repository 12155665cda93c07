/* SPDX-License-Identifier: MIT */
/* What lies beneath the directory of the image that names it, and what does not. */
#include "config.h"

#include "scratch.h"
#include "store/place.h"
#include "suite.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* 0 where this is found beneath the directory of `image`, or the error. */
static int beneath(const char *image, const char *path)
{
    const struct place_naming naming = {.image = image, .beneath = true};
    struct place place;
    int result = place_find(path, &naming, &place);

    ck_assert_int_eq(result == 0, place.fd >= 0);
    place_leave(&place);
    return result;
}

static void make_files(void)
{
    if (mkdir("home", 0755) != 0) { /* by the test before */
        return;
    }
    ck_assert_int_eq(mkdir("home/sub", 0755), 0);
    ck_assert_int_eq(mkdir("home2", 0755), 0);
    scratch_file("home/a", "a", 1);
    scratch_file("home/sub/b", "b", 1);
    scratch_file("home2/c", "c", 1);
    scratch_file("d", "d", 1);
    ck_assert_int_eq(symlink("sub/b", "home/inside"), 0);
    ck_assert_int_eq(symlink("../d", "home/outside"), 0);
    ck_assert_int_eq(symlink("home", "link"), 0);
}

static void expect_beneath(void)
{
    char *here = getcwd(NULL, 0), path[4096];

    ck_assert_ptr_nonnull(here);
    make_files();
    ck_assert_int_eq(beneath("home/image", "home/a"), 0);
    ck_assert_int_eq(beneath("home/image", "home/sub/b"), 0);
    ck_assert_int_eq(beneath("home/image", "home/inside"), 0);
    ck_assert_int_eq(beneath("link/image", "link/sub/b"), 0);
    ck_assert_int_eq(beneath("image", "d"), 0);
    ck_assert_int_eq(beneath("image", "home/a"), 0);
    ck_assert_int_eq(beneath("home/image", "home/gone"), -ENOENT);
    ck_assert_int_eq(beneath("home/image", "home/outside"), -EXDEV);
    ck_assert_int_eq(beneath("home/image", "home/../d"), -EXDEV);
    ck_assert_int_eq(beneath("home/image", "home/sub/../../home2/c"), -EXDEV);
    ck_assert_int_eq(beneath("home/image", "d"), -EXDEV); /* of the directory that we are in */
    ck_assert_int_eq(beneath("home/image", "/etc/passwd"), -EXDEV);
    for (int i = 0; i < 2; i++) {
        const char *image = i == 0 ? "home/image" : "link/image";

        snprintf(path, sizeof(path), "%s/home/sub/b", here);
        ck_assert_int_eq(beneath(image, path), 0);
        snprintf(path, sizeof(path), "%s/home2/c", here); /* begins with the name of home */
        ck_assert_int_eq(beneath(image, path), -EXDEV);
        snprintf(path, sizeof(path), "%s/home/../d", here);
        ck_assert_int_eq(beneath(image, path), -EXDEV);
    }
    free(here);
}

START_TEST(what_lies_beneath_is_found_and_nothing_else)
{
    expect_beneath();
}
END_TEST

START_TEST(an_absolute_link_leads_nowhere)
{
    char *here = getcwd(NULL, 0), path[4096];

    make_files();
    snprintf(path, sizeof(path), "%s/home/a", here);
    free(here);
    ck_assert_int_eq(symlink(path, "home/absolute"), 0);
    ck_assert_int_eq(beneath("home/image", "home/absolute"), -EXDEV);
}
END_TEST

/* Last: nothing of the process can call it any more. */
START_TEST(without_openat2_the_open_file_is_asked_where_it_lies)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_openat2, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const struct sock_fprog program = {sizeof(filter) / sizeof(filter[0]), filter};

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0) {
        expect_beneath();
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("place");
    TCase *tcase = tcase_create("beneath");

    tcase_add_unchecked_fixture(tcase, scratch_enter, scratch_leave);
    tcase_add_test(tcase, what_lies_beneath_is_found_and_nothing_else);
    tcase_add_test(tcase, an_absolute_link_leads_nowhere);
    tcase_add_test(tcase, without_openat2_the_open_file_is_asked_where_it_lies);
    suite_add_tcase(suite, tcase);
    return suite_main(suite);
}
