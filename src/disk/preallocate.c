/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "disk/writer_internal.h"

#include "util/checked.h"

#include <errno.h>

/* Gives what begins at `from` (of a cluster) a place, as far as it has none; *next: how far. */
static int preallocate_some(struct writer *writer, uint64_t from, uint64_t to, uint64_t *next,
                            struct mapping_fault *fault)
{
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
    to = min_u64(to, round_down(from, writer_cluster_size(writer)) + writer_cluster_size(writer));
    result = writer_allocate(writer, from, NULL, to - from, &done, fault);
    *next = from + done;
    return result;
}

/* The same for all of a range. */
static int preallocate_range(struct writer *writer, uint64_t from, uint64_t to,
                             const struct stop *stop)
{
    struct mapping_fault fault;
    int result = 0;

    while (from < to && result == 0) {
        uint64_t next = from;

        if (stop_requested(stop)) {
            return -EINTR;
        }
        fault = (struct mapping_fault){.guest_offset = from};
        result = preallocate_some(writer, from, to, &next, &fault);
        from = next;
    }
    if (result < 0) {
        writer_fault(writer, result, &fault);
    }
    return result;
}

int writer_preallocate(struct writer *writer, uint64_t guest_offset, uint64_t length,
                       const struct stop *stop)
{
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
            result = preallocate_range(writer, guest_offset, guest_offset + part, stop);
        }
        result = writer_end(writer, generation, result);
        guest_offset += part;
        length -= part;
    } while (length > 0 && result == 0);
    return result;
}
