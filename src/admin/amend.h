/* SPDX-License-Identifier: MIT */
/*
 * Changes what an image is, rather than what its disk holds: its compatibility
 * level, features, the width of its refcounts, the names of other files.
 *
 * Each change is a step that leaves a sound image, and that no crash can cut in
 * two; the header, which makes it visible, is written last:
 *
 *     to 1.1   snapshot table with what version 3 asks for, behind the end   sync
 *              header names it                                              sync
 *              header of version 3                                          sync
 *     to 0.10  zero clusters unmapped, or replaced by clusters of zeros: in
 *              the active state by the writer, in the L2 tables of snapshots
 *              in place, entry by entry (R1, R2, R4)                         sync
 *              where what they drop may be the active state's alone then: dirty
 *              before, and its COPIED bits corrected and clean afterwards    sync
 *              header of version 2                                          sync
 *     width    new refcount table and blocks behind the end                 sync
 *              one write of the header names both them and their width      sync
 *
 * What was begun and not finished is no damage, at worst leaked clusters, or an
 * image that is dirty; the same change can be asked for again.
 */
#ifndef IMAGE_AMEND_H
#define IMAGE_AMEND_H

#include "disk/image.h"
#include "util/error.h"
#include "util/options.h"

#include <stdbool.h>
#include <stdint.h>

/* What shall be different. Strings are borrowed; NULL, 0, not set: stays as it is. */
struct amend_change {
    uint32_t version; /* 2 or 3 */
    struct option_bool lazy_refcounts;
    const char *backing_file, *backing_format; /* "": none */
    const char *data_file;                     /* the name to be recorded */
    struct option_bool data_file_raw;
    uint64_t refcount_bits;
    struct option_number size; /* bytes; of whole sectors, and within the limits */
};

/* How an image and the files that it names are opened. */
struct amend_opening {
    bool unchecked;           /* the new data file is not looked at */
    struct image_names names; /* with whose rights what the image names is opened */
    bool no_locks;
    struct keys *keys; /* of what will be behind it; NULL: nobody reads its data */
};

/*
 * Opens and locks an image to be changed so, with its cache: without its backing
 * chain where nothing of the change looks at it, so that a wrong name can be
 * corrected; and, unless unchecked, with the new data file. 0, or a negative
 * errno with a sentence. image_close() it.
 */
int amend_open(const char *path, const struct amend_change *change,
               const struct amend_opening *opening, struct log *log, struct image **image,
               struct error *error);

/* What will be behind an image: `backing`, or NULL. The rest is what that hangs on. */
struct amend_behind {
    struct image *backing;
    struct header header; /* the image's, changed */
    struct image overlay;
};

/*
 * Opens the backing file that the image would name then, and all behind it: they are there, of the
 * formats that are recorded, and not the image itself. `behind` and `change` stay where they are
 * until image_close(behind->backing). 0, or a negative errno with a sentence; nothing is open then.
 */
int amend_open_behind(const struct image *image, const struct amend_change *change,
                      const struct amend_opening *opening, struct log *log,
                      struct amend_behind *behind, struct error *error);

/* Whether that can be opened. 0, or a negative errno with a sentence. */
int amend_check_behind(const struct image *image, const struct amend_change *change,
                       const struct amend_opening *opening, struct log *log, struct error *error);

struct amend_options {
    /* What takes long, and how far it is; may be NULL. */
    void (*begin)(void *context, const char *what, const char *unit);
    void (*progress)(void *context, uint64_t done, uint64_t total);
    void *context;
};

/*
 * Whether the image can be changed so, as far as can be told without walking
 * its tables. 0, or -EINVAL, -ENOTSUP with a sentence. Of the files that the
 * new names are of nothing is asked here.
 */
int amend_check(const struct image *image, const struct amend_change *change, struct error *error);

/*
 * Says what persistent bitmaps do not record where the image gets another backing file, and nothing
 * of the disk is copied: for who has checked the change, and has not made it yet.
 */
void amend_tell_of_bitmaps(const struct image *image, const struct amend_change *change);

/*
 * Changes the image, which was opened with STORE_WRITE and has its cache, and
 * no writer; amend_check() has found that it can be. Where the size changes, or
 * version 3 becomes version 2, it must have been opened with its backing chain.
 * One that is marked dirty is repaired first. What struct image holds of names
 * is out of date afterwards: close it. 0, or a negative errno with a sentence.
 */
int amend_apply(struct image *image, const struct amend_change *change,
                const struct amend_options *options, struct error *error);

#endif
