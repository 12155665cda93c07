/* SPDX-License-Identifier: MIT */
/* What one image of a chain, without those behind it, says of a guest offset. */
#ifndef IMAGE_LOOKUP_H
#define IMAGE_LOOKUP_H

#include "disk/image.h"
#include "meta/mapping.h"

/* mapping_lookup() or mapping_lookup_exact(). */
typedef int lookup_fn(struct mapping *mapping, uint64_t guest_offset, uint64_t length,
                      struct extent *extent, struct mapping_fault *fault);

/* As `lookup`, which is asked for `mapping` of a qcow2 image; a raw image is one DATA extent. */
static inline int image_lookup(const struct image *image, struct mapping *mapping,
                               lookup_fn *lookup, uint64_t guest_offset, uint64_t length,
                               struct extent *extent, struct mapping_fault *fault)
{
    if (image->format == IMAGE_RAW) {
        *extent = (struct extent){
            .kind = EXTENT_DATA,
            .length = length,
            .store = image->file,
            .host_offset = guest_offset,
        };
        return 0;
    }
    return lookup(mapping, guest_offset, length, extent, fault);
}

#endif
