/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "meta/bitmap.h"
#include "meta/check_internal.h"
#include "meta/format.h"
#include "meta/refcount_block.h"
#include "meta/snapshot.h"
#include "util/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

/* One more reference to a cluster that can be in the file. */
static int count_cluster(struct check *check, uint64_t cluster, const char *what)
{
    uint64_t count = check_counts_get(check->counts, cluster);
    int result;

    if (count == refcount_max(check->header->refcount_order)) {
        check->saturated = true;
        check_found(check, CHECK_ERROR,
                    "cluster %" PRIu64 ": the reference of the %s is one too many for refcounts of "
                    "%u bits; convert the image with qemu-img convert",
                    cluster, what, 1U << check->header->refcount_order);
        return 0;
    }
    result = check_counts_set(check->counts, cluster, count + 1);
    if (result < 0) {
        return check_failed(check, result, "counting references");
    }
    check->limit = max_u64(check->limit, cluster + 1);
    return 0;
}

/*
 * One more reference to each cluster that [offset, offset + length) touches.
 * The last cluster need not be in the file as a whole; *inside tells whether
 * the range is in it apart from that.
 */
static int count_range(struct check *check, uint64_t offset, uint64_t length, const char *what,
                       bool *inside)
{
    uint32_t bits = check->header->cluster_bits;
    uint64_t end, cluster;

    *inside = checked_add(offset, length, &end) &&
              (end <= check->file_size || end - check->file_size < check->header->cluster_size);
    if (length == 0) {
        return 0;
    }
    if (!*inside) {
        check->references_unknown = true;
        check_found(check, CHECK_ERROR,
                    "the %s at 0x%" PRIx64 " (%" PRIu64 " bytes) lies past the end of the file",
                    what, offset, length);
        return 0;
    }
    for (cluster = offset >> bits; cluster <= (end - 1) >> bits; cluster++) {
        int result = count_cluster(check, cluster, what);

        if (result < 0) {
            return result;
        }
    }
    return 0;
}

static int count_only(struct check *check, uint64_t offset, uint64_t length, const char *what)
{
    bool inside;

    return count_range(check, offset, length, what, &inside);
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
    return l2_entry_host_offset(entry) != 0 ||
           (header->external_data_file && l2_entry_is_copied(entry));
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
        check->result->allocated_clusters++;
        check->result->compressed_clusters++;
        check->result->fragmented_clusters++;
    }
    return count_only(check, l2_entry_compressed_offset(entry, header->cluster_bits),
                      l2_entry_compressed_size(entry, header->cluster_bits), "compressed cluster");
}

static void count_statistics(struct l2_walk *walk, uint64_t host_offset)
{
    struct check_result *result = walk->check->result;

    if (!walk->active) {
        return;
    }
    result->allocated_clusters++;
    if (walk->next_host_offset != 0 && host_offset != walk->next_host_offset) {
        result->fragmented_clusters++;
    }
    walk->next_host_offset = host_offset + walk->check->header->cluster_size;
}

/* "Standard Cluster Descriptor" of an entry that names a host cluster. */
static int count_standard(struct l2_walk *walk, uint64_t entry, uint64_t bitmap)
{
    struct check *check = walk->check;
    const struct header *header = check->header;
    uint64_t host_offset = l2_entry_host_offset(entry);

    count_statistics(walk, host_offset);
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
    return count_only(check, host_offset, header->cluster_size, "data cluster");
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

static int count_l2_table(struct check *check, uint64_t host_offset, const uint8_t *table,
                          bool active)
{
    const struct header *header = check->header;
    struct l2_walk walk = {.check = check, .table = host_offset, .active = active};
    size_t at;

    for (at = 0; at < header->cluster_size; at += header->l2_entry_bytes) {
        uint64_t entry = load_be64(table + at);
        uint64_t bitmap = header->extended_l2 ? load_be64(table + at + L2_ENTRY_BYTES) : 0;
        int result;

        if ((entry | bitmap) == 0) {
            continue;
        }
        result = count_l2_entry(&walk, entry, bitmap);
        if (result < 0) {
            return result;
        }
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
    const char *other;
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
    result = count_range(check, table, header->cluster_size, "L2 table", &inside);
    other = header_overlap(header, HEADER_TABLE_NONE, table, header->cluster_size);
    if (other != NULL) {
        /* Not a finding of its own: the count of these clusters will be. */
        check->references_unknown = true;
    }
    return result < 0 ? result : inside;
}

static const struct check_visitor count_active = {
    .l1_entry = count_l1_entry,
    .l2_table = count_active_table,
};

static const struct check_visitor count_snapshot = {
    .l1_entry = count_l1_entry,
    .l2_table = count_snapshot_table,
};

static int count_l1(struct check *check, uint64_t l1_offset, uint64_t entries,
                    const struct check_visitor *visitor)
{
    bool inside;
    int result = count_range(check, l1_offset, entries * L1_ENTRY_BYTES, "L1 table", &inside);

    if (result < 0 || !inside) {
        return result;
    }
    return check_walk(check, l1_offset, entries, visitor);
}

/* --- Snapshots --------------------------------------------------------------------- */

static int count_snapshot_l1(struct check *check, const struct snapshot *snapshot)
{
    const struct header *header = check->header;

    if (snapshot->l1_offset % header->cluster_size != 0 ||
        snapshot->l1_entries > HEADER_L1_SIZE_MAX / L1_ENTRY_BYTES) {
        check->references_unknown = true;
        check_found(check, CHECK_ERROR,
                    "snapshot '%s' has an impossible L1 table, of %" PRIu32
                    " entries at 0x%" PRIx64,
                    snapshot->name, snapshot->l1_entries, snapshot->l1_offset);
        return 0;
    }
    return count_l1(check, snapshot->l1_offset, snapshot->l1_entries, &count_snapshot);
}

static int count_snapshots(struct check *check)
{
    const struct header *header = check->header;
    struct snapshot_table *table;
    size_t i;
    int result = snapshot_table_read(check->file, header, check->file_size, check->name, &table,
                                     check->error);

    if (result < 0) {
        return result;
    }
    if (header->external_data_file && table->count > 0) {
        check_found(check, CHECK_ERROR,
                    "the image has snapshots and an external data file, which cannot be");
    }
    for (i = 0; i < table->count; i++) {
        check->work_total += table->snapshots[i].l1_entries;
    }
    for (i = 0; i < table->count && result == 0; i++) {
        result = count_snapshot_l1(check, &table->snapshots[i]);
    }
    if (result == 0) {
        result = count_only(check, header->snapshots_offset, table->size, "snapshot table");
    }
    snapshot_table_free(table);
    return result;
}

/* --- Bitmaps ----------------------------------------------------------------------- */

static int count_bitmap_entry(struct check *check, const struct bitmap *bitmap, uint64_t entry)
{
    const struct header *header = check->header;
    uint64_t host_offset = entry & ENTRY_HOST_OFFSET_MASK;

    if ((entry & BITMAP_TABLE_ENTRY_RESERVED) != 0 ||
        (host_offset != 0 && (entry & BITMAP_TABLE_ENTRY_ALL_ONES) != 0) ||
        host_offset % header->cluster_size != 0) {
        check->references_unknown = true;
        check_found(check, CHECK_ERROR,
                    "bitmap '%s' has the impossible bitmap table entry 0x%016" PRIx64, bitmap->name,
                    entry);
        return 0;
    }
    return host_offset == 0
               ? 0
               : count_only(check, host_offset, header->cluster_size, "bitmap cluster");
}

static int count_bitmap_piece(struct check *check, const struct bitmap *bitmap, uint64_t offset,
                              size_t entries)
{
    size_t i;
    int result = store_read(check->file, offset, check->buffer, entries * BITMAP_TABLE_ENTRY_BYTES);

    if (result < 0) {
        check_found(check, CHECK_UNREADABLE,
                    "the bitmap table of '%s' at 0x%" PRIx64 " cannot be read: %s", bitmap->name,
                    offset, strerror(-result));
        return 0;
    }
    for (i = 0; i < entries && result == 0; i++) {
        result = count_bitmap_entry(check, bitmap,
                                    load_be64(check->buffer + i * BITMAP_TABLE_ENTRY_BYTES));
    }
    return result;
}

static int count_bitmap(struct check *check, const struct bitmap *bitmap)
{
    uint64_t done = 0, entries = bitmap->table_entries;
    bool inside;
    int result;

    if (bitmap->table_offset % check->header->cluster_size != 0) {
        check->references_unknown = true;
        check_found(check, CHECK_ERROR,
                    "bitmap '%s' has its table at 0x%" PRIx64
                    ", which is not the start of a cluster",
                    bitmap->name, bitmap->table_offset);
        return 0;
    }
    result = count_range(check, bitmap->table_offset, entries * BITMAP_TABLE_ENTRY_BYTES,
                         "bitmap table", &inside);
    while (result == 0 && inside && done < entries) {
        size_t part = (size_t)min_u64(entries - done, CHECK_READ_SIZE / BITMAP_TABLE_ENTRY_BYTES);

        result = count_bitmap_piece(check, bitmap,
                                    bitmap->table_offset + done * BITMAP_TABLE_ENTRY_BYTES, part);
        done += part;
    }
    return result;
}

static int count_bitmaps(struct check *check)
{
    const struct header *header = check->header;
    struct bitmap_directory *directory;
    size_t i;
    int result;

    if (header->bitmap_count == 0) {
        return 0;
    }
    result = bitmap_directory_read(check->file, header, check->name, &directory, check->error);
    if (result < 0) {
        return result;
    }
    result = count_only(check, header->bitmap_directory_offset, header->bitmap_directory_size,
                        "bitmap directory");
    for (i = 0; i < directory->count && result == 0; i++) {
        result = count_bitmap(check, &directory->bitmaps[i]);
    }
    bitmap_directory_free(directory);
    return result;
}

/* --- Refcount table and blocks ----------------------------------------------------- */

/* Counts a cluster of these; *shared when something else refers to it as well. */
static int count_own_cluster(struct check *check, uint64_t cluster, const char *what, bool *shared)
{
    uint64_t count = check_counts_get(check->counts, cluster);

    if (count > 0) {
        *shared = true;
    }
    if (count == refcount_max(check->header->refcount_order)) {
        return 0; /* what is shared is made anew, and nothing has to count it any more */
    }
    return count_cluster(check, cluster, what);
}

static int count_block(struct check *check, uint64_t index)
{
    uint64_t cluster = check->blocks[index] >> check->header->cluster_bits;
    bool shared = false;
    int result = count_own_cluster(check, cluster, "refcount block", &shared);

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
    int result = 0;

    for (i = 0; i < header->refcount_table_clusters && result == 0; i++) {
        /* Not a finding of its own: the count of the cluster is. */
        result = count_own_cluster(check, first + i, "refcount table", &check->table_shared);
    }
    for (i = 0; i < check->table_entries && result == 0; i++) {
        if (check->blocks[i] != 0) {
            result = count_block(check, i);
        }
    }
    return result;
}

/* --- All of it --------------------------------------------------------------------- */

int check_count_references(struct check *check, bool with_refcounts)
{
    const struct header *header = check->header;
    int result = count_only(check, 0, header->cluster_size, "header");

    if (result == 0) {
        result = count_l1(check, header->l1_offset, header->l1_entries, &count_active);
    }
    if (result == 0) {
        result = count_snapshots(check);
    }
    if (result == 0) {
        result = count_bitmaps(check);
    }
    if (result == 0 && with_refcounts) {
        result = count_refcounts(check);
    }
    return result;
}
