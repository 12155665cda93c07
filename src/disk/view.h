/* SPDX-License-Identifier: MIT */
/*
 * What can be read of an image as one flat range of bytes: the active disk, the
 * disk of an internal snapshot, or the saved VM state of one. Resolves guest
 * offsets through the whole backing chain.
 *
 * Any number of threads may use one view. A view borrows its image.
 */
#ifndef IMAGE_VIEW_H
#define IMAGE_VIEW_H

#include "disk/image.h"
#include "meta/mapping.h"
#include "util/error.h"
#include "util/stop.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct view;

/* The active state of the disk. 0 or a negative errno. */
int view_open_active(struct image *image, struct view **view);

/*
 * The disk of snapshot number `index` of image->snapshots, or its VM state.
 * Reads that snapshot's L1 table: -EIO, with the sentence in `error`, when the
 * table cannot be read or is impossible.
 */
int view_open_snapshot(struct image *image, size_t index, struct view **view, struct error *error);
int view_open_vmstate(struct image *image, size_t index, struct view **view, struct error *error);

/*
 * The same of a snapshot that the caller has a copy of: image->snapshots is not looked at, which
 * may change meanwhile.
 */
int view_open_saved(struct image *image, const struct snapshot *snapshot, bool vm_state,
                    struct view **view, struct error *error);

/* `view` may be NULL. */
void view_close(struct view *view);

/* Bytes that can be read. */
uint64_t view_size(const struct view *view);

/*
 * Reads ahead no more, and returns when no thread of the view's is under way
 * (R4). Nobody may be reading; who reads afterwards does without.
 */
void view_end_prefetch(struct view *view);

/*
 * Fills `buffer` with `length` bytes from `guest_offset`; what lies past the
 * end reads as zeros. 0; -EIO after a log line that names guest and host
 * offset; -ENOMEM. After an error `buffer` holds anything.
 */
int view_read(struct view *view, uint64_t guest_offset, void *buffer, size_t length);

/* An extent, and the image of the chain whose entry decided it. */
struct view_extent {
    struct extent extent; /* ZERO, DATA or COMPRESSED; UNALLOCATED where no image has it: zeros */
    const struct image *image; /* NULL for UNALLOCATED */
    unsigned depth;            /* 0: the active image */
};

/*
 * The longest extent of one kind and one image that starts at `guest_offset`,
 * at most `length` bytes (> 0, and within the view). 0, or -EIO after a log line.
 */
int view_lookup(struct view *view, uint64_t guest_offset, uint64_t length,
                struct view_extent *found);

/*
 * As view_lookup(), but tells apart what reads alike (mapping_lookup_exact()),
 * and logs nothing: after -EIO `fault` says what is wrong, in found->image.
 */
int view_lookup_exact(struct view *view, uint64_t guest_offset, uint64_t length,
                      struct view_extent *found, struct mapping_fault *fault);

/*
 * Whether guest_offset is data or a hole, in the sense of view_seek(), and in *length for how many
 * bytes from there, at most `window` (> 0, and within the view), that is known to go on. 0 or -EIO.
 */
int view_classify(struct view *view, uint64_t guest_offset, uint64_t window, bool *is_data,
                  uint64_t *length);

/*
 * For how many bytes from guest_offset on, at most `length`, the two views show the very same bytes
 * of the same file, as the disks of two images above one base do: 0 where they do not begin with
 * any, or that is not known. Nobody writes to either.
 */
uint64_t view_shared(struct view *a, struct view *b, uint64_t guest_offset, uint64_t length);

/*
 * For how many bytes from guest_offset on, at most `length` (within both), the two views, of states
 * of one image, have one L2 table, or none: they show the same there, whatever that says. 0 where
 * that is not so, or not known.
 */
uint64_t view_same_table(struct view *a, struct view *b, uint64_t guest_offset, uint64_t length);

/*
 * The first offset >= guest_offset that is data (want_data), or that is a hole;
 * the end of the view counts as a hole. A hole is what reads as zeros without
 * a look at any byte: zero and unallocated (sub)clusters, data (sub)clusters
 * that are holes of the host file as a whole, and holes of a raw backing file. -ENXIO when
 * guest_offset is at or past the end, or when there is no data behind it; -EIO; -EINTR when
 * `stop` says so: *found is then how far the search came, at least a little; all before is of
 * the other kind. However large the tables, it is not long until `stop` is asked again.
 */
int view_seek(struct view *view, uint64_t guest_offset, bool want_data, const struct stop *stop,
              uint64_t *found);

/* The same in what is before `end`, as if the view ended there. */
int view_seek_within(struct view *view, uint64_t guest_offset, uint64_t end, bool want_data,
                     const struct stop *stop, uint64_t *found);

#endif
