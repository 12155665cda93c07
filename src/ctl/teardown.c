/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "ctl/teardown.h"

#include "ctl/run.h"
#include "util/mounts.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define KEPT_MILLISECONDS 1000 /* in which a daemon ends that nobody keeps from it */

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

/* Whether what `name` is in the directory belongs to that mount. The server is not asked. */
static bool is_of_mount(int directory, const char *name, unsigned id)
{
    struct statx status;

    return statx(directory, name, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC, 0,
                 &status) == 0 &&
           ((status.stx_mask & STATX_MNT_ID) == 0 || status.stx_mnt_id == id);
}

/*
 * As umount2(2), of that mount alone. Whose a directory above is may put a link in its place since
 * the path was looked at, which would lead to anything: so the last one is held, and what is in it
 * is looked at again. The rest of it, a name in a directory that is held, nobody moves who may not
 * unmount it. 0 or a negative errno; -ESTALE: it is another one by now.
 */
static int unmount_exactly(const char *path, unsigned id, int flags)
{
    const char *slash = strrchr(path, '/');
    char *place = NULL, *above = NULL;
    int directory = -1, result = -ENOMEM;

    if (id == 0 || slash == NULL || slash[1] == '\0') {
        return umount2(path, flags) == 0 ? 0 : -errno;
    }
    above = strndup(path, (size_t)(slash - path) + 1);
    if (above != NULL) {
        directory = open(above, O_PATH | O_DIRECTORY | O_CLOEXEC);
        result = directory < 0 ? -errno : 0;
    }
    if (result == 0 && asprintf(&place, "/proc/self/fd/%d%s", directory, slash) < 0) {
        place = NULL;
        result = -ENOMEM;
    }
    if (result == 0 && !is_of_mount(directory, slash + 1, id)) {
        result = -ESTALE;
    }
    if (result == 0 && umount2(place, flags) != 0) {
        result = -errno;
    }
    if (directory >= 0) {
        close(directory);
    }
    free(place);
    free(above);
    return result;
}

int teardown_unmount(const char *path, unsigned id, bool lazy, struct log *log, struct error *error)
{
    const char *const argv[] = {"fusermount3", "-u", lazy ? "-z" : "--", path, NULL};
    int code;

    code = -unmount_exactly(path, id, UMOUNT_NOFOLLOW | (lazy ? MNT_DETACH : 0));
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

static int is_of_stack(void *context, const struct mount_entry *entry)
{
    const struct stack *stack = context;

    return major(entry->device) == stack->daemon.major &&
           minor(entry->device) == stack->daemon.minor && strcmp(entry->source, stack->source) == 0;
}

/*
 * Whether the disk is still mounted somewhere, as by a bind mount. The number of its device alone
 * does not tell: the next mount of whatever has it as soon as this one is gone.
 */
static bool is_still_mounted(const struct stack *stack)
{
    bool is_known = stack->source != NULL && stack->daemon.minor != 0;
    struct stack searched = *stack;

    return is_known && mounts_visit(is_of_stack, &searched) == 1;
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

static int wait_for_end(const struct stack *stack, const struct teardown *how, struct log *log,
                        struct error *error)
{
    static const int signals[] = {SIGTERM, SIGKILL};
    struct registry_record end;
    int limit = how->kill_after > 0 ? how->kill_after * 1000 : -1;
    int result = registry_wait(stack->descriptor, limit, &end);

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

/* Whether the kernel has a FUSE connection of that number. Where that cannot be told, it has not.
 */
static bool has_connection(uint64_t minor_number)
{
    char path[64];

    snprintf(path, sizeof(path), "/sys/fs/fuse/connections/%u", (unsigned)minor_number);
    return minor_number != 0 && access(path, F_OK) == 0;
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
    int result;

    if (how->only_mount_point) {
        return unmount_point(stack, how, log, error);
    }
    result = unmount_all(stack, how, log, error);
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
    if (is_still_mounted(stack)) {
        return error_set(error, EBUSY,
                         "%s: is still mounted elsewhere (a bind mount); unmount that, too",
                         stack->daemon.image);
    }
    return wait_for_end(stack, how, log, error);
}
