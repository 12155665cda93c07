/* SPDX-License-Identifier: MIT */
/* Which internal snapshot is meant. */
#ifndef CTL_SNAPSHOT_H
#define CTL_SNAPSHOT_H

#include "disk/image.h"
#include "util/error.h"

#include <stdbool.h>
#include <stddef.h>

/*
 * The index in image->snapshots of the one with that ID, or else with that name. 0, or a negative
 * errno with a sentence: -ENOENT; -EINVAL where several have the name or, with `strict`, where
 * `wanted` is the ID of one and the name of another.
 */
int snapshot_find(const struct image *image, const char *wanted, bool strict, size_t *index,
                  struct error *error);

#endif
