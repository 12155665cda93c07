/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "disk/writer_internal.h"

#include "disk/compressing.h"
#include "util/checked.h"

#include <errno.h>
#include <stdio.h>

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

/* --- Writing ------------------------------------------------------------------------------ */

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

        result =
            image_is_encrypted(writer->image)
                ? writer_update_sectors(writer, &place, data, extent.length)
                : store_write(extent.store, extent.host_offset, data, in_memory(extent.length));
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
#ifdef QCOW2FS_BREAK_BITMAPS /* for tests/races/races-bitmaps alone: a clearing may come now */
    bool marked = writer->tracking != NULL;

    tracking_mark(writer, guest_offset, end);
#endif
    result = writer_begin_write(writer, guest_offset, end, &generation);
    if (result == 0 && end > view_size(writer->view)) {
        result = writer->options.growable ? writer_grow_to(writer, end, NULL) : -ENOSPC;
    }
    if (result == 0) {
#ifdef QCOW2FS_BREAK_BITMAPS
        if (!marked)
#endif
            tracking_mark(writer, guest_offset, end);
        result = writer->compressing != NULL
                     ? compressing_write_request(writer, guest_offset, data, length)
                     : writer_write_range(writer, guest_offset, data, length);
    }
    return writer_end(writer, generation, result);
}
