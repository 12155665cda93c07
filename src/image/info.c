/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "image/info.h"

#ifdef HAVE_JANSSON

#include "meta/bitmap.h"
#include "meta/format.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A string of any bytes: what is not UTF-8 is shown as U+FFFD. */
static json_t *text_json(const char *text)
{
    json_t *string = json_string(text);
    char *copy, *to;

    if (string != NULL) {
        return string;
    }
    copy = malloc(3 * strlen(text) + 1);
    if (copy == NULL) {
        return NULL;
    }
    for (to = copy; *text != '\0'; text++) {
        if ((unsigned char)*text < 0x80) {
            *to++ = *text;
        } else {
            to = stpcpy(to, "\xef\xbf\xbd");
        }
    }
    *to = '\0';
    string = json_string(copy);
    free(copy);
    return string;
}

/* Numbers of an image are up to 2^64 - 1; JSON integers of the library are signed. */
static json_t *number_json(uint64_t number)
{
    return number <= INT64_MAX ? json_integer((json_int_t)number) : json_real((double)number);
}

static json_t *snapshots_json(const struct image *image)
{
    json_t *list = json_array();
    size_t i;

    for (i = 0; i < image->snapshots->count; i++) {
        const struct snapshot *snapshot = &image->snapshots->snapshots[i];
        json_t *entry = json_object();

        json_object_set_new(entry, "id", text_json(snapshot->id));
        json_object_set_new(entry, "name", text_json(snapshot->name));
        json_object_set_new(entry, "disk-size", number_json(snapshot->disk_size));
        json_object_set_new(entry, "vm-state-size", number_json(snapshot->vm_state_size));
        json_object_set_new(entry, "date-sec", number_json(snapshot->date_sec));
        json_object_set_new(entry, "date-nsec", number_json(snapshot->date_nsec));
        json_object_set_new(entry, "vm-clock-sec",
                            number_json(snapshot->vm_clock_nsec / 1000000000));
        json_object_set_new(entry, "vm-clock-nsec",
                            number_json(snapshot->vm_clock_nsec % 1000000000));
        if (snapshot->icount != UINT64_MAX) {
            json_object_set_new(entry, "icount", number_json(snapshot->icount));
        }
        json_array_append_new(list, entry);
    }
    return list;
}

/* NULL when the image has no bitmaps, or their directory is damaged. */
static json_t *bitmaps_json(const struct image *image)
{
    struct bitmap_directory *directory;
    json_t *list;
    size_t i;

    if (image->header->bitmap_count == 0 ||
        bitmap_directory_read(image->file, image->header, image->path, &directory, NULL) < 0) {
        return NULL;
    }
    list = json_array();
    for (i = 0; i < directory->count; i++) {
        const struct bitmap *bitmap = &directory->bitmaps[i];
        json_t *entry = json_object(), *flags = json_array();

        if ((bitmap->flags & BITMAP_FLAG_IN_USE) != 0) {
            json_array_append_new(flags, json_string("in-use"));
        }
        if ((bitmap->flags & BITMAP_FLAG_AUTO) != 0) {
            json_array_append_new(flags, json_string("auto"));
        }
        json_object_set_new(entry, "name", text_json(bitmap->name));
        json_object_set_new(entry, "granularity", number_json(bitmap->granularity));
        json_object_set_new(entry, "flags", flags);
        json_array_append_new(list, entry);
    }
    bitmap_directory_free(directory);
    return list;
}

/* "format-specific", as qemu-img has it for qcow2. */
static json_t *qcow2_json(const struct image *image)
{
    const struct header *header = image->header;
    json_t *data = json_object(), *specific = json_object(), *bitmaps = bitmaps_json(image);

    json_object_set_new(data, "compat", json_string(header->version == 2 ? "0.10" : "1.1"));
    json_object_set_new(data, "compression-type",
                        json_string(compression_type_name(header->compression_type)));
    json_object_set_new(data, "refcount-bits", json_integer(1LL << header->refcount_order));
    if (header->version > 2) {
        json_object_set_new(
            data, "lazy-refcounts",
            json_boolean((header->compatible_features & COMPATIBLE_LAZY_REFCOUNTS) != 0));
        json_object_set_new(
            data, "corrupt",
            json_boolean((header->incompatible_features & INCOMPATIBLE_CORRUPT) != 0));
        json_object_set_new(data, "extended-l2", json_boolean(header->extended_l2));
    }
    if (header->external_data_file) {
        json_object_set_new(data, "data-file", text_json(image->data_file_path));
        json_object_set_new(
            data, "data-file-raw",
            json_boolean((header->autoclear_features & AUTOCLEAR_RAW_EXTERNAL_DATA) != 0));
    }
    if (bitmaps != NULL) {
        json_object_set_new(data, "bitmaps", bitmaps);
    }
    json_object_set_new(specific, "type", json_string("qcow2"));
    json_object_set_new(specific, "data", data);
    return specific;
}

static json_t *image_json(const struct image *image)
{
    json_t *object = json_object();
    struct store_info file;

    json_object_set_new(object, "filename", text_json(image->path));
    json_object_set_new(object, "format",
                        json_string(image->format == IMAGE_QCOW2 ? "qcow2" : "raw"));
    json_object_set_new(object, "virtual-size", number_json(image->virtual_size));
    if (store_info(image->file, &file) == 0) { /* without its data file, as qemu-img has it */
        json_object_set_new(object, "actual-size", number_json(file.allocated));
    }
    if (image->header == NULL) {
        json_object_set_new(object, "dirty-flag", json_false());
        return object;
    }
    json_object_set_new(object, "cluster-size", number_json(image->header->cluster_size));
    json_object_set_new(
        object, "dirty-flag",
        json_boolean((image->header->incompatible_features & INCOMPATIBLE_DIRTY) != 0));
    if (image->backing != NULL) {
        json_object_set_new(object, "backing-filename", text_json(image->header->backing_file));
        json_object_set_new(object, "full-backing-filename", text_json(image->backing->path));
        if (image->header->backing_format != NULL) {
            json_object_set_new(object, "backing-filename-format",
                                text_json(image->header->backing_format));
        }
    }
    if (image->snapshots->count > 0) {
        json_object_set_new(object, "snapshots", snapshots_json(image));
    }
    json_object_set_new(object, "format-specific", qcow2_json(image));
    return object;
}

bool image_info_available(void)
{
    return true;
}

char *image_info_json(const struct image *image)
{
    json_t *object = image_json(image), *chain = json_array();
    char *text = NULL, *lines = NULL;

    for (image = image->backing; image != NULL; image = image->backing) {
        json_array_append_new(chain, image_json(image));
    }
    json_object_set_new(object, "backing-chain", chain);
    text = json_dumps(object, JSON_INDENT(4));
    if (text == NULL || asprintf(&lines, "%s\n", text) < 0) {
        lines = NULL;
    }
    free(text);
    json_decref(object);
    return lines;
}

#else

#include <stddef.h>

bool image_info_available(void)
{
    return false;
}

char *image_info_json(const struct image *image)
{
    (void)image;
    return NULL;
}

#endif
