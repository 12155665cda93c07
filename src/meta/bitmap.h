/* SPDX-License-Identifier: MIT */
/*
 * The bitmap directory ("Bitmap directory"): what persistent bitmaps an image
 * has. Their contents are not read: nothing that a reader shows depends on them.
 */
#ifndef META_BITMAP_H
#define META_BITMAP_H

#include "meta/header.h"
#include "store/store.h"
#include "util/error.h"

#include <stddef.h>
#include <stdint.h>

struct bitmap {
    char *name;             /* NUL-terminated copy */
    uint64_t granularity;   /* bytes of the disk for one bit */
    uint32_t flags;         /* BITMAP_FLAG_... of meta/format.h */
    uint64_t table_offset;  /* host offset of the bitmap table, not validated */
    uint32_t table_entries; /* not validated */
};

struct bitmap_directory {
    size_t count;
    struct bitmap *bitmaps;
};

/*
 * Reads the directory that `header` names (none: an empty one). -EINVAL, with a
 * sentence that begins with `name`, when an entry runs over the directory; -EIO; -ENOMEM.
 */
int bitmap_directory_read(struct store *file, const struct header *header, const char *name,
                          struct bitmap_directory **directory, struct error *error);
void bitmap_directory_free(struct bitmap_directory *directory);

/* Forgets all entries but the first `count`. */
void bitmap_directory_shorten(struct bitmap_directory *directory, size_t count);

/*
 * The same, for those who describe a damaged image: after a failure *directory
 * holds the entries before the one that is wrong, or is NULL.
 */
int bitmap_directory_examine(struct store *file, const struct header *header, const char *name,
                             struct bitmap_directory **directory, struct error *error);

#endif
