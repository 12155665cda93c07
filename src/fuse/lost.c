/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "fuse/lost.h"

#include "util/checked.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

void lost_init(struct lost *lost)
{
    *lost = (struct lost){.count = 0};
    atomic_init(&lost->result, 0);
    pthread_mutex_init(&lost->mutex, NULL);
}

void lost_release(struct lost *lost)
{
    pthread_mutex_destroy(&lost->mutex);
    free(lost->ranges);
}

/* The first range that ends at or behind `offset`; count where there is none. */
static size_t find(const struct lost *lost, uint64_t offset)
{
    size_t low = 0, high = lost->count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (lost->ranges[middle].to < offset) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

/* `put` (at most two ranges) in place of the ranges [first, last). */
static void replace(struct lost *lost, size_t first, size_t last, const struct lost_range *put,
                    size_t count)
{
    size_t total = lost->count - (last - first) + count;

    if (total > lost->count) {
        struct lost_range *more =
            total <= LOST_RANGES_MAX ? realloc(lost->ranges, total * sizeof(*more)) : NULL;

        if (more == NULL) {
            lost->has_too_many = true;
            return;
        }
        lost->ranges = more;
    }
    if (lost->ranges != NULL) {
        memmove(lost->ranges + first + count, lost->ranges + last,
                (lost->count - last) * sizeof(*lost->ranges));
        memcpy(lost->ranges + first, put, count * sizeof(*put));
    }
    lost->count = total;
}

void lost_add(struct lost *lost, uint64_t from, uint64_t to, int result)
{
    int none = 0;

    pthread_mutex_lock(&lost->mutex);
    if (from < to) {
        struct lost_range whole = {.from = from, .to = to};
        size_t first = find(lost, from), last = first;

        for (; last < lost->count && lost->ranges[last].from <= to; last++) {
            whole.from = min_u64(whole.from, lost->ranges[last].from);
            whole.to = max_u64(whole.to, lost->ranges[last].to);
        }
        replace(lost, first, last, &whole, 1);
    }
    atomic_compare_exchange_strong(&lost->result, &none, result);
    pthread_mutex_unlock(&lost->mutex);
}

void lost_remove(struct lost *lost, uint64_t from, uint64_t to)
{
    pthread_mutex_lock(&lost->mutex);
    if (from < to) {
        struct lost_range rest[2];
        size_t first = find(lost, from), last = first, count = 0;

        for (; last < lost->count && lost->ranges[last].from < to; last++) {
            if (lost->ranges[last].from < from) {
                rest[count++] = (struct lost_range){lost->ranges[last].from, from};
            }
            if (lost->ranges[last].to > to) {
                rest[count++] = (struct lost_range){to, lost->ranges[last].to};
            }
        }
        replace(lost, first, last, rest, count);
    }
    if (lost->count == 0 && !lost->has_too_many) {
        atomic_store(&lost->result, 0);
    }
    pthread_mutex_unlock(&lost->mutex);
}

int lost_explain(struct lost *lost, const char *image, struct error *error)
{
    int result = lost_result(lost);
    uint64_t bytes = 0;

    if (result == 0) {
        return 0;
    }
    for (size_t i = 0; i < lost->count; i++) {
        bytes += lost->ranges[i].to - lost->ranges[i].from;
    }
    return error_set(error, -result,
                     "%s: %s%" PRIu64 " bytes that programs had written are not in the image, the "
                     "first at byte %" PRIu64 " of the disk: %s; write them again",
                     image, lost->has_too_many ? "more than " : "", bytes,
                     lost->count > 0 ? lost->ranges[0].from : 0, strerror(-result));
}
