/* SPDX-License-Identifier: MIT */
/* FUSE programs that have a raw disk open, and what they have mounted. */
#include "config.h"

#include "ctl/stack_internal.h"

#include "util/mounts.h"
#include "util/process.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

struct fuse_mount {
    char *path;
    size_t number; /* in the order of mounting */
    unsigned id;
    dev_t device;
    int64_t user;  /* who made it */
    bool is_named; /* by the arguments of a process */
};

/* Mounts of the kind FUSE that are not our own; sorted by their paths, when all are there. */
struct fuse_mounts {
    struct fuse_mount *list;
    size_t count;
};

static int collect_fuse_mount(void *context, const struct mount_entry *entry)
{
    struct fuse_mounts *mounts = context;
    struct fuse_mount *mount;

    if (strncmp(entry->type, "fuse", 4) != 0 || strcmp(entry->type, "fuse.qcow2fs") == 0) {
        return 0;
    }
    mount = stack_append((void **)&mounts->list, &mounts->count, sizeof(*mount));
    if (mount == NULL) {
        return -ENOMEM;
    }
    mount->number = mounts->count;
    mount->id = entry->id;
    mount->device = entry->device;
    mount->user = entry->user;
    mount->path = strdup(entry->path);
    return mount->path != NULL ? 0 : -ENOMEM;
}

static int compare_paths(const void *one, const void *other)
{
    const struct fuse_mount *a = one, *b = other;

    return strcmp(a->path, b->path);
}

static int compare_mounts(const void *one, const void *other)
{
    const struct fuse_mount *a = one, *b = other;
    int order = compare_paths(one, other);

    return order != 0 ? order : a->number < b->number ? -1 : a->number > b->number;
}

/* Of those at the same path the last one stays: it is what is seen there. */
static void sort_fuse_mounts(struct fuse_mounts *mounts)
{
    size_t kept = 0;

    if (mounts->count > 0) {
        qsort(mounts->list, mounts->count, sizeof(*mounts->list), compare_mounts);
    }
    for (size_t i = 0; i < mounts->count; i++) {
        if (kept > 0 && compare_paths(&mounts->list[kept - 1], &mounts->list[i]) == 0) {
            free(mounts->list[--kept].path);
        }
        mounts->list[kept++] = mounts->list[i];
    }
    mounts->count = kept;
}

static void release_fuse_mounts(struct fuse_mounts *mounts)
{
    for (size_t i = 0; i < mounts->count; i++) {
        free(mounts->list[i].path);
    }
    free(mounts->list);
}

/* The last of the mounts that an argument of the process names; NULL: none does. */
static struct fuse_mount *mount_of_process(const struct fuse_mounts *mounts, pid_t pid)
{
    char path[48], arguments[16384];
    struct fuse_mount *last = NULL;
    ssize_t length;
    int file;

    snprintf(path, sizeof(path), "/proc/%ld/cmdline", (long)pid);
    file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) {
        return NULL;
    }
    length = read(file, arguments, sizeof(arguments) - 1);
    close(file);
    if (length <= 0) {
        return NULL;
    }
    arguments[length] = '\0';
    for (char *at = arguments; at < arguments + length; at += strlen(at) + 1) {
        const struct fuse_mount wanted = {.path = at};
        struct fuse_mount *found =
            bsearch(&wanted, mounts->list, mounts->count, sizeof(wanted), compare_paths);

        if (found != NULL && (last == NULL || found->number > last->number)) {
            last = found;
        }
    }
    return last;
}

/* Which of the daemons' disks the process has open; NULL: none. */
static struct stack *stack_of_process(struct stacks *stacks, pid_t pid)
{
    char path[48];
    struct stack *found = NULL;
    struct dirent *item;
    DIR *stream;

    snprintf(path, sizeof(path), "/proc/%ld/fd", (long)pid);
    stream = opendir(path);
    while (stream != NULL && found == NULL && (item = readdir(stream)) != NULL) {
        struct statx status;

        /* Without asking the server, which may be busy, or gone. */
        if (item->d_name[0] == '.' ||
            statx(dirfd(stream), item->d_name, AT_STATX_DONT_SYNC, 0, &status) != 0) {
            continue;
        }
        found = stacks_of_device(stacks, makedev(status.stx_dev_major, status.stx_dev_minor));
    }
    if (stream != NULL) {
        closedir(stream);
    }
    return found;
}

/* Anybody can give a program of his own arguments that name what another one has mounted. */
static bool may_be_of(const struct fuse_mount *mount, pid_t pid)
{
    uid_t user;

    return process_real_user(pid, &user) && (user == geteuid() || mount->user == (int64_t)user);
}

/* Whose arguments name what they have mounted. */
static int add_named(struct stacks *stacks, struct fuse_mounts *mounts, pid_t pid)
{
    struct fuse_mount *mount = mount_of_process(mounts, pid);
    struct stack *stack;

    if (mount == NULL) {
        return 0;
    }
    mount->is_named = true;
    stack = stack_of_process(stacks, pid);
    return stack != NULL && may_be_of(mount, pid)
               ? stack_add_mount(stack, STACK_FUSE, mount->path, mount->id, pid)
               : 0;
}

struct served {
    const struct fuse_mounts *mounts;
    struct fuse_mount *found;
};

static bool find_unnamed(void *context, unsigned number)
{
    struct served *served = context;

    for (size_t i = 0; i < served->mounts->count && served->found == NULL; i++) {
        struct fuse_mount *mount = &served->mounts->list[i];

        if (!mount->is_named && mount->device == makedev(0, number)) {
            served->found = mount;
        }
    }
    return served->found != NULL;
}

/* What the process serves, of that which nobody's arguments name; or NULL. */
static struct fuse_mount *mount_of_connection(const struct fuse_mounts *mounts, pid_t pid)
{
    struct served served = {.mounts = mounts};

    (void)process_visit_connections(pid, find_unnamed, &served);
    return served.found;
}

/* A directory above may have another name by now: the kernel says which connection is whose. */
static int add_unnamed(struct stacks *stacks, struct fuse_mounts *mounts, pid_t pid)
{
    struct stack *stack = stack_of_process(stacks, pid);
    struct fuse_mount *mount = stack != NULL ? mount_of_connection(mounts, pid) : NULL;

    return mount != NULL && may_be_of(mount, pid)
               ? stack_add_mount(stack, STACK_FUSE, mount->path, mount->id, pid)
               : 0;
}

static int visit_processes(struct stacks *stacks, struct fuse_mounts *mounts,
                           int (*each)(struct stacks *stacks, struct fuse_mounts *mounts,
                                       pid_t pid))
{
    DIR *stream = opendir("/proc");
    struct dirent *item;
    int result = 0;

    if (stream == NULL) {
        return -errno;
    }
    while (result == 0 && (item = readdir(stream)) != NULL) {
        pid_t pid = (pid_t)strtol(item->d_name, NULL, 10);

        if (pid > 0 && pid != getpid()) {
            result = each(stacks, mounts, pid);
        }
    }
    closedir(stream);
    return result;
}

static bool is_any_unnamed(const struct fuse_mounts *mounts)
{
    for (size_t i = 0; i < mounts->count; i++) {
        if (!mounts->list[i].is_named) {
            return true;
        }
    }
    return false;
}

int stacks_add_programs(struct stacks *stacks)
{
    struct fuse_mounts mounts = {0};
    int result = mounts_visit(collect_fuse_mount, &mounts);

    if (result == 0 && mounts.count > 0) {
        sort_fuse_mounts(&mounts);
        result = visit_processes(stacks, &mounts, add_named);
    }
    if (result == 0 && is_any_unnamed(&mounts)) {
        result = visit_processes(stacks, &mounts, add_unnamed);
    }
    release_fuse_mounts(&mounts);
    return result;
}
