/* SPDX-License-Identifier: MIT */
/* L2 tables: recognising them, and the entries that are damaged. */
#include "config.h"

#include "admin/salvage_internal.h"

#include "meta/format.h"
#include "meta/refcount_block.h"
#include "store/patched.h"
#include "util/checked.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int salvage_open_entries(struct salvage_work *work)
{
    const struct header *header = &work->header;
    uint64_t offset = load_be64(work->first + HEADER_REFCOUNT_TABLE_OFFSET);
    uint64_t size = (uint64_t)load_be32(work->first + HEADER_REFCOUNT_TABLE_CLUSTERS)
                    << header->cluster_bits;

    salvage_close_entries(work);
    work->clusters = div_round_up(work->file_size, header->cluster_size);
    work->table = calloc(1, in_memory(header->cluster_size));
    work->refcount_block = malloc(in_memory(header->cluster_size));
    work->block_index = UINT64_MAX;
    if (work->table == NULL || work->refcount_block == NULL ||
        check_counts_create(work->clusters + 1, &work->uses) < 0) {
        return salvage_no_memory(work);
    }
    if (size > 0 && size <= HEADER_REFCOUNT_TABLE_SIZE_MAX && offset % header->cluster_size == 0 &&
        header->refcount_order <= REFCOUNT_ORDER_MAX &&
        range_within(offset, size, work->file_size)) {
        work->refcount_table = malloc(in_memory(size));
        if (work->refcount_table == NULL) {
            return salvage_no_memory(work);
        }
        work->header.refcount_table_clusters = (uint32_t)(size >> header->cluster_bits);
        /* The first cluster is in use in every image. */
        if (store_read(work->file, offset, work->refcount_table, in_memory(size)) < 0 ||
            !salvage_is_counted(work, 0)) {
            free(work->refcount_table);
            work->refcount_table = NULL;
        }
    }
    return check_counts_set(work->uses, 0, SALVAGE_USED) == -ENOMEM ? salvage_no_memory(work) : 0;
}

void salvage_close_entries(struct salvage_work *work)
{
    check_counts_destroy(work->uses);
    free(work->table);
    free(work->refcount_table);
    free(work->refcount_block);
    work->uses = NULL;
    work->table = work->refcount_table = work->refcount_block = NULL;
}

bool salvage_is_counted(struct salvage_work *work, uint64_t cluster)
{
    const struct header *header = &work->header;
    uint64_t entries = ((uint64_t)header->refcount_table_clusters << header->cluster_bits) /
                       REFCOUNT_TABLE_ENTRY_BYTES;
    uint64_t per_block, index, offset;

    if (work->refcount_table == NULL) {
        return true;
    }
    per_block = header->cluster_size * 8 >> header->refcount_order;
    index = cluster / per_block;
    if (index >= entries) {
        return false;
    }
    offset = load_be64(work->refcount_table + index * REFCOUNT_TABLE_ENTRY_BYTES) &
             ~REFCOUNT_TABLE_ENTRY_RESERVED;
    if (offset == 0 || offset % header->cluster_size != 0 ||
        !range_within(offset, header->cluster_size, work->file_size)) {
        return true; /* nobody knows */
    }
    if (work->block_index != index) {
        work->block_index = index;
        if (store_read(work->file, offset, work->refcount_block, in_memory(header->cluster_size)) <
            0) {
            memset(work->refcount_block, 0xff, in_memory(header->cluster_size));
        }
    }
    return refcount_load(work->refcount_block, cluster % per_block, header->refcount_order) != 0;
}

/* --- One entry ------------------------------------------------------------------------ */

static enum salvage_entry judge(const struct salvage_work *work, uint64_t entry)
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

static uint64_t entries_of(const struct salvage_work *work)
{
    return UINT64_C(1) << work->header.l2_bits;
}

static uint8_t *entry_at(const struct salvage_work *work, uint64_t index)
{
    return work->table + index * work->header.l2_entry_bytes;
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
    if (store_read(work->file, offset, work->table,
                   (size_t)min_u64(size, work->file_size - offset)) < 0) {
        return false;
    }
    for (uint64_t i = 0; i < entries_of(work); i++) {
        uint64_t entry = load_be64(entry_at(work, i));
        uint64_t bitmap =
            work->header.extended_l2 ? load_be64(entry_at(work, i) + L2_ENTRY_BYTES) : 0;

        kinds[judge(work, entry)]++;
        owned += l2_entry_is_copied(entry) || l2_entry_is_compressed(entry) || bitmap != 0;
        wrong += (bitmap_allocated(bitmap) & bitmap_zero(bitmap)) != 0;
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

uint64_t salvage_alike(struct salvage_work *work, uint64_t one, uint64_t other)
{
    size_t size = (size_t)work->header.cluster_size;
    uint8_t *copy = malloc(size);
    uint64_t count = 0;
    bool whole;

    if (copy == NULL || !salvage_is_table(work, one, &whole)) {
        free(copy);
        return 0;
    }
    memcpy(copy, work->table, size);
    if (salvage_is_table(work, other, &whole)) {
        for (uint64_t i = 0; i < entries_of(work); i++) {
            uint64_t host = l2_entry_host_offset(load_be64(entry_at(work, i)));

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

    if (salvage_is_table(work, one, &whole)) {
        last = l2_entry_host_offset(load_be64(entry_at(work, entries_of(work) - 1)));
    }
    if (last != 0 && salvage_is_table(work, other, &whole)) {
        first = l2_entry_host_offset(load_be64(entry_at(work, 0)));
    }
    /* A table, and a refcount block, may be between. */
    return first > last && first - last <= 3 * work->header.cluster_size;
}

static int use_data(struct salvage_work *work, uint64_t cluster)
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
    for (uint64_t i = 0; i < entries_of(work) && result == 0; i++) {
        uint64_t entry = load_be64(entry_at(work, i));
        enum salvage_entry kind = judge(work, entry);

        if (kind == SALVAGE_ENTRY_DATA && !header->external_data_file) {
            result = use_data(work, l2_entry_host_offset(entry) >> header->cluster_bits);
        } else if (kind == SALVAGE_ENTRY_OTHER && l2_entry_is_compressed(entry)) {
            uint64_t cluster =
                l2_entry_compressed_offset(entry, header->cluster_bits) >> header->cluster_bits;

            if (check_counts_get(work->uses, cluster) == SALVAGE_FREE) {
                result = use_data(work, cluster);
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

    for (uint64_t i = 0; i < entries_of(work); i++) {
        uint64_t entry = load_be64(entry_at(work, i));

        if (judge(work, entry) == SALVAGE_ENTRY_DATA &&
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

/* What it names are clusters, too. */
static bool is_refcount_table(const struct salvage_work *work, uint64_t offset)
{
    uint64_t begin = load_be64(work->first + HEADER_REFCOUNT_TABLE_OFFSET);

    return offset >= begin && (offset - begin) >> work->header.cluster_bits <
                                  load_be32(work->first + HEADER_REFCOUNT_TABLE_CLUSTERS);
}

/* Whether the table in work->table is rather an L1 table: what it names are L2 tables. */
static bool names_tables(const struct salvage_work *work)
{
    uint64_t tables = 0, all = 0;

    for (uint64_t i = 0; i < entries_of(work) && all < 64; i++) {
        uint64_t host = l2_entry_host_offset(load_be64(entry_at(work, i)));

        if (host != 0) {
            all++;
            tables +=
                is_orphan(work, host) ||
                check_counts_get(work->uses, host >> work->header.cluster_bits) == SALVAGE_TABLE;
        }
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
        uint64_t cluster = offset >> work->header.cluster_bits, length = 0;
        bool is_data = true, whole;

        if (store_extent(work->file, offset, work->file_size - offset, &is_data, &length) == 0 &&
            !is_data && length >= size) {
            offset += round_down(length, size);
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

/* --- Entries that are damaged ------------------------------------------------------------ */

#define SECTOR 512

struct repair {
    struct salvage_work *work;
    uint64_t offset; /* of the table */
    uint64_t inside; /* entries that are in the file */
    bool changed;
    uint64_t deduced, missing;
};

/* Whether nobody has the cluster, though it is in use. */
static bool is_left(struct salvage_work *work, uint64_t host)
{
    uint64_t cluster = host >> work->header.cluster_bits;

    return host != 0 && host % work->header.cluster_size == 0 && host < work->file_size &&
           check_counts_get(work->uses, cluster) == SALVAGE_FREE &&
           salvage_is_counted(work, cluster);
}

/* What has two users though it says that it is one's alone is wrong in one of these. */
static bool is_doubtful(const struct salvage_work *work, uint64_t entry)
{
    return l2_entry_is_copied(entry) &&
           check_counts_get(work->uses, l2_entry_host_offset(entry) >> work->header.cluster_bits) !=
               SALVAGE_USED;
}

static enum salvage_entry kind_at(const struct repair *repair, uint64_t index)
{
    uint64_t entry = load_be64(entry_at(repair->work, index));
    enum salvage_entry kind =
        index < repair->inside ? judge(repair->work, entry) : SALVAGE_ENTRY_BAD;

    return kind == SALVAGE_ENTRY_DATA && is_doubtful(repair->work, entry) ? SALVAGE_ENTRY_BAD
                                                                          : kind;
}

static int set_entry(struct repair *repair, uint64_t index, uint64_t host)
{
    struct salvage_work *work = repair->work;
    uint8_t *raw = entry_at(work, index);

    store_be64(raw, host | ENTRY_COPIED);
    if (work->header.extended_l2) {
        uint64_t bitmap = load_be64(raw + L2_ENTRY_BYTES);

        if (bitmap_allocated(bitmap) == 0 ||
            (bitmap_allocated(bitmap) & bitmap_zero(bitmap)) != 0) {
            store_be64(raw + L2_ENTRY_BYTES, UINT32_MAX);
        }
    }
    repair->changed = true;
    repair->deduced++;
    return use_data(work, host >> work->header.cluster_bits);
}

static uint64_t host_at(const struct repair *repair, uint64_t index)
{
    return l2_entry_host_offset(load_be64(entry_at(repair->work, index)));
}

/* Whether the clusters from `host` on, as many as the run has entries, are all left. */
static bool are_left(const struct repair *repair, uint64_t host, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        if (!is_left(repair->work, host + i * repair->work->header.cluster_size)) {
            return false;
        }
    }
    return true;
}

/*
 * Whether entries that may be empty were lost: as many clusters are left between those of their
 * neighbours; or, where there is one neighbour alone, beside it, and whole sectors of the table are
 * empty.
 */
static bool is_lost_run(const struct repair *repair, uint64_t begin, uint64_t end, bool before,
                        bool behind)
{
    uint64_t size = repair->work->header.cluster_size, count = end - begin;
    uint64_t in_sector = SECTOR / repair->work->header.l2_entry_bytes;
    bool sectors = begin % in_sector == 0 && end % in_sector == 0;

    if (before && behind) {
        uint64_t first = host_at(repair, begin - 1) + size;

        return host_at(repair, end) == first + count * size && are_left(repair, first, count);
    }
    if (before && sectors) {
        return are_left(repair, host_at(repair, begin - 1) + size, count);
    }
    if (behind && sectors && host_at(repair, end) > count * size) {
        return are_left(repair, host_at(repair, end) - count * size, count);
    }
    return false;
}

/* [begin, end): entries that are empty or damaged; those around it, where there are any, are not.
 */
static int repair_run(struct repair *repair, uint64_t begin, uint64_t end)
{
    struct salvage_work *work = repair->work;
    uint64_t size = work->header.cluster_size;
    bool before = begin > 0 && kind_at(repair, begin - 1) == SALVAGE_ENTRY_DATA;
    bool behind = end < entries_of(work) && kind_at(repair, end) == SALVAGE_ENTRY_DATA;
    uint64_t first = before ? host_at(repair, begin - 1) + size : 0;
    bool fits = is_lost_run(repair, begin, end, before, behind);
    int result = 0;

    for (uint64_t i = begin; i < end && result == 0; i++) {
        uint64_t forward = before ? first + (i - begin) * size : 0;
        uint64_t backward = behind && host_at(repair, end) > (end - i) * size
                                ? host_at(repair, end) - (end - i) * size
                                : 0;
        bool is_bad = kind_at(repair, i) == SALVAGE_ENTRY_BAD;

        if (!fits && !is_bad) {
            continue; /* it may well be empty */
        }
        if (!fits && i < repair->inside && is_left(work, host_at(repair, i))) {
            result = set_entry(repair, i, host_at(repair, i)); /* but for its reserved bits */
        } else if (is_left(work, forward)) {
            result = set_entry(repair, i, forward);
        } else if (is_left(work, backward)) {
            result = set_entry(repair, i, backward);
        } else if (i >= repair->inside) {
            store_be64(entry_at(work, i), SALVAGE_LOST);
            repair->changed = true;
            repair->missing++;
        } else {
            repair->missing += judge(work, load_be64(entry_at(work, i))) == SALVAGE_ENTRY_BAD;
        }
    }
    return result;
}

/* The table in work->table. */
static int repair_table(struct repair *repair)
{
    struct salvage_work *work = repair->work;
    uint64_t size = work->header.cluster_size, i = 0;
    int result = 0;

    repair->inside = min_u64(size, work->file_size - repair->offset) / work->header.l2_entry_bytes;
    while (i < entries_of(work) && result == 0) {
        uint64_t begin = i;

        while (i < entries_of(work) && (kind_at(repair, i) == SALVAGE_ENTRY_EMPTY ||
                                        kind_at(repair, i) == SALVAGE_ENTRY_BAD)) {
            i++;
        }
        if (i > begin) {
            result = repair_run(repair, begin, i);
        } else {
            i++;
        }
    }
    if (result == 0 && repair->changed && work->patches + size <= SALVAGE_PATCHES_MAX) {
        work->patches += size;
        result = store_patch_add(work->patched, repair->offset, work->table, in_memory(size)) < 0
                     ? salvage_no_memory(work)
                     : 0;
    }
    return result;
}

int salvage_repair_entries(struct salvage_work *work)
{
    uint64_t deduced = 0, missing = 0;
    int result = 0;

    for (uint64_t i = 0; i < work->header.l1_entries && result == 0; i++) {
        struct repair repair = {.work = work, .offset = l1_entry_table(work->l1[i])};
        bool whole;

        if (work->bad[i] || repair.offset == 0 || work->header.external_data_file ||
            !salvage_is_table(work, repair.offset, &whole)) {
            continue;
        }
        result = repair_table(&repair);
        deduced += repair.deduced;
        missing += repair.missing;
    }
    salvage_tell(work, SALVAGE_DEDUCED, "l2-entries", deduced,
                 "by the clusters of their neighbours");
    salvage_tell(work, SALVAGE_MISSING, "l2-entries", missing, NULL);
    return result;
}
