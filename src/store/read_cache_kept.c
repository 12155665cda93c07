/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "store/read_cache_internal.h"

#include "util/checked.h"

#include <stdlib.h>
#include <time.h>

#define SAMPLES  8    /* blocks that are compared when it is opened */
#define MAP_ONCE 4096 /* entries */

/* Of the whole block, each time. */
int cache_read_checked(struct read_cache *cache, uint32_t at, const struct place *place,
                       uint64_t offset, uint8_t *buffer, size_t length)
{
    size_t whole = cache_block_length(cache, place->number);
    uint8_t *bytes = length == whole ? buffer : malloc(whole);
    int result = bytes == NULL ? -ENOMEM : cache_file_read(&cache->file, at, 0, bytes, whole);

    if (result == 0 && cache_file_sum(&cache->file, place->number, bytes, whole) != place->sum) {
        result = -EIO;
    }
    if (result == 0 && bytes != buffer) {
        memcpy(buffer, bytes + offset, length);
    }
    if (bytes != buffer) {
        free(bytes);
    }
    return result;
}

/* What of it can be; what its blocks are is seen when they are read. */
static void take_entries(struct read_cache *cache, uint32_t first,
                         const struct cache_entry *entries, uint32_t count)
{
    uint64_t blocks = div_round_up(cache->size, CACHE_BLOCK);

    for (uint32_t i = 0; i < count; i++) {
        uint32_t at = first + i;

        if (entries[i].number < blocks && cache_find(cache, entries[i].number) == PLACE_NONE) {
            cache_insert(cache, at, entries[i].number, PLACE_READY);
            cache->places[at].sum = entries[i].sum;
        } else {
            cache_set_free(cache, at);
        }
    }
    cache->unused = first + count;
}

static int load_map(struct read_cache *cache)
{
    struct cache_entry *entries = calloc(MAP_ONCE, sizeof(*entries));
    int result = entries == NULL ? -ENOMEM : 0;

    for (uint32_t at = 0; at < cache->file.places && result == 0;) {
        uint32_t count = (uint32_t)min_u64(MAP_ONCE, cache->file.places - at);

        result = cache_file_read_map(&cache->file, at, entries, count);
        if (result == 0) {
            take_entries(cache, at, entries, count);
        }
        at += count;
    }
    free(entries);
    return result == -EIO ? 0 : result; /* one that was cut off has no more */
}

/* The map as it is, when nobody uses the store any more. */
int cache_save_map(const struct read_cache *cache)
{
    struct cache_entry *entries = calloc(MAP_ONCE, sizeof(*entries));
    int result = entries == NULL ? -ENOMEM : 0;

    for (uint32_t at = 0; at < cache->file.places && result == 0;) {
        uint32_t count = (uint32_t)min_u64(MAP_ONCE, cache->file.places - at);

        for (uint32_t i = 0; i < count; i++) {
            const struct place *place = &cache->places[at + i];
            bool is_there = at + i < cache->unused && place->state == PLACE_READY;

            entries[i] = is_there ? (struct cache_entry){place->number, place->sum}
                                  : (struct cache_entry){UINT64_MAX, 0};
        }
        result = cache_file_write_map(&cache->file, at, entries, count);
        at += count;
    }
    free(entries);
    return result;
}

/* Whether the store still has what the file has of a block. 1, 0, or a negative errno. */
static int compare_block(struct read_cache *cache, uint32_t at, uint8_t *ours, uint8_t *theirs)
{
    const struct place *place = &cache->places[at];
    size_t length = cache_block_length(cache, place->number);
    int result;

    if (cache_read_checked(cache, at, place, 0, ours, length) < 0) {
        return 1; /* it counts for nothing */
    }
    result = store_read(cache->through.inner, place->number * CACHE_BLOCK, theirs, length);
    return result < 0 ? result : memcmp(ours, theirs, length) == 0;
}

/* The first block of the store, and some others, others each time. As compare_block(). */
static int compare_samples(struct read_cache *cache)
{
    uint8_t *bytes = malloc(2 * CACHE_BLOCK);
    struct timespec now;
    uint64_t at;
    int result = bytes == NULL ? -ENOMEM : 1;

    clock_gettime(CLOCK_REALTIME, &now);
    at = (uint64_t)now.tv_nsec;
    for (unsigned i = 0; i < SAMPLES && result > 0 && cache->unused > 0; i++) {
        uint32_t place = i == 0 ? cache_find(cache, 0) : (uint32_t)(at % cache->unused);

        if (place != PLACE_NONE && cache->places[place].state == PLACE_READY) {
            result = compare_block(cache, place, bytes, bytes + CACHE_BLOCK);
        }
        at = at * UINT64_C(6364136223846793005) + 1442695040888963407U;
        at ^= at >> 32;
    }
    free(bytes);
    return result;
}

/* Goes on with what was kept, where the store still has it. */
int cache_go_on(struct read_cache *cache, const char *path, struct error *error)
{
    int result = load_map(cache);

    if (result == 0) {
        result = compare_samples(cache);
    }
    if (result == 0) {
        cache_empty(cache);
        result = cache_file_begin_anew(&cache->file);
    }
    return result >= 0 ? 0
                       : error_set(error, -result,
                                   "%s: what this read cache has cannot be compared with what the "
                                   "server has: %s",
                                   path, strerror(-result));
}
