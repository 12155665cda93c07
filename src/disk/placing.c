/* SPDX-License-Identifier: MIT */
/*
 * Gives guest clusters a place: carries out what disk/plan has made of a request.
 *
 *     what is copied, holes, and the data   (R8 was looked at when the place was found)
 *     the entries                           which wait for all that (R1)
 *     the old places                        are dropped (R4)
 *
 * In a data file that is the disk: what stands around the data, the entries, and the data last. So
 * what fails on the way leaves a file and a disk that are the same.
 */
#include "config.h"

#include "disk/plan.h"
#include "util/checked.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* A raw data file ends where the disk does; what any other has behind that may be seen later. */
static uint64_t copy_limit(const struct writer *writer)
{
    bool raw = (writer->header->autoclear_features & AUTOCLEAR_RAW_EXTERNAL_DATA) != 0;

    return writer->header->external_data_file && raw && !image_is_encrypted(writer->image)
               ? view_size(writer->view)
               : UINT64_MAX;
}

/* Bytes to their new place. */
static int put(const struct plan *plan, uint64_t from, const uint8_t *bytes, uint64_t length)
{
    struct writer *writer = plan->writer;
    const struct encrypted_place place = {writer->image->data_file, plan_host_of(plan, from), from};

    return image_is_encrypted(writer->image)
               ? writer_write_sectors(writer, &place, bytes, length)
               : store_write(place.store, place.host_offset, bytes, in_memory(length));
}

/*
 * What the disk shows in the guest range to its new place: zeros where that lies behind the end,
 * which does not move meanwhile (resize.c). What the request brings to the range takes the place of
 * that. Nothing of an encrypted disk is left in memory that is given back.
 */
static int copy(const struct plan *plan, uint64_t from, uint64_t to)
{
    struct writer *writer = plan->writer;
    uint64_t data_from = max_u64(from, plan->from), data_to = min_u64(to, plan->to);
    uint8_t *buffer;
    int result;

    to = min_u64(to, copy_limit(writer));
    if (from >= to) {
        return 0;
    }
    buffer = malloc(in_memory(to - from));
    if (buffer == NULL) {
        return -ENOMEM;
    }
    result = view_read(writer->view, from, buffer, in_memory(to - from));
    if (result == 0) {
        if (plan->data != NULL && data_from < data_to) {
            memcpy(buffer + (data_from - from), plan->data + (data_from - plan->from),
                   in_memory(data_to - data_from));
        }
        result = put(plan, from, buffer, to - from);
    }
    if (image_is_encrypted(writer->image)) {
        explicit_bzero(buffer, in_memory(to - from));
    }
    free(buffer);
    return result;
}

/* What lies behind the end of a data file reads as zeros, and it stays as long as it is. */
static int make_hole(const struct plan *plan, uint64_t from, uint64_t to)
{
    return store_punch(plan->writer->image->data_file, plan_host_of(plan, from), to - from);
}

static int write_segment(const struct plan *plan, const struct segment *segment)
{
    switch (segment->kind) {
    case SEGMENT_COPY:
        return copy(plan, segment->from, segment->to);
    case SEGMENT_HOLE:
        return make_hole(plan, segment->from, segment->to);
    default:
        return put(plan, segment->from, plan->data + (segment->from - plan->from),
                   segment->to - segment->from);
    }
}

static int write_segments(const struct plan *plan, enum segment_kind kind)
{
    int result = 0;

    for (size_t i = 0; i < plan->count && result == 0; i++) {
        if (plan->segments[i].kind == kind) {
            result = write_segment(plan, &plan->segments[i]);
        }
    }
    return result;
}

/* Has the entries name the places, as many as can be; what is not named goes back. */
static int name_places(struct plan *plan, struct mapping_fault *fault)
{
    struct writer *writer = plan->writer;
    size_t set = plan->clusters;
    int result;

    plan_entries(plan);
    result = mapping_set(writer->image->active, plan->begin, plan->new, plan->clusters,
                         plan_epoch(plan), fault);
    if (result < 0) {
        set = in_memory((fault->guest_offset - plan->begin) / writer_cluster_size(writer));
        plan_give_back(plan, set);
    }
    for (size_t i = 0; plan->moves && i < set; i++) {
        writer_drop_old(writer, &plan->old[i]);
    }
    return result;
}

static int data_failed(const struct plan *plan, int result, struct mapping_fault *fault)
{
    fault->guest_offset = plan->from;
    fault->host_offset = plan_host_of(plan, plan->from);
    return result;
}

static int execute(struct plan *plan, struct mapping_fault *fault)
{
    bool named_first = data_file_is_disk(plan->writer);
    int result = write_segments(plan, SEGMENT_COPY);

    if (result == 0) {
        result = write_segments(plan, SEGMENT_HOLE);
    }
    if (result == 0 && !named_first) {
        result = write_segments(plan, SEGMENT_DATA);
    }
    if (result < 0) {
        plan_give_back(plan, 0);
        return data_failed(plan, result, fault);
    }
    result = name_places(plan, fault);
    if (result < 0 || !named_first) {
        return result;
    }
    result = write_segments(plan, SEGMENT_DATA);
    return result < 0 ? data_failed(plan, result, fault) : 0;
}

static int place(struct writer *writer, uint64_t guest_offset, const uint8_t *data, bool sparse,
                 uint64_t length, uint64_t *done, struct mapping_fault *fault)
{
    uint32_t bits = writer->header->cluster_bits;
    uint64_t first = guest_offset >> bits, last = (guest_offset + length - 1) >> bits;
    struct plan plan = {
        .writer = writer,
        .begin = first << bits,
        .clusters = in_memory(last - first + 1),
        .from = guest_offset,
        .to = guest_offset + length,
        .data = data,
        .sparse = sparse,
    };
    int result;

    *done = 0;
    plan.old = calloc(plan.clusters * 2, sizeof(*plan.old));
    if (plan.old == NULL) {
        return -ENOMEM;
    }
    plan.new = plan.old + plan.clusters;
    result = plan_clusters(&plan, fault);
    if (result == 0 && plan.count > 0) {
        result = execute(&plan, fault);
        *done = plan.to - plan.from;
    }
    free(plan.old);
    return result;
}

int writer_place(struct writer *writer, uint64_t guest_offset, const uint8_t *data, uint64_t length,
                 uint64_t *done, struct mapping_fault *fault)
{
    return place(writer, guest_offset, data, false, length, done, fault);
}

static int lock_and_place(struct writer *writer, uint64_t guest_offset, const uint8_t *data,
                          bool sparse, uint64_t length, uint64_t *done, struct mapping_fault *fault)
{
    uint32_t bits = writer->header->cluster_bits;
    struct range_lock lock = {
        .first = guest_offset >> bits,
        .last = (guest_offset + length - 1) >> bits,
    };
    int result;

    range_lock_take(&writer->ranges, &lock);
    result = place(writer, guest_offset, data, sparse, length, done, fault);
    range_lock_release(&writer->ranges, &lock);
    return result;
}

int writer_allocate(struct writer *writer, uint64_t guest_offset, const uint8_t *data,
                    uint64_t length, uint64_t *done, struct mapping_fault *fault)
{
    return lock_and_place(writer, guest_offset, data, false, length, done, fault);
}

int writer_allocate_sparse(struct writer *writer, uint64_t guest_offset, uint64_t length,
                           uint64_t *done, struct mapping_fault *fault)
{
    return lock_and_place(writer, guest_offset, NULL, true, length, done, fault);
}
