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

/*
 * The count of the first cluster of a range, and in *alike how many there are with it that have a
 * count of 1, too: they will be free. R8: what is a table is not. With the mutex held.
 */
static int look_at_counts(struct allocator *allocator, const struct pending *range, uint64_t *count,
                          uint64_t *alike)
{
    int result;

    for (*alike = 0; *alike < range->length; (*alike)++) {
        uint64_t each;

        result = refcounts_get(allocator->source.refcounts, range->first + *alike, &each);
        if (result == 0 && each <= 1) { /* a table that was counted too often keeps its cluster */
            result = check_free(allocator, range->first + *alike);
        }
        if (result < 0) {
            return *alike > 0 ? 0 : result; /* what is in order comes first */
        }
        if (*alike == 0) {
            *count = each;
        } else if (each != 1) {
            break;
        }
        if (*count != 1) {
            *alike = 1;
            break;
        }
    }
    return 0;
}

bool allocator_punch(const struct allocator *allocator, uint64_t first, uint64_t length)
{
    uint64_t offset = first << allocator_bits(allocator),
             size = length << allocator_bits(allocator);
    struct store *file = allocator->source.file;
    struct store_info info;

    /* The host may be unable to; they are free all the same. R1: zeros that only lie behind the end
       of the file are not stable when their counts are. */
    return allocator->source.discard && store_punch(file, offset, size) == 0 &&
           store_info(file, &info) == 0 && info.size >= offset + size;
}

/*
 * Of clusters that will be free. With the mutex held, but not meanwhile: it may take long. As long
 * as they are counted nobody can be given them (R4).
 */
static bool punch(struct allocator *allocator, uint64_t first, uint64_t length)
{
    bool hollow = false;

    if (allocator->source.discard) {
        pthread_mutex_unlock(&allocator->mutex);
        hollow = allocator_punch(allocator, first, length);
        pthread_mutex_lock(&allocator->mutex);
    }
    return hollow;
}

void allocator_make_free(struct allocator *allocator, uint64_t first, uint64_t length, bool hollow)
{
    uint64_t cluster;

    hollow_remove(&allocator->hollow, first, length);
    if (hollow) {
        hollow_add(&allocator->hollow, first, length);
    }
    allocator->cursor = min_u64(allocator->cursor, first);
    for (cluster = first; cluster < first + length && allocator->source.freed != NULL; cluster++) {
        allocator->source.freed(allocator->source.freed_context,
                                cluster << allocator_bits(allocator));
    }
}

/*
 * One reference less to each cluster of the range, which becomes shorter by what is done. With the
 * mutex held, which is given up here and there. What a host in trouble does not let be done now is
 * left in it, to be tried again.
 */
static int unreference(struct allocator *allocator, struct pending *range)
{
    bool damaged = false, hollow = false;

    allocator->used = allocator->used || range->length > 0;
    while (range->length > 0) {
        uint64_t count, length;
        int result = look_at_counts(allocator, range, &count, &length);

        if (result == 0 && count == 1 && !atomic_load(&allocator->stopped)) {
            hollow = punch(allocator, range->first, length);
        }
        if (result == 0 && atomic_load(&allocator->stopped)) {
            result = -EIO;
        }
        if (result == 0 && count > 0) {
            result = refcounts_add(allocator->source.refcounts, range->first, length, -1);
        }
        if (result < 0) {
            return result;
        }
        if (count == 1) {
            allocator_make_free(allocator, range->first, length, hollow);
        }
        damaged = damaged || count == 0; /* it never had one: trying again would not help */
        range->first += length;
        range->length -= length;
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

int allocator_add_pending(struct allocator *allocator, const struct pending *range)
{
    if (append_pending(allocator, range->first, range->length, range->commit)) {
        return 0;
    }
    if (allocator->pending_count == allocator->pending_capacity) {
        size_t capacity = in_memory(max_u64(allocator->pending_capacity * 2, 64));
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
        /* Without memory to remember it, it is a leak. */
        (void)allocator_add_pending(allocator, &range);
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
    result = allocator_add_pending(allocator, &range);
    pthread_mutex_unlock(&allocator->mutex);
#ifdef QCOW2FS_BREAK_R4 /* never set but for tests/crash, which must see what comes of it */
    (void)allocator_dropped(allocator, commit);
#endif
    return result;
}

static int by_first(const void *one, const void *other)
{
    uint64_t a = ((const struct pending *)one)->first, b = ((const struct pending *)other)->first;

    return a < b ? -1 : a > b;
}

/* Neighbours become one range. Of no matter is which commit they waited for. How many are left. */
static size_t join_neighbours(struct pending *ranges, size_t count)
{
    size_t kept = 0, i;

    qsort(ranges, count, sizeof(*ranges), by_first);
    for (i = 1; i < count; i++) {
        if (ranges[kept].first + ranges[kept].length == ranges[i].first) {
            ranges[kept].length += ranges[i].length;
        } else {
            ranges[++kept] = ranges[i];
        }
    }
    return count > 0 ? kept + 1 : 0;
}

/* Takes what may be freed out of the list: *due, of the caller. With the mutex held. */
static int take_due(struct allocator *allocator, uint64_t commit, struct pending **due,
                    size_t *count)
{
    size_t kept = 0, i;

    *count = 0;
    *due = NULL;
    if (allocator->pending_count == 0) {
        return 0;
    }
    *due = malloc(allocator->pending_count * sizeof(**due));
    if (*due == NULL) {
        return -ENOMEM;
    }
    for (i = 0; i < allocator->pending_count; i++) {
        if (allocator->pending[i].commit > commit) {
            allocator->pending[kept++] = allocator->pending[i];
        } else {
            (*due)[(*count)++] = allocator->pending[i];
        }
    }
    allocator->pending_count = kept;
    *count = join_neighbours(*due, *count);
    return 0;
}

int allocator_dropped(struct allocator *allocator, uint64_t commit)
{
    struct pending *due;
    size_t count, i;
    int result;

    if (atomic_load(&allocator->stopped)) {
        return 0;
    }
    pthread_mutex_lock(&allocator->mutex);
    result = take_due(allocator, commit, &due, &count);
    for (i = 0; i < count; i++) {
        int each = unreference(allocator, &due[i]); /* R4 */

        if (each < 0 && due[i].length > 0) {
            /* Without memory to remember it, it is a leak. */
            (void)allocator_add_pending(allocator, &due[i]);
        }
        result = result == 0 ? each : result;
        /* Who wants clusters does not wait for all of it. */
        pthread_mutex_unlock(&allocator->mutex);
        pthread_mutex_lock(&allocator->mutex);
    }
    pthread_mutex_unlock(&allocator->mutex);
    free(due);
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
    allocator_end_packing(allocator);
    result = allocator_dropped(allocator, UINT64_MAX); /* what failed before */
    if (result < 0) {
        return result;
    }
    pthread_mutex_lock(&allocator->mutex);
    result = give_back_run(allocator, &allocator->current);
    if (result == 0) {
        result = give_back_run(allocator, &allocator->next);
    }
    if (result == 0) {
        result = give_back_run(allocator, &allocator->packing.run);
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
