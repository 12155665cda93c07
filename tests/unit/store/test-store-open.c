/* SPDX-License-Identifier: MIT */
/* Which files are opened as a store, and the sentences for those that are not. */
#include "config.h"

#include "scratch.h"
#include "store/file.h"
#include "suite.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
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
                       "fifo: this image is a pipe; only a regular file or a block device "
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

/* The kernel tells of every open(2) of a file but those with O_PATH. */
START_TEST(what_is_refused_was_never_opened)
{
    int events = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    struct store *store = NULL;
    char told[4096];

    ck_assert_int_ge(events, 0);
    ck_assert_int_eq(mkfifo("pipe", 0644), 0);
    scratch_file("a", "abc", 3);
    ck_assert_int_ge(inotify_add_watch(events, "pipe", IN_OPEN), 0);
    ck_assert_int_ge(inotify_add_watch(events, "a", IN_OPEN), 0);
    for (enum store_access access = STORE_READ; access <= STORE_WRITE; access++) {
        ck_assert_int_eq(store_file_open("pipe", "data file",
                                         &(struct store_file_options){.access = access}, &store,
                                         NULL),
                         -EINVAL);
    }
    ck_assert_int_eq(read(events, told, sizeof(told)), -1);
    ck_assert_int_eq(errno, EAGAIN);
    ck_assert_int_eq(store_file_open("a", "image",
                                     &(struct store_file_options){.access = STORE_READ}, &store,
                                     NULL),
                     0);
    ck_assert_int_gt(read(events, told, sizeof(told)), 0); /* so it would have been seen */
    store_close(store);
    close(events);
}
END_TEST

START_TEST(files_of_the_kernels_own_are_refused)
{
    static const struct {
        const char *path, *type;
    } files[] = {
        {"/proc/self/mem", "procfs"},
        {"/proc/version", "procfs"},
        {"/proc/thread-self/attr/current", "procfs"},
        {"/sys/kernel/mm/transparent_hugepage/enabled", "sysfs"},
        {"/sys/fs/cgroup/cgroup.procs", "cgroup2"},
        {"/sys/kernel/tracing/trace", "tracefs"},
        {"/sys/kernel/debug/sleep_time", "debugfs"},
        {"/sys/kernel/security/lsm", "securityfs"},
    };
    struct stat status;
    size_t seen = 0;

    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        char sentence[256];

        if (stat(files[i].path, &status) != 0) {
            continue; /* not mounted here */
        }
        seen++;
        snprintf(sentence, sizeof(sentence),
                 "%s: this data file is a file of the kernel's own (%s), not one that could hold a "
                 "disk; name another",
                 files[i].path, files[i].type);
        expect_refusal(files[i].path, "data file", STORE_WRITE, EINVAL, sentence);
        expect_refusal(files[i].path, "data file", STORE_READ, EINVAL, sentence);
    }
    ck_assert_uint_ge(seen, 2);
}
END_TEST

START_TEST(an_image_cannot_name_a_file_that_this_process_has_open)
{
    struct store_file_options options = {.access = STORE_READ, .named_by = "top.qcow2"};
    struct store *store = NULL;
    struct error error = {0};
    char path[64], sentence[256];
    int fd;

    scratch_file("a", "abc", 3);
    fd = open("a", O_RDONLY | O_CLOEXEC);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    snprintf(sentence, sizeof(sentence),
             "%s: this data file is named through a link of /proc to an open file, which means "
             "another file to each program; record its real name with qcow2ctl amend",
             path);
    ck_assert_int_eq(store_file_open(path, "data file", &options, &store, &error), -ELOOP);
    ck_assert_str_eq(error.text, sentence);
    /* The user can. */
    options.named_by = NULL;
    ck_assert_int_eq(store_file_open(path, "data file", &options, &store, &error), 0);
    store_close(store);
    /* And the directory of the image was the user's choice, however that is spelt. */
    options.named_by = "/proc/self/cwd/top.qcow2";
    ck_assert_msg(store_file_open("/proc/self/cwd/a", "data file", &options, &store, &error) == 0,
                  "%s", error.text);
    store_close(store);
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

/* --- with the rights of another ------------------------------------------------------------- */

/* 0, or what opening "d/a" gives, to which images of these users led. */
static int open_for_all(const struct owners *owners, enum store_access access, struct error *error)
{
    const struct store_file_options options = {
        .access = access,
        .named_by = "top.qcow2",
        .led_by = owners,
        .as_owners = true,
    };
    struct store *store = NULL;
    int rc = store_file_open("d/a", "backing file", &options, &store, error);

    store_close(store);
    return rc;
}

static int open_for(uid_t uid, enum store_access access, struct error *error)
{
    return open_for_all(&(struct owners){.count = 1, .users = {uid}}, access, error);
}

/* What the modes of directory and file, both root's, allow nobody. */
static void make_file(mode_t directory, mode_t file)
{
    ck_assert(mkdir("d", 0755) == 0 || errno == EEXIST);
    scratch_file("d/a", "abc", 3);
    ck_assert_int_eq(chmod("d/a", file), 0);
    ck_assert_int_eq(chmod("d", directory), 0);
}

START_TEST(a_file_is_opened_with_the_rights_of_the_owner_and_no_others)
{
    struct store *store = NULL;
    struct error error = {0};

    if (geteuid() != 0) {
        return;
    }
    make_file(0755, 0644);
    ck_assert_msg(open_for(NOBODY, STORE_READ, &error) == 0, "%s", error.text);
    ck_assert_int_eq(open_for(NOBODY, STORE_WRITE, &error), -EACCES);
    make_file(0755, 0600);
    ck_assert_int_eq(open_for(NOBODY, STORE_READ, &error), -EACCES);
    ck_assert_str_eq(
        error.text,
        "d/a: this backing file is named by an image of user nobody, or behind one, "
        "who may not read it; change its permissions or the image's owner, or allow it with -o "
        "trust-names (qcow2ctl: --trust-names)");
    make_file(0700, 0644);
    ck_assert_int_eq(open_for(NOBODY, STORE_READ, &error), -EACCES);
    make_file(0711, 0606);
    ck_assert_int_eq(open_for(NOBODY, STORE_WRITE, &error), 0);
    make_file(0755, 0060); /* root's group is not his */
    ck_assert_int_eq(open_for(NOBODY, STORE_READ, &error), -EACCES);
    /* Where this process works does not matter. */
    make_file(0700, 0644);
    const struct owners nobody = {.count = 1, .users = {NOBODY}};
    ck_assert_int_eq(chdir("d"), 0);
    ck_assert_int_eq(store_file_open("a", "data file",
                                     &(struct store_file_options){.access = STORE_READ,
                                                                  .named_by = "top.qcow2",
                                                                  .led_by = &nobody,
                                                                  .as_owners = true},
                                     &store, NULL),
                     -EACCES);
    ck_assert_int_eq(chdir(".."), 0);
    /* He is not in the database, and in no group. */
    make_file(0755, 0640);
    ck_assert_int_eq(open_for(4242, STORE_READ, &error), -EACCES);
    ck_assert_int_eq(chown("d/a", 4242, 0), 0);
    ck_assert_int_eq(open_for(4242, STORE_READ, &error), 0);
    /* This process has the rights that it had. */
    make_file(0700, 0600);
    ck_assert_int_eq(geteuid(), 0);
    ck_assert_int_eq(open("d/a", O_RDWR | O_CLOEXEC) < 0, 0);
}
END_TEST

START_TEST(all_whose_images_led_there_must_be_able_to_open_it)
{
    const struct owners two = {.count = 2, .users = {4242, NOBODY}};
    struct error error = {0};

    if (geteuid() != 0) {
        return;
    }
    make_file(0755, 0604);
    ck_assert_msg(open_for_all(&two, STORE_READ, &error) == 0, "%s", error.text);
    make_file(0755, 0600);
    ck_assert_int_eq(chown("d/a", 4242, 0), 0);
    ck_assert_int_eq(open_for(4242, STORE_WRITE, &error), 0);
    ck_assert_int_eq(open_for_all(&two, STORE_READ, &error), -EACCES);
    ck_assert_ptr_nonnull(strstr(error.text, "of user nobody"));
    ck_assert_int_eq(chown("d/a", NOBODY, 0), 0);
    ck_assert_int_eq(open_for_all(&two, STORE_READ, &error), -EACCES);
    ck_assert_ptr_nonnull(strstr(error.text, "of user 4242"));
    ck_assert_int_eq(chmod("d/a", 0602), 0);
    ck_assert_int_eq(open_for_all(&two, STORE_WRITE, &error), -EACCES);
    ck_assert_int_eq(chmod("d/a", 0606), 0);
    ck_assert_int_eq(open_for_all(&two, STORE_WRITE, &error), 0);
}
END_TEST

START_TEST(an_access_control_list_counts)
{
    /* Version 2; user::rw-, user:nobody:---, group::r--, mask::r--, other::r--. */
    static const uint8_t list[] = {
        2, 0,    0,    0,    1,    0,    6,  0, 0xff, 0xff, 0xff, 0xff, 2,    0,    0,
        0, 0xfe, 0xff, 0,    0,    4,    0,  4, 0,    0xff, 0xff, 0xff, 0xff, 16,   0,
        4, 0,    0xff, 0xff, 0xff, 0xff, 32, 0, 4,    0,    0xff, 0xff, 0xff, 0xff,
    };
    struct error error = {0};

    if (geteuid() != 0) {
        return;
    }
    make_file(0755, 0644);
    if (setxattr("d/a", "system.posix_acl_access", list, sizeof(list), 0) != 0) {
        return; /* none here */
    }
    ck_assert_int_eq(open_for(NOBODY, STORE_READ, &error), -EACCES);
    ck_assert_int_eq(open_for(4242, STORE_READ, &error), 0);
}
END_TEST

/* Who is not root cannot ask the kernel, and takes for granted only what the modes say. */
static int open_for_as_nobody(uid_t owner)
{
    int status;
    pid_t child = fork();

    ck_assert_int_ge(child, 0);
    if (child == 0) {
        if (setgroups(0, NULL) != 0 || setgid(NOBODY) != 0 || setuid(NOBODY) != 0) {
            _exit(99);
        }
        _exit(-open_for(owner, STORE_READ, NULL));
    }
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert(WIFEXITED(status));
    return -WEXITSTATUS(status);
}

START_TEST(without_roots_rights_the_modes_decide)
{
    if (geteuid() != 0) {
        return;
    }
    make_file(0755, 0644);
    ck_assert_int_eq(open_for_as_nobody(4242), 0);
    ck_assert_int_eq(chown("d/a", NOBODY, NOBODY), 0);
    ck_assert_int_eq(chmod("d/a", 0600), 0);
    ck_assert_int_eq(open_for_as_nobody(4242), -EACCES);
    ck_assert_int_eq(chmod("d/a", 0604), 0);
    ck_assert_int_eq(open_for_as_nobody(4242), 0);
    ck_assert_int_eq(chown("d/a", NOBODY, 4242), 0);
    ck_assert_int_eq(chown("d", NOBODY, NOBODY), 0);
    ck_assert_int_eq(chmod("d", 0700), 0);
    ck_assert_int_eq(open_for_as_nobody(4242), -EACCES);
    ck_assert_int_eq(open_for_as_nobody(NOBODY), 0);
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
    tcase_add_test(tcase, what_is_refused_was_never_opened);
    tcase_add_test(tcase, files_of_the_kernels_own_are_refused);
    tcase_add_test(tcase, an_image_cannot_name_a_file_that_this_process_has_open);
    tcase_add_test(tcase, other_errors_of_open_are_told_with_advice);
    tcase_add_test(tcase, the_sentence_may_be_unwanted);
    tcase_add_test(tcase, an_open_store_is_closed_by_exec_and_blocks_in_reads);
    tcase_add_test(tcase, reading_leaves_the_access_time);
    tcase_add_test(tcase, who_may_not_read_is_told_who_may);
    tcase_add_test(tcase, a_directory_that_may_not_be_entered_is_told);
    tcase_add_test(tcase, who_does_not_own_the_file_can_read_it_all_the_same);
    tcase_add_test(tcase, a_file_is_opened_with_the_rights_of_the_owner_and_no_others);
    tcase_add_test(tcase, all_whose_images_led_there_must_be_able_to_open_it);
    tcase_add_test(tcase, an_access_control_list_counts);
    tcase_add_test(tcase, without_roots_rights_the_modes_decide);
    suite_add_tcase(suite, tcase);
    return suite_main(suite);
}
