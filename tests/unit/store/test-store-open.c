/* SPDX-License-Identifier: MIT */
/* Which files are opened as a store, and the sentences for those that are not. */
#include "config.h"

#include "scratch.h"
#include "store/file.h"
#include "suite.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define NOBODY 65534 /* a user and a group that own nothing */

static void expect_refusal(const char *path, const char *what, enum store_access access, int code,
                           const char *sentence)
{
    struct store *store = NULL;
    struct error error = {0};

    ck_assert_int_eq(
        store_file_open(path, what, &(struct store_file_options){.access = access}, &store, &error),
        -code);
    ck_assert_int_eq(error.code, code);
    ck_assert_str_eq(error.text, sentence);
    ck_assert_ptr_null(store);
}

START_TEST(a_missing_file_is_named)
{
    expect_refusal("disk.qcow2", "image", STORE_READ, ENOENT,
                   "disk.qcow2: no such image; check the path");
    expect_refusal("no/base.raw", "backing file", STORE_READ_SHARED, ENOENT,
                   "no/base.raw: no such backing file; check the path");
    expect_refusal("disk.qcow2", "image", STORE_WRITE, ENOENT,
                   "disk.qcow2: no such image; check the path");
    ck_assert_int_eq(access("disk.qcow2", F_OK), -1); /* nor is one made */
}
END_TEST

START_TEST(a_dangling_link_is_told_from_a_missing_file)
{
    ck_assert_int_eq(symlink("nowhere", "link"), 0);
    expect_refusal("link", "image", STORE_READ, ENOENT,
                   "link: this image is a symbolic link to a file that does not exist; correct "
                   "the link");
}
END_TEST

START_TEST(a_directory_is_refused)
{
    ck_assert_int_eq(mkdir("dir", 0755), 0);
    for (enum store_access access = STORE_READ; access <= STORE_WRITE; access++) {
        expect_refusal("dir", "image", access, EISDIR,
                       "dir: this image is a directory; name a file in it, or a block device");
    }
}
END_TEST

START_TEST(a_fifo_is_refused_and_never_waited_for)
{
    ck_assert_int_eq(mkfifo("fifo", 0644), 0);
    for (enum store_access access = STORE_READ; access <= STORE_WRITE; access++) {
        expect_refusal("fifo", "image", access, EINVAL,
                       "fifo: this image is a named pipe; only a regular file or a block device "
                       "can be opened");
    }
}
END_TEST

START_TEST(sockets_and_character_devices_are_refused)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "socket"};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    ck_assert_int_eq(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    expect_refusal("socket", "data file", STORE_READ, EINVAL,
                   "socket: this data file is a socket; only a regular file or a block device can "
                   "be opened");
    expect_refusal("/dev/null", "image", STORE_READ, EINVAL,
                   "/dev/null: this image is a character device; only a regular file or a block "
                   "device can be opened");
    close(fd);
}
END_TEST

START_TEST(other_errors_of_open_are_told_with_advice)
{
    struct rlimit none, before;

    scratch_file("a", "a", 1);
    expect_refusal("a/b", "image", STORE_READ, ENOTDIR,
                   "a/b: this image cannot be opened: Not a directory; check the path");
    ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &before), 0);
    none = before;
    none.rlim_cur = 0;
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &none), 0);
    expect_refusal("a", "image", STORE_READ, EMFILE,
                   "a: this image cannot be opened: Too many open files; raise the limit of open "
                   "files (ulimit -n)");
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &before), 0);
}
END_TEST

START_TEST(the_sentence_may_be_unwanted)
{
    struct store *store = NULL;

    ck_assert_int_eq(store_file_open("none", "image",
                                     &(struct store_file_options){.access = STORE_READ}, &store,
                                     NULL),
                     -ENOENT);
}
END_TEST

START_TEST(an_open_store_is_closed_by_exec_and_blocks_in_reads)
{
    struct store *store = NULL;
    struct stat wanted, found;
    int seen = 0;

    scratch_file("a", "abc", 3);
    ck_assert_int_eq(store_file_open("a", "image",
                                     &(struct store_file_options){.access = STORE_READ}, &store,
                                     NULL),
                     0);
    ck_assert_int_eq(stat("a", &wanted), 0);
    for (int fd = 0; fd < 100; fd++) {
        if (fstat(fd, &found) == 0 && found.st_dev == wanted.st_dev &&
            found.st_ino == wanted.st_ino) {
            seen++;
            ck_assert_int_eq(fcntl(fd, F_GETFD), FD_CLOEXEC);
            ck_assert_int_eq(fcntl(fd, F_GETFL) & (O_NONBLOCK | O_ACCMODE), O_RDONLY);
        }
    }
    ck_assert_int_eq(seen, 1);
    store_close(store);
}
END_TEST

START_TEST(reading_leaves_the_access_time)
{
    /* Older than the modification: a plain read would set it, whatever relatime says. */
    const struct timespec times[2] = {{.tv_sec = 1000000000}, {.tv_sec = 1500000000}};
    struct store *store = NULL;
    struct stat status;
    char buffer[3];

    scratch_file("a", "abc", 3);
    ck_assert_int_eq(utimensat(AT_FDCWD, "a", times, 0), 0);
    ck_assert_int_eq(store_file_open("a", "image",
                                     &(struct store_file_options){.access = STORE_READ}, &store,
                                     NULL),
                     0);
    ck_assert_int_eq(store_read(store, 0, buffer, 3), 0);
    store_close(store);
    ck_assert_int_eq(stat("a", &status), 0);
    ck_assert_int_eq(status.st_atim.tv_sec, 1000000000);
}
END_TEST

/* --- as a user who is not root ------------------------------------------------------------ */

struct attempt {
    int rc;
    struct error error;
};

/* Tries to open `path` as the user nobody; false where this user cannot become that. */
static bool try_as_nobody(const char *path, enum store_access access, struct attempt *result)
{
    struct attempt *shared;
    struct store *store = NULL;
    int status;
    pid_t child;

    if (geteuid() != 0) {
        return false;
    }
    shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ck_assert_ptr_ne(shared, MAP_FAILED);
    child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        if (setgroups(0, NULL) != 0 || setgid(NOBODY) != 0 || setuid(NOBODY) != 0) {
            _exit(2);
        }
        shared->rc = store_file_open(path, "image", &(struct store_file_options){.access = access},
                                     &store, &shared->error);
        store_close(store);
        _exit(0);
    }
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    *result = *shared;
    munmap(shared, sizeof(*shared));
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static void expect_forbidden(enum store_access access, mode_t mode, uid_t uid, gid_t gid,
                             const char *sentence)
{
    struct attempt attempt;

    scratch_file("a", "abc", 3);
    ck_assert_int_eq(chmod("a", mode), 0);
    ck_assert(geteuid() != 0 || chown("a", uid, gid) == 0);
    if (try_as_nobody("a", access, &attempt)) {
        ck_assert_int_eq(attempt.rc, -EACCES);
        ck_assert_str_eq(attempt.error.text, sentence);
    }
}

START_TEST(who_may_not_read_is_told_who_may)
{
    expect_forbidden(STORE_READ, 0600, 0, 0,
                     "a: no permission to read this image: its mode 0600 allows it to user root "
                     "alone; change the mode, or run as another user");
    expect_forbidden(STORE_READ, 0640, 0, 0,
                     "a: no permission to read this image: its mode 0640 allows it to user root "
                     "and group root; change the mode, or run as another user");
    expect_forbidden(STORE_READ, 0040, 12345, 54321,
                     "a: no permission to read this image: its mode 0040 allows it to group 54321 "
                     "alone; change the mode, or run as another user");
    expect_forbidden(STORE_READ, 0, NOBODY, NOBODY,
                     "a: no permission to read this image: its mode 0000 allows it to nobody but "
                     "root; change the mode, or run as another user");
    expect_forbidden(STORE_WRITE, 0644, 12345, 54321,
                     "a: no permission to write this image: its mode 0644 allows it to user 12345 "
                     "alone; change the mode, or run as another user");
}
END_TEST

START_TEST(a_directory_that_may_not_be_entered_is_told)
{
    struct attempt attempt;

    ck_assert_int_eq(mkdir("secret", 0700), 0);
    scratch_file("secret/a", "abc", 3);
    if (try_as_nobody("secret/a", STORE_READ, &attempt)) {
        ck_assert_int_eq(attempt.rc, -EACCES);
        ck_assert_str_eq(attempt.error.text,
                         "secret/a: no permission to enter a directory on the way to this image; "
                         "change the directory's permissions, or run as another user");
    }
}
END_TEST

START_TEST(who_does_not_own_the_file_can_read_it_all_the_same)
{
    struct attempt attempt;

    scratch_file("a", "abc", 3);
    if (try_as_nobody("a", STORE_READ, &attempt)) {
        ck_assert_msg(attempt.rc == 0, "%s", attempt.error.text);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("store open");
    TCase *tcase = tcase_create("open");

    tcase_add_unchecked_fixture(tcase, scratch_enter, scratch_leave);
    tcase_add_test(tcase, a_missing_file_is_named);
    tcase_add_test(tcase, a_dangling_link_is_told_from_a_missing_file);
    tcase_add_test(tcase, a_directory_is_refused);
    tcase_add_test(tcase, a_fifo_is_refused_and_never_waited_for);
    tcase_add_test(tcase, sockets_and_character_devices_are_refused);
    tcase_add_test(tcase, other_errors_of_open_are_told_with_advice);
    tcase_add_test(tcase, the_sentence_may_be_unwanted);
    tcase_add_test(tcase, an_open_store_is_closed_by_exec_and_blocks_in_reads);
    tcase_add_test(tcase, reading_leaves_the_access_time);
    tcase_add_test(tcase, who_may_not_read_is_told_who_may);
    tcase_add_test(tcase, a_directory_that_may_not_be_entered_is_told);
    tcase_add_test(tcase, who_does_not_own_the_file_can_read_it_all_the_same);
    suite_add_tcase(suite, tcase);
    return suite_main(suite);
}
