/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "ctl/map_walk.h"

#include "admin/preallocated.h"
#include "util/checked.h"

#include <inttypes.h>
#include <stdlib.h>

/*
 * A lookup looks ahead twice as far each time that all it saw was one extent: a
 * long unallocated range of an overlay is not walked again for each small
 * extent below it.
 */
#define WINDOW_MIN (UINT64_C(2) << 20) /* bytes */
#define WINDOW_MAX (UINT64_C(1) << 40)

#define SECTOR_SIZE UINT64_C(512)

/* Whether holes of the host file are looked for below data clusters: found out on demand. */
enum holes {
    HOLES_UNKNOWN,
    HOLES_IGNORED,
    HOLES_SHOWN,
};

struct map_walk {
    struct view *view;
    const struct image **chain; /* by depth */
    enum holes *holes;          /* by depth */
    unsigned count;
    uint64_t position, end; /* bytes of the disk */
    uint64_t window;
    struct view_extent found; /* at position, also after a fault */
    uint64_t fault_offset;    /* of the disk: where that begins to be impossible */
};

int map_walk_open(struct view *view, const struct image *image, uint64_t start, uint64_t end,
                  struct map_walk **walk)
{
    struct map_walk *opened = calloc(1, sizeof(*opened));
    const struct image *at;

    *walk = opened;
    if (opened == NULL) {
        return -ENOMEM;
    }
    opened->view = view;
    opened->position = start;
    opened->end = end;
    opened->window = WINDOW_MIN;
    for (at = image; at != NULL; at = at->backing) {
        opened->count++;
    }
    opened->chain = calloc(opened->count, sizeof(const struct image *));
    opened->holes = calloc(opened->count, sizeof(*opened->holes));
    if (opened->chain == NULL || opened->holes == NULL) {
        map_walk_close(opened);
        *walk = NULL;
        return -ENOMEM;
    }
    for (unsigned depth = 0; depth < opened->count; depth++, image = image->backing) {
        opened->chain[depth] = image;
    }
    return 0;
}

void map_walk_close(struct map_walk *walk)
{
    if (walk != NULL) {
        free(walk->holes);
        free(walk->chain);
        free(walk);
    }
}

uint64_t map_walk_position(const struct map_walk *walk)
{
    return walk->position;
}

/* --- what the host keeps --------------------------------------------------------- */

static bool shows_holes(struct map_walk *walk, const struct view_extent *found)
{
    enum holes *holes = &walk->holes[found->depth];

    if (found->image->format == IMAGE_RAW) {
        return true;
    }
    if (*holes == HOLES_UNKNOWN) {
        *holes = image_is_preallocated(found->image) ? HOLES_SHOWN : HOLES_IGNORED;
    }
    return *holes == HOLES_SHOWN;
}

/*
 * DATA: cut to what the host has all of, or nothing of. In a raw file a hole is
 * not data; in a qcow2 image it lies below clusters that are in use.
 */
static void apply_holes(struct map_walk *walk, struct map_extent *extent)
{
    const struct view_extent *found = &walk->found;
    uint64_t run;
    bool is_data;

    /* Where the host cannot tell, all is data. */
    if (shows_holes(walk, found) &&
        store_extent(found->extent.store, extent->offset, extent->length, &is_data, &run) == 0) {
        extent->length = min_u64(run, extent->length);
        extent->zero = !is_data;
        extent->data = is_data || found->image->format != IMAGE_RAW;
    }
}

/*
 * A raw file that ends within a sector: the rest of that is its own, and no
 * longer the overlay's, for qemu-img. False elsewhere.
 */
static bool apply_last_sector(const struct map_walk *walk, struct map_extent *extent)
{
    const struct image *below =
        extent->depth + 1 < walk->count ? walk->chain[extent->depth + 1] : NULL;
    uint64_t size = below != NULL ? below->virtual_size : 0, rest;

    if (below == NULL || below->format != IMAGE_RAW || extent->start < size ||
        extent->start - size >= -size % SECTOR_SIZE) {
        return false;
    }
    rest = -size % SECTOR_SIZE - (extent->start - size);
    extent->length = min_u64(extent->length, rest);
    extent->depth++;
    extent->present = true;
    extent->has_offset = true;
    extent->offset = extent->start;
    extent->path = below->path;
    return true;
}

/* --- from extents to what qemu-img says of them -------------------------------------- */

static const char *data_path(const struct image *image)
{
    return image->data_file_path != NULL ? image->data_file_path : image->path;
}

static void describe(struct map_walk *walk, struct map_extent *extent)
{
    const struct view_extent *found = &walk->found;
    const struct extent *from = &found->extent;

    *extent = (struct map_extent){
        .start = walk->position,
        .length = from->length,
        .depth = found->depth,
        .present = from->kind != EXTENT_UNALLOCATED,
        .zero = from->kind == EXTENT_UNALLOCATED || from->kind == EXTENT_ZERO,
        .offset = from->host_offset,
        .exclusive = from->exclusive,
    };
    extent->data = !extent->zero;
    extent->compressed = from->kind == EXTENT_COMPRESSED;
    extent->compressed_size = extent->compressed ? from->compressed_size : 0;
    extent->has_offset = extent->data || from->preallocated;
    if (extent->has_offset) {
        extent->path = data_path(walk->chain[found->depth]);
    }
    if (from->kind == EXTENT_DATA) {
        apply_holes(walk, extent);
    } else if (from->kind == EXTENT_UNALLOCATED) {
        apply_last_sector(walk, extent);
    }
}

int map_walk_next(struct map_walk *walk, struct map_extent *extent, struct error *error)
{
    uint64_t window = min_u64(walk->window, walk->end - walk->position);
    struct mapping_fault fault;
    int result;

    if (window == 0) {
        return 0;
    }
    result = view_lookup_exact(walk->view, walk->position, window, &walk->found, &fault);
    if (result < 0) {
        walk->fault_offset = fault.guest_offset;
        return error_set(error, -result,
                         "%s: guest offset 0x%" PRIx64 " cannot be mapped (host offset 0x%" PRIx64
                         "): %s; qcow2ctl check tells what else is damaged",
                         walk->found.image->path, fault.guest_offset, fault.host_offset,
                         fault.text);
    }
    walk->window =
        walk->found.extent.length < window ? WINDOW_MIN : min_u64(walk->window * 2, WINDOW_MAX);
    describe(walk, extent);
    walk->position += extent->length;
    return 1;
}

uint64_t map_walk_skip(struct map_walk *walk)
{
    const struct header *header = walk->found.image->header;
    uint64_t cluster = round_down(walk->position, header->cluster_size);
    uint64_t behind = cluster + header->cluster_size, skipped;

    /* A whole L2 table is missing, and nothing above it has a part of what that maps. */
    if (walk->found.depth == 0 && walk->fault_offset < cluster) {
        behind = walk->fault_offset + (UINT64_C(1) << header_l1_entry_bits(header));
    }
    skipped = min_u64(behind, walk->end) - walk->position;
    walk->position += skipped;
    return skipped;
}
