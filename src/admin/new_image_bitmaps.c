/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "admin/new_image_internal.h"
#include "meta/bitmap_write.h"
#include "meta/format.h"
#include "meta/header_write.h"
#include "util/checked.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* What is set of the bits for the disk's bytes [from, to), which a cluster holds; its table's entry
   where all are alike, else 0 with *mixed. */
static uint64_t collect(const struct changed *bits, uint64_t from, uint64_t to, uint64_t size,
                        uint8_t *cluster, size_t cluster_size, bool *mixed)
{
    uint64_t granularity = changed_granularity(bits), at = from, begin, end, set = 0;

    memset(cluster, 0, cluster_size);
    while (changed_next(bits, at, min_u64(to, size), &begin, &end)) {
        for (uint64_t bit = (begin - from) / granularity; bit <= (end - 1 - from) / granularity;
             bit++) {
            cluster[bit / 8] |= (uint8_t)(1U << (bit % 8));
            set++;
        }
        at = end;
    }
    *mixed = set > 0 && set < (uint64_t)cluster_size * 8;
    return set > 0 && !*mixed ? BITMAP_TABLE_ENTRY_ALL_ONES : 0;
}

static int put_clusters(struct new_image *image, const struct changed *bits, uint64_t *table,
                        uint64_t entries)
{
    const struct header *header = image->header;
    /* Of a disk and a cluster that can be it does not overflow. */
    uint64_t covered = header->cluster_size * 8 * changed_granularity(bits);
    uint8_t *cluster = malloc(in_memory(header->cluster_size));
    int result = cluster == NULL ? -ENOMEM : 0;

    for (uint64_t i = 0; i < entries && result == 0; i++) {
        uint64_t entry;
        bool mixed;

        entry = collect(bits, i * covered, (i + 1) * covered, header->virtual_size, cluster,
                        in_memory(header->cluster_size), &mixed);
        if (mixed) {
            result = new_image_take(image, 1, &entry);
        }
        if (mixed && result == 0) {
            result = new_image_put(image, entry, cluster, header->cluster_size);
        }
        store_be64(&table[i], entry);
    }
    free(cluster);
    return result;
}

/* In whole clusters of its own. */
static int put_table(struct new_image *image, const void *bytes, uint64_t length,
                     uint64_t *host_offset)
{
    int result =
        new_image_take(image, div_round_up(length, image->header->cluster_size), host_offset);

    if (result == 0) {
        result = new_image_put(image, *host_offset, bytes, length);
    }
    return result == 0 ? new_image_pad(image, *host_offset, length) : result;
}

static int remember(struct new_image *image, const struct bitmap *bitmap)
{
    struct bitmap *more =
        reallocarray(image->bitmaps, image->bitmap_count + 1, sizeof(*image->bitmaps));

    if (more == NULL) {
        return -ENOMEM;
    }
    image->bitmaps = more;
    more[image->bitmap_count] = (struct bitmap){
        .name = strdup(bitmap->name),
        .granularity = bitmap->granularity,
        .flags = bitmap->flags & BITMAP_FLAG_AUTO,
        .type = BITMAP_TYPE_DIRTY_TRACKING,
    };
    if (more[image->bitmap_count].name == NULL) {
        return -ENOMEM;
    }
    image->bitmap_count++;
    return 0;
}

int new_image_bitmap(struct new_image *image, const struct bitmap *bitmap,
                     const struct changed *bits)
{
    uint64_t entries = bitmap_table_entries(image->header, bitmap->granularity), *table;
    int result;

    if (entries == 0 || entries > BITMAP_SIZE_MAX / image->header->cluster_size) {
        return -EFBIG;
    }
    table = calloc(in_memory(entries), sizeof(*table));
    result = table == NULL ? -ENOMEM : remember(image, bitmap);
    if (result == 0) {
        struct bitmap *made = &image->bitmaps[image->bitmap_count - 1];

        made->table_entries = (uint32_t)entries;
        result = put_clusters(image, bits, table, entries);
        if (result == 0) {
            result =
                put_table(image, table, entries * BITMAP_TABLE_ENTRY_BYTES, &made->table_offset);
        }
    }
    free(table);
    return result;
}

/* The header as it is when it names a directory, wherever that is. */
static void name_directory(struct header *header, uint64_t host_offset, uint64_t size, size_t count)
{
    header_move_bitmaps(header, host_offset, size, (uint32_t)count);
    header->autoclear_features |= AUTOCLEAR_BITMAPS;
}

int new_image_check_bitmaps(const struct header *header, const char *name, struct error *error)
{
    struct header changed = *header; /* shallow */
    uint8_t *bytes;
    size_t length;
    int result;

    if (header->version < 3) {
        return error_set(error, EINVAL,
                         "%s: an image of version 2 has no bitmaps; leave out compat=0.10, or "
                         "--bitmaps",
                         name);
    }
    name_directory(&changed, 0, 0, 1);
    result = header_encode(&changed, NULL, name, &bytes, &length, error);
    if (result == 0) {
        free(bytes);
    }
    return result;
}

int new_image_put_bitmaps(struct new_image *image, struct header *header)
{
    uint64_t host_offset;
    uint8_t *bytes;
    size_t length;
    int result;

    if (image->bitmap_count == 0) {
        return 0;
    }
    result = bitmap_directory_make(image->bitmaps, image->bitmap_count, &bytes, &length);
    if (result == 0) {
        result = put_table(image, bytes, length, &host_offset);
        free(bytes);
    }
    if (result == 0) {
        name_directory(header, host_offset, length, image->bitmap_count);
    }
    return result;
}

void new_image_free_bitmaps(struct new_image *image)
{
    for (size_t i = 0; i < image->bitmap_count; i++) {
        free(image->bitmaps[i].name);
    }
    free(image->bitmaps);
}
