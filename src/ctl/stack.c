/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "ctl/stack_internal.h"

#include "util/mounts.h"
#include "util/process.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define ROOM 16 /* descriptors, more than the looks below take at a time */

/* --- daemons ------------------------------------------------------------------------------ */

void *stack_append(void **list, size_t *count, size_t size)
{
    char *more = realloc(*list, (*count + 1) * size);

    if (more == NULL) {
        return NULL;
    }
    *list = more;
    return memset(more + (*count)++ * size, 0, size);
}

/* As the directory is in which `qcow2ctl mount` made it. The server is not asked: it may be busy.
 */
static bool is_gone(const char *mount_point)
{
    struct statx status;

    return statx(AT_FDCWD, mount_point, AT_STATX_DONT_SYNC, 0, &status) != 0 && errno == ENOENT;
}

dev_t stack_device(const struct stack *stack)
{
    return makedev((unsigned)stack->daemon.major, (unsigned)stack->daemon.minor);
}

/* When the daemon whose file in the registry this is wrote it: as it was mounted. */
static struct timespec beginning_of(const struct stack *stack)
{
    struct stat status;

    return stack->descriptor >= 0 && fstat(stack->descriptor, &status) == 0 ? status.st_mtim
                                                                            : (struct timespec){0};
}

static int compare_devices(const void *one, const void *other)
{
    dev_t a = stack_device(*(struct stack *const *)one),
          b = stack_device(*(struct stack *const *)other);

    return a < b ? -1 : a > b;
}

/*
 * A mount's device has a number that the next one gets when it is gone, while its daemon may still
 * be at work, writing the last of it: of two that have the same number it is the younger one's.
 */
static struct stack *younger(struct stack *one, struct stack *other)
{
    struct timespec a = beginning_of(one), b = beginning_of(other);
    bool first = a.tv_sec > b.tv_sec || (a.tv_sec == b.tv_sec && a.tv_nsec >= b.tv_nsec);
    struct stack *older = first ? other : one;

    older->daemon.major = 0;
    older->daemon.minor = 0;
    older->is_unmounted = true;
    return first ? one : other;
}

/* All are there: so that whose a device is needs no look at each of them. */
static int sort_by_device(struct stacks *stacks)
{
    size_t kept = 0;

    stacks->by_device = calloc(stacks->count, sizeof(struct stack *));
    if (stacks->by_device == NULL) {
        return -ENOMEM;
    }
    for (size_t i = 0; i < stacks->count; i++) {
        if (stack_device(&stacks->list[i]) != 0) {
            stacks->by_device[stacks->device_count++] = &stacks->list[i];
        }
    }
    qsort(stacks->by_device, stacks->device_count, sizeof(struct stack *), compare_devices);
    for (size_t i = 0; i < stacks->device_count; i++) {
        struct stack *each = stacks->by_device[i],
                     *last = kept > 0 ? stacks->by_device[kept - 1] : NULL;

        if (last != NULL && stack_device(last) == stack_device(each)) {
            stacks->by_device[kept - 1] = younger(each, last);
        } else {
            stacks->by_device[kept++] = each;
        }
    }
    stacks->device_count = kept;
    return 0;
}

struct stack *stacks_of_device(const struct stacks *stacks, dev_t device)
{
    struct stack wanted = {.daemon = {.major = major(device), .minor = minor(device)}};
    struct stack *key = &wanted, **found;

    if (device == 0 || stacks->device_count == 0) {
        return NULL;
    }
    found = bsearch(&key, stacks->by_device, stacks->device_count, sizeof(struct stack *),
                    compare_devices);
    return found != NULL ? *found : NULL;
}

static int add_daemon(void *context, const struct registry_record *record, int descriptor)
{
    struct stacks *stacks = context;
    struct stack *stack = stack_append((void **)&stacks->list, &stacks->count, sizeof(*stack));
    const char *mount_point = record->mount_point;

    if (stack == NULL) {
        return -ENOMEM;
    }
    stack->daemon = *record;
    stack->daemon.image = strdup(record->image);
    stack->daemon.message = NULL;
    /* Of another user's only what is mounted just now is told at all. */
    if (record->user == geteuid() && is_gone(record->mount_point)) {
        mount_point = "";
    }
    stack->daemon.mount_point = strdup(mount_point);
    stack->was_at = strdup(record->mount_point);
    stack->descriptor = fcntl(descriptor, F_DUPFD_CLOEXEC, 3);
    stack->process = record->process >= 0 ? fcntl(record->process, F_DUPFD_CLOEXEC, 3) : -1;
    if (stack->daemon.image == NULL || stack->daemon.mount_point == NULL || stack->was_at == NULL) {
        return -ENOMEM;
    }
    return stack->descriptor < 0 || (record->process >= 0 && stack->process < 0) ? -EMFILE : 0;
}

/* --- loop devices --------------------------------------------------------------------------- */

static int add_loop(void *context, const struct loop_status *status)
{
    struct stacks *stacks = context;
    struct stack *stack;
    struct loop_status *added;

    if (!status->answers) {
        stacks->silent_count++;
        memcpy(stacks->silent, status->name, sizeof(stacks->silent));
        return 0;
    }
    stack = stacks_of_device(stacks, status->file_device);
    if (stack == NULL) {
        return 0;
    }
    added = stack_append((void **)&stack->loops, &stack->loop_count, sizeof(*added));
    if (added == NULL) {
        return -ENOMEM;
    }
    *added = *status;
    return 0;
}

/* --- mounts ---------------------------------------------------------------------------------- */

int stack_add_mount(struct stack *stack, enum stack_kind kind, const char *path, unsigned id,
                    pid_t pid)
{
    struct stack_mount *mount =
        stack_append((void **)&stack->mounts, &stack->mount_count, sizeof(*mount));

    if (mount == NULL) {
        return -ENOMEM;
    }
    mount->kind = kind;
    mount->id = id;
    mount->pid = pid;
    mount->path = strdup(path);
    return mount->path == NULL ? -ENOMEM : 0;
}

/*
 * Where a raw disk is. The daemon says where that was: a directory above may have another name by
 * now, and what is found at the old one may be anything.
 */
static int note_place(struct stack *raw, const struct mount_entry *entry)
{
    if (strcmp(entry->path, raw->daemon.mount_point) == 0) {
        raw->mount_id = entry->id;
    } else if (raw->other_place == NULL) {
        raw->other_id = entry->id;
        raw->other_place = strdup(entry->path);
        return raw->other_place != NULL ? 0 : -ENOMEM;
    }
    return 0;
}

/*
 * All mounts were seen: what is not where it was is where its device is first, or else nowhere, and
 * what is found at its place is another's.
 */
static void follow_moved(struct stacks *stacks)
{
    for (size_t i = 0; i < stacks->count; i++) {
        struct stack *stack = &stacks->list[i];

        if (stack->mount_id == 0 && stack->other_place != NULL) {
            free(stack->daemon.mount_point);
            stack->daemon.mount_point = stack->other_place;
            stack->mount_id = stack->other_id;
            stack->other_place = NULL;
        }
        if (stack_device(stack) != 0 && stack->mount_id == 0) {
            stack->is_unmounted = true;
        }
        if (stack->is_unmounted) {
            stack->daemon.mount_point[0] = '\0';
        }
    }
}

static int match_mount(void *context, const struct mount_entry *entry)
{
    struct stacks *stacks = context;
    struct stack *raw = stacks_of_device(stacks, entry->device);
    dev_t device = mounts_source_device(entry);

    if (raw != NULL && raw->source == NULL) {
        raw->source = strdup(entry->source);
        if (raw->source == NULL) {
            return -ENOMEM;
        }
    }
    if (raw != NULL && note_place(raw, entry) != 0) {
        return -ENOMEM;
    }
    /* It may be both: of an image that lies on another one's disk. */
    for (size_t i = 0; i < stacks->count && major(device) != 0; i++) {
        struct stack *stack = &stacks->list[i];

        for (size_t k = 0; k < stack->loop_count; k++) {
            if (loop_has_device(&stack->loops[k], device)) {
                return stack_add_mount(stack, STACK_MOUNT, entry->path, entry->id, 0);
            }
        }
    }
    return 0;
}

struct elsewhere {
    const struct stack *stack;
    char *path;
    size_t size;
};

static int is_elsewhere(void *context, const struct mount_entry *entry)
{
    const struct elsewhere *elsewhere = context;

    if (entry->device != stack_device(elsewhere->stack) ||
        strcmp(entry->type, "fuse.qcow2fs") != 0) {
        return 0;
    }
    snprintf(elsewhere->path, elsewhere->size, "%s", entry->path);
    return 1;
}

bool stack_is_elsewhere(const struct stack *stack, char *path, size_t size)
{
    struct elsewhere elsewhere = {.stack = stack, .path = path, .size = size};

    return stack->is_unmounted && stack_device(stack) != 0 && stack->process >= 0 &&
           mounts_visit_of(stack->daemon.pid, is_elsewhere, &elsewhere) == 1;
}

int stack_refuse_elsewhere(const struct stack *stack, const char *named, const char *path,
                           struct error *error)
{
    return error_set(error, EBUSY,
                     "%s: is mounted in another mount namespace, at %s; unmount it there: nsenter "
                     "--mount --target %ld umount %s",
                     named, path, (long)stack->daemon.pid, path);
}

/* --- all ------------------------------------------------------------------------------------- */

int stacks_find(struct stacks *stacks)
{
    int result;

    memset(stacks, 0, sizeof(*stacks));
    result = registry_visit(add_daemon, stacks);
    if (result == 0 && stacks->count > 0) {
        result = sort_by_device(stacks);
    }
    /* What is looked at from here on and cannot be opened is somebody else's, or has ended. */
    if (result == 0 && stacks->count > 0) {
        result = process_find_room(ROOM);
    }
    if (result == 0 && stacks->count > 0) {
        result = loop_visit(add_loop, stacks);
    }
    if (result == 0 && stacks->count > 0) {
        result = mounts_visit(match_mount, stacks);
        follow_moved(stacks);
    }
    if (result == 0 && stacks->count > 0) {
        result = stacks_add_programs(stacks);
    }
    if (result < 0) {
        stacks_release(stacks);
    }
    return result;
}

void stacks_release(struct stacks *stacks)
{
    for (size_t i = 0; i < stacks->count; i++) {
        struct stack *stack = &stacks->list[i];

        for (size_t k = 0; k < stack->mount_count; k++) {
            free(stack->mounts[k].path);
        }
        free(stack->mounts);
        free(stack->loops);
        free(stack->source);
        free(stack->other_place);
        free(stack->was_at);
        if (stack->descriptor >= 0) {
            close(stack->descriptor);
        }
        if (stack->process >= 0) {
            close(stack->process);
        }
        registry_release(&stack->daemon);
    }
    free(stacks->list);
    free(stacks->by_device);
    memset(stacks, 0, sizeof(*stacks));
}
