/* SPDX-License-Identifier: MIT */
/*
 * Another backing file for an image, whose disk shows the same afterwards:
 *
 *     each subcluster that the image has not, and that the new file would show otherwise than the
 *     old one: written to the image, or said to be zeros by it                       -> sync
 *     the header names the new file, or none                                        (amend.h)
 *
 * At any moment the image reads the same: what it comes to have is what the old file shows, and the
 * new one is named when all that differs is stable. What was begun and not finished is no damage; a
 * second time it finds what it has already.
 *
 * Internal snapshots are on that file, too, and what they have not is not written to them. So it is
 * refused where one of them would show something else, unless that is asked for.
 *
 * The image is locked meanwhile as by any writer; both files are only read.
 */
#ifndef ADMIN_REBASE_H
#define ADMIN_REBASE_H

#include "admin/chain_work.h"

struct chain_rebase_options {
    const char *backing_file;   /* as the header shall say it; "": none */
    const char *backing_format; /* of that; "" without one */
    bool unsafe;                /* the names alone are changed, and no other file is looked at */
    bool change_snapshots;      /* they may come to show what the new file has */
    struct chain_work work;
};

/* Bytes of the disk that the image has of its own now, and had not before. */
struct chain_rebase_result {
    uint64_t copied;
    uint64_t zeroed;
};

/*
 * Does so with the image at `path`. 0, or a negative errno with a sentence: -EINTR after `stop`,
 * -EBUSY for one that is in use, -ENOSPC where the name does not fit into the header, -ELOOP for a
 * file that has the image behind it, -EINVAL where a snapshot would show something else, and the
 * errors of opening, reading and writing.
 */
int chain_rebase(const char *path, const struct chain_rebase_options *options, struct log *log,
                 struct chain_rebase_result *result, struct error *error);

#endif
