/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "suite.h"
#include "util/registry.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* A daemon of its own: it is entered, and ends when it is told to. */
struct fake {
    pid_t pid;
    int told;       /* closed: it ends */
    int descriptor; /* its file, from registry_visit() */
};

static struct fake fake;

/* The daemon ends just before this program looks at its lock; see flock(). */
static bool ends_at_look;

static void end_fake(void)
{
    int status;

    close(fake.told);
    ck_assert_int_eq(waitpid(fake.pid, &status, 0), fake.pid);
    ck_assert_int_eq(status, 0);
}

/* In place of the C library's: the one moment between two looks that matters. */
int flock(int descriptor, int operation)
{
    if (ends_at_look && (operation & LOCK_NB) != 0) {
        ends_at_look = false;
        end_fake();
    }
    return (int)syscall(SYS_flock, descriptor, operation);
}

static _Noreturn void live(const int told[2], int ready)
{
    char image[] = "/srv/image.qcow2", mount_point[] = "";
    const struct registry_record record = {
        .pid = getpid(), .image = image, .mount_point = mount_point, .writable = true};
    struct registry_entry *entry = registry_enter(&record);
    char byte;

    close(told[1]);
    if (entry == NULL || write(ready, "", 1) != 1 || read(told[0], &byte, 1) != 0) {
        _exit(1);
    }
    registry_end(entry, 3, "as it was told");
    registry_remove(registry_directory(entry), registry_name(entry));
    registry_leave(entry);
    _exit(0);
}

static int take_fake(void *context, const struct registry_record *record, int descriptor)
{
    (void)context;
    if (record->pid == fake.pid) {
        fake.descriptor = fcntl(descriptor, F_DUPFD_CLOEXEC, 3);
        return 1;
    }
    return 0;
}

static void start_fake(void)
{
    int told[2], ready[2];
    char byte;

    ck_assert_int_eq(pipe2(told, O_CLOEXEC), 0);
    ck_assert_int_eq(pipe2(ready, O_CLOEXEC), 0);
    fake.pid = fork();
    ck_assert_int_ge(fake.pid, 0);
    if (fake.pid == 0) {
        live(told, ready[1]);
    }
    close(told[0]);
    fake.told = told[1];
    ck_assert_int_eq(read(ready[0], &byte, 1), 1);
    ck_assert_int_eq(registry_visit(take_fake, NULL), 1);
}

static void check_end(void)
{
    struct registry_record record;

    ck_assert_int_eq(registry_wait(fake.descriptor, 20000, &record), 0);
    ck_assert(record.has_ended);
    ck_assert_int_eq(record.status, 3);
    ck_assert_str_eq(record.message, "as it was told");
    registry_release(&record);
    ck_assert_int_eq(registry_visit(take_fake, NULL), 0);
}

START_TEST(how_a_daemon_ended_is_known_that_had_ended_before)
{
    start_fake();
    end_fake();
    check_end();
}
END_TEST

START_TEST(how_a_daemon_ended_is_known_that_ends_between_two_looks)
{
    start_fake();
    ends_at_look = true;
    check_end();
}
END_TEST

START_TEST(a_daemon_that_goes_on_is_waited_for_as_long_as_was_said)
{
    struct registry_record record;

    start_fake();
    ck_assert_int_eq(registry_wait(fake.descriptor, 10, &record), -ETIMEDOUT);
    end_fake();
    check_end();
}
END_TEST

START_TEST(who_cannot_open_it_is_told_that_and_not_that_there_is_nobody)
{
    struct rlimit before, few = {.rlim_cur = 0};

    start_fake();
    ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &before), 0);
    few.rlim_max = before.rlim_max;
    for (few.rlim_cur = 3; few.rlim_cur < 30; few.rlim_cur++) {
        int found;

        ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &few), 0);
        found = registry_visit(take_fake, NULL);
        ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &before), 0);
        ck_assert_int_eq(found, found == 1 ? 1 : -EMFILE);
    }
    end_fake();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("registry");
    TCase *tests = tcase_create("all");

    tcase_add_test(tests, how_a_daemon_ended_is_known_that_had_ended_before);
    tcase_add_test(tests, how_a_daemon_ended_is_known_that_ends_between_two_looks);
    tcase_add_test(tests, a_daemon_that_goes_on_is_waited_for_as_long_as_was_said);
    tcase_add_test(tests, who_cannot_open_it_is_told_that_and_not_that_there_is_nobody);
    suite_add_tcase(suite, tests);
    return suite_main(suite);
}
