/* SPDX-License-Identifier: MIT */
/*
 * Zero clusters in the words of version 2: an unallocated cluster where that
 * reads as zeros, else a cluster full of zeros.
 *
 * The active state is changed as a guest would. The L2 tables of snapshots are
 * changed in place, each once: each entry is 8 bytes, and says the same before
 * and after. Several snapshots may have the same table: the L1 entries that name
 * it are counted, and each cluster that it comes to name gets as many references,
 * each that it named loses as many. Its refcount does not tell: that may be
 * higher, where a crash has left a leak. A table that the active state shares
 * with them holds no zero cluster any more by then: where it did, the active
 * state has a copy of its own now.
 */
#include "config.h"

#include "admin/amend_internal.h"

#include "check/counts.h"
#include "util/checked.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Whether an unallocated cluster would show something of the backing image. */
static bool backing_shows(const struct amend *amend, uint64_t guest_offset)
{
    const struct image *backing = amend->image->backing;

    return backing != NULL && guest_offset < backing->virtual_size;
}

/* --- The active state ------------------------------------------------------------------ */

/* The zero cluster at guest_offset, which needs no place. */
static int unmap_cluster(struct writer *writer, uint64_t guest_offset, struct mapping_fault *fault)
{
    const struct l2_value none = {0};
    struct l2_value old;
    int result = mapping_get(writer->image->active, guest_offset, &old, fault);

    if (result == 0) {
        result = mapping_set(writer->image->active, guest_offset, &none, 1, 0, fault);
    }
    if (result == 0) {
        writer_drop_old(writer, &old);
    }
    return result;
}

static int expand_cluster(struct amend *amend, uint64_t guest_offset)
{
    struct writer *writer = amend->writer;
    uint64_t size = amend->image->virtual_size;
    struct mapping_fault fault = {.guest_offset = guest_offset};
    unsigned generation;
    int result;

    if (guest_offset < size && backing_shows(amend, guest_offset)) {
        return writer_preallocate_sparse(
            writer, guest_offset, min_u64(writer_cluster_size(writer), size - guest_offset), NULL);
    }
    result = writer_begin(writer, &generation);
    if (result == 0) {
        result = unmap_cluster(writer, guest_offset, &fault);
        if (result < 0) {
            writer_fault(writer, result, &fault);
        }
    }
    return writer_end(writer, generation, result);
}

static int expand_active(struct amend *amend)
{
    const struct header *header = amend->image->header;
    uint64_t end = (uint64_t)header->l1_entries << header_l1_entry_bits(header), at = 0;
    int result = 0;

    amend_begin(amend, "replacing zero clusters", NULL);
    while (at < end && result == 0) {
        struct mapping_fault fault;
        struct extent extent;

        result = mapping_lookup(amend->image->active, at, end - at, &extent, &fault);
        if (result < 0) {
            break;
        }
        /* Compressed clusters begin anywhere in their extent, all others at clusters. */
        for (uint64_t done = 0; extent.kind == EXTENT_ZERO && done < extent.length && result == 0;
             done += header->cluster_size) {
            result = expand_cluster(amend, at + done);
        }
        at += extent.length;
        amend_progress(amend, at, end);
    }
    return result == 0 ? writer_flush(amend->writer) : result;
}

/* --- Snapshots --------------------------------------------------------------------------- */

/* An L2 table of a snapshot. */
struct table {
    uint64_t host_offset;
    uint64_t guest_offset; /* of its first entry */
    uint64_t references;   /* how many L1 entries name it */
    uint8_t *entries;      /* as on the disk */
    uint64_t *dropped;     /* host offsets of clusters that its zero clusters kept */
    size_t dropped_count;
    size_t begin, end; /* of what has changed, bytes; none where end is 0 */
    /* By their clusters how many L1 entries name each table that is still to be changed. */
    struct check_counts *names;
};

/* Called for each L1 entry that names a table. */
typedef int named_fn(struct amend *amend, struct table *table);

/* A cluster that reads as zeros, with as many references as the table has. */
static int make_zero_cluster(struct writer *writer, uint64_t references, uint64_t *host_offset)
{
    uint64_t size = writer_cluster_size(writer);
    struct allocation place;
    uint8_t *zeros;
    int result = allocator_take(writer->allocator, 1, &place);

    /* Nobody else uses the allocator: it needs no lock. */
    for (uint64_t i = 1; i < references && result == 0; i++) {
        result = refcounts_add(writer->refcounts, place.host_offset / size, 1, 1);
    }
    if (result < 0) {
        return result;
    }
    *host_offset = place.host_offset;
    if (place.untouched) {
        return 0;
    }
    zeros = calloc(1, in_memory(size));
    if (zeros == NULL) {
        return -ENOMEM;
    }
    result = store_write(writer->image->file, place.host_offset, zeros, in_memory(size));
    free(zeros);
    return result;
}

/* Changes the entries in memory, and makes the clusters that they name. */
static int change_entries(struct amend *amend, struct table *table)
{
    const struct header *header = amend->image->header;
    size_t length = in_memory(header->cluster_size);

    for (size_t at = 0; at < length; at += L2_ENTRY_BYTES) {
        uint64_t entry = load_be64(table->entries + at), new = 0;
        uint64_t guest_offset =
            table->guest_offset + ((uint64_t)(at / L2_ENTRY_BYTES) << header->cluster_bits);

        if (l2_entry_is_compressed(entry) || !l2_entry_is_zero(entry)) {
            continue;
        }
        if (backing_shows(amend, guest_offset)) {
            int result = make_zero_cluster(amend->writer, table->references, &new);

            if (result < 0) {
                return result;
            }
        }
        if (l2_entry_host_offset(entry) != 0) {
            table->dropped[table->dropped_count++] = l2_entry_host_offset(entry);
        }
        store_be64(table->entries + at, new);
        table->begin = table->end == 0 ? at : table->begin;
        table->end = at + L2_ENTRY_BYTES;
    }
    return 0;
}

static int sync_all(struct writer *writer)
{
    return barrier_wait(writer->barrier, barrier_epoch(writer->barrier));
}

/*
 * What the table drops may be left with one reference, of the active state: then that is to get its
 * COPIED bit, which it does when the writer is closed. Until then the image is dirty. A refcount
 * that is too high has this done in vain, and no more.
 */
static int expect_copied(struct writer *writer, const struct table *table)
{
    int result = 0;

    for (size_t i = 0; i < table->dropped_count && result == 0 && !writer->unsettled; i++) {
        uint64_t count;

        result = refcounts_get(writer->refcounts, table->dropped[i] / writer_cluster_size(writer),
                               &count);
        if (result == 0 && count > table->references) {
            result = writer_mark_dirty(writer);
            writer->unsettled = result == 0;
        }
    }
    return result;
}

static int write_entries(struct amend *amend, struct table *table)
{
    struct writer *writer = amend->writer;
    int result;

    if (table->end == 0) {
        return 0;
    }
    result = sync_all(writer); /* R1, R2 */
    if (result == 0) {
        mapping_forget_table(amend->image->active, table->host_offset);
        result = store_write(amend->image->file, table->host_offset + table->begin,
                             table->entries + table->begin, table->end - table->begin);
    }
    if (result == 0) {
        result = sync_all(writer);
    }
    if (result == 0) {
        result = expect_copied(writer, table);
    }
    for (size_t i = 0; i < table->dropped_count && result == 0; i++) {
        for (uint64_t reference = 0; reference < table->references && result == 0; reference++) {
            result = allocator_drop(writer->allocator, table->dropped[i], 1,
                                    atomic_load(&writer->next_commit)); /* R4 */
        }
    }
    return result;
}

static uint64_t cluster_of(const struct amend *amend, const struct table *table)
{
    return table->host_offset >> amend->image->header->cluster_bits;
}

/* named_fn: what has not been done where another entry named it. */
static int expand_table(struct amend *amend, struct table *table)
{
    int result;

    table->references = check_counts_get(table->names, cluster_of(amend, table));
    if (table->references == 0) {
        return 0;
    }
    table->dropped_count = 0;
    table->end = 0;
    result = check_counts_set(table->names, cluster_of(amend, table), 0);
    if (result == 0) {
        result = store_read(amend->image->file, table->host_offset, table->entries,
                            in_memory(amend->image->header->cluster_size));
    }
    if (result == 0) {
        result = change_entries(amend, table);
    }
    return result == 0 ? write_entries(amend, table) : result;
}

static int walk_snapshot(struct amend *amend, const struct snapshot *snapshot, struct table *table,
                         named_fn *named)
{
    size_t length = (size_t)snapshot->l1_entries * L1_ENTRY_BYTES;
    uint8_t *l1 = malloc(length + 1);
    int result = l1 != NULL ? 0 : -ENOMEM;

    if (result == 0) {
        result = store_read(amend->image->file, snapshot->l1_offset, l1, length);
    }
    for (uint32_t i = 0; i < snapshot->l1_entries && result == 0; i++) {
        table->host_offset = l1_entry_table(load_be64(l1 + (size_t)i * L1_ENTRY_BYTES));
        table->guest_offset = (uint64_t)i << header_l1_entry_bits(amend->image->header);
        if (table->host_offset != 0) {
            result = named(amend, table);
        }
    }
    free(l1);
    return result;
}

/* named_fn */
static int count_name(struct amend *amend, struct table *table)
{
    uint64_t done;
    bool shared = false;
    int result =
        check_counts_add(table->names, cluster_of(amend, table), 1, UINT64_MAX, &done, &shared);

    return result == -ERANGE ? -EUCLEAN : result; /* past the end of the file */
}

/*
 * Of the L1 tables, which no two snapshots have in common (check_sound()), each byte is read once;
 * memory is taken by clusters of the file.
 */
static int count_names(struct amend *amend, struct table *table)
{
    const struct snapshot_table *snapshots = amend->image->snapshots;
    const struct header *header = amend->image->header;
    struct store_info info;
    int result = store_info(amend->image->file, &info);

    if (result == 0) {
        result = check_counts_create(div_round_up(info.size, header->cluster_size), &table->names);
    }
    for (uint64_t i = 0; i < header->l1_entries && result == 0; i++) {
        table->host_offset = mapping_table(amend->image->active, i);
        if (table->host_offset != 0) {
            result = count_name(amend, table);
        }
    }
    for (size_t i = 0; i < snapshots->count && result == 0; i++) {
        result = walk_snapshot(amend, &snapshots->snapshots[i], table, count_name);
    }
    return result;
}

static int expand_snapshots(struct amend *amend)
{
    const struct snapshot_table *snapshots = amend->image->snapshots;
    size_t cluster = in_memory(amend->image->header->cluster_size);
    struct table table = {0};
    int result;

    if (snapshots->count == 0) {
        return 0;
    }
    amend_begin(amend, "replacing zero clusters of snapshots", "snapshots");
    table.entries = malloc(cluster);
    table.dropped = malloc(cluster / L2_ENTRY_BYTES * sizeof(*table.dropped));
    result = table.entries == NULL || table.dropped == NULL ? -ENOMEM : count_names(amend, &table);
    for (size_t i = 0; i < snapshots->count && result == 0; i++) {
        result = walk_snapshot(amend, &snapshots->snapshots[i], &table, expand_table);
        amend_progress(amend, i + 1, snapshots->count);
    }
    check_counts_destroy(table.names);
    free(table.dropped);
    free(table.entries);
    return result == 0 ? writer_flush(amend->writer) : result;
}

int amend_expand_zeros(struct amend *amend)
{
    int result = writer_prepare(amend->writer); /* R6 */

    if (result == 0) {
        result = expand_active(amend);
    }
    if (result == 0) {
        result = expand_snapshots(amend);
    }
    return result < 0 ? amend_failed(amend, result, "replacing its zero clusters") : 0;
}
