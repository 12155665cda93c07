/* SPDX-License-Identifier: MIT */
/* One image for each finding of the audit that its header, names and lists give rise to. */
#include "config.h"

#include "audit_case.h"
#include "builder.h"
#include "meta/format.h"
#include "scratch.h"
#include "suite.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* --- Nothing ------------------------------------------------------------------------- */

START_TEST(an_image_with_data_has_no_finding)
{
    struct made made = make_plain_image();
    uint8_t bytes[1000];
    struct audit *audit;

    builder_pattern(bytes, sizeof(bytes), 1);
    builder_data(made.builder, 0, bytes, sizeof(bytes));
    builder_data(made.builder, 5 * CLUSTER, bytes, sizeof(bytes));
    audit = audit_finished(&made);
    ck_assert_msg(audit->count == 0, "%s", audit->count > 0 ? audit->findings[0].text : "");
    ck_assert(audit->counted);
    ck_assert_uint_eq(audit->clusters.allocated_clusters, 2);
    audit_free(audit);
}
END_TEST

/* --- The header ---------------------------------------------------------------------- */

START_TEST(the_dirty_bit_is_a_warning)
{
    struct builder_options options = builder_defaults();

    options.incompatible_features = INCOMPATIBLE_DIRTY;
    make_file(&options);
    expect_only(AUDIT_WARNING, "dirty", HEADER_INCOMPATIBLE_FEATURES, "marked dirty");
}
END_TEST

START_TEST(the_corrupt_bit_is_a_danger)
{
    struct builder_options options = builder_defaults();

    options.incompatible_features = INCOMPATIBLE_CORRUPT;
    make_file(&options);
    expect_only(AUDIT_DANGER, "corrupt", HEADER_INCOMPATIBLE_FEATURES, "marked corrupt");
}
END_TEST

START_TEST(version_2_is_a_note)
{
    struct builder_options options = builder_defaults();

    options.version = 2;
    make_file(&options);
    expect_only(AUDIT_NOTE, "version-2", HEADER_VERSION, "version 2");
}
END_TEST

START_TEST(unknown_feature_bits_are_graded_by_their_kind)
{
    struct builder_options options = builder_defaults();
    uint8_t table[FEATURE_NAME_LENGTH] = {FEATURE_TYPE_AUTOCLEAR, 50, 'm', 'a', 'g', 'i', 'c'};
    struct audit *audit;
    struct made made;

    options.incompatible_features = UINT64_C(1) << 40;
    options.compatible_features = UINT64_C(1) << 41;
    options.autoclear_features = UINT64_C(1) << 50;
    made = make(&options);
    builder_extension(made.builder, EXTENSION_FEATURE_NAME_TABLE, table, sizeof(table));
    audit = audit_finished(&made);
    expect(audit, AUDIT_DANGER, "unknown-incompatible-feature", HEADER_INCOMPATIBLE_FEATURES,
           "bit 40");
    expect(audit, AUDIT_NOTE, "unknown-compatible-feature", HEADER_COMPATIBLE_FEATURES, "bit 41");
    expect(audit, AUDIT_WARNING, "unknown-autoclear-feature", HEADER_AUTOCLEAR_FEATURES,
           "bit 50 ('magic')");
    expect(audit, AUDIT_DANGER, "not-counted", NOWHERE, "not known");
    ck_assert(!audit->counted);
    ck_assert_int_eq(audit->findings[0].grade, AUDIT_DANGER);
    audit_free(audit);
}
END_TEST

START_TEST(an_unknown_extension_is_a_note)
{
    struct made made = make_plain_image();

    builder_extension(made.builder, 0x12345678, "what", 4);
    finish(&made);
    write_file(&made, 0);
    expect_only(AUDIT_NOTE, "unknown-extension", HEADER_FULL_LENGTH + 8, "0x12345678 (4 bytes)");
}
END_TEST

START_TEST(of_thousands_of_extensions_the_first_are_listed)
{
    struct made made = make_plain_image();
    struct audit *audit;

    for (int i = 0; i < 3000; i++) {
        builder_extension(made.builder, 0x12345678, "", 0);
    }
    audit = audit_finished(&made);
    ck_assert_uint_eq(audit->count, AUDIT_LIST_MAX + 1);
    ck_assert_ptr_nonnull(strstr(audit->findings[AUDIT_LIST_MAX].text, "3000"));
    audit_free(audit);
}
END_TEST

START_TEST(encryption_is_a_warning)
{
    struct made made = make_plain_image();

    finish(&made);
    store_be32(made.bytes + HEADER_CRYPT_METHOD, CRYPT_AES);
    write_file(&made, 0);
    expect_only(AUDIT_WARNING, "encrypted", HEADER_CRYPT_METHOD, "AES");
}
END_TEST

START_TEST(a_damaged_header_is_a_danger_and_nothing_is_counted)
{
    struct made made = make_plain_image();
    struct audit *audit;

    finish(&made);
    store_be32(made.bytes + HEADER_REFCOUNT_ORDER, 33);
    audit = audit_made(&made);
    expect(audit, AUDIT_DANGER, "header", NOWHERE, "refcount_order is 33");
    expect(audit, AUDIT_DANGER, "not-counted", NOWHERE, "its header is damaged");
    audit_free(audit);
}
END_TEST

/* --- Names --------------------------------------------------------------------------- */

static void with_backing(const char *name, const char *format)
{
    struct builder_options options = builder_defaults();

    options.backing_file = name;
    options.backing_format = format;
    make_file(&options);
}

START_TEST(a_missing_backing_file_is_a_danger)
{
    with_backing("gone.raw", "raw");
    expect_only(AUDIT_DANGER, "backing-file-missing", NOWHERE, "gone.raw: no such backing file");
}
END_TEST

START_TEST(an_absolute_path_is_a_warning)
{
    char *here = realpath(".", NULL), path[4096];

    snprintf(path, sizeof(path), "%.900s/base.raw", here);
    free(here);
    scratch_file("base.raw", "abc", 3);
    with_backing(path, "raw");
    expect_only(AUDIT_WARNING, "backing-file-absolute", NOWHERE, path);
}
END_TEST

START_TEST(a_backing_file_in_another_directory_is_a_warning)
{
    ck_assert_int_eq(mkdir("below", 0755), 0);
    scratch_file("base.raw", "abc", 3);
    with_backing("../base.raw", "raw");
    ck_assert_int_eq(rename("a.qcow2", "below/a.qcow2"), 0);
    ck_assert_int_eq(chdir("below"), 0);
    expect_only(AUDIT_WARNING, "backing-file-outside", NOWHERE, "'../base.raw'");
    ck_assert_int_eq(chdir(".."), 0);
}
END_TEST

START_TEST(a_backing_file_in_a_directory_below_is_no_finding)
{
    struct audit *audit;

    ck_assert_int_eq(mkdir("lower", 0755), 0);
    scratch_file("lower/base.raw", "abc", 3);
    with_backing("lower/base.raw", "raw");
    audit = audit_file("a.qcow2");
    ck_assert_uint_eq(audit->count, 0);
    audit_free(audit);
}
END_TEST

START_TEST(a_symbolic_link_is_a_note_and_where_it_leads_counts)
{
    struct audit *audit;

    with_backing("link.raw", "raw");
    ck_assert_int_eq(symlink("/dev/null", "link.raw"), 0);
    audit = audit_file("a.qcow2");
    expect(audit, AUDIT_NOTE, "backing-file-symlink", NOWHERE, "'/dev/null'");
    expect(audit, AUDIT_WARNING, "backing-file-outside", NOWHERE, "/dev");
    audit_free(audit);
}
END_TEST

START_TEST(a_protocol_is_a_warning)
{
    struct audit *audit;

    with_backing("https://host/disk", "raw");
    audit = audit_file("a.qcow2");
    expect(audit, AUDIT_WARNING, "backing-file-protocol", NOWHERE, "'https:'");
    expect(audit, AUDIT_DANGER, "backing-file-unusable", NOWHERE, "is not a file");
    ck_assert_uint_eq(audit->count, 2);
    audit_free(audit);
    with_backing("nbd://host/export", "raw");
    audit = audit_file("a.qcow2");
    expect(audit, AUDIT_WARNING, "backing-file-protocol", NOWHERE, "'nbd:'");
    expect(audit, AUDIT_DANGER, "backing-file-unusable", NOWHERE, "follow=all");
    ck_assert_uint_eq(audit->count, 2);
    audit_free(audit);
}
END_TEST

START_TEST(a_format_that_is_not_recorded_is_a_warning)
{
    scratch_file("base.raw", "abc", 3);
    with_backing("base.raw", NULL);
    expect_only(AUDIT_WARNING, "backing-format-unrecorded", NOWHERE, "guessed");
}
END_TEST

START_TEST(a_missing_data_file_is_a_danger)
{
    struct builder_options options = builder_defaults();

    options.external_data_file = true;
    options.data_file = "gone.raw";
    make_file(&options);
    expect_only(AUDIT_DANGER, "data-file-missing", NOWHERE, "gone.raw");
}
END_TEST

START_TEST(the_images_behind_are_looked_at_too)
{
    struct audit *audit;
    const struct audit_finding *finding;

    with_backing("gone.raw", "raw");
    ck_assert_int_eq(rename("a.qcow2", "b.qcow2"), 0);
    with_backing("b.qcow2", "qcow2");
    audit = audit_file("a.qcow2");
    finding = find(audit, "backing-file-missing");
    ck_assert_ptr_nonnull(finding);
    ck_assert_str_eq(finding->file, "b.qcow2");
    audit_free(audit);
}
END_TEST

/* --- Snapshots and bitmaps ----------------------------------------------------------- */

START_TEST(snapshots_and_the_state_of_a_machine_are_told)
{
    struct made made = make_plain_image();
    const struct builder_snapshot snapshot = {
        .id = "7",
        .name = "be\033[31mfore",
        .l1 = builder_add_l1(made.builder, 2),
        .disk_size = 1 << 20,
        .vm_state_size = 4096,
        .date_sec = 1700000000,
        .icount = UINT64_MAX,
        .extra_data_size = 24,
    };
    struct audit *audit;

    builder_snapshot(made.builder, &snapshot);
    audit = audit_finished(&made);
    expect(audit, AUDIT_NOTE, "snapshot", find(audit, "snapshot")->offset,
           "'be?[31mfore' (id 7) keeps the state of a disk of 1 MiB of 2023-11-14 22:13:20 UTC");
    expect(audit, AUDIT_WARNING, "vm-state", find(audit, "snapshot")->offset, "4 KiB");
    expect(audit, AUDIT_NOTE, "snapshot-ids", find(audit, "snapshot-ids")->offset,
           "6 with lower ids");
    ck_assert_uint_eq(audit->count, 3);
    audit_free(audit);
}
END_TEST

START_TEST(a_snapshot_without_a_possible_table_is_a_danger)
{
    struct made made = make_plain_image();
    const struct builder_snapshot snapshot = {
        .id = "1",
        .name = "one",
        .l1 = builder_add_l1(made.builder, 1),
        .disk_size = UINT64_C(1) << 40,
        .extra_data_size = 16,
    };
    struct audit *audit;

    builder_snapshot(made.builder, &snapshot);
    audit = audit_finished(&made);
    ck_assert_ptr_nonnull(find(audit, "snapshot-damaged"));
    ck_assert_int_eq(find(audit, "snapshot-damaged")->grade, AUDIT_DANGER);
    audit_free(audit);
}
END_TEST

START_TEST(a_bitmap_in_use_is_a_warning)
{
    struct made made = make_plain_image();
    const struct builder_bitmap bitmap = {
        .name = "daily", .flags = BITMAP_FLAG_IN_USE, .granularity_bits = 16};
    struct audit *audit;

    builder_bitmap(made.builder, &bitmap);
    audit = audit_finished(&made);
    expect(audit, AUDIT_WARNING, "bitmap-in-use", find(audit, "bitmap-in-use")->offset, "'daily'");
    ck_assert_ptr_nonnull(find(audit, "autoclear-feature"));
    audit_free(audit);
}
END_TEST

START_TEST(bitmaps_that_another_program_made_stale_are_told)
{
    struct made made = make_plain_image();
    const struct builder_bitmap bitmap = {.name = "daily", .granularity_bits = 16};
    struct audit *audit;

    builder_bitmap(made.builder, &bitmap);
    finish(&made);
    store_be64(made.bytes + HEADER_AUTOCLEAR_FEATURES, 0);
    audit = audit_made(&made);
    ck_assert_ptr_nonnull(find(audit, "stale-bitmaps"));
    ck_assert_ptr_null(find(audit, "bitmap"));
    audit_free(audit);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("audit");
    TCase *tcase = tcase_create("audit");

    tcase_add_unchecked_fixture(tcase, scratch_enter, scratch_leave);
    tcase_add_test(tcase, an_image_with_data_has_no_finding);
    tcase_add_test(tcase, the_dirty_bit_is_a_warning);
    tcase_add_test(tcase, the_corrupt_bit_is_a_danger);
    tcase_add_test(tcase, version_2_is_a_note);
    tcase_add_test(tcase, unknown_feature_bits_are_graded_by_their_kind);
    tcase_add_test(tcase, an_unknown_extension_is_a_note);
    tcase_add_test(tcase, of_thousands_of_extensions_the_first_are_listed);
    tcase_add_test(tcase, encryption_is_a_warning);
    tcase_add_test(tcase, a_damaged_header_is_a_danger_and_nothing_is_counted);
    tcase_add_test(tcase, a_missing_backing_file_is_a_danger);
    tcase_add_test(tcase, an_absolute_path_is_a_warning);
    tcase_add_test(tcase, a_backing_file_in_another_directory_is_a_warning);
    tcase_add_test(tcase, a_backing_file_in_a_directory_below_is_no_finding);
    tcase_add_test(tcase, a_symbolic_link_is_a_note_and_where_it_leads_counts);
    tcase_add_test(tcase, a_protocol_is_a_warning);
    tcase_add_test(tcase, a_format_that_is_not_recorded_is_a_warning);
    tcase_add_test(tcase, a_missing_data_file_is_a_danger);
    tcase_add_test(tcase, the_images_behind_are_looked_at_too);
    tcase_add_test(tcase, snapshots_and_the_state_of_a_machine_are_told);
    tcase_add_test(tcase, a_snapshot_without_a_possible_table_is_a_danger);
    tcase_add_test(tcase, a_bitmap_in_use_is_a_warning);
    tcase_add_test(tcase, bitmaps_that_another_program_made_stale_are_told);
    suite_add_tcase(suite, tcase);
    return suite_main(suite);
}
