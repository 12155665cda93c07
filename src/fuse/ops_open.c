/* SPDX-License-Identifier: MIT */
/* The requests that open and close files. */
#include "config.h"

#define FUSE_USE_VERSION 312

#include "fuse/later.h"
#include "fuse/ops_internal.h"

#include <errno.h>
#include <stdlib.h>

/*
 * That a file was closed arrives here a little after close(2) has returned: so long who wants to
 * open another one waits for it, before EBUSY.
 */
#define BUSY_MILLISECONDS 1000

/* A request to open a file, also one that waits. */
struct opening {
    struct later_attempt attempt;
    struct filesystem *filesystem;
    fuse_req_t request;
    struct node node;
    struct open_request wanted;
    struct fuse_file_info info;
};

static void answer(const struct opening *opening, struct open_file *file)
{
    struct fuse_file_info info = opening->info;

    info.fh = (uintptr_t)file;
    info.noflush = !opening->wanted.writes;
    info.keep_cache = file->keeps_cache && !file->is_direct;
    info.direct_io = file->is_direct;
    if (fuse_reply_open(opening->request, &info) == -ENOENT) {
        /* Who asked was interrupted: there will be no release. */
        files_close_unseen(opening->filesystem->files, file);
    }
}

/* False: it is busy. Else it was answered. */
static bool try_to_open(const struct opening *opening, bool last)
{
    struct open_file *file;
    int r = files_open(opening->filesystem->files, &opening->node, &opening->wanted, &file);

    if (r == -EBUSY && !last) {
        return false;
    }
    if (r != 0) {
        ops_fail(opening->request, r);
    } else {
        answer(opening, file);
    }
    return true;
}

static bool try_again(struct later_attempt *attempt, bool last)
{
    struct opening *opening = (struct opening *)attempt;

    if (!try_to_open(opening, last)) {
        return false;
    }
    free(opening);
    return true;
}

static void wait_to_open(const struct opening *opening)
{
    struct opening *copy = malloc(sizeof(*copy));

    if (copy == NULL) {
        return ops_fail(opening->request, -ENOMEM);
    }
    *copy = *opening;
    later_try(copy->filesystem->later, &copy->attempt, BUSY_MILLISECONDS);
}

void op_open(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *info)
{
    struct filesystem *filesystem = ops_begin(request, REQUEST_OPEN);
    struct opening opening = {
        .attempt.attempt = try_again,
        .filesystem = filesystem,
        .request = request,
        .wanted = {.opener = fuse_req_ctx(request)->pid,
                   .writes = (info->flags & O_ACCMODE) != O_RDONLY},
        .info = *info,
    };

    page_cache_raise(&filesystem->page_cache);
    if (!ops_node(filesystem, inode, &opening.node)) {
        return ops_fail(request, -ENOENT);
    }
    if (opening.wanted.writes && (filesystem->writer == NULL || !tree_is_active(&opening.node))) {
        return ops_fail(request, -EROFS);
    }
    if (!try_to_open(&opening, false)) {
        wait_to_open(&opening);
    }
}

void op_release(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *info)
{
    struct filesystem *filesystem = ops_begin(request, REQUEST_RELEASE);
    bool writes = ops_file(info)->writes;

    (void)inode;
    files_close(filesystem->files, ops_file(info));
    if (writes) {
        later_poke(filesystem->later);
    }
    fuse_reply_err(request, 0);
}
