/* SPDX-License-Identifier: MIT */
/*
 * The cache modes of a host file store: above all those that go past the host's
 * page cache. They run on the file system of the build directory.
 */
#include "config.h"

#include "direct_case.h"
#include "scratch.h"
#include "suite.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FILE_SIZE ((size_t)200 << 10)

/* --- Any range, any memory -------------------------------------------------------------- */

struct model {
    struct store *store;
    uint8_t *bytes, *memory;
    size_t size; /* of the file */
    unsigned seed;
};

static size_t model_random(struct model *model, size_t limit)
{
    return (size_t)rand_r(&model->seed) % limit;
}

/* Often near or at a block's edge. */
static size_t model_edge(struct model *model, size_t limit)
{
    size_t at = model_random(model, limit);

    if (model_random(model, 2) == 0) {
        at = at / 512 * 512 + model_random(model, 3);
    }
    return at < limit ? at : limit - 1;
}

static void model_write(struct model *model)
{
    size_t offset = model_edge(model, FILE_SIZE);
    size_t length = model_edge(model, FILE_SIZE - offset);
    uint8_t *from = model->memory + (model_random(model, 2) == 0 ? 0 : model_random(model, 4096));

    direct_fill(from, length, &model->seed);
    ck_assert_int_eq(store_write(model->store, offset, from, length), 0);
    memcpy(model->bytes + offset, from, length);
    if (length > 0 && offset + length > model->size) {
        model->size = offset + length;
    }
}

static void model_read(struct model *model)
{
    size_t offset = model_edge(model, FILE_SIZE);
    size_t length = model_edge(model, 2 * FILE_SIZE - offset); /* also past the end */
    uint8_t *to = model->memory + (model_random(model, 2) == 0 ? 0 : model_random(model, 4096));

    memset(to, 0xA5, length);
    ck_assert_int_eq(store_read(model->store, offset, to, length), 0);
    ck_assert_int_eq(memcmp(to, model->bytes + offset, length), 0);
}

static void model_cut(struct model *model)
{
    size_t offset = model_edge(model, FILE_SIZE);

    if (model_random(model, 2) == 0) {
        size_t length = model_edge(model, FILE_SIZE);

        ck_assert_int_eq(store_punch(model->store, offset, length), 0);
        memset(model->bytes + offset, 0, length);
        return;
    }
    ck_assert_int_eq(store_resize(model->store, offset), 0);
    memset(model->bytes + offset, 0, 2 * FILE_SIZE - offset);
    model->size = offset;
}

START_TEST(any_range_reads_and_writes_as_in_a_buffer)
{
    struct model model = {.seed = (unsigned)_i + 1};

    direct_ask_for(_i);
    scratch_file("a", NULL, 0);
    model.store = direct_open("a");
    if (model.store == NULL) {
        return;
    }
    model.bytes = calloc(2, FILE_SIZE);
    model.memory = aligned_alloc(4096, 2 * FILE_SIZE + 8192);
    for (int i = 0; i < 400; i++) {
        unsigned kind = (unsigned)model_random(&model, 10);

        if (kind == 0) {
            model_cut(&model);
        } else if (kind < 6) {
            model_write(&model);
        } else {
            model_read(&model);
        }
        ck_assert_int_eq(direct_size("a"), (off_t)model.size);
    }
    store_close(model.store);
    direct_expect_file("a", model.bytes, model.size);
    free(model.memory);
    free(model.bytes);
}
END_TEST

START_TEST(no_offset_is_too_large_to_read_and_none_beyond_the_limit_is_written)
{
    struct store *store;
    uint8_t bytes[100], zeros[100] = {0};
    const uint64_t far[] = {INT64_MAX - 50, INT64_MAX, UINT64_MAX - 50, UINT64_MAX};

    scratch_file("a", NULL, 0);
    store = direct_open("a");
    for (size_t i = 0; store != NULL && i < 4; i++) {
        memset(bytes, 1, sizeof(bytes));
        ck_assert_int_eq(store_read(store, far[i], bytes, sizeof(bytes)), 0);
        ck_assert_int_eq(memcmp(bytes, zeros, sizeof(bytes)), 0);
        ck_assert_int_eq(store_write(store, far[i], bytes, sizeof(bytes)), -EFBIG);
    }
    store_close(store);
}
END_TEST

START_TEST(holes_stay_holes_and_read_as_zeros)
{
    struct store *store;
    uint8_t bytes[700], zeros[700] = {0};
    struct store_info info;
    uint64_t length;
    bool is_data;

    memset(bytes, 7, sizeof(bytes));
    scratch_file("a", NULL, 0);
    store = direct_open("a");
    if (store == NULL) {
        return;
    }
    ck_assert_int_eq(store_write(store, (8 << 20) + 5, bytes, sizeof(bytes)), 0);
    ck_assert_int_eq(store_info(store, &info), 0);
    ck_assert_uint_eq(info.size, (8 << 20) + 5 + sizeof(bytes));
    ck_assert_uint_lt(info.allocated, 1 << 20);
    ck_assert_int_eq(store_extent(store, 0, UINT64_MAX, &is_data, &length), 0);
    ck_assert(!is_data);
    ck_assert_uint_ge(length, 7 << 20);
    ck_assert_int_eq(store_read(store, (8 << 20) - 695, bytes, sizeof(bytes)), 0);
    ck_assert_int_eq(memcmp(bytes, zeros, sizeof(bytes)), 0);
    store_close(store);
}
END_TEST

/* --- What the host does ---------------------------------------------------------------------- */

#ifdef REPLACED_CALLS
START_TEST(aligned_transfers_are_one_call_with_the_memory_of_the_caller)
{
    uint8_t *memory = aligned_alloc(4096, 64 << 10);
    struct store *store;

    memset(memory, 3, 64 << 10);
    scratch_file("a", NULL, 0);
    direct_ask_for(2);
    store = direct_open("a");
    if (store != NULL) {
        direct_host.most = SIZE_MAX; /* notes the memory */
        atomic_store(&direct_host.transfers, 0);
        ck_assert_int_eq(store_write(store, 8192, memory, 64 << 10), 0);
        ck_assert_uint_eq(atomic_load(&direct_host.transfers), 1);
        ck_assert_ptr_eq(direct_host.last_memory, memory);
        ck_assert_int_eq(store_read(store, 8192, memory, 64 << 10), 0);
        ck_assert_uint_eq(atomic_load(&direct_host.transfers), 2);
    }
    store_close(store);
    free(memory);
}
END_TEST

START_TEST(transfers_that_end_early_go_on_at_a_block)
{
    uint8_t *bytes = malloc(FILE_SIZE), *found = malloc(FILE_SIZE);
    unsigned seed = 5;
    struct store *store;

    direct_fill(bytes, FILE_SIZE, &seed);
    scratch_file("a", NULL, 0);
    direct_ask_for(1);
    store = direct_open("a");
    direct_host.most = 1300; /* of 512-byte blocks */
    if (store != NULL) {
        ck_assert_int_eq(store_write(store, 77, bytes, FILE_SIZE), 0);
        ck_assert_int_eq(store_read(store, 77, found, FILE_SIZE), 0);
        ck_assert_int_eq(memcmp(bytes, found, FILE_SIZE), 0);
        direct_host.most = 100; /* never a block */
        ck_assert_int_eq(store_write(store, 0, bytes, 1024), -EIO);
        ck_assert_int_eq(store_read(store, 0, found, 1024), -EIO);
    }
    store_close(store);
    free(found);
    free(bytes);
}
END_TEST

START_TEST(a_failed_write_is_reported_and_leaves_no_padding)
{
    uint8_t bytes[10000];
    struct store *store;

    memset(bytes, 1, sizeof(bytes));
    for (unsigned after = 0; after < 3; after++) {
        scratch_file("a", bytes, 100);
        direct_ask_for(2);
        store = direct_open("a");
        if (store == NULL) {
            return;
        }
        direct_host.error = ENOSPC;
        direct_host.errors_after = after;
        ck_assert_int_eq(store_write(store, 50, bytes, sizeof(bytes)), -ENOSPC);
        direct_restore();
        store_close(store);
        ck_assert_int_le(direct_size("a"), 50 + (off_t)sizeof(bytes));
    }
}
END_TEST

START_TEST(where_the_host_does_not_tell_its_blocks_are_tried)
{
    uint8_t bytes[20000];
    struct store *store;

    memset(bytes, 4, sizeof(bytes));
    scratch_file("a", bytes, sizeof(bytes));
    direct_host.silent = true;
    direct_host.least = 16384;
    store = direct_open("a");
    if (store != NULL) {
        ck_assert_int_eq(store_write(store, 1, bytes, 100), 0);
        ck_assert_int_eq(store_read(store, 1, bytes, 100), 0);
    }
    store_close(store);
    direct_restore();
    ck_assert_int_eq(direct_size("a"), sizeof(bytes));
}
END_TEST

START_TEST(only_unsafe_leaves_out_the_syncs)
{
    scratch_file("a", "a", 1);
    for (enum store_cache cache = STORE_CACHE_WRITEBACK; cache <= STORE_CACHE_UNSAFE; cache++) {
        const struct store_file_options options = {.access = STORE_WRITE, .cache = cache};
        struct store *store;

        direct_restore();
        if (store_file_open("a", "image", &options, &store, NULL) != 0) {
            continue; /* no direct I/O here */
        }
        ck_assert_int_eq(store_write(store, 0, "b", 1), 0);
        ck_assert_int_eq(store_sync(store), 0);
        ck_assert_uint_eq(atomic_load(&direct_host.syncs), cache == STORE_CACHE_UNSAFE ? 0 : 1);
        store_close(store);
    }
}
END_TEST

START_TEST(a_file_system_without_direct_io_is_named_with_the_mode_that_does_without)
{
    scratch_file("a", "a", 1);
    direct_host.refuses = true;
    for (enum store_cache cache = STORE_CACHE_WRITEBACK; cache <= STORE_CACHE_UNSAFE; cache++) {
        const struct store_file_options options = {.access = STORE_READ_SHARED, .cache = cache};
        bool direct = cache == STORE_CACHE_NONE || cache == STORE_CACHE_DIRECTSYNC;
        struct store *store = NULL;
        struct error error = {0};
        int result = store_file_open("a", "image", &options, &store, &error);

        ck_assert_msg(result == (direct ? -EINVAL : 0), "%s", error.text);
        if (direct) {
            ck_assert_str_eq(error.text,
                             "a: the file system of this image has no direct I/O "
                             "(O_DIRECT), which cache=none and cache=directsync need; use "
                             "cache=writeback");
        }
        store_close(store);
    }
}
END_TEST
#endif

int main(void)
{
    Suite *suite = suite_create("direct I/O");
    TCase *tcase = tcase_create("direct");

    tcase_add_unchecked_fixture(tcase, scratch_enter, scratch_leave);
    tcase_add_checked_fixture(tcase, direct_restore, direct_restore);
    tcase_add_loop_test(tcase, any_range_reads_and_writes_as_in_a_buffer, 0, DIRECT_ALIGNMENTS);
    tcase_add_test(tcase, no_offset_is_too_large_to_read_and_none_beyond_the_limit_is_written);
    tcase_add_test(tcase, holes_stay_holes_and_read_as_zeros);
#ifdef REPLACED_CALLS
    tcase_add_test(tcase, aligned_transfers_are_one_call_with_the_memory_of_the_caller);
    tcase_add_test(tcase, transfers_that_end_early_go_on_at_a_block);
    tcase_add_test(tcase, a_failed_write_is_reported_and_leaves_no_padding);
    tcase_add_test(tcase, where_the_host_does_not_tell_its_blocks_are_tried);
    tcase_add_test(tcase, only_unsafe_leaves_out_the_syncs);
    tcase_add_test(tcase, a_file_system_without_direct_io_is_named_with_the_mode_that_does_without);
#endif
    suite_add_tcase(suite, tcase);
    return suite_main(suite);
}
