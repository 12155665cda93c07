/* SPDX-License-Identifier: MIT */
/*
 * What a workload did to its disks (disk.h), in the order in which it was
 * done, with marks between: the ground of all crash states.
 *
 * A sync has two entries, its beginning and its end. When it has ended, what
 * stands before its beginning is stable; what stands between may be. An entry
 * of a write stands where the write returned. Marks are the clock of the model
 * (model.h): a request lies between two of them.
 *
 * Any thread may add; all else is for when the workload has ended.
 */
#ifndef CRASH_LOG_H
#define CRASH_LOG_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

/* The disks of a workload. */
#define DISKS 2
enum {
    DISK_IMAGE,
    DISK_DATA
};

enum log_kind {
    LOG_WRITE,
    LOG_PUNCH,
    LOG_RESIZE, /* to `length` bytes */
    LOG_SYNC_BEGIN,
    LOG_SYNC_END,
    LOG_MARK,
};

struct log_entry {
    enum log_kind kind;
    unsigned disk;
    uint64_t offset, length; /* bytes; a sync's end: `offset` is the index of its beginning */
    uint8_t *data;           /* of a write; the log's own */
    const char *note;        /* of a mark; a literal */
};

struct crash_log {
    pthread_mutex_t mutex; /* guards all below; a leaf */
    size_t count, capacity;
    struct log_entry *entries;
};

void crash_log_init(struct crash_log *log);
void crash_log_release(struct crash_log *log);

/* Adds a copy, data included; its index. */
size_t crash_log_add(struct crash_log *log, const struct log_entry *entry);
size_t crash_log_mark(struct crash_log *log, const char *note);

#endif
