/* SPDX-License-Identifier: MIT */
/*
 * The cache modes of a host file store: above all those that go past the host's
 * page cache. They run on the file system of the build directory.
 */
#include "config.h"

#include "scratch.h"
#include "store/file.h"
#include "suite.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FILE_SIZE ((size_t)200 << 10)

/*
 * The host's calls, as they are but for these wishes; each transfer is checked
 * for what the host has asked for (64-bit off_t is one register).
 */
#if defined(__LP64__) && defined(STATX_DIOALIGN)
#define REPLACED_CALLS 1

static struct {
    unsigned block, memory;  /* what statx(2) is to tell; 0: what it does */
    bool silent;             /* statx(2) tells nothing */
    size_t least;            /* of an aligned transfer: others are refused */
    size_t most;             /* of a transfer, in bytes; 0: no limit */
    int error;               /* the errno of writing; 0 for none */
    unsigned errors_after;   /* so many writes succeed before that */
    const void *last_memory; /* of the last transfer */
    atomic_uint transfers, syncs;
} host;

int statx(int fd, const char *path, int flags, unsigned mask, struct statx *status)
{
    int rc = (int)syscall(SYS_statx, fd, path, flags, mask, status);

    if (host.silent) {
        status->stx_mask &= ~STATX_DIOALIGN;
    } else if (host.block != 0) {
        status->stx_mask |= STATX_DIOALIGN;
        status->stx_dio_offset_align = host.block;
        status->stx_dio_mem_align = host.memory;
    }
    return rc;
}

/* The length that the host takes; 0: none, with errno. */
static size_t host_takes(uintptr_t memory, size_t length, off_t offset)
{
    size_t block = host.least != 0 ? host.least : host.block;

    atomic_fetch_add(&host.transfers, 1);
    if (block != 0 && ((size_t)offset % block != 0 || length % block != 0 ||
                       memory % (host.least != 0 ? block : host.memory) != 0)) {
        errno = EINVAL;
        return 0;
    }
    return host.most != 0 && length > host.most ? host.most : length;
}

ssize_t pread(int fd, void *buffer, size_t length, off_t offset)
{
    size_t part = host_takes((uintptr_t)buffer, length, offset);
    ssize_t done;

    if (part == 0 && length > 0) {
        return -1;
    }
    done = syscall(SYS_pread64, fd, buffer, length, offset);
    return done < (ssize_t)part ? done : (ssize_t)part;
}

ssize_t pwrite(int fd, const void *buffer, size_t length, off_t offset)
{
    size_t part = host_takes((uintptr_t)buffer, length, offset);
    ssize_t done;

    if (host.error != 0 && host.errors_after-- == 0) {
        errno = host.error;
        return -1;
    }
    if (part == 0 && length > 0) {
        return -1;
    }
    if (host.most != 0) {
        host.last_memory = buffer;
    }
    done = syscall(SYS_pwrite64, fd, buffer, length, offset);
    return done < (ssize_t)part ? done : (ssize_t)part;
}

int fdatasync(int fd)
{
    atomic_fetch_add(&host.syncs, 1);
    return (int)syscall(SYS_fdatasync, fd);
}
#endif

static void restore_host(void)
{
#ifdef REPLACED_CALLS
    memset(&host, 0, sizeof(host));
#endif
}

/* What the host tells (-1: nothing), for tests that run with each of them. */
static const struct {
    unsigned block, memory;
} alignments[] = {{0, 0}, {512, 512}, {4096, 4096}, {8192, 512}, {UINT32_MAX, 0}};

#define ALIGNMENTS ((int)(sizeof(alignments) / sizeof(alignments[0])))

static void ask_for(int alignment)
{
    restore_host();
#ifdef REPLACED_CALLS
    host.silent = alignments[alignment].block == UINT32_MAX;
    host.block = host.silent ? 0 : alignments[alignment].block;
    host.memory = alignments[alignment].memory;
#else
    (void)alignment;
#endif
}

/* NULL where the file system has no direct I/O: then there is nothing to test. */
static struct store *open_direct(const char *path)
{
    const struct store_file_options options = {STORE_WRITE, STORE_CACHE_NONE};
    struct store *store = NULL;
    struct error error;
    int result = store_file_open(path, "image", &options, &store, &error);

    if (result == -EINVAL && strstr(error.text, "O_DIRECT") != NULL) {
        return NULL;
    }
    ck_assert_msg(result == 0, "%s", error.text);
    return store;
}

static void fill_random(uint8_t *bytes, size_t length, unsigned *seed)
{
    for (size_t i = 0; i < length; i++) {
        bytes[i] = (uint8_t)(rand_r(seed) % 255 + 1);
    }
}

static off_t size_of(const char *path)
{
    struct stat status;

    ck_assert_int_eq(stat(path, &status), 0);
    return status.st_size;
}

/* The file's bytes, and nothing behind them, as another program reads them. */
static void expect_file(const char *path, const uint8_t *bytes, size_t size)
{
    uint8_t *found = malloc(size + 1);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    size_t at = 0;
    ssize_t done;

    ck_assert_ptr_nonnull(found);
    ck_assert_int_ge(fd, 0);
    while ((done = read(fd, found + at, size + 1 - at)) > 0) {
        at += (size_t)done;
    }
    ck_assert_uint_eq(at, size);
    for (at = 0; at < size; at++) {
        ck_assert_msg(found[at] == bytes[at], "byte %zu is %d, not %d", at, found[at], bytes[at]);
    }
    close(fd);
    free(found);
}

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

    fill_random(from, length, &model->seed);
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

    ask_for(_i);
    scratch_file("a", NULL, 0);
    model.store = open_direct("a");
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
        ck_assert_int_eq(size_of("a"), (off_t)model.size);
    }
    store_close(model.store);
    expect_file("a", model.bytes, model.size);
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
    store = open_direct("a");
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
    store = open_direct("a");
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

/* --- Many threads ------------------------------------------------------------------------- */

#define THREADS 4
#define STRIPE  100 /* bytes: several lie in each block */
#define STRIPES 200

struct striper {
    struct store *store;
    uint8_t *bytes; /* what the file is to hold; each stripe belongs to one thread */
    unsigned number;
};

static void *write_stripes(void *context)
{
    struct striper *striper = context;
    unsigned seed = striper->number;

    for (unsigned round = 0; round < 200; round++) {
        size_t stripe = (size_t)rand_r(&seed) % (STRIPES / THREADS) * THREADS + striper->number;
        uint8_t *bytes = striper->bytes + stripe * STRIPE, found[STRIPE];

        if (round % 8 == 7) {
            memset(bytes, 0, STRIPE);
            ck_assert_int_eq(store_punch(striper->store, stripe * STRIPE, STRIPE), 0);
        } else {
            fill_random(bytes, STRIPE, &seed);
            ck_assert_int_eq(store_write(striper->store, stripe * STRIPE, bytes, STRIPE), 0);
        }
        ck_assert_int_eq(store_read(striper->store, stripe * STRIPE, found, STRIPE), 0);
        ck_assert_int_eq(memcmp(found, bytes, STRIPE), 0);
    }
    return NULL;
}

START_TEST(neighbours_in_one_block_do_not_lose_each_others_bytes)
{
    struct striper stripers[THREADS];
    pthread_t threads[THREADS];
    uint8_t *bytes = calloc(STRIPES, STRIPE);
    struct store *store;

    ask_for(_i);
    scratch_file("a", bytes, STRIPES * STRIPE);
    store = open_direct("a");
    for (unsigned i = 0; store != NULL && i < THREADS; i++) {
        stripers[i] = (struct striper){.store = store, .bytes = bytes, .number = i};
        ck_assert_int_eq(pthread_create(&threads[i], NULL, write_stripes, &stripers[i]), 0);
    }
    for (unsigned i = 0; store != NULL && i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    store_close(store);
    expect_file("a", bytes, STRIPES * STRIPE);
    free(bytes);
}
END_TEST

struct appender {
    struct store *store;
    atomic_size_t *end;
    uint8_t *bytes;
    unsigned seed;
};

/* Appends pieces of all sizes; the next one is under way before this one has ended. */
static void *append(void *context)
{
    struct appender *appender = context;
    uint8_t *memory = aligned_alloc(4096, 16384);

    for (unsigned i = 0; i < 60; i++) {
        size_t length = (size_t)rand_r(&appender->seed) % 3000 + 1, at;

        if (i % 3 == 0) {
            length = 4096;
        }
        at = atomic_fetch_add(appender->end, length);
        fill_random(memory, length, &appender->seed);
        memcpy(appender->bytes + at, memory, length);
        ck_assert_int_eq(store_write(appender->store, at, memory, length), 0);
    }
    free(memory);
    return NULL;
}

START_TEST(a_file_that_grows_at_many_ends_keeps_every_byte_and_its_exact_size)
{
    struct appender appenders[THREADS];
    pthread_t threads[THREADS];
    uint8_t *bytes = calloc(1, (size_t)THREADS * 60 * 4096);
    atomic_size_t end = 0;
    struct store *store;

    ask_for(_i);
    scratch_file("a", NULL, 0);
    store = open_direct("a");
    for (unsigned i = 0; store != NULL && i < THREADS; i++) {
        appenders[i] = (struct appender){store, &end, bytes, i};
        ck_assert_int_eq(pthread_create(&threads[i], NULL, append, &appenders[i]), 0);
    }
    for (unsigned i = 0; store != NULL && i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    store_close(store);
    expect_file("a", bytes, end);
    free(bytes);
}
END_TEST

struct resizer {
    struct store *store;
    atomic_bool stop;
};

static void *write_second_hundred(void *context)
{
    struct resizer *resizer = context;
    uint8_t bytes[100];

    memset(bytes, 9, sizeof(bytes));
    while (!atomic_load(&resizer->stop)) {
        ck_assert_int_eq(store_write(resizer->store, 100, bytes, sizeof(bytes)), 0);
    }
    return NULL;
}

START_TEST(what_was_cut_off_or_punched_does_not_come_back_with_a_neighbour)
{
    struct resizer resizer = {0};
    uint8_t bytes[100], zeros[100] = {0};
    pthread_t thread;

    ask_for(_i);
    scratch_file("a", NULL, 0);
    resizer.store = open_direct("a");
    if (resizer.store == NULL) {
        return;
    }
    pthread_create(&thread, NULL, write_second_hundred, &resizer);
    for (unsigned i = 0; i < 100; i++) {
        uint64_t at = i % 2 == 0 ? 0 : 300;

        memset(bytes, (int)i + 1, sizeof(bytes));
        ck_assert_int_eq(store_write(resizer.store, at, bytes, sizeof(bytes)), 0);
        ck_assert_int_eq(
            at == 0 ? store_punch(resizer.store, at, 100) : store_resize(resizer.store, 200), 0);
        ck_assert_int_eq(store_read(resizer.store, at, bytes, sizeof(bytes)), 0);
        ck_assert_int_eq(memcmp(bytes, zeros, sizeof(bytes)), 0);
    }
    atomic_store(&resizer.stop, true);
    pthread_join(thread, NULL);
    store_close(resizer.store);
    ck_assert_int_eq(size_of("a"), 200);
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
    ask_for(2);
    store = open_direct("a");
    if (store != NULL) {
        host.most = SIZE_MAX; /* notes the memory */
        atomic_store(&host.transfers, 0);
        ck_assert_int_eq(store_write(store, 8192, memory, 64 << 10), 0);
        ck_assert_uint_eq(atomic_load(&host.transfers), 1);
        ck_assert_ptr_eq(host.last_memory, memory);
        ck_assert_int_eq(store_read(store, 8192, memory, 64 << 10), 0);
        ck_assert_uint_eq(atomic_load(&host.transfers), 2);
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

    fill_random(bytes, FILE_SIZE, &seed);
    scratch_file("a", NULL, 0);
    ask_for(1);
    store = open_direct("a");
    host.most = 1300; /* of 512-byte blocks */
    if (store != NULL) {
        ck_assert_int_eq(store_write(store, 77, bytes, FILE_SIZE), 0);
        ck_assert_int_eq(store_read(store, 77, found, FILE_SIZE), 0);
        ck_assert_int_eq(memcmp(bytes, found, FILE_SIZE), 0);
        host.most = 100; /* never a block */
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
        ask_for(2);
        store = open_direct("a");
        if (store == NULL) {
            return;
        }
        host.error = ENOSPC;
        host.errors_after = after;
        ck_assert_int_eq(store_write(store, 50, bytes, sizeof(bytes)), -ENOSPC);
        restore_host();
        store_close(store);
        ck_assert_int_le(size_of("a"), 50 + (off_t)sizeof(bytes));
    }
}
END_TEST

START_TEST(where_the_host_does_not_tell_its_blocks_are_tried)
{
    uint8_t bytes[20000];
    struct store *store;

    memset(bytes, 4, sizeof(bytes));
    scratch_file("a", bytes, sizeof(bytes));
    host.silent = true;
    host.least = 16384;
    store = open_direct("a");
    if (store != NULL) {
        ck_assert_int_eq(store_write(store, 1, bytes, 100), 0);
        ck_assert_int_eq(store_read(store, 1, bytes, 100), 0);
    }
    store_close(store);
    restore_host();
    ck_assert_int_eq(size_of("a"), sizeof(bytes));
}
END_TEST

START_TEST(only_unsafe_leaves_out_the_syncs)
{
    scratch_file("a", "a", 1);
    for (enum store_cache cache = STORE_CACHE_WRITEBACK; cache <= STORE_CACHE_UNSAFE; cache++) {
        const struct store_file_options options = {STORE_WRITE, cache};
        struct store *store;

        restore_host();
        if (store_file_open("a", "image", &options, &store, NULL) != 0) {
            continue; /* no direct I/O here */
        }
        ck_assert_int_eq(store_write(store, 0, "b", 1), 0);
        ck_assert_int_eq(store_sync(store), 0);
        ck_assert_uint_eq(atomic_load(&host.syncs), cache == STORE_CACHE_UNSAFE ? 0 : 1);
        store_close(store);
    }
}
END_TEST
#endif

START_TEST(a_file_system_without_direct_io_is_named_with_the_mode_that_does_without)
{
    for (enum store_cache cache = STORE_CACHE_WRITEBACK; cache <= STORE_CACHE_UNSAFE; cache++) {
        const struct store_file_options options = {STORE_READ_SHARED, cache};
        bool direct = cache == STORE_CACHE_NONE || cache == STORE_CACHE_DIRECTSYNC;
        struct store *store = NULL;
        struct error error = {0};
        int result = store_file_open("/proc/version", "image", &options, &store, &error);

        ck_assert_msg(result == (direct ? -EINVAL : 0), "%s", error.text);
        if (direct) {
            ck_assert_str_eq(error.text,
                             "/proc/version: the file system of this image has no direct I/O "
                             "(O_DIRECT), which cache=none and cache=directsync need; use "
                             "cache=writeback");
        }
        store_close(store);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("direct I/O");
    TCase *tcase = tcase_create("direct");

    tcase_add_unchecked_fixture(tcase, scratch_enter, scratch_leave);
    tcase_add_checked_fixture(tcase, restore_host, restore_host);
    tcase_add_loop_test(tcase, any_range_reads_and_writes_as_in_a_buffer, 0, ALIGNMENTS);
    tcase_add_test(tcase, no_offset_is_too_large_to_read_and_none_beyond_the_limit_is_written);
    tcase_add_test(tcase, holes_stay_holes_and_read_as_zeros);
    tcase_add_loop_test(tcase, neighbours_in_one_block_do_not_lose_each_others_bytes, 0,
                        ALIGNMENTS);
    tcase_add_loop_test(tcase, a_file_that_grows_at_many_ends_keeps_every_byte_and_its_exact_size,
                        0, ALIGNMENTS);
    tcase_add_loop_test(tcase, what_was_cut_off_or_punched_does_not_come_back_with_a_neighbour, 0,
                        ALIGNMENTS);
#ifdef REPLACED_CALLS
    tcase_add_test(tcase, aligned_transfers_are_one_call_with_the_memory_of_the_caller);
    tcase_add_test(tcase, transfers_that_end_early_go_on_at_a_block);
    tcase_add_test(tcase, a_failed_write_is_reported_and_leaves_no_padding);
    tcase_add_test(tcase, where_the_host_does_not_tell_its_blocks_are_tried);
    tcase_add_test(tcase, only_unsafe_leaves_out_the_syncs);
#endif
    tcase_add_test(tcase, a_file_system_without_direct_io_is_named_with_the_mode_that_does_without);
    suite_add_tcase(suite, tcase);
    return suite_main(suite);
}
