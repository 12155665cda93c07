/* SPDX-License-Identifier: MIT */
/*
 * The bitmap directory ("Bitmap directory"): what persistent bitmaps an image
 * has, and their tables. Nothing that a reader shows depends on them.
 */
#ifndef META_BITMAP_H
#define META_BITMAP_H

#include "meta/header.h"
#include "store/store.h"
#include "util/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct bitmap {
    char *name;               /* NUL-terminated copy */
    uint64_t granularity;     /* bytes of the disk for one bit */
    uint32_t flags;           /* BITMAP_FLAG_... of meta/format.h */
    uint64_t table_offset;    /* host offset of the bitmap table, not validated */
    uint32_t table_entries;   /* not validated */
    uint32_t extra_data_size; /* bytes of it, which no program knows */
    uint8_t type;
    /* Where its entry lies in the directory, bytes. */
    size_t entry_offset, entry_length;
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

/* The bitmap of that name, or NULL. */
const struct bitmap *bitmap_find(const struct bitmap_directory *directory, const char *name);

/* The entries that the table of a bitmap of the whole disk has ("Bitmap table"). */
uint64_t bitmap_table_entries(const struct header *header, uint64_t granularity);

/*
 * Reads the table of a bitmap that is to be used: entries in host byte order, the caller's, each
 * 0, BITMAP_TABLE_ENTRY_ALL_ONES, or the host offset of a cluster within the file. -EINVAL, with a
 * sentence, for one that is marked in use, of another type, or impossible. Of one that is only to
 * be removed (`goes`) nothing is asked but that it can be read.
 */
int bitmap_table_read(struct store *file, const struct header *header, const char *name,
                      const struct bitmap *bitmap, bool goes, uint64_t **table,
                      struct error *error);

/* Forgets all entries but the first `count`. */
void bitmap_directory_shorten(struct bitmap_directory *directory, size_t count);

/*
 * The same, for those who describe a damaged image: after a failure *directory
 * holds the entries before the one that is wrong, or is NULL.
 */
int bitmap_directory_examine(struct store *file, const struct header *header, const char *name,
                             struct bitmap_directory **directory, struct error *error);

#endif
