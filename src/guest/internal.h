/* SPDX-License-Identifier: MIT */
/* What the readers of partition tables share: partitions.c (which table there is), gpt.c, mbr.c. */
#ifndef GUEST_INTERNAL_H
#define GUEST_INTERNAL_H

#include "guest/partitions.h"

struct disk_source {
    partition_read_fn *read;
    void *context;
    uint64_t size; /* bytes */
};

/* Master boot record and extended boot record: offsets in bytes, sizes too. */
enum {
    MBR_SIZE = 512,
    MBR_DISK_ID = 440,
    MBR_ENTRIES = 446,
    MBR_ENTRY_SIZE = 16,
    MBR_ENTRY_COUNT = 4,
    MBR_SIGNATURE = 510,

    MBR_ENTRY_FLAG = 0,
    MBR_ENTRY_TYPE = 4,
    MBR_ENTRY_START = 8,
    MBR_ENTRY_SECTORS = 12,

    MBR_TYPE_PROTECTIVE = 0xee,
};

uint16_t load_le16(const void *from);
uint32_t load_le32(const void *from);
uint64_t load_le64(const void *from);

/*
 * UTF-16LE to UTF-8, up to a NUL; halves of pairs that stand alone, and controls, become '?'.
 * `text` has room for 3 * `units` + 1 bytes.
 */
void load_utf16(const uint8_t *from, size_t units, char *text);

/*
 * One more, cut off at the end of the disk; what has no byte in it is left out,
 * with the remark. -ENOMEM.
 */
int partition_add(struct partition_table *table, const struct disk_source *disk,
                  const struct partition *partition);

/* Fills the table from the boot record `mbr`, and from the chain that it begins. */
int mbr_read(const struct disk_source *disk, const uint8_t *mbr, struct partition_table *table);

/* Whether the boot record announces a GPT. */
bool mbr_is_protective(const uint8_t *mbr);

/* Fills the table from a GPT, where one of its copies can be used: *found. */
int gpt_read(const struct disk_source *disk, struct partition_table *table, bool *found);

#endif
