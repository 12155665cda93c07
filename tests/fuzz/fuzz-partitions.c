/* SPDX-License-Identifier: MIT */
/*
 * Any bytes as a disk: its partition table is read, and what file systems its partitions say they
 * have. The first byte of an input is a power of two: so many zeros lie behind the rest.
 */
#include "config.h"

#include "guard.h"
#include "guest/label.h"
#include "guest/partitions.h"
#include "target.h"
#include "util/bytes.h"
#include "util/checked.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#define SECTOR UINT64_C(512)
#define READ_MOST \
    (3 * (uint64_t)PARTITIONS_TABLE_MAX) /* bytes, by the table: a bound of its work */
#define LABELS_MOST 8

struct disk {
    const uint8_t *bytes;
    size_t length; /* of them; zeros behind */
    uint64_t size; /* of all */
    uint64_t read; /* bytes, so far */
};

struct part {
    struct disk *disk;
    uint64_t start, size;
};

const char *const target_name = "partitions";
const size_t target_most = 32 << 10;

static int read_disk(void *context, uint64_t offset, void *buffer, size_t length)
{
    struct disk *disk = context;
    size_t there = 0;

    FUZZ_EXPECT(range_within(offset, length, disk->size));
    disk->read += length;
    if (offset < disk->length) {
        there = (size_t)min_u64(length, disk->length - offset);
        memcpy(buffer, disk->bytes + offset, there);
    }
    memset((uint8_t *)buffer + there, 0, length - there);
    return 0;
}

static int read_part(void *context, uint64_t offset, void *buffer, size_t length)
{
    struct part *part = context;

    FUZZ_EXPECT(range_within(offset, length, part->size));
    return read_disk(part->disk, part->start + offset, buffer, length);
}

static void look_for_label(struct disk *disk, uint64_t start, uint64_t size)
{
    struct part part = {disk, start, size};
    struct guest_label found = {{0}, {0}};

    FUZZ_EXPECT(guest_label_read(read_part, &part, size, &found) == 0);
    FUZZ_EXPECT(memchr(found.label, 0, sizeof(found.label)) != NULL);
    FUZZ_EXPECT(memchr(found.uuid, 0, sizeof(found.uuid)) != NULL);
}

static void expect_partition(const struct partition_table *table, size_t index, uint64_t size)
{
    const struct partition *partition = &table->list[index];

    FUZZ_EXPECT(partition->size > 0 && range_within(partition->start, partition->size, size));
    FUZZ_EXPECT(index == 0 || table->list[index - 1].number < partition->number);
    FUZZ_EXPECT(partitions_find(table, partition->number) == partition);
    for (const char *at = partition->name; *at != '\0'; at++) {
        FUZZ_EXPECT((unsigned char)*at >= ' ' && *at != 0x7f);
    }
    (void)partition_type_name(partition);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct partition_table table = {0};
    struct disk disk = {0};

    if (size == 0) {
        return 0;
    }
    disk.bytes = data + 1;
    disk.length = size - 1;
    disk.size = disk.length + (UINT64_C(1) << data[0] % 62);
    guard_begin(GUARD_MEMORY);
    FUZZ_EXPECT(partitions_read(read_disk, &disk, disk.size, &table) == 0);
    FUZZ_EXPECT(disk.read <= READ_MOST, "it read %llu bytes", (unsigned long long)disk.read);
    FUZZ_EXPECT(table.count <= PARTITIONS_MAX);
    for (size_t i = 0; i < table.count; i++) {
        expect_partition(&table, i, disk.size);
        if (i < LABELS_MOST) {
            look_for_label(&disk, table.list[i].start, table.list[i].size);
        }
    }
    look_for_label(&disk, 0, disk.size);
    (void)partitions_touch(&table, disk.size, 0, SECTOR);
    partitions_free(&table);
    guard_end();
    return 0;
}

/* --- seeds ------------------------------------------------------------------------ */

static void store_le32(uint8_t *to, uint32_t value)
{
    for (unsigned i = 0; i < 4; i++) {
        to[i] = (uint8_t)(value >> 8 * i);
    }
}

static void put_entry(uint8_t *record, unsigned number, uint8_t type, uint32_t start,
                      uint32_t sectors)
{
    uint8_t *entry = record + 446 + 16 * number;

    entry[4] = type;
    store_le32(entry + 8, start);
    store_le32(entry + 12, sectors);
    record[510] = 0x55;
    record[511] = 0xaa;
}

/* Two primary partitions, and two logical ones in a chain. */
static void make_mbr(uint8_t *disk)
{
    put_entry(disk, 0, 0x83, 8, 4);
    put_entry(disk, 1, 0x0c, 12, 4);
    put_entry(disk, 2, 0x05, 16, 16);
    put_entry(disk + 16 * SECTOR, 0, 0x83, 1, 3);
    put_entry(disk + 16 * SECTOR, 1, 0x05, 8, 8);
    put_entry(disk + 24 * SECTOR, 0, 0x82, 1, 3);
}

/* Two entries of a GPT, without its backup. */
static void make_gpt(uint8_t *disk, uint32_t sectors)
{
    uint8_t *header = disk + SECTOR, *entries = disk + 2 * SECTOR;

    put_entry(disk, 0, 0xee, 1, sectors - 1);
    for (unsigned i = 0; i < 2; i++) {
        uint8_t *entry = entries + 128 * i;

        memset(entry, (int)i + 1, 32);
        store_le32(entry + 32, 8 + 8 * i);
        store_le32(entry + 40, 15 + 8 * i);
        entry[56] = 'A';
    }
    memcpy(header, "EFI PART", 8);
    store_le32(header + 8, 0x10000);
    store_le32(header + 12, 92);
    store_le32(header + 24, 1);
    store_le32(header + 32, sectors - 1);
    store_le32(header + 40, 4);
    store_le32(header + 48, sectors - 2);
    store_le32(header + 72, 2);
    store_le32(header + 80, 4);
    store_le32(header + 84, 128);
    store_le32(header + 88, (uint32_t)crc32(0, entries, 4 * 128));
    store_le32(header + 16, (uint32_t)crc32(0, header, 92));
}

uint8_t *target_seed(unsigned number, size_t *size)
{
    enum {
        SECTORS = 40,
        BEHIND = 15
    };
    uint8_t *bytes;

    if (number >= 3) {
        return NULL;
    }
    *size = 1 + SECTORS * SECTOR;
    bytes = calloc(1, *size);
    FUZZ_EXPECT(bytes != NULL);
    bytes[0] = BEHIND;
    if (number == 0) {
        make_mbr(bytes + 1);
    } else if (number == 1) {
        make_gpt(bytes + 1, SECTORS + (1U << BEHIND) / SECTOR);
    } else { /* ext4 on the disk itself */
        memcpy(bytes + 1 + 1024 + 56, "\x53\xef", 2);
        memcpy(bytes + 1 + 1024 + 120, "label", 5);
    }
    return bytes;
}
