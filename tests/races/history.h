/* SPDX-License-Identifier: MIT */
/*
 * Who did what to which bytes of a disk, and whether what was seen can be.
 *
 * The disk is a row of grains, each a register of its own: 256 bytes, half a
 * sector, that hold one number over and over. Every write has a number of its
 * own; zero means zeros. What is behind the end of the disk reads as zeros, so
 * that a smaller disk is a write of zeros, and a larger one changes nothing.
 *
 * Each operation began and returned at a moment of one clock. What it did came
 * into force at a moment between. So a value can be seen at a moment where
 * some write of it had begun, and no other write lies wholly between the two:
 *
 *     write 1  |-------|
 *     write 2               |-----|
 *     write 3                  |--------|
 *     read                                |---|     2 or 3, never 1
 *
 * Two that read while a write is under way may see it in any order, as on
 * every disk. A write that failed may be in force, or not, in each grain. A
 * crash takes back what no flush covers: a write is covered that returned
 * before a flush began that returned.
 */
#ifndef RACES_HISTORY_H
#define RACES_HISTORY_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define GRAIN UINT64_C(256) /* bytes */

/* In what a read saw: a grain that was being written meanwhile, on a host that tears them. */
#define VALUE_TORN UINT64_MAX

enum event_kind {
    EVENT_WRITE,
    EVENT_ZERO, /* also what a disk loses that is made smaller */
    EVENT_READ,
    EVENT_FLUSH,
    EVENT_SNAPSHOT, /* made, or removed: a flush of what had returned before, too */
    EVENT_OTHER,    /* for the story alone */
};

struct event {
    enum event_kind kind;
    const char *name;
    unsigned thread;
    uint64_t from, to;        /* grains */
    uint64_t began, returned; /* moments */
    int result;
    uint64_t value; /* of a write: which number, see history_writer() */
    bool is_size;   /* the disk gets another: that of `from` */
    bool had_size;  /* it was of that size when this began */
    uint64_t *seen; /* of a read: the value of each grain */
};

/* Of one thread: no two add to the same. */
struct events {
    struct event *events;
    size_t count, capacity;
};

#define HISTORY_THREADS 16

struct history {
    uint64_t grains;
    uint64_t *initial; /* the value of each grain */
    bool every_return_is_stable;
    atomic_uint_fast64_t clock;
    atomic_uint_fast64_t numbers;
    struct events threads[HISTORY_THREADS];
};

/* `grains` of capacity; the initial values are zero, for the caller to set. */
void history_init(struct history *history, uint64_t grains);
void history_release(struct history *history);

/* A new event, begun now; its `returned` and `result` are for the caller to set, by history_end. */
struct event *history_begin(struct history *history, unsigned thread, enum event_kind kind,
                            const char *name, uint64_t from, uint64_t to);
void history_end(struct history *history, struct event *event, int result);

/* A number that no other write has. */
uint64_t history_number(struct history *history);

/* The number of the write that put this value there. */
uint64_t history_writer(uint64_t value);

/* Fills `grains` grains of a buffer with what the write of that number puts into them. */
void grains_fill(uint8_t *bytes, uint64_t from, uint64_t grains, uint64_t number);

/* The value of a grain's bytes; false where they are not one number over and over. */
bool grain_value(const uint8_t *bytes, uint64_t *value);

/*
 * With all threads joined. Each says what is wrong, with the story of that
 * grain, in `out`; false then.
 *
 * history_check_reads: all that was read while it ran.
 * history_check_end:   what the disk shows at the end, a value for each grain.
 * history_check_crash: what it shows after a crash at a moment.
 * history_check_snapshot: what a snapshot shows that was made between two moments. Requests are in
 *     it as a whole or not at all: what one of its grains shows, or lacks, of a write holds for
 * all.
 */
struct checker;

struct checker *checker_create(const struct history *history);
void checker_destroy(struct checker *checker);
bool history_check_reads(struct checker *checker, FILE *out);
bool history_check_end(struct checker *checker, const uint64_t *values, FILE *out);
bool history_check_crash(struct checker *checker, const uint64_t *values, uint64_t moment,
                         FILE *out);
bool history_check_snapshot(struct checker *checker, const uint64_t *values, const char *name,
                            uint64_t began, uint64_t returned, FILE *out);

/* All that was done, in the order in which it began. */
void history_tell(const struct history *history, FILE *out);

#endif
