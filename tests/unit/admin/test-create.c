/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "admin/create.h"
#include "codec/codec.h"
#include "memory_store.h"
#include "meta/format.h"
#include "suite.h"
#include "writer_case.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define NAME "new.qcow2"

static struct create_parameters defaults(void)
{
    return (struct create_parameters){
        .size = 1 << 20,
        .version = 3,
        .cluster_size = CREATE_CLUSTER_SIZE_DEFAULT,
        .refcount_bits = CREATE_REFCOUNT_BITS_DEFAULT,
    };
}

static void make_plan(const struct create_parameters *parameters, struct create_plan *plan)
{
    struct error error = {0};
    int result = create_plan_make(parameters, NAME, plan, &error);

    ck_assert_msg(result == 0, "%s", error.text);
}

static struct create_target target_of(struct store *file, struct store *data_file)
{
    return (struct create_target){
        .name = NAME, .file = file, .data_file = data_file, .data_name = "data"};
}

/* An image in memory; its writes are in `log`, if that is not NULL. */
static struct store *make(const struct create_parameters *parameters, struct memory_log *log)
{
    struct error error = {0};
    struct create_plan plan;
    struct store *file = memory_store_create(0);
    struct store *data = parameters->data_file != NULL ? memory_store_create(0) : NULL;
    struct create_target target = target_of(file, data);
    int result;

    memory_store_set_log(file, log);
    make_plan(parameters, &plan);
    result = create_write(&plan, &target, &error);
    ck_assert_msg(result == 0, "%s", error.text);
    ck_assert_uint_eq(memory_store_size(file), plan.file_size);
    if (data != NULL) {
        ck_assert_uint_eq(memory_store_size(data), plan.header.virtual_size);
    }
    memory_store_set_log(file, NULL);
    store_close(data);
    create_plan_release(&plan);
    return file;
}

static void expect_refused(const struct create_parameters *parameters, int code, const char *option,
                           const char *remedy)
{
    struct error error = {0};
    struct create_plan plan;
    int result = create_plan_make(parameters, NAME, &plan, &error);

    ck_assert_int_eq(result, -code);
    ck_assert_msg(strncmp(error.text, NAME ": ", strlen(NAME ": ")) == 0, "%s", error.text);
    ck_assert_msg(strstr(error.text, option) != NULL, "%s: no '%s'", error.text, option);
    ck_assert_msg(strstr(error.text, remedy) != NULL, "%s: no '%s'", error.text, remedy);
    ck_assert_ptr_null(plan.first_cluster);
}

/* --- Images ------------------------------------------------------------------------------ */

/* Geometries: the number of the test is taken apart. */
static const uint64_t sizes[] = {0, 512, 1000, 65536, 1 << 20, (UINT64_C(1) << 30) + 512};

START_TEST(an_image_of_any_geometry_is_in_order)
{
    struct create_parameters parameters = defaults();
    uint64_t cluster_bits = 9 + (uint64_t)_i % 13, refcount_order = (uint64_t)_i / 13;

    parameters.cluster_size = UINT64_C(1) << cluster_bits;
    parameters.refcount_bits = UINT64_C(1) << refcount_order;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        struct store *file;

        parameters.size = sizes[i];
        file = make(&parameters, NULL);
        expect_sound(file, false);
        store_close(file);
    }
}
END_TEST

START_TEST(a_preallocated_image_of_any_geometry_is_in_order)
{
    struct create_parameters parameters = defaults();
    uint64_t cluster_bits = 9 + (uint64_t)_i % 13, refcount_order = (uint64_t)_i / 13;
    /* More than one L2 table, and more than one refcount block where the clusters are small. */
    uint64_t size = (UINT64_C(1) << (cluster_bits < 13 ? 3 * cluster_bits - 10 : 25)) + 512;

    parameters.cluster_size = UINT64_C(1) << cluster_bits;
    parameters.refcount_bits = UINT64_C(1) << refcount_order;
    parameters.preallocation = PREALLOCATION_METADATA;
    parameters.size = size;
    parameters.extended_l2 = cluster_bits >= 14 && _i % 2 == 0;
    struct store *file = make(&parameters, NULL);

    expect_sound(file, false);
    store_close(file);
}
END_TEST

/* All clusters of the disk have their places, one behind the other, and read as zeros. */
START_TEST(preallocated_clusters_lie_in_order_and_are_written_in_place)
{
    struct create_parameters parameters = defaults();
    struct writer_case subject;
    struct store *file;
    uint64_t size;

    parameters.preallocation = (enum preallocation)_i;
    parameters.version = _i == PREALLOCATION_FULL ? 2 : 3;
    file = make(&parameters, NULL);
    size = memory_store_size(file);
    for (uint64_t at = 65536; at < parameters.size; at += 65536) {
        ck_assert_uint_eq(disk_l2_entry(file, at), disk_l2_entry(file, at - 65536) + 65536);
    }
    writer_case_open(&subject, file, NULL);
    expect_zeros(&subject, 0, 1 << 20);
    expect_write(&subject, 100000, 200000, 7);
    expect_pattern(&subject, 100000, 200000, 7, 0);
    expect_zeros(&subject, 0, 100000);
    expect_zeros(&subject, 300000, (1 << 20) - 300000);
    file = writer_case_end(&subject, NULL);
    ck_assert_uint_eq(memory_store_size(file), size);
    expect_sound(file, false);
    store_close(file);
}
END_TEST

START_TEST(preallocated_subclusters_are_not_allocated_until_written)
{
    struct create_parameters parameters = defaults();
    struct writer_case subject;
    struct store *file;

    parameters.preallocation = PREALLOCATION_METADATA;
    parameters.extended_l2 = true;
    file = make(&parameters, NULL);
    ck_assert_uint_ne(disk_u64(file, disk_u64(file, 3 * 65536) & ENTRY_HOST_OFFSET_MASK), 0);
    writer_case_open(&subject, file, NULL);
    expect_zeros(&subject, 0, 1 << 20);
    expect_write(&subject, 70000, 10, 3);
    expect_zeros(&subject, 0, 70000);
    file = writer_case_end(&subject, NULL);
    expect_sound(file, false);
    store_close(file);
}
END_TEST

START_TEST(the_header_says_what_was_asked_for)
{
    struct create_parameters parameters = defaults();
    struct error error = {0};
    struct header *header;
    struct store *file;

    parameters.size = 1000001;
    parameters.lazy_refcounts = true;
    parameters.extended_l2 = true;
    parameters.backing_file = "base.qcow2";
    parameters.backing_format = "qcow2";
    parameters.data_file = "data.raw";
    file = make(&parameters, NULL);
    ck_assert_int_eq(header_read(file, memory_store_size(file), NAME, &header, &error), 0);
    ck_assert_uint_eq(header->virtual_size, 1000448); /* of whole sectors */
    ck_assert_uint_eq(header->compatible_features, COMPATIBLE_LAZY_REFCOUNTS);
    ck_assert_uint_eq(header->incompatible_features,
                      INCOMPATIBLE_EXTENDED_L2 | INCOMPATIBLE_EXTERNAL_DATA_FILE);
    ck_assert_uint_eq(header->autoclear_features, 0);
    ck_assert_str_eq(header->backing_file, "base.qcow2");
    ck_assert_str_eq(header->backing_format, "qcow2");
    ck_assert_str_eq(header->data_file, "data.raw");
    header_free(header);
    store_close(file);
}
END_TEST

START_TEST(a_raw_data_file_is_mapped_as_a_whole_and_shows_what_it_holds)
{
    struct create_parameters parameters = defaults();
    struct error error = {0};
    struct create_plan plan;
    struct store *file = memory_store_create(0), *data = memory_store_from("the first bytes", 15);
    struct create_target target = target_of(file, data);

    parameters.data_file = "data.raw";
    parameters.data_file_raw = true;
    parameters.extended_l2 = _i == 1;
    target.keep_data = true;
    make_plan(&parameters, &plan);
    ck_assert_int_eq(create_write(&plan, &target, &error), 0);
    ck_assert_uint_eq(memory_store_size(data), 1 << 20);
    ck_assert_mem_eq(memory_store_data(data), "the first bytes", 16);
    for (uint64_t cluster = 0; cluster < 16; cluster++) {
        uint64_t at = plan.l2_offset + cluster * plan.header.l2_entry_bytes;

        ck_assert_uint_eq(disk_u64(file, at), cluster << 16 | ENTRY_COPIED);
        if (parameters.extended_l2) {
            ck_assert_uint_eq(disk_u64(file, at + 8), UINT32_MAX);
        }
    }
    expect_sound(file, false);
    create_plan_release(&plan);
    store_close(data);
    store_close(file);
}
END_TEST

START_TEST(the_bytes_of_a_device_do_not_show)
{
    struct create_parameters parameters = defaults();
    struct error error = {0};
    struct create_plan plan;
    struct store *file = memory_store_create(8 << 20);
    struct create_target target = target_of(file, NULL);
    struct writer_case subject;

    builder_pattern(memory_store_data(file), 8 << 20, 1);
    parameters.preallocation = (enum preallocation)_i;
    target.is_device = true;
    make_plan(&parameters, &plan);
    ck_assert_int_eq(create_write(&plan, &target, &error), 0);
    ck_assert_uint_eq(memory_store_size(file), 8 << 20);
    create_plan_release(&plan);
    writer_case_open(&subject, file, NULL);
    expect_zeros(&subject, 0, 1 << 20);
    file = writer_case_end(&subject, NULL);
    expect_sound(file, false);
    store_close(file);
}
END_TEST

/* --- What a crash leaves --------------------------------------------------------------------- */

static bool has_magic(struct store *file)
{
    uint8_t magic[4];

    ck_assert_int_eq(store_read(file, 0, magic, sizeof(magic)), 0);
    return load_be32(magic) == QCOW_MAGIC;
}

static void expect_no_half_image(struct memory_log *log, const struct store *of, size_t prefix,
                                 struct store *before)
{
    struct store *state = memory_store_from(memory_store_data(before), memory_store_size(before));

    memory_log_replay(log, 0, prefix, of, state);
    if (has_magic(state)) {
        expect_sound(state, false);
        ck_assert_uint_ge(prefix + 1,
                          memory_log_count(log)); /* only the last sync may be missing */
    }
    store_close(state);
}

START_TEST(every_prefix_of_the_writes_is_no_image_or_all_of_it)
{
    struct memory_log *log = memory_log_create();
    struct create_parameters parameters = defaults();
    struct store *file, *before = memory_store_create(0);

    parameters.preallocation = (enum preallocation)(_i % 4);
    parameters.extended_l2 = _i >= 4;
    file = make(&parameters, log);
    for (size_t prefix = 0; prefix <= memory_log_count(log); prefix++) {
        expect_no_half_image(log, file, prefix, before);
    }
    ck_assert(has_magic(file));
    store_close(before);
    store_close(file);
    memory_log_destroy(log);
}
END_TEST

START_TEST(all_is_stable_before_the_header_is_written_and_so_is_that)
{
    struct memory_log *log = memory_log_create();
    struct create_parameters parameters = defaults();
    struct store *file = make(&parameters, log);
    size_t count = memory_log_count(log);

    ck_assert_int_eq(memory_log_at(log, count - 1)->kind, MEMORY_LOG_SYNC);
    ck_assert_int_eq(memory_log_at(log, count - 2)->kind, MEMORY_LOG_WRITE);
    ck_assert_uint_eq(memory_log_at(log, count - 2)->offset, 0);
    ck_assert_int_eq(memory_log_at(log, count - 3)->kind, MEMORY_LOG_SYNC);
    store_close(file);
    memory_log_destroy(log);
}
END_TEST

/* The old image of a device is no image any more before anything else of it is overwritten. */
START_TEST(every_prefix_on_a_device_with_an_old_image_is_no_image_or_all_of_it)
{
    struct memory_log *log = memory_log_create();
    struct create_parameters parameters = defaults();
    struct store *before, *file = make(&parameters, NULL);
    struct error error = {0};
    struct create_plan plan;
    struct create_target target = target_of(file, NULL);

    ck_assert_int_eq(store_resize(file, 4 << 20), 0);
    before = memory_store_from(memory_store_data(file), memory_store_size(file));
    memory_store_set_log(file, log);
    parameters.cluster_size = 4096;
    parameters.preallocation = PREALLOCATION_FALLOC;
    target.is_device = true;
    make_plan(&parameters, &plan);
    ck_assert_int_eq(create_write(&plan, &target, &error), 0);
    create_plan_release(&plan);
    ck_assert_int_eq(memory_log_at(log, 1)->kind, MEMORY_LOG_SYNC); /* the old header is gone */
    for (size_t prefix = 1; prefix <= memory_log_count(log); prefix++) {
        expect_no_half_image(log, file, prefix, before);
    }
    store_close(before);
    store_close(file);
    memory_log_destroy(log);
}
END_TEST

static int make_with_failure(enum memory_store_call call, unsigned n, struct error *error,
                             struct store **file)
{
    struct create_parameters parameters = defaults();
    struct create_plan plan;
    struct create_target target;
    int result;

    *file = memory_store_create(0);
    target = target_of(*file, NULL);
    parameters.preallocation = PREALLOCATION_FULL;
    make_plan(&parameters, &plan);
    memory_store_fail(*file, call, n, ENOSPC);
    result = create_write(&plan, &target, error);
    create_plan_release(&plan);
    return result;
}

START_TEST(a_failure_of_any_call_is_returned_and_leaves_no_image)
{
    static const enum memory_store_call calls[] = {MEMORY_STORE_WRITE, MEMORY_STORE_SYNC,
                                                   MEMORY_STORE_RESIZE};
    for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
        unsigned n = 1;

        for (;; n++) {
            struct error error = {0};
            struct store *file;
            int result = make_with_failure(calls[i], n, &error, &file);

            if (result == 0) { /* it has fewer calls */
                store_close(file);
                break;
            }
            ck_assert_int_eq(result, -ENOSPC);
            ck_assert_int_eq(error.code, ENOSPC);
            ck_assert(!has_magic(file) || calls[i] == MEMORY_STORE_SYNC);
            store_close(file);
        }
        ck_assert_uint_gt(n, 1);
    }
}
END_TEST

static bool stop_now(void *context)
{
    unsigned *left = context;

    return (*left)-- == 0;
}

START_TEST(being_stopped_leaves_no_image)
{
    unsigned left = (unsigned)_i;
    struct create_parameters parameters = defaults();
    struct error error = {0};
    struct create_plan plan;
    struct store *file = memory_store_create(0);
    struct create_target target = target_of(file, NULL);

    target.stop = stop_now;
    target.context = &left;
    parameters.preallocation = PREALLOCATION_FULL;
    make_plan(&parameters, &plan);
    ck_assert_int_eq(create_write(&plan, &target, &error), -EINTR);
    ck_assert(!has_magic(file));
    create_plan_release(&plan);
    store_close(file);
}
END_TEST

/* --- What is impossible ------------------------------------------------------------------------
 */

START_TEST(options_of_version_3_are_refused_for_version_2)
{
    struct create_parameters parameters = defaults();

    parameters.version = 2;
    parameters.lazy_refcounts = true;
    expect_refused(&parameters, EINVAL, "lazy refcounts need compatibility level 1.1",
                   "compat=1.1");
    parameters.lazy_refcounts = false;
    parameters.extended_l2 = true;
    expect_refused(&parameters, EINVAL, "extended_l2=on", "compat=1.1");
    parameters.extended_l2 = false;
    parameters.compression_type = COMPRESSION_ZSTD;
    expect_refused(&parameters, EINVAL, "compression_type=zstd", "compat=1.1");
    parameters.compression_type = COMPRESSION_DEFLATE;
    parameters.refcount_bits = 8;
    expect_refused(&parameters, EINVAL, "refcount_bits=8", "compat=1.1");
    parameters.refcount_bits = 16;
    parameters.data_file = "d.raw";
    expect_refused(&parameters, EINVAL, "data_file=d.raw", "compat=1.1");
}
END_TEST

START_TEST(numbers_that_the_format_has_not_are_refused)
{
    static const uint64_t clusters[] = {0, 1, 256, 1000, 65537, 4 << 20, UINT64_C(1) << 63};
    static const uint64_t widths[] = {0, 3, 17, 128};
    struct create_parameters parameters = defaults();

    for (size_t i = 0; i < sizeof(clusters) / sizeof(clusters[0]); i++) {
        char text[64];

        snprintf(text, sizeof(text), "cluster_size=%" PRIu64 " ", clusters[i]);
        parameters.cluster_size = clusters[i];
        expect_refused(&parameters, EINVAL, text, "512 bytes to 2 MiB");
    }
    parameters.cluster_size = 65536;
    for (size_t i = 0; i < sizeof(widths) / sizeof(widths[0]); i++) {
        char text[64];

        snprintf(text, sizeof(text), "refcount_bits=%" PRIu64 " ", widths[i]);
        parameters.refcount_bits = widths[i];
        expect_refused(&parameters, EINVAL, text, "64 bits");
    }
}
END_TEST

START_TEST(combinations_that_exclude_each_other_are_refused)
{
    struct create_parameters parameters = defaults();

    parameters.extended_l2 = true;
    parameters.cluster_size = 8192;
    expect_refused(&parameters, EINVAL, "cluster_size=8192", "cluster_size=16k");
    parameters = defaults();
    parameters.data_file_raw = true;
    expect_refused(&parameters, EINVAL, "data_file_raw=on", "add data_file=PATH");
    parameters.data_file = "d";
    parameters.backing_file = "b";
    expect_refused(&parameters, EINVAL, "leave out data_file_raw=on", "the backing file b");
    parameters = defaults();
    parameters.backing_file = "b";
    parameters.preallocation = PREALLOCATION_METADATA;
    expect_refused(&parameters, EINVAL, "backing file b", "extended_l2=on");
    parameters = defaults();
    parameters.backing_format = "raw";
    expect_refused(&parameters, EINVAL, "backing format raw", "-b");
    parameters = defaults();
    parameters.backing_file = "";
    expect_refused(&parameters, EINVAL, "backing file is empty", "-b");
    parameters = defaults();
    parameters.data_file = "";
    expect_refused(&parameters, EINVAL, "data file is empty", "data_file=PATH");
}
END_TEST

START_TEST(sizes_past_the_limits_of_the_format_are_refused)
{
    struct create_parameters parameters = defaults();
    struct create_plan plan;

    parameters.cluster_size = 512;
    parameters.size = UINT64_C(128) << 30;
    make_plan(&parameters, &plan);
    ck_assert_uint_eq(plan.header.l1_entries, 1 << 22);
    create_plan_release(&plan);
    parameters.size += 512;
    expect_refused(&parameters, EFBIG, "32 MiB", "larger cluster_size");
    parameters.cluster_size = 2 << 20;
    parameters.size = UINT64_C(1) << 61;
    make_plan(&parameters, &plan);
    create_plan_release(&plan);
    parameters.data_file = "d";
    expect_refused(&parameters, EFBIG, "2^56 bytes", "smaller size");
    parameters.data_file = NULL;
    parameters.size = INT64_MAX;
    expect_refused(&parameters, EFBIG, "2^63", "smaller size");
    parameters.size = UINT64_C(1) << 55;
    parameters.refcount_bits = 64;
    parameters.cluster_size = 65536;
    expect_refused(&parameters, EFBIG, "32 MiB", "larger cluster_size");
    parameters.size = UINT64_C(1) << 50;
    parameters.preallocation = PREALLOCATION_METADATA;
    expect_refused(&parameters, EFBIG, "8 MiB", "preallocation=off");
}
END_TEST

START_TEST(names_that_do_not_fit_are_refused)
{
    struct create_parameters parameters = defaults();
    char name[1025] = "";

    memset(name, 'n', 1024);
    parameters.backing_file = name;
    parameters.backing_format = "raw";
    expect_refused(&parameters, ENAMETOOLONG, "1024 bytes", "shorter path");
    name[1000] = '\0';
    parameters.cluster_size = 1024;
    expect_refused(&parameters, ENOSPC, "1024 bytes", "larger clusters");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("create");
    TCase *tcase = tcase_create("create");

    tcase_add_loop_test(tcase, an_image_of_any_geometry_is_in_order, 0, 13 * 7);
    tcase_add_loop_test(tcase, a_preallocated_image_of_any_geometry_is_in_order, 0, 13 * 7);
    tcase_add_loop_test(tcase, preallocated_clusters_lie_in_order_and_are_written_in_place,
                        PREALLOCATION_METADATA, PREALLOCATION_FULL + 1);
    tcase_add_test(tcase, preallocated_subclusters_are_not_allocated_until_written);
    tcase_add_test(tcase, the_header_says_what_was_asked_for);
    tcase_add_loop_test(tcase, a_raw_data_file_is_mapped_as_a_whole_and_shows_what_it_holds, 0, 2);
    tcase_add_loop_test(tcase, the_bytes_of_a_device_do_not_show, PREALLOCATION_OFF,
                        PREALLOCATION_FULL + 1);
    tcase_add_loop_test(tcase, every_prefix_of_the_writes_is_no_image_or_all_of_it, 0, 8);
    tcase_add_test(tcase, all_is_stable_before_the_header_is_written_and_so_is_that);
    tcase_add_test(tcase, every_prefix_on_a_device_with_an_old_image_is_no_image_or_all_of_it);
    tcase_add_test(tcase, a_failure_of_any_call_is_returned_and_leaves_no_image);
    tcase_add_loop_test(tcase, being_stopped_leaves_no_image, 0, 4);
    tcase_add_test(tcase, options_of_version_3_are_refused_for_version_2);
    tcase_add_test(tcase, numbers_that_the_format_has_not_are_refused);
    tcase_add_test(tcase, combinations_that_exclude_each_other_are_refused);
    tcase_add_test(tcase, sizes_past_the_limits_of_the_format_are_refused);
    tcase_add_test(tcase, names_that_do_not_fit_are_refused);
    suite_add_tcase(suite, tcase);
    return suite_main(suite);
}
