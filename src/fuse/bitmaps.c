/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "fuse/bitmaps.h"

#include "disk/bitmaps.h"
#include "fuse/snapshots.h"

#include <errno.h>
#include <string.h>

typedef int change_fn(struct filesystem *filesystem, const struct bitmaps_request *request,
                      struct error *error);

static int add(struct filesystem *filesystem, const struct bitmaps_request *request,
               struct error *error)
{
    return writer_bitmap_add(filesystem->writer, request->name, request->granularity, error);
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
    tree_end_change(filesystem->tree);
    return r;
}
