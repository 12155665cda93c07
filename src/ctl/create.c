/* SPDX-License-Identifier: MIT */
/* qcow2ctl create: makes an image of what its options say. */
#include "config.h"

#include "admin/create.h"
#include "admin/create_files.h"
#include "codec/codec.h"
#include "ctl/command.h"
#include "ctl/create_print.h"
#include "ctl/create_values.h"
#include "ctl/interrupt.h"
#include "ctl/key_options.h"
#include "ctl/new_key.h"
#include "meta/format.h"
#include "store/file.h"
#include "store/new_file.h"
#include "util/json.h"
#include "util/progress.h"
#include "util/size.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct create_options {
    struct create_values values; /* first: create_values[] is of it */
    struct common_flags common;
    struct option_bool force, unchecked;
    char *backing_flag, *backing_format_flag; /* -b, -F */
    char *objects;
};

/* --- From the options to what is to be made ------------------------------------------------ */

struct creation {
    struct ctl *ctl;
    const struct create_options *options;
    const char *path;
    struct create_parameters parameters;
    struct create_files files;
    struct create_plan plan;
    struct new_file *image;
    struct new_file *data;       /* a new data file, or a device */
    struct store *existing_data; /* one whose bytes are those of the disk */
    bool data_is_new;            /* nothing had its name */
    struct new_key key;          /* of an encrypted one */
    struct progress progress;
};

/* SIZE, or size= of -o; *given is false where it is to be that of the backing file. */
static int take_size(struct creation *creation, bool *given)
{
    const struct create_options *options = creation->options;
    const struct ctl *ctl = creation->ctl;
    struct error *error = &creation->ctl->error;
    const char *text = ctl->operand_count > 1 ? ctl->operands[1] : NULL;
    int result;

    *given = options->values.size.set || text != NULL;
    creation->parameters.size = options->values.size.value;
    if (text == NULL) {
        return 0;
    }
    if (options->values.size.set) {
        return error_set(error, EINVAL,
                         "%s: the size is given twice, as '%s' and with -o size=; leave one out",
                         creation->path, text);
    }
    result = size_parse(text, &creation->parameters.size);
    if (result == -ERANGE) {
        return error_set(error, EINVAL,
                         "%s: the size '%s' is more than the 2^63 - 1 bytes that are possible; use "
                         "a smaller one",
                         creation->path, text);
    }
    return result == 0 ? 0
                       : error_set(error, EINVAL,
                                   "%s: '%s' is not a size; write bytes, or a number with k, M, G "
                                   "or T: 10G",
                                   creation->path, text);
}

static void take_options(struct creation *creation)
{
    const struct create_options *options = creation->options;
    struct create_parameters *parameters = &creation->parameters;

    create_values_take(&options->values, parameters);
    parameters->backing_file =
        options->backing_flag != NULL ? options->backing_flag : options->values.backing_file;
    parameters->backing_format = options->backing_format_flag != NULL
                                     ? options->backing_format_flag
                                     : options->values.backing_format;
    creation->files = (struct create_files){
        .remedy = "or add -u and a SIZE to record it without a look at it",
        .image = creation->path,
        .backing_file = parameters->backing_file,
        .backing_format = parameters->backing_format,
        .data_file = parameters->data_file,
        .follow = (enum image_follow)options->common.follow.value,
    };
}

static int make_plan(struct creation *creation)
{
    create_plan_release(&creation->plan);
    return create_plan_make(&creation->parameters, creation->path, &creation->plan,
                            &creation->ctl->error);
}

/* Looks at the files behind it, and takes the size from there where none was given. */
static int look_at_files(struct creation *creation, bool size_given)
{
    struct ctl *ctl = creation->ctl;
    bool unchecked = creation->options->unchecked.value;
    bool has_backing = creation->parameters.backing_file != NULL;
    int result = create_files_resolve(&creation->files, &ctl->error);

    if (result == 0) {
        result = create_files_check_names(&creation->files, &ctl->error);
    }
    if (result == 0 && has_backing && (!unchecked || creation->parameters.backing_format == NULL)) {
        result = create_files_check_backing(&creation->files, ctl->log, &ctl->error);
    }
    if (result < 0 || size_given) {
        return result;
    }
    creation->parameters.size = creation->files.backing_size;
    return make_plan(creation);
}

/* What is wrong with the command line, whatever files there are. */
static int check_usage(struct creation *creation, bool *size_given)
{
    const struct create_options *options = creation->options;
    bool names_backing = options->backing_flag != NULL || options->values.backing_file != NULL;
    int result = create_values_check(&options->values, creation->path, &creation->ctl->error);

    if (result == 0 && options->common.key_files != NULL &&
        !create_values_encrypt(&options->values)) {
        result = error_set(&creation->ctl->error, EINVAL,
                           "%s: --key-file is the key of an image that is made encrypted; add -o "
                           "encrypt.format=luks, or leave it out: the images behind it are looked "
                           "at without a key",
                           creation->path);
    }
    if (result == 0) {
        result = take_size(creation, size_given);
    }
    if (result == 0 && !*size_given && (!names_backing || options->unchecked.value)) {
        result = error_set(&creation->ctl->error, EINVAL,
                           "%s: how large the disk is to be is not given%s; add a SIZE, such as "
                           "10G",
                           creation->path,
                           names_backing ? ", and -u forbids to ask the backing file" : "");
    }
    if (result == 0) {
        take_options(creation);
        result = make_plan(creation); /* without a size yet, it still refuses impossible options */
    }
    return result;
}

/* --- Encryption ------------------------------------------------------------------------------- */

/* What takes as long as the user wants it to: before signals are held. */
static int encrypt_disk(struct creation *creation)
{
    const struct create_options *options = creation->options;
    const struct key_option key = {
        .flag = "--key-file",
        .files = options->common.key_files,
        .option = "encrypt.key-secret",
        .id = options->values.key_secret,
    };

    return ctl_new_key(creation->ctl, creation->path, &creation->parameters, &key, options->objects,
                       &creation->key);
}

/* --- Opening what will be written ------------------------------------------------------------ */

/* A raw data file that is there already: its bytes are the disk. */
static int open_existing_data(struct creation *creation)
{
    const struct store_file_options options = {.access = STORE_WRITE,
                                               .cache = STORE_CACHE_WRITEBACK};
    const char *path = creation->files.data_path;
    enum preallocation preallocation = creation->parameters.preallocation;
    struct error *error = &creation->ctl->error;
    struct store_info info;
    int result;

    if (preallocation == PREALLOCATION_FALLOC || preallocation == PREALLOCATION_FULL) {
        return error_set(error, EINVAL,
                         "%s: exists, and what it holds will be the disk: preallocation=%s has no "
                         "place; leave it out, or add --force to make this data file anew",
                         path, create_preallocation_name(preallocation));
    }
    result = store_file_open(path, "data file", &options, &creation->existing_data, error);
    if (result < 0) {
        return result;
    }
    result = store_info(creation->existing_data, &info);
    if (result < 0) {
        return error_set(error, -result, "%s: its size cannot be found out: %s", path,
                         strerror(-result));
    }
    return S_ISBLK(info.mode)
               ? create_check_device(path, creation->existing_data,
                                     creation->plan.header.virtual_size, &creation->ctl->error)
               : 0;
}

static int open_data(struct creation *creation)
{
    const char *path = creation->files.data_path;
    bool force = creation->options->force.value;
    struct stat status;
    int result;

    if (path == NULL) {
        return 0;
    }
    creation->data_is_new = lstat(path, &status) != 0;
    if (!creation->data_is_new && creation->parameters.data_file_raw && !force) {
        return open_existing_data(creation);
    }
    result = new_file_begin(path, "data file", force, &creation->data, &creation->ctl->error);
    if (result == 0 && new_file_is_device(creation->data)) {
        result = create_check_device(path, new_file_store(creation->data),
                                     creation->plan.header.virtual_size, &creation->ctl->error);
    }
    return result;
}

static int open_files(struct creation *creation)
{
    int result = new_file_begin(creation->path, "image", creation->options->force.value,
                                &creation->image, &creation->ctl->error);

    if (result == 0 && new_file_is_device(creation->image)) {
        result = create_check_device(creation->path, new_file_store(creation->image),
                                     creation->plan.file_size, &creation->ctl->error);
    }
    if (result == 0) {
        create_values_hint(&creation->options->values, creation->path, creation->image,
                           creation->ctl->log);
        result = open_data(creation);
    }
    if (result == 0 && creation->data != NULL) {
        create_values_hint(&creation->options->values, creation->parameters.data_file,
                           creation->data, creation->ctl->log);
    }
    return result;
}

/* --- Writing ---------------------------------------------------------------------------------- */

static int write_files(struct creation *creation)
{
    struct create_target target = {
        .name = creation->path,
        .file = new_file_store(creation->image),
        .data_file = creation->existing_data,
        .data_name = creation->files.data_path,
        .keep_data = creation->existing_data != NULL,
        .is_device = new_file_is_device(creation->image),
        .progress = progress_show,
        .stop = interrupt_pending,
        .context = &creation->progress,
        .crypt_header = creation->key.header,
    };
    struct store_info before = {0};
    int result = 0;

    if (creation->data != NULL) {
        target.data_file = new_file_store(creation->data);
        target.data_is_device = new_file_is_device(creation->data);
    } else if (creation->existing_data != NULL) {
        result = store_info(creation->existing_data, &before);
        target.data_is_device = S_ISBLK(before.mode);
    }
    if (result == 0) {
        progress_begin(&creation->progress, "qcow2ctl", "making the image", NULL);
        result = create_write(&creation->plan, &target, &creation->ctl->error);
        progress_end(&creation->progress);
    }
    if (result == 0 && !target.is_device && interrupt_pending(NULL)) {
        result = -EINTR;
    }
    if (result < 0 && target.keep_data && !target.data_is_device) {
        (void)store_resize(creation->existing_data, before.size);
    }
    return result;
}

/* The data file first: an image without it would be none. */
static int name_files(struct creation *creation)
{
    struct new_file *data = creation->data, *image = creation->image;
    int result = 0;

    creation->data = NULL;
    creation->image = NULL;
    if (data != NULL) {
        result = new_file_finish(data, &creation->ctl->error);
    }
    if (result < 0) {
        new_file_abandon(image);
        return result;
    }
    result = new_file_finish(image, &creation->ctl->error);
    if (result < 0 && data != NULL && creation->data_is_new) {
        unlink(creation->files.data_path);
    }
    return result;
}

static int make_files(struct creation *creation)
{
    sigset_t before;
    int result;

    interrupt_hold(&before);
    result = open_files(creation);
    if (result == 0) {
        result = write_files(creation);
    }
    if (result == 0) {
        result = name_files(creation);
    }
    new_file_abandon(creation->data);
    new_file_abandon(creation->image);
    store_close(creation->existing_data);
    interrupt_end(&before, result);
    return result != -EINTR ? result
                            : error_set(&creation->ctl->error, EINTR,
                                        "%s: was interrupted, and is not made", creation->path);
}

/* --- All of it ---------------------------------------------------------------------------------
 */

static int run_create(struct ctl *ctl)
{
    struct creation creation = {
        .ctl = ctl,
        .options = ctl->options,
        .path = ctl->operands[0],
    };
    bool size_given = false;
    int result = 0, status = CTL_FAILED;

    if (command_prints_json(&creation.options->common)) {
        result = json_require(&ctl->error);
    }
    if (result == 0) {
        result = check_usage(&creation, &size_given);
        status = result == 0 || result == -ENOMEM ? CTL_FAILED : CTL_USAGE;
    }
    if (result == 0) {
        result = look_at_files(&creation, size_given);
    }
    if (result == 0 && creation.parameters.crypt_method != CRYPT_NONE) {
        result = encrypt_disk(&creation);
    }
    if (result == 0) {
        result = make_files(&creation);
    }
    ctl_new_key_free(&creation.key);
    if (result == 0) {
        result = create_print(ctl, &creation.parameters, &creation.plan, &creation.options->common);
    }
    create_plan_release(&creation.plan);
    create_files_release(&creation.files);
    return result == 0 ? CTL_OK : status;
}

/* --- The tables
 * ------------------------------------------------------------------------------------ */

#define FIELD(member) offsetof(struct create_options, member)

static const struct option_spec create_flags[] = {
    FLAG_FORMAT(struct create_options),
    {.name = "backing",
     .letter = 'b',
     .type = OPTION_STRING,
     .field = FIELD(backing_flag),
     .value_name = "FILE",
     .help = "the backing file: what the disk shows where nothing has been written to the image; "
             "a relative name is looked for beside the image"},
    {.name = "backing-format",
     .letter = 'F',
     .type = OPTION_STRING,
     .field = FIELD(backing_format_flag),
     .value_name = "FMT",
     .help = "the backing file's format, qcow2 or raw; needed with -b"},
    {.name = "backing-unchecked",
     .letter = 'u',
     .type = OPTION_BOOL,
     .field = FIELD(unchecked),
     .help = "record the backing file without a look at it; it need not exist then"},
    {.name = "force",
     .type = OPTION_BOOL,
     .field = FIELD(force),
     .help = "replace IMAGE, and its data file, where they exist; what they hold is lost"},
    FLAG_FOLLOW(struct create_options),
    FLAG_QUIET(struct create_options),
    {.name = "key-file",
     .type = OPTION_SEVERAL,
     .field = FIELD(common.key_files),
     .value_name = "FILE",
     .help =
         "the key of the new image, with encrypt.format=: all bytes of this file (- is standard "
         "input); without it, the systemd credential qcow2fs.key, or what is typed"},
    FLAG_OBJECT(struct create_options, objects),
    FLAG_JSON(struct create_options),
    FLAG_OUTPUT(struct create_options),
    {.name = NULL},
};

const struct command create_command = {
    .name = "create",
    .operands_text = "IMAGE [SIZE]",
    .min_operands = 1,
    .max_operands = 2,
    .summary = "make an image",
    .description =
        "Makes a qcow2 image with an empty disk of SIZE bytes (10G, 512M), or one that\n"
        "shows the disk of a backing file until something is written; SIZE is that of the\n"
        "backing file then, unless it is given. The image appears under its name when it\n"
        "is complete, or not at all. What exists is not overwritten.\n",
    .examples = "  qcow2ctl create a.qcow2 10G\n"
                "  qcow2ctl create -f qcow2 -o compat=1.1,lazy_refcounts=on a.qcow2 10G\n"
                "  qcow2ctl create -b base.qcow2 -F qcow2 overlay.qcow2\n"
                "  qcow2ctl create -o preallocation=falloc,cluster_size=1M a.qcow2 100G\n"
                "  qcow2ctl create -o encrypt.format=luks --key-file=key a.qcow2 10G\n",
    .options_size = sizeof(struct create_options),
    .flags = create_flags,
    .values = create_values,
    .run = run_create,
};
