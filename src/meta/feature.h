/* SPDX-License-Identifier: MIT */
/* The feature bits of a version 3 header by name ("Feature name table"). */
#ifndef META_FEATURE_H
#define META_FEATURE_H

#include <stddef.h>
#include <stdint.h>

struct feature {
    uint8_t type; /* FEATURE_TYPE_* of meta/format.h */
    uint8_t bit;
    const char *name; /* as QEMU writes it into the table; at most 46 bytes */
};

/* All that the specification knows, in the order of the types and bits. */
extern const struct feature known_features[];
extern const size_t known_feature_count;

/* What FEATURE_TYPE_... of meta/format.h is called; NULL for another number. */
const char *feature_type_name(uint8_t type);

#endif
