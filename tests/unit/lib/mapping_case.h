/* SPDX-License-Identifier: MIT */
/*
 * What the suites of the mapping share: the mapping of an image that was just
 * built, with all that it borrows.
 */
#ifndef UNIT_MAPPING_CASE_H
#define UNIT_MAPPING_CASE_H

#include "builder.h"
#include "cache/pool.h"
#include "meta/header.h"
#include "meta/mapping.h"

struct mapping_case {
    struct store *file; /* in memory */
    struct store *data_file;
    struct header *header;
    struct cache_pool *l2;
    struct mapping *mapping;
    struct mapping_fault fault; /* of the last lookup that failed */
};

/* Takes the builder's image and destroys the builder; slices of `slice_size` bytes. */
void mapping_case_open(struct mapping_case *mapping_case, struct builder *builder,
                       uint64_t slice_size);
void mapping_case_close(struct mapping_case *mapping_case);

/* A lookup that must find this kind and length; what it found. */
struct extent expect_extent(struct mapping_case *mapping_case, uint64_t guest_offset,
                            uint64_t length, enum extent_kind kind, uint64_t found);

/* The same for DATA in the image file at this host offset. */
void expect_data(struct mapping_case *mapping_case, uint64_t guest_offset, uint64_t length,
                 uint64_t host_offset, uint64_t found);

/* A lookup that must fail with -EIO, these offsets, and a text that holds this. */
void expect_fault(struct mapping_case *mapping_case, uint64_t lookup_offset, uint64_t guest_offset,
                  uint64_t host_offset, const char *text);

#endif
