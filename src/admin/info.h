/* SPDX-License-Identifier: MIT */
/*
 * What there is to know of an image, as JSON: all keys of `qemu-img info
 * --output=json`, with its values, and more under "details" and "backing-chain".
 * Of an image that cannot be opened, what can be known. Needs the JSON library
 * that configure found.
 */
#ifndef IMAGE_INFO_H
#define IMAGE_INFO_H

#include "admin/audit.h"
#include "admin/inspect.h"
#include "cache/sizes.h"
#include "check/check.h"
#include "disk/image.h"
#include "util/json.h"

#include <stdbool.h>

/* How the image is scattered: what takes time to find out. */
struct info_fragmentation {
    struct check_result clusters; /* its first five fields */
    uint64_t host_extents;        /* pieces of data in the image file, between holes */
};

/* What is told besides of the active image; each may be NULL. */
struct info_extras {
    const struct info_fragmentation *fragmentation;
    const struct audit *audit;
};

/* Cache sizes, all in bytes, for this image alone. */
struct info_cache {
    uint64_t l2_full;          /* l2-cache-size that covers the whole disk */
    uint64_t l2_default;       /* what is taken unasked */
    uint64_t l2_covers;        /* and how much of the disk that covers */
    uint64_t refcount_full;    /* refcount-cache-size that covers the whole file */
    uint64_t refcount_default; /* as above */
    uint64_t refcount_covers;
};

/* False where the header is too damaged for it. */
bool info_cache_sizes(const struct inspection *inspection, struct info_cache *sizes);

/* The image, with what is behind it under "backing-chain". json_free() it. */
struct json *info_json(const struct inspection *inspection, const struct info_extras *extras);

/* The images of the chain as one array. */
struct json *info_json_list(const struct inspection *inspection, const struct info_extras *extras);

/* The snapshots alone, as an array. json_free() it. */
struct json *info_json_snapshots(const struct snapshot_table *table);

/* False where this build has no JSON library (jansson). */
bool image_info_available(void);

/*
 * info_json() of a chain that is open, without an overlay, which is told of beside it: a string for
 * the caller to free, ending in a newline; NULL when memory ran out.
 */
char *image_info_json(const struct image *image);

#endif
