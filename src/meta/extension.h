/* SPDX-License-Identifier: MIT */
/*
 * The header extension area ("Header extensions"): from the end of the header
 * to the backing file name, or to the end of the first cluster.
 */
#ifndef META_EXTENSION_H
#define META_EXTENSION_H

#include "meta/header.h"
#include "util/error.h"

#include <stddef.h>
#include <stdint.h>

struct extension {
    uint32_t type;
    uint32_t length; /* bytes of data, without its padding */
    const uint8_t *data;
};

/* What a type of extension is called, NULL for an unknown one. */
const char *extension_name(uint32_t type);

enum extension_step {
    EXTENSION_STEP_NEXT, /* *extension is filled, *position is behind it */
    EXTENSION_STEP_END,
    EXTENSION_STEP_OVERRUN, /* *extension is filled, but its data does not fit the area */
};

/* The extension at *position of the area of `cluster` that ends at `end`; both in bytes. */
enum extension_step extension_next(const uint8_t *cluster, size_t end, size_t *position,
                                   struct extension *extension);

/*
 * Parses the area [begin, end) of `cluster`, the bytes of the first cluster,
 * into `header`. -EINVAL with a sentence when an extension runs over the area
 * or holds an impossible value; -ENOMEM.
 */
int extension_parse_all(const uint8_t *cluster, size_t begin, size_t end, const char *name,
                        struct header *header, struct error *error);

/*
 * The names of the incompatible features in `bits`, as far as the feature name
 * table in the area knows them, as "'name' (bit 5), bit 6"; in `text`, cut to
 * fit. Never fails: what is damaged is passed over.
 */
void extension_feature_names(const uint8_t *cluster, size_t begin, size_t end, uint64_t bits,
                             char *text, size_t size);

#define EXTENSION_FEATURE_NAME_MAX 47 /* bytes, with the NUL */

/* The name that the table in the area gives to one bit of FEATURE_TYPE_...; empty: none. */
void extension_feature_name(const uint8_t *cluster, size_t begin, size_t end, uint8_t type,
                            unsigned bit, char text[EXTENSION_FEATURE_NAME_MAX]);

#endif
