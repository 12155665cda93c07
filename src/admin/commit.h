/* SPDX-License-Identifier: MIT */
/*
 * What an image says goes into one behind it, its base:
 *
 *     the base gets at least the size of the image's disk
 *     each cluster that the image, or one between, has: written to the base   -> sync
 *     the image is emptied: its header names an L1 table without entries      (disk/snapshots.h)
 *
 * At any moment the image reads the same: until the base is stable the image itself answers for all
 * that is written there, and afterwards the base says what it said. What was begun and not finished
 * is done again by doing all of it again.
 *
 * Internal snapshots of the image, and of those between, are on the base, too, and what they have
 * not they show of it. So it is refused where one of them would show something else, unless that is
 * asked for. The base's own keep what they have, as with any writer.
 *
 * Image and base are locked meanwhile as by any writer. Images between the two are only read, and
 * what they show is another disk afterwards: so is that of any other image above the base.
 */
#ifndef ADMIN_COMMIT_H
#define ADMIN_COMMIT_H

#include "admin/chain_work.h"

#include <stdbool.h>
#include <stdint.h>

struct chain_commit_options {
    const char *base;      /* the user's name of an image behind; NULL: the next one */
    bool keep;             /* the image is not emptied; so it is where others are between */
    bool change_snapshots; /* they may come to show what is written */
    struct chain_work work;
};

struct chain_commit_result {
    char *base;      /* the path of the image that it went into: to be freed; NULL after an error */
    uint64_t copied; /* bytes of the disk that were written there */
    bool emptied;
};

/*
 * Does so with the image at `path`. 0, or a negative errno with a sentence: -EINTR after `stop`,
 * -EBUSY for one that is in use, -EINVAL without a backing file, for a base that is not behind
 * the image and where a snapshot would show something else, and the errors of opening and writing.
 */
int chain_commit(const char *path, const struct chain_commit_options *options, struct log *log,
                 struct chain_commit_result *result, struct error *error);

#endif
