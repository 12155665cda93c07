/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "disk/resolved.h"

#include "cache/cache.h"
#include "disk/lookup.h"
#include "util/checked.h"

#include <errno.h>
#include <stdlib.h>

#define BLOCK_UNITS 512 /* with clusters of 64 KiB, what one L2 slice of the default size maps */
#define IMAGES_MIN  2
#define BLOCKS_MIN  16                    /* that the data pool must have room for */
#define L2_BUDGET   (UINT64_C(128) << 10) /* bytes */
#define OWNER       (UINT64_C(1) << 63)   /* of cache keys: no image has such a number */

enum state {
    UNIT_OPEN,    /* no image so far has it; in a finished block: none has it, zeros */
    UNIT_DECIDED, /* by the image of that number */
    UNIT_UNKNOWN, /* the images are to be asked */
};

/* Where one unit is. */
struct unit {
    uint64_t host_offset;     /* DATA: of its first byte; COMPRESSED: of the cluster's data */
    uint32_t compressed_size; /* bytes, as in struct extent */
    uint16_t image;           /* index in `images` */
    uint8_t state;
    uint8_t kind; /* enum extent_kind */
};

/* What a read needs of one image; the images themselves are far apart in memory. */
struct source {
    const struct image *image;
    struct store *data;
    unsigned depth;
};

struct resolved {
    struct source *images; /* in the order of the chain */
    size_t count;
    uint32_t unit_bits;
    struct cache_pool *pool; /* of the blocks: the shared cache's */
    /*
     * What a block was made of is seldom wanted again, so L2 slices of these
     * images do not push those of the active image out of the shared cache.
     */
    struct cache_pool *l2;
    uint64_t l2_entry_size; /* bytes */
};

/* What a block is made of; for fill_block(). */
struct block_source {
    const struct resolved *resolved;
    uint64_t start; /* guest offset */
};

/* --- Life ------------------------------------------------------------------- */

/* Takes the images in, and gives them their own pool. */
static void take_images(struct resolved *resolved, const struct image *first)
{
    resolved->unit_bits = UINT32_MAX;
    for (const struct image *image = first; image != NULL; image = image->backing) {
        resolved->images[resolved->count++] = (struct source){
            .image = image,
            .data = image->format == IMAGE_RAW ? image->file : image->data_file,
            .depth = (unsigned)image->number,
        };
        if (image->active != NULL) {
            resolved->unit_bits =
                (uint32_t)min_u64(resolved->unit_bits, image->header->subcluster_bits);
            mapping_set_cache(image->active, resolved->l2, resolved->l2_entry_size);
        }
    }
}

int resolved_create(const struct image *first, struct resolved **resolved)
{
    struct resolved *made;
    size_t count = 0;

    *resolved = NULL;
    for (const struct image *image = first; image != NULL; image = image->backing) {
        count++;
    }
    /* A pool that keeps too little of it would have each read resolve a whole block. */
    if (count < IMAGES_MIN || count > UINT16_MAX ||
        first->cache->sizes.data_budget < BLOCKS_MIN * BLOCK_UNITS * sizeof(struct unit)) {
        return 0;
    }
    made = calloc(1, sizeof(*made));
    if (made == NULL) {
        return -ENOMEM;
    }
    made->pool = first->cache->data;
    made->l2_entry_size = min_u64(first->cache->sizes.l2_entry_size, RESOLVED_L2_ENTRY_MAX);
    made->images = calloc(count, sizeof(struct source));
    if (made->images == NULL ||
        cache_pool_create(L2_BUDGET, in_memory(made->l2_entry_size), &made->l2) < 0) {
        resolved_destroy(made);
        return -ENOMEM;
    }
    take_images(made, first);
    *resolved = made;
    return 0;
}

void resolved_destroy(struct resolved *resolved)
{
    if (resolved != NULL) {
        cache_pool_destroy(resolved->l2);
        free(resolved->images);
        free(resolved);
    }
}

/* --- Making a block ------------------------------------------------------------ */

static void decide(struct unit *units, size_t from, size_t to, const struct extent *extent,
                   size_t image, uint32_t unit_bits)
{
    for (size_t i = from; i < to; i++) {
        units[i] = (struct unit){
            .image = (uint16_t)image,
            .state = UNIT_DECIDED,
            .kind = (uint8_t)extent->kind,
        };
        if (extent->kind == EXTENT_DATA) {
            units[i].host_offset = extent->host_offset + ((uint64_t)(i - from) << unit_bits);
        } else if (extent->kind == EXTENT_COMPRESSED) {
            units[i].host_offset = extent->host_offset;
            units[i].compressed_size = (uint32_t)extent->compressed_size;
        }
    }
}

/* Asks one image for the open units [from, to), all within its disk. */
static void ask_run(const struct block_source *source, struct unit *units, size_t from, size_t to,
                    size_t number)
{
    const struct resolved *resolved = source->resolved;
    const struct image *image = resolved->images[number].image;
    uint64_t unit_size = UINT64_C(1) << resolved->unit_bits;

    while (from < to) {
        uint64_t offset = source->start + ((uint64_t)from << resolved->unit_bits);
        uint64_t length = (uint64_t)(to - from) << resolved->unit_bits;
        struct mapping_fault fault;
        struct extent extent;
        size_t whole;

        if (image_lookup(image, image->active, mapping_lookup, offset, length, &extent, &fault) <
                0 ||
            extent.length < unit_size) {
            units[from++].state = UNIT_UNKNOWN;
            continue;
        }
        whole = (size_t)(extent.length >> resolved->unit_bits);
        if (extent.kind != EXTENT_UNALLOCATED) {
            decide(units, from, from + whole, &extent, number, resolved->unit_bits);
        }
        from += whole;
    }
}

/*
 * How many units of the block the image's disk holds. What is behind its end
 * reads as zeros, whatever the images behind it hold; the unit in which it
 * ends is both.
 */
static size_t cut_at_end(const struct block_source *source, struct unit *units, size_t count,
                         const struct image *image)
{
    uint32_t bits = source->resolved->unit_bits;
    uint64_t size = image->virtual_size;
    uint64_t inside = size > source->start ? size - source->start : 0;
    size_t whole = (size_t)min_u64(inside >> bits, count);

    if (whole < count && inside > (uint64_t)whole << bits && units[whole].state == UNIT_OPEN) {
        units[whole].state = UNIT_UNKNOWN;
    }
    return whole;
}

/* cache_fill_fn: one image after the other, for those units that none before it has. */
static int fill_block(void *context, void *data, size_t size)
{
    const struct block_source *source = context;
    const struct resolved *resolved = source->resolved;
    size_t count = size / sizeof(struct unit);
    struct unit *units = data;

    for (size_t i = 0; i < count; i++) {
        units[i] = (struct unit){.state = UNIT_OPEN};
    }
    for (size_t number = 0; number < resolved->count; number++) {
        size_t from = 0, to;
        bool any = false;

        count = cut_at_end(source, units, count, resolved->images[number].image);
        while (from < count) {
            while (from < count && units[from].state != UNIT_OPEN) {
                from++;
            }
            for (to = from; to < count && units[to].state == UNIT_OPEN; to++) {
                any = true;
            }
            ask_run(source, units, from, to, number);
            from = to;
        }
        if (!any) {
            break;
        }
    }
    return 0;
}

/* --- Looking up ----------------------------------------------------------------- */

/* Whether `next`, which is `distance` bytes behind `first`, goes on with the same extent. */
static bool goes_on(const struct unit *first, const struct unit *next, uint64_t distance)
{
    uint64_t offset = first->host_offset + (first->kind == EXTENT_DATA ? distance : 0);

    return next->state == first->state && next->kind == first->kind &&
           next->image == first->image && next->host_offset == offset;
}

static void describe(const struct resolved *resolved, const struct unit *unit,
                     uint64_t guest_offset, struct view_extent *found)
{
    uint64_t in_unit = guest_offset & ((UINT64_C(1) << resolved->unit_bits) - 1);
    const struct source *source = &resolved->images[unit->image];

    *found = (struct view_extent){.extent = {.kind = EXTENT_UNALLOCATED}};
    if (unit->state == UNIT_OPEN) {
        return;
    }
    found->image = source->image;
    found->depth = source->depth;
    found->extent.kind = unit->kind;
    if (unit->kind == EXTENT_DATA) {
        found->extent.store = source->data;
        found->extent.host_offset = unit->host_offset + in_unit;
    } else if (unit->kind == EXTENT_COMPRESSED) {
        found->extent.store = source->image->file;
        found->extent.host_offset = unit->host_offset;
        found->extent.compressed_size = unit->compressed_size;
        found->extent.offset_in_cluster = guest_offset & (source->image->header->cluster_size - 1);
    }
}

/* How far the extent goes that begins at guest_offset, in the unit `index` of the block. */
static uint64_t run_length(const struct resolved *resolved, const struct unit *units, size_t index,
                           uint64_t guest_offset, uint64_t length)
{
    uint64_t unit_size = UINT64_C(1) << resolved->unit_bits;
    uint64_t in_unit = guest_offset & (unit_size - 1), end = unit_size;
    const struct unit *first = &units[index];

    while (end - in_unit < length && ++index < BLOCK_UNITS && goes_on(first, &units[index], end)) {
        end += unit_size;
    }
    return min_u64(end - in_unit, length);
}

bool resolved_lookup(struct resolved *resolved, uint64_t guest_offset, uint64_t length,
                     struct view_extent *found)
{
    uint64_t span = (uint64_t)BLOCK_UNITS << resolved->unit_bits;
    struct block_source source = {
        .resolved = resolved,
        .start = round_down(guest_offset, span),
    };
    const struct cache_key key = {.owner = OWNER, .host_offset = source.start};
    size_t index = (size_t)((guest_offset - source.start) >> resolved->unit_bits);
    const struct cache_entry *block;
    const struct unit *units;
    bool known;

    if (cache_pool_get(resolved->pool, key, BLOCK_UNITS * sizeof(struct unit), fill_block, &source,
                       &block) < 0) {
        return false;
    }
    units = block->data;
    known = units[index].state != UNIT_UNKNOWN;
    if (known) {
        describe(resolved, &units[index], guest_offset, found);
        if (found->extent.kind == EXTENT_COMPRESSED) {
            length = min_u64(length,
                             found->image->header->cluster_size - found->extent.offset_in_cluster);
        }
        found->extent.length = run_length(resolved, units, index, guest_offset, length);
    }
    cache_pool_unpin(resolved->pool, block);
    return known;
}
