/* SPDX-License-Identifier: MIT */
/*
 * A host file in memory, as a store, that
 *
 *     gives way   to other threads before, within and after each call; a
 *                 transfer is done in pieces, as hosts do it: of whole sectors, where it does
 *                 not tear them
 *     is full     for a while: what needs a new block fails
 *     fails       calls by chance, for a while
 *     crashes     it knows what a sync has made stable, and can be copied as a
 *                 crash would leave it at this moment
 *
 * Its bytes are at one place as long as it lives.
 */
#ifndef RACES_HOST_H
#define RACES_HOST_H

#include "crash/tools.h"
#include "store/store.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HOST_SECTOR UINT64_C(512)

/* What the hosts of a run have in common: one device, that is full or fails as a whole. */
struct trouble {
    _Atomic bool full;
    _Atomic unsigned failing;      /* one of so many calls fails; 0: none */
    _Atomic bool syncs_fail;       /* each sync fails */
    _Atomic uint64_t failed;       /* calls that did */
    _Atomic uint64_t failed_syncs; /* of these */
    bool tears; /* a sector that is being written may be read half old, half new */
    uint64_t seed;
};

struct host;

/* Takes a copy of the bytes. `trouble` may be NULL; `fills`: the host gains by store_fill(). */
struct host *host_create(const uint8_t *bytes, uint64_t size, struct trouble *trouble, bool fills);
void host_destroy(struct host *host);

/* It has this size from now on, at least what it has, as a device or a server's export. */
void host_fix_size(struct host *host, uint64_t size);

/* Closing it does nothing. */
struct store *host_store(struct host *host);

const uint8_t *host_bytes(const struct host *host);
uint64_t host_size(const struct host *host);

/* What comes first of all that is not stable yet may arrive, or any part of it. */
enum crash_kind {
    CRASH_STABLE,  /* nothing of it */
    CRASH_ALL,     /* all */
    CRASH_PREFIX,  /* the oldest */
    CRASH_WRITES,  /* any writes */
    CRASH_SECTORS, /* any sectors */
    CRASH_KINDS,
};

/*
 * Copies of `count` hosts as a crash at this moment leaves them, without
 * trouble. The moment is between two calls of *tick, which is advanced in it.
 */
void hosts_crash(struct host *const *hosts, struct host **copies, size_t count,
                 struct chance *chance, atomic_uint_fast64_t *tick, uint64_t *moment);

#endif
