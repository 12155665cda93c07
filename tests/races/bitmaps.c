/* SPDX-License-Identifier: MIT */
/* What threads do with the bitmaps: looks at them, and backup points. */
#include "config.h"

#include "bitmaps.h"

#include "disk/bitmaps.h"
#include "disk/changed.h"
#include "util/checked.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define MEMORY (UINT64_C(16) << 20)

/* --- What threads do ------------------------------------------------------------------------ */

int bitmaps_read(struct run *run, struct writer *writer, const char *name, struct look *look)
{
    uint64_t room = MEMORY, sectors = bitmaps_sectors(run), begin, end = 0;
    struct error error = {0};
    struct changed *changed;
    int result;

    *look = (struct look){
        .began = atomic_fetch_add(&run->history.clock, 1),
        .end = view_size(run->view) / GRAIN,
    };
    result = changed_copy(run->image, writer, name, &room, &changed, &error);
    look->end = min_u64(look->end, view_size(run->view) / GRAIN);
    look->returned = atomic_fetch_add(&run->history.clock, 1);
    if (result < 0) {
        snprintf(run->last_line, sizeof(run->last_line), "%.500s", error.text);
        return result;
    }
    look->bits = grab(sectors * sizeof(bool));
    while (changed_next(changed, end, sectors * SECTOR, &begin, &end)) {
        for (uint64_t at = begin / SECTOR; at < div_round_up(end, SECTOR); at++) {
            look->bits[at] = true;
        }
    }
    changed_free(changed, &room);
    return 0;
}

void bitmaps_look(struct worker *worker)
{
    struct run *run = worker->run;
    struct known_bitmaps *known = &run->bitmaps;
    size_t number = chance_below(&worker->chance, RACES_BITMAPS);
    struct look look;
    struct call call;
    int result;

    pthread_mutex_lock(&run->change_mutex);
    call = call_begin(worker, EVENT_OTHER, "look at a bitmap", 0, 0);
    result = bitmaps_read(run, run->writer, races_bitmaps[number].name, &look);
    call_end(worker, &call, result, false);
    if (result == 0) {
        known->looks =
            room(known->looks, known->look_count, &known->look_capacity, sizeof(*known->looks));
        look.bitmap = number;
        known->looks[known->look_count++] = look;
    }
    pthread_mutex_unlock(&run->change_mutex);
}

enum step {
    STEP_ADD,
    STEP_MERGE,
    STEP_CLEAR,
    STEP_DISABLE,
    STEP_MERGE_BACK,
    STEP_REMOVE,
};

static int change(struct run *run, enum step step, const char *name)
{
    struct writer *writer = run->writer;
    struct error error = {0};

    switch (step) {
    case STEP_ADD:
        return writer_bitmap_add(writer, name, SECTOR, &error);
    case STEP_MERGE:
        return writer_bitmap_merge(writer, name, run->image, POINTS_NAME, &error);
    case STEP_CLEAR:
        return writer_bitmap_clear(writer, POINTS_NAME, &error);
    case STEP_DISABLE:
        return writer_bitmap_enable(writer, name, false, &error);
    case STEP_MERGE_BACK:
        return writer_bitmap_merge(writer, POINTS_NAME, run->image, name, &error);
    default:
        return writer_bitmap_remove(writer, name, &error);
    }
}

/* One step of a backup point; when it was, in *began and *returned. With change_mutex held. */
static bool do_step(struct worker *worker, struct point *point, enum step step, uint64_t *began,
                    uint64_t *returned)
{
    static const char *const stories[] = {
        "backup point: bitmap added", "backup point: bits taken", "backup point: sector cleared",
        "backup point: disabled",     "backup point: bits back",  "backup point: bitmap removed",
    };
    struct run *run = worker->run;
    uint64_t failed_syncs = atomic_load(&run->trouble.failed_syncs);
    struct call call = call_begin(worker, EVENT_SNAPSHOT, stories[step], 0, 0);
    int result = change(run, step, point->name);

    change_end(worker, &call, result, false, failed_syncs);
    *began = call.event->began;
    *returned = call.event->returned;
    run->bitmaps.point_failed = run->bitmaps.point_failed || result < 0;
    return result == 0;
}

static void begin_point(struct worker *worker, struct point *point)
{
    struct run *run = worker->run;
    uint64_t began, returned;

    *point = (struct point){
        .clear_began = NEVER,
        .clear_returned = NEVER,
        .merge_began = NEVER,
        .merge_returned = NEVER,
        .complete = NEVER,
        .base = run->bitmaps.saved,
    };
    snprintf(point->name, sizeof(point->name), "point-%zu", run->bitmaps.point_count++);
    run->bitmaps.point_is_open = true;
    if (!do_step(worker, point, STEP_ADD, &began, &returned) ||
        !do_step(worker, point, STEP_MERGE, &began, &returned)) {
        return;
    }
    point->cleared =
        do_step(worker, point, STEP_CLEAR, &point->clear_began, &point->clear_returned);
    if (!point->cleared) {
        return;
    }
    point->snapshot = snapshots_make_held(worker);
    if (point->snapshot->failed) {
        run->bitmaps.point_failed = true;
        return;
    }
    point->values = snapshots_values(run, point->snapshot);
    if (do_step(worker, point, STEP_DISABLE, &began, &returned)) {
        point->complete = returned;
        (void)bitmaps_read(run, run->writer, point->name, &point->look);
    }
}

/* The backup was made, or failed. */
static void end_point(struct worker *worker, struct point *point)
{
    struct run *run = worker->run;
    bool failed = chance_below(&worker->chance, 3) == 0;
    uint64_t began, returned;

    if (failed) {
        point->merged =
            do_step(worker, point, STEP_MERGE_BACK, &point->merge_began, &point->merge_returned);
        if (!point->merged) {
            return;
        }
    }
    if (do_step(worker, point, STEP_REMOVE, &began, &returned)) {
        snapshots_remove_held(worker, point->snapshot);
        run->bitmaps.point_is_open = false;
        if (!failed) {
            run->bitmaps.saved = point->values;
        }
    }
}

void bitmaps_point(struct worker *worker)
{
    struct run *run = worker->run;
    struct known_bitmaps *known = &run->bitmaps;

    pthread_mutex_lock(&run->change_mutex);
    if (known->point_failed) {
        /* It stays as it is. */
    } else if (known->point_is_open) {
        end_point(worker, &known->points[known->point_count - 1]);
    } else if (known->point_count < POINTS_MAX && snapshots_have_room(run)) {
        begin_point(worker, &known->points[known->point_count]);
    }
    pthread_mutex_unlock(&run->change_mutex);
}

void bitmaps_release(struct run *run)
{
    struct known_bitmaps *known = &run->bitmaps;

    for (size_t i = 0; i < known->look_count; i++) {
        free(known->looks[i].bits);
    }
    for (size_t i = 0; i < known->point_count; i++) {
        free(known->points[i].look.bits);
    }
    free(known->looks);
}
