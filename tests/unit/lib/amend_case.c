/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "amend_case.h"

#include "assemble.h"
#include "builder.h"
#include "memory_store.h"

#include "disk/view.h"
#include "meta/format.h"
#include "meta/header.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

/* Clusters that several entries name. */
struct places {
    uint64_t common; /* data of the snapshots, and kept by zero clusters */
    uint64_t kept;   /* by zero clusters of the snapshots, and data of the disk, if of anybody */
};

/* Zero clusters of both kinds; one, which has a place, has it in common with a data cluster. */
static void fill(struct builder *builder, uint32_t seed, uint64_t common)
{
    uint8_t bytes[AMEND_CLUSTER];

    builder_pattern(bytes, sizeof(bytes), seed);
    builder_data(builder, 0, bytes, sizeof(bytes));
    builder_zero(builder, AMEND_CLUSTER, false);
    builder_zero(builder, 2 * AMEND_CLUSTER, true);
    builder_set_l2_entry(builder, 5 * AMEND_CLUSTER, common | L2_ENTRY_ZERO, 0);
    builder_zero(builder, 7 * AMEND_CLUSTER, false);
}

static struct builder_options options_of(uint32_t version, bool backing)
{
    struct builder_options options = builder_defaults();

    options.version = version;
    options.cluster_bits = 12;
    options.virtual_size = AMEND_DISK;
    options.backing_file = backing ? "an overlay's backing file, whose name is long.raw" : NULL;
    options.backing_format = backing ? "raw" : NULL;
    return options;
}

/* Of the second and the third the L2 table is the same. */
static void add_snapshots(struct builder *builder, uint32_t version, const struct places *places)
{
    static const char *const names[AMEND_SNAPSHOTS] = {"first", "second", "third"};
    uint8_t bytes[AMEND_CLUSTER];
    uint64_t table = 0;

    builder_pattern(bytes, sizeof(bytes), 99);
    for (uint32_t i = 0; i < AMEND_SNAPSHOTS; i++) {
        const struct builder_snapshot snapshot = {
            .id = names[i],
            .name = names[i],
            .l1 = builder_add_l1(builder, 1),
            .disk_size = AMEND_DISK,
            .icount = UINT64_MAX,
            .extra_data_size = version > 2 ? 16 : 0,
        };

        builder_snapshot(builder, &snapshot);
        if (i == 2) {
            builder_set_l1_entry(builder, 0, table);
            break;
        }
        if (version > 2) {
            fill(builder, 10 + i, places->common);
            builder_set_l2_entry(builder, 6 * AMEND_CLUSTER, places->kept | L2_ENTRY_ZERO, 0);
        }
        builder_data_at(builder, 3 * AMEND_CLUSTER, places->common, bytes, sizeof(bytes));
        table = builder_l2_table(builder, 0);
    }
    builder_select_l1(builder, 0);
}

struct check_result amend_case_check(struct store *file, bool repairs)
{
    const struct check_options options = {.repair_errors = repairs, .repair_leaks = repairs};
    struct check_result found;
    struct error error = {0};
    struct header *header;

    ck_assert_int_eq(header_read(file, memory_store_size(file), "memory.qcow2", &header, &error),
                     0);
    ck_assert_int_eq(check_image(header, file, "memory.qcow2", &options, &found, &error), 0);
    header_free(header);
    return found;
}

/* The builder counts each reference that it makes once; here clusters have several. */
static void count_anew(struct store *file)
{
    (void)amend_case_check(file, true);
    expect_sound(file, false);
}

struct store *amend_case_make_of(uint32_t version, bool backing, bool written)
{
    const struct builder_options options = options_of(version, backing);
    struct builder *builder = builder_create(&options);
    const struct places places = {builder_allocate(builder, 1), builder_allocate(builder, 1)};
    uint64_t unused = builder_allocate(builder, AMEND_UNUSED);
    uint8_t extension[AMEND_EXTENSION_SIZE], bytes[AMEND_CLUSTER];
    struct store *file;

    builder_pattern(extension, sizeof(extension), 60);
    builder_extension(builder, AMEND_EXTENSION, extension, sizeof(extension));

    if (version > 2 && !written) {
        fill(builder, 1, places.common);
    }
    add_snapshots(builder, version, &places);
    if (written) {
        builder_pattern(bytes, sizeof(bytes), 1);
        builder_data_at(builder, 6 * AMEND_CLUSTER, places.kept, bytes, sizeof(bytes));
    }
    file = builder_store(builder);
    builder_destroy(builder);
    builder_pattern(memory_store_data(file) + unused, AMEND_UNUSED * AMEND_CLUSTER, 70);
    count_anew(file);
    if (version > 2) {
        disk_set_u64(file, HEADER_AUTOCLEAR_FEATURES, AMEND_AUTOCLEAR);
    }
    return file;
}

struct store *amend_case_make(uint32_t version, bool backing)
{
    return amend_case_make_of(version, backing, false);
}

struct image *amend_case_open(struct store *file, struct log_lines *log)
{
    struct store *copy = memory_store_from(memory_store_data(file), memory_store_size(file));
    struct image *image = assemble_image(copy, IMAGE_QCOW2, 0, &log->log);

    if (image->header->backing_file != NULL) {
        struct store *base = memory_store_create(AMEND_DISK - AMEND_CLUSTER - AMEND_SECTOR);

        builder_pattern(memory_store_data(base), AMEND_DISK - AMEND_CLUSTER - AMEND_SECTOR, 50);
        assemble_behind(image, assemble_image(base, IMAGE_RAW, 1, &log->log));
    }
    assemble_cache(image, 0);
    return image;
}

/* What the disk (index -1) or a snapshot shows. */
static void show(struct image *image, int index, uint8_t bytes[AMEND_DISK])
{
    struct error error = {0};
    struct view *view;
    int result = index < 0 ? view_open_active(image, &view)
                           : view_open_snapshot(image, (size_t)index, &view, &error);

    ck_assert_msg(result == 0, "%s", error.text);
    ck_assert_uint_ge(view_size(view), AMEND_DISK);
    ck_assert_int_eq(view_read(view, 0, bytes, AMEND_DISK), 0);
    view_close(view);
}

void amend_case_show(struct store *file, struct amend_shown *shown)
{
    struct log_lines log;
    struct image *image;

    log_lines_init(&log);
    image = amend_case_open(file, &log);
    for (int i = -1; i < AMEND_SNAPSHOTS; i++) {
        show(image, i, shown->bytes[i + 1]);
    }
    image_close(image);
    log_release(&log.log);
}

void amend_case_expect(struct store *file, const struct amend_shown *expected)
{
    struct amend_shown *found = calloc(1, sizeof(*found));

    ck_assert_ptr_nonnull(found);
    amend_case_show(file, found);
    ck_assert(memcmp(found, expected, sizeof(*found)) == 0);
    free(found);
}

/* --- Amending it ----------------------------------------------------------------------------- */

struct store *amend_case_apply(struct store *file, const struct amend_change *change,
                               struct memory_log *log, int expected)
{
    const struct amend_options options = {0};
    struct store *result_file;
    struct log_lines lines;
    struct image *image;
    struct error error = {0};
    int result;

    log_lines_init(&lines);
    image = amend_case_open(file, &lines);
    memory_store_set_log(image->file, log);
    result = amend_check(image, change, &error);
    if (result == 0) {
        result = amend_apply(image, change, &options, &error);
    }
    ck_assert_msg(result == expected, "%d: %s", result, error.text);
    memory_store_set_log(image->file, NULL);
    result_file = memory_store_from(memory_store_data(image->file), memory_store_size(image->file));
    image_close(image);
    log_release(&lines.log);
    return result_file;
}

void amend_case_mend(struct store *state)
{
    uint64_t features = disk_u64(state, HEADER_INCOMPATIBLE_FEATURES);

    if (disk_u32(state, HEADER_VERSION) > 2 && (features & INCOMPATIBLE_DIRTY) != 0) {
        count_anew(state);
        disk_set_u64(state, HEADER_INCOMPATIBLE_FEATURES, features & ~INCOMPATIBLE_DIRTY);
    }
}
