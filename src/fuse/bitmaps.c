/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "fuse/bitmaps.h"

#include "disk/bitmaps.h"
#include "fuse/snapshots.h"
#include "meta/bitmap.h"
#include "meta/format.h"

#include <errno.h>
#include <string.h>

typedef int change_fn(struct filesystem *filesystem, const struct bitmaps_request *request,
                      struct error *error);

/* The granularity of one that records, as it must for what comes to be changed. */
static int find_granularity(const struct image *image, const char *name, uint64_t *granularity,
                            struct error *error)
{
    struct bitmap_directory *directory;
    const struct bitmap *bitmap;
    int r = bitmap_directory_read(image->file, image->header, image->path, &directory, error);

    if (r < 0) {
        return r;
    }
    bitmap = bitmap_find(directory, name);
    if (bitmap == NULL) {
        r = error_set(error, ENOENT, "%s: has no bitmap '%s'; qcow2ctl info lists them",
                      image->path, name);
    } else if ((bitmap->flags & BITMAP_FLAG_AUTO) == 0) {
        r = error_set(error, EINVAL,
                      "%s: bitmap '%s' is disabled, and does not know what has changed; enable "
                      "one with qcow2ctl bitmap --add or --enable, and make a full backup",
                      image->path, name);
    } else {
        *granularity = bitmap->granularity;
    }
    bitmap_directory_free(directory);
    return r;
}

static int add(struct filesystem *filesystem, const struct bitmaps_request *request,
               struct error *error)
{
    uint64_t granularity = request->granularity;
    int r = request->from != NULL
                ? find_granularity(filesystem->image, request->from, &granularity, error)
                : 0;

    return r < 0 ? r : writer_bitmap_add(filesystem->writer, request->name, granularity, error);
}

static int remove_one(struct filesystem *filesystem, const struct bitmaps_request *request,
                      struct error *error)
{
    return writer_bitmap_remove(filesystem->writer, request->name, error);
}

static int clear(struct filesystem *filesystem, const struct bitmaps_request *request,
                 struct error *error)
{
    return writer_bitmap_clear(filesystem->writer, request->name, error);
}

static int enable(struct filesystem *filesystem, const struct bitmaps_request *request,
                  struct error *error)
{
    return writer_bitmap_enable(filesystem->writer, request->name, true, error);
}

static int disable(struct filesystem *filesystem, const struct bitmaps_request *request,
                   struct error *error)
{
    return writer_bitmap_enable(filesystem->writer, request->name, false, error);
}

static int merge(struct filesystem *filesystem, const struct bitmaps_request *request,
                 struct error *error)
{
    return request->from == NULL
               ? error_set(error, EINVAL, "the request does not say which bitmap is merged")
               : writer_bitmap_merge(filesystem->writer, request->name, filesystem->image,
                                     request->from, error);
}

static const struct {
    const char *ask;
    change_fn *change;
} changes[] = {
    {"bitmap-add", add},       {"bitmap-remove", remove_one}, {"bitmap-clear", clear},
    {"bitmap-enable", enable}, {"bitmap-disable", disable},   {"bitmap-merge", merge},
};

static change_fn *find(const char *ask)
{
    for (size_t i = 0; i < sizeof(changes) / sizeof(changes[0]); i++) {
        if (strcmp(changes[i].ask, ask) == 0) {
            return changes[i].change;
        }
    }
    return NULL;
}

bool bitmaps_knows(const char *ask)
{
    return find(ask) != NULL;
}

int bitmaps_change(struct filesystem *filesystem, const struct bitmaps_request *request,
                   const struct stop *stop, struct error *error)
{
    int r =
        snapshots_hand_over(filesystem, "the bitmap is not changed, since it would miss", error);

    if (r != 0) {
        return r;
    }
    if (stop_requested(stop)) {
        return error_set(error, EINTR, "%s: interrupted before the bitmap was changed",
                         filesystem->image->path);
    }
    tree_begin_change(filesystem->tree);
    r = find(request->ask)(filesystem, request, error);
    shown_bitmaps_update(filesystem->tree->bitmaps);
    tree_end_change(filesystem->tree);
    return r;
}
