/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "disk/plan.h"

#include "crypto/cipher.h"
#include "util/checked.h"

#include <errno.h>

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

/* --- The clusters ------------------------------------------------------------------------- */

/* Reads the entries of the clusters; keeps those at the front that are of one class. */
static int read_entries(struct plan *plan, struct mapping_fault *fault)
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
    plan->moves = !entry_owns_host(writer, &plan->old[0]);
    while (kept < found && plan->moves && !entry_owns_host(writer, &plan->old[kept])) {
        kept++;
    }
    plan->clusters = kept;
    return 0;
}

/* Of the first cluster: whether the byte is data, in a place of its own, and written there. */
static bool has_place(const struct plan *plan, uint64_t guest_offset)
{
    const struct l2_value *old = &plan->old[0];

    if (plan->moves) {
        return false;
    }
    return plan->writer->header->extended_l2
               ? (bitmap_allocated(old->bitmap) >>
                      (guest_offset - plan->begin) / writer_unit_size(plan->writer) &
                  1) != 0
               : !l2_entry_is_zero(old->entry);
}

/*
 * What is given a place without data is read and written back. A subcluster
 * that has one is written in place by others, without a lock: their data would
 * be lost. So that ends before the next such one, as the entry is now. In an
 * encrypted image the same goes for the rest of the last sector.
 */
static void keep_off_others(struct plan *plan)
{
    uint64_t unit = writer_unit_size(plan->writer), first = (plan->from - plan->begin) / unit;
    uint32_t others = bitmap_allocated(plan->old[0].bitmap) >> first;

#ifdef QCOW2FS_BREAK_PREALLOCATE
    return; /* for tests/races/races-preallocate alone, which must see it */
#endif
    if (!plan->moves && others != 0) {
        first += (uint64_t)__builtin_ctz(others);
        plan->to = min_u64(plan->to, plan->begin + first * unit);
    }
}

/* --- Their place -------------------------------------------------------------------------- */

/* As many clusters as there are in one piece. */
static int take_place(struct plan *plan)
{
    struct writer *writer = plan->writer;
    int result;

    if (writer->header->external_data_file) {
        plan->host = (struct allocation){.host_offset = plan->begin, .clusters = plan->clusters};
        return 0;
    }
    if (!plan->moves) {
        plan->host = (struct allocation){
            .host_offset = l2_entry_host_offset(plan->old[0].entry),
            .clusters = 1,
        };
        return 0;
    }
    result = writer_prepare_allocation(writer); /* R5 */
    return result == 0 ? allocator_take(writer->allocator, plan->clusters, &plan->host) : result;
}

static int find_place(struct plan *plan, struct mapping_fault *fault)
{
    struct writer *writer = plan->writer;
    uint64_t length;
    int result = take_place(plan);

    if (result < 0) {
        return result;
    }
    plan->clusters = in_memory(plan->host.clusters);
    length = plan->clusters << writer->header->cluster_bits;
    plan->to = min_u64(plan->to, plan->begin + length);
    /* R8: a hit is not given back, which would destroy what is there. */
    return writer_check_overlap(writer, writer->image->data_file, plan->host.host_offset, length,
                                fault);
}

void plan_give_back(const struct plan *plan, size_t used)
{
    struct writer *writer = plan->writer;

    if (plan->moves && !writer->header->external_data_file) {
        allocator_return(writer->allocator,
                         plan->host.host_offset + used * writer_cluster_size(writer),
                         plan->clusters - used);
    }
}

/* --- Segments ----------------------------------------------------------------------------- */

/* From where the last one ends; none where that is nothing. */
static void add(struct plan *plan, enum segment_kind kind, uint64_t to)
{
    uint64_t from = plan->count > 0 ? plan->segments[plan->count - 1].to : plan->begin;

    if (from < to) {
        plan->segments[plan->count++] = (struct segment){.kind = kind, .from = from, .to = to};
    }
}

/*
 * Of what becomes data in a cluster, however little that is: units of so many bytes. The cluster as
 * a whole, where all of it has data at another place, which the entry names no more.
 */
static uint64_t unit_of(const struct plan *plan, const struct l2_value *old)
{
    bool whole = l2_entry_is_compressed(old->entry) || bitmap_allocated(old->bitmap) != 0;

    return plan->moves && whole ? writer_cluster_size(plan->writer)
                                : writer_unit_size(plan->writer);
}

static void make_segments(struct plan *plan)
{
    uint64_t first = unit_of(plan, &plan->old[0]), from = plan->from, to = plan->to;
    uint64_t last = unit_of(plan, &plan->old[plan->clusters - 1]);
    uint64_t valid_from = round_down(from, first), valid_to = div_round_up(to, last) * last;

    if (has_place(plan, to - 1)) {
        valid_to = to; /* what is around the end is data already */
    }
    if (image_is_encrypted(plan->writer->image)) { /* sectors are written as a whole */
        from = div_round_up(from, CIPHER_SECTOR) * CIPHER_SECTOR;
        to = round_down(to, CIPHER_SECTOR);
    }
    if (plan->data == NULL || from >= to) {
        from = to = valid_to;
    }
    add(plan, SEGMENT_KEEP, valid_from);
    add(plan, SEGMENT_COPY, from);
    add(plan, SEGMENT_DATA, to);
    add(plan, SEGMENT_COPY, valid_to);
    add(plan, SEGMENT_KEEP, plan->begin + plan->clusters * writer_cluster_size(plan->writer));
}

/* Behind the end of the disk there are zeros, whatever is mapped. */
static int shows_zeros(const struct plan *plan, uint64_t from, uint64_t to, bool *zero)
{
    struct writer *writer = plan->writer;

    return writer_reads_zero(writer, from, min_u64(to, view_size(writer->view)), zero);
}

static int all_shows_zeros(const struct plan *plan, bool *zero)
{
    const struct segment *first = plan->segments, *last = first + plan->count - 1;

    first += first->kind == SEGMENT_KEEP;
    last -= last->kind == SEGMENT_KEEP;
    return shows_zeros(plan, first->from, last->to, zero);
}

/*
 * Zeros stand in fresh clusters already, and need no copy; but who wants no more than a place may
 * want the host's space. Who does not has holes made in any other. In an encrypted image zeros of
 * the file are none of the disk.
 */
static int find_zeros(struct plan *plan)
{
    bool fresh = plan->host.fresh, writes = plan->data == NULL && !plan->sparse;
    int result = 0;

    if (!(fresh || plan->sparse) || image_is_encrypted(plan->writer->image)) {
        return 0;
    }
    if (fresh) {
        result = all_shows_zeros(plan, &plan->was_zero);
    }
    for (size_t i = 0; i < plan->count && result == 0 && !writes; i++) {
        struct segment *segment = &plan->segments[i];
        bool zero = plan->was_zero;

        if (segment->kind != SEGMENT_COPY) {
            continue;
        }
        if (!zero) {
            result = shows_zeros(plan, segment->from, segment->to, &zero);
        }
        if (zero) {
            segment->kind = fresh ? SEGMENT_ZERO : SEGMENT_HOLE;
        }
    }
    return result;
}

int plan_clusters(struct plan *plan, struct mapping_fault *fault)
{
    int result = read_entries(plan, fault);

    if (result < 0 || has_place(plan, plan->from)) {
        return result; /* or somebody else has given it one meanwhile */
    }
    if (plan->data == NULL || image_is_encrypted(plan->writer->image)) {
        keep_off_others(plan);
    }
    result = find_place(plan, fault);
    if (result < 0) {
        return result;
    }
    make_segments(plan);
    result = find_zeros(plan);
    if (result < 0) {
        fault->host_offset = plan_host_of(plan, plan->from);
        plan_give_back(plan, 0);
    }
    return result;
}

/* --- What follows from them --------------------------------------------------------------- */

/* The subclusters of the cluster at `begin` that become data. */
static uint32_t data_bits(const struct plan *plan, uint64_t begin)
{
    uint64_t unit = writer_unit_size(plan->writer), end = begin + writer_cluster_size(plan->writer);
    uint32_t bits = 0;

    for (const struct segment *each = plan->segments; each < plan->segments + plan->count; each++) {
        uint64_t from = max_u64(each->from, begin), to = min_u64(each->to, end);

        if (each->kind != SEGMENT_KEEP && from < to) {
            bits |= subcluster_bits_between((from - begin) / unit, (to - 1 - begin) / unit);
        }
    }
    return bits;
}

void plan_entries(struct plan *plan)
{
    const struct writer *writer = plan->writer;

    for (size_t i = 0; i < plan->clusters; i++) {
        uint64_t at = i * writer_cluster_size(writer);
        const struct l2_value *old = &plan->old[i];
        struct l2_value *new = &plan->new[i];

        *new = (struct l2_value){.entry = (plan->host.host_offset + at) | ENTRY_COPIED};
        if (writer->header->extended_l2) {
            uint32_t kept = plan->moves ? 0 : bitmap_allocated(old->bitmap);
            uint32_t zero = l2_entry_is_compressed(old->entry) ? 0 : bitmap_zero(old->bitmap);
            uint32_t allocated = kept | data_bits(plan, plan->begin + at);

            new->bitmap = (uint64_t)(zero & ~allocated) << 32 | allocated;
        }
    }
}

uint64_t plan_epoch(const struct plan *plan)
{
    return plan->was_zero ? plan->host.epoch
                          : max_u64(plan->host.epoch, barrier_epoch(plan->writer->barrier));
}
