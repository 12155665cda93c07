/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "meta/extension.h"

#include "meta/format.h"
#include "util/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DAMAGED "the header is damaged, use an intact copy of the image"

const char *extension_name(uint32_t type)
{
    switch (type) {
    case EXTENSION_BACKING_FORMAT:
        return "backing file format";
    case EXTENSION_FEATURE_NAME_TABLE:
        return "feature name table";
    case EXTENSION_BITMAPS:
        return "bitmaps";
    case EXTENSION_ENCRYPTION:
        return "encryption header";
    case EXTENSION_DATA_FILE:
        return "data file name";
    default:
        return NULL;
    }
}

enum extension_step extension_next(const uint8_t *cluster, size_t end, size_t *position,
                                   struct extension *extension)
{
    size_t left;

    if (*position >= end || end - *position < EXTENSION_DATA) {
        return EXTENSION_STEP_END;
    }
    extension->type = load_be32(cluster + *position + EXTENSION_TYPE);
    extension->length = load_be32(cluster + *position + EXTENSION_LENGTH);
    extension->data = cluster + *position + EXTENSION_DATA;
    if (extension->type == EXTENSION_END) {
        return EXTENSION_STEP_END;
    }
    left = end - *position - EXTENSION_DATA;
    if (extension->length > left) {
        return EXTENSION_STEP_OVERRUN;
    }
    /* The padding of the last one may be cut off by the end of the area. */
    *position += EXTENSION_DATA + (size_t)min_u64(left, ((uint64_t)extension->length + 7) & ~7ULL);
    return EXTENSION_STEP_NEXT;
}

/* "String header extensions": replaces *string, NULL for an empty one: no bytes, or NUL first. */
static int take_string(const struct extension *extension, const char *name, char **string,
                       struct error *error)
{
    free(*string);
    *string = NULL;
    if (extension->length == 0 || extension->data[0] == '\0') {
        return 0;
    }
    *string = strndup((const char *)extension->data, extension->length);
    if (*string == NULL) {
        return error_set(error, ENOMEM, "%s: out of memory", name);
    }
    return 0;
}

/* "Bitmaps extension" */
static int take_bitmaps(const struct extension *extension, const char *name, struct header *header,
                        struct error *error)
{
    uint32_t count, reserved;
    uint64_t offset, size;

    if (extension->length != BITMAPS_EXTENSION_LENGTH) {
        return error_set(error, EINVAL,
                         "%s: the bitmaps extension is %" PRIu32
                         " bytes long instead of 24; " DAMAGED,
                         name, extension->length);
    }
    if ((header->autoclear_features & AUTOCLEAR_BITMAPS) == 0) {
        return 0; /* Written to by a program that does not know bitmaps: they are stale. */
    }
    count = load_be32(extension->data + BITMAPS_NB_BITMAPS);
    reserved = load_be32(extension->data + BITMAPS_RESERVED);
    size = load_be64(extension->data + BITMAPS_DIRECTORY_SIZE);
    offset = load_be64(extension->data + BITMAPS_DIRECTORY_OFFSET);
    if (count == 0 || count > BITMAPS_MAX) {
        return error_set(error, EINVAL,
                         "%s: the bitmaps extension counts %" PRIu32
                         " bitmaps, it must be 1 to %d; " DAMAGED,
                         name, count, BITMAPS_MAX);
    }
    if (reserved != 0) {
        return error_set(error, EINVAL,
                         "%s: the reserved field of the bitmaps extension is 0x%" PRIx32
                         " instead of 0; " DAMAGED,
                         name, reserved);
    }
    if (offset % header->cluster_size != 0 || offset == 0) {
        return error_set(error, EINVAL,
                         "%s: the bitmap directory is said to be at offset 0x%" PRIx64
                         ", which is not the start of a cluster behind the header; " DAMAGED,
                         name, offset);
    }
    if (size < (uint64_t)count * BITMAP_FIXED_LENGTH || size > (uint64_t)count * 65536) {
        return error_set(error, EINVAL,
                         "%s: the bitmap directory is said to take %" PRIu64 " bytes for %" PRIu32
                         " bitmaps; " DAMAGED,
                         name, size, count);
    }
    header->bitmap_count = count;
    header->bitmap_directory_size = size;
    header->bitmap_directory_offset = offset;
    return 0;
}

static int take_extension(const struct extension *extension, const char *name,
                          struct header *header, struct error *error)
{
    switch (extension->type) {
    case EXTENSION_BACKING_FORMAT:
        if (extension->length > BACKING_FORMAT_NAME_MAX) {
            return error_set(error, EINVAL,
                             "%s: the name of the backing file's format is %" PRIu32
                             " bytes long, at most %d are possible; " DAMAGED,
                             name, extension->length, BACKING_FORMAT_NAME_MAX);
        }
        return take_string(extension, name, &header->backing_format, error);
    case EXTENSION_DATA_FILE:
        return take_string(extension, name, &header->data_file, error);
    case EXTENSION_BITMAPS:
        return take_bitmaps(extension, name, header, error);
    case EXTENSION_ENCRYPTION:
        if (header->crypt_method == CRYPT_LUKS && extension->length >= CRYPT_HEADER_LENGTH_END) {
            header->crypt_header_offset = load_be64(extension->data + CRYPT_HEADER_OFFSET);
            header->crypt_header_length = load_be64(extension->data + CRYPT_HEADER_LENGTH);
        }
        return 0;
    case EXTENSION_FEATURE_NAME_TABLE:
        return 0;
    default:
        header->unknown_extensions++;
        return 0;
    }
}

int extension_parse_all(const uint8_t *cluster, size_t begin, size_t end, const char *name,
                        struct header *header, struct error *error)
{
    size_t position = begin;

    for (;;) {
        struct extension extension;
        size_t at = position;
        enum extension_step step = extension_next(cluster, end, &position, &extension);
        int result;

        if (step == EXTENSION_STEP_END) {
            return 0;
        }
        if (step == EXTENSION_STEP_OVERRUN) {
            return error_set(error, EINVAL,
                             "%s: the header extension 0x%08" PRIx32
                             " at offset %zu is said to be %" PRIu32
                             " bytes long and runs over the end of the header extensions at offset "
                             "%zu; " DAMAGED,
                             name, extension.type, at, extension.length, end);
        }
        result = take_extension(&extension, name, header, error);
        if (result < 0) {
            return result;
        }
    }
}

/* The last one, as QEMU reads it; of no bytes where there is none. */
static struct extension find_name_table(const uint8_t *cluster, size_t begin, size_t end)
{
    struct extension extension, table = {0};
    size_t position = begin;

    while (extension_next(cluster, end, &position, &extension) == EXTENSION_STEP_NEXT) {
        if (extension.type == EXTENSION_FEATURE_NAME_TABLE) {
            table = extension;
        }
    }
    return table;
}

/* The name that the table gives to a feature's bit: its length, 0 when none. */
static size_t feature_name(const struct extension *table, uint8_t type, unsigned bit,
                           const char **name)
{
    uint32_t entry;

    for (entry = 0; table->length - entry >= FEATURE_NAME_LENGTH; entry += FEATURE_NAME_LENGTH) {
        const uint8_t *data = table->data + entry;

        if (data[FEATURE_NAME_TYPE] == type && data[FEATURE_NAME_BIT] == bit) {
            *name = (const char *)data + FEATURE_NAME_TEXT;
            return strnlen(*name, FEATURE_NAME_LENGTH - FEATURE_NAME_TEXT);
        }
    }
    return 0;
}

void extension_feature_name(const uint8_t *cluster, size_t begin, size_t end, uint8_t type,
                            unsigned bit, char text[EXTENSION_FEATURE_NAME_MAX])
{
    struct extension table = find_name_table(cluster, begin, end);
    const char *name = "";
    size_t length = feature_name(&table, type, bit, &name);

    memcpy(text, name, length);
    text[length] = '\0';
}

void extension_feature_names(const uint8_t *cluster, size_t begin, size_t end, uint64_t bits,
                             char *text, size_t size)
{
    struct extension table = find_name_table(cluster, begin, end);
    size_t used = 0;
    unsigned bit;

    text[0] = '\0';
    for (bit = 0; bit < 64 && used < size; bit++) {
        const char *separator = used == 0 ? "" : ", ";
        const char *name;
        size_t length;

        if ((bits & (UINT64_C(1) << bit)) == 0) {
            continue;
        }
        length = feature_name(&table, FEATURE_TYPE_INCOMPATIBLE, bit, &name);
        if (length > 0) {
            used += (size_t)snprintf(text + used, size - used, "%s'%.*s' (bit %u)", separator,
                                     (int)length, name, bit);
        } else {
            used += (size_t)snprintf(text + used, size - used, "%sbit %u", separator, bit);
        }
    }
}
