/* SPDX-License-Identifier: MIT */
/* What the active L1 table and those of snapshots have in common: the COPIED bits of the former. */
#include "config.h"

#include "meta/format.h"
#include "meta/mapping_internal.h"
#include "meta/mapping_write.h"
#include "util/checked.h"

#include <errno.h>
#include <stdlib.h>

void mapping_set_copied(struct mapping *mapping, uint64_t l1_index, bool copied)
{
    uint64_t entry = mapping_l1(mapping, l1_index);

    mapping_set_l1(mapping, l1_index, copied ? entry | ENTRY_COPIED : entry & ~ENTRY_COPIED);
}

uint64_t *mapping_copy_l1(const struct mapping *mapping, uint64_t *entries)
{
    uint64_t *copy;

    *entries = mapping->l1_entries;
    copy = malloc(in_memory(*entries * sizeof(*copy) + 1));
    for (uint64_t i = 0; copy != NULL && i < *entries; i++) {
        copy[i] = mapping_l1(mapping, i);
    }
    return copy;
}

int mapping_write_l1(struct mapping *mapping)
{
    uint64_t entries, i;
    uint64_t *copy = mapping_copy_l1(mapping, &entries);
    int result;

    if (copy == NULL) {
        return -ENOMEM;
    }
    for (i = 0; i < entries; i++) {
        store_be64((uint8_t *)&copy[i], copy[i]);
    }
    result = entries == 0
                 ? 0
                 : gate_write(mapping_gate(mapping), GATE_L1, mapping->source.header->l1_offset,
                              copy, entries * L1_ENTRY_BYTES);
    free(copy);
    return result;
}
