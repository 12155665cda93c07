/* SPDX-License-Identifier: MIT */
/* Amending an image in memory: what it is afterwards, and what a crash leaves. */
#include "config.h"

#include "assemble.h"
#include "builder.h"
#include "memory_log.h"
#include "memory_store.h"
#include "suite.h"
#include "writer_case.h"

#include "admin/amend.h"
#include "check/check.h"
#include "disk/view.h"
#include "meta/format.h"
#include "meta/header.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define CLUSTER   UINT64_C(4096)
#define CLUSTERS  UINT64_C(8)
#define DISK      (CLUSTERS * CLUSTER)
#define SECTOR    512
#define SNAPSHOTS 3
#define UNUSED    UINT64_C(6) /* clusters */

#define UNKNOWN_EXTENSION UINT32_C(0x12345678)
#define EXTENSION_SIZE    600
#define UNKNOWN_AUTOCLEAR (UINT64_C(1) << 50)

/* --- An image with zero clusters, and what it shows
 * ----------------------------------------------- */

/* Clusters that several entries name. */
struct places {
    uint64_t common; /* data of the snapshots, and kept by zero clusters */
    uint64_t kept;   /* by zero clusters of the snapshots, and data of the disk, if of anybody */
};

/* Zero clusters of both kinds; one, which has a place, has it in common with a data cluster. */
static void fill(struct builder *builder, uint32_t seed, uint64_t common)
{
    uint8_t bytes[CLUSTER];

    builder_pattern(bytes, sizeof(bytes), seed);
    builder_data(builder, 0, bytes, sizeof(bytes));
    builder_zero(builder, CLUSTER, false);
    builder_zero(builder, 2 * CLUSTER, true);
    builder_set_l2_entry(builder, 5 * CLUSTER, common | L2_ENTRY_ZERO, 0);
    builder_zero(builder, 7 * CLUSTER, false);
}

static struct builder_options options_of(uint32_t version, bool backing)
{
    struct builder_options options = builder_defaults();

    options.version = version;
    options.cluster_bits = 12;
    options.virtual_size = DISK;
    options.backing_file = backing ? "an overlay's backing file, whose name is long.raw" : NULL;
    options.backing_format = backing ? "raw" : NULL;
    return options;
}

/* Of the second and the third the L2 table is the same. */
static void add_snapshots(struct builder *builder, uint32_t version, const struct places *places)
{
    static const char *const names[SNAPSHOTS] = {"first", "second", "third"};
    uint8_t bytes[CLUSTER];
    uint64_t table = 0;

    builder_pattern(bytes, sizeof(bytes), 99);
    for (uint32_t i = 0; i < SNAPSHOTS; i++) {
        const struct builder_snapshot snapshot = {
            .id = names[i],
            .name = names[i],
            .l1 = builder_add_l1(builder, 1),
            .disk_size = DISK,
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
            builder_set_l2_entry(builder, 6 * CLUSTER, places->kept | L2_ENTRY_ZERO, 0);
        }
        builder_data_at(builder, 3 * CLUSTER, places->common, bytes, sizeof(bytes));
        table = builder_l2_table(builder, 0);
    }
    builder_select_l1(builder, 0);
}

/* The builder counts each reference that it makes once; here clusters have several. */
static void count_anew(struct store *file)
{
    const struct check_options options = {.repair_errors = true, .repair_leaks = true};
    struct check_result found;
    struct error error = {0};
    struct header *header;

    ck_assert_int_eq(header_read(file, memory_store_size(file), "memory.qcow2", &header, &error),
                     0);
    ck_assert_int_eq(check_image(header, file, "memory.qcow2", &options, &found, &error), 0);
    header_free(header);
    expect_sound(file, false);
}

/*
 * What is free in it holds something, and its header takes several sectors, so
 * that what does not lead to zeros, and what tears, is seen. `written`: the disk has
 * data where else it has zero clusters, as if it had gone back to a snapshot.
 */
static struct store *make_of(uint32_t version, bool backing, bool written)
{
    const struct builder_options options = options_of(version, backing);
    struct builder *builder = builder_create(&options);
    const struct places places = {builder_allocate(builder, 1), builder_allocate(builder, 1)};
    uint64_t unused = builder_allocate(builder, UNUSED);
    uint8_t extension[EXTENSION_SIZE], bytes[CLUSTER];
    struct store *file;

    builder_pattern(extension, sizeof(extension), 60);
    builder_extension(builder, UNKNOWN_EXTENSION, extension, sizeof(extension));

    if (version > 2 && !written) {
        fill(builder, 1, places.common);
    }
    add_snapshots(builder, version, &places);
    if (written) {
        builder_pattern(bytes, sizeof(bytes), 1);
        builder_data_at(builder, 6 * CLUSTER, places.kept, bytes, sizeof(bytes));
    }
    file = builder_store(builder);
    builder_destroy(builder);
    builder_pattern(memory_store_data(file) + unused, UNUSED * CLUSTER, 70);
    count_anew(file);
    if (version > 2) {
        disk_set_u64(file, HEADER_AUTOCLEAR_FEATURES, UNKNOWN_AUTOCLEAR);
    }
    return file;
}

static struct store *make(uint32_t version, bool backing)
{
    return make_of(version, backing, false);
}

/* The image in a copy of the store, upon a backing file that is not zero where it wants one. */
static struct image *open_copy(struct store *file, struct log_lines *log)
{
    struct store *copy = memory_store_from(memory_store_data(file), memory_store_size(file));
    struct image *image = assemble_image(copy, IMAGE_QCOW2, 0, &log->log);

    if (image->header->backing_file != NULL) {
        struct store *base = memory_store_create(DISK - CLUSTER - SECTOR);

        builder_pattern(memory_store_data(base), DISK - CLUSTER - SECTOR, 50);
        assemble_behind(image, assemble_image(base, IMAGE_RAW, 1, &log->log));
    }
    assemble_cache(image, 0);
    return image;
}

/* What the disk (index -1) or a snapshot shows. */
static void show(struct image *image, int index, uint8_t bytes[DISK])
{
    struct error error = {0};
    struct view *view;
    int result = index < 0 ? view_open_active(image, &view)
                           : view_open_snapshot(image, (size_t)index, &view, &error);

    ck_assert_msg(result == 0, "%s", error.text);
    ck_assert_uint_ge(view_size(view), DISK);
    ck_assert_int_eq(view_read(view, 0, bytes, DISK), 0);
    view_close(view);
}

/* All of it, in the order of the disk and the snapshots. */
struct shown {
    uint8_t bytes[SNAPSHOTS + 1][DISK];
};

static void show_all(struct store *file, struct shown *shown)
{
    struct log_lines log;
    struct image *image;

    log_lines_init(&log);
    image = open_copy(file, &log);
    for (int i = -1; i < SNAPSHOTS; i++) {
        show(image, i, shown->bytes[i + 1]);
    }
    image_close(image);
    log_release(&log.log);
}

static void expect_shown(struct store *file, const struct shown *expected)
{
    struct shown *found = calloc(1, sizeof(*found));

    ck_assert_ptr_nonnull(found);
    show_all(file, found);
    ck_assert(memcmp(found, expected, sizeof(*found)) == 0);
    free(found);
}

/* --- Amending it
 * ------------------------------------------------------------------------------------ */

/* `log` (or NULL) has what is done to the store that is returned; `file` stays as it is. */
static struct store *amend(struct store *file, const struct amend_change *change,
                           struct memory_log *log, int expected)
{
    const struct amend_options options = {0};
    struct store *result_file;
    struct log_lines lines;
    struct image *image;
    struct error error = {0};
    int result;

    log_lines_init(&lines);
    image = open_copy(file, &lines);
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

/* --- What a crash leaves
 * ------------------------------------------------------------------------------ */

struct exploration {
    struct store *before, *after;
    const struct amend_change *change;
    struct shown *shown;
    struct memory_log *log;
    unsigned states;
};

/* The fields that are amended: the version, the width of the refcounts, the features. */
static bool same_facts(struct store *a, struct store *b)
{
    struct header *of_a, *of_b;
    struct error error = {0};
    bool same;

    ck_assert_msg(header_read(a, memory_store_size(a), "a", &of_a, &error) == 0, "%s", error.text);
    ck_assert_msg(header_read(b, memory_store_size(b), "b", &of_b, &error) == 0, "%s", error.text);
    same = of_a->version == of_b->version && of_a->refcount_order == of_b->refcount_order &&
           of_a->compatible_features == of_b->compatible_features &&
           of_a->incompatible_features == of_b->incompatible_features &&
           (of_a->backing_file == NULL) == (of_b->backing_file == NULL) &&
           (of_a->backing_format == NULL) == (of_b->backing_format == NULL) &&
           (of_a->backing_file == NULL || strcmp(of_a->backing_file, of_b->backing_file) == 0);
    header_free(of_a);
    header_free(of_b);
    return same;
}

/* What is dirty is repaired, as when it is opened to be written. */
static void mend(struct store *state)
{
    uint64_t features = disk_u64(state, HEADER_INCOMPATIBLE_FEATURES);

    if (disk_u32(state, HEADER_VERSION) > 2 && (features & INCOMPATIBLE_DIRTY) != 0) {
        count_anew(state);
        disk_set_u64(state, HEADER_INCOMPATIBLE_FEATURES, features & ~INCOMPATIBLE_DIRTY);
    }
}

/* R6: what had a meaning before has changed only if the unknown bit is not there any more. */
static void expect_autoclear(struct store *before, struct store *state)
{
    size_t size = memory_store_size(before);

    if (disk_u32(state, HEADER_VERSION) > 2 &&
        (memory_store_size(state) < size || !same_facts(before, state) ||
         memcmp(memory_store_data(before) + CLUSTER, memory_store_data(state) + CLUSTER,
                size - CLUSTER) != 0)) {
        ck_assert_uint_eq(disk_u64(state, HEADER_AUTOCLEAR_FEATURES), 0);
    }
}

/* Old or new, sound but for leaks, showing the same; and the second run completes it. */
static void judge(struct exploration *exploration, struct store *state, bool again)
{
    struct store *completed;

    exploration->states++;
    expect_autoclear(exploration->before, state);
    expect_shown(state, exploration->shown);
    if (again) {
        completed = amend(state, exploration->change, NULL, 0);
        expect_sound(completed, true);
        ck_assert(same_facts(completed, exploration->after));
        expect_shown(completed, exploration->shown);
        store_close(completed);
    }
    mend(state);
    expect_sound(state, true);
    ck_assert(same_facts(state, exploration->before) || same_facts(state, exploration->after));
    expect_shown(state, exploration->shown);
    store_close(state);
}

static struct store *state_at(const struct exploration *exploration, const struct store *of,
                              size_t count)
{
    struct store *before = exploration->before;
    struct store *state = memory_store_from(memory_store_data(before), memory_store_size(before));

    memory_log_replay(exploration->log, 0, count, of, state);
    return state;
}

/* Of a write the first sector alone, and all but it: no host promises more. */
static void judge_torn(struct exploration *exploration, const struct store *of, size_t stable,
                       size_t at)
{
    const struct memory_log_entry *entry = memory_log_at(exploration->log, at);
    size_t first = SECTOR - entry->offset % SECTOR;
    struct store *state;

    if (entry->kind != MEMORY_LOG_WRITE || entry->length <= first) {
        return;
    }
    state = state_at(exploration, of, stable);
    ck_assert_int_eq(store_write(state, entry->offset, entry->data, first), 0);
    judge(exploration, state, false);
    state = state_at(exploration, of, stable);
    ck_assert_int_eq(store_write(state, entry->offset + first, (uint8_t *)entry->data + first,
                                 entry->length - first),
                     0);
    judge(exploration, state, false);
}

/* Every prefix; and upon what is stable each later write alone, whole and torn. */
static void explore(struct exploration *exploration, const struct store *of)
{
    size_t stable = 0, at;

    for (at = 0; at < memory_log_count(exploration->log); at++) {
        judge(exploration, state_at(exploration, of, at), true);
        if (memory_log_at(exploration->log, at)->kind == MEMORY_LOG_SYNC) {
            stable = at;
        } else {
            struct store *state = state_at(exploration, of, stable);

            memory_log_replay(exploration->log, at, at + 1, of, state);
            judge(exploration, state, false);
            judge_torn(exploration, of, stable, at);
        }
    }
    judge(exploration, state_at(exploration, of, at), true);
}

/* As amend(), with the log, whose entries are of a store that is gone by then. */
static struct store *amend_logged(struct exploration *exploration, const struct store **of)
{
    exploration->log = memory_log_create();
    exploration->after = amend(exploration->before, exploration->change, exploration->log, 0);
    ck_assert_uint_gt(memory_log_count(exploration->log), 0);
    *of = memory_log_at(exploration->log, 0)->store;
    return exploration->after;
}

/* `file` is closed. */
static void survive(struct store *file, const struct amend_change *change)
{
    struct exploration exploration = {.before = file, .change = change};
    const struct store *of;

    exploration.shown = calloc(1, sizeof(*exploration.shown));
    ck_assert_ptr_nonnull(exploration.shown);
    show_all(file, exploration.shown);
    expect_sound(amend_logged(&exploration, &of), false);
    ck_assert(!same_facts(exploration.before, exploration.after));
    expect_shown(exploration.after, exploration.shown);
    explore(&exploration, of);
    ck_assert_uint_gt(exploration.states, memory_log_count(exploration.log));
    memory_log_destroy(exploration.log);
    store_close(exploration.after);
    store_close(file);
    free(exploration.shown);
}

START_TEST(a_crash_on_the_way_down_leaves_the_old_image_or_the_new_one)
{
    const struct amend_change change = {.version = 2};

    survive(make_of(3, _i % 2 == 1, _i >= 2), &change);
}
END_TEST

START_TEST(a_crash_on_the_way_up_leaves_the_old_image_or_the_new_one)
{
    const struct amend_change change = {
        .version = 3,
        .lazy_refcounts = {.set = true, .value = true},
    };

    survive(make(2, _i == 1), &change);
}
END_TEST

START_TEST(a_crash_while_refcounts_change_their_width_leaves_one_of_both)
{
    const struct amend_change change = {.refcount_bits = _i == 0 ? 64 : 4};

    survive(make(3, true), &change);
}
END_TEST

START_TEST(a_crash_while_lazy_refcounts_are_switched_leaves_one_of_both)
{
    const struct amend_change change = {.lazy_refcounts = {.set = true, .value = true}};

    survive(make(3, true), &change);
}
END_TEST

START_TEST(a_crash_while_the_backing_file_is_renamed_leaves_one_of_both)
{
    static const char *const names[] = {"b", "a name that is longer than the one before it was, "
                                             "so that all moves.raw"};
    const struct amend_change change = {.backing_file = names[_i], .backing_format = "raw"};

    survive(make(3, true), &change);
}
END_TEST

/* --- What comes of it
 * ---------------------------------------------------------------------------------- */

START_TEST(snapshots_get_the_extra_data_of_version_3)
{
    const struct amend_change change = {.version = 3};
    struct store *before = make(2, false), *file = amend(before, &change, NULL, 0);
    uint64_t table = disk_u64(file, HEADER_SNAPSHOTS_OFFSET);

    ck_assert_uint_ne(table, disk_u64(before, HEADER_SNAPSHOTS_OFFSET));
    ck_assert_uint_eq(disk_u32(file, table + SNAPSHOT_EXTRA_DATA_SIZE), 16);
    ck_assert_uint_eq(disk_u64(file, table + SNAPSHOT_EXTRA_DISK_SIZE), DISK);
    ck_assert_uint_eq(disk_refcount(file, disk_u64(before, HEADER_SNAPSHOTS_OFFSET)), 0);
    store_close(before);
    store_close(file);
}
END_TEST

START_TEST(version_2_has_no_zero_cluster_left_in_any_table)
{
    const struct amend_change change = {.version = 2};
    struct store *before = make(3, _i == 1), *file = amend(before, &change, NULL, 0);

    ck_assert_uint_eq(disk_u32(file, HEADER_VERSION), 2);
    for (uint64_t i = 0; i < CLUSTERS; i++) {
        ck_assert_uint_eq(disk_l2_entry(file, i * CLUSTER) & L2_ENTRY_ZERO, 0);
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

    store_close(amend(file, change, log, -code));
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
    expect_refused(make(3, false), &narrow, ERANGE);
    expect_refused(make(3, false), &old_width, EINVAL);
    expect_refused(make(3, false), &odd, EINVAL);
    expect_refused(make(3, true), &long_name, ENAMETOOLONG);
}
END_TEST

START_TEST(an_unknown_extension_stays_byte_for_byte)
{
    const struct amend_change change = {.version = _i == 0 ? 2 : 0,
                                        .lazy_refcounts = {true, _i == 1}};
    struct store *before = make(3, true), *file = amend(before, &change, NULL, 0);
    uint8_t extension[EXTENSION_SIZE + EXTENSION_DATA];

    store_be32(extension + EXTENSION_TYPE, UNKNOWN_EXTENSION);
    store_be32(extension + EXTENSION_LENGTH, EXTENSION_SIZE);
    builder_pattern(extension + EXTENSION_DATA, EXTENSION_SIZE, 60);
    ck_assert_ptr_nonnull(memmem(memory_store_data(file), CLUSTER, extension, sizeof(extension)));
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

    expect_refused(make(3, true), &change, 0);
}
END_TEST

START_TEST(a_damaged_image_is_not_taken_down)
{
    const struct amend_change change = {.version = 2};
    struct store *file = make(3, false);

    disk_set_refcount(file, disk_u64(file, HEADER_L1_TABLE_OFFSET), 0);
    expect_refused(file, &change, EUCLEAN);
}
END_TEST

/* Whether a check finds nothing but leaks. */
static bool only_leaks(struct store *file)
{
    const struct check_options options = {0};
    struct check_result found;
    struct error error = {0};
    struct header *header;

    ck_assert_int_eq(header_read(file, memory_store_size(file), "memory.qcow2", &header, &error),
                     0);
    ck_assert_int_eq(check_image(header, file, "memory.qcow2", &options, &found, &error), 0);
    header_free(header);
    return found.errors == 0 && found.leaks == 1;
}

/* Each cluster in turn, tables and data, in use and free: a crash may have left it so. */
START_TEST(a_count_that_is_higher_than_its_references_costs_nobody_anything)
{
    const struct amend_change change = {.version = 2};
    struct store *before = make_of(3, _i % 2 == 1, _i >= 2), *file;
    struct shown *shown = calloc(1, sizeof(*shown));
    unsigned amended = 0;

    ck_assert_ptr_nonnull(shown);
    show_all(before, shown);
    for (uint64_t at = 0; at < memory_store_size(before); at += CLUSTER) {
        unsigned count = disk_refcount(before, at);

        disk_set_refcount(before, at, count + 2);
        if (only_leaks(before)) { /* of the active state's own a COPIED bit would be wrong */
            file = amend(before, &change, NULL, 0);
            expect_sound(file, true);
            expect_shown(file, shown);
            store_close(file);
            amended++;
        }
        disk_set_refcount(before, at, count);
    }
    ck_assert_uint_gt(amended, UNUSED + 2 * SNAPSHOTS);
    free(shown);
    store_close(before);
}
END_TEST

/* Whichever call of the store fails, the image is sound, and the next run completes. */
START_TEST(a_failing_host_leaves_a_sound_image)
{
    const struct amend_change change = {.version = 2};
    const struct amend_options options = {0};
    struct store *before = make(3, true);
    struct shown *shown = calloc(1, sizeof(*shown));
    unsigned n;
    int result = -EIO;

    ck_assert_ptr_nonnull(shown);
    show_all(before, shown);
    for (n = 1; result < 0; n++) {
        struct log_lines lines;
        struct image *image;
        struct error error = {0};
        struct store *left;

        log_lines_init(&lines);
        image = open_copy(before, &lines);
        memory_store_fail(image->file, (enum memory_store_call)_i, n, EIO);
        result = amend_apply(image, &change, &options, &error);
        memory_store_fail(image->file, (enum memory_store_call)_i, 0, 0);
        ck_assert(result == 0 || error.text[0] != '\0');
        left = memory_store_from(memory_store_data(image->file), memory_store_size(image->file));
        image_close(image);
        log_release(&lines.log);
        expect_shown(left, shown);
        mend(left);
        expect_sound(left, true);
        expect_shown(left, shown);
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
    tcase_add_loop_test(tcase, a_crash_on_the_way_down_leaves_the_old_image_or_the_new_one, 0, 4);
    tcase_add_loop_test(tcase, a_crash_on_the_way_up_leaves_the_old_image_or_the_new_one, 0, 2);
    tcase_add_loop_test(tcase, a_crash_while_refcounts_change_their_width_leaves_one_of_both, 0, 2);
    tcase_add_test(tcase, a_crash_while_lazy_refcounts_are_switched_leaves_one_of_both);
    tcase_add_loop_test(tcase, a_crash_while_the_backing_file_is_renamed_leaves_one_of_both, 0, 2);
    tcase_add_test(tcase, snapshots_get_the_extra_data_of_version_3);
    tcase_add_loop_test(tcase, version_2_has_no_zero_cluster_left_in_any_table, 0, 2);
    tcase_add_test(tcase, what_does_not_fit_is_refused_before_anything_is_written);
    tcase_add_loop_test(tcase, an_unknown_extension_stays_byte_for_byte, 0, 2);
    tcase_add_test(tcase, what_is_so_already_writes_nothing);
    tcase_add_test(tcase, a_damaged_image_is_not_taken_down);
    tcase_add_loop_test(tcase, a_count_that_is_higher_than_its_references_costs_nobody_anything, 0,
                        4);
    tcase_add_loop_test(tcase, a_failing_host_leaves_a_sound_image, MEMORY_STORE_WRITE,
                        MEMORY_STORE_SYNC + 1);
    suite_add_tcase(suite, tcase);
    return suite_main(suite);
}
