/* SPDX-License-Identifier: MIT */
/*
 * A host that fails: a scripted workload is run again and again, and each time
 * another call of the store fails.
 */
#include "config.h"

#include "memory_store.h"
#include "scratch.h"
#include "suite.h"
#include "writer_case.h"

#include "crypto/cipher.h"
#include "crypto/library.h"
#include "meta/format.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define K        UINT64_C(1024)
#define CLUSTER  (4 * K) /* where it does not matter */
#define CLUSTERS 400     /* of the disk */

/* ThreadSanitizer is slow, and one thread does nearly all here: it gets some of the calls. */
#ifdef __SANITIZE_THREAD__
#define CALL_STEP 5
#else
#define CALL_STEP 1
#endif

/* Images whose counts fill a small part of one block; or many blocks, for a table that moves. */
static const struct shape {
    unsigned cluster_bits, refcount_order;
} shapes[] = {{12, 4}, {9, 6}};

#define SHAPES (sizeof(shapes) / sizeof(shapes[0]))

static const struct writer_options options = {.discard = true};

/* --- The workload
 * --------------------------------------------------------------------------------- */

/* Data, two compressed clusters in one host cluster, a snapshot that shares the L2 table. */
static struct store *make_image(const struct shape *shape)
{
    uint64_t cluster = UINT64_C(1) << shape->cluster_bits;
    const struct builder_snapshot named = {
        .id = "1", .name = "one", .disk_size = CLUSTERS * cluster, .extra_data_size = 16};
    struct builder_options made = builder_defaults();
    struct builder_snapshot snapshot = named;
    uint8_t bytes[CLUSTER];
    struct builder *builder;
    struct store *file;
    uint64_t table, packed;

    made.cluster_bits = shape->cluster_bits;
    made.refcount_order = shape->refcount_order;
    made.virtual_size = CLUSTERS * cluster;
    builder = builder_create(&made);
    packed = builder_allocate(builder, 1);
    memset(bytes, 7, sizeof(bytes));
    builder_compressed(builder, cluster, bytes, packed);
    builder_compressed(builder, 2 * cluster, bytes, packed + cluster / 2);
    table = builder_l2_table(builder, 0);
    builder_set_l1_entry(builder, 0, table);
    snapshot.l1 = builder_add_l1(builder, (uint32_t)(CLUSTERS * 8 / cluster + 1));
    builder_set_l1_entry(builder, 0, table);
    builder_snapshot(builder, &snapshot);
    file = builder_store(builder);
    builder_destroy(builder);
    disk_set_refcount(file, table, 2);
    disk_set_refcount(file, packed, 4);
    expect_sound(file, false);
    return file;
}

/* What the disk may show after requests that failed: the old bytes, or the new ones. */
struct model {
    uint64_t cluster, size;
    uint8_t now[CLUSTERS * CLUSTER], other[CLUSTERS * CLUSTER];
};

/* What the requests of a workload returned. */
struct outcome {
    int error; /* the first one; 0 where all succeeded */
};

static void note(struct outcome *outcome, int result)
{
    if (outcome->error == 0) {
        outcome->error = result;
    }
}

static void write_pattern(struct writer_case *subject, struct model *model, uint64_t guest_offset,
                          size_t length, uint32_t seed, struct outcome *outcome)
{
    uint8_t *bytes = malloc(length);
    int result;

    builder_pattern(bytes, length, seed);
    result = writer_write(subject->writer, guest_offset, bytes, length);
    memcpy(model->other + guest_offset, bytes, length);
    if (result == 0) {
        memcpy(model->now + guest_offset, bytes, length);
    }
    note(outcome, result);
    free(bytes);
}

static void make_zero(struct writer_case *subject, struct model *model, uint64_t guest_offset,
                      size_t length, bool unmap, struct outcome *outcome)
{
    int result = writer_zero(subject->writer, guest_offset, length, unmap, NULL);

    memset(model->other + guest_offset, 0, length);
    if (result == 0) {
        memset(model->now + guest_offset, 0, length);
    }
    note(outcome, result);
}

static void work(struct writer_case *subject, struct model *model, struct outcome *outcome)
{
    uint64_t cluster = model->cluster, i;

    write_pattern(subject, model, 0, 100, 2, outcome); /* copies the shared L2 table */
    write_pattern(subject, model, cluster + 50, 100, 3, outcome);
    write_pattern(subject, model, 5 * cluster + 17, 20 * cluster, 4, outcome);
    note(outcome, writer_flush(subject->writer));
    make_zero(subject, model, 5 * cluster, 4 * cluster, true, outcome);
    make_zero(subject, model, 2 * cluster + 512, 1024, false, outcome);
    note(outcome, writer_flush(subject->writer));
    for (i = 0; i < 3; i++) {
        write_pattern(subject, model, (100 + 90 * i) * cluster, 80 * cluster, 5, outcome);
        note(outcome, writer_flush(subject->writer));
    }
    write_pattern(subject, model, 5 * cluster, 4 * cluster, 6, outcome);
    note(outcome, writer_flush(subject->writer));
}

static void read_model(struct writer_case *subject, struct model *model)
{
    model->cluster = subject->image->header->cluster_size;
    model->size = CLUSTERS * model->cluster;
    ck_assert_int_eq(view_read(subject->view, 0, model->now, model->size), 0);
    memcpy(model->other, model->now, model->size);
}

/* Each byte is what the last request that touched it wrote, or would have written. */
static void expect_model(struct writer_case *subject, const struct model *model)
{
    uint8_t *actual = malloc(model->size);
    uint64_t i;

    ck_assert_int_eq(view_read(subject->view, 0, actual, model->size), 0);
    for (i = 0; i < model->size; i++) {
        if (actual[i] != model->now[i] && actual[i] != model->other[i]) {
            ck_abort_msg("the byte at %llu is 0x%02x, neither 0x%02x nor 0x%02x",
                         (unsigned long long)i, actual[i], model->now[i], model->other[i]);
        }
    }
    free(actual);
}

/* The file as it is, opened by somebody else. */
static void expect_sound_now(struct writer_case *subject)
{
    struct store *copy =
        memory_store_from(memory_store_data(subject->file), memory_store_size(subject->file));

    expect_sound(copy, true);
    store_close(copy);
}

/* --- One fault
 * ------------------------------------------------------------------------------------ */

/* What fails, from the n-th call on: that one alone, or it `lasts`. */
struct fault {
    enum memory_store_call call;
    int error;
    bool lasts;
};

/*
 * Runs the workload with that fault; false when it made fewer calls. Afterwards the host works
 * again: all goes on, but after a failed sync (R7).
 */
static bool survives(const struct shape *shape, const struct fault *fault, unsigned n)
{
    enum memory_store_call call = fault->call;
    int error = fault->error;
    struct model *model = malloc(sizeof(*model));
    struct outcome outcome = {0}, later = {0};
    struct writer_case subject;
    struct store *file;
    unsigned before;
    int closed;
    bool reached;

    writer_case_open(&subject, make_image(shape), &options);
    read_model(&subject, model);
    before = memory_store_calls(subject.file, call);
    (fault->lasts ? memory_store_fail_from : memory_store_fail)(subject.file, call, n, error);
    work(&subject, model, &outcome);
    reached = memory_store_calls(subject.file, call) - before >= n;
    memory_store_fail(subject.file, call, 0, 0);
    if (reached && call != MEMORY_STORE_RESIZE) {
        /* Room that was only reserved ahead may have failed without anybody's loss. */
        ck_assert_msg(outcome.error != 0 || call == MEMORY_STORE_READ || call == MEMORY_STORE_WRITE,
                      "nobody was told of call %u", n);
    }
    ck_assert_msg(outcome.error == 0 || outcome.error == -error || outcome.error == -EIO,
                  "call %u: error %d", n, outcome.error);
    expect_sound_now(&subject);
    expect_model(&subject, model);
    work(&subject, model, &later);
    if (reached && call == MEMORY_STORE_SYNC) {
        ck_assert_int_ne(writer_flush(subject.writer), 0); /* R7 */
    } else {
        ck_assert_msg(later.error == 0, "after call %u: error %d", n, later.error);
        expect_model(&subject, model);
    }
    file = writer_case_end(&subject, &closed);
    ck_assert_msg(closed == 0 || (reached && call == MEMORY_STORE_SYNC), "closing: %d", closed);
    expect_sound(file, closed != 0);
    if (closed == 0) {
        writer_case_open(&subject, file, NULL);
        expect_model(&subject, model);
        file = writer_case_end(&subject, NULL);
    }
    store_close(file);
    free(model);
    return reached;
}

static void survives_all(const struct shape *shape, enum memory_store_call call, int error,
                         unsigned at_least)
{
    const struct fault once = {call, error, false}, lasting = {call, error, true};
    unsigned n = 1;

    while (survives(shape, &once, n)) {
        if (call != MEMORY_STORE_SYNC && n % 4 == 1) {
            survives(shape, &lasting, n);
        }
        n += CALL_STEP;
    }
    ck_assert_uint_gt(n, at_least);
}

START_TEST(whichever_write_fails_the_image_stays_in_order_and_goes_on)
{
    survives_all(&shapes[_i], MEMORY_STORE_WRITE, EIO, 10);
}
END_TEST

START_TEST(whichever_write_finds_no_space_the_image_stays_in_order_and_goes_on)
{
    survives_all(&shapes[_i], MEMORY_STORE_WRITE, ENOSPC, 10);
}
END_TEST

START_TEST(whichever_sync_fails_no_later_flush_succeeds_and_the_image_stays_in_order)
{
    survives_all(&shapes[_i], MEMORY_STORE_SYNC, EIO, 5);
}
END_TEST

START_TEST(whichever_resize_of_the_file_fails_the_image_stays_in_order_and_goes_on)
{
    /* Blocks that are made behind a run have made the file long enough for it. */
    survives_all(&shapes[_i], MEMORY_STORE_RESIZE, ENOSPC, _i == 0 ? 1 : 0);
}
END_TEST

START_TEST(whichever_read_fails_the_image_stays_in_order_and_goes_on)
{
    survives_all(&shapes[_i], MEMORY_STORE_READ, EIO, 1);
}
END_TEST

START_TEST(a_cluster_that_cannot_be_punched_is_free_all_the_same)
{
    struct writer_case subject;
    struct store *file;

    writer_case_open(&subject, make_image(&shapes[0]), &options);
    expect_write(&subject, 20 * CLUSTER, CLUSTER, 1);
    expect_flush(&subject);
    memory_store_fail(subject.file, MEMORY_STORE_PUNCH, 1, EOPNOTSUPP);
    expect_zero(&subject, 20 * CLUSTER, CLUSTER, true);
    expect_flush(&subject);
    ck_assert_uint_eq(memory_store_calls(subject.file, MEMORY_STORE_PUNCH), 1);
    file = writer_case_end(&subject, NULL);
    expect_sound(file, false);
    store_close(file);
}
END_TEST

/* --- What an error is not lost of ------------------------------------------------------------- */

START_TEST(after_a_failed_sync_every_flush_fails_and_so_does_closing)
{
    struct writer_case subject;
    struct store *file;
    int closed;

    writer_case_open(&subject, make_image(&shapes[0]), &options);
    expect_write(&subject, 30 * CLUSTER, CLUSTER, 1);
    memory_store_fail(subject.file, MEMORY_STORE_SYNC, 1, EIO);
    ck_assert_int_eq(writer_flush(subject.writer), -EIO);
    ck_assert_int_eq(writer_flush(subject.writer), -EIO);
    expect_pattern(&subject, 30 * CLUSTER, CLUSTER, 1, 0);
    file = writer_case_end(&subject, &closed);
    ck_assert_int_eq(closed, -EIO);
    expect_sound(file, true);
    store_close(file);
}
END_TEST

START_TEST(metadata_that_could_not_be_written_is_written_by_the_next_flush)
{
    struct writer_case subject;

    writer_case_open(&subject, make_image(&shapes[0]), &options);
    expect_write(&subject, 30 * CLUSTER, CLUSTER, 1);
    memory_store_fail(subject.file, MEMORY_STORE_WRITE, 1, EIO);
    ck_assert_int_eq(writer_flush(subject.writer), -EIO);
    expect_flush(&subject);
    ck_assert_uint_ne(disk_l2_entry(subject.file, 30 * CLUSTER), 0);
    writer_case_close(&subject);
}
END_TEST

START_TEST(a_write_that_finds_no_space_can_be_made_again)
{
    struct writer_case subject;
    uint8_t byte = 1;
    struct store *file;

    writer_case_open(&subject, make_image(&shapes[0]), &options);
    memory_store_fail(subject.file, MEMORY_STORE_RESIZE, 1, ENOSPC);
    ck_assert_int_eq(writer_write(subject.writer, 30 * CLUSTER, &byte, 1), -ENOSPC);
    expect_zeros(&subject, 30 * CLUSTER, CLUSTER);
    expect_write(&subject, 30 * CLUSTER, CLUSTER, 1);
    expect_flush(&subject);
    file = writer_case_end(&subject, NULL);
    expect_sound(file, false);
    store_close(file);
}
END_TEST

/* An empty disk with a raw data file; the caller's is the latter. */
static struct store *open_with_raw_data_file(struct writer_case *subject, const char *name)
{
    struct builder_options made = builder_defaults();
    struct store *data = memory_store_create(made.virtual_size);
    struct builder *builder;
    uint8_t none = 0;

    scratch_file(name, &none, 1); /* the image opens it; it is the store that is used */
    made.external_data_file = true;
    made.data_file = name;
    made.autoclear_features = AUTOCLEAR_RAW_EXTERNAL_DATA;
    made.cluster_bits = 12;
    builder = builder_create(&made);
    writer_case_open_with(subject, builder_store(builder), data, &options);
    builder_destroy(builder);
    return data;
}

/* A raw data file is the disk, also where the write of which it has a part has failed. */
static bool stays_the_disk(enum memory_store_call call, unsigned n)
{
    struct writer_case subject;
    struct store *data = open_with_raw_data_file(&subject, "raw");
    uint8_t *bytes = malloc(2 * CLUSTER);
    unsigned before = memory_store_calls(subject.file, call);
    bool failed;

    ck_assert_ptr_nonnull(bytes);
    memory_store_fail_from(subject.file, call, n, EIO);
    memset(bytes, 'w', 2 * CLUSTER);
    failed = writer_write(subject.writer, 512, bytes, 2 * CLUSTER - 1024) < 0;
    failed = memory_store_calls(subject.file, call) - before >= n || failed;
    memory_store_fail(subject.file, call, 0, 0);
    ck_assert_int_eq(view_read(subject.view, 0, bytes, 2 * CLUSTER), 0);
    ck_assert_mem_eq(memory_store_data(data), bytes, 2 * CLUSTER);
    free(bytes);
    writer_case_close(&subject);
    return failed;
}

START_TEST(a_raw_data_file_is_the_disk_whatever_fails_in_the_image)
{
    static const enum memory_store_call calls[] = {MEMORY_STORE_WRITE, MEMORY_STORE_RESIZE};
    unsigned n = 1;

    while (stays_the_disk(calls[_i], n)) {
        n++;
    }
    ck_assert_uint_gt(n, 1);
}
END_TEST

#define MADE_SIZE (UINT64_C(1) << 20)
#define LATE      (MADE_SIZE - CLUSTER) /* the last cluster of the disk */

static void *write_late(void *context)
{
    struct writer_case *subject = context;
    uint8_t bytes[CLUSTER];

    memset(bytes, 'l', sizeof(bytes));
    ck_assert_int_eq(writer_write(subject->writer, LATE, bytes, sizeof(bytes)), 0);
    return NULL;
}

/* A write in place is on its way while the disk is made smaller, and larger again. */
START_TEST(a_raw_data_file_is_the_disk_also_where_a_write_comes_after_the_disk_was_cut_off)
{
    struct writer_case subject;
    struct store *data = open_with_raw_data_file(&subject, "raw");
    uint8_t bytes[CLUSTER];
    pthread_t thread;

    ck_assert_uint_eq(view_size(subject.view), MADE_SIZE);
    expect_write(&subject, LATE, CLUSTER, 1);
    memory_store_hold_write(data);
    ck_assert_int_eq(pthread_create(&thread, NULL, write_late, &subject), 0);
    memory_store_wait_blocked(data, 1);
    ck_assert_int_eq(writer_resize(subject.writer, LATE - 512, NULL), 0);
    ck_assert_int_eq(writer_resize(subject.writer, MADE_SIZE, NULL), 0);
    memory_store_release_write(data);
    pthread_join(thread, NULL);
    ck_assert_int_eq(view_read(subject.view, LATE, bytes, CLUSTER), 0);
    ck_assert_mem_eq(memory_store_data(data) + LATE, bytes, CLUSTER);
    writer_case_close(&subject);
}
END_TEST

/* Some programs make such images: what is written to them is encrypted as anywhere else. */
START_TEST(in_a_raw_data_file_too_what_is_to_be_encrypted_is)
{
    struct writer_case subject;
    struct store *data = open_with_raw_data_file(&subject, "raw");
    uint8_t bytes[2 * CLUSTER];

    ck_assert_int_eq(cipher_create_random(&subject.image->cipher), 0);
    expect_write(&subject, 700, CLUSTER + 100, 1);
    expect_pattern(&subject, 700, CLUSTER + 100, 1, 0);
    expect_zeros(&subject, 0, 700);
    expect_zeros(&subject, 700 + CLUSTER + 100, CLUSTER - 800);
    builder_pattern(bytes, CLUSTER + 100, 1);
    ck_assert_mem_ne(memory_store_data(data) + 700, bytes, 324); /* part of a sector */
    ck_assert_mem_ne(memory_store_data(data) + 1024, bytes + 324, CLUSTER - 512); /* whole ones */
    writer_case_close(&subject);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("writer, faults");
    TCase *each = tcase_create("each call"), *tcase = tcase_create("errors"),
          *raw = tcase_create("a raw data file");

    tcase_add_loop_test(each, whichever_write_fails_the_image_stays_in_order_and_goes_on, 0,
                        SHAPES);
    tcase_add_loop_test(each, whichever_write_finds_no_space_the_image_stays_in_order_and_goes_on,
                        0, SHAPES);
    tcase_add_loop_test(
        each, whichever_sync_fails_no_later_flush_succeeds_and_the_image_stays_in_order, 0, SHAPES);
    tcase_add_loop_test(
        each, whichever_resize_of_the_file_fails_the_image_stays_in_order_and_goes_on, 0, SHAPES);
    tcase_add_loop_test(each, whichever_read_fails_the_image_stays_in_order_and_goes_on, 0, SHAPES);
    tcase_add_test(tcase, a_cluster_that_cannot_be_punched_is_free_all_the_same);
    tcase_add_test(tcase, after_a_failed_sync_every_flush_fails_and_so_does_closing);
    tcase_add_test(tcase, metadata_that_could_not_be_written_is_written_by_the_next_flush);
    tcase_add_test(tcase, a_write_that_finds_no_space_can_be_made_again);
    tcase_add_unchecked_fixture(raw, scratch_enter, scratch_leave);
    tcase_add_loop_test(raw, a_raw_data_file_is_the_disk_whatever_fails_in_the_image, 0, 2);
    tcase_add_test(raw,
                   a_raw_data_file_is_the_disk_also_where_a_write_comes_after_the_disk_was_cut_off);
    if (crypto_missing() == NULL) {
        tcase_add_test(raw, in_a_raw_data_file_too_what_is_to_be_encrypted_is);
    }
    suite_add_tcase(suite, raw);
    suite_add_tcase(suite, each);
    suite_add_tcase(suite, tcase);
    return suite_main(suite);
}
