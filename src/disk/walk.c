/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "disk/walk.h"

void disk_walk_begin(struct disk_walk *walk, struct view *view)
{
    *walk = (struct disk_walk){.view = view, .size = view != NULL ? view_size(view) : 0};
    look_init(&walk->look);
}

int disk_walk_at(struct disk_walk *walk, uint64_t position, uint64_t end)
{
    uint64_t length;
    int r;

    if (position < walk->until) {
        return 0;
    }
    if (position >= walk->size) {
        walk->is_data = false;
        walk->until = end;
        return 0;
    }
    r = view_classify(walk->view, position, look_begin(&walk->look, walk->size - position),
                      &walk->is_data, &length);
    if (r == 0) {
        look_end(&walk->look, length);
        walk->until = position + length;
    }
    return r;
}
