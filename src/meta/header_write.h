/* SPDX-License-Identifier: MIT */
/*
 * From a struct header back to the bytes of the first cluster: the header, its
 * extensions, the name of the backing file ("Header", "Header extensions").
 *
 *     0        header_length                                            cluster_size
 *     | fields | extensions, in the order that QEMU has, end | backing file name |  slack  |
 *      '-------------- one write of all that is used ---------------------------'
 *
 * A new image is written from a struct header alone. Of one that exists,
 * header_rest_read() first fetches what a struct header does not hold, and
 * header_write() puts that back byte for byte:
 *
 *     struct header changed = *image->header;    (a shallow copy will do)
 *     struct header_rest rest;
 *
 *     header_rest_read(file, image->header, path, &rest, error);
 *     changed.backing_file = name;
 *     header_write(file, &changed, &rest, path, error);
 *     store_sync(file);
 *     header_rest_free(&rest);
 *
 * The order of this write among others, and the sync behind it, are the
 * caller's. Takes no lock: nobody else may write the first cluster meanwhile.
 */
#ifndef META_HEADER_WRITE_H
#define META_HEADER_WRITE_H

#include "meta/header.h"
#include "store/store.h"
#include "util/error.h"

#include <stddef.h>
#include <stdint.h>

/* What the first cluster of an image holds beside what is in its struct header. */
struct header_rest {
    uint8_t *cluster; /* owned; what the others point into, NULL: a new image */
    size_t used;      /* bytes of the cluster up to the end of the last thing in it */
    /* Header fields behind compression_type, up to header_length. */
    const uint8_t *fields;
    size_t fields_length;
    /* The data of the feature name table, NULL where there is none. */
    const uint8_t *feature_names;
    size_t feature_names_length;
    /*
     * The unknown extensions, and a bitmaps extension whose autoclear bit is not
     * set, one after the other with their type, length and padding.
     */
    uint8_t *extensions; /* owned */
    size_t extensions_length;
};

/*
 * `header` is what header_read() made of the file's present first cluster. 0;
 * -EIO or another errno of reading, -ENOMEM, with a sentence that begins with `name`;
 * nothing is left to be freed then.
 */
int header_rest_read(struct store *file, const struct header *header, const char *name,
                     struct header_rest *rest, struct error *error);
void header_rest_free(struct header_rest *rest);

/*
 * The bytes, in memory that the caller frees. Of `header` counts what is on
 * disk, none of the derived fields; the caller keeps them in agreement (the
 * compression type with its feature bit, for one). header_length becomes 72 for
 * version 2; for version 3 it stays what it was in `rest` and becomes 112
 * otherwise, 104 only where it was that and 112 is not needed. `rest` may be NULL.
 *
 * A version 3 header gets a feature name table, the one it had or one of all
 * known bits, unless it does not fit. -ENOSPC with a sentence where anything
 * else does not fit into the first cluster; -ENAMETOOLONG for a backing file
 * name of more than 1023 bytes or a format name of more than 15; -EINVAL for
 * what version 2 cannot express; -ENOMEM.
 *
 * Where `rest` used more bytes than are needed now, zeros follow up to there:
 * nothing of an old name stays behind.
 */
int header_encode(const struct header *header, const struct header_rest *rest, const char *name,
                  uint8_t **bytes, size_t *length, struct error *error);

/* The same, to the file: one write at its beginning. Also -EIO and the like. */
int header_write(struct store *file, const struct header *header, const struct header_rest *rest,
                 const char *name, struct error *error);

/*
 * R6, for who changes a file without a writer: autoclear bits that are not known are cleared,
 * stably, and in `header`; nothing is written where there are none. 0 or a negative errno.
 */
int header_clear_unknown(struct store *file, struct header *header);

#endif
