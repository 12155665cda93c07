/* SPDX-License-Identifier: MIT */
/* What is read through a chain, and where SEEK_DATA and SEEK_HOLE find it; one thread. */
#include "config.h"

#include "assemble.h"
#include "builder.h"
#include "disk/view.h"
#include "memory_store.h"
#include "meta/format.h"
#include "suite.h"
#include "util/checked.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define K UINT64_C(1024)

/* --- A small image that has everything, over a chain of two ------------------------------- */

#define MIXED_SIZE (UINT64_C(24) * 512 + 100) /* 512-byte clusters, the last one in part */
#define MIDDLE     (UINT64_C(20) * 512 + 33)  /* the image behind it is shorter */
#define BOTTOM     (UINT64_C(13) * 512 + 7)   /* and a raw one behind that is shorter still */

struct mixed {
    struct log_lines lines;
    struct image *image;
    struct view *view;
    uint8_t expected[MIXED_SIZE];
};

static struct builder_options small_options(uint64_t virtual_size)
{
    struct builder_options options = builder_defaults();

    options.cluster_bits = 9;
    options.virtual_size = virtual_size;
    return options;
}

/* What reading must give from now on: `length` bytes at `guest_offset`, cut to the disk. */
static void expect_bytes(struct mixed *mixed, uint64_t guest_offset, const void *bytes,
                         uint64_t length, uint64_t size)
{
    if (guest_offset < size) {
        memcpy(mixed->expected + guest_offset, bytes, min_u64(length, size - guest_offset));
    }
}

/* Clusters of each kind at first, first + 1 ...; two in a row are left out. */
static void put_clusters(struct mixed *mixed, struct builder *builder, uint64_t size,
                         uint64_t first, uint32_t seed)
{
    uint8_t bytes[512], zeros[512] = {0};
    uint64_t at = first * 512, host;

    builder_pattern(bytes, 512, seed);
    builder_data(builder, at, bytes, 512);
    expect_bytes(mixed, at, bytes, 512, size);
    at += 512;
    builder_zero(builder, at, seed % 2 == 0);
    expect_bytes(mixed, at, zeros, 512, size);
    at += 512;
    builder_pattern(bytes, 512, seed + 1);
    host = builder_allocate(builder, 2);
    builder_compressed(builder, at, bytes, host + 512 - 9); /* across two host clusters */
    expect_bytes(mixed, at, bytes, 512, size);
    at += 512;
    builder_pattern(bytes, 512, seed + 2);
    builder_data(builder, at, bytes, 512);
    expect_bytes(mixed, at, bytes, 512, size);
}

/* From the bottom up, so that what lies above covers what was expected before. */
static void mixed_open(struct mixed *mixed)
{
    struct builder_options options = small_options(MIDDLE);
    struct image *middle, *bottom;
    struct builder *builder;
    uint8_t *raw = malloc(BOTTOM);

    memset(mixed->expected, 0, sizeof(mixed->expected));
    log_lines_init(&mixed->lines);
    builder_pattern(raw, BOTTOM, 1000);
    memcpy(mixed->expected, raw, BOTTOM);
    bottom = assemble_image(memory_store_from(raw, BOTTOM), IMAGE_RAW, 2, &mixed->lines.log);
    free(raw);

    builder = builder_create(&options);
    put_clusters(mixed, builder, MIDDLE, 1, 100);
    put_clusters(mixed, builder, MIDDLE, 9, 200);
    put_clusters(mixed, builder, MIDDLE, 17, 300);
    middle = assemble_built(builder, 1, &mixed->lines.log);

    options = small_options(MIXED_SIZE);
    builder = builder_create(&options);
    put_clusters(mixed, builder, MIXED_SIZE, 3, 401);
    put_clusters(mixed, builder, MIXED_SIZE, 10, 501);
    put_clusters(mixed, builder, MIXED_SIZE, 21, 601); /* its last cluster ends past the disk */
    mixed->image = assemble_built(builder, 0, &mixed->lines.log);
    assemble_behind(mixed->image, middle);
    assemble_behind(mixed->image, bottom);
    assemble_cache(mixed->image, 512);
    ck_assert_int_eq(view_open_active(mixed->image, &mixed->view), 0);
}

static void mixed_close(struct mixed *mixed)
{
    ck_assert_str_eq(mixed->lines.text, "");
    view_close(mixed->view);
    image_close(mixed->image);
    log_release(&mixed->lines.log);
}

/* A read, past the end of the view too, into a buffer that would show bytes written outside. */
static void expect_read(struct view *view, uint64_t guest_offset, size_t length,
                        const uint8_t *expected, uint64_t size)
{
    uint8_t buffer[4096 + 2];
    bool same = true;
    size_t i;
    int result;

    memset(buffer, 0x5a, sizeof(buffer));
    result = view_read(view, guest_offset, buffer + 1, length);
    for (i = 0; i < length && same; i++) {
        bool inside = guest_offset < size && i < size - guest_offset;

        same = buffer[i + 1] == (inside ? expected[guest_offset + i] : 0);
    }
    same = same && buffer[0] == 0x5a && buffer[length + 1] == 0x5a;
    /* libcheck's assertions take longer than all the rest, so one must do. */
    ck_assert_msg(result == 0 && same, "%zu bytes at %llu: %d; byte %zu is wrong", length,
                  (unsigned long long)guest_offset, result, i - 1);
}

START_TEST(every_offset_of_a_mixed_chain_reads_as_expected)
{
    static const size_t lengths[] = {1, 2, 511, 512, 513, 1024, 3000, 4096};
    struct mixed *mixed = malloc(sizeof(*mixed));

    mixed_open(mixed);
    ck_assert_uint_eq(view_size(mixed->view), MIXED_SIZE);
    for (uint64_t guest_offset = 0; guest_offset < MIXED_SIZE + 600; guest_offset++) {
        for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
            if (lengths[i] <= 2 || guest_offset % 7 == i % 7 || guest_offset % 512 < 2) {
                expect_read(mixed->view, guest_offset, lengths[i], mixed->expected, MIXED_SIZE);
            }
        }
    }
    mixed_close(mixed);
    free(mixed);
}
END_TEST

START_TEST(every_length_at_a_few_offsets_reads_as_expected)
{
    struct mixed *mixed = malloc(sizeof(*mixed));

    mixed_open(mixed);
    for (uint64_t guest_offset = 250; guest_offset < MIXED_SIZE; guest_offset += 1511) {
        for (size_t length = 0; length <= 4096; length++) {
            expect_read(mixed->view, guest_offset, length, mixed->expected, MIXED_SIZE);
        }
    }
    expect_read(mixed->view, MIXED_SIZE, 100, mixed->expected, MIXED_SIZE);
    expect_read(mixed->view, UINT64_MAX - 50, 100, mixed->expected, MIXED_SIZE);
    mixed_close(mixed);
    free(mixed);
}
END_TEST

START_TEST(extents_name_the_image_that_decided_them)
{
    struct mixed *mixed = malloc(sizeof(*mixed));
    struct view_extent found;

    mixed_open(mixed);
    ck_assert_int_eq(view_lookup(mixed->view, 100, K, &found), 0);
    ck_assert_int_eq(found.extent.kind, EXTENT_DATA); /* cluster 0: of the raw image alone */
    ck_assert_uint_eq(found.depth, 2);
    ck_assert_uint_eq(found.extent.host_offset, 100);
    ck_assert_uint_eq(found.extent.length, 412);
    ck_assert_int_eq(view_lookup(mixed->view, 1024, K, &found), 0);
    ck_assert_int_eq(found.extent.kind, EXTENT_ZERO);
    ck_assert_ptr_eq(found.image, mixed->image->backing);
    ck_assert_uint_eq(found.depth, 1);
    ck_assert_int_eq(view_lookup(mixed->view, 3 * 512, K, &found), 0);
    ck_assert_int_eq(found.extent.kind, EXTENT_DATA);
    ck_assert_uint_eq(found.depth, 0);
    ck_assert_int_eq(view_lookup(mixed->view, 14 * 512, 2 * K, &found), 0);
    ck_assert_int_eq(found.extent.kind, EXTENT_UNALLOCATED);
    ck_assert_ptr_null(found.image);
    ck_assert_uint_eq(found.extent.length, 3 * 512);
    mixed_close(mixed);
    free(mixed);
}
END_TEST

/* --- Snapshots ------------------------------------------------------------------------------- */

/* An active disk of 4 clusters, and a snapshot of 6 with 700 bytes of VM state. */
static struct image *open_snapshots(struct log *log)
{
    struct builder_options options = small_options(4 * 512);
    struct builder *builder = builder_create(&options);
    uint8_t bytes[512], raw[40 * K]; /* longer than the offset of the VM state */
    struct builder_snapshot snapshot = {
        .id = "1",
        .name = "s",
        .disk_size = 6 * 512,
        .vm_state_size = 700,
        .extra_data_size = 16,
    };
    struct image *image;

    builder_pattern(bytes, 512, 1);
    builder_data(builder, 0, bytes, 512);
    snapshot.l1 = builder_add_l1(builder, 2);
    builder_pattern(bytes, 512, 2);
    builder_data(builder, 5 * 512, bytes, 512);
    builder_pattern(bytes, 512, 3);
    builder_compressed(builder, 32 * K, bytes, 0); /* an L1 entry maps 32 KiB */
    builder_snapshot(builder, &snapshot);
    snapshot.vm_state_size = 64 * K;
    builder_snapshot(builder, &snapshot);
    image = assemble_built(builder, 0, log);
    builder_pattern(raw, sizeof(raw), 9);
    assemble_behind(image, assemble_image(memory_store_from(raw, sizeof(raw)), IMAGE_RAW, 1, log));
    assemble_cache(image, 0);
    return image;
}

START_TEST(a_snapshot_reads_as_its_own_disk_over_the_backing_image)
{
    struct image *image = open_snapshots(NULL);
    uint8_t expected[8 * 512], bytes[512];
    struct error error = {0};
    struct view *view;

    builder_pattern(expected, sizeof(expected), 9);
    builder_pattern(bytes, 512, 2);
    memcpy(expected + 5 * 512, bytes, 512);
    ck_assert_int_eq(view_open_snapshot(image, 0, &view, &error), 0);
    ck_assert_uint_eq(view_size(view), 6 * 512);
    for (uint64_t at = 0; at < 6 * 512; at += 97) {
        expect_read(view, at, 4096, expected, 6 * 512);
    }
    view_close(view);
    ck_assert_int_eq(view_open_active(image, &view), 0);
    ck_assert_uint_eq(view_size(view), 4 * 512);
    builder_pattern(expected, 512, 1);
    expect_read(view, 0, 4096, expected, 4 * 512);
    view_close(view);
    image_close(image);
}
END_TEST

START_TEST(the_vm_state_is_read_from_behind_the_disk_and_never_from_the_backing_image)
{
    struct image *image = open_snapshots(NULL);
    struct error error = {0};
    uint8_t expected[700] = {0};
    struct view *view;

    builder_pattern(expected, 512, 3);
    ck_assert_int_eq(view_open_vmstate(image, 0, &view, &error), 0);
    ck_assert_uint_eq(view_size(view), 700);
    for (uint64_t at = 0; at < 800; at += 13) {
        expect_read(view, at, 1000, expected, 700);
    }
    view_close(view);
    image_close(image);
}
END_TEST

START_TEST(an_impossible_vm_state_or_l1_table_is_not_opened)
{
    struct image *image = open_snapshots(NULL);
    struct error error = {0};
    struct view *view;

    ck_assert_int_eq(view_open_vmstate(image, 1, &view, &error), -EIO);
    ck_assert_ptr_null(view);
    ck_assert_msg(strstr(error.text, "65536 bytes") != NULL, "%s", error.text);
    ck_assert_int_eq(view_open_snapshot(image, 1, &view, &error), 0);
    view_close(view);
    image->snapshots->snapshots[1].l1_offset = 1 << 20;
    ck_assert_int_eq(view_open_snapshot(image, 1, &view, &error), -EIO);
    ck_assert_ptr_null(view);
    ck_assert_msg(strstr(error.text, "0x100000") != NULL, "%s", error.text);
    image_close(image);
}
END_TEST

/* --- The cache ------------------------------------------------------------------------------- */

START_TEST(clusters_of_two_images_at_one_host_offset_are_told_apart)
{
    struct builder_options options = builder_defaults();
    uint8_t *bytes = malloc(128 * K);
    struct image *images[2];
    struct view *view;

    for (uint64_t i = 0; i < 2; i++) {
        struct builder *builder = builder_create(&options);
        uint64_t host_offset = builder_allocate(builder, 1);

        builder_pattern(bytes + i * 64 * K, 64 * K, (uint32_t)i);
        ck_assert_uint_eq(host_offset, 128 * K);
        builder_compressed(builder, i * 64 * K, bytes + i * 64 * K, host_offset);
        images[i] = assemble_built(builder, i, NULL);
    }
    assemble_behind(images[0], images[1]);
    assemble_cache(images[0], 0);
    ck_assert_int_eq(view_open_active(images[0], &view), 0);
    for (uint64_t at = 0; at < 128 * K; at += 4096) {
        expect_read(view, at, 4096, bytes, 128 * K);
    }
    view_close(view);
    image_close(images[0]);
    free(bytes);
}
END_TEST

/* --- Errors --------------------------------------------------------------------------------------
 */

START_TEST(an_error_in_one_range_leaves_the_others_readable)
{
    struct builder_options options = builder_defaults();
    struct builder *builder = builder_create(&options);
    struct log_lines lines;
    struct image *image;
    struct view *view;
    uint8_t *bytes = calloc(1, 64 * K), buffer[512];
    uint64_t data, compressed;

    log_lines_init(&lines);
    data = builder_data(builder, 0, "first", 5);
    builder_set_l2_entry(builder, 64 * K, 0x7fff00000000, 0);
    builder_data(builder, 128 * K, "third", 5);
    compressed = builder_compressed(builder, 192 * K, bytes, 0);
    builder_data(builder, 256 * K, "fifth", 5);
    image = assemble_built(builder, 0, &lines.log);
    assemble_cache(image, 0);
    ck_assert_int_eq(view_open_active(image, &view), 0);
    memset(memory_store_data(image->file) + compressed, 0xff, 200); /* no deflate stream */

    ck_assert_int_eq(view_read(view, 100 * K, buffer, 512), -EIO);
    ck_assert_ptr_nonnull(strstr(lines.text, "memory.qcow2: guest offset 0x10000 "));
    ck_assert_ptr_nonnull(strstr(lines.text, "0x7fff00000000"));
    ck_assert_int_eq(view_read(view, 200 * K, buffer, 512), -EIO);
    ck_assert_ptr_nonnull(strstr(lines.text, "guest offset 0x32000 "));
    ck_assert_ptr_nonnull(strstr(lines.text, "does not inflate"));
    ck_assert_int_eq(view_read(view, 0, bytes, 64 * K), 0);
    ck_assert_mem_eq(bytes, "first", 6);
    ck_assert_int_eq(view_read(view, 0, bytes, 64 * K), 0);
    ck_assert_int_eq(view_read(view, 128 * K, bytes, 64 * K), 0);
    ck_assert_mem_eq(bytes, "third", 6);
    ck_assert_int_eq(view_read(view, 256 * K, bytes, 64 * K), 0);
    ck_assert_mem_eq(bytes, "fifth", 6);

    memory_store_fail_reads(image->file, data + 1024, 1, ENODATA);
    ck_assert_int_eq(view_read(view, 512, buffer, 512), 0);
    ck_assert_int_eq(view_read(view, 1000, buffer, 512), -EIO);
    ck_assert_ptr_nonnull(strstr(lines.text, strerror(ENODATA)));
    view_close(view);
    image_close(image);
    log_release(&lines.log);
    free(bytes);
}
END_TEST

START_TEST(a_bad_compressed_cluster_is_tried_again)
{
    struct builder_options options = builder_defaults();
    struct builder *builder = builder_create(&options);
    uint8_t *bytes = malloc(64 * K), *buffer = malloc(64 * K);
    struct image *image;
    struct view *view;
    uint64_t host;

    builder_pattern(bytes, 64 * K, 4);
    host = builder_compressed(builder, 0, bytes, 0);
    image = assemble_built(builder, 0, NULL);
    assemble_cache(image, 0);
    ck_assert_int_eq(view_open_active(image, &view), 0);
    memory_store_fail_reads(image->file, host, 1, EIO);
    ck_assert_int_eq(view_read(view, 0, buffer, 64 * K), -EIO);
    memory_store_fail_reads(image->file, 0, 0, 0);
    ck_assert_int_eq(view_read(view, 0, buffer, 64 * K), 0);
    ck_assert_mem_eq(buffer, bytes, 64 * K);
    view_close(view);
    image_close(image);
    free(bytes);
    free(buffer);
}
END_TEST

/* An entry that has too few sectors cannot be read, also when another one for them was. */
START_TEST(what_one_entry_inflates_to_is_not_shown_for_a_shorter_one)
{
    struct builder_options options = builder_defaults();
    struct builder *builder = builder_create(&options);
    uint8_t *bytes = malloc(64 * K);
    struct image *image;
    struct view *view;
    uint64_t host;

    builder_pattern(bytes, 64 * K, 4);
    host = builder_compressed(builder, 0, bytes, 0);
    builder_set_l2_entry(builder, 64 * K, L2_ENTRY_COMPRESSED | host, 0); /* one sector */
    image = assemble_built(builder, 0, NULL);
    assemble_cache(image, 0);
    ck_assert_int_eq(view_open_active(image, &view), 0);
    ck_assert_int_eq(view_read(view, 0, bytes, 64 * K), 0);
    ck_assert_int_eq(view_read(view, 64 * K, bytes, 512), -EIO);
    view_close(view);
    image_close(image);
    free(bytes);
}
END_TEST

/* `_i`: compression type. */
START_TEST(a_compressed_cluster_is_read_and_inflated_once_for_many_small_reads)
{
    struct builder_options options = builder_defaults();
    uint8_t *bytes = malloc(128 * K);
    struct builder *builder;
    struct image *image;
    struct view *view;
    unsigned before;

    if (compression_type_missing((uint8_t)_i) != NULL) {
        free(bytes);
        return;
    }
    options.compression_type = (uint8_t)_i;
    builder = builder_create(&options);
    builder_pattern(bytes, 64 * K, 4);
    builder_pattern(bytes + 64 * K, 64 * K, 5);
    builder_compressed(builder, 0, bytes, 0);
    builder_compressed(builder, 64 * K, bytes + 64 * K, 0);
    image = assemble_built(builder, 0, NULL);
    assemble_cache(image, 0);
    ck_assert_int_eq(view_open_active(image, &view), 0);
    before = memory_store_calls(image->file, MEMORY_STORE_READ);
    for (uint64_t at = 0; at < 128 * K; at += 4096) {
        expect_read(view, at, 4096, bytes, 128 * K);
        expect_read(view, at + 2048, 1000, bytes, 128 * K);
    }
    /* One L2 slice, two compressed clusters. */
    ck_assert_uint_eq(memory_store_calls(image->file, MEMORY_STORE_READ) - before, 3);
    view_close(view);
    image_close(image);
    free(bytes);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("view");
    TCase *reading = tcase_create("reading"), *errors = tcase_create("errors");

    tcase_add_test(reading, every_offset_of_a_mixed_chain_reads_as_expected);
    tcase_add_test(reading, every_length_at_a_few_offsets_reads_as_expected);
    tcase_add_test(reading, extents_name_the_image_that_decided_them);
    tcase_add_test(reading, a_snapshot_reads_as_its_own_disk_over_the_backing_image);
    tcase_add_test(reading,
                   the_vm_state_is_read_from_behind_the_disk_and_never_from_the_backing_image);
    tcase_add_loop_test(reading,
                        a_compressed_cluster_is_read_and_inflated_once_for_many_small_reads,
                        COMPRESSION_DEFLATE, COMPRESSION_ZSTD + 1);
    tcase_add_test(reading, clusters_of_two_images_at_one_host_offset_are_told_apart);
    tcase_add_test(errors, an_impossible_vm_state_or_l1_table_is_not_opened);
    tcase_add_test(errors, an_error_in_one_range_leaves_the_others_readable);
    tcase_add_test(errors, a_bad_compressed_cluster_is_tried_again);
    tcase_add_test(errors, what_one_entry_inflates_to_is_not_shown_for_a_shorter_one);
    suite_add_tcase(suite, reading);
    suite_add_tcase(suite, errors);
    return suite_main(suite);
}
