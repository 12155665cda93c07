/* SPDX-License-Identifier: MIT */
/*
 * Which daemon a path belongs to. A file is the image of one that has this very file open, whatever
 * the two are called: the name under which it was mounted may be another file's by now, or that of
 * another file where the daemon has mounts of its own. The name tells only where there is no file.
 */
#include "config.h"

#include "ctl/stack_internal.h"

#include "store/nbd.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

/* --- what is asked for ------------------------------------------------------------------------ */

struct wanted {
    char *path;  /* absolute */
    bool exists; /* there is something, with this status: */
    struct statx status;
    dev_t device;   /* of the files there; 0: unknown */
    unsigned mount; /* of what is seen there; 0: unknown */
    dev_t node;     /* of a device node; 0 */
};

/* The absolute path of what is not there, or not any more; NULL: its directory is neither. */
static char *absolute_of_missing(const char *path)
{
    const char *slash = strrchr(path, '/'), *name = slash != NULL ? slash + 1 : path;
    char *above = slash != NULL ? strndup(path, (size_t)(name - path)) : strdup(".");
    char *directory = above != NULL ? realpath(above, NULL) : NULL, *absolute = NULL;

    if (directory != NULL &&
        asprintf(&absolute, "%s/%s", strcmp(directory, "/") != 0 ? directory : "", name) < 0) {
        absolute = NULL;
    }
    free(above);
    free(directory);
    return absolute;
}

/* As a daemon has it in its record; to be freed. */
static char *absolute_of(const char *path)
{
    char *absolute = realpath(path, NULL);

    if (absolute == NULL && !store_nbd_is_address(path)) {
        absolute = absolute_of_missing(path);
    }
    return absolute != NULL ? absolute : strdup(path);
}

/* 0 or -ENOMEM; release() it. */
static int look_at(const char *path, struct wanted *wanted)
{
    const struct statx *status = &wanted->status;
    struct statx place;

    *wanted = (struct wanted){.path = absolute_of(path)};
    if (wanted->path == NULL) {
        return -ENOMEM;
    }
    wanted->exists =
        statx(AT_FDCWD, path, AT_STATX_DONT_SYNC, STATX_TYPE | STATX_INO, &wanted->status) == 0;
    /* Of a mount that lets nobody else in this is all that is told. */
    if (statx(AT_FDCWD, path, AT_STATX_DONT_SYNC, 0, &place) == 0) {
        wanted->device = makedev(place.stx_dev_major, place.stx_dev_minor);
        wanted->mount = (place.stx_mask & STATX_MNT_ID) != 0 ? (unsigned)place.stx_mnt_id : 0;
    }
    if (wanted->exists && S_ISBLK(status->stx_mode)) {
        wanted->node = makedev(status->stx_rdev_major, status->stx_rdev_minor);
    }
    return 0;
}

static void release(struct wanted *wanted)
{
    free(wanted->path);
}

/* --- whose it is ------------------------------------------------------------------------------ */

enum hit {
    HIT_NONE,
    HIT_COVERED, /* it is mounted there, and something else over it */
    HIT_IMAGE,
    HIT_PLACE, /* where it is mounted, or what is mounted from it is, or a device on it */
};

static bool is_image(const struct stack *stack, const struct wanted *wanted)
{
    const struct registry_record *daemon = &stack->daemon;

    if (wanted->exists && registry_knows_image(daemon)) {
        return registry_is_image(daemon, &wanted->status);
    }
    return !daemon->is_image_doubted && strcmp(wanted->path, daemon->image) == 0;
}

static enum hit place_hit(const struct stack *stack, const struct wanted *wanted)
{
    if (wanted->device != 0 && wanted->device == stack_device(stack)) {
        return HIT_PLACE;
    }
    for (size_t i = 0; i < stack->loop_count; i++) {
        if (wanted->node != 0 && loop_has_device(&stack->loops[i], wanted->node)) {
            return HIT_PLACE;
        }
    }
    return HIT_NONE;
}

/* What is mounted at `path` with that `id`; 0: nobody knows which. */
static enum hit path_hit(const char *path, unsigned id, const struct wanted *wanted)
{
    if (strcmp(wanted->path, path) != 0) {
        return HIT_NONE;
    }
    return id == 0 || wanted->mount == 0 || id == wanted->mount ? HIT_PLACE : HIT_COVERED;
}

/* An image that is mounted over itself is a place. */
static enum hit hit_of(const struct stack *stack, const struct wanted *wanted)
{
    enum hit best = place_hit(stack, wanted);
    enum hit hit = path_hit(stack->daemon.mount_point, stack->mount_id, wanted);

    best = hit > best ? hit : best;
    for (size_t i = 0; i < stack->mount_count; i++) {
        hit = path_hit(stack->mounts[i].path, stack->mounts[i].id, wanted);
        best = hit > best ? hit : best;
    }
    return best < HIT_IMAGE && is_image(stack, wanted) ? HIT_IMAGE : best;
}

bool stack_has_image(const struct stack *stack, const char *path)
{
    struct wanted wanted;
    bool has = look_at(path, &wanted) == 0 && is_image(stack, &wanted);

    release(&wanted);
    return has;
}

int stack_check_image(const struct stack *stack, struct error *error)
{
    const struct registry_record *daemon = &stack->daemon;

    if (strcmp(daemon->image, daemon->mount_point) == 0) {
        return error_set(error, ESTALE,
                         "%s: is mounted over itself, and cannot be read there as an image; "
                         "unmount it first: qcow2ctl umount %s",
                         daemon->image, daemon->image);
    }
    return !registry_knows_image(daemon) || stack_has_image(stack, daemon->image)
               ? 0
               : error_set(error, ESTALE,
                           "%s: is not the image any more that was mounted by that name (process "
                           "%ld); name that image by the name that it has now",
                           daemon->image, (long)daemon->pid);
}

/* --- which one -------------------------------------------------------------------------------- */

static int refuse_several(const char *path, size_t hits, struct error *error)
{
    return error_set(error, ENOTUNIQ,
                     "%s: is mounted %zu times; name the mount point or the device that is meant "
                     "(qcow2ctl list)",
                     path, hits);
}

static int refuse_none(const struct stacks *stacks, const char *path, const struct wanted *wanted,
                       bool is_covered, struct error *error)
{
    char place[PATH_MAX];

    if (is_covered) {
        return error_set(error, ESTALE,
                         "%s: something else is mounted there by now; see findmnt, and unmount "
                         "that first",
                         path);
    }
    for (size_t i = 0; i < stacks->count; i++) {
        if (strcmp(stacks->list[i].was_at, wanted->path) == 0 &&
            stack_is_elsewhere(&stacks->list[i], place, sizeof(place))) {
            return stack_refuse_elsewhere(&stacks->list[i], path, place, error);
        }
    }
    if (stacks->silent_count > 0) {
        return error_set(error, ENOENT,
                         "%s: no running qcow2fs is known to have to do with it, but whoever "
                         "serves the file of %s does not answer; continue or end that daemon, and "
                         "try again",
                         path, stacks->silent);
    }
    return error_set(error, ENOENT,
                     "%s: no running qcow2fs has to do with it; qcow2ctl list shows them", path);
}

struct stack *stacks_choose(struct stacks *stacks, const char *path, struct error *error)
{
    struct stack *found = NULL;
    struct wanted wanted;
    bool is_covered = false;
    size_t hits = 0;

    if (look_at(path, &wanted) != 0) {
        error_set(error, ENOMEM, "out of memory");
        return NULL;
    }
    for (size_t i = 0; i < stacks->count; i++) {
        enum hit hit = hit_of(&stacks->list[i], &wanted);

        is_covered = is_covered || hit == HIT_COVERED;
        if (hit >= HIT_IMAGE) {
            found = &stacks->list[i];
            hits++;
        }
    }
    if (hits == 0) {
        (void)refuse_none(stacks, path, &wanted, is_covered, error);
    } else if (hits > 1) {
        (void)refuse_several(path, hits, error);
    }
    release(&wanted);
    return hits == 1 ? found : NULL;
}

/* A file that another user calls his image, and may be anybody's: nothing is done to that. */
static bool has_doubted_file(const struct registry_record *daemon)
{
    return daemon->is_image_doubted && !store_nbd_is_address(daemon->image);
}

static bool writes_to_image(const struct registry_record *daemon)
{
    return daemon->writable && !daemon->overlay && !has_doubted_file(daemon);
}

/* It may have another name than when it was mounted: who is told of it, or opens it, takes this. */
static int name_image(struct stack *stack, const struct wanted *wanted)
{
    char *name = strdup(wanted->path);

    if (name == NULL) {
        return -ENOMEM;
    }
    free(stack->daemon.image);
    stack->daemon.image = name;
    return 0;
}

int stacks_find_writer(struct stacks *stacks, const char *path, struct stack **found,
                       struct error *error)
{
    struct wanted wanted;
    size_t hits = 0;
    int r = look_at(path, &wanted);

    *found = NULL;
    for (size_t i = 0; i < stacks->count && r == 0; i++) {
        struct stack *stack = &stacks->list[i];
        enum hit hit = writes_to_image(&stack->daemon) ? hit_of(stack, &wanted) : HIT_NONE;

        if (hit == HIT_IMAGE) {
            r = name_image(stack, &wanted);
        }
        if (hit >= HIT_IMAGE) {
            *found = stack;
            hits++;
        }
    }
    release(&wanted);
    if (r == 0 && hits <= 1) {
        return 0;
    }
    *found = NULL;
    return r != 0 ? error_set(error, -r, "out of memory") : refuse_several(path, hits, error);
}

int stacks_refuse_reader(const struct stacks *stacks, const char *path, struct error *error)
{
    struct wanted wanted;
    int result = look_at(path, &wanted) == 0 ? 0 : error_set(error, ENOMEM, "out of memory");

    for (size_t i = 0; i < stacks->count && result == 0; i++) {
        const struct registry_record *daemon = &stacks->list[i].daemon;

        if (hit_of(&stacks->list[i], &wanted) == HIT_PLACE) {
            result = error_set(error, EROFS,
                               "%s: %s is mounted there %s, and is not written; unmount it first: "
                               "qcow2ctl umount %s",
                               path, daemon->image,
                               daemon->overlay ? "with an overlay" : "read-only", path);
        }
    }
    release(&wanted);
    return result;
}
