/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "disk/chain.h"

#include "disk/filename.h"
#include "disk/probe.h"
#include "store/nbd.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/*
 * Bytes of memory for the L1 tables of all images behind the active one, enough for 2 PiB of disks
 * with clusters of 64 KiB. What has no room is read through the L2 cache. Without this, a chain of
 * small files takes 32 MiB for each of its images.
 */
#define L1_MEMORY_BEHIND (UINT64_C(32) << 20)

/* Whether the file is the one that `status` is of. */
static bool is_same_file(struct store *file, const struct stat *status)
{
    struct store_info info;

    return file != NULL && store_info(file, &info) == 0 && info.device == status->st_dev &&
           info.inode == status->st_ino;
}

int chain_refuse_cycle(const char *overlay, const char *path, const char *again,
                       struct error *error)
{
    return error_set(error, ELOOP,
                     "%s: its backing file %s is part of a cycle: it is %s again; record "
                     "the right one with qcow2ctl amend -u -o backing_file=PATH",
                     overlay, path, again == NULL ? "that image" : again);
}

/*
 * Refuses a backing file that is an image of the chain already. Before it is
 * opened: our own lock on an image that is written would keep us from it, and
 * the sentence would blame another program.
 */
static int check_cycle(const struct image *active, const struct image *overlay, const char *path,
                       struct error *error)
{
    const struct image *image;
    struct stat status;

    if (stat(path, &status) < 0) {
        return 0; /* opening it says why */
    }
    for (image = active; image != NULL; image = image->backing) {
        if (is_same_file(image->file, &status) || is_same_file(image->data_file, &status)) {
            return chain_refuse_cycle(overlay->path, path, image == overlay ? NULL : image->path,
                                      error);
        }
    }
    return 0;
}

/* As QEMU does, but takes nothing for raw that QEMU would not. */
int chain_probe_format(const char *overlay, const char *path, struct store *file,
                       enum image_format *format, struct error *error)
{
    struct store_info info;
    struct probe probe;
    int result = store_info(file, &info);

    if (result == 0) {
        result = probe_store(file, info.size, &probe);
    }
    if (result < 0) {
        return error_set(error, -result, "%s: cannot be read: %s", path, strerror(-result));
    }
    if (probe.class == PROBE_DISK_IMAGE) {
        return error_set(error, ENOTSUP,
                         "%s: its backing file %s has no recorded format and looks like %s, which "
                         "qcow2fs cannot read; convert it with qemu-img, or record its format "
                         "with qcow2ctl amend -o backing_fmt=raw if it is raw",
                         overlay, path, probe.description);
    }
    *format = probe.class == PROBE_QCOW2 ? IMAGE_QCOW2 : IMAGE_RAW;
    return 0;
}

int chain_recorded_format(const char *overlay, const char *name, const char *path,
                          enum image_format *format, bool *known, struct error *error)
{
    *known = name != NULL;
    if (name == NULL) {
        return 0;
    }
    if (strcmp(name, "qcow2") == 0) {
        *format = IMAGE_QCOW2;
        return 0;
    }
    /* Old images name the driver of the host file or device where they mean raw. */
    if (strcmp(name, "raw") == 0 || strcmp(name, "file") == 0 || strcmp(name, "host_device") == 0) {
        *format = IMAGE_RAW;
        return 0;
    }
    return error_set(error, ENOTSUP,
                     "%s: the format of its backing file %s is '%s'; qcow2fs reads qcow2 and raw "
                     "backing files: convert it with qemu-img convert -O qcow2, then record it "
                     "with qcow2ctl amend -u -o backing_file=PATH,backing_fmt=qcow2",
                     overlay, path, name);
}

/* Whether the owner of the image must be able to do what is wanted of a file that it names. */
static bool is_owners_affair(enum image_names names, enum store_access access, uid_t owner)
{
    if (owner == geteuid() || owner == 0) { /* we can do no more than he */
        return false;
    }
    return names == IMAGE_NAMES_OF_OWNER || (names == IMAGE_NAMES_PRIVATE && access == STORE_WRITE);
}

/* How a file is named that is not where the image says. */
static int explain_missing(const struct chain_file *wanted, const char *cause, struct error *error)
{
    bool data = strcmp(wanted->what, "data file") == 0;
    const char *option = data ? "data-file" : "backing-file";

    if (wanted->given) {
        return error_set(error, ENOENT, "%s: its %s cannot be used: %s", wanted->image,
                         wanted->what, cause);
    }
    return error_set(error, ENOENT,
                     "%s: its %s cannot be used: %s; if it has moved, %s%s%srecord where it is "
                     "with qcow2ctl amend%s -o %s=PATH %s",
                     wanted->image, wanted->what, cause, wanted->active ? "mount with -o " : "",
                     wanted->active ? option : "", wanted->active ? "=PATH, or " : "",
                     data ? "" : " -u", data ? "data_file" : "backing_file", wanted->image);
}

/* An image that a server sends has no owner here with whose rights its names could be opened. */
static int refuse_remote_name(const struct chain_file *wanted, struct error *error)
{
    const char *option = strcmp(wanted->what, "data file") == 0 ? "data-file" : "backing-file";

    return error_set(error, EACCES,
                     "%s: this image comes from a server, and names %s as its %s; a file of this "
                     "machine is not opened on a server's word: %s%s%sallow it with -o trust-names "
                     "(qcow2ctl: --trust-names)",
                     wanted->image, wanted->path, wanted->what,
                     wanted->active ? "name it yourself with -o " : "",
                     wanted->active ? option : "", wanted->active ? "=PATH, or " : "");
}

int chain_open_file(const struct chain_file *wanted, const struct store_file_options *how,
                    enum image_names names, struct store **file, struct error *error)
{
    struct store_file_options options = *how;
    struct error cause = {0};
    struct store_info info;
    uid_t owner = wanted->owner;
    int result;

    if (!wanted->given && names != IMAGE_NAMES_TRUSTED && store_nbd_is_address(wanted->image)) {
        return refuse_remote_name(wanted, error);
    }
    if (wanted->of != NULL) {
        result = store_info(wanted->of, &info);
        if (result < 0) {
            return error_set(error, -result, "%s: its owner cannot be found out: %s", wanted->image,
                             strerror(-result));
        }
        owner = info.uid;
    }
    if (!wanted->given) {
        options.named_by = wanted->image;
        options.as_owner = is_owners_affair(names, how->access, owner);
        options.owner = owner;
    }
    result = store_file_open(wanted->path, wanted->what, &options, file, &cause);
    if (result == -ENOENT) {
        return explain_missing(wanted, cause.text, error);
    }
    return result < 0 ? error_set(error, -result, "%s: its %s cannot be used: %s", wanted->image,
                                  wanted->what, cause.text)
                      : 0;
}

/*
 * Opens the file at `path` as the image behind `overlay`. Its L1 table is kept in memory where that
 * takes no more than *l1_room; what is left of that is there afterwards.
 */
static int open_behind(struct image *active, struct image *overlay, const char *path,
                       const struct image_options *options, struct log *log, uint64_t *l1_room,
                       struct error *error)
{
    struct image_request request = {
        .path = path,
        .what = "backing file",
        .number = overlay->number + 1,
        .access = options->access == STORE_READ_SHARED ? STORE_READ_SHARED : STORE_READ,
    };
    const struct store_file_options file = {
        .access = request.access,
        .cache = options->cache,
        .no_locks = options->no_locks,
    };
    const struct chain_file wanted = {
        .image = overlay->path,
        .of = overlay->file,
        .path = path,
        .what = request.what,
        .given = overlay->number == options->first_number && options->backing_file != NULL,
        .active = overlay->number == options->first_number,
    };
    bool known;
    int result;

    result = chain_recorded_format(overlay->path, overlay->header->backing_format, path,
                                   &request.format, &known, error);
    if (result == 0) {
        result = check_cycle(active, overlay, path, error);
    }
    if (result < 0) {
        return result;
    }
    result = chain_open_file(&wanted, &file, options->names, &request.file, error);
    if (result < 0) {
        return result;
    }
    if (!known) {
        request.probed = true;
        result = chain_probe_format(overlay->path, path, request.file, &request.format, error);
    }
    if (result < 0) {
        store_close(request.file);
        return result;
    }
    request.l1_room = *l1_room;
    result = image_open_one(&request, options, log, &overlay->backing, error);
    if (result == 0 && overlay->backing->active != NULL) {
        *l1_room -= mapping_l1_memory(overlay->backing->active);
    }
    return result;
}

/* Where the file behind `overlay` is, for the caller to free. */
static int find_backing(const struct image *overlay, const struct image_options *options,
                        char **path, struct error *error)
{
    if (overlay->number == options->first_number && options->backing_file != NULL) {
        *path = strdup(options->backing_file);
        return *path == NULL ? error_set(error, ENOMEM, "%s: out of memory", overlay->path) : 0;
    }
    return filename_resolve(overlay->path, "backing file", overlay->header->backing_file, false,
                            path, error);
}

int chain_open_backing(struct image *image, const struct image_options *options, struct log *log,
                       struct error *error)
{
    struct image *overlay = image;
    uint64_t l1_room = L1_MEMORY_BEHIND;

    if (options->backing_file != NULL &&
        (image->header == NULL || image->header->backing_file == NULL)) {
        return error_set(error, EINVAL,
                         "%s: has no backing file, so none can be named in its place; leave out "
                         "-o backing-file=, or give the image one with qcow2ctl amend -o "
                         "backing_file=PATH",
                         image->path);
    }
    while (overlay->header != NULL && overlay->header->backing_file != NULL) {
        char *path;
        int result;

        if (overlay->number + 1 >= IMAGE_CHAIN_MAX) {
            return error_set(
                error, EMFILE,
                "%s: has more than %d images behind it, the most that is supported; "
                "shorten the chain with qcow2ctl commit or rebase of one that is behind",
                image->path, IMAGE_CHAIN_MAX - 1);
        }
        result = find_backing(overlay, options, &path, error);
        if (result < 0) {
            return result;
        }
        result = open_behind(image, overlay, path, options, log, &l1_room, error);
        free(path);
        if (result < 0) {
            return result;
        }
        overlay = overlay->backing;
    }
    return 0;
}
