/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "store/file.h"

#include "store/direct.h"
#include "store/nbd.h"
#include "store/open.h"
#include "util/checked.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

static_assert(sizeof(off_t) == 8, "images are larger than 32 bits can address");

#define STAT_BLOCK_SIZE 512 /* st_blocks counts these, whatever the file system's blocks are */
#define ZEROS_SIZE      65536
#define LARGE_WRITE     ((size_t)128 << 10) /* bytes */
#define FILL_ROOM       64                  /* times as much must be free on the host */
#define FILL_PIECES     16                  /* of ZEROS_SIZE, in one request */
#define FILL_ALIGNMENT  UINT64_C(4096)      /* bytes; no direct I/O wants more of our hosts */

struct file_store {
    struct store store;
    int fd;
    bool block_device;
    bool unsafe; /* nothing is synced */
    bool changes_atime;
    struct owners owners;
    struct direct *direct; /* NULL: through the host's page cache */
    int filled; /* another description of the same file, past the page cache; -1: there is none */
    /*
     * File systems take one write to a file at a time into the page cache. Who waits for that in
     * the kernel spins, on a processor that others have use for; who waits here sleeps. A leaf,
     * for large writes alone: one that is short is over before a sleeper is awake.
     */
    pthread_mutex_t large_writes;
    /* The largest size that the file has had, bytes: what is missing before it has been lost. */
    atomic_uint_fast64_t known_size;
    atomic_bool has_lost; /* a read has met that */
    atomic_bool refuses_holes;
};

static struct file_store *to_file(struct store *store)
{
    return (struct file_store *)((char *)store - offsetof(struct file_store, store));
}

/* The file reaches to `size`. */
static void size_seen(struct file_store *file, uint64_t size)
{
    uint_fast64_t known = atomic_load_explicit(&file->known_size, memory_order_relaxed);

    while (known < size &&
           !atomic_compare_exchange_weak_explicit(&file->known_size, &known, size,
                                                  memory_order_relaxed, memory_order_relaxed)) {
    }
}

/* Whether the file was longer than `offset`. */
static bool was_longer(const struct file_store *file, uint64_t offset)
{
    return offset < atomic_load_explicit(&file->known_size, memory_order_relaxed);
}

/* Zeros behind the end; *missing: how many bytes that are. */
static int read_cached(const struct file_store *file, uint64_t offset, uint8_t *to, size_t length,
                       size_t *missing)
{
    int fd = file->fd;

    /* No file reaches beyond INT64_MAX: there, as behind the end of this one, are zeros. */
    while (length > 0 && offset < INT64_MAX) {
        size_t part = (size_t)min_u64(length, INT64_MAX - offset);
        ssize_t done = pread(fd, to, part, (off_t)offset);

        if (done < 0 && errno == EINTR) {
            continue;
        }
        if (done < 0) {
            return -errno;
        }
        if (done == 0) {
            break;
        }
        to += done;
        offset += (uint64_t)done;
        length -= (size_t)done;
    }
    if (length > 0) {
        memset(to, 0, length);
    }
    *missing = length;
    return 0;
}

static int file_read(struct store *store, uint64_t offset, void *buffer, size_t length)
{
    struct file_store *file = to_file(store);
    size_t missing;
    int rc = file->direct != NULL ? direct_read(file->direct, offset, buffer, length, &missing)
                                  : read_cached(file, offset, buffer, length, &missing);

    if (rc == 0 && missing > 0 && was_longer(file, offset + (length - missing))) {
        atomic_store_explicit(&file->has_lost, true, memory_order_relaxed);
        return -EIO;
    }
    return rc;
}

/* All of it. */
static int write_fully(int fd, uint64_t offset, const uint8_t *from, size_t length)
{
    while (length > 0) {
        ssize_t done = pwrite(fd, from, length, (off_t)offset);

        if (done < 0 && errno == EINTR) {
            continue;
        }
        if (done < 0) {
            return -errno;
        }
        if (done == 0) {
            return -EIO;
        }
        from += done;
        offset += (uint64_t)done;
        length -= (size_t)done;
    }
    return 0;
}

static int file_write(struct store *store, uint64_t offset, const void *buffer, size_t length)
{
    struct file_store *file = to_file(store);
    bool takes_turn = length >= LARGE_WRITE && !file->block_device && file->direct == NULL;
    int rc;

    if (!range_within(offset, length, INT64_MAX)) {
        return -EFBIG;
    }
    if (takes_turn) {
        pthread_mutex_lock(&file->large_writes);
    }
    rc = file->direct != NULL ? direct_write(file->direct, offset, buffer, length)
                              : write_fully(file->fd, offset, buffer, length);
    if (takes_turn) {
        pthread_mutex_unlock(&file->large_writes);
    }
    if (rc == 0 && length > 0) {
        size_seen(file, offset + length);
    }
    return rc;
}

static int file_sync(struct store *store)
{
    const struct file_store *file = to_file(store);

    while (!file->unsafe && fdatasync(file->fd) != 0) {
        if (errno != EINTR) {
            return -errno;
        }
    }
    return 0;
}

static int file_size(const struct file_store *file, const struct stat *status, uint64_t *size)
{
    if (!file->block_device) {
        *size = (uint64_t)status->st_size;
        return 0;
    }
    return ioctl(file->fd, BLKGETSIZE64, size) == 0 ? 0 : -errno;
}

static int current_size(const struct file_store *file, uint64_t *size)
{
    struct stat status;

    if (fstat(file->fd, &status) != 0) {
        return -errno;
    }
    return file_size(file, &status, size);
}

static bool file_lost(struct store *store, uint64_t offset, uint64_t length)
{
    const struct file_store *file = to_file(store);
    uint64_t size;

    return atomic_load_explicit(&file->has_lost, memory_order_relaxed) &&
           (current_size(file, &size) < 0 ||
            (size < offset + length && was_longer(file, max_u64(size, offset))));
}

static int file_info(struct store *store, struct store_info *info)
{
    struct file_store *file = to_file(store);
    struct stat status;
    int rc;

    if (fstat(file->fd, &status) != 0) {
        return -errno;
    }
    *info = (struct store_info){
        .allocated = (uint64_t)status.st_blocks * STAT_BLOCK_SIZE,
        .device = status.st_dev,
        .inode = status.st_ino,
        .node = S_ISBLK(status.st_mode) ? status.st_rdev : 0,
        .uid = status.st_uid,
        .gid = status.st_gid,
        .owners = file->owners,
        .mode = status.st_mode,
        .atime = status.st_atim,
        .mtime = status.st_mtim,
        .ctime = status.st_ctim,
        .changes_atime = file->changes_atime,
    };
    rc = file_size(file, &status, &info->size);
    if (rc == 0) {
        size_seen(file, info->size);
    }
    if (rc == 0 && file->block_device) {
        info->allocated = info->size;
    }
    return rc;
}

static const _Alignas(4096) uint8_t zeros[ZEROS_SIZE];

static int write_zeros(struct store *store, uint64_t offset, uint64_t length)
{
    while (length > 0) {
        size_t part = (size_t)min_u64(length, sizeof(zeros));
        int rc = file_write(store, offset, zeros, part);

        if (rc != 0) {
            return rc;
        }
        offset += part;
        length -= part;
    }
    return 0;
}

/* Of a range of which the write in progress of a partial block must not bring anything back. */
static void hold(const struct file_store *file, uint64_t offset, uint64_t length,
                 struct range_lock *lock)
{
    if (file->direct != NULL) {
        direct_hold(file->direct, offset, length, lock);
    }
}

static int release(const struct file_store *file, struct range_lock *lock, int rc)
{
    if (file->direct != NULL) {
        direct_release(file->direct, lock);
    }
    return rc;
}

static int punch_hole(const struct file_store *file, uint64_t offset, uint64_t length)
{
    int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, rc = 0;
    struct range_lock lock;

    hold(file, offset, length, &lock);
    do {
        rc = fallocate(file->fd, mode, (off_t)offset, (off_t)length) == 0 ? 0 : -errno;
    } while (rc == -EINTR);
    return release(file, &lock, rc);
}

static int file_punch(struct store *store, uint64_t offset, uint64_t length)
{
    struct file_store *file = to_file(store);
    uint64_t size;
    int rc = current_size(file, &size);

    if (rc != 0) {
        return rc;
    }
    if (offset >= size || length == 0) {
        return 0; /* what is past the end reads as zeros already */
    }
    length = min_u64(length, size - offset);
    rc = punch_hole(file, offset, length);
    switch (rc) {
    case -EOPNOTSUPP:
    case -ENOSYS:
    case -ENODEV:
        atomic_store_explicit(&file->refuses_holes, true, memory_order_relaxed);
        return write_zeros(store, offset, length);
    case -EINVAL: /* of a block device, for a range that is not made of its sectors */
        return write_zeros(store, offset, length);
    default:
        return rc;
    }
}

static bool file_refuses_holes(struct store *store)
{
    return atomic_load_explicit(&to_file(store)->refuses_holes, memory_order_relaxed);
}

static int file_resize(struct store *store, uint64_t size)
{
    struct file_store *file = to_file(store);
    struct range_lock lock;
    int rc;

    if (file->block_device) {
        return -ENOTSUP;
    }
    if (size > INT64_MAX) {
        return -EFBIG;
    }
    hold(file, size, UINT64_MAX, &lock);
    if (was_longer(file, size)) {
        /* Before it is done: who reads there meanwhile is not to hear of a loss. */
        atomic_store_explicit(&file->known_size, size, memory_order_relaxed);
    }
    do {
        rc = ftruncate(file->fd, (off_t)size) == 0 ? 0 : -errno;
    } while (rc == -EINTR);
    if (rc == 0) {
        size_seen(file, size);
    }
    return release(file, &lock, rc);
}

static int file_allocate(struct store *store, uint64_t offset, uint64_t length)
{
    const struct file_store *file = to_file(store);
    int rc;

    if (file->block_device) {
        return 0; /* all of its space is there */
    }
    if (!range_within(offset, length, INT64_MAX)) {
        return -EFBIG;
    }
    do {
        rc = fallocate(file->fd, FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)length) == 0 ? 0
                                                                                         : -errno;
    } while (rc == -EINTR);
    return rc == -ENOSYS ? -EOPNOTSUPP : rc;
}

/*
 * Whether the host's file system writes over a block where it lies, and has to record each new one:
 * then a sync after a write to a hole costs about twice what it costs after one to a block. Space
 * that will be short is for what is written. 0, -EOPNOTSUPP or -ENOSPC.
 */
static int fill_helps(int fd, uint64_t length)
{
    struct statfs host;

    if (fstatfs(fd, &host) != 0 ||
        (host.f_type != EXT4_SUPER_MAGIC && host.f_type != XFS_SUPER_MAGIC)) {
        return -EOPNOTSUPP;
    }
    return host.f_bavail < length / (uint64_t)host.f_bsize * FILL_ROOM ? -ENOSPC : 0;
}

/*
 * Zeros, past the page cache: nobody reads them again, and through it they would have to wait for
 * the next sync, and that for them.
 */
static int fill_directly(int fd, uint64_t offset, uint64_t length)
{
    struct iovec pieces[FILL_PIECES];

    for (unsigned i = 0; i < FILL_PIECES; i++) {
        pieces[i] = (struct iovec){.iov_base = (void *)(uintptr_t)zeros, .iov_len = ZEROS_SIZE};
    }
    while (length > 0) {
        int count = (int)min_u64(max_u64(length / ZEROS_SIZE, 1), FILL_PIECES);
        ssize_t done;

        pieces[0].iov_len = (size_t)min_u64(length, ZEROS_SIZE);
        done = pwritev(fd, pieces, count, (off_t)offset);
        if (done < 0 && errno == EINTR) {
            continue;
        }
        if (done <= 0) {
            return done == 0 ? -EIO : -errno;
        }
        offset += (uint64_t)done;
        length -= (uint64_t)done;
    }
    return 0;
}

static int file_fill(struct store *store, uint64_t offset, uint64_t length)
{
    const struct file_store *file = to_file(store);
    uint64_t begin = div_round_up(offset, FILL_ALIGNMENT) * FILL_ALIGNMENT;
    uint64_t end = round_down(offset + length, FILL_ALIGNMENT);
    int rc;

    if (file->filled < 0 || !range_within(offset, length, INT64_MAX)) {
        return -EOPNOTSUPP;
    }
    rc = fill_helps(file->fd, length);
    if (rc < 0) {
        return rc;
    }
    if (begin >= end) {
        return 0;
    }
    rc = fill_directly(file->filled, begin, end - begin);
    return rc == -EINVAL ? -EOPNOTSUPP : rc;
}

static int extent_is(bool data, uint64_t length, uint64_t limit, bool *is_data, uint64_t *found)
{
    *is_data = data;
    *found = min_u64(length, limit);
    return 0;
}

/* lseek(2) with -ENOTSUP for all the ways in which a host says that it cannot tell. */
static int seek(int fd, uint64_t from, int whence, uint64_t *found)
{
    off_t offset = lseek(fd, (off_t)from, whence);

    if (offset >= 0) {
        *found = (uint64_t)offset;
        return 0;
    }
    switch (errno) {
    case EINVAL:
    case ENOSYS:
    case EOPNOTSUPP:
        return -ENOTSUP;
    default:
        return -errno;
    }
}

/*
 * `offset` lies before the end of a regular file. The file position moves, and
 * other threads may move it at the same time; nothing ever depends on it.
 */
static int sparse_extent(int fd, uint64_t offset, uint64_t limit, bool *is_data, uint64_t *length)
{
    uint64_t data = 0, hole = 0;
    int rc = seek(fd, offset, SEEK_DATA, &data);

    if (rc == -ENXIO) { /* no data from here on */
        return extent_is(false, limit, limit, is_data, length);
    }
    if (rc != 0) {
        return rc;
    }
    if (data > offset) {
        return extent_is(false, data - offset, limit, is_data, length);
    }
    rc = seek(fd, offset, SEEK_HOLE, &hole);
    if (rc != 0 && rc != -ENXIO) {
        return rc;
    }
    if (rc == -ENXIO || hole <= offset) {
        /* Somebody has changed the file between the two questions. Data is never a lie. */
        return -ENOTSUP;
    }
    return extent_is(true, hole - offset, limit, is_data, length);
}

static int file_extent(struct store *store, uint64_t offset, uint64_t limit, bool *is_data,
                       uint64_t *length)
{
    const struct file_store *file = to_file(store);
    uint64_t size;
    int rc = current_size(file, &size);

    if (rc != 0) {
        return rc;
    }
    if (offset >= size) {
        return extent_is(was_longer(file, offset), limit, limit, is_data, length);
    }
    if (was_longer(file, size)) {
        limit = min_u64(limit, size - offset); /* what is behind is lost, and no hole */
    }
    rc = file->block_device ? -ENOTSUP : sparse_extent(file->fd, offset, limit, is_data, length);
    if (rc == -ENOTSUP) {
        return extent_is(true, size - offset, limit, is_data, length);
    }
    return rc;
}

static void file_close(struct store *store)
{
    struct file_store *file = to_file(store);

    direct_destroy(file->direct);
    if (file->filled >= 0) {
        close(file->filled);
    }
    close(file->fd); /* and with it go the locks */
    pthread_mutex_destroy(&file->large_writes);
    free(file);
}

static int file_room(struct store *store, uint64_t *bytes)
{
    struct file_store *file = to_file(store);
    struct statfs host;

    if (file->block_device || fstatfs(file->fd, &host) != 0) {
        return -EOPNOTSUPP;
    }
    return checked_mul((uint64_t)host.f_bavail, (uint64_t)host.f_bsize, bytes) ? 0 : -EOPNOTSUPP;
}

static const struct store_ops file_ops = {
    .read = file_read,
    .write = file_write,
    .sync = file_sync,
    .punch = file_punch,
    .refuses_holes = file_refuses_holes,
    .resize = file_resize,
    .allocate = file_allocate,
    .fill = file_fill,
    .room = file_room,
    .info = file_info,
    .extent = file_extent,
    .lost = file_lost,
    .close = file_close,
};

/*
 * Another description of the same file: the flag is not for what others do with the first, which
 * has the locks. Made now, since a process that serves opens nothing any more (util/box.h).
 */
static int open_to_fill(int fd)
{
    char path[sizeof("/proc/self/fd/") + 3 * sizeof(int)];

    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    return open(path, O_WRONLY | O_DIRECT | O_CLOEXEC);
}

/* NULL when memory ran out. */
static struct file_store *file_create(int fd, bool block_device, bool writable,
                                      enum store_cache cache)
{
    struct file_store *file = malloc(sizeof(*file));
    uint64_t size;

    if (file == NULL) {
        return NULL;
    }
    *file = (struct file_store){
        .store = {.ops = &file_ops},
        .fd = fd,
        .block_device = block_device,
        .unsafe = cache == STORE_CACHE_UNSAFE,
        .filled = -1,
    };
    atomic_init(&file->known_size, 0);
    atomic_init(&file->has_lost, false);
    atomic_init(&file->refuses_holes, false);
    if (current_size(file, &size) == 0) {
        size_seen(file, size);
    }
    if (cache_is_direct(cache) && direct_create(fd, block_device, &file->direct) != 0) {
        free(file);
        return NULL;
    }
    if (writable && !block_device && !file->unsafe) {
        file->filled = open_to_fill(fd);
    }
    pthread_mutex_init(&file->large_writes, NULL);
    return file;
}

int store_file_open(const char *path, const char *what, const struct store_file_options *options,
                    struct store **store, struct error *error)
{
    struct file_store *file;
    struct host_file host;
    int fd;

    if (store_nbd_is_address(path)) {
        return store_nbd_open(path, what, options, store, error);
    }
    fd = host_file_open(path, what, options, &host, error);
    if (fd < 0) {
        return fd;
    }
    file = file_create(fd, S_ISBLK(host.status.st_mode), options->access == STORE_WRITE,
                       options->cache);
    if (file == NULL) {
        close(fd);
        return error_set(error, ENOMEM, "%s: out of memory while opening this %s", path, what);
    }
    file->changes_atime = host_file_changes_atime(fd, &host.status);
    file->owners = host.owners;
    *store = &file->store;
    return 0;
}

int store_file_adopt(int fd, enum store_cache cache, struct store **store)
{
    struct file_store *file = file_create(fd, false, true, cache);

    if (file == NULL) {
        return -ENOMEM;
    }
    *store = &file->store;
    return 0;
}
