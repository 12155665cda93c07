/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "disk/probe.h"
#include "memory_store.h"
#include "suite.h"

#include <errno.h>
#include <string.h>

/* A file of `size` bytes that has these at `offset`. */
static struct probe probe_bytes(uint64_t size, uint64_t offset, const void *bytes, size_t length)
{
    struct store *store = memory_store_create(size);
    struct probe probe;

    if (length > 0) {
        memcpy(memory_store_data(store) + offset, bytes, length);
    }
    ck_assert_int_eq(probe_store(store, size, &probe), 0);
    store_close(store);
    return probe;
}

static void expect_probe(uint64_t offset, const char *bytes, size_t length, enum probe_class class,
                         const char *description)
{
    struct probe probe = probe_bytes(1 << 20, offset, bytes, length);

    ck_assert_int_eq(probe.class, class);
    ck_assert_msg(strstr(probe.description, description) != NULL, "%s", probe.description);
}

START_TEST(qcow2_is_known_in_every_version)
{
    expect_probe(0, "QFI\xfb\0\0\0\2", 8, PROBE_QCOW2, "qcow2");
    expect_probe(0, "QFI\xfb\0\0\0\3", 8, PROBE_QCOW2, "qcow2");
    expect_probe(0, "QFI\xfb\0\0\0\4", 8, PROBE_QCOW2, "qcow2");
    expect_probe(0, "QFI\xfb\0\0\0\1", 8, PROBE_DISK_IMAGE, "version 1");
}
END_TEST

START_TEST(other_disk_images_are_known)
{
    expect_probe(0, "KDMV", 4, PROBE_DISK_IMAGE, "VMDK");
    expect_probe(0, "COWD", 4, PROBE_DISK_IMAGE, "VMDK");
    expect_probe(0, "# Disk DescriptorFile\n", 22, PROBE_DISK_IMAGE, "VMDK");
    expect_probe(64, "\x7f\x10\xda\xbe", 4, PROBE_DISK_IMAGE, "VDI");
    expect_probe(0, "vhdxfile", 8, PROBE_DISK_IMAGE, "VHDX");
    expect_probe(0, "conectix", 8, PROBE_DISK_IMAGE, "VHD");
    expect_probe((1 << 20) - 512, "conectix", 8, PROBE_DISK_IMAGE, "VHD");
    expect_probe((1 << 20) - 512, "koly", 4, PROBE_DISK_IMAGE, "DMG");
    expect_probe(0, "QED", 4, PROBE_DISK_IMAGE, "QED");
    expect_probe(0, "WithouFreSpacExt", 16, PROBE_DISK_IMAGE, "Parallels");
}
END_TEST

START_TEST(contents_of_disks_are_raw)
{
    expect_probe(510, "\x55\xaa", 2, PROBE_RAW, "MBR");
    expect_probe(512, "EFI PART", 8, PROBE_RAW, "GPT");
    expect_probe(1080, "\x53\xef", 2, PROBE_RAW, "ext4");
    expect_probe(65600, "_BHRfS_M", 8, PROBE_RAW, "btrfs");
    expect_probe(32769, "CD001", 5, PROBE_RAW, "ISO 9660");
}
END_TEST

START_TEST(files_that_are_no_disks_are_named)
{
    expect_probe(0, "\x1f\x8b", 2, PROBE_OTHER, "gzip");
    expect_probe(0, "LUKS\xba\xbe", 6, PROBE_OTHER, "LUKS");
    expect_probe(257, "ustar", 5, PROBE_OTHER, "tar");
    expect_probe(0, "hello", 5, PROBE_OTHER, "unknown format");
    expect_probe(0, NULL, 0, PROBE_OTHER, "zeros");
    ck_assert_str_eq(probe_bytes(0, 0, NULL, 0).description, "an empty file");
    ck_assert_int_eq(probe_bytes(0, 0, NULL, 0).class, PROBE_OTHER);
}
END_TEST

START_TEST(a_format_counts_before_the_partition_table_behind_it)
{
    struct store *store = memory_store_create(1024);
    struct probe probe;

    memcpy(memory_store_data(store) + 3, "NTFS    ", 8);
    memcpy(memory_store_data(store) + 510, "\x55\xaa", 2);
    ck_assert_int_eq(probe_store(store, 1024, &probe), 0);
    ck_assert_str_eq(probe.description, "a raw NTFS file system");
    memcpy(memory_store_data(store), "QFI\xfb\0\0\0\3", 8);
    ck_assert_int_eq(probe_store(store, 1024, &probe), 0);
    ck_assert_int_eq(probe.class, PROBE_QCOW2);
    store_close(store);
}
END_TEST

START_TEST(a_signature_cut_off_by_the_end_of_the_file_does_not_count)
{
    ck_assert_int_eq(probe_bytes(3, 0, "QFI", 3).class, PROBE_OTHER);
    ck_assert_int_eq(probe_bytes(4, 0, "QFI\xfb", 4).class, PROBE_QCOW2);
    ck_assert_int_eq(probe_bytes(7, 0, "QFI\xfb\0\0\0", 7).class, PROBE_QCOW2);
    ck_assert_int_eq(probe_bytes(511, 510, "\x55", 1).class, PROBE_OTHER);
    ck_assert_int_eq(probe_bytes(1, 0, NULL, 0).class, PROBE_OTHER);
}
END_TEST

START_TEST(files_of_every_small_size_are_looked_at)
{
    for (uint64_t size = 0; size < 1100; size++) {
        ck_assert_int_eq(probe_bytes(size, 0, NULL, 0).class, PROBE_OTHER);
    }
}
END_TEST

START_TEST(a_trailer_is_found_in_the_last_sector_of_any_size)
{
    ck_assert_int_eq(probe_bytes(512, 0, "conectix", 8).class, PROBE_DISK_IMAGE);
    ck_assert_int_eq(probe_bytes(100001, 100001 - 512, "koly", 4).class, PROBE_DISK_IMAGE);
    ck_assert_int_eq(probe_bytes(100001, 100000 - 512, "koly", 4).class, PROBE_OTHER);
}
END_TEST

START_TEST(a_file_that_cannot_be_read_is_an_error)
{
    struct store *store = memory_store_create(1 << 20);
    struct probe probe;

    memory_store_fail(store, MEMORY_STORE_READ, 1, EIO);
    ck_assert_int_eq(probe_store(store, 1 << 20, &probe), -EIO);
    memory_store_fail(store, MEMORY_STORE_READ, 2, ESTALE);
    ck_assert_int_eq(probe_store(store, 1 << 20, &probe), -ESTALE);
    store_close(store);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("probe");
    TCase *tcase = tcase_create("probe");

    tcase_add_test(tcase, qcow2_is_known_in_every_version);
    tcase_add_test(tcase, other_disk_images_are_known);
    tcase_add_test(tcase, contents_of_disks_are_raw);
    tcase_add_test(tcase, files_that_are_no_disks_are_named);
    tcase_add_test(tcase, a_format_counts_before_the_partition_table_behind_it);
    tcase_add_test(tcase, a_signature_cut_off_by_the_end_of_the_file_does_not_count);
    tcase_add_test(tcase, files_of_every_small_size_are_looked_at);
    tcase_add_test(tcase, a_trailer_is_found_in_the_last_sector_of_any_size);
    tcase_add_test(tcase, a_file_that_cannot_be_read_is_an_error);
    suite_add_tcase(suite, tcase);
    return suite_main(suite);
}
