/* SPDX-License-Identifier: MIT */
/*
 * A store in memory (memory_store.h) on a host that has only so much room: what
 * would make the file longer than that fails with ENOSPC, as on a full disk. An
 * image that says to write far out then costs nothing.
 */
#ifndef FUZZ_BOUNDED_STORE_H
#define FUZZ_BOUNDED_STORE_H

#include "store/store.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A copy of the bytes; store_close() frees all. */
struct store *bounded_store_from(const void *bytes, size_t size, uint64_t most);

/* The store in memory behind it, for memory_store_data() and the like. */
struct store *bounded_store_memory(struct store *store);

/* Whether something failed for want of room. */
bool bounded_store_was_full(struct store *store);

#endif
