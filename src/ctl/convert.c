/* SPDX-License-Identifier: MIT */
/* qcow2ctl convert: copies a disk into another file, of another format or of another kind. */
#include "config.h"

#include "admin/create_files.h"
#include "ctl/command.h"
#include "ctl/convert_copy.h"
#include "ctl/convert_target.h"
#include "ctl/create_values.h"
#include "ctl/disk.h"
#include "ctl/interrupt.h"
#include "ctl/open.h"
#include "disk/filename.h"
#include "store/file.h"
#include "util/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define ZEROS_DEFAULT    UINT64_C(4096)
#define ZEROS_MIN        UINT64_C(512)
#define RAW_UNIT_MAX     (UINT64_C(1) << 20)
#define RAW_UNIT_DEFAULT (UINT64_C(64) << 10)

struct convert_options {
    struct create_values values; /* first: create_values[] is of it */
    struct common_flags common;
    struct option_number format, target_format, zeros;
    char *backing_flag, *backing_format_flag; /* -B, -F */
    char *snapshot;
    struct option_bool compress, existing, progress, unordered;
};

struct conversion {
    struct ctl *ctl;
    const struct convert_options *options;
    const char *source_path, *path;
    struct ctl_disk source, backing;
    char *backing_path; /* where it is; owned */
    bool is_raw;        /* the target */
    struct create_parameters parameters;
    struct create_files files;
    struct create_plan plan;
    struct convert_target target;
    struct store *existing; /* a raw target that is written in place */
};

/* --- What is wrong with the command line, whatever files there are -------------------------- */

static int refuse(struct conversion *conversion, const char *sentence)
{
    return error_set(&conversion->ctl->error, EINVAL, "%s: %s", conversion->path, sentence);
}

static int check_raw(struct conversion *conversion)
{
    const struct convert_options *options = conversion->options;

    if (options->compress.value) {
        return refuse(conversion, "a raw file cannot be compressed; leave out -c, or add -O qcow2");
    }
    if (options->backing_flag != NULL) {
        return refuse(conversion,
                      "a raw file has nothing behind it; leave out -B, or add -O qcow2");
    }
    if (create_values_given(&options->values)) {
        return refuse(conversion, "-o says what a qcow2 image is to be, and this is a raw file; "
                                  "leave it out, or add -O qcow2");
    }
    return 0;
}

static int check_existing(struct conversion *conversion)
{
    const struct convert_options *options = conversion->options;

    if (create_values_given(&options->values) || options->backing_flag != NULL) {
        return refuse(conversion, "-n writes to what exists, and -o and -B say what a new image is "
                                  "to be; leave out one of them");
    }
    if (options->compress.value) {
        return refuse(conversion, "-n writes to what exists, where clusters are not compressed; "
                                  "leave out -c, or -n");
    }
    return 0;
}

static int check_image(struct conversion *conversion)
{
    const struct convert_options *options = conversion->options;
    const struct create_values *values = &options->values;

    if (values->size.set) {
        return refuse(conversion,
                      "the disk has the size of the one that is copied; leave out size, "
                      "and use qcow2ctl resize afterwards");
    }
    if (values->preallocation.value != PREALLOCATION_OFF) {
        return refuse(conversion, "preallocation is not there in convert; make the image with "
                                  "qcow2ctl create -o preallocation=, and convert to it with -n");
    }
    if (options->compress.value && values->data_file != NULL) {
        return refuse(conversion, "an external data file holds no compressed clusters; leave out "
                                  "-c, or data_file");
    }
    return create_values_check(values, conversion->path, &conversion->ctl->error);
}

static int check_zeros(struct conversion *conversion)
{
    const struct option_number *zeros = &conversion->options->zeros;

    if (zeros->set && zeros->value != 0 && zeros->value < ZEROS_MIN) {
        return error_set(&conversion->ctl->error, EINVAL,
                         "%s: -S %" PRIu64
                         " is too small; use 512 or more, or 0 to write all zeros",
                         conversion->path, zeros->value);
    }
    return 0;
}

static int check_usage(struct conversion *conversion)
{
    const struct convert_options *options = conversion->options;
    int r = check_zeros(conversion);

    conversion->is_raw = options->target_format.value == IMAGE_RAW && options->target_format.set;
    if (r == 0 && conversion->is_raw) {
        r = check_raw(conversion);
    }
    if (r == 0 && options->existing.value) {
        r = check_existing(conversion);
    }
    return r == 0 ? check_image(conversion) : r;
}

/* --- What is read ----------------------------------------------------------------------------- */

static int open_source(struct conversion *conversion)
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

/* No file that is read may be written: neither the image nor what is behind it. */
static int check_target(struct conversion *conversion, const char *path, const struct image *image)
{
    struct stat status;

    if (path == NULL || stat(path, &status) != 0) {
        return 0;
    }
    for (; image != NULL; image = image->backing) {
        if (is_same_file(image->file, &status) || is_same_file(image->data_file, &status) ||
            is_same_device(image, &status)) {
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

/* --- A raw target ------------------------------------------------------------------------------
 */

static uint64_t raw_unit(const struct conversion *conversion)
{
    uint64_t zeros =
        conversion->options->zeros.set ? conversion->options->zeros.value : ZEROS_DEFAULT;
    uint64_t unit = ZEROS_MIN;

    if (zeros == 0) {
        return RAW_UNIT_DEFAULT;
    }
    while (2 * unit <= zeros && unit < RAW_UNIT_MAX) {
        unit *= 2;
    }
    return unit;
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
    if (conversion->options->existing.value) {
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
    convert_target_raw(target, is_device || conversion->options->existing.value);
    return is_device ? create_check_device(conversion->path, target->store, target->size, error)
                     : 0;
}

/* --- A new image --------------------------------------------------------------------------------
 */

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
    };
    return create_plan_make(parameters, conversion->path, &conversion->plan,
                            &conversion->ctl->error);
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
               ? 0
               : error_set(error, -r, "%s: cannot be written: %s", conversion->path, strerror(-r));
}

/* --- An image that exists ------------------------------------------------------------------------
 */

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
    return 0;
}

/* --- All of it
 * ------------------------------------------------------------------------------------ */

static int open_target(struct conversion *conversion)
{
    int r;

    conversion->target.path = conversion->path;
    if (!conversion->is_raw && !conversion->options->existing.value) {
        r = plan_image(conversion);
        r = r == 0 ? look_at_files(conversion) : r;
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

static int copy(struct conversion *conversion)
{
    const struct convert_options *options = conversion->options;
    const struct convert_copy how = {
        .source = conversion->source.view,
        .source_path = conversion->source_path,
        .backing = conversion->backing.view,
        .backing_path = conversion->backing_path,
        .target = &conversion->target,
        .zeros = options->zeros.set ? options->zeros.value : ZEROS_DEFAULT,
        .compress = options->compress.value,
        .compression_type = conversion->plan.header.compression_type,
        .stop = interrupt_pending,
    };

    return convert_copy(&how, &conversion->ctl->error);
}

/* The data file first: an image without it would be none. */
static int name_files(struct conversion *conversion)
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

static int close_target(struct conversion *conversion, int r)
{
    struct convert_target *target = &conversion->target;

    new_image_free(target->image);
    new_file_abandon(target->data_file);
    new_file_abandon(target->file);
    store_close(conversion->existing);
    if (target->existing != NULL) {
        r = ctl_close_writer(conversion->ctl, target->existing, target->writer, r);
    }
    return r;
}

static int make_copy(struct conversion *conversion)
{
    bool in_place;
    sigset_t before;
    int r;

    interrupt_hold(&before);
    r = open_target(conversion);
    in_place = conversion->options->existing.value ||
               (conversion->target.file != NULL && new_file_is_device(conversion->target.file));
    if (r == 0) {
        r = copy(conversion);
    }
    if (r == 0) {
        r = name_files(conversion);
    }
    r = close_target(conversion, r);
    interrupt_release(&before); /* a signal that has waited ends us here */
    return r != -EINTR
               ? r
               : error_set(&conversion->ctl->error, EINTR, "%s: was interrupted, and %s",
                           conversion->path, in_place ? "holds a part of the copy" : "is not made");
}

static int run_convert(struct ctl *ctl)
{
    struct conversion conversion = {
        .ctl = ctl,
        .options = ctl->options,
        .source_path = ctl->operands[0],
        .path = ctl->operands[1],
    };
    int r = check_usage(&conversion);
    int status = r != 0 ? CTL_USAGE : CTL_FAILED;

    if (r == 0) {
        r = open_source(&conversion);
    }
    if (r == 0) {
        r = make_copy(&conversion);
    }
    ctl_disk_close(&conversion.source);
    ctl_disk_close(&conversion.backing);
    create_plan_release(&conversion.plan);
    create_files_release(&conversion.files);
    free(conversion.backing_path);
    return r == 0 ? CTL_OK : status;
}

#define FIELD(member) offsetof(struct convert_options, member)

static const struct option_spec convert_flags[] = {
    {.name = "format",
     .letter = 'f',
     .type = OPTION_CHOICE,
     .field = FIELD(format),
     .choices = CTL_DISK_FORMATS,
     .value_name = "FMT",
     .default_text = "what it looks like",
     .help = "the format of SOURCE: qcow2 or raw"},
    {.name = "target-format",
     .letter = 'O',
     .type = OPTION_CHOICE,
     .field = FIELD(target_format),
     .choices = CTL_DISK_FORMATS,
     .value_name = "FMT",
     .default_text = "qcow2",
     .help = "the format of TARGET: qcow2 or raw"},
    {.name = "compress",
     .letter = 'c',
     .type = OPTION_BOOL,
     .field = FIELD(compress),
     .help = "compress the clusters, on all processors; how is said by -o compression_type"},
    {.name = "snapshot",
     .letter = 'l',
     .type = OPTION_STRING,
     .field = FIELD(snapshot),
     .value_name = "NAME|ID",
     .help = "copy the disk of this internal snapshot, in place of the active state"},
    {.name = "sparse-size",
     .letter = 'S',
     .type = OPTION_SIZE,
     .field = FIELD(zeros),
     .max = INT64_MAX,
     .value_name = "SIZE",
     .default_text = "4k",
     .help = "how many zeros in a row are left out; 0: none, each byte of the disk is written"},
    {.name = "backing",
     .letter = 'B',
     .type = OPTION_STRING,
     .field = FIELD(backing_flag),
     .value_name = "FILE",
     .help = "what TARGET is to have behind it; only what differs from that is written"},
    {.name = "backing-format",
     .letter = 'F',
     .type = OPTION_STRING,
     .field = FIELD(backing_format_flag),
     .value_name = "FMT",
     .help = "the backing file's format, qcow2 or raw; needed with -B"},
    {.name = "existing",
     .letter = 'n',
     .type = OPTION_BOOL,
     .field = FIELD(existing),
     .help = "write to TARGET as it is, in place of making it; its disk may be larger"},
    {.name = "progress",
     .letter = 'p',
     .type = OPTION_BOOL,
     .field = FIELD(progress),
     .help = "accepted as of qemu-img; on a terminal, progress is shown in any case"},
    {.name = "unordered",
     .letter = 'W',
     .type = OPTION_BOOL,
     .field = FIELD(unordered),
     .help = "accepted as of qemu-img; what can be done out of order is done so in any case"},
    FLAG_FORCE_SHARE(struct convert_options),
    FLAG_TRUST_NAMES(struct convert_options),
    FLAG_KEY_FILE(struct convert_options),
    FLAG_KEY_ITERATIONS(struct convert_options),
    FLAG_LOCKING(struct convert_options),
    FLAG_QUIET(struct convert_options),
    {.name = NULL},
};

const struct command convert_command = {
    .name = "convert",
    .operands_text = "SOURCE TARGET",
    .min_operands = 2,
    .max_operands = 2,
    .summary = "copy a disk into another file, also of another format",
    .description =
        "Copies the disk of an image, with all that is behind it, or of a raw file, into a\n"
        "new qcow2 image, raw file or block device. What reads as zeros takes no place in\n"
        "the copy. TARGET appears, or takes the place of an older file of that name, when\n"
        "it is complete: interrupted at any moment, nothing half is left. A block device,\n"
        "and with -n an existing image, is written in place.\n",
    .examples = "  qcow2ctl convert disk.raw disk.qcow2\n"
                "  qcow2ctl convert -O raw disk.qcow2 /dev/vg0/disk\n"
                "  qcow2ctl convert -c -o compression_type=zstd disk.qcow2 small.qcow2\n"
                "  qcow2ctl convert -B base.qcow2 -F qcow2 disk.qcow2 overlay.qcow2\n",
    .options_size = sizeof(struct convert_options),
    .flags = convert_flags,
    .values = create_values,
    .run = run_convert,
};
