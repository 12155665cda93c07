/* SPDX-License-Identifier: MIT */
/* Amending an image in memory: what comes of it. */
#include "config.h"

#include "amend_case.h"

#include "memory_store.h"
#include "suite.h"

#include "meta/format.h"
#include "meta/header.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

START_TEST(snapshots_get_the_extra_data_of_version_3)
{
    const struct amend_change change = {.version = 3};
    struct store *before = amend_case_make(2, false),
                 *file = amend_case_apply(before, &change, NULL, 0);
    uint64_t table = disk_u64(file, HEADER_SNAPSHOTS_OFFSET);

    ck_assert_uint_ne(table, disk_u64(before, HEADER_SNAPSHOTS_OFFSET));
    ck_assert_uint_eq(disk_u32(file, table + SNAPSHOT_EXTRA_DATA_SIZE), 16);
    ck_assert_uint_eq(disk_u64(file, table + SNAPSHOT_EXTRA_DISK_SIZE), AMEND_DISK);
    ck_assert_uint_eq(disk_refcount(file, disk_u64(before, HEADER_SNAPSHOTS_OFFSET)), 0);
    store_close(before);
    store_close(file);
}
END_TEST

START_TEST(version_2_has_no_zero_cluster_left_in_any_table)
{
    const struct amend_change change = {.version = 2};
    struct store *before = amend_case_make(3, _i == 1),
                 *file = amend_case_apply(before, &change, NULL, 0);

    ck_assert_uint_eq(disk_u32(file, HEADER_VERSION), 2);
    for (uint64_t i = 0; i < AMEND_CLUSTERS; i++) {
        ck_assert_uint_eq(disk_l2_entry(file, i * AMEND_CLUSTER) & L2_ENTRY_ZERO, 0);
    }
    /* Reading any of them in version 2 would be an error. */
    expect_sound(file, false);
    store_close(before);
    store_close(file);
}
END_TEST

static void expect_refused(struct store *file, const struct amend_change *change, int code)
{
    struct memory_log *log = memory_log_create();

    store_close(amend_case_apply(file, change, log, -code));
    for (size_t i = 0; i < memory_log_count(log); i++) {
        ck_assert_int_eq(memory_log_at(log, i)->kind, MEMORY_LOG_SYNC);
    }
    memory_log_destroy(log);
    store_close(file);
}

START_TEST(what_does_not_fit_is_refused_before_anything_is_written)
{
    const struct amend_change narrow = {.refcount_bits = 1};
    const struct amend_change old_width = {.version = 2, .refcount_bits = 8};
    const struct amend_change odd = {.refcount_bits = 12};
    char name[BACKING_FILE_NAME_MAX + 2];
    const struct amend_change long_name = {.backing_file = name, .backing_format = "raw"};

    memset(name, 'x', sizeof(name) - 1);
    name[sizeof(name) - 1] = '\0';
    expect_refused(amend_case_make(3, false), &narrow, ERANGE);
    expect_refused(amend_case_make(3, false), &old_width, EINVAL);
    expect_refused(amend_case_make(3, false), &odd, EINVAL);
    expect_refused(amend_case_make(3, true), &long_name, ENAMETOOLONG);
}
END_TEST

START_TEST(an_unknown_extension_stays_byte_for_byte)
{
    const struct amend_change change = {.version = _i == 0 ? 2 : 0,
                                        .lazy_refcounts = {true, _i == 1}};
    struct store *before = amend_case_make(3, true),
                 *file = amend_case_apply(before, &change, NULL, 0);
    uint8_t extension[AMEND_EXTENSION_SIZE + EXTENSION_DATA];

    store_be32(extension + EXTENSION_TYPE, AMEND_EXTENSION);
    store_be32(extension + EXTENSION_LENGTH, AMEND_EXTENSION_SIZE);
    builder_pattern(extension + EXTENSION_DATA, AMEND_EXTENSION_SIZE, 60);
    ck_assert_ptr_nonnull(
        memmem(memory_store_data(file), AMEND_CLUSTER, extension, sizeof(extension)));
    store_close(before);
    store_close(file);
}
END_TEST

START_TEST(what_is_so_already_writes_nothing)
{
    const struct amend_change change = {
        .version = 3,
        .lazy_refcounts = {.set = true},
        .refcount_bits = 16,
    };

    expect_refused(amend_case_make(3, true), &change, 0);
}
END_TEST

START_TEST(a_damaged_image_is_not_taken_down)
{
    const struct amend_change change = {.version = 2};
    struct store *file = amend_case_make(3, false);

    disk_set_refcount(file, disk_u64(file, HEADER_L1_TABLE_OFFSET), 0);
    expect_refused(file, &change, EUCLEAN);
}
END_TEST

/* The next entry of the snapshot table ("Snapshot table entry"). */
static uint64_t next_snapshot(struct store *file, uint64_t entry)
{
    uint32_t names = disk_u32(file, entry + SNAPSHOT_ID_LENGTH); /* 16 bits each */
    uint64_t length = SNAPSHOT_FIXED_LENGTH + disk_u32(file, entry + SNAPSHOT_EXTRA_DATA_SIZE) +
                      (names >> 16) + (names & UINT16_MAX);

    return entry + (length + 7) / 8 * 8;
}

/* Of the second snapshot and the third, whose L2 table is the same already. */
START_TEST(an_l1_table_that_two_snapshots_have_is_damage_though_its_count_be_too_high)
{
    const struct amend_change change = {.version = 2};
    struct store *file = amend_case_make(3, false);
    uint64_t second = next_snapshot(file, disk_u64(file, HEADER_SNAPSHOTS_OFFSET));
    uint64_t third = next_snapshot(file, second);
    uint64_t l1 = disk_u64(file, second + SNAPSHOT_L1_TABLE_OFFSET);

    disk_set_u64(file, third + SNAPSHOT_L1_TABLE_OFFSET, l1);
    disk_set_refcount(file, l1, 3);
    expect_sound(file, true);
    expect_refused(file, &change, EUCLEAN);
}
END_TEST

/* Whether a check finds nothing but leaks. */
static bool only_leaks(struct store *file)
{
    struct check_result found = amend_case_check(file, false);

    return found.errors == 0 && found.leaks == 1;
}

/* Each cluster in turn, tables and data, in use and free: a crash may have left it so. */
START_TEST(a_count_that_is_higher_than_its_references_costs_nobody_anything)
{
    const struct amend_change change = {.version = 2};
    struct store *before = amend_case_make_of(3, _i % 2 == 1, _i >= 2), *file;
    struct amend_shown *shown = calloc(1, sizeof(*shown));
    unsigned amended = 0;

    ck_assert_ptr_nonnull(shown);
    amend_case_show(before, shown);
    for (uint64_t at = 0; at < memory_store_size(before); at += AMEND_CLUSTER) {
        unsigned count = disk_refcount(before, at);

        disk_set_refcount(before, at, count + 2);
        if (only_leaks(before)) { /* of the active state's own a COPIED bit would be wrong */
            file = amend_case_apply(before, &change, NULL, 0);
            expect_sound(file, true);
            amend_case_expect(file, shown);
            store_close(file);
            amended++;
        }
        disk_set_refcount(before, at, count);
    }
    ck_assert_uint_gt(amended, AMEND_UNUSED + 2 * AMEND_SNAPSHOTS);
    free(shown);
    store_close(before);
}
END_TEST

/* Whichever call of the store fails, the image is sound, and the next run completes. */
START_TEST(a_failing_host_leaves_a_sound_image)
{
    const struct amend_change change = {.version = 2};
    const struct amend_options options = {0};
    struct store *before = amend_case_make(3, true);
    struct amend_shown *shown = calloc(1, sizeof(*shown));
    unsigned n;
    int result = -EIO;

    ck_assert_ptr_nonnull(shown);
    amend_case_show(before, shown);
    for (n = 1; result < 0; n++) {
        struct log_lines lines;
        struct image *image;
        struct error error = {0};
        struct store *left;

        log_lines_init(&lines);
        image = amend_case_open(before, &lines);
        memory_store_fail(image->file, (enum memory_store_call)_i, n, EIO);
        result = amend_apply(image, &change, &options, &error);
        memory_store_fail(image->file, (enum memory_store_call)_i, 0, 0);
        ck_assert(result == 0 || error.text[0] != '\0');
        left = memory_store_from(memory_store_data(image->file), memory_store_size(image->file));
        image_close(image);
        log_release(&lines.log);
        amend_case_expect(left, shown);
        amend_case_mend(left);
        expect_sound(left, true);
        amend_case_expect(left, shown);
        store_close(left);
    }
    ck_assert_uint_gt(n, 2);
    free(shown);
    store_close(before);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("amend");
    TCase *tcase = tcase_create("amend");

    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, snapshots_get_the_extra_data_of_version_3);
    tcase_add_loop_test(tcase, version_2_has_no_zero_cluster_left_in_any_table, 0, 2);
    tcase_add_test(tcase, what_does_not_fit_is_refused_before_anything_is_written);
    tcase_add_loop_test(tcase, an_unknown_extension_stays_byte_for_byte, 0, 2);
    tcase_add_test(tcase, what_is_so_already_writes_nothing);
    tcase_add_test(tcase, a_damaged_image_is_not_taken_down);
    tcase_add_test(tcase,
                   an_l1_table_that_two_snapshots_have_is_damage_though_its_count_be_too_high);
    tcase_add_loop_test(tcase, a_count_that_is_higher_than_its_references_costs_nobody_anything, 0,
                        4);
    tcase_add_loop_test(tcase, a_failing_host_leaves_a_sound_image, MEMORY_STORE_WRITE,
                        MEMORY_STORE_SYNC + 1);
    suite_add_tcase(suite, tcase);
    return suite_main(suite);
}
