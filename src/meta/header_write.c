/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "meta/header_write.h"

#include "meta/extension.h"
#include "meta/feature.h"
#include "meta/format.h"
#include "util/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define EXTENSION_ALIGNMENT 8

/* "The extension data is padded to a multiple of 8 bytes" */
static size_t padded(size_t length)
{
    return (length + EXTENSION_ALIGNMENT - 1) & ~(size_t)(EXTENSION_ALIGNMENT - 1);
}

/* --- What an existing image holds ------------------------------------------------ */

/* Whether header_encode() writes it from what is in a struct header. */
static bool is_in_header(const struct header *header, uint32_t type)
{
    switch (type) {
    case EXTENSION_BACKING_FORMAT:
    case EXTENSION_DATA_FILE:
    case EXTENSION_FEATURE_NAME_TABLE:
        return true;
    case EXTENSION_BITMAPS:
        return header->bitmap_count > 0;
    default:
        return false;
    }
}

/* Adds the extension that ends at `position` of the cluster to those that are kept. */
static void keep_extension(struct header_rest *rest, const struct extension *extension,
                           size_t position)
{
    const uint8_t *start = extension->data - EXTENSION_DATA;
    /* The end of the area may have cut off the padding of the last one. */
    size_t length = (size_t)(rest->cluster + position - start);
    size_t whole = padded(length);

    memcpy(rest->extensions + rest->extensions_length, start, length);
    memset(rest->extensions + rest->extensions_length + length, 0, whole - length);
    rest->extensions_length += whole;
}

/* The end of the extension area; header_read() has seen that all lies within the cluster. */
static size_t extensions_end(const struct header *header, const uint8_t *cluster)
{
    uint64_t backing_offset = load_be64(cluster + HEADER_BACKING_FILE_OFFSET);

    return (size_t)(backing_offset != 0 ? backing_offset : header->cluster_size);
}

static void take_extensions(const struct header *header, struct header_rest *rest)
{
    size_t end = extensions_end(header, rest->cluster);
    size_t position = header->header_length;
    struct extension extension;

    while (extension_next(rest->cluster, end, &position, &extension) == EXTENSION_STEP_NEXT) {
        if (extension.type == EXTENSION_FEATURE_NAME_TABLE) {
            rest->feature_names = extension.data;
            rest->feature_names_length = extension.length;
        } else if (!is_in_header(header, extension.type)) {
            keep_extension(rest, &extension, position);
        }
    }
    /* The marker of the end, if it is there. */
    rest->used = (size_t)min_u64(position + EXTENSION_DATA, end);
    if (end < header->cluster_size) {
        rest->used = end + load_be32(rest->cluster + HEADER_BACKING_FILE_SIZE);
    }
}

int header_rest_read(struct store *file, const struct header *header, const char *name,
                     struct header_rest *rest, struct error *error)
{
    int r;

    memset(rest, 0, sizeof(*rest));
    rest->cluster = malloc(in_memory(header->cluster_size));
    /* The padding of the last extension, and no more, may come on top of what is there. */
    rest->extensions = malloc(in_memory(header->cluster_size + EXTENSION_ALIGNMENT));
    if (rest->cluster == NULL || rest->extensions == NULL) {
        header_rest_free(rest);
        return error_set(error, ENOMEM, "%s: out of memory", name);
    }
    r = store_read(file, 0, rest->cluster, in_memory(header->cluster_size));
    if (r < 0) {
        header_rest_free(rest);
        return error_set(error, -r, "%s: the first cluster cannot be read: %s", name, strerror(-r));
    }
    if (header->header_length > HEADER_COMPRESSION_TYPE + 1) {
        rest->fields = rest->cluster + HEADER_COMPRESSION_TYPE + 1;
        rest->fields_length = header->header_length - HEADER_COMPRESSION_TYPE - 1;
    }
    take_extensions(header, rest);
    return 0;
}

void header_rest_free(struct header_rest *rest)
{
    free(rest->extensions);
    free(rest->cluster);
    memset(rest, 0, sizeof(*rest));
}

/* --- Encoding --------------------------------------------------------------------- */

struct encoder {
    const struct header *header;
    const struct header_rest *rest;
    const char *name;
    struct error *error;
    uint8_t *cluster; /* zeros, where nothing has been put yet */
    size_t length;    /* bytes that have been put */
    bool full;        /* something did not fit */
};

/* Room for the next `length` bytes, which are zeros; NULL when the cluster is full. */
static uint8_t *put(struct encoder *encoder, size_t length)
{
    uint8_t *room = encoder->cluster + encoder->length;

    if (encoder->full || length > encoder->header->cluster_size - encoder->length) {
        encoder->full = true;
        return NULL;
    }
    encoder->length += length;
    return room;
}

/* Room for the data. */
static uint8_t *put_extension(struct encoder *encoder, uint32_t type, size_t length)
{
    uint8_t *room = put(encoder, EXTENSION_DATA + padded(length));

    if (room == NULL) {
        return NULL;
    }
    store_be32(room + EXTENSION_TYPE, type);
    store_be32(room + EXTENSION_LENGTH, (uint32_t)length);
    return room + EXTENSION_DATA;
}

static void put_string_extension(struct encoder *encoder, uint32_t type, const char *text)
{
    size_t length = text != NULL ? strlen(text) : 0;
    uint8_t *room = length > 0 ? put_extension(encoder, type, length) : NULL;

    if (room != NULL) {
        memcpy(room, text, length);
    }
}

static void put_bitmaps(struct encoder *encoder)
{
    const struct header *header = encoder->header;
    uint8_t *room;

    if (header->bitmap_count == 0) {
        return;
    }
    room = put_extension(encoder, EXTENSION_BITMAPS, BITMAPS_EXTENSION_LENGTH);
    if (room != NULL) {
        store_be32(room + BITMAPS_NB_BITMAPS, header->bitmap_count);
        store_be64(room + BITMAPS_DIRECTORY_SIZE, header->bitmap_directory_size);
        store_be64(room + BITMAPS_DIRECTORY_OFFSET, header->bitmap_directory_offset);
    }
}

/* Of a new image; that of one that exists is kept, with whatever it has besides. */
static void put_encryption(struct encoder *encoder)
{
    const struct header *header = encoder->header;
    uint8_t *room;

    if (header->crypt_method != CRYPT_LUKS || encoder->rest->cluster != NULL) {
        return;
    }
    room = put_extension(encoder, EXTENSION_ENCRYPTION, CRYPT_HEADER_LENGTH_END);
    if (room != NULL) {
        store_be64(room + CRYPT_HEADER_OFFSET, header->crypt_header_offset);
        store_be64(room + CRYPT_HEADER_LENGTH, header->crypt_header_length);
    }
}

static void put_rest(struct encoder *encoder)
{
    const struct header_rest *rest = encoder->rest;
    uint8_t *room = rest->extensions_length > 0 ? put(encoder, rest->extensions_length) : NULL;

    if (room != NULL) {
        memcpy(room, rest->extensions, rest->extensions_length);
    }
}

static void put_feature_names(struct encoder *encoder)
{
    const struct header_rest *rest = encoder->rest;
    uint8_t *room;

    if (rest->feature_names != NULL) {
        room = put_extension(encoder, EXTENSION_FEATURE_NAME_TABLE, rest->feature_names_length);
        if (room != NULL) {
            memcpy(room, rest->feature_names, rest->feature_names_length);
        }
        return;
    }
    room = put_extension(encoder, EXTENSION_FEATURE_NAME_TABLE,
                         known_feature_count * FEATURE_NAME_LENGTH);
    for (size_t i = 0; i < known_feature_count && room != NULL; i++) {
        uint8_t *entry = room + i * FEATURE_NAME_LENGTH;

        entry[FEATURE_NAME_TYPE] = known_features[i].type;
        entry[FEATURE_NAME_BIT] = known_features[i].bit;
        memcpy(entry + FEATURE_NAME_TEXT, known_features[i].name, strlen(known_features[i].name));
    }
}

/* "header_length" */
static size_t header_length(const struct encoder *encoder)
{
    const struct header *header = encoder->header;

    if (header->version == 2) {
        return HEADER_V2_LENGTH;
    }
    if (encoder->rest->fields_length > 0) {
        return HEADER_COMPRESSION_TYPE + 1 + encoder->rest->fields_length;
    }
    if (header->header_length == HEADER_V3_LENGTH && header->compression_type == 0) {
        return HEADER_V3_LENGTH;
    }
    return HEADER_FULL_LENGTH;
}

static void put_fields(struct encoder *encoder)
{
    const struct header *header = encoder->header;
    const struct header_rest *rest = encoder->rest;
    size_t length = header_length(encoder);
    uint8_t *start = put(encoder, length);

    if (start == NULL) {
        return;
    }
    store_be32(start + HEADER_MAGIC, QCOW_MAGIC);
    store_be32(start + HEADER_VERSION, header->version);
    store_be32(start + HEADER_CLUSTER_BITS, header->cluster_bits);
    store_be64(start + HEADER_SIZE, header->virtual_size);
    store_be32(start + HEADER_CRYPT_METHOD, header->crypt_method);
    store_be32(start + HEADER_L1_SIZE, header->l1_entries);
    store_be64(start + HEADER_L1_TABLE_OFFSET, header->l1_offset);
    store_be64(start + HEADER_REFCOUNT_TABLE_OFFSET, header->refcount_table_offset);
    store_be32(start + HEADER_REFCOUNT_TABLE_CLUSTERS, header->refcount_table_clusters);
    store_be32(start + HEADER_NB_SNAPSHOTS, header->snapshot_count);
    store_be64(start + HEADER_SNAPSHOTS_OFFSET, header->snapshots_offset);
    if (header->version == 2) {
        return;
    }
    store_be64(start + HEADER_INCOMPATIBLE_FEATURES, header->incompatible_features);
    store_be64(start + HEADER_COMPATIBLE_FEATURES, header->compatible_features);
    store_be64(start + HEADER_AUTOCLEAR_FEATURES, header->autoclear_features);
    store_be32(start + HEADER_REFCOUNT_ORDER, header->refcount_order);
    store_be32(start + HEADER_HEADER_LENGTH, (uint32_t)length);
    if (length > HEADER_COMPRESSION_TYPE) {
        start[HEADER_COMPRESSION_TYPE] = header->compression_type;
        if (rest->fields_length > 0) {
            memcpy(start + HEADER_COMPRESSION_TYPE + 1, rest->fields, rest->fields_length);
        }
    }
}

/* "The backing file name string" */
static void put_backing_file(struct encoder *encoder)
{
    const char *backing_file = encoder->header->backing_file;
    size_t offset = encoder->length;
    size_t length = backing_file != NULL ? strlen(backing_file) : 0;
    uint8_t *room = length > 0 ? put(encoder, length) : NULL;

    if (room != NULL) {
        memcpy(room, backing_file, length);
        store_be64(encoder->cluster + HEADER_BACKING_FILE_OFFSET, offset);
        store_be32(encoder->cluster + HEADER_BACKING_FILE_SIZE, (uint32_t)length);
    }
}

/* All of it; whether it did fit. */
static bool put_all(struct encoder *encoder, bool with_feature_names)
{
    const struct header *header = encoder->header;

    memset(encoder->cluster, 0, in_memory(header->cluster_size));
    encoder->length = 0;
    encoder->full = false;
    put_fields(encoder);
    put_string_extension(encoder, EXTENSION_BACKING_FORMAT, header->backing_format);
    put_string_extension(encoder, EXTENSION_DATA_FILE, header->data_file);
    if (with_feature_names && header->version > 2) {
        put_feature_names(encoder);
    }
    put_bitmaps(encoder);
    put_encryption(encoder);
    put_rest(encoder);
    put_extension(encoder, EXTENSION_END, 0);
    put_backing_file(encoder);
    return !encoder->full;
}

/* --- What cannot be written --------------------------------------------------------- */

static int check_version(const struct encoder *encoder)
{
    const struct header *header = encoder->header;
    const char *what = NULL;

    if (header->version > 2) {
        return 0;
    }
    if ((header->incompatible_features | header->compatible_features |
         header->autoclear_features) != 0) {
        what = "feature bits";
    } else if (header->refcount_order != REFCOUNT_ORDER_V2) {
        what = "refcounts of other than 16 bits";
    } else if (header->compression_type != 0) {
        what = "a compression type";
    }
    if (what != NULL) {
        return error_set(encoder->error, EINVAL,
                         "%s: compatibility level 0.10 (version 2) has no place for %s; use "
                         "compat=1.1",
                         encoder->name, what);
    }
    return 0;
}

static int check_names(const struct encoder *encoder)
{
    const struct header *header = encoder->header;
    size_t backing = header->backing_file != NULL ? strlen(header->backing_file) : 0;
    size_t format = header->backing_format != NULL ? strlen(header->backing_format) : 0;

    if (backing > BACKING_FILE_NAME_MAX) {
        return error_set(encoder->error, ENAMETOOLONG,
                         "%s: the name of the backing file is %zu bytes long, at most %d can be "
                         "recorded; use a shorter path to it, such as a relative one",
                         encoder->name, backing, BACKING_FILE_NAME_MAX);
    }
    if (format > BACKING_FORMAT_NAME_MAX) {
        return error_set(encoder->error, ENAMETOOLONG,
                         "%s: the name of the backing file's format is %zu bytes long, at most %d "
                         "can be recorded",
                         encoder->name, format, BACKING_FORMAT_NAME_MAX);
    }
    return 0;
}

static int cluster_full(const struct encoder *encoder)
{
    return error_set(encoder->error, ENOSPC,
                     "%s: the header with the names of its files does not fit into its cluster of "
                     "%" PRIu64 " bytes; use shorter names, or larger clusters",
                     encoder->name, encoder->header->cluster_size);
}

int header_encode(const struct header *header, const struct header_rest *rest, const char *name,
                  uint8_t **bytes, size_t *length, struct error *error)
{
    static const struct header_rest nothing = {0};
    struct encoder encoder = {
        .header = header,
        .rest = rest != NULL ? rest : &nothing,
        .name = name,
        .error = error,
    };
    int r = check_version(&encoder);

    if (r == 0) {
        r = check_names(&encoder);
    }
    if (r < 0) {
        return r;
    }
    encoder.cluster = malloc(in_memory(header->cluster_size));
    if (encoder.cluster == NULL) {
        return error_set(error, ENOMEM, "%s: out of memory", name);
    }
    if (!put_all(&encoder, true) && !put_all(&encoder, false)) {
        free(encoder.cluster);
        return cluster_full(&encoder);
    }
    *bytes = encoder.cluster;
    *length = (size_t)max_u64(encoder.length, encoder.rest->used);
    return 0;
}

int header_write(struct store *file, const struct header *header, const struct header_rest *rest,
                 const char *name, struct error *error)
{
    uint8_t *bytes;
    size_t length;
    int r = header_encode(header, rest, name, &bytes, &length, error);

    if (r < 0) {
        return r;
    }
    r = store_write(file, 0, bytes, length);
    free(bytes);
    if (r < 0) {
        error_set(error, -r, "%s: the header cannot be written: %s", name, strerror(-r));
    }
    return r;
}

int header_clear_unknown(struct store *file, struct header *header)
{
    uint64_t kept = header->autoclear_features & AUTOCLEAR_KNOWN;
    uint8_t raw[sizeof(kept)];
    int r;

    if (kept == header->autoclear_features) {
        return 0;
    }
    store_be64(raw, kept);
    r = store_write(file, HEADER_AUTOCLEAR_FEATURES, raw, sizeof(raw));
    if (r == 0) {
        r = store_sync(file);
    }
    if (r == 0) {
        header->autoclear_features = kept;
    }
    return r;
}
