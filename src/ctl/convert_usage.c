/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "ctl/convert_internal.h"

#include <errno.h>
#include <inttypes.h>

static int refuse(struct conversion *conversion, const char *sentence)
{
    return error_set(&conversion->ctl->error, EINVAL, "%s: %s", conversion->path, sentence);
}

static int check_raw(struct conversion *conversion)
{
    const struct convert_options *options = conversion->options;
    struct create_values values = options->values;

    if (options->compress.value) {
        return refuse(conversion, "a raw file cannot be compressed; leave out -c, or add -O qcow2");
    }
    if (options->bitmaps.value) {
        return refuse(conversion,
                      "a raw file has no bitmaps; leave out --bitmaps, or add -O qcow2");
    }
    if (options->backing_flag != NULL) {
        return refuse(conversion,
                      "a raw file has nothing behind it; leave out -B, or add -O qcow2");
    }
    values.preallocation = (struct option_number){0};
    if (create_values_given(&values)) {
        return refuse(conversion, "-o says what a qcow2 image is to be, and this is a raw file, of "
                                  "which there is preallocation alone; leave it out, or add -O "
                                  "qcow2");
    }
    if (options->values.preallocation.value == PREALLOCATION_METADATA) {
        return refuse(conversion,
                      "a raw file has no metadata; use preallocation=falloc or full, or "
                      "add -O qcow2");
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
    if (options->compress.value && values->preallocation.value != PREALLOCATION_OFF) {
        return refuse(conversion,
                      "compressed clusters have no place before they are there; leave out "
                      "-c, or preallocation");
    }
    if (options->compress.value && values->data_file != NULL) {
        return refuse(conversion, "an external data file holds no compressed clusters; leave out "
                                  "-c, or data_file");
    }
    if (options->compress.value && create_values_encrypt(values)) {
        return refuse(conversion, "compressed clusters of an encrypted image would not be "
                                  "encrypted; leave out -c, or encrypt.format");
    }
    if (options->new_key_files != NULL && !create_values_encrypt(values)) {
        return refuse(conversion, "--new-key-file is the key of a target that is made encrypted; "
                                  "add -o encrypt.format=luks, or leave it out");
    }
    return create_values_check(values, conversion->path, &conversion->ctl->error);
}

static int check_zeros(struct conversion *conversion)
{
    const struct option_number *zeros = &conversion->options->zeros;

    if (zeros->set && zeros->value != 0 && zeros->value < CONVERT_ZEROS_MIN) {
        return error_set(&conversion->ctl->error, EINVAL,
                         "%s: -S %" PRIu64
                         " is too small; use 512 or more, or 0 to write all zeros",
                         conversion->path, zeros->value);
    }
    return 0;
}

static int check_bitmaps(struct conversion *conversion)
{
    const struct convert_options *options = conversion->options;

    if (options->skip_broken.value && !options->bitmaps.value) {
        return refuse(conversion, "--skip-broken-bitmaps is for --bitmaps; add that");
    }
    if (options->bitmaps.value && options->snapshot != NULL) {
        return refuse(conversion,
                      "the bitmaps are of the active disk, not of a snapshot; leave out "
                      "--bitmaps, or -l");
    }
    return 0;
}

int convert_check_usage(struct conversion *conversion)
{
    const struct convert_options *options = conversion->options;
    int r = check_zeros(conversion);

    if (r == 0) {
        r = check_bitmaps(conversion);
    }

    conversion->is_raw = options->target_format.value == IMAGE_RAW && options->target_format.set;
    if (r == 0 && conversion->is_raw) {
        r = check_raw(conversion);
    }
    if (r == 0 && options->existing.value) {
        r = check_existing(conversion);
    }
    return r == 0 ? check_image(conversion) : r;
}
