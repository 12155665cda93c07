/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "model.h"

#include "util/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LENGTH_SHORT   UINT64_C(9000)
#define LENGTH_LONG    UINT64_C(700000)
#define LENGTH_MOST    UINT64_C(2000000) /* of a preallocation */
#define READ_AROUND    UINT64_C(100000) /* bytes that a read takes on each side of what it checks */
#define CHECK_ALL_STEP (UINT64_C(1) << 20)

struct range {
    uint64_t offset, length;
};

/* --- Random numbers, and failing ----------------------------------------------------------- */

struct worker worker_create(struct model *model, unsigned number, uint64_t round)
{
    return (struct worker){
        .model = model,
        .number = number,
        .random = model->options.seed.value * 1000003 + round * 1009 + number,
    };
}

static uint64_t random_number(struct worker *worker)
{
    uint64_t x = worker->random += UINT64_C(0x9e3779b97f4a7c15);

    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

/* 0 to below - 1. */
static uint64_t random_below(struct worker *worker, uint64_t below)
{
    return random_number(worker) % below;
}

static _Noreturn void fail(const struct worker *worker, const char *operation, struct range range,
                           const char *why)
{
    fprintf(stderr, "seed %" PRIu64 ", thread %u: %s of %" PRIu64 " bytes at %" PRIu64 ": %s\n",
            worker->model->options.seed.value, worker->number, operation, range.length,
            range.offset, why);
    exit(1);
}

static void expect_success(const struct worker *worker, const char *operation, struct range range,
                           int result)
{
    if (result < 0) {
        fail(worker, operation, range, strerror(-result));
    }
}

static void *allocate(uint64_t size)
{
    void *memory = calloc(1, max_u64(size, 1));

    if (memory == NULL) {
        perror("model");
        exit(1);
    }
    return memory;
}

/* --- Choosing a range ------------------------------------------------------------------------ */

/*
 * The piece of this worker in which its next operation takes place; a single worker has all
 * of the disk. Empty where the disk is too small for so many.
 */
static struct range choose_piece(struct worker *worker)
{
    const struct model *model = worker->model;
    uint64_t threads = model->options.threads.value;
    uint64_t pieces = div_round_up(model->size, MODEL_PIECE);
    struct range piece = {.offset = worker->number * MODEL_PIECE};

    if (threads == 1) {
        return (struct range){.length = model->size};
    }
    if (pieces <= worker->number) {
        return piece;
    }
    piece.offset += random_below(worker, div_round_up(pieces - worker->number, threads)) * threads *
                    MODEL_PIECE;
    piece.length = min_u64(MODEL_PIECE, model->size - piece.offset);
    return piece;
}

/* Half of all ranges are whole sectors, as nearly all requests of guests are. */
static struct range choose_range(struct worker *worker)
{
    struct range piece = choose_piece(worker), range = piece;
    uint64_t most = random_below(worker, 4) == 0 ? LENGTH_LONG : LENGTH_SHORT;
    uint64_t end = piece.offset + piece.length;

    if (piece.length == 0) {
        return piece;
    }
    range.offset += random_below(worker, piece.length);
    range.length = 1 + random_below(worker, most);
    if (random_below(worker, 2) == 0) {
        range.offset = max_u64(piece.offset, round_down(range.offset, SECTOR));
        range.length = div_round_up(range.length, SECTOR) * SECTOR;
    }
    range.length = min_u64(range.length, end - range.offset);
    return range;
}

/* --- Operations ------------------------------------------------------------------------------ */

static void compare(const struct worker *worker, const uint8_t *actual, struct range range)
{
    const uint8_t *expected = worker->model->expected + range.offset;
    char why[120];
    uint64_t i = 0;

    if (memcmp(actual, expected, range.length) == 0) {
        return;
    }
    while (actual[i] == expected[i]) {
        i++;
    }
    snprintf(why, sizeof(why), "the byte at %" PRIu64 " is 0x%02x instead of 0x%02x",
             range.offset + i, actual[i], expected[i]);
    fail(worker, "read", range, why);
}

/* Reads more than it compares: what is around belongs to others, who may be changing it. */
static void check_range(struct worker *worker, struct range range, uint64_t around)
{
    const struct model *model = worker->model;
    uint64_t from = range.offset - min_u64(range.offset, around);
    uint64_t to = min_u64(model->size, range.offset + range.length + around);
    uint8_t *buffer = allocate(to - from);

    expect_success(worker, "read", range, view_read(model->view, from, buffer, to - from));
    compare(worker, buffer + (range.offset - from), range);
    free(buffer);
}

static void check_random(struct worker *worker, struct range range)
{
    check_range(worker, range, random_below(worker, 4) == 0 ? READ_AROUND : 0);
}

/*
 * Which bits of what is written are random: where it is to be compressed it must get smaller, more
 * or less, and sometimes not.
 */
static uint64_t choose_bits(struct worker *worker)
{
    static const uint64_t bits[] = {UINT64_MAX, UINT64_C(0x0f0f0f0f0f0f0f0f),
                                    UINT64_C(0x0100000000010101)};

    return worker->model->options.compress.value
               ? bits[random_below(worker, sizeof(bits) / sizeof(bits[0]))]
               : UINT64_MAX;
}

static void write_random(struct worker *worker, struct range range)
{
    struct model *model = worker->model;
    uint8_t *buffer = allocate(range.length);
    uint64_t bits = choose_bits(worker), i;

    for (i = 0; i < range.length; i += sizeof(uint64_t)) {
        uint64_t value = random_number(worker) & bits;

        memcpy(buffer + i, &value, min_u64(sizeof(value), range.length - i));
    }
    expect_success(worker, "write", range,
                   writer_write(model->writer, range.offset, buffer, range.length));
    memcpy(model->expected + range.offset, buffer, range.length);
    bitmaps_mark(model, range.offset, range.offset + range.length);
    free(buffer);
}

static void zero(struct worker *worker, struct range range, bool unmap)
{
    struct model *model = worker->model;

    expect_success(worker, unmap ? "discard" : "zeroing", range,
                   writer_zero(model->writer, range.offset, range.length, unmap, NULL));
    memset(model->expected + range.offset, 0, range.length);
    bitmaps_mark(model, range.offset, range.offset + range.length);
}

/* Anywhere, also where others are at work: it changes nothing that can be seen. */
static void preallocate(struct worker *worker)
{
    struct model *model = worker->model;
    struct range range = {.offset = random_below(worker, model->size)};

    range.length = min_u64(model->size - range.offset, 1 + random_below(worker, LENGTH_MOST));
    expect_success(
        worker, "preallocation", range,
        range.length % 2 == 0
            ? writer_preallocate(model->writer, range.offset, range.length, NULL)
            : writer_preallocate_sparse(model->writer, range.offset, range.length, NULL));
}

static void flush(struct worker *worker)
{
    expect_success(worker, "flush", (struct range){0}, writer_flush(worker->model->writer));
}

/* Each operation, and how often it is chosen of 1000. */
static void work_once(struct worker *worker)
{
    uint64_t kind = random_below(worker, 1000);
    struct range range = choose_range(worker);

    if (range.length == 0) {
        flush(worker);
    } else if (kind < 8 && worker->model->options.snapshots.value) {
        snapshots_change(worker->model, worker->number, random_number(worker));
    } else if (kind < 450) {
        write_random(worker, range);
    } else if (kind < 530) {
        zero(worker, range, true);
    } else if (kind < 600) {
        zero(worker, range, false);
    } else if (kind < 965) {
        check_random(worker, range);
    } else if (kind < 995) {
        flush(worker);
    } else {
        preallocate(worker);
    }
}

void worker_run(struct worker *worker)
{
    uint64_t i;

    for (i = 0; i < worker->model->options.operations.value; i++) {
        work_once(worker);
    }
}

/* --- The size ----------------------------------------------------------------------------------
 */

/* Any size, also one that is no whole number of sectors: the disk is growable. */
static void set_size(struct worker *worker)
{
    struct model *model = worker->model;
    uint64_t size = 1 + random_below(worker, model->capacity);

    if (random_below(worker, 2) == 0) {
        size = min_u64(div_round_up(size, SECTOR) * SECTOR, model->capacity);
    }
    expect_success(worker, "resizing", (struct range){.length = size},
                   writer_resize(model->writer, size, NULL));
    bitmaps_resize(model, size);
    if (size < model->size) {
        memset(model->expected + size, 0, model->size - size);
    }
    model->size = size;
}

/* A write behind, or over, the end of the disk makes it larger. */
static void write_past_end(struct worker *worker)
{
    struct model *model = worker->model;
    struct range range = {
        .offset = model->size - min_u64(model->size, random_below(worker, LENGTH_SHORT)),
    };

    range.offset = min_u64(model->capacity, range.offset + random_below(worker, LENGTH_LONG));
    range.length = min_u64(model->capacity - range.offset, 1 + random_below(worker, LENGTH_LONG));
    if (range.length > 0) {
        write_random(worker, range);
        bitmaps_resize(model, max_u64(model->size, range.offset + range.length));
        model->size = max_u64(model->size, range.offset + range.length);
    }
}

void worker_resize(struct worker *worker)
{
    set_size(worker);
    if (random_below(worker, 2) == 0) {
        write_past_end(worker);
    }
    preallocate(worker);
}

void worker_change_bitmaps(struct worker *worker)
{
    for (uint64_t count = random_below(worker, 4); count > 0; count--) {
        bitmaps_change(worker->model, random_number(worker));
    }
}

void worker_check_all(struct worker *worker)
{
    const struct model *model = worker->model;
    struct range range = {0};

    if (view_size(model->view) != model->size) {
        fail(worker, "read", (struct range){.length = model->size}, "the disk has another size");
    }
    for (; range.offset < model->size; range.offset += range.length) {
        range.length = min_u64(CHECK_ALL_STEP, model->size - range.offset);
        check_range(worker, range, 0);
    }
}
