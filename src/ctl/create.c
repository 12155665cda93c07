/* SPDX-License-Identifier: MIT */
/* qcow2ctl create: makes an image of what its options say. */
#include "config.h"

#include "admin/create.h"
#include "admin/create_files.h"
#include "codec/codec.h"
#include "ctl/command.h"
#include "ctl/create_print.h"
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

enum compat {
    COMPAT_0_10,
    COMPAT_1_1,
};

struct create_options {
    struct common_flags common;
    struct option_bool force, unchecked;
    char *backing_flag, *backing_format_flag; /* -b, -F */
    struct option_number size, compat, cluster_size, refcount_bits, compression_type, preallocation;
    struct option_bool lazy_refcounts, extended_l2, data_file_raw, encryption, nocow;
    struct option_number extent_size_hint;
    char *backing_file, *backing_format, *data_file;
    char *encrypt[8];
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
    struct progress progress;
};

static int refuse_encryption(struct creation *creation)
{
    static const char *const names[] = {
        "encrypt.format",   "encrypt.key-secret", "encrypt.cipher-alg",     "encrypt.cipher-mode",
        "encrypt.hash-alg", "encrypt.ivgen-alg",  "encrypt.ivgen-hash-alg", "encrypt.iter-time",
    };
    const struct create_options *options = creation->options;
    const char *given = options->encryption.value ? "encryption" : NULL;

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]) && given == NULL; i++) {
        given = options->encrypt[i] != NULL ? names[i] : NULL;
    }
    if (given == NULL) {
        return 0;
    }
    return error_set(&creation->ctl->error, ENOTSUP,
                     "%s: %s: encryption is not there: qcow2ctl makes images that are not "
                     "encrypted; leave it out, or make the image with qemu-img create",
                     creation->path, given);
}

/* SIZE, or size= of -o; *given is false where it is to be that of the backing file. */
static int take_size(struct creation *creation, bool *given)
{
    const struct create_options *options = creation->options;
    const struct ctl *ctl = creation->ctl;
    struct error *error = &creation->ctl->error;
    const char *text = ctl->operand_count > 1 ? ctl->operands[1] : NULL;
    int result;

    *given = options->size.set || text != NULL;
    creation->parameters.size = options->size.value;
    if (text == NULL) {
        return 0;
    }
    if (options->size.set) {
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

    parameters->version = options->compat.set && options->compat.value == COMPAT_0_10 ? 2 : 3;
    parameters->cluster_size =
        options->cluster_size.set ? options->cluster_size.value : CREATE_CLUSTER_SIZE_DEFAULT;
    parameters->refcount_bits =
        options->refcount_bits.set ? options->refcount_bits.value : CREATE_REFCOUNT_BITS_DEFAULT;
    parameters->lazy_refcounts = options->lazy_refcounts.value;
    parameters->extended_l2 = options->extended_l2.value;
    parameters->compression_type = (uint8_t)options->compression_type.value;
    parameters->preallocation = (enum preallocation)options->preallocation.value;
    parameters->data_file = options->data_file;
    parameters->data_file_raw = options->data_file_raw.value;
    parameters->backing_file =
        options->backing_flag != NULL ? options->backing_flag : options->backing_file;
    parameters->backing_format = options->backing_format_flag != NULL ? options->backing_format_flag
                                                                      : options->backing_format;
    creation->files = (struct create_files){
        .image = creation->path,
        .backing_file = parameters->backing_file,
        .backing_format = parameters->backing_format,
        .data_file = parameters->data_file,
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
    bool names_backing = options->backing_flag != NULL || options->backing_file != NULL;
    int result = refuse_encryption(creation);

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

/* --- Opening what will be written ------------------------------------------------------------ */

static int check_device(struct creation *creation, const char *path, struct store *store,
                        uint64_t needed)
{
    char has[SIZE_TEXT_MAX], needs[SIZE_TEXT_MAX];
    struct store_info info;
    int result = store_info(store, &info);

    if (result == 0 && info.size >= needed) {
        return 0;
    }
    return error_set(&creation->ctl->error, result < 0 ? -result : ENOSPC,
                     "%s: this device has %s (%" PRIu64 " bytes), and %s (%" PRIu64 " bytes) are "
                     "needed; use a larger device, or a smaller size",
                     path, size_format(result == 0 ? info.size : 0, has),
                     result == 0 ? info.size : 0, size_format(needed, needs), needed);
}

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
    return S_ISBLK(info.mode) ? check_device(creation, path, creation->existing_data,
                                             creation->plan.header.virtual_size)
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
        result = check_device(creation, path, new_file_store(creation->data),
                              creation->plan.header.virtual_size);
    }
    return result;
}

/* Without them a file is as good. */
static void give_hints(const struct creation *creation, const char *path, struct new_file *file)
{
    const struct new_file_hints hints = {
        .nocow = creation->options->nocow.value,
        .extent_size_hint = (uint32_t)creation->options->extent_size_hint.value,
    };
    int result = new_file_hint(file, &hints);

    if (result < 0) {
        log_line(creation->ctl->log, LOG_LEVEL_WARNING,
                 "%s: is made without %s: the host's file system says: %s", path,
                 hints.nocow ? "nocow" : "extent_size_hint", strerror(-result));
    }
}

static int open_files(struct creation *creation)
{
    int result = new_file_begin(creation->path, "image", creation->options->force.value,
                                &creation->image, &creation->ctl->error);

    if (result == 0 && new_file_is_device(creation->image)) {
        result = check_device(creation, creation->path, new_file_store(creation->image),
                              creation->plan.file_size);
    }
    if (result == 0) {
        give_hints(creation, creation->path, creation->image);
        result = open_data(creation);
    }
    if (result == 0 && creation->data != NULL) {
        give_hints(creation, creation->parameters.data_file, creation->data);
    }
    return result;
}

/* --- Writing ---------------------------------------------------------------------------------- */

/* A signal that would end us waits, so that nothing half made is left; here it is noticed. */
static bool is_interrupted(void *context)
{
    sigset_t pending;

    (void)context;
    return sigpending(&pending) == 0 &&
           (sigismember(&pending, SIGINT) == 1 || sigismember(&pending, SIGTERM) == 1 ||
            sigismember(&pending, SIGHUP) == 1);
}

static void hold_signals(sigset_t *before)
{
    static const int ending[] = {SIGINT, SIGTERM, SIGHUP};
    struct sigaction action;
    sigset_t held;

    sigemptyset(&held);
    for (size_t i = 0; i < sizeof(ending) / sizeof(ending[0]); i++) {
        /* One that is ignored (nohup) would wait, too, if it were held. */
        if (sigaction(ending[i], NULL, &action) == 0 && action.sa_handler != SIG_IGN) {
            sigaddset(&held, ending[i]);
        }
    }
    sigprocmask(SIG_BLOCK, &held, before);
}

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
        .stop = is_interrupted,
        .context = &creation->progress,
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

    hold_signals(&before);
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
    sigprocmask(SIG_SETMASK, &before, NULL); /* one that waited ends us here */
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
    if (result == 0) {
        result = make_files(&creation);
    }
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
    FLAG_QUIET(struct create_options),
    FLAG_JSON(struct create_options),
    FLAG_OUTPUT(struct create_options),
    {.name = NULL},
};

#define ENCRYPT(option, number)                                                           \
    {                                                                                     \
        .name = "encrypt." option, .type = OPTION_STRING, .field = FIELD(encrypt[number]) \
    }

static const struct option_spec create_values[] = {
    {.name = "compat",
     .type = OPTION_CHOICE,
     .field = FIELD(compat),
     .choices = "0.10=v2 1.1=v3",
     .value_name = "LEVEL",
     .default_text = "1.1",
     .help = "version of the format: 0.10 (also v2) for programs before QEMU 1.1, 1.1 (also v3) "
             "for all that is below"},
    {.name = "cluster_size",
     .type = OPTION_SIZE,
     .field = FIELD(cluster_size),
     .max = INT64_MAX,
     .value_name = "SIZE",
     .default_text = "64k",
     .help = "size of a cluster, a power of two from 512 to 2M"},
    {.name = "refcount_bits",
     .type = OPTION_UINT,
     .field = FIELD(refcount_bits),
     .max = UINT32_MAX,
     .value_name = "N",
     .default_text = "16",
     .help = "width of a cluster's reference count: 1, 2, 4, 8, 16, 32 or 64"},
    {.name = "lazy_refcounts",
     .type = OPTION_BOOL,
     .field = FIELD(lazy_refcounts),
     .value_name = "on|off",
     .default_text = "off",
     .help = "write reference counts late; after a crash they must be repaired"},
    {.name = "extended_l2",
     .type = OPTION_BOOL,
     .field = FIELD(extended_l2),
     .value_name = "on|off",
     .default_text = "off",
     .help = "allocate subclusters, 32 in a cluster, which has 16k at least"},
    {.name = "compression_type",
     .type = OPTION_CHOICE,
     .field = FIELD(compression_type),
     .choices = "zlib zstd",
     .value_name = "TYPE",
     .default_text = "zlib",
     .help = "how clusters are compressed that a program compresses: zlib or zstd"},
    {.name = "preallocation",
     .type = OPTION_CHOICE,
     .field = FIELD(preallocation),
     .choices = "off metadata falloc full",
     .value_name = "MODE",
     .default_text = "off",
     .help = "metadata gives each cluster its place in the file, falloc reserves the host's space, "
             "full writes it; with a backing file only together with extended_l2"},
    {.name = "nocow",
     .type = OPTION_BOOL,
     .field = FIELD(nocow),
     .value_name = "on|off",
     .default_text = "off",
     .help = "on btrfs, write the file in place: faster, but without checksums"},
    {.name = "extent_size_hint",
     .type = OPTION_SIZE,
     .field = FIELD(extent_size_hint),
     .max = UINT32_MAX,
     .value_name = "SIZE",
     .default_text = "0: what the file system does",
     .help = "on xfs, give the file space in pieces of this size"},
    {.name = "data_file",
     .type = OPTION_STRING,
     .field = FIELD(data_file),
     .value_name = "FILE",
     .help = "keep the guest's data in this file, and only the tables in IMAGE; it is made"},
    {.name = "data_file_raw",
     .type = OPTION_BOOL,
     .field = FIELD(data_file_raw),
     .value_name = "on|off",
     .default_text = "off",
     .help = "keep the data file valid as a raw image of the disk; one that exists is taken with "
             "what it holds, unless --force"},
    {.name = "backing_file",
     .type = OPTION_STRING,
     .field = FIELD(backing_file),
     .value_name = "FILE",
     .help = "the same as -b"},
    {.name = "backing_fmt",
     .type = OPTION_STRING,
     .field = FIELD(backing_format),
     .value_name = "FMT",
     .help = "the same as -F"},
    {.name = "size",
     .type = OPTION_SIZE,
     .field = FIELD(size),
     .max = INT64_MAX,
     .value_name = "SIZE",
     .help = "the same as SIZE behind IMAGE"},
    {.name = "encryption", .type = OPTION_BOOL, .field = FIELD(encryption)},
    ENCRYPT("format", 0),
    ENCRYPT("key-secret", 1),
    ENCRYPT("cipher-alg", 2),
    ENCRYPT("cipher-mode", 3),
    ENCRYPT("hash-alg", 4),
    ENCRYPT("ivgen-alg", 5),
    ENCRYPT("ivgen-hash-alg", 6),
    ENCRYPT("iter-time", 7),
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
                "  qcow2ctl create -o preallocation=falloc,cluster_size=1M a.qcow2 100G\n",
    .options_size = sizeof(struct create_options),
    .flags = create_flags,
    .values = create_values,
    .run = run_create,
};
