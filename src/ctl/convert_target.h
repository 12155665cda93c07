/* SPDX-License-Identifier: MIT */
/*
 * What a disk is copied to: a raw file or device, a new qcow2 image, or, in place, what exists. It
 * is told what is on the disk from the beginning to the end, in pieces that are multiples of `unit`
 * and begin at one.
 *
 * A file appears, or takes the place of an older one, when it is complete.
 */
#ifndef CTL_CONVERT_TARGET_H
#define CTL_CONVERT_TARGET_H

#include "admin/create.h"
#include "admin/new_image.h"
#include "ctl/command.h"
#include "disk/writer.h"
#include "store/new_file.h"

struct convert_target;

/* Each: 0, or a negative errno of writing. `length` may end within a unit at the disk's end. */
struct convert_target_ops {
    int (*data)(struct convert_target *target, uint64_t offset, const void *bytes, uint64_t length);
    /* What must read as zeros; NULL where all does that nothing is written to. */
    int (*zeros)(struct convert_target *target, uint64_t offset, uint64_t length);
    int (*finish)(struct convert_target *target); /* stable when it returns 0 */
};

struct convert_target {
    const struct convert_target_ops *ops;
    const char *path;
    uint64_t size;       /* of the disk, bytes */
    uint64_t unit;       /* bytes, a power of two: an image's cluster */
    uint64_t subunit;    /* what may be there or not by itself: a subcluster; else as unit */
    struct store *store; /* raw */
    struct new_file *file, *data_file; /* owned; NULL without */
    struct new_image *image;           /* owned; NULL for a raw target */
    struct create_target files;        /* of the image */
    struct image *existing;            /* written in place, with its writer; NULL: not so */
    struct writer *writer;
};

/* What a raw target shows where nothing was written to it, and what shall be there. */
enum convert_raw {
    CONVERT_RAW_EMPTY,  /* holes, which may stay */
    CONVERT_RAW_OTHER,  /* something else: it is punched */
    CONVERT_RAW_FILLED, /* whatever it is: zeros are written over it */
};

/* All as they are set before: path, size, unit and what the kind needs. They only set ops. */
void convert_target_raw(struct convert_target *target, enum convert_raw kind);
void convert_target_new_image(struct convert_target *target, bool has_backing, bool old_version);
void convert_target_writer(struct convert_target *target);

#endif
