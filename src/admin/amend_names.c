/* SPDX-License-Identifier: MIT */
/* Amending an image whose names of other files may be wrong, or are to be others. */
#include "config.h"

#include "admin/amend_internal.h"

#include "disk/chain.h"
#include "disk/filename.h"
#include "disk/probe.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* --- Opening ------------------------------------------------------------------------------ */

static bool is_same_path(const char *a, const char *b)
{
    struct stat of_a, of_b;

    return stat(a, &of_a) == 0 && stat(b, &of_b) == 0 && of_a.st_dev == of_b.st_dev &&
           of_a.st_ino == of_b.st_ino;
}

/* The new data file's path, for the caller to free; NULL where the old one will do. */
static int new_data_path(const char *path, const struct amend_change *change, bool unchecked,
                         char **data_path, struct error *error)
{
    int result;

    *data_path = NULL;
    if (unchecked || change->data_file == NULL || *change->data_file == '\0') {
        return 0;
    }
    result = filename_resolve(path, "data file", change->data_file, true, data_path, error);
    if (result == 0 && is_same_path(path, *data_path)) {
        free(*data_path);
        *data_path = NULL;
        result =
            error_set(error, EINVAL, "%s: cannot be its own data file; name another one", path);
    }
    return result;
}

int amend_open(const char *path, const struct amend_change *change,
               const struct amend_opening *opening, struct log *log, struct image **image,
               struct error *error)
{
    const struct cache_options cache = {0};
    struct image_options options = {
        .access = STORE_WRITE,
        .cache = STORE_CACHE_WRITEBACK,
        .names = opening->names,
        .no_locks = opening->no_locks,
        .alone = !change->size.set && change->version != 2,
        .keys = opening->keys,
        .codec = CODEC_FASTEST,
    };
    char *data_path;
    int result = new_data_path(path, change, opening->unchecked, &data_path, error);

    *image = NULL;
    if (result < 0) {
        return result;
    }
    options.data_file = data_path;
    result = image_open(path, &options, log, image, error);
    free(data_path);
    if (result == 0) {
        result = image_attach_cache(*image, &cache, error);
        if (result < 0) {
            image_close(*image);
            *image = NULL;
        }
    }
    return result;
}

/* --- What will be behind it ------------------------------------------------------------------- */

/* A guest could have written that to its raw disk; more often the format is wrong. */
static int check_raw(const struct image *image, const struct image *backing, struct error *error)
{
    struct probe probe;

    if (backing->format != IMAGE_RAW || image->header->backing_format == NULL) {
        return 0;
    }
    if (probe_store(backing->file, backing->file_size, &probe) < 0 ||
        (probe.class != PROBE_QCOW2 && probe.class != PROBE_DISK_IMAGE)) {
        return 0;
    }
    return error_set(error, EINVAL,
                     "%s: its backing file %s would be read as raw, but looks like %s; give the "
                     "format that it has, or record with -u, which looks at no file and copies "
                     "nothing, that it is raw all the same",
                     image->path, backing->path, probe.description);
}

/* Where no file has the new name, the user has just said it: not that it must have moved. */
static int check_there(const struct image *overlay, const char *name, struct error *error)
{
    struct stat status;
    char *path;
    int result;

    if (name == NULL || *name == '\0') {
        return 0;
    }
    result = filename_resolve(overlay->path, "backing file", name, false, &path, error);
    if (result == 0 && stat(path, &status) < 0 && errno == ENOENT) {
        result =
            error_set(error, ENOENT,
                      "%s: there is no such backing file as %s; a relative name begins in the "
                      "directory of the image; -u records it where it is not here, looks at no "
                      "file and copies nothing",
                      overlay->path, path);
    }
    free(path);
    return result;
}

int amend_open_behind(const struct image *image, const struct amend_change *change,
                      const struct amend_opening *opening, struct log *log,
                      struct amend_behind *behind, struct error *error)
{
    const struct image_options options = {
        .access = STORE_WRITE, /* as what is behind a disk that is written */
        .cache = STORE_CACHE_WRITEBACK,
        .names = opening->names,
        .backing_named = change->backing_file != NULL,
        .no_locks = opening->no_locks,
        .alone = !change->size.set && change->version != 2,
        .keys = opening->keys,
        .codec = CODEC_FASTEST,
    };
    int result;

    *behind = (struct amend_behind){.header = amend_changed_header(image->header, change)};
    behind->overlay = (struct image){
        .format = IMAGE_QCOW2,
        .path = image->path,
        .log = log,
        .file = image->file,
        .data_file = image->data_file,
        .is = image->is,
        .data_is = image->data_is,
        .header = &behind->header,
    };
    result = check_there(&behind->overlay, change->backing_file, error);
    if (result == 0) {
        result = chain_open_backing(&behind->overlay, &options, log, error);
    }
    if (result == 0 && behind->overlay.backing != NULL) {
        result = check_raw(&behind->overlay, behind->overlay.backing, error);
    }
    if (result < 0) {
        image_close(behind->overlay.backing);
        return result;
    }
    behind->backing = behind->overlay.backing;
    return 0;
}

int amend_check_behind(const struct image *image, const struct amend_change *change,
                       const struct amend_opening *opening, struct log *log, struct error *error)
{
    struct amend_behind behind;
    int result = amend_open_behind(image, change, opening, log, &behind, error);

    if (result == 0) {
        image_close(behind.backing);
    }
    return result;
}
