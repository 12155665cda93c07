/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "store/read_cache.h"

#include "store/read_cache_internal.h"
#include "util/checked.h"

#include <stdlib.h>

#define FETCH_MAX 16 /* blocks that are read at once */

static struct read_cache *to_cache(struct store *store)
{
    return (struct read_cache *)store;
}

/* --- What the file has ------------------------------------------------------------------------ */

/* A part of a block that is READY. False: the file does not have it. The mutex is given up
 * meanwhile. */
static bool read_place(struct read_cache *cache, uint32_t at, uint64_t offset, uint8_t *buffer,
                       size_t length)
{
    struct place *place = &cache->places[at];
    const struct place is = *place;
    int result;

    place->users++;
    place->is_recent = true;
    pthread_mutex_unlock(&cache->mutex);
    result = cache_read_checked(cache, at, &is, offset, buffer, length);
    pthread_mutex_lock(&cache->mutex);
    place->users--;
    if (place->state == PLACE_LEAVING && place->users == 0) {
        cache_set_free(cache, at);
    } else if (place->state == PLACE_READY && result < 0) {
        cache_give_up(cache, at);
    }
    return result == 0;
}

/* --- What it does not have -------------------------------------------------------------------- */

/* Blocks that are read from the store at once, each with its place. */
struct fetch {
    uint64_t number; /* of the first one */
    uint32_t count;
    uint32_t places[FETCH_MAX];
    uint64_t sums[FETCH_MAX];
    bool is_kept[FETCH_MAX]; /* the file has it */
};

/* Takes places for blocks from `number` on that are not there, as far as `end` (bytes). The mutex
 * is held. */
static void begin_fetch(struct read_cache *cache, struct fetch *fetch, uint64_t number,
                        uint64_t end)
{
    *fetch = (struct fetch){.number = number};
    while (fetch->count < FETCH_MAX && (number + fetch->count) * CACHE_BLOCK < end &&
           cache_find(cache, number + fetch->count) == PLACE_NONE) {
        uint32_t at = cache_take_place(cache, number + fetch->count);

        if (at == PLACE_NONE) {
            return;
        }
        fetch->places[fetch->count++] = at;
    }
}

static void keep_blocks(struct read_cache *cache, struct fetch *fetch, const uint8_t *bytes)
{
    for (uint32_t i = 0; i < fetch->count; i++) {
        uint64_t number = fetch->number + i;
        size_t length = cache_block_length(cache, number);
        const uint8_t *block = bytes + i * CACHE_BLOCK;
        struct cache_entry entry = {.number = number};

        fetch->is_kept[i] = cache_file_write(&cache->file, fetch->places[i], block, length) == 0;
        if (fetch->is_kept[i]) {
            entry.sum = cache_file_sum(&cache->file, number, block, length);
            fetch->sums[i] = entry.sum;
        }
        if (fetch->is_kept[i] && cache->file.is_kept) {
            (void)cache_file_write_map(&cache->file, fetch->places[i], &entry, 1);
        }
    }
}

/* The mutex is held. */
static void end_fetch(struct read_cache *cache, const struct fetch *fetch)
{
    for (uint32_t i = 0; i < fetch->count; i++) {
        struct place *place = &cache->places[fetch->places[i]];

        if (fetch->is_kept[i] && !place->is_stale && !cache->is_off) {
            place->sum = fetch->sums[i];
            place->is_recent = true;
            place->state = PLACE_READY;
        } else {
            cache_give_up(cache, fetch->places[i]);
        }
    }
    pthread_cond_broadcast(&cache->filled);
}

/*
 * Reads these bytes, and the whole blocks that they are in: into the reader's own buffer where it
 * wants just these. Without the mutex.
 */
static int fetch_blocks(struct read_cache *cache, struct fetch *fetch, uint64_t offset,
                        uint8_t *buffer, size_t length)
{
    uint64_t begin = fetch->number * CACHE_BLOCK;
    uint64_t end = min_u64(begin + fetch->count * CACHE_BLOCK, cache->size);
    bool is_whole = offset == begin && length == end - begin;
    uint8_t *bytes = is_whole ? buffer : malloc(in_memory(end - begin));
    int result = bytes == NULL
                     ? -ENOMEM
                     : store_read(cache->through.inner, begin, bytes, in_memory(end - begin));

    if (result == 0) {
        keep_blocks(cache, fetch, bytes);
    }
    if (result == 0 && !is_whole) {
        memcpy(buffer, bytes + (offset - begin), length);
    }
    if (!is_whole) {
        free(bytes);
    }
    return result;
}

/* Reads some of a range that begins in a block that is not there. The mutex is given up meanwhile.
 */
static int read_missing(struct read_cache *cache, uint64_t offset, uint8_t *buffer, size_t length,
                        size_t *done)
{
    struct fetch fetch;
    uint64_t end;
    int result = -EAGAIN;

    begin_fetch(cache, &fetch, offset / CACHE_BLOCK, offset + length);
    pthread_mutex_unlock(&cache->mutex);
    end = (offset / CACHE_BLOCK + max_u64(fetch.count, 1)) * CACHE_BLOCK;
    *done = (size_t)min_u64(length, end - offset);
    if (fetch.count > 0) {
        result = fetch_blocks(cache, &fetch, offset, buffer, *done);
    }
    if (result < 0) { /* what is around it may be what cannot be read */
        result = store_read(cache->through.inner, offset, buffer, *done);
    }
    pthread_mutex_lock(&cache->mutex);
    end_fetch(cache, &fetch);
    return result;
}

/* Some of the range, *done bytes, which may be 0. The mutex is held, and given up meanwhile. */
static int read_some(struct read_cache *cache, uint64_t offset, uint8_t *buffer, size_t length,
                     size_t *done)
{
    uint64_t within = offset % CACHE_BLOCK;
    uint32_t at = cache_find(cache, offset / CACHE_BLOCK);
    size_t part = (size_t)min_u64(length, CACHE_BLOCK - within);
    int result;

    *done = 0;
    if (cache->is_off) {
        pthread_mutex_unlock(&cache->mutex);
        result = store_read(cache->through.inner, offset, buffer, length);
        pthread_mutex_lock(&cache->mutex);
        *done = length;
        return result;
    }
    if (at == PLACE_NONE) {
        return read_missing(cache, offset, buffer, length, done);
    }
    if (cache->places[at].state == PLACE_FILLING) {
        pthread_cond_wait(&cache->filled, &cache->mutex);
    } else if (read_place(cache, at, within, buffer, part)) {
        *done = part;
    }
    return 0;
}

static int cache_read(struct store *store, uint64_t offset, void *buffer, size_t length)
{
    struct read_cache *cache = to_cache(store);
    uint8_t *at = buffer;
    int result = 0;

    if (!range_within(offset, length, cache->size)) {
        return store_read(cache->through.inner, offset, buffer, length);
    }
    pthread_mutex_lock(&cache->mutex);
    while (length > 0 && result == 0) {
        size_t done;

        result = read_some(cache, offset, at, length, &done);
        offset += done;
        at += done;
        length -= done;
    }
    pthread_mutex_unlock(&cache->mutex);
    return result;
}

/* --- What changes it -------------------------------------------------------------------------- */

static void forget_block(struct read_cache *cache, uint32_t at)
{
    if (cache->places[at].state == PLACE_FILLING) {
        cache->places[at].is_stale = true;
    } else if (cache->places[at].state == PLACE_READY) {
        cache_give_up(cache, at);
    }
}

/* The range was changed, and whoever did that is not told so yet. */
static void forget(struct read_cache *cache, uint64_t offset, uint64_t length)
{
    uint64_t first = offset / CACHE_BLOCK, last;

    if (length == 0) {
        return;
    }
    last = (length - 1 < UINT64_MAX - offset ? offset + length - 1 : UINT64_MAX) / CACHE_BLOCK;
    pthread_mutex_lock(&cache->mutex);
    if (last - first < cache->unused) {
        for (uint64_t number = first; number <= last; number++) {
            uint32_t at = cache_find(cache, number);

            if (at != PLACE_NONE) {
                forget_block(cache, at);
            }
        }
    } else {
        for (uint32_t at = 0; at < cache->unused; at++) {
            if (cache->places[at].number >= first && cache->places[at].number <= last) {
                forget_block(cache, at);
            }
        }
    }
    pthread_mutex_unlock(&cache->mutex);
}

static void turn_off(struct read_cache *cache)
{
    pthread_mutex_lock(&cache->mutex);
    cache->is_off = true;
    pthread_mutex_unlock(&cache->mutex);
}

/* Before the first write, of a file that is kept: a crash from here on finds it said. */
static int mark_written(struct read_cache *cache)
{
    int result = 0;

    if (!cache->file.is_kept) {
        return 0;
    }
    pthread_mutex_lock(&cache->marking);
    if (!cache->is_marked) {
        result = cache_file_mark(&cache->file, true);
        if (result < 0) { /* a host in trouble: without a cache then */
            turn_off(cache);
            result = cache_file_forget(&cache->file) == 0 ? 0 : -EIO;
        }
        cache->is_marked = result == 0;
    }
    pthread_mutex_unlock(&cache->marking);
    return result;
}

/* Of what changes the store. */
static int changed(struct read_cache *cache, uint64_t offset, uint64_t length, int result)
{
    forget(cache, offset, length);
    if (result < 0) {
        turn_off(cache);
    }
    return result;
}

static int cache_write(struct store *store, uint64_t offset, const void *buffer, size_t length)
{
    struct read_cache *cache = to_cache(store);
    int result = mark_written(cache);

    return result == 0 ? changed(cache, offset, length,
                                 store_write(cache->through.inner, offset, buffer, length))
                       : result;
}

static int cache_punch(struct store *store, uint64_t offset, uint64_t length)
{
    struct read_cache *cache = to_cache(store);
    int result = mark_written(cache);

    return result == 0
               ? changed(cache, offset, length, store_punch(cache->through.inner, offset, length))
               : result;
}

/* One that has its size, as a server's has, says no: then nothing was changed. */
static int cache_resize(struct store *store, uint64_t size)
{
    struct read_cache *cache = to_cache(store);
    int result = mark_written(cache);

    if (result == 0) {
        result = store_resize(cache->through.inner, size);
    }
    if (result == 0) {
        turn_off(cache); /* its size was what its blocks are by */
    }
    return result;
}

static int cache_sync(struct store *store)
{
    struct read_cache *cache = to_cache(store);
    int result = store_sync(cache->through.inner);

    if (result < 0) {
        turn_off(cache);
    }
    return result;
}

/* What was written is stable, and all that the file tells is so. */
static void end_marked(struct read_cache *cache)
{
    if (cache->is_marked && !cache->is_off && !cache->unsafe &&
        store_sync(cache->through.inner) == 0 && cache_save_map(cache) == 0) {
        (void)cache_file_mark(&cache->file, false);
    }
}

static void destroy(struct read_cache *cache)
{
    cache_file_close(&cache->file);
    pthread_cond_destroy(&cache->filled);
    pthread_mutex_destroy(&cache->mutex);
    pthread_mutex_destroy(&cache->marking);
    free(cache->places);
    free(cache->heads);
    free(cache);
}

static void cache_close(struct store *store)
{
    struct read_cache *cache = to_cache(store);

    end_marked(cache);
    store_close(cache->through.inner);
    destroy(cache);
}

static const struct store_ops cache_ops = {
    .read = cache_read,
    .write = cache_write,
    .sync = cache_sync,
    .punch = cache_punch,
    .refuses_holes = through_refuses_holes,
    .resize = cache_resize,
    .info = through_info,
    .extent = through_extent,
    .lost = through_lost,
    .may_start_threads = through_may_start_threads,
    .close = cache_close,
};

int store_read_cache(struct store *inner, const char *address,
                     const struct read_cache_options *options, bool unsafe, struct store **store,
                     struct error *error)
{
    struct read_cache *cache = calloc(1, sizeof(*cache));
    struct store_info info;
    bool is_new = true;
    int result = cache == NULL ? -ENOMEM : store_info(inner, &info);

    if (result < 0) {
        free(cache);
        return error_set(error, -result, "%s: %s", address, strerror(-result));
    }
    cache->through.store.ops = &cache_ops;
    cache->through.inner = inner;
    cache->size = info.size;
    cache->unsafe = unsafe;
    cache->file.fd = -1;
    pthread_mutex_init(&cache->marking, NULL);
    pthread_mutex_init(&cache->mutex, NULL);
    pthread_cond_init(&cache->filled, NULL);
    result = cache_file_open(options, address, cache->size, &cache->file, &is_new, error);
    if (result == 0 && !cache_make_places(cache)) {
        result = error_set(error, ENOMEM,
                           "%s: no memory for so large a read cache; make "
                           "read-cache-size smaller",
                           options->path);
    }
    if (result == 0 && !is_new) {
        result = cache_go_on(cache, options->path, error);
    }
    if (result < 0) {
        destroy(cache);
        return result;
    }
    *store = &cache->through.store;
    return 0;
}
