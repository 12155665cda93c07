/* SPDX-License-Identifier: MIT */
/*
 * What programs have stored behind the end of the disk, in the rest of its last page, which mmap(2)
 * lets them do: it is nobody's, until the disk grows. Then it would be on the disk, for the kernel
 * zeroes no page of ours whose file becomes longer, as it does for file systems of its own. So
 * zeros are put there (FUSE_NOTIFY_STORE) before the disk is larger; what is stored meanwhile is
 * stored beside the growing, and may be there afterwards.
 *
 * The kernel does that when nobody has the page locked, and who has may wait for an answer of ours,
 * in the worst case for that of the very request which grows: a store of bytes into a page that is
 * being written waits for that write, which the kernel holds back while a file is truncated; and a
 * write(2) to a page that is not read yet has it locked until it is answered. So a thread of its
 * own asks (a second one of fuse/later), for which nothing waits but the request, for a while.
 *
 * A leaf mutex for each.
 */
#ifndef FUSE_OLD_END_H
#define FUSE_OLD_END_H

#include "fuse/ops.h"

#define OLD_END_PATIENCE       1000 /* milliseconds, until who grows is told to try again */
#define OLD_END_PATIENCE_WRITE 20   /* of a write(2) that may itself have the page locked */

/* Whether `old_end` and `offset` are in one page of the kernel's. */
bool old_end_shares_page(uint64_t old_end, uint64_t offset);

/*
 * Before the disk, which is `inode` and has `old_end` bytes, has more: its page is zeros from
 * there up to `to`, or to its own end. 0; -EINTR when that is not so after so many milliseconds:
 * nothing is changed then any more. Otherwise a negative errno.
 */
int old_end_clear(struct filesystem *filesystem, uint64_t inode, uint64_t old_end, uint64_t to,
                  unsigned patience);

/* The disk has not become longer after all, for which the kernel may take it, within that page. */
void old_end_keep(struct filesystem *filesystem, uint64_t old_end, uint64_t to);

#endif
