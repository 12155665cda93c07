/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "ctl/open.h"

#include "disk/keys.h"
#include "util/progress.h"

#include <errno.h>
#include <string.h>

struct image_names ctl_names(const struct common_flags *flags)
{
    return (struct image_names){
        .rights = flags->trust_names.value ? IMAGE_NAMES_TRUSTED : IMAGE_NAMES_OF_OWNER,
        .follow = (enum image_follow)flags->follow.value,
    };
}

bool ctl_no_locks(const struct common_flags *flags)
{
    return flags->locking.value == CTL_LOCKING_OFF;
}

struct keys *ctl_keys(struct ctl *ctl, const struct common_flags *flags)
{
    if (ctl->keys == NULL) {
        (void)keys_open(flags->key_files, keys_iterations_max(&flags->key_iterations_max),
                        &ctl->keys, &ctl->error);
    }
    return ctl->keys;
}

static int open_chain(struct ctl *ctl, const char *path, const struct common_flags *flags,
                      enum image_format format, enum store_access access, struct keys *keys,
                      bool alone, struct image **image)
{
    const struct image_options options = {
        .format = format,
        .access = access,
        .cache = STORE_CACHE_WRITEBACK,
        .names = ctl_names(flags),
        .no_locks = ctl_no_locks(flags),
        .alone = alone,
        .keys = keys,
        .codec = CODEC_FASTEST,
    };
    /* A command goes through the tables once, in order: more memory would not help it. */
    const struct cache_options cache = {
        .l2_size = {.value = CACHE_L2_DEFAULT_MIN, .set = true},
    };
    int r = image_open(path, &options, ctl->log, image, &ctl->error);

    if (r == 0) {
        r = image_attach_cache(*image, &cache, &ctl->error);
        if (r != 0) {
            image_close(*image);
        }
    }
    return r;
}

int ctl_open_format(struct ctl *ctl, const char *path, const struct common_flags *flags,
                    enum image_format format, enum store_access access, struct image **image)
{
    struct keys *keys = ctl_keys(ctl, flags);

    return keys != NULL ? open_chain(ctl, path, flags, format, access, keys, false, image)
                        : -ctl->error.code;
}

int ctl_open(struct ctl *ctl, const char *path, const struct common_flags *flags,
             enum store_access access, struct image **image)
{
    return open_chain(ctl, path, flags, IMAGE_QCOW2, access, NULL, false, image);
}

int ctl_open_tables(struct ctl *ctl, const char *path, const struct common_flags *flags,
                    struct image **image)
{
    return open_chain(ctl, path, flags, IMAGE_QCOW2, STORE_READ, NULL, true, image);
}

static int open_writer(struct ctl *ctl, const char *path, const struct common_flags *flags,
                       bool keeps_bitmaps, struct image **image, struct writer **writer)
{
    struct progress progress;
    const struct writer_options options = {
        .keeps_bitmaps = keeps_bitmaps,
        .discard = true,
        .check = WRITER_CHECK_AUTO,
        .refuse_at_once = true,
        .progress = progress_show,
        .progress_context = &progress,
    };
    int r = flags->key_files != NULL
                ? ctl_open_format(ctl, path, flags, IMAGE_QCOW2, STORE_WRITE, image)
                : ctl_open(ctl, path, flags, STORE_WRITE, image);

    if (r != 0) {
        return r;
    }
    progress_begin(&progress, "qcow2ctl", "repairing the image", "L2 tables");
    r = writer_open(*image, &options, writer, &ctl->error);
    progress_end(&progress);
    if (r != 0) {
        image_close(*image);
    }
    return r;
}

int ctl_open_writer(struct ctl *ctl, const char *path, const struct common_flags *flags,
                    struct image **image, struct writer **writer)
{
    return open_writer(ctl, path, flags, false, image, writer);
}

int ctl_open_tables_writer(struct ctl *ctl, const char *path, const struct common_flags *flags,
                           struct image **image, struct writer **writer)
{
    return open_writer(ctl, path, flags, true, image, writer);
}

int ctl_close_writer(struct ctl *ctl, struct image *image, struct writer *writer, int r)
{
    int closed = writer_close(writer);

    if (r == 0 && closed != 0) {
        error_set(&ctl->error, -closed,
                  "%s: what was changed could not be saved: %s; look at the image with "
                  "qcow2ctl check",
                  image->path, strerror(-closed));
    }
    image_close(image);
    return r != 0 ? r : closed;
}
