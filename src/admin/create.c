/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "admin/create.h"

#include "codec/codec.h"
#include "meta/format.h"
#include "meta/header_write.h"
#include "util/checked.h"
#include "util/size.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define SECTOR UINT64_C(512)

/* Host offsets, in L1 and L2 entries, have 56 bits. */
#define HOST_SIZE_MAX (UINT64_C(1) << 56)

struct request {
    const struct create_parameters *parameters;
    const char *name;
    struct error *error;
};

/* --- Options that exclude each other, and values that there are not ------------------- */

static int refuse(const struct request *request, const char *sentence)
{
    return error_set(request->error, EINVAL, "%s: %s", request->name, sentence);
}

static int check_numbers(const struct request *request)
{
    const struct create_parameters *parameters = request->parameters;

    if (!is_power_of_two(parameters->cluster_size) ||
        parameters->cluster_size < UINT64_C(1) << CLUSTER_BITS_MIN ||
        parameters->cluster_size > UINT64_C(1) << CLUSTER_BITS_MAX) {
        return error_set(request->error, EINVAL,
                         "%s: cluster_size=%" PRIu64 " is not possible: clusters have a power of "
                         "two from 512 bytes to 2 MiB; leave it out for 64 KiB",
                         request->name, parameters->cluster_size);
    }
    if (!is_power_of_two(parameters->refcount_bits) ||
        parameters->refcount_bits > UINT64_C(1) << REFCOUNT_ORDER_MAX) {
        return error_set(request->error, EINVAL,
                         "%s: refcount_bits=%" PRIu64 " is not possible: refcounts have 1, 2, 4, "
                         "8, 16, 32 or 64 bits; leave it out for 16",
                         request->name, parameters->refcount_bits);
    }
    return 0;
}

/* What came with version 3 of the format. */
static int check_version(const struct request *request)
{
    const struct create_parameters *parameters = request->parameters;

    if (parameters->version > 2) {
        return 0;
    }
    if (parameters->lazy_refcounts) {
        return refuse(request, "lazy refcounts need compatibility level 1.1; add compat=1.1, or "
                               "leave out lazy_refcounts=on");
    }
    if (parameters->extended_l2) {
        return refuse(request, "extended L2 entries need compatibility level 1.1; add compat=1.1, "
                               "or leave out extended_l2=on");
    }
    if (parameters->compression_type != COMPRESSION_DEFLATE) {
        return error_set(request->error, EINVAL,
                         "%s: compression_type=%s needs compatibility level 1.1; add compat=1.1, "
                         "or use compression_type=zlib",
                         request->name, compression_type_name(parameters->compression_type));
    }
    if (parameters->data_file != NULL) {
        return error_set(request->error, EINVAL,
                         "%s: an external data file (data_file=%s) needs compatibility level 1.1; "
                         "add compat=1.1, or leave out data_file",
                         request->name, parameters->data_file);
    }
    if (parameters->refcount_bits != UINT64_C(1) << REFCOUNT_ORDER_V2) {
        return error_set(request->error, EINVAL,
                         "%s: refcount_bits=%" PRIu64 " needs compatibility level 1.1, in 0.10 "
                         "all refcounts have 16 bits; add compat=1.1, or leave out refcount_bits",
                         request->name, parameters->refcount_bits);
    }
    return 0;
}

static int check_combinations(const struct request *request)
{
    const struct create_parameters *parameters = request->parameters;

    if (parameters->extended_l2 && parameters->cluster_size < UINT64_C(1)
                                                                  << CLUSTER_BITS_MIN_EXTENDED_L2) {
        return error_set(request->error, EINVAL,
                         "%s: extended L2 entries need clusters of at least 16 KiB, "
                         "cluster_size=%" PRIu64 " is less; use cluster_size=16k or more, or leave "
                         "out extended_l2=on",
                         request->name, parameters->cluster_size);
    }
    if (parameters->data_file_raw && parameters->data_file == NULL) {
        return refuse(request, "data_file_raw=on speaks of an external data file, and there is "
                               "none; add data_file=PATH, or leave out data_file_raw");
    }
    if (parameters->data_file_raw && parameters->backing_file != NULL) {
        return error_set(request->error, EINVAL,
                         "%s: a raw data file is all of the disk, so that nothing of a backing "
                         "file can show; leave out data_file_raw=on, or the backing file %s",
                         request->name, parameters->backing_file);
    }
    if (parameters->preallocation != PREALLOCATION_OFF && parameters->backing_file != NULL &&
        !parameters->extended_l2) {
        return error_set(request->error, EINVAL,
                         "%s: preallocated clusters would hide the backing file %s; add "
                         "extended_l2=on, with which they do not, or use preallocation=off",
                         request->name, parameters->backing_file);
    }
    return 0;
}

/* Where zeros of the file are no zeros of the disk. */
static int check_encryption(const struct request *request)
{
    const struct create_parameters *parameters = request->parameters;
    static const struct luks_wish aes = {
        .kind = {.name = "aes", .mode = "cbc", .iv = "plain64", .iv_hash = ""},
        .hash = "sha256",
        .key_bytes = 16,
    };

    if (parameters->crypt_method == CRYPT_NONE) {
        return 0;
    }
    if (parameters->data_file_raw) {
        return refuse(request, "data_file_raw=on says that the data file can be read as it is, and "
                               "it would be encrypted; leave out one of them");
    }
    if (parameters->preallocation != PREALLOCATION_OFF && parameters->version < 3) {
        return refuse(request, "preallocated clusters of an encrypted disk need compatibility "
                               "level 1.1, which can say that they are zeros; add compat=1.1, or "
                               "use preallocation=off");
    }
    return luks_check_wish(parameters->crypt_method == CRYPT_LUKS ? &parameters->luks : &aes,
                           request->name, request->error);
}

static int check_compression(const struct request *request)
{
    uint8_t type = request->parameters->compression_type;
    const char *missing = compression_type_missing(type);

    if (missing == NULL) {
        return 0;
    }
    return error_set(request->error, ENOTSUP,
                     "%s: compression_type=%s needs %s, which this qcow2ctl was built without; "
                     "install that library and build it again, or use compression_type=zlib",
                     request->name, compression_type_name(type), missing);
}

static int check_names(const struct request *request)
{
    const struct create_parameters *parameters = request->parameters;

    if (parameters->backing_file == NULL && parameters->backing_format != NULL) {
        return error_set(request->error, EINVAL,
                         "%s: the backing format %s (-F, backing_fmt) comes without a backing "
                         "file; name it with -b, or leave out the format",
                         request->name, parameters->backing_format);
    }
    if (parameters->backing_file != NULL && parameters->backing_file[0] == '\0') {
        return refuse(request, "the name of the backing file is empty; name it with -b, or leave "
                               "it out");
    }
    if (parameters->data_file != NULL && parameters->data_file[0] == '\0') {
        return refuse(request,
                      "the name of the data file is empty; name it with data_file=PATH, or "
                      "leave it out");
    }
    return 0;
}

/* --- The plan ------------------------------------------------------------------------- */

static uint32_t log2_of(uint64_t power_of_two)
{
    return (uint32_t)__builtin_ctzll(power_of_two);
}

/* 0 or -ENOMEM. */
static int copy_string(const char *text, char **copy)
{
    *copy = text != NULL ? strdup(text) : NULL;
    return text != NULL && *copy == NULL ? -ENOMEM : 0;
}

/* The fields that do not depend on where things are. 0 or -ENOMEM. */
static int plan_header(const struct create_parameters *parameters, struct header *header)
{
    *header = (struct header){
        .version = parameters->version,
        .cluster_bits = log2_of(parameters->cluster_size),
        .cluster_size = parameters->cluster_size,
        .virtual_size = parameters->size,
        .refcount_order = log2_of(parameters->refcount_bits),
        .header_length = parameters->version == 2 ? HEADER_V2_LENGTH : HEADER_FULL_LENGTH,
        .compression_type = parameters->compression_type,
        .crypt_method = parameters->crypt_method,
    };
    if (parameters->crypt_method == CRYPT_LUKS) {
        header->crypt_header_length = luks_area_length(parameters->luks.key_bytes);
    }
    header->incompatible_features =
        (parameters->data_file != NULL ? INCOMPATIBLE_EXTERNAL_DATA_FILE : 0) |
        (parameters->compression_type != COMPRESSION_DEFLATE ? INCOMPATIBLE_COMPRESSION_TYPE : 0) |
        (parameters->extended_l2 ? INCOMPATIBLE_EXTENDED_L2 : 0);
    header->compatible_features = parameters->lazy_refcounts ? COMPATIBLE_LAZY_REFCOUNTS : 0;
    header->autoclear_features = parameters->data_file_raw ? AUTOCLEAR_RAW_EXTERNAL_DATA : 0;
    header_derive(header);
    if (copy_string(parameters->backing_file, &header->backing_file) < 0 ||
        copy_string(parameters->backing_format, &header->backing_format) < 0 ||
        copy_string(parameters->data_file, &header->data_file) < 0) {
        return -ENOMEM;
    }
    return 0;
}

static int too_large(const struct request *request, const char *why, uint64_t most)
{
    char size[SIZE_TEXT_MAX], largest[SIZE_TEXT_MAX];

    return error_set(request->error, EFBIG,
                     "%s: a disk of %s is too large: %s; the most for cluster_size=%" PRIu64
                     " is %s",
                     request->name, size_format(request->parameters->size, size), why,
                     request->parameters->cluster_size, size_format(most, largest));
}

static int plan_size(const struct request *request, struct create_plan *plan)
{
    struct header *header = &plan->header;
    uint64_t entries_max = HEADER_L1_SIZE_MAX / L1_ENTRY_BYTES;
    uint64_t unit = request->parameters->exact_size ? 1 : SECTOR;
    uint64_t entries;

    if (!checked_round_up(header->virtual_size, unit, &header->virtual_size) ||
        header->virtual_size > INT64_MAX) {
        return error_set(request->error, EFBIG,
                         "%s: a disk of more than 2^63 - 512 bytes is not possible; use a smaller "
                         "size",
                         request->name);
    }
    entries = header_l1_entries_for(header, header->virtual_size);
    if (entries > entries_max) {
        return too_large(request,
                         "its L1 table would have more than 32 MiB; use a larger cluster_size or "
                         "a smaller size",
                         entries_max << header_l1_entry_bits(header));
    }
    if (header->external_data_file && header->virtual_size > HOST_SIZE_MAX) {
        return too_large(request,
                         "no entry could name what lies behind 2^56 bytes of its data file; use a "
                         "smaller size",
                         HOST_SIZE_MAX);
    }
    header->l1_entries = (uint32_t)entries;
    return 0;
}

/* How many refcount blocks, and clusters of the refcount table, count all and themselves. */
static void plan_refcounts(struct create_plan *plan, uint64_t others)
{
    struct header *header = &plan->header;
    uint64_t counts = (header->cluster_size * 8) >> header->refcount_order;
    uint64_t table = 1, blocks = 1, total;

    for (;;) {
        uint64_t blocks_needed, table_needed;

        total = others + table + blocks;
        blocks_needed = div_round_up(total, counts);
        table_needed =
            div_round_up(blocks_needed * REFCOUNT_TABLE_ENTRY_BYTES, header->cluster_size);
        if (blocks_needed <= blocks && table_needed <= table) {
            break;
        }
        blocks = blocks_needed; /* they only grow, so this ends */
        table = table_needed;
    }
    plan->refcount_blocks = blocks;
    header->refcount_table_clusters = (uint32_t)min_u64(table, UINT32_MAX);
    plan->file_size = total;
}

static int plan_layout(const struct request *request, struct create_plan *plan)
{
    struct header *header = &plan->header;
    uint32_t bits = header->cluster_bits;
    uint64_t crypt_clusters = div_round_up(header->crypt_header_length, header->cluster_size);
    uint64_t l1_offset;

    plan->l1_clusters =
        div_round_up((uint64_t)header->l1_entries * L1_ENTRY_BYTES, header->cluster_size);
    if (plan->preallocation != PREALLOCATION_OFF) {
        plan->l2_tables = header->l1_entries;
        plan->data_clusters = div_round_up(header->virtual_size, header->cluster_size);
    }
    plan_refcounts(plan, 1 + plan->l1_clusters + crypt_clusters + plan->l2_tables +
                             (header->external_data_file ? 0 : plan->data_clusters));
    if ((uint64_t)header->refcount_table_clusters << bits > HEADER_REFCOUNT_TABLE_SIZE_MAX ||
        plan->file_size > HOST_SIZE_MAX >> bits) {
        return error_set(request->error, EFBIG,
                         "%s: the refcounts of an image of that size, with every cluster in use, "
                         "would need a table of more than 8 MiB; use preallocation=off, a larger "
                         "cluster_size, or a smaller size",
                         request->name);
    }
    plan->file_size <<= bits;
    header->refcount_table_offset = header->cluster_size;
    l1_offset = (1 + header->refcount_table_clusters + plan->refcount_blocks) << bits;
    header->l1_offset = header->l1_entries > 0 ? l1_offset : 0;
    plan->l2_offset = l1_offset + ((plan->l1_clusters + crypt_clusters) << bits);
    header->crypt_header_offset =
        crypt_clusters > 0 ? plan->l2_offset - (crypt_clusters << bits) : 0;
    plan->data_offset =
        header->external_data_file ? 0 : plan->l2_offset + (plan->l2_tables << bits);
    return 0;
}

/* In this order: a later step relies on what the earlier ones have checked. */
static int (*const checks[])(const struct request *request) = {
    check_numbers,     check_version, check_combinations,
    check_compression, check_names,   check_encryption,
};

int create_plan_make(const struct create_parameters *parameters, const char *name,
                     struct create_plan *plan, struct error *error)
{
    const struct request request = {parameters, name, error};
    int result = 0;

    *plan = (struct create_plan){.preallocation = parameters->preallocation};
    for (size_t i = 0; i < sizeof(checks) / sizeof(checks[0]) && result == 0; i++) {
        result = checks[i](&request);
    }
    if (result < 0) {
        return result;
    }
    /* Every offset of a raw data file is that of the disk: its entries are there at once. */
    if (parameters->data_file_raw && plan->preallocation == PREALLOCATION_OFF) {
        plan->preallocation = PREALLOCATION_METADATA;
    }
    if (plan_header(parameters, &plan->header) < 0) {
        result = error_set(error, ENOMEM, "%s: out of memory", name);
    }
    if (result == 0) {
        result = plan_size(&request, plan);
    }
    if (result == 0) {
        result = plan_layout(&request, plan);
    }
    if (result == 0) {
        result = header_encode(&plan->header, NULL, name, &plan->first_cluster, &plan->first_length,
                               error);
    }
    if (result < 0) {
        create_plan_release(plan);
    }
    return result;
}

void create_plan_release(struct create_plan *plan)
{
    free(plan->first_cluster);
    free(plan->header.backing_file);
    free(plan->header.backing_format);
    free(plan->header.data_file);
    *plan = (struct create_plan){0};
}
