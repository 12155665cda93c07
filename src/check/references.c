/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "check/internal.h"
#include "meta/format.h"
#include "meta/refcount_block.h"
#include "util/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

static const char *const use_names[] = {
    [CHECK_USE_HEADER] = "header",
    [CHECK_USE_L1_TABLE] = "L1 table",
    [CHECK_USE_L2_TABLE] = "L2 table",
    [CHECK_USE_DATA] = "data cluster",
    [CHECK_USE_COMPRESSED] = "compressed cluster",
    [CHECK_USE_SNAPSHOT_TABLE] = "snapshot table",
    [CHECK_USE_BITMAP_DIRECTORY] = "bitmap directory",
    [CHECK_USE_BITMAP_TABLE] = "bitmap table",
    [CHECK_USE_BITMAP_DATA] = "bitmap cluster",
    [CHECK_USE_REFCOUNT_TABLE] = "refcount table",
    [CHECK_USE_REFCOUNT_BLOCK] = "refcount block",
    [CHECK_USE_CRYPT_HEADER] = "encryption header",
};

const char *check_use_name(enum check_use use)
{
    return use_names[use];
}

static void tell_references(const struct check *check, uint64_t first, uint64_t length,
                            enum check_use use)
{
    for (uint64_t i = 0; check->options->reference != NULL && i < length; i++) {
        check->options->reference(check->options->context, first + i, use, check->hidden);
    }
}

/*
 * What is written in place, or found by an offset that nothing else tells: with
 * a second reference, neither copying nor a count of two makes it right.
 */
static bool is_exclusive(enum check_use use)
{
    switch (use) {
    case CHECK_USE_HEADER:
    case CHECK_USE_L1_TABLE:
    case CHECK_USE_SNAPSHOT_TABLE:
    case CHECK_USE_BITMAP_DIRECTORY:
    case CHECK_USE_BITMAP_TABLE:
    case CHECK_USE_CRYPT_HEADER:
        return true;
    default: /* the refcount table and its blocks are made anew when they are shared */
        return false;
    }
}

static int mark_exclusive(struct check *check, uint64_t first, uint64_t length)
{
    uint64_t i;
    int result = 0;

    for (i = first; i < first + length && result == 0; i++) {
        if (check_counts_get(check->exclusive, i) == 0) {
            result = check_counts_set(check->exclusive, i, 1);
        }
    }
    return result < 0 ? check_failed(check, result, "counting references") : 0;
}

/* check->weight references to each of these clusters; a finding for each that is too many. */
static int count_weighted(struct check *check, uint64_t first, uint64_t length, enum check_use use)
{
    uint64_t max = refcount_max(check->header->refcount_order), weight = check->weight;
    int result = 0;

    for (uint64_t i = first; i < first + length && result == 0; i++) {
        uint64_t count = check_counts_get(check->counts, i);
        uint64_t added = min_u64(weight, max - min_u64(count, max));

        check->clusters_shared |= count + added > 1;
        if (added > 0) {
            result = check_counts_set(check->counts, i, count + added);
        }
        if (added < weight) {
            check->saturated = true;
            check->uncountable += weight - added;
            check->weight = weight - added;
            check_found(check, CHECK_ERROR,
                        "cluster %" PRIu64 ": %" PRIu64 " references of the %s are too many for "
                        "refcounts of %u bits; convert the image with qemu-img convert",
                        i, weight - added, use_names[use], 1U << check->header->refcount_order);
            check->weight = weight;
        }
    }
    return result < 0 ? check_failed(check, result, "counting references") : 0;
}

/* One more reference to each of `length` clusters that can be in the file. */
static int count_clusters(struct check *check, uint64_t first, uint64_t length, enum check_use use)
{
    uint64_t max = refcount_max(check->header->refcount_order), done;
    int result = is_exclusive(use) ? mark_exclusive(check, first, length) : 0;

    tell_references(check, first, length, use);
    check->limit = max_u64(check->limit, first + length);
    if (result == 0 && check->weight > 1) {
        return count_weighted(check, first, length, use);
    }
    while (result == 0 && length > 0) {
        result =
            check_counts_add(check->counts, first, length, max, &done, &check->clusters_shared);
        if (result < 0) {
            return check_failed(check, result, "counting references");
        }
        first += done;
        length -= done;
        if (length > 0) {
            check->saturated = true;
            check->uncountable++;
            check_found(check, CHECK_ERROR,
                        "cluster %" PRIu64 ": the reference of the %s is one too many for "
                        "refcounts of %u bits; convert the image with qemu-img convert",
                        first, use_names[use], 1U << check->header->refcount_order);
            first++;
            length--;
        }
    }
    return result;
}

int check_count_inside(struct check *check, uint64_t offset, uint64_t length, enum check_use use,
                       bool *inside)
{
    uint32_t bits = check->header->cluster_bits;
    uint64_t end, first = offset >> bits;

    *inside = checked_add(offset, length, &end) &&
              (end <= check->file_size || end - check->file_size < check->header->cluster_size);
    if (length == 0) {
        return 0;
    }
    if (!*inside) {
        check->references_unknown = true;
        check_found(check, CHECK_ERROR,
                    "the %s at 0x%" PRIx64 " (%" PRIu64 " bytes) lies past the end of the file",
                    use_names[use], offset, length);
        return 0;
    }
    return count_clusters(check, first, ((end - 1) >> bits) - first + 1, use);
}

int check_count(struct check *check, uint64_t offset, uint64_t length, enum check_use use)
{
    bool inside;

    return check_count_inside(check, offset, length, use, &inside);
}

/* --- L2 entries -------------------------------------------------------------------- */

/* While one L2 table is walked; statistics are of the active state alone. */
struct l2_walk {
    struct check *check;
    uint64_t table; /* host offset */
    bool active;
    uint64_t next_host_offset; /* where a cluster that is not fragmented would begin; 0: unknown */
};

bool check_has_host_cluster(const struct header *header, uint64_t entry)
{
    bool zero = (entry & L2_ENTRY_ZERO) != 0 && !header->extended_l2;

    /* At the start of a data file COPIED tells; but for QEMU not of a cluster that reads zeros. */
    return l2_entry_host_offset(entry) != 0 ||
           (header->external_data_file && l2_entry_is_copied(entry) && !zero);
}

/* "Compressed Clusters Descriptor" */
static int count_compressed(struct l2_walk *walk, uint64_t entry, uint64_t bitmap)
{
    struct check *check = walk->check;
    const struct header *header = check->header;

    if (header->external_data_file) {
        check->references_unknown = true;
        check_found(check, CHECK_ERROR,
                    "L2 table at 0x%" PRIx64 ": entry 0x%016" PRIx64 " is of a compressed cluster, "
                    "which an image with an external data file cannot have",
                    walk->table, entry);
        return 0;
    }
    if (l2_entry_is_copied(entry)) {
        check_found(check, CHECK_ERROR,
                    "L2 table at 0x%" PRIx64 ": entry 0x%016" PRIx64 " of a compressed cluster has "
                    "the COPIED bit",
                    walk->table, entry);
    }
    if (bitmap != 0) {
        check->references_unknown = true;
        check_found(check, CHECK_ERROR,
                    "L2 table at 0x%" PRIx64 ": entry 0x%016" PRIx64 " of a compressed cluster has "
                    "a subcluster bitmap, 0x%016" PRIx64,
                    walk->table, entry, bitmap);
        return 0;
    }
    if (walk->active) {
        check->result->allocated_clusters += check->weight;
        check->result->compressed_clusters += check->weight;
        check->result->fragmented_clusters += check->weight;
    }
    return check_count(check, l2_entry_compressed_offset(entry, header->cluster_bits),
                       l2_entry_compressed_size(entry, header->cluster_bits), CHECK_USE_COMPRESSED);
}

static void count_statistics(struct l2_walk *walk, uint64_t host_offset)
{
    struct check_result *result = walk->check->result;

    if (!walk->active) {
        return;
    }
    result->allocated_clusters += walk->check->weight;
    if (walk->next_host_offset != 0 && host_offset != walk->next_host_offset) {
        result->fragmented_clusters += walk->check->weight;
    }
    walk->next_host_offset = host_offset + walk->check->header->cluster_size;
}

/* Which subclusters of its host cluster the entry does not show. */
static uint32_t hidden_part(const struct header *header, uint64_t entry, uint64_t bitmap)
{
    if (header->extended_l2) {
        return ~bitmap_allocated(bitmap);
    }
    return l2_entry_is_zero(entry) ? 1 : 0;
}

/* References to data clusters, none of which shows these of its subclusters. */
static int count_data(struct check *check, uint64_t host_offset, uint64_t length, uint32_t hidden)
{
    int result;

    check->hidden = hidden;
    result = check_count(check, host_offset, length, CHECK_USE_DATA);
    check->hidden = 0;
    return result;
}

/* "Standard Cluster Descriptor" of an entry that names a host cluster. */
static int count_standard(struct l2_walk *walk, uint64_t entry, uint64_t bitmap)
{
    struct check *check = walk->check;
    const struct header *header = check->header;
    uint64_t host_offset = l2_entry_host_offset(entry);

    count_statistics(walk, host_offset);
    check->copied_clear |= walk->active && !l2_entry_is_copied(entry);
    if ((bitmap_allocated(bitmap) & bitmap_zero(bitmap)) != 0) {
        check_found(check, CHECK_ERROR,
                    "L2 table at 0x%" PRIx64 ": entry 0x%016" PRIx64 " has the impossible "
                    "subcluster bitmap 0x%016" PRIx64,
                    walk->table, entry, bitmap);
    }
    if (host_offset % header->cluster_size != 0) {
        check->references_unknown = true;
        check_found(check, CHECK_ERROR,
                    "L2 table at 0x%" PRIx64 ": entry 0x%016" PRIx64 " names host offset 0x%" PRIx64
                    ", which is not the start of a cluster",
                    walk->table, entry, host_offset);
    }
    if (header->external_data_file) {
        return 0; /* the data file has no refcounts */
    }
    return count_data(check, host_offset, header->cluster_size, hidden_part(header, entry, bitmap));
}

static int count_l2_entry(struct l2_walk *walk, uint64_t entry, uint64_t bitmap)
{
    struct check *check = walk->check;

    if (l2_entry_is_compressed(entry)) {
        return count_compressed(walk, entry, bitmap);
    }
    if ((entry & L2_ENTRY_RESERVED) != 0) {
        check->references_unknown = true;
        check_found(check, CHECK_ERROR,
                    "L2 table at 0x%" PRIx64 ": entry 0x%016" PRIx64 " has reserved bits set",
                    walk->table, entry);
    }
    if (check_has_host_cluster(check->header, entry)) {
        return count_standard(walk, entry, bitmap);
    }
    if (bitmap_allocated(bitmap) != 0) {
        check->references_unknown = true;
        check_found(check, CHECK_ERROR,
                    "L2 table at 0x%" PRIx64 ": entry 0x%016" PRIx64 " names no cluster, but has "
                    "the subcluster bitmap 0x%016" PRIx64,
                    walk->table, entry, bitmap);
    }
    return 0;
}

/*
 * How many entries from `raw` on, of `count`, name whole clusters of the file
 * that follow each other, with nothing to find fault with: what nearly all
 * tables are full of. Such a run is counted at once.
 */
static size_t plain_run(const struct check *check, const uint8_t *raw, size_t count)
{
    const struct header *header = check->header;
    uint64_t entry = load_be64(raw), host_offset = l2_entry_host_offset(entry);
    size_t bytes = header->l2_entry_bytes, run;

    if ((entry & (L2_ENTRY_COMPRESSED | L2_ENTRY_RESERVED)) != 0 || host_offset == 0 ||
        host_offset % header->cluster_size != 0 || host_offset >= check->file_size ||
        header->external_data_file) {
        return 0;
    }
    count = (size_t)min_u64(count, (check->file_size - host_offset) >> header->cluster_bits);
    for (run = 0; run < count && load_be64(raw + run * bytes) == entry; run++) {
        uint64_t bitmap = header->extended_l2 ? load_be64(raw + run * bytes + L2_ENTRY_BYTES) : 0;

        if ((bitmap_allocated(bitmap) & bitmap_zero(bitmap)) != 0 ||
            (header->extended_l2 && check->options->reference != NULL &&
             bitmap_allocated(bitmap) != UINT32_MAX)) { /* told one by one */
            break;
        }
        entry += header->cluster_size;
    }
    return run;
}

static int count_plain_run(struct l2_walk *walk, uint64_t entry, size_t run)
{
    struct check *check = walk->check;
    const struct header *header = check->header;
    uint64_t host_offset = l2_entry_host_offset(entry);

    if (walk->active) {
        count_statistics(walk, host_offset);
        check->result->allocated_clusters += (run - 1) * check->weight;
        walk->next_host_offset += (run - 1) << header->cluster_bits;
        check->copied_clear |= !l2_entry_is_copied(entry);
    }
    return count_data(check, host_offset, run << header->cluster_bits,
                      header->extended_l2 ? 0 : hidden_part(header, entry, 0));
}

static int count_l2_table(struct check *check, uint64_t host_offset, const uint8_t *table,
                          bool active)
{
    const struct header *header = check->header;
    struct l2_walk walk = {.check = check, .table = host_offset, .active = active};
    size_t entries = (size_t)1 << header->l2_bits, i = 0;

    while (i < entries) {
        const uint8_t *raw = table + i * header->l2_entry_bytes;
        uint64_t entry = load_be64(raw);
        uint64_t bitmap = header->extended_l2 ? load_be64(raw + L2_ENTRY_BYTES) : 0;
        size_t run = (entry | bitmap) == 0 ? 1 : plain_run(check, raw, entries - i);
        int result = 0;

        if (run == 0) {
            result = count_l2_entry(&walk, entry, bitmap);
            run = 1;
        } else if ((entry | bitmap) != 0) {
            result = count_plain_run(&walk, entry, run);
        }
        if (result < 0) {
            return result;
        }
        i += run;
    }
    return 0;
}

static int count_active_table(struct check *check, uint64_t host_offset, uint8_t *table,
                              struct check_dirty *dirty)
{
    (void)dirty;
    return count_l2_table(check, host_offset, table, true);
}

static int count_snapshot_table(struct check *check, uint64_t host_offset, uint8_t *table,
                                struct check_dirty *dirty)
{
    (void)dirty;
    return count_l2_table(check, host_offset, table, false);
}

/* --- L1 tables --------------------------------------------------------------------- */

static int count_l1_entry(struct check *check, uint64_t index, uint64_t *entry, bool *changed)
{
    const struct header *header = check->header;
    uint64_t table = l1_entry_table(*entry);
    bool inside = true;
    int result;

    (void)changed;
    if ((*entry & L1_ENTRY_RESERVED) != 0) {
        check->references_unknown = true;
        check_found(check, CHECK_ERROR,
                    "L1 entry %" PRIu64 " (0x%016" PRIx64 ") has reserved bits set", index, *entry);
    }
    if (table % header->cluster_size != 0) {
        check->references_unknown = true;
        check_found(check, CHECK_ERROR,
                    "L1 entry %" PRIu64 " (0x%016" PRIx64 ") names host offset 0x%" PRIx64
                    ", which is not the start of a cluster",
                    index, *entry, table);
    }
    result = check_count_inside(check, table, header->cluster_size, CHECK_USE_L2_TABLE, &inside);
    return result < 0 ? result : inside;
}

static int count_active_l1_entry(struct check *check, uint64_t index, uint64_t *entry,
                                 bool *changed)
{
    check->copied_clear |= l1_entry_table(*entry) != 0 && !l2_entry_is_copied(*entry);
    return count_l1_entry(check, index, entry, changed);
}

static const struct check_visitor count_active = {
    .active = true,
    .l1_entry = count_active_l1_entry,
    .l2_table = count_active_table,
};

static const struct check_visitor count_snapshot = {
    .l1_entry = count_l1_entry,
    .l2_table = count_snapshot_table,
};

int check_count_l1(struct check *check, uint64_t l1_offset, uint64_t entries, bool active)
{
    int result;

    /* Of a table that was cut off, or is said to be too long, what there is still counts. */
    check->walk_cut = false;
    result = check_walk(check, l1_offset, entries, active ? &count_active : &count_snapshot);
    if (result == 0 && check->walk_cut) {
        check->references_unknown = true;
        check_found(check, CHECK_ERROR,
                    "the L1 table at 0x%" PRIx64 " names many more L2 tables than the file has "
                    "clusters; the last of them were not looked at",
                    l1_offset);
    }
    return result;
}

/* --- Refcount table and blocks ----------------------------------------------------- */

/* Counts a cluster of these; *shared when something else refers to it as well. */
static int count_own_cluster(struct check *check, uint64_t cluster, enum check_use use,
                             bool *shared)
{
    uint64_t count = check_counts_get(check->counts, cluster);

    if (count > 0) {
        *shared = true;
    }
    if (count == refcount_max(check->header->refcount_order)) {
        tell_references(check, cluster, 1, use);
        return 0; /* what is shared is made anew, and nothing has to count it any more */
    }
    return count_clusters(check, cluster, 1, use);
}

static int count_block(struct check *check, uint64_t index)
{
    uint64_t cluster = check->blocks[index] >> check->header->cluster_bits;
    bool shared = false;
    int result = count_own_cluster(check, cluster, CHECK_USE_REFCOUNT_BLOCK, &shared);

    if (shared) {
        check->unsound_blocks++;
        check_found(check, CHECK_ERROR,
                    "refcount block %" PRIu64 " at 0x%" PRIx64 " is not the only thing there",
                    index, check->blocks[index]);
    }
    return result;
}

/* Where one of these clusters is shared, it is no place to write to. */
static int count_refcounts(struct check *check)
{
    const struct header *header = check->header;
    uint64_t first = header->refcount_table_offset >> header->cluster_bits, i;
    uint64_t clusters = (check->table_entries * REFCOUNT_TABLE_ENTRY_BYTES) >> header->cluster_bits;
    int result = 0;

    for (i = 0; i < clusters && !check->table_outside && result == 0; i++) {
        /* Not a finding of its own: the count of the cluster is. */
        result =
            count_own_cluster(check, first + i, CHECK_USE_REFCOUNT_TABLE, &check->table_shared);
    }
    for (i = 0; i < check->table_entries && result == 0; i++) {
        if (check->blocks[i] != 0) {
            result = count_block(check, i);
        }
    }
    return result;
}

/* --- Overlaps ---------------------------------------------------------------------- */

/*
 * Marks, with 2, the tables of which some cluster is referred to as something
 * else. That leaves something else without its reference: what seems to be free
 * need not be.
 */
static int find_overlaps(struct check *check)
{
    uint64_t cluster = check_counts_next(check->exclusive, 0, check->limit);
    int result = 0;

    while (cluster < check->limit && result == 0) {
        if (check_counts_get(check->counts, cluster) > 1) {
            check->references_unknown = true;
            result = check_counts_set(check->exclusive, cluster, 2);
        }
        cluster = check_counts_next(check->exclusive, cluster + 1, check->limit);
    }
    return result < 0 ? check_failed(check, result, "counting references") : 0;
}

/* --- All of it --------------------------------------------------------------------- */

int check_count_references(struct check *check, bool with_refcounts)
{
    const struct header *header = check->header;
    int result = check_walk_begin(check);

    if (result == 0) {
        result = check_count(check, 0, header->cluster_size, CHECK_USE_HEADER);
    }
    if (result == 0) {
        result = check_count(check, header->crypt_header_offset, header->crypt_header_length,
                             CHECK_USE_CRYPT_HEADER);
    }
    if (result == 0) {
        result = check_count(check, header->l1_offset, header->l1_entries * L1_ENTRY_BYTES,
                             CHECK_USE_L1_TABLE);
    }
    if (result == 0) {
        result = check_count_l1(check, header->l1_offset, header->l1_entries, true);
    }
    if (result == 0) {
        /* One with faults is replaced together with the refcounts. */
        result = check_count_snapshots(check, with_refcounts || check->unsound_snapshots == 0);
    }
    if (result == 0) {
        result = check_walk_again(check, true, &count_active);
    }
    if (result == 0) {
        result = check_walk_again(check, false, &count_snapshot);
    }
    check_walk_end(check);
    if (result == 0) {
        result = check_count_bitmaps(check);
    }
    if (result == 0) {
        result = find_overlaps(check);
    }
    return result == 0 && with_refcounts ? count_refcounts(check) : result;
}
