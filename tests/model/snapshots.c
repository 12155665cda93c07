/* SPDX-License-Identifier: MIT */
/*
 * Snapshots that are made and removed while others change the disk. Who makes one knows what it
 * must show of the bytes that are his own, as he changes none of them meanwhile.
 */
#include "config.h"

#include "model.h"

#include "disk/snapshots.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct kept {
    char name[32];
    unsigned owner;
    uint64_t size; /* of the disk then */
    uint8_t *bytes;
};

struct kept_snapshots {
    pthread_mutex_t mutex; /* one change at a time, and no view of what is removed */
    uint64_t made;
    size_t count;
    struct kept list[MODEL_SNAPSHOTS_MAX];
};

static _Noreturn void fail(const struct model *model, const char *name, const char *why)
{
    fprintf(stderr, "seed %" PRIu64 ", snapshot %s: %s\n", model->options.seed.value, name, why);
    exit(1);
}

/* --- Whose bytes -------------------------------------------------------------------------------
 */

/* The next run of bytes at or behind *offset that are the owner's, of a disk of that size; 0: none.
 */
static uint64_t own_run(const struct model *model, unsigned owner, uint64_t size, uint64_t *offset)
{
    uint64_t threads = model->options.threads.value, piece;

    if (*offset >= size) {
        return 0;
    }
    if (threads == 1 || owner == MODEL_THREADS_MAX) {
        return size - *offset;
    }
    piece = *offset / MODEL_PIECE;
    if (piece % threads != owner) {
        piece += (owner + threads - piece % threads) % threads;
        *offset = piece * MODEL_PIECE;
    }
    return *offset >= size ? 0
           : (piece + 1) * MODEL_PIECE - *offset < size - *offset
               ? (piece + 1) * MODEL_PIECE - *offset
               : size - *offset;
}

/* --- One of them -------------------------------------------------------------------------------
 */

static size_t index_of(const struct model *model, const char *name)
{
    const struct snapshot_table *table = model->image->snapshots;

    for (size_t i = 0; table != NULL && i < table->count; i++) {
        if (strcmp(table->snapshots[i].name, name) == 0) {
            return i;
        }
    }
    fail(model, name, "is gone");
}

static void check(const struct model *model, const struct kept *kept)
{
    const struct snapshot *snapshot =
        &model->image->snapshots->snapshots[index_of(model, kept->name)];
    uint8_t *buffer = malloc(kept->size);
    struct error error = {0};
    struct view *view;
    uint64_t offset = 0, length;

    if (buffer == NULL || view_open_saved(model->image, snapshot, false, &view, &error) < 0) {
        fail(model, kept->name, error.text);
    }
    for (; (length = own_run(model, kept->owner, kept->size, &offset)) > 0; offset += length) {
        if (view_read(view, offset, buffer, length) < 0) {
            fail(model, kept->name, "cannot be read");
        }
        if (memcmp(buffer, kept->bytes + offset, length) != 0) {
            char why[64];

            snprintf(why, sizeof(why), "shows something else behind %" PRIu64, offset);
            fail(model, kept->name, why);
        }
    }
    view_close(view);
    free(buffer);
}

static void make(struct model *model, unsigned owner)
{
    struct kept_snapshots *all = model->snapshots;
    struct kept *kept = &all->list[all->count];
    struct error error = {0};
    uint64_t offset = 0, length;
    int r;

    snprintf(kept->name, sizeof(kept->name), "model-%" PRIu64, all->made++);
    r = writer_snapshot_make(model->writer, kept->name, &error);
    if (r == -EOVERFLOW) {
        return; /* its refcounts are narrow */
    }
    kept->owner = owner;
    kept->size = model->size;
    kept->bytes = malloc(model->size);
    if (r < 0 || kept->bytes == NULL) {
        fail(model, kept->name, error.text);
    }
    for (; (length = own_run(model, owner, kept->size, &offset)) > 0; offset += length) {
        memcpy(kept->bytes + offset, model->expected + offset, length);
    }
    all->count++;
}

static void drop(struct model *model, size_t number)
{
    struct kept_snapshots *all = model->snapshots;
    struct kept *kept = &all->list[number];
    struct error error = {0};

    check(model, kept);
    if (writer_snapshot_remove(model->writer, index_of(model, kept->name), &error) < 0) {
        fail(model, kept->name, error.text);
    }
    free(kept->bytes);
    *kept = all->list[--all->count];
}

/* --- All of them -------------------------------------------------------------------------------
 */

struct kept_snapshots *snapshots_create(void)
{
    struct kept_snapshots *all = calloc(1, sizeof(*all));

    if (all != NULL) {
        pthread_mutex_init(&all->mutex, NULL);
    }
    return all;
}

void snapshots_destroy(struct kept_snapshots *all)
{
    pthread_mutex_destroy(&all->mutex);
    free(all);
}

void snapshots_change(struct model *model, unsigned owner, uint64_t chance)
{
    struct kept_snapshots *all = model->snapshots;

    pthread_mutex_lock(&all->mutex);
    if (all->count == MODEL_SNAPSHOTS_MAX || (all->count > 0 && chance % 3 == 0)) {
        drop(model, chance / 3 % all->count);
    } else {
        make(model, owner);
    }
    pthread_mutex_unlock(&all->mutex);
}

void snapshots_check(const struct model *model)
{
    for (size_t i = 0; i < model->snapshots->count; i++) {
        check(model, &model->snapshots->list[i]);
    }
}

void snapshots_drop_all(struct model *model)
{
    while (model->snapshots->count > 0) {
        drop(model, 0);
    }
}
