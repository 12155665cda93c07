/* SPDX-License-Identifier: MIT */
/* qcow2ctl convert: copies a disk into another file, of another format or of another kind. */
#include "config.h"

#include "ctl/convert_copy.h"
#include "ctl/convert_internal.h"
#include "ctl/interrupt.h"
#include "util/json.h"

#include <errno.h>
#include <string.h>

static int copy(struct conversion *conversion)
{
    const struct convert_options *options = conversion->options;
    const struct convert_copy how = {
        .source = conversion->source.view,
        .source_path = conversion->source_path,
        .backing = conversion->backing.view,
        .backing_path = conversion->backing_path,
        .target = &conversion->target,
        .zeros = options->zeros.set ? options->zeros.value : CONVERT_ZEROS_DEFAULT,
        .compress = options->compress.value,
        .compression_type = conversion->plan.header.compression_type,
        .written = &conversion->written,
        .stop = interrupt_pending,
    };

    image_may_read_ahead(conversion->source.image);
    conversion->size = conversion->target.size;
    return convert_copy(&how, &conversion->ctl->error);
}

static int make_copy(struct conversion *conversion)
{
    bool in_place;
    sigset_t before;
    int r;

    interrupt_hold(&before);
    r = convert_open_target(conversion);
    in_place = conversion->options->existing.value ||
               (conversion->target.file != NULL && new_file_is_device(conversion->target.file));
    if (r == 0) {
        r = copy(conversion);
    }
    if (r == 0 && conversion->target.existing != NULL) {
        r = convert_bitmaps_to_existing(conversion);
    }
    if (r == 0 && !in_place && interrupt_pending(NULL)) {
        r = -EINTR;
    }
    if (r == 0) {
        r = convert_name_files(conversion);
    }
    r = convert_close_target(conversion, r);
    interrupt_end(&before, r);
    return r != -EINTR
               ? r
               : error_set(&conversion->ctl->error, EINTR, "%s: was interrupted, and %s",
                           conversion->path, in_place ? "holds a part of the copy" : "is not made");
}

static int report_json(struct conversion *conversion)
{
    struct json *object = json_new_object();
    int r;

    json_put_text(object, "filename", conversion->path);
    json_put_text(object, "format", conversion->is_raw ? "raw" : "qcow2");
    json_put_number(object, "virtual-size", conversion->size);
    json_put_number(object, "copied", conversion->written);
    r = ctl_print_json(conversion->ctl, object);
    json_free(object);
    return r;
}

static int run_convert(struct ctl *ctl)
{
    struct conversion conversion = {
        .ctl = ctl,
        .options = ctl->options,
        .source_path = ctl->operands[0],
        .path = ctl->operands[1],
    };
    const struct common_flags *common = &conversion.options->common;
    int r = convert_check_usage(&conversion);
    int status = r != 0 ? CTL_USAGE : CTL_FAILED;

    if (r == 0 && command_prints_json(common)) {
        r = json_require(&ctl->error);
    }
    if (r == 0) {
        r = convert_open_source(&conversion);
    }
    if (r == 0) {
        r = convert_find_bitmaps(&conversion);
    }
    if (r == 0) {
        r = convert_plan(&conversion);
    }
    if (r == 0) {
        r = make_copy(&conversion);
    }
    if (r == 0) {
        ctl_done(ctl, conversion.path, "is made");
    }
    if (r == 0 && command_prints_json(common) && !common->quiet.value) {
        r = report_json(&conversion);
    }
    convert_release(&conversion);
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
    {.name = "bitmaps",
     .type = OPTION_BOOL,
     .field = FIELD(bitmaps),
     .help = "copy the persistent bitmaps, too, with their granularities"},
    {.name = "skip-broken-bitmaps",
     .type = OPTION_BOOL,
     .field = FIELD(skip_broken),
     .help = "with --bitmaps: leave out those that are inconsistent"},
    FLAG_PROGRESS(struct convert_options),
    {.name = "unordered",
     .letter = 'W',
     .type = OPTION_BOOL,
     .field = FIELD(unordered),
     .help = "accepted as of qemu-img; what can be done out of order is done so in any case"},
    {.name = "json",
     .type = OPTION_PRESET,
     .field = FIELD(common.output),
     .min = CTL_OUTPUT_JSON,
     .help = "print JSON: filename, format, virtual-size, copied (bytes of the disk)"},
    FLAG_OUTPUT(struct convert_options),
    FLAG_FORCE_SHARE(struct convert_options),
    FLAG_TRUST_NAMES(struct convert_options),
    FLAG_FOLLOW(struct convert_options),
    FLAG_KEY_FILE(struct convert_options),
    {.name = "new-key-file",
     .type = OPTION_SEVERAL,
     .field = FIELD(new_key_files),
     .value_name = "FILE",
     .help = "with encrypt.format=: the key of TARGET, all bytes of this file (- is standard "
             "input); without it, the systemd credential qcow2fs.key, or what is typed twice"},
    FLAG_OBJECT(struct convert_options, objects),
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
        "Copies the disk of an image, with all that is behind it, or of a raw file, into\n"
        "a new qcow2 image, raw file or block device. What reads as zeros takes no place\n"
        "in the copy. TARGET appears, or takes the place of an older file of that name,\n"
        "when it is complete: interrupted at any moment, nothing half is left. A block\n"
        "device, and with -n an existing image, is written in place.\n",
    .examples = "  qcow2ctl convert disk.raw disk.qcow2\n"
                "  qcow2ctl convert -O raw disk.qcow2 /dev/vg0/disk\n"
                "  qcow2ctl convert -c -o compression_type=zstd disk.qcow2 small.qcow2\n"
                "  qcow2ctl convert --bitmaps disk.qcow2 copy.qcow2\n"
                "  qcow2ctl convert -B base.qcow2 -F qcow2 disk.qcow2 overlay.qcow2\n"
                "  qcow2ctl convert -o encrypt.format=luks --new-key-file=key disk.raw a.qcow2\n",
    .options_size = sizeof(struct convert_options),
    .flags = convert_flags,
    .values = create_values,
    .run = run_convert,
};
