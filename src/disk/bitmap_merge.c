/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "disk/bitmaps_internal.h"
#include "util/checked.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* "Bitmap table": a cluster's bits, the least significant of a byte first. */
struct bits {
    struct store *file;
    const uint64_t *table; /* host byte order */
    uint64_t entries;
    uint64_t granularity; /* bytes of the disk for a bit */
    size_t size;          /* of a cluster, bytes */
    uint8_t *cluster;
};

static uint64_t bits_a_cluster(const struct bits *bits)
{
    return (uint64_t)bits->size * 8;
}

/* Bytes of the disk that a cluster of bits is for. It does not overflow: sizes are those of a disk
   and at most one cluster more. */
static uint64_t bytes_a_cluster(const struct bits *bits)
{
    return bits_a_cluster(bits) * bits->granularity;
}

static int load(const struct bits *bits, uint64_t index)
{
    uint64_t entry = bits->table[index];

    if ((entry & ENTRY_HOST_OFFSET_MASK) != 0) {
        return store_read(bits->file, entry & ENTRY_HOST_OFFSET_MASK, bits->cluster, bits->size);
    }
    memset(bits->cluster, (entry & BITMAP_TABLE_ENTRY_ALL_ONES) != 0 ? 0xff : 0, bits->size);
    return 0;
}

static void set_bits(uint8_t *cluster, uint64_t first, uint64_t last)
{
    for (; first <= last && first % 8 != 0; first++) {
        cluster[first / 8] |= (uint8_t)(1U << (first % 8));
    }
    for (; first + 7 <= last; first += 8) {
        cluster[first / 8] = 0xff;
    }
    for (; first <= last; first++) {
        cluster[first / 8] |= (uint8_t)(1U << (first % 8));
    }
}

/* The set bits [first, last] of the loaded cluster at `from` bytes of the disk, into that at `to`.
 */
static void carry(const struct bits *source, uint64_t from, const struct bits *into, uint64_t to,
                  uint64_t first, uint64_t last)
{
    uint64_t begin = max_u64(from + first * source->granularity, to);
    uint64_t end = min_u64(from + (last + 1) * source->granularity, to + bytes_a_cluster(into));

    if (begin < end) {
        set_bits(into->cluster, (begin - to) / into->granularity,
                 (end - 1 - to) / into->granularity);
    }
}

/* All that is set in the loaded cluster, run by run. */
static void carry_cluster(const struct bits *source, uint64_t from, const struct bits *into,
                          uint64_t to)
{
    uint64_t count = bits_a_cluster(source), first = 0;
    const uint8_t *bytes = source->cluster;

    while (first < count) {
        uint64_t last;

        if (bytes[first / 8] >> (first % 8) == 0) {
            first = (first / 8 + 1) * 8;
            continue;
        }
        first += (uint64_t)__builtin_ctz(bytes[first / 8] >> (first % 8));
        for (last = first; last + 1 < count; last++) {
            if ((last + 1) % 8 == 0 && last + 8 < count && bytes[(last + 1) / 8] == 0xff) {
                last += 7;
            } else if ((bytes[(last + 1) / 8] >> ((last + 1) % 8) & 1) == 0) {
                break;
            }
        }
        carry(source, from, into, to, first, last);
        first = last + 1;
    }
}

/* What the source has of the part of the disk that the loaded cluster of `into` is for. */
static int merge_cluster(const struct bits *source, const struct bits *into, uint64_t index,
                         bool *changed)
{
    uint64_t to = index * bytes_a_cluster(into);
    uint64_t at = to / bytes_a_cluster(source);
    int result = 0;

    for (; result == 0 && at < source->entries; at++) {
        uint64_t from = at * bytes_a_cluster(source);

        if (from >= to + bytes_a_cluster(into)) {
            break;
        }
        if (source->table[at] != 0) {
            result = load(source, at);
            carry_cluster(source, from, into, to);
            *changed = true;
        }
    }
    return result;
}

/* Behind the end of the disk nothing is set. */
static void cut_off(const struct bits *bits, uint64_t index, uint64_t disk_size)
{
    uint64_t first = index * bits_a_cluster(bits);
    uint64_t all = div_round_up(disk_size, bits->granularity);

    for (uint64_t bit = all - first; all > first && bit < bits_a_cluster(bits); bit++) {
        if (bit % 8 == 0) {
            memset(bits->cluster + bit / 8, 0, in_memory(bits->size - bit / 8));
            break;
        }
        bits->cluster[bit / 8] &= (uint8_t) ~(1U << (bit % 8));
    }
}

static bool is_zero(const struct bits *bits)
{
    return bits->cluster[0] == 0 && memcmp(bits->cluster, bits->cluster + 1, bits->size - 1) == 0;
}

static int merge(struct bitmap_change *change, const struct bits *source, const struct bits *into,
                 uint64_t *table)
{
    uint64_t disk_size = change->writer->header->virtual_size;

    for (uint64_t i = 0; i < into->entries; i++) {
        bool changed = false;
        int result = load(into, i);

        if (result == 0) {
            result = merge_cluster(source, into, i, &changed);
        }
        if (result == 0 && changed) {
            cut_off(into, i, disk_size);
            if (is_zero(into)) {
                table[i] = 0;
            } else {
                result = bitmap_place(change, into->cluster, into->size, &table[i]);
            }
        }
        if (result < 0) {
            return result;
        }
    }
    return 0;
}

int bitmap_merge(struct bitmap_change *change, const struct bitmap *into, uint64_t *table,
                 struct image *source, const struct bitmap *bitmap)
{
    struct image *image = change->writer->image;
    struct bits ours = {
        .file = image->file,
        .table = table,
        .entries = into->table_entries,
        .granularity = into->granularity,
        .size = in_memory(image->header->cluster_size),
        .cluster = malloc(in_memory(image->header->cluster_size)),
    };
    struct bits theirs = {
        .file = source->file,
        .entries = bitmap->table_entries,
        .granularity = bitmap->granularity,
        .size = in_memory(source->header->cluster_size),
        .cluster = malloc(in_memory(source->header->cluster_size)),
    };
    uint64_t *other = NULL;
    int result = ours.cluster == NULL || theirs.cluster == NULL ? -ENOMEM : 0;

    if (result == 0) {
        result = bitmap_table_read(source->file, source->header, source->path, bitmap, false,
                                   &other, change->error);
    }
    if (result == 0) {
        theirs.table = other;
        result = merge(change, &theirs, &ours, table);
    }
    free(ours.cluster);
    free(theirs.cluster);
    free(other);
    return result;
}
