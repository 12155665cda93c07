/* SPDX-License-Identifier: MIT */
/*
 * A new image together with what is on its disk, written from one end to the other.
 *
 * The caller goes through the disk once, from its beginning, and says what is there; clusters are
 * appended to the file in that order. An L2 table follows the data that it maps, a refcount block
 * the clusters that it counts, each as soon as it is complete, so that little is kept in memory.
 * What comes last:
 *
 *     | (header) | encryption header | data, L2 tables, refcount blocks ... |
 *     | L1 table | refcount table | last blocks |
 *     sync (R3)
 *     header
 *     sync
 *
 * Until then the file is no image: no crash leaves a part of one.
 *
 * Compressed clusters are packed to the byte, one behind the other: a cluster of the file may hold
 * the ends and beginnings of many, and counts as many references.
 *
 * With preallocation all clusters that an L2 table maps are taken in one piece where the table
 * begins, and data is written to its place there.
 *
 * With an external data file the data is written there, where it is on the disk. Data of an
 * encrypted disk is encrypted on its way, whole clusters of it. Of one thread.
 */
#ifndef IMAGE_NEW_IMAGE_H
#define IMAGE_NEW_IMAGE_H

#include "admin/create.h"
#include "disk/changed.h"
#include "meta/bitmap.h"

struct new_image;

/*
 * `plan` outlives the new image, and so does the cipher of the target. Of that count the stores,
 * is_device, what is encrypted with, and stop with its context, which is asked while zeros are
 * written for preallocation=full and the like: the file is empty, or a device; the data file is
 * empty, or a device that reads as zeros. 0; a negative errno of writing, -EINTR among them;
 * -ENOMEM. So it is with all that follow.
 */
int new_image_begin(const struct create_plan *plan, const struct create_target *target,
                    struct new_image **image);

/*
 * What is at `guest_offset`, a multiple of the cluster size, behind all that was said before; what
 * nothing is said of is not allocated. 0, or a negative errno of writing; -ENOMEM; -EFBIG for a
 * file of which the format cannot name all clusters.
 *
 * Bytes: whole clusters, but at the end of the disk.
 */
int new_image_data(struct new_image *image, uint64_t guest_offset, const void *bytes,
                   uint64_t length);

/*
 * One cluster, compressed: fewer bytes than a cluster has. Not with an external data file, nor
 * encrypted, which the format has no compressed clusters for.
 */
int new_image_compressed(struct new_image *image, uint64_t guest_offset, const void *bytes,
                         uint64_t length);

/* Clusters that read as zeros whatever is behind them. Not in version 2, which cannot say that. */
int new_image_zeros(struct new_image *image, uint64_t guest_offset, uint64_t length);

/*
 * One cluster with extended L2 entries: of its subclusters, those of the bits `data` hold what is
 * at their place in `bytes` (`length` of them: of the last cluster fewer), those of `zeros` zeros;
 * the others are not allocated.
 */
int new_image_subclusters(struct new_image *image, uint64_t guest_offset, const void *bytes,
                          uint64_t length, uint32_t data, uint32_t zeros);

/*
 * Whether an image of this header can have bitmaps, before it is begun: -EINVAL and the like with a
 * sentence that begins with `name`.
 */
int new_image_check_bitmaps(const struct header *header, const char *name, struct error *error);

/*
 * A persistent bitmap, at any time: its name, granularity and flags are those of `bitmap`, of which
 * nothing else counts; and `bits` says what is set. Also -EFBIG: it would have more than 512 MiB.
 */
int new_image_bitmap(struct new_image *image, const struct bitmap *bitmap,
                     const struct changed *bits);

/* Writes the rest. Stable when it returns 0; the image is to be freed in any case. */
int new_image_finish(struct new_image *image);

/* `image` may be NULL. What was written stays as it is. */
void new_image_free(struct new_image *image);

#endif
