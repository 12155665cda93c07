/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "bitmaps.h"

#include "meta/bitmap.h"
#include "meta/format.h"
#include "util/checked.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* --- What they must be -------------------------------------------------------------------- */

/* What is asked of a bitmap, of what it said between two moments. */
struct question {
    const char *name, *when;
    uint64_t granularity; /* bytes */
    uint64_t began, returned;
    uint64_t read; /* when it had been read: the disk may have got another size till then */
    size_t points; /* of these the clearing counts */
    uint64_t end;  /* of the disk, in grains */
    const bool *bits;
};

static bool changes_bytes(const struct event *event)
{
    return event->kind == EVENT_WRITE || event->kind == EVENT_ZERO;
}

typedef bool event_fn(struct run *run, const struct question *question, const struct event *event);

/* Asks for each event that changes bytes, until one answers false. */
static void for_each(struct run *run, const struct question *question, event_fn *function)
{
    for (size_t thread = 0; thread < HISTORY_THREADS; thread++) {
        const struct events *events = &run->history.threads[thread];

        for (size_t i = 0; i < events->count; i++) {
            if (changes_bytes(&events->events[i]) && !function(run, question, &events->events[i])) {
                return;
            }
        }
    }
}

/* Whether the bits were cleared after the event, for all that is known. */
static bool may_be_cleared(const struct run *run, const struct question *question,
                           const struct event *event)
{
    for (size_t i = 0; i < question->points; i++) {
        const struct point *point = &run->bitmaps.points[i];
        bool is_back = point->merged && point->merge_returned < question->began;

        if (point->clear_began < question->returned && !is_back &&
            event->began < point->clear_returned) {
            return true;
        }
    }
    return false;
}

/* Whether they were for certain. */
static bool is_cleared(const struct run *run, const struct question *question,
                       const struct event *event)
{
    for (size_t i = 0; i < question->points; i++) {
        const struct point *point = &run->bitmaps.points[i];

        if (point->cleared && point->clear_returned < question->began &&
            point->merge_began > question->returned && event->returned < point->clear_began) {
            return true;
        }
    }
    return false;
}

/* Each change has its bits. */
static bool has_bits(struct run *run, const struct question *question, const struct event *event)
{
    uint64_t end = min_u64(event->to, question->end);

    if (event->result < 0 || event->had_size || event->returned >= question->began ||
        may_be_cleared(run, question, event)) {
        return true;
    }
    for (uint64_t grain = event->from; grain < end; grain++) {
        if (!question->bits[grain / SECTOR_GRAINS]) {
            run_wrong(run,
                      "%s bitmap %s has no bit at %" PRIu64 " for the %s that thread %u did from "
                      "moment %" PRIu64 " to %" PRIu64,
                      question->when, question->name, grain * GRAIN, event->name, event->thread,
                      event->began, event->returned);
            return false;
        }
    }
    return true;
}

/* The least that the disk has had before that moment, in grains. */
static uint64_t smallest(const struct run *run, uint64_t moment)
{
    uint64_t least = run->plan.template->disk_size / GRAIN;

    for (size_t thread = 0; thread < HISTORY_THREADS; thread++) {
        const struct events *events = &run->history.threads[thread];

        for (size_t i = 0; i < events->count; i++) {
            const struct event *event = &events->events[i];

            if (event->is_size && event->began < moment) {
                least = min_u64(least, event->from);
            }
        }
    }
    return least;
}

/* Marks in `explained` (of each sector) what the event explains. */
static void explain(const struct question *question, const struct event *event, bool *explained,
                    uint64_t sectors)
{
    uint64_t piece = min_u64(question->granularity / SECTOR, sectors);
    uint64_t from = event->from / SECTOR_GRAINS / piece * piece;
    uint64_t to = div_round_up(div_round_up(event->to, SECTOR_GRAINS), piece) * piece;

    for (uint64_t at = from; at < min_u64(to, sectors); at++) {
        explained[at] = true;
    }
}

/* No bit is set but for a change, or for what the disk has gained. */
static void check_explained(struct run *run, const struct question *question, bool disabled)
{
    uint64_t sectors = bitmaps_sectors(run);
    struct event gained = {.from = smallest(run, question->read), .to = run->history.grains};
    bool *explained = grab(sectors * sizeof(bool));

    explain(question, &gained, explained, sectors);
    for (size_t thread = 0; thread < HISTORY_THREADS; thread++) {
        const struct events *events = &run->history.threads[thread];

        for (size_t i = 0; i < events->count && !disabled; i++) {
            const struct event *event = &events->events[i];

            if (changes_bytes(event) && event->began < question->returned &&
                !is_cleared(run, question, event)) {
                explain(question, event, explained, sectors);
            }
        }
    }
    for (uint64_t at = 0; at < sectors; at++) {
        if (question->bits[at] && !explained[at]) {
            run_wrong(run, "%s bitmap %s has a bit at %" PRIu64 " that nothing explains",
                      question->when, question->name, at * SECTOR);
            break;
        }
    }
    free(explained);
}

static void check_bits(struct run *run, const struct question *question, bool disabled)
{
    if (!disabled) {
        for_each(run, question, has_bits);
    }
    check_explained(run, question, disabled);
}

/* Points count for the bitmap that they are made with. */
static struct question ask_of(const struct run *run, size_t bitmap, const bool *bits,
                              const char *when)
{
    const struct races_bitmap *kind = &races_bitmaps[bitmap];

    return (struct question){
        .name = kind->name,
        .when = when,
        .granularity = strtoull(kind->granularity, NULL, 10),
        .began = NEVER - 1,
        .returned = NEVER - 1,
        .read = NEVER - 1,
        .points = strcmp(kind->name, POINTS_NAME) == 0 ? run->bitmaps.point_count : 0,
        .end = run->history.grains,
        .bits = bits,
    };
}

/* Whatever differs between two states of the disk has its bit. */
static void check_difference(struct run *run, const char *name, const char *when, const bool *bits,
                             const uint64_t *before, const uint64_t *after, uint64_t end)
{
    for (uint64_t grain = 0; grain < end; grain++) {
        if (before[grain] != after[grain] && !bits[grain / SECTOR_GRAINS]) {
            return run_wrong(run,
                             "%s bitmap %s has no bit at %" PRIu64
                             ", where the disk is not as in the backup before",
                             when, name, grain * GRAIN);
        }
    }
}

/* Where the disk ended for certain, in grains. */
static uint64_t end_of(const struct run *run, const struct look *look)
{
    uint64_t end = look->end;

    for (size_t thread = 0; thread < HISTORY_THREADS; thread++) {
        const struct events *events = &run->history.threads[thread];

        for (size_t i = 0; i < events->count; i++) {
            const struct event *event = &events->events[i];

            if (event->is_size && event->began < look->returned && event->returned > look->began) {
                end = min_u64(end, event->from);
            }
        }
    }
    return end;
}

static void check_point(struct run *run, size_t number)
{
    const struct point *point = &run->bitmaps.points[number];
    struct question question = {
        .name = point->name,
        .when = "when it was made,",
        .granularity = SECTOR,
        .began = point->clear_began,
        .returned = point->complete,
        .read = point->look.returned,
        .points = number,
        .end = end_of(run, &point->look),
        .bits = point->look.bits,
    };

    if (question.bits == NULL) {
        return;
    }
    for_each(run, &question, has_bits);
    check_explained(run, &question, false);
    if (point->base != NULL && point->values != NULL) {
        check_difference(run, point->name, question.when, question.bits, point->base, point->values,
                         question.end);
    }
}

void bitmaps_check_looks(struct run *run)
{
    const struct known_bitmaps *known = &run->bitmaps;

    for (size_t i = 0; i < known->look_count && !atomic_load(&run->wrong); i++) {
        const struct look *look = &known->looks[i];
        struct question question = ask_of(run, look->bitmap, look->bits, "while it ran,");

        question.began = look->began;
        question.returned = look->returned;
        question.read = look->returned;
        question.end = end_of(run, look);
        check_bits(run, &question, races_bitmaps[look->bitmap].disabled);
    }
    for (size_t i = 0; i < known->point_count && !atomic_load(&run->wrong); i++) {
        check_point(run, i);
    }
}

/* --- After all -------------------------------------------------------------------------------- */

static bool is_true(const struct bitmap *bitmap)
{
    return bitmap != NULL && (bitmap->flags & BITMAP_FLAG_IN_USE) == 0;
}

static struct bitmap_directory *read_directory(struct run *run, const char *when)
{
    struct bitmap_directory *directory;
    struct error error = {0};

    if (bitmap_directory_read(run->image->file, run->image->header, "image", &directory, &error) <
        0) {
        run_wrong(run, "%s its bitmaps cannot be read: %s", when, error.text);
        return NULL;
    }
    return directory;
}

static bool *bits_of(struct run *run, const char *name, const char *when)
{
    struct look look;

    if (bitmaps_read(run, NULL, name, &look) < 0) {
        run_wrong(run, "%s bitmap %s cannot be read: %s", when, name, run->last_line);
    }
    return look.bits;
}

/* What a disabled one must have: what the disk gained, after it was at its smallest. */
static void check_still(struct run *run, const struct question *question)
{
    uint64_t from = div_round_up(smallest(run, NEVER), SECTOR_GRAINS);

    for (uint64_t at = from; at < question->end / SECTOR_GRAINS; at++) {
        if (!question->bits[at]) {
            return run_wrong(run, "%s bitmap %s has no bit at %" PRIu64 ", which the disk gained",
                             question->when, question->name, at * SECTOR);
        }
    }
}

/* The state of the disk that "sector" counts from; NULL: unknown. */
static const uint64_t *saved_state(const struct run *run)
{
    const struct known_bitmaps *known = &run->bitmaps;
    const struct point *last = &known->points[known->point_count - 1];

    if (known->point_failed) {
        return NULL;
    }
    return known->point_is_open ? last->values : known->saved;
}

static void check_end(struct run *run, size_t number, const uint64_t *values, const char *when)
{
    bool *bits = bits_of(run, races_bitmaps[number].name, when);
    struct question question = ask_of(run, number, bits, when);

    question.end = view_size(run->view) / GRAIN;
    if (bits != NULL) {
        check_bits(run, &question, races_bitmaps[number].disabled);
    }
    if (bits != NULL && races_bitmaps[number].disabled && !run->plan.trouble) {
        check_still(run, &question);
    }
    if (bits != NULL && question.points > 0 && saved_state(run) != NULL) {
        check_difference(run, question.name, when, bits, saved_state(run), values, question.end);
    }
    free(bits);
}

void bitmaps_check_end(struct run *run, const uint64_t *values, const char *when)
{
    bool may_be_lost = atomic_load(&run->trouble.failed) > 0;
    struct bitmap_directory *directory;

    if (!run->plan.template->kind->bitmaps || atomic_load(&run->wrong)) {
        return;
    }
    directory = read_directory(run, when);
    for (size_t i = 0; directory != NULL && i < RACES_BITMAPS; i++) {
        const struct bitmap *bitmap = bitmap_find(directory, races_bitmaps[i].name);

        if (is_true(bitmap)) {
            check_end(run, i, values, when);
        } else if (!may_be_lost) {
            run_wrong(run, "%s bitmap %s is %s", when, races_bitmaps[i].name,
                      bitmap == NULL ? "gone" : "in use");
        }
    }
    bitmap_directory_free(directory);
}

/* --- After a crash ---------------------------------------------------------------------------- */

/* Who wrote that value; NULL: it was there before, or it is zeros, which say nothing. */
static const struct event *writer_of(const struct run *run, uint64_t value)
{
    for (size_t thread = 0; thread < HISTORY_THREADS; thread++) {
        const struct events *events = &run->history.threads[thread];

        for (size_t i = 0; i < events->count; i++) {
            if (events->events[i].kind == EVENT_WRITE &&
                events->events[i].value == history_writer(value)) {
                return &events->events[i];
            }
        }
    }
    return NULL;
}

/* What is shown was written by somebody: there is a bit for it, unless it was cleared since. */
static void check_shown(struct run *run, const struct question *question, const uint64_t *values)
{
    const struct event *event = NULL;

    for (uint64_t grain = 0; grain < question->end; grain++) {
        if (question->bits[grain / SECTOR_GRAINS] || values[grain] == 0) {
            continue;
        }
        if (event == NULL || event->value != history_writer(values[grain])) {
            event = writer_of(run, values[grain]);
        }
        if (event != NULL && !may_be_cleared(run, question, event)) {
            return run_wrong(run,
                             "%s bitmap %s, which claims to be true, has no bit at %" PRIu64
                             " for the %s that thread %u did from moment %" PRIu64,
                             question->when, question->name, grain * GRAIN, event->name,
                             event->thread, event->began);
        }
    }
}

/* Where the bitmap of the last backup point is there, and true, it has what was cleared for it. */
static void add_point(struct run *run, const struct bitmap_directory *directory,
                      struct question *question, bool *bits)
{
    const struct point *point;
    bool *more;

    if (question->points == 0) {
        return;
    }
    point = &run->bitmaps.points[question->points - 1];
    if (!is_true(bitmap_find(directory, point->name))) {
        return;
    }
    more = bits_of(run, point->name, question->when);
    for (uint64_t at = 0; more != NULL && at < bitmaps_sectors(run); at++) {
        bits[at] = bits[at] || more[at];
        if (point->complete < question->began && point->look.bits != NULL && point->look.bits[at] &&
            !more[at] && at < question->end / SECTOR_GRAINS) {
            run_wrong(run, "%s bitmap %s has lost its bit at %" PRIu64, question->when, point->name,
                      at * SECTOR);
        }
    }
    free(more);
    question->points--;
}

static void check_crash(struct run *run, const struct bitmap_directory *directory, size_t number,
                        const uint64_t *values, uint64_t moment, const char *when)
{
    bool *bits = bits_of(run, races_bitmaps[number].name, when);
    struct question question = ask_of(run, number, bits, when);

    question.end = view_size(run->view) / GRAIN;
    question.began = question.returned = moment;
    /* Of those that had not begun by then there is nothing. */
    while (question.points > 0 && run->bitmaps.points[question.points - 1].clear_began > moment) {
        question.points--;
    }
    if (bits != NULL) {
        add_point(run, directory, &question, bits);
        check_shown(run, &question, values);
    }
    free(bits);
}

void bitmaps_check_crash(struct run *run, const uint64_t *values, uint64_t moment, const char *when)
{
    struct bitmap_directory *directory;

    if (!run->plan.template->kind->bitmaps || atomic_load(&run->wrong)) {
        return;
    }
    directory = read_directory(run, when);
    for (size_t i = 0; directory != NULL && i < RACES_BITMAPS; i++) {
        if (!races_bitmaps[i].disabled && is_true(bitmap_find(directory, races_bitmaps[i].name))) {
            check_crash(run, directory, i, values, moment, when);
        }
    }
    bitmap_directory_free(directory);
}
