/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "disk/look.h"
#include "disk/writer_internal.h"

#include "util/checked.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- Zeros ---------------------------------------------------------------------------------- */

/* What zeros are made for. */
enum zeroing_kind {
    ZERO_KEEP,  /* a cluster keeps its place in the file */
    ZERO_UNMAP, /* or is freed */
    ZERO_OWN,   /* they are there already: the image shall say so itself, whatever is behind it */
};

/* The new entry of a cluster of which the subclusters `bits` shall read as zeros. */
static struct l2_value zero_value(const struct writer *writer, const struct l2_value *old,
                                  uint32_t bits, enum zeroing_kind kind)
{
    uint32_t all = writer->header->extended_l2 ? UINT32_MAX : 1;
    bool keep = entry_owns_host(writer, old) && !(kind == ZERO_UNMAP && bits == all);
    struct l2_value value = {0};

    if (keep) {
        value.entry = l2_entry_host_offset(old->entry) | ENTRY_COPIED;
    } else if (bits != all) {
        value.entry = old->entry; /* shared with a snapshot: the other subclusters still need it */
    }
    if (!writer->header->extended_l2) {
        value.entry |= L2_ENTRY_ZERO;
    } else {
        uint32_t allocated = bits == all ? 0 : bitmap_allocated(old->bitmap) & ~bits;
        uint32_t zero = bits == all ? all : bitmap_zero(old->bitmap) | bits;

        value.bitmap = (uint64_t)zero << 32 | allocated;
    }
    return value;
}

/* Zeros by the entry of one cluster, in version 3. The range lies in it, on subclusters. */
static int zero_entry(struct writer *writer, uint64_t from, uint64_t to, enum zeroing_kind kind,
                      struct mapping_fault *fault)
{
    uint64_t begin = round_down(from, writer_cluster_size(writer)), unit = writer_unit_size(writer);
    uint32_t bits = subcluster_bits_between((from - begin) / unit, (to - 1 - begin) / unit);
    struct l2_value old, new;
    int result;

    result = mapping_get(writer->image->active, begin, &old, fault);
    if (result < 0) {
        return result;
    }
    if (l2_entry_is_compressed(old.entry) && to - from < writer_cluster_size(writer)) {
        return -EAGAIN; /* it has no subclusters: write zeros */
    }
    new = zero_value(writer, &old, bits, kind);
    if (new.entry == old.entry &&new.bitmap == old.bitmap) {
        return 0;
    }
    result = mapping_set(writer->image->active, begin, &new, 1, 0, fault);
    if (result == 0 && (l2_entry_is_compressed(old.entry) ||
                        l2_entry_host_offset(new.entry) != l2_entry_host_offset(old.entry))) {
        writer_drop_old(writer, &old);
    }
    return result;
}

/* The same in version 2, which knows no zeros: unallocated, where nothing is behind. */
static int unallocate_entry(struct writer *writer, uint64_t from, uint64_t to,
                            enum zeroing_kind kind, struct mapping_fault *fault)
{
    const struct l2_value new = {0};
    struct l2_value old;
    int result;

    if (kind == ZERO_OWN || writer->image->backing != NULL ||
        to - from < writer_cluster_size(writer)) {
        return -EAGAIN;
    }
    result = mapping_get(writer->image->active, from, &old, fault);
    if (result == 0 && old.entry != 0) {
        result = mapping_set(writer->image->active, from, &new, 1, 0, fault);
        if (result == 0) {
            writer_drop_old(writer, &old);
        }
    }
    return result;
}

/* Writes zeros, unless what shows there is zeros, and that is enough. */
static int write_zeros(struct writer *writer, uint64_t from, uint64_t to, enum zeroing_kind kind)
{
    uint8_t *zeros;
    bool zero = false;
    int result = 0;

    if (from >= to) {
        return 0;
    }
    if (kind != ZERO_OWN) {
        result = writer_reads_zero(writer, from, to, &zero);
    }
    if (result < 0 || zero) {
        return result;
    }
    zeros = calloc(1, in_memory(to - from));
    if (zeros == NULL) {
        return -ENOMEM;
    }
    result = writer_write_range(writer, from, zeros, to - from);
    free(zeros);
    return result;
}

/*
 * Zeros by the entry of one cluster where that can be done: *inner_from to
 * *inner_to, of what is asked for. -EAGAIN: it cannot.
 */
static int zero_by_entry(struct writer *writer, uint64_t from, uint64_t to, enum zeroing_kind kind,
                         uint64_t *inner_from, uint64_t *inner_to)
{
    uint64_t unit = writer_unit_size(writer), cluster = from >> writer->header->cluster_bits;
    struct range_lock lock = {.first = cluster, .last = cluster};
    struct mapping_fault fault = {.guest_offset = from};
    int result = -EAGAIN;

    range_lock_take(&writer->ranges, &lock);
    /* Nobody can have written behind the end, which does not move before the lock is released. */
    if (to >= view_size(writer->view)) {
        to = div_round_up(to, unit) * unit;
    }
    *inner_from = div_round_up(from, unit) * unit;
    *inner_to = round_down(to, unit);
    if (*inner_from < *inner_to) {
        atomic_fetch_add(&writer->zeroings_begun, 1);
        result = writer->header->version >= 3
                     ? zero_entry(writer, *inner_from, *inner_to, kind, &fault)
                     : unallocate_entry(writer, *inner_from, *inner_to, kind, &fault);
        atomic_fetch_add(&writer->zeroings_ended, 1);
    }
    range_lock_release(&writer->ranges, &lock);
    if (result < 0 && result != -EAGAIN) {
        writer_fault(writer, result, &fault);
    }
    return result;
}

/* Zeros in one cluster. */
static int zero_in_cluster(struct writer *writer, uint64_t from, uint64_t to,
                           enum zeroing_kind kind)
{
    uint64_t unit = writer_unit_size(writer), inner_from, inner_to;
    int result;

    if (div_round_up(from, unit) == div_round_up(to, unit)) {
        return write_zeros(writer, from, to, kind); /* no subcluster begins in it */
    }
    result = writer_prepare_allocation(writer); /* an L2 table may be needed */
    if (result < 0) {
        return result;
    }
    result = zero_by_entry(writer, from, to, kind, &inner_from, &inner_to);
    if (result == -EAGAIN) {
        return write_zeros(writer, from, to, kind);
    }
    if (result == 0) {
        result = write_zeros(writer, from, inner_from, kind);
    }
    return result == 0 ? write_zeros(writer, inner_to, to, kind) : result;
}

/*
 * Zeros in a raw data file, which is the disk: what it holds must be what the
 * disk shows, so they are in the file alone. An entry that said zeros, too, could
 * be set after a write in place, which needs no lock, had put its data there.
 */
static int zero_raw_data_file(struct writer *writer, uint64_t from, uint64_t to)
{
    struct mapping_fault fault = {.guest_offset = from, .host_offset = from};
    int result = store_punch(writer->image->data_file, from, to - from);

    if (result < 0) {
        writer_fault(writer, result, &fault);
    }
    return result;
}

/* --- Ranges of any length ------------------------------------------------------------------- */

#define LOOK_STEPS 64 /* what a look at the mapping counts for, which may take long */

/* A range on its way to be zeros. */
struct zeroing {
    struct writer *writer;
    uint64_t from, to; /* guest offsets of what is left */
    uint64_t first;    /* where it began */
    enum zeroing_kind kind;
    const struct stop *stop;
    struct look look;
    uint64_t used_to; /* up to there the disk has something, as far as was looked */
    bool begun;
};

/*
 * Whether the bytes at zeroing->from read as zeros, and keep no place in the file, as far as that
 * is enough; how many of the window are alike in that.
 */
static bool is_nothing(const struct zeroing *zeroing, uint64_t window, uint64_t *length)
{
    struct writer *writer = zeroing->writer;
    struct view_extent found;
    struct mapping_fault fault;

    *length = 1;
    if (mapping_lookup_exact(writer->image->active, zeroing->from, window, &found.extent, &fault) <
        0) {
        return false; /* who changes the entry will say so */
    }
    *length = found.extent.length;
    if (found.extent.preallocated) {
        return false;
    }
    if (found.extent.kind == EXTENT_UNALLOCATED) {
        if (zeroing->kind == ZERO_OWN ||
            view_lookup(writer->view, zeroing->from, *length, &found) < 0) {
            return false;
        }
        *length = found.extent.length;
    }
    return found.extent.kind == EXTENT_ZERO || found.extent.kind == EXTENT_UNALLOCATED;
}

/*
 * Passes over what is nothing already, however long it is, in whole clusters: what comes next can
 * have its zeros by its entry.
 */
static void pass_nothing(struct zeroing *zeroing)
{
    uint64_t size = writer_cluster_size(zeroing->writer), length, next;
    uint64_t window = look_begin(&zeroing->look, zeroing->to - zeroing->from);
    bool nothing = is_nothing(zeroing, window, &length);

    look_end(&zeroing->look, length);
    next = zeroing->from + length;
    if (nothing && next < zeroing->to) {
        next = round_down(next, size);
    }
    if (nothing && next > zeroing->from) {
        zeroing->from = next;
    } else {
        zeroing->used_to = div_round_up(zeroing->from + length, size) * size;
    }
}

/* Zeros in the data file, where it has one. */
static int zero_data_file(struct zeroing *zeroing)
{
    struct writer *writer = zeroing->writer;
    bool raw = (writer->header->autoclear_features & AUTOCLEAR_RAW_EXTERNAL_DATA) != 0;
    uint64_t from = zeroing->from, to = zeroing->to;

    /* Where it is encrypted, a hole is no zeros: what a crash leaves would be neither. */
    if (!writer->header->external_data_file || image_is_encrypted(writer->image)) {
        return 0;
    }
    if (data_file_is_disk(writer)) {
        zeroing->from = to; /* no entry is touched */
        return zero_raw_data_file(writer, from, to);
    }
    return raw || zeroing->kind == ZERO_UNMAP
               ? store_punch(writer->image->data_file, from, to - from)
               : 0;
}

/* So much of it that it is not long until other things have their turn. */
static int zero_some(struct zeroing *zeroing)
{
    uint64_t size = writer_cluster_size(zeroing->writer);
    unsigned steps = 0;
    int result = 0;

    if (!zeroing->begun && zeroing->from < zeroing->to) {
        zeroing->begun = true;
        result = zero_data_file(zeroing);
    }
    while (zeroing->from < zeroing->to && steps < WRITER_PART_CLUSTERS && result == 0) {
        uint64_t next = min_u64(zeroing->to, round_down(zeroing->from, size) + size);

        if (stop_requested(zeroing->stop)) {
            return -EINTR;
        }
        if (zeroing->from >= zeroing->used_to) {
            pass_nothing(zeroing);
            steps += LOOK_STEPS;
            continue;
        }
        result = zero_in_cluster(zeroing->writer, zeroing->from, next, zeroing->kind);
        zeroing->from = next;
        steps++;
    }
    return result;
}

static void zeroing_init(struct zeroing *zeroing, struct writer *writer, uint64_t from, uint64_t to,
                         enum zeroing_kind kind, const struct stop *stop)
{
    *zeroing = (struct zeroing){
        .writer = writer,
        .from = from,
        .to = to,
        .first = from,
        .kind = kind,
        .stop = stop,
    };
    look_init(&zeroing->look);
}

int writer_zero_range(struct writer *writer, uint64_t from, uint64_t to, bool unmap,
                      const struct stop *stop)
{
    struct zeroing zeroing;
    int result = 0;

    zeroing_init(&zeroing, writer, from, to, unmap ? ZERO_UNMAP : ZERO_KEEP, stop);
    while (zeroing.from < to && result == 0) {
        result = zero_some(&zeroing);
        if (result == 0) {
            result = writer_relieve(writer);
        }
    }
    return result;
}

/* What a part that began at `from` has changed; of a data file its first part did all. */
static void mark_zeroed(const struct zeroing *zeroing, uint64_t from)
{
    struct writer *writer = zeroing->writer;
    bool all = writer->header->external_data_file && from == zeroing->first;

    if (zeroing->kind != ZERO_OWN) { /* they were there before */
        tracking_mark(writer, from, all ? zeroing->to : zeroing->from);
    }
}

/* As a request for each part of the range: what one drops does not wait for all of them (R4). */
static int zero_in_parts(struct writer *writer, uint64_t guest_offset, uint64_t length,
                         enum zeroing_kind kind, const struct stop *stop)
{
    uint64_t end = guest_offset + length;
    struct zeroing zeroing;
    unsigned generation;
    int result;

    if (!range_within(guest_offset, length, view_size(writer->view))) {
        return -EINVAL;
    }
    zeroing_init(&zeroing, writer, guest_offset, end, kind, stop);
    do {
        uint64_t from = zeroing.from;

        result = writer_begin(writer, &generation);
        if (result == 0) {
            result = zero_some(&zeroing);
            mark_zeroed(&zeroing, from);
        }
        result = writer_end(writer, generation, result);
    } while (zeroing.from < end && result == 0);
    return result;
}

int writer_zero(struct writer *writer, uint64_t guest_offset, uint64_t length, bool unmap,
                const struct stop *stop)
{
    return zero_in_parts(writer, guest_offset, length, unmap ? ZERO_UNMAP : ZERO_KEEP, stop);
}

int writer_own_zeros(struct writer *writer, uint64_t guest_offset, uint64_t length,
                     const struct stop *stop)
{
    return zero_in_parts(writer, guest_offset, length, ZERO_OWN, stop);
}

void writer_tell_of_holes(struct writer *writer)
{
    const struct image *image = writer->image;
    bool refused = store_refuses_holes(image->file) ||
                   (writer->header->external_data_file && store_refuses_holes(image->data_file));

    if (refused && !atomic_exchange(&writer->told_of_holes, true)) {
        log_line(image->log, LOG_LEVEL_WARNING,
                 "%s: the file system it lies on cannot punch holes: what is discarded is "
                 "overwritten with zeros, and takes as much space as before until it is used again",
                 image->path);
    }
}
