/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "ctl/create_values.h"

#include "util/size.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

enum compat {
    COMPAT_0_10,
    COMPAT_1_1,
};

int create_values_check(const struct create_values *values, const char *path, struct error *error)
{
    static const char *const names[] = {
        "encrypt.format",   "encrypt.key-secret", "encrypt.cipher-alg",     "encrypt.cipher-mode",
        "encrypt.hash-alg", "encrypt.ivgen-alg",  "encrypt.ivgen-hash-alg", "encrypt.iter-time",
    };
    const char *given = values->encryption.value ? "encryption" : NULL;

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]) && given == NULL; i++) {
        given = values->encrypt[i] != NULL ? names[i] : NULL;
    }
    if (given == NULL) {
        return 0;
    }
    return error_set(error, ENOTSUP,
                     "%s: %s: encryption is not there: qcow2ctl makes images that are not "
                     "encrypted; leave it out, or make the image with qemu-img create",
                     path, given);
}

void create_values_take(const struct create_values *values, struct create_parameters *parameters)
{
    parameters->version = values->compat.set && values->compat.value == COMPAT_0_10 ? 2 : 3;
    parameters->cluster_size =
        values->cluster_size.set ? values->cluster_size.value : CREATE_CLUSTER_SIZE_DEFAULT;
    parameters->refcount_bits =
        values->refcount_bits.set ? values->refcount_bits.value : CREATE_REFCOUNT_BITS_DEFAULT;
    parameters->lazy_refcounts = values->lazy_refcounts.value;
    parameters->extended_l2 = values->extended_l2.value;
    parameters->compression_type = (uint8_t)values->compression_type.value;
    parameters->preallocation = (enum preallocation)values->preallocation.value;
    parameters->data_file = values->data_file;
    parameters->data_file_raw = values->data_file_raw.value;
    parameters->backing_file = values->backing_file;
    parameters->backing_format = values->backing_format;
}

bool create_values_given(const struct create_values *values)
{
    static const struct create_values none;

    return memcmp(values, &none, sizeof(none)) != 0;
}

void create_values_hint(const struct create_values *values, const char *path, struct new_file *file,
                        struct log *log)
{
    const struct new_file_hints hints = {
        .nocow = values->nocow.value,
        .extent_size_hint = (uint32_t)values->extent_size_hint.value,
    };
    int result = new_file_hint(file, &hints);

    /* Without them a file is as good. */
    if (result < 0) {
        log_line(log, LOG_LEVEL_WARNING, "%s: is made without %s: the host's file system says: %s",
                 path, hints.nocow ? "nocow" : "extent_size_hint", strerror(-result));
    }
}

int create_check_device(const char *path, struct store *store, uint64_t needed, struct error *error)
{
    char has[SIZE_TEXT_MAX], needs[SIZE_TEXT_MAX];
    struct store_info info;
    int result = store_info(store, &info);

    if (result == 0 && info.size >= needed) {
        return 0;
    }
    return error_set(error, result < 0 ? -result : ENOSPC,
                     "%s: this device has %s (%" PRIu64 " bytes), and %s (%" PRIu64 " bytes) are "
                     "needed; use a larger device, or a smaller size",
                     path, size_format(result == 0 ? info.size : 0, has),
                     result == 0 ? info.size : 0, size_format(needed, needs), needed);
}

#define FIELD(member) offsetof(struct create_values, member)

#define ENCRYPT(option, number)                                                           \
    {                                                                                     \
        .name = "encrypt." option, .type = OPTION_STRING, .field = FIELD(encrypt[number]) \
    }

const struct option_spec create_values[] = {
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
