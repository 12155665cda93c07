/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "ctl/create_print.h"

#include "codec/codec.h"
#include "meta/format.h"
#include "util/json.h"
#include "util/printable.h"
#include "util/size.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const char *const compat_names[] = {"0.10", "1.1"};

/* By crypt_method. */
static const char *const encryption_names[] = {
    [CRYPT_NONE] = "",
    [CRYPT_AES] = ", encrypt.format=aes",
    [CRYPT_LUKS] = ", encrypt.format=luks",
};

const char *create_preallocation_name(enum preallocation preallocation)
{
    static const char *const names[] = {"off", "metadata", "falloc", "full"};

    return names[preallocation];
}

static void print_line(const char *path, const struct create_parameters *parameters,
                       const struct create_plan *plan)
{
    const struct header *header = &plan->header;
    const char *name = "", *behind = "", *after = "";
    char size[SIZE_TEXT_MAX];

    if (parameters->backing_file != NULL) {
        name = ", backing file ";
        behind = parameters->backing_file;
    } else if (parameters->data_file != NULL) {
        name = ", data file ";
        behind = parameters->data_file;
        after = parameters->data_file_raw ? " (raw)" : "";
    }
    printable_line(
        stdout,
        "Made %s: a disk of %s (%" PRIu64 " bytes), compat=%s, cluster_size=%" PRIu64
        ", refcount_bits=%" PRIu64 ", compression_type=%s%s%s, preallocation=%s%s%s%s%s%s%s%s",
        path, size_format(header->virtual_size, size), header->virtual_size,
        compat_names[header->version - 2], header->cluster_size, parameters->refcount_bits,
        compression_type_name(header->compression_type),
        parameters->lazy_refcounts ? ", lazy_refcounts=on" : "",
        parameters->extended_l2 ? ", extended_l2=on" : "",
        create_preallocation_name(plan->preallocation), encryption_names[header->crypt_method],
        name, behind, parameters->backing_file != NULL ? " (" : "",
        parameters->backing_file != NULL ? parameters->backing_format : "",
        parameters->backing_file != NULL ? ")" : "", after);
}

/* "format-specific" of qemu-img info. */
static struct json *format_specific(const struct create_parameters *parameters,
                                    const struct header *header)
{
    struct json *specific = json_new_object(), *data = json_new_object();

    json_put_text(data, "compat", compat_names[header->version - 2]);
    json_put_text(data, "compression-type", compression_type_name(header->compression_type));
    json_put_number(data, "refcount-bits", parameters->refcount_bits);
    if (header->version > 2) {
        json_put_bool(data, "lazy-refcounts", parameters->lazy_refcounts);
        json_put_bool(data, "corrupt", false);
        json_put_bool(data, "extended-l2", parameters->extended_l2);
    }
    if (parameters->data_file != NULL) {
        json_put_text(data, "data-file", parameters->data_file);
        json_put_bool(data, "data-file-raw", parameters->data_file_raw);
    }
    json_put_text(specific, "type", "qcow2");
    json_put(specific, "data", data);
    return specific;
}

static int print_json(const char *path, const struct create_parameters *parameters,
                      const struct create_plan *plan, struct ctl *ctl)
{
    struct json *object = json_new_object();
    int result;

    json_put_text(object, "filename", path);
    json_put_text(object, "format", "qcow2");
    json_put_number(object, "virtual-size", plan->header.virtual_size);
    json_put_number(object, "cluster-size", parameters->cluster_size);
    if (parameters->backing_file != NULL) {
        json_put_text(object, "backing-filename", parameters->backing_file);
        json_put_text(object, "backing-filename-format", parameters->backing_format);
    }
    json_put_text(object, "preallocation", create_preallocation_name(plan->preallocation));
    if (plan->header.crypt_method != CRYPT_NONE) {
        json_put_bool(object, "encrypted", true);
    }
    json_put(object, "format-specific", format_specific(parameters, &plan->header));
    result = ctl_print_json(ctl, object);
    json_free(object);
    return result;
}

int create_print(struct ctl *ctl, const struct create_parameters *parameters,
                 const struct create_plan *plan, const struct common_flags *common)
{
    const char *path = ctl->operands[0];

    ctl_done(ctl, path, "is made");
    if (common->output.value == CTL_OUTPUT_JSON) {
        return print_json(path, parameters, plan, ctl);
    }
    if (!common->quiet.value) {
        print_line(path, parameters, plan);
    }
    return 0;
}
