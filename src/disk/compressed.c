/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "disk/compressed.h"

#include "cache/change.h"
#include "meta/format.h"
#include "util/checked.h"

#include <string.h>

/* codec_read_fn; `context` is the view_extent. */
static int read_input(void *context, void *input, size_t size)
{
    const struct view_extent *found = context;

    return store_read(found->extent.store, found->extent.host_offset, input, size);
}

/* cache_fill_fn of a decompressed cluster; `context` is the view_extent that names it. */
static int inflate(void *context, void *data, size_t size)
{
    struct view_extent *found = context;

    return codec_decompress_read(found->image->codec, read_input, found,
                                 in_memory(found->extent.compressed_size), data, size);
}

/* Two entries that name the same offset may say that there are fewer bytes, or more. */
static struct cache_key key_of(const struct view_extent *found)
{
    return (struct cache_key){
        .owner = found->image->number,
        .host_offset =
            l2_entry_compressed_place(found->extent.host_offset, found->extent.compressed_size,
                                      found->image->header->cluster_bits),
    };
}

static int get(const struct view_extent *found, const struct cache_entry **cluster)
{
    struct view_extent context = *found;

    return cache_pool_get(found->image->cache->data, key_of(found),
                          in_memory(found->image->header->cluster_size), inflate, &context,
                          cluster);
}

/* All of the cluster: what somebody has prefetched, or without a way round through the pool. */
static int read_whole(const struct view_extent *found, void *buffer)
{
    struct cache_pool *pool = found->image->cache->data;
    size_t size = in_memory(found->image->header->cluster_size);
    struct view_extent context = *found;
    const struct cache_entry *cluster;

    /* Why a prefetch failed is no answer to anybody: this one will find out. */
    if (cache_pool_find(pool, key_of(found), size, &cluster) < 0) {
        return inflate(&context, buffer, size);
    }
    memcpy(buffer, cluster->data, size);
    cache_pool_unpin_last(pool, cluster);
    return 0;
}

int compressed_read(const struct view_extent *found, void *buffer, size_t length, bool once)
{
    struct cache_pool *pool = found->image->cache->data;
    size_t size = in_memory(found->image->header->cluster_size);
    const struct cache_entry *cluster;
    int result;

    if (once && length == size) {
        return read_whole(found, buffer);
    }
    result = get(found, &cluster);
    if (result < 0) {
        return result;
    }
    memcpy(buffer, (const uint8_t *)cluster->data + found->extent.offset_in_cluster, length);
    if (once && found->extent.offset_in_cluster + length == size) {
        cache_pool_unpin_last(pool, cluster);
    } else {
        cache_pool_unpin(pool, cluster);
    }
    return 0;
}

int compressed_fetch(const struct view_extent *found)
{
    const struct cache_entry *cluster;
    int result = get(found, &cluster);

    if (result == 0) {
        cache_pool_unpin(found->image->cache->data, cluster);
    }
    return result;
}

void compressed_forget(const struct image *image, uint64_t entry)
{
    const struct cache_key key = {
        .owner = image->number,
        .host_offset = entry & ~L2_ENTRY_COMPRESSED,
    };

    cache_pool_drop(image->cache->data, key);
}
