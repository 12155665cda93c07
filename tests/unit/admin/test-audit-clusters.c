/* SPDX-License-Identifier: MIT */
/* One image for each finding of the audit in its clusters, and behind the ends of tables. */
#include "config.h"

#include "audit_case.h"
#include "builder.h"
#include "meta/format.h"
#include "meta/refcount_block.h"
#include "scratch.h"
#include "suite.h"

#include <stdio.h>
#include <stdlib.h>

/* Changes the refcount of a cluster. */
static void set_refcount(struct made *made, uint64_t host_offset, uint64_t count)
{
    uint64_t table = load_be64(made->bytes + HEADER_REFCOUNT_TABLE_OFFSET);
    uint64_t block = load_be64(made->bytes + table);

    refcount_store(made->bytes + block, host_offset / CLUSTER, REFCOUNT_ORDER_V2, count);
}

static uint64_t l1_offset(const struct made *made)
{
    return load_be64(made->bytes + HEADER_L1_TABLE_OFFSET);
}

/* --- Clusters ------------------------------------------------------------------------ */

START_TEST(leaked_clusters_without_data_are_a_note)
{
    struct made made = make_plain_image();
    uint64_t leaked = builder_allocate(made.builder, 3);

    finish(&made);
    write_file(&made, 0);
    expect_only(AUDIT_NOTE, "leaked-clusters", leaked,
                "though nothing refers to them: 3, of which 0 hold data");
}
END_TEST

START_TEST(leaked_clusters_with_data_are_a_warning)
{
    struct made made = make_plain_image();
    uint64_t leaked = builder_allocate(made.builder, 3);

    finish(&made);
    made.bytes[leaked + CLUSTER] = 1;
    write_file(&made, 0);
    expect_only(AUDIT_WARNING, "leaked-clusters", leaked, ": 3, of which 1 hold data");
}
END_TEST

START_TEST(data_that_was_deleted_is_a_warning)
{
    struct made made = make_plain_image();
    uint64_t freed = builder_allocate(made.builder, 3);

    builder_data(made.builder, 0, "abc", 3);
    finish(&made);
    for (uint64_t i = 0; i < 3; i++) {
        set_refcount(&made, freed + i * CLUSTER, 0);
    }
    made.bytes[freed + CLUSTER - 1] = 1;
    made.bytes[freed + 2 * CLUSTER + 100] = 1;
    write_file(&made, 0);
    expect_only(AUDIT_WARNING, "deleted-data", freed, ": 2");
}
END_TEST

START_TEST(data_in_zero_clusters_that_keep_their_place_is_a_warning)
{
    struct made made = make_plain_image();
    uint64_t full, host;

    builder_data(made.builder, 0, "abc", 3);
    host = builder_zero(made.builder, 2 * CLUSTER, true);
    full = builder_zero(made.builder, 3 * CLUSTER, true);
    builder_zero(made.builder, 4 * CLUSTER, true);
    finish(&made);
    memset(made.bytes + host, 0, CLUSTER);
    ck_assert_uint_ne(made.bytes[full], 0);
    write_file(&made, 0);
    expect_only(AUDIT_WARNING, "zeroed-data", full,
                "keep their place and what was there before: 2");
}
END_TEST

START_TEST(what_a_snapshot_shows_is_not_deleted)
{
    struct made made = make_plain_image();
    uint64_t host = builder_zero(made.builder, 0, true);
    const struct builder_snapshot snapshot = {.id = "1",
                                              .name = "one",
                                              .disk_size = 1 << 20,
                                              .l1 = builder_add_l1(made.builder, 1),
                                              .extra_data_size = 16};
    struct audit *audit;

    builder_data_at(made.builder, 0, host, "abc", 3);
    builder_snapshot(made.builder, &snapshot);
    audit = audit_finished(&made);
    ck_assert_ptr_null(find(audit, "zeroed-data"));
    ck_assert_ptr_null(find(audit, "overlap"));
    audit_free(audit);
}
END_TEST

START_TEST(data_in_subclusters_that_do_not_show_it_is_a_warning)
{
    struct builder_options options = builder_defaults();
    static uint8_t data[CLUSTER];
    struct made made;
    uint64_t host[3];

    options.extended_l2 = true;
    made = make(&options);
    memset(data, 0, sizeof(data));
    data[3 * CLUSTER / 32] = 1;
    /* Shown; unallocated; zero. */
    host[0] = builder_subclusters(made.builder, 0, 1U << 3, 0, data, CLUSTER);
    host[1] = builder_subclusters(made.builder, CLUSTER, 1U << 2, 0, data, CLUSTER);
    host[2] = builder_subclusters(made.builder, 2 * CLUSTER, 1U << 2, 1U << 3, data, CLUSTER);
    ck_assert_uint_lt(host[0], host[1]);
    ck_assert_uint_lt(host[1], host[2]);
    finish(&made);
    write_file(&made, 0);
    expect_only(AUDIT_WARNING, "zeroed-data", host[1], ": 2");
}
END_TEST

static void append(const char *path, const char *text)
{
    FILE *file = fopen(path, "a");

    ck_assert_ptr_nonnull(file);
    fputs(text, file);
    fclose(file);
}

START_TEST(data_behind_the_last_cluster_is_a_warning)
{
    struct made made = make_plain_image();

    builder_data(made.builder, 0, "abc", 3);
    finish(&made);
    write_file(&made, 4 * CLUSTER);
    expect_only(AUDIT_NOTE, "file-longer", made.size, "256 KiB");
    append("a.qcow2", "hidden");
    expect_only(AUDIT_WARNING, "data-behind-end", made.size + 4 * CLUSTER, ": 1");
}
END_TEST

START_TEST(data_right_behind_the_last_cluster_is_behind_it)
{
    struct made made = make_plain_image();

    builder_data(made.builder, 0, "abc", 3);
    finish(&made);
    write_file(&made, 0);
    append("a.qcow2", "hidden");
    expect_only(AUDIT_WARNING, "data-behind-end", made.size, ": 1");
}
END_TEST

START_TEST(a_file_that_ends_within_its_last_cluster_is_no_finding)
{
    struct made made = make_plain_image();
    struct audit *audit;

    audit = audit_finished(&made);
    ck_assert_uint_eq(audit->count, 0);
    audit_free(audit);
}
END_TEST

START_TEST(a_cluster_with_two_uses_is_a_danger)
{
    struct made made = make_plain_image();
    uint64_t table = builder_l2_table(made.builder, 0);
    struct audit *audit;

    builder_data(made.builder, 0, "abc", 3);
    builder_data_at(made.builder, CLUSTER, table, NULL, 0);
    audit = audit_finished(&made);
    expect(audit, AUDIT_DANGER, "overlap", table, ": 1; the first is an L2 table and also a data");
    audit_free(audit);
}
END_TEST

START_TEST(what_snapshots_share_does_not_overlap)
{
    struct made made = make_plain_image();
    uint64_t host = builder_data(made.builder, 0, "abc", 3);
    const struct builder_snapshot snapshot = {.id = "1",
                                              .name = "one",
                                              .disk_size = 1 << 20,
                                              .l1 = builder_add_l1(made.builder, 1),
                                              .extra_data_size = 16};
    struct audit *audit;

    builder_data_at(made.builder, 0, host, "abc", 3);
    builder_snapshot(made.builder, &snapshot);
    audit = audit_finished(&made);
    ck_assert_ptr_null(find(audit, "overlap"));
    audit_free(audit);
}
END_TEST

START_TEST(what_the_checker_finds_is_a_danger)
{
    struct made made = make_plain_image();
    uint64_t host = builder_data(made.builder, 0, "abc", 3);
    struct audit *audit;

    finish(&made);
    set_refcount(&made, host, 0);
    audit = audit_made(&made);
    ck_assert_ptr_nonnull(find(audit, "check-error"));
    ck_assert_int_eq(find(audit, "check-error")->grade, AUDIT_DANGER);
    audit_free(audit);
}
END_TEST

/* --- Slack --------------------------------------------------------------------------- */

START_TEST(bytes_behind_the_header_extensions_are_a_warning)
{
    struct made made = make_plain_image();

    finish(&made);
    memcpy(made.bytes + 60000, "secret", 6);
    write_file(&made, 0);
    expect_only(AUDIT_WARNING, "header-slack", 60000, ": 6");
}
END_TEST

START_TEST(bytes_behind_the_backing_file_name_are_a_warning)
{
    struct builder_options options = builder_defaults();
    struct made made;

    scratch_file("base.raw", "abc", 3);
    options.backing_file = "base.raw";
    options.backing_format = "raw";
    made = make(&options);
    finish(&made);
    made.bytes[CLUSTER - 1] = 1;
    write_file(&made, 0);
    expect_only(AUDIT_WARNING, "header-slack", CLUSTER - 1, "behind the backing file name");
}
END_TEST

START_TEST(bytes_behind_the_l1_table_are_a_warning)
{
    struct made made = make_plain_image();
    uint64_t at;

    finish(&made);
    at = l1_offset(&made) + CLUSTER - 8;
    made.bytes[at] = 0x55;
    write_file(&made, 0);
    expect_only(AUDIT_WARNING, "l1-slack", at, ": 1");
}
END_TEST

START_TEST(bytes_behind_the_end_of_the_disk_in_its_last_cluster_are_a_warning)
{
    struct builder_options options = builder_defaults();
    struct made made;
    uint64_t host;

    options.virtual_size = 5 * CLUSTER - 1024;
    made = make(&options);
    host = builder_data(made.builder, 4 * CLUSTER, "abc", 3);
    finish(&made);
    made.bytes[host + CLUSTER - 1024] = 1;
    write_file(&made, 0);
    expect_only(AUDIT_WARNING, "disk-slack", host + CLUSTER - 1024, ": 1");
}
END_TEST

START_TEST(l1_entries_behind_the_end_of_the_disk_are_a_note)
{
    struct builder_options options = builder_defaults();
    struct made made;
    uint64_t at;

    options.more_l1_entries = 4;
    made = make(&options);
    builder_l2_table(made.builder, UINT64_C(2) << 29);
    finish(&made);
    at = l1_offset(&made) + 2 * L1_ENTRY_BYTES;
    while (made.bytes[at] == 0) {
        at++;
    }
    write_file(&made, 0);
    expect_only(AUDIT_NOTE, "l1-past-disk", at, "behind the end of the disk");
}
END_TEST

START_TEST(bytes_behind_the_snapshot_table_are_a_warning)
{
    struct made made = make_plain_image();
    const struct builder_snapshot snapshot = {.id = "1",
                                              .name = "one",
                                              .disk_size = 1 << 20,
                                              .l1 = builder_add_l1(made.builder, 1),
                                              .extra_data_size = 16};
    struct audit *audit;
    uint64_t at;

    builder_snapshot(made.builder, &snapshot);
    finish(&made);
    at = load_be64(made.bytes + HEADER_SNAPSHOTS_OFFSET) + 1000;
    made.bytes[at] = 1;
    audit = audit_made(&made);
    expect(audit, AUDIT_WARNING, "snapshot-table-slack", at, ": 1");
    audit_free(audit);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("audit of clusters");
    TCase *tcase = tcase_create("audit of clusters");

    tcase_add_unchecked_fixture(tcase, scratch_enter, scratch_leave);
    tcase_add_test(tcase, leaked_clusters_without_data_are_a_note);
    tcase_add_test(tcase, leaked_clusters_with_data_are_a_warning);
    tcase_add_test(tcase, data_that_was_deleted_is_a_warning);
    tcase_add_test(tcase, data_in_zero_clusters_that_keep_their_place_is_a_warning);
    tcase_add_test(tcase, what_a_snapshot_shows_is_not_deleted);
    tcase_add_test(tcase, data_in_subclusters_that_do_not_show_it_is_a_warning);
    tcase_add_test(tcase, data_behind_the_last_cluster_is_a_warning);
    tcase_add_test(tcase, data_right_behind_the_last_cluster_is_behind_it);
    tcase_add_test(tcase, a_file_that_ends_within_its_last_cluster_is_no_finding);
    tcase_add_test(tcase, a_cluster_with_two_uses_is_a_danger);
    tcase_add_test(tcase, what_snapshots_share_does_not_overlap);
    tcase_add_test(tcase, what_the_checker_finds_is_a_danger);
    tcase_add_test(tcase, bytes_behind_the_header_extensions_are_a_warning);
    tcase_add_test(tcase, bytes_behind_the_backing_file_name_are_a_warning);
    tcase_add_test(tcase, bytes_behind_the_l1_table_are_a_warning);
    tcase_add_test(tcase, bytes_behind_the_end_of_the_disk_in_its_last_cluster_are_a_warning);
    tcase_add_test(tcase, l1_entries_behind_the_end_of_the_disk_are_a_note);
    tcase_add_test(tcase, bytes_behind_the_snapshot_table_are_a_warning);
    suite_add_tcase(suite, tcase);
    return suite_main(suite);
}
