/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "meta/allocator.h"

#include "meta/allocator_internal.h"
#include "meta/format.h"
#include "util/checked.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#define RUN_FIRST (UINT64_C(1) << 20)  /* bytes of the first run that is reserved */
#define RUN_MAX   (UINT64_C(64) << 20) /* each is twice as long as the one before, up to this */

/* A run is cut where clusters that read as zeros begin or end, if this many are alike. */
#define ALIKE_MIN 16

/*
 * What is filled of a run, and when that pays: syncs that were seen, bytes allocated for each. It
 * begins and ends where no folio of the host's page cache, which are as large at most, has bytes on
 * both sides: a direct write beside a dirty one could not drop it, and the host might report that
 * as EIO to whoever syncs next.
 */
#define FILL_RUN        (UINT64_C(2) << 20)
#define FILL_SYNCS      16
#define FILL_SYNC_BYTES (UINT64_C(128) << 10)

int allocator_create(const struct allocator_source *source, struct allocator **allocator)
{
    struct store_info info;
    int result = store_info(source->file, &info);

    *allocator = NULL;
    if (result < 0) {
        return result;
    }
    *allocator = calloc(1, sizeof(**allocator));
    if (*allocator == NULL) {
        return -ENOMEM;
    }
    (*allocator)->found_size = info.size;
    (*allocator)->source = *source;
    (*allocator)->run_length = max_u64(RUN_FIRST >> allocator_bits(*allocator), 1);
    pthread_mutex_init(&(*allocator)->mutex, NULL);
    pthread_cond_init(&(*allocator)->filled, NULL);
    return 0;
}

void allocator_destroy(struct allocator *allocator)
{
    if (allocator != NULL) {
        pthread_cond_destroy(&allocator->filled);
        pthread_mutex_destroy(&allocator->mutex);
        free(allocator->pending);
        hollow_destroy(&allocator->hollow);
        free(allocator);
    }
}

/* --- Reserving ---------------------------------------------------------------------- */

/* Whether all of a run in the middle of the file reads as zeros; it may become shorter. */
static bool is_hollow(struct allocator *allocator, struct run *run)
{
    uint64_t lowered = refcounts_lowered_end(allocator->source.refcounts), alike = run->length;
    bool hollow;

    /* What was behind the end for a while may have been a table. */
    hollow_remove(&allocator->hollow, lowered, UINT64_MAX - lowered);
    hollow = hollow_look(&allocator->hollow, run->first, &alike);
    if (alike < run->length && alike < ALIKE_MIN) {
        return false;
    }
    run->length = alike;
    return hollow;
}

/* Free clusters in the middle of the file, or else behind its end. */
static int find_run(struct allocator *allocator, uint64_t want, struct run *run)
{
    struct refcounts *refcounts = allocator->source.refcounts;
    int result = refcounts_settle_end(refcounts);
    uint64_t end = refcounts_end(refcounts);

    run->length = 0;
    run->fresh = false;
    if (result < 0) {
        return result;
    }
    if (allocator->cursor < end) {
        result =
            refcounts_find_free(refcounts, allocator->cursor, end, want, &run->first, &run->length);
        if (result < 0) {
            return result;
        }
        allocator->cursor = run->length > 0 ? run->first : end;
    }
    if (run->length > 0) {
        run->fresh = is_hollow(allocator, run);
    }
    run->at_end = run->length == 0;
    run->fresh = run->fresh || (run->at_end && !allocator->source.device);
    return 0;
}

/*
 * Makes the file as long as the run: its size is then stable with the counts,
 * and no entry can ever name a cluster past the end of the file.
 */
static int extend_file(struct allocator *allocator, uint64_t end)
{
    uint64_t size = end << allocator_bits(allocator);
    struct store_info info;
    int result = store_info(allocator->source.file, &info);

    if (result < 0 || info.size >= size) {
        return result;
    }
    return allocator->source.device ? -ENOSPC : store_resize(allocator->source.file, size);
}

/* The first cluster that no entry can name ("L1 table entry": bits 9 - 55). */
static uint64_t end_limit(const struct allocator *allocator)
{
    return (ENTRY_HOST_OFFSET_MASK >> allocator_bits(allocator)) + 1;
}

/*
 * A block device ends where it ends, and a file that is bounded there: the clusters of a run that
 * it has room for behind `first`, with refcount blocks, at most `want`.
 */
static int fit_bound(const struct allocator *allocator, uint64_t first, uint64_t *want)
{
    const struct header *header = allocator->source.header;
    uint64_t counts = header->cluster_size * 8 >> header->refcount_order, room, blocks;
    struct store_info info = {.size = allocator->source.size_max};
    int result;

    if (!allocator->source.device && info.size == 0) {
        return 0;
    }
    result = allocator->source.device ? store_info(allocator->source.file, &info) : 0;
    if (result < 0) {
        return result;
    }
    room = info.size >> header->cluster_bits;
    room = room > first ? room - first : 0;
    if (room == 0) {
        return -ENOSPC;
    }
    blocks = *want / counts + 2; /* the last clusters may do without a new one */
    *want = min_u64(*want, room > blocks ? room - blocks : 1);
    return 0;
}

/*
 * A run at the end that is not to be had: the end comes back, or a host that is full for long would
 * move it on and on.
 */
static void lower_end(struct allocator *allocator, const struct run *run)
{
    struct refcounts *refcounts = allocator->source.refcounts;

    if (refcounts_end(refcounts) == run->first + run->length) {
        refcounts_set_end(refcounts, run->first);
    } else { /* there are tables behind it */
        allocator->cursor = min_u64(allocator->cursor, run->first);
    }
}

/* R8: what has no count is no table. A count that is wrong would have it handed out. */
static int check_run(const struct allocator *allocator, const struct run *run)
{
    return gate_pass(allocator->source.gate, GATE_OTHER, run->first << allocator_bits(allocator),
                     run->length << allocator_bits(allocator));
}

/*
 * Counts a run behind the end. The file is made as long as the run first: where it cannot be, near
 * a limit of its size, nothing has to be undone. Tables may come behind the run.
 */
static int count_at_end(struct allocator *allocator, uint64_t want, struct run *run)
{
    struct refcounts *refcounts = allocator->source.refcounts;
    int result = refcounts_settle_end(refcounts); /* or it would come back below the run */

    run->first = refcounts_end(refcounts);
    run->length = want;
    if (result < 0) {
        return result;
    }
    if (want > end_limit(allocator) - min_u64(run->first, end_limit(allocator))) {
        return -EFBIG;
    }
    result = check_run(allocator, run);
    if (result == 0) {
        result = extend_file(allocator, run->first + run->length);
    }
    if (result < 0) {
        return result;
    }
    refcounts_set_end(refcounts, run->first + run->length);
    result = refcounts_add(refcounts, run->first, run->length, 1);
    if (result < 0) {
        lower_end(allocator, run);
    }
    return result;
}

/* Raises the counts of the run (R2). */
static int count_run(struct allocator *allocator, uint64_t want, struct run *run)
{
    struct refcounts *refcounts = allocator->source.refcounts;
    int result;

    if (!run->at_end) {
        result = check_run(allocator, run);
        if (result == 0) {
            result = refcounts_add(refcounts, run->first, run->length, 1);
        }
    } else {
        result = count_at_end(allocator, want, run);
    }
    run->epoch = barrier_epoch(allocator->source.barrier); /* R1: holes in it are older */
    hollow_remove(&allocator->hollow, run->first, run->length);
    return result;
}

/*
 * The same; of a run at the end that the file may not become long enough for (a limit of the
 * process, of the file system, a quota), what fits.
 */
static int count_what_fits(struct allocator *allocator, uint64_t want, struct run *run)
{
    int result = count_run(allocator, want, run);

    while ((result == -EFBIG || result == -EDQUOT) && run->at_end && want > 1) {
        want /= 2;
        result = count_run(allocator, want, run);
    }
    return result;
}

static int reserve(struct allocator *allocator, uint64_t want, struct run *run)
{
    int result = find_run(allocator, want, run);

    allocator->used = true;

    if (result == 0 && run->at_end) {
        result = fit_bound(allocator, refcounts_end(allocator->source.refcounts), &want);
    }
    if (result == 0) {
        result = count_what_fits(allocator, want, run);
    }
    if (result < 0) {
        run->length = 0;
        return result;
    }
    if (allocator->cursor < run->first + run->length) {
        allocator->cursor = run->first + run->length;
    }
    return 0;
}

/* Whether flushes are many for what is allocated: so many of it that filling a run costs less. */
static bool fill_pays(struct allocator *allocator)
{
    uint64_t syncs;

    if (allocator->cannot_fill || allocator->source.fill_wanted == NULL ||
        allocator->source.device) {
        return false;
    }
    syncs = barrier_syncs(allocator->source.barrier) - allocator->syncs;
    return syncs >= FILL_SYNCS &&
           allocator->taken << allocator_bits(allocator) <= syncs * FILL_SYNC_BYTES;
}

/* Clusters of a run at the end that has all between two such places in it. */
static uint64_t fill_length(const struct allocator *allocator)
{
    uint64_t end = refcounts_end(allocator->source.refcounts) << allocator_bits(allocator);
    uint64_t begin = div_round_up(end, FILL_RUN) * FILL_RUN;

    return (begin + FILL_RUN - end) >> allocator_bits(allocator);
}

/* Reserves the next run; one at the end is twice as long as the one before, up to RUN_MAX. */
static int reserve_next(struct allocator *allocator, struct run *run, bool to_fill)
{
    uint64_t longest = max_u64(RUN_MAX >> allocator_bits(allocator), 1);
    uint64_t length = allocator->run_length;
    /* Then a block that the host has not recorded yet costs more than the zeros around it. */
    bool for_little = fill_pays(allocator);
    int result;

    if (to_fill) {
        length = fill_length(allocator);
    }
    result = reserve(allocator, length, run);
    run->to_fill = result == 0 && to_fill && run->fresh && run->at_end;
    run->fresh = run->fresh && (run->at_end || !for_little);
    if (result == 0 && run->at_end && !to_fill) {
        allocator->run_length = min_u64(allocator->run_length * 2, longest);
    }
    allocator->taken = 0;
    allocator->syncs = barrier_syncs(allocator->source.barrier);
    return result;
}

/* The next run becomes the current one, when it has been filled. */
static void use_next(struct allocator *allocator)
{
    while (allocator->filling) {
        pthread_cond_wait(&allocator->filled, &allocator->mutex);
    }
    if (allocator->current.length == 0) { /* nobody was faster */
        allocator->current = allocator->next;
        allocator->current.to_fill = false;
        allocator->next.length = 0;
    }
}

/*
 * Sees to it that the current run has a cluster, and that another stands behind
 * it: when this one comes to its end or, where the other is to be filled, which
 * takes its time, at once. Also who takes a whole run at once makes the next one longer: each costs
 * a write of its counts, with everybody who allocates waiting for it.
 */
static int refill(struct allocator *allocator)
{
    bool to_fill;

    if (allocator->current.length == 0) {
        use_next(allocator);
    }
    if (allocator->current.length == 0) {
        return reserve_next(allocator, &allocator->current, false);
    }
    if (allocator->next.length > 0) {
        return 0;
    }
    to_fill = fill_pays(allocator);
    if (to_fill || allocator->current.length <= allocator->run_length / 4) {
        /* Not needed yet: an error will come again when it is. */
        (void)reserve_next(allocator, &allocator->next, to_fill);
    }
    if (allocator->next.length > 0 && allocator->next.to_fill) {
        allocator->source.fill_wanted(allocator->source.fill_context);
    }
    return 0;
}

/* Zeros into what lies between two places where a fill may begin and end; nothing may. */
static int fill_run(struct allocator *allocator, const struct run *run)
{
    struct store *file = allocator->source.file;
    uint64_t begin = run->first << allocator_bits(allocator);
    uint64_t end = round_down(begin + (run->length << allocator_bits(allocator)), FILL_RUN);
    int result = 0;

    begin = div_round_up(begin, FILL_RUN) * FILL_RUN;
    if (begin < end) {
        result = store_fill(file, begin, end - begin); /* R8: check_run() has seen it */
        if (result < 0 && result != -EOPNOTSUPP) {
            /* Maybe the host is full; it is free to do without what was only to be faster. */
            (void)store_punch(file, begin, end - begin);
        }
    }
    return result;
}

void allocator_fill(struct allocator *allocator)
{
    struct run run;
    int result;

    pthread_mutex_lock(&allocator->mutex);
    run = allocator->next;
    if (run.length == 0 || !run.to_fill) {
        pthread_mutex_unlock(&allocator->mutex);
        return;
    }
    allocator->filling = true;
    pthread_mutex_unlock(&allocator->mutex);

    result = fill_run(allocator, &run);

    pthread_mutex_lock(&allocator->mutex);
    allocator->cannot_fill = result < 0;
    allocator->next.to_fill = false;
    allocator->next.epoch = barrier_epoch(allocator->source.barrier); /* R1, R2 */
    allocator->filling = false;
    pthread_cond_broadcast(&allocator->filled);
    pthread_mutex_unlock(&allocator->mutex);
}

int allocator_take_run(struct allocator *allocator, uint64_t want, struct run *run)
{
    struct run *current = &allocator->current;
    int result = refill(allocator);

    if (result < 0) {
        return result;
    }
    *run = *current;
    run->length = min_u64(want, current->length);
    current->first += run->length;
    current->length -= run->length;
    allocator->taken += run->length;
    return 0;
}

static bool host_is_full(int result)
{
    return result == -ENOSPC || result == -EDQUOT || result == -EFBIG;
}

/* What is kept for compressed data serves all, where nothing else is to be had. */
static int take_of_packing(struct allocator *allocator, uint64_t want, struct run *run)
{
    struct run *packing = &allocator->packing.run;

    if (packing->length == 0) {
        return -ENOSPC;
    }
    *run = *packing;
    run->length = min_u64(want, packing->length);
    packing->length -= run->length;
    run->first += packing->length; /* from its end: what is packed can go on */
    return 0;
}

int allocator_take(struct allocator *allocator, uint64_t want, struct allocation *allocation)
{
    struct run run;
    int result;

    pthread_mutex_lock(&allocator->mutex);
    result = allocator_take_run(allocator, want, &run);
    if (host_is_full(result) && take_of_packing(allocator, want, &run) == 0) {
        result = 0;
    }
    if (result == 0) {
        *allocation = (struct allocation){
            .host_offset = run.first << allocator_bits(allocator),
            .clusters = run.length,
            .epoch = run.epoch,
            .fresh = run.fresh,
            .untouched = run.fresh && run.at_end,
        };
    }
    pthread_mutex_unlock(&allocator->mutex);
    return result;
}

int allocator_take_exactly(struct allocator *allocator, uint64_t clusters,
                           struct allocation *allocation)
{
    struct run run = {.at_end = true, .fresh = !allocator->source.device};
    int result;

    if (clusters == 1) {
        return allocator_take(allocator, 1, allocation);
    }
    pthread_mutex_lock(&allocator->mutex);
    result = count_run(allocator, clusters, &run);
    pthread_mutex_unlock(&allocator->mutex);
    *allocation = (struct allocation){
        .host_offset = run.first << allocator_bits(allocator),
        .clusters = clusters,
        .epoch = run.epoch,
        .fresh = run.fresh,
        .untouched = run.fresh,
    };
    return result;
}
