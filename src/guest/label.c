/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "guest/label.h"

#include "guest/internal.h"
#include "util/checked.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define HEAD_SIZE 4096 /* bytes from the beginning: where most have their superblock */

/* A partition, and what is known of it. */
struct contents {
    struct disk_source source;
    uint8_t head[HEAD_SIZE]; /* zeros behind the end */
    struct guest_label *found;
};

/* --- what all share --------------------------------------------------------- */

static bool is_at(const struct contents *contents, size_t offset, const char *magic, size_t length)
{
    return memcmp(contents->head + offset, magic, length) == 0;
}

/* What is not wholly there is not read: *there. */
static int read_at(const struct contents *contents, uint64_t offset, void *buffer, size_t length,
                   bool *there)
{
    const struct disk_source *source = &contents->source;

    *there = offset <= source->size && length <= source->size - offset;
    return *there ? source->read(source->context, offset, buffer, length) : 0;
}

/* Up to a NUL, without blanks at the end. */
static void set_label(struct guest_label *found, const void *label, size_t length)
{
    length = strnlen(label, min_size(length, sizeof(found->label) - 1));
    memcpy(found->label, label, length);
    while (length > 0 && found->label[length - 1] == ' ') {
        length--;
    }
    found->label[length] = '\0';
}

static void set_label_utf16(struct guest_label *found, const uint8_t *label, size_t units)
{
    char text[GUEST_LABEL_MAX];

    load_utf16(label, min_size(units, (sizeof(text) - 1) / 3), text);
    set_label(found, text, sizeof(text));
}

static void set_uuid(struct guest_label *found, const uint8_t *uuid)
{
    static const uint8_t none[16];

    if (memcmp(uuid, none, sizeof(none)) != 0) {
        snprintf(found->uuid, sizeof(found->uuid),
                 "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", uuid[0],
                 uuid[1], uuid[2], uuid[3], uuid[4], uuid[5], uuid[6], uuid[7], uuid[8], uuid[9],
                 uuid[10], uuid[11], uuid[12], uuid[13], uuid[14], uuid[15]);
    }
}

/* As FAT and exFAT have it. */
static void set_serial(struct guest_label *found, uint32_t serial)
{
    if (serial != 0) {
        snprintf(found->uuid, sizeof(found->uuid), "%04X-%04X", (unsigned)(serial >> 16),
                 (unsigned)(serial & 0xffff));
    }
}

/* --- each kind: whether it is one; 0 or a negative errno -------------------- */

typedef int recognise_fn(struct contents *contents, bool *is_one);

static int recognise_ext(struct contents *contents, bool *is_one)
{
    const uint8_t *super = contents->head + 1024;

    *is_one = load_le16(super + 56) == 0xef53;
    if (*is_one) {
        set_uuid(contents->found, super + 104);
        set_label(contents->found, super + 120, 16);
    }
    return 0;
}

static int recognise_xfs(struct contents *contents, bool *is_one)
{
    *is_one = is_at(contents, 0, "XFSB", 4);
    if (*is_one) {
        set_uuid(contents->found, contents->head + 32);
        set_label(contents->found, contents->head + 108, 12);
    }
    return 0;
}

static int recognise_btrfs(struct contents *contents, bool *is_one)
{
    uint8_t super[1024];
    int r = read_at(contents, 65536, super, sizeof(super), is_one);

    *is_one = r == 0 && *is_one && memcmp(super + 64, "_BHRfS_M", 8) == 0;
    if (*is_one) {
        set_uuid(contents->found, super + 32);
        set_label(contents->found, super + 299, 256);
    }
    return r;
}

static int recognise_f2fs(struct contents *contents, bool *is_one)
{
    const uint8_t *super = contents->head + 1024;

    *is_one = load_le32(super) == 0xf2f52010;
    if (*is_one) {
        set_uuid(contents->found, super + 108);
        set_label_utf16(contents->found, super + 124, 512);
    }
    return 0;
}

static int recognise_swap(struct contents *contents, bool *is_one)
{
    const uint8_t *super = contents->head + 1024;

    *is_one = is_at(contents, 4096 - 10, "SWAPSPACE2", 10) && load_le32(super) == 1;
    if (*is_one) {
        set_uuid(contents->found, super + 12);
        set_label(contents->found, super + 28, 16);
    }
    return 0;
}

static int recognise_luks(struct contents *contents, bool *is_one)
{
    struct guest_label *found = contents->found;

    *is_one = is_at(contents, 0, "LUKS\xba\xbe", 6);
    if (*is_one) {
        memcpy(found->uuid, contents->head + 168, sizeof(found->uuid) - 1);
        if (contents->head[7] == 2) {
            set_label(found, contents->head + 24, 48);
        }
    }
    return 0;
}

#define DIRECTORY_MAX 65536 /* bytes of a root directory that are looked through for a label */
#define FAT_ENTRY     32

/* The entry of a directory that is the volume's label. */
static int find_fat_label(const struct contents *contents, uint64_t offset, uint64_t length,
                          uint8_t label[11])
{
    uint8_t bytes[4096];
    bool there = true;

    length = min_u64(length, DIRECTORY_MAX);
    for (uint64_t at = 0; at + FAT_ENTRY <= length; at += sizeof(bytes)) {
        size_t part = min_size(sizeof(bytes), length - at);
        int r = read_at(contents, offset + at, bytes, part, &there);

        if (r != 0 || !there) {
            return r;
        }
        for (size_t i = 0; i + FAT_ENTRY <= part; i += FAT_ENTRY) {
            if (bytes[i] == 0) {
                return 0;
            }
            if (bytes[i] != 0xe5 && (bytes[i + 11] & 0x3f) == 0x08) {
                memcpy(label, bytes + i, 11);
                return 0;
            }
        }
    }
    return 0;
}

static int recognise_fat(struct contents *contents, bool *is_one)
{
    const uint8_t *boot = contents->head;
    bool is_32 = memcmp(boot + 82, "FAT32   ", 8) == 0;
    uint64_t sector = load_le16(boot + 11), reserved = load_le16(boot + 14), directory, length;
    uint64_t fat = is_32 ? load_le32(boot + 36) : load_le16(boot + 22);
    uint8_t label[11];
    int r;

    *is_one = boot[510] == 0x55 && boot[511] == 0xaa && is_power_of_two(sector) && sector >= 512 &&
              is_power_of_two(boot[13]) && boot[16] != 0 &&
              (is_32 || memcmp(boot + 54, "FAT1", 4) == 0);
    if (!*is_one) {
        return 0;
    }
    set_serial(contents->found, load_le32(boot + (is_32 ? 67 : 39)));
    memcpy(label, boot + (is_32 ? 71 : 43), sizeof(label));
    directory = (reserved + boot[16] * fat) * sector; /* no overflow: 8, 32 and 16 bits */
    length = (uint64_t)load_le16(boot + 17) * FAT_ENTRY;
    if (is_32) {
        uint32_t cluster = load_le32(boot + 44);

        length = boot[13] * sector; /* its first cluster; a label that was not moved is there */
        directory += (cluster >= 2 ? cluster - 2 : 0) * length;
    }
    r = find_fat_label(contents, directory, length, label);
    if (memcmp(label, "NO NAME    ", sizeof(label)) != 0) {
        set_label(contents->found, label, sizeof(label));
    }
    return r;
}

static int recognise_exfat(struct contents *contents, bool *is_one)
{
    const uint8_t *boot = contents->head;
    unsigned sector_bits = boot[108], cluster_bits = sector_bits + boot[109];
    uint32_t cluster = load_le32(boot + 96);
    uint8_t entries[4096];
    bool there;
    int r;

    *is_one = is_at(contents, 3, "EXFAT   ", 8) && sector_bits >= 9 && sector_bits <= 12 &&
              cluster_bits <= 25 && cluster >= 2;
    if (!*is_one) {
        return 0;
    }
    set_serial(contents->found, load_le32(boot + 100));
    r = read_at(contents,
                ((uint64_t)load_le32(boot + 88) << sector_bits) +
                    ((uint64_t)(cluster - 2) << cluster_bits),
                entries, sizeof(entries), &there);
    if (r != 0 || !there) {
        return r;
    }
    for (size_t i = 0; i < sizeof(entries) && entries[i] != 0; i += FAT_ENTRY) {
        if (entries[i] == 0x83) {
            set_label_utf16(contents->found, entries + i + 2, min_size(entries[i + 1], 11));
            break;
        }
    }
    return 0;
}

/* The attribute "volume name" of the file $Volume. */
static void find_ntfs_label(struct contents *contents, const uint8_t *record, size_t size)
{
    size_t at = load_le16(record + 20);

    while (at + 24 <= size) {
        uint32_t type = load_le32(record + at), length = load_le32(record + at + 4);
        uint32_t bytes = load_le32(record + at + 16);
        size_t value = at + load_le16(record + at + 20);

        if (type == 0xffffffff || length < 24 || length > size - at) {
            return;
        }
        if (type == 0x60) {
            if (value <= size && bytes <= size - value) {
                set_label_utf16(contents->found, record + value, bytes / 2);
            }
            return;
        }
        at += length;
    }
}

#define NTFS_VOLUME 3 /* the number of $Volume in the MFT */

static int recognise_ntfs(struct contents *contents, bool *is_one)
{
    const uint8_t *boot = contents->head;
    uint64_t sector = load_le16(boot + 11), cluster = sector * boot[13], mft, size;
    int8_t exponent = (int8_t)boot[64];
    uint8_t record[4096];
    bool there;
    int r;

    *is_one = is_at(contents, 3, "NTFS    ", 8) && is_power_of_two(sector) && sector >= 256 &&
              boot[13] != 0;
    if (!*is_one) {
        return 0;
    }
    snprintf(contents->found->uuid, sizeof(contents->found->uuid), "%016llX",
             (unsigned long long)load_le64(boot + 72));
    size = exponent < 0 ? UINT64_C(1) << min_u64((uint64_t)-exponent, 63) : exponent * cluster;
    if (size < 512 || size > sizeof(record) || !checked_mul(load_le64(boot + 48), cluster, &mft) ||
        !checked_add(mft, NTFS_VOLUME * size, &mft)) {
        return 0;
    }
    r = read_at(contents, mft, record, in_memory(size), &there);
    if (r == 0 && there && memcmp(record, "FILE", 4) == 0) {
        find_ntfs_label(contents, record, in_memory(size));
    }
    return r;
}

int guest_label_read(partition_read_fn *read, void *context, uint64_t size,
                     struct guest_label *found)
{
    static recognise_fn *const kinds[] = {
        recognise_ext,  recognise_xfs,  recognise_btrfs, recognise_f2fs, recognise_swap,
        recognise_luks, recognise_ntfs, recognise_exfat, recognise_fat,
    };
    struct contents contents = {.source = {read, context, size}};
    struct guest_label each;
    size_t count = 0;
    int r = read(context, 0, contents.head, min_size(size, HEAD_SIZE));

    memset(found, 0, sizeof(*found));
    contents.found = &each;
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]) && r == 0; i++) {
        bool is_one = false;

        memset(&each, 0, sizeof(each));
        r = kinds[i](&contents, &is_one);
        if (is_one) {
            *found = each;
            count++;
        }
    }
    if (r != 0 || count > 1) {
        memset(found, 0, sizeof(*found));
    }
    return r;
}
