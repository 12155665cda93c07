/* SPDX-License-Identifier: MIT */
/*
 * One run of a workload: its base image is made, its script runs over the
 * recording disks, and the model keeps what was asked for.
 */
#ifndef CRASH_RUN_H
#define CRASH_RUN_H

#include "log.h"
#include "model.h"
#include "session.h"
#include "tools.h"
#include "workloads.h"

#include <stdbool.h>
#include <stdint.h>

#define RUN_SNAPSHOTS 2

/* What a workload begins with; made once, however often it then runs. */
struct base {
    const struct workload *workload;
    uint64_t seed;
    struct stack stack;
    uint8_t *disk; /* what it shows */
    uint64_t size;
    uint8_t *snapshots[RUN_SNAPSHOTS]; /* what those show */
    uint64_t snapshot_sizes[RUN_SNAPSHOTS];
    size_t snapshot_count;
    uint32_t generation; /* of the last stamp */
    uint64_t autoclear;  /* bits of the header that the first change must clear; R6 */
    char *bitmaps;       /* what it has; NULL where they are not looked at */
};

/* `directory` is for the image's files. */
void base_make(struct base *base, const struct workload *workload, uint64_t seed,
               const char *directory);
void base_release(struct base *base);

struct run {
    const struct base *base;
    struct stack stack;   /* as it is now */
    struct crash_log log; /* from the base on */
    struct model model;
    struct session session;
    struct session_options options;
    bool open;
    struct chance chance;
    struct fault_plan faults;
    bool may_fail;            /* errors are what it is about */
    int first_error;          /* what requests returned; 0: all succeeded */
    const char *first_failed; /* which of them */
    size_t failed_at;         /* in the log */
    bool flush_lied;          /* R7: a flush succeeded after a sync had failed */
};

/* Runs the script. `faults` may be NULL. */
void run_workload(struct run *run, const struct base *base, const struct fault_plan *faults);
void run_release(struct run *run);

/* --- For scripts: each is a request; errors are kept in the run ---------------------------- */

void run_write(struct run *run, uint64_t offset, uint64_t length);
/* Writes what begins at the end of the disk, which grows. */
void run_append(struct run *run, uint64_t length);

void run_zero(struct run *run, uint64_t offset, uint64_t length, bool unmap);
void run_preallocate(struct run *run, uint64_t offset, uint64_t length, bool sparse);
void run_resize(struct run *run, uint64_t size);
void run_flush(struct run *run);

enum run_bitmap_change {
    RUN_BITMAP_ADD,    /* argument: its granularity */
    RUN_BITMAP_REMOVE, /* none */
    RUN_BITMAP_CLEAR,  /* none */
    RUN_BITMAP_ENABLE, /* whether */
    RUN_BITMAP_MERGE,  /* `from`, another one */
    RUN_BITMAP_COPY,   /* none: from the image as it was in the beginning */
};

void run_bitmap(struct run *run, enum run_bitmap_change change, const char *name, uint64_t argument,
                const char *from);

/* Snapshots: one more; the oldest that was made goes; the disk becomes what the newest has. */
void run_snapshot(struct run *run);
void run_remove_snapshot(struct run *run);
void run_go_back(struct run *run);

/* A clean end, and a new beginning. */
void run_close(struct run *run);
void run_reopen(struct run *run);

uint64_t run_size(const struct run *run);
uint64_t run_below(struct run *run, uint64_t limit);

#endif
