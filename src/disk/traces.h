/* SPDX-License-Identifier: MIT */
/*
 * What looking at files leaves on the host: their times of access, where nobody but the owner and
 * root can read without a trace. Whoever keeps evidence wants to know.
 */
#ifndef IMAGE_TRACES_H
#define IMAGE_TRACES_H

#include "disk/image.h"
#include "store/store.h"
#include "util/log.h"

#include <stddef.h>

/* Files whose times of access may change: how many, and the name of the first one, borrowed. */
struct traces {
    const char *first;
    size_t count;
};

void traces_add(struct traces *traces, const char *path, const struct store_info *info);

/* The image, its data file, and what is behind it. */
void traces_add_image(struct traces *traces, const struct image *image);

/* A warning, where there are any; `how` says what to do: "mount as one of them". */
void traces_tell(const struct traces *traces, struct log *log, const char *how);

#endif
