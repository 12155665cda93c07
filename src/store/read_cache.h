/* SPDX-License-Identifier: MIT */
/*
 * A store around one that is far away: what was read of it is kept in a file of this machine, in
 * blocks, so that it is read there once. The blocks' numbers, places and sums are in memory; what
 * is read of a block that the file does not have is read as whole blocks, and kept.
 *
 * A block of the file is believed only with its sum, which is looked at each time it is read: the
 * file may be cut off at any moment, or its host fail to write what it had taken, and then there is
 * something else where the block was, without any error.
 *
 * What is written, or made zeros, goes to the store, and the blocks that it touches are forgotten
 * before that call returns: so is a block that is being read meanwhile. A write or a sync that
 * fails ends the cache, since nobody knows then what the store has.
 *
 * A file that is not kept has no name from the beginning on, and is gone with the process. One that
 * is kept is gone on with (store/read_cache_file.h); then some of its blocks are compared with the
 * store when it is opened, and where one differs all is forgotten. It may tell nothing that is not
 * so when this process, or the host, ends at any moment:
 *
 *     - each block is believed only with its sum; so what was written of the file in whatever order
 *       is a block as it was read, or none;
 *     - before the first write to the store the file says so, stably, and a file that says so is
 *       begun anew. That is taken back when the store is closed: after a sync of it that succeeded,
 *       and when all that the file tells is stable.
 *
 * What others write to the store between two runs it cannot know: the user promises that nobody
 * does. The mutex is a leaf, and not held while anything is read or written.
 */
#ifndef STORE_READ_CACHE_H
#define STORE_READ_CACHE_H

#include "store/file.h"
#include "store/store.h"
#include "util/error.h"

struct read_cache_options {
    const char *path;
    uint64_t size; /* bytes, the most that the file takes; READ_CACHE_SIZE_MIN at least */
    bool is_kept;
};

#define READ_CACHE_SIZE_MIN     (UINT64_C(1) << 20)
#define READ_CACHE_SIZE_DEFAULT (UINT64_C(1) << 30)

/*
 * *store takes over `inner`, which is known as `address`, and closes it; not where it fails.
 * `unsafe`: a sync of `inner` makes nothing stable, so what was written to it is never kept. With a
 * sentence: -EEXIST for a file that is something else, or that there is already though it is not to
 * be kept; -EACCES for one that others could have written; -EBUSY where it is in use; errors of
 * open(2); -EIO where `inner` cannot be read.
 */
int store_read_cache(struct store *inner, const char *address,
                     const struct read_cache_options *options, bool unsafe, struct store **store,
                     struct error *error);

#endif
