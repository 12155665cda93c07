/* SPDX-License-Identifier: MIT */
/* Clusters that come back (R4), and the end of the file. */
#include "config.h"

#include "meta/allocator_internal.h"
#include "util/checked.h"

#include <errno.h>
#include <stdlib.h>

/* --- Giving back ---------------------------------------------------------------------- */

/*
 * R8: what is a table is not freed, whatever has named it. With the mutex held:
 * the owner of the gate takes none, see there.
 */
static int check_free(struct allocator *allocator, uint64_t cluster)
{
    return gate_pass(allocator->source.gate, GATE_OTHER, cluster << allocator_bits(allocator),
                     UINT64_C(1) << allocator_bits(allocator));
}

/* Nothing refers to the cluster any more: it can be found again. With the mutex held. */
static void make_free(struct allocator *allocator, uint64_t cluster)
{
    uint64_t host_offset = cluster << allocator_bits(allocator);

    allocator->cursor = min_u64(allocator->cursor, cluster);
    if (allocator->source.freed != NULL) {
        allocator->source.freed(allocator->source.freed_context, host_offset);
    }
    if (allocator->source.discard) {
        /* The host may be unable to; the cluster is free all the same. */
        (void)store_punch(allocator->source.file, host_offset,
                          UINT64_C(1) << allocator_bits(allocator));
    }
}

/*
 * One reference less to each cluster of the range, which becomes shorter by what is done. With the
 * mutex held. What a host in trouble does not let be done now is left in it, to be tried again.
 */
static int unreference(struct allocator *allocator, struct pending *range)
{
    struct refcounts *refcounts = allocator->source.refcounts;
    bool damaged = false;

    allocator->used = allocator->used || range->length > 0;
    for (; range->length > 0; range->first++, range->length--) {
        uint64_t count;
        int result = check_free(allocator, range->first);

        if (result == 0) {
            result = refcounts_get(refcounts, range->first, &count);
        }
        if (result == 0 && count == 0) {
            damaged = true; /* it never had one: trying again would not help */
            continue;
        }
        if (result == 0) {
            result = refcounts_add(refcounts, range->first, 1, -1);
        }
        if (result < 0) {
            return result;
        }
        if (count == 1) {
            make_free(allocator, range->first);
        }
    }
    return damaged ? -EIO : 0;
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

void allocator_return(struct allocator *allocator, uint64_t host_offset, uint64_t clusters)
{
    struct pending range = {
        .first = host_offset >> allocator_bits(allocator),
        .length = clusters,
        .commit = 0, /* any: no entry names them */
    };

    if (atomic_load(&allocator->stopped)) {
        return;
    }
    pthread_mutex_lock(&allocator->mutex);
    if (unreference(allocator, &range) < 0 && range.length > 0) {
        (void)add_pending(allocator, &range); /* without memory to remember it, it is a leak */
    }
    pthread_mutex_unlock(&allocator->mutex);
}

int allocator_drop(struct allocator *allocator, uint64_t host_offset, uint64_t clusters,
                   uint64_t commit)
{
    const struct pending range = {
        .first = host_offset >> allocator_bits(allocator),
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

/* As allocator_dropped(), with the mutex held. */
static int free_pending(struct allocator *allocator, uint64_t commit)
{
    size_t kept = 0, i;
    int result = 0;

    for (i = 0; i < allocator->pending_count; i++) {
        struct pending *range = &allocator->pending[i];

        if (range->commit <= commit) {
            int each = unreference(allocator, range); /* R4 */

            result = result == 0 ? each : result;
        }
        if (range->length > 0) {
            allocator->pending[kept++] = *range;
        }
    }
    allocator->pending_count = kept;
    return result;
}

int allocator_dropped(struct allocator *allocator, uint64_t commit)
{
    int result;

    if (atomic_load(&allocator->stopped)) {
        return 0;
    }
    pthread_mutex_lock(&allocator->mutex);
    result = free_pending(allocator, commit);
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

/*
 * The end of the file comes back to the last cluster that is counted, but no
 * further than the file went when it was found. All counts behind that are of
 * our own making; those before it may be wrong.
 */
static int lower_end(struct allocator *allocator, uint64_t *end)
{
    uint64_t found = div_round_up(allocator->found_size, UINT64_C(1) << allocator_bits(allocator));
    uint64_t count = 0;

    *end = refcounts_end(allocator->source.refcounts);
    while (*end > found) {
        int result = refcounts_get(allocator->source.refcounts, *end - 1, &count);

        if (result < 0) {
            return result;
        }
        if (count > 0) {
            break;
        }
        (*end)--;
    }
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

/* Cuts off what lies behind cluster `end`, the first that is not needed. */
static int cut_file(struct allocator *allocator, uint64_t end)
{
    uint64_t size = end << allocator_bits(allocator);
    struct store_info info;
    int result = store_info(allocator->source.file, &info);

    if (result < 0 || size >= info.size || allocator->source.device) {
        return result;
    }
    return store_resize(allocator->source.file, size);
}

int allocator_close(struct allocator *allocator)
{
    uint64_t end;
    int result;

    if (!allocator->used || atomic_load(&allocator->stopped)) {
        return 0; /* the file is as it was found, or not to be touched */
    }
    pthread_mutex_lock(&allocator->mutex);
    result = free_pending(allocator, UINT64_MAX); /* what failed before */
    if (result == 0) {
        result = give_back_run(allocator, &allocator->current);
    }
    if (result == 0) {
        result = give_back_run(allocator, &allocator->next);
    }
    if (result == 0) {
        result = refcounts_settle(allocator->source.refcounts);
    }
    if (result == 0) {
        result = lower_end(allocator, &end);
    }
    if (result == 0) {
        result = cut_file(allocator, end);
    }
    pthread_mutex_unlock(&allocator->mutex);
    return result;
}

void allocator_stop(struct allocator *allocator)
{
    atomic_store(&allocator->stopped, true);
}
