/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "admin/preallocated.h"

#include "meta/refcount.h"
#include "util/checked.h"

/* Whether at least `least` of the first `clusters` clusters have a count. */
static bool counted_at_least(struct refcounts *refcounts, uint64_t clusters, uint64_t least)
{
    uint64_t cluster, found = 0, count;

    for (cluster = 0; cluster < clusters && found < least; cluster++) {
        if (refcounts_get(refcounts, cluster, &count) < 0) {
            return false;
        }
        found += count != 0;
    }
    return found >= least;
}

bool image_is_preallocated(const struct image *image)
{
    const struct refcounts_source source = {
        .header = image->header,
        .file = image->file,
        .pool = image->cache->refcount,
        .owner = image->number,
    };
    struct refcounts *refcounts;
    struct store_info info;
    uint64_t occupied;
    bool answer;

    if (store_info(image->file, &info) < 0 ||
        refcounts_open(&source, image->path, &refcounts, NULL) < 0) {
        return false;
    }
    occupied = info.allocated / image->header->cluster_size;
    answer = counted_at_least(refcounts, div_round_up(info.size, image->header->cluster_size),
                              max_u64(occupied * 10 / 9, occupied + 2));
    refcounts_close(refcounts);
    return answer;
}
