/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "disk/probe.h"

#include "util/checked.h"
#include "util/zeros.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

struct signature {
    int64_t offset; /* bytes; negative: from the end of the file */
    const char *bytes;
    uint32_t length;
    enum probe_class class;
    const char *description;
};

#define SIGNATURE(offset, text, class, description)        \
    {                                                      \
        offset, text, sizeof(text) - 1, class, description \
    }

/* Where several fit, the first one counts: a partition table stands last, after what it may hold.
 */
static const struct signature signatures[] = {
    SIGNATURE(0, "QFI\xfb\0\0\0\1", PROBE_DISK_IMAGE, "a qcow image of version 1"),
    SIGNATURE(0, "QFI\xfb", PROBE_QCOW2, "a qcow2 image"),
    SIGNATURE(0, "KDMV", PROBE_DISK_IMAGE, "a VMDK image"),
    SIGNATURE(0, "COWD", PROBE_DISK_IMAGE, "a VMDK image"),
    SIGNATURE(0, "# Disk DescriptorFile", PROBE_DISK_IMAGE, "the descriptor of a VMDK image"),
    SIGNATURE(0x40, "\x7f\x10\xda\xbe", PROBE_DISK_IMAGE, "a VirtualBox VDI image"),
    SIGNATURE(0, "vhdxfile", PROBE_DISK_IMAGE, "a VHDX image"),
    SIGNATURE(0, "conectix", PROBE_DISK_IMAGE, "a VHD image"),
    SIGNATURE(-512, "conectix", PROBE_DISK_IMAGE, "a VHD image"),
    SIGNATURE(0, "QED\0", PROBE_DISK_IMAGE, "a QED image"),
    SIGNATURE(0, "WithoutFreeSpace", PROBE_DISK_IMAGE, "a Parallels image"),
    SIGNATURE(0, "WithouFreSpacExt", PROBE_DISK_IMAGE, "a Parallels image"),
    SIGNATURE(0, "Bochs Virtual HD Image", PROBE_DISK_IMAGE, "a Bochs image"),
    SIGNATURE(-512, "koly", PROBE_DISK_IMAGE, "an Apple DMG image"),
    SIGNATURE(0, "EVF\x09\x0d\x0a\xff", PROBE_OTHER, "an EnCase (EWF) image"),
    SIGNATURE(0, "EVF2\x0d\x0a\x81", PROBE_OTHER, "an EnCase (Ex01) image"),
    SIGNATURE(0, "AFF10\r\n", PROBE_OTHER, "an AFF image"),
    SIGNATURE(0, "LUKS\xba\xbe", PROBE_OTHER, "a LUKS-encrypted volume"),
    SIGNATURE(0, "\x1f\x8b", PROBE_OTHER, "a file compressed with gzip"),
    SIGNATURE(0,
              "\xfd"
              "7zXZ\0",
              PROBE_OTHER, "a file compressed with xz"),
    SIGNATURE(0, "\x28\xb5\x2f\xfd", PROBE_OTHER, "a file compressed with zstd"),
    SIGNATURE(0, "BZh", PROBE_OTHER, "a file compressed with bzip2"),
    SIGNATURE(0, "7z\xbc\xaf\x27\x1c", PROBE_OTHER, "a 7-Zip archive"),
    SIGNATURE(0, "PK\3\4", PROBE_OTHER, "a ZIP archive"),
    SIGNATURE(257, "ustar", PROBE_OTHER, "a tar archive (an OVA, perhaps)"),
    SIGNATURE(0,
              "\x7f"
              "ELF",
              PROBE_OTHER, "an ELF program"),
    SIGNATURE(0, "hsqs", PROBE_RAW, "a squashfs file system"),
    SIGNATURE(0, "XFSB", PROBE_RAW, "a raw XFS file system"),
    SIGNATURE(1080, "\x53\xef", PROBE_RAW, "a raw ext2, ext3 or ext4 file system"),
    SIGNATURE(65600, "_BHRfS_M", PROBE_RAW, "a raw btrfs file system"),
    SIGNATURE(3, "NTFS    ", PROBE_RAW, "a raw NTFS file system"),
    SIGNATURE(3, "EXFAT   ", PROBE_RAW, "a raw exFAT file system"),
    SIGNATURE(54, "FAT1", PROBE_RAW, "a raw FAT file system"),
    SIGNATURE(82, "FAT32", PROBE_RAW, "a raw FAT file system"),
    SIGNATURE(536, "LVM2 001", PROBE_RAW, "a raw LVM physical volume"),
    SIGNATURE(512, "EFI PART", PROBE_RAW, "a raw disk with a GPT partition table"),
    SIGNATURE(32769, "CD001", PROBE_RAW, "an ISO 9660 image"),
    SIGNATURE(510, "\x55\xaa", PROBE_RAW, "a raw disk with an MBR partition table"),
};

/* All signatures but those at the end of the file lie below this offset. */
#define START_SIZE ((size_t)65600 + 8)
#define SECTOR     ((size_t)512)
#define END_SIZE   SECTOR

/* The file's beginning, and its last sector; of a qcow2 image its first sector. */
struct sample {
    uint8_t start[START_SIZE];
    uint8_t end[END_SIZE];
    uint64_t file_size;
};

static bool matches(const struct signature *signature, const struct sample *sample)
{
    const uint8_t *at;

    if (signature->offset < 0) {
        if (sample->file_size < END_SIZE) {
            return false;
        }
        at = sample->end + END_SIZE - (size_t)-signature->offset;
    } else {
        if (!range_within((uint64_t)signature->offset, signature->length, sample->file_size)) {
            return false;
        }
        at = sample->start + signature->offset;
    }
    return memcmp(at, signature->bytes, signature->length) == 0;
}

static void classify(const struct sample *sample, struct probe *probe)
{
    size_t i;

    for (i = 0; i < sizeof(signatures) / sizeof(signatures[0]); i++) {
        if (matches(&signatures[i], sample)) {
            probe->class = signatures[i].class;
            probe->description = signatures[i].description;
            return;
        }
    }
    probe->class = PROBE_OTHER;
    if (sample->file_size == 0) {
        probe->description = "an empty file";
    } else if (is_all_zeros(sample->start, min_size(sample->file_size, START_SIZE))) {
        probe->description = "a file that begins with zeros (a raw disk, or a failed copy)";
    } else {
        probe->description = "a file of an unknown format";
    }
}

int probe_store(struct store *file, uint64_t file_size, struct probe *probe)
{
    struct sample *sample = malloc(sizeof(*sample));
    int result;

    if (sample == NULL) {
        return -ENOMEM;
    }
    sample->file_size = file_size;
    result = store_read(file, 0, sample->start, SECTOR);
    if (result == 0 && memcmp(sample->start, "QFI\xfb", 4) != 0) {
        /* A qcow2 image is known by its first sector; a bad one behind it must not hide it. */
        result = store_read(file, 0, sample->start, START_SIZE);
        if (result == 0 && file_size >= END_SIZE) {
            result = store_read(file, file_size - END_SIZE, sample->end, END_SIZE);
        }
    }
    if (result == 0) {
        classify(sample, probe);
    }
    free(sample);
    return result;
}
