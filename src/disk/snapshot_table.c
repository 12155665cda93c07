/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "disk/snapshots_internal.h"

#include "disk/snapshots.h"
#include "meta/snapshot_write.h"
#include "util/checked.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int snapshots_sync(struct writer *writer)
{
    return barrier_wait(writer->barrier, barrier_epoch(writer->barrier));
}

void snapshots_know(struct writer *writer, uint64_t offset, uint64_t length, bool know)
{
    uint64_t end = offset + length;

    for (; offset < end; offset += writer_cluster_size(writer)) {
        if (know) {
            (void)gate_know(writer->gate, GATE_TABLE_SNAPSHOTS, offset);
        } else {
            gate_forget(writer->gate, GATE_TABLE_SNAPSHOTS, offset);
        }
    }
}

int snapshots_place(struct writer *writer, const void *bytes, uint64_t length,
                    struct allocation *place)
{
    uint64_t clusters = div_round_up(length, writer_cluster_size(writer));
    uint8_t *raw;
    int result;

    *place = (struct allocation){0};
    if (clusters == 0) {
        return 0; /* an L1 table without entries is nowhere: who gives it up counts so, too */
    }
    raw = calloc(in_memory(clusters), in_memory(writer_cluster_size(writer)));
    result = raw == NULL ? -ENOMEM : writer_prepare_allocation(writer);
    if (result == 0) {
        result = allocator_take_exactly(writer->allocator, clusters, place);
    }
    if (result == 0) {
        memcpy(raw, bytes, in_memory(length));
        result = gate_write(writer->gate, GATE_OTHER, place->host_offset, raw,
                            clusters << writer->header->cluster_bits);
        if (result < 0) {
            allocator_return(writer->allocator, place->host_offset, clusters);
        }
    }
    free(raw);
    return result;
}

#define TABLE_FIELDS (HEADER_V2_LENGTH - HEADER_NB_SNAPSHOTS)

static void encode_table(uint8_t fields[TABLE_FIELDS], uint64_t host_offset, uint32_t count)
{
    store_be32(fields, count);
    store_be64(fields + (HEADER_SNAPSHOTS_OFFSET - HEADER_NB_SNAPSHOTS), host_offset);
}

static int switch_table(struct writer *writer, uint64_t host_offset, uint32_t count, bool *begun)
{
    struct header *header = writer->image->header;
    uint8_t fields[TABLE_FIELDS], before[TABLE_FIELDS];
    int result;

    encode_table(fields, host_offset, count);
    encode_table(before, header->snapshots_offset, header->snapshot_count);
    result =
        writer_switch_fields(writer, HEADER_NB_SNAPSHOTS, fields, before, sizeof(fields), begun);
    if (result == 0) {
        header->snapshots_offset = host_offset;
        header->snapshot_count = count;
    }
    return result;
}

/* What the table is in memory, before the header names it. */
static int read_table(struct writer *writer, uint64_t host_offset, uint32_t count,
                      struct snapshot_table **table, struct error *error)
{
    struct image *image = writer->image;
    struct header header = *image->header;
    struct store_info info;
    int result = store_info(image->file, &info);

    header.snapshots_offset = host_offset;
    header.snapshot_count = count;
    return result < 0
               ? result
               : snapshot_table_read(image->file, &header, info.size, image->path, table, error);
}

/* R3, R4; `place` has the new table, or is nothing. */
static int replace_table(struct writer *writer, const struct allocation *place, uint64_t length,
                         uint32_t count, bool *begun, struct error *error)
{
    struct image *image = writer->image;
    uint64_t old = image->header->snapshots_offset, old_size = image->snapshots->size;
    bool had_table = image->header->snapshot_count > 0;
    struct snapshot_table *table;
    int result = read_table(writer, place->host_offset, count, &table, error);

    if (result < 0) {
        return result;
    }
    result = snapshots_sync(writer); /* R2, R3 */
    if (result == 0) {
        result = switch_table(writer, place->host_offset, count, begun);
    }
    if (result < 0) {
        snapshot_table_free(table);
        return result;
    }
    snapshot_table_free(image->snapshots);
    image->snapshots = table;
    snapshots_know(writer, place->host_offset, count > 0 ? length : 0, true);
    if (had_table) {
        snapshots_know(writer, old, old_size, false);
        (void)allocator_drop(writer->allocator, old,
                             div_round_up(old_size, writer_cluster_size(writer)),
                             atomic_load(&writer->next_commit)); /* R4 */
    }
    return 0;
}

int writer_replace_snapshot_table(struct writer *writer, const uint8_t *bytes, size_t length,
                                  uint32_t count, bool *begun, struct error *error)
{
    struct allocation place = {0};
    int result = 0;

    *begun = false;
    if (count > 0) {
        result = snapshots_place(writer, bytes, length, &place);
    }
    if (result < 0) {
        return result;
    }
    result = replace_table(writer, &place, length, count, begun, error);
    if (result < 0 && !*begun && count > 0) {
        allocator_return(writer->allocator, place.host_offset, place.clusters);
    }
    return result;
}

int snapshots_edit_table(struct writer *writer, const struct snapshot_edit *edit, bool *begun,
                         struct error *error)
{
    struct image *image = writer->image;
    uint32_t count =
        image->header->snapshot_count + (edit->added != NULL) - (edit->removed != SNAPSHOT_NONE);
    uint8_t *bytes;
    size_t length;
    int result = snapshot_table_edit(image->file, image->header, image->snapshots, image->path,
                                     edit, &bytes, &length, error);

    *begun = false;
    if (result == 0) {
        result = writer_replace_snapshot_table(writer, bytes, length, count, begun, error);
    }
    free(bytes);
    return result;
}
