/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "admin/overlay.h"

#include "admin/overlay_internal.h"
#include "crypto/cipher.h"
#include "disk/encrypted.h"
#include "meta/format.h"
#include "store/limited.h"
#include "store/scratch.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define DEFAULT_DIRECTORY "/var/tmp" /* what lies there may be large: /tmp is often memory */

const char *overlay_directory(void)
{
    const char *directory = getenv("TMPDIR");

    return directory != NULL && directory[0] == '/' ? directory : DEFAULT_DIRECTORY;
}

/* --- A new one ------------------------------------------------------------------------- */

/* The smallest clusters, from the default on, with which an L1 table can map so large a disk. */
static uint64_t cluster_size_for(uint64_t size)
{
    uint64_t cluster_size = CREATE_CLUSTER_SIZE_DEFAULT;

    /* An L1 entry maps a cluster full of L2 entries. */
    while (cluster_size < UINT64_C(1) << CLUSTER_BITS_MAX &&
           size / cluster_size / (cluster_size / L2_ENTRY_BYTES) >=
               HEADER_L1_SIZE_MAX / L1_ENTRY_BYTES) {
        cluster_size *= 2;
    }
    return cluster_size;
}

int overlay_write(const struct overlay *overlay, const char *name, const char *backing,
                  struct store *file)
{
    uint64_t size = overlay->behind->virtual_size;
    const struct create_parameters parameters = {
        .size = size,
        .exact_size = overlay->options->file == NULL,
        .version = 3,
        .cluster_size = cluster_size_for(size),
        .refcount_bits = CREATE_REFCOUNT_BITS_DEFAULT,
        .backing_file = backing,
        .backing_format = overlay->behind->format == IMAGE_RAW ? "raw" : "qcow2",
    };
    const struct create_target target = {.name = name, .file = file};
    struct create_plan plan;
    int result = create_plan_make(&parameters, name, &plan, overlay->error);

    if (result == 0) {
        result = create_write(&plan, &target, overlay->error);
        create_plan_release(&plan);
    }
    return result;
}

/* --- One that is thrown away --------------------------------------------------------------- */

static int cannot_make_scratch(const struct overlay *overlay, const char *directory, int result)
{
    return error_set(overlay->error, -result,
                     "%s: a file for its overlay cannot be made in the directory %s: %s; name "
                     "another one with -o overlay-dir=DIR",
                     overlay->behind->path, directory, strerror(-result));
}

static int open_scratch(struct overlay *overlay)
{
    const char *directory = overlay->options->directory;
    int result;

    directory = directory != NULL ? directory : overlay_directory();
    if (asprintf(&overlay->name, "%s: its overlay in %s", overlay->behind->path, directory) < 0) {
        overlay->name = NULL;
        return error_set(overlay->error, ENOMEM, "%s: out of memory", overlay->behind->path);
    }
    result = store_scratch_create(directory, &overlay->request.file);
    if (result < 0) {
        return cannot_make_scratch(overlay, directory, result);
    }
    /* Nobody opens it by its header: what is behind it is known. */
    return overlay_write(overlay, overlay->name, "image", overlay->request.file);
}

/* --- Both ------------------------------------------------------------------------------------ */

/* Bounds it, once it has what it begins with. */
static int set_bound(struct overlay *overlay)
{
    struct store *limited;

    if (overlay->options->max == 0) {
        return 0;
    }
    if (store_limit(overlay->request.file, overlay->options->max, &limited) < 0) {
        return error_set(overlay->error, ENOMEM, "%s: out of memory", overlay->name);
    }
    overlay->request.file = limited;
    return 0;
}

static int open_file(struct overlay *overlay)
{
    int result =
        overlay->options->file != NULL ? overlay_open_kept(overlay) : open_scratch(overlay);

    if (result == 0) {
        result = set_bound(overlay);
    }
    if (result < 0) {
        store_close(overlay->request.file);
        overlay->request.file = NULL;
    }
    return result;
}

/* Opens the overlay's file as an image, without what is behind it. */
static int open_image(struct overlay *overlay, struct image **image)
{
    struct image_options options = *overlay->options->image;
    int result;

    options.access = overlay->request.access;
    /* These speak of the image behind it. */
    options.data_file = options.backing_file = options.at_snapshot = NULL;
    options.first_number = 0;
    result = image_open_one(&overlay->request, &options, overlay->log, image, overlay->error);
    if (result == 0 && overlay->options->file != NULL && !overlay->made) {
        result = overlay_check_kept(overlay, *image);
        if (result < 0) {
            image_close(*image);
            *image = NULL;
        }
    }
    return result;
}

/*
 * What is written to an encrypted disk, and what is copied from it, lies in no file as it is: one
 * that is thrown away has a key that ends with this process.
 */
static int encrypt_overlay(struct overlay *overlay, struct image *image)
{
    bool kept = overlay->options->file != NULL;
    const struct image *encrypted = overlay->behind;
    int result;

    /* Who keeps one on an image that is none has that already: in the image. */
    while (!kept && encrypted != NULL && !image_is_encrypted(encrypted)) {
        encrypted = encrypted->backing;
    }
    if (encrypted == NULL || !image_is_encrypted(encrypted) || image_is_encrypted(image)) {
        return 0;
    }
    if (kept) {
        return error_set(overlay->error, ENOTSUP,
                         "%s: is not encrypted, and would keep what is written to the disk of %s, "
                         "which is; name an overlay that was made with qcow2ctl create -o "
                         "encrypt.format=luks -b",
                         overlay->name, overlay->behind->path);
    }
    result = cipher_create_random(&image->cipher);
    return result < 0 ? error_set(overlay->error, -result, "%s: no key for it: %s", overlay->name,
                                  strerror(-result))
                      : 0;
}

static int open_all(struct overlay *overlay, struct image **image)
{
    int result = open_file(overlay);

    if (result == 0) {
        overlay->request.path = overlay->name;
        result = open_image(overlay, image);
    }
    if (result == 0) {
        result = encrypt_overlay(overlay, *image);
        if (result < 0) {
            image_close(*image);
            *image = NULL;
        }
    }
    if (result == 0) {
        (*image)->is_overlay = true;
        (*image)->is_kept = overlay->options->file != NULL;
        (*image)->is_new = overlay->made;
        (*image)->overlay_max = overlay->options->max;
        (*image)->backing = overlay->behind;
    }
    return result;
}

int overlay_open(const char *path, const struct overlay_options *options, struct log *log,
                 struct image **image, struct error *error)
{
    struct overlay overlay = {
        .options = options,
        .log = log,
        .error = error,
        .request = {.what = "overlay",
                    .format = IMAGE_QCOW2,
                    .access = options->read_only ? STORE_READ : STORE_WRITE},
    };
    struct image_options behind = *options->image;
    int result;

    *image = NULL;
    behind.first_number = 1;
    result = image_open(path, &behind, log, &overlay.behind, error);
    if (result < 0) {
        return result;
    }
    result = open_all(&overlay, image);
    if (result < 0) {
        if (overlay.made) {
            unlink(options->file);
        }
        image_close(overlay.behind);
    }
    free(overlay.name);
    return result;
}

void overlay_unmake(struct image *image)
{
    struct store_info info;
    struct stat status;

    /* By its name, if that is still what was made. */
    if (image->is_new && store_info(image->file, &info) == 0 && lstat(image->path, &status) == 0 &&
        status.st_dev == info.device && status.st_ino == info.inode) {
        unlink(image->path);
    }
}

void overlay_writer_options(const struct image *image, struct writer_options *writer)
{
    if (!image_is_thrown_away(image)) {
        return;
    }
    writer->unsafe = true;
    writer->thrown_away = true;
    writer->write_through = false;
    writer->check = WRITER_CHECK_OFF; /* it is as it was made */
    writer->lazy_refcounts = (struct option_bool){.set = true, .value = true};
    writer->interval = 0;
}
