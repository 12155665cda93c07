/* SPDX-License-Identifier: MIT */
/*
 * Several threads on one mounted disk, judged as `races` judges (history.h).
 *
 *     mounted FILE [mode=direct|mapped] [seed=N] [seconds=N] [threads=N] [size=N] [grows=1]
 *
 * direct: O_DIRECT requests of up to some MiB, which the kernel sends in parts,
 * all over each other; with `grows` also past the end, where FILE begins
 * with `size` bytes in each round and may become half as large again (the mount
 * must be growable, and let it shrink). mapped: stores to a mapping and buffered writes, each
 * thread in pieces of its own, beside fallocate() everywhere.
 *
 * It works in rounds: some hundred operations, then all is compared.
 */
#include "config.h"

#include "history.h"

#include "crash/tools.h"
#include "util/checked.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define THREADS_MAX UINT64_C(8)
#define OPERATIONS  24                   /* of a thread in each round */
#define LONG        (UINT64_C(5) << 20)  /* bytes of a long range */
#define SHORT       (UINT64_C(96) << 10) /* bytes of others */
#define PIECE       (UINT64_C(75) << 9)  /* bytes: no multiple of any cluster */
#define AREA        (UINT64_C(3) << 20)  /* bytes in which all meet in a round */

struct mounted {
    const char *path;
    int fd;
    bool mapped_mode, grows;
    uint64_t seed, round, threads, size, capacity; /* bytes */
    uint64_t area;                                 /* where that begins */
    uint8_t *mapping;                              /* in mapped mode, of all of it */
    struct history history;
};

struct worker {
    struct mounted *mounted;
    unsigned number;
    struct chance chance;
    uint8_t *buffer;
    pthread_t thread;
};

struct range {
    uint64_t from, to; /* grains */
};

static uint64_t below(struct worker *worker, uint64_t limit)
{
    return chance_below(&worker->chance, limit);
}

/* --- Ranges ------------------------------------------------------------------------------------
 */

/* Whole sectors, where the others are; `end` in bytes. */
static struct range choose(struct worker *worker, uint64_t end)
{
    const struct mounted *mounted = worker->mounted;
    uint64_t length = 1 + below(worker, below(worker, 3) == 0 ? LONG : SHORT);
    uint64_t from = mounted->area + below(worker, AREA), to;

    from = round_down(min_u64(from, end - 512), 512);
    to = min_u64(end, from + div_round_up(length, 512) * 512);
    return (struct range){from / GRAIN, to / GRAIN};
}

/* In a piece that is this thread's. */
static struct range choose_own(struct worker *worker)
{
    const struct mounted *mounted = worker->mounted;
    uint64_t piece = (mounted->area + below(worker, AREA)) / PIECE, from, to;

    piece = piece - piece % mounted->threads + worker->number - 1;
    if ((piece + 1) * PIECE > mounted->size) {
        piece = worker->number - 1;
    }
    from = piece * (PIECE / GRAIN) + below(worker, PIECE / GRAIN);
    to = min_u64(from + 1 + below(worker, 40), (piece + 1) * (PIECE / GRAIN));
    return (struct range){from, to};
}

/* --- Operations ------------------------------------------------------------------------------ */

static _Noreturn void fail(const struct worker *worker, const struct event *event)
{
    printf("WRONG: seed %" PRIu64 ", round %" PRIu64 ", thread %u: %s of %" PRIu64
           " bytes at %" PRIu64 " failed: %s\n",
           worker->mounted->seed, worker->mounted->round, worker->number, event->name,
           (event->to - event->from) * GRAIN, event->from * GRAIN, strerror(errno));
    exit(1);
}

static struct event *begin(struct worker *worker, enum event_kind kind, const char *name,
                           struct range range)
{
    return history_begin(&worker->mounted->history, worker->number, kind, name, range.from,
                         range.to);
}

static void end(struct worker *worker, struct event *event, bool good)
{
    if (!good) {
        fail(worker, event);
    }
    history_end(&worker->mounted->history, event, 0);
}

static void fill(struct worker *worker, struct event *event)
{
    event->value = history_number(&worker->mounted->history);
    grains_fill(worker->buffer, event->from, event->to - event->from, event->value);
}

static void do_write(struct worker *worker, struct range range)
{
    struct event *event = begin(worker, EVENT_WRITE, "write", range);
    uint64_t length = (range.to - range.from) * GRAIN;

    fill(worker, event);
    end(worker, event,
        pwrite(worker->mounted->fd, worker->buffer, length, (off_t)(range.from * GRAIN)) ==
            (ssize_t)length);
}

static void do_store(struct worker *worker, struct range range)
{
    struct event *event = begin(worker, EVENT_WRITE, "store", range);

    fill(worker, event);
    memcpy(worker->mounted->mapping + range.from * GRAIN, worker->buffer,
           (range.to - range.from) * GRAIN);
    end(worker, event, true);
}

static void do_read(struct worker *worker, struct range range)
{
    struct event *event = begin(worker, EVENT_READ, "read", range);
    uint64_t count = range.to - range.from;
    ssize_t done =
        pread(worker->mounted->fd, worker->buffer, count * GRAIN, (off_t)(range.from * GRAIN));

    end(worker, event, done >= 0);
    event->seen = grab(count * sizeof(*event->seen)); /* zeros behind the end */
    for (uint64_t i = 0; i < (uint64_t)done / GRAIN; i++) {
        if (!grain_value(worker->buffer + i * GRAIN, &event->seen[i])) {
            event->seen[i] = VALUE_TORN;
        }
    }
}

static void do_fallocate(struct worker *worker, int mode, const char *name, struct range range)
{
    struct event *event = begin(worker, mode == 0 ? EVENT_OTHER : EVENT_ZERO, name, range);

    end(worker, event,
        fallocate(worker->mounted->fd, mode, (off_t)(range.from * GRAIN),
                  (off_t)((range.to - range.from) * GRAIN)) == 0);
}

static void do_sync(struct worker *worker)
{
    struct event *event = begin(worker, EVENT_FLUSH, "fsync", (struct range){0, 0});

    end(worker, event, fdatasync(worker->mounted->fd) == 0);
}

#define PUNCH (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)
#define ZERO  (FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE)

static void do_direct(struct worker *worker)
{
    const struct mounted *mounted = worker->mounted;
    struct range within = choose(worker, mounted->size);
    uint64_t kind = below(worker, 100);

    if (kind < 40) {
        do_write(worker, mounted->grows ? choose(worker, mounted->capacity) : within);
    } else if (kind < 65) {
        do_read(worker, within);
    } else if (kind < 75) {
        do_fallocate(worker, 0, "fallocate", within);
    } else if (kind < 88) {
        do_fallocate(worker, PUNCH, "punch", within);
    } else if (kind < 93) {
        do_fallocate(worker, ZERO, "zero range", within);
    } else {
        do_sync(worker);
    }
}

static void do_mapped(struct worker *worker)
{
    struct range own = choose_own(worker);
    uint64_t kind = below(worker, 100);

    if (kind < 35) {
        do_store(worker, own);
    } else if (kind < 50) {
        do_write(worker, own);
    } else if (kind < 70) {
        do_read(worker, own);
    } else if (kind < 82) {
        do_fallocate(worker, 0, "fallocate", choose(worker, worker->mounted->size));
    } else if (kind < 88) {
        do_fallocate(worker, PUNCH, "punch", own);
    } else if (kind < 91) {
        do_fallocate(worker, ZERO, "zero range", own);
    } else {
        do_sync(worker);
    }
}

static void *run_worker(void *context)
{
    struct worker *worker = context;

    for (unsigned i = 0; i < OPERATIONS; i++) {
        if (worker->mounted->mapped_mode) {
            do_mapped(worker);
        } else {
            do_direct(worker);
        }
    }
    return NULL;
}

/* --- Rounds ------------------------------------------------------------------------------------
 */

static void *map_buffer(uint64_t size)
{
    void *bytes = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (bytes == MAP_FAILED) {
        die("out of memory");
    }
    return bytes;
}

/* What the disk shows, behind its end zeros, as a value for each grain. */
static void look(struct mounted *mounted, uint8_t *buffer, uint64_t *values)
{
    struct stat status;
    uint64_t at = 0;

    if (fstat(mounted->fd, &status) < 0) {
        die("%s: %s", mounted->path, strerror(errno));
    }
    memset(values, 0, mounted->history.grains * sizeof(*values));
    while (at < (uint64_t)status.st_size) {
        ssize_t done = pread(mounted->fd, buffer, LONG, (off_t)at);

        if (done <= 0) {
            die("%s: cannot be read: %s", mounted->path, strerror(errno));
        }
        for (uint64_t i = 0; i < (uint64_t)done / GRAIN; i++) {
            if (!grain_value(buffer + i * GRAIN, &values[at / GRAIN + i])) {
                printf("WRONG: seed %" PRIu64 ", round %" PRIu64 ": a torn sector at %" PRIu64 "\n",
                       mounted->seed, mounted->round, at + i * GRAIN);
                exit(1);
            }
        }
        at += (uint64_t)done;
    }
}

static void run_round(struct mounted *mounted, struct worker *workers, uint64_t *values)
{
    struct chance chance = chance_from(mounted->seed, 50, mounted->round);
    struct checker *checker;

    if (mounted->grows && ftruncate(mounted->fd, (off_t)mounted->size) < 0) {
        die("%s: cannot be made smaller: %s", mounted->path, strerror(errno));
    }
    history_init(&mounted->history, mounted->capacity / GRAIN);
    look(mounted, workers[0].buffer, mounted->history.initial);
    mounted->area =
        mounted->grows ? mounted->size - AREA / 2 : chance_below(&chance, mounted->size - AREA + 1);
    for (unsigned i = 0; i < mounted->threads; i++) {
        workers[i].number = i + 1;
        workers[i].chance = chance_from(mounted->seed, mounted->round, i);
        if (pthread_create(&workers[i].thread, NULL, run_worker, &workers[i]) != 0) {
            die("no thread can be created");
        }
    }
    for (unsigned i = 0; i < mounted->threads; i++) {
        pthread_join(workers[i].thread, NULL);
    }
    if (fsync(mounted->fd) < 0) {
        die("%s: fsync: %s", mounted->path, strerror(errno));
    }
    (void)posix_fadvise(mounted->fd, 0, 0, POSIX_FADV_DONTNEED);
    look(mounted, workers[0].buffer, values);
    checker = checker_create(&mounted->history);
    if (!history_check_reads(checker, stdout) || !history_check_end(checker, values, stdout)) {
        printf("  seed %" PRIu64 ", round %" PRIu64 "\n", mounted->seed, mounted->round);
        exit(1);
    }
    checker_destroy(checker);
    history_release(&mounted->history);
    mounted->round++;
}

/* What is there at first must be grains of one value each: an empty disk is. */
static void prepare(struct mounted *mounted)
{
    struct stat status;

    mounted->fd = open(mounted->path, O_RDWR | O_CLOEXEC | (mounted->mapped_mode ? 0 : O_DIRECT));
    if (mounted->fd < 0 || fstat(mounted->fd, &status) < 0) {
        die("%s: %s", mounted->path, strerror(errno));
    }
    if (mounted->size == 0) {
        mounted->size = round_down((uint64_t)status.st_size, 512);
    }
    mounted->capacity = mounted->grows ? mounted->size * 3 / 2 / 512 * 512 : mounted->size;
    if (mounted->size < AREA) {
        die("%s: is too small", mounted->path);
    }
    if (mounted->mapped_mode) {
        mounted->mapping =
            mmap(NULL, mounted->size, PROT_READ | PROT_WRITE, MAP_SHARED, mounted->fd, 0);
        if (mounted->mapping == MAP_FAILED) {
            die("%s: cannot be mapped: %s", mounted->path, strerror(errno));
        }
    }
}

int main(int argc, char **argv)
{
    struct mounted mounted = {.seed = 1, .threads = 4};
    uint64_t seconds = 10, grows = 0;
    const char *mode = "direct";
    const struct setting settings[] = {
        {"mode", &mode, NULL},         {"seed", NULL, &mounted.seed},
        {"seconds", NULL, &seconds},   {"threads", NULL, &mounted.threads},
        {"size", NULL, &mounted.size}, {"grows", NULL, &grows},
    };
    struct worker workers[THREADS_MAX] = {0};
    uint64_t *values;
    time_t until;

    if (argc < 2) {
        die("mounted FILE [OPTION=VALUE...]");
    }
    take_settings(argc - 1, argv + 1, settings, sizeof(settings) / sizeof(settings[0]));
    mounted.path = argv[1];
    mounted.mapped_mode = strcmp(mode, "mapped") == 0;
    mounted.grows = grows > 0;
    mounted.threads = max_u64(1, min_u64(mounted.threads, THREADS_MAX));
    prepare(&mounted);
    for (unsigned i = 0; i < THREADS_MAX; i++) {
        workers[i].mounted = &mounted;
        workers[i].buffer = map_buffer(LONG + 4096);
    }
    values = grab(mounted.capacity / GRAIN * sizeof(*values));
    until = time(NULL) + (time_t)seconds;
    while (time(NULL) < until) {
        run_round(&mounted, workers, values);
    }
    printf("%" PRIu64 " rounds, %" PRIu64 " operations\n", mounted.round,
           mounted.round * mounted.threads * OPERATIONS);
    return 0;
}
