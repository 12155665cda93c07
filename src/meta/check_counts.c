/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "meta/check_counts.h"

#include "meta/refcount_block.h"
#include "util/checked.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK_CLUSTERS (UINT64_C(1) << 16)

struct chunk {
    uint8_t *counts; /* NULL: all 0 */
    uint32_t order;  /* log2 of the bits of a count */
};

struct check_counts {
    uint64_t clusters;
    uint64_t chunk_count;
    struct chunk *chunks;
};

static size_t chunk_bytes(uint32_t order)
{
    return (size_t)((CHUNK_CLUSTERS << order) / 8);
}

int check_counts_create(uint64_t clusters, struct check_counts **counts)
{
    int result;

    *counts = calloc(1, sizeof(**counts));
    if (*counts == NULL) {
        return -ENOMEM;
    }
    result = check_counts_grow(*counts, clusters);
    if (result < 0) {
        check_counts_destroy(*counts);
        *counts = NULL;
    }
    return result;
}

void check_counts_destroy(struct check_counts *counts)
{
    uint64_t i;

    if (counts == NULL) {
        return;
    }
    for (i = 0; i < counts->chunk_count; i++) {
        free(counts->chunks[i].counts);
    }
    free(counts->chunks);
    free(counts);
}

int check_counts_grow(struct check_counts *counts, uint64_t clusters)
{
    uint64_t chunk_count = div_round_up(clusters, CHUNK_CLUSTERS), bytes;
    struct chunk *chunks;

    if (clusters <= counts->clusters) {
        return 0;
    }
    if (chunk_count > counts->chunk_count) {
        if (!checked_mul(chunk_count, sizeof(*chunks), &bytes) || bytes > PTRDIFF_MAX) {
            return -ENOMEM;
        }
        /* From calloc(): what is not touched takes no memory. */
        chunks = calloc((size_t)chunk_count, sizeof(*chunks));
        if (chunks == NULL) {
            return -ENOMEM;
        }
        if (counts->chunk_count > 0) {
            memcpy(chunks, counts->chunks, (size_t)counts->chunk_count * sizeof(*chunks));
        }
        free(counts->chunks);
        counts->chunks = chunks;
        counts->chunk_count = chunk_count;
    }
    counts->clusters = clusters;
    return 0;
}

uint64_t check_counts_get(const struct check_counts *counts, uint64_t cluster)
{
    const struct chunk *chunk;

    if (cluster >= counts->clusters) {
        return 0;
    }
    chunk = &counts->chunks[cluster / CHUNK_CLUSTERS];
    if (chunk->counts == NULL) {
        return 0;
    }
    return refcount_load(chunk->counts, cluster % CHUNK_CLUSTERS, chunk->order);
}

/* Packs the chunk anew, in a width that `count` fits in. */
static int widen(struct chunk *chunk, uint64_t count)
{
    uint32_t order = chunk->order;
    uint8_t *counts;
    uint64_t i;

    while (count > refcount_max(order)) {
        order++;
    }
    counts = calloc(1, chunk_bytes(order));
    if (counts == NULL) {
        return -ENOMEM;
    }
    for (i = 0; chunk->counts != NULL && i < CHUNK_CLUSTERS; i++) {
        refcount_store(counts, i, order, refcount_load(chunk->counts, i, chunk->order));
    }
    free(chunk->counts);
    chunk->counts = counts;
    chunk->order = order;
    return 0;
}

int check_counts_set(struct check_counts *counts, uint64_t cluster, uint64_t count)
{
    struct chunk *chunk;
    int result = 0;

    if (cluster >= counts->clusters) {
        return -ERANGE;
    }
    chunk = &counts->chunks[cluster / CHUNK_CLUSTERS];
    if (chunk->counts == NULL && count == 0) {
        return 0;
    }
    if (chunk->counts == NULL || count > refcount_max(chunk->order)) {
        result = widen(chunk, count);
    }
    if (result == 0) {
        refcount_store(chunk->counts, cluster % CHUNK_CLUSTERS, chunk->order, count);
    }
    return result;
}

uint64_t check_counts_next(const struct check_counts *counts, uint64_t from, uint64_t limit)
{
    uint64_t end = min_u64(limit, counts->clusters);

    while (from < end) {
        const struct chunk *chunk = &counts->chunks[from / CHUNK_CLUSTERS];

        if (chunk->counts == NULL) {
            from = (from / CHUNK_CLUSTERS + 1) * CHUNK_CLUSTERS;
        } else if (refcount_load(chunk->counts, from % CHUNK_CLUSTERS, chunk->order) != 0) {
            return from;
        } else {
            from++;
        }
    }
    return limit;
}
