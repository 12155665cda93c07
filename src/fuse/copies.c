/* SPDX-License-Identifier: MIT */
#include "config.h"

#define FUSE_USE_VERSION 312

#include "fuse/copies.h"

#include "fuse/later.h"

#include <errno.h>
#include <stdlib.h>

struct dropping {
    struct later_job job;
    struct filesystem *filesystem;
    struct files_change change;
    struct copies_answer answer;
};

bool copies_are_changed(struct filesystem *filesystem, const struct files_change *change)
{
    parts_changed(filesystem->tree->parts, change->from, change->to);
    return files_have_copies(filesystem->files, change);
}

static void give(const struct copies_answer *answer)
{
    switch (answer->kind) {
    case COPIES_ANSWER_WRITE:
        fuse_reply_write(answer->request, answer->written);
        break;
    case COPIES_ANSWER_ATTRIBUTES:
        fuse_reply_attr(answer->request, &answer->attributes, answer->timeout);
        break;
    case COPIES_ANSWER_RESULT:
        if (answer->result != 0) {
            ops_fail(answer->request, answer->result);
        } else {
            fuse_reply_err(answer->request, 0);
        }
        break;
    }
}

/* A copy that the kernel does not know is dropped already. */
static void serve(struct later_job *job, bool ending)
{
    struct dropping *dropping = (struct dropping *)job;
    struct filesystem *filesystem = dropping->filesystem;
    struct files_copy copy = {.inode = 0};

    while (!ending && files_next_copy(filesystem->files, &dropping->change, copy.inode, &copy)) {
        (void)fuse_lowlevel_notify_inval_inode(filesystem->fuse, copy.inode, (off_t)copy.offset,
                                               (off_t)copy.length);
    }
    give(&dropping->answer);
    free(dropping);
}

void copies_drop(struct filesystem *filesystem, const struct files_change *change,
                 const struct copies_answer *answer)
{
    struct dropping *dropping = malloc(sizeof(*dropping));

    if (dropping == NULL) {
        return ops_fail(answer->request, -ENOMEM);
    }
    *dropping = (struct dropping){
        .job.serve = serve,
        .filesystem = filesystem,
        .change = *change,
        .answer = *answer,
    };
    later_do(filesystem->later, &dropping->job);
}
