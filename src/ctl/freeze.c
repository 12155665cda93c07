/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "ctl/freeze.h"

#include "ctl/daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#define FROZEN_MILLISECONDS 60000 /* at most: programs wait meanwhile */

enum {
    GUARD_DONE,
    GUARD_WAS_LATE,
    GUARD_WAS_NOT_ALONE, /* somebody else has let it go on */
};

static dev_t device_at(int descriptor, const char *path, int flags)
{
    struct statx status;

    return statx(descriptor, path, flags | AT_STATX_DONT_SYNC, STATX_TYPE, &status) == 0
               ? makedev(status.stx_dev_major, status.stx_dev_minor)
               : 0;
}

static bool stands_on(const struct stack *stack, int directory)
{
    dev_t device = device_at(directory, "", AT_EMPTY_PATH);

    for (size_t i = 0; i < stack->mount_count; i++) {
        if (device != 0 && device == device_at(AT_FDCWD, stack->mounts[i].path, 0)) {
            return true;
        }
    }
    return false;
}

/* Waits for the end of who froze it, and thaws; but where a byte says that it is not ours. */
static int guard(int lifeline, int directory)
{
    static const int ignored[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE};
    struct pollfd end = {.fd = lifeline, .events = POLLIN};
    int count;
    char byte;

    (void)setsid();
    for (size_t i = 0; i < sizeof(ignored) / sizeof(ignored[0]); i++) {
        signal(ignored[i], SIG_IGN);
    }
    /* Nobody shall wait for what it holds: a reader of our output, say, which is frozen. */
    for (int standard = STDIN_FILENO; standard <= STDERR_FILENO; standard++) {
        if (standard != lifeline && standard != directory) {
            close(standard);
        }
    }
    do {
        count = poll(&end, 1, FROZEN_MILLISECONDS);
    } while (count < 0 && errno == EINTR);
    if (count > 0 && read(lifeline, &byte, 1) == 1) {
        return GUARD_DONE;
    }
    if (ioctl(directory, FITHAW, 0) != 0 && errno == EINVAL) {
        return GUARD_WAS_NOT_ALONE;
    }
    return count == 0 ? GUARD_WAS_LATE : GUARD_DONE;
}

static int start_guard(struct freeze *freeze, struct error *error)
{
    int ends[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
        return error_set(error, errno, "a socket cannot be made: %s", strerror(errno));
    }
    fflush(NULL);
    freeze->guard = fork();
    if (freeze->guard == 0) {
        close(ends[1]);
        _exit(guard(ends[0], freeze->directory));
    }
    close(ends[0]);
    freeze->lifeline = ends[1];
    return freeze->guard > 0
               ? 0
               : error_set(error, errno, "no process can be made: %s", strerror(errno));
}

static int stand_still(struct freeze *freeze, const char *path, struct error *error)
{
    int code;

    if (ioctl(freeze->directory, FIFREEZE, 0) == 0) {
        freeze->stands_still = true;
        return 0;
    }
    code = errno;
    (void)send(freeze->lifeline, "", 1, MSG_NOSIGNAL); /* who has frozen it lets it go on */
    return error_set(error, code, "%s: cannot be frozen: %s", path,
                     code == EBUSY        ? "it is frozen already; who has frozen it lets it go on "
                                            "(fsfreeze --unfreeze)"
                     : code == EOPNOTSUPP ? "its kind of file system cannot be"
                     : code == EPERM      ? "that takes root (CAP_SYS_ADMIN)"
                                          : strerror(code));
}

int freeze_begin(struct freeze *freeze, const char *path, const struct stack *stack,
                 struct error *error)
{
    struct error ignored;
    int result;

    *freeze = (struct freeze){.lifeline = -1, .guard = -1};
    freeze->directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (freeze->directory < 0) {
        return error_set(error, errno, "%s: cannot be frozen: %s", path, strerror(errno));
    }
    if (!stands_on(stack, freeze->directory)) {
        close(freeze->directory);
        return error_set(error, EINVAL,
                         "%s: is no file system on the disk of %s (qcow2ctl list shows them)", path,
                         stack->daemon.image);
    }
    result = start_guard(freeze, error);
    if (result == 0) {
        result = stand_still(freeze, path, error);
    }
    if (result != 0) {
        (void)freeze_end(freeze, path, &ignored);
    }
    return result;
}

static int was_let_go(const char *path, int status, struct error *error)
{
    static const char what[] =
        "before the snapshot was made, which is what a power cut would leave";

    if (WEXITSTATUS(status) == GUARD_WAS_NOT_ALONE) {
        return error_set(error, ETIMEDOUT,
                         "%s: was let go by another program while it stood still, maybe %s", path,
                         what);
    }
    return error_set(error, ETIMEDOUT, "%s: stood still for %d seconds, and was let go %s", path,
                     FROZEN_MILLISECONDS / 1000, what);
}

int freeze_end(struct freeze *freeze, const char *path, struct error *error)
{
    int status = 0;

    if (freeze->lifeline >= 0) {
        close(freeze->lifeline);
    }
    if (freeze->guard > 0) {
        while (waitpid(freeze->guard, &status, 0) < 0 && errno == EINTR) {
        }
    }
    if (freeze->stands_still && !WIFEXITED(status)) {
        (void)ioctl(freeze->directory, FITHAW, 0); /* it was killed */
    }
    close(freeze->directory);
    return freeze->stands_still && WIFEXITED(status) && WEXITSTATUS(status) != GUARD_DONE
               ? was_let_go(path, status, error)
               : 0;
}

int freeze_ask(const char *path, const struct stack *stack, const struct control_message *request,
               struct control_message *answer, struct log *log, struct error *error)
{
    struct error late = {0};
    struct freeze freeze;
    int r = path != NULL ? freeze_begin(&freeze, path, stack, error) : 0;

    if (r != 0) {
        return r;
    }
    /* While a file system stands still nothing is said: it may be where that would be written. */
    r = path != NULL ? daemon_ask(stack, request, -1, answer, error)
                     : daemon_ask_patiently(stack, request, answer, log, error);
    if (path != NULL && freeze_end(&freeze, path, &late) != 0 && r == 0) {
        *error = late;
        r = -late.code;
    }
    return r;
}
