/* SPDX-License-Identifier: MIT */
/*
 * The requests that make and remove names: mkdir, rmdir and rename in snapshots/, where they are
 * done to the snapshots of the disk. All others are refused.
 */
#include "config.h"

#define FUSE_USE_VERSION 312

#include "fuse/later.h"
#include "fuse/names.h"
#include "fuse/ops_internal.h"
#include "fuse/snapshots.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef RENAME_NOREPLACE
#define RENAME_NOREPLACE 1U
#endif

enum change {
    CHANGE_MAKE,
    CHANGE_REMOVE,
    CHANGE_RENAME,
};

struct changing {
    struct later_job job;
    struct filesystem *filesystem;
    fuse_req_t request;
    enum change change;
    uint64_t key; /* of the snapshot; not of a new one */
    char name[NAMES_MAX + 1];
};

/* --- doing it, in a thread of its own ------------------------------------------ */

static int make(struct changing *changing, struct error *error)
{
    struct stop stop;

    stop_init(&stop, &changing->filesystem->long_requests.ending);
    stop_ask(&stop, ops_is_interrupted, changing->request);
    return snapshots_make(changing->filesystem, changing->name, &stop, &changing->key, error);
}

static int change(struct changing *changing, struct error *error)
{
    switch (changing->change) {
    case CHANGE_MAKE:
        return make(changing, error);
    case CHANGE_REMOVE:
        return snapshots_remove(changing->filesystem, changing->key, error);
    case CHANGE_RENAME:
        return snapshots_rename(changing->filesystem, changing->key, changing->name, error);
    }
    return -EINVAL;
}

/* What has an errno that says all, and what comes of nothing but who asks, is not logged. */
static bool is_worth_a_line(int r)
{
    return r != -EEXIST && r != -EBUSY && r != -EINTR && r != -ENOENT && r != -EINVAL;
}

static void answer(const struct changing *changing, int r)
{
    struct filesystem *filesystem = changing->filesystem;
    struct fuse_entry_param entry;

    if (r == 0 && changing->change == CHANGE_MAKE) {
        r = ops_snapshot_entry(filesystem, changing->key, &entry);
        if (r == 0) {
            fuse_reply_entry(changing->request, &entry);
            return;
        }
    }
    if (r != 0) {
        return ops_fail(changing->request, r);
    }
    fuse_reply_err(changing->request, 0);
}

static void serve(struct later_job *job, bool ending)
{
    struct changing *changing = (struct changing *)job;
    struct error error = {0};
    int r = ending ? -EINTR : change(changing, &error);

    if (r != 0 && is_worth_a_line(r)) {
        log_limited(changing->filesystem->log, LOG_LEVEL_WARNING, "%s",
                    error.code != 0 ? error.text : strerror(-r));
    }
    answer(changing, r);
    free(changing);
}

static void ask(const struct changing *wanted)
{
    struct changing *copy = malloc(sizeof(*copy));

    if (copy == NULL) {
        return ops_fail(wanted->request, -ENOMEM);
    }
    *copy = *wanted;
    copy->job.serve = serve;
    later_do(copy->filesystem->changes, &copy->job);
}

/* --- the requests -------------------------------------------------------------- */

/* 0 where names in the directory can change at all. (To a read-only mount the kernel says EROFS.)
 */
static int check_directory(const struct filesystem *filesystem, fuse_ino_t inode)
{
    struct node node;

    if (!tree_makes_snapshots(filesystem->tree) || !tree_node(filesystem->tree, inode, &node) ||
        node.kind != NODE_SNAPSHOTS) {
        return -EPERM;
    }
    return 0;
}

/* What a snapshot is to be called that is shown as `name`; nothing is, so far. */
static int take_name(struct changing *changing, const char *name)
{
    uint64_t key;

    if (shown_find(changing->filesystem->tree->shown, name, &key)) {
        return -EEXIST;
    }
    return names_unquote(name, changing->name);
}

void op_mkdir(fuse_req_t request, fuse_ino_t parent, const char *name, mode_t mode)
{
    struct changing wanted = {
        .filesystem = ops_begin(request, REQUEST_MKDIR), .request = request, .change = CHANGE_MAKE};
    int r = check_directory(wanted.filesystem, parent);

    (void)mode;
    if (r == 0) {
        r = take_name(&wanted, name);
    }
    if (r != 0) {
        return ops_fail(request, r);
    }
    ask(&wanted);
}

void op_rmdir(fuse_req_t request, fuse_ino_t parent, const char *name)
{
    struct changing wanted = {.filesystem = ops_begin(request, REQUEST_RMDIR),
                              .request = request,
                              .change = CHANGE_REMOVE};
    int r = check_directory(wanted.filesystem, parent);

    if (r == 0 && !shown_find(wanted.filesystem->tree->shown, name, &wanted.key)) {
        r = -ENOENT;
    }
    if (r != 0) {
        return ops_fail(request, r);
    }
    ask(&wanted);
}

void op_rename(fuse_req_t request, fuse_ino_t parent, const char *name, fuse_ino_t new_parent,
               const char *new_name, unsigned flags)
{
    struct changing wanted = {.filesystem = ops_begin(request, REQUEST_RENAME),
                              .request = request,
                              .change = CHANGE_RENAME};
    int r = check_directory(wanted.filesystem, parent);

    if (r == 0) {
        r = check_directory(wanted.filesystem, new_parent);
    }
    if (r == 0 && (flags & ~RENAME_NOREPLACE) != 0) {
        r = -EINVAL; /* two snapshots cannot change their names with each other at once */
    }
    if (r == 0 && !shown_find(wanted.filesystem->tree->shown, name, &wanted.key)) {
        r = -ENOENT;
    }
    if (r == 0) {
        r = take_name(&wanted, new_name); /* none is replaced by another, as no full directory is */
    }
    if (r != 0) {
        return ops_fail(request, r);
    }
    ask(&wanted);
}

/* --- what nobody can do -------------------------------------------------------- */

/*
 * Which other names there are is what the image says. libfuse would answer ENOSYS, and
 * rm or mv tell of a function that is not implemented. (Of a read-only mount the
 * kernel says EROFS, and asks nobody.)
 */
void op_refuse_name(fuse_req_t request, fuse_ino_t parent, const char *name)
{
    (void)parent;
    (void)name;
    fuse_reply_err(request, EPERM);
}

void op_refuse_mknod(fuse_req_t request, fuse_ino_t parent, const char *name, mode_t mode,
                     dev_t device)
{
    (void)mode;
    (void)device;
    op_refuse_name(request, parent, name);
}

void op_refuse_create(fuse_req_t request, fuse_ino_t parent, const char *name, mode_t mode,
                      struct fuse_file_info *info)
{
    (void)mode;
    (void)info;
    op_refuse_name(request, parent, name);
}

void op_refuse_symlink(fuse_req_t request, const char *target, fuse_ino_t parent, const char *name)
{
    (void)target;
    op_refuse_name(request, parent, name);
}

void op_refuse_link(fuse_req_t request, fuse_ino_t inode, fuse_ino_t parent, const char *name)
{
    (void)inode;
    op_refuse_name(request, parent, name);
}
