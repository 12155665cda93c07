/* SPDX-License-Identifier: MIT */
/*
 * What the files of bitmaps share: bitmaps.c (what is done), bitmap_change.c (how the header comes
 * to name it), bitmap_merge.c (bits), tracking.c (what is stored of a disk that was written).
 */
#ifndef DISK_BITMAPS_INTERNAL_H
#define DISK_BITMAPS_INTERNAL_H

#include "disk/writer_internal.h"
#include "meta/bitmap.h"
#include "meta/bitmap_write.h"
#include "util/error.h"

#include <stddef.h>

/* One change, with all requests kept out. */
struct bitmap_change {
    struct writer *writer;
    const char *name;
    struct bitmap_directory *directory; /* what it is now */
    struct error *error;
    /* Clusters that nothing names yet; they go again where the change fails. */
    struct allocation *made;
    size_t made_count, made_room;
    bool begun; /* nobody knows what the header names: they stay, and so does what was before */
};

/* Writes to new clusters, filled up with zeros. 0 or a negative errno. */
int bitmap_place(struct bitmap_change *change, const void *bytes, uint64_t length,
                 uint64_t *host_offset);

/* Writes a table of new clusters, which is to be that of `bitmap`; NULL: one of nothing. Likewise.
 */
int bitmap_place_table(struct bitmap_change *change, const uint64_t *table, struct bitmap *bitmap);

/* R3: the directory after the edits (bitmap_directory_edit()) comes into force. Likewise. */
int bitmap_apply(struct bitmap_change *change, const struct bitmap_edit *edits, size_t edit_count);

/*
 * R4: a table that nothing names any more, and the bits that only it names: not the first
 * `kept_entries` that `kept`, which took its place, has as well.
 */
void bitmap_drop_table(struct writer *writer, const struct bitmap *bitmap, const uint64_t *table,
                       const uint64_t *kept, uint64_t kept_entries);

/*
 * The end of it, given its result: new clusters that nothing names go, what it has in memory is
 * freed; all is stable, and the result of all is returned.
 */
int bitmap_finish(struct bitmap_change *change, int result);

/*
 * Sets in `table`, of the bitmap `into`, what is set in `bitmap` of `source`: clusters that change
 * are written to new places. 0 or a negative errno, with a sentence where the other bitmap cannot
 * be used.
 */
int bitmap_merge(struct bitmap_change *change, const struct bitmap *into, uint64_t *table,
                 struct image *source, const struct bitmap *bitmap);

#endif
