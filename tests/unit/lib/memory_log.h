/* SPDX-License-Identifier: MIT */
/*
 * What was done to stores in memory, in the order in which it was done: for
 * tests of orders (R1 to R4 of docs/design.md), and of what a crash can leave.
 * Several stores can share a log. Any thread may call any function; what
 * memory_log_at() returns stays until the log is destroyed.
 */
#ifndef UNIT_MEMORY_LOG_H
#define UNIT_MEMORY_LOG_H

#include "store/store.h"

#include <stddef.h>
#include <stdint.h>

enum memory_log_kind {
    MEMORY_LOG_WRITE,
    MEMORY_LOG_SYNC, /* it has returned */
    MEMORY_LOG_PUNCH,
    MEMORY_LOG_RESIZE,
};

struct memory_log_entry {
    enum memory_log_kind kind;
    struct store *store;
    uint64_t offset; /* of a resize: the new size */
    uint64_t length;
    void *data; /* of a write */
};

struct memory_log;

struct memory_log *memory_log_create(void);
void memory_log_destroy(struct memory_log *log);

/* Called by the stores, for what succeeded. `data` is copied. */
void memory_log_add(struct memory_log *log, const struct memory_log_entry *entry);

size_t memory_log_count(struct memory_log *log);
const struct memory_log_entry *memory_log_at(struct memory_log *log, size_t index);

/*
 * The first entry from `from` on that is of this kind and, unless length is 0,
 * touches the range; memory_log_count() where there is none.
 */
size_t memory_log_find(struct memory_log *log, size_t from, enum memory_log_kind kind,
                       uint64_t offset, uint64_t length);

/* Does to `store` what the entries from `from` to before `to` did to `of`. */
void memory_log_replay(struct memory_log *log, size_t from, size_t to, const struct store *of,
                       struct store *store);

#endif
