/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "cache/cache.h"

#include "util/checked.h"
#include "util/deadline.h"
#include "util/process.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>
#ifdef HAVE_MALLOC_TRIM
#include <malloc.h>
#endif

/* The usual cluster: what most entries of the refcount and data pools measure, bytes. */
#define TYPICAL_CLUSTER ((size_t)64 << 10)

struct cache_cleaner {
    pthread_t thread;
    pthread_mutex_t mutex; /* guards `stop`; not held during the cleaning */
    pthread_cond_t wake;   /* `stop` was set; its clock is CLOCK_MONOTONIC */
    bool stop;
};

int cache_create(const struct cache_sizes *sizes, struct cache **cache)
{
    struct cache *created = calloc(1, sizeof(*created));

    if (created == NULL) {
        return -ENOMEM;
    }
    created->sizes = *sizes;
    if (cache_pool_create(sizes->l2_budget, in_memory(sizes->l2_entry_size), &created->l2) != 0 ||
        cache_pool_create(sizes->refcount_budget, TYPICAL_CLUSTER, &created->refcount) != 0 ||
        cache_pool_create(sizes->data_budget, TYPICAL_CLUSTER, &created->data) != 0) {
        cache_destroy(created);
        return -ENOMEM;
    }
    *cache = created;
    return 0;
}

uint64_t cache_clean(struct cache *cache)
{
    uint64_t dropped = cache_pool_clean(cache->l2);

    dropped += cache_pool_clean(cache->refcount);
    dropped += cache_pool_clean(cache->data);
#ifdef HAVE_MALLOC_TRIM
    /* Memory that was freed in small pieces stays with the process unless it is asked for. */
    if (dropped > 0) {
        malloc_trim(0);
    }
#endif
    return dropped;
}

/* Sleeps until the interval is over. False when the cleaner is to stop; the mutex is held. */
static bool cleaner_wait(struct cache_cleaner *cleaner, unsigned seconds)
{
    struct timespec until;
    int status = 0;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += seconds;
    while (!cleaner->stop && status != ETIMEDOUT) {
        status = pthread_cond_timedwait(&cleaner->wake, &cleaner->mutex, &until);
    }
    return !cleaner->stop;
}

static void *cleaner_run(void *argument)
{
    struct cache *cache = argument;
    struct cache_cleaner *cleaner = cache->cleaner;

    pthread_mutex_lock(&cleaner->mutex);
    while (cleaner_wait(cleaner, cache->sizes.clean_interval)) {
        pthread_mutex_unlock(&cleaner->mutex);
        cache_clean(cache);
        pthread_mutex_lock(&cleaner->mutex);
    }
    pthread_mutex_unlock(&cleaner->mutex);
    return NULL;
}

static struct cache_cleaner *cleaner_create(void)
{
    struct cache_cleaner *cleaner = calloc(1, sizeof(*cleaner));

    if (cleaner == NULL) {
        return NULL;
    }
    pthread_mutex_init(&cleaner->mutex, NULL);
    deadline_condition(&cleaner->wake);
    return cleaner;
}

static void cleaner_free(struct cache_cleaner *cleaner)
{
    pthread_cond_destroy(&cleaner->wake);
    pthread_mutex_destroy(&cleaner->mutex);
    free(cleaner);
}

int cache_start_cleaner(struct cache *cache)
{
    int result;

    if (cache->sizes.clean_interval == 0 || cache->cleaner != NULL) {
        return 0;
    }
    cache->cleaner = cleaner_create();
    if (cache->cleaner == NULL) {
        return -ENOMEM;
    }
    result = process_start_thread(&cache->cleaner->thread, "cache-cleaner", cleaner_run, cache);
    if (result != 0) {
        cleaner_free(cache->cleaner);
        cache->cleaner = NULL;
    }
    return result;
}

static void cleaner_stop(struct cache_cleaner *cleaner)
{
    pthread_mutex_lock(&cleaner->mutex);
    cleaner->stop = true;
    pthread_cond_signal(&cleaner->wake);
    pthread_mutex_unlock(&cleaner->mutex);
    pthread_join(cleaner->thread, NULL);
    cleaner_free(cleaner);
}

void cache_destroy(struct cache *cache)
{
    if (cache == NULL) {
        return;
    }
    if (cache->cleaner != NULL) {
        cleaner_stop(cache->cleaner);
    }
    cache_pool_destroy(cache->data);
    cache_pool_destroy(cache->refcount);
    cache_pool_destroy(cache->l2);
    free(cache);
}
