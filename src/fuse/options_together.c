/* SPDX-License-Identifier: MIT */
/* What the options of a mount mean together, and which of them cannot be given together. */
#include "config.h"

#include "fuse/options.h"

#include "admin/overlay.h"
#include "util/checked.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int mount_take_options(const char *list, const char *whole, struct mount_options *options,
                       struct error *error)
{
    char *before = options->nbdkit;
    int r;

    options->nbdkit = NULL;
    r = options_parse(mount_option_table, options, list, error);
    if (options->nbdkit == NULL) {
        options->nbdkit = before;
        return r;
    }
    free(before);
    return r != 0 || whole == NULL
               ? r
               : error_set(error, EINVAL,
                           "%s: could be the name of a file, and nbdkit runs a program; write -o "
                           "and its options as two words, or -- before such a name",
                           whole);
}

bool mount_has_overlay(const struct mount_options *options)
{
    return options->overlay != NULL || options->snapshot.value;
}

const char *mount_overlay_file(const struct mount_options *options)
{
    return options->overlay != NULL && *options->overlay != '\0' ? options->overlay : NULL;
}

enum image_format mount_format(const struct mount_options *options)
{
    return options->format.set && options->format.value == MOUNT_FORMAT_RAW ? IMAGE_RAW
                                                                            : IMAGE_QCOW2;
}

bool mount_recognises_format(const struct mount_options *options)
{
    return mount_has_overlay(options) && !options->format.set;
}

bool mount_is_read_only(const struct mount_options *options)
{
    return options->read_only.value || options->evidence.value || options->salvage != NULL;
}

/* What there has to be an overlay for. */
static int check_without_overlay(const struct mount_options *options, struct error *error)
{
    if (options->format.set && options->format.value == MOUNT_FORMAT_RAW) {
        return error_set(error, EINVAL,
                         "format=raw: a raw disk needs no qcow2fs, use it as it is; or write to it "
                         "without changing it: add overlay");
    }
    if (options->overlay_dir != NULL || options->overlay_max.set) {
        return error_set(error, EINVAL, "%s speaks of an overlay, and there is none; add overlay",
                         options->overlay_dir != NULL ? "overlay-dir" : "overlay-max");
    }
    return 0;
}

/* What does not go with an overlay that is kept. */
static int check_kept(const struct mount_options *options, struct error *error)
{
    if (strcmp(options->overlay, "on") == 0 || strcmp(options->overlay, "off") == 0) {
        return error_set(
            error, EINVAL,
            "overlay=%s would be a file of that name; write overlay alone for one that "
            "is thrown away, or overlay=./%s",
            options->overlay, options->overlay);
    }
    if (options->snapshot.value) {
        return error_set(error, EINVAL,
                         "snapshot=on asks for an overlay that is thrown away, and overlay=%s for "
                         "one that is kept; leave one of them out",
                         options->overlay);
    }
    if (options->overlay_dir != NULL) {
        return error_set(error, EINVAL,
                         "overlay-dir is where an overlay is that has no file; leave it out, or "
                         "write overlay without =%s",
                         options->overlay);
    }
    if (options->at_snapshot != NULL) {
        return error_set(error, EINVAL,
                         "overlay=%s: an image cannot record that a snapshot is behind it, so that "
                         "other programs would see the active state there; write overlay without a "
                         "file, or make that snapshot an image: qemu-img convert -l %s",
                         options->overlay, options->at_snapshot);
    }
    if (options->force_share.value) {
        return error_set(error, EINVAL,
                         "overlay=%s: what is kept fits no image that changes meanwhile, as with "
                         "force-share; write overlay without a file, or leave out force-share",
                         options->overlay);
    }
    return 0;
}

static int check_salvage(const struct mount_options *options, struct error *error)
{
    bool hints = options->cluster_size.set || options->virtual_size.set || options->l1_offset.set;

    if (options->salvage == NULL) {
        return hints ? error_set(error, EINVAL,
                                 "cluster-size, virtual-size and l1-offset speak of a damaged "
                                 "image; add salvage")
                     : 0;
    }
    if (options->salvage[0] != '\0' && strcmp(options->salvage, "zeros") != 0) {
        return error_set(error, EINVAL, "salvage=%s: write salvage alone, or salvage=zeros",
                         options->salvage);
    }
    if (options->cluster_size.set && !is_power_of_two(options->cluster_size.value)) {
        return error_set(error, EINVAL, "cluster-size: is to be a power of two");
    }
    if (options->evidence.value || mount_has_overlay(options)) {
        return error_set(error, EINVAL,
                         "salvage shows an image as its tables may have been, and %s needs them as "
                         "they are; leave one of them out",
                         options->evidence.value ? "evidence" : "overlay");
    }
    return 0;
}

int mount_check_overlay(const struct mount_options *options, struct error *error)
{
    int r = check_salvage(options, error);

    if (r != 0) {
        return r;
    }
    if (options->at_snapshot != NULL && options->format.set &&
        options->format.value == MOUNT_FORMAT_RAW) {
        return error_set(error, EINVAL,
                         "at-snapshot: a raw disk has no snapshots; leave out format=raw");
    }
    if (options->evidence.value && mount_has_overlay(options)) {
        return error_set(error, EINVAL,
                         "evidence shows what is in the image itself, and writes nothing; leave "
                         "out overlay, or mount it once with each");
    }
    if (!mount_has_overlay(options)) {
        return check_without_overlay(options, error);
    }
    return mount_overlay_file(options) != NULL ? check_kept(options, error) : 0;
}

int mount_check_compress(const struct mount_options *options, struct error *error)
{
    bool is_read = mount_is_read_only(options) ||
                   (!mount_has_overlay(options) &&
                    (options->force_share.value || options->at_snapshot != NULL));

    if (options->compress == NULL) {
        return 0;
    }
    if (*options->compress != '\0' && strcmp(options->compress, "zlib") != 0 &&
        strcmp(options->compress, "zstd") != 0) {
        return error_set(error, EINVAL,
                         "compress=%s: there are zlib and zstd; write compress alone for that of "
                         "the image",
                         options->compress);
    }
    if (is_read) {
        return error_set(error, EINVAL,
                         "compress speaks of what is written, and this mount is only read (%s); "
                         "leave out one of them",
                         options->read_only.value     ? "ro"
                         : options->evidence.value    ? "evidence"
                         : options->salvage != NULL   ? "salvage"
                         : options->force_share.value ? "force-share"
                                                      : "at-snapshot");
    }
    return 0;
}

int mount_read_cache(const struct mount_options *options, struct read_cache_options *cache,
                     struct error *error)
{
    *cache = (struct read_cache_options){
        .path = options->read_cache,
        .size =
            options->read_cache_size.set ? options->read_cache_size.value : READ_CACHE_SIZE_DEFAULT,
        .is_kept = options->read_cache_keep.value,
    };
    if (cache->path == NULL && (options->read_cache_size.set || cache->is_kept)) {
        return error_set(error, EINVAL,
                         "%s speaks of a read cache, and there is none; add read-cache=FILE",
                         cache->is_kept ? "read-cache-keep" : "read-cache-size");
    }
    if (cache->path != NULL && options->force_share.value) {
        return error_set(error, EINVAL,
                         "read-cache keeps what was read, and with force-share that may change "
                         "meanwhile; leave out one of them");
    }
    return 0;
}

void mount_writer_options(const struct mount_options *options, struct writer_options *writer)
{
    enum store_cache cache = mount_cache_mode(options);

    *writer = (struct writer_options){
        .unsafe = cache == STORE_CACHE_UNSAFE,
        .write_through = cache == STORE_CACHE_WRITETHROUGH || cache == STORE_CACHE_DIRECTSYNC,
        .discard = !options->discard.set || options->discard.value == MOUNT_DISCARD_UNMAP,
        .growable = options->growable.value,
        .compress = options->compress,
        .no_repair = options->repair.set && !options->repair.value,
        .repair = options->repair.set && options->repair.value,
        .check = (enum writer_check)options->check.value, /* 0, auto, where it is not set */
        .lazy_refcounts = options->lazy_refcounts,
        .interval = options->metadata_interval.set ? (unsigned)options->metadata_interval.value
                                                   : WRITER_INTERVAL_DEFAULT,
    };
}
