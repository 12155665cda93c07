/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "builder.h"
#include "codec/codec.h"
#include "header_case.h"
#include "memory_store.h"
#include "meta/format.h"
#include "meta/header_write.h"
#include "suite.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define UNKNOWN_EXTENSION UINT32_C(0x12345678)

static struct header *read_header(struct store *store)
{
    struct error error = {0};
    struct header *header;
    int result = header_read(store, memory_store_size(store), HEADER_CASE_NAME, &header, &error);

    ck_assert_msg(result == 0, "%s", error.text);
    return header;
}

/* Writes the header with these changes of its strings, as an amendment would. */
static void rewrite(struct store *store, const struct header *changed)
{
    struct error error = {0};
    struct header *old = read_header(store);
    struct header_rest rest;
    int result = header_rest_read(store, old, HEADER_CASE_NAME, &rest, &error);

    ck_assert_msg(result == 0, "%s", error.text);
    result = header_write(store, changed, &rest, HEADER_CASE_NAME, &error);
    ck_assert_msg(result == 0, "%s", error.text);
    header_rest_free(&rest);
    header_free(old);
}

static void expect_encode_fails(const struct header *header, int code, const char *text)
{
    struct error error = {0};
    uint8_t *bytes;
    size_t length;
    int result = header_encode(header, NULL, HEADER_CASE_NAME, &bytes, &length, &error);

    ck_assert_int_eq(result, -code);
    ck_assert_int_eq(error.code, code);
    ck_assert_msg(strstr(error.text, text) != NULL, "%s: no '%s'", error.text, text);
    ck_assert_msg(strncmp(error.text, HEADER_CASE_NAME ": ", strlen(HEADER_CASE_NAME ": ")) == 0,
                  "%s", error.text);
}

/* A store whose first cluster is written anew from nothing but its own header. */
static struct store *write_fresh(struct header *header)
{
    struct error error = {0};
    struct store *store = memory_store_create(1 << 20);
    int result = header_write(store, header, NULL, HEADER_CASE_NAME, &error);

    ck_assert_msg(result == 0, "%s", error.text);
    return store;
}

static void set_string(char **string, const char *value)
{
    free(*string);
    *string = value != NULL ? strdup(value) : NULL;
}

static bool cluster_has(struct store *store, size_t cluster_size, const char *text)
{
    return memmem(memory_store_data(store), cluster_size, text, strlen(text)) != NULL;
}

static void expect_same_strings(const char *a, const char *b)
{
    ck_assert((a == NULL) == (b == NULL));
    if (a != NULL) {
        ck_assert_str_eq(a, b);
    }
}

static void expect_same(const struct header *a, const struct header *b)
{
    ck_assert_uint_eq(a->version, b->version);
    ck_assert_uint_eq(a->cluster_bits, b->cluster_bits);
    ck_assert_uint_eq(a->virtual_size, b->virtual_size);
    ck_assert_uint_eq(a->l1_offset, b->l1_offset);
    ck_assert_uint_eq(a->l1_entries, b->l1_entries);
    ck_assert_uint_eq(a->refcount_table_offset, b->refcount_table_offset);
    ck_assert_uint_eq(a->refcount_table_clusters, b->refcount_table_clusters);
    ck_assert_uint_eq(a->snapshot_count, b->snapshot_count);
    ck_assert_uint_eq(a->snapshots_offset, b->snapshots_offset);
    ck_assert_uint_eq(a->incompatible_features, b->incompatible_features);
    ck_assert_uint_eq(a->compatible_features, b->compatible_features);
    ck_assert_uint_eq(a->autoclear_features, b->autoclear_features);
    ck_assert_uint_eq(a->refcount_order, b->refcount_order);
    ck_assert_uint_eq(a->header_length, b->header_length);
    ck_assert_uint_eq(a->compression_type, b->compression_type);
    ck_assert_uint_eq(a->bitmap_count, b->bitmap_count);
    ck_assert_uint_eq(a->bitmap_directory_size, b->bitmap_directory_size);
    ck_assert_uint_eq(a->bitmap_directory_offset, b->bitmap_directory_offset);
    ck_assert_uint_eq(a->unknown_extensions, b->unknown_extensions);
    expect_same_strings(a->backing_file, b->backing_file);
    expect_same_strings(a->backing_format, b->backing_format);
    expect_same_strings(a->data_file, b->data_file);
}

/* --- Every field ---------------------------------------------------------------------- */

/* A builder of an image in which all that a header can have is there. */
static struct builder *full_builder(struct builder_options *options)
{
    const struct builder_snapshot snapshot = {.id = "1", .name = "first", .disk_size = 1 << 20};
    const struct builder_bitmap bitmap = {.name = "bitmap", .granularity_bits = 16};
    struct builder *builder;

    options->refcount_order = 3;
    options->extended_l2 = true;
    options->external_data_file = true;
    options->data_file = "disk.raw";
    options->backing_file = "a/backing/file.qcow2";
    options->backing_format = "qcow2";
    options->compatible_features = COMPATIBLE_LAZY_REFCOUNTS;
#ifdef HAVE_ZSTD
    options->compression_type = COMPRESSION_ZSTD;
#endif
    builder = builder_create(options);
    builder_extension(builder, UNKNOWN_EXTENSION, "eleven bytes", 11);
    builder_bitmap(builder, &bitmap);
    builder_snapshot(builder, &snapshot);
    return builder;
}

START_TEST(every_field_survives_being_written_anew)
{
    struct builder_options options = builder_defaults();
    struct builder *builder = full_builder(&options);
    struct store *store = builder_store(builder);
    struct header *before = read_header(store), *after;

    ck_assert_uint_eq(before->bitmap_count, 1);
    ck_assert_uint_eq(before->snapshot_count, 1);
    rewrite(store, before);
    after = read_header(store);
    expect_same(before, after);
    header_free(before);
    header_free(after);
    store_close(store);
    builder_destroy(builder);
}
END_TEST

START_TEST(every_field_of_version_2_survives_being_written_anew)
{
    struct builder_options options = builder_defaults();
    struct header *before, *after;
    struct store *store;

    options.version = 2;
    options.backing_file = "base";
    options.backing_format = "raw";
    store = make_image(&options);
    before = read_header(store);
    rewrite(store, before);
    after = read_header(store);
    ck_assert_uint_eq(after->header_length, 72);
    expect_same(before, after);
    header_free(before);
    header_free(after);
    store_close(store);
}
END_TEST

START_TEST(nothing_but_the_first_cluster_is_written_and_in_one_write)
{
    struct builder_options options = builder_defaults();
    struct memory_log *log = memory_log_create();
    struct store *store;
    struct header *header;

    options.backing_file = "base";
    store = make_image(&options);
    header = read_header(store);
    memory_store_set_log(store, log);
    rewrite(store, header);
    ck_assert_uint_eq(memory_log_count(log), 1);
    ck_assert_int_eq(memory_log_at(log, 0)->kind, MEMORY_LOG_WRITE);
    ck_assert_uint_eq(memory_log_at(log, 0)->offset, 0);
    ck_assert_uint_lt(memory_log_at(log, 0)->length, 1024);
    header_free(header);
    store_close(store);
    memory_log_destroy(log);
}
END_TEST

START_TEST(a_header_that_is_written_twice_is_the_same_bytes)
{
    struct builder_options options = builder_defaults();
    struct builder *builder = full_builder(&options);
    struct store *store = builder_store(builder);
    struct header *header = read_header(store);
    uint8_t *once = malloc(65536);

    rewrite(store, header);
    memcpy(once, memory_store_data(store), 65536);
    rewrite(store, header);
    ck_assert_mem_eq(once, memory_store_data(store), 65536);
    free(once);
    header_free(header);
    store_close(store);
    builder_destroy(builder);
}
END_TEST

/* --- What is not in a struct header ------------------------------------------------------ */

START_TEST(unknown_extensions_are_kept_byte_for_byte)
{
    static const char first[] = "\1\2\3\4\5", second[] = "a longer one, of 32 bytes, it is";
    struct builder_options options = builder_defaults();
    struct builder *builder = builder_create(&options);
    struct header *header, *after;
    struct store *store;

    builder_extension(builder, UNKNOWN_EXTENSION, first, 5);
    builder_extension(builder, UNKNOWN_EXTENSION + 1, second, 32);
    store = builder_store(builder);
    header = read_header(store);
    set_string(&header->backing_file, "new-base.qcow2");
    set_string(&header->backing_format, "qcow2");
    rewrite(store, header);
    ck_assert_ptr_nonnull(memmem(memory_store_data(store), 65536,
                                 "\x12\x34\x56\x78\0\0\0\5\1\2\3\4\5\0\0\0"
                                 "\x12\x34\x56\x79\0\0\0\x20"
                                 "a longer one, of 32 bytes, it is",
                                 16 + 40));
    after = read_header(store);
    ck_assert_uint_eq(after->unknown_extensions, 2);
    ck_assert_str_eq(after->backing_file, "new-base.qcow2");
    ck_assert_str_eq(after->backing_format, "qcow2");
    header_free(after);
    header_free(header);
    store_close(store);
    builder_destroy(builder);
}
END_TEST

START_TEST(header_fields_that_are_unknown_are_kept)
{
    struct builder_options options = builder_defaults();
    struct header *header, *after;
    struct store *store;

    options.header_length = 136;
    store = make_image(&options);
    for (size_t at = 105; at < 136; at++) {
        memory_store_data(store)[at] = (uint8_t)at;
    }
    header = read_header(store);
    set_string(&header->backing_file, "base");
    rewrite(store, header);
    after = read_header(store);
    ck_assert_uint_eq(after->header_length, 136);
    ck_assert_str_eq(after->backing_file, "base");
    for (size_t at = 105; at < 136; at++) {
        ck_assert_uint_eq(memory_store_data(store)[at], at);
    }
    header_free(after);
    header_free(header);
    store_close(store);
}
END_TEST

START_TEST(a_header_of_104_bytes_stays_one)
{
    struct builder_options options = builder_defaults();
    struct header *header, *after;
    struct store *store;

    options.header_length = 104;
    store = make_image(&options);
    header = read_header(store);
    rewrite(store, header);
    after = read_header(store);
    ck_assert_uint_eq(after->header_length, 104);
    header_free(after);
    header_free(header);
    store_close(store);
}
END_TEST

START_TEST(the_feature_name_table_of_another_program_is_kept)
{
    static const char names[FEATURE_NAME_LENGTH] = "\1\77a feature of another program";
    struct store *store = make_extended(EXTENSION_FEATURE_NAME_TABLE, names, sizeof(names));
    struct header *header = read_header(store);

    rewrite(store, header);
    ck_assert(cluster_has(store, 65536, "a feature of another program"));
    ck_assert(!cluster_has(store, 65536, "lazy refcounts"));
    header_free(header);
    store_close(store);
}
END_TEST

START_TEST(bitmaps_that_another_program_did_not_keep_up_to_date_are_kept_as_they_are)
{
    static const char bitmaps[BITMAPS_EXTENSION_LENGTH + 1] =
        "\0\0\0\1\0\0\0\0\0\0\0\0\0\0\0\x20whatever";
    struct store *store = make_extended(EXTENSION_BITMAPS, bitmaps, BITMAPS_EXTENSION_LENGTH);
    struct header *header = read_header(store);

    ck_assert_uint_eq(header->bitmap_count, 0); /* the autoclear bit is not set */
    rewrite(store, header);
    ck_assert_ptr_nonnull(
        memmem(memory_store_data(store), 65536, bitmaps, BITMAPS_EXTENSION_LENGTH));
    header_free(header);
    store_close(store);
}
END_TEST

START_TEST(an_extension_whose_padding_is_cut_off_is_kept)
{
    struct store *store = make_default();
    struct header *header, *after;
    uint8_t *data = memory_store_data(store);

    /* The name begins where the padding would be, and the area ends with it. */
    put32(store, 112, UNKNOWN_EXTENSION);
    put32(store, 116, 3);
    memcpy(data + 120, "abcbase", 7);
    put64(store, HEADER_BACKING_FILE_OFFSET, 123);
    put32(store, HEADER_BACKING_FILE_SIZE, 4);
    header = read_header(store);
    ck_assert_uint_eq(header->unknown_extensions, 1);
    rewrite(store, header);
    after = read_header(store);
    expect_same(header, after);
    ck_assert_ptr_nonnull(
        memmem(memory_store_data(store), 65536, "\x12\x34\x56\x78\0\0\0\3abc\0\0\0\0\0", 16));
    header_free(after);
    header_free(header);
    store_close(store);
}
END_TEST

/* --- Changes ------------------------------------------------------------------------------- */

START_TEST(nothing_of_a_longer_name_stays_behind)
{
    struct builder_options options = builder_defaults();
    struct header *header;
    struct store *store;

    options.backing_file = "/a/directory/whose/name/nobody/should/find/base.qcow2";
    options.backing_format = "qcow2";
    store = make_image(&options);
    header = read_header(store);
    rewrite(store, header); /* with the feature name table, as builders leave it out */
    ck_assert(cluster_has(store, 65536, "nobody"));
    set_string(&header->backing_file, NULL);
    set_string(&header->backing_format, NULL);
    rewrite(store, header);
    for (size_t at = 112 + 8 + 8 * 48 + 8; at < 65536; at++) {
        ck_assert_uint_eq(memory_store_data(store)[at], 0);
    }
    ck_assert_uint_eq(get64(store, HEADER_BACKING_FILE_OFFSET), 0);
    header_free(header);
    store_close(store);
}
END_TEST

START_TEST(what_lies_behind_all_that_is_used_is_left_alone)
{
    struct store *store = make_default();
    struct header *header = read_header(store);

    memcpy(memory_store_data(store) + 60000, "slack", 5);
    rewrite(store, header);
    ck_assert_mem_eq(memory_store_data(store) + 60000, "slack", 5);
    header_free(header);
    store_close(store);
}
END_TEST

START_TEST(version_3_becomes_version_2_and_back)
{
    struct builder_options options = builder_defaults();
    struct builder *builder = builder_create(&options);
    struct header *header, *two, *three;
    struct store *store;

    builder_extension(builder, UNKNOWN_EXTENSION, "kept", 4);
    store = builder_store(builder);
    header = read_header(store);
    set_string(&header->backing_file, "base");
    header->version = 2;
    rewrite(store, header);
    two = read_header(store);
    ck_assert_uint_eq(two->version, 2);
    ck_assert_uint_eq(two->header_length, 72);
    ck_assert_uint_eq(two->unknown_extensions, 1);
    ck_assert_str_eq(two->backing_file, "base");
    ck_assert(!cluster_has(store, 65536, "dirty bit"));
    two->version = 3;
    rewrite(store, two);
    three = read_header(store);
    ck_assert_uint_eq(three->version, 3);
    ck_assert_uint_eq(three->header_length, 112);
    ck_assert_uint_eq(three->refcount_order, 4);
    ck_assert_uint_eq(three->unknown_extensions, 1);
    ck_assert(cluster_has(store, 65536, "dirty bit"));
    header_free(header);
    header_free(two);
    header_free(three);
    store_close(store);
    builder_destroy(builder);
}
END_TEST

/* --- What fits, and what does not --------------------------------------------------------- */

static struct header small_header(uint32_t cluster_bits)
{
    return (struct header){
        .version = 3,
        .cluster_bits = cluster_bits,
        .cluster_size = UINT64_C(1) << cluster_bits,
        .refcount_order = 4,
        .refcount_table_clusters = 1,
        .refcount_table_offset = UINT64_C(1) << cluster_bits,
        .header_length = 112,
    };
}

START_TEST(a_name_of_1023_bytes_is_written_and_one_more_is_refused)
{
    struct header header = small_header(16), *after;
    char name[1025] = "";
    struct store *store;

    memset(name, 'n', 1023);
    header.backing_file = name;
    store = write_fresh(&header);
    after = read_good(store);
    ck_assert_str_eq(after->backing_file, name);
    header_free(after);
    name[1023] = 'n';
    expect_encode_fails(&header, ENAMETOOLONG, "1024 bytes long");
}
END_TEST

START_TEST(a_format_name_of_16_bytes_is_refused)
{
    struct header header = small_header(16);
    char base[] = "base", format[] = "a-very-long-name";

    header.backing_file = base;
    header.backing_format = format;
    expect_encode_fails(&header, ENAMETOOLONG, "16 bytes long");
}
END_TEST

START_TEST(feature_names_give_way_in_a_small_cluster)
{
    struct header header = small_header(9), *after;
    char name[393] = "";
    struct store *store;

    memset(name, 'n', 392); /* 112 + 8 + 392: all of it */
    header.backing_file = name;
    store = write_fresh(&header);
    ck_assert(!cluster_has(store, 512, "dirty bit"));
    after = read_good(store);
    ck_assert_str_eq(after->backing_file, name);
    header_free(after);
}
END_TEST

START_TEST(what_does_not_fit_into_the_cluster_is_refused)
{
    struct header header = small_header(9);
    char name[394] = "";

    memset(name, 'n', 393);
    header.backing_file = name;
    expect_encode_fails(&header, ENOSPC, "512 bytes");
}
END_TEST

START_TEST(version_2_takes_no_features)
{
    struct header header = small_header(16);

    header.version = 2;
    header.compatible_features = COMPATIBLE_LAZY_REFCOUNTS;
    expect_encode_fails(&header, EINVAL, "compat=1.1");
    header.compatible_features = 0;
    header.refcount_order = 3;
    expect_encode_fails(&header, EINVAL, "compat=1.1");
}
END_TEST

START_TEST(errors_of_the_file_are_returned)
{
    struct store *store = make_default();
    struct header *header = read_header(store);
    struct header_rest rest;
    struct error error = {0};

    memory_store_fail(store, MEMORY_STORE_READ, 1, EIO);
    ck_assert_int_eq(header_rest_read(store, header, "name", &rest, &error), -EIO);
    ck_assert_msg(strncmp(error.text, "name: ", 6) == 0, "%s", error.text);
    memory_store_fail(store, MEMORY_STORE_WRITE, 1, ENOSPC);
    ck_assert_int_eq(header_write(store, header, NULL, "name", &error), -ENOSPC);
    header_free(header);
    store_close(store);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("header-write");
    TCase *tcase = tcase_create("header-write");

    tcase_add_test(tcase, every_field_survives_being_written_anew);
    tcase_add_test(tcase, every_field_of_version_2_survives_being_written_anew);
    tcase_add_test(tcase, nothing_but_the_first_cluster_is_written_and_in_one_write);
    tcase_add_test(tcase, a_header_that_is_written_twice_is_the_same_bytes);
    tcase_add_test(tcase, unknown_extensions_are_kept_byte_for_byte);
    tcase_add_test(tcase, header_fields_that_are_unknown_are_kept);
    tcase_add_test(tcase, a_header_of_104_bytes_stays_one);
    tcase_add_test(tcase, the_feature_name_table_of_another_program_is_kept);
    tcase_add_test(tcase,
                   bitmaps_that_another_program_did_not_keep_up_to_date_are_kept_as_they_are);
    tcase_add_test(tcase, an_extension_whose_padding_is_cut_off_is_kept);
    tcase_add_test(tcase, nothing_of_a_longer_name_stays_behind);
    tcase_add_test(tcase, what_lies_behind_all_that_is_used_is_left_alone);
    tcase_add_test(tcase, version_3_becomes_version_2_and_back);
    tcase_add_test(tcase, a_name_of_1023_bytes_is_written_and_one_more_is_refused);
    tcase_add_test(tcase, a_format_name_of_16_bytes_is_refused);
    tcase_add_test(tcase, feature_names_give_way_in_a_small_cluster);
    tcase_add_test(tcase, what_does_not_fit_into_the_cluster_is_refused);
    tcase_add_test(tcase, version_2_takes_no_features);
    tcase_add_test(tcase, errors_of_the_file_are_returned);
    suite_add_tcase(suite, tcase);
    return suite_main(suite);
}
