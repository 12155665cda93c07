/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "guest/partitions.h"
#include "suite.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#define SECTORS   65536
#define DISK_SIZE (SECTORS * UINT64_C(512))

/* --- a disk in memory --------------------------------------------------------- */

struct disk {
    uint8_t *bytes;
    uint64_t size;
    unsigned reads;
    uint64_t fails_at; /* the byte whose reading gives EIO; UINT64_MAX */
};

static struct disk disk;
static struct partition_table table;

static int read_disk(void *context, uint64_t offset, void *buffer, size_t length)
{
    struct disk *from = context;

    ck_assert_uint_le(offset, from->size);
    ck_assert_uint_le(length, from->size - offset);
    from->reads++;
    if (from->fails_at >= offset && from->fails_at - offset < length) {
        return -EIO;
    }
    memcpy(buffer, from->bytes + offset, length);
    return 0;
}

static void setup(void)
{
    disk = (struct disk){.bytes = calloc(1, DISK_SIZE), .size = DISK_SIZE, .fails_at = UINT64_MAX};
    ck_assert_ptr_nonnull(disk.bytes);
}

static void teardown(void)
{
    partitions_free(&table);
    free(disk.bytes);
}

static void read_table(void)
{
    partitions_free(&table);
    ck_assert_int_eq(partitions_read(read_disk, &disk, disk.size, &table), 0);
}

static void put32(uint64_t at, uint32_t value)
{
    value = htole32(value);
    memcpy(disk.bytes + at, &value, sizeof(value));
}

static void put64(uint64_t at, uint64_t value)
{
    value = htole64(value);
    memcpy(disk.bytes + at, &value, sizeof(value));
}

static void sign(uint64_t sector)
{
    disk.bytes[sector * 512 + 510] = 0x55;
    disk.bytes[sector * 512 + 511] = 0xaa;
}

static void put_entry(uint64_t sector, unsigned slot, uint8_t type, uint32_t start,
                      uint32_t sectors)
{
    uint64_t at = sector * 512 + 446 + slot * 16;

    sign(sector);
    disk.bytes[at + 4] = type;
    put32(at + 8, start);
    put32(at + 12, sectors);
}

#define LINUX_TYPE "\xaf\x3d\xc6\x0f\x83\x84\x72\x47\x8e\x79\x3d\x69\xd8\x47\x7d\xe4"

/* A copy of a GPT: header at sector `lba`, entries at `entries`; sealed by seal(). */
static void put_gpt(uint64_t lba, uint64_t entries, uint32_t count, unsigned sector_size)
{
    uint64_t at = lba * sector_size;

    memcpy(disk.bytes + at, "EFI PART", 8);
    put32(at + 8, 0x10000);
    put32(at + 12, 92);
    put64(at + 24, lba);
    put64(at + 72, entries);
    put32(at + 80, count);
    put32(at + 84, 128);
}

static void put_gpt_entry(uint64_t entries, unsigned slot, uint64_t first, uint64_t last,
                          unsigned sector_size)
{
    uint64_t at = entries * sector_size + slot * 128;

    memcpy(disk.bytes + at, LINUX_TYPE, 16);
    memset(disk.bytes + at + 16, (int)slot + 1, 16);
    put64(at + 32, first);
    put64(at + 40, last);
    memcpy(disk.bytes + at + 56, "n\0\x01\xf6\x3d\xd8\x00\xde\x1b\0\x00\xd8", 12);
}

static void seal(uint64_t lba, unsigned sector_size)
{
    uint64_t at = lba * sector_size, entries;
    uint32_t count;

    memcpy(&entries, disk.bytes + at + 72, 8);
    memcpy(&count, disk.bytes + at + 80, 4);
    put32(at + 88,
          (uint32_t)crc32(0, disk.bytes + le64toh(entries) * sector_size, le32toh(count) * 128));
    put32(at + 16, 0);
    put32(at + 16, (uint32_t)crc32(0, disk.bytes + at, 92));
}

static void put_both_copies(void)
{
    put_entry(0, 0, 0xee, 1, SECTORS - 1);
    put_gpt(1, 2, 128, 512);
    put_gpt_entry(2, 0, 2048, 4095, 512);
    put_gpt_entry(2, 4, 4096, 8191, 512);
    seal(1, 512);
    put_gpt(SECTORS - 1, SECTORS - 33, 128, 512);
    memcpy(disk.bytes + (SECTORS - 33) * 512, disk.bytes + 1024, 128 * 128);
    seal(SECTORS - 1, 512);
}

static void check_part(size_t index, unsigned number, uint64_t first, uint64_t sectors)
{
    ck_assert_uint_lt(index, table.count);
    ck_assert_uint_eq(table.list[index].number, number);
    ck_assert_uint_eq(table.list[index].start, first * 512);
    ck_assert_uint_eq(table.list[index].size, sectors * 512);
}

/* --- no table -------------------------------------------------------------------- */

START_TEST(a_disk_of_zeros_or_smaller_than_a_sector_has_no_table)
{
    read_table();
    ck_assert_int_eq(table.scheme, PARTITION_SCHEME_NONE);
    disk.size = 511;
    read_table();
    ck_assert_int_eq(table.scheme, PARTITION_SCHEME_NONE);
    disk.size = 0;
    read_table();
    ck_assert_uint_eq(table.count, 0);
}
END_TEST

START_TEST(a_boot_sector_of_a_file_system_is_no_table)
{
    static const struct {
        size_t at;
        const char *mark;
    } systems[] = {{3, "NTFS    "}, {3, "EXFAT   "}, {54, "FAT16   "}, {82, "FAT32   "}};

    for (size_t i = 0; i < sizeof(systems) / sizeof(systems[0]); i++) {
        memset(disk.bytes, 0, 512);
        memcpy(disk.bytes + systems[i].at, systems[i].mark, strlen(systems[i].mark));
        sign(0);
        read_table();
        ck_assert_int_eq(table.scheme, PARTITION_SCHEME_NONE);
    }
    disk.bytes[446] = 0x12; /* code where flags would be */
    read_table();
    ck_assert_int_eq(table.scheme, PARTITION_SCHEME_NONE);
}
END_TEST

START_TEST(an_error_of_the_disk_is_returned)
{
    put_both_copies();
    for (unsigned i = 0; i < 3; i++) {
        disk.fails_at = i * 512;
        ck_assert_int_eq(partitions_read(read_disk, &disk, disk.size, &table), -EIO);
        ck_assert_ptr_null(table.list);
    }
}
END_TEST

/* --- MBR ---------------------------------------------------------------------------- */

START_TEST(an_mbr_with_logical_partitions_is_numbered_as_the_kernel_does)
{
    put32(440, 0x1234abcd);
    put_entry(0, 0, 0x83, 2048, 2048);
    put_entry(0, 2, 0x05, 8192, 16384);
    disk.bytes[446] = 0x80;
    put_entry(8192, 0, 0x83, 63, 1000);
    put_entry(8192, 1, 0x05, 4096, 2000);
    put_entry(8192 + 4096, 0, 0x82, 64, 1001);
    read_table();
    ck_assert_int_eq(table.scheme, PARTITION_SCHEME_MBR);
    ck_assert_str_eq(table.id, "0x1234abcd");
    ck_assert_uint_eq(table.count, 4);
    ck_assert_uint_eq(table.remarks, 0);
    check_part(0, 1, 2048, 2048);
    check_part(1, 3, 8192, 16384);
    check_part(2, 5, 8192 + 63, 1000);
    check_part(3, 6, 8192 + 4096 + 64, 1001);
    ck_assert(table.list[0].bootable);
    ck_assert(table.list[1].extended);
    ck_assert_str_eq(table.list[3].uuid, "1234abcd-06");
    ck_assert_str_eq(partition_type_name(&table.list[3]), "Linux swap / Solaris");
    ck_assert_ptr_eq(partitions_find(&table, 5), &table.list[2]);
    ck_assert_ptr_null(partitions_find(&table, 4));
}
END_TEST

START_TEST(a_chain_that_loops_ends)
{
    put_entry(0, 0, 0x0f, 8192, 16384);
    put_entry(8192, 0, 0x83, 63, 1000);
    put_entry(8192, 1, 0x05, 4096, 2000);
    put_entry(8192 + 4096, 0, 0x83, 63, 1000);
    put_entry(8192 + 4096, 1, 0x05, 0, 2000); /* the first again */
    read_table();
    ck_assert_uint_eq(table.count, 3);
    ck_assert_uint_eq(table.remarks, PARTITION_CHAIN_DAMAGED);
}
END_TEST

START_TEST(a_chain_that_leads_out_of_the_extended_partition_or_the_disk_ends)
{
    put_entry(0, 0, 0x0f, 8192, 16384);
    put_entry(8192, 0, 0x83, 63, 1000);
    put_entry(8192, 1, 0x05, 16384, 2000);
    read_table();
    ck_assert_uint_eq(table.count, 2);
    ck_assert_uint_eq(table.remarks, PARTITION_CHAIN_DAMAGED);
    put_entry(0, 0, 0x0f, UINT32_MAX, UINT32_MAX);
    read_table();
    ck_assert_uint_eq(table.count, 0);
    ck_assert_uint_eq(table.remarks, PARTITION_CHAIN_DAMAGED | PARTITION_PAST_END);
}
END_TEST

START_TEST(a_chain_without_end_is_bounded)
{
    put_entry(0, 0, 0x0f, 1, SECTORS - 1);
    for (uint32_t i = 1; i < 3000; i++) {
        put_entry(i, 0, 0x83, 1, 1);
        put_entry(i, 1, 0x05, i, 1); /* the next sector */
    }
    read_table();
    ck_assert_uint_eq(table.count, PARTITIONS_MAX);
    ck_assert_uint_ne(table.remarks & PARTITION_TOO_MANY, 0);
    ck_assert_uint_le(disk.reads, PARTITIONS_MAX + 1);
}
END_TEST

START_TEST(what_reaches_past_the_end_is_cut_off_or_left_out)
{
    put_entry(0, 0, 0x83, SECTORS - 10, 100);
    put_entry(0, 1, 0x83, SECTORS, 100);
    put_entry(0, 2, 0x83, UINT32_MAX, UINT32_MAX);
    put_entry(0, 3, 0x83, 100, 0);
    read_table();
    ck_assert_uint_eq(table.count, 1);
    check_part(0, 1, SECTORS - 10, 10);
    ck_assert_uint_eq(table.remarks, PARTITION_PAST_END);
}
END_TEST

/* --- GPT ---------------------------------------------------------------------------- */

START_TEST(a_gpt_is_read_with_names_and_guids)
{
    put_both_copies();
    read_table();
    ck_assert_int_eq(table.scheme, PARTITION_SCHEME_GPT);
    ck_assert_uint_eq(table.count, 2);
    ck_assert_uint_eq(table.remarks, 0);
    check_part(0, 1, 2048, 2048);
    check_part(1, 5, 4096, 4096);
    ck_assert_str_eq(table.list[0].type, "0FC63DAF-8483-4772-8E79-3D69D8477DE4");
    ck_assert_str_eq(table.list[1].uuid, "05050505-0505-0505-0505-050505050505");
    /* A letter, a private one, a pair, a control, half of a pair. */
    ck_assert_str_eq(table.list[0].name, "n\xef\x98\x81\xf0\x9f\x98\x80??");
}
END_TEST

START_TEST(the_backup_is_taken_where_the_first_is_damaged)
{
    put_both_copies();
    disk.bytes[2 * 512 + 5]++; /* an entry: its checksum fails */
    read_table();
    ck_assert_uint_eq(table.count, 2);
    ck_assert_uint_eq(table.remarks, PARTITION_BACKUP_USED);
    disk.bytes[(SECTORS - 1) * 512 + 50]++;
    read_table();
    ck_assert_int_eq(table.scheme, PARTITION_SCHEME_MBR);
    ck_assert_uint_ne(table.remarks & PARTITION_GPT_DAMAGED, 0);
}
END_TEST

START_TEST(without_a_protective_entry_an_mbr_counts)
{
    put_both_copies();
    put_entry(0, 0, 0x83, 100, 200);
    read_table();
    ck_assert_int_eq(table.scheme, PARTITION_SCHEME_MBR);
    check_part(0, 1, 100, 200);
    put_entry(0, 1, 0xee, 1, 50); /* hybrid */
    read_table();
    ck_assert_int_eq(table.scheme, PARTITION_SCHEME_GPT);
    ck_assert_uint_eq(table.count, 2);
}
END_TEST

START_TEST(sectors_of_4096_bytes_are_found)
{
    put_entry(0, 0, 0xee, 1, UINT32_MAX);
    put_gpt(1, 2, 128, 4096);
    put_gpt_entry(2, 0, 256, 511, 4096);
    seal(1, 4096);
    read_table();
    ck_assert_uint_eq(table.sector_size, 4096);
    check_part(0, 1, 256 * 8, 256 * 8);
}
END_TEST

START_TEST(entries_that_cannot_be_are_cut_off_or_left_out)
{
    put_entry(0, 0, 0xee, 1, SECTORS - 1);
    put_gpt(1, 2, 128, 512);
    put_gpt_entry(2, 0, 2048, 4096, 512);
    put_gpt_entry(2, 1, 4096, 2048, 512);              /* ends before it begins */
    put_gpt_entry(2, 2, SECTORS - 8, UINT64_MAX, 512); /* ends where nothing can */
    put_gpt_entry(2, 3, UINT64_MAX, UINT64_MAX, 512);
    put_gpt_entry(2, 4, 0, UINT64_MAX, 512);
    seal(1, 512);
    read_table();
    ck_assert_uint_eq(table.count, 3);
    check_part(0, 1, 2048, 2049);
    check_part(1, 3, SECTORS - 8, 8);
    check_part(2, 5, 0, SECTORS);
    ck_assert_uint_eq(table.remarks, PARTITION_PAST_END);
}
END_TEST

START_TEST(a_million_entries_are_not_believed)
{
    static const uint32_t counts[] = {1000000, UINT32_MAX, 0};

    put_entry(0, 0, 0xee, 1, SECTORS - 1);
    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        put_gpt(1, 2, counts[i], 512);
        put32(512 + 88, 0);
        put32(512 + 16, 0);
        put32(512 + 16, (uint32_t)crc32(0, disk.bytes + 512, 92));
        read_table();
        ck_assert_uint_ne(table.remarks & PARTITION_GPT_DAMAGED, 0);
    }
    /* As many as are taken, all in use: the list is bounded. */
    put_gpt(1, 2, 65536, 512);
    for (unsigned i = 0; i < 65536; i++) {
        put_gpt_entry(2, i, 2048, 4095, 512);
    }
    seal(1, 512);
    read_table();
    ck_assert_uint_eq(table.count, PARTITIONS_MAX);
    ck_assert_uint_ne(table.remarks & PARTITION_TOO_MANY, 0);
}
END_TEST

START_TEST(any_damage_of_any_byte_is_survived)
{
    srandom(1);
    for (unsigned round = 0; round < 20000; round++) {
        memset(disk.bytes, 0, 40 * 512);
        if (round % 2 == 0) {
            put_both_copies();
        } else {
            put_entry(0, 1, 0x05, 1, 4096);
            put_entry(1, 0, 0x83, 5, 6);
            put_entry(1, 1, 0x05, 7, 8);
        }
        for (unsigned i = 0; i < 3; i++) {
            disk.bytes[random() % (4 * 512)] = (uint8_t)random();
        }
        read_table();
        for (size_t i = 0; i < table.count; i++) {
            ck_assert_uint_lt(table.list[i].start, disk.size);
            ck_assert_uint_gt(table.list[i].size, 0);
            ck_assert_uint_le(table.list[i].size, disk.size - table.list[i].start);
        }
    }
}
END_TEST

START_TEST(what_may_hold_a_table_is_known)
{
    put_entry(0, 0, 0x83, 20000, 100);
    put_entry(0, 1, 0x05, 30000, 100);
    read_table();
    ck_assert(partitions_touch(&table, DISK_SIZE, 0, 1));
    ck_assert(partitions_touch(&table, DISK_SIZE, DISK_SIZE - 1, 1));
    ck_assert(partitions_touch(&table, DISK_SIZE, 30000 * 512, 512));
    ck_assert(partitions_touch(&table, DISK_SIZE, 29999 * 512, 1024));
    ck_assert(!partitions_touch(&table, DISK_SIZE, 20000 * 512, 512));
    ck_assert(partitions_touch(&table, DISK_SIZE, 20000 * 512, UINT64_MAX));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("partitions");
    TCase *tests = tcase_create("all");

    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, a_disk_of_zeros_or_smaller_than_a_sector_has_no_table);
    tcase_add_test(tests, a_boot_sector_of_a_file_system_is_no_table);
    tcase_add_test(tests, an_error_of_the_disk_is_returned);
    tcase_add_test(tests, an_mbr_with_logical_partitions_is_numbered_as_the_kernel_does);
    tcase_add_test(tests, a_chain_that_loops_ends);
    tcase_add_test(tests, a_chain_that_leads_out_of_the_extended_partition_or_the_disk_ends);
    tcase_add_test(tests, a_chain_without_end_is_bounded);
    tcase_add_test(tests, what_reaches_past_the_end_is_cut_off_or_left_out);
    tcase_add_test(tests, a_gpt_is_read_with_names_and_guids);
    tcase_add_test(tests, the_backup_is_taken_where_the_first_is_damaged);
    tcase_add_test(tests, without_a_protective_entry_an_mbr_counts);
    tcase_add_test(tests, sectors_of_4096_bytes_are_found);
    tcase_add_test(tests, entries_that_cannot_be_are_cut_off_or_left_out);
    tcase_add_test(tests, a_million_entries_are_not_believed);
    tcase_add_test(tests, any_damage_of_any_byte_is_survived);
    tcase_add_test(tests, what_may_hold_a_table_is_known);
    suite_add_tcase(suite, tests);
    return suite_main(suite);
}
