/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "store/limited.h"

#include "util/checked.h"

#include <errno.h>
#include <stdlib.h>

struct limited_store {
    struct store store;
    struct store *inner;
    uint64_t max; /* bytes */
};

static struct limited_store *limited_of(struct store *store)
{
    return (struct limited_store *)store;
}

static struct store *inner_of(struct store *store)
{
    return limited_of(store)->inner;
}

/* Whether the store may end at `end`: it does so already, or that is not too far. */
static int check_end(struct store *store, uint64_t end)
{
    struct store_info info;
    int result;

    if (end <= limited_of(store)->max) {
        return 0;
    }
    result = store_info(inner_of(store), &info);
    if (result < 0) {
        return result;
    }
    return end <= info.size ? 0 : -ENOSPC;
}

static int limited_read(struct store *store, uint64_t offset, void *buffer, size_t length)
{
    return store_read(inner_of(store), offset, buffer, length);
}

static int limited_write(struct store *store, uint64_t offset, const void *buffer, size_t length)
{
    uint64_t end;
    int result = checked_add(offset, length, &end) ? check_end(store, end) : -EFBIG;

    return result < 0 ? result : store_write(inner_of(store), offset, buffer, length);
}

static int limited_sync(struct store *store)
{
    return store_sync(inner_of(store));
}

static int limited_punch(struct store *store, uint64_t offset, uint64_t length)
{
    return store_punch(inner_of(store), offset, length);
}

static int limited_resize(struct store *store, uint64_t size)
{
    int result = check_end(store, size);

    return result < 0 ? result : store_resize(inner_of(store), size);
}

static int limited_allocate(struct store *store, uint64_t offset, uint64_t length)
{
    return store_allocate(inner_of(store), offset, length);
}

static int limited_fill(struct store *store, uint64_t offset, uint64_t length)
{
    return store_fill(inner_of(store), offset, length);
}

static int limited_info(struct store *store, struct store_info *info)
{
    return store_info(inner_of(store), info);
}

static int limited_room(struct store *store, uint64_t *bytes)
{
    uint64_t max = limited_of(store)->max;
    struct store_info info;
    int result = store_room(inner_of(store), bytes);

    if (result == 0) {
        result = store_info(inner_of(store), &info);
    }
    if (result == 0) {
        *bytes = min_u64(*bytes, info.allocated < max ? max - info.allocated : 0);
    }
    return result;
}

static int limited_extent(struct store *store, uint64_t offset, uint64_t limit, bool *is_data,
                          uint64_t *length)
{
    return store_extent(inner_of(store), offset, limit, is_data, length);
}

static bool limited_lost(struct store *store, uint64_t offset, uint64_t length)
{
    return store_lost(inner_of(store), offset, length);
}

static void limited_may_start_threads(struct store *store)
{
    store_may_start_threads(inner_of(store));
}

static void limited_close(struct store *store)
{
    store_close(inner_of(store));
    free(store);
}

static const struct store_ops limited_ops = {
    .read = limited_read,
    .write = limited_write,
    .sync = limited_sync,
    .punch = limited_punch,
    .resize = limited_resize,
    .allocate = limited_allocate,
    .fill = limited_fill,
    .room = limited_room,
    .info = limited_info,
    .extent = limited_extent,
    .lost = limited_lost,
    .may_start_threads = limited_may_start_threads,
    .close = limited_close,
};

int store_limit(struct store *inner, uint64_t max, struct store **store)
{
    struct limited_store *limited = malloc(sizeof(*limited));

    if (limited == NULL) {
        return -ENOMEM;
    }
    *limited = (struct limited_store){.store = {.ops = &limited_ops}, .inner = inner, .max = max};
    *store = &limited->store;
    return 0;
}
