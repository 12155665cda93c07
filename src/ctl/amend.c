/* SPDX-License-Identifier: MIT */
/* qcow2ctl amend: changes what an image is. */
#include "config.h"

#include "admin/amend.h"
#include "ctl/amend_keys.h"
#include "ctl/command.h"
#include "ctl/key_options.h"
#include "ctl/open.h"
#include "ctl/resize.h"
#include "meta/format.h"
#include "util/json.h"
#include "util/printable.h"
#include "util/progress.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define ENCRYPT_NAMES 6

struct amend_command_options {
    struct common_flags common;
    struct option_bool shrink, unchecked;
    struct option_number compat, refcount_bits, size;
    struct option_bool lazy_refcounts, data_file_raw;
    char *backing_file, *backing_format, *data_file;
    /* What cannot be changed. */
    char *cluster_size, *extended_l2, *compression_type, *preallocation, *encryption;
    char *encrypt[ENCRYPT_NAMES];
    struct amend_key_options keys;
};

/* --- What cannot be changed ------------------------------------------------------------------ */

struct refusal {
    size_t field;
    const char *name;
    const char *why;
};

static const struct refusal refusals[] = {
    {offsetof(struct amend_command_options, cluster_size), "cluster_size",
     "every table of an image is made of its cluster size"},
    {offsetof(struct amend_command_options, extended_l2), "extended_l2",
     "every L2 table would have to be written anew"},
    {offsetof(struct amend_command_options, compression_type), "compression_type",
     "every compressed cluster would have to be written anew"},
    {offsetof(struct amend_command_options, preallocation), "preallocation",
     "it is an order for a new image, and for resize --preallocation"},
    {offsetof(struct amend_command_options, encryption), "encryption",
     "every cluster would have to be written anew"},
};

static int refuse(struct ctl *ctl, const char *name, const char *why)
{
    return error_set(&ctl->error, EINVAL,
                     "%s: %s cannot be changed: %s; make a new image with qcow2ctl create and copy "
                     "the disk to it",
                     ctl->operands[0], name, why);
}

static int check_unchangeable(struct ctl *ctl)
{
    const struct amend_command_options *options = ctl->options;

    for (size_t i = 0; i < sizeof(refusals) / sizeof(refusals[0]); i++) {
        const char *const *value =
            (const char *const *)(const void *)((const char *)options + refusals[i].field);

        if (*value != NULL) {
            return refuse(ctl, refusals[i].name, refusals[i].why);
        }
    }
    for (size_t i = 0; i < ENCRYPT_NAMES; i++) {
        if (options->encrypt[i] != NULL) {
            return refuse(ctl, "the encryption (but for its keys)",
                          "every cluster would have to be written anew");
        }
    }
    return 0;
}

/* --- What shall be changed ----------------------------------------------------------------- */

static const uint32_t versions[] = {2, 3}; /* by the place of compat's words */

/* 0, or CTL_USAGE where nothing is to be changed. */
static int take_change(struct ctl *ctl, struct amend_change *change)
{
    const struct amend_command_options *options = ctl->options;

    *change = (struct amend_change){
        .version = options->compat.set ? versions[options->compat.value] : 0,
        .lazy_refcounts = options->lazy_refcounts,
        .backing_file = options->backing_file,
        .backing_format = options->backing_format,
        .data_file = options->data_file,
        .data_file_raw = options->data_file_raw,
        .refcount_bits = options->refcount_bits.value,
        .size = options->size,
    };
    if (change->version == 0 && !change->lazy_refcounts.set && change->backing_file == NULL &&
        change->backing_format == NULL && change->data_file == NULL && !change->data_file_raw.set &&
        !options->refcount_bits.set && !change->size.set) {
        if (amend_keys_given(&options->keys)) {
            return amend_keys_usage(ctl, &options->keys, &options->common) < 0 ? CTL_USAGE : 0;
        }
        error_set(&ctl->error, EINVAL,
                  "%s: what shall be changed is not said; add -o NAME=VALUE, see --help",
                  ctl->operands[0]);
        return CTL_USAGE;
    }
    if (amend_keys_given(&options->keys)) {
        error_set(&ctl->error, EINVAL,
                  "%s: the keys are changed alone; give encrypt.* in a command of its own",
                  ctl->operands[0]);
        return CTL_USAGE;
    }
    if ((change->refcount_bits & (change->refcount_bits - 1)) != 0) {
        error_set(&ctl->error, EINVAL,
                  "%s: refcount_bits=%" PRIu64 " is not possible: refcounts have 1, 2, 4, 8, 16, "
                  "32 or 64 bits",
                  ctl->operands[0], change->refcount_bits);
        return CTL_USAGE;
    }
    return 0;
}

static int check_size(struct ctl *ctl, struct image *image, const struct amend_change *change)
{
    const struct amend_command_options *options = ctl->options;
    int r;

    if (!change->size.set) {
        return 0;
    }
    r = resize_check_size(image, change->size.value, &ctl->error);
    if (r == 0 && change->size.value < image->virtual_size && !options->shrink.value) {
        r = resize_check_shrink(ctl, image, change->size.value,
                                "add --shrink if that is what is wanted");
    }
    return r;
}

static struct amend_opening how_to_open(const struct amend_command_options *options)
{
    return (struct amend_opening){
        .unchecked = options->unchecked.value,
        .names = ctl_names(&options->common),
        .no_locks = ctl_no_locks(&options->common),
    };
}

static int check_change(struct ctl *ctl, struct image *image, const struct amend_change *change)
{
    const struct amend_command_options *options = ctl->options;
    const struct amend_opening opening = how_to_open(options);
    int r = amend_check(image, change, &ctl->error);

    if (r == 0) {
        r = check_size(ctl, image, change);
    }
    if (r == 0 && !options->unchecked.value &&
        (change->backing_file != NULL || change->backing_format != NULL)) {
        r = amend_check_behind(image, change, &opening, ctl->log, &ctl->error);
    }
    return r;
}

/* --- Doing it ------------------------------------------------------------------------------------
 */

static void begin(void *context, const char *what, const char *unit)
{
    struct progress *progress = context;

    progress_end(progress);
    progress_begin(progress, "qcow2ctl", what, unit);
}

/* What was asked for holds now. */
static int report_json(struct ctl *ctl, const struct amend_change *change)
{
    static const char *const levels[] = {[2] = "0.10", [3] = "1.1"};
    struct json *object = json_new_object(), *now = json_new_object();
    int r;

    if (change->version != 0) {
        json_put_text(now, "compat", levels[change->version]);
    }
    if (change->lazy_refcounts.set) {
        json_put_bool(now, "lazy-refcounts", change->lazy_refcounts.value);
    }
    if (change->backing_file != NULL) {
        json_put_text(now, "backing-filename", change->backing_file);
    }
    if (change->backing_format != NULL) {
        json_put_text(now, "backing-filename-format", change->backing_format);
    }
    if (change->data_file != NULL) {
        json_put_text(now, "data-file", change->data_file);
    }
    if (change->data_file_raw.set) {
        json_put_bool(now, "data-file-raw", change->data_file_raw.value);
    }
    if (change->refcount_bits != 0) {
        json_put_number(now, "refcount-bits", change->refcount_bits);
    }
    if (change->size.set) {
        json_put_number(now, "virtual-size", change->size.value);
    }
    json_put_text(object, "filename", ctl->operands[0]);
    json_put_text(object, "format", "qcow2");
    json_put(object, "amended", now);
    r = ctl_print_json(ctl, object);
    json_free(object);
    return r;
}

/* What changes for the guest is said. */
static int report(struct ctl *ctl, const struct amend_change *change)
{
    const struct amend_command_options *options = ctl->options;

    ctl_done(ctl, ctl->operands[0], "is amended");
    if (options->common.quiet.value) {
        return 0;
    }
    if (command_prints_json(&options->common)) {
        return report_json(ctl, change);
    }
    if (change->backing_file != NULL && *change->backing_file != '\0') {
        printable_line(
            stdout, "Image amended. What it does not hold itself the disk now shows as %s has it.",
            change->backing_file);
    } else if (change->backing_file != NULL) {
        printable_line(stdout, "Image amended. What it does not hold itself now reads as zeros.");
    } else {
        printable_line(stdout, "Image amended.");
    }
    return 0;
}

static int amend(struct ctl *ctl, struct image *image, const struct amend_change *change)
{
    struct progress progress = {0};
    const struct amend_options options = {
        .begin = begin,
        .progress = progress_show,
        .context = &progress,
    };
    int r = check_change(ctl, image, change);

    if (r < 0) {
        return r;
    }
    amend_tell_of_bitmaps(image, change);
    progress_begin(&progress, "qcow2ctl", "amending", NULL);
    r = amend_apply(image, change, &options, &ctl->error);
    progress_end(&progress);
    return r;
}

static int run_amend(struct ctl *ctl)
{
    struct amend_opening opening = how_to_open(ctl->options);
    const struct amend_command_options *options = ctl->options;
    struct amend_change change;
    struct image *image;
    int r = 0;

    if (command_prints_json(&options->common) && json_require(&ctl->error) < 0) {
        return CTL_FAILED;
    }
    if (check_unchangeable(ctl) < 0) {
        return CTL_USAGE;
    }
    r = take_change(ctl, &change);
    if (r != 0) {
        return r;
    }
    if (change.size.set && options->common.key_files != NULL) {
        opening.keys = ctl_keys(ctl, &options->common);
        if (opening.keys == NULL) {
            return CTL_FAILED;
        }
    }
    r = amend_open(ctl->operands[0], &change, &opening, ctl->log, &image, &ctl->error);
    if (r < 0) {
        return CTL_FAILED;
    }
    r = amend(ctl, image, &change);
    if (r == 0 && amend_keys_given(&options->keys)) {
        r = amend_keys_run(ctl, &options->keys, &options->common, image);
        image_close(image);
        return r < 0 ? CTL_FAILED : CTL_OK;
    }
    image_close(image);
    if (r < 0) {
        return CTL_FAILED;
    }
    return report(ctl, &change) < 0 ? CTL_FAILED : CTL_OK;
}

#define FIELD(member) offsetof(struct amend_command_options, member)

static const struct option_spec amend_flags[] = {
    FLAG_FORMAT(struct amend_command_options),
    {
        .name = "backing-unchecked",
        .letter = 'u',
        .type = OPTION_BOOL,
        .field = FIELD(unchecked),
        .help = "record the names of a backing file or a data file without a look at what they "
                "are of",
    },
    {
        .name = "shrink",
        .type = OPTION_BOOL,
        .field = FIELD(shrink),
        .help = "allow size= to make the disk smaller; all behind its new end is lost",
    },
    FLAG_PROGRESS(struct amend_command_options),
    FLAG_KEY_FILE(struct amend_command_options),
    {
        .name = "new-key-file",
        .type = OPTION_SEVERAL,
        .field = FIELD(keys.new_files),
        .value_name = "FILE",
        .help = "with encrypt.state=active: the key that is added; without it, what is typed twice",
    },
    {
        .name = "old-key-file",
        .type = OPTION_SEVERAL,
        .field = FIELD(keys.old_files),
        .value_name = "FILE",
        .help = "the key that is erased: from all slots that have it, once the new one is there",
    },
    FLAG_OBJECT(struct amend_command_options, keys.objects),
    FLAG_KEY_ITERATIONS(struct amend_command_options),
    {
        .name = "force",
        .type = OPTION_BOOL,
        .field = FIELD(keys.force),
        .help = "erase the last key, too: the disk can never be read again",
    },
    FLAG_JSON(struct amend_command_options),
    FLAG_OUTPUT(struct amend_command_options),
    FLAG_QUIET(struct amend_command_options),
    FLAG_TRUST_NAMES(struct amend_command_options),
    FLAG_FOLLOW(struct amend_command_options),
    FLAG_LOCKING(struct amend_command_options),
    {.name = NULL},
};

#define TEXT(option_name, member, shown, sentence)                                               \
    {                                                                                            \
        .name = option_name, .type = OPTION_STRING, .field = FIELD(member), .value_name = shown, \
        .help = sentence                                                                         \
    }
#define SWITCH(option_name, member, sentence)                                                     \
    {                                                                                             \
        .name = option_name, .type = OPTION_BOOL, .field = FIELD(member), .value_name = "on|off", \
        .help = sentence                                                                          \
    }
#define REFUSED(option_name, member)                                       \
    {                                                                      \
        .name = option_name, .type = OPTION_STRING, .field = FIELD(member) \
    }

static const struct option_spec amend_values[] = {
    {
        .name = "compat",
        .type = OPTION_CHOICE,
        .field = FIELD(compat),
        .choices = "0.10=v2 1.1=v3",
        .value_name = "LEVEL",
        .help = "the compatibility level: 0.10 (or v2), or 1.1 (or v3)",
    },
    SWITCH("lazy_refcounts", lazy_refcounts,
           "on: refcounts may be written late, and are repaired after a crash; needs "
           "compat=1.1"),
    TEXT("backing_file", backing_file, "NAME",
         "the backing file, with its format in backing_fmt; empty: none. What the disk "
         "shows changes, unless the new one holds the same as the old one"),
    TEXT("backing_fmt", backing_format, "FMT",
         "the format of the backing file: qcow2 or raw; empty: not recorded"),
    TEXT("data_file", data_file, "NAME",
         "the name of the external data file, for an image that has one"),
    SWITCH("data_file_raw", data_file_raw,
           "off: the data file need not show what the disk does any more; on cannot be "
           "chosen afterwards"),
    {
        .name = "refcount_bits",
        .type = OPTION_UINT,
        .field = FIELD(refcount_bits),
        .min = 1,
        .max = 64,
        .value_name = "BITS",
        .help = "the width of a refcount: 1, 2, 4, 8, 16, 32 or 64; other than 16 needs compat=1.1",
    },
    {
        .name = "size",
        .type = OPTION_SIZE,
        .field = FIELD(size),
        .max = INT64_MAX,
        .value_name = "SIZE",
        .help = "the size of the disk, as qcow2ctl resize",
    },
    REFUSED("cluster_size", cluster_size),
    REFUSED("extended_l2", extended_l2),
    REFUSED("compression_type", compression_type),
    REFUSED("preallocation", preallocation),
    REFUSED("encryption", encryption),
    REFUSED("encrypt.format", encrypt[0]),
    REFUSED("encrypt.cipher-alg", encrypt[1]),
    REFUSED("encrypt.cipher-mode", encrypt[2]),
    REFUSED("encrypt.ivgen-alg", encrypt[3]),
    REFUSED("encrypt.ivgen-hash-alg", encrypt[4]),
    REFUSED("encrypt.hash-alg", encrypt[5]),
    {
        .name = "encrypt.state",
        .type = OPTION_CHOICE,
        .field = FIELD(keys.state),
        .choices = "active inactive",
        .value_name = "active|inactive",
        .help = "active: add a key to an image with LUKS, the disk being opened with --key-file; "
                "inactive: erase one",
    },
    {
        .name = "encrypt.keyslot",
        .type = OPTION_UINT,
        .field = FIELD(keys.slot),
        .max = LUKS_SLOTS - 1,
        .value_name = "N",
        .help = "the key slot, 0 to 7; for a new key the first that is not in use, unless given",
    },
    {
        .name = "encrypt.iter-time",
        .type = OPTION_UINT,
        .field = FIELD(keys.iteration_time),
        .max = UINT32_MAX,
        .value_name = "MS",
        .default_text = "2000",
        .help = "how long the new key shall take to be tried on this machine, in milliseconds",
    },
    TEXT("encrypt.key-secret", keys.key_secret, "ID", "of an --object: as --key-file"),
    TEXT("encrypt.new-secret", keys.new_secret, "ID", "of an --object: as --new-key-file"),
    TEXT("encrypt.old-secret", keys.old_secret, "ID", "of an --object: as --old-key-file"),
    {.name = NULL},
};

const struct command amend_command = {
    .name = "amend",
    .operands_text = "-o NAME=VALUE,... IMAGE",
    .min_operands = 1,
    .max_operands = 1,
    .summary = "change features, compatibility level, or names of other files",
    .description = "Changes what an image is. What its disk shows stays the same, but for size,\n"
                   "and for backing_file: clusters that the image does not hold itself are read\n"
                   "from the new one.\n"
                   "\n"
                   "To compat=0.10, zero clusters become unallocated, or take space where a\n"
                   "backing file would show. Extended L2 entries, an external data file, zstd and\n"
                   "persistent bitmaps are refused there.\n"
                   "\n"
                   "Killed at any moment, the image is in order and each change is either made or\n"
                   "not; the command can be given again.\n",
    .examples = "  qcow2ctl amend -o lazy_refcounts=on disk.qcow2\n"
                "  qcow2ctl amend -o compat=0.10 disk.qcow2\n"
                "  qcow2ctl amend -o backing_file=/srv/base.qcow2,backing_fmt=qcow2 disk.qcow2\n"
                "  qcow2ctl amend -o backing_file= disk.qcow2\n"
                "  qcow2ctl amend -o encrypt.state=active --key-file=key --new-key-file=k a.qcow2\n"
                "  qcow2ctl amend -o encrypt.state=inactive,encrypt.keyslot=0 a.qcow2\n",
    .options_size = sizeof(struct amend_command_options),
    .flags = amend_flags,
    .values = amend_values,
    .run = run_amend,
};
