/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "bounded_store.h"

#include "guard.h"
#include "memory_store.h"
#include "util/checked.h"

#include <errno.h>
#include <stdlib.h>

struct bounded_store {
    struct store store;
    struct store *memory;
    uint64_t most; /* bytes */
    bool was_full;
};

static struct bounded_store *to_bounded(struct store *store)
{
    return (struct bounded_store *)((char *)store - offsetof(struct bounded_store, store));
}

static int bounded_read(struct store *store, uint64_t offset, void *buffer, size_t length)
{
    return store_read(to_bounded(store)->memory, offset, buffer, length);
}

static int bounded_write(struct store *store, uint64_t offset, const void *buffer, size_t length)
{
    struct bounded_store *bounded = to_bounded(store);

    if (!range_within(offset, length, bounded->most)) {
        bounded->was_full = true;
        return -ENOSPC;
    }
    return store_write(bounded->memory, offset, buffer, length);
}

static int bounded_sync(struct store *store)
{
    return store_sync(to_bounded(store)->memory);
}

static int bounded_punch(struct store *store, uint64_t offset, uint64_t length)
{
    return store_punch(to_bounded(store)->memory, offset, length);
}

static int bounded_resize(struct store *store, uint64_t size)
{
    struct bounded_store *bounded = to_bounded(store);

    if (size > bounded->most) {
        bounded->was_full = true;
        return -ENOSPC;
    }
    return store_resize(bounded->memory, size);
}

static int bounded_info(struct store *store, struct store_info *info)
{
    return store_info(to_bounded(store)->memory, info);
}

static int bounded_extent(struct store *store, uint64_t offset, uint64_t limit, bool *is_data,
                          uint64_t *length)
{
    return store_extent(to_bounded(store)->memory, offset, limit, is_data, length);
}

static void bounded_close(struct store *store)
{
    store_close(to_bounded(store)->memory);
    free(to_bounded(store));
}

static const struct store_ops bounded_ops = {
    .read = bounded_read,
    .write = bounded_write,
    .sync = bounded_sync,
    .punch = bounded_punch,
    .resize = bounded_resize,
    .info = bounded_info,
    .extent = bounded_extent,
    .close = bounded_close,
};

struct store *bounded_store_from(const void *bytes, size_t size, uint64_t most)
{
    struct bounded_store *bounded = calloc(1, sizeof(*bounded));

    FUZZ_EXPECT(bounded != NULL);
    bounded->store.ops = &bounded_ops;
    bounded->memory = memory_store_from(bytes, size);
    bounded->most = max_u64(most, size);
    memory_store_set_sparse(bounded->memory, true);
    return &bounded->store;
}

struct store *bounded_store_memory(struct store *store)
{
    return to_bounded(store)->memory;
}

bool bounded_store_was_full(struct store *store)
{
    return to_bounded(store)->was_full;
}
