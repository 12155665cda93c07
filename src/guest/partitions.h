/* SPDX-License-Identifier: MIT */
/*
 * The partitions of a disk, from its partition table: GPT (UEFI specification,
 * "GUID Partition Table Format"; the backup where the first is damaged) or MBR
 * with the chain of extended boot records. Everything on the disk is hostile:
 * what lies past its end is cut off or left out, chains that loop end, and the
 * work is bounded by PARTITIONS_MAX and PARTITIONS_TABLE_MAX, whatever a table says.
 *
 * Knows nothing of images: the disk is a call that reads. Pure, no locks.
 */
#ifndef GUEST_PARTITIONS_H
#define GUEST_PARTITIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PARTITIONS_MAX       1024              /* what is more is left out, and counted */
#define PARTITIONS_TABLE_MAX (8 * 1024 * 1024) /* bytes of a GPT's array of entries */
#define PARTITION_NAME_MAX   (36 * 3 + 1)      /* UTF-16 code units as UTF-8, and the NUL */

enum partition_scheme {
    PARTITION_SCHEME_NONE, /* no table: a disk that is one file system, or empty */
    PARTITION_SCHEME_MBR,
    PARTITION_SCHEME_GPT,
};

struct partition {
    unsigned number;     /* as the kernel and sfdisk count: of an MBR, logical ones from 5 */
    uint64_t start;      /* bytes */
    uint64_t size;       /* bytes, > 0; ends within the disk */
    bool extended;       /* an MBR's extended partition: holds the logical ones, and nothing else */
    bool bootable;       /* an MBR's flag, or a GPT's legacy BIOS bit */
    uint64_t attributes; /* of a GPT; 0 */
    uint8_t mbr_type;    /* 0 with a GPT */
    char type[37];       /* the type GUID in capitals, or two hexadecimal digits */
    char uuid[37];       /* PARTUUID: as the kernel and udev write it, in small letters */
    char name[PARTITION_NAME_MAX]; /* of a GPT, in UTF-8, control characters as '?'; or empty */
};

/* What else was seen, for a line to the user; bits. */
enum partition_remark {
    PARTITION_BACKUP_USED = 1, /* the first GPT is damaged, its backup was taken */
    PARTITION_PAST_END = 2,    /* an entry reaches past the end of the disk: cut off or left out */
    PARTITION_CHAIN_DAMAGED = 4, /* the chain of logical partitions loops, or leads nowhere */
    PARTITION_TOO_MANY = 8,      /* more than PARTITIONS_MAX */
    PARTITION_GPT_DAMAGED = 16,  /* there should be a GPT, and neither copy can be used */
};

struct partition_table {
    enum partition_scheme scheme;
    unsigned sector_size; /* bytes: 512 or 4096 */
    char id[37];          /* disk GUID in capitals, or 0x and eight digits; empty without a table */
    unsigned remarks;     /* PARTITION_... */
    size_t count;
    struct partition *list; /* ordered by number; owned by the table */
};

/* Reads `length` bytes of the disk at `offset`, both in bytes, within it; 0 or a negative errno. */
typedef int partition_read_fn(void *context, uint64_t offset, void *buffer, size_t length);

/*
 * The table of a disk of `size` bytes. 0, also where there is none
 * (PARTITION_SCHEME_NONE); the negative errno of `read`, or -ENOMEM, after which
 * there is nothing to free.
 */
int partitions_read(partition_read_fn *read, void *context, uint64_t size,
                    struct partition_table *table);

/* Frees what the table owns; the table may be all zero. */
void partitions_free(struct partition_table *table);

/* The partition of that number; NULL. */
const struct partition *partitions_find(const struct partition_table *table, unsigned number);

/*
 * What the type is called, in few words ("Linux filesystem"); NULL for an unknown one.
 */
const char *partition_type_name(const struct partition *partition);

/* Whether bytes [offset, offset + length) may hold what the table was read from. */
bool partitions_touch(const struct partition_table *table, uint64_t disk_size, uint64_t offset,
                      uint64_t length);

#endif
