/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "guest/label.h"
#include "suite.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SIZE (1024 * 1024)

static uint8_t disk[SIZE];
static size_t bytes_read;

static int read_disk(void *context, uint64_t offset, void *buffer, size_t length)
{
    const uint64_t *size = context;

    ck_assert_uint_le(offset, *size);
    ck_assert_uint_le(length, *size - offset);
    memcpy(buffer, disk + offset, length);
    bytes_read += length;
    return 0;
}

static int read_of(uint64_t size, struct guest_label *found)
{
    return guest_label_read(read_disk, &size, size, found);
}

static void put_le(size_t at, uint64_t value, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        disk[at + i] = (uint8_t)(value >> (8 * i));
    }
}

static void make_fat32(void)
{
    memset(disk, 0, SIZE);
    put_le(11, 512, 2);
    put_le(13, 8, 1);
    put_le(14, 32, 2);
    put_le(16, 2, 1);
    put_le(36, 100, 4);
    put_le(44, 3, 4);
    put_le(67, 0x1234abcd, 4);
    memcpy(disk + 71, "OF THE BOOTFAT32   ", 19);
    put_le(510, 0xaa55, 2);
    memcpy(disk + (232 + 8) * 512, "AFILE   TXT ", 12);
    memcpy(disk + (232 + 8) * 512 + 32, "IN THE ROOT\x08", 12);
}

static void make_ntfs(void)
{
    size_t record = 4 * 4096 + 3 * 1024;

    memset(disk, 0, SIZE);
    memcpy(disk + 3, "NTFS    ", 8);
    put_le(11, 512, 2);
    put_le(13, 8, 1);
    put_le(48, 4, 8);
    put_le(64, 0xf6, 1); /* 1 << 10 */
    put_le(72, 0x0123456789abcdef, 8);
    memcpy(disk + record, "FILE", 4);
    put_le(record + 20, 56, 2);
    put_le(record + 56, 0x10, 4);
    put_le(record + 60, 32, 4);
    put_le(record + 88, 0x60, 4);
    put_le(record + 92, 40, 4);
    put_le(record + 104, 6, 4);
    put_le(record + 108, 24, 2);
    memcpy(disk + record + 112, "a\0b\0\xac\x20", 6);
}

static void make_exfat(void)
{
    memset(disk, 0, SIZE);
    memcpy(disk + 3, "EXFAT   ", 8);
    put_le(88, 64, 4);
    put_le(96, 5, 4);
    put_le(100, 0xcafe0001, 4);
    put_le(108, 9, 1);
    put_le(109, 3, 1);
    put_le(64 * 512 + 3 * 4096, 0x81, 1);
    put_le(64 * 512 + 3 * 4096 + 32, 0x0283, 2);
    memcpy(disk + 64 * 512 + 3 * 4096 + 34, "x\0y\0z\0", 6);
}

static void make_luks(void)
{
    memset(disk, 0, SIZE);
    memcpy(disk, "LUKS\xba\xbe\0\2", 8);
    strcpy((char *)disk + 24, "secret");
    strcpy((char *)disk + 168, "11111111-2222-3333-4444-555555555555");
}

static void make_f2fs(void)
{
    memset(disk, 0, SIZE);
    put_le(1024, 0xf2f52010, 4);
    memset(disk + 1024 + 108, 0x5a, 16);
    memcpy(disk + 1024 + 124, "f\0\n\0", 4);
}

static const struct {
    void (*make)(void);
    const char *label, *uuid;
} kinds[] = {
    {make_fat32, "IN THE ROOT", "1234-ABCD"},
    {make_ntfs, "ab\xe2\x82\xac", "0123456789ABCDEF"},
    {make_exfat, "xy", "CAFE-0001"},
    {make_luks, "secret", "11111111-2222-3333-4444-555555555555"},
    {make_f2fs, "f?", "5a5a5a5a-5a5a-5a5a-5a5a-5a5a5a5a5a5a"},
};
#define KINDS (sizeof(kinds) / sizeof(kinds[0]))

START_TEST(each_kind_has_its_label_and_uuid)
{
    struct guest_label found;

    kinds[_i].make();
    ck_assert_int_eq(read_of(SIZE, &found), 0);
    ck_assert_str_eq(found.label, kinds[_i].label);
    ck_assert_str_eq(found.uuid, kinds[_i].uuid);
}
END_TEST

START_TEST(two_kinds_at_once_are_none)
{
    struct guest_label found;

    make_f2fs();
    memcpy(disk, "LUKS\xba\xbe\0\2", 8);
    strcpy((char *)disk + 24, "secret");
    ck_assert_int_eq(read_of(SIZE, &found), 0);
    ck_assert_str_eq(found.label, "");
    ck_assert_str_eq(found.uuid, "");
}
END_TEST

/* read_disk() looks whether it stays within; the sanitizers, at the rest. */
START_TEST(whatever_the_bytes_little_is_read_and_the_texts_end)
{
    static const uint64_t sizes[] = {SIZE, 1, 512, 1023, 4096, 65536 + 1000, 40960};
    struct guest_label found;

    srandom((unsigned)_i);
    for (unsigned round = 0; round < 3000; round++) {
        kinds[_i].make();
        for (unsigned flips = (unsigned)random() % 6; flips > 0; flips--) {
            size_t at = (size_t)random() % 256;

            disk[random() % 2 != 0 ? at : (size_t)random() % 20480] = (uint8_t)random();
        }
        bytes_read = 0;
        ck_assert_int_eq(read_of(sizes[round % (sizeof(sizes) / sizeof(sizes[0]))], &found), 0);
        ck_assert_uint_lt(bytes_read, 256 * 1024);
        ck_assert_uint_lt(strnlen(found.label, sizeof(found.label)), sizeof(found.label));
        ck_assert_uint_lt(strnlen(found.uuid, sizeof(found.uuid)), sizeof(found.uuid));
    }
}
END_TEST

static int read_nothing(void *context, uint64_t offset, void *buffer, size_t length)
{
    (void)context;
    (void)offset;
    (void)buffer;
    (void)length;
    return -EIO;
}

START_TEST(what_cannot_be_read_is_an_error)
{
    struct guest_label found;

    ck_assert_int_eq(guest_label_read(read_nothing, NULL, SIZE, &found), -EIO);
    ck_assert_str_eq(found.label, "");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("label");
    TCase *tests = tcase_create("all");

    tcase_add_loop_test(tests, each_kind_has_its_label_and_uuid, 0, KINDS);
    tcase_add_test(tests, two_kinds_at_once_are_none);
    tcase_add_loop_test(tests, whatever_the_bytes_little_is_read_and_the_texts_end, 0, KINDS);
    tcase_add_test(tests, what_cannot_be_read_is_an_error);
    suite_add_tcase(suite, tests);
    return suite_main(suite);
}
