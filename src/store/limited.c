/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "store/limited.h"

#include "store/through.h"
#include "util/checked.h"

#include <errno.h>
#include <stdlib.h>

struct limited_store {
    struct through through;
    uint64_t max; /* bytes */
};

static struct limited_store *limited_of(struct store *store)
{
    return (struct limited_store *)store;
}

/* Whether the store may end at `end`: it does so already, or that is not too far. */
static int check_end(struct store *store, uint64_t end)
{
    struct store_info info;
    int result;

    if (end <= limited_of(store)->max) {
        return 0;
    }
    result = store_info(through_inner(store), &info);
    if (result < 0) {
        return result;
    }
    return end <= info.size ? 0 : -ENOSPC;
}

static int limited_write(struct store *store, uint64_t offset, const void *buffer, size_t length)
{
    uint64_t end;
    int result = checked_add(offset, length, &end) ? check_end(store, end) : -EFBIG;

    return result < 0 ? result : store_write(through_inner(store), offset, buffer, length);
}

static int limited_resize(struct store *store, uint64_t size)
{
    int result = check_end(store, size);

    return result < 0 ? result : store_resize(through_inner(store), size);
}

static int limited_room(struct store *store, uint64_t *bytes)
{
    uint64_t max = limited_of(store)->max;
    struct store_info info;
    int result = store_room(through_inner(store), bytes);

    if (result == 0) {
        result = store_info(through_inner(store), &info);
    }
    if (result == 0) {
        *bytes = min_u64(*bytes, info.allocated < max ? max - info.allocated : 0);
    }
    return result;
}

static void limited_close(struct store *store)
{
    store_close(through_inner(store));
    free(store);
}

static const struct store_ops limited_ops = {
    .read = through_read,
    .write = limited_write,
    .sync = through_sync,
    .punch = through_punch,
    .refuses_holes = through_refuses_holes,
    .resize = limited_resize,
    .allocate = through_allocate,
    .fill = through_fill,
    .room = limited_room,
    .info = through_info,
    .extent = through_extent,
    .lost = through_lost,
    .may_start_threads = through_may_start_threads,
    .close = limited_close,
};

int store_limit(struct store *inner, uint64_t max, struct store **store)
{
    struct limited_store *limited = malloc(sizeof(*limited));

    if (limited == NULL) {
        return -ENOMEM;
    }
    *limited = (struct limited_store){.through = {{.ops = &limited_ops}, inner}, .max = max};
    *store = &limited->through.store;
    return 0;
}
