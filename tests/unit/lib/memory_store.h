/* SPDX-License-Identifier: MIT */
/*
 * A store in memory, for the tests of all that reads or writes a store. It
 * counts the calls, and fails or delays them when it is told to. Any thread
 * may call any function at any time, but for the bytes behind
 * memory_store_data(): to touch those while others use the store is the
 * test's own responsibility.
 *
 * Its memory is not occupied before it is touched, so a store may be far
 * larger than the host's memory. Where the host gives none, the test aborts.
 */
#ifndef UNIT_MEMORY_STORE_H
#define UNIT_MEMORY_STORE_H

#include "memory_log.h"
#include "store/store.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum memory_store_call {
    MEMORY_STORE_READ,
    MEMORY_STORE_WRITE,
    MEMORY_STORE_SYNC,
    MEMORY_STORE_PUNCH,
    MEMORY_STORE_RESIZE,
    MEMORY_STORE_EXTENT,
    MEMORY_STORE_FILL,
    MEMORY_STORE_CALLS, /* how many kinds there are */
};

/* A store of `size` zeros; store_close() frees it. */
struct store *memory_store_create(uint64_t size);

/* A store with a copy of these bytes. */
struct store *memory_store_from(const void *bytes, size_t size);

/* Its bytes: valid until the store grows or is closed. */
uint8_t *memory_store_data(struct store *store);
uint64_t memory_store_size(struct store *store);

/* How often this was called, failed calls included. */
unsigned memory_store_calls(struct store *store, enum memory_store_call call);

/*
 * From now on the n-th call (1 is the next one) returns -error, and no other.
 * It changes nothing but, for a read, the buffer: that holds garbage then. One
 * order for each kind of call; n = 0 withdraws it.
 */
void memory_store_fail(struct store *store, enum memory_store_call call, unsigned n, int error);

/* The same, and so does every call after the n-th, until it is withdrawn. */
void memory_store_fail_from(struct store *store, enum memory_store_call call, unsigned n,
                            int error);

/* The same, of `times` calls. */
void memory_store_fail_times(struct store *store, enum memory_store_call call, unsigned n,
                             unsigned times, int error);

/* From now on a write that fails is done all the same, as where only its answer is lost. */
void memory_store_set_lands(struct store *store, bool lands);

/* Every read that touches the range returns -error; a length of 0 ends that. */
void memory_store_fail_reads(struct store *store, uint64_t offset, uint64_t length, int error);

/*
 * Every read that touches the range waits until memory_store_release_reads(),
 * which also ends the blocking; reads elsewhere go on. One range at a time.
 * memory_store_wait_blocked() returns when at least `count` reads are waiting.
 */
void memory_store_block_reads(struct store *store, uint64_t offset, uint64_t length);
void memory_store_wait_blocked(struct store *store, unsigned count);
void memory_store_release_reads(struct store *store);

/*
 * The next read of the byte at `offset` that begins before it has what lies before when it waits,
 * and takes the rest once memory_store_release_reads() was called, as a host may do it beside a
 * write. memory_store_wait_blocked() counts it, too.
 */
void memory_store_tear_read(struct store *store, uint64_t offset);

/*
 * The next write waits before it changes anything, until it is released; those that come after it
 * do not. memory_store_wait_blocked() counts it, too.
 */
void memory_store_hold_write(struct store *store);
void memory_store_release_write(struct store *store);

/*
 * The same for syncs: each waits before it does anything, until they are
 * released. A write that ends meanwhile is one that this sync does not cover.
 */
void memory_store_block_syncs(struct store *store);
void memory_store_wait_syncs(struct store *store, unsigned count);
void memory_store_release_syncs(struct store *store);

/* From now on what succeeds is noted in `log`, which outlives the store; NULL ends that. */
void memory_store_set_log(struct store *store, struct memory_log *log);

/* From now on store_fill() writes zeros; before, the store gains nothing by it. */
void memory_store_set_fills(struct store *store, bool fills);

/* store_fill() waits before it does anything, as syncs do. */
void memory_store_block_fills(struct store *store);
void memory_store_wait_fill(struct store *store);
void memory_store_release_fills(struct store *store);

/* And so does store_punch(). */
void memory_store_block_punches(struct store *store);
void memory_store_wait_punch(struct store *store);
void memory_store_release_punches(struct store *store);

/*
 * A new store is data from end to end, like a file of a host that cannot tell.
 * A sparse one reports as a hole every block of MEMORY_STORE_BLOCK bytes
 * (aligned) that holds nothing but zeros.
 */
#define MEMORY_STORE_BLOCK 4096
void memory_store_set_sparse(struct store *store, bool sparse);

#endif
