/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "ctl/convert_internal.h"
#include "ctl/interrupt.h"
#include "ctl/open.h"
#include "disk/filename.h"
#include "meta/format.h"
#include "store/file.h"
#include "store/nbd.h"
#include "util/checked.h"
#include "util/loop.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define RAW_UNIT_MAX     (UINT64_C(1) << 20)
#define RAW_UNIT_DEFAULT (UINT64_C(64) << 10)
#define RESERVE_BYTES    (UINT64_C(1) << 30) /* before an interrupt is looked for */

/* --- What is read ----------------------------------------------------------------------------- */

int convert_open_source(struct conversion *conversion)
{
    static const char id[] = "snapshot.id=", name[] = "snapshot.name=";
    const struct convert_options *options = conversion->options;
    struct ctl_disk_request request = {
        .path = conversion->source_path,
        .format = options->format,
        .snapshot = options->snapshot,
    };

    /* QEMU's other way to say which. */
    if (request.snapshot != NULL && strncmp(request.snapshot, id, strlen(id)) == 0) {
        request.snapshot += strlen(id);
    } else if (request.snapshot != NULL && strncmp(request.snapshot, name, strlen(name)) == 0) {
        request.snapshot += strlen(name);
    }
    return ctl_disk_open(conversion->ctl, &request, &options->common, &conversion->source);
}

/* What will be behind the new image, to leave out what it shows already. */
static int open_backing(struct conversion *conversion)
{
    struct ctl *ctl = conversion->ctl;
    struct ctl_disk_request request = {.format = {.set = true}};
    int r = filename_resolve(conversion->path, "backing file", conversion->files.backing_file,
                             false, &conversion->backing_path, &ctl->error);

    if (r != 0) {
        return r;
    }
    request.path = conversion->backing_path;
    request.format.value =
        strcmp(conversion->files.backing_format, "qcow2") == 0 ? IMAGE_QCOW2 : IMAGE_RAW;
    return ctl_disk_open(ctl, &request, &conversion->options->common, &conversion->backing);
}

static bool is_same_file(struct store *store, const struct stat *status)
{
    struct store_info info;

    return store_info(store, &info) == 0 && info.device == status->st_dev &&
           info.inode == status->st_ino;
}

/* Another name of the same device. */
static bool is_same_device(const struct image *image, const struct stat *status)
{
    struct stat other;

    return image->is_device && S_ISBLK(status->st_mode) && stat(image->path, &other) == 0 &&
           other.st_rdev == status->st_rdev;
}

/* Of the device in status->st_rdev: it is then the file that the loop device is on. */
static int look_behind(void *context, const struct loop_status *loop)
{
    struct stat *status = context;

    if (!loop->answers || !loop_has_device(loop, status->st_rdev)) {
        return 0;
    }
    status->st_dev = loop->file_device;
    status->st_ino = loop->file_inode;
    return 1;
}

static bool is_file_of(const struct image *image, const struct stat *status)
{
    return is_same_file(image->file, status) || is_same_file(image->data_file, status);
}

/* No file that is read may be written: neither the image nor what is behind it. */
static int check_target(struct conversion *conversion, const char *path, const struct image *image)
{
    struct stat status, behind;

    if (path == NULL || stat(path, &status) != 0) {
        return 0;
    }
    behind = status;
    if (S_ISBLK(status.st_mode)) {
        (void)loop_visit(look_behind, &behind);
    }
    for (; image != NULL; image = image->backing) {
        if (is_file_of(image, &status) || is_same_device(image, &status) ||
            is_file_of(image, &behind)) {
            return error_set(&conversion->ctl->error, EINVAL,
                             "%s: is a file of what is copied (%s), and would be overwritten; give "
                             "the copy another name",
                             path, image->path);
        }
    }
    return 0;
}

static int check_targets(struct conversion *conversion)
{
    int r = check_target(conversion, conversion->path, conversion->source.image);

    return r == 0 ? check_target(conversion, conversion->files.data_path, conversion->source.image)
                  : r;
}

/* --- A raw target -------------------------------------------------------------------------- */

static uint64_t raw_unit(const struct conversion *conversion)
{
    uint64_t zeros =
        conversion->options->zeros.set ? conversion->options->zeros.value : CONVERT_ZEROS_DEFAULT;
    uint64_t unit = CONVERT_ZEROS_MIN;

    if (zeros == 0) {
        return RAW_UNIT_DEFAULT;
    }
    while (2 * unit <= zeros && unit < RAW_UNIT_MAX) {
        unit *= 2;
    }
    return unit;
}

/* The host's space for all of the file. Where the host cannot, zeros are written. */
static int reserve_raw(struct conversion *conversion, enum convert_raw *kind)
{
    struct convert_target *target = &conversion->target;
    uint64_t offset = 0;
    int r = 0;

    while (offset < target->size && r == 0) {
        uint64_t part = min_u64(target->size - offset, RESERVE_BYTES);

        r = interrupt_pending(NULL) ? -EINTR : store_allocate(target->store, offset, part);
        offset += part;
    }
    if (r == -EOPNOTSUPP) {
        *kind = CONVERT_RAW_FILLED;
        return 0;
    }
    return r == 0 || r == -EINTR ? r
                                 : error_set(&conversion->ctl->error, -r,
                                             "%s: %" PRIu64 " bytes cannot be reserved: %s; make "
                                             "room there, or leave out preallocation",
                                             conversion->path, target->size, strerror(-r));
}

/* With its kind of a target: what it is to be where the disk has zeros. */
static int set_raw(struct conversion *conversion, bool is_device)
{
    uint64_t preallocation = conversion->options->values.preallocation.value;
    enum convert_raw kind =
        is_device || conversion->options->existing.value ? CONVERT_RAW_OTHER : CONVERT_RAW_EMPTY;
    int r = 0;

    if (preallocation == PREALLOCATION_FULL) {
        kind = CONVERT_RAW_FILLED;
    } else if (preallocation == PREALLOCATION_FALLOC && !is_device) {
        r = reserve_raw(conversion, &kind);
    }
    convert_target_raw(&conversion->target, kind);
    return r;
}

static int open_raw(struct conversion *conversion)
{
    const struct store_file_options in_place = {.access = STORE_WRITE,
                                                .cache = STORE_CACHE_WRITEBACK};
    struct convert_target *target = &conversion->target;
    struct error *error = &conversion->ctl->error;
    struct store_info info = {0};
    bool is_device;
    int r;

    target->size = view_size(conversion->source.view);
    target->unit = target->subunit = raw_unit(conversion);
    if (store_nbd_is_address(conversion->path)) {
        r = store_nbd_refuse_new(conversion->path, "target", error);
    } else if (conversion->options->existing.value) {
        r = store_file_open(conversion->path, "target", &in_place, &conversion->existing, error);
        target->store = conversion->existing;
    } else {
        r = new_file_begin(conversion->path, "target", true, &target->file, error);
        target->store = r == 0 ? new_file_store(target->file) : NULL;
    }
    if (r == 0) {
        r = store_info(target->store, &info);
        r = r == 0 ? 0 : error_set(error, -r, "%s: %s", conversion->path, strerror(-r));
    }
    if (r != 0) {
        return r;
    }
    is_device = S_ISBLK(info.mode);
    if (is_device) {
        r = create_check_device(conversion->path, target->store, target->size, error);
    }
    return r == 0 ? set_raw(conversion, is_device) : r;
}

/* --- A new image --------------------------------------------------------------------------- */

static int plan_image(struct conversion *conversion)
{
    const struct convert_options *options = conversion->options;
    struct create_parameters *parameters = &conversion->parameters;

    create_values_take(&options->values, parameters);
    parameters->size = view_size(conversion->source.view);
    if (options->backing_flag != NULL) {
        parameters->backing_file = options->backing_flag;
    }
    if (options->backing_format_flag != NULL) {
        parameters->backing_format = options->backing_format_flag;
    }
    conversion->files = (struct create_files){
        .image = conversion->path,
        .backing_file = parameters->backing_file,
        .backing_format = parameters->backing_format,
        .data_file = parameters->data_file,
        .follow = (enum image_follow)options->common.follow.value,
    };
    return create_plan_make(parameters, conversion->path, &conversion->plan,
                            &conversion->ctl->error);
}

static int make_key(struct conversion *conversion)
{
    const struct convert_options *options = conversion->options;
    const struct key_option key = {
        .flag = "--new-key-file",
        .files = options->new_key_files,
        .option = "encrypt.key-secret",
        .id = options->values.key_secret,
    };

    return ctl_new_key(conversion->ctl, conversion->path, &conversion->parameters, &key,
                       options->objects, &conversion->key);
}

int convert_plan(struct conversion *conversion)
{
    int r;

    if (conversion->is_raw || conversion->options->existing.value) {
        return 0;
    }
    r = plan_image(conversion);
    if (r == 0 && conversion->bitmaps != NULL) {
        r = new_image_check_bitmaps(&conversion->plan.header, conversion->path,
                                    &conversion->ctl->error);
    }
    return r == 0 && conversion->parameters.crypt_method != CRYPT_NONE ? make_key(conversion) : r;
}

static int look_at_files(struct conversion *conversion)
{
    struct ctl *ctl = conversion->ctl;
    int r = create_files_resolve(&conversion->files, &ctl->error);

    if (r == 0) {
        r = create_files_check_names(&conversion->files, &ctl->error);
    }
    if (r == 0 && conversion->files.backing_file != NULL) {
        r = create_files_check_backing(&conversion->files, ctl->log, &ctl->error);
        r = r == 0 ? open_backing(conversion) : r;
    }
    return r;
}

static int open_data_file(struct conversion *conversion)
{
    struct convert_target *target = &conversion->target;
    const char *path = conversion->files.data_path;
    uint64_t size = conversion->plan.header.virtual_size;
    struct error *error = &conversion->ctl->error;
    int r = new_file_begin(path, "data file", true, &target->data_file, error);

    if (r != 0) {
        return r;
    }
    create_values_hint(&conversion->options->values, path, target->data_file, conversion->ctl->log);
    target->files.data_file = new_file_store(target->data_file);
    if (new_file_is_device(target->data_file)) {
        r = create_check_device(path, target->files.data_file, size, error);
        if (r == 0) {
            r = store_punch(target->files.data_file, 0, size);
            r = r == 0 ? 0 : error_set(error, -r, "%s: cannot be zeroed: %s", path, strerror(-r));
        }
    }
    return r;
}

static int open_new_image(struct conversion *conversion)
{
    struct convert_target *target = &conversion->target;
    const struct header *header = &conversion->plan.header;
    struct error *error = &conversion->ctl->error;
    int r = new_file_begin(conversion->path, "image", true, &target->file, error);

    if (r == 0) {
        target->files.file = new_file_store(target->file);
        target->files.is_device = new_file_is_device(target->file);
        target->files.stop = interrupt_pending;
        target->files.crypt_header = conversion->key.header;
        target->files.cipher = conversion->key.cipher;
        create_values_hint(&conversion->options->values, conversion->path, target->file,
                           conversion->ctl->log);
    }
    if (r == 0 && header->external_data_file) {
        r = open_data_file(conversion);
    }
    if (r != 0) {
        return r;
    }
    target->size = header->virtual_size;
    target->unit = header->cluster_size;
    target->subunit = UINT64_C(1) << header->subcluster_bits;
    convert_target_new_image(target, conversion->backing.view != NULL, header->version == 2);
    r = new_image_begin(&conversion->plan, &target->files, &target->image);
    return r == 0
               ? convert_bitmaps_to_new(conversion)
               : error_set(error, -r, "%s: cannot be written: %s", conversion->path, strerror(-r));
}

/* --- An image that exists ------------------------------------------------------------------ */

static int open_existing_image(struct conversion *conversion)
{
    struct convert_target *target = &conversion->target;
    uint64_t size = view_size(conversion->source.view);
    int r = ctl_open_writer(conversion->ctl, conversion->path, &conversion->options->common,
                            &target->existing, &target->writer);

    if (r != 0) {
        target->existing = NULL;
        return r;
    }
    if (target->existing->virtual_size < size) {
        return error_set(&conversion->ctl->error, ENOSPC,
                         "%s: has a disk of %" PRIu64 " bytes, and %" PRIu64 " are to be copied; "
                         "make it larger with qcow2ctl resize",
                         conversion->path, (uint64_t)target->existing->virtual_size, size);
    }
    target->size = size;
    target->unit = target->subunit = target->existing->header->cluster_size;
    convert_target_writer(target);
    return convert_check_existing_bitmaps(conversion);
}

/* --- Either ---------------------------------------------------------------------------------- */

int convert_open_target(struct conversion *conversion)
{
    int r;

    conversion->target.path = conversion->path;
    if (!conversion->is_raw && !conversion->options->existing.value) {
        r = look_at_files(conversion);
        if (r != 0) {
            return r;
        }
    }
    r = check_targets(conversion);
    if (r != 0) {
        return r;
    }
    if (conversion->is_raw) {
        return open_raw(conversion);
    }
    return conversion->options->existing.value ? open_existing_image(conversion)
                                               : open_new_image(conversion);
}

/* The data file first: an image without it would be none. */
int convert_name_files(struct conversion *conversion)
{
    struct convert_target *target = &conversion->target;
    struct new_file *file = target->file, *data_file = target->data_file;
    int r = 0;

    target->data_file = NULL;
    if (data_file != NULL) {
        r = new_file_finish(data_file, &conversion->ctl->error);
    }
    if (r == 0 && file != NULL) {
        target->file = NULL;
        r = new_file_finish(file, &conversion->ctl->error);
    }
    return r;
}

int convert_close_target(struct conversion *conversion, int result)
{
    struct convert_target *target = &conversion->target;

    new_image_free(target->image);
    new_file_abandon(target->data_file);
    new_file_abandon(target->file);
    store_close(conversion->existing);
    if (target->existing != NULL) {
        result = ctl_close_writer(conversion->ctl, target->existing, target->writer, result);
    }
    return result;
}

void convert_release(struct conversion *conversion)
{
    ctl_disk_close(&conversion->source);
    ctl_disk_close(&conversion->backing);
    ctl_new_key_free(&conversion->key);
    create_plan_release(&conversion->plan);
    create_files_release(&conversion->files);
    bitmap_directory_free(conversion->bitmaps);
    free(conversion->backing_path);
}
