/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "disk/writer_internal.h"

#include "cache/change.h"
#include "crypto/cipher.h"
#include "disk/compressing.h"
#include "util/checked.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The clusters of one request that get host clusters together. */
struct plan {
    struct writer *writer;
    uint64_t begin; /* guest offset of the first cluster */
    size_t clusters;
    struct l2_value *old, *new; /* of each cluster */
    uint64_t from, to;          /* guest offsets of the bytes that the request brings */
    const uint8_t *data;        /* these; none: the clusters only get a place, all is copied */
    struct allocation host;
    uint64_t copy_from, copy_to; /* guest offsets of what must be valid afterwards */
};

static struct l2_value data_value(const struct writer *writer, uint64_t host_offset,
                                  uint32_t allocated, uint32_t zero)
{
    struct l2_value value = {.entry = host_offset | ENTRY_COPIED};

    if (writer->header->extended_l2) {
        value.bitmap = (uint64_t)(zero & ~allocated) << 32 | allocated;
    }
    return value;
}

/* --- Copy-on-write ------------------------------------------------------------------------ */

int writer_reads_zero(struct writer *writer, uint64_t from, uint64_t to, bool *zero)
{
    *zero = true;
    while (*zero && from < to) {
        struct view_extent found;
        int result = view_lookup(writer->view, from, to - from, &found);

        if (result < 0) {
            return result;
        }
        *zero = found.extent.kind == EXTENT_ZERO || found.extent.kind == EXTENT_UNALLOCATED;
        from += found.extent.length;
    }
    return 0;
}

static uint64_t host_of(const struct plan *plan, uint64_t guest_offset)
{
    return plan->host.host_offset + (guest_offset - plan->begin);
}

/* The same of what is copied: behind the end of the disk there are zeros, whatever is mapped. */
static int copies_zero(struct writer *writer, uint64_t from, uint64_t to, bool *zero)
{
    return writer_reads_zero(writer, from, min_u64(to, view_size(writer->view)), zero);
}

/* A raw data file ends where the disk does; what any other has behind that may be seen later. */
static uint64_t copy_limit(const struct writer *writer)
{
    bool raw = (writer->header->autoclear_features & AUTOCLEAR_RAW_EXTERNAL_DATA) != 0;

    return writer->header->external_data_file && raw ? view_size(writer->view) : UINT64_MAX;
}

/*
 * Copies what the disk shows in the guest range to its new place: zeros where
 * that lies behind the end, which does not move meanwhile (resize.c).
 */
static int copy_range(const struct plan *plan, uint64_t from, uint64_t to)
{
    struct writer *writer = plan->writer;
    bool zero;
    void *buffer;
    int result;

    to = min_u64(to, copy_limit(writer));
    if (from >= to) {
        return 0;
    }
    result = copies_zero(writer, from, to, &zero);
    if (result < 0 || (zero && plan->host.fresh && plan->data != NULL)) {
        return result; /* see write_data() */
    }
    buffer = malloc(to - from);
    if (buffer == NULL) {
        return -ENOMEM;
    }
    result = view_read(writer->view, from, buffer, to - from);
    if (result == 0) {
        result = store_write(writer->image->data_file, host_of(plan, from), buffer, to - from);
    }
    free(buffer);
    return result;
}

/*
 * The same in an encrypted image, of which whole sectors are written, with what the request brings
 * to this range in its place. Nothing of the disk is left in memory that is given back.
 */
static int write_encrypted(const struct plan *plan, uint64_t from, uint64_t to)
{
    struct writer *writer = plan->writer;
    const struct encrypted_place place = {writer->image->data_file, host_of(plan, from), from};
    uint64_t data_from = max_u64(from, plan->from), data_to = min_u64(to, plan->to);
    uint8_t *buffer;
    int result;

    if (from >= to) {
        return 0;
    }
    if (plan->data != NULL && data_from == from && data_to == to) {
        return writer_write_sectors(writer, &place, plan->data + (from - plan->from), to - from);
    }
    buffer = malloc(to - from);
    if (buffer == NULL) {
        return -ENOMEM;
    }
    result = view_read(writer->view, from, buffer, to - from);
    if (result == 0) {
        if (plan->data != NULL && data_from < data_to) {
            memcpy(buffer + (data_from - from), plan->data + (data_from - plan->from),
                   data_to - data_from);
        }
        result = writer_write_sectors(writer, &place, buffer, to - from);
    }
    explicit_bzero(buffer, to - from);
    free(buffer);
    return result;
}

/*
 * All that must be valid, in up to three parts: the whole sectors of the data need no copy. What is
 * copied ends with a (sub)cluster: see keep_off_others().
 */
static int write_all_encrypted(const struct plan *plan)
{
    uint64_t from = div_round_up(plan->from, CIPHER_SECTOR) * CIPHER_SECTOR,
             to = round_down(plan->to, CIPHER_SECTOR);
    int result;

    if (plan->data == NULL || from >= to) {
        return write_encrypted(plan, plan->copy_from, plan->copy_to);
    }
    result = write_encrypted(plan, plan->copy_from, from);
    if (result == 0) {
        result = write_encrypted(plan, from, to);
    }
    return result == 0 ? write_encrypted(plan, to, plan->copy_to) : result;
}

/*
 * Writes the data and what stands around it. R1: the entries may become stable
 * when this is, and when the counts are; where fresh clusters take the place of
 * zeros, only the counts matter: until it is stable the data reads as zeros.
 */
static int write_data(struct plan *plan, uint64_t *epoch)
{
    struct writer *writer = plan->writer;
    bool zero;
    int result;

    if (image_is_encrypted(writer->image)) { /* fresh clusters do not read as zeros */
        result = write_all_encrypted(plan);
        *epoch = max_u64(plan->host.epoch, barrier_epoch(writer->barrier));
        return result;
    }
    result = copies_zero(writer, plan->copy_from, plan->copy_to, &zero);
    /* Zeros stand in fresh clusters already; but preallocation wants the host's space. */
    if (result == 0 && !(zero && plan->host.fresh && plan->data != NULL)) {
        result = copy_range(plan, plan->copy_from, plan->data != NULL ? plan->from : plan->copy_to);
        if (result == 0 && plan->data != NULL) {
            result = copy_range(plan, plan->to, plan->copy_to);
        }
    }
    if (result == 0 && plan->data != NULL) {
        result = store_write(writer->image->data_file, host_of(plan, plan->from), plan->data,
                             plan->to - plan->from);
    }
    *epoch = plan->host.epoch;
    if (!zero || !plan->host.fresh) {
        *epoch = max_u64(*epoch, barrier_epoch(writer->barrier));
    }
    return result;
}

/* --- R8 --------------------------------------------------------------------------------------- */

int writer_check_overlap(struct writer *writer, const struct store *store, uint64_t host_offset,
                         uint64_t length, struct mapping_fault *fault)
{
    const char *table;

    if (store != writer->image->file) {
        return 0;
    }
    table = gate_check(writer->gate, GATE_OTHER, host_offset, length);
    if (table == NULL && mapping_table_at(writer->image->active, host_offset, length)) {
        table = "L2 tables"; /* of a snapshot */
    }
    if (table == NULL) {
        return 0;
    }
    fault->host_offset = host_offset;
    fault->impossible = true;
    snprintf(fault->text, sizeof(fault->text), "the data would overwrite the %s", table);
    return -EIO;
}

/* --- Allocation --------------------------------------------------------------------------- */

/* Whether a new host cluster for this entry must take over all of the old one. */
static bool copies_whole(const struct writer *writer, const struct l2_value *old)
{
    if (!writer->header->extended_l2 || l2_entry_is_compressed(old->entry)) {
        return true;
    }
    return bitmap_allocated(old->bitmap) != 0;
}

/* What must be valid around the data, in clusters that get a new place. */
static void plan_copy_new(struct plan *plan)
{
    const struct writer *writer = plan->writer;
    uint64_t unit = writer_unit_size(writer),
             end = plan->begin + plan->clusters * writer_cluster_size(writer);

    plan->copy_from = round_down(plan->from, unit);
    plan->copy_to = min_u64(end, div_round_up(plan->to, unit) * unit);
    if (copies_whole(writer, &plan->old[0])) {
        plan->copy_from = plan->begin;
        plan->copy_to = plan->clusters == 1 ? end : plan->copy_to;
    }
    if (copies_whole(writer, &plan->old[plan->clusters - 1])) {
        plan->copy_to = end;
        plan->copy_from = plan->clusters == 1 ? plan->begin : plan->copy_from;
    }
}

/* The same in a cluster that keeps its place: a subcluster that is allocated is valid already. */
static void plan_copy_own(struct plan *plan)
{
    const struct writer *writer = plan->writer;
    uint64_t unit = writer_unit_size(writer);
    uint32_t allocated = writer->header->extended_l2 ? bitmap_allocated(plan->old[0].bitmap) : 0;
    uint64_t first = (plan->from - plan->begin) / unit, last = (plan->to - 1 - plan->begin) / unit;

    plan->copy_from = (allocated >> first & 1) != 0 ? plan->from : plan->begin + first * unit;
    plan->copy_to = (allocated >> last & 1) != 0 ? plan->to : plan->begin + (last + 1) * unit;
}

/* The new entries: what is in [copy_from, copy_to) is data, the rest stays what it was. */
static void plan_values(struct plan *plan)
{
    const struct writer *writer = plan->writer;
    uint64_t size = writer_cluster_size(writer), unit = writer_unit_size(writer);
    size_t i;

    for (i = 0; i < plan->clusters; i++) {
        uint64_t begin = plan->begin + i * size;
        uint64_t from = max_u64(plan->copy_from, begin) - begin;
        uint64_t to = min_u64(plan->copy_to, begin + size) - begin;
        uint32_t allocated = subcluster_bits_between(from / unit, (to - 1) / unit), zero = 0;

        if (!l2_entry_is_compressed(plan->old[i].entry)) {
            zero = bitmap_zero(plan->old[i].bitmap);
            if (entry_owns_host(writer, &plan->old[i])) {
                allocated |= bitmap_allocated(plan->old[i].bitmap);
            }
        }
        plan->new[i] = data_value(writer, plan->host.host_offset + i * size, allocated, zero);
    }
}

/* Reads the entries of the plan's clusters; keeps those at the front that are of one class. */
static int plan_old(struct plan *plan, struct mapping_fault *fault)
{
    struct writer *writer = plan->writer;
    size_t found = 0, kept = 1, got;

    while (found < plan->clusters) {
        int result = mapping_get_some(writer->image->active,
                                      plan->begin + found * writer_cluster_size(writer),
                                      &plan->old[found], plan->clusters - found, &got, fault);

        if (result < 0 && found == 0) {
            return result;
        }
        if (result < 0) {
            break; /* what is in order comes first */
        }
        found += got;
    }
    while (kept < found && !entry_owns_host(writer, &plan->old[0]) &&
           !entry_owns_host(writer, &plan->old[kept])) {
        kept++;
    }
    plan->clusters = kept;
    return 0;
}

/* Finds the place of the plan's clusters, as many as there are in one piece. */
static int plan_host(struct plan *plan, struct mapping_fault *fault)
{
    struct writer *writer = plan->writer;
    int result = 0;

    if (writer->header->external_data_file) {
        plan->host = (struct allocation){.host_offset = plan->begin, .clusters = plan->clusters};
    } else if (entry_owns_host(writer, &plan->old[0])) {
        plan->host = (struct allocation){
            .host_offset = l2_entry_host_offset(plan->old[0].entry),
            .clusters = 1,
        };
    } else {
        result = writer_prepare_allocation(writer); /* R5 */
        if (result == 0) {
            result = allocator_take(writer->allocator, plan->clusters, &plan->host);
        }
        if (result == 0) {
            /* R8: a hit is not given back, which would destroy what is there */
            result =
                writer_check_overlap(writer, writer->image->file, plan->host.host_offset,
                                     plan->host.clusters << writer->header->cluster_bits, fault);
        }
    }
    if (result == 0) {
        plan->clusters = plan->host.clusters;
        plan->to = min_u64(plan->to, plan->begin + plan->clusters * writer_cluster_size(writer));
    }
    return result;
}

static void return_unused(const struct plan *plan, size_t used)
{
    struct writer *writer = plan->writer;

    if (!writer->header->external_data_file && !entry_owns_host(writer, &plan->old[0])) {
        allocator_return(writer->allocator,
                         plan->host.host_offset + used * writer_cluster_size(writer),
                         plan->clusters - used);
    }
}

/* Has the entries name the plan's places; how many of them do, in *set. */
static int name_places(struct plan *plan, uint64_t epoch, size_t *set, struct mapping_fault *fault)
{
    struct writer *writer = plan->writer;
    int result;

    plan_values(plan);
    result =
        mapping_set(writer->image->active, plan->begin, plan->new, plan->clusters, epoch, fault);
    *set = result == 0 ? plan->clusters
                       : (fault->guest_offset - plan->begin) / writer_cluster_size(writer);
    return result;
}

static int data_failed(const struct plan *plan, int result, struct mapping_fault *fault)
{
    fault->guest_offset = plan->from;
    fault->host_offset = host_of(plan, plan->from);
    return result;
}

/*
 * In a data file that is the disk: what stands around the data, the entries, and the data last. So
 * what fails on the way leaves a file and a disk that are the same.
 */
static int write_to_disk_file(struct plan *plan, struct mapping_fault *fault)
{
    size_t set;
    int result = copy_range(plan, plan->copy_from, plan->from);

    if (result == 0) {
        result = copy_range(plan, plan->to, plan->copy_to);
    }
    if (result < 0) {
        return data_failed(plan, result, fault);
    }
    result = name_places(plan, barrier_epoch(plan->writer->barrier), &set, fault);
    if (result < 0) {
        return result;
    }
    result = store_write(plan->writer->image->data_file, host_of(plan, plan->from), plan->data,
                         plan->to - plan->from);
    return result < 0 ? data_failed(plan, result, fault) : 0;
}

/* Writes the plan's data to its place, and then has the entries name it. */
static int execute(struct plan *plan, struct mapping_fault *fault)
{
    struct writer *writer = plan->writer;
    bool moves = !entry_owns_host(writer, &plan->old[0]);
    uint64_t epoch;
    size_t set, i;
    int result;

    if (moves) {
        plan_copy_new(plan);
    } else {
        plan_copy_own(plan);
    }
    if (data_file_is_disk(writer) && plan->data != NULL) {
        return write_to_disk_file(plan, fault);
    }
    result = writer_check_overlap(writer, writer->image->data_file, host_of(plan, plan->copy_from),
                                  plan->copy_to - plan->copy_from, fault);
    if (result < 0) {
        return result; /* what is used already is not given back */
    }
    result = write_data(plan, &epoch);
    if (result < 0) {
        return_unused(plan, 0);
        return data_failed(plan, result, fault);
    }
    result = name_places(plan, epoch, &set, fault);
    for (i = 0; moves && i < set; i++) {
        writer_drop_old(writer, &plan->old[i]);
    }
    if (result < 0) {
        return_unused(plan, set);
    }
    return result;
}

/* Whether the first byte can be written in place: its (sub)cluster is data, and our own. */
static bool is_in_place(const struct writer *writer, const struct plan *plan)
{
    uint64_t first = (plan->from - plan->begin) / writer_unit_size(writer);

    if (!entry_owns_host(writer, &plan->old[0])) {
        return false;
    }
    return writer->header->extended_l2 ? (bitmap_allocated(plan->old[0].bitmap) >> first & 1) != 0
                                       : !l2_entry_is_zero(plan->old[0].entry);
}

/*
 * What is given a place without data is read and written back. A subcluster
 * that has one is written in place by others, without a lock: their data would
 * be lost. So that ends before the next such one, as the entry is now. In an
 * encrypted image the same goes for the rest of the last sector.
 */
static void keep_off_others(struct plan *plan)
{
    const struct writer *writer = plan->writer;
    uint64_t unit = writer_unit_size(writer);

#ifdef QCOW2FS_BREAK_PREALLOCATE
    return; /* for tests/races/races-preallocate alone, which must see it */
#endif
    if (entry_owns_host(writer, &plan->old[0])) {
        uint64_t first = (plan->from - plan->begin) / unit;
        uint32_t others = bitmap_allocated(plan->old[0].bitmap) >> first;

        if (others != 0) {
            first += (uint64_t)__builtin_ctz(others);
            plan->to = min_u64(plan->to, plan->begin + first * unit);
        }
    }
}

int writer_place(struct writer *writer, uint64_t guest_offset, const uint8_t *data, uint64_t length,
                 uint64_t *done, struct mapping_fault *fault)
{
    uint32_t bits = writer->header->cluster_bits;
    uint64_t first = guest_offset >> bits, last = (guest_offset + length - 1) >> bits;
    struct plan plan = {
        .writer = writer,
        .begin = first << bits,
        .clusters = last - first + 1,
        .from = guest_offset,
        .to = guest_offset + length,
        .data = data,
    };
    int result;

    *done = 0;
    plan.old = calloc(plan.clusters * 2, sizeof(*plan.old));
    if (plan.old == NULL) {
        return -ENOMEM;
    }
    plan.new = plan.old + plan.clusters;
    result = plan_old(&plan, fault);
    /* Somebody else may have given it a place meanwhile: then it is written in place. */
    if (result == 0 && !is_in_place(writer, &plan)) {
        if (writer->header->extended_l2 && (data == NULL || image_is_encrypted(writer->image))) {
            keep_off_others(&plan);
        }
        result = plan_host(&plan, fault);
        if (result == 0) {
            result = execute(&plan, fault);
        }
        *done = plan.to - plan.from;
    }
    free(plan.old);
    return result;
}

int writer_allocate(struct writer *writer, uint64_t guest_offset, const uint8_t *data,
                    uint64_t length, uint64_t *done, struct mapping_fault *fault)
{
    uint32_t bits = writer->header->cluster_bits;
    struct range_lock lock = {
        .first = guest_offset >> bits,
        .last = (guest_offset + length - 1) >> bits,
    };
    int result;

    range_lock_take(&writer->ranges, &lock);
    result = writer_place(writer, guest_offset, data, length, done, fault);
    range_lock_release(&writer->ranges, &lock);
    return result;
}

/*
 * How much of what was just written in place is still shown from there. Zeros that were made since
 * it was looked up may have kept the cluster, and who writes next to them puts that to use again,
 * with what came to it late: the write would show up after the zeros, and after others that saw
 * them. It is done once more where it is not shown.
 */
static int still_in_place(struct writer *writer, uint64_t guest_offset, const struct extent *extent,
                          uint64_t *length, struct mapping_fault *fault)
{
    struct extent now;
    int result = mapping_lookup(writer->image->active, guest_offset, extent->length, &now, fault);

    *length = 0;
    if (result == 0 && now.kind == EXTENT_DATA && now.exclusive &&
        now.host_offset == extent->host_offset) {
        *length = now.length;
    }
    return result;
}

/* Writes what begins at guest_offset as far as it has a place of its own; *done bytes. */
static int write_in_place(struct writer *writer, uint64_t guest_offset, const uint8_t *data,
                          uint64_t length, uint64_t *done, struct mapping_fault *fault)
{
    struct extent extent;
    unsigned zeroings = atomic_load(&writer->zeroings_ended);
    int result = mapping_lookup(writer->image->active, guest_offset, length, &extent, fault);

    *done = 0;
    if (result < 0 || extent.kind != EXTENT_DATA || !extent.exclusive) {
        return result;
    }
    result = writer_check_overlap(writer, extent.store, extent.host_offset, extent.length, fault);
    if (result == 0) {
        const struct encrypted_place place = {extent.store, extent.host_offset, guest_offset};

        result = image_is_encrypted(writer->image)
                     ? writer_update_sectors(writer, &place, data, extent.length)
                     : store_write(extent.store, extent.host_offset, data, extent.length);
    }
    *done = extent.length;
    if (result == 0 && atomic_load(&writer->zeroings_begun) != zeroings) {
        result = still_in_place(writer, guest_offset, &extent, done, fault);
    }
    return result;
}

int writer_write_range(struct writer *writer, uint64_t guest_offset, const uint8_t *data,
                       uint64_t length)
{
    struct mapping_fault fault = {.guest_offset = guest_offset};
    int result = 0;

    while (length > 0 && result == 0) {
        uint64_t done;

        result = write_in_place(writer, guest_offset, data, length, &done, &fault);
        if (result == 0 && done == 0) {
            result = writer->compressing != NULL
                         ? compressing_write(writer, guest_offset, data, length, &done, &fault)
                         : writer_allocate(writer, guest_offset, data, length, &done, &fault);
        }
        guest_offset += done;
        data += done;
        length -= done;
    }
    if (result < 0) {
        writer_fault(writer, result, &fault);
    }
    return result;
}

int writer_write(struct writer *writer, uint64_t guest_offset, const void *data, size_t length)
{
    unsigned generation;
    uint64_t end;
    int result;

    if (!checked_add(guest_offset, length, &end) || end > INT64_MAX) {
        return -EFBIG;
    }
    if (length == 0) {
        return 0;
    }
    result = writer_begin_write(writer, guest_offset, end, &generation);
    if (result == 0 && end > view_size(writer->view)) {
        result = writer->options.growable ? writer_grow_to(writer, end, NULL) : -ENOSPC;
    }
    if (result == 0) {
        tracking_mark(writer, guest_offset, end);
        result = writer->compressing != NULL
                     ? compressing_write_request(writer, guest_offset, data, length)
                     : writer_write_range(writer, guest_offset, data, length);
    }
    return writer_end(writer, generation, result);
}
