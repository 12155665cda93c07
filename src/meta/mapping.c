/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "meta/mapping.h"

#include "meta/format.h"
#include "meta/mapping_internal.h"
#include "meta/mapping_write.h"
#include "util/checked.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A lookup on its way through the tables. */
struct walk {
    struct mapping *mapping;
    uint64_t position;     /* guest offset of the next byte to look at */
    uint64_t end;          /* guest offset at which to stop */
    struct extent *extent; /* found so far; length 0 at first */
    uint64_t l1_entry;     /* of `position` */
    bool own_table;        /* the L2 table at `position` is not shared with a snapshot */
    bool exact;            /* what reads alike is told apart: mapping_lookup_exact() */
    struct mapping_fault *fault;
};

/* --- Faults ---------------------------------------------------------------------- */

static int fault_set(const struct walk *walk, uint64_t guest_offset, uint64_t host_offset,
                     const char *format, ...) __attribute__((format(printf, 4, 5)));

static int fault_set(const struct walk *walk, uint64_t guest_offset, uint64_t host_offset,
                     const char *format, ...)
{
    va_list arguments;

    walk->fault->guest_offset = guest_offset;
    walk->fault->host_offset = host_offset;
    walk->fault->impossible = true;
    va_start(arguments, format);
    vsnprintf(walk->fault->text, sizeof(walk->fault->text), format, arguments);
    va_end(arguments);
    return -EIO;
}

bool mapping_in_file(struct mapping *mapping, uint64_t offset, uint64_t length)
{
    struct store_info info;

    if (range_within(offset, length,
                     atomic_load_explicit(&mapping->file_size, memory_order_relaxed))) {
        return true;
    }
    if (store_info(mapping->source.file, &info) < 0) {
        return false;
    }
    /* What lies within a file that was longer is for the store to judge, which has seen that. */
    atomic_store_explicit(&mapping->file_size, info.size, memory_order_relaxed);
    return range_within(offset, length, info.size);
}

/* --- Decoding of entries ------------------------------------------------------------ */

/* True when the piece could be joined to what was found so far. */
static bool extent_append(struct extent *extent, const struct extent *piece)
{
    if (extent->length == 0) {
        *extent = *piece;
        return true;
    }
    if (extent->kind != piece->kind || extent->kind == EXTENT_COMPRESSED) {
        return false;
    }
    if (extent->exclusive != piece->exclusive || extent->preallocated != piece->preallocated) {
        return false;
    }
    if ((extent->kind == EXTENT_DATA || extent->preallocated) &&
        extent->host_offset + extent->length != piece->host_offset) {
        return false;
    }
    extent->length += piece->length;
    return true;
}

/* Appends `piece`, cut to the walk's end; false when the extent ends before it. */
static bool walk_append(struct walk *walk, struct extent *piece)
{
    piece->length = min_u64(piece->length, walk->end - walk->position);
    if (!extent_append(walk->extent, piece)) {
        return false;
    }
    walk->position += piece->length;
    return true;
}

/* "Compressed Clusters Descriptor" */
static int decode_compressed(const struct walk *walk, uint64_t entry, uint64_t entry_offset,
                             struct extent *piece)
{
    struct mapping *mapping = walk->mapping;
    const struct header *header = mapping->source.header;
    uint64_t in_cluster = walk->position & (header->cluster_size - 1);
    uint64_t offset = l2_entry_compressed_offset(entry, header->cluster_bits);

    if (header->external_data_file) {
        return fault_set(walk, walk->position - in_cluster, entry_offset,
                         "L2 entry 0x%016" PRIx64 " is of a compressed cluster, which an image "
                         "with an external data file cannot have",
                         entry);
    }
    if (!mapping_in_file(mapping, offset, 1)) {
        return fault_set(walk, walk->position - in_cluster, entry_offset,
                         "L2 entry 0x%016" PRIx64 " names compressed data at 0x%" PRIx64
                         ", past the end of the file",
                         entry, offset);
    }
    *piece = (struct extent){
        .kind = EXTENT_COMPRESSED,
        .length = header->cluster_size - in_cluster,
        .store = mapping->source.file,
        .host_offset = offset,
        .compressed_size = l2_entry_compressed_size(entry, header->cluster_bits),
        .offset_in_cluster = in_cluster,
    };
    return 0;
}

/* Checks what a standard cluster's entry says of its host cluster, used or only preallocated. */
static int check_host_cluster(const struct walk *walk, uint64_t entry, uint64_t entry_offset,
                              bool used)
{
    struct mapping *mapping = walk->mapping;
    const struct header *header = mapping->source.header;
    uint64_t cluster = round_down(walk->position, header->cluster_size);
    uint64_t host = l2_entry_host_offset(entry);

    if (host % header->cluster_size != 0) {
        return fault_set(walk, cluster, entry_offset,
                         "L2 entry 0x%016" PRIx64 " names host offset 0x%" PRIx64
                         ", which is not the start of a cluster",
                         entry, host);
    }
    if (header->external_data_file) {
        if (host != cluster) {
            return fault_set(walk, cluster, entry_offset,
                             "L2 entry 0x%016" PRIx64 " names offset 0x%" PRIx64
                             " of the data file, which is not the guest offset",
                             entry, host);
        }
        return 0;
    }
    if (used && !mapping_in_file(mapping, host, 1)) {
        return fault_set(walk, cluster, entry_offset,
                         "L2 entry 0x%016" PRIx64 " names host offset 0x%" PRIx64
                         ", past the end of the file",
                         entry, host);
    }
    return 0;
}

/* Whether the entry names a host cluster; only in a data file one can be at offset 0. */
static bool has_host_cluster(const struct header *header, uint64_t entry)
{
    return l2_entry_host_offset(entry) != 0 ||
           (header->external_data_file && l2_entry_is_copied(entry));
}

/*
 * Whether a host cluster is kept that is not read from. Of offset 0 of a data
 * file that can be told of a cluster with subclusters alone: in a zero cluster
 * the COPIED bit says nothing.
 */
static bool is_preallocated(const struct walk *walk, uint64_t entry)
{
    const struct header *header = walk->mapping->source.header;

    return walk->exact && (header->extended_l2 ? has_host_cluster(header, entry)
                                               : l2_entry_host_offset(entry) != 0);
}

/*
 * The part of a cluster from walk->position on that is of one kind, given which
 * of its subclusters are allocated and which read as zeros.
 */
static void decode_subclusters(const struct walk *walk, uint64_t entry, uint32_t allocated,
                               uint32_t zero, struct extent *piece)
{
    const struct mapping *mapping = walk->mapping;
    const struct header *header = mapping->source.header;
    uint64_t in_cluster = walk->position & (header->cluster_size - 1);
    uint32_t first = (uint32_t)(in_cluster >> header->subcluster_bits);
    uint32_t bit = UINT32_C(1) << first, same;
    uint64_t run;

    *piece = (struct extent){.kind = EXTENT_UNALLOCATED};
    same = ~(allocated | zero);
    if ((zero & bit) != 0) {
        piece->kind = EXTENT_ZERO;
        same = zero;
    } else if ((allocated & bit) != 0) {
        piece->kind = EXTENT_DATA;
        piece->store = mapping->source.data_file;
        piece->host_offset = l2_entry_host_offset(entry) + in_cluster;
        piece->exclusive = (mapping->writer != NULL || walk->exact) && walk->own_table &&
                           (l2_entry_is_copied(entry) || header->external_data_file);
        same = allocated;
    }
    if (piece->kind != EXTENT_DATA && is_preallocated(walk, entry)) {
        piece->preallocated = true;
        piece->host_offset = l2_entry_host_offset(entry) + in_cluster;
    }
    /* How many bits from `first` on are like the first: zeros of the complement. */
    run =
        ~same >> first == 0 ? header->subclusters - first : (uint32_t)__builtin_ctz(~same >> first);
    run = min_u64(run, header->subclusters - first);
    piece->length = ((first + run) << header->subcluster_bits) - in_cluster;
}

/* Decodes the entry at `raw` (at host offset `entry_offset`) of the cluster at walk->position. */
static int decode_entry(const struct walk *walk, const uint8_t *raw, uint64_t entry_offset,
                        struct extent *piece)
{
    const struct header *header = walk->mapping->source.header;
    uint64_t cluster = round_down(walk->position, header->cluster_size);
    uint64_t entry = load_be64(raw);
    uint64_t bitmap = header->extended_l2 ? load_be64(raw + L2_ENTRY_BYTES) : 0;
    bool has_host = has_host_cluster(header, entry);
    uint32_t allocated = has_host ? 1 : 0, zero = 0;
    int result;

    if (l2_entry_is_compressed(entry)) {
        return decode_compressed(walk, entry, entry_offset, piece);
    }
    if (header->extended_l2) {
        allocated = bitmap_allocated(bitmap);
        zero = bitmap_zero(bitmap);
        if ((allocated & zero) != 0 || (allocated != 0 && !has_host)) {
            return fault_set(walk, cluster, entry_offset,
                             "L2 entry 0x%016" PRIx64 " has the impossible subcluster bitmap "
                             "0x%016" PRIx64,
                             entry, bitmap);
        }
    } else if (l2_entry_is_zero(entry)) {
        if (header->version < 3) {
            return fault_set(walk, cluster, entry_offset,
                             "L2 entry 0x%016" PRIx64 " is of a zero cluster, which an image of "
                             "version 2 cannot have",
                             entry);
        }
        zero = 1;
        allocated = 0;
    }
    if (has_host) {
        result = check_host_cluster(walk, entry, entry_offset, allocated != 0);
        if (result < 0) {
            return result;
        }
    }
    decode_subclusters(walk, entry, allocated, zero, piece);
    return 0;
}

/* --- The walk ---------------------------------------------------------------------- */

int mapping_fill_slice(void *context, void *data, size_t size)
{
    struct slice_source *source = context;

    source->filled = true;
    return store_read(source->file, source->key.host_offset, data, size);
}

struct slice_place mapping_slice_place(const struct mapping *mapping, uint64_t table,
                                       uint64_t guest_offset)
{
    const struct header *header = mapping->source.header;
    uint64_t in_table = guest_offset & ((UINT64_C(1) << header_l1_entry_bits(header)) - 1);
    uint64_t entry_at = (in_table >> header->cluster_bits) * header->l2_entry_bytes;

    return (struct slice_place){
        .source =
            {
                .file = mapping->source.file,
                .key =
                    {
                        .owner = mapping->source.owner,
                        .host_offset = table + round_down(entry_at, mapping->slice_size),
                    },
            },
        .entry_offset = entry_at & (mapping->slice_size - 1),
    };
}

/* Finds and pins the slice that maps walk->position; checks the L1 entry that leads to it. */
static int pin_slice(const struct walk *walk, uint64_t l1_index, uint64_t table,
                     const struct cache_entry **slice)
{
    struct mapping *mapping = walk->mapping;
    const struct header *header = mapping->source.header;
    uint64_t l1_bits = header_l1_entry_bits(header);
    uint64_t in_table = walk->position & ((UINT64_C(1) << l1_bits) - 1);
    const struct mapping *looks = mapping->looks_as != NULL ? mapping->looks_as : mapping;
    struct slice_place place = mapping_slice_place(mapping, table, walk->position);
    uint64_t guest = walk->position - in_table;
    int result;

    if (table % header->cluster_size != 0) {
        return fault_set(walk, guest, table,
                         "L1 entry %" PRIu64 " (0x%016" PRIx64 ") names host offset 0x%" PRIx64
                         ", which is not the start of a cluster",
                         l1_index, walk->l1_entry, table);
    }
    if (!mapping_in_file(mapping, table, header->cluster_size)) {
        return fault_set(walk, guest, table,
                         "L1 entry %" PRIu64 " (0x%016" PRIx64 ") names an L2 table at 0x%" PRIx64
                         ", past the end of the file",
                         l1_index, walk->l1_entry, table);
    }
    result = cache_pool_get(mapping->l2, place.source.key, in_memory(mapping->slice_size),
                            mapping_fill_slice, &place.source, slice);
    if (result < 0) {
        fault_set(walk, walk->position, place.source.key.host_offset,
                  "the L2 table cannot be read: %s",
                  store_read_failure(mapping->source.file, place.source.key.host_offset,
                                     in_memory(mapping->slice_size), result));
        walk->fault->impossible = false;
    } else if (place.source.filled && looks->look != NULL) {
        /* Not while it is being filled: who frees a cluster waits for that, under a mutex. */
        looks->look(looks->look_context, (*slice)->data, in_memory(mapping->slice_size));
    }
    return result;
}

/* Decodes the slice's entries as far as they continue the extent; *more: up to its last one. */
static int walk_slice(struct walk *walk, const struct cache_entry *slice, bool *more)
{
    const struct mapping *mapping = walk->mapping;
    const struct header *header = mapping->source.header;
    uint64_t slice_entries = mapping->slice_size / header->l2_entry_bytes;
    uint64_t index = (walk->position >> header->cluster_bits) & (slice_entries - 1);
    uint64_t last = walk->position >> header->cluster_bits;

    *more = false;
    while (index < slice_entries && walk->position < walk->end) {
        uint64_t at = index * header->l2_entry_bytes;
        struct extent piece;
        int result = decode_entry(walk, (const uint8_t *)slice->data + at,
                                  slice->key.host_offset + at, &piece);

        if (result < 0) {
            return result;
        }
        if (!walk_append(walk, &piece)) {
            return 0;
        }
        index += (walk->position >> header->cluster_bits) - last;
        last = walk->position >> header->cluster_bits;
    }
    *more = walk->position < walk->end;
    return 0;
}

/* The L1 entry of walk->position, from memory or from the cache. */
static int find_l1_entry(struct walk *walk, uint64_t index)
{
    struct mapping *mapping = walk->mapping;
    uint64_t at = index * L1_ENTRY_BYTES;
    struct slice_source source = {
        .file = mapping->source.file,
        .key = {.owner = mapping->source.owner,
                .host_offset = mapping->l1_offset + round_down(at, mapping->slice_size)},
    };
    const struct cache_entry *piece;
    int result;

    if (index >= mapping_l1_present(mapping)) {
        return fault_set(walk, walk->position, mapping->l1_offset + at,
                         "L1 entry %" PRIu64 " lies past the end of the file", index);
    }
    if (!mapping->source.cached_l1) {
        walk->l1_entry = mapping_l1(mapping, index);
        return 0;
    }
    result = cache_pool_get(mapping->l2, source.key, in_memory(mapping->slice_size),
                            mapping_fill_slice, &source, &piece);
    if (result < 0) {
        fault_set(walk, walk->position, source.key.host_offset, "the L1 table cannot be read: %s",
                  store_read_failure(source.file, source.key.host_offset,
                                     in_memory(mapping->slice_size), result));
        walk->fault->impossible = false;
        return result;
    }
    walk->l1_entry = load_be64((const uint8_t *)piece->data + at % mapping->slice_size);
    cache_pool_unpin(mapping->l2, piece);
    return 0;
}

/* What one L1 entry, or the space behind the last one, says of walk->position. */
static int walk_step(struct walk *walk, bool *more)
{
    struct mapping *mapping = walk->mapping;
    uint32_t l1_bits = header_l1_entry_bits(mapping->source.header);
    uint64_t l1_index = walk->position >> l1_bits;
    struct extent nothing = {.kind = EXTENT_UNALLOCATED, .length = walk->end - walk->position};
    const struct cache_entry *slice;
    uint64_t table;
    int result;

    *more = false;
    if (l1_index >= mapping->l1_entries) {
        walk_append(walk, &nothing);
        return 0;
    }
    result = find_l1_entry(walk, l1_index);
    if (result < 0) {
        return result;
    }
    walk->own_table = (walk->l1_entry & ENTRY_COPIED) != 0;
    table = l1_entry_table(walk->l1_entry);
    if (table == 0) {
        nothing.length =
            (UINT64_C(1) << l1_bits) - (walk->position & ((UINT64_C(1) << l1_bits) - 1));
        *more = walk_append(walk, &nothing) && walk->position < walk->end;
        return 0;
    }
    result = pin_slice(walk, l1_index, table, &slice);
    if (result < 0) {
        return result;
    }
    result = walk_slice(walk, slice, more);
    cache_pool_unpin(mapping->l2, slice);
    return result;
}

static int walk_all(struct walk *walk, uint64_t length)
{
    bool more = true;

    assert(walk->mapping->l2 != NULL && length > 0);
    if (!checked_add(walk->position, length, &walk->end)) {
        walk->end = UINT64_MAX;
    }
    *walk->extent = (struct extent){.kind = EXTENT_UNALLOCATED};
    while (more) {
        int result = walk_step(walk, &more);

        if (result < 0) {
            return walk->extent->length > 0 ? 0 : result;
        }
    }
    return 0;
}

/* --- Entries as they are, for mapping_write.h --------------------------------------- */

/* Decodes and copies entries of the slice, from that of walk->position on. */
static int get_in_slice(struct walk *walk, const struct cache_entry *slice, struct l2_value *values,
                        size_t count, size_t *got)
{
    const struct header *header = walk->mapping->source.header;
    uint64_t slice_entries = walk->mapping->slice_size / header->l2_entry_bytes;
    uint64_t index = (walk->position >> header->cluster_bits) & (slice_entries - 1);

    for (; *got < count && index < slice_entries; index++, (*got)++) {
        uint64_t at = index * header->l2_entry_bytes;
        const uint8_t *raw = (const uint8_t *)slice->data + at;
        struct extent ignored;
        int result = decode_entry(walk, raw, slice->key.host_offset + at, &ignored);

        if (result < 0) {
            return *got > 0 ? 0 : result;
        }
        values[*got] = (struct l2_value){
            .entry = load_be64(raw),
            .bitmap = header->extended_l2 ? load_be64(raw + L2_ENTRY_BYTES) : 0,
        };
        if (!walk->own_table) {
            values[*got].entry &= ~ENTRY_COPIED; /* shared through its table */
        }
        walk->position += header->cluster_size;
    }
    return 0;
}

int mapping_get_some(struct mapping *mapping, uint64_t guest_offset, struct l2_value *values,
                     size_t count, size_t *got, struct mapping_fault *fault)
{
    uint64_t l1_index = guest_offset >> header_l1_entry_bits(mapping->source.header);
    struct walk walk = {.mapping = mapping, .position = guest_offset, .fault = fault};
    uint64_t l1_entry = l1_index < mapping->l1_entries ? mapping_l1(mapping, l1_index) : 0;
    const struct cache_entry *slice;
    int result;

    *got = 0;
    values[0] = (struct l2_value){0};
    if (l1_entry_table(l1_entry) == 0) {
        *got = 1;
        return 0;
    }
    walk.l1_entry = l1_entry;
    walk.own_table = (l1_entry & ENTRY_COPIED) != 0;
    result = pin_slice(&walk, l1_index, l1_entry_table(l1_entry), &slice);
    if (result == 0) {
        result = get_in_slice(&walk, slice, values, count, got);
        cache_pool_unpin(mapping->l2, slice);
    }
    return result;
}

/* --- Look-ups -------------------------------------------------------------------------- */

int mapping_lookup(struct mapping *mapping, uint64_t guest_offset, uint64_t length,
                   struct extent *extent, struct mapping_fault *fault)
{
    struct walk walk = {
        .mapping = mapping,
        .position = guest_offset,
        .extent = extent,
        .fault = fault,
    };

    return walk_all(&walk, length);
}

int mapping_lookup_exact(struct mapping *mapping, uint64_t guest_offset, uint64_t length,
                         struct extent *extent, struct mapping_fault *fault)
{
    struct walk walk = {
        .mapping = mapping,
        .position = guest_offset,
        .exact = true,
        .extent = extent,
        .fault = fault,
    };

    return walk_all(&walk, length);
}

uint64_t mapping_same_table(struct mapping *a, struct mapping *b, uint64_t guest_offset)
{
    uint32_t l1_bits = header_l1_entry_bits(a->source.header);
    uint64_t index = guest_offset >> l1_bits, size = UINT64_C(1) << l1_bits;
    struct mapping_fault fault;
    struct walk of_a = {.mapping = a, .position = guest_offset, .fault = &fault};
    struct walk of_b = {.mapping = b, .position = guest_offset, .fault = &fault};

    if (a->source.header != b->source.header || index >= mapping_l1_present(a) ||
        index >= mapping_l1_present(b) || find_l1_entry(&of_a, index) < 0 ||
        find_l1_entry(&of_b, index) < 0 ||
        l1_entry_table(of_a.l1_entry) != l1_entry_table(of_b.l1_entry)) {
        return 0;
    }
    return size - (guest_offset & (size - 1));
}
