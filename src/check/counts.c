/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "check/counts.h"

#include "meta/refcount_block.h"
#include "util/checked.h"

#include <endian.h>
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

/* --- Chunks of one bit a number, in words of 64 -------------------------------------- */

#define WORD_BITS UINT64_C(64)

/* Bit n of the word is number 64 * index + n. */
static uint64_t load_word(const struct chunk *chunk, uint64_t index)
{
    uint64_t word;

    memcpy(&word, chunk->counts + index * sizeof(word), sizeof(word));
    return le64toh(word);
}

static void store_word(struct chunk *chunk, uint64_t index, uint64_t word)
{
    word = htole64(word);
    memcpy(chunk->counts + index * sizeof(word), &word, sizeof(word));
}

/* From 0 to 1, as long as all of a word's part of the range are 0; how many of `length`. */
static uint64_t set_bits(struct chunk *chunk, uint64_t at, uint64_t length)
{
    uint64_t done = 0;

    while (done < length) {
        uint64_t index = (at + done) / WORD_BITS, bit = (at + done) % WORD_BITS;
        uint64_t part = min_u64(length - done, WORD_BITS - bit);
        uint64_t bits = (UINT64_MAX >> (WORD_BITS - part)) << bit;
        uint64_t word = load_word(chunk, index);

        if ((word & bits) != 0) {
            break;
        }
        store_word(chunk, index, word | bits);
        done += part;
    }
    return done;
}

/* Adds 1 to one number, unless it is `max`: *full. */
static int add_one(struct chunk *chunk, uint64_t at, uint64_t max, bool *full, bool *shared)
{
    uint64_t count = refcount_load(chunk->counts, at, chunk->order);
    int result = 0;

    *full = count >= max;
    if (*full) {
        return 0;
    }
    *shared |= count > 0;
    if (count == refcount_max(chunk->order)) {
        result = widen(chunk, count + 1);
    }
    if (result == 0) {
        refcount_store(chunk->counts, at, chunk->order, count + 1);
    }
    return result;
}

int check_counts_add(struct check_counts *counts, uint64_t first, uint64_t length, uint64_t max,
                     uint64_t *done, bool *shared)
{
    bool full = false;
    int result = 0;

    *done = 0;
    if (!range_within(first, length, counts->clusters)) {
        return -ERANGE;
    }
    while (*done < length && !full && result == 0) {
        uint64_t cluster = first + *done, at = cluster % CHUNK_CLUSTERS, added = 0;
        struct chunk *chunk = &counts->chunks[cluster / CHUNK_CLUSTERS];

        if (chunk->counts == NULL) {
            result = widen(chunk, 1);
        }
        if (result == 0 && chunk->order == 0) {
            added = set_bits(chunk, at, min_u64(length - *done, CHUNK_CLUSTERS - at));
        }
        if (result == 0 && added == 0) {
            result = add_one(chunk, at, max, &full, shared);
            added = result == 0 && !full;
        }
        *done += added;
    }
    return result;
}

enum check_counts_group check_counts_group(const struct check_counts *counts, uint64_t first)
{
    const struct chunk *chunk;
    uint64_t word;

    if (first >= counts->clusters) {
        return CHECK_COUNTS_ZERO;
    }
    chunk = &counts->chunks[first / CHUNK_CLUSTERS];
    if (chunk->counts == NULL) {
        return CHECK_COUNTS_ZERO;
    }
    if (chunk->order != 0) {
        return CHECK_COUNTS_MIXED;
    }
    word = load_word(chunk, first % CHUNK_CLUSTERS / WORD_BITS);
    if (word == 0) {
        return CHECK_COUNTS_ZERO;
    }
    return word == UINT64_MAX ? CHECK_COUNTS_ONE : CHECK_COUNTS_MIXED;
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
