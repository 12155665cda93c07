/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "disk/chain.h"

#include "disk/filename.h"
#include "disk/probe.h"
#include "store/nbd.h"
#include "store/nbdkit.h"
#include "store/opener.h"

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

/* Whether the file is the one that `status` is of. Asked of each image for each one behind it, so
 * without looking at the file again. */
static bool is_same_file(const struct image_file *file, const struct stat *status)
{
    return file->device == status->st_dev && file->inode == status->st_ino;
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
    bool is_address = store_nbd_is_address(path);
    struct stat status;

    if (!is_address && opener_stat(path, &status) < 0) {
        return 0; /* opening it says why */
    }
    for (image = active; image != NULL; image = image->backing) {
        if (is_address
                ? strcmp(image->path, path) == 0
                : is_same_file(&image->is, &status) || is_same_file(&image->data_is, &status)) {
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

const struct read_cache_options *chain_read_cache(const struct image *active,
                                                  const struct image_options *options)
{
    const struct image *image = active;

    while (image != NULL && !image_is_on_server(image)) {
        image = image->backing;
    }
    return image == NULL ? options->read_cache : NULL;
}

/* --- Which names are followed --------------------------------------------------------------- */

/* How the user names the file himself, for a sentence: only that of the active image can be. */
static const char *advise_naming(const struct chain_name *recorded)
{
    if (!recorded->active) {
        return "";
    }
    return strcmp(recorded->what, "data file") == 0
               ? "name the file yourself with -o data-file=PATH, or "
               : "name the file yourself with -o backing-file=PATH, or ";
}

/* Whether it says more of this machine than the socket of a server, as where certificates are. */
static bool names_more(const char *address)
{
    static const char socket[] = "?socket=";
    const char *query = strchr(address, '?');

    return query != NULL &&
           (strncmp(query, socket, sizeof(socket) - 1) != 0 || strpbrk(query, "&;") != NULL);
}

static int find_address(const struct chain_name *recorded, enum image_follow follow,
                        const char *advice, char **path, struct error *error)
{
    if (nbdkit_is_address(recorded->name)) {
        return error_set(error, EACCES,
                         "%s: names '%s' as its %s; no program is started on an image's word, "
                         "whatever is allowed: %srecord where the file is",
                         recorded->image, recorded->name, recorded->what, advice);
    }
    if (follow != IMAGE_FOLLOW_ALL) {
        return error_set(error, EACCES,
                         "%s: names the server '%s' as its %s; no server is asked on an "
                         "image's word alone: %sallow it with -o follow=all (qcow2ctl: "
                         "--follow=all)",
                         recorded->image, recorded->name, recorded->what, advice);
    }
    if (names_more(recorded->name)) {
        return error_set(error, EACCES,
                         "%s: names the server '%s' as its %s, with more than a socket: "
                         "certificates and keys of this machine are not used on an image's word; "
                         "%smake it an address without them",
                         recorded->image, recorded->name, recorded->what, advice);
    }
    *path = strdup(recorded->name);
    return *path == NULL ? error_set(error, ENOMEM, "%s: out of memory", recorded->image) : 0;
}

int chain_find(const struct chain_name *recorded, enum image_follow follow, char **path,
               struct error *error)
{
    const char *advice = advise_naming(recorded);

    *path = NULL;
    if (follow == IMAGE_FOLLOW_NONE) {
        return error_set(error, EACCES,
                         "%s: names '%s' as its %s, and nothing that an image names is opened "
                         "(follow=none); %sallow it with -o follow=beside or follow=files "
                         "(qcow2ctl: --follow=)",
                         recorded->image, recorded->name, recorded->what, advice);
    }
    if (store_nbd_is_address(recorded->name)) {
        return find_address(recorded, follow, advice, path, error);
    }
    if (store_nbd_is_address(recorded->image) && recorded->name[0] != '/' &&
        filename_protocol(recorded->name) == 0) {
        return error_set(error, EACCES,
                         "%s: this image comes from a server, and names '%s' as its %s, a relative "
                         "name, which means nothing there; %srecord a whole address",
                         recorded->image, recorded->name, recorded->what, advice);
    }
    return filename_resolve(recorded->image, recorded->what, recorded->name,
                            strcmp(recorded->what, "data file") == 0, path, error);
}

/* Whether the owners of images must be able to do what is wanted of a file that these name. */
static bool is_owners_affair(struct image_names names, enum store_access access)
{
    return names.rights == IMAGE_NAMES_OF_OWNER ||
           (names.rights == IMAGE_NAMES_PRIVATE && access == STORE_WRITE);
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

/* A server cannot be asked in another user's name. */
static int refuse_owners_address(const struct chain_file *wanted, struct error *error)
{
    return error_set(error, EACCES,
                     "%s: this image of another user names the server %s as its %s, which would be "
                     "asked with your rights in place of his; allow it with -o trust-names "
                     "(qcow2ctl: --trust-names)",
                     wanted->image, wanted->path, wanted->what);
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
                    struct image_names names, struct store **file, struct error *error)
{
    struct store_file_options options = *how;
    struct error cause = {0};
    struct store_info info;
    struct owners owners = wanted->owners;
    bool is_address = store_nbd_is_address(wanted->path);
    int result;

    if (!wanted->given && !is_address && names.rights != IMAGE_NAMES_TRUSTED &&
        store_nbd_is_address(wanted->image)) {
        return refuse_remote_name(wanted, error);
    }
    if (wanted->of != NULL) {
        result = store_info(wanted->of, &info);
        if (result < 0) {
            return error_set(error, -result, "%s: its owner cannot be found out: %s", wanted->image,
                             strerror(-result));
        }
        owners = info.owners;
    }
    if (!wanted->given) {
        options.named_by =
            is_address && names.follow == IMAGE_FOLLOW_ALL && !nbdkit_is_address(wanted->path)
                ? NULL
                : wanted->image;
        options.beneath = names.follow == IMAGE_FOLLOW_BESIDE && !wanted->known;
        options.led_by = &owners;
        options.as_owners = is_owners_affair(names, how->access);
        if (is_address && options.as_owners && owners.count > 0) {
            return refuse_owners_address(wanted, error);
        }
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
    bool named = overlay->number == options->first_number;
    struct image_request request = {
        .path = path,
        .what = "backing file",
        .number = overlay->number + 1,
        .access = options->access == STORE_READ_SHARED ? STORE_READ_SHARED : STORE_READ,
    };
    const struct store_file_options file = {
        .access = request.access,
        .cache = options->cache,
        .nbd_timeout = options->nbd_timeout,
        .read_cache = chain_read_cache(active, options),
        .no_locks = options->no_locks,
    };
    const struct chain_file wanted = {
        .image = overlay->path,
        .of = overlay->file,
        .path = path,
        .what = request.what,
        .given = named && options->backing_file != NULL,
        .known = named && options->backing_named,
        .active = named,
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
    bool active = overlay->number == options->first_number;
    const struct chain_name recorded = {
        .image = overlay->path,
        .what = "backing file",
        .name = overlay->header->backing_file,
        .active = active,
    };

    if (active && options->backing_file != NULL) {
        *path = strdup(options->backing_file);
        return *path == NULL ? error_set(error, ENOMEM, "%s: out of memory", overlay->path) : 0;
    }
    return chain_find(&recorded,
                      active && options->backing_named ? IMAGE_FOLLOW_FILES : options->names.follow,
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
