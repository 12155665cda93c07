/* SPDX-License-Identifier: MIT */
/* How a store keeps QEMU out, and is kept out by it. */
#include "config.h"

#include "lock_case.h"
#include "scratch.h"
#include "suite.h"

#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* Whether the tools are here. Where every test must run (CI), their absence is a failure. */
static bool have_qemu(void)
{
    bool found = system("command -v qemu-io qemu-nbd qemu-img >/dev/null 2>&1") == 0;

    ck_assert_msg(found || getenv("CI") == NULL, "qemu-io, qemu-nbd and qemu-img are needed");
    return found;
}

static void make_image(void)
{
    ck_assert_int_eq(system("rm -f a && qemu-img create -q -f qcow2 a 1M"), 0);
}

static bool qemu_can(const char *options, const char *command)
{
    char line[256];

    snprintf(line, sizeof(line), "qemu-io %s -f qcow2 -c '%s' a >/dev/null 2>&1", options, command);
    return system(line) == 0;
}

/* Waits for the greeting: the socket alone is there before the image is open. */
static void await_greeting(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "socket"};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    char greeting[8];

    for (int i = 0; connect(fd, (struct sockaddr *)&address, sizeof(address)) != 0; i++) {
        ck_assert_int_lt(i, 1000);
        usleep(10000);
    }
    ck_assert_int_eq(recv(fd, greeting, sizeof(greeting), MSG_WAITALL), sizeof(greeting));
    ck_assert_mem_eq(greeting, "NBDMAGIC", sizeof(greeting));
    close(fd);
}

/* A qemu-nbd that has the image open, with `option`; lock_end_child() ends it. */
static pid_t start_qemu(const char *option)
{
    char path[PATH_MAX];
    pid_t child;

    ck_assert_ptr_nonnull(getcwd(path, sizeof(path) - 8));
    strcat(path, "/socket");
    (void)unlink("socket");
    child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (freopen("/dev/null", "w", stderr) != NULL) { /* it complains of the hang-up */
            execlp("qemu-nbd", "qemu-nbd", "-t", "-f", "qcow2", "-k", path, "a", option, NULL);
        }
        _exit(127);
    }
    await_greeting();
    return child;
}

START_TEST(a_qemu_writer_keeps_us_out)
{
    static const char open_for_writing[] = "a: another program has this image open for writing";
    char sentence[512];
    pid_t qemu;

    if (!have_qemu()) {
        return;
    }
    make_image();
    qemu = start_qemu(NULL);
    snprintf(sentence, sizeof(sentence),
             "%s (qemu-nbd (pid %d)); close it first, or read it as it is with -o force-share "
             "(qcow2ctl: -U)",
             open_for_writing, (int)qemu);
    lock_expect_busy(STORE_READ, sentence);
    snprintf(sentence, sizeof(sentence),
             "%s (qemu-nbd (pid %d)); close it first (qcow2fs -o force-share only "
             "looks at it as it is)",
             open_for_writing, (int)qemu);
    lock_expect_busy(STORE_WRITE, sentence);
    store_close(lock_open(STORE_READ_SHARED));
    lock_end_child(qemu);
    store_close(lock_open(STORE_WRITE));
}
END_TEST

START_TEST(a_qemu_reader_lets_us_read_and_not_write)
{
    char sentence[512];
    pid_t qemu;

    if (!have_qemu()) {
        return;
    }
    make_image();
    qemu = start_qemu("-r");
    store_close(lock_open(STORE_READ));
    store_close(lock_open(STORE_READ_SHARED));
    snprintf(sentence, sizeof(sentence),
             "a: another program uses this image and relies on nobody writing it (qemu-nbd (pid "
             "%d)); close it first",
             (int)qemu);
    lock_expect_busy(STORE_WRITE, sentence);
    lock_end_child(qemu);
}
END_TEST

START_TEST(our_reader_lets_qemu_read_and_not_write)
{
    struct store *store;

    if (!have_qemu()) {
        return;
    }
    make_image();
    store = lock_open(STORE_READ);
    ck_assert(qemu_can("-r", "read 0 4k"));
    ck_assert(!qemu_can("", "write 0 4k"));
    store_close(store);
    ck_assert(qemu_can("", "write 0 4k"));
}
END_TEST

START_TEST(our_shared_reader_is_in_nobodys_way)
{
    struct store *store;

    if (!have_qemu()) {
        return;
    }
    make_image();
    store = lock_open(STORE_READ_SHARED);
    ck_assert(qemu_can("-r", "read 0 4k"));
    ck_assert(qemu_can("", "write 0 4k"));
    store_close(store);
}
END_TEST

START_TEST(our_writer_keeps_qemu_out)
{
    struct store *store;

    if (!have_qemu()) {
        return;
    }
    make_image();
    store = lock_open(STORE_WRITE);
    ck_assert(!qemu_can("-r", "read 0 4k"));
    ck_assert(!qemu_can("", "write 0 4k"));
    ck_assert(qemu_can("-U -r", "read 0 4k"));
    store_close(store);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {
        a_qemu_writer_keeps_us_out,
        a_qemu_reader_lets_us_read_and_not_write,
        our_reader_lets_qemu_read_and_not_write,
        our_shared_reader_is_in_nobodys_way,
        our_writer_keeps_qemu_out,
    };
    Suite *suite = suite_create("store locks and QEMU");
    TCase *tcase = tcase_create("locks-qemu");

    tcase_add_unchecked_fixture(tcase, scratch_enter, scratch_leave);
    tcase_set_timeout(tcase, 60); /* of QEMU on a busy host */
    for (size_t i = 0; i < sizeof(tests) / sizeof(tests[0]); i++) {
        tcase_add_test(tcase, tests[i]);
    }
    suite_add_tcase(suite, tcase);
    return suite_main(suite);
}
