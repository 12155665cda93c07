/* SPDX-License-Identifier: MIT */
/* What a process can still do in its box, by what it needs, and by what the kernel has. */
#include "config.h"

#include "old_kernel.h"
#include "suite.h"
#include "util/box.h"
#include "util/box_calls.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* What a process of its own, which enters a box, answers: at most 127. */
static int in_a_process(int (*work)(void))
{
    int status;
    pid_t child = fork();

    ck_assert_int_ge(child, 0);
    if (child == 0) {
        _exit(work());
    }
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static int ask_for_a_ring(void)
{
    return syscall(SYS_io_uring_setup, 1, NULL) < 0 ? errno : 0;
}

static int ring_without(void)
{
    return ask_for_a_ring();
}

static int ring_needed(void)
{
    const struct box_needs needs = {.io_uring = true};
    struct box box;

    box_enter(&needs, NULL, &box);
    return ask_for_a_ring();
}

static int ring_not_needed(void)
{
    const struct box_needs needs = {.fuse_device = true};
    struct box box;

    box_enter(&needs, NULL, &box);
    return box.calls ? ask_for_a_ring() : ENOSYS;
}

START_TEST(requests_by_io_uring_are_possible_where_they_are_wanted_and_nowhere_else)
{
    ck_assert_int_eq(in_a_process(ring_needed), in_a_process(ring_without));
    ck_assert_int_eq(in_a_process(ring_not_needed), ENOSYS);
}
END_TEST

/* --- what is missing -------------------------------------------------------------------------- */

static int open_something(void)
{
    return open("/etc/passwd", O_RDONLY | O_CLOEXEC) < 0 ? errno : 0;
}

#ifndef BOX_HAS_SANITIZER
static int without_landlock(void)
{
    const struct box_needs needs = {.fuse_device = true};
    struct box box;

    hide_landlock();
    box_enter(&needs, NULL, &box);
    if (box.landlock || !box.privileges || !box.memory || box.files != box.calls ||
        box.network != box.calls) {
        return 1;
    }
    if (box.calls) {
        return box_missing(&box) == NULL && open_something() == ENOSYS ? 0 : 2;
    }
    return strstr(box_missing(&box), "libseccomp") != NULL && open_something() == 0 ? 0 : 3;
}
#endif

static int with_a_server_and_without_landlock(void)
{
    const struct box_needs needs = {.network = true};
    struct box box;

    hide_landlock();
    box_enter(&needs, NULL, &box);
    if (box.files || box.network || box_missing(&box) == NULL) {
        return 1;
    }
    return !box.calls || strstr(box_missing(&box), "Landlock") != NULL ? 0 : 2;
}

START_TEST(without_landlock_the_system_calls_keep_files_closed_and_what_is_missing_has_a_sentence)
{
#ifndef BOX_HAS_SANITIZER
    ck_assert_int_eq(in_a_process(without_landlock), 0);
#endif
    ck_assert_int_eq(in_a_process(with_a_server_and_without_landlock), 0);
}
END_TEST

static int as_it_is(void)
{
    static const char *const read[] = {"/etc/hostname", "/not/there", NULL};
    const struct box_needs needs = {.read = read};
    struct box box;

    box_enter(&needs, NULL, &box);
    if (!box.landlock) {
        return 0; /* this kernel has none */
    }
    if (!box.files || open_something() != EACCES) {
        return 1;
    }
    if (open("/etc/hostname", O_RDONLY | O_CLOEXEC) < 0 && errno != ENOENT) {
        return 2;
    }
    return open("/etc/hostname", O_WRONLY | O_CLOEXEC) < 0 ? 0 : 3;
}

START_TEST(what_is_to_be_read_can_be_read_and_nothing_else)
{
    ck_assert_int_eq(in_a_process(as_it_is), 0);
}
END_TEST

/* --- with an opener --------------------------------------------------------------------------- */

static int receive(bool opener)
{
    const struct box_needs needs = {.opener = opener};
    struct iovec part = {.iov_base = &(char){0}, .iov_len = 1};
    struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1};
    struct box box;
    int ends[2];

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) {
        return 127;
    }
    box_enter(&needs, NULL, &box);
    if (!box.calls) {
        return opener ? 0 : ENOSYS;
    }
    return recvmsg(ends[0], &header, MSG_DONTWAIT) < 0 && errno == EAGAIN ? 0 : errno;
}

static int receive_with(void)
{
    return receive(true);
}

static int receive_without(void)
{
    return receive(false);
}

START_TEST(descriptors_are_received_only_where_another_process_opens_files)
{
    ck_assert_int_eq(in_a_process(receive_with), 0);
    ck_assert_int_eq(in_a_process(receive_without), ENOSYS);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("box");
    TCase *tcase = tcase_create("box");

    tcase_add_test(tcase, requests_by_io_uring_are_possible_where_they_are_wanted_and_nowhere_else);
    tcase_add_test(
        tcase,
        without_landlock_the_system_calls_keep_files_closed_and_what_is_missing_has_a_sentence);
    tcase_add_test(tcase, what_is_to_be_read_can_be_read_and_nothing_else);
    tcase_add_test(tcase, descriptors_are_received_only_where_another_process_opens_files);
    suite_add_tcase(suite, tcase);
    return suite_main(suite);
}
