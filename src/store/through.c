/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "store/through.h"

int through_read(struct store *store, uint64_t offset, void *buffer, size_t length)
{
    return store_read(through_inner(store), offset, buffer, length);
}

int through_sync(struct store *store)
{
    return store_sync(through_inner(store));
}

int through_punch(struct store *store, uint64_t offset, uint64_t length)
{
    return store_punch(through_inner(store), offset, length);
}

bool through_refuses_holes(struct store *store)
{
    return store_refuses_holes(through_inner(store));
}

int through_allocate(struct store *store, uint64_t offset, uint64_t length)
{
    return store_allocate(through_inner(store), offset, length);
}

int through_fill(struct store *store, uint64_t offset, uint64_t length)
{
    return store_fill(through_inner(store), offset, length);
}

int through_info(struct store *store, struct store_info *info)
{
    return store_info(through_inner(store), info);
}

int through_extent(struct store *store, uint64_t offset, uint64_t limit, bool *is_data,
                   uint64_t *length)
{
    return store_extent(through_inner(store), offset, limit, is_data, length);
}

bool through_lost(struct store *store, uint64_t offset, uint64_t length)
{
    return store_lost(through_inner(store), offset, length);
}

void through_may_start_threads(struct store *store)
{
    store_may_start_threads(through_inner(store));
}
