/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "meta/hollow.h"

#include "util/checked.h"

#include <stdlib.h>
#include <string.h>

#define CAPACITY_FIRST 16 /* ranges */

void hollow_destroy(struct hollow *hollow)
{
    free(hollow->ranges);
    *hollow = (struct hollow){0};
}

/* The number of the first range that ends at `cluster` or behind it. */
static size_t find(const struct hollow *hollow, uint64_t cluster)
{
    size_t low = 0, high = hollow->count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (hollow->ranges[middle].end < cluster) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

static bool has_room(struct hollow *hollow)
{
    size_t capacity = hollow->capacity == 0 ? CAPACITY_FIRST : hollow->capacity * 2;
    struct hollow_range *ranges;

    if (hollow->count < hollow->capacity) {
        return true;
    }
    if (capacity > HOLLOW_MAX) {
        return false;
    }
    ranges = realloc(hollow->ranges, capacity * sizeof(*ranges));
    if (ranges == NULL) {
        return false;
    }
    hollow->ranges = ranges;
    hollow->capacity = capacity;
    return true;
}

/* Puts `new`, or nothing where it is empty, in the place of `old` ranges from number `at` on. */
static void replace(struct hollow *hollow, size_t at, size_t old, struct hollow_range new)
{
    size_t made = new.first < new.end ? 1 : 0, behind = hollow->count - at - old;

    memmove(hollow->ranges + at + made, hollow->ranges + at + old,
            behind * sizeof(*hollow->ranges));
    if (made > 0) {
        hollow->ranges[at] = new;
    }
    hollow->count = hollow->count - old + made;
}

void hollow_add(struct hollow *hollow, uint64_t first, uint64_t length)
{
    struct hollow_range new = {.first = first, .end = first + length};
    size_t at = find(hollow, first), last = at;

    while (last < hollow->count && hollow->ranges[last].first <= new.end) {
        new.first = min_u64(new.first, hollow->ranges[last].first);
        new.end = max_u64(new.end, hollow->ranges[last].end);
        last++;
    }
    if (length > 0 && (last > at || has_room(hollow))) {
        replace(hollow, at, last - at, new);
    }
}

void hollow_remove(struct hollow *hollow, uint64_t first, uint64_t length)
{
    const struct hollow_range none = {0};
    uint64_t end = first + length;
    size_t at = find(hollow, first + 1);

    while (length > 0 && at < hollow->count && hollow->ranges[at].first < end) {
        struct hollow_range *range = &hollow->ranges[at];
        struct hollow_range behind = {.first = end, .end = range->end};

        if (range->first >= first) {
            if (behind.first < behind.end) {
                *range = behind;
                return;
            }
            replace(hollow, at, 1, none);
            continue;
        }
        range->end = first;
        at++;
        if (behind.first < behind.end) {
            if (has_room(hollow)) {
                replace(hollow, at, 0, behind);
            } /* else what is behind is not known any more */
            return;
        }
    }
}

bool hollow_look(const struct hollow *hollow, uint64_t first, uint64_t *length)
{
    size_t at = find(hollow, first + 1);

    if (at == hollow->count) {
        return false;
    }
    if (hollow->ranges[at].first > first) {
        *length = min_u64(*length, hollow->ranges[at].first - first);
        return false;
    }
    *length = min_u64(*length, hollow->ranges[at].end - first);
    return true;
}
