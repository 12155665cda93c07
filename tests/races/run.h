/* SPDX-License-Identifier: MIT */
/*
 * One run: an image of some kind is opened over hosts in memory, threads work
 * on it as the schedule has them, it is closed; then all is looked at. Which
 * kind, which options, what the threads do and what befalls the host follows
 * from the seed alone.
 */
#ifndef RACES_RUN_H
#define RACES_RUN_H

#include "history.h"
#include "host.h"
#include "kinds.h"

#include "crash/tools.h"
#include "disk/image.h"
#include "disk/view.h"
#include "disk/writer.h"
#include "util/log.h"

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NEVER       UINT64_MAX /* no moment */
#define THREADS_MAX 8 /* of a run, that do operations; the first has number 1 in the history */
#define CRASHES_MAX 3

/* What is asked for; 0 or NULL: the seed decides. */
struct run_options {
    uint64_t seed;
    const char *kind;
    const char *without;   /* kinds with commas between, that are left out */
    uint64_t cluster_size; /* bytes */
    const char *only; /* "grow", "preallocate", "snapshots", "bitmaps", "remote": see README.md */
    bool free;        /* the schedule's */
    bool qemu;        /* qemu-img looks at the image, too */
    bool tell;        /* the whole story */
    bool calm;        /* no call of the host fails */
    bool steady;      /* the disk keeps its size */
};

enum operation {
    OPERATION_WRITE,
    OPERATION_READ,
    OPERATION_ZERO,
    OPERATION_PUNCH,
    OPERATION_PREALLOCATE,
    OPERATION_RESERVE,
    OPERATION_FLUSH,
    OPERATION_SEEK,
    OPERATION_RESIZE,
    OPERATION_CLEAN,
    OPERATION_SNAPSHOT,
    OPERATION_TROUBLE,
    OPERATION_MAKE, /* of snapshots */
    OPERATION_REMOVE,
    OPERATION_READ_MADE,
    OPERATION_LOOK, /* at a bitmap */
    OPERATION_POINT,
    OPERATIONS,
};

/* What the seed made of it. */
struct plan {
    const struct template *template;
    unsigned threads, operations; /* of each thread */
    unsigned often, longest;      /* of the schedule */
    unsigned weights[OPERATIONS], total;
    bool tiny_caches, lazy, discard, growable, write_through, fills, resizes, starts_threads;
    bool makes;  /* snapshots, and removes them */
    bool points; /* of backups, by bitmaps and snapshots */
    bool remote; /* the image is as on a server: remote.h */
    bool trouble, syncs_fail;
    unsigned crashes;
    uint64_t hot[3]; /* grains around which most of it happens */
    unsigned hots;
    uint64_t spread; /* grains to each side of them */
    uint64_t longest_range;
    uint64_t grains; /* the disk may have at most so many */
};

struct crash {
    struct host *hosts[2];
    uint64_t moment;
};

#define MADE_MAX 32 /* snapshots of one run */

/* A snapshot that a thread of the run has made; what is not a moment's is guarded by made_mutex. */
struct made {
    char name[16];
    uint64_t began, returned;   /* moments of its making */
    uint64_t removing, removed; /* of its removal; NEVER where there was none, or it failed */
    bool failed;                /* its making: it may be there or not */
    bool going;                 /* nobody begins to read it any more */
    bool of_point;              /* it is read and removed by who makes and ends that backup point */
    unsigned users;
    struct view *view;
    uint64_t *values; /* of each grain, once somebody has read it */
};

/* What a bitmap said, between two moments. */
struct look {
    size_t bitmap;            /* of races_bitmaps */
    uint64_t began, returned; /* moments */
    uint64_t end;             /* of the disk, in grains, unless that changed meanwhile */
    bool *bits;               /* of each sector; NULL: nothing */
};

/*
 * A backup point: bitmap "sector" becomes bitmap `name`, which is disabled, beside a snapshot; as
 * qcow2ctl backup-point does it. All guarded by change_mutex.
 */
struct point {
    char name[16];
    uint64_t clear_began, clear_returned; /* moments of the clearing of "sector"; NEVER: none */
    bool cleared;                         /* that succeeded */
    uint64_t merge_began, merge_returned; /* of its bits' way back; NEVER: none */
    bool merged;
    uint64_t complete;             /* moment at which each step was done, or NEVER */
    struct made *snapshot;         /* or NULL */
    const uint64_t *base, *values; /* of each grain: the backup before it, and its; NULL: unknown */
    struct look look;              /* when it was complete */
};

#define POINTS_MAX 16

/* What is known of the bitmaps; guarded by change_mutex. */
struct known_bitmaps {
    struct look *looks;
    size_t look_count, look_capacity;
    struct point points[POINTS_MAX];
    size_t point_count;
    bool point_is_open;
    bool point_failed;     /* one is left as it is, and no other begins */
    const uint64_t *saved; /* what the last backup holds of each grain; NULL: unknown */
};

struct run {
    const struct run_options *options;
    struct plan plan;
    struct chance chance;
    struct trouble trouble;
    struct host *hosts[2]; /* the image's; the data file's, or NULL */
    struct host *backing[TEMPLATE_BACKING];
    struct log log;
    char last_line[512];
    struct image *image;
    struct writer *writer;
    struct view *view, *snapshots[TEMPLATE_SNAPSHOTS];
    struct history history;
    pthread_mutex_t change_mutex; /* one change of the snapshots at a time; outside of made_mutex */
    pthread_mutex_t made_mutex;
    struct made made[MADE_MAX];
    size_t made_count;
    struct known_bitmaps bitmaps;
    atomic_bool change_failed; /* one at least */
    struct crash crashes[CRASHES_MAX];
    size_t crash_count;
    atomic_uint_fast64_t operations; /* done */
    atomic_bool wrong;               /* something was seen that cannot be */
    FILE *out;                       /* where that is told */
};

/* One thread of it. */
struct worker {
    struct run *run;
    unsigned number;
    struct chance chance;
    uint64_t cursor; /* grain up to which it has read in order */
    pthread_t thread;
};

/* What all runs did together. */
struct totals {
    uint64_t runs, operations, points, switches, crashes;
};

void plan_make(struct run *run);
void plan_tell(const struct run *run, FILE *out);

/* All operations of one thread. */
void *worker_run(void *worker);

/* One operation of a thread, which it brackets. */
struct call {
    struct event *event;
    uint64_t failed_before; /* calls of the host */
};

struct call call_begin(struct worker *worker, enum event_kind kind, const char *name, uint64_t from,
                       uint64_t to);

/* An error must come from somewhere: `expected`, or a host that is in trouble. */
void call_end(struct worker *worker, struct call *call, int result, bool expected);

/* Operations on snapshots that are made (snapshots.c); all views of them are closed at the end. */
void snapshots_make_one(struct worker *worker);
void snapshots_remove_one(struct worker *worker);
void snapshots_read_one(struct worker *worker);
void snapshots_close(struct run *run);
void snapshots_release(struct run *run);

/* What was read of them, and what the image that is open has of them, after a crash at `moment`. */
void snapshots_check_reads(struct run *run, struct checker *checker);
void snapshots_check(struct run *run, struct checker *checker, uint64_t moment, const char *when);

/*
 * One change of what is there beside the disk, which has to be stable when it returns (R7);
 * failed_syncs: those before it began.
 */
void change_end(struct worker *worker, struct call *call, int result, bool expected,
                uint64_t failed_syncs);

/* With change_mutex held: whether there is room for another; makes it, removes it. */
bool snapshots_have_room(const struct run *run);
struct made *snapshots_make_held(struct worker *worker);
void snapshots_remove_held(struct worker *worker, struct made *made);

/* All that it shows, a value for each grain, which stay its own; NULL: it cannot be read. */
const uint64_t *snapshots_values(struct run *run, struct made *made);

/* Looks at a bitmap; begins a backup point, or ends the one that is open (bitmaps.c). */
void bitmaps_look(struct worker *worker);
void bitmaps_point(struct worker *worker);
void bitmaps_release(struct run *run);

/*
 * What bitmaps have said while it ran; and what those of the image that is open say, whose disk
 * shows `values`: after all, or after a crash at a moment (of which a sync that failed is one).
 */
void bitmaps_check_looks(struct run *run);
void bitmaps_check_end(struct run *run, const uint64_t *values, const char *when);
void bitmaps_check_crash(struct run *run, const uint64_t *values, uint64_t moment,
                         const char *when);

/* Prints a line that begins with WRONG. */
void run_wrong(struct run *run, const char *format, ...) __attribute__((format(printf, 2, 3)));

/*
 * Opens the image over these hosts; to write if `writer` says how. What is
 * opened is closed by run_close(). False where it cannot be opened, which is
 * told in `error`.
 */
bool run_open(struct run *run, struct host *const *hosts, const struct writer_options *writer,
              struct error *error);
int run_close(struct run *run);

/* A run from beginning to end; false, and all is told, where something was wrong. */
bool run_once(const struct run_options *options, struct totals *totals, FILE *out);

/* With the image closed: all that can be said of it, and of the crashes. */
bool run_verify(struct run *run);

#endif
