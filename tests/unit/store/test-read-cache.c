/* SPDX-License-Identifier: MIT */
/* What is kept of a store that is far away: every byte, whatever is written, lost, cut off or bent.
 */
#include "config.h"

#include "memory_store.h"
#include "scratch.h"
#include "store/read_cache.h"
#include "suite.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define KIB   UINT64_C(1024)
#define MIB   (1024 * KIB)
#define BLOCK (64 * KIB)
#define SIZE  (4 * MIB + 1000)
#define PAGE  (4 * KIB)
#define LARGE (16 * MIB) /* a cache that has room for all of it */

static struct store *memory, *store;
static uint8_t *expected, *buffer;
static const char path[] = "cache";
static struct read_cache_options options;
static struct error error;

static void fill_expected(void)
{
    uint64_t random = 7;

    for (uint64_t i = 0; i < SIZE; i++) {
        random = random * 6364136223846793005U + 1442695040888963407U;
        expected[i] = (uint8_t)(random >> 56);
    }
}

/* Another store with the same bytes, as another process finds it. */
static int open_again(bool unsafe)
{
    int result;

    memory = memory_store_from(expected, SIZE);
    error = (struct error){0};
    result = store_read_cache(memory, "nbd://there/", &options, unsafe, &store, &error);
    if (result < 0) {
        store_close(memory);
        store = memory = NULL;
    }
    return result;
}

static void setup(void)
{
    expected = malloc(SIZE);
    buffer = malloc(SIZE + MIB);
    ck_assert_ptr_nonnull(expected);
    ck_assert_ptr_nonnull(buffer);
    fill_expected();
    options = (struct read_cache_options){.path = path, .size = LARGE, .is_kept = true};
    ck_assert_int_eq(open_again(false), 0);
}

static void teardown(void)
{
    store_close(store);
    free(expected);
    free(buffer);
    (void)unlink(path);
}

static void reopen(void)
{
    store_close(store);
    ck_assert_int_eq(open_again(false), 0);
}

/* What the file has when the process ends without closing anything. */
static void crash_and_reopen(void)
{
    ck_assert_int_eq(system("cp cache copy"), 0);
    store_close(store);
    ck_assert_int_eq(rename("copy", path), 0);
    ck_assert_int_eq(chmod(path, 0600), 0);
    ck_assert_int_eq(open_again(false), 0);
}

static void check_read(uint64_t offset, size_t length)
{
    memset(buffer, 0xee, length);
    ck_assert_int_eq(store_read(store, offset, buffer, length), 0);
    for (size_t i = 0; i < length; i++) {
        uint8_t is = offset + i < SIZE ? expected[offset + i] : 0;

        if (buffer[i] != is) {
            ck_abort_msg("at %llu: %u", (unsigned long long)(offset + i), buffer[i]);
        }
    }
}

static void check_all(void)
{
    for (uint64_t at = 0; at < SIZE; at += 300 * KIB + 7) {
        check_read(at, (size_t)(at + 300 * KIB + 7 > SIZE ? SIZE - at : 300 * KIB + 7));
    }
}

static void check_random(unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        uint64_t at = (uint64_t)rand() % SIZE, length = 1 + (uint64_t)rand() % (200 * KIB);

        check_read(at, (size_t)(at + length > SIZE ? SIZE - at : length));
    }
}

static void write_at(uint64_t offset, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        expected[offset + i] = (uint8_t)rand();
    }
    ck_assert_int_eq(store_write(store, offset, expected + offset, length), 0);
}

static unsigned reads(void)
{
    return memory_store_calls(memory, MEMORY_STORE_READ);
}

/* --- reading ------------------------------------------------------------------------------------
 */

START_TEST(what_was_read_once_is_not_asked_for_again)
{
    unsigned before;

    check_all();
    before = reads();
    check_all();
    check_random(100);
    ck_assert_uint_eq(reads(), before);
}
END_TEST

START_TEST(what_was_kept_is_not_asked_for_again_but_for_samples)
{
    check_all();
    reopen();
    check_all();
    ck_assert_uint_le(reads(), 8);
    crash_and_reopen();
    check_all();
    ck_assert_uint_le(reads(), 8);
}
END_TEST

START_TEST(what_is_not_kept_has_no_name_and_is_gone)
{
    struct stat status;

    store_close(store);
    (void)unlink(path);
    options.is_kept = false;
    ck_assert_int_eq(open_again(false), 0);
    ck_assert_int_ne(stat(path, &status), 0);
    check_all();
    check_random(50);
    reopen();
    check_read(0, PAGE);
    ck_assert_uint_eq(reads(), 1);
}
END_TEST

START_TEST(a_small_cache_has_all_bytes_and_stays_small)
{
    struct stat status;

    store_close(store);
    options.size = MIB;
    ck_assert_int_eq(open_again(false), 0);
    for (unsigned i = 0; i < 3; i++) {
        check_all();
        check_random(100);
    }
    ck_assert_int_eq(stat(path, &status), 0);
    ck_assert_uint_le((uint64_t)status.st_size, MIB);
    reopen();
    check_all();
}
END_TEST

START_TEST(what_cannot_be_read_around_it_is_no_error_of_the_reader)
{
    memory_store_fail_reads(memory, 100 * KIB, 1, EIO);
    check_read(64 * KIB, PAGE);
    ck_assert_int_eq(store_read(store, 100 * KIB, buffer, PAGE), -EIO);
    check_read(104 * KIB, PAGE);
    memory_store_fail_reads(memory, 0, 0, 0);
    check_all();
}
END_TEST

/* --- writing ------------------------------------------------------------------------------------
 */

START_TEST(what_is_written_is_read)
{
    for (unsigned i = 0; i < 300; i++) {
        uint64_t at = (uint64_t)rand() % (SIZE - 100 * KIB);

        write_at(at, 1 + (size_t)rand() % (100 * KIB));
        check_random(2);
        if (i % 50 == 49) {
            memset(expected + at, 0, 50 * KIB);
            ck_assert_int_eq(store_punch(store, at, 50 * KIB), 0);
            check_all();
        }
    }
    ck_assert_mem_eq(memory_store_data(memory), expected, SIZE);
}
END_TEST

START_TEST(what_was_kept_over_writes_is_right_and_local)
{
    check_all();
    write_at(MIB + 5, PAGE);
    reopen();
    check_all();
    ck_assert_uint_le(reads(), 9); /* the samples, and the block that was written */
    check_all();
}
END_TEST

START_TEST(a_crash_after_a_write_leaves_nothing_that_is_old)
{
    check_all();
    write_at(MIB + 5, PAGE);
    crash_and_reopen();
    ck_assert_uint_eq(reads(), 0); /* nothing to compare: it has begun anew */
    check_all();
    ck_assert_uint_ge(reads(), 4);
}
END_TEST

START_TEST(a_write_that_is_not_made_stable_leaves_nothing_that_is_kept)
{
    uint8_t *old = malloc(SIZE);

    check_all();
    memcpy(old, expected, SIZE);
    write_at(MIB + 5, PAGE);
    check_all(); /* it has the new bytes */
    memory_store_fail_from(memory, MEMORY_STORE_SYNC, 1, EIO);
    ck_assert_int_eq(store_sync(store), -EIO);
    check_all();
    memcpy(expected, old, SIZE); /* which the server then loses */
    free(old);
    reopen();
    check_all();
}
END_TEST

START_TEST(a_store_that_makes_nothing_stable_leaves_nothing_that_is_kept)
{
    store_close(store);
    ck_assert_int_eq(open_again(true), 0);
    check_all();
    write_at(MIB + 5, PAGE);
    reopen();
    ck_assert_uint_eq(reads(), 0);
    check_all();
}
END_TEST

struct reading {
    pthread_t thread;
    uint8_t bytes[PAGE];
    int result;
};

static void *read_held(void *argument)
{
    struct reading *reading = argument;

    reading->result = store_read(store, 2 * MIB, reading->bytes, PAGE);
    return NULL;
}

START_TEST(what_is_written_while_its_block_is_read_is_not_hidden_by_it)
{
    struct reading reading;

    memory_store_tear_read(memory, 2 * MIB + PAGE); /* it has what lies before, and waits */
    ck_assert_int_eq(pthread_create(&reading.thread, NULL, read_held, &reading), 0);
    memory_store_wait_blocked(memory, 1);
    write_at(2 * MIB, PAGE);
    memory_store_release_reads(memory);
    ck_assert_int_eq(pthread_join(reading.thread, NULL), 0);
    check_read(2 * MIB, PAGE);
    reopen();
    check_read(2 * MIB, PAGE);
}
END_TEST

/* --- files that are not what they were ----------------------------------------------------------
 */

START_TEST(a_file_that_is_cut_off_anywhere_is_no_wrong_byte)
{
    check_all();
    for (unsigned i = 0; i < 60; i++) {
        struct stat status;

        store_close(store);
        ck_assert_int_eq(stat(path, &status), 0);
        ck_assert_int_eq(truncate(path, 100 + rand() % status.st_size), 0);
        ck_assert_int_eq(open_again(false), 0);
        check_random(20);
        if (i % 4 == 0) {
            check_all();
        }
        if (i % 10 == 0) { /* or while it is used */
            ck_assert_int_eq(truncate(path, 5000 + rand() % status.st_size), 0);
            check_all();
        }
    }
}
END_TEST

static void bend(int fd, uint64_t end)
{
    uint8_t bytes[64];
    size_t length = 1 + (size_t)rand() % sizeof(bytes);

    for (size_t i = 0; i < length; i++) {
        bytes[i] = (uint8_t)(rand() % 3 == 0 ? 0xff : rand());
    }
    ck_assert_int_eq(pwrite(fd, bytes, length, (off_t)((uint64_t)rand() % end)), (ssize_t)length);
}

START_TEST(a_file_whose_bytes_were_changed_is_no_wrong_byte)
{
    check_all();
    for (unsigned i = 0; i < 200; i++) {
        struct stat status;
        int fd, result;

        store_close(store);
        fd = open(path, O_RDWR | O_CLOEXEC);
        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(fstat(fd, &status), 0);
        for (int changes = rand() % 20; changes >= 0; changes--) {
            bend(fd, rand() % 2 == 0 ? 6 * KIB : (uint64_t)status.st_size);
        }
        close(fd);
        result = open_again(false);
        if (result < 0) { /* its first bytes are no read cache's any more */
            ck_assert_int_eq(result, -EEXIST);
            ck_assert_int_eq(unlink(path), 0);
            ck_assert_int_eq(open_again(false), 0);
        }
        check_random(10);
        if (i % 8 == 0) {
            check_all();
        }
    }
}
END_TEST

/* What comes back of a file that was cut off is a hole where the next block is far behind its end.
 */
START_TEST(a_file_that_is_cut_off_while_it_is_used_is_no_wrong_byte)
{
    for (unsigned i = 0; i < 20; i++) {
        options.is_kept = i % 2 == 0;
        store_close(store);
        (void)unlink(path);
        ck_assert_int_eq(open_again(false), 0);
        check_all();
        if (options.is_kept) {
            ck_assert_int_eq(truncate(path, (off_t)((uint64_t)rand() % SIZE)), 0);
        }
        check_read(SIZE - 1000, 1000);
        check_random(10);
        check_all();
    }
}
END_TEST

/* As where the host could not write what it had taken. */
START_TEST(a_file_whose_bytes_change_while_it_is_used_is_no_wrong_byte)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);

    ck_assert_int_ge(fd, 0);
    for (unsigned i = 0; i < 40; i++) {
        check_all();
        for (int changes = rand() % 20; changes >= 0; changes--) {
            bend(fd, SIZE);
        }
        check_random(10);
    }
    close(fd);
    check_all();
    reopen();
    check_all();
}
END_TEST

/* Blocks of another time, in whatever order a host wrote what it had before it lost its power. */
START_TEST(parts_of_two_states_of_the_file_are_no_wrong_byte)
{
    for (unsigned i = 0; i < 40; i++) {
        uint8_t *before = malloc(LARGE), *after = malloc(LARGE);
        ssize_t had, has;
        int fd;

        check_random(1 + (unsigned)rand() % 20);
        fd = open(path, O_RDWR | O_CLOEXEC);
        had = pread(fd, before, LARGE, 0);
        if (i % 3 == 0) {
            write_at((uint64_t)rand() % (SIZE - BLOCK), 1 + (size_t)rand() % BLOCK);
            /* which is stable before the store has anything of it */
            had = pread(fd, before, 4096, 0) == 4096 ? had : 0;
        }
        check_random(1 + (unsigned)rand() % 20);
        has = pread(fd, after, LARGE, 0);
        store_close(store);
        for (ssize_t at = 0; at < has; at += 512) {
            ssize_t part = has - at < 512 ? has - at : 512;
            bool old = rand() % 2 == 0;

            if (old && at >= had) { /* a hole */
                memset(after + at, 0, (size_t)part);
            } else if (old) {
                memcpy(after + at, before + at, (size_t)part);
            }
        }
        ck_assert_int_eq(pwrite(fd, after, (size_t)has, 0), has);
        close(fd);
        free(before);
        free(after);
        ck_assert_int_eq(open_again(false), 0);
        check_all();
    }
}
END_TEST

START_TEST(a_server_that_was_changed_is_seen_by_a_sample)
{
    check_all();
    store_close(store);
    expected[10] ^= 1;
    ck_assert_int_eq(open_again(false), 0);
    check_all();
    ck_assert_uint_ge(reads(), 4);
}
END_TEST

START_TEST(another_address_or_size_is_another_store)
{
    check_all();
    store_close(store);
    memory = memory_store_from(expected, SIZE);
    ck_assert_int_eq(store_read_cache(memory, "nbd://elsewhere/", &options, false, &store, &error),
                     0);
    check_all();
    ck_assert_uint_ge(reads(), 4);
    store_close(store);
    memory = memory_store_from(expected, SIZE - 512);
    ck_assert_int_eq(store_read_cache(memory, "nbd://elsewhere/", &options, false, &store, &error),
                     0);
    check_read(0, PAGE);
    ck_assert_uint_eq(reads(), 1);
}
END_TEST

/* --- refusals -----------------------------------------------------------------------------------
 */

static void check_refused(int code, const char *word)
{
    ck_assert_int_eq(open_again(false), -code);
    ck_assert_ptr_nonnull(strstr(error.text, path));
    ck_assert_ptr_nonnull(strstr(error.text, word));
    ck_assert_ptr_null(strchr(error.text, '\n'));
}

START_TEST(what_is_something_else_is_left_as_it_is)
{
    char bytes[8] = "";
    int fd;

    store_close(store);
    fd = open(path, O_RDWR | O_TRUNC | O_CLOEXEC);
    ck_assert_int_eq(write(fd, "letters", 7), 7);
    check_refused(EEXIST, "something else");
    ck_assert_int_eq(pread(fd, bytes, 7, 0), 7);
    ck_assert_str_eq(bytes, "letters");
    close(fd);
    options.is_kept = false;
    check_refused(EEXIST, "read-cache-keep");
}
END_TEST

START_TEST(one_that_others_could_write_is_not_believed)
{
    store_close(store);
    ck_assert_int_eq(chmod(path, 0622), 0);
    check_refused(EACCES, "0600");
    ck_assert_int_eq(chmod(path, 0600), 0);
    ck_assert_int_eq(open_again(false), 0);
}
END_TEST

START_TEST(one_that_is_in_use_is_refused)
{
    struct store *first = store;

    check_refused(EBUSY, "another program");
    store_close(first);
    ck_assert_int_eq(open_again(false), 0);
}
END_TEST

/* --- many at once -------------------------------------------------------------------------------
 */

static _Atomic unsigned written; /* each page begins with this, or a higher number */
static atomic_bool over;

static void *keep_reading(void *argument)
{
    unsigned *errors = argument;
    uint8_t *bytes = malloc(128 * KIB);

    while (!atomic_load(&over)) {
        for (uint64_t at = 0; at + 128 * KIB <= SIZE && !atomic_load(&over); at += 100 * KIB) {
            unsigned least = atomic_load(&written), found;

            *errors += store_read(store, at, bytes, 128 * KIB) != 0;
            for (uint64_t page = (at + PAGE - 1) / PAGE * PAGE; page + PAGE <= at + 128 * KIB;
                 page += PAGE) {
                memcpy(&found, bytes + (page - at), sizeof(found));
                *errors += found < least || found > least + 100000;
            }
        }
    }
    free(bytes);
    return NULL;
}

START_TEST(no_reader_sees_what_a_write_had_replaced_before_it_asked)
{
    unsigned errors[4] = {0}, rounds = 60;
    pthread_t threads[4];

    store_close(store);
    options.size = MIB; /* so that places change their blocks */
    ck_assert_int_eq(open_again(false), 0);
    for (unsigned number = 1; number <= rounds; number++) {
        for (uint64_t at = 0; at + PAGE <= SIZE; at += PAGE) {
            ck_assert_int_eq(store_write(store, at, &number, sizeof(number)), 0);
        }
        atomic_store(&written, number);
        for (unsigned i = 0; number == 1 && i < 4; i++) {
            ck_assert_int_eq(pthread_create(&threads[i], NULL, keep_reading, &errors[i]), 0);
        }
    }
    atomic_store(&over, true);
    for (unsigned i = 0; i < 4; i++) {
        ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
        ck_assert_uint_eq(errors[i], 0);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("read-cache");
    TCase *tcase = tcase_create("read-cache");

    tcase_set_timeout(tcase, 240);
    tcase_add_unchecked_fixture(tcase, scratch_enter, scratch_leave);
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, what_was_read_once_is_not_asked_for_again);
    tcase_add_test(tcase, what_was_kept_is_not_asked_for_again_but_for_samples);
    tcase_add_test(tcase, what_is_not_kept_has_no_name_and_is_gone);
    tcase_add_test(tcase, a_small_cache_has_all_bytes_and_stays_small);
    tcase_add_test(tcase, what_cannot_be_read_around_it_is_no_error_of_the_reader);
    tcase_add_test(tcase, what_is_written_is_read);
    tcase_add_test(tcase, what_was_kept_over_writes_is_right_and_local);
    tcase_add_test(tcase, a_crash_after_a_write_leaves_nothing_that_is_old);
    tcase_add_test(tcase, a_write_that_is_not_made_stable_leaves_nothing_that_is_kept);
    tcase_add_test(tcase, a_store_that_makes_nothing_stable_leaves_nothing_that_is_kept);
    tcase_add_test(tcase, what_is_written_while_its_block_is_read_is_not_hidden_by_it);
    tcase_add_test(tcase, a_file_that_is_cut_off_anywhere_is_no_wrong_byte);
    tcase_add_test(tcase, a_file_whose_bytes_were_changed_is_no_wrong_byte);
    tcase_add_test(tcase, a_file_that_is_cut_off_while_it_is_used_is_no_wrong_byte);
    tcase_add_test(tcase, a_file_whose_bytes_change_while_it_is_used_is_no_wrong_byte);
    tcase_add_test(tcase, parts_of_two_states_of_the_file_are_no_wrong_byte);
    tcase_add_test(tcase, a_server_that_was_changed_is_seen_by_a_sample);
    tcase_add_test(tcase, another_address_or_size_is_another_store);
    tcase_add_test(tcase, what_is_something_else_is_left_as_it_is);
    tcase_add_test(tcase, one_that_others_could_write_is_not_believed);
    tcase_add_test(tcase, one_that_is_in_use_is_refused);
    tcase_add_test(tcase, no_reader_sees_what_a_write_had_replaced_before_it_asked);
    suite_add_tcase(suite, tcase);
    return suite_main(suite);
}
