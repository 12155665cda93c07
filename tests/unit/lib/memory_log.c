/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "memory_log.h"

#include "util/checked.h"

#include <check.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK      ((size_t)1024)
#define CHUNKS_MAX ((size_t)4096)

struct memory_log {
    pthread_mutex_t mutex; /* guards all below; a leaf */
    size_t count;
    struct memory_log_entry *chunks[CHUNKS_MAX]; /* entries never move */
};

struct memory_log *memory_log_create(void)
{
    struct memory_log *log = calloc(1, sizeof(*log));

    ck_assert_ptr_nonnull(log);
    pthread_mutex_init(&log->mutex, NULL);
    return log;
}

void memory_log_destroy(struct memory_log *log)
{
    size_t i;

    for (i = 0; i < log->count; i++) {
        free(log->chunks[i / CHUNK][i % CHUNK].data);
    }
    for (i = 0; i < CHUNKS_MAX; i++) {
        free(log->chunks[i]);
    }
    pthread_mutex_destroy(&log->mutex);
    free(log);
}

void memory_log_add(struct memory_log *log, const struct memory_log_entry *entry)
{
    struct memory_log_entry *added;
    void *data = NULL;

    if (entry->kind == MEMORY_LOG_WRITE) {
        data = malloc(max_u64(entry->length, 1));
        if (data == NULL) {
            abort();
        }
        memcpy(data, entry->data, entry->length);
    }
    pthread_mutex_lock(&log->mutex);
    if (log->count / CHUNK >= CHUNKS_MAX) {
        abort();
    }
    if (log->count % CHUNK == 0) {
        log->chunks[log->count / CHUNK] = calloc(CHUNK, sizeof(*added));
        if (log->chunks[log->count / CHUNK] == NULL) {
            abort();
        }
    }
    added = &log->chunks[log->count / CHUNK][log->count % CHUNK];
    *added = *entry;
    added->data = data;
    log->count++;
    pthread_mutex_unlock(&log->mutex);
}

size_t memory_log_count(struct memory_log *log)
{
    size_t count;

    pthread_mutex_lock(&log->mutex);
    count = log->count;
    pthread_mutex_unlock(&log->mutex);
    return count;
}

const struct memory_log_entry *memory_log_at(struct memory_log *log, size_t index)
{
    const struct memory_log_entry *entry;

    pthread_mutex_lock(&log->mutex);
    ck_assert_uint_lt(index, log->count);
    entry = &log->chunks[index / CHUNK][index % CHUNK];
    pthread_mutex_unlock(&log->mutex);
    return entry;
}

size_t memory_log_find(struct memory_log *log, size_t from, enum memory_log_kind kind,
                       uint64_t offset, uint64_t length)
{
    size_t count = memory_log_count(log), i;

    for (i = from; i < count; i++) {
        const struct memory_log_entry *entry = memory_log_at(log, i);

        if (entry->kind == kind &&
            (length == 0 || ranges_overlap(entry->offset, entry->length, offset, length))) {
            return i;
        }
    }
    return count;
}

void memory_log_replay(struct memory_log *log, size_t from, size_t to, const struct store *of,
                       struct store *store)
{
    size_t i;

    for (i = from; i < to; i++) {
        const struct memory_log_entry *entry = memory_log_at(log, i);
        int result = 0;

        if (entry->store != of) {
            continue;
        }
        if (entry->kind == MEMORY_LOG_WRITE) {
            result = store_write(store, entry->offset, entry->data, entry->length);
        } else if (entry->kind == MEMORY_LOG_PUNCH) {
            result = store_punch(store, entry->offset, entry->length);
        } else if (entry->kind == MEMORY_LOG_RESIZE) {
            result = store_resize(store, entry->offset);
        }
        ck_assert_int_eq(result, 0);
    }
}
