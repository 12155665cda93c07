/* SPDX-License-Identifier: MIT */
/* Snapshots that the threads of a run make, read and remove, beside all else that they do. */
#include "config.h"

#include "run.h"

#include "disk/snapshots.h"
#include "meta/snapshot.h"
#include "util/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define AT_ONCE 3

/* The snapshot's number in image->snapshots; -1 where there is none of that name. */
static int find(const struct run *run, const char *name)
{
    const struct snapshot_table *table = run->image->snapshots;

    for (size_t i = 0; i < table->count; i++) {
        if (strcmp(table->snapshots[i].name, name) == 0) {
            return (int)i;
        }
    }
    return -1;
}

/* All that it shows, a value for each grain. A negative errno of reading. */
static int read_values(struct run *run, struct view *view, const char *name, uint64_t **values)
{
    uint64_t grains = run->history.grains;
    uint8_t *bytes = grab(grains * GRAIN);
    int result = view_read(view, 0, bytes, grains * GRAIN);

    *values = NULL;
    if (result == 0) {
        *values = grab(grains * sizeof(**values));
    }
    for (uint64_t grain = 0; grain < grains && result == 0; grain++) {
        if (!grain_value(bytes + grain * GRAIN, &(*values)[grain])) {
            run_wrong(run, "%s shows a torn sector at %" PRIu64, name, grain * GRAIN);
        }
    }
    free(bytes);
    return result;
}

/* What it shows is what it has shown before; takes `values`. With made_mutex held, or alone. */
static void take_values(struct run *run, struct made *made, uint64_t *values, const char *when)
{
    uint64_t grain = 0;

    if (made->values == NULL) {
        made->values = values;
        return;
    }
    while (grain < run->history.grains && made->values[grain] == values[grain]) {
        grain++;
    }
    if (grain < run->history.grains) {
        run_wrong(run, "%s%s is not what it was, in the bytes at %" PRIu64, when, made->name,
                  grain * GRAIN);
    }
    free(values);
}

/* --- What threads do ------------------------------------------------------------------------ */

void change_end(struct worker *worker, struct call *call, int result, bool expected,
                uint64_t failed_syncs)
{
    struct run *run = worker->run;

    /* Half of it may be done by then, and a host in trouble keeps that from being taken back. */
    if (result < 0 && (!expected || atomic_load(&run->trouble.failed) > call->failed_before)) {
        atomic_store(&run->change_failed, true);
    }
    call_end(worker, call, result, expected);
    if (result == 0 && failed_syncs > 0) {
        run_wrong(run, "thread %u: %s succeeded after a sync had failed (R7)", worker->number,
                  call->event->name);
    }
}

static size_t count_there(const struct run *run)
{
    size_t count = 0;

    for (size_t i = 0; i < run->made_count; i++) {
        count += !run->made[i].failed && run->made[i].removing == NEVER;
    }
    return count;
}

/* With change_mutex held. */
static void make(struct worker *worker, struct made *made)
{
    struct run *run = worker->run;
    uint64_t failed_syncs = atomic_load(&run->trouble.failed_syncs);
    bool narrow = strstr(run->plan.template->kind->options, "refcount_bits=") != NULL;
    struct error error = {0};
    struct call call = call_begin(worker, EVENT_SNAPSHOT, "making of a snapshot", 0, 0);
    int result;

    snprintf(made->name, sizeof(made->name), "made-%zu", run->made_count);
    result = writer_snapshot_make(run->writer, made->name, &error);
    change_end(worker, &call, result, narrow && result == -EOVERFLOW, failed_syncs);
    made->began = call.event->began;
    made->returned = call.event->returned;
    made->removing = made->removed = NEVER;
    made->failed = result < 0;
    if (result == 0) {
        int number = find(run, made->name);

        if (number < 0) {
            return run_wrong(run, "thread %u: the snapshot that it made is not there",
                             worker->number);
        }
        if (view_open_snapshot(run->image, (size_t)number, &made->view, &error) < 0) {
            made->view = NULL; /* the host fails; it is read after all is over */
        }
    }
}

bool snapshots_have_room(const struct run *run)
{
    return run->made_count < MADE_MAX && count_there(run) < AT_ONCE;
}

static struct made *make_held(struct worker *worker, bool of_point)
{
    struct run *run = worker->run;
    struct made *made = &run->made[run->made_count];

    made->of_point = of_point;
    make(worker, made);
    pthread_mutex_lock(&run->made_mutex);
    run->made_count++;
    pthread_mutex_unlock(&run->made_mutex);
    return made;
}

struct made *snapshots_make_held(struct worker *worker)
{
    return make_held(worker, true);
}

void snapshots_make_one(struct worker *worker)
{
    struct run *run = worker->run;

    pthread_mutex_lock(&run->change_mutex);
    if (snapshots_have_room(run)) {
        (void)make_held(worker, false);
    }
    pthread_mutex_unlock(&run->change_mutex);
}

/* One that nobody reads, nor will; NULL where there is none. Its view is *view. */
static struct made *take_one_away(struct worker *worker, struct view **view)
{
    struct run *run = worker->run;
    struct made *taken = NULL;

    pthread_mutex_lock(&run->made_mutex);
    if (run->made_count > 0) {
        struct made *made = &run->made[chance_below(&worker->chance, run->made_count)];

        if (!made->failed && !made->going && !made->of_point && made->users == 0) {
            made->going = true;
            *view = made->view;
            made->view = NULL;
            taken = made;
        }
    }
    pthread_mutex_unlock(&run->made_mutex);
    return taken;
}

/* With change_mutex held. */
static void remove_made(struct worker *worker, struct made *made)
{
    struct run *run = worker->run;
    uint64_t failed_syncs = atomic_load(&run->trouble.failed_syncs);
    struct error error = {0};
    struct call call;
    int number = find(run, made->name), result;

    if (number < 0) {
        return run_wrong(run, "thread %u: %s is not there any more", worker->number, made->name);
    }
    call = call_begin(worker, EVENT_SNAPSHOT, "removal of a snapshot", 0, 0);
    made->removing = call.event->began;
    result = writer_snapshot_remove(run->writer, (size_t)number, &error);
    change_end(worker, &call, result, false, failed_syncs);
    if (result == 0) {
        made->removed = call.event->returned;
    }
}

void snapshots_remove_one(struct worker *worker)
{
    struct run *run = worker->run;
    struct view *view = NULL;
    struct made *made;

    pthread_mutex_lock(&run->change_mutex);
    made = take_one_away(worker, &view);
    if (made != NULL) {
        view_close(view);
        remove_made(worker, made);
    }
    pthread_mutex_unlock(&run->change_mutex);
}

void snapshots_remove_held(struct worker *worker, struct made *made)
{
    struct view *view;

    pthread_mutex_lock(&worker->run->made_mutex);
    view = made->view;
    made->view = NULL;
    pthread_mutex_unlock(&worker->run->made_mutex);
    view_close(view);
    remove_made(worker, made);
}

const uint64_t *snapshots_values(struct run *run, struct made *made)
{
    uint64_t *values = NULL;

    if (made->view != NULL && read_values(run, made->view, made->name, &values) == 0) {
        pthread_mutex_lock(&run->made_mutex);
        take_values(run, made, values, "");
        pthread_mutex_unlock(&run->made_mutex);
    }
    return made->values;
}

static struct made *begin_to_read(struct worker *worker)
{
    struct run *run = worker->run;
    struct made *chosen = NULL;

    pthread_mutex_lock(&run->made_mutex);
    if (run->made_count > 0) {
        struct made *made = &run->made[chance_below(&worker->chance, run->made_count)];

        if (made->view != NULL && !made->of_point) {
            made->users++;
            chosen = made;
        }
    }
    pthread_mutex_unlock(&run->made_mutex);
    return chosen;
}

void snapshots_read_one(struct worker *worker)
{
    struct run *run = worker->run;
    struct made *made = begin_to_read(worker);
    struct call call;
    uint64_t *values;
    int result;

    if (made == NULL) {
        return;
    }
    call = call_begin(worker, EVENT_OTHER, "read of a snapshot that was made", 0, 0);
    result = read_values(run, made->view, made->name, &values);
    call_end(worker, &call, result, false);
    pthread_mutex_lock(&run->made_mutex);
    made->users--;
    if (result == 0) {
        take_values(run, made, values, "");
    }
    pthread_mutex_unlock(&run->made_mutex);
}

void snapshots_close(struct run *run)
{
    for (size_t i = 0; i < run->made_count; i++) {
        view_close(run->made[i].view);
        run->made[i].view = NULL;
    }
}

void snapshots_release(struct run *run)
{
    for (size_t i = 0; i < run->made_count; i++) {
        free(run->made[i].values);
    }
}

/* --- What must be true ------------------------------------------------------------------------ */

void snapshots_check_reads(struct run *run, struct checker *checker)
{
    for (size_t i = 0; i < run->made_count && !atomic_load(&run->wrong); i++) {
        const struct made *made = &run->made[i];

        if (made->values != NULL &&
            !history_check_snapshot(checker, made->values, made->name, made->began, made->returned,
                                    run->out)) {
            atomic_store(&run->wrong, true);
        }
    }
}

static void check_one(struct run *run, struct checker *checker, struct made *made, int number,
                      const char *when)
{
    bool known = made->values != NULL;
    struct error error = {0};
    struct view *view;
    uint64_t *values;
    int result;

    if (view_open_snapshot(run->image, (size_t)number, &view, &error) < 0) {
        return run_wrong(run, "%s %s cannot be opened: %s", when, made->name, error.text);
    }
    result = read_values(run, view, made->name, &values);
    view_close(view);
    if (result < 0) {
        return run_wrong(run, "%s %s cannot be read: %s; %s", when, made->name, strerror(-result),
                         run->last_line);
    }
    take_values(run, made, values, when);
    if (!known && !history_check_snapshot(checker, made->values, made->name, made->began,
                                          made->returned, run->out)) {
        atomic_store(&run->wrong, true);
    }
}

void snapshots_check(struct run *run, struct checker *checker, uint64_t moment, const char *when)
{
    for (size_t i = 0; i < run->made_count && !atomic_load(&run->wrong); i++) {
        struct made *made = &run->made[i];
        bool must = !made->failed && made->returned < moment && made->removing >= moment;
        bool must_not = made->began > moment || made->removed < moment;
        int number = find(run, made->name);

        if (number < 0 && must) {
            run_wrong(run,
                      "%s %s is not there, which was made between moments %" PRIu64 " and %" PRIu64,
                      when, made->name, made->began, made->returned);
        } else if (number >= 0 && must_not) {
            run_wrong(run,
                      "%s %s is there, which was made from moment %" PRIu64
                      " on, and removed until %" PRIu64,
                      when, made->name, made->began, made->removed);
        } else if (number >= 0) {
            check_one(run, checker, made, number, when);
        }
    }
}
