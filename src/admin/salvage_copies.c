/* SPDX-License-Identifier: MIT */
/*
 * The L1 tables that snapshots have, where the snapshot table that names them was lost: clusters
 * that have a reference, that nothing else has, and all whose entries name L2 tables. They are
 * snapshots without a name then, the youngest last, as QEMU and qcow2fs put them into the file.
 */
#include "config.h"

#include "admin/salvage_internal.h"

#include "meta/format.h"
#include "util/checked.h"

#include <stdlib.h>

#define COPIES_MAX 256 /* tables */

/* Whether nothing that is known has the cluster, though it is in use. */
static bool is_left(struct salvage_work *work, uint64_t offset)
{
    uint64_t cluster = offset >> work->header.cluster_bits;

    return range_within(offset, work->header.cluster_size, work->file_size) &&
           check_counts_get(work->uses, cluster) == SALVAGE_FREE &&
           salvage_is_counted(work, cluster);
}

/* Of as many entries as the disk's table has: a snapshot's is a copy of that. */
static bool is_copy(struct salvage_work *work, uint64_t offset)
{
    uint64_t size = work->header.cluster_size;
    uint64_t bytes = (uint64_t)work->header.l1_entries * L1_ENTRY_BYTES;

    if (!is_left(work, offset)) {
        return false;
    }
    work->compared += max_u64(bytes, size);
    for (uint64_t at = size; at < bytes; at += size) {
        if (!is_left(work, offset + at)) {
            return false;
        }
    }
    return work->compared <= SALVAGE_COMPARED_MAX &&
           salvage_names_tables_alone(work, offset, work->header.l1_entries);
}

static int add_copy(struct salvage_work *work, uint64_t offset)
{
    struct snapshot_table *table = work->snapshots;
    struct snapshot *more = reallocarray(table->snapshots, table->count + 1, sizeof(*more));

    if (more == NULL) {
        return salvage_no_memory(work);
    }
    table->snapshots = more;
    more[table->count++] =
        (struct snapshot){.l1_offset = offset, .l1_entries = work->header.l1_entries};
    return 0;
}

int salvage_find_copies(struct salvage_work *work)
{
    uint64_t size = work->header.cluster_size, found = 0;
    int result = 0;

    if (work->snapshots == NULL) {
        work->snapshots = calloc(1, sizeof(*work->snapshots));
        if (work->snapshots == NULL) {
            return salvage_no_memory(work);
        }
    }
    for (uint64_t offset = size;
         offset < work->file_size && result == 0 && work->compared <= SALVAGE_COMPARED_MAX;
         offset += size) {
        uint64_t hole = salvage_hole(work, offset);

        if (hole > size) {
            offset += round_down(hole, size) - size;
        } else if (is_copy(work, offset)) {
            result = work->snapshots->count < COPIES_MAX ? add_copy(work, offset) : 0;
            found++;
        }
    }
    if (found > 0) {
        salvage_tell(work, SALVAGE_DEDUCED, "snapshot-l1-tables", found, "by what they name");
    }
    return result;
}
