/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "history.h"

#include "crash/tools.h"
#include "util/checked.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define WORDS      (GRAIN / sizeof(uint64_t))
#define GRAIN_BITS 24 /* of a value: which grain */
#define NEVER      UINT64_MAX

/* --- Recording -------------------------------------------------------------------------------- */

void history_init(struct history *history, uint64_t grains)
{
    memset(history, 0, sizeof(*history));
    history->grains = grains;
    history->initial = grab(grains * sizeof(*history->initial));
    atomic_init(&history->clock, 1);
    atomic_init(&history->numbers, 16); /* smaller ones are for what is there at first */
}

void history_release(struct history *history)
{
    for (size_t thread = 0; thread < HISTORY_THREADS; thread++) {
        struct events *events = &history->threads[thread];

        for (size_t i = 0; i < events->count; i++) {
            free(events->events[i].seen);
        }
        free(events->events);
    }
    free(history->initial);
}

struct event *history_begin(struct history *history, unsigned thread, enum event_kind kind,
                            const char *name, uint64_t from, uint64_t to)
{
    struct events *events = &history->threads[thread];
    struct event *event;

    events->events =
        room(events->events, events->count, &events->capacity, sizeof(*events->events));
    event = &events->events[events->count++];
    *event = (struct event){
        .kind = kind,
        .name = name,
        .thread = thread,
        .from = from,
        .to = to,
        .returned = NEVER,
    };
    event->began = atomic_fetch_add(&history->clock, 1);
    return event;
}

void history_end(struct history *history, struct event *event, int result)
{
    event->result = result;
    event->returned = atomic_fetch_add(&history->clock, 1);
}

uint64_t history_number(struct history *history)
{
    return atomic_fetch_add(&history->numbers, 1);
}

static uint64_t value_of(uint64_t number, uint64_t grain)
{
    return number == 0 ? 0 : number << GRAIN_BITS | grain;
}

uint64_t history_writer(uint64_t value)
{
    return value >> GRAIN_BITS;
}

void grains_fill(uint8_t *bytes, uint64_t from, uint64_t grains, uint64_t number)
{
    for (uint64_t grain = 0; grain < grains; grain++) {
        uint64_t value = value_of(number, from + grain);

        for (size_t i = 0; i < WORDS; i++) {
            memcpy(bytes + grain * GRAIN + i * sizeof(value), &value, sizeof(value));
        }
    }
}

bool grain_value(const uint8_t *bytes, uint64_t *value)
{
    memcpy(value, bytes, sizeof(*value));
    return memcmp(bytes, bytes + sizeof(*value), GRAIN - sizeof(*value)) == 0;
}

/* --- Judging -------------------------------------------------------------------------------- */

/* A write, as one grain knows it. */
struct change {
    const struct event *event; /* NULL: what was there at first */
    uint64_t value;
    uint64_t began, returned;
    uint64_t in_force; /* the moment from which on it is for certain; NEVER if it failed */
};

/* For each grain, its changes: those of grain g are at starts[g] to starts[g + 1]. */
struct checker {
    const struct history *history;
    struct event **order; /* all events, as they began */
    size_t count;
    size_t *starts;
    struct change *changes;
};

static int by_beginning(const void *a, const void *b)
{
    const struct event *const *first = a, *const *second = b;

    return (*first)->began < (*second)->began ? -1 : (*first)->began > (*second)->began;
}

static struct event **in_order(const struct history *history, size_t *count)
{
    struct event **order;
    size_t total = 0, at = 0, thread, i;

    for (thread = 0; thread < HISTORY_THREADS; thread++) {
        total += history->threads[thread].count;
    }
    order = grab(total * sizeof(struct event *));
    for (thread = 0; thread < HISTORY_THREADS; thread++) {
        for (i = 0; i < history->threads[thread].count; i++) {
            order[at++] = &history->threads[thread].events[i];
        }
    }
    qsort(order, total, sizeof(struct event *), by_beginning);
    *count = total;
    return order;
}

static bool changes_bytes(const struct event *event)
{
    return event->kind == EVENT_WRITE || event->kind == EVENT_ZERO;
}

static void count_changes(struct checker *checker)
{
    uint64_t grain;

    for (grain = 0; grain < checker->history->grains; grain++) {
        checker->starts[grain + 1] = 1;
    }
    for (size_t i = 0; i < checker->count; i++) {
        const struct event *event = checker->order[i];

        for (grain = event->from; changes_bytes(event) && grain < event->to; grain++) {
            checker->starts[grain + 1]++;
        }
    }
    for (grain = 0; grain < checker->history->grains; grain++) {
        checker->starts[grain + 1] += checker->starts[grain];
    }
}

static void add_changes(struct checker *checker)
{
    const struct history *history = checker->history;
    size_t *next = grab(history->grains * sizeof(*next));
    uint64_t grain;

    for (grain = 0; grain < history->grains; grain++) {
        next[grain] = checker->starts[grain];
        checker->changes[next[grain]++] = (struct change){.value = history->initial[grain]};
    }
    for (size_t i = 0; i < checker->count; i++) {
        const struct event *event = checker->order[i];

        for (grain = event->from; changes_bytes(event) && grain < event->to; grain++) {
            checker->changes[next[grain]++] = (struct change){
                .event = event,
                .value = event->kind == EVENT_WRITE ? value_of(event->value, grain) : 0,
                .began = event->began,
                .returned = event->returned,
                .in_force = event->result < 0 ? NEVER : event->returned,
            };
        }
    }
    free(next);
}

struct checker *checker_create(const struct history *history)
{
    struct checker *checker = grab(sizeof(*checker));

    checker->history = history;
    checker->order = in_order(history, &checker->count);
    checker->starts = grab((history->grains + 1) * sizeof(*checker->starts));
    count_changes(checker);
    checker->changes = grab(checker->starts[history->grains] * sizeof(*checker->changes));
    add_changes(checker);
    return checker;
}

void checker_destroy(struct checker *checker)
{
    free(checker->order);
    free(checker->starts);
    free(checker->changes);
    free(checker);
}

/* Whether another write lies wholly between `change` and `until`, and lasts. */
static bool is_over(const struct checker *checker, uint64_t grain, const struct change *change,
                    uint64_t until)
{
    for (size_t i = checker->starts[grain]; i < checker->starts[grain + 1]; i++) {
        const struct change *later = &checker->changes[i];

        if (later != change && later->began > change->returned && later->in_force < until) {
            return true;
        }
    }
    return false;
}

/* Whether `value` may be seen by who looks between `began` and `returned`. */
static bool can_be(const struct checker *checker, uint64_t grain, uint64_t value, uint64_t began,
                   uint64_t returned)
{
    for (size_t i = checker->starts[grain]; i < checker->starts[grain + 1]; i++) {
        const struct change *change = &checker->changes[i];

        if (change->value == value && change->began < returned &&
            !is_over(checker, grain, change, began)) {
            return true;
        }
    }
    return false;
}

/* --- Telling -------------------------------------------------------------------------------- */

static void tell_event(const struct event *event, FILE *out)
{
    fprintf(out, "  %6" PRIu64 " to %6" PRIu64 "  thread %u  %s", event->began, event->returned,
            event->thread, event->name);
    if (event->to > event->from) {
        fprintf(out, " of %" PRIu64 " bytes at %" PRIu64, (event->to - event->from) * GRAIN,
                event->from * GRAIN);
    }
    if (event->kind == EVENT_WRITE) {
        fprintf(out, ", number %" PRIu64, event->value);
    }
    if (event->result < 0) {
        fprintf(out, ": %s", strerror(-event->result));
    }
    fputc('\n', out);
}

static void tell_value(uint64_t value, uint64_t grain, FILE *out)
{
    if (value == 0) {
        fputs("zeros", out);
    } else if ((value & ((UINT64_C(1) << GRAIN_BITS) - 1)) == grain) {
        fprintf(out, "number %" PRIu64, value >> GRAIN_BITS);
    } else {
        fprintf(out, "number %" PRIu64 " of the bytes at %" PRIu64, value >> GRAIN_BITS,
                (value & ((UINT64_C(1) << GRAIN_BITS) - 1)) * GRAIN);
    }
}

/* All that concerns this grain. */
static void tell_grain(const struct checker *checker, uint64_t grain, FILE *out)
{
    fputs("  at first ", out);
    tell_value(checker->history->initial[grain], grain, out);
    fputc('\n', out);
    for (size_t i = 0; i < checker->count; i++) {
        const struct event *event = checker->order[i];
        bool here = event->from <= grain && grain < event->to;

        if (here || event->from == event->to) {
            tell_event(event, out);
        }
        if (here && event->seen != NULL) {
            fputs("                              saw ", out);
            tell_value(event->seen[grain - event->from], grain, out);
            fputc('\n', out);
        }
    }
}

void history_tell(const struct history *history, FILE *out)
{
    size_t count;
    struct event **order = in_order(history, &count);

    for (size_t i = 0; i < count; i++) {
        tell_event(order[i], out);
    }
    free(order);
}

static void tell_wrong(const struct checker *checker, uint64_t grain, uint64_t value,
                       const char *who, uint64_t from, FILE *out)
{
    fprintf(out, "WRONG: %s, at %" PRIu64 ", ", who, grain * GRAIN);
    tell_value(value, grain, out);
    fputs(", which cannot be", out);
    if (from != NEVER) {
        fprintf(out, " (moment %" PRIu64 ")", from);
    }
    fputs("; of these bytes:\n", out);
    tell_grain(checker, grain, out);
}

/* --- What was seen ---------------------------------------------------------------------------- */

bool history_check_reads(struct checker *checker, FILE *out)
{
    for (size_t i = 0; i < checker->count; i++) {
        const struct event *event = checker->order[i];
        uint64_t grain;

        for (grain = event->from; event->seen != NULL && grain < event->to; grain++) {
            uint64_t value = event->seen[grain - event->from];

            if (value != VALUE_TORN &&
                !can_be(checker, grain, value, event->began, event->returned)) {
                tell_wrong(checker, grain, value, "a read saw", event->began, out);
                return false;
            }
        }
    }
    return true;
}

bool history_check_end(struct checker *checker, const uint64_t *values, FILE *out)
{
    for (uint64_t grain = 0; grain < checker->history->grains; grain++) {
        if (!can_be(checker, grain, values[grain], NEVER - 1, NEVER)) {
            tell_wrong(checker, grain, values[grain], "the disk shows at the end", NEVER, out);
            return false;
        }
    }
    return true;
}

/* The moment before which all that returned is stable. */
static uint64_t stable_before(const struct checker *checker, uint64_t moment)
{
    uint64_t stable = 0;

    if (checker->history->every_return_is_stable) {
        return moment;
    }
    for (size_t i = 0; i < checker->count; i++) {
        const struct event *event = checker->order[i];

        bool flushes = event->kind == EVENT_FLUSH || event->kind == EVENT_SNAPSHOT;

        if (flushes && event->result == 0 && event->returned < moment) {
            stable = max_u64(stable, event->began);
        }
    }
    return stable;
}

/* As can_be(), but only what is stable hides what came before. */
static bool can_survive(const struct checker *checker, uint64_t grain, uint64_t value,
                        uint64_t stable, uint64_t moment)
{
    for (size_t i = checker->starts[grain]; i < checker->starts[grain + 1]; i++) {
        const struct change *change = &checker->changes[i];
        bool over = false;

        if (change->value != value || change->began > moment) {
            continue;
        }
        for (size_t j = checker->starts[grain]; j < checker->starts[grain + 1] && !over; j++) {
            const struct change *later = &checker->changes[j];

            over = later != change && later->in_force != NEVER && later->began > change->returned &&
                   later->returned < stable;
        }
        if (!over) {
            return true;
        }
    }
    return false;
}

bool history_check_crash(struct checker *checker, const uint64_t *values, uint64_t moment,
                         FILE *out)
{
    uint64_t stable = stable_before(checker, moment);

    for (uint64_t grain = 0; grain < checker->history->grains; grain++) {
        if (!can_survive(checker, grain, values[grain], stable, moment)) {
            tell_wrong(checker, grain, values[grain], "after a crash the disk shows", moment, out);
            return false;
        }
    }
    return true;
}

/* --- Snapshots -------------------------------------------------------------------------------- */

/* Where the writes that were under way stand, as the grains of a snapshot have it. */
struct sides {
    bool *before, *after;    /* of each event, as they began: it must be in the snapshot, or not */
    uint64_t latest_before;  /* moment at which the last of the former began */
    uint64_t earliest_after; /* moment at which the first of the latter returned */
};

static size_t index_of(const struct checker *checker, const struct event *event)
{
    size_t low = 0, high = checker->count;

    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;

        if (checker->order[middle]->began <= event->began) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}

/* What the value of one grain says of the writes. Zeros may come from several, and say less. */
static void take_sides(const struct checker *checker, uint64_t grain, uint64_t value,
                       uint64_t returned, struct sides *sides)
{
    const struct change *seen = NULL;
    uint64_t last = 0;
    size_t count = 0;

    for (size_t i = checker->starts[grain]; i < checker->starts[grain + 1]; i++) {
        const struct change *change = &checker->changes[i];

        if (change->value == value && change->began < returned) {
            seen = change;
            last = max_u64(last, change->returned);
            count++;
        }
    }
    if (count == 1 && seen->event != NULL && seen->event->kind == EVENT_WRITE) {
        sides->before[index_of(checker, seen->event)] = true;
        sides->latest_before = max_u64(sides->latest_before, seen->began);
    }
    for (size_t i = checker->starts[grain]; i < checker->starts[grain + 1]; i++) {
        const struct change *change = &checker->changes[i];

        if (change->event != NULL && change->event->kind == EVENT_WRITE &&
            change->in_force != NEVER && change->began > last) {
            sides->after[index_of(checker, change->event)] = true;
            sides->earliest_after = min_u64(sides->earliest_after, change->returned);
        }
    }
}

static bool sides_agree(const struct checker *checker, const struct sides *sides, const char *name,
                        FILE *out)
{
    for (size_t i = 0; i < checker->count; i++) {
        if (sides->before[i] && sides->after[i]) {
            fprintf(out, "WRONG: %s has a part of this write, and lacks another:\n", name);
            tell_event(checker->order[i], out);
            return false;
        }
    }
    if (sides->latest_before > sides->earliest_after) {
        fprintf(out,
                "WRONG: %s has a write that began at moment %" PRIu64
                ", and lacks one that had returned at %" PRIu64 "\n",
                name, sides->latest_before, sides->earliest_after);
        return false;
    }
    return true;
}

bool history_check_snapshot(struct checker *checker, const uint64_t *values, const char *name,
                            uint64_t began, uint64_t returned, FILE *out)
{
    struct sides sides = {
        .before = grab(checker->count * sizeof(bool)),
        .after = grab(checker->count * sizeof(bool)),
        .earliest_after = NEVER,
    };
    bool right = true;

    for (uint64_t grain = 0; grain < checker->history->grains && right; grain++) {
        right = can_be(checker, grain, values[grain], began, returned);
        if (!right) {
            tell_wrong(checker, grain, values[grain], name, began, out);
        } else {
            take_sides(checker, grain, values[grain], returned, &sides);
        }
    }
    right = right && sides_agree(checker, &sides, name, out);
    free(sides.before);
    free(sides.after);
    return right;
}
