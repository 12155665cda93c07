/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "admin/overlay_internal.h"
#include "disk/filename.h"
#include "disk/probe.h"
#include "meta/format.h"
#include "store/new_file.h"
#include "util/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define SECTOR UINT64_C(512)

static int out_of_memory(const struct overlay *overlay)
{
    return error_set(overlay->error, ENOMEM, "%s: out of memory", overlay->options->file);
}

/* --- The name that it records ----------------------------------------------------------- */

/* The directory that the file at `path` is in, which need not exist, as an absolute path. */
static char *real_directory(const char *path)
{
    const char *slash = strrchr(path, '/');
    char *given = slash == NULL   ? strdup(".")
                  : slash == path ? strdup("/")
                                  : strndup(path, (size_t)(slash - path));
    char *real = given != NULL ? realpath(given, NULL) : NULL;

    free(given);
    return real;
}

static const char *last_name(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash != NULL ? slash + 1 : path;
}

/*
 * Where the image is, as an absolute path without links: of a file that it leads to now. A device
 * keeps its last name, since what /dev/disk/by-id and the like lead to is another one tomorrow.
 */
static char *real_path(const struct image *image)
{
    char *directory, *path;

    if (!image->is_device) {
        return realpath(image->path, NULL);
    }
    directory = real_directory(image->path);
    if (directory == NULL || asprintf(&path, "%s/%s", strcmp(directory, "/") == 0 ? "" : directory,
                                      last_name(image->path)) < 0) {
        path = NULL;
    }
    free(directory);
    return path;
}

/*
 * What is recorded as the backing file: the image's name alone where it is in the directory of the
 * overlay, so that both can be moved together, else its absolute path. NULL, errno is set.
 */
static char *recorded_name(const struct overlay *overlay)
{
    char *image = real_path(overlay->behind);
    char *directory = real_directory(overlay->options->file);
    char *beside = image != NULL ? real_directory(image) : NULL;
    const char *name = image != NULL ? last_name(image) : NULL;
    char *recorded = NULL;

    if (name != NULL && directory != NULL && beside != NULL && strcmp(directory, beside) == 0) {
        /* What is before a colon would be a protocol. */
        if (asprintf(&recorded, "%s%s", filename_protocol(name) > 0 ? "./" : "", name) < 0) {
            recorded = NULL;
        }
        free(image);
    } else {
        recorded = image;
    }
    free(directory);
    free(beside);
    return recorded;
}

/* --- Making it ------------------------------------------------------------------------------ */

/* Whoever may not read the image may not read what was written over it. */
static mode_t narrow_umask(const struct image *image)
{
    struct store_info info;
    mode_t before = umask(0077);

    if (store_info(image->file, &info) == 0) {
        umask(before | (~info.mode & 0077));
    }
    return before;
}

static int make(struct overlay *overlay)
{
    const char *path = overlay->options->file;
    char *recorded = recorded_name(overlay);
    struct new_file *file;
    mode_t before;
    int result;

    if (recorded == NULL) {
        return error_set(overlay->error, errno, "%s: its path cannot be found out: %s",
                         overlay->behind->path, strerror(errno));
    }
    before = narrow_umask(overlay->behind);
    result = new_file_begin(path, "overlay", false, &file, overlay->error);
    umask(before);
    if (result == -EEXIST) { /* where stat() found nothing */
        error_set(overlay->error, EEXIST,
                  "%s: this overlay cannot be made: a symbolic link that leads nowhere has its "
                  "name, or another program was faster; remove that, or name another file",
                  path);
    }
    if (result == 0) {
        result = overlay_write(overlay, path, recorded, new_file_store(file));
        if (result == 0) {
            result = new_file_finish(file, overlay->error);
        } else {
            new_file_abandon(file);
        }
    }
    free(recorded);
    overlay->made = result == 0;
    return result;
}

/* --- What is there already ---------------------------------------------------------------------
 */

static bool is_file(struct store *store, const struct stat *status)
{
    struct store_info info;

    return store_info(store, &info) == 0 && info.device == status->st_dev &&
           info.inode == status->st_ino;
}

/* Before it is opened: our own lock would keep us from it, and another program would be blamed. */
static int refuse_own_chain(const struct overlay *overlay, const struct stat *status)
{
    const char *path = overlay->options->file;

    for (const struct image *image = overlay->behind; image != NULL; image = image->backing) {
        if (is_file(image->file, status) || is_file(image->data_file, status)) {
            return error_set(overlay->error, EINVAL,
                             "%s: cannot be the overlay of %s: it is %s; name another file", path,
                             overlay->behind->path,
                             image == overlay->behind ? "that image itself, or its data"
                                                      : "behind that image");
        }
    }
    return 0;
}

static int refuse_other_format(const struct overlay *overlay)
{
    const char *path = overlay->options->file;
    struct store_info info;
    struct probe probe;
    int result = store_info(overlay->request.file, &info);

    if (result == 0) {
        result = probe_store(overlay->request.file, info.size, &probe);
    }
    if (result < 0) {
        return error_set(overlay->error, -result, "%s: cannot be read: %s", path,
                         strerror(-result));
    }
    if (probe.class != PROBE_QCOW2) {
        return error_set(overlay->error, EINVAL,
                         "%s: is no overlay, it looks like %s, and is left as it is; name a file "
                         "that does not exist yet",
                         path, probe.description);
    }
    return 0;
}

int overlay_open_kept(struct overlay *overlay)
{
    const char *path = overlay->options->file;
    const struct store_file_options how = {
        .access = overlay->request.access,
        .cache = overlay->options->image->cache,
        .no_locks = overlay->options->image->no_locks,
    };
    struct stat status;
    int result = 0;

    overlay->name = strdup(path);
    if (overlay->name == NULL) {
        return out_of_memory(overlay);
    }
    if (stat(path, &status) == 0) {
        result = refuse_own_chain(overlay, &status);
    } else if (errno == ENOENT && !overlay->options->read_only) {
        result = make(overlay);
    }
    if (result == 0) {
        result = store_file_open(path, "overlay", &how, &overlay->request.file, overlay->error);
    }
    return result == 0 ? refuse_other_format(overlay) : result;
}

/* Whether the file at `path` is the one that the image is in. */
static bool leads_to(const char *path, const struct image *image)
{
    struct stat named, own;

    if (stat(path, &named) != 0) {
        return false;
    }
    /* A device is the same one by whichever node. */
    return is_file(image->file, &named) ||
           (S_ISBLK(named.st_mode) && stat(image->path, &own) == 0 && S_ISBLK(own.st_mode) &&
            own.st_rdev == named.st_rdev);
}

static int check_backing(const struct overlay *overlay, const struct header *header)
{
    const char *path = overlay->options->file;
    char *backing;
    bool same;
    int result;

    if (header->backing_file == NULL) {
        return error_set(overlay->error, EINVAL,
                         "%s: is no overlay but an image of its own, with nothing behind it, and "
                         "is left as it is; name a file that does not exist yet",
                         path);
    }
    result = filename_resolve(path, "backing file", header->backing_file, false, &backing,
                              overlay->error);
    if (result < 0) {
        return result;
    }
    same = leads_to(backing, overlay->behind);
    if (!same) {
        result = error_set(overlay->error, EINVAL,
                           "%s: is the overlay of another image, %s, and not of %s; name another "
                           "file or, if that image was moved, record where it is with qcow2ctl "
                           "amend -u -o backing_file=PATH",
                           path, backing, overlay->behind->path);
    }
    free(backing);
    return result;
}

static int check_format(const struct overlay *overlay, const struct header *header)
{
    const char *path = overlay->options->file;
    enum image_format recorded = overlay->behind->format;
    bool known;
    int result = chain_recorded_format(path, header->backing_format, overlay->behind->path,
                                       &recorded, &known, overlay->error);

    if (result == 0 && recorded != overlay->behind->format) {
        const char *name = recorded == IMAGE_RAW ? "raw" : "qcow2";

        return error_set(overlay->error, EINVAL,
                         "%s: was made with %s as a %s disk; add -o format=%s, or name another "
                         "file",
                         path, overlay->behind->path, name, name);
    }
    return result;
}

static int check_size(const struct overlay *overlay, const struct header *header)
{
    uint64_t size = overlay->behind->virtual_size, rounded;

    if (header->virtual_size == size ||
        (checked_round_up(size, SECTOR, &rounded) && header->virtual_size == rounded)) {
        return 0;
    }
    return error_set(overlay->error, EINVAL,
                     "%s: its disk has %" PRIu64 " bytes, and that of %s %" PRIu64
                     ": one of them was resized; mount %s itself to have the disk that it says",
                     overlay->options->file, header->virtual_size, overlay->behind->path, size,
                     overlay->options->file);
}

static bool is_later(const struct timespec *a, const struct timespec *b)
{
    return a->tv_sec != b->tv_sec ? a->tv_sec > b->tv_sec : a->tv_nsec > b->tv_nsec;
}

/* Whether the file was written to after `own`; the times of a device's node say nothing of it. */
static bool is_newer(struct store *file, const struct store_info *own)
{
    struct store_info info;

    return store_info(file, &info) == 0 && S_ISREG(info.mode) && is_later(&info.mtime, &own->mtime);
}

/* Nobody can prove that the image is as it was; but who wrote to it afterwards gave it a time. */
static void warn_of_change(const struct overlay *overlay)
{
    struct store_info own;

    if (store_info(overlay->request.file, &own) < 0) {
        return;
    }
    for (const struct image *image = overlay->behind; image != NULL; image = image->backing) {
        if (is_newer(image->file, &own) || is_newer(image->data_file, &own)) {
            log_line(overlay->log, LOG_LEVEL_WARNING,
                     "%s: was written to after its overlay %s: what that keeps may not fit it any "
                     "more",
                     image->path, overlay->options->file);
            return;
        }
    }
}

int overlay_check_kept(const struct overlay *overlay, const struct image *opened)
{
    int result = check_backing(overlay, opened->header);

    if (result == 0) {
        result = check_format(overlay, opened->header);
    }
    if (result == 0) {
        result = check_size(overlay, opened->header);
    }
    if (result == 0) {
        warn_of_change(overlay);
    }
    return result;
}
