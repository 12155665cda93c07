/* SPDX-License-Identifier: MIT */
/* Where SEEK_DATA and SEEK_HOLE find data and holes. */
#include "config.h"

#include "assemble.h"
#include "builder.h"
#include "disk/view.h"
#include "memory_store.h"
#include "meta/format.h"
#include "suite.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define K UINT64_C(1024)
#define M (K * K)

static struct view *open_view(struct image *image)
{
    struct view *view;

    assemble_cache(image, 0);
    ck_assert_int_eq(view_open_active(image, &view), 0);
    return view;
}

static void close_view(struct image *image, struct view *view)
{
    view_close(view);
    image_close(image);
}

/* What the map does not reach is a hole. */
static bool is_data(const char *map, uint64_t index)
{
    return index < strlen(map) && map[index] == 'D';
}

/* The answers that a map of `unit` bytes a character gives: D data, all else a hole. */
static void expect_map(struct view *view, const char *map, uint64_t unit, uint64_t step)
{
    uint64_t size = view_size(view);

    for (uint64_t at = 0; at < size; at += step) {
        for (int want_data = 0; want_data < 2; want_data++) {
            uint64_t index = at / unit, found = 0, expected = at;
            int result = view_seek(view, at, want_data != 0, NULL, &found);

            while (expected < size && is_data(map, index) != (want_data != 0)) {
                expected = ++index * unit;
            }
            if (expected >= size && want_data != 0) {
                ck_assert_int_eq(result, -ENXIO);
                continue;
            }
            expected = expected < size ? expected : size;
            ck_assert_msg(result == 0 && found == expected,
                          "%s from %llu: %d, at %llu instead of %llu",
                          want_data != 0 ? "data" : "hole", (unsigned long long)at, result,
                          (unsigned long long)found, (unsigned long long)expected);
        }
    }
    for (int want_data = 0; want_data < 2; want_data++) {
        uint64_t found;

        ck_assert_int_eq(view_seek(view, size, want_data != 0, NULL, &found), -ENXIO);
        ck_assert_int_eq(view_seek(view, UINT64_MAX, want_data != 0, NULL, &found), -ENXIO);
    }
}

/* Clusters: D data, d data whose host cluster is zeros but for its end, h all zeros there. */
static struct builder *build_map(const struct builder_options *options, const char *map)
{
    struct builder *builder = builder_create(options);
    uint64_t size = builder_cluster_size(builder);
    uint8_t *bytes = calloc(1, size);

    for (uint64_t i = 0; i < strlen(map); i++) {
        memset(bytes, 0, size);
        switch (map[i]) {
        case 'D':
            memset(bytes, 'x', size);
            builder_data(builder, i * size, bytes, size);
            break;
        case 'd':
            bytes[size - 1] = 'x';
            builder_data(builder, i * size, bytes, size);
            break;
        case 'h':
            builder_data(builder, i * size, bytes, size);
            break;
        case 'C':
            builder_compressed(builder, i * size, bytes, 0);
            break;
        case 'z':
        case 'p':
            builder_zero(builder, i * size, map[i] == 'p');
            break;
        default:
            break;
        }
    }
    free(bytes);
    return builder;
}

static struct builder_options options_for(uint32_t cluster_bits, uint64_t virtual_size)
{
    struct builder_options options = builder_defaults();

    options.cluster_bits = cluster_bits;
    options.virtual_size = virtual_size;
    return options;
}

START_TEST(each_kind_is_data_or_a_hole_on_a_host_that_cannot_tell)
{
    struct builder_options options = options_for(16, 15 * 64 * K + 1000);
    struct image *image = assemble_built(build_map(&options, "-DdhC-zpDD--hC-d"), 0, NULL);
    struct view *view = open_view(image);

    expect_map(view, "-DDDD---DD--DD-D", 64 * K, 4096 - 1);
    close_view(image, view);
}
END_TEST

START_TEST(a_data_cluster_that_is_a_hole_of_the_host_as_a_whole_is_a_hole)
{
    struct builder_options options = options_for(16, 15 * 64 * K + 1000);
    struct image *image = assemble_built(build_map(&options, "-DdhC-zphDhh-hCd"), 0, NULL);
    struct view *view = open_view(image);

    memory_store_set_sparse(image->file, true);
    expect_map(view, "-DD-D----D----DD", 64 * K, 4096 - 1);
    close_view(image, view);
}
END_TEST

/* The window of the search ends inside clusters of 2 MiB; the answer may not depend on it. */
START_TEST(a_cluster_is_judged_as_a_whole_wherever_the_search_began)
{
    struct builder_options options = options_for(21, 20 * M);
    struct image *image = assemble_built(build_map(&options, "hdhhdDhhhd"), 0, NULL);
    struct view *view = open_view(image);

    memory_store_set_sparse(image->file, true);
    expect_map(view, "-D--DD---D", 2 * M, 512 * K - 4096);
    close_view(image, view);
}
END_TEST

START_TEST(a_cluster_is_judged_as_a_whole_where_the_overlay_covers_a_part_of_it)
{
    struct builder_options options = options_for(16, 3 * 64 * K);
    struct image *backing = assemble_built(build_map(&options, "dhd"), 1, NULL);
    struct image *image;
    struct view *view;

    options = options_for(12, 3 * 64 * K);
    image = assemble_built(build_map(&options, "-z--------------D---D-----------hh"), 0, NULL);
    assemble_behind(image, backing);
    view = open_view(image);
    memory_store_set_sparse(image->file, true);
    memory_store_set_sparse(backing->file, true);
    expect_map(view, "D-DDDDDDDDDDDDDDD---D-------------DDDDDDDDDDDDDD", 4096, 1000);
    close_view(image, view);
}
END_TEST

START_TEST(subclusters_are_judged_one_by_one)
{
    struct builder_options options = options_for(17, 2 * 128 * K); /* of 4 KiB */
    struct builder *builder;
    struct image *image;
    struct view *view;
    uint8_t *bytes = calloc(1, 128 * K);

    options.extended_l2 = true;
    memset(bytes + 8 * K, 'x', 4 * K); /* subcluster 2 of 0 - 4; 6 and 7 are zero */
    memset(bytes + 124 * K, 'x', 4 * K);
    builder = builder_create(&options);
    builder_subclusters(builder, 0, 0x8000001f, 0x000000c0, bytes, 128 * K);
    image = assemble_built(builder, 0, NULL);
    view = open_view(image);
    expect_map(view, "DDDDD--------------------------D", 4096, 1000);
    memory_store_set_sparse(image->file, true);
    expect_map(view, "--D----------------------------D", 4096, 1000);
    close_view(image, view);
    free(bytes);
}
END_TEST

START_TEST(a_raw_backing_image_has_the_holes_of_its_file)
{
    struct builder_options options = options_for(16, 4 * 64 * K);
    struct image *image = assemble_built(build_map(&options, "--z"), 0, NULL);
    struct store *raw = memory_store_create(3 * 64 * K + 5000);
    struct view *view;

    memset(memory_store_data(raw) + 8 * K, 'x', 1);
    memset(memory_store_data(raw) + 2 * 64 * K, 'x', 64 * K); /* covered */
    memset(memory_store_data(raw) + 3 * 64 * K + 4999, 'x', 1);
    memory_store_set_sparse(raw, true);
    assemble_behind(image, assemble_image(raw, IMAGE_RAW, 1, NULL));
    view = open_view(image);
    /* The file ends in the middle of its last block, and the data with it. */
    for (uint64_t at = 196 * K; at < 196 * K + 904; at += 100) {
        uint64_t found;

        ck_assert_int_eq(view_seek(view, at, false, NULL, &found), 0);
        ck_assert_uint_eq(found, 3 * 64 * K + 5000);
    }
    ck_assert_int_eq(store_resize(raw, 3 * 64 * K), 0);
    expect_map(view, "--D", 4096, 1000);
    close_view(image, view);
}
END_TEST

/* --- Long ways ----------------------------------------------------------------------------------
 */

START_TEST(an_empty_disk_is_crossed_a_tib_at_a_time)
{
    struct builder_options options = options_for(21, UINT64_C(1) << 51);
    struct image *image = assemble_built(builder_create(&options), 0, NULL);
    struct view *view = open_view(image);
    uint64_t found;

    /* 2 MiB at a time it would take hours. */
    ck_assert_int_eq(view_seek(view, 4097, true, NULL, &found), -ENXIO);
    ck_assert_int_eq(view_seek(view, 4097, false, NULL, &found), 0);
    ck_assert_uint_eq(found, 4097);
    close_view(image, view);
}
END_TEST

START_TEST(an_interrupted_search_ends_and_tells_how_far_it_came)
{
    struct builder_options options = options_for(16, UINT64_C(1) << 40);
    struct image *image = assemble_built(builder_create(&options), 0, NULL);
    struct view *view = open_view(image);
    uint64_t at = 0, found;
    struct stop stop;

    stop_init(&stop, NULL);
    stop_request(&stop);
    for (unsigned i = 0; i < 5; i++) {
        ck_assert_int_eq(view_seek(view, at, true, &stop, &found), -EINTR);
        ck_assert_uint_gt(found, at);
        ck_assert_uint_lt(found, view_size(view));
        at = found;
    }
    /* What is found at once is found. */
    ck_assert_int_eq(view_seek(view, at, false, &stop, &found), 0);
    ck_assert_uint_eq(found, at);
    ck_assert_int_eq(view_seek(view, view_size(view) - 1, true, &stop, &found), -ENXIO);
    close_view(image, view);
}
END_TEST

START_TEST(a_search_ends_at_what_cannot_be_read)
{
    struct builder_options options = options_for(16, 8 * 64 * K);
    struct builder *builder = build_map(&options, "DD-----D");
    struct log_lines lines;
    struct image *image;
    struct view *view;
    uint64_t found;

    builder_set_l2_entry(builder, 3 * 64 * K, 0x200, 0);
    log_lines_init(&lines);
    image = assemble_built(builder, 0, &lines.log);
    view = open_view(image);
    ck_assert_int_eq(view_seek(view, 0, false, NULL, &found), 0);
    ck_assert_uint_eq(found, 128 * K);
    ck_assert_int_eq(view_seek(view, 128 * K, true, NULL, &found), -EIO);
    ck_assert_ptr_nonnull(strstr(lines.text, "guest offset 0x30000 "));
    ck_assert_int_eq(view_seek(view, 256 * K, true, NULL, &found), 0);
    ck_assert_uint_eq(found, 7 * 64 * K);
    close_view(image, view);
    log_release(&lines.log);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("view, seeking");
    TCase *tcase = tcase_create("seek");

    tcase_add_test(tcase, each_kind_is_data_or_a_hole_on_a_host_that_cannot_tell);
    tcase_add_test(tcase, a_data_cluster_that_is_a_hole_of_the_host_as_a_whole_is_a_hole);
    tcase_add_test(tcase, a_cluster_is_judged_as_a_whole_wherever_the_search_began);
    tcase_add_test(tcase, a_cluster_is_judged_as_a_whole_where_the_overlay_covers_a_part_of_it);
    tcase_add_test(tcase, subclusters_are_judged_one_by_one);
    tcase_add_test(tcase, a_raw_backing_image_has_the_holes_of_its_file);
    tcase_add_test(tcase, an_empty_disk_is_crossed_a_tib_at_a_time);
    tcase_add_test(tcase, an_interrupted_search_ends_and_tells_how_far_it_came);
    tcase_add_test(tcase, a_search_ends_at_what_cannot_be_read);
    suite_add_tcase(suite, tcase);
    return suite_main(suite);
}
