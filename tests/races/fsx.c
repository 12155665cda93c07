/* SPDX-License-Identifier: MIT */
/*
 * One program, one file, one operation after the other, as fsx does it: every
 * way that a system call has to read or change a file, against a plain buffer.
 *
 *     fsx FILE [seed=N] [operations=N] [seconds=N] [direct=1] [grows=1] [shrinks=1]
 *
 * FILE is a mounted disk. What it holds at first is taken as it is. `direct`:
 * O_DIRECT for reads and writes, in whole sectors; `grows`: writes, truncate and
 * fallocate may make it up to twice as large; `shrinks`: truncate may make it
 * smaller. It ends with the file as the buffer has it, fsynced and read once
 * more past all caches. Status 1: it was not, and the last operations are told.
 */
#include "config.h"

#include "crash/tools.h"
#include "util/checked.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define SECTOR  UINT64_C(512)
#define PAGE    UINT64_C(4096)
#define LONG    (UINT64_C(3) << 20) /* bytes of a long range; most have less than SHORT */
#define SHORT   (UINT64_C(40) << 10)
#define STORIES 24

struct range {
    uint64_t offset, length;
};

struct story {
    const char *name;
    struct range range;
};

struct fsx {
    const char *path;
    int fd;
    bool direct, grows, shrinks;
    struct chance chance;
    uint8_t *expected; /* of `capacity` bytes, zeros from `size` on */
    uint8_t *buffer;   /* the same room, on a page's border */
    uint64_t size, capacity, done;
    struct story stories[STORIES]; /* the last operations, that of number n at n % STORIES */
};

static uint64_t below(struct fsx *fsx, uint64_t limit)
{
    return chance_below(&fsx->chance, limit);
}

static void tell_story(const struct fsx *fsx)
{
    uint64_t n = fsx->done > STORIES ? fsx->done - STORIES : 0;

    for (; n < fsx->done; n++) {
        const struct story *story = &fsx->stories[n % STORIES];

        printf("  %" PRIu64 ": %s of %" PRIu64 " bytes at %" PRIu64 "\n", n, story->name,
               story->range.length, story->range.offset);
    }
}

static _Noreturn void fail(const struct fsx *fsx, const char *what, uint64_t at)
{
    printf("WRONG: operation %" PRIu64 ": %s, at %" PRIu64 "; the last operations:\n", fsx->done,
           what, at);
    tell_story(fsx);
    exit(1);
}

static void expect(const struct fsx *fsx, bool good, const char *call, struct range range)
{
    char what[160];

    if (!good) {
        snprintf(what, sizeof(what), "%s failed: %s", call, strerror(errno));
        fail(fsx, what, range.offset);
    }
}

static void tell(struct fsx *fsx, const char *name, struct range range)
{
    fsx->stories[fsx->done++ % STORIES] = (struct story){name, range};
}

static void compare(const struct fsx *fsx, const uint8_t *bytes, struct range range)
{
    const uint8_t *expected = fsx->expected + range.offset;
    char what[100];

    if (memcmp(bytes, expected, range.length) == 0) {
        return;
    }
    for (uint64_t i = 0; i < range.length; i++) {
        if (bytes[i] != expected[i]) {
            snprintf(what, sizeof(what), "a byte is 0x%02x instead of 0x%02x", bytes[i],
                     expected[i]);
            fail(fsx, what, range.offset + i);
        }
    }
}

/* --- Ranges ---------------------------------------------------------------------------------- */

/* Up to `end`; in units of `unit` bytes. Empty where there is no room for one. */
static struct range choose(struct fsx *fsx, uint64_t end, uint64_t unit)
{
    uint64_t most = below(fsx, 8) == 0 ? LONG : SHORT;
    struct range range = {0, 0};

    if (end < unit) {
        return range;
    }
    /* Half of all is near the end, where most can go wrong. */
    range.offset =
        below(fsx, 2) == 0 ? below(fsx, end) : end - 1 - below(fsx, min_u64(end, 2 * most));
    range.offset = round_down(range.offset, unit);
    range.length = div_round_up(1 + below(fsx, most), unit) * unit;
    range.length = min_u64(range.length, round_down(end - range.offset, unit));
    return range;
}

static uint64_t unit_of(const struct fsx *fsx)
{
    return fsx->direct ? SECTOR : 1;
}

/* New bytes for the range, in the buffer. */
static void make_bytes(struct fsx *fsx, struct range range)
{
    for (uint64_t i = 0; i < range.length; i += sizeof(uint64_t)) {
        uint64_t value = chance_next(&fsx->chance) | 1;

        memcpy(fsx->buffer + i, &value, min_u64(sizeof(value), range.length - i));
    }
}

/* The disk has at least so many bytes now. */
static void reach(struct fsx *fsx, uint64_t end)
{
    fsx->size = max_u64(fsx->size, end);
}

/* --- Operations ------------------------------------------------------------------------------ */

static void do_read(struct fsx *fsx)
{
    struct range range = choose(fsx, fsx->size, unit_of(fsx));

    tell(fsx, "read", range);
    expect(fsx,
           pread(fsx->fd, fsx->buffer, range.length, (off_t)range.offset) == (ssize_t)range.length,
           "read", range);
    compare(fsx, fsx->buffer, range);
}

static void do_write(struct fsx *fsx)
{
    struct range range = choose(fsx, fsx->grows ? fsx->capacity : fsx->size, unit_of(fsx));

    tell(fsx, "write", range);
    make_bytes(fsx, range);
    expect(fsx,
           pwrite(fsx->fd, fsx->buffer, range.length, (off_t)range.offset) == (ssize_t)range.length,
           "write", range);
    memcpy(fsx->expected + range.offset, fsx->buffer, range.length);
    if (range.length > 0) {
        reach(fsx, range.offset + range.length);
    }
}

/* What is stored behind the end of the disk, in the rest of its last page, is never seen again. */
static void store_behind(const struct fsx *fsx, uint8_t *mapped, struct range mapping)
{
    uint64_t end = div_round_up(mapping.offset + mapping.length, PAGE) * PAGE;

    if (end > fsx->size) {
        memset(mapped + (fsx->size - mapping.offset), 0xee, end - fsx->size);
    }
}

/* Reads and stores through a mapping, of which all pages are within the file. */
static void do_map(struct fsx *fsx, bool store)
{
    struct range range = choose(fsx, fsx->size, 1);
    uint64_t before = range.offset % PAGE;
    uint8_t *mapped;

    tell(fsx, store ? "store to a mapping" : "read of a mapping", range);
    if (range.length == 0) {
        return;
    }
    mapped = mmap(NULL, before + range.length, PROT_READ | PROT_WRITE, MAP_SHARED, fsx->fd,
                  (off_t)(range.offset - before));
    expect(fsx, mapped != MAP_FAILED, "mmap", range);
    if (store) {
        make_bytes(fsx, range);
        memcpy(mapped + before, fsx->buffer, range.length);
        memcpy(fsx->expected + range.offset, fsx->buffer, range.length);
        store_behind(fsx, mapped, (struct range){range.offset - before, before + range.length});
        if (below(fsx, 2) == 0) {
            expect(fsx, msync(mapped, before + range.length, MS_SYNC) == 0, "msync", range);
        }
    } else {
        compare(fsx, mapped + before, range);
    }
    munmap(mapped, before + range.length);
}

static void do_fallocate(struct fsx *fsx, int mode, const char *name)
{
    bool longer = fsx->grows && mode == 0;
    struct range range = choose(fsx, longer ? fsx->capacity : fsx->size, 1);

    tell(fsx, name, range);
    if (range.length == 0) {
        return;
    }
    expect(fsx, fallocate(fsx->fd, mode, (off_t)range.offset, (off_t)range.length) == 0, name,
           range);
    if (mode != 0) {
        memset(fsx->expected + range.offset, 0, range.length);
    } else {
        reach(fsx, range.offset + range.length);
    }
}

static void do_truncate(struct fsx *fsx)
{
    uint64_t least = fsx->shrinks ? SECTOR : fsx->size;
    uint64_t most = fsx->grows ? fsx->capacity : fsx->size;
    struct range range = {.offset = least + below(fsx, most - least + 1)};

    if (!fsx->grows || below(fsx, 2) == 0) {
        range.offset = min_u64(div_round_up(range.offset, SECTOR) * SECTOR, most);
    }
    tell(fsx, "truncate", range);
    expect(fsx, ftruncate(fsx->fd, (off_t)range.offset) == 0, "truncate", range);
    if (range.offset < fsx->size) {
        memset(fsx->expected + range.offset, 0, fsx->size - range.offset);
    }
    fsx->size = range.offset;
}

static void do_sync(struct fsx *fsx)
{
    tell(fsx, "fsync", (struct range){0, 0});
    expect(fsx, fsync(fsx->fd) == 0, "fsync", (struct range){0, 0});
}

static void open_file(struct fsx *fsx)
{
    fsx->fd = open(fsx->path, O_RDWR | O_CLOEXEC | (fsx->direct ? O_DIRECT : 0));
    if (fsx->fd < 0) {
        die("%s: %s", fsx->path, strerror(errno));
    }
}

static void do_reopen(struct fsx *fsx)
{
    tell(fsx, "close and open", (struct range){0, 0});
    expect(fsx, close(fsx->fd) == 0, "close", (struct range){0, 0});
    open_file(fsx);
}

/* What the kernel caches of it is not needed any more: the daemon is asked again. */
static void do_forget(struct fsx *fsx)
{
    tell(fsx, "fadvise", (struct range){0, 0});
    (void)posix_fadvise(fsx->fd, 0, 0, POSIX_FADV_DONTNEED);
}

static void check_size(struct fsx *fsx)
{
    struct stat status;

    expect(fsx, fstat(fsx->fd, &status) == 0, "fstat", (struct range){0, 0});
    if ((uint64_t)status.st_size != fsx->size) {
        char what[100];

        snprintf(what, sizeof(what), "the file has %" PRIu64 " bytes instead of %" PRIu64,
                 (uint64_t)status.st_size, fsx->size);
        fail(fsx, what, 0);
    }
}

static void do_one(struct fsx *fsx)
{
    uint64_t kind = below(fsx, 100);

    if (kind < 30) {
        do_read(fsx);
    } else if (kind < 60) {
        do_write(fsx);
    } else if (kind < 66) {
        do_map(fsx, false);
    } else if (kind < 74) {
        do_map(fsx, true);
    } else if (kind < 80) {
        do_fallocate(fsx, 0, "fallocate");
    } else if (kind < 87) {
        do_fallocate(fsx, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, "punch");
    } else if (kind < 91) {
        do_fallocate(fsx, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, "zero range");
    } else if (kind < 93) {
        do_sync(fsx);
    } else if (kind < 95) {
        do_forget(fsx);
    } else if (kind < 96) {
        do_reopen(fsx);
    } else if (fsx->grows || fsx->shrinks) {
        do_truncate(fsx);
    }
    check_size(fsx);
}

/* --- Beginning and end --------------------------------------------------------------------- */

static void *map_buffer(uint64_t size)
{
    void *bytes = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (bytes == MAP_FAILED) {
        die("out of memory");
    }
    return bytes;
}

static void begin(struct fsx *fsx)
{
    struct stat status;

    open_file(fsx);
    if (fstat(fsx->fd, &status) < 0 || status.st_size < (off_t)PAGE) {
        die("%s: is too small", fsx->path);
    }
    fsx->size = (uint64_t)status.st_size;
    fsx->capacity = fsx->size * (fsx->grows ? 2 : 1);
    fsx->expected = map_buffer(fsx->capacity);
    fsx->buffer = map_buffer(fsx->capacity);
    if (pread(fsx->fd, fsx->expected, fsx->size, 0) != (ssize_t)fsx->size) {
        die("%s: cannot be read", fsx->path);
    }
}

static void finish(struct fsx *fsx)
{
    struct range all = {0, fsx->size};

    do_sync(fsx);
    do_forget(fsx);
    tell(fsx, "last read", all);
    expect(fsx, pread(fsx->fd, fsx->buffer, all.length, 0) == (ssize_t)all.length, "read", all);
    compare(fsx, fsx->buffer, all);
    expect(fsx, close(fsx->fd) == 0, "close", all);
}

int main(int argc, char **argv)
{
    uint64_t seed = 1, operations = 0, seconds = 0, direct = 0, grows = 0, shrinks = 0;
    const struct setting settings[] = {
        {"seed", NULL, &seed},     {"operations", NULL, &operations}, {"seconds", NULL, &seconds},
        {"direct", NULL, &direct}, {"grows", NULL, &grows},           {"shrinks", NULL, &shrinks},
    };
    time_t end;
    struct fsx fsx;

    if (argc < 2) {
        die("fsx FILE [OPTION=VALUE...]");
    }
    take_settings(argc - 1, argv + 1, settings, sizeof(settings) / sizeof(settings[0]));
    fsx = (struct fsx){
        .path = argv[1],
        .direct = direct > 0,
        .grows = grows > 0,
        .shrinks = shrinks > 0,
        .chance = chance_from(seed, 40, 0),
    };
    begin(&fsx);
    end = time(NULL) + (time_t)seconds;
    while ((operations == 0 || fsx.done < operations) && (seconds == 0 || time(NULL) < end)) {
        do_one(&fsx);
    }
    finish(&fsx);
    printf("%" PRIu64 " operations\n", fsx.done);
    return 0;
}
