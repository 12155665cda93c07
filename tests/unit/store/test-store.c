/* SPDX-License-Identifier: MIT */
/* What a host file store reads, writes and knows of itself. Opening is in test-store-open.c. */
#include "config.h"

#include "scratch.h"
#include "store/file.h"
#include "suite.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define KIB UINT64_C(1024)
#define MIB (KIB * 1024)

/*
 * Where the host's calls can be replaced with a line (64-bit off_t is one
 * register), they are: to transfer little, to be interrupted and to fail, as
 * no real file can be made to on demand.
 */
#if defined(__LP64__)
#define REPLACED_CALLS 1

static struct {
    size_t most;         /* bytes that a transfer takes, 0 for all */
    unsigned interrupts; /* how often -EINTR comes before each success */
    unsigned interrupted;
    int error;        /* the errno of writing, seeking and syncing; 0 for none */
    int punch_error;  /* that of fallocate(2) */
    bool no_progress; /* writes return 0 */
} host;

static bool host_refuses(int error)
{
    if (host.interrupted < host.interrupts) {
        host.interrupted++;
        errno = EINTR;
        return true;
    }
    if (host.interrupts != 0) { /* or several threads may be here */
        host.interrupted = 0;
    }
    errno = error;
    return error != 0;
}

static size_t host_part(size_t length)
{
    return host.most != 0 && length > host.most ? host.most : length;
}

ssize_t pread(int fd, void *buffer, size_t length, off_t offset)
{
    if (host_refuses(0)) {
        return -1;
    }
    return syscall(SYS_pread64, fd, buffer, host_part(length), offset);
}

ssize_t pwrite(int fd, const void *buffer, size_t length, off_t offset)
{
    if (host_refuses(host.error)) {
        return -1;
    }
    return host.no_progress ? 0 : syscall(SYS_pwrite64, fd, buffer, host_part(length), offset);
}

int fallocate(int fd, int mode, off_t offset, off_t length)
{
    if (host_refuses(host.punch_error)) {
        return -1;
    }
    return (int)syscall(SYS_fallocate, fd, mode, offset, length);
}

int fdatasync(int fd)
{
    return host_refuses(host.error) ? -1 : (int)syscall(SYS_fdatasync, fd);
}

off_t lseek(int fd, off_t offset, int whence)
{
    return host_refuses(host.error) ? -1 : syscall(SYS_lseek, fd, offset, whence);
}
#endif

static void restore_host(void)
{
#ifdef REPLACED_CALLS
    memset(&host, 0, sizeof(host));
#endif
}

static struct store *open_store(const char *path, enum store_access access)
{
    struct store *store = NULL;
    struct error error;

    ck_assert_msg(store_file_open(path, "image", &(struct store_file_options){.access = access},
                                  &store, &error) == 0,
                  "%s", error.text);
    return store;
}

/* Bytes that tell where they were. */
static void fill_pattern(uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        bytes[i] = (uint8_t)(1 + (i ^ (i >> 8)) % 255);
    }
}

static struct store *open_pattern(uint8_t *bytes, size_t size, enum store_access access)
{
    fill_pattern(bytes, size);
    scratch_file("a", bytes, size);
    return open_store("a", access);
}

static bool all_zero(const uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        if (bytes[i] != 0) {
            return false;
        }
    }
    return true;
}

START_TEST(reads_give_the_bytes_at_their_offset)
{
    uint8_t bytes[10000], buffer[10000];
    struct store *store = open_pattern(bytes, sizeof(bytes), STORE_READ);

    ck_assert_int_eq(store_read(store, 0, buffer, sizeof(buffer)), 0);
    ck_assert_mem_eq(buffer, bytes, sizeof(bytes));
    ck_assert_int_eq(store_read(store, 4097, buffer, 333), 0);
    ck_assert_mem_eq(buffer, bytes + 4097, 333);
    ck_assert_int_eq(store_read(store, 0, NULL, 0), 0);
    store_close(store);
}
END_TEST

START_TEST(reads_past_the_end_give_zeros)
{
    uint8_t bytes[1000], buffer[500];
    struct store *store = open_pattern(bytes, sizeof(bytes), STORE_READ);

    memset(buffer, 0xff, sizeof(buffer));
    ck_assert_int_eq(store_read(store, 900, buffer, sizeof(buffer)), 0);
    ck_assert_mem_eq(buffer, bytes + 900, 100);
    ck_assert(all_zero(buffer + 100, 400));
    memset(buffer, 0xff, sizeof(buffer));
    ck_assert_int_eq(store_read(store, 1000, buffer, sizeof(buffer)), 0);
    ck_assert(all_zero(buffer, sizeof(buffer)));
    store_close(store);
}
END_TEST

/* The largest size that was seen counts; a part that this program cut off is not lost. */
START_TEST(what_was_in_the_file_and_is_gone_is_an_error_and_no_zeros)
{
    uint8_t bytes[10000], buffer[10000];
    struct store *store = open_pattern(bytes, sizeof(bytes), STORE_WRITE);
    uint64_t length;
    bool is_data;

    ck_assert_int_eq(truncate("a", 5000), 0);
    ck_assert_int_eq(store_read(store, 0, buffer, 5000), 0);
    ck_assert(!store_lost(store, 4000, 4000));
    ck_assert_int_eq(store_read(store, 4000, buffer, 4000), -EIO);
    ck_assert_int_eq(store_read(store, 9999, buffer, 1), -EIO);
    ck_assert_str_eq(store_read_failure(store, 4000, 4000, -EIO),
                     "the file has become shorter than it was");
    ck_assert_int_eq(store_read(store, 10000, buffer, 100), 0); /* there was never anything */
    ck_assert(store_lost(store, 4000, 4000) && !store_lost(store, 4000, 1000));
    ck_assert_int_eq(store_extent(store, 6000, 1000, &is_data, &length), 0);
    ck_assert(is_data && length == 1000);

    ck_assert_int_eq(store_write(store, 12000, bytes, 1000), 0);
    ck_assert_int_eq(truncate("a", 5000), 0);
    ck_assert_int_eq(store_read(store, 12500, buffer, 100), -EIO);
    ck_assert_int_eq(store_resize(store, 4000), 0);
    ck_assert_int_eq(store_read(store, 3000, buffer, 7000), 0);
    ck_assert(all_zero(buffer + 1000, 6000));
    ck_assert_int_eq(store_extent(store, 6000, 1000, &is_data, &length), 0);
    ck_assert(!is_data);
    store_close(store);
}
END_TEST

START_TEST(reads_at_impossible_offsets_give_zeros)
{
    static const uint64_t offsets[] = {
        UINT64_C(1) << 44, /* past what most file systems can hold */
        INT64_MAX - 600,         INT64_MAX - 500,  INT64_MAX - 499,  INT64_MAX - 1, INT64_MAX,
        INT64_MAX + UINT64_C(1), UINT64_MAX - 500, UINT64_MAX - 100, UINT64_MAX,
    };
    uint8_t bytes[1000], buffer[500];
    struct store *store = open_pattern(bytes, sizeof(bytes), STORE_READ);

    for (size_t i = 0; i < sizeof(offsets) / sizeof(offsets[0]); i++) {
        memset(buffer, 0xff, sizeof(buffer));
        ck_assert_int_eq(store_read(store, offsets[i], buffer, sizeof(buffer)), 0);
        ck_assert(all_zero(buffer, sizeof(buffer)));
    }
    store_close(store);
}
END_TEST

START_TEST(writes_land_at_their_offset_and_grow_the_file)
{
    uint8_t bytes[1000], buffer[1200];
    struct store *store = open_pattern(bytes, sizeof(bytes), STORE_WRITE);
    struct store_info info;

    ck_assert_int_eq(store_write(store, 10, "0123456789", 10), 0);
    ck_assert_int_eq(store_write(store, 1190, "0123456789", 10), 0);
    ck_assert_int_eq(store_sync(store), 0);
    ck_assert_int_eq(store_info(store, &info), 0);
    ck_assert_uint_eq(info.size, 1200);
    ck_assert_int_eq(store_read(store, 0, buffer, sizeof(buffer)), 0);
    ck_assert_mem_eq(buffer, bytes, 10);
    ck_assert_mem_eq(buffer + 10, "0123456789", 10);
    ck_assert_mem_eq(buffer + 20, bytes + 20, 980);
    ck_assert(all_zero(buffer + 1000, 190));
    ck_assert_mem_eq(buffer + 1190, "0123456789", 10);
    store_close(store);
}
END_TEST

START_TEST(writes_at_impossible_offsets_and_to_a_reader_fail)
{
    uint8_t bytes[1000];
    struct store *store = open_pattern(bytes, sizeof(bytes), STORE_WRITE);

    ck_assert_int_eq(store_write(store, INT64_MAX, "a", 1), -EFBIG);
    ck_assert_int_eq(store_write(store, UINT64_MAX, "ab", 2), -EFBIG);
    ck_assert_int_eq(store_resize(store, UINT64_MAX), -EFBIG);
    store_close(store);
    store = open_store("a", STORE_READ);
    ck_assert_int_eq(store_write(store, 0, "a", 1), -EBADF);
    ck_assert_int_eq(store_punch(store, 0, 1), -EBADF);
    ck_assert_int_eq(store_resize(store, 0), -EINVAL); /* ftruncate(2)'s word for it */
    store_close(store);
}
END_TEST

START_TEST(punched_bytes_read_as_zeros_and_the_size_stays)
{
    static uint8_t bytes[256 * 1024], buffer[256 * 1024];
    struct store *store = open_pattern(bytes, sizeof(bytes), STORE_WRITE);
    struct store_info before, after;

    ck_assert_int_eq(store_info(store, &before), 0);
    ck_assert_int_eq(store_punch(store, 1000, 128 * KIB), 0);
    ck_assert_int_eq(store_punch(store, 250 * KIB, UINT64_MAX), 0);
    ck_assert_int_eq(store_punch(store, UINT64_MAX, UINT64_MAX), 0);
    ck_assert_int_eq(store_info(store, &after), 0);
    ck_assert_uint_eq(after.size, before.size);
    ck_assert_uint_lt(after.allocated, before.allocated);
    memset(bytes + 1000, 0, 128 * KIB);
    memset(bytes + 250 * KIB, 0, 6 * KIB);
    ck_assert_int_eq(store_read(store, 0, buffer, sizeof(buffer)), 0);
    ck_assert_mem_eq(buffer, bytes, sizeof(bytes));
    store_close(store);
}
END_TEST

START_TEST(resizing_cuts_off_or_adds_zeros)
{
    uint8_t bytes[1000], buffer[1000];
    struct store *store = open_pattern(bytes, sizeof(bytes), STORE_WRITE);

    ck_assert_int_eq(store_resize(store, 300), 0);
    ck_assert_int_eq(store_resize(store, 1000), 0);
    ck_assert_int_eq(store_read(store, 0, buffer, sizeof(buffer)), 0);
    ck_assert_mem_eq(buffer, bytes, 300);
    ck_assert(all_zero(buffer + 300, 700));
    store_close(store);
}
END_TEST

START_TEST(info_is_what_stat_says)
{
    uint8_t bytes[100000];
    struct store *store = open_pattern(bytes, sizeof(bytes), STORE_WRITE);
    struct store_info info;
    struct stat status;

    ck_assert_int_eq(chmod("a", 0640), 0);
    ck_assert_int_eq(store_resize(store, 50 * MIB), 0);
    ck_assert_int_eq(store_sync(store), 0);
    ck_assert_int_eq(stat("a", &status), 0);
    ck_assert_int_eq(store_info(store, &info), 0);
    ck_assert_uint_eq(info.size, 50 * MIB);
    ck_assert_uint_eq(info.allocated, (uint64_t)status.st_blocks * 512);
    ck_assert_uint_eq(info.device, status.st_dev);
    ck_assert_uint_eq(info.inode, status.st_ino);
    ck_assert_uint_eq(info.uid, status.st_uid);
    ck_assert_uint_eq(info.gid, status.st_gid);
    ck_assert_uint_eq(info.mode, S_IFREG | 0640);
    ck_assert_mem_eq(&info.atime, &status.st_atim, sizeof(info.atime));
    ck_assert_mem_eq(&info.mtime, &status.st_mtim, sizeof(info.mtime));
    ck_assert_mem_eq(&info.ctime, &status.st_ctim, sizeof(info.ctime));
    store_close(store);
}
END_TEST

static void expect_extent(struct store *store, uint64_t offset, uint64_t limit, bool data,
                          uint64_t length)
{
    uint64_t found = 0;
    bool is_data = !data;

    ck_assert_int_eq(store_extent(store, offset, limit, &is_data, &found), 0);
    ck_assert_int_eq(is_data, data);
    ck_assert_uint_eq(found, length);
}

/* 4 MiB: a hole, 64 KiB of data at 1 MiB, a hole, 64 KiB at 3 MiB, a hole. */
static struct store *open_sparse(void)
{
    static const uint8_t data[64 * 1024] = {1};
    struct store *store;

    scratch_file("a", NULL, 0);
    store = open_store("a", STORE_WRITE);
    ck_assert_int_eq(store_resize(store, 4 * MIB), 0);
    ck_assert_int_eq(store_write(store, 1 * MIB, data, sizeof(data)), 0);
    ck_assert_int_eq(store_write(store, 3 * MIB, data, sizeof(data)), 0);
    return store;
}

START_TEST(extents_are_the_holes_and_data_of_the_file)
{
    struct store *store = open_sparse();
    int fd = open("a", O_RDONLY | O_CLOEXEC);

    /* A file system without holes has nothing to show here. */
    if (lseek(fd, 0, SEEK_DATA) == (off_t)(1 * MIB)) {
        expect_extent(store, 0, UINT64_MAX, false, 1 * MIB);
        expect_extent(store, 5, 100, false, 100);
        expect_extent(store, 1 * MIB - 1, UINT64_MAX, false, 1);
        expect_extent(store, 1 * MIB, UINT64_MAX, true, 64 * KIB);
        expect_extent(store, 1 * MIB + 7, 64 * KIB - 8, true, 64 * KIB - 8);
        expect_extent(store, 1 * MIB + 7, 64 * KIB, true, 64 * KIB - 7);
        expect_extent(store, 1 * MIB + 64 * KIB, 10 * MIB, false, 2 * MIB - 64 * KIB);
        expect_extent(store, 3 * MIB + 64 * KIB, 10 * MIB, false, 10 * MIB);
    }
    close(fd);
    store_close(store);
}
END_TEST

START_TEST(past_the_end_is_a_hole)
{
    uint8_t bytes[8192];
    struct store *store = open_pattern(bytes, sizeof(bytes), STORE_READ);

    expect_extent(store, 0, UINT64_MAX, true, 8192);
    expect_extent(store, 8191, UINT64_MAX, true, 1);
    expect_extent(store, 8192, 77, false, 77);
    expect_extent(store, INT64_MAX, UINT64_MAX, false, UINT64_MAX);
    expect_extent(store, UINT64_MAX, 1, false, 1);
    store_close(store);
}
END_TEST

struct reader {
    struct store *store;
    const uint8_t *bytes;
    size_t size;
    unsigned seed;
    bool failed;
};

static void *read_and_ask(void *argument)
{
    struct reader *reader = argument;
    uint8_t buffer[5000];

    for (int i = 0; i < 300; i++) {
        size_t offset = (size_t)rand_r(&reader->seed) % (reader->size - sizeof(buffer));
        uint64_t length = 0;
        bool is_data = false;

        reader->failed |= store_read(reader->store, offset, buffer, sizeof(buffer)) != 0;
        reader->failed |= memcmp(buffer, reader->bytes + offset, sizeof(buffer)) != 0;
        reader->failed |= store_extent(reader->store, offset, 100, &is_data, &length) != 0;
        reader->failed |= !is_data || length != 100;
    }
    return NULL;
}

START_TEST(threads_share_one_store)
{
    static uint8_t bytes[300000];
    struct store *store = open_pattern(bytes, sizeof(bytes), STORE_READ);
    struct reader readers[4];
    pthread_t threads[4];

    for (unsigned i = 0; i < 4; i++) {
        readers[i] = (struct reader){store, bytes, sizeof(bytes), i, false};
        ck_assert_int_eq(pthread_create(&threads[i], NULL, read_and_ask, &readers[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
        ck_assert(!readers[i].failed);
    }
    store_close(store);
}
END_TEST

/* A loop device over "a" that ends with its last descriptor; -1 where there can be none. */
static int open_loop_device(char path[64])
{
    int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    int number = control < 0 ? -1 : ioctl(control, LOOP_CTL_GET_FREE);
    struct loop_config config = {.info.lo_flags = LO_FLAGS_AUTOCLEAR};
    int device = -1;

    if (number >= 0) {
        snprintf(path, 64, "/dev/loop%d", number);
        device = open(path, O_RDWR | O_CLOEXEC);
    }
    config.fd = (unsigned)open("a", O_RDWR | O_CLOEXEC);
    if (device >= 0 && ioctl(device, LOOP_CONFIGURE, &config) != 0) {
        close(device);
        device = -1;
    }
    close((int)config.fd);
    close(control);
    return device;
}

START_TEST(a_block_device_is_data_of_the_size_of_the_device)
{
    static uint8_t bytes[1024 * 1024], buffer[1024 * 1024];
    struct store_info info;
    struct store *store;
    char path[64];
    int device;

    fill_pattern(bytes, sizeof(bytes));
    scratch_file("a", bytes, sizeof(bytes));
    device = open_loop_device(path);
    if (device < 0) {
        return; /* only root, on a host that has such devices */
    }
    store = open_store(path, STORE_WRITE);
    ck_assert_int_eq(store_info(store, &info), 0);
    ck_assert_uint_eq(info.size, 1 * MIB);
    ck_assert_uint_eq(info.allocated, 1 * MIB);
    ck_assert(S_ISBLK(info.mode));
    expect_extent(store, 512, UINT64_MAX, true, 1 * MIB - 512);
    expect_extent(store, 1 * MIB, 9, false, 9);
    ck_assert_int_eq(store_punch(store, 4096, 8192), 0);
    ck_assert_int_eq(store_punch(store, 100001, 77), 0); /* of no whole sector */
    ck_assert_int_eq(store_punch(store, 1 * MIB - 100, UINT64_MAX), 0);
    memset(bytes + 4096, 0, 8192);
    memset(bytes + 100001, 0, 77);
    memset(bytes + 1 * MIB - 100, 0, 100);
    ck_assert_int_eq(store_read(store, 0, buffer, sizeof(buffer)), 0);
    ck_assert_mem_eq(buffer, bytes, sizeof(bytes));
    ck_assert_int_eq(store_read(store, 1 * MIB - 100, buffer, 8192), 0);
    ck_assert(all_zero(buffer, 8192));
    ck_assert_int_eq(store_write(store, 1 * MIB - 2, "abcd", 4), -ENOSPC);
    ck_assert_int_eq(store_resize(store, 0), -ENOTSUP);
    ck_assert_int_eq(store_sync(store), 0);
    store_close(store);
    close(device);
}
END_TEST

#ifdef REPLACED_CALLS
START_TEST(short_and_interrupted_transfers_are_carried_on)
{
    uint8_t bytes[1000], buffer[1100];
    struct store *store = open_pattern(bytes, sizeof(bytes), STORE_WRITE);

    host.most = 7;
    host.interrupts = 2;
    ck_assert_int_eq(store_read(store, 0, buffer, sizeof(buffer)), 0);
    ck_assert_mem_eq(buffer, bytes, sizeof(bytes));
    ck_assert(all_zero(buffer + 1000, 100));
    ck_assert_int_eq(store_write(store, 500, bytes, 500), 0);
    ck_assert_int_eq(store_sync(store), 0);
    ck_assert_int_eq(store_punch(store, 0, 100), 0);
    memset(&host, 0, sizeof(host));
    ck_assert_int_eq(store_read(store, 0, buffer, 1000), 0);
    ck_assert(all_zero(buffer, 100));
    ck_assert_mem_eq(buffer + 100, bytes + 100, 400);
    ck_assert_mem_eq(buffer + 500, bytes, 500);
    store_close(store);
}
END_TEST

START_TEST(a_write_that_cannot_be_whole_fails)
{
    uint8_t bytes[1000];
    struct store *store = open_pattern(bytes, sizeof(bytes), STORE_WRITE);

    host.error = ENOSPC;
    ck_assert_int_eq(store_write(store, 0, "a", 1), -ENOSPC);
    host.error = 0;
    host.no_progress = true;
    ck_assert_int_eq(store_write(store, 0, "a", 1), -EIO);
    store_close(store);
}
END_TEST

START_TEST(a_host_that_cannot_punch_gets_zeros_written)
{
    static const int errors[] = {EOPNOTSUPP, ENOSYS, ENODEV};
    static uint8_t bytes[200000], buffer[200000];

    for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
        struct store *store = open_pattern(bytes, sizeof(bytes), STORE_WRITE);
        struct store_info info;

        host.punch_error = errors[i];
        ck_assert_int_eq(store_punch(store, 1000, 150000), 0);
        ck_assert_int_eq(store_punch(store, 199999, UINT64_MAX), 0);
        memset(bytes + 1000, 0, 150000);
        bytes[199999] = 0;
        ck_assert_int_eq(store_read(store, 0, buffer, sizeof(buffer)), 0);
        ck_assert_mem_eq(buffer, bytes, sizeof(bytes));
        ck_assert_int_eq(store_info(store, &info), 0);
        ck_assert_uint_eq(info.size, sizeof(bytes));
        host.punch_error = EIO;
        ck_assert_int_eq(store_punch(store, 0, 1), -EIO);
        store_close(store);
    }
}
END_TEST

START_TEST(a_failed_sync_is_reported)
{
    uint8_t bytes[1000];
    struct store *store = open_pattern(bytes, sizeof(bytes), STORE_WRITE);

    host.error = EIO;
    ck_assert_int_eq(store_sync(store), -EIO);
    store_close(store);
}
END_TEST

START_TEST(a_host_that_cannot_tell_extents_has_data_to_the_end)
{
    static const int errors[] = {EINVAL, EOPNOTSUPP, ENOSYS};
    struct store *store = open_sparse();
    uint64_t length;
    bool is_data;

    for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
        host.error = errors[i];
        expect_extent(store, 0, UINT64_MAX, true, 4 * MIB);
        expect_extent(store, 2 * MIB, 10, true, 10);
        expect_extent(store, 4 * MIB, 10, false, 10);
    }
    host.error = EIO;
    ck_assert_int_eq(store_extent(store, 0, 10, &is_data, &length), -EIO);
    store_close(store);
}
END_TEST
#endif

int main(void)
{
    Suite *suite = suite_create("store");
    TCase *tcase = tcase_create("file");

    tcase_add_unchecked_fixture(tcase, scratch_enter, scratch_leave);
    tcase_add_checked_fixture(tcase, restore_host, restore_host);
    tcase_add_test(tcase, reads_give_the_bytes_at_their_offset);
    tcase_add_test(tcase, reads_past_the_end_give_zeros);
    tcase_add_test(tcase, what_was_in_the_file_and_is_gone_is_an_error_and_no_zeros);
    tcase_add_test(tcase, reads_at_impossible_offsets_give_zeros);
    tcase_add_test(tcase, writes_land_at_their_offset_and_grow_the_file);
    tcase_add_test(tcase, writes_at_impossible_offsets_and_to_a_reader_fail);
    tcase_add_test(tcase, punched_bytes_read_as_zeros_and_the_size_stays);
    tcase_add_test(tcase, resizing_cuts_off_or_adds_zeros);
    tcase_add_test(tcase, info_is_what_stat_says);
    tcase_add_test(tcase, extents_are_the_holes_and_data_of_the_file);
    tcase_add_test(tcase, past_the_end_is_a_hole);
    tcase_add_test(tcase, threads_share_one_store);
    tcase_add_test(tcase, a_block_device_is_data_of_the_size_of_the_device);
#ifdef REPLACED_CALLS
    tcase_add_test(tcase, short_and_interrupted_transfers_are_carried_on);
    tcase_add_test(tcase, a_write_that_cannot_be_whole_fails);
    tcase_add_test(tcase, a_host_that_cannot_punch_gets_zeros_written);
    tcase_add_test(tcase, a_failed_sync_is_reported);
    tcase_add_test(tcase, a_host_that_cannot_tell_extents_has_data_to_the_end);
#endif
    suite_add_tcase(suite, tcase);
    return suite_main(suite);
}
