/* SPDX-License-Identifier: MIT */
/*
 * The on-disk structures of a qcow2 file: where each field is, what each bit
 * means. The only place where offsets, masks and shifts of the format are
 * written down; all other code goes through the names and functions here.
 *
 * Names and section titles are those of the specification ("Qcow2 Image File
 * Format", docs/interop/qcow2 in the QEMU project).
 */
#ifndef META_FORMAT_H
#define META_FORMAT_H

#include "util/bytes.h"

#include <stdbool.h>
#include <stdint.h>

/* --- Header: byte offsets of the fields ------------------------------------ */

#define QCOW_MAGIC UINT32_C(0x514649fb) /* "QFI\xfb" */

enum header_field {
    HEADER_MAGIC = 0,
    HEADER_VERSION = 4,
    HEADER_BACKING_FILE_OFFSET = 8,
    HEADER_BACKING_FILE_SIZE = 16,
    HEADER_CLUSTER_BITS = 20,
    HEADER_SIZE = 24,
    HEADER_CRYPT_METHOD = 32,
    HEADER_L1_SIZE = 36,
    HEADER_L1_TABLE_OFFSET = 40,
    HEADER_REFCOUNT_TABLE_OFFSET = 48,
    HEADER_REFCOUNT_TABLE_CLUSTERS = 56,
    HEADER_NB_SNAPSHOTS = 60,
    HEADER_SNAPSHOTS_OFFSET = 64,
    HEADER_V2_LENGTH = 72, /* the header of version 2 ends here */
    HEADER_INCOMPATIBLE_FEATURES = 72,
    HEADER_COMPATIBLE_FEATURES = 80,
    HEADER_AUTOCLEAR_FEATURES = 88,
    HEADER_REFCOUNT_ORDER = 96,
    HEADER_HEADER_LENGTH = 100,
    HEADER_V3_LENGTH = 104, /* the least header_length of version 3 */
    HEADER_COMPRESSION_TYPE = 104,
    HEADER_FULL_LENGTH = 112, /* with the compression type, and padding behind it */
};

#define CLUSTER_BITS_MIN             9
#define CLUSTER_BITS_MAX             21
#define CLUSTER_BITS_MIN_EXTENDED_L2 14
#define REFCOUNT_ORDER_V2            4
#define REFCOUNT_ORDER_MAX           6
#define BACKING_FILE_NAME_MAX        1023
#define BACKING_FORMAT_NAME_MAX      15 /* QEMU keeps it in 16 bytes */

#define CRYPT_NONE UINT32_C(0)
#define CRYPT_AES  UINT32_C(1)
#define CRYPT_LUKS UINT32_C(2)

#define INCOMPATIBLE_DIRTY              (UINT64_C(1) << 0)
#define INCOMPATIBLE_CORRUPT            (UINT64_C(1) << 1)
#define INCOMPATIBLE_EXTERNAL_DATA_FILE (UINT64_C(1) << 2)
#define INCOMPATIBLE_COMPRESSION_TYPE   (UINT64_C(1) << 3)
#define INCOMPATIBLE_EXTENDED_L2        (UINT64_C(1) << 4)
#define INCOMPATIBLE_KNOWN                                                         \
    (INCOMPATIBLE_DIRTY | INCOMPATIBLE_CORRUPT | INCOMPATIBLE_EXTERNAL_DATA_FILE | \
     INCOMPATIBLE_COMPRESSION_TYPE | INCOMPATIBLE_EXTENDED_L2)

#define COMPATIBLE_LAZY_REFCOUNTS (UINT64_C(1) << 0)

#define AUTOCLEAR_BITMAPS           (UINT64_C(1) << 0)
#define AUTOCLEAR_RAW_EXTERNAL_DATA (UINT64_C(1) << 1)
#define AUTOCLEAR_KNOWN             (AUTOCLEAR_BITMAPS | AUTOCLEAR_RAW_EXTERNAL_DATA)

/* --- Header extensions ------------------------------------------------------ */

#define EXTENSION_END                UINT32_C(0x00000000)
#define EXTENSION_BACKING_FORMAT     UINT32_C(0xe2792aca)
#define EXTENSION_FEATURE_NAME_TABLE UINT32_C(0x6803f857)
#define EXTENSION_BITMAPS            UINT32_C(0x23852875)
#define EXTENSION_ENCRYPTION         UINT32_C(0x0537be77)
#define EXTENSION_DATA_FILE          UINT32_C(0x44415441)

enum extension_field {
    EXTENSION_TYPE = 0,
    EXTENSION_LENGTH = 4,
    EXTENSION_DATA = 8, /* padded to a multiple of 8 bytes */
};

enum bitmaps_extension_field {
    BITMAPS_NB_BITMAPS = 0,
    BITMAPS_RESERVED = 4,
    BITMAPS_DIRECTORY_SIZE = 8,
    BITMAPS_DIRECTORY_OFFSET = 16,
    BITMAPS_EXTENSION_LENGTH = 24,
};

/* "Full disk encryption header pointer" */
enum encryption_extension_field {
    CRYPT_HEADER_OFFSET = 0,
    CRYPT_HEADER_LENGTH = 8,
    CRYPT_HEADER_LENGTH_END = 16,
};

enum feature_name_field {
    FEATURE_NAME_TYPE = 0, /* see below */
    FEATURE_NAME_BIT = 1,
    FEATURE_NAME_TEXT = 2, /* padded with zeros, not always terminated */
    FEATURE_NAME_LENGTH = 48,
};

#define FEATURE_TYPE_INCOMPATIBLE 0
#define FEATURE_TYPE_COMPATIBLE   1
#define FEATURE_TYPE_AUTOCLEAR    2

/* --- LUKS header (version 1), which the encryption extension points to --------- */

#define LUKS_MAGIC       "LUKS\xba\xbe"
#define LUKS_SLOT_ACTIVE UINT32_C(0x00ac71f3)
#define LUKS_SLOT_DEAD   UINT32_C(0x0000dead)
#define LUKS_SLOTS       8

enum luks_field {
    LUKS_VERSION = 6, /* behind the magic bytes */
    LUKS_CIPHER_NAME = 8,
    LUKS_CIPHER_MODE = 40,
    LUKS_HASH = 72,
    LUKS_TEXT_LENGTH = 32, /* of each of these three */
    LUKS_PAYLOAD_OFFSET = 104,
    LUKS_KEY_BYTES = 108,
    LUKS_DIGEST = 112, /* of the master key */
    LUKS_DIGEST_LENGTH = 20,
    LUKS_SALT = 132,
    LUKS_SALT_LENGTH = 32, /* of this one, and of those of the key slots */
    LUKS_MASTER_KEY_ITERATIONS = 164,
    LUKS_UUID = 168,
    LUKS_UUID_LENGTH = 40,
    LUKS_KEY_SLOTS = 208,
    LUKS_LENGTH = 592,
};

enum luks_slot_field {
    LUKS_SLOT_STATE = 0,
    LUKS_SLOT_ITERATIONS = 4,
    LUKS_SLOT_SALT = 8,
    LUKS_SLOT_KEY_OFFSET = 40,
    LUKS_SLOT_STRIPES = 44,
    LUKS_SLOT_LENGTH = 48,
};

/* --- L1 and L2 tables ("Cluster mapping") ------------------------------------ */

#define L1_ENTRY_BYTES          8
#define L2_ENTRY_BYTES          8
#define L2_ENTRY_BYTES_EXTENDED 16
#define SUBCLUSTERS_EXTENDED    32

#define ENTRY_HOST_OFFSET_MASK UINT64_C(0x00fffffffffffe00) /* bits 9 - 55 */
#define ENTRY_COPIED           (UINT64_C(1) << 63)
#define L2_ENTRY_COMPRESSED    (UINT64_C(1) << 62)
#define L2_ENTRY_ZERO          (UINT64_C(1) << 0)

/* Bits that are 0 in every entry of its kind; L2: in a standard cluster descriptor. */
#define L1_ENTRY_RESERVED UINT64_C(0x7f000000000001ff)
#define L2_ENTRY_RESERVED UINT64_C(0x3f000000000001fe)

/* Host offset of the L2 table that an L1 entry names; 0: none. */
static inline uint64_t l1_entry_table(uint64_t entry)
{
    return entry & ENTRY_HOST_OFFSET_MASK;
}

static inline bool l2_entry_is_compressed(uint64_t entry)
{
    return (entry & L2_ENTRY_COMPRESSED) != 0;
}

/* "Standard Cluster Descriptor": host offset of the cluster. */
static inline uint64_t l2_entry_host_offset(uint64_t entry)
{
    return entry & ENTRY_HOST_OFFSET_MASK;
}

static inline bool l2_entry_is_copied(uint64_t entry)
{
    return (entry & ENTRY_COPIED) != 0;
}

/* "Standard Cluster Descriptor", bit 0; means nothing with extended L2 entries. */
static inline bool l2_entry_is_zero(uint64_t entry)
{
    return (entry & L2_ENTRY_ZERO) != 0;
}

/* "Compressed Clusters Descriptor": x = 62 - (cluster_bits - 8). */
static inline uint64_t l2_entry_compressed_offset(uint64_t entry, uint32_t cluster_bits)
{
    uint32_t x = 62 - (cluster_bits - 8);

    return entry & ((UINT64_C(1) << x) - 1);
}

/* The first host offset that no entry of compressed data can name. */
static inline uint64_t l2_entry_compressed_limit(uint32_t cluster_bits)
{
    uint32_t x = 62 - (cluster_bits - 8);

    return UINT64_C(1) << (x < 56 ? x : 56);
}

/* Bytes from the compressed offset to the end of the last sector that holds the data. */
static inline uint64_t l2_entry_compressed_size(uint64_t entry, uint32_t cluster_bits)
{
    uint32_t x = 62 - (cluster_bits - 8);
    uint64_t additional_sectors = (entry & (L2_ENTRY_COMPRESSED - 1)) >> x;

    return (additional_sectors + 1) * 512 - l2_entry_compressed_offset(entry, cluster_bits) % 512;
}

/* The inverse of these two: the same number for no other compressed data of an image. */
static inline uint64_t l2_entry_compressed_place(uint64_t offset, uint64_t size,
                                                 uint32_t cluster_bits)
{
    uint32_t x = 62 - (cluster_bits - 8);

    return ((size + offset % 512) / 512 - 1) << x | offset;
}

/* The entry of compressed data of `length` bytes: it says how many sectors hold them. */
static inline uint64_t l2_entry_of_compressed(uint64_t offset, uint64_t length,
                                              uint32_t cluster_bits)
{
    uint64_t sectors = (offset % 512 + length + 511) / 512;

    return L2_ENTRY_COMPRESSED |
           l2_entry_compressed_place(offset, sectors * 512 - offset % 512, cluster_bits);
}

/* "Subcluster Allocation Bitmap": one bit a subcluster, the least significant first. */
static inline uint32_t bitmap_allocated(uint64_t bitmap)
{
    return (uint32_t)bitmap;
}

static inline uint32_t bitmap_zero(uint64_t bitmap)
{
    return (uint32_t)(bitmap >> 32);
}

/* --- Refcount table ("Refcount table entry"); the blocks: meta/refcount_block.h --- */

#define REFCOUNT_TABLE_ENTRY_BYTES    8
#define REFCOUNT_TABLE_ENTRY_RESERVED UINT64_C(0x1ff)

/* --- Snapshot table entry ("Snapshots") -------------------------------------- */

enum snapshot_field {
    SNAPSHOT_L1_TABLE_OFFSET = 0,
    SNAPSHOT_L1_SIZE = 8,
    SNAPSHOT_ID_LENGTH = 12,
    SNAPSHOT_NAME_LENGTH = 14,
    SNAPSHOT_DATE_SEC = 16,
    SNAPSHOT_DATE_NSEC = 20,
    SNAPSHOT_VM_CLOCK_NSEC = 24,
    SNAPSHOT_VM_STATE_SIZE = 32,
    SNAPSHOT_EXTRA_DATA_SIZE = 36,
    SNAPSHOT_FIXED_LENGTH = 40,
    /* Extra data, present as far as SNAPSHOT_EXTRA_DATA_SIZE goes. */
    SNAPSHOT_EXTRA_VM_STATE_SIZE = 40,
    SNAPSHOT_EXTRA_DISK_SIZE = 48,
    SNAPSHOT_EXTRA_ICOUNT = 56,
};

/* --- Bitmap directory entry ("Bitmap directory") ------------------------------ */

enum bitmap_field {
    BITMAP_TABLE_OFFSET = 0,
    BITMAP_TABLE_SIZE = 8,
    BITMAP_FLAGS = 12,
    BITMAP_TYPE = 16,
    BITMAP_GRANULARITY_BITS = 17,
    BITMAP_NAME_SIZE = 18,
    BITMAP_EXTRA_DATA_SIZE = 20,
    BITMAP_FIXED_LENGTH = 24,
};

/* "Bitmap table": 0 with an offset, or says what the bits of a cluster without one are. */
#define BITMAP_TABLE_ENTRY_BYTES    8
#define BITMAP_TABLE_ENTRY_ALL_ONES (UINT64_C(1) << 0)
#define BITMAP_TABLE_ENTRY_RESERVED UINT64_C(0xff000000000001fe)

#define BITMAP_TYPE_DIRTY_TRACKING 1

#define BITMAP_FLAG_IN_USE                UINT32_C(1)
#define BITMAP_FLAG_AUTO                  UINT32_C(2)
#define BITMAP_FLAG_EXTRA_DATA_COMPATIBLE UINT32_C(4)
#define BITMAP_NAME_MAX                   1023
#define BITMAP_FLAGS_RESERVED             UINT32_C(0xfffffff8)
#define BITMAP_GRANULARITY_MIN            UINT64_C(512) /* bytes */
#define BITMAP_GRANULARITY_MAX            (UINT64_C(1) << 31)
#define BITMAPS_MAX                       65535
#define BITMAP_SIZE_MAX                   (UINT64_C(512) << 20) /* of the bits of one, bytes: what QEMU loads */

#endif
