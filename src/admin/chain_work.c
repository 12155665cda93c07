/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "admin/chain_work.h"

#include <inttypes.h>

struct image_options chain_work_opening(const struct chain_work *work)
{
    return (struct image_options){
        .format = IMAGE_QCOW2,
        .access = STORE_WRITE,
        .cache = STORE_CACHE_WRITEBACK,
        .names = work->names,
        .no_locks = work->no_locks,
        .keys = work->keys,
        .codec = CODEC_FASTEST,
    };
}

int chain_work_attach_cache(struct image *image, struct error *error)
{
    const struct cache_options cache = {
        .l2_size = {.value = CACHE_L2_DEFAULT_MIN, .set = true},
    };

    return image_attach_cache(image, &cache, error);
}

int chain_work_open_writer(struct image *image, bool same_disk, struct writer **writer,
                           struct error *error)
{
    const struct writer_options options = {
        .keeps_bitmaps = same_disk,
        .discard = true,
        .check = WRITER_CHECK_AUTO,
        .refuse_at_once = true,
    };

    return writer_open(image, &options, writer, error);
}

void chain_work_begin(const struct chain_work *work)
{
    if (work->begin != NULL) {
        work->begin(work->context);
    }
}

void chain_work_progress(const struct chain_work *work, uint64_t done, uint64_t total)
{
    if (work->progress != NULL) {
        work->progress(work->context, done, total);
    }
}
