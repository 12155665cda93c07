/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "ctl/teardown.h"

#include "ctl/run.h"
#include "util/mounts.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/pidfd.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#define KEPT_MILLISECONDS 1000 /* in which a daemon ends that nobody keeps from it */

/* When a line says what is waited for: where that is known, and else. */
#define TOLD_MILLISECONDS   2000
#define SILENT_MILLISECONDS 8000

/* For who only looks at a device that has changed. */
#define LOOKED_AT_MILLISECONDS 2000
#define LOOK_MILLISECONDS      50

static int refuse_busy(const char *path, struct error *error)
{
    char users[256];

    stack_users(path, users, sizeof(users));
    return users[0] != '\0'
               ? error_set(error, EBUSY, "%s: is in use by %s; end that first, or use --lazy", path,
                           users)
               : error_set(
                     error, EBUSY,
                     "%s: is in use: a program has a file open there, or something is mounted "
                     "below it or from it; end that first, or use --lazy",
                     path);
}

int teardown_unmount(const char *path, unsigned id, bool lazy, struct log *log, struct error *error)
{
    const char *const argv[] = {"fusermount3", "-u", lazy ? "-z" : "--", path, NULL};
    int code;

    code = -mounts_unmount_exactly(path, id, UMOUNT_NOFOLLOW | (lazy ? MNT_DETACH : 0));
    if (code == 0) {
        return 0;
    }
    if (code == ESTALE) {
        return error_set(error, code,
                         "%s: something else is mounted there by now; see findmnt, and "
                         "unmount that first",
                         path);
    }
    if (code == EBUSY) {
        return refuse_busy(path, error);
    }
    if (code != EPERM) {
        return error_set(error, code, "%s: cannot be unmounted: %s", path, strerror(code));
    }
    if (run_program(argv, NULL, log, error) == 0) {
        return 0;
    }
    return strstr(error->text, "busy") != NULL ? refuse_busy(path, error) : -EIO;
}

/* --- what would be waited for ----------------------------------------------------------------- */

static bool is_stopped(const struct stack *stack)
{
    char path[48], line[512];
    const char *state = NULL;
    FILE *file;

    snprintf(path, sizeof(path), "/proc/%ld/stat", (long)stack->daemon.pid);
    file = stack->process >= 0 ? fopen(path, "re") : NULL;
    if (file != NULL && fgets(line, sizeof(line), file) != NULL) {
        state = strrchr(line, ')');
    }
    if (file != NULL) {
        fclose(file);
    }
    return state != NULL && strncmp(state, ") ", 2) == 0 && (state[2] == 'T' || state[2] == 't');
}

static void say_stopped(const struct stack *stack, struct log *log)
{
    log_line(log, LOG_LEVEL_WARNING,
             "%s: its qcow2fs (process %ld) is stopped, and is waited for; continue it: kill -CONT "
             "%ld",
             stack->daemon.image, (long)stack->daemon.pid, (long)stack->daemon.pid);
}

/* A mount in another mount namespace, say. */
static bool is_claimed(const struct loop_status *loop)
{
    int device = open(loop->name, O_RDONLY | O_EXCL | O_CLOEXEC);
    bool is_claimed = device < 0 && errno == EBUSY;

    if (device >= 0) {
        close(device);
    }
    return is_claimed;
}

/*
 * A device that is open stays, and the daemon with it: nobody knows for how long. Who only looks at
 * it, as udev does, is waited for.
 */
static int refuse_open_loop(const struct loop_status *loop, struct error *error)
{
    const struct timespec pause = {.tv_nsec = LOOK_MILLISECONDS * 1000000L};
    char users[256];
    bool claimed = false;

    for (int waited = 0; waited < LOOKED_AT_MILLISECONDS; waited += LOOK_MILLISECONDS) {
        stack_loop_users(loop, users, sizeof(users));
        claimed = users[0] == '\0' && is_claimed(loop);
        if (users[0] == '\0' && !claimed) {
            return 0;
        }
        nanosleep(&pause, NULL);
    }
    return claimed
               ? error_set(error, EBUSY,
                           "%s: is in use, by a mount that was detached lazily or is in another "
                           "mount namespace, by swap or another device; see lsblk(8), and end "
                           "that first",
                           loop->name)
               : error_set(error, EBUSY,
                           "%s: is in use by %s; end that first, or use qcow2ctl umount --lazy",
                           loop->name, users);
}

/* Who has one open that is mounted may be who serves that mount, and ends with it. */
static int refuse_open_loops(const struct stack *stack, struct error *error)
{
    int result = 0;

    for (size_t i = 0; i < stack->loop_count && stack->mount_count == 0 && result == 0; i++) {
        result = refuse_open_loop(&stack->loops[i], error);
    }
    return result;
}

/* --- taking down --------------------------------------------------------------------------------
 */

/* From the top down: what was mounted last goes first. */
static int unmount_all(const struct stack *stack, const struct teardown *how, struct log *log,
                       struct error *error)
{
    int result = 0;

    if (stack->mount_count > 0 && how->keep_mounts) {
        return error_set(error, EBUSY,
                         "%s: is mounted at %s; unmount that first (umount %s), or use "
                         "qcow2ctl umount",
                         stack->loop_count > 0 ? stack->loops[0].name : stack->daemon.image,
                         stack->mounts[stack->mount_count - 1].path,
                         stack->mounts[stack->mount_count - 1].path);
    }
    for (size_t i = stack->mount_count; i-- > 0 && result == 0;) {
        result =
            teardown_unmount(stack->mounts[i].path, stack->mounts[i].id, how->lazy, log, error);
    }
    return result;
}

static int detach_loops(const struct stack *stack, struct error *error)
{
    for (size_t i = 0; i < stack->loop_count; i++) {
        int result = loop_detach(stack->loops[i].name);

        /* One that cleared itself with its last mount is gone already, or somebody else's by now.
         */
        if (result < 0 && result != -ENXIO && result != -ENOENT && !stack->loops[i].autoclear) {
            return error_set(error, -result, "%s: cannot be detached: %s", stack->loops[i].name,
                             strerror(-result));
        }
    }
    return 0;
}

struct still {
    const struct stack *stack;
    char *path; /* of the first that is found, where it is wanted */
    size_t size;
};

static int is_of_stack(void *context, const struct mount_entry *entry)
{
    const struct still *still = context;
    const struct stack *stack = still->stack;

    if (major(entry->device) != stack->daemon.major ||
        minor(entry->device) != stack->daemon.minor || strcmp(entry->source, stack->source) != 0) {
        return 0;
    }
    if (still->path != NULL) {
        snprintf(still->path, still->size, "%s", entry->path);
    }
    return 1;
}

/*
 * Whether the disk is still mounted somewhere, as by a bind mount. The number of its device alone
 * does not tell: the next mount of whatever has it as soon as this one is gone.
 */
static bool is_still_mounted_at(const struct stack *stack, char *path, size_t size)
{
    bool is_known = stack->source != NULL && stack->daemon.minor != 0;
    struct still still = {.stack = stack, .path = path, .size = size};

    return is_known && mounts_visit(is_of_stack, &still) == 1;
}

static bool is_still_mounted(const struct stack *stack)
{
    return is_still_mounted_at(stack, NULL, 0);
}

static int report_end(const struct stack *stack, const struct registry_record *end,
                      struct error *error)
{
    if (!end->has_ended) {
        return error_set(error, EIO,
                         "%s: its qcow2fs (process %ld) was killed: what was written last may be "
                         "lost; look at the image with qcow2ctl check",
                         stack->daemon.image, (long)stack->daemon.pid);
    }
    if (end->status != 0) {
        return error_set(error, EIO, "%s",
                         end->message[0] != '\0' ? end->message
                                                 : "qcow2fs ended with an error; the system's log "
                                                   "says which");
    }
    return 0;
}

/* Whether the kernel has a FUSE connection of that number. Where that cannot be told, it has not.
 */
static bool has_connection(uint64_t minor_number)
{
    char path[64];

    snprintf(path, sizeof(path), "/sys/fs/fuse/connections/%u", (unsigned)minor_number);
    return minor_number != 0 && access(path, F_OK) == 0;
}

struct users {
    const struct stack *stack;
    char *text;
    size_t size;
};

static int add_loop_users(void *context, const struct loop_status *loop)
{
    const struct users *users = context;

    if (!loop->answers || loop->file_device != makedev((unsigned)users->stack->daemon.major,
                                                       (unsigned)users->stack->daemon.minor)) {
        return 0;
    }
    stack_loop_users(loop, users->text, users->size);
    return users->text[0] != '\0';
}

/* Of its disk, or of a loop device that is still its own. */
static void find_users(const struct stack *stack, char *text, size_t size)
{
    struct users users = {.stack = stack, .text = text, .size = size};

    stack_device_users(stack, text, size);
    if (text[0] == '\0' && stack->daemon.minor != 0) {
        (void)loop_visit(add_loop_users, &users);
    }
}

/*
 * What is unmounted, and has a file open still, or is mounted where it is not seen, has a daemon
 * that serves it on.
 */
static bool tell_what_keeps_it(const struct stack *stack, struct log *log)
{
    const char *image = stack->daemon.image;
    char users[256];

    if (is_stopped(stack)) {
        say_stopped(stack, log); /* once more, where it was at the start */
        return true;
    }
    find_users(stack, users, sizeof(users));
    if (users[0] == '\0' && !has_connection(stack->daemon.minor)) {
        return false;
    }
    log_line(
        log, LOG_LEVEL_WARNING, "%s: is still in use by %s; waiting for the end of that", image,
        users[0] != '\0' ? users
                         : "a program that has a file of it open, or has it mounted elsewhere");
    return true;
}

/* As registry_wait(), with a line on what takes so long. */
static int wait_and_tell(const struct stack *stack, int limit, struct log *log,
                         struct registry_record *end)
{
    static const int steps[] = {TOLD_MILLISECONDS, SILENT_MILLISECONDS};
    int result = -ETIMEDOUT;
    bool is_told = false;

    for (size_t i = 0; i < 2 && result == -ETIMEDOUT && !is_told; i++) {
        int step = limit >= 0 && limit < steps[i] ? limit : steps[i];

        result = registry_wait(stack->descriptor, step, end);
        limit -= limit >= 0 ? step : 0;
        if (result != -ETIMEDOUT || limit == 0) {
            return result;
        }
        is_told = tell_what_keeps_it(stack, log);
    }
    if (!is_told) {
        log_line(log, LOG_LEVEL_WARNING,
                 "%s: its qcow2fs (process %ld) has not ended yet; still waiting",
                 stack->daemon.image, (long)stack->daemon.pid);
    }
    return registry_wait(stack->descriptor, limit, end);
}

static int wait_for_end(const struct stack *stack, const struct teardown *how, struct log *log,
                        struct error *error)
{
    static const int signals[] = {SIGTERM, SIGKILL};
    struct registry_record end;
    int limit = how->kill_after > 0 ? how->kill_after * 1000 : -1;
    int result = wait_and_tell(stack, limit, log, &end);

    for (size_t i = 0; result == -ETIMEDOUT && i < 2; i++) {
        log_line(log, LOG_LEVEL_WARNING, "%s: its qcow2fs (process %ld) has not ended in %d s: %s",
                 stack->daemon.image, (long)stack->daemon.pid, how->kill_after,
                 i == 0 ? "it is asked to" : "it is killed");
        if (stack->process >= 0) {
            (void)pidfd_send_signal(stack->process, signals[i], NULL, 0);
        }
        result = registry_wait(stack->descriptor, limit, &end);
    }
    if (result != 0) {
        return error_set(error, -result,
                         "%s: the end of its qcow2fs (process %ld) cannot be waited "
                         "for: %s",
                         stack->daemon.image, (long)stack->daemon.pid, strerror(-result));
    }
    result = report_end(stack, &end, error);
    registry_release(&end);
    return result;
}

/*
 * Whether the kernel has still the file system of which the last mount that we see is gone: mounted
 * in another mount namespace, say. Where the number is another's by now, the daemon soon ends.
 */
static bool is_kept_elsewhere(const struct stack *stack)
{
    struct registry_record end;

    if (is_still_mounted(stack)) {
        return true;
    }
    if (!has_connection(stack->daemon.minor)) {
        return false;
    }
    if (registry_wait(stack->descriptor, KEPT_MILLISECONDS, &end) == 0) {
        registry_release(&end);
        return false;
    }
    return has_connection(stack->daemon.minor);
}

/* As umount(8) does it, but that it returns when the image is final. */
static int unmount_point(const struct stack *stack, const struct teardown *how, struct log *log,
                         struct error *error)
{
    int result =
        teardown_unmount(stack->daemon.mount_point, stack->mount_id, how->lazy, log, error);

    if (result != 0 || how->lazy) {
        return result;
    }
    if (is_kept_elsewhere(stack)) {
        log_line(log, LOG_LEVEL_WARNING,
                 "%s: is still mounted elsewhere, so its qcow2fs goes on; the image is final when "
                 "that has ended (qcow2ctl list)",
                 stack->daemon.image);
        return 0;
    }
    return wait_for_end(stack, how, log, error);
}

int teardown_stack(const struct stack *stack, const struct teardown *how, struct log *log,
                   struct error *error)
{
    char path[PATH_MAX];
    int result;

    /* It would be waited for without end. */
    if (how->kill_after == 0 && stack_is_elsewhere(stack, path, sizeof(path))) {
        return stack_refuse_elsewhere(stack, stack->daemon.image, path, error);
    }
    if (is_stopped(stack) && !how->lazy) {
        say_stopped(stack, log);
    }
    if (how->only_mount_point) {
        return unmount_point(stack, how, log, error);
    }
    result = how->lazy || how->kill_after > 0 ? 0 : refuse_open_loops(stack, error);
    if (result == 0) {
        result = unmount_all(stack, how, log, error);
    }
    if (result == 0) {
        result = detach_loops(stack, error);
    }
    if (result == 0 && stack->daemon.mount_point[0] != '\0' && is_still_mounted(stack)) {
        result =
            teardown_unmount(stack->daemon.mount_point, stack->mount_id, how->lazy, log, error);
    }
    if (result != 0 || how->lazy) {
        return result;
    }
    if (is_still_mounted_at(stack, path, sizeof(path))) {
        return error_set(error, EBUSY, "%s: is still mounted at %s; unmount that, too (umount %s)",
                         stack->daemon.image, path, path);
    }
    return wait_for_end(stack, how, log, error);
}
