/* SPDX-License-Identifier: MIT */
/* How a store keeps others out and is kept out by them, and how it names who does. */
#include "config.h"

#include "lock_case.h"
#include "scratch.h"
#include "store/holders.h"
#include "suite.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* Locks made to fail, and the order of their commands written down (see test-store.c). */
#if defined(__LP64__)
#define REPLACED_CALLS 1

static struct {
    int error;
    char order[64]; /* t: took a lock, g: gave one up, l: looked for one */
    size_t length;
} host;

int fcntl(int fd, int command, ...)
{
    va_list arguments;
    void *argument;

    va_start(arguments, command);
    argument = va_arg(arguments, void *); /* an int is passed in the same way */
    va_end(arguments);
    if (command == F_OFD_SETLK || command == F_OFD_GETLK) {
        const struct flock *lock = argument;
        char letter = command == F_OFD_GETLK ? 'l' : lock->l_type == F_UNLCK ? 'g' : 't';

        if (host.length < sizeof(host.order) - 1) {
            host.order[host.length++] = letter;
        }
        if (host.error != 0) {
            errno = host.error;
            return -1;
        }
    }
    return (int)syscall(SYS_fcntl, fd, command, argument);
}
#endif

static void restore_host(void)
{
#ifdef REPLACED_CALLS
    memset(&host, 0, sizeof(host));
#endif
}

/* The bytes below 300 that somebody else than `fd` has locked, as text. */
static const char *locked_bytes(char text[256])
{
    int fd = open("a", O_RDONLY | O_CLOEXEC);

    text[0] = '\0';
    for (int byte = 0; byte < 300; byte++) {
        struct flock probe = {.l_type = F_WRLCK, .l_start = byte, .l_len = 1};

        ck_assert_int_eq(fcntl(fd, F_OFD_GETLK, &probe), 0);
        if (probe.l_type != F_UNLCK) {
            ck_assert_int_eq(probe.l_type, F_RDLCK);
            snprintf(text + strlen(text), 256 - strlen(text), "%d ", byte);
        }
    }
    close(fd);
    return text;
}

static int lock_raw(short type, off_t start, off_t length)
{
    struct flock lock = {.l_type = type, .l_start = start, .l_len = length};
    int fd = open("a", O_RDWR | O_CLOEXEC);

    ck_assert_int_eq(fcntl(fd, F_OFD_SETLK, &lock), 0);
    return fd;
}

START_TEST(each_access_holds_the_bytes_that_qemu_holds)
{
    static const char *const wanted[] = {
        [STORE_READ] = "100 201 203 ",
        [STORE_READ_SHARED] = "100 ",
        [STORE_WRITE] = "100 101 103 201 203 ",
    };
    char text[256];

    scratch_file("a", "abc", 3);
    for (enum store_access access = STORE_READ; access <= STORE_WRITE; access++) {
        struct store *store = lock_open(access);

        ck_assert_str_eq(locked_bytes(text), wanted[access]);
        store_close(store);
        ck_assert_str_eq(locked_bytes(text), "");
    }
}
END_TEST

START_TEST(readers_do_not_exclude_each_other)
{
    struct store *first, *second, *third;

    scratch_file("a", "abc", 3);
    first = lock_open(STORE_READ);
    second = lock_open(STORE_READ);
    third = lock_open(STORE_READ_SHARED);
    store_close(first);
    store_close(second);
    store_close(third);
}
END_TEST

START_TEST(a_reader_excludes_writers_until_it_is_closed)
{
    struct store *reader;
    char text[256];

    scratch_file("a", "abc", 3);
    reader = lock_open(STORE_READ);
    lock_expect_busy(STORE_WRITE,
                     "a: another program uses this image and relies on nobody writing it; "
                     "close it first");
    ck_assert_str_eq(locked_bytes(text), "100 201 203 "); /* the refused one left none */
    store_close(reader);
    store_close(lock_open(STORE_WRITE));
}
END_TEST

START_TEST(a_writer_excludes_readers_and_writers)
{
    struct store *writer;
    char text[256];

    scratch_file("a", "abc", 3);
    writer = lock_open(STORE_WRITE);
    lock_expect_busy(STORE_READ,
                     "a: another program has this image open for writing; close it first, "
                     "or read it as it is with -o force-share (qcow2ctl: -U)");
    lock_expect_busy(STORE_WRITE,
                     "a: another program has this image open for writing; close it first "
                     "(qcow2fs -o force-share only looks at it as it is)");
    ck_assert_str_eq(locked_bytes(text), "100 101 103 201 203 ");
    store_close(writer);
    store_close(lock_open(STORE_READ));
}
END_TEST

START_TEST(a_shared_reader_tolerates_a_writer_and_is_tolerated)
{
    struct store *writer, *reader;

    scratch_file("a", "abc", 3);
    writer = lock_open(STORE_WRITE);
    reader = lock_open(STORE_READ_SHARED);
    store_close(writer);
    writer = lock_open(STORE_WRITE);
    store_close(writer);
    store_close(reader);
}
END_TEST

START_TEST(an_image_that_nobody_may_read_is_not_read)
{
    static const char sentence[] = "a: another program lets nobody read this image for now; wait "
                                   "until it has ended";
    int fd;

    scratch_file("a", "abc", 3);
    fd = lock_raw(F_RDLCK, 200, 1);
    for (enum store_access access = STORE_READ; access <= STORE_WRITE; access++) {
        lock_expect_busy(access, sentence);
    }
    close(fd);
}
END_TEST

START_TEST(an_exclusive_lock_of_another_program_is_respected)
{
    char text[256];
    int fd;

    scratch_file("a", "abc", 3);
    fd = lock_raw(F_WRLCK, 0, 0);
    for (enum store_access access = STORE_READ; access <= STORE_WRITE; access++) {
        lock_expect_busy(access,
                         "a: another program has locked this image for itself; close it first");
    }
    close(fd);
    fd = lock_raw(F_WRLCK, 203, 1);
    lock_expect_busy(STORE_READ,
                     "a: another program has locked this image for itself; close it first");
    close(fd);
    ck_assert_str_eq(locked_bytes(text), "");
}
END_TEST

START_TEST(locks_live_until_the_last_process_closes_the_store)
{
    struct store *store;
    char text[256];
    int pipes[2];
    pid_t child;

    scratch_file("a", "abc", 3);
    store = lock_open(STORE_READ);
    ck_assert_int_eq(pipe(pipes), 0);
    child = fork();
    if (child == 0) { /* keeps the store open until the pipe ends */
        close(pipes[1]);
        _exit(read(pipes[0], text, 1) == 0 ? 0 : 1);
    }
    close(pipes[0]);
    store_close(store);
    ck_assert_str_eq(locked_bytes(text), "100 201 203 ");
    close(pipes[1]);
    ck_assert_int_eq(waitpid(child, NULL, 0), child);
    ck_assert_str_eq(locked_bytes(text), "");

    store = lock_open(STORE_READ);
    child = fork();
    if (child == 0) {
        store_close(store);
        _exit(0);
    }
    ck_assert_int_eq(waitpid(child, NULL, 0), child);
    ck_assert_str_eq(locked_bytes(text), "100 201 203 ");
    store_close(store);
}
END_TEST

#ifdef REPLACED_CALLS
START_TEST(all_locks_are_taken_before_the_first_look)
{
    scratch_file("a", "abc", 3);
    store_close(lock_open(STORE_WRITE));
    ck_assert_str_eq(host.order, "tttttlllll");
}
END_TEST

START_TEST(a_host_without_locks_can_be_read_but_not_written)
{
    static const int errors[] = {EINVAL, ENOLCK, EOPNOTSUPP, ENOSYS};
    struct store *store;
    struct error error;

    scratch_file("a", "abc", 3);
    for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
        host.error = errors[i];
        store_close(lock_open(STORE_READ));
        store_close(lock_open(STORE_READ_SHARED));
        ck_assert_int_eq(store_file_open("a", "image",
                                         &(struct store_file_options){.access = STORE_WRITE},
                                         &store, &error),
                         -ENOLCK);
        ck_assert_str_eq(error.text,
                         "a: the file system of this image has no locks, so nothing would keep "
                         "two programs from writing it at once; move it to another file system, "
                         "or see to that yourself and allow it with -o locking=off (qcow2ctl: "
                         "--locking=off)");
        ck_assert_int_eq(
            store_file_open("a", "image",
                            &(struct store_file_options){.access = STORE_WRITE, .no_locks = true},
                            &store, &error),
            0);
        store_close(store);
    }
    host.error = EIO;
    ck_assert_int_eq(store_file_open("a", "image",
                                     &(struct store_file_options){.access = STORE_READ}, &store,
                                     &error),
                     -EIO);
    ck_assert_str_eq(error.text, "a: this image cannot be locked: Input/output error; look for "
                                 "the cause in the system's log");
}
END_TEST
#endif

/* A process of that name that has "a" open, with a lock or without, until it is killed. */
static pid_t start_holder(const char *name, bool locks)
{
    int pipes[2];
    char byte;
    pid_t child;

    ck_assert_int_eq(pipe(pipes), 0);
    child = fork();
    if (child == 0) {
        int fd;

        prctl(PR_SET_PDEATHSIG, SIGKILL); /* when the test fails */
        fd = locks ? lock_raw(F_RDLCK, 201, 1) : open("a", O_RDONLY | O_CLOEXEC);

        prctl(PR_SET_NAME, name);
        if (fd >= 0 && write(pipes[1], "x", 1) == 1) {
            pause();
        }
        _exit(1);
    }
    close(pipes[1]);
    ck_assert_int_eq(read(pipes[0], &byte, 1), 1);
    close(pipes[0]);
    return child;
}

static const char *holders_of_a(char text[HOLDERS_TEXT_MAX])
{
    struct stat status;

    ck_assert_int_eq(stat("a", &status), 0);
    return holders_find(status.st_dev, status.st_ino, text);
}

START_TEST(a_holder_is_named_with_its_pid)
{
    char text[HOLDERS_TEXT_MAX], sentence[1024];
    pid_t child;

    scratch_file("a", "abc", 3);
    child = start_holder("some (name)", true);
    snprintf(sentence, sizeof(sentence), "some (name) (pid %d)", (int)child);
    ck_assert_str_eq(holders_of_a(text), sentence);
    snprintf(sentence, sizeof(sentence),
             "a: another program uses this image and relies on nobody writing it (some (name) "
             "(pid %d)); close it first",
             (int)child);
    lock_expect_busy(STORE_WRITE, sentence);
    lock_end_child(child);
    ck_assert_str_eq(holders_of_a(text), "");
}
END_TEST

START_TEST(who_holds_a_lock_is_named_alone)
{
    char text[HOLDERS_TEXT_MAX], wanted[64];
    pid_t children[2];

    scratch_file("a", "abc", 3);
    children[0] = start_holder("bystander", false);
    snprintf(wanted, sizeof(wanted), "bystander (pid %d)", (int)children[0]);
    ck_assert_str_eq(holders_of_a(text), wanted);
    children[1] = start_holder("locker", true);
    snprintf(wanted, sizeof(wanted), "locker (pid %d)", (int)children[1]);
    ck_assert_str_eq(holders_of_a(text), wanted);
    lock_end_child(children[0]);
    lock_end_child(children[1]);
}
END_TEST

START_TEST(at_most_four_holders_are_named)
{
    char text[HOLDERS_TEXT_MAX];
    unsigned commas = 0;
    pid_t children[6];

    scratch_file("a", "abc", 3);
    for (int locks = 0; locks < 2; locks++) {
        for (int i = 0; i < 6; i++) {
            children[i] = start_holder("holder", locks == 1);
        }
        holders_of_a(text);
        commas = 0;
        for (const char *at = text; (at = strchr(at, ',')) != NULL; at++) {
            commas++;
        }
        ck_assert_uint_eq(commas, HOLDERS_MAX - 1);
        for (int i = 0; i < 6; i++) {
            lock_end_child(children[i]);
        }
    }
}
END_TEST

START_TEST(this_process_is_never_named)
{
    char text[HOLDERS_TEXT_MAX];
    struct store *store;

    scratch_file("a", "abc", 3);
    store = lock_open(STORE_READ);
    ck_assert_str_eq(holders_of_a(text), "");
    store_close(store);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {
        each_access_holds_the_bytes_that_qemu_holds,
        readers_do_not_exclude_each_other,
        a_reader_excludes_writers_until_it_is_closed,
        a_writer_excludes_readers_and_writers,
        a_shared_reader_tolerates_a_writer_and_is_tolerated,
        an_image_that_nobody_may_read_is_not_read,
        an_exclusive_lock_of_another_program_is_respected,
        locks_live_until_the_last_process_closes_the_store,
        a_holder_is_named_with_its_pid,
        who_holds_a_lock_is_named_alone,
        at_most_four_holders_are_named,
        this_process_is_never_named,
#ifdef REPLACED_CALLS
        all_locks_are_taken_before_the_first_look,
        a_host_without_locks_can_be_read_but_not_written,
#endif
    };
    Suite *suite = suite_create("store locks");
    TCase *tcase = tcase_create("locks");

    tcase_add_unchecked_fixture(tcase, scratch_enter, scratch_leave);
    tcase_add_checked_fixture(tcase, restore_host, restore_host);
    tcase_set_timeout(tcase, 60); /* of a busy host */
    for (size_t i = 0; i < sizeof(tests) / sizeof(tests[0]); i++) {
        tcase_add_test(tcase, tests[i]);
    }
    suite_add_tcase(suite, tcase);
    return suite_main(suite);
}
