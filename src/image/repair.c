/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "image/writer_internal.h"

#include <errno.h>

int writer_repair(struct writer *writer, struct error *error)
{
    const struct image *image = writer->image;

    if ((image->header->incompatible_features & INCOMPATIBLE_DIRTY) == 0) {
        return 0;
    }
    return error_set(error, EROFS,
                     "%s: is marked dirty: its refcounts may be wrong; repair it with qemu-img "
                     "check -r all, or mount it with -o ro",
                     image->path);
}
