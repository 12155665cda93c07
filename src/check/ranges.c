/* SPDX-License-Identifier: MIT */
/*
 * Ranges of the file that overlap, as segments that do not: of tables that
 * thousands of snapshots or bitmaps claim, each byte is read once.
 *
 *     |----- a -----|
 *          |----- b -----|
 *     | 1  |   2    | 1  |      times
 */
#include "config.h"

#include "check/internal.h"

#include <errno.h>
#include <stdlib.h>

struct edge {
    uint64_t at;
    const struct check_range *range;
    bool begins;
};

static int compare_edges(const void *left, const void *right)
{
    const struct edge *a = left, *b = right;

    if (a->at != b->at) {
        return a->at < b->at ? -1 : 1;
    }
    return (a->range > b->range) - (a->range < b->range);
}

static size_t make_edges(const struct check_range *ranges, size_t count, struct edge *edges)
{
    size_t made = 0;

    for (size_t i = 0; i < count; i++) {
        if (ranges[i].begin < ranges[i].end) {
            edges[made++] = (struct edge){ranges[i].begin, &ranges[i], true};
            edges[made++] = (struct edge){ranges[i].end, &ranges[i], false};
        }
    }
    qsort(edges, made, sizeof(*edges), compare_edges);
    return made;
}

int check_segments(struct check *check, const struct check_range *ranges, size_t count,
                   check_segment_fn *segment, void *context)
{
    struct edge *edges = calloc(2 * count + 1, sizeof(*edges));
    const struct check_range *owner = NULL;
    uint64_t weight = 0;
    int result = 0;
    size_t made;

    if (edges == NULL) {
        return check_failed(check, -ENOMEM, "reading tables");
    }
    made = make_edges(ranges, count, edges);
    for (size_t i = 0; i < made && result == 0; i++) {
        if (weight > 0 && edges[i].at > edges[i - 1].at) {
            check->weight = weight;
            result = segment(check, context, edges[i - 1].at, edges[i].at, owner, weight);
            check->weight = 1;
        }
        weight = edges[i].begins ? weight + 1 : weight - 1;
        owner = edges[i].begins ? edges[i].range : owner;
    }
    free(edges);
    return result;
}
