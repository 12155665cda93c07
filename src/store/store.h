/* SPDX-License-Identifier: MIT */
/*
 * A store is a container of bytes: an image file, its data file, a raw backing
 * file. This vtable is all that the floors above know of it; behind it stands
 * a host file (store/file.h) today, and in tests a double that records or
 * fails. Offsets and lengths are in bytes. Every function may be called by any
 * thread at any time between opening and closing; none takes a lock that a
 * caller could hold.
 *
 * Each returns 0 or a negative errno. A transfer is whole or failed: a short
 * one is never reported as success.
 */
#ifndef STORE_STORE_H
#define STORE_STORE_H

#include "store/owners.h"

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/types.h>
#include <time.h>

struct store;

struct store_info {
    uint64_t size;      /* bytes a reader can reach */
    uint64_t allocated; /* bytes of host space occupied */
    dev_t device;       /* device and inode tell whether two stores are one file */
    ino_t inode;
    dev_t node; /* the block device that it is; 0: it is none */
    uid_t uid;
    gid_t gid;
    struct owners owners; /* who must be able to open what it names; of a host file */
    mode_t mode;
    struct timespec atime, mtime, ctime;
    bool changes_atime; /* reading may change the access time: the host allows no other way */
    /*
     * Bytes: a request of fewer takes as long, since a server is asked. A power of two; 0 of a
     * host file.
     */
    uint64_t preferred;
};

struct store_ops {
    /*
     * Bytes past the end read as zeros: -EIO, where they were within it at any time since the
     * store was opened, and nobody has cut them off with resize(). What is missing then is lost.
     */
    int (*read)(struct store *store, uint64_t offset, void *buffer, size_t length);
    /* Grows the store where the range ends past its end. */
    int (*write)(struct store *store, uint64_t offset, const void *buffer, size_t length);
    /* When it returns 0, all writes that returned before it began are on stable storage. */
    int (*sync)(struct store *store);
    /* The range reads as zeros afterwards, and its host space is given back where possible. */
    int (*punch)(struct store *store, uint64_t offset, uint64_t length);
    /*
     * Whether a punch() had to write zeros, since the host cannot make holes in the store. NULL:
     * it always can.
     */
    bool (*refuses_holes)(struct store *store);
    int (*resize)(struct store *store, uint64_t size);
    /*
     * Reserves host space for a range of the store, which reads as before.
     * -EOPNOTSUPP where the host cannot; so it is, too, where this is NULL.
     */
    int (*allocate)(struct store *store, uint64_t offset, uint64_t length);
    /*
     * Writes zeros to a range that reads as zeros already, within the store, so that the host has
     * recorded its blocks: what is written there later is stable with a sync that records nothing
     * else. Costs its bytes, once. -EOPNOTSUPP where the host gains nothing by that, or for the
     * range; so it is, too, where this is NULL. Nobody else may write to the range meanwhile.
     */
    int (*fill)(struct store *store, uint64_t offset, uint64_t length);
    int (*info)(struct store *store, struct store_info *info);
    /*
     * Bytes that the host has left for the store to grow by. -EOPNOTSUPP where that cannot be
     * said (a block device); so it is, too, where this is NULL.
     */
    int (*room)(struct store *store, uint64_t *bytes);
    /*
     * Whether the host keeps data at `offset`: *is_data, and in *length how far
     * that goes on, at most to `limit` bytes from offset. All of a store
     * counts as data where the host cannot tell; past its end is a hole, but data where
     * a read would fail because it is lost.
     */
    int (*extent)(struct store *store, uint64_t offset, uint64_t limit, bool *is_data,
                  uint64_t *length);
    /*
     * Whether a part of the range is lost, after a read has failed for that: until then false, so
     * that it costs nothing. NULL where nothing is ever lost.
     */
    bool (*lost)(struct store *store, uint64_t offset, uint64_t length);
    /*
     * From now on the process does not fork, so that reading may start threads. Called once at
     * most. NULL where it never does.
     */
    void (*may_start_threads)(struct store *store);
    void (*close)(struct store *store);
};

struct store {
    const struct store_ops *ops;
};

/* Why a store_read() of the range failed, as part of a sentence; `result` is what it returned. */
static inline const char *store_read_failure(struct store *store, uint64_t offset, size_t length,
                                             int result)
{
    struct store_info info;

    if (result == -EIO && store->ops->info(store, &info) == 0 &&
        (offset > info.size || length > info.size - offset)) {
        return "the file has become shorter than it was";
    }
    return strerror(-result);
}

static inline int store_read(struct store *store, uint64_t offset, void *buffer, size_t length)
{
    return store->ops->read(store, offset, buffer, length);
}

static inline int store_write(struct store *store, uint64_t offset, const void *buffer,
                              size_t length)
{
    return store->ops->write(store, offset, buffer, length);
}

static inline int store_sync(struct store *store)
{
    return store->ops->sync(store);
}

static inline int store_punch(struct store *store, uint64_t offset, uint64_t length)
{
    return store->ops->punch(store, offset, length);
}

static inline bool store_refuses_holes(struct store *store)
{
    return store->ops->refuses_holes != NULL && store->ops->refuses_holes(store);
}

static inline int store_resize(struct store *store, uint64_t size)
{
    return store->ops->resize(store, size);
}

static inline int store_allocate(struct store *store, uint64_t offset, uint64_t length)
{
    return store->ops->allocate != NULL ? store->ops->allocate(store, offset, length) : -EOPNOTSUPP;
}

static inline int store_fill(struct store *store, uint64_t offset, uint64_t length)
{
    return store->ops->fill != NULL ? store->ops->fill(store, offset, length) : -EOPNOTSUPP;
}

static inline int store_room(struct store *store, uint64_t *bytes)
{
    return store->ops->room != NULL ? store->ops->room(store, bytes) : -EOPNOTSUPP;
}

static inline int store_info(struct store *store, struct store_info *info)
{
    return store->ops->info(store, info);
}

static inline int store_extent(struct store *store, uint64_t offset, uint64_t limit, bool *is_data,
                               uint64_t *length)
{
    return store->ops->extent(store, offset, limit, is_data, length);
}

static inline bool store_lost(struct store *store, uint64_t offset, uint64_t length)
{
    return store->ops->lost != NULL && store->ops->lost(store, offset, length);
}

static inline void store_may_start_threads(struct store *store)
{
    if (store->ops->may_start_threads != NULL) {
        store->ops->may_start_threads(store);
    }
}

/* `store` may be NULL. */
static inline void store_close(struct store *store)
{
    if (store != NULL) {
        store->ops->close(store);
    }
}

#endif
