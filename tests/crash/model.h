/* SPDX-License-Identifier: MIT */
/*
 * What the guest's disk may show after a crash: for each sector of the disk all
 * that was ever written there, and when; and the sizes that the disk had.
 *
 * Time is a position in the log. A version was born when its request began and
 * is done when that returned; a request that failed is never done. After a
 * crash at `crash`, with `flushed` the beginning of the last flush that had
 * returned by then, a sector shows the newest version that was done before
 * `flushed`, or any newer one that was born before `crash`, as a whole.
 *
 * Every sector that is written bears a stamp: its place and a generation.
 */
#ifndef CRASH_MODEL_H
#define CRASH_MODEL_H

#include "bitmaps.h"
#include "disk.h"
#include "log.h"

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct version {
    size_t born, done;
    uint8_t *content;  /* NULL: zeros */
    size_t older;      /* index + 1 of the version before; 0: the base */
    size_t after_size; /* index + 1 of the size that cut this sector off; 0: none */
};

struct size_version {
    uint64_t size;
    size_t born, done;
};

struct flush {
    size_t begun, done;
};

/* A snapshot that was made, or asked for. */
struct model_snapshot {
    char name[16];
    uint8_t *bytes; /* what the disk was */
    uint64_t size;
    size_t born, made;     /* when it was asked for, and when that returned; NEVER: it failed */
    size_t dying, removed; /* the same of its end; NEVER: it was not asked for */
};

#define MODEL_SNAPSHOTS 32

struct model {
    pthread_mutex_t mutex; /* guards all below */
    struct crash_log *log;
    uint64_t sectors; /* the most that the disk ever has */
    uint8_t *base;    /* what it showed first */
    size_t *newest;   /* of each sector: index + 1 of its version; 0: the base */
    struct version *versions;
    size_t version_count, version_capacity;
    struct size_version *sizes;
    size_t size_count, size_capacity;
    struct flush *flushes;
    size_t flush_count, flush_capacity;
    uint32_t generation;
    struct model_snapshot snapshots[MODEL_SNAPSHOTS];
    size_t snapshot_count;
    struct bitmap_states bitmaps;
};

#define NEVER SIZE_MAX

/* `base` holds `size` bytes; the disk will have at most `most`. */
void model_init(struct model *model, struct crash_log *log, const uint8_t *base, uint64_t size,
                uint64_t most);
void model_release(struct model *model);

/*
 * Before a request: the bytes [offset, offset + length) become `data`, which is
 * filled with stamps here; or zeros, where it is NULL. What to give to
 * model_done(), with the request's result.
 */
struct model_request {
    size_t first, count;  /* versions */
    size_t first_size;    /* index + 1 of the size; 0: none */
    bool flush, succeeds; /* it was a flush; it did not fail */
    size_t begun;
};

struct model_request model_write(struct model *model, uint64_t offset, uint64_t length,
                                 uint8_t *data);
/* `old`: the size that it has now. */
struct model_request model_resize(struct model *model, uint64_t old, uint64_t size);
/* The disk has this size, whatever became of what was asked before: so says a flush from here on.
 */
void model_keep_size(struct model *model, uint64_t size);
struct model_request model_flush(struct model *model);
/* The disk becomes `bytes`, as many as it has. */
struct model_request model_replace(struct model *model, const uint8_t *bytes, uint64_t size);

/* The least that a disk of `size` bytes ever had, in bytes. */
uint64_t model_least_size(const struct model *model, uint64_t size);

/* Before a snapshot is made of a disk that is `bytes`, the model's from here on; its index. */
size_t model_snapshot(struct model *model, uint8_t *bytes, uint64_t size);
/* After that; before and after it is removed. */
void model_snapshot_made(struct model *model, size_t index, int result);
void model_snapshot_dies(struct model *model, size_t index);
void model_snapshot_removed(struct model *model, size_t index, int result);

void model_done(struct model *model, const struct model_request *request, int result);

/* What was done since the last flush may be lost: the image could not be closed. */
void model_lose(struct model *model);

/* When a crash happened, and what must have survived it. */
struct moment {
    size_t crash, flushed;
};

/* The moment of a crash right before the entry `crash` of the log. */
struct moment model_moment(const struct model *model, size_t crash);

/* NULL when the disk may show this then; else what is wrong, in `text`. */
const char *model_check(const struct model *model, const struct moment *moment, const uint8_t *disk,
                        uint64_t size, char *text, size_t text_size);

/* Says what a sector bears. */
void describe_sector(const uint8_t *content, char *text, size_t size);

/* Whether it bears a stamp, complete or in part. */
bool is_stamped(const uint8_t *content, uint64_t length);

#endif
