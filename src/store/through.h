/* SPDX-License-Identifier: MIT */
/*
 * What stores that stand before another one have in common: the calls that they hand on as they
 * are, for their tables of calls. Such a store begins with a struct through.
 */
#ifndef STORE_THROUGH_H
#define STORE_THROUGH_H

#include "store/store.h"

struct through {
    struct store store;
    struct store *inner; /* its own, to be closed with it */
};

static inline struct store *through_inner(struct store *store)
{
    return ((struct through *)store)->inner;
}

int through_read(struct store *store, uint64_t offset, void *buffer, size_t length);
int through_sync(struct store *store);
int through_punch(struct store *store, uint64_t offset, uint64_t length);
bool through_refuses_holes(struct store *store);
int through_allocate(struct store *store, uint64_t offset, uint64_t length);
int through_fill(struct store *store, uint64_t offset, uint64_t length);
int through_info(struct store *store, struct store_info *info);
int through_extent(struct store *store, uint64_t offset, uint64_t limit, bool *is_data,
                   uint64_t *length);
bool through_lost(struct store *store, uint64_t offset, uint64_t length);
void through_may_start_threads(struct store *store);

#endif
