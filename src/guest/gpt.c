/* SPDX-License-Identifier: MIT */
/* GUID partition tables (UEFI specification, chapter 5). */
#include "config.h"

#include "guest/internal.h"
#include "util/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

/* The header, and an entry: offsets in bytes. */
enum {
    GPT_SIGNATURE = 0,
    GPT_HEADER_SIZE = 12,
    GPT_HEADER_CRC = 16,
    GPT_MY_LBA = 24,
    GPT_DISK_GUID = 56,
    GPT_ENTRIES_LBA = 72,
    GPT_ENTRY_COUNT = 80,
    GPT_ENTRY_SIZE = 84,
    GPT_ENTRIES_CRC = 88,
    GPT_HEADER_MIN = 92,

    ENTRY_TYPE = 0,
    ENTRY_GUID = 16,
    ENTRY_FIRST = 32,
    ENTRY_LAST = 40,
    ENTRY_ATTRIBUTES = 48,
    ENTRY_NAME = 56,
    ENTRY_MIN = 128,
    NAME_UNITS = 36,
};

#define ATTRIBUTE_LEGACY_BOOT (UINT64_C(1) << 2)

struct gpt {
    uint8_t *entries; /* to be freed */
    size_t count, entry_size;
    uint8_t disk_guid[16];
};

/* The first three fields of a GUID are little-endian. */
static void format_guid(const uint8_t *guid, bool capitals, char text[37])
{
    snprintf(text, 37,
             capitals ? "%08" PRIX32 "-%04X-%04X-%02X%02X-%02X%02X%02X%02X%02X%02X"
                      : "%08" PRIx32 "-%04x-%04x-%02x%02x-%02x%02x%02x%02x%02x%02x",
             load_le32(guid), load_le16(guid + 4), load_le16(guid + 6), guid[8], guid[9], guid[10],
             guid[11], guid[12], guid[13], guid[14], guid[15]);
}

static size_t put_utf8(uint32_t point, char *to)
{
    if (point < 0x80) {
        to[0] = (char)point;
        return 1;
    }
    if (point < 0x800) {
        to[0] = (char)(0xc0 | point >> 6);
        to[1] = (char)(0x80 | (point & 0x3f));
        return 2;
    }
    if (point < 0x10000) {
        to[0] = (char)(0xe0 | point >> 12);
        to[1] = (char)(0x80 | (point >> 6 & 0x3f));
        to[2] = (char)(0x80 | (point & 0x3f));
        return 3;
    }
    to[0] = (char)(0xf0 | point >> 18);
    to[1] = (char)(0x80 | (point >> 12 & 0x3f));
    to[2] = (char)(0x80 | (point >> 6 & 0x3f));
    to[3] = (char)(0x80 | (point & 0x3f));
    return 4;
}

void load_utf16(const uint8_t *from, size_t units, char *name)
{
    size_t used = 0;

    for (size_t i = 0; i < units; i++) {
        uint32_t unit = load_le16(from + i * 2);

        if (unit == 0) {
            break;
        }
        if (unit >= 0xd800 && unit < 0xdc00 && i + 1 < units) {
            uint32_t low = load_le16(from + (i + 1) * 2);

            if (low >= 0xdc00 && low < 0xe000) {
                used += put_utf8(0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00), name + used);
                i++;
                continue;
            }
        }
        if (unit < 0x20 || (unit >= 0x7f && unit < 0xa0) || (unit >= 0xd800 && unit < 0xe000)) {
            unit = '?';
        }
        used += put_utf8(unit, name + used);
    }
    name[used] = '\0';
}

/* Reads and proves the copy whose header is at sector `lba`. *valid: whether it can be used. */
static int read_copy(const struct disk_source *disk, unsigned sector_size, uint64_t lba,
                     struct gpt *gpt, bool *valid)
{
    uint8_t header[4096];
    uint64_t entries, bytes;
    uint32_t size, crc;
    int result;

    *valid = false;
    if (lba >= disk->size / sector_size) {
        return 0;
    }
    result = disk->read(disk->context, lba * sector_size, header, sector_size);
    if (result != 0 || memcmp(header + GPT_SIGNATURE, "EFI PART", 8) != 0) {
        return result;
    }
    size = load_le32(header + GPT_HEADER_SIZE);
    if (size < GPT_HEADER_MIN || size > sector_size || load_le64(header + GPT_MY_LBA) != lba) {
        return 0;
    }
    crc = load_le32(header + GPT_HEADER_CRC);
    memset(header + GPT_HEADER_CRC, 0, sizeof(crc));
    if (crc32(0, header, size) != crc) {
        return 0;
    }
    gpt->entry_size = load_le32(header + GPT_ENTRY_SIZE);
    gpt->count = load_le32(header + GPT_ENTRY_COUNT);
    if (gpt->entry_size < ENTRY_MIN || gpt->entry_size % 8 != 0 || gpt->count == 0 ||
        !checked_mul(gpt->entry_size, gpt->count, &bytes) || bytes > PARTITIONS_TABLE_MAX ||
        !checked_mul(load_le64(header + GPT_ENTRIES_LBA), sector_size, &entries) ||
        entries >= disk->size || bytes > disk->size - entries) {
        return 0;
    }
    gpt->entries = malloc(in_memory(bytes));
    if (gpt->entries == NULL) {
        return -ENOMEM;
    }
    result = disk->read(disk->context, entries, gpt->entries, in_memory(bytes));
    if (result == 0) {
        *valid = crc32(0, gpt->entries, (unsigned)bytes) == load_le32(header + GPT_ENTRIES_CRC);
        memcpy(gpt->disk_guid, header + GPT_DISK_GUID, sizeof(gpt->disk_guid));
    }
    if (!*valid) {
        free(gpt->entries);
        gpt->entries = NULL;
    }
    return result;
}

static int add_entry(const struct disk_source *disk, struct partition_table *table,
                     const uint8_t *entry, size_t index)
{
    static const uint8_t unused[16];
    uint64_t first = load_le64(entry + ENTRY_FIRST), last = load_le64(entry + ENTRY_LAST), sectors;
    struct partition partition = {
        .number = (unsigned)index + 1,
        .attributes = load_le64(entry + ENTRY_ATTRIBUTES),
    };

    if (memcmp(entry + ENTRY_TYPE, unused, sizeof(unused)) == 0 || last < first) {
        return 0;
    }
    if (!checked_mul(first, table->sector_size, &partition.start)) {
        table->remarks |= PARTITION_PAST_END;
        return 0;
    }
    sectors = last - first; /* one less, so that nothing overflows */
    if (!checked_add(sectors, 1, &sectors) ||
        !checked_mul(sectors, table->sector_size, &partition.size)) {
        partition.size = UINT64_MAX;
    }
    partition.bootable = (partition.attributes & ATTRIBUTE_LEGACY_BOOT) != 0;
    format_guid(entry + ENTRY_TYPE, true, partition.type);
    format_guid(entry + ENTRY_GUID, false, partition.uuid);
    load_utf16(entry + ENTRY_NAME, NAME_UNITS, partition.name);
    return partition_add(table, disk, &partition);
}

/* Looks where the first copy must be, then where the backup must be: in the last sector. */
static int find_copy(const struct disk_source *disk, struct partition_table *table, struct gpt *gpt,
                     bool *found)
{
    static const unsigned sizes[] = {512, 4096};

    for (unsigned backup = 0; backup < 2; backup++) {
        for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
            uint64_t sectors = disk->size / sizes[i];
            int result;

            if (sectors < 3) {
                continue;
            }
            result = read_copy(disk, sizes[i], backup ? sectors - 1 : 1, gpt, found);
            if (result != 0 || *found) {
                table->sector_size = sizes[i];
                table->remarks |= backup ? PARTITION_BACKUP_USED : 0;
                return result;
            }
        }
    }
    return 0;
}

int gpt_read(const struct disk_source *disk, struct partition_table *table, bool *found)
{
    struct gpt gpt = {0};
    int result = find_copy(disk, table, &gpt, found);

    if (result != 0 || !*found) {
        return result;
    }
    table->scheme = PARTITION_SCHEME_GPT;
    format_guid(gpt.disk_guid, true, table->id);
    for (size_t i = 0; i < gpt.count && result == 0; i++) {
        result = add_entry(disk, table, gpt.entries + i * gpt.entry_size, i);
    }
    free(gpt.entries);
    return result;
}
