/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "disk/snapshots_internal.h"

#include "disk/references.h"
#include "util/checked.h"

#include <errno.h>
#include <stdlib.h>

/*
 * COPIED as the counts are. Where that cannot be done for now the image stays dirty when it is
 * closed, so that who opens it next repairs it.
 */
static int correct_copied(struct writer *writer)
{
    int result = references_correct_copied(writer);

    writer->unsettled = result < 0;
    return result;
}

int snapshots_share(struct writer *writer, const uint64_t *l1, uint64_t entries,
                    struct allocation *copy)
{
    uint64_t made, bytes = entries * L1_ENTRY_BYTES;
    uint64_t *raw = calloc(1, bytes + 1);
    int result = raw == NULL ? -ENOMEM : writer_prepare_allocation(writer);

    if (result < 0) {
        free(raw);
        return result;
    }
    result = references_add(writer, l1, entries, &made);
    for (uint64_t i = 0; i < entries; i++) {
        store_be64((uint8_t *)&raw[i], l1[i] & ~ENTRY_COPIED);
    }
    if (result == 0) {
        result = snapshots_place(writer, raw, bytes, copy);
    }
    if (result == 0) {
        result = allocator_write_back(writer->allocator);
        if (result < 0) {
            allocator_return(writer->allocator, copy->host_offset, copy->clusters);
        }
    }
    if (result < 0 && references_remove(writer, l1, entries, made) < 0) {
        (void)correct_copied(writer); /* what remains is a leak, and counts that are not 1 */
    }
    free(raw);
    return result;
}

/* Nothing has come to name what snapshots_share() made: it goes again. */
void snapshots_take_back(struct writer *writer, const uint64_t *l1, uint64_t entries,
                         const struct allocation *copy)
{
    (void)references_remove(writer, l1, entries, UINT64_MAX);
    allocator_return(writer->allocator, copy->host_offset, copy->clusters);
    (void)correct_copied(writer);
}

uint64_t *snapshots_read_l1(struct writer *writer, const struct snapshot *snapshot, int *result)
{
    uint64_t *l1 = malloc((size_t)snapshot->l1_entries * L1_ENTRY_BYTES + 1);

    *result = l1 == NULL ? -ENOMEM
                         : store_read(writer->image->file, snapshot->l1_offset, l1,
                                      (size_t)snapshot->l1_entries * L1_ENTRY_BYTES);
    if (*result < 0) {
        free(l1);
        return NULL;
    }
    for (uint32_t i = 0; i < snapshot->l1_entries; i++) {
        l1[i] = load_be64(&l1[i]);
    }
    return l1;
}

int snapshots_give_up(struct writer *writer, const uint64_t *l1, uint64_t entries,
                      uint64_t l1_offset)
{
    uint64_t clusters = div_round_up(entries * L1_ENTRY_BYTES, writer_cluster_size(writer));
    int result = references_remove(writer, l1, entries, UINT64_MAX), last;

    allocator_return(writer->allocator, l1_offset, clusters);
    last = correct_copied(writer);
    return result == 0 ? last : result;
}
