/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "meta/allocator.h"

#include "meta/format.h"
#include "util/checked.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#define RUN_FIRST (UINT64_C(1) << 20)  /* bytes of the first run that is reserved */
#define RUN_MAX   (UINT64_C(64) << 20) /* each is twice as long as the one before, up to this */

/* A run that is filled, and when that pays: syncs that were seen, bytes allocated for each. */
#define FILL_RUN        (UINT64_C(2) << 20)
#define FILL_SYNCS      16
#define FILL_SYNC_BYTES (UINT64_C(128) << 10)

/* Clusters whose counts are 1 and that nothing refers to. */
struct run {
    uint64_t first, length; /* cluster numbers */
    uint64_t epoch;
    bool at_end; /* behind all that was in use */
    bool fresh;
    bool to_fill; /* with zeros, before it is used; of `next` alone */
};

struct pending {
    uint64_t first, length; /* cluster numbers */
    uint64_t commit;
};

struct allocator {
    struct allocator_source source;
    pthread_mutex_t mutex; /* guards all below, and the refcounts */
    struct run current, next;
    bool filling;          /* `next`: it may not be touched */
    bool cannot_fill;      /* the host could not, or gains nothing */
    pthread_cond_t filled; /* `filling` has ended */
    uint64_t taken;        /* clusters, since the last run was reserved */
    uint64_t syncs;        /* of the barrier, then */
    uint64_t run_length;   /* clusters to reserve next at the end of the file */
    uint64_t cursor;       /* no cluster before this one is free */
    bool used;             /* something was reserved, or freed */
    struct pending *pending;
    size_t pending_count, pending_capacity;
};

static uint32_t cluster_bits(const struct allocator *allocator)
{
    return allocator->source.header->cluster_bits;
}

int allocator_create(const struct allocator_source *source, struct allocator **allocator)
{
    *allocator = calloc(1, sizeof(**allocator));
    if (*allocator == NULL) {
        return -ENOMEM;
    }
    (*allocator)->source = *source;
    (*allocator)->run_length = max_u64(RUN_FIRST >> cluster_bits(*allocator), 1);
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
        free(allocator);
    }
}

/* --- Reserving ---------------------------------------------------------------------- */

/* Free clusters in the middle of the file, or else behind its end. */
static int find_run(struct allocator *allocator, uint64_t want, struct run *run)
{
    struct refcounts *refcounts = allocator->source.refcounts;
    uint64_t end = refcounts_end(refcounts);
    int result;

    run->length = 0;
    if (allocator->cursor < end) {
        result =
            refcounts_find_free(refcounts, allocator->cursor, end, want, &run->first, &run->length);
        if (result < 0) {
            return result;
        }
        allocator->cursor = run->length > 0 ? run->first : end;
    }
    run->at_end = run->length == 0;
    run->fresh = run->at_end && !allocator->source.device;
    return 0;
}

/*
 * Makes the file as long as the run: its size is then stable with the counts,
 * and no entry can ever name a cluster past the end of the file.
 */
static int extend_file(struct allocator *allocator, uint64_t end)
{
    uint64_t size = end << cluster_bits(allocator);
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
    return (ENTRY_HOST_OFFSET_MASK >> cluster_bits(allocator)) + 1;
}

/*
 * A block device ends where it ends: the clusters of a run that it has room
 * for behind `first`, with refcount blocks, at most `want`.
 */
static int fit_device(const struct allocator *allocator, uint64_t first, uint64_t *want)
{
    const struct header *header = allocator->source.header;
    uint64_t counts = header->cluster_size * 8 >> header->refcount_order, room, blocks;
    struct store_info info;
    int result;

    if (!allocator->source.device) {
        return 0;
    }
    result = store_info(allocator->source.file, &info);
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
 * A run at the end that could not be had as a whole: its counts fall again, and
 * the end comes back, or a host that is full for long would move it on and on.
 */
static void uncount(struct allocator *allocator, const struct run *run)
{
    struct refcounts *refcounts = allocator->source.refcounts;
    uint64_t cluster, count = 1;

    for (cluster = run->first; cluster < run->first + run->length && count > 0; cluster++) {
        if (refcounts_get(refcounts, cluster, &count) < 0 ||
            (count > 0 && refcounts_add(refcounts, cluster, 1, -1) < 0)) {
            break; /* a leak */
        }
    }
    if (refcounts_end(refcounts) == run->first + run->length) {
        refcounts_set_end(refcounts, run->first);
    } else { /* there are tables behind it */
        allocator->cursor = min_u64(allocator->cursor, run->first);
    }
}

/* Counts a run behind the end. Tables may be put first. */
static int count_at_end(struct allocator *allocator, uint64_t want, struct run *run)
{
    struct refcounts *refcounts = allocator->source.refcounts;
    int result;

    run->first = refcounts_end(refcounts);
    run->length = want;
    if (want > end_limit(allocator) - min_u64(run->first, end_limit(allocator))) {
        return -EFBIG;
    }
    refcounts_set_end(refcounts, run->first + run->length);
    result = refcounts_add(refcounts, run->first, run->length, 1);
    if (result == 0) {
        result = extend_file(allocator, refcounts_end(refcounts));
    }
    if (result < 0) {
        uncount(allocator, run);
    }
    return result;
}

/* Raises the counts of the run (R2). */
static int count_run(struct allocator *allocator, uint64_t want, struct run *run)
{
    struct refcounts *refcounts = allocator->source.refcounts;
    int result;

    if (!run->at_end) {
        result = refcounts_add(refcounts, run->first, run->length, 1);
    } else {
        result = count_at_end(allocator, want, run);
    }
    run->epoch = barrier_epoch(allocator->source.barrier);
    return result;
}

static int reserve(struct allocator *allocator, uint64_t want, struct run *run)
{
    int result = find_run(allocator, want, run);

    allocator->used = true;

    if (result == 0 && run->at_end) {
        result = fit_device(allocator, refcounts_end(allocator->source.refcounts), &want);
    }
    if (result == 0) {
        result = count_run(allocator, want, run);
    }
    if (result < 0) {
        run->length = 0; /* what was counted already, and cannot be uncounted, is a leak */
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

    if (allocator->cannot_fill || allocator->source.fill_wanted == NULL) {
        return false;
    }
    syncs = barrier_syncs(allocator->source.barrier) - allocator->syncs;
    return syncs >= FILL_SYNCS &&
           allocator->taken << cluster_bits(allocator) <= syncs * FILL_SYNC_BYTES;
}

/* Reserves the next run; one at the end is twice as long as the one before, up to RUN_MAX. */
static int reserve_next(struct allocator *allocator, struct run *run, bool to_fill)
{
    uint64_t longest = max_u64(RUN_MAX >> cluster_bits(allocator), 1);
    uint64_t length = allocator->run_length;
    int result;

    if (to_fill) {
        length = min_u64(length, max_u64(FILL_RUN >> cluster_bits(allocator), 1));
    }
    result = reserve(allocator, length, run);
    run->to_fill = result == 0 && to_fill && run->fresh;
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

    /* R8: it lies behind all that the file had when the run was reserved. */
    result = store_fill(allocator->source.file, run.first << cluster_bits(allocator),
                        run.length << cluster_bits(allocator));
    if (result < 0 && result != -EOPNOTSUPP) {
        /* Maybe the host is full; it is free to do without what was only to be faster. */
        (void)store_punch(allocator->source.file, run.first << cluster_bits(allocator),
                          run.length << cluster_bits(allocator));
    }

    pthread_mutex_lock(&allocator->mutex);
    allocator->cannot_fill = result < 0;
    allocator->next.to_fill = false;
    allocator->next.epoch = barrier_epoch(allocator->source.barrier); /* R1, R2 */
    allocator->filling = false;
    pthread_cond_broadcast(&allocator->filled);
    pthread_mutex_unlock(&allocator->mutex);
}

int allocator_take(struct allocator *allocator, uint64_t want, struct allocation *allocation)
{
    struct run *run = &allocator->current;
    int result;

    pthread_mutex_lock(&allocator->mutex);
    result = refill(allocator);
    if (result == 0) {
        *allocation = (struct allocation){
            .host_offset = run->first << cluster_bits(allocator),
            .clusters = min_u64(want, run->length),
            .epoch = run->epoch,
            .fresh = run->fresh,
        };
        run->first += allocation->clusters;
        run->length -= allocation->clusters;
        allocator->taken += allocation->clusters;
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
        .host_offset = run.first << cluster_bits(allocator),
        .clusters = clusters,
        .epoch = run.epoch,
        .fresh = run.fresh,
    };
    return result;
}

/* --- Giving back ---------------------------------------------------------------------- */

/* One reference less. With the mutex held. What is free then can be found again. */
static int unreference(struct allocator *allocator, uint64_t first, uint64_t length)
{
    struct refcounts *refcounts = allocator->source.refcounts;

    allocator->used = allocator->used || length > 0;
    for (; length > 0; first++, length--) {
        uint64_t count;
        int result = refcounts_add(refcounts, first, 1, -1);

        if (result == 0) {
            result = refcounts_get(refcounts, first, &count);
        }
        if (result < 0) {
            return result;
        }
        if (count > 0) {
            continue;
        }
        allocator->cursor = min_u64(allocator->cursor, first);
        if (allocator->source.freed != NULL) {
            allocator->source.freed(allocator->source.freed_context,
                                    first << cluster_bits(allocator));
        }
        if (allocator->source.discard) {
            /* The host may be unable to; the cluster is free all the same. */
            (void)store_punch(allocator->source.file, first << cluster_bits(allocator),
                              UINT64_C(1) << cluster_bits(allocator));
        }
    }
    return 0;
}

void allocator_return(struct allocator *allocator, uint64_t host_offset, uint64_t clusters)
{
    pthread_mutex_lock(&allocator->mutex);
    /* An error leaves a leak, which is allowed. */
    (void)unreference(allocator, host_offset >> cluster_bits(allocator), clusters);
    pthread_mutex_unlock(&allocator->mutex);
}

/* Lengthens the last pending range where the new one follows it. */
static bool append_pending(struct allocator *allocator, uint64_t first, uint64_t length,
                           uint64_t commit)
{
    struct pending *last;

    if (allocator->pending_count == 0) {
        return false;
    }
    last = &allocator->pending[allocator->pending_count - 1];
    if (last->commit != commit || last->first + last->length != first) {
        return false;
    }
    last->length += length;
    return true;
}

static int add_pending(struct allocator *allocator, const struct pending *range)
{
    if (append_pending(allocator, range->first, range->length, range->commit)) {
        return 0;
    }
    if (allocator->pending_count == allocator->pending_capacity) {
        size_t capacity = max_u64(allocator->pending_capacity * 2, 64);
        struct pending *pending = realloc(allocator->pending, capacity * sizeof(*pending));

        if (pending == NULL) {
            return -ENOMEM;
        }
        allocator->pending = pending;
        allocator->pending_capacity = capacity;
    }
    allocator->pending[allocator->pending_count++] = *range;
    return 0;
}

int allocator_drop(struct allocator *allocator, uint64_t host_offset, uint64_t clusters,
                   uint64_t commit)
{
    const struct pending range = {
        .first = host_offset >> cluster_bits(allocator),
        .length = clusters,
        .commit = commit,
    };
    int result;

    pthread_mutex_lock(&allocator->mutex);
    result = add_pending(allocator, &range);
    pthread_mutex_unlock(&allocator->mutex);
#ifdef QCOW2FS_BREAK_R4 /* never set but for tests/crash, which must see what comes of it */
    (void)allocator_dropped(allocator, commit);
#endif
    return result;
}

int allocator_dropped(struct allocator *allocator, uint64_t commit)
{
    size_t kept = 0, i;
    int result = 0;

    pthread_mutex_lock(&allocator->mutex);
    for (i = 0; i < allocator->pending_count; i++) {
        const struct pending *range = &allocator->pending[i];

        if (range->commit > commit) {
            allocator->pending[kept++] = *range;
        } else {
            int each = unreference(allocator, range->first, range->length); /* R4 */

            result = result == 0 ? each : result;
        }
    }
    allocator->pending_count = kept;
    pthread_mutex_unlock(&allocator->mutex);
    return result;
}

void allocator_set_lazy(struct allocator *allocator, bool lazy)
{
    pthread_mutex_lock(&allocator->mutex);
    refcounts_set_lazy(allocator->source.refcounts, lazy);
    pthread_mutex_unlock(&allocator->mutex);
}

int allocator_write_back(struct allocator *allocator)
{
    int result;

    pthread_mutex_lock(&allocator->mutex);
    result = refcounts_write_back(allocator->source.refcounts);
    pthread_mutex_unlock(&allocator->mutex);
    return result;
}

/* The end of the file comes back to the last cluster that is counted. */
static int lower_end(struct allocator *allocator)
{
    struct refcounts *refcounts = allocator->source.refcounts;
    uint64_t end = refcounts_end(refcounts), count = 0;

    while (end > 0) {
        int result = refcounts_get(refcounts, end - 1, &count);

        if (result < 0) {
            return result;
        }
        if (count > 0) {
            break;
        }
        end--;
    }
    refcounts_set_end(refcounts, end);
    return 0;
}

/* Nobody has written to what is left of a run, or read it: there is nothing to punch or forget. */
static int give_back_run(struct allocator *allocator, struct run *run)
{
    int result = 0;

    if (run->length > 0) {
        result = refcounts_add(allocator->source.refcounts, run->first, run->length, -1);
    }
    run->length = 0;
    return result;
}

int allocator_close(struct allocator *allocator)
{
    struct store_info info;
    uint64_t size;
    int result;

    if (!allocator->used) {
        return 0; /* the file is as it was found */
    }
    pthread_mutex_lock(&allocator->mutex);
    result = give_back_run(allocator, &allocator->current);
    if (result == 0) {
        result = give_back_run(allocator, &allocator->next);
    }
    if (result == 0) {
        result = lower_end(allocator);
    }
    if (result == 0) {
        result = store_info(allocator->source.file, &info);
    }
    size = refcounts_end(allocator->source.refcounts) << cluster_bits(allocator);
    if (result == 0 && size < info.size && !allocator->source.device) {
        result = store_resize(allocator->source.file, size);
    }
    pthread_mutex_unlock(&allocator->mutex);
    return result;
}
