/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "store/nbd_unflushed.h"

#include "util/checked.h"

#include <pthread.h>
#include <stdlib.h>

#define GRANULE_MIN  (UINT64_C(64) << 10) /* bytes */
#define GRANULES_MAX (UINT64_C(1) << 20)
#define WORD_BITS    64

struct granules {
    uint64_t *words;
    uint64_t first, end; /* of the words that are not zero for certain; first >= end: all are */
};

struct nbd_unflushed {
    uint64_t granule; /* bytes */

    pthread_mutex_t mutex; /* guards all below */
    struct granules written, flushing;
    uint64_t under_way; /* writes */
    bool broken;
};

static bool has_any(const struct granules *granules)
{
    return granules->first < granules->end;
}

static void include(struct granules *granules, uint64_t first, uint64_t end)
{
    granules->first = has_any(granules) ? min_u64(granules->first, first) : first;
    granules->end = max_u64(granules->end, end);
}

static void clear(struct granules *granules)
{
    for (uint64_t i = granules->first; i < granules->end; i++) {
        granules->words[i] = 0;
    }
    granules->first = 0;
    granules->end = 0;
}

struct nbd_unflushed *nbd_unflushed_create(uint64_t size)
{
    struct nbd_unflushed *unflushed = calloc(1, sizeof(*unflushed));
    uint64_t words;

    if (unflushed == NULL) {
        return NULL;
    }
    unflushed->granule = GRANULE_MIN;
    while (size / unflushed->granule >= GRANULES_MAX) {
        unflushed->granule *= 2;
    }
    pthread_mutex_init(&unflushed->mutex, NULL);
    words = size / unflushed->granule / WORD_BITS + 1;
    unflushed->written.words = calloc(in_memory(words), sizeof(uint64_t));
    unflushed->flushing.words = calloc(in_memory(words), sizeof(uint64_t));
    if (unflushed->written.words == NULL || unflushed->flushing.words == NULL) {
        nbd_unflushed_destroy(unflushed);
        return NULL;
    }
    return unflushed;
}

void nbd_unflushed_destroy(struct nbd_unflushed *unflushed)
{
    if (unflushed != NULL) {
        pthread_mutex_destroy(&unflushed->mutex);
        free(unflushed->written.words);
        free(unflushed->flushing.words);
        free(unflushed);
    }
}

void nbd_unflushed_write_begins(struct nbd_unflushed *unflushed)
{
    pthread_mutex_lock(&unflushed->mutex);
    unflushed->under_way++;
    pthread_mutex_unlock(&unflushed->mutex);
}

void nbd_unflushed_write_ends(struct nbd_unflushed *unflushed, uint64_t offset, uint64_t length)
{
    uint64_t first = offset / unflushed->granule, last = (offset + length - 1) / unflushed->granule;

    pthread_mutex_lock(&unflushed->mutex);
    unflushed->under_way--;
    include(&unflushed->written, first / WORD_BITS, last / WORD_BITS + 1);
    for (uint64_t i = first; i <= last; i++) {
        unflushed->written.words[i / WORD_BITS] |= UINT64_C(1) << (i % WORD_BITS);
    }
    pthread_mutex_unlock(&unflushed->mutex);
}

void nbd_unflushed_flush_begins(struct nbd_unflushed *unflushed)
{
    struct granules *written = &unflushed->written, *flushing = &unflushed->flushing;

    pthread_mutex_lock(&unflushed->mutex);
    if (!unflushed->broken && has_any(written)) {
        for (uint64_t i = written->first; i < written->end; i++) {
            flushing->words[i] |= written->words[i];
        }
        include(flushing, written->first, written->end);
        clear(written);
    }
    pthread_mutex_unlock(&unflushed->mutex);
}

void nbd_unflushed_flush_ends(struct nbd_unflushed *unflushed, bool success)
{
    pthread_mutex_lock(&unflushed->mutex);
    if (!success) {
        unflushed->broken = true;
    } else if (!unflushed->broken) {
        clear(&unflushed->flushing);
    }
    pthread_mutex_unlock(&unflushed->mutex);
}

/* With the mutex held. */
static bool at_stake(const struct nbd_unflushed *unflushed)
{
    return unflushed->under_way > 0 || has_any(&unflushed->written) ||
           has_any(&unflushed->flushing);
}

void nbd_unflushed_lost(struct nbd_unflushed *unflushed)
{
    if (unflushed != NULL) {
        pthread_mutex_lock(&unflushed->mutex);
        unflushed->broken = unflushed->broken || at_stake(unflushed);
        pthread_mutex_unlock(&unflushed->mutex);
    }
}

bool nbd_unflushed_at_stake(struct nbd_unflushed *unflushed)
{
    bool result = false;

    if (unflushed != NULL) {
        pthread_mutex_lock(&unflushed->mutex);
        result = !unflushed->broken && at_stake(unflushed);
        pthread_mutex_unlock(&unflushed->mutex);
    }
    return result;
}

bool nbd_unflushed_is_broken(struct nbd_unflushed *unflushed)
{
    bool result = false;

    if (unflushed != NULL) {
        pthread_mutex_lock(&unflushed->mutex);
        result = unflushed->broken;
        pthread_mutex_unlock(&unflushed->mutex);
    }
    return result;
}

/* With the mutex held: whether a part of the range is written, and not flushed. */
static bool touches(const struct nbd_unflushed *unflushed, uint64_t offset, uint64_t length)
{
    const uint64_t *written = unflushed->written.words, *flushing = unflushed->flushing.words;
    bool result = false;

    for (uint64_t i = offset / unflushed->granule;
         !result && i <= (offset + length - 1) / unflushed->granule; i++) {
        result = ((written[i / WORD_BITS] | flushing[i / WORD_BITS]) &
                  (UINT64_C(1) << (i % WORD_BITS))) != 0;
    }
    return result;
}

bool nbd_unflushed_is_stable(struct nbd_unflushed *unflushed, uint64_t offset, uint64_t length)
{
    bool result = true;

    if (unflushed != NULL && length > 0) {
        pthread_mutex_lock(&unflushed->mutex);
        result = !touches(unflushed, offset, length);
        pthread_mutex_unlock(&unflushed->mutex);
    }
    return result;
}

bool nbd_unflushed_is_doubtful(struct nbd_unflushed *unflushed, uint64_t offset, uint64_t length)
{
    bool result = false;

    if (unflushed != NULL && length > 0) {
        pthread_mutex_lock(&unflushed->mutex);
        result = unflushed->broken && touches(unflushed, offset, length);
        pthread_mutex_unlock(&unflushed->mutex);
    }
    return result;
}
