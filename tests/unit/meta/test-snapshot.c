/* SPDX-License-Identifier: MIT */
/* The snapshot table, and the bitmap directory. */
#include "config.h"

#include "builder.h"
#include "header_case.h"
#include "memory_store.h"
#include "meta/bitmap.h"
#include "meta/format.h"
#include "meta/snapshot.h"
#include "suite.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* --- The snapshot table -------------------------------------------------------------------- */

static struct store *finish(struct builder *builder)
{
    struct store *store = builder_store(builder);

    builder_destroy(builder);
    return store;
}

static struct builder_snapshot plain_snapshot(struct builder *builder)
{
    return (struct builder_snapshot){
        .id = "1",
        .name = "before",
        .l1 = builder_add_l1(builder, 4),
        .disk_size = 3 << 20,
        .vm_state_size = 4096,
        .date_sec = 1700000000,
        .date_nsec = 123456789,
        .vm_clock_nsec = 98765432100,
        .icount = 42,
        .extra_data_size = 24,
    };
}

static struct builder *make_builder(void)
{
    struct builder_options options = builder_defaults();

    return builder_create(&options);
}

/* Where the snapshot table of the image is. */
static size_t table_of(struct store *store)
{
    return get64(store, HEADER_SNAPSHOTS_OFFSET);
}

/* Reads the header, then the table. */
static int read_table(struct store *store, struct snapshot_table **table, struct error *error)
{
    struct header *header;
    int result;

    memset(error, 0, sizeof(*error));
    result = header_read(store, memory_store_size(store), HEADER_CASE_NAME, &header, error);
    ck_assert_msg(result == 0, "%s", error->text);
    result = snapshot_table_read(store, header, memory_store_size(store), HEADER_CASE_NAME, table,
                                 error);
    header_free(header);
    return result;
}

static struct snapshot_table *read_good_table(struct store *store)
{
    struct snapshot_table *table;
    struct error error;
    int result = read_table(store, &table, &error);

    ck_assert_msg(result == 0, "%s", error.text);
    store_close(store);
    return table;
}

static void expect_refused_table(struct store *store, int code, const char *text)
{
    struct snapshot_table *table;
    struct error error;

    ck_assert_int_eq(read_table(store, &table, &error), -code);
    ck_assert_ptr_null(table);
    ck_assert_int_eq(strncmp(error.text, HEADER_CASE_NAME ": ", strlen(HEADER_CASE_NAME) + 2), 0);
    ck_assert_msg(strstr(error.text, text) != NULL, "%s", error.text);
    store_close(store);
}

START_TEST(an_image_without_snapshots_has_an_empty_table)
{
    struct snapshot_table *table = read_good_table(finish(make_builder()));

    ck_assert_uint_eq(table->count, 0);
    ck_assert_uint_eq(table->size, 0);
    snapshot_table_free(table);
    snapshot_table_free(NULL);
}
END_TEST

START_TEST(every_field_of_a_snapshot_is_read)
{
    struct builder *builder = make_builder();
    struct builder_snapshot made = plain_snapshot(builder);
    struct snapshot_table *table;
    const struct snapshot *snapshot;

    builder_snapshot(builder, &made);
    table = read_good_table(finish(builder));
    ck_assert_uint_eq(table->count, 1);
    snapshot = &table->snapshots[0];
    ck_assert_str_eq(snapshot->id, "1");
    ck_assert_str_eq(snapshot->name, "before");
    ck_assert_uint_eq(snapshot->l1_offset, 2 * 65536);
    ck_assert_uint_eq(snapshot->l1_entries, 4);
    ck_assert_uint_eq(snapshot->disk_size, 3 << 20);
    ck_assert_uint_eq(snapshot->vm_state_size, 4096);
    ck_assert_uint_eq(snapshot->date_sec, 1700000000);
    ck_assert_uint_eq(snapshot->date_nsec, 123456789);
    ck_assert_uint_eq(snapshot->vm_clock_nsec, 98765432100);
    ck_assert_uint_eq(snapshot->icount, 42);
    ck_assert_uint_eq(table->size, 72); /* 40 + 24 + 1 + 6, padded */
    snapshot_table_free(table);
}
END_TEST

/* `_i`: bytes of extra data. */
START_TEST(extra_data_counts_as_far_as_it_goes)
{
    struct builder *builder = make_builder();
    struct builder_snapshot made = plain_snapshot(builder), next = made;
    struct store *store;
    struct snapshot_table *table;
    const struct snapshot *snapshot;

    made.extra_data_size = (uint32_t)_i;
    made.vm_state_size = UINT64_C(0x100000001);
    next.name = "next";
    builder_snapshot(builder, &made);
    builder_snapshot(builder, &next);
    store = finish(builder);
    put32(store, table_of(store) + SNAPSHOT_VM_STATE_SIZE, 7);
    table = read_good_table(store);
    snapshot = &table->snapshots[0];
    ck_assert_str_eq(snapshot->name, "before");
    ck_assert_uint_eq(snapshot->vm_state_size, _i < 8 ? 7 : UINT64_C(0x100000001));
    ck_assert_uint_eq(snapshot->disk_size, _i < 16 ? 1 << 20 : 3 << 20);
    ck_assert_uint_eq(snapshot->icount, _i < 24 ? UINT64_MAX : 42);
    ck_assert_str_eq(table->snapshots[1].name, "next");
    snapshot_table_free(table);
}
END_TEST

START_TEST(the_longest_extra_data_names_and_ids_are_read)
{
    struct builder *builder = make_builder();
    struct builder_snapshot made = plain_snapshot(builder);
    struct snapshot_table *table;
    char *text = malloc(65536);

    memset(text, 'n', 65535);
    text[65535] = '\0';
    made.id = made.name = text;
    made.extra_data_size = SNAPSHOT_EXTRA_DATA_MAX;
    builder_snapshot(builder, &made);
    builder_snapshot(builder, &made);
    table = read_good_table(finish(builder));
    ck_assert_uint_eq(table->count, 2);
    ck_assert_str_eq(table->snapshots[1].id, text);
    ck_assert_str_eq(table->snapshots[1].name, text);
    snapshot_table_free(table);
    free(text);
}
END_TEST

START_TEST(empty_names_and_names_with_a_nul_are_read)
{
    struct builder *builder = make_builder();
    struct builder_snapshot made = plain_snapshot(builder), next = made;
    struct snapshot_table *table;

    made.id = made.name = "";
    next.name = "a\0b";
    next.name_length = 3;
    builder_snapshot(builder, &made);
    builder_snapshot(builder, &next);
    table = read_good_table(finish(builder));
    ck_assert_str_eq(table->snapshots[0].id, "");
    ck_assert_str_eq(table->snapshots[0].name, "");
    ck_assert_str_eq(table->snapshots[1].name, "a");
    snapshot_table_free(table);
}
END_TEST

/* An image whose one snapshot's entry can be spoilt. */
static struct store *make_one(void)
{
    struct builder *builder = make_builder();
    struct builder_snapshot made = plain_snapshot(builder);

    builder_snapshot(builder, &made);
    return finish(builder);
}

START_TEST(too_much_extra_data_is_refused)
{
    struct store *store = make_one();

    put32(store, table_of(store) + SNAPSHOT_EXTRA_DATA_SIZE, 1025);
    expect_refused_table(store, EINVAL, "entry 1 of the snapshot table has 1025 bytes");
    store = make_one();
    put32(store, table_of(store) + SNAPSHOT_EXTRA_DATA_SIZE, UINT32_MAX);
    expect_refused_table(store, EINVAL, "has 4294967295 bytes");
}
END_TEST

START_TEST(an_entry_that_runs_over_the_end_of_the_file_is_refused)
{
    for (uint64_t length = 41; length < 71; length++) {
        struct store *store = make_one();

        /* The table moves to the end of the file, which is cut in the middle of it. */
        uint64_t end = memory_store_size(store);
        uint8_t entry[72];

        memcpy(entry, memory_store_data(store) + table_of(store), sizeof(entry));
        ck_assert_int_eq(store_write(store, end, entry, length), 0);
        put64(store, HEADER_SNAPSHOTS_OFFSET, end);
        expect_refused_table(store, EINVAL, "entry 1 of the snapshot table");
    }
}
END_TEST

START_TEST(a_table_that_runs_over_another_one_is_refused)
{
    struct store *store = make_one();
    uint64_t refcounts = get64(store, HEADER_REFCOUNT_TABLE_OFFSET);

    /* Its entries are in the cluster right before the refcount table. */
    ck_assert_uint_eq(table_of(store) + 65536, refcounts);
    store_be16(memory_store_data(store) + table_of(store) + SNAPSHOT_NAME_LENGTH, 65535);
    expect_refused_table(store, EINVAL, "overlaps the refcount table");
}
END_TEST

START_TEST(more_than_65536_snapshots_are_refused)
{
    struct store *store = make_one();

    ck_assert_int_eq(store_resize(store, UINT64_C(1) << 30), 0);
    put64(store, HEADER_SNAPSHOTS_OFFSET, 1 << 20);
    put32(store, HEADER_NB_SNAPSHOTS, 65537);
    expect_refused_table(store, EINVAL, "nb_snapshots is 65537");
}
END_TEST

START_TEST(a_table_longer_than_64_mib_is_refused)
{
    struct store *store = make_one();
    uint64_t begin = 1 << 20;

    ck_assert_int_eq(store_resize(store, UINT64_C(1) << 30), 0);
    put64(store, HEADER_SNAPSHOTS_OFFSET, begin);
    put32(store, HEADER_NB_SNAPSHOTS, 600);
    for (size_t i = 0; i < 600; i++) { /* 128 KiB each */
        uint8_t *entry = memory_store_data(store) + begin + i * 131112;

        store_be16(entry + SNAPSHOT_ID_LENGTH, 65535);
        store_be16(entry + SNAPSHOT_NAME_LENGTH, 65535);
    }
    expect_refused_table(store, EINVAL, "limit of 64 MiB");
}
END_TEST

START_TEST(a_table_that_cannot_be_read_is_an_io_error)
{
    struct store *store = make_one();

    memory_store_fail_reads(store, table_of(store), 8, EIO);
    expect_refused_table(store, EIO, strerror(EIO));
}
END_TEST

/* --- What a snapshot may say -------------------------------------------------------------------
 */

static void expect_valid(const struct snapshot *snapshot, const char *text)
{
    struct builder_options options = builder_defaults();
    struct header *header;
    struct error error = {0};
    int result;

    options.cluster_bits = 9; /* an L1 entry maps 32 KiB */
    header = read_good(make_image(&options));
    result = snapshot_validate(header, snapshot, HEADER_CASE_NAME, &error);
    if (result == 0) {
        result = snapshot_validate_vm_state(header, snapshot, HEADER_CASE_NAME, &error);
    }
    ck_assert_msg(result == (text == NULL ? 0 : -EINVAL), "%s", error.text);
    if (text != NULL) {
        ck_assert_int_eq(strncmp(error.text, HEADER_CASE_NAME ": ", 12), 0);
        ck_assert_msg(strstr(error.text, text) != NULL, "%s", error.text);
    }
    header_free(header);
}

static struct snapshot possible(void)
{
    static char id[] = "1", name[] = "snap";

    return (struct snapshot){
        .id = id,
        .name = name,
        .l1_offset = 0x8000,
        .l1_entries = 4,
        .disk_size = 96 << 10,
        .vm_state_size = 32 << 10,
    };
}

START_TEST(a_snapshot_whose_l1_table_just_maps_its_disk_and_vm_state_is_valid)
{
    struct snapshot snapshot = possible();

    expect_valid(&snapshot, NULL);
    snapshot.disk_size -= 32767;
    expect_valid(&snapshot, NULL);
    snapshot = (struct snapshot){.id = snapshot.id, .name = snapshot.name};
    expect_valid(&snapshot, NULL);
}
END_TEST

START_TEST(impossible_snapshots_are_not_valid)
{
    struct snapshot snapshot = possible();

    snapshot.disk_size = (128 << 10) + 1;
    expect_valid(&snapshot, "131073 bytes");
    snapshot = possible();
    snapshot.disk_size = UINT64_MAX;
    expect_valid(&snapshot, "18446744073709551615 bytes");
    snapshot = possible();
    snapshot.vm_state_size++;
    expect_valid(&snapshot, "32769 bytes");
    snapshot = possible();
    snapshot.vm_state_size = UINT64_MAX - 100;
    expect_valid(&snapshot, "VM state");
    snapshot = possible();
    snapshot.vm_state_size = INT64_MAX;
    expect_valid(&snapshot, "VM state");
    snapshot = possible();
    snapshot.l1_offset = 0x8008;
    expect_valid(&snapshot, "0x8008");
    snapshot = possible();
    snapshot.l1_entries = 4194305;
    expect_valid(&snapshot, "4194305");
}
END_TEST

START_TEST(the_l1_table_of_a_snapshot_may_not_overlap_other_tables)
{
    struct snapshot snapshot = possible();

    snapshot.l1_offset = 0;
    expect_valid(&snapshot, "the header");
    snapshot.l1_offset = 512;
    expect_valid(&snapshot, "the L1 table");
}
END_TEST

START_TEST(an_image_with_an_external_data_file_cannot_have_snapshots)
{
    struct builder_options options = builder_defaults();
    struct snapshot snapshot = possible();
    struct error error = {0};
    struct header *header;

    options.external_data_file = true;
    header = read_good(make_image(&options));
    snapshot.l1_offset = 0x80000;
    ck_assert_int_eq(snapshot_validate(header, &snapshot, "a", &error), -EINVAL);
    ck_assert_ptr_nonnull(strstr(error.text, "external data file"));
    header_free(header);
}
END_TEST

START_TEST(an_impossible_vm_state_leaves_the_disk_valid)
{
    struct header *header = read_good(make_default());
    struct snapshot snapshot = possible();
    struct error error = {0};

    snapshot.l1_offset = 0x80000;
    snapshot.vm_state_size = INT64_MAX;
    ck_assert_int_eq(snapshot_validate(header, &snapshot, "a", &error), 0);
    ck_assert_int_eq(snapshot_validate_vm_state(header, &snapshot, "a", &error), -EINVAL);
    header_free(header);
}
END_TEST

START_TEST(the_vm_state_begins_behind_the_last_l1_entry_of_the_disk)
{
    struct header *header = read_good(make_default()); /* an L1 entry maps 512 MiB */
    struct snapshot snapshot = {.disk_size = 1};

    ck_assert_uint_eq(snapshot_vm_state_offset(header, &snapshot), UINT64_C(512) << 20);
    snapshot.disk_size = UINT64_C(512) << 20;
    ck_assert_uint_eq(snapshot_vm_state_offset(header, &snapshot), UINT64_C(512) << 20);
    snapshot.disk_size++;
    ck_assert_uint_eq(snapshot_vm_state_offset(header, &snapshot), UINT64_C(1) << 30);
    header_free(header);
}
END_TEST

/* --- The bitmap directory
 * ------------------------------------------------------------------------- */

static struct store *make_bitmaps(void)
{
    struct builder *builder = make_builder();
    const struct builder_bitmap first = {.name = "daily", .granularity_bits = 16, .flags = 2};
    const struct builder_bitmap second = {
        .name = "x",
        .granularity_bits = 63,
        .flags = BITMAP_FLAG_IN_USE,
        .extra_data_size = 13,
    };

    builder_bitmap(builder, &first);
    builder_bitmap(builder, &second);
    return finish(builder);
}

static int read_directory(struct store *store, struct bitmap_directory **directory,
                          struct error *error)
{
    struct header *header;
    int result;

    memset(error, 0, sizeof(*error));
    result = header_read(store, memory_store_size(store), HEADER_CASE_NAME, &header, error);
    ck_assert_msg(result == 0, "%s", error->text);
    result = bitmap_directory_read(store, header, HEADER_CASE_NAME, directory, error);
    header_free(header);
    return result;
}

/* The directory of make_bitmaps(). */
#define DIRECTORY (4 * 65536)

static void expect_refused_directory(struct store *store, int code, const char *text)
{
    struct bitmap_directory *directory;
    struct error error;

    ck_assert_int_eq(read_directory(store, &directory, &error), -code);
    ck_assert_ptr_null(directory);
    ck_assert_int_eq(strncmp(error.text, HEADER_CASE_NAME ": ", 12), 0);
    ck_assert_msg(strstr(error.text, text) != NULL, "%s", error.text);
    store_close(store);
}

START_TEST(every_bitmap_of_the_directory_is_read)
{
    struct store *store = make_bitmaps();
    struct bitmap_directory *directory;
    struct error error;

    ck_assert_int_eq(read_directory(store, &directory, &error), 0);
    ck_assert_uint_eq(directory->count, 2);
    ck_assert_str_eq(directory->bitmaps[0].name, "daily");
    ck_assert_uint_eq(directory->bitmaps[0].granularity, 65536);
    ck_assert_uint_eq(directory->bitmaps[0].flags, BITMAP_FLAG_AUTO);
    ck_assert_str_eq(directory->bitmaps[1].name, "x");
    ck_assert_uint_eq(directory->bitmaps[1].granularity, UINT64_C(1) << 63);
    ck_assert_uint_eq(directory->bitmaps[1].flags, BITMAP_FLAG_IN_USE);
    bitmap_directory_free(directory);
    store_close(store);
}
END_TEST

START_TEST(an_image_without_bitmaps_has_an_empty_directory)
{
    struct store *store = make_default();
    struct bitmap_directory *directory;
    struct error error;

    ck_assert_int_eq(read_directory(store, &directory, &error), 0);
    ck_assert_uint_eq(directory->count, 0);
    bitmap_directory_free(directory);
    bitmap_directory_free(NULL);
    store_close(store);
}
END_TEST

START_TEST(a_damaged_bitmap_entry_is_refused_by_its_number)
{
    struct store *store = make_bitmaps();

    memory_store_data(store)[DIRECTORY + BITMAP_GRANULARITY_BITS] = 64;
    expect_refused_directory(store, EINVAL, "entry 1 ");
    store = make_bitmaps();
    store_be16(memory_store_data(store) + DIRECTORY + BITMAP_NAME_SIZE, 0);
    expect_refused_directory(store, EINVAL, "entry 1 ");
    store = make_bitmaps();
    store_be16(memory_store_data(store) + DIRECTORY + 32 + BITMAP_NAME_SIZE, 4);
    expect_refused_directory(store, EINVAL, "entry 2 ");
    store = make_bitmaps();
    put32(store, DIRECTORY + 32 + BITMAP_EXTRA_DATA_SIZE, UINT32_MAX);
    expect_refused_directory(store, EINVAL, "entry 2 ");
    store = make_bitmaps();
    memory_store_fail_reads(store, DIRECTORY, 1, EIO);
    expect_refused_directory(store, EIO, strerror(EIO));
}
END_TEST

static void add_snapshots(TCase *tcase)
{
    tcase_add_test(tcase, an_image_without_snapshots_has_an_empty_table);
    tcase_add_test(tcase, every_field_of_a_snapshot_is_read);
    tcase_add_loop_test(tcase, extra_data_counts_as_far_as_it_goes, 0, 33);
    tcase_add_test(tcase, the_longest_extra_data_names_and_ids_are_read);
    tcase_add_test(tcase, empty_names_and_names_with_a_nul_are_read);
    tcase_add_test(tcase, too_much_extra_data_is_refused);
    tcase_add_test(tcase, an_entry_that_runs_over_the_end_of_the_file_is_refused);
    tcase_add_test(tcase, a_table_that_runs_over_another_one_is_refused);
    tcase_add_test(tcase, more_than_65536_snapshots_are_refused);
    tcase_add_test(tcase, a_table_longer_than_64_mib_is_refused);
    tcase_add_test(tcase, a_table_that_cannot_be_read_is_an_io_error);
    tcase_add_test(tcase, a_snapshot_whose_l1_table_just_maps_its_disk_and_vm_state_is_valid);
    tcase_add_test(tcase, impossible_snapshots_are_not_valid);
    tcase_add_test(tcase, the_l1_table_of_a_snapshot_may_not_overlap_other_tables);
    tcase_add_test(tcase, an_image_with_an_external_data_file_cannot_have_snapshots);
    tcase_add_test(tcase, an_impossible_vm_state_leaves_the_disk_valid);
    tcase_add_test(tcase, the_vm_state_begins_behind_the_last_l1_entry_of_the_disk);
}

int main(void)
{
    Suite *suite = suite_create("snapshot");
    TCase *snapshots = tcase_create("snapshots"), *bitmaps = tcase_create("bitmaps");

    add_snapshots(snapshots);
    tcase_add_test(bitmaps, every_bitmap_of_the_directory_is_read);
    tcase_add_test(bitmaps, an_image_without_bitmaps_has_an_empty_directory);
    tcase_add_test(bitmaps, a_damaged_bitmap_entry_is_refused_by_its_number);
    suite_add_tcase(suite, snapshots);
    suite_add_tcase(suite, bitmaps);
    return suite_main(suite);
}
