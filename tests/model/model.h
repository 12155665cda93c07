/* SPDX-License-Identifier: MIT */
/*
 * What the files of the model test share. The model is a plain buffer that holds
 * what the disk must show; every operation is made on both.
 *
 * Each thread has a share of the disk of its own, interleaved with those of the
 * others in pieces that are no multiple of any cluster: threads meet in
 * clusters, but never in bytes. So no lock protects the buffer.
 *
 *     pieces   | 0 | 1 | 2 | 0 | 1 | 2 | ...     three threads
 *     clusters |     |     |     |     | ...
 */
#ifndef MODEL_MODEL_H
#define MODEL_MODEL_H

#include "disk/view.h"
#include "disk/writer.h"
#include "util/options.h"

#include <pthread.h>
#include <stdint.h>

#define SECTOR UINT64_C(512)

#define MODEL_PIECE         (UINT64_C(37) * 1024 + 512) /* bytes; an expression, hence the parentheses */
#define MODEL_THREADS_MAX   64
#define MODEL_SNAPSHOTS_MAX 3 /* of ours at the same time */
#define MODEL_BITMAPS_MAX   8
#define MODEL_CHANGES_MAX   12

struct model_options {
    struct option_number seed;
    struct option_number operations; /* of each thread in each round */
    struct option_number threads;
    struct option_number rounds; /* the image is opened anew for each */
    struct option_number l2_cache_size, l2_cache_entry_size, refcount_cache_size;
    struct option_bool lazy_refcounts; /* as those of struct writer_options */
    struct option_bool discard;
    struct option_bool compress;
    struct option_bool resize; /* between the rounds */
    char *key_files;           /* of an encrypted image, for keys_open() */
    char *read_cache;          /* a file that is kept, for an image of an NBD server, or NULL */
    struct option_number read_cache_size;
    struct option_bool snapshots; /* are made and removed, too */
    struct option_bool bitmaps;   /* which the image has, all empty, are followed, and changed */
};

struct model {
    const char *path;
    struct model_options options;
    struct log log;
    struct image *image;
    struct view *view;
    struct writer *writer;
    uint8_t *expected; /* of `capacity` bytes, zeros from `size` on */
    uint64_t size;     /* of the disk, now */
    uint64_t capacity; /* the most that it grows to */
    struct kept_snapshots *snapshots;
    struct kept_bitmaps *bitmaps; /* NULL: none is looked at */
    char *other;                  /* path of the image from which bitmaps are copied */
};

/* Bytes [from, to) of a disk. */
struct model_range {
    uint64_t from, to;
};

struct model_changes {
    struct model_range list[MODEL_CHANGES_MAX];
    size_t count;
};

struct worker {
    struct model *model;
    unsigned number;
    uint64_t random; /* state of its random numbers */
    pthread_t thread;
};

struct kept_snapshots *snapshots_create(void);
void snapshots_destroy(struct kept_snapshots *all);

/* Makes one, or removes one that was made before, as a random number says. By any worker. */
void snapshots_change(struct model *model, unsigned owner, uint64_t chance);

/* With nobody else at work: each shows what it must; and is removed. */
void snapshots_check(const struct model *model);
void snapshots_drop_all(struct model *model);

/* Which bitmaps the image has, when it is open for the first time. */
void bitmaps_find(struct model *model);
void bitmaps_destroy(struct kept_bitmaps *all); /* may be NULL */

/* The bytes [from, to) of the disk have changed; by any worker. */
void bitmaps_mark(struct model *model, uint64_t from, uint64_t to);

/*
 * With nobody else at work: the disk, of model->size bytes yet, gets `size`; one is cleared,
 * switched, merged, copied or removed as a random number says; each says what it must; what they
 * must say goes to a file, a line for each: its name, whether it is enabled, and where its ranges
 * begin and how long they are.
 */
void bitmaps_resize(struct model *model, uint64_t size);
void bitmaps_change(struct model *model, uint64_t chance);
void bitmaps_check(const struct model *model);
void bitmaps_write(const struct model *model, const char *path);

/*
 * The other image, to be read, with a disk as large as that of model->image and a new bitmap, in
 * which are the changes that it tells of. Closing it removes the bitmap.
 */
struct image *other_open(const struct model *model, const char *name, uint64_t granularity,
                         bool enabled, uint64_t chance, struct model_changes *changes);
void other_close(const struct model *model, struct image *image, const char *name);

struct worker worker_create(struct model *model, unsigned number, uint64_t round);

/* The operations of one round. */
void worker_run(struct worker *worker);

/* Makes the disk larger or smaller, in one of several ways; with nobody else at work. */
void worker_resize(struct worker *worker);

/* Changes some of the bitmaps; with nobody else at work. */
void worker_change_bitmaps(struct worker *worker);

/* Compares all of the disk. */
void worker_check_all(struct worker *worker);

#endif
