/* SPDX-License-Identifier: MIT */
/*
 * The kernel has copies of the active disk under several names: disk.raw, and its partitions. Who
 * reads one must not be shown what was there before it was written through another: so a change
 * is answered when the kernel has dropped all other copies of it (FUSE_NOTIFY_INVAL_INODE). That
 * waits for reads of them that are under way, which others must answer: it is done by a thread
 * that answers no other requests (fuse/later).
 */
#ifndef FUSE_COPIES_H
#define FUSE_COPIES_H

#include "fuse/ops_internal.h"

enum copies_answer_kind {
    COPIES_ANSWER_WRITE,      /* so many bytes were written */
    COPIES_ANSWER_RESULT,     /* 0 or a negative errno */
    COPIES_ANSWER_ATTRIBUTES, /* what they are now, and for how long that is true */
};

struct copies_answer {
    fuse_req_t request;
    enum copies_answer_kind kind;
    size_t written;
    int result;
    struct stat attributes;
    double timeout; /* seconds */
};

/*
 * The active disk was changed: whether the answer must wait, since the kernel may have other
 * copies. To be called after the change. Costs four loads where there are none.
 */
bool copies_are_changed(struct filesystem *filesystem, const struct files_change *change);

/* Answers when no copy is left. Fails the request with ENOMEM where that cannot be. */
void copies_drop(struct filesystem *filesystem, const struct files_change *change,
                 const struct copies_answer *answer);

#endif
