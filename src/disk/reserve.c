/* SPDX-License-Identifier: MIT */
/* Host space for clusters that have their place in the file already. */
#include "config.h"

#include "disk/writer_internal.h"

#include "util/checked.h"

#include <errno.h>
#include <stdlib.h>

#define ZEROS_SIZE (UINT64_C(1) << 20) /* bytes that are written at once */

static int write_zeros(struct writer *writer, uint64_t from, uint64_t to)
{
    uint64_t size = min_u64(to - from, ZEROS_SIZE);
    uint8_t *zeros = calloc(1, in_memory(size));
    int result = zeros != NULL ? 0 : -ENOMEM;

    while (from < to && result == 0) {
        uint64_t length = min_u64(to - from, size);

        result = writer_write_range(writer, from, zeros, length);
        from += length;
    }
    free(zeros);
    return result;
}

static int allocate_host(struct writer *writer, uint64_t from, uint64_t to)
{
    struct mapping_fault fault = {.guest_offset = from};
    int result = 0;

    while (from < to && result == 0) {
        struct extent extent;

        result = mapping_lookup(writer->image->active, from, to - from, &extent, &fault);
        if (result == 0 && extent.kind == EXTENT_DATA) {
            result = store_allocate(extent.store, extent.host_offset, extent.length);
        }
        from += extent.length;
    }
    return result;
}

int writer_reserve(struct writer *writer, uint64_t guest_offset, uint64_t length, bool written)
{
    unsigned generation;
    int result;

    if (!range_within(guest_offset, length, view_size(writer->view))) {
        return -EINVAL;
    }
    result = writer_begin(writer, &generation);
    if (result == 0 && length > 0) {
        result = written ? write_zeros(writer, guest_offset, guest_offset + length)
                         : allocate_host(writer, guest_offset, guest_offset + length);
    }
    return writer_end(writer, generation, result);
}
