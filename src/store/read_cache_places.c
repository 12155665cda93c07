/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "store/read_cache_internal.h"

#include "util/checked.h"

#include <stdlib.h>

#define LOOKS 128 /* at places, for one whose block may be given up */

static uint32_t *head_of(struct read_cache *cache, uint64_t number)
{
    return &cache->heads[(number * UINT64_C(0x9e3779b97f4a7c15) >> 32) & cache->mask];
}

uint32_t cache_find(struct read_cache *cache, uint64_t number)
{
    uint32_t at = *head_of(cache, number);

    while (at != PLACE_NONE && cache->places[at].number != number) {
        at = cache->places[at].next;
    }
    return at;
}

void cache_insert(struct read_cache *cache, uint32_t at, uint64_t number, enum place_state state)
{
    uint32_t *head = head_of(cache, number);

    cache->places[at] = (struct place){.number = number, .next = *head, .state = (uint8_t)state};
    *head = at;
}

static void take_out(struct read_cache *cache, uint32_t at)
{
    uint32_t *link = head_of(cache, cache->places[at].number);

    while (*link != at) {
        link = &cache->places[*link].next;
    }
    *link = cache->places[at].next;
}

void cache_set_free(struct read_cache *cache, uint32_t at)
{
    cache->places[at] = (struct place){.state = PLACE_FREE, .next = cache->free};
    cache->free = at;
}

/* The place is nobody's as soon as nobody reads it. */
void cache_give_up(struct read_cache *cache, uint32_t at)
{
    take_out(cache, at);
    if (cache->places[at].users > 0) {
        cache->places[at].state = PLACE_LEAVING;
    } else {
        cache_set_free(cache, at);
    }
}

/* A place whose block was not used of late is free then; PLACE_NONE: there is none to be had now.
 */
static uint32_t make_room(struct read_cache *cache)
{
    uint32_t fallback = PLACE_NONE;

    for (unsigned i = 0; i < LOOKS; i++) {
        struct place *place = &cache->places[cache->hand];

        if (place->state == PLACE_READY && place->users == 0) {
            if (!place->is_recent) {
                fallback = cache->hand;
                break;
            }
            place->is_recent = false;
            fallback = fallback == PLACE_NONE ? cache->hand : fallback;
        }
        cache->hand = (cache->hand + 1) % cache->file.places;
    }
    if (fallback != PLACE_NONE) {
        cache_give_up(cache, fallback);
    }
    return cache->free;
}

/* A place of its own for a block; PLACE_NONE: there is none. */
uint32_t cache_take_place(struct read_cache *cache, uint64_t number)
{
    uint32_t at;

    if (cache->free == PLACE_NONE && cache->unused < cache->file.places) {
        cache_set_free(cache, cache->unused++);
    }
    at = cache->free != PLACE_NONE ? cache->free : make_room(cache);
    if (at != PLACE_NONE) {
        cache->free = cache->places[at].next;
        cache_insert(cache, at, number, PLACE_FILLING);
    }
    return at;
}

/* No place has a block. */
void cache_empty(struct read_cache *cache)
{
    for (uint32_t i = 0; i <= cache->mask; i++) {
        cache->heads[i] = PLACE_NONE;
    }
    cache->free = PLACE_NONE;
    cache->unused = 0;
}

bool cache_make_places(struct read_cache *cache)
{
    uint64_t heads = 1;

    while (heads < cache->file.places) {
        heads *= 2;
    }
    cache->mask = (uint32_t)(heads - 1);
    cache->places = calloc(cache->file.places, sizeof(*cache->places));
    cache->heads = calloc(in_memory(heads), sizeof(*cache->heads));
    if (cache->places == NULL || cache->heads == NULL) {
        return false;
    }
    cache_empty(cache);
    return true;
}
