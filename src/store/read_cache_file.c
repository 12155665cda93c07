/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "store/read_cache_file.h"

#include "util/bytes.h"
#include "util/checked.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAGIC          "qcow2fs read cache"
#define MAGIC_SIZE     24
#define FORMAT_VERSION 2
#define HEADER_SPACE   4096
#define ENTRY          16
#define ENTRIES_ONCE   256

/* Fields of the header, by their offsets. */
enum {
    AT_VERSION = MAGIC_SIZE,
    AT_BLOCK = AT_VERSION + 4,
    AT_PLACES = AT_BLOCK + 4,
    AT_STATE = AT_PLACES + 4,
    AT_SIZE = AT_STATE + 4,
    AT_RANDOM = AT_SIZE + 8,
    AT_ADDRESS = AT_RANDOM + 8,
    AT_SUM = AT_ADDRESS + 8,
    HEADER_SIZE = AT_SUM + 8,
};

/* --- sums --------------------------------------------------------------------------------------
 */

/*
 * Against accidents alone, and at several GB/s, since each read looks at it: a checksum of zlib
 * would cost a processor more than the file does. A step is one to one in the word and in what came
 * before it, so one word that differs is always seen; others by 64 bits.
 */
static uint64_t mix(uint64_t sum, uint64_t word)
{
    sum = (sum ^ word) * UINT64_C(0x9e3779b97f4a7c15);
    return sum ^ sum >> 32;
}

#define LANES 4 /* that a processor works on at once */
#define STRIP (LANES * sizeof(uint64_t))

static void mix_strip(uint64_t lanes[LANES], const uint8_t *strip)
{
    for (size_t i = 0; i < LANES; i++) {
        lanes[i] = mix(lanes[i], load_be64(strip + i * sizeof(uint64_t)));
    }
}

static uint64_t sum_of(uint64_t random, uint64_t number, const void *bytes, size_t length)
{
    uint64_t lanes[LANES] = {mix(1, random), mix(2, random), mix(3, random), mix(4, random)};
    uint64_t sum = mix(mix(5, number), length);
    const uint8_t *strip = bytes;
    uint8_t last[STRIP] = {0};

    for (; length >= STRIP; length -= STRIP, strip += STRIP) {
        mix_strip(lanes, strip);
    }
    memcpy(last, strip, length);
    mix_strip(lanes, last);
    for (size_t i = 0; i < LANES; i++) {
        sum = mix(sum, lanes[i]);
    }
    return sum;
}

uint64_t cache_file_sum(const struct cache_file *file, uint64_t number, const void *bytes,
                        size_t length)
{
    return sum_of(file->random, number, bytes, length);
}

/* --- whole transfers ---------------------------------------------------------------------------
 */

static int read_all(int fd, void *bytes, size_t length, uint64_t offset)
{
    uint8_t *at = bytes;

    while (length > 0) {
        ssize_t count = pread(fd, at, length, (off_t)offset);

        if (count < 0 && errno != EINTR) {
            return -errno;
        }
        if (count == 0) {
            return -EIO;
        }
        count = count < 0 ? 0 : count;
        at += count;
        offset += (uint64_t)count;
        length -= (size_t)count;
    }
    return 0;
}

static int write_all(int fd, const void *bytes, size_t length, uint64_t offset)
{
    const uint8_t *at = bytes;

    while (length > 0) {
        ssize_t count = pwrite(fd, at, length, (off_t)offset);

        if (count < 0 && errno != EINTR) {
            return -errno;
        }
        count = count < 0 ? 0 : count;
        at += count;
        offset += (uint64_t)count;
        length -= (size_t)count;
    }
    return 0;
}

/* --- the header --------------------------------------------------------------------------------
 */

static void make_header(const struct cache_file *file, bool is_written, uint8_t *header)
{
    memset(header, 0, HEADER_SIZE);
    memcpy(header, MAGIC, sizeof(MAGIC) - 1);
    store_be32(header + AT_VERSION, FORMAT_VERSION);
    store_be32(header + AT_BLOCK, (uint32_t)CACHE_BLOCK);
    store_be32(header + AT_PLACES, file->places);
    store_be32(header + AT_STATE, is_written);
    store_be64(header + AT_SIZE, file->store_size);
    store_be64(header + AT_RANDOM, file->random);
    store_be64(header + AT_ADDRESS, file->address);
    store_be64(header + AT_SUM, sum_of(0, 0, header, AT_SUM));
}

/* Within a sector, so that it is the old or the new one. */
static int write_header(const struct cache_file *file, bool is_written)
{
    uint8_t header[HEADER_SIZE];

    make_header(file, is_written, header);
    return write_all(file->fd, header, sizeof(header), 0);
}

/* Whether it has what is right for this store, and says that all of it is so. */
static bool is_of_use(struct cache_file *file, const uint8_t *header)
{
    uint8_t wanted[HEADER_SIZE];

    file->random = load_be64(header + AT_RANDOM);
    make_header(file, false, wanted);
    return memcmp(header, wanted, sizeof(wanted)) == 0;
}

int cache_file_mark(const struct cache_file *file, bool is_written)
{
    int result = !is_written && fdatasync(file->fd) != 0 ? -errno : 0;

    if (result == 0) {
        result = write_header(file, is_written);
    }
    return result == 0 && fdatasync(file->fd) != 0 ? -errno : result;
}

int cache_file_forget(const struct cache_file *file)
{
    return ftruncate(file->fd, 0) == 0 && fdatasync(file->fd) == 0 ? 0 : -errno;
}

int cache_file_begin_anew(struct cache_file *file)
{
    int result = cache_file_forget(file);

    if (result == 0 && ftruncate(file->fd, (off_t)file->begin) != 0) {
        result = -errno;
    }
    if (result == 0 && getrandom(&file->random, sizeof(file->random), 0) != sizeof(file->random)) {
        result = -EIO;
    }
    return result == 0 ? write_header(file, false) : result;
}

/* --- opening ------------------------------------------------------------------------------------
 */

/* How many places there are in so many bytes, and where they begin. */
static void lay_out(struct cache_file *file, uint64_t bytes)
{
    uint64_t blocks = div_round_up(file->store_size, CACHE_BLOCK);
    uint64_t places = (bytes - HEADER_SPACE - CACHE_BLOCK) / (CACHE_BLOCK + ENTRY);

    file->places = (uint32_t)min_u64(min_u64(places, max_u64(blocks, 1)), INT32_MAX);
    file->begin =
        div_round_up(HEADER_SPACE + (uint64_t)file->places * ENTRY, CACHE_BLOCK) * CACHE_BLOCK;
}

static int open_failed(const char *path, int code, struct error *error)
{
    return error_set(error, code, "%s: this read cache cannot be %s: %s; check the path", path,
                     code == ENOENT ? "made" : "opened", strerror(code));
}

/* Without a name. */
static int make_unnamed(const char *path, int *fd, struct error *error)
{
    *fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (*fd < 0 && errno == EEXIST) {
        return error_set(error, EEXIST,
                         "%s: is there already, and a read cache that is not kept is a new file; "
                         "give another name, or go on with it by read-cache-keep",
                         path);
    }
    if (*fd < 0) {
        return open_failed(path, errno, error);
    }
    (void)unlink(path);
    return 0;
}

/* Whether it is ours alone. */
static int check_owner(const char *path, int fd, struct error *error)
{
    struct stat status;

    if (fstat(fd, &status) != 0) {
        return open_failed(path, errno, error);
    }
    if (!S_ISREG(status.st_mode)) {
        return error_set(error, EEXIST, "%s: is no regular file, which a read cache is", path);
    }
    if (status.st_uid != geteuid() || (status.st_mode & (S_IWGRP | S_IWOTH)) != 0) {
        return error_set(error, EACCES,
                         "%s: others than you can write to this read cache, and could have "
                         "anything shown; use one that is yours, with mode 0600",
                         path);
    }
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        return errno == EWOULDBLOCK ? error_set(error, EBUSY,
                                                "%s: another program uses this read cache; give "
                                                "each its own",
                                                path)
                                    : open_failed(path, errno, error);
    }
    return 0;
}

/* Whether there is something in it that is of use; what is not ours is refused. */
static int look_at(const char *path, struct cache_file *file, bool *is_new, struct error *error)
{
    uint8_t header[HEADER_SIZE];
    struct stat status;
    int result = check_owner(path, file->fd, error);

    if (result < 0) {
        return result;
    }
    *is_new = true;
    if (fstat(file->fd, &status) == 0 && status.st_size == 0) {
        return 0;
    }
    if (read_all(file->fd, header, sizeof(header), 0) < 0 ||
        memcmp(header, MAGIC, sizeof(MAGIC)) != 0) {
        return error_set(error, EEXIST,
                         "%s: is something else than a read cache of qcow2fs, and left as it is; "
                         "give another name",
                         path);
    }
    *is_new = !is_of_use(file, header);
    return 0;
}

static int open_kept(const char *path, struct cache_file *file, bool *is_new, struct error *error)
{
    file->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
    return file->fd < 0 ? open_failed(path, errno, error) : look_at(path, file, is_new, error);
}

int cache_file_open(const struct read_cache_options *options, const char *address, uint64_t size,
                    struct cache_file *file, bool *is_new, struct error *error)
{
    int result;

    *file = (struct cache_file){
        .fd = -1,
        .is_kept = options->is_kept,
        .store_size = size,
        .address = sum_of(0, 0, address, strlen(address)),
    };
    *is_new = true;
    lay_out(file, options->size);
    result = options->is_kept ? open_kept(options->path, file, is_new, error)
                              : make_unnamed(options->path, &file->fd, error);
    if (result == 0 && *is_new) {
        result = cache_file_begin_anew(file);
        if (result < 0) {
            error_set(error, -result, "%s: nothing can be written to this read cache: %s",
                      options->path, strerror(-result));
        }
    }
    if (result < 0) {
        cache_file_close(file);
    }
    return result;
}

void cache_file_close(struct cache_file *file)
{
    if (file->fd >= 0) {
        close(file->fd);
        file->fd = -1;
    }
}

/* --- blocks -------------------------------------------------------------------------------------
 */

static uint64_t place_begin(const struct cache_file *file, uint32_t place)
{
    return file->begin + place * CACHE_BLOCK;
}

int cache_file_read(const struct cache_file *file, uint32_t place, uint64_t offset, void *bytes,
                    size_t length)
{
    return read_all(file->fd, bytes, length, place_begin(file, place) + offset);
}

int cache_file_write(const struct cache_file *file, uint32_t place, const void *bytes,
                     size_t length)
{
    return write_all(file->fd, bytes, length, place_begin(file, place));
}

/* --- the map ------------------------------------------------------------------------------------
 */

int cache_file_read_map(const struct cache_file *file, uint32_t first, struct cache_entry *entries,
                        uint32_t count)
{
    uint8_t bytes[ENTRIES_ONCE * ENTRY];
    int result = 0;

    while (count > 0 && result == 0) {
        uint32_t part = (uint32_t)min_u64(count, ENTRIES_ONCE);

        result =
            read_all(file->fd, bytes, (size_t)part * ENTRY, HEADER_SPACE + (uint64_t)first * ENTRY);
        for (uint32_t i = 0; i < part && result == 0; i++) {
            entries[i].number = load_be64(bytes + (size_t)i * ENTRY) - 1;
            entries[i].sum = load_be64(bytes + (size_t)i * ENTRY + 8);
        }
        entries += part;
        first += part;
        count -= part;
    }
    return result;
}

int cache_file_write_map(const struct cache_file *file, uint32_t first,
                         const struct cache_entry *entries, uint32_t count)
{
    uint8_t bytes[ENTRIES_ONCE * ENTRY];
    int result = 0;

    while (count > 0 && result == 0) {
        uint32_t part = (uint32_t)min_u64(count, ENTRIES_ONCE);

        for (uint32_t i = 0; i < part; i++) {
            store_be64(bytes + (size_t)i * ENTRY, entries[i].number + 1);
            store_be64(bytes + (size_t)i * ENTRY + 8, entries[i].sum);
        }
        result = write_all(file->fd, bytes, (size_t)part * ENTRY,
                           HEADER_SPACE + (uint64_t)first * ENTRY);
        entries += part;
        first += part;
        count -= part;
    }
    return result;
}
