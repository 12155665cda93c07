/* SPDX-License-Identifier: MIT */
/* Master boot records, and the chain of extended boot records that an extended partition holds. */
#include "config.h"

#include "guest/internal.h"
#include "util/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define FIRST_LOGICAL 5
#define RECORDS_MAX   PARTITIONS_MAX /* extended boot records of one chain */

struct mbr_entry {
    uint8_t flag, type;
    uint64_t start, sectors; /* sectors; start relative to what the record says */
};

static void load_entry(const uint8_t *record, size_t index, struct mbr_entry *entry)
{
    const uint8_t *from = record + MBR_ENTRIES + index * MBR_ENTRY_SIZE;

    *entry = (struct mbr_entry){
        .flag = from[MBR_ENTRY_FLAG],
        .type = from[MBR_ENTRY_TYPE],
        .start = load_le32(from + MBR_ENTRY_START),
        .sectors = load_le32(from + MBR_ENTRY_SECTORS),
    };
}

static bool is_extended(uint8_t type)
{
    return type == 0x05 || type == 0x0f || type == 0x85;
}

bool mbr_is_protective(const uint8_t *mbr)
{
    for (size_t i = 0; i < MBR_ENTRY_COUNT; i++) {
        if (mbr[MBR_ENTRIES + i * MBR_ENTRY_SIZE + MBR_ENTRY_TYPE] == MBR_TYPE_PROTECTIVE) {
            return true;
        }
    }
    return false;
}

/* `base`: the sector that the entry counts from. */
static int add(const struct disk_source *disk, struct partition_table *table, unsigned number,
               uint64_t base, const struct mbr_entry *entry)
{
    struct partition partition = {
        .number = number,
        .start = (base + entry->start) * table->sector_size, /* fits: 34 bits, and 12 */
        .size = entry->sectors * table->sector_size,
        .extended = is_extended(entry->type),
        .bootable = entry->flag == 0x80,
        .mbr_type = entry->type,
    };

    snprintf(partition.type, sizeof(partition.type), "%02x", entry->type);
    snprintf(partition.uuid, sizeof(partition.uuid), "%.8s-%02x", table->id + 2, number);
    return partition_add(table, disk, &partition);
}

/*
 * Follows the chain that begins at sector `first`: each record has one logical
 * partition, which counts from the record, and one entry that names the next
 * record, which counts from the first. A record that was met already, one
 * without signature, or one outside the extended partition ends the chain.
 */
static int read_chain(const struct disk_source *disk, struct partition_table *table, uint64_t first,
                      uint64_t sectors)
{
    uint64_t met[RECORDS_MAX];
    uint64_t record = first;
    unsigned number = FIRST_LOGICAL;

    for (size_t count = 0; count < RECORDS_MAX; count++) {
        uint8_t bytes[MBR_SIZE];
        struct mbr_entry entry, next = {0};
        bool has_data = false;
        int result;

        for (size_t i = 0; i < count; i++) {
            if (met[i] == record) {
                table->remarks |= PARTITION_CHAIN_DAMAGED;
                return 0;
            }
        }
        met[count] = record;
        if (disk->size / table->sector_size <= record) {
            table->remarks |= PARTITION_CHAIN_DAMAGED;
            return 0;
        }
        result = disk->read(disk->context, record * table->sector_size, bytes, sizeof(bytes));
        if (result != 0) {
            return result;
        }
        if (bytes[MBR_SIGNATURE] != 0x55 || bytes[MBR_SIGNATURE + 1] != 0xaa) {
            table->remarks |= PARTITION_CHAIN_DAMAGED;
            return 0;
        }
        for (size_t i = 0; i < MBR_ENTRY_COUNT; i++) {
            load_entry(bytes, i, &entry);
            if (entry.sectors == 0 || entry.type == 0) {
                continue;
            }
            if (is_extended(entry.type)) {
                next = next.sectors == 0 ? entry : next;
            } else if (!has_data) {
                has_data = true;
                result = add(disk, table, number, record, &entry);
                if (result != 0) {
                    return result;
                }
            }
        }
        number += has_data;
        if (next.sectors == 0) {
            return 0;
        }
        if (next.start >= sectors) {
            table->remarks |= PARTITION_CHAIN_DAMAGED;
            return 0;
        }
        record = first + next.start;
    }
    table->remarks |= PARTITION_TOO_MANY;
    return 0;
}

int mbr_read(const struct disk_source *disk, const uint8_t *mbr, struct partition_table *table)
{
    struct mbr_entry extended = {0};
    int result = 0;

    table->scheme = PARTITION_SCHEME_MBR;
    table->sector_size = 512;
    snprintf(table->id, sizeof(table->id), "0x%08" PRIx32, load_le32(mbr + MBR_DISK_ID));
    for (size_t i = 0; i < MBR_ENTRY_COUNT && result == 0; i++) {
        struct mbr_entry entry;

        load_entry(mbr, i, &entry);
        if (entry.type == 0 || entry.sectors == 0) {
            continue;
        }
        result = add(disk, table, (unsigned)i + 1, 0, &entry);
        if (is_extended(entry.type) && extended.sectors == 0) {
            extended = entry; /* a second one is shown, and not followed, as by everybody */
        }
    }
    if (result == 0 && extended.sectors != 0) {
        result = read_chain(disk, table, extended.start, extended.sectors);
    }
    return result;
}
