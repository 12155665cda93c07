/* SPDX-License-Identifier: MIT */
/* L2 tables: recognising them, and those that nothing refers to. */
#include "config.h"

#include "admin/salvage_internal.h"

#include "meta/format.h"
#include "meta/refcount_block.h"
#include "util/checked.h"
#include "util/zeros.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* A cluster of the refcounts, which has one reference if they can be believed. */
static int use_refcount_cluster(struct salvage_work *work, uint64_t offset)
{
    uint64_t cluster = offset >> work->header.cluster_bits;

    return offset != 0 && offset % work->header.cluster_size == 0 && offset < work->file_size &&
                   salvage_count(work, cluster) == 1
               ? check_counts_set(work->uses, cluster, SALVAGE_TABLE)
               : 0;
}

/* Bytes of the refcount table that the clusters of the file need. */
static uint64_t needed_refcounts(const struct salvage_work *work)
{
    uint64_t size = work->header.cluster_size;
    uint64_t blocks = div_round_up(work->clusters, size * 8 >> work->header.refcount_order);

    return div_round_up(blocks * REFCOUNT_TABLE_ENTRY_BYTES, size) * size;
}

/* Of the `told` bytes that were read those that can be it: what is needed, and zeros behind that.
 */
static uint64_t believed_refcounts(const struct salvage_work *work, uint64_t told)
{
    uint64_t size = work->header.cluster_size, bytes = min_u64(needed_refcounts(work), told);

    while (bytes < told && is_all_zeros(work->refcount_table + bytes, in_memory(size))) {
        bytes += size;
    }
    return bytes;
}

/* The refcount table, and what it names, are none of what L2 tables name. */
static int use_refcounts(struct salvage_work *work)
{
    uint64_t begin = load_be64(work->first + HEADER_REFCOUNT_TABLE_OFFSET);
    uint64_t bytes = (uint64_t)work->header.refcount_table_clusters << work->header.cluster_bits;
    int result = 0;

    for (uint64_t at = 0; at < bytes && result != -ENOMEM; at += work->header.cluster_size) {
        result = use_refcount_cluster(work, begin + at);
    }
    for (uint64_t at = 0; at < bytes && result != -ENOMEM; at += REFCOUNT_TABLE_ENTRY_BYTES) {
        result = use_refcount_cluster(work, load_be64(work->refcount_table + at) &
                                                ~REFCOUNT_TABLE_ENTRY_RESERVED);
    }
    return result == -ENOMEM ? -ENOMEM : 0;
}

/* Reads it, where it can be one. 0 or -ENOMEM. */
static int read_refcount_table(struct salvage_work *work)
{
    struct header *header = &work->header;
    uint64_t offset = load_be64(work->first + HEADER_REFCOUNT_TABLE_OFFSET);
    uint64_t size = (uint64_t)load_be32(work->first + HEADER_REFCOUNT_TABLE_CLUSTERS)
                    << header->cluster_bits;

    if (header->refcount_order > REFCOUNT_ORDER_MAX || offset == 0 ||
        offset % header->cluster_size != 0) {
        return 0;
    }
    if (size == 0 || size > HEADER_REFCOUNT_TABLE_SIZE_MAX ||
        !range_within(offset, size, work->file_size)) {
        size = needed_refcounts(work);
    }
    if (size > HEADER_REFCOUNT_TABLE_SIZE_MAX || !range_within(offset, size, work->file_size)) {
        return 0;
    }
    work->refcount_table = malloc(in_memory(size));
    if (work->refcount_table == NULL) {
        return -ENOMEM;
    }
    header->refcount_table_clusters = (uint32_t)(size >> header->cluster_bits);
    /* The first cluster is in use in every image. */
    if (store_read(work->file, offset, work->refcount_table, in_memory(size)) < 0 ||
        !salvage_is_counted(work, 0)) {
        free(work->refcount_table);
        work->refcount_table = NULL;
        return 0;
    }
    header->refcount_table_clusters =
        (uint32_t)(believed_refcounts(work, size) >> header->cluster_bits);
    return use_refcounts(work);
}

int salvage_open_entries(struct salvage_work *work)
{
    const struct header *header = &work->header;

    salvage_close_entries(work);
    work->clusters = div_round_up(work->file_size, header->cluster_size);
    work->table = calloc(1, in_memory(header->cluster_size));
    work->refcount_block = malloc(in_memory(header->cluster_size));
    work->block_index = UINT64_MAX;
    if (work->table == NULL || work->refcount_block == NULL ||
        check_counts_create(work->clusters + 1, &work->uses) < 0 ||
        check_counts_create(work->clusters + 1, &work->looks) < 0 ||
        read_refcount_table(work) < 0) {
        return salvage_no_memory(work);
    }
    return check_counts_set(work->uses, 0, SALVAGE_USED) == -ENOMEM ? salvage_no_memory(work) : 0;
}

void salvage_close_entries(struct salvage_work *work)
{
    check_counts_destroy(work->uses);
    check_counts_destroy(work->looks);
    free(work->table);
    free(work->refcount_table);
    free(work->refcount_block);
    work->uses = work->looks = NULL;
    work->table = work->refcount_table = work->refcount_block = NULL;
}

uint64_t salvage_count(struct salvage_work *work, uint64_t cluster)
{
    const struct header *header = &work->header;
    uint64_t entries = ((uint64_t)header->refcount_table_clusters << header->cluster_bits) /
                       REFCOUNT_TABLE_ENTRY_BYTES;
    uint64_t per_block, index, offset;

    if (work->refcount_table == NULL) {
        return SALVAGE_COUNT_UNKNOWN;
    }
    per_block = header->cluster_size * 8 >> header->refcount_order;
    index = cluster / per_block;
    if (index >= entries) {
        return 0;
    }
    offset = load_be64(work->refcount_table + index * REFCOUNT_TABLE_ENTRY_BYTES) &
             ~REFCOUNT_TABLE_ENTRY_RESERVED;
    if (offset == 0 || offset % header->cluster_size != 0 ||
        !range_within(offset, header->cluster_size, work->file_size)) {
        return SALVAGE_COUNT_UNKNOWN;
    }
    if (work->block_index != index) {
        work->block_index = index;
        if (store_read(work->file, offset, work->refcount_block, in_memory(header->cluster_size)) <
            0) {
            memset(work->refcount_block, 0xff, in_memory(header->cluster_size));
        }
    }
    return refcount_load(work->refcount_block, cluster % per_block, header->refcount_order);
}

bool salvage_is_counted(struct salvage_work *work, uint64_t cluster)
{
    return salvage_count(work, cluster) != 0;
}

/* --- One entry ------------------------------------------------------------------------ */

enum salvage_entry salvage_judge(const struct salvage_work *work, uint64_t entry)
{
    const struct header *header = &work->header;
    uint64_t host = l2_entry_host_offset(entry);

    if (entry == 0) {
        return SALVAGE_ENTRY_EMPTY;
    }
    if (l2_entry_is_compressed(entry)) {
        return !l2_entry_is_copied(entry) &&
                       l2_entry_compressed_offset(entry, header->cluster_bits) < work->file_size
                   ? SALVAGE_ENTRY_OTHER
                   : SALVAGE_ENTRY_BAD;
    }
    if ((entry & L2_ENTRY_RESERVED) != 0 || host % header->cluster_size != 0 ||
        (header->extended_l2 && l2_entry_is_zero(entry)) ||
        (host == 0 && l2_entry_is_copied(entry) && !header->external_data_file)) {
        return SALVAGE_ENTRY_BAD;
    }
    if (host >= work->file_size && !header->external_data_file) {
        return host / 64 < work->file_size ? SALVAGE_ENTRY_OUTSIDE : SALVAGE_ENTRY_BAD;
    }
    return host == 0 ? SALVAGE_ENTRY_OTHER : SALVAGE_ENTRY_DATA;
}

uint64_t salvage_entries_of(const struct salvage_work *work)
{
    return UINT64_C(1) << work->header.l2_bits;
}

uint8_t *salvage_entry_at(const struct salvage_work *work, uint64_t index)
{
    return work->table + index * work->header.l2_entry_bytes;
}

/* --- Holes of the host --------------------------------------------------------------------- */

uint64_t salvage_hole(struct salvage_work *work, uint64_t offset)
{
    uint64_t length = 0;
    bool is_data = true;

    if (offset < work->extent_begin || offset >= work->extent_end) {
        if (store_extent(work->file, offset, work->file_size - offset, &is_data, &length) < 0) {
            return 0;
        }
        work->extent_begin = offset;
        work->extent_end = offset + length;
        work->extent_is_data = is_data;
    }
    return work->extent_is_data ? 0 : work->extent_end - offset;
}

/* --- Recognising a table --------------------------------------------------------------- */

/* Of an image's own tables some entry is its alone, or compressed; not so in a refcount table. */
bool salvage_is_table(struct salvage_work *work, uint64_t offset, bool *whole)
{
    uint64_t size = work->header.cluster_size, kinds[SALVAGE_ENTRY_KINDS] = {0}, owned = 0,
             wrong = 0;

    *whole = false;
    if (offset == 0 || offset % size != 0 || offset >= work->file_size) {
        return false;
    }
    memset(work->table, 0, in_memory(size));
    work->is_hole = salvage_hole(work, offset) >= size;
    if (work->is_hole) {
        return true; /* an empty one */
    }
    if (store_read(work->file, offset, work->table,
                   (size_t)min_u64(size, work->file_size - offset)) < 0) {
        return false;
    }
    for (uint64_t i = 0; i < salvage_entries_of(work); i++) {
        uint64_t entry = load_be64(salvage_entry_at(work, i));
        uint64_t bitmap =
            work->header.extended_l2 ? load_be64(salvage_entry_at(work, i) + L2_ENTRY_BYTES) : 0;

        kinds[salvage_judge(work, entry)]++;
        owned += l2_entry_is_copied(entry) || l2_entry_is_compressed(entry) || bitmap != 0;
        wrong += (bitmap_allocated(bitmap) & bitmap_zero(bitmap)) != 0 ||
                 (bitmap != 0 && l2_entry_is_compressed(entry));
    }
    /* Some may be damaged, of those in which most is right. */
    *whole = kinds[SALVAGE_ENTRY_DATA] + kinds[SALVAGE_ENTRY_OTHER] > 0 &&
             16 * (kinds[SALVAGE_ENTRY_BAD] + wrong) <=
                 kinds[SALVAGE_ENTRY_DATA] + kinds[SALVAGE_ENTRY_OTHER] &&
             (owned > 0 || (work->shared_too && kinds[SALVAGE_ENTRY_DATA] > 0));
    /* Bytes of anything else are hardly ever an entry that can be. */
    return kinds[SALVAGE_ENTRY_BAD] + wrong <=
           8 * (kinds[SALVAGE_ENTRY_DATA] + kinds[SALVAGE_ENTRY_OTHER] +
                kinds[SALVAGE_ENTRY_OUTSIDE]);
}

/* Two tables more: so often that time has a bound, whatever the file has. */
static bool may_compare(struct salvage_work *work)
{
    work->compared += 2 * work->header.cluster_size;
    return work->compared <= SALVAGE_COMPARED_MAX;
}

uint64_t salvage_alike(struct salvage_work *work, uint64_t one, uint64_t other)
{
    size_t size = (size_t)work->header.cluster_size;
    uint8_t *copy = malloc(size);
    uint64_t count = 0;
    bool whole;

    if (copy == NULL || !may_compare(work) || !salvage_is_table(work, one, &whole)) {
        free(copy);
        return 0;
    }
    memcpy(copy, work->table, size);
    if (salvage_is_table(work, other, &whole)) {
        for (uint64_t i = 0; i < salvage_entries_of(work); i++) {
            uint64_t host = l2_entry_host_offset(load_be64(salvage_entry_at(work, i)));

            count += host != 0 && host == l2_entry_host_offset(
                                              load_be64(copy + i * work->header.l2_entry_bytes));
        }
    }
    free(copy);
    return count;
}

bool salvage_follows(struct salvage_work *work, uint64_t one, uint64_t other)
{
    uint64_t last = 0, first = 0;
    bool whole;

    if (may_compare(work) && salvage_is_table(work, one, &whole)) {
        last =
            l2_entry_host_offset(load_be64(salvage_entry_at(work, salvage_entries_of(work) - 1)));
    }
    if (last != 0 && salvage_is_table(work, other, &whole)) {
        first = l2_entry_host_offset(load_be64(salvage_entry_at(work, 0)));
    }
    /* A table, and a refcount block, may be between. */
    return first > last && first - last <= 3 * work->header.cluster_size;
}

int salvage_use_data(struct salvage_work *work, uint64_t cluster)
{
    uint64_t before = check_counts_get(work->uses, cluster);
    int result = 0;

    if (before == SALVAGE_FREE || before == SALVAGE_USED) {
        result = check_counts_set(work->uses, cluster,
                                  before == SALVAGE_FREE ? SALVAGE_USED : SALVAGE_TWICE);
    }
    return result == -ENOMEM ? salvage_no_memory(work) : 0;
}

int salvage_use_table(struct salvage_work *work, uint64_t offset)
{
    const struct header *header = &work->header;
    int result = check_counts_set(work->uses, offset >> header->cluster_bits, SALVAGE_TABLE);

    if (result == -ENOMEM) {
        return salvage_no_memory(work);
    }
    result = 0;
    for (uint64_t i = 0; i < salvage_entries_of(work) && !work->is_hole && result == 0; i++) {
        uint64_t entry = load_be64(salvage_entry_at(work, i));
        enum salvage_entry kind = salvage_judge(work, entry);

        if (kind == SALVAGE_ENTRY_DATA && !header->external_data_file) {
            result = salvage_use_data(work, l2_entry_host_offset(entry) >> header->cluster_bits);
        } else if (kind == SALVAGE_ENTRY_OTHER && l2_entry_is_compressed(entry)) {
            uint64_t cluster =
                l2_entry_compressed_offset(entry, header->cluster_bits) >> header->cluster_bits;

            if (check_counts_get(work->uses, cluster) == SALVAGE_FREE) {
                result = salvage_use_data(work, cluster);
            }
        }
    }
    return result;
}

/* --- Tables that nothing refers to ------------------------------------------------------ */

/* Of what the table in work->table says to have for itself, more than half is nobody else's. */
static bool names_what_is_free(const struct salvage_work *work)
{
    uint64_t used = 0, all = 0;

    for (uint64_t i = 0; i < salvage_entries_of(work); i++) {
        uint64_t entry = load_be64(salvage_entry_at(work, i));

        if (salvage_judge(work, entry) == SALVAGE_ENTRY_DATA &&
            (l2_entry_is_copied(entry) || work->shared_too)) {
            uint64_t cluster = l2_entry_host_offset(entry) >> work->header.cluster_bits;

            all++;
            used += check_counts_get(work->uses, cluster) != SALVAGE_FREE;
        }
    }
    return 2 * used <= all;
}

static int add_orphan(struct salvage_work *work, uint64_t offset)
{
    uint64_t *orphans;

    if ((work->orphan_count & (work->orphan_count - 1)) == 0) { /* a power of two: full */
        orphans = reallocarray(work->orphans, 2 * work->orphan_count + 1, sizeof(*orphans));
        if (orphans == NULL) {
            return salvage_no_memory(work);
        }
        work->orphans = orphans;
    }
    work->orphans[work->orphan_count++] = offset;
    return 0;
}

static bool is_orphan(const struct salvage_work *work, uint64_t offset)
{
    size_t low = 0, high = work->orphan_count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (work->orphans[middle] == offset) {
            return true;
        }
        if (work->orphans[middle] < offset) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return false;
}

#define NAMED_LOOKED 8 /* entries of a table: what these name tells of which kind it is */

/* What it names are clusters, too. */
static bool is_refcount_table(const struct salvage_work *work, uint64_t offset)
{
    uint64_t begin = load_be64(work->first + HEADER_REFCOUNT_TABLE_OFFSET);
    uint32_t count = work->refcount_table != NULL
                         ? work->header.refcount_table_clusters
                         : load_be32(work->first + HEADER_REFCOUNT_TABLE_CLUSTERS);

    return offset >= begin && (offset - begin) >> work->header.cluster_bits < count;
}

/* Whether the cluster is an L2 table, also one that only snapshots have; work->table is another. */
static bool is_any_table(struct salvage_work *work, uint64_t offset)
{
    bool shared_too = work->shared_too, whole;

    if (is_orphan(work, offset) ||
        check_counts_get(work->uses, offset >> work->header.cluster_bits) == SALVAGE_TABLE) {
        return true;
    }
    work->shared_too = true;
    (void)salvage_is_table(work, offset, &whole);
    work->shared_too = shared_too;
    return whole;
}

/* Whether the table in work->table is rather an L1 table: what it names are L2 tables. */
static bool names_tables(struct salvage_work *work)
{
    uint64_t named[NAMED_LOOKED], tables = 0, all = 0;

    for (uint64_t i = 0; i < salvage_entries_of(work) && all < NAMED_LOOKED; i++) {
        uint64_t host = l2_entry_host_offset(load_be64(salvage_entry_at(work, i)));

        if (host != 0) {
            named[all++] = host;
        }
    }
    for (uint64_t i = 0; i < all; i++) {
        tables += is_any_table(work, named[i]);
    }
    return 2 * tables > all;
}

/* What seemed to be an L2 table may be an old L1 table, whose entries look alike. */
static void drop_l1_tables(struct salvage_work *work)
{
    size_t kept = 0;
    bool whole;

    for (size_t i = 0; i < work->orphan_count; i++) {
        uint64_t offset = work->orphans[i];

        if (salvage_is_table(work, offset, &whole) && !names_tables(work)) {
            work->orphans[kept++] = offset;
        }
    }
    work->orphan_count = kept;
}

int salvage_find_orphans(struct salvage_work *work)
{
    uint64_t size = work->header.cluster_size;
    int result = 0;

    work->orphan_count = 0;
    for (uint64_t offset = size; offset < work->file_size && result == 0;) {
        uint64_t cluster = offset >> work->header.cluster_bits, hole = salvage_hole(work, offset);
        bool whole;

        if (hole >= size) {
            offset += round_down(hole, size);
            continue;
        }
        if (check_counts_get(work->uses, cluster) == SALVAGE_FREE &&
            salvage_is_counted(work, cluster) && salvage_is_table(work, offset, &whole) && whole &&
            names_what_is_free(work) && !is_refcount_table(work, offset)) {
            result = add_orphan(work, offset);
        }
        offset += size;
        if (work->options->progress != NULL) {
            work->options->progress(work->options->context, offset, work->file_size);
        }
    }
    if (result == 0) {
        drop_l1_tables(work);
    }
    return result;
}
