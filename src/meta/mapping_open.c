/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "meta/mapping.h"

#include "meta/format.h"
#include "meta/mapping_internal.h"
#include "meta/mapping_write.h"
#include "util/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* Entries of an L1 table that are looked at in one go. */
#define L1_PIECE UINT64_C(512)

/* Whether a table that was cut off can do with what is there. */
static bool keep_present(struct mapping *mapping)
{
    uint64_t end = atomic_load_explicit(&mapping->file_size, memory_order_relaxed);
    uint64_t present = end > mapping->l1_offset ? (end - mapping->l1_offset) / L1_ENTRY_BYTES : 0;

    if (!mapping->source.partial_l1) {
        return false;
    }
    mapping->l1_missing = mapping->l1_entries - min_u64(present, mapping->l1_entries);
    return true;
}

static int read_l1(struct mapping *mapping, const char *name, uint64_t l1_offset,
                   struct error *error)
{
    uint64_t size = mapping->l1_entries * L1_ENTRY_BYTES, i;
    int result;

    if (size > 0 && !mapping_in_file(mapping, l1_offset, size) && !keep_present(mapping)) {
        return error_set(error, EINVAL,
                         "%s: the L1 table at offset 0x%" PRIx64 " (%" PRIu64
                         " bytes) runs over the end of the file; the file was cut off, use an "
                         "intact copy",
                         name, l1_offset, size);
    }
    if (mapping->source.cached_l1) {
        return 0;
    }
    size = mapping_l1_present(mapping) * L1_ENTRY_BYTES;
    mapping->l1 = malloc(in_memory(max_u64(size, 1)));
    if (mapping->l1 == NULL) {
        return error_set(error, ENOMEM, "%s: no memory for the L1 table of %" PRIu64 " bytes", name,
                         size);
    }
    result = store_read(mapping->source.file, l1_offset, (void *)(uintptr_t)mapping->l1,
                        in_memory(size));
    if (result < 0) {
        return error_set(error, -result,
                         "%s: the L1 table at offset 0x%" PRIx64 " cannot be read: %s", name,
                         l1_offset, strerror(-result));
    }
    for (i = 0; i < mapping_l1_present(mapping); i++) {
        mapping_set_l1(mapping, i, be64toh(mapping_l1(mapping, i)));
    }
    return 0;
}

int mapping_open(const struct mapping_source *source, const char *name, uint64_t l1_offset,
                 uint64_t entries, struct mapping **mapping, struct error *error)
{
    struct mapping *opened = calloc(1, sizeof(*opened));
    int result;

    *mapping = NULL;
    if (opened == NULL) {
        return error_set(error, ENOMEM, "%s: out of memory", name);
    }
    opened->source = *source;
    opened->l1_entries = entries;
    opened->l1_offset = l1_offset;
    result = read_l1(opened, name, l1_offset, error);
    if (result < 0) {
        mapping_close(opened);
        return result;
    }
    *mapping = opened;
    return 0;
}

void mapping_close(struct mapping *mapping)
{
    if (mapping != NULL) {
        mapping_writer_free(mapping->writer);
        while (mapping->retired_count > 0) {
            free((void *)(uintptr_t)mapping->retired_l1[--mapping->retired_count]);
        }
        free((void *)(uintptr_t)mapping->l1);
        free(mapping);
    }
}

void mapping_set_look(struct mapping *mapping, mapping_look_fn *look, void *context)
{
    mapping->look = look;
    mapping->look_context = context;
}

void mapping_share_look(struct mapping *mapping, const struct mapping *other)
{
    mapping->looks_as = other;
}

void mapping_set_cache(struct mapping *mapping, struct cache_pool *l2, uint64_t l2_entry_size)
{
    mapping->l2 = l2;
    mapping->slice_size = min_u64(l2_entry_size, mapping->source.header->cluster_size);
}

uint64_t mapping_tables(const struct mapping *mapping)
{
    uint64_t tables = 0, i;

    for (i = 0; i < mapping_l1_present(mapping); i++) {
        tables += l1_entry_table(mapping_l1(mapping, i)) != 0;
    }
    return tables;
}

uint64_t mapping_table(const struct mapping *mapping, uint64_t l1_index)
{
    return l1_index < mapping_l1_present(mapping) ? l1_entry_table(mapping_l1(mapping, l1_index))
                                                  : 0;
}

/* The entry of a table that is in memory or, without going through the cache, in the file. */
static uint64_t peek_l1(const struct mapping *mapping, uint64_t index, uint64_t *piece)
{
    uint64_t in_piece = index % L1_PIECE;

    if (!mapping->source.cached_l1) {
        return mapping_l1(mapping, index);
    }
    if (in_piece == 0) {
        uint64_t count = min_u64(L1_PIECE, mapping_l1_present(mapping) - index);

        if (store_read(mapping->source.file, mapping->l1_offset + index * L1_ENTRY_BYTES, piece,
                       in_memory(count * L1_ENTRY_BYTES)) < 0) {
            memset(piece, 0, in_memory(count * L1_ENTRY_BYTES)); /* who looks it up hears of it */
        }
    }
    return be64toh(piece[in_piece]);
}

uint64_t mapping_tables_outside(const struct mapping *mapping, uint64_t file_size)
{
    uint64_t cluster_size = mapping->source.header->cluster_size, outside = 0, i;
    uint64_t piece[L1_PIECE];

    for (i = 0; i < mapping_l1_present(mapping); i++) {
        uint64_t table = l1_entry_table(peek_l1(mapping, i, piece));

        if (table != 0 && !range_within(table, cluster_size, file_size)) {
            outside++;
        }
    }
    return outside;
}

uint64_t mapping_l1_memory(const struct mapping *mapping)
{
    return mapping->source.cached_l1 ? 0 : mapping_l1_present(mapping) * L1_ENTRY_BYTES;
}

uint64_t mapping_l1_missing(const struct mapping *mapping)
{
    return mapping->l1_missing;
}
