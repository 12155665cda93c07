/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "log.h"

#include "tools.h"

#include <stdlib.h>
#include <string.h>

void crash_log_init(struct crash_log *log)
{
    *log = (struct crash_log){.count = 0};
    pthread_mutex_init(&log->mutex, NULL);
}

void crash_log_release(struct crash_log *log)
{
    size_t i;

    for (i = 0; i < log->count; i++) {
        free(log->entries[i].data);
    }
    free(log->entries);
    pthread_mutex_destroy(&log->mutex);
}

size_t crash_log_add(struct crash_log *log, const struct log_entry *entry)
{
    struct log_entry copy = *entry;
    size_t index;

    if (entry->kind == LOG_WRITE) {
        copy.data = grab(entry->length);
        memcpy(copy.data, entry->data, entry->length);
    }
    pthread_mutex_lock(&log->mutex);
    log->entries = room(log->entries, log->count, &log->capacity, sizeof(*log->entries));
    index = log->count++;
    log->entries[index] = copy;
    pthread_mutex_unlock(&log->mutex);
    return index;
}

size_t crash_log_mark(struct crash_log *log, const char *note)
{
    return crash_log_add(log, &(struct log_entry){.kind = LOG_MARK, .note = note});
}
