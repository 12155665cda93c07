/* SPDX-License-Identifier: MIT */
/* What view.c and view_ahead.c share: the view itself. */
#ifndef IMAGE_VIEW_INTERNAL_H
#define IMAGE_VIEW_INTERNAL_H

#include "disk/lookup.h"
#include "disk/prefetch.h"
#include "disk/view.h"

struct resolved;

struct view {
    struct image *image;
    struct mapping *mapping; /* the active one, borrowed, or a snapshot's, owned */
    bool owns_mapping;
    bool has_backing; /* what the mapping leaves unallocated is asked of the backing image */
    uint64_t base;    /* guest offset of the view's first byte in the mapping */
    uint64_t size;    /* bytes; of the active disk: image->virtual_size */
    bool is_active;
    struct prefetch *prefetch; /* of compressed clusters; NULL where there is nothing to gain */
    struct prefetch *slices;   /* of L2 slices, likewise; its offsets are the mapping's */
};

/* 0 or -ENOMEM. What is worth being done ahead of readers; view_end_prefetch() ends it. */
int view_open_ahead(struct view *view);

/* `behind` may be NULL: then the images are asked one by one. */
int view_lookup_in_chain(struct view *view, lookup_fn *lookup, struct resolved *behind,
                         uint64_t guest_offset, uint64_t length, struct view_extent *found,
                         struct mapping_fault *fault);

#endif
