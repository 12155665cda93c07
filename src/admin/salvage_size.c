/* SPDX-License-Identifier: MIT */
/* How large the disk is: as the header says, if that can be; or by its data, and its partitions. */
#include "config.h"

#include "admin/salvage_internal.h"

#include "meta/format.h"
#include "util/checked.h"

#include <stdlib.h>
#include <string.h>

#define SECTOR         512
#define LEGACY_ENTRIES 446 /* of four partitions, 16 bytes each; the sector ends in 0x55 0xaa */

/* Bytes of the disk up to the end of the last cluster that has data. */
static uint64_t mapped_end(struct salvage_work *work)
{
    const struct header *header = &work->header;
    uint64_t per_table = UINT64_C(1) << header->l2_bits;
    bool whole;

    for (uint64_t i = header->l1_entries; i > 0; i--) {
        if (work->l1[i - 1] == 0 || work->bad[i - 1] ||
            !salvage_is_table(work, l1_entry_table(work->l1[i - 1]), &whole) || work->is_hole) {
            continue;
        }
        for (uint64_t k = per_table; k > 0; k--) {
            uint64_t entry = load_be64(work->table + (k - 1) * header->l2_entry_bytes);

            if (l2_entry_is_compressed(entry) || l2_entry_host_offset(entry) != 0) {
                return ((i - 1) * per_table + k) << header->cluster_bits;
            }
        }
    }
    return 0;
}

/* Reads a sector of the disk. False: it is compressed, encrypted, or not there. */
static bool read_sector(struct salvage_work *work, uint64_t guest_offset, uint8_t sector[SECTOR])
{
    const struct header *header = &work->header;
    uint64_t cluster = guest_offset >> header->cluster_bits, entry, host;
    bool whole;

    if (work->l1[0] == 0 || work->bad[0] || header->external_data_file ||
        load_be32(work->first + HEADER_CRYPT_METHOD) == CRYPT_LUKS ||
        !salvage_is_table(work, l1_entry_table(work->l1[0]), &whole)) {
        return false;
    }
    entry = load_be64(work->table + cluster * header->l2_entry_bytes);
    host = l2_entry_host_offset(entry) + guest_offset % header->cluster_size;
    return !l2_entry_is_compressed(entry) && l2_entry_host_offset(entry) != 0 &&
           range_within(host, SECTOR, work->file_size) &&
           store_read(work->file, host, sector, SECTOR) == 0;
}

static uint32_t load_le32(const uint8_t *bytes)
{
    return bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
}

/* The end of the disk by its table of partitions, in bytes; 0: there is none. */
static uint64_t partitioned_end(struct salvage_work *work)
{
    uint8_t sector[SECTOR];
    uint64_t end = 0;

    if (read_sector(work, SECTOR, sector) && memcmp(sector, "EFI PART", 8) == 0) {
        uint64_t last = load_le32(sector + 32) | (uint64_t)load_le32(sector + 36) << 32;

        /* Of the second header, which is in the last sector. */
        return last < INT64_MAX / SECTOR - 1 ? (last + 1) * SECTOR : 0;
    }
    if (!read_sector(work, 0, sector) || sector[SECTOR - 2] != 0x55 || sector[SECTOR - 1] != 0xaa) {
        return 0;
    }
    for (size_t i = 0; i < 4; i++) {
        const uint8_t *entry = sector + LEGACY_ENTRIES + 16 * i;

        if ((entry[0] & 0x7f) != 0) {
            return 0; /* neither active nor not: no such table, but what a file system has there */
        }
        if (entry[4] != 0 && load_le32(entry + 8) > 0) {
            end = max_u64(end, (uint64_t)load_le32(entry + 8) + load_le32(entry + 12));
        }
    }
    return end * SECTOR;
}

/* More entries, which are empty, where the disk needs them. 0 or -ENOMEM. */
static int add_entries(struct salvage_work *work, uint64_t size)
{
    uint64_t needed = header_l1_entries_for(&work->header, size), present = work->header.l1_entries;
    uint64_t *l1;
    uint8_t *bad;

    if (needed <= present) {
        return 0;
    }
    l1 = reallocarray(work->l1, in_memory(needed + 1), sizeof(*l1));
    work->l1 = l1 != NULL ? l1 : work->l1;
    bad = l1 != NULL ? realloc(work->bad, in_memory(needed + 1)) : NULL;
    if (bad == NULL) {
        return salvage_no_memory(work);
    }
    work->bad = bad;
    memset(work->l1 + present, 0, in_memory((needed + 1 - present) * sizeof(*work->l1)));
    memset(work->bad + present, 0, in_memory(needed + 1 - present));
    work->header.l1_entries = (uint32_t)needed;
    return 0;
}

/* Nothing told: by what lies on it. */
static int deduce_size(struct salvage_work *work, uint64_t end, uint64_t covered)
{
    uint64_t size = min_u64(max_u64(end, work->header.cluster_size), covered);
    uint64_t partitioned = partitioned_end(work);
    const char *how = "the end of the last cluster with data";
    int result = 0;

    if (partitioned > size &&
        header_l1_entries_for(&work->header, partitioned) <= HEADER_L1_SIZE_MAX / L1_ENTRY_BYTES) {
        size = partitioned;
        how = "the end of the disk by its table of partitions";
        result = add_entries(work, size);
    }
    salvage_tell(work, SALVAGE_DEDUCED, "virtual-size", size, how);
    work->header.virtual_size = size;
    return result;
}

int salvage_settle_size(struct salvage_l1 *search)
{
    struct salvage_work *work = search->work;
    uint64_t size = salvage_recorded_size(work), end = mapped_end(work);
    uint64_t covered = (uint64_t)work->header.l1_entries
                       << (work->header.cluster_bits + work->header.l2_bits);
    bool given = work->options->virtual_size != 0;

    if (!given && (size == 0 || size > covered ||
                   (end >= size + work->header.cluster_size && !search->has_vm_state))) {
        return deduce_size(work, end, covered);
    }
    salvage_tell(work, given ? SALVAGE_DEDUCED : SALVAGE_CERTAIN, "virtual-size", size,
                 given ? "given" : NULL);
    work->header.virtual_size = size;
    return 0;
}
