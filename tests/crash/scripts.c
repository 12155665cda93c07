/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "scripts.h"

#include "run.h"

#include <pthread.h>

#define K UINT64_C(1024)

/* --- Pieces -------------------------------------------------------------------------------- */

/* A range of the disk, whole sectors, at most `most` bytes long. */
static void some_range(struct run *run, uint64_t most, uint64_t *offset, uint64_t *length)
{
    uint64_t sectors = run_size(run) / SECTOR;

    *offset = *length = 0;
    if (sectors == 0) {
        return; /* it could not be opened */
    }
    *offset = run_below(run, sectors) * SECTOR;
    *length = (1 + run_below(run, most / SECTOR)) * SECTOR;
    if (*length > sectors * SECTOR - *offset) {
        *length = sectors * SECTOR - *offset;
    }
}

static void write_some(struct run *run, unsigned times, uint64_t most)
{
    uint64_t offset, length;

    while (times-- > 0) {
        some_range(run, most, &offset, &length);
        run_write(run, offset, length);
    }
}

static void zero_some(struct run *run, unsigned times, uint64_t most, bool unmap)
{
    uint64_t offset, length;

    while (times-- > 0) {
        some_range(run, most, &offset, &length);
        run_zero(run, offset, length, unmap);
    }
}

static void fill_all(struct run *run, uint64_t piece)
{
    uint64_t size = run_size(run), at;

    for (at = 0; at < size; at += piece) {
        run_write(run, at, at + piece < size ? piece : size - at);
    }
}

/* Leaves holes of few clusters in the file, between clusters in use. */
void script_fragment(struct run *run)
{
    uint64_t size, at;

    fill_all(run, 8 * K);
    size = run_size(run);
    run_flush(run);
    for (at = 0; at + 8 * K <= size; at += 8 * K) {
        run_zero(run, at, 4 * K, true);
    }
}

void script_half(struct run *run)
{
    uint64_t size = run_size(run), at;

    for (at = 0; at < size; at += 16 * K) {
        run_write(run, at, 8 * K);
    }
}

/* --- Scripts ------------------------------------------------------------------------------- */

void script_fill(struct run *run)
{
    uint64_t size = run_size(run), at;
    unsigned n = 0;

    for (at = 0; at < size; at += 8 * K) {
        run_write(run, at, 8 * K);
        if (n++ % 4 == 3) {
            run_flush(run);
        }
    }
}

void script_small(struct run *run)
{
    unsigned i;

    for (i = 0; i < 12; i++) {
        write_some(run, 6, 2 * K);
        run_flush(run);
    }
}

/* Commits with so little in them that they can do without some syncs, and must not do without
 * others. */
void script_one_by_one(struct run *run)
{
    unsigned i;

    for (i = 0; i < 24; i++) {
        if (i % 3 == 0) {
            zero_some(run, 1, 2 * K, true);
        } else {
            write_some(run, 1, 1 * K);
        }
        run_flush(run);
    }
}

/* Each cluster once, in no order, with little in it; some are dropped again. */
void script_flush_each(struct run *run)
{
    uint64_t cluster = run->base->workload->size >= 2048 * K ? 32 * K : 16 * K;
    uint64_t count = run_size(run) / cluster, i;

    for (i = 0; i < count; i++) {
        uint64_t at = i * 37 % count * cluster; /* 37 is prime to all counts */

        run_write(run, at + run_below(run, cluster - 4 * K), 1 + run_below(run, 4 * K));
        run_flush(run);
        if (i % 8 == 7) {
            run_zero(run, run_below(run, count) * cluster, cluster, true);
        }
    }
}

void script_unflushed(struct run *run)
{
    write_some(run, 60, 3 * K);
}

/* Parts of sectors. */
void script_unaligned(struct run *run)
{
    unsigned i, j;

    for (i = 0; i < 8; i++) {
        for (j = 0; j < 8; j++) {
            uint64_t offset = run_below(run, run_size(run) - 2000);

            run_write(run, offset, run->may_fail ? 0 : 1 + run_below(run, 1800));
        }
        run_flush(run);
    }
}

/* Everything at once. */
void script_mixed(struct run *run)
{
    unsigned i;

    for (i = 0; i < 50; i++) {
        switch (run_below(run, 10)) {
        case 0:
            zero_some(run, 1, 24 * K, true);
            break;
        case 1:
            zero_some(run, 1, 8 * K, false);
            break;
        case 2:
            run_flush(run);
            break;
        case 3:
            write_some(run, 1, 24 * K);
            break;
        default:
            write_some(run, 1, 3 * K);
            break;
        }
    }
}

void script_again_and_again(struct run *run)
{
    script_mixed(run);
    run_reopen(run);
    script_mixed(run);
}

/* What was freed is used at once for something else. */
void script_reuse(struct run *run)
{
    unsigned i;

    for (i = 0; i < 10; i++) {
        zero_some(run, 3, 12 * K, true);
        if (i % 3 != 0) {
            run_flush(run);
        }
        write_some(run, 6, 12 * K);
        if (i % 2 == 0) {
            run_flush(run);
        }
    }
}

void script_zero(struct run *run)
{
    unsigned i;

    for (i = 0; i < 8; i++) {
        zero_some(run, 3, 16 * K, i % 2 == 0);
        run_flush(run);
        write_some(run, 4, 4 * K);
        zero_some(run, 2, 3 * K, false);
    }
}

void script_preallocate(struct run *run)
{
    uint64_t offset, length;
    unsigned i;

    for (i = 0; i < 8; i++) {
        some_range(run, 16 * K, &offset, &length);
        run_preallocate(run, offset, length, i % 2 == 1);
        write_some(run, 3, 3 * K);
        run_flush(run);
        zero_some(run, 1, 8 * K, false);
    }
}

void script_resize(struct run *run)
{
    static const uint64_t sizes[] = {150, 90, 200, 33, 101, 259, 258, 5, 190};
    size_t i;

    for (i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        write_some(run, 6, 6 * K);
        run_resize(run, sizes[i] * K + i * SECTOR);
        write_some(run, 3, 6 * K);
        if (i % 3 == 0) {
            run_flush(run);
        }
    }
}

/* With clusters of 512 bytes: 32 KiB for each entry of the L1 table, 64 of them in a cluster. */
void script_grow_l1(struct run *run)
{
    uint64_t size;

    write_some(run, 4, 4 * K);
    for (size = 1500 * K; size <= 9000 * K; size += (size / 2 + 7 * K) / SECTOR * SECTOR) {
        run_resize(run, size);
        run_write(run, size - 3 * K, 3 * K);
        run_write(run, size / 2, 4 * K);
        if (size % 2 == 0) {
            run_flush(run);
        }
        write_some(run, 2, 2 * K);
    }
}

void script_grow_refcounts(struct run *run)
{
    uint64_t at;

    for (at = 0; at < run_size(run); at += 64 * K) {
        run_write(run, at, 64 * K);
        if (at % (256 * K) == 0) {
            run_flush(run);
        }
    }
}

void script_append(struct run *run)
{
    unsigned i;

    for (i = 0; i < 12; i++) {
        run_append(run, (1 + run_below(run, 20)) * SECTOR);
        if (i % 3 == 2) {
            run_flush(run);
        }
        write_some(run, 1, 2 * K);
    }
}

void script_repair_and_go_on(struct run *run)
{
    run_flush(run); /* the repair was in opening it */
    write_some(run, 4, 4 * K);
    run_flush(run);
}

struct worker {
    struct run *run;
    pthread_t thread;
    unsigned number;
};

#define WORKERS 4

/* Each has clusters of its own, in L2 tables that all have a part of. */
static void *work(void *context)
{
    struct worker *worker = context;
    struct run *run = worker->run;
    struct chance chance = chance_from(run->base->seed, worker->number, 77);
    uint64_t pieces = run->base->workload->size / (4 * K) / WORKERS;
    unsigned i;

    for (i = 0; i < 40; i++) {
        uint64_t offset = (chance_below(&chance, pieces) * WORKERS + worker->number) * 4 * K;
        uint64_t first = chance_below(&chance, 8), last = first + chance_below(&chance, 8 - first);

        if (chance_below(&chance, 4) == 0) {
            run_zero(run, offset, 4 * K, true);
        } else {
            run_write(run, offset + first * SECTOR, (last - first + 1) * SECTOR);
        }
        if (chance_below(&chance, 6) == 0) {
            run_flush(run);
        }
    }
    return NULL;
}

void script_threads(struct run *run)
{
    struct worker workers[WORKERS];
    unsigned i;

    for (i = 0; i < WORKERS; i++) {
        workers[i] = (struct worker){.run = run, .number = i};
        if (pthread_create(&workers[i].thread, NULL, work, &workers[i]) != 0) {
            die("no thread");
        }
    }
    for (i = 0; i < WORKERS; i++) {
        pthread_join(workers[i].thread, NULL);
    }
}

/* Moves the L1 table, and the refcount table, under the hands of those that write. */
static void *grow_meanwhile(void *context)
{
    struct worker *worker = context;
    uint64_t size;

    for (size = 1500 * K; size <= 9000 * K; size += 700 * K) {
        run_resize(worker->run, size);
        run_write(worker->run, size - 4 * K, 4 * K);
    }
    return NULL;
}

void script_threads_grow(struct run *run)
{
    struct worker grower = {.run = run};

    if (pthread_create(&grower.thread, NULL, grow_meanwhile, &grower) != 0) {
        die("no thread");
    }
    script_threads(run);
    pthread_join(grower.thread, NULL);
}

/* Each change that there is, down to none and up again. */
void script_bitmaps(struct run *run)
{
    run_bitmap(run, RUN_BITMAP_ADD, "one", 0, NULL);
    run_bitmap(run, RUN_BITMAP_ADD, "two", 512, NULL);
    run_bitmap(run, RUN_BITMAP_MERGE, "one", 0, "first");
    run_bitmap(run, RUN_BITMAP_MERGE, "two", 0, "first");
    run_bitmap(run, RUN_BITMAP_ENABLE, "one", false, NULL);
    run_bitmap(run, RUN_BITMAP_CLEAR, "first", 0, NULL);
    run_bitmap(run, RUN_BITMAP_MERGE, "first", 0, "two");
    run_reopen(run);
    run_bitmap(run, RUN_BITMAP_REMOVE, "one", 0, NULL);
    run_bitmap(run, RUN_BITMAP_ADD, "with a long name that takes another place", 65536, NULL);
    run_bitmap(run, RUN_BITMAP_REMOVE, "two", 0, NULL);
    run_bitmap(run, RUN_BITMAP_REMOVE, "first", 0, NULL);
    run_bitmap(run, RUN_BITMAP_COPY, "first", 0, NULL);
    run_bitmap(run, RUN_BITMAP_REMOVE, "first", 0, NULL);
    run_bitmap(run, RUN_BITMAP_REMOVE, "with a long name that takes another place", 0, NULL);
    run_bitmap(run, RUN_BITMAP_COPY, "first", 0, NULL);
    run_bitmap(run, RUN_BITMAP_ADD, "again", 4096, NULL);
}

/* Changed among writes, which they go on to record. */
void script_bitmaps_written(struct run *run)
{
    for (unsigned i = 0; i < 3; i++) {
        write_some(run, 3, 3 * K);
        run_bitmap(run, RUN_BITMAP_ADD, "late", 512, NULL);
        write_some(run, 2, 2 * K);
        run_flush(run);
        run_bitmap(run, RUN_BITMAP_MERGE, "coarse", 0, "fine");
        zero_some(run, 1, 8 * K, true);
        run_bitmap(run, RUN_BITMAP_REMOVE, "late", 0, NULL);
        write_some(run, 1, 2 * K);
    }
}

/* Bits in several clusters, stored twice; and the disk gets further ones. */
void script_bitmaps_large(struct run *run)
{
    write_some(run, 4, 3 * K);
    run_flush(run);
    run_bitmap(run, RUN_BITMAP_MERGE, "coarse", 0, "fine");
    run_resize(run, 7 * 1024 * K);
    write_some(run, 3, 3 * K);
    zero_some(run, 1, 8 * K, true);
    run_flush(run);
    write_some(run, 2, 2 * K);
}

/* Made and removed among writes, some of them not flushed. */
void script_snapshots(struct run *run)
{
    unsigned i;

    for (i = 0; i < 8; i++) {
        write_some(run, 4, 3 * K);
        if (i % 3 == 0) {
            run_flush(run);
        }
        run_snapshot(run);
        zero_some(run, 1, 4 * K, i % 2 == 0);
        write_some(run, 2, 2 * K);
        if (i % 2 == 1) {
            run_remove_snapshot(run);
        }
    }
    run_reopen(run);
    run_remove_snapshot(run);
    run_snapshot(run);
    write_some(run, 2, 2 * K);
    run_flush(run);
}

void script_snapshots_resize(struct run *run)
{
    static const uint64_t sizes[] = {150, 90, 200, 101, 259, 40};
    size_t i;

    for (i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        write_some(run, 4, 6 * K);
        run_snapshot(run);
        run_resize(run, sizes[i] * K + i * SECTOR);
        write_some(run, 3, 6 * K);
        zero_some(run, 1, 8 * K, i % 2 == 0);
        if (i % 2 == 1) {
            run_remove_snapshot(run);
        } else if (i % 3 == 0) {
            run_flush(run);
        }
    }
    run_reopen(run);
    run_remove_snapshot(run);
    run_flush(run);
}

void script_snapshots_back(struct run *run)
{
    unsigned i;

    for (i = 0; i < 4; i++) {
        write_some(run, 4, 3 * K);
        run_snapshot(run);
        write_some(run, 3, 3 * K);
        zero_some(run, 1, 4 * K, true);
        run_go_back(run);
        write_some(run, 2, 2 * K);
        if (i % 2 == 0) {
            run_remove_snapshot(run);
        }
    }
    run_flush(run);
}
