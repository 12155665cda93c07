/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "store/direct.h"

#include "util/checked.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define BLOCK_USUAL  ((size_t)4096) /* no host that has smaller ones minds these */
#define BLOCK_MAX    ((size_t)64 << 10)
#define BOUNCE_MAX   ((size_t)256 << 10)
#define TRANSFER_MAX ((size_t)1 << 30) /* of blocks of any size; the host's own limit is not */
#define STUCK_MAX    16                /* transfers of less than a block, one after the other */

struct direct {
    int fd;
    bool block_device;
    size_t block;              /* offsets and lengths are multiples of it, bytes */
    size_t memory;             /* addresses are */
    struct range_locks ranges; /* of block numbers */
};

/* --- What the host wants ------------------------------------------------------------- */

static bool told_by_statx(struct direct *direct)
{
#ifdef STATX_DIOALIGN
    struct statx status;

    if (statx(direct->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &status) != 0 ||
        (status.stx_mask & STATX_DIOALIGN) == 0 || !is_power_of_two(status.stx_dio_mem_align) ||
        !is_power_of_two(status.stx_dio_offset_align) || status.stx_dio_mem_align > BLOCK_MAX ||
        status.stx_dio_offset_align > BLOCK_MAX) {
        return false;
    }
    direct->block = status.stx_dio_offset_align;
    direct->memory = status.stx_dio_mem_align;
    return true;
#else
    (void)direct;
    return false;
#endif
}

static bool told_by_device(struct direct *direct)
{
    int size;

    if (!direct->block_device || ioctl(direct->fd, BLKSSZGET, &size) != 0 || size <= 0 ||
        !is_power_of_two((uint64_t)size) || (size_t)size > BLOCK_MAX) {
        return false;
    }
    direct->block = (size_t)size;
    direct->memory = in_memory(max_u64(direct->block, BLOCK_USUAL));
    return true;
}

/* Reads the beginning in larger and larger blocks until the host takes one. */
static int probe(struct direct *direct)
{
    void *buffer = aligned_alloc(BLOCK_MAX, BLOCK_MAX);

    if (buffer == NULL) {
        return -ENOMEM;
    }
    direct->block = BLOCK_USUAL;
    while (direct->block < BLOCK_MAX && pread(direct->fd, buffer, direct->block, 0) < 0 &&
           errno == EINVAL) {
        direct->block *= 2;
    }
    direct->memory = direct->block;
    free(buffer);
    return 0;
}

int direct_create(int fd, bool block_device, struct direct **direct)
{
    struct direct *created = calloc(1, sizeof(*created));

    if (created == NULL) {
        return -ENOMEM;
    }
    created->fd = fd;
    created->block_device = block_device;
    if (!told_by_statx(created) && !told_by_device(created) && probe(created) != 0) {
        free(created);
        return -ENOMEM;
    }
    range_locks_init(&created->ranges);
    *direct = created;
    return 0;
}

void direct_destroy(struct direct *direct)
{
    if (direct != NULL) {
        range_locks_destroy(&direct->ranges);
        free(direct);
    }
}

/* --- Whole blocks, in aligned memory --------------------------------------------------- */

static int file_size(const struct direct *direct, uint64_t *size)
{
    struct stat status;

    if (fstat(direct->fd, &status) != 0) {
        return -errno;
    }
    *size = (uint64_t)status.st_size;
    return 0;
}

/* Whether the file ends at `offset`, or before. Devices end at a block. */
static bool ends_at(const struct direct *direct, uint64_t offset)
{
    uint64_t size = 0;

    return !direct->block_device && file_size(direct, &size) == 0 && size <= offset;
}

/*
 * How far a transfer of `done` bytes goes on: whole blocks, as nothing can be
 * done from the middle of one. -EIO when it does not, again and again.
 */
static int advance(const struct direct *direct, size_t done, unsigned *without, size_t *whole)
{
    *whole = in_memory(round_down(done, direct->block));
    *without = *whole > 0 ? 0 : *without + 1;
    return *without < STUCK_MAX ? 0 : -EIO;
}

/* Zeros behind the end of the file: *missing bytes. */
static int read_blocks(const struct direct *direct, uint64_t offset, uint8_t *to, size_t length,
                       size_t *missing)
{
    unsigned without = 0;

    *missing = 0;
    while (length > 0) {
        ssize_t done = pread(direct->fd, to, min_size(length, TRANSFER_MAX), (off_t)offset);
        size_t whole;
        int result;

        if (done < 0 && errno == EINTR) {
            continue;
        }
        if (done < 0) {
            return -errno;
        }
        if (done == 0 ||
            ((size_t)done % direct->block != 0 && ends_at(direct, offset + (uint64_t)done))) {
            *missing = length - (size_t)done;
            memset(to + done, 0, *missing);
            return 0;
        }
        result = advance(direct, (size_t)done, &without, &whole);
        if (result < 0) {
            return result;
        }
        to += whole;
        offset += whole;
        length -= whole;
    }
    return 0;
}

static int write_blocks(const struct direct *direct, uint64_t offset, const uint8_t *from,
                        size_t length)
{
    unsigned without = 0;

    while (length > 0) {
        ssize_t done = pwrite(direct->fd, from, min_size(length, TRANSFER_MAX), (off_t)offset);
        size_t whole;
        int result;

        if (done < 0 && errno == EINTR) {
            continue;
        }
        if (done < 0) {
            return -errno;
        }
        result = advance(direct, (size_t)done, &without, &whole);
        if (result < 0) {
            return result;
        }
        from += whole;
        offset += whole;
        length -= whole;
    }
    return 0;
}

/* --- Any range, any memory ---------------------------------------------------------------- */

/* Memory for up to `length` bytes of blocks; how many in *size. */
static uint8_t *bounce_create(const struct direct *direct, uint64_t length, size_t *size)
{
    size_t alignment = in_memory(max_u64(max_u64(direct->block, direct->memory), BLOCK_USUAL));

    *size = in_memory(div_round_up(min_u64(length, BOUNCE_MAX), alignment) * alignment);
    return aligned_alloc(alignment, *size);
}

/* How many of the bytes can be transferred as they lie in memory. */
static size_t as_it_is(const struct direct *direct, uint64_t offset, const void *memory,
                       size_t length)
{
    if (offset % direct->block != 0 || (uintptr_t)memory % direct->memory != 0) {
        return 0;
    }
    return in_memory(round_down(length, direct->block));
}

static int read_by_bounce(const struct direct *direct, uint64_t offset, uint8_t *to, size_t length,
                          size_t *missing)
{
    size_t before = in_memory(offset % direct->block), size, blocks_missing;
    uint8_t *bounce = bounce_create(direct, (uint64_t)before + length, &size);
    int result = bounce != NULL ? 0 : -ENOMEM;

    while (result == 0 && length > 0) {
        size_t part = min_size(length, size - before);
        size_t blocks = in_memory(div_round_up(before + part, direct->block) * direct->block);

        result = read_blocks(direct, offset - before, bounce, blocks, &blocks_missing);
        if (result == 0) {
            size_t there = blocks - blocks_missing;

            *missing += in_memory(before + part - min_u64(max_u64(there, before), before + part));
            memcpy(to, bounce + before, part);
            to += part;
            offset += part;
            length -= part;
            before = 0;
        }
    }
    free(bounce);
    return result;
}

int direct_read(struct direct *direct, uint64_t offset, void *buffer, size_t length,
                size_t *missing)
{
    const uint64_t limit = round_down(INT64_MAX, BLOCK_MAX); /* no file reaches beyond it */
    size_t whole, outside = 0;
    uint8_t *to = buffer;
    int result = 0;

    *missing = 0;
    if (!range_within(offset, length, limit)) {
        size_t inside = offset < limit ? (size_t)(limit - offset) : 0;

        outside = length - inside;
        memset(to + inside, 0, outside);
        length = inside;
    }
    whole = as_it_is(direct, offset, to, length);
    if (whole > 0) {
        result = read_blocks(direct, offset, to, whole, missing);
    }
    if (result == 0 && whole < length) {
        result = read_by_bounce(direct, offset + whole, to + whole, length - whole, missing);
    }
    *missing += outside;
    return result;
}

/* Writes bytes of one block, into which the bounce buffer gets the others. */
static int patch_block(const struct direct *direct, uint64_t offset, const uint8_t *from,
                       size_t length, uint8_t *bounce)
{
    uint64_t begin = round_down(offset, direct->block);
    size_t missing;
    int result = read_blocks(direct, begin, bounce, direct->block, &missing);

    if (result < 0) {
        return result;
    }
    memcpy(bounce + (offset - begin), from, length);
    return write_blocks(direct, begin, bounce, direct->block);
}

static int write_by_bounce(const struct direct *direct, uint64_t offset, const uint8_t *from,
                           size_t length)
{
    size_t size;
    uint8_t *bounce = bounce_create(direct, length, &size);
    int result = bounce != NULL ? 0 : -ENOMEM;

    while (result == 0 && length > 0) {
        size_t before = in_memory(offset % direct->block);
        size_t part = min_size(length, direct->block - before);
        size_t whole = as_it_is(direct, offset, from, length);

        if (part < direct->block) {
            result = patch_block(direct, offset, from, part, bounce);
        } else if (whole > 0) {
            part = whole;
            result = write_blocks(direct, offset, from, part);
        } else {
            part = in_memory(round_down(min_u64(length, size), direct->block));
            memcpy(bounce, from, part);
            result = write_blocks(direct, offset, bounce, part);
        }
        from += part;
        offset += part;
        length -= part;
    }
    free(bounce);
    return result;
}

/* --- Who may change which blocks ------------------------------------------------------------ */

void direct_hold(struct direct *direct, uint64_t offset, uint64_t length, struct range_lock *lock)
{
    uint64_t end;

    *lock = (struct range_lock){.first = offset / direct->block, .last = UINT64_MAX};
    if (length > 0 && checked_add(offset, length - 1, &end)) {
        lock->last = end / direct->block;
    }
    range_lock_take(&direct->ranges, lock);
}

void direct_release(struct direct *direct, struct range_lock *lock)
{
    range_lock_release(&direct->ranges, lock);
}

/*
 * Holds the blocks to be written. *end is 0, or where the file is to end
 * afterwards because its last block is written in part.
 */
static int hold_for_write(struct direct *direct, uint64_t offset, size_t length,
                          struct range_lock *lock, uint64_t *end)
{
    uint64_t exact = offset + length, size = 0;
    uint64_t padded = div_round_up(exact, direct->block) * direct->block;
    int result;

    *end = 0;
    direct_hold(direct, offset, length, lock);
    if (padded == exact || direct->block_device) {
        return 0;
    }
    result = file_size(direct, &size);
    if (result == 0 && size < padded) {
        /* Whoever writes behind it must not do so before the file is cut. */
        direct_release(direct, lock);
        direct_hold(direct, offset, UINT64_MAX, lock);
        result = file_size(direct, &size);
        if (result == 0 && size < padded) {
            *end = max_u64(size, exact);
        }
    }
    if (result < 0) {
        direct_release(direct, lock);
    }
    return result;
}

static int cut_file(const struct direct *direct, uint64_t end)
{
    uint64_t size = 0;
    int result = file_size(direct, &size);

    if (result < 0 || size <= end) {
        return result;
    }
    while (ftruncate(direct->fd, (off_t)end) != 0) {
        if (errno != EINTR) {
            return -errno;
        }
    }
    return 0;
}

int direct_write(struct direct *direct, uint64_t offset, const void *buffer, size_t length)
{
    struct range_lock lock;
    uint64_t end;
    int result;

    if (!range_within(offset, length, round_down(INT64_MAX, BLOCK_MAX))) {
        return -EFBIG;
    }
    if (length == 0) {
        return 0;
    }
    result = hold_for_write(direct, offset, length, &lock, &end);
    if (result < 0) {
        return result;
    }
    if (as_it_is(direct, offset, buffer, length) == length) {
        result = write_blocks(direct, offset, buffer, length);
    } else {
        result = write_by_bounce(direct, offset, buffer, length);
    }
    if (end != 0) {
        int cut = cut_file(direct, end); /* also what a failed write has made of it */

        result = result == 0 ? cut : result;
    }
    direct_release(direct, &lock);
    return result;
}
