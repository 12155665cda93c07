/* SPDX-License-Identifier: MIT */
/* What one thread of a run does, and what it may be answered. */
#include "config.h"

#include "run.h"

#include "remote.h"
#include "schedule.h"

#include "cache/cache.h"
#include "util/checked.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct range {
    uint64_t from, to; /* grains */
};

static uint64_t below(struct worker *worker, uint64_t limit)
{
    return chance_below(&worker->chance, limit);
}

/* Around one of the places where all meet, or anywhere. Most are whole sectors. */
static struct range choose_range(struct worker *worker, uint64_t end)
{
    const struct plan *plan = &worker->run->plan;
    bool compresses = plan->template->kind->compresses;
    uint64_t length = 1 + below(worker, below(worker, 3) == 0 ? plan->longest_range : 8), from;
    struct range range;

    if (below(worker, 8) == 0) {
        from = below(worker, plan->grains);
    } else {
        uint64_t hot = plan->hot[below(worker, plan->hots)] + below(worker, plan->spread + 1);

        from = hot - min_u64(hot, below(worker, plan->spread + 1));
    }
    if (below(worker, 4) != 0) {
        from = round_down(from, 2);
        length = div_round_up(length, 2) * 2;
    }
    if (below(worker, compresses ? 2 : 6) == 0) { /* whole clusters */
        uint64_t cluster = (UINT64_C(1) << plan->template->cluster_bits) / GRAIN;

        from = round_down(from, cluster);
        length = div_round_up(length, cluster) * cluster;
        if (compresses && below(worker, 3) == 0) { /* requests that meet in the midst of one */
            from += cluster / 2;
        }
    }
    range.from = min_u64(from, end - 1);
    range.to = min_u64(range.from + length, end);
    return range;
}

/* Within the disk, as it is now; others may change that. */
static struct range choose_within(struct worker *worker)
{
    uint64_t end = view_size(worker->run->view) / GRAIN;

    return choose_range(worker, max_u64(1, min_u64(end, worker->run->plan.grains)));
}

/* --- What is answered ------------------------------------------------------------------------ */

struct call call_begin(struct worker *worker, enum event_kind kind, const char *name, uint64_t from,
                       uint64_t to)
{
    struct run *run = worker->run;

    return (struct call){
        .failed_before = atomic_load(&run->trouble.failed),
        .event = history_begin(&run->history, worker->number, kind, name, from, to),
    };
}

void call_end(struct worker *worker, struct call *call, int result, bool expected)
{
    struct run *run = worker->run;

    history_end(&run->history, call->event, result);
    atomic_fetch_add(&run->operations, 1);
    if (result == 0 || expected || (run->plan.trouble && (atomic_load(&run->trouble.failed) > 0))) {
        return;
    }
    run_wrong(run, "thread %u: %s of %llu bytes at %llu failed: %s; %s", worker->number,
              call->event->name,
              (unsigned long long)((call->event->to - call->event->from) * GRAIN),
              (unsigned long long)(call->event->from * GRAIN), strerror(-result), run->last_line);
}

static struct call begin(struct worker *worker, enum event_kind kind, const char *name,
                         struct range range)
{
    return call_begin(worker, kind, name, range.from, range.to);
}

/* An error may come from the size of the disk, where that may be. */
static void end(struct worker *worker, struct call *call, int result, bool may_be_outside)
{
    const struct plan *plan = &worker->run->plan;

    call_end(worker, call, result,
             may_be_outside && (plan->resizes || plan->growable) &&
                 (result == -ENOSPC || result == -EINVAL));
}

/* --- Operations ------------------------------------------------------------------------------ */

static void do_write(struct worker *worker)
{
    struct run *run = worker->run;
    struct range range =
        run->plan.growable ? choose_range(worker, run->plan.grains) : choose_within(worker);
    uint64_t length = (range.to - range.from) * GRAIN;
    struct call call = begin(worker, EVENT_WRITE, "write", range);
    uint8_t *bytes = grab(length);

    call.event->value = history_number(&run->history);
    grains_fill(bytes, range.from, range.to - range.from, call.event->value);
    end(worker, &call, writer_write(run->writer, range.from * GRAIN, bytes, length), true);
    free(bytes);
}

static void see(struct worker *worker, struct event *event, const uint8_t *bytes)
{
    uint64_t count = event->to - event->from;

    event->seen = grab(count * sizeof(*event->seen));
    for (uint64_t i = 0; i < count; i++) {
        if (!grain_value(bytes + i * GRAIN, &event->seen[i])) {
            run_wrong(worker->run, "thread %u read a torn sector at %llu, moments %llu to %llu",
                      worker->number, (unsigned long long)((event->from + i) * GRAIN),
                      (unsigned long long)event->began, (unsigned long long)event->returned);
        }
    }
}

static void do_read(struct worker *worker)
{
    struct run *run = worker->run;
    struct range range = choose_range(worker, run->plan.grains);
    struct call call;
    uint8_t *bytes;
    uint64_t length;
    int result;

    if (below(worker, 3) == 0) { /* in order, which is read ahead */
        range.from = worker->cursor < run->plan.grains ? worker->cursor : 0;
        range.to = min_u64(range.from + run->plan.longest_range, run->plan.grains);
        worker->cursor = range.to;
    }
    length = (range.to - range.from) * GRAIN;
    bytes = grab(length);
    call = begin(worker, EVENT_READ, "read", range);
    result = view_read(run->view, range.from * GRAIN, bytes, length);
    end(worker, &call, result, false);
    if (result == 0) {
        see(worker, call.event, bytes);
    }
    free(bytes);
}

static void do_zero(struct worker *worker, bool unmap)
{
    struct range range = choose_within(worker);
    struct call call = begin(worker, EVENT_ZERO, unmap ? "punch" : "zero", range);

    end(worker, &call,
        writer_zero(worker->run->writer, range.from * GRAIN, (range.to - range.from) * GRAIN, unmap,
                    NULL),
        true);
}

static void do_preallocate(struct worker *worker)
{
    struct range range = choose_within(worker);
    struct call call = begin(worker, EVENT_OTHER, "preallocate", range);
    uint64_t offset = range.from * GRAIN, length = (range.to - range.from) * GRAIN;

    end(worker, &call,
        range.to % 2 == 0 ? writer_preallocate(worker->run->writer, offset, length, NULL)
                          : writer_preallocate_sparse(worker->run->writer, offset, length, NULL),
        true);
}

/* Of what is there already: the host gives it space. */
static void do_reserve(struct worker *worker)
{
    struct range range = choose_within(worker);
    struct call call = begin(worker, EVENT_OTHER, "reserve", range);
    int result = writer_reserve(worker->run->writer, range.from * GRAIN,
                                (range.to - range.from) * GRAIN, false);

    /* A server is not asked for that. */
    end(worker, &call, worker->run->plan.remote && result == -EOPNOTSUPP ? 0 : result, true);
}

static void do_flush(struct worker *worker)
{
    struct run *run = worker->run;
    uint64_t failed_syncs = atomic_load(&run->trouble.failed_syncs);
    struct call call = begin(worker, EVENT_FLUSH, "flush", (struct range){0, 0});
    int result = writer_flush(run->writer);

    end(worker, &call, result, false);
    if (result == 0 && failed_syncs > 0) {
        run_wrong(run, "thread %u: a flush succeeded after a sync had failed (R7)", worker->number);
    }
}

/* What lies between where it asked and the data that it found are zeros, which somebody saw. */
static void do_seek(struct worker *worker)
{
    struct run *run = worker->run;
    struct range range = {.from = choose_within(worker).from};
    bool data = below(worker, 2) == 0;
    uint64_t found = 0;
    struct call call;
    int result;

    range.to = range.from;
    call = begin(worker, EVENT_READ, data ? "seek for data" : "seek for a hole", range);
    result = view_seek(run->view, range.from * GRAIN, data, NULL, &found);
    if (data && result == -ENXIO) {
        found = run->plan.grains * GRAIN;
    }
    end(worker, &call, result == -ENXIO ? 0 : result, false);
    if (data && (result == 0 || result == -ENXIO) && found / GRAIN > range.from) {
        call.event->to = min_u64(found / GRAIN, run->plan.grains);
        call.event->seen = grab((call.event->to - range.from) * sizeof(*call.event->seen));
    } else if (!data && result == 0 && found / GRAIN < run->plan.grains) {
        call.event->from = found / GRAIN;
        call.event->to = found / GRAIN + 1;
        call.event->seen = grab(sizeof(*call.event->seen));
    }
}

static void do_resize(struct worker *worker)
{
    struct run *run = worker->run;
    struct range range = choose_range(worker, run->plan.grains);
    struct call call;

    range.from = min_u64(range.from + 1, run->plan.grains);
    if (!run->plan.growable) { /* whole sectors */
        range.from = min_u64(div_round_up(range.from, 2) * 2, round_down(run->plan.grains, 2));
    }
    range.to = run->plan.grains;
    call = begin(worker, EVENT_ZERO, "resize (cuts off at most)", range);
    call.event->is_size = true;
    call.event->had_size = view_size(run->view) == range.from * GRAIN;
    end(worker, &call, writer_resize(run->writer, range.from * GRAIN, NULL), false);
}

/* A snapshot never changes. */
static void do_snapshot(struct worker *worker)
{
    struct run *run = worker->run;
    const struct template *template = run->plan.template;
    size_t number = below(worker, template->kind->snapshots);
    const struct file_bytes *is = &template->snapshots[number];
    struct range range = choose_range(worker, is->size / GRAIN);
    uint64_t length = (range.to - range.from) * GRAIN;
    struct call call = begin(worker, EVENT_OTHER, "read of a snapshot", range);
    uint8_t *bytes = grab(length);
    int result = view_read(run->snapshots[number], range.from * GRAIN, bytes, length);

    end(worker, &call, result, false);
    if (result == 0 && memcmp(bytes, is->bytes + range.from * GRAIN, length) != 0) {
        run_wrong(run, "thread %u: snapshot %zu has changed in the %llu bytes at %llu",
                  worker->number, number, (unsigned long long)length,
                  (unsigned long long)(range.from * GRAIN));
    }
    free(bytes);
}

/* The host becomes full, or fails here and there, or is in order again. */
static void do_trouble(struct worker *worker)
{
    struct run *run = worker->run;
    struct trouble *trouble = &run->trouble;
    uint64_t kind = below(worker, run->plan.syncs_fail ? 5 : 4);

    atomic_store(&trouble->full, kind == 0);
    atomic_store(&trouble->failing, kind == 1 ? 2 + (unsigned)below(worker, 20) : 0);
    if (kind == 4) {
        atomic_store(&trouble->syncs_fail, true);
    }
}

/* What is only there to be faster goes. */
static void do_clean(struct worker *worker)
{
    (void)cache_clean(worker->run->image->cache);
    if (worker->run->plan.remote && below(worker, 2) == 0) {
        remote_cut_off(worker->run, &worker->chance);
    }
}

static void do_crash(struct worker *worker)
{
    struct run *run = worker->run;
    struct crash *crash = &run->crashes[run->crash_count];

    hosts_crash(run->hosts, crash->hosts, run->hosts[1] != NULL ? 2 : 1, &worker->chance,
                &run->history.clock, &crash->moment);
    if (run->plan.remote) {
        remote_crash(run, run->crash_count);
    }
    run->crash_count++;
}

static void do_operation(struct worker *worker, enum operation operation)
{
    switch (operation) {
    case OPERATION_WRITE:
        return do_write(worker);
    case OPERATION_READ:
        return do_read(worker);
    case OPERATION_ZERO:
        return do_zero(worker, false);
    case OPERATION_PUNCH:
        return do_zero(worker, true);
    case OPERATION_PREALLOCATE:
        return do_preallocate(worker);
    case OPERATION_RESERVE:
        return do_reserve(worker);
    case OPERATION_FLUSH:
        return do_flush(worker);
    case OPERATION_SEEK:
        return do_seek(worker);
    case OPERATION_RESIZE:
        return do_resize(worker);
    case OPERATION_CLEAN:
        return do_clean(worker);
    case OPERATION_SNAPSHOT:
        return do_snapshot(worker);
    case OPERATION_MAKE:
        return snapshots_make_one(worker);
    case OPERATION_REMOVE:
        return snapshots_remove_one(worker);
    case OPERATION_READ_MADE:
        return snapshots_read_one(worker);
    case OPERATION_LOOK:
        return bitmaps_look(worker);
    case OPERATION_POINT:
        return bitmaps_point(worker);
    default:
        return do_trouble(worker);
    }
}

void *worker_run(void *context)
{
    struct worker *worker = context;
    const struct plan *plan = &worker->run->plan;

    for (unsigned i = 0; i < plan->operations; i++) {
        uint64_t chosen = below(worker, plan->total);
        unsigned operation = 0;

        while (chosen >= plan->weights[operation]) {
            chosen -= plan->weights[operation++];
        }
        do_operation(worker, (enum operation)operation);
        /* The first thread sees to the crashes, of which nobody else learns. */
        if (worker->number == 1 && worker->run->crash_count < plan->crashes &&
            below(worker, plan->operations / plan->crashes + 1) == 0) {
            do_crash(worker);
        }
        schedule_point();
    }
    return NULL;
}
