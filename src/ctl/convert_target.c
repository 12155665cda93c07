/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "ctl/convert_target.h"

#include "util/checked.h"

#include <errno.h>
#include <stdlib.h>

#define ZEROS_BYTES UINT64_C(1048576) /* written at a time where the format has no other way */

typedef int (*write_data)(struct convert_target *target, uint64_t offset, const void *bytes,
                          uint64_t length);

static int write_zeros(struct convert_target *target, write_data data, uint64_t offset,
                       uint64_t length)
{
    uint64_t most = max_u64(ZEROS_BYTES, target->unit);
    uint8_t *zeros = calloc(1, min_size(length, most));
    int r = zeros == NULL ? -ENOMEM : 0;

    while (length > 0 && r == 0) {
        uint64_t part = min_u64(length, most);

        r = data(target, offset, zeros, part);
        offset += part;
        length -= part;
    }
    free(zeros);
    return r;
}

/* --- A raw file or device --------------------------------------------------------------- */

static int raw_data(struct convert_target *target, uint64_t offset, const void *bytes,
                    uint64_t length)
{
    return store_write(target->store, offset, bytes, in_memory(length));
}

static int raw_zeros(struct convert_target *target, uint64_t offset, uint64_t length)
{
    return store_punch(target->store, offset, length);
}

static int raw_written_zeros(struct convert_target *target, uint64_t offset, uint64_t length)
{
    return write_zeros(target, raw_data, offset, length);
}

static int raw_finish(struct convert_target *target)
{
    struct store_info info;
    int r = store_info(target->store, &info);

    if (r == 0 && info.size < target->size) {
        r = store_resize(target->store, target->size);
    }
    return r == 0 ? store_sync(target->store) : r;
}

void convert_target_raw(struct convert_target *target, enum convert_raw kind)
{
    static const struct convert_target_ops empty = {
        .data = raw_data,
        .finish = raw_finish,
    };
    static const struct convert_target_ops other = {
        .data = raw_data,
        .zeros = raw_zeros,
        .finish = raw_finish,
    };
    static const struct convert_target_ops filled = {
        .data = raw_data,
        .zeros = raw_written_zeros,
        .finish = raw_finish,
    };

    target->ops = kind == CONVERT_RAW_EMPTY ? &empty : kind == CONVERT_RAW_OTHER ? &other : &filled;
}

/* --- A new image ---------------------------------------------------------------------------- */

static int new_data(struct convert_target *target, uint64_t offset, const void *bytes,
                    uint64_t length)
{
    return new_image_data(target->image, offset, bytes, length);
}

static int new_zeros(struct convert_target *target, uint64_t offset, uint64_t length)
{
    return new_image_zeros(target->image, offset, length);
}

/* Version 2 cannot say that something reads as zeros, and what is behind it shows. */
static int new_written_zeros(struct convert_target *target, uint64_t offset, uint64_t length)
{
    return write_zeros(target, new_data, offset, length);
}

static int new_finish(struct convert_target *target)
{
    return new_image_finish(target->image);
}

void convert_target_new_image(struct convert_target *target, bool has_backing, bool old_version)
{
    static const struct convert_target_ops alone = {
        .data = new_data,
        .finish = new_finish,
    };
    static const struct convert_target_ops above = {
        .data = new_data,
        .zeros = new_zeros,
        .finish = new_finish,
    };
    static const struct convert_target_ops above_in_version_2 = {
        .data = new_data,
        .zeros = new_written_zeros,
        .finish = new_finish,
    };

    target->ops = !has_backing ? &alone : old_version ? &above_in_version_2 : &above;
}

/* --- An image that exists ------------------------------------------------------------------- */

static int writer_data(struct convert_target *target, uint64_t offset, const void *bytes,
                       uint64_t length)
{
    return writer_write(target->writer, offset, bytes, in_memory(length));
}

static int writer_zeros(struct convert_target *target, uint64_t offset, uint64_t length)
{
    return writer_zero(target->writer, offset, length, true, NULL);
}

static int writer_finish(struct convert_target *target)
{
    return writer_flush(target->writer);
}

void convert_target_writer(struct convert_target *target)
{
    static const struct convert_target_ops ops = {
        .data = writer_data,
        .zeros = writer_zeros,
        .finish = writer_finish,
    };

    target->ops = &ops;
}
