/* SPDX-License-Identifier: MIT */
/*
 * From one disk to another, by all processors:
 *
 *     the maps are walked         what is a hole is passed on as zeros, without a look at it
 *     pieces of data              read, searched for zeros, compared with what is behind the
 *                                 target, compressed: by any thread
 *     written                     in the order of the disk
 *
 * The first and the last are of the thread that calls.
 */
#ifndef CTL_CONVERT_COPY_H
#define CTL_CONVERT_COPY_H

#include "ctl/convert_target.h"
#include "ctl/disk.h"

struct convert_copy {
    struct view *source;
    const char *source_path;
    struct view *backing; /* what the target shows where nothing is written to it; NULL: zeros */
    const char *backing_path;
    struct convert_target *target;
    uint64_t zeros; /* bytes: how many zeros in a row are left out; 0: none, all is written */
    bool compress;
    uint8_t compression_type;
    uint64_t *written; /* set: bytes of the disk that were written, compressed ones among them */
    /* Asked from time to time; true ends the work with -EINTR. */
    bool (*stop)(void *context);
};

/* 0; a negative errno with a sentence, but for -EINTR. */
int convert_copy(const struct convert_copy *copy, struct error *error);

#endif
