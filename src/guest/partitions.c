/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "guest/partitions.h"

#include "guest/internal.h"
#include "util/checked.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define TABLE_ROOM (1024 * 1024) /* bytes at each end of a disk where tables usually lie */

uint16_t load_le16(const void *from)
{
    uint16_t value;

    memcpy(&value, from, sizeof(value));
    return le16toh(value);
}

uint32_t load_le32(const void *from)
{
    uint32_t value;

    memcpy(&value, from, sizeof(value));
    return le32toh(value);
}

uint64_t load_le64(const void *from)
{
    uint64_t value;

    memcpy(&value, from, sizeof(value));
    return le64toh(value);
}

int partition_add(struct partition_table *table, const struct disk_source *disk,
                  const struct partition *partition)
{
    struct partition *more, *added;
    uint64_t end;

    if (partition->size == 0) {
        return 0;
    }
    if (!checked_add(partition->start, partition->size, &end) || end > disk->size) {
        table->remarks |= PARTITION_PAST_END;
        if (partition->start >= disk->size) {
            return 0;
        }
        end = disk->size;
    }
    if (table->count == PARTITIONS_MAX) {
        table->remarks |= PARTITION_TOO_MANY;
        return 0;
    }
    if ((table->count & (table->count - 1)) == 0) { /* 0, 1, 2, 4 ...: twice the room */
        more = realloc(table->list, (table->count == 0 ? 1 : table->count * 2) * sizeof(*more));
        if (more == NULL) {
            return -ENOMEM;
        }
        table->list = more;
    }
    added = &table->list[table->count++];
    *added = *partition;
    added->size = end - partition->start;
    return 0;
}

/*
 * A boot sector of FAT, NTFS or exFAT ends in the same signature as a boot
 * record, and its code stands where the entries would be.
 */
static bool is_file_system(const uint8_t *sector)
{
    return memcmp(sector + 3, "NTFS    ", 8) == 0 || memcmp(sector + 3, "EXFAT   ", 8) == 0 ||
           memcmp(sector + 54, "FAT", 3) == 0 || memcmp(sector + 82, "FAT32", 5) == 0;
}

static bool looks_like_mbr(const uint8_t *sector)
{
    bool used = false;

    if (sector[MBR_SIGNATURE] != 0x55 || sector[MBR_SIGNATURE + 1] != 0xaa) {
        return false;
    }
    for (size_t i = 0; i < MBR_ENTRY_COUNT; i++) {
        const uint8_t *entry = sector + MBR_ENTRIES + i * MBR_ENTRY_SIZE;

        if ((entry[MBR_ENTRY_FLAG] & 0x7f) != 0) {
            return false;
        }
        used |= entry[MBR_ENTRY_TYPE] != 0 && load_le32(entry + MBR_ENTRY_SECTORS) != 0;
    }
    return used || !is_file_system(sector);
}

static int by_number(const void *a, const void *b)
{
    const struct partition *one = a, *other = b;

    return one->number < other->number ? -1 : one->number > other->number;
}

int partitions_read(partition_read_fn *read, void *context, uint64_t size,
                    struct partition_table *table)
{
    const struct disk_source disk = {.read = read, .context = context, .size = size};
    uint8_t sector[MBR_SIZE];
    bool found = false;
    int result;

    memset(table, 0, sizeof(*table));
    table->sector_size = 512;
    if (size < sizeof(sector)) {
        return 0;
    }
    result = read(context, 0, sector, sizeof(sector));
    if (result != 0 || !looks_like_mbr(sector)) {
        return result;
    }
    if (mbr_is_protective(sector)) {
        result = gpt_read(&disk, table, &found);
        if (result == 0 && !found) {
            table->remarks |= PARTITION_GPT_DAMAGED;
        }
    }
    if (result == 0 && !found) {
        result = mbr_read(&disk, sector, table);
    }
    if (result != 0) {
        partitions_free(table);
        return result;
    }
    if (table->count > 1) {
        qsort(table->list, table->count, sizeof(*table->list), by_number);
    }
    return 0;
}

void partitions_free(struct partition_table *table)
{
    free(table->list);
    memset(table, 0, sizeof(*table));
}

const struct partition *partitions_find(const struct partition_table *table, unsigned number)
{
    for (size_t i = 0; i < table->count; i++) {
        if (table->list[i].number == number) {
            return &table->list[i];
        }
    }
    return NULL;
}

bool partitions_touch(const struct partition_table *table, uint64_t disk_size, uint64_t offset,
                      uint64_t length)
{
    uint64_t end = offset + min_u64(length, UINT64_MAX - offset);

    if (offset < TABLE_ROOM || end > disk_size - min_u64(disk_size, TABLE_ROOM)) {
        return true;
    }
    /* The records of logical partitions lie anywhere in the extended one. */
    for (size_t i = 0; i < table->count; i++) {
        const struct partition *part = &table->list[i];

        if (part->extended && offset < part->start + part->size && end > part->start) {
            return true;
        }
    }
    return false;
}

const char *partition_type_name(const struct partition *partition)
{
    static const struct {
        const char *type, *name;
    } names[] = {
        {"01", "FAT12"},
        {"04", "FAT16 <32M"},
        {"05", "Extended"},
        {"06", "FAT16"},
        {"07", "HPFS/NTFS/exFAT"},
        {"0b", "W95 FAT32"},
        {"0c", "W95 FAT32 (LBA)"},
        {"0e", "W95 FAT16 (LBA)"},
        {"0f", "W95 Ext'd (LBA)"},
        {"27", "Hidden NTFS WinRE"},
        {"82", "Linux swap / Solaris"},
        {"83", "Linux"},
        {"85", "Linux extended"},
        {"8e", "Linux LVM"},
        {"a5", "FreeBSD"},
        {"a6", "OpenBSD"},
        {"a9", "NetBSD"},
        {"ee", "GPT"},
        {"ef", "EFI (FAT-12/16/32)"},
        {"fd", "Linux raid autodetect"},
        {"C12A7328-F81F-11D2-BA4B-00A0C93EC93B", "EFI System"},
        {"21686148-6449-6E6F-744E-656564454649", "BIOS boot"},
        {"0FC63DAF-8483-4772-8E79-3D69D8477DE4", "Linux filesystem"},
        {"0657FD6D-A4AB-43C4-84E5-0933C84B4F4F", "Linux swap"},
        {"E6D6D379-F507-44C2-A23C-238F2A3DF928", "Linux LVM"},
        {"A19D880F-05FC-4D3B-A006-743F0F84911E", "Linux RAID"},
        {"CA7D7CCB-63ED-4C53-861C-1742536059CC", "Linux LUKS"},
        {"933AC7E1-2EB4-4F13-B844-0E14E2AEF915", "Linux home"},
        {"4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709", "Linux root (x86-64)"},
        {"44479540-F297-41B2-9AF7-D131D5F0458A", "Linux root (x86)"},
        {"B921B045-1DF0-41C3-AF44-4C6F280D3FAE", "Linux root (ARM-64)"},
        {"BC13C2FF-59E6-4262-A352-B275FD6F7172", "Linux extended boot"},
        {"EBD0A0A2-B9E5-4433-87C0-68B6B72699C7", "Microsoft basic data"},
        {"E3C9E316-0B5C-4DB8-817D-F92DF00215AE", "Microsoft reserved"},
        {"DE94BBA4-06D1-4D40-A16A-BFD50179D6AC", "Windows recovery environment"},
        {"48465300-0000-11AA-AA11-00306543ECAC", "Apple HFS/HFS+"},
        {"7C3457EF-0000-11AA-AA11-00306543ECAC", "Apple APFS"},
        {"516E7CBA-6ECF-11D6-8FF8-00022D09712B", "FreeBSD ZFS"},
        {"516E7CB6-6ECF-11D6-8FF8-00022D09712B", "FreeBSD UFS"},
    };

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strcmp(names[i].type, partition->type) == 0) {
            return names[i].name;
        }
    }
    return NULL;
}
