/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "meta/header.h"

#include "codec/codec.h"
#include "meta/extension.h"
#include "meta/format.h"
#include "util/checked.h"
#include "util/memory.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DAMAGED "the header is damaged, use an intact copy of the image"

/* The size of a cluster where the header's is impossible: what nearly all images have. */
#define CLUSTER_BITS_ASSUMED 16

/* While the header is being read: where it comes from, and what has been read of it. */
struct parse {
    struct store *file;
    uint64_t file_size;
    const char *name;
    struct header *header;
    struct error *error;
    /* The first bytes of the file; then those of the first cluster, zeros past the file's end. */
    uint8_t *cluster;
    uint64_t backing_offset; /* bytes, 0 without a backing file */
    uint32_t backing_size;   /* bytes */
};

static int bad_field(const struct parse *parse, const char *field, uint64_t value,
                     const char *expected)
{
    return error_set(parse->error, EINVAL, "%s: the header field %s is %" PRIu64 "; %s; " DAMAGED,
                     parse->name, field, value, expected);
}

/* --- The fields that say how to read all others ------------------------------ */

/* All numbers, as they are: the only place that takes them from the file's bytes. */
static void decode(struct parse *parse)
{
    struct header *header = parse->header;
    const uint8_t *bytes = parse->cluster;

    header->version = load_be32(bytes + HEADER_VERSION);
    parse->backing_offset = load_be64(bytes + HEADER_BACKING_FILE_OFFSET);
    parse->backing_size = load_be32(bytes + HEADER_BACKING_FILE_SIZE);
    header->cluster_bits = load_be32(bytes + HEADER_CLUSTER_BITS);
    header->virtual_size = load_be64(bytes + HEADER_SIZE);
    header->crypt_method = load_be32(bytes + HEADER_CRYPT_METHOD);
    header->l1_entries = load_be32(bytes + HEADER_L1_SIZE);
    header->l1_offset = load_be64(bytes + HEADER_L1_TABLE_OFFSET);
    header->refcount_table_offset = load_be64(bytes + HEADER_REFCOUNT_TABLE_OFFSET);
    header->refcount_table_clusters = load_be32(bytes + HEADER_REFCOUNT_TABLE_CLUSTERS);
    header->snapshot_count = load_be32(bytes + HEADER_NB_SNAPSHOTS);
    header->snapshots_offset = load_be64(bytes + HEADER_SNAPSHOTS_OFFSET);
    header->refcount_order = REFCOUNT_ORDER_V2;
    header->header_length = HEADER_V2_LENGTH;
    if (header->version == 2) {
        return;
    }
    header->incompatible_features = load_be64(bytes + HEADER_INCOMPATIBLE_FEATURES);
    header->compatible_features = load_be64(bytes + HEADER_COMPATIBLE_FEATURES);
    header->autoclear_features = load_be64(bytes + HEADER_AUTOCLEAR_FEATURES);
    header->refcount_order = load_be32(bytes + HEADER_REFCOUNT_ORDER);
    header->header_length = load_be32(bytes + HEADER_HEADER_LENGTH);
    if (header->header_length > HEADER_COMPRESSION_TYPE) {
        header->compression_type = bytes[HEADER_COMPRESSION_TYPE];
    }
}

/* The version, without which none of the numbers means anything. */
static int parse_start(struct parse *parse)
{
    uint32_t version;
    int result;

    if (parse->file_size < HEADER_V2_LENGTH) {
        return error_set(parse->error, EINVAL,
                         "%s: is %" PRIu64 " bytes long, too short for a qcow2 header of 72 bytes; "
                         "check the file name, or use an intact copy",
                         parse->name, parse->file_size);
    }
    result = store_read(parse->file, 0, parse->cluster, HEADER_FULL_LENGTH);
    if (result < 0) {
        return error_set(parse->error, -result, "%s: the header cannot be read: %s", parse->name,
                         strerror(-result));
    }
    if (load_be32(parse->cluster + HEADER_MAGIC) != QCOW_MAGIC) {
        return error_set(parse->error, EINVAL,
                         "%s: is not a qcow2 image (it does not begin with the bytes QFI\\xfb); "
                         "check the file name",
                         parse->name);
    }
    decode(parse);
    version = parse->header->version;
    if (version == 1) {
        return error_set(parse->error, ENOTSUP,
                         "%s: is a qcow image of version 1, the format before qcow2; convert it "
                         "with qemu-img convert -f qcow -O qcow2",
                         parse->name);
    }
    if (version < 2 || version > 3) {
        return error_set(parse->error, ENOTSUP,
                         "%s: is a qcow2 image of version %" PRIu32
                         "; qcow2fs reads the versions 2 and 3: use a newer qcow2fs, or an intact "
                         "copy if this is not what it should be",
                         parse->name, version);
    }
    return 0;
}

static int parse_cluster_size(struct parse *parse)
{
    struct header *header = parse->header;
    uint32_t found = header->cluster_bits;

    if (found < CLUSTER_BITS_MIN || found > CLUSTER_BITS_MAX) {
        header->cluster_bits = CLUSTER_BITS_ASSUMED; /* for those who go on nevertheless */
        header->cluster_size = UINT64_C(1) << CLUSTER_BITS_ASSUMED;
        return bad_field(parse, "cluster_bits", found,
                         "9 to 21 (clusters of 512 bytes to 2 MiB) are possible");
    }
    header->cluster_size = UINT64_C(1) << found;
    return 0;
}

static int parse_header_length(struct parse *parse)
{
    struct header *header = parse->header;
    uint32_t found = header->header_length;

    if (header->version >= 3 &&
        (found < HEADER_V3_LENGTH || found > header->cluster_size || found % 8 != 0)) {
        header->header_length = HEADER_V3_LENGTH; /* for those who go on nevertheless */
        return bad_field(parse, "header_length", found,
                         "it must be a multiple of 8, from 104 to the cluster size");
    }
    return 0;
}

static int read_first_cluster(struct parse *parse)
{
    uint8_t *cluster = realloc(parse->cluster, in_memory(parse->header->cluster_size));
    int result;

    if (cluster == NULL) {
        return error_set(parse->error, ENOMEM, "%s: out of memory", parse->name);
    }
    parse->cluster = cluster;
    memory_map(cluster, in_memory(parse->header->cluster_size));
    result = store_read(parse->file, 0, cluster, in_memory(parse->header->cluster_size));
    if (result < 0) {
        memset(cluster, 0, in_memory(parse->header->cluster_size));
        return error_set(parse->error, -result, "%s: the first cluster cannot be read: %s",
                         parse->name, strerror(-result));
    }
    return 0;
}

/* --- Features ------------------------------------------------------------------ */

static size_t extensions_end(const struct parse *parse)
{
    return parse->backing_offset != 0 ? (size_t)parse->backing_offset
                                      : (size_t)parse->header->cluster_size;
}

void header_derive(struct header *header)
{
    header->external_data_file =
        (header->incompatible_features & INCOMPATIBLE_EXTERNAL_DATA_FILE) != 0;
    header->extended_l2 = (header->incompatible_features & INCOMPATIBLE_EXTENDED_L2) != 0;
    header->l2_entry_bytes = header->extended_l2 ? L2_ENTRY_BYTES_EXTENDED : L2_ENTRY_BYTES;
    header->l2_bits = header->cluster_bits - (header->extended_l2 ? 4 : 3);
    header->subclusters = header->extended_l2 ? SUBCLUSTERS_EXTENDED : 1;
    header->subcluster_bits = header->cluster_bits - (header->extended_l2 ? 5 : 0);
}

static int parse_features(struct parse *parse)
{
    struct header *header = parse->header;
    uint64_t unknown = header->incompatible_features & ~INCOMPATIBLE_KNOWN;

    header_derive(header);
    if (unknown != 0) {
        char names[512];

        extension_feature_names(parse->cluster, header->header_length, extensions_end(parse),
                                unknown, names, sizeof(names));
        return error_set(parse->error, ENOTSUP,
                         "%s: needs incompatible features that this version of qcow2fs does not "
                         "know: %s; use the program that wrote it, or a newer qcow2fs",
                         parse->name, names);
    }
    if (header->extended_l2 && header->cluster_bits < CLUSTER_BITS_MIN_EXTENDED_L2) {
        return bad_field(parse, "cluster_bits", header->cluster_bits,
                         "extended L2 entries need at least 14 (clusters of 16 KiB)");
    }
    return 0;
}

static int parse_compression_type(struct parse *parse)
{
    struct header *header = parse->header;
    bool flagged = (header->incompatible_features & INCOMPATIBLE_COMPRESSION_TYPE) != 0;
    const char *missing;

    if (flagged != (header->compression_type != COMPRESSION_DEFLATE)) {
        return bad_field(parse, "compression_type", header->compression_type,
                         flagged ? "the incompatible feature bit 3 says that it is not 0"
                                 : "the incompatible feature bit 3 is needed for other than 0");
    }
    if (compression_type_name(header->compression_type) == NULL) {
        return error_set(parse->error, ENOTSUP,
                         "%s: its compression type is %u, which this version of qcow2fs does not "
                         "know; it knows 0 (zlib) and 1 (zstd)",
                         parse->name, header->compression_type);
    }
    missing = compression_type_missing(header->compression_type);
    if (missing != NULL) {
        return error_set(parse->error, ENOTSUP,
                         "%s: its compression type is %s, and this qcow2fs was built without %s; "
                         "install that library and build qcow2fs again",
                         parse->name, compression_type_name(header->compression_type), missing);
    }
    return 0;
}

static int parse_encryption(struct parse *parse)
{
    switch (parse->header->crypt_method) {
    case CRYPT_NONE:
    case CRYPT_AES:
    case CRYPT_LUKS: /* where its header is, the extension says: parse_crypt_header() */
        return 0;
    default:
        return bad_field(parse, "crypt_method", parse->header->crypt_method,
                         "0, 1 and 2 are known");
    }
}

/* --- Sizes and tables ------------------------------------------------------------ */

uint64_t header_l1_entries_for(const struct header *header, uint64_t size)
{
    return div_round_up(size, UINT64_C(1) << header_l1_entry_bits(header));
}

/* A table starts at a cluster and lies within `limit`. */
static int check_table(const struct parse *parse, const char *what, const char *field,
                       uint64_t offset, uint64_t length, uint64_t limit)
{
    if (offset % parse->header->cluster_size != 0) {
        return error_set(parse->error, EINVAL,
                         "%s: the header field %s is 0x%" PRIx64
                         ", which is not a multiple of the cluster size %" PRIu64 "; " DAMAGED,
                         parse->name, field, offset, parse->header->cluster_size);
    }
    if (length > 0 && !range_within(offset, length, limit)) {
        return error_set(
            parse->error, EINVAL,
            "%s: the %s at offset 0x%" PRIx64 " (%" PRIu64
            " bytes) does not lie within the file of %" PRIu64
            " bytes; the file was cut off or its header is damaged, use an intact copy",
            parse->name, what, offset, length, parse->file_size);
    }
    return 0;
}

static int parse_l1(struct parse *parse)
{
    struct header *header = parse->header;
    uint64_t needed;

    if (header->virtual_size > INT64_MAX) {
        return bad_field(parse, "size", header->virtual_size,
                         "a disk of more than 2^63 - 1 bytes is not possible");
    }
    if (header->l1_entries > HEADER_L1_SIZE_MAX / L1_ENTRY_BYTES) {
        return bad_field(parse, "l1_size", header->l1_entries,
                         "at most 4194304 entries (32 MiB) are supported");
    }
    needed = header_l1_entries_for(header, header->virtual_size);
    if (header->l1_entries < needed) {
        return error_set(parse->error, EINVAL,
                         "%s: the L1 table is too small: it has %" PRIu32
                         " entries, a disk of %" PRIu64 " bytes needs %" PRIu64 "; " DAMAGED,
                         parse->name, header->l1_entries, header->virtual_size, needed);
    }
    return check_table(parse, "L1 table", "l1_table_offset", header->l1_offset,
                       (uint64_t)header->l1_entries * L1_ENTRY_BYTES, parse->file_size);
}

static int parse_refcounts(struct parse *parse)
{
    const struct header *header = parse->header;
    uint64_t size, file_end;

    if (header->refcount_order > REFCOUNT_ORDER_MAX) {
        return bad_field(parse, "refcount_order", header->refcount_order,
                         "0 to 6 (refcounts of 1 to 64 bits) are possible");
    }
    size = (uint64_t)header->refcount_table_clusters << header->cluster_bits;
    if (header->refcount_table_clusters == 0 || size > HEADER_REFCOUNT_TABLE_SIZE_MAX) {
        return bad_field(parse, "refcount_table_clusters", header->refcount_table_clusters,
                         "the refcount table takes at least one cluster and at most 8 MiB");
    }
    /* The unused end of its last cluster need not be in the file. */
    if (!checked_round_up(parse->file_size, header->cluster_size, &file_end)) {
        file_end = parse->file_size;
    }
    return check_table(parse, "refcount table", "refcount_table_offset",
                       header->refcount_table_offset, size, file_end);
}

static int parse_snapshots(struct parse *parse)
{
    struct header *header = parse->header;

    if (header->snapshot_count == 0) {
        header->snapshots_offset = 0;
        return 0;
    }
    /* How long the table is, only reading it tells: at least this. */
    return check_table(parse, "snapshot table", "snapshots_offset", header->snapshots_offset,
                       (uint64_t)header->snapshot_count * SNAPSHOT_FIXED_LENGTH, parse->file_size);
}

static int check_overlap(const struct parse *parse, enum header_table table, const char *what,
                         uint64_t offset, uint64_t length)
{
    const char *other = header_overlap(parse->header, table, offset, length);

    if (other != NULL) {
        return error_set(parse->error, EINVAL,
                         "%s: the %s at offset 0x%" PRIx64 " (%" PRIu64
                         " bytes) overlaps the %s; " DAMAGED,
                         parse->name, what, offset, length, other);
    }
    return 0;
}

static int check_overlaps(struct parse *parse)
{
    const struct header *header = parse->header;
    int result;

    result = check_overlap(parse, HEADER_TABLE_L1, "L1 table", header->l1_offset,
                           (uint64_t)header->l1_entries * L1_ENTRY_BYTES);
    if (result == 0) {
        result = check_overlap(parse, HEADER_TABLE_REFCOUNT, "refcount table",
                               header->refcount_table_offset,
                               (uint64_t)header->refcount_table_clusters << header->cluster_bits);
    }
    if (result == 0) {
        result = check_overlap(parse, HEADER_TABLE_BITMAPS, "bitmap directory",
                               header->bitmap_directory_offset, header->bitmap_directory_size);
    }
    if (result == 0) {
        result = check_overlap(parse, HEADER_TABLE_CRYPT, "encryption header",
                               header->crypt_header_offset, header->crypt_header_length);
    }
    if (result == 0) {
        result = check_overlap(parse, HEADER_TABLE_NONE, "snapshot table", header->snapshots_offset,
                               (uint64_t)header->snapshot_count * SNAPSHOT_FIXED_LENGTH);
    }
    return result;
}

/* --- The strings behind the header ------------------------------------------------ */

/* Where the backing file name is: needed before the extensions, which end there. */
static int parse_backing_range(struct parse *parse)
{
    const struct header *header = parse->header;
    uint64_t offset = parse->backing_offset;
    uint32_t size = parse->backing_size;

    parse->backing_offset = 0; /* until it is known to be possible */
    parse->backing_size = 0;
    if (offset == 0) {
        return 0;
    }
    if (offset < header->header_length || offset > header->cluster_size) {
        return bad_field(parse, "backing_file_offset", offset,
                         "the name must lie between the header and the end of the first cluster");
    }
    if (size > BACKING_FILE_NAME_MAX || size > header->cluster_size - offset) {
        return bad_field(parse, "backing_file_size", size,
                         "the name has at most 1023 bytes and ends within the first cluster");
    }
    parse->backing_offset = offset;
    parse->backing_size = size;
    return 0;
}

static int parse_strings(struct parse *parse)
{
    struct header *header = parse->header;

    /* A name of nothing but NUL is none, as for QEMU. */
    if (parse->backing_size > 0 && parse->cluster[parse->backing_offset] != '\0') {
        header->backing_file =
            strndup((const char *)parse->cluster + parse->backing_offset, parse->backing_size);
        if (header->backing_file == NULL) {
            return error_set(parse->error, ENOMEM, "%s: out of memory", parse->name);
        }
    }
    return extension_parse_all(parse->cluster, header->header_length, extensions_end(parse),
                               parse->name, header, parse->error);
}

static int parse_bitmaps(struct parse *parse)
{
    const struct header *header = parse->header;

    return check_table(parse, "bitmap directory", "bitmap_directory_offset",
                       header->bitmap_directory_offset, header->bitmap_directory_size,
                       parse->file_size);
}

/* The format asks for one with LUKS, and for none with anything else. */
static int parse_crypt_header(struct parse *parse)
{
    const struct header *header = parse->header;

    if (header->crypt_method != CRYPT_LUKS) {
        return 0;
    }
    if (header->crypt_header_offset == 0 || header->crypt_header_length < LUKS_LENGTH) {
        return error_set(parse->error, EINVAL,
                         "%s: is encrypted with LUKS (crypt_method 2), but says nothing of an "
                         "encryption header that could be one; " DAMAGED,
                         parse->name);
    }
    return check_table(parse, "encryption header", "of the encryption header's offset",
                       header->crypt_header_offset, header->crypt_header_length, parse->file_size);
}

/* --- All of it ---------------------------------------------------------------------- */

/* In this order: a later step believes what the earlier ones have checked. */
static int (*const steps[HEADER_PARTS])(struct parse *parse) = {
    [HEADER_PART_START] = parse_start,
    [HEADER_PART_CLUSTER_SIZE] = parse_cluster_size,
    [HEADER_PART_LENGTH] = parse_header_length,
    [HEADER_PART_FIRST_CLUSTER] = read_first_cluster,
    [HEADER_PART_BACKING] = parse_backing_range,
    [HEADER_PART_FEATURES] = parse_features,
    [HEADER_PART_COMPRESSION] = parse_compression_type,
    [HEADER_PART_ENCRYPTION] = parse_encryption,
    [HEADER_PART_REFCOUNTS] = parse_refcounts,
    [HEADER_PART_L1] = parse_l1,
    [HEADER_PART_SNAPSHOTS] = parse_snapshots,
    [HEADER_PART_STRINGS] = parse_strings,
    [HEADER_PART_BITMAPS] = parse_bitmaps,
    [HEADER_PART_CRYPT_HEADER] = parse_crypt_header,
    [HEADER_PART_OVERLAPS] = check_overlaps,
};

/* Where the cluster size is assumed, nothing that is counted in clusters can be judged. */
static bool needs_cluster_size(enum header_part part)
{
    return part == HEADER_PART_REFCOUNTS || part == HEADER_PART_L1 ||
           part == HEADER_PART_SNAPSHOTS || part == HEADER_PART_BITMAPS ||
           part == HEADER_PART_CRYPT_HEADER || part == HEADER_PART_OVERLAPS;
}

static int begin(struct parse *parse)
{
    parse->header = calloc(1, sizeof(*parse->header));
    parse->cluster = calloc(1, HEADER_FULL_LENGTH);
    if (parse->header == NULL || parse->cluster == NULL) {
        free(parse->header);
        free(parse->cluster);
        return error_set(parse->error, ENOMEM, "%s: out of memory", parse->name);
    }
    return 0;
}

int header_read(struct store *file, uint64_t file_size, const char *name, struct header **header,
                struct error *error)
{
    struct parse parse = {
        .file = file,
        .file_size = file_size,
        .name = name,
        .error = error,
    };
    int part, result;

    *header = NULL;
    result = begin(&parse);
    if (result < 0) {
        return result;
    }
    for (part = 0; part < HEADER_PARTS && result == 0; part++) {
        result = steps[part](&parse);
    }
    free(parse.cluster);
    if (result < 0) {
        header_free(parse.header);
        return result;
    }
    *header = parse.header;
    return 0;
}

/* Whether the step can be taken after those that failed. */
static bool can_go_on(const struct header_examination *examination, enum header_part part)
{
    return !header_part_failed(examination, HEADER_PART_START) &&
           !(needs_cluster_size(part) && header_part_failed(examination, HEADER_PART_CLUSTER_SIZE));
}

int header_examine(struct store *file, uint64_t file_size, const char *name,
                   struct header_examination *examination)
{
    struct parse parse = {.file = file, .file_size = file_size, .name = name};
    int part;

    memset(examination, 0, sizeof(*examination));
    if (begin(&parse) < 0) {
        return -ENOMEM;
    }
    for (part = 0; part < HEADER_PARTS; part++) {
        parse.error = &examination->problems[part];
        if (can_go_on(examination, part) && steps[part](&parse) == -ENOMEM) {
            free(parse.cluster);
            header_free(parse.header);
            return -ENOMEM;
        }
    }
    examination->header = parse.header;
    examination->cluster = parse.cluster;
    examination->extensions_end = extensions_end(&parse);
    examination->backing_end = (size_t)(parse.backing_offset + parse.backing_size);
    return 0;
}

void header_examination_release(struct header_examination *examination)
{
    header_free(examination->header);
    free(examination->cluster);
}

void header_free(struct header *header)
{
    if (header == NULL) {
        return;
    }
    free(header->backing_file);
    free(header->backing_format);
    free(header->data_file);
    free(header);
}
