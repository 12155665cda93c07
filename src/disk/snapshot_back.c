/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "disk/snapshots_internal.h"

#include "disk/references.h"
#include "meta/snapshot.h"

#include <errno.h>
#include <stdlib.h>

#define L1_FIELDS (HEADER_REFCOUNT_TABLE_OFFSET - HEADER_SIZE)

static void encode_l1(const struct header *header, uint8_t fields[L1_FIELDS], uint64_t size,
                      uint64_t entries, uint64_t host_offset)
{
    store_be64(fields, size);
    store_be32(fields + (HEADER_CRYPT_METHOD - HEADER_SIZE), header->crypt_method);
    store_be32(fields + (HEADER_L1_SIZE - HEADER_SIZE), (uint32_t)entries);
    store_be64(fields + (HEADER_L1_TABLE_OFFSET - HEADER_SIZE), host_offset);
}

/* The header names the L1 table, and the size of the disk. */
static int switch_l1(struct writer *writer, uint64_t size, uint64_t entries, uint64_t host_offset,
                     bool *begun)
{
    struct header *header = writer->image->header;
    uint8_t fields[L1_FIELDS], before[L1_FIELDS];
    int result;

    encode_l1(header, fields, size, entries, host_offset);
    encode_l1(header, before, header->virtual_size, header->l1_entries, header->l1_offset);
    result = writer_switch_fields(writer, HEADER_SIZE, fields, before, sizeof(fields), begun);
    if (result == 0) {
        header->virtual_size = size;
        header_move_l1(header, host_offset, (uint32_t)entries);
        atomic_store(&writer->image->virtual_size, size);
    }
    return result;
}

/* The L2 tables that the gate holds for those of the active state. */
static void know_tables(struct writer *writer, const uint64_t *l1, uint64_t entries, bool know)
{
    for (uint64_t i = 0; i < entries; i++) {
        if (l1_entry_table(l1[i]) == 0) {
            continue;
        }
        if (know) {
            (void)gate_know(writer->gate, GATE_TABLE_L2, l1_entry_table(l1[i]));
        } else {
            gate_forget(writer->gate, GATE_TABLE_L2, l1_entry_table(l1[i]));
        }
    }
}

static int go_back(struct writer *writer, const struct snapshot *snapshot, uint64_t *l1,
                   const uint64_t *old, uint64_t old_entries, struct error *error)
{
    const struct header *header = writer->header;
    uint64_t old_offset = header->l1_offset, entries = snapshot->l1_entries;
    uint64_t disk_size = snapshot->disk_size;
    struct allocation copy;
    bool begun;
    int result = snapshots_share(writer, l1, entries, &copy), last;

    if (result < 0) {
        return result;
    }
    result = references_clear_copied(writer, l1, entries);
    if (result == 0) {
        result = snapshots_sync(writer); /* R2, R3 */
    }
    if (result < 0) {
        snapshots_take_back(writer, l1, entries, &copy);
        return result;
    }
    result = switch_l1(writer, disk_size, entries, copy.host_offset, &begun);
    if (result < 0) {
        if (!begun) {
            snapshots_take_back(writer, l1, entries, &copy);
        }
        return result;
    }
    result = mapping_reload(writer->image->active, writer->image->path, error);
    if (result < 0) { /* what is in memory is another disk than what is on the disk */
        writer_refuse(writer, "its L1 table could not be read again; unmount and check it", NULL);
        return result;
    }
    know_tables(writer, old, old_entries, false);
    know_tables(writer, l1, entries, true);
    last = snapshots_give_up(writer, old, old_entries, old_offset, false);
    return result == 0 ? last : result;
}

int snapshots_go_back(struct writer *writer, size_t index, struct error *error)
{
    const struct snapshot *snapshot = &writer->image->snapshots->snapshots[index];
    uint64_t *l1, *old = NULL, old_entries;
    int result = snapshot_validate(writer->header, snapshot, writer->image->path, error);

    if (result < 0) {
        return result;
    }
    l1 = snapshots_read_l1(writer, snapshot, &result);
    if (result == 0) {
        old = mapping_copy_l1(writer->image->active, &old_entries);
        result = old == NULL ? -ENOMEM : writer_mark_dirty(writer);
    }
    if (result == 0 && snapshot->disk_size != writer->header->virtual_size) {
        result = tracking_prepare_resize(writer); /* what the disk gains is set in all of them */
    }
    if (result == 0) {
        tracking_grow(writer, 0, snapshot->disk_size); /* whatever it shows may be another thing */
        result = go_back(writer, snapshot, l1, old, old_entries, error);
    }
    free(old);
    free(l1);
    return result;
}

int snapshots_go_to_nothing(struct writer *writer, struct error *error)
{
    const struct snapshot nothing = {
        .l1_entries = writer->header->l1_entries,
        .disk_size = writer->header->virtual_size,
    };
    uint64_t *l1 = calloc((size_t)nothing.l1_entries + 1, L1_ENTRY_BYTES);
    uint64_t *old = NULL, old_entries;
    int result = l1 == NULL ? -ENOMEM : 0;

    if (result == 0) {
        old = mapping_copy_l1(writer->image->active, &old_entries);
        result = old == NULL ? -ENOMEM : writer_mark_dirty(writer);
    }
    if (result == 0) {
        result = go_back(writer, &nothing, l1, old, old_entries, error);
    }
    free(old);
    free(l1);
    return result;
}
