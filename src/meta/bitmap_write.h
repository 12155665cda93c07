/* SPDX-License-Identifier: MIT */
/* The bitmap directory ("Bitmap directory") as it is to be, from what it is. */
#ifndef META_BITMAP_WRITE_H
#define META_BITMAP_WRITE_H

#include "meta/bitmap.h"
#include "meta/header.h"
#include "store/store.h"
#include "util/error.h"

#include <stddef.h>
#include <stdint.h>

/* What is to be done with one bitmap. */
struct bitmap_edit {
    const struct bitmap *old; /* of the directory; NULL: `new` comes behind the others */
    const struct bitmap *new; /* its flags and its table; NULL: the old one goes */
};

/*
 * The bytes of the directory after the edits, of which the last alone may be of one that comes or
 * goes, in memory that the caller frees: NULL where none is
 * left. Other entries, and extra data, stay byte for byte. 0, or a negative errno with a sentence
 * that begins with `name`: -EIO and the like, -ENOMEM.
 */
int bitmap_directory_edit(struct store *file, const struct header *header, const char *name,
                          const struct bitmap_edit *edits, size_t count, uint8_t **bytes,
                          size_t *length, struct error *error);

/* A directory of these, without extra data. 0 and bytes to be freed; or -ENOMEM. */
int bitmap_directory_make(const struct bitmap *bitmaps, size_t count, uint8_t **bytes,
                          size_t *length);

#endif
