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

#endif
