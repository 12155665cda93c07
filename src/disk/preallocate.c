/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "disk/writer_internal.h"

#include "util/checked.h"

#include <errno.h>

/* A range of the disk that is given its places. */
struct preallocating {
    struct writer *writer;
    bool sparse;
    const struct stop *stop;
};

/* Where what is to be done at once ends: the cluster that `from` lies in, or whole ones of zeros.
 */
static int end_of_part(const struct preallocating *preallocating, uint64_t from, uint64_t *to)
{
    struct writer *writer = preallocating->writer;
    uint64_t cluster = writer_cluster_size(writer), zeros = from;
    int result = 0;

    if (preallocating->sparse && !image_is_encrypted(writer->image)) {
        struct view_extent found;

        result = view_lookup(writer->view, from, *to - from, &found);
        if (result == 0 &&
            (found.extent.kind == EXTENT_ZERO || found.extent.kind == EXTENT_UNALLOCATED)) {
            zeros = from + found.extent.length; /* nothing has to be copied */
        }
    }
    if (zeros < *to) {
        *to =
            min_u64(*to, max_u64(round_down(zeros, cluster), round_down(from, cluster) + cluster));
    }
    return result;
}

/* Gives what begins at `from` (of a cluster) a place, as far as it has none; *next: how far. */
static int preallocate_some(const struct preallocating *preallocating, uint64_t from, uint64_t to,
                            uint64_t *next, struct mapping_fault *fault)
{
    struct writer *writer = preallocating->writer;
    struct extent extent;
    uint64_t done;
    int result = mapping_lookup(writer->image->active, from, to - from, &extent, fault);

    if (result < 0) {
        return result;
    }
    if (extent.kind == EXTENT_DATA && extent.exclusive) {
        *next = from + extent.length;
        return 0;
    }
    result = end_of_part(preallocating, from, &to);
    if (result < 0) {
        return result;
    }
    result = preallocating->sparse ? writer_allocate_sparse(writer, from, to - from, &done, fault)
                                   : writer_allocate(writer, from, NULL, to - from, &done, fault);
    *next = from + done;
    return result;
}

/* The same for all of a range. */
static int preallocate_range(const struct preallocating *preallocating, uint64_t from, uint64_t to)
{
    struct mapping_fault fault;
    int result = 0;

    while (from < to && result == 0) {
        uint64_t next = from;

        if (stop_requested(preallocating->stop)) {
            return -EINTR;
        }
        fault = (struct mapping_fault){.guest_offset = from};
        result = preallocate_some(preallocating, from, to, &next, &fault);
        from = next;
    }
    if (result < 0) {
        writer_fault(preallocating->writer, result, &fault);
    }
    return result;
}

static int preallocate(const struct preallocating *preallocating, uint64_t guest_offset,
                       uint64_t length)
{
    struct writer *writer = preallocating->writer;
    uint64_t most = writer_cluster_size(writer) * WRITER_PART_CLUSTERS;
    unsigned generation;
    int result;

    if (!range_within(guest_offset, length, view_size(writer->view))) {
        return -ENOSPC;
    }
    do {
        /* Parts, as of what is zeroed; the next begins with one, and so with a cluster. */
        uint64_t part = min_u64(length, most - (guest_offset & (most - 1)));

        result = writer_begin(writer, &generation);
        if (result == 0) {
            result = preallocate_range(preallocating, guest_offset, guest_offset + part);
        }
        result = writer_end(writer, generation, result);
        guest_offset += part;
        length -= part;
    } while (length > 0 && result == 0);
    return result;
}

int writer_preallocate(struct writer *writer, uint64_t guest_offset, uint64_t length,
                       const struct stop *stop)
{
    const struct preallocating preallocating = {.writer = writer, .stop = stop};

    return preallocate(&preallocating, guest_offset, length);
}

int writer_preallocate_sparse(struct writer *writer, uint64_t guest_offset, uint64_t length,
                              const struct stop *stop)
{
    const struct preallocating preallocating = {.writer = writer, .sparse = true, .stop = stop};

    return preallocate(&preallocating, guest_offset, length);
}
