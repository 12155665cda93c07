/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "ctl/contents.h"

#include "util/json.h"
#include "util/size.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

/* --- reading ---------------------------------------------------------------------------- */

static int read_file(void *context, uint64_t offset, void *buffer, size_t length)
{
    const int *file = context;
    uint8_t *to = buffer;

    while (length > 0) {
        ssize_t count = pread(*file, to, length, (off_t)offset);

        if (count < 0 && errno == EINTR) {
            continue;
        }
        if (count <= 0) {
            return count < 0 ? -errno : -EIO;
        }
        to += count;
        offset += (uint64_t)count;
        length -= (size_t)count;
    }
    return 0;
}

static void say_remarks(const struct partition_table *table, const char *image, struct log *log)
{
    static const struct {
        enum partition_remark remark;
        const char *text;
    } remarks[] = {
        {PARTITION_BACKUP_USED, "the first GPT is damaged, its backup at the end was taken"},
        {PARTITION_GPT_DAMAGED, "neither copy of the GPT can be used"},
        {PARTITION_PAST_END,
         "a partition reaches past the end of the disk; it is shown cut off, or "
         "not at all"},
        {PARTITION_CHAIN_DAMAGED, "the chain of logical partitions is damaged; those behind the "
                                  "damage are missing"},
        {PARTITION_TOO_MANY, "there are more partitions than are shown"},
    };

    for (size_t i = 0; i < sizeof(remarks) / sizeof(remarks[0]); i++) {
        if ((table->remarks & remarks[i].remark) != 0) {
            log_line(log, LOG_LEVEL_WARNING, "%s: %s", image, remarks[i].text);
        }
    }
}

static int recognise(int file, uint64_t size, struct contents *contents)
{
    const struct partition_table *table = &contents->table;
    int result = 0;

    if (!filesystem_available()) {
        return 0;
    }
    if (table->scheme == PARTITION_SCHEME_NONE || table->count == 0) {
        result = filesystem_recognise(file, 0, size, &contents->whole);
    }
    for (size_t i = 0; i < table->count && result == 0; i++) {
        const struct partition *part = &table->list[i];

        if (!part->extended) {
            result = filesystem_recognise(file, part->start, part->size, &contents->parts[i]);
        }
    }
    return result;
}

static int cannot_read(const char *image, int result, struct contents *contents,
                       struct error *error)
{
    contents_release(contents);
    return error_set(error, -result, "%s: what the disk contains cannot be read: %s", image,
                     strerror(-result));
}

int contents_read_table(int file, uint64_t size, const char *image, struct log *log,
                        struct contents *contents, struct error *error)
{
    int result;

    memset(contents, 0, sizeof(*contents));
    result = partitions_read(read_file, &file, size, &contents->table);
    if (result == 0) {
        contents->parts = calloc(contents->table.count + 1, sizeof(*contents->parts));
        result = contents->parts == NULL ? -ENOMEM : 0;
    }
    if (result != 0) {
        return cannot_read(image, result, contents, error);
    }
    say_remarks(&contents->table, image, log);
    return 0;
}

int contents_read(int file, uint64_t size, const char *image, struct log *log,
                  struct contents *contents, struct error *error)
{
    int result = contents_read_table(file, size, image, log, contents, error);

    if (result != 0) {
        return result;
    }
    result = recognise(file, size, contents);
    return result == 0 ? 0 : cannot_read(image, result, contents, error);
}

void contents_release(struct contents *contents)
{
    partitions_free(&contents->table);
    free(contents->parts);
    contents->parts = NULL;
}

/* --- choosing --------------------------------------------------------------------------- */

static bool matches(const char *wanted, const struct partition *part,
                    const struct filesystem_found *found)
{
    static const char *const tags[] = {"LABEL=", "UUID=", "PARTLABEL=", "PARTUUID="};
    const char *values[] = {
        found->label,
        found->uuid,
        part != NULL ? part->name : "",
        part != NULL ? part->uuid : "",
    };

    for (size_t i = 0; i < sizeof(tags) / sizeof(tags[0]); i++) {
        size_t length = strlen(tags[i]);

        if (strncmp(wanted, tags[i], length) == 0) {
            const char *value = wanted + length;

            if (*value == '\0') {
                return false;
            }
            /* Of UUIDs capitals are no difference. */
            return i % 2 == 0 ? strcmp(values[i], value) == 0 : strcasecmp(values[i], value) == 0;
        }
    }
    return false;
}

static void take_part(const struct contents *contents, size_t index, struct contents_place *place)
{
    const struct partition *part = &contents->table.list[index];

    *place = (struct contents_place){
        .partition = part->number,
        .offset = part->start,
        .size = part->size,
        .found = &contents->parts[index],
    };
}

static int choose_named(const struct contents *contents, const char *image, uint64_t size,
                        const char *wanted, struct contents_place *place, struct error *error)
{
    char *end;
    unsigned long number = strtoul(wanted, &end, 10);
    bool by_number = *end == '\0' && *wanted >= '0' && *wanted <= '9';
    size_t hits = 0;

    for (size_t i = 0; i < contents->table.count; i++) {
        const struct partition *part = &contents->table.list[i];

        if (by_number ? part->number == number : matches(wanted, part, &contents->parts[i])) {
            take_part(contents, i, place);
            hits++;
        }
    }
    if (contents->table.count == 0 &&
        (by_number ? number == 0 : matches(wanted, NULL, &contents->whole))) {
        *place = (struct contents_place){.size = size, .found = &contents->whole};
        hits++;
    }
    if (!by_number && strchr(wanted, '=') == NULL) {
        return error_set(error, EINVAL,
                         "'%s' is no partition; give its number, or LABEL=, UUID=, PARTLABEL= or "
                         "PARTUUID= and the value",
                         wanted);
    }
    if (hits == 0) {
        return error_set(error, ENOENT, "%s: has no partition %s%s", image, wanted,
                         !by_number && !filesystem_available()
                             ? " that can be told without libblkid, which this program was built "
                               "without"
                             : "");
    }
    return hits == 1 ? 0
                     : error_set(error, ENOTUNIQ,
                                 "%s: %zu partitions are called %s; give the number with -p", image,
                                 hits, wanted);
}

static int choose_only(const struct contents *contents, const char *image, uint64_t size,
                       struct contents_place *place, struct error *error)
{
    size_t hits = 0;

    if (contents->table.count == 0) {
        *place = (struct contents_place){.size = size, .found = &contents->whole};
        if (contents->whole.usage != FILESYSTEM_NONE || !filesystem_available()) {
            return 0;
        }
        return error_set(error, ENOENT, "%s: the disk has neither partitions nor a file system",
                         image);
    }
    for (size_t i = 0; i < contents->table.count; i++) {
        if (contents->parts[i].usage == FILESYSTEM_MOUNT) {
            take_part(contents, i, place);
            hits++;
        }
    }
    if (hits == 0 && contents->table.count == 1) {
        take_part(contents, 0, place); /* what it holds instead is told by who wants to use it */
        hits = 1;
    }
    if (hits == 0) {
        return error_set(error, ENOENT,
                         "%s: no partition has a file system that is known; choose one with -p, or "
                         "go on from qcow2ctl attach",
                         image);
    }
    return hits == 1
               ? 0
               : error_set(error, ENOTUNIQ, "%s: has %zu file systems; choose one with -p NUMBER",
                           image, hits);
}

int contents_choose(const struct contents *contents, const char *image, uint64_t size,
                    const char *wanted, struct contents_place *place, struct error *error)
{
    return wanted != NULL ? choose_named(contents, image, size, wanted, place, error)
                          : choose_only(contents, image, size, place, error);
}

/* --- showing ----------------------------------------------------------------------------- */

static void print_line(FILE *out, const char *number, uint64_t start, uint64_t size,
                       const char *type, const struct filesystem_found *found, const char *label)
{
    char text[SIZE_TEXT_MAX];

    fprintf(out, "%6s %14" PRIu64 " %10s  %-22s %-12s %s\n", number, start, size_format(size, text),
            type,
            found->usage == FILESYSTEM_AMBIGUOUS ? "(several)"
            : found->type[0] != '\0'             ? found->type
                                                 : "-",
            label);
}

void contents_print(const struct contents *contents, uint64_t size, FILE *out)
{
    fprintf(out, "%6s %14s %10s  %-22s %-12s %s\n", "number", "start", "size", "type",
            "file system", "label");
    if (contents->table.count == 0) {
        print_line(out, "0", 0, size, "whole disk", &contents->whole, contents->whole.label);
    }
    for (size_t i = 0; i < contents->table.count; i++) {
        const struct partition *part = &contents->table.list[i];
        const struct filesystem_found *found = &contents->parts[i];
        const char *name = partition_type_name(part);
        char number[16];

        snprintf(number, sizeof(number), "%u", part->number);
        print_line(out, number, part->start, part->size, name != NULL ? name : part->type, found,
                   found->label[0] != '\0' ? found->label : part->name);
    }
}

static void put_found(struct json *object, const struct filesystem_found *found)
{
    if (found->type[0] != '\0') {
        json_put_text(object, "fstype", found->type);
    }
    if (found->label[0] != '\0') {
        json_put_text(object, "label", found->label);
    }
    if (found->uuid[0] != '\0') {
        json_put_text(object, "uuid", found->uuid);
    }
}

static struct json *part_json(const struct partition *part, const struct filesystem_found *found)
{
    struct json *object = json_new_object();

    json_put_number(object, "number", part->number);
    json_put_number(object, "start", part->start);
    json_put_number(object, "size", part->size);
    json_put_text(object, "type", part->type);
    json_put_text(object, "partuuid", part->uuid);
    if (part->name[0] != '\0') {
        json_put_text(object, "name", part->name);
    }
    json_put_bool(object, "bootable", part->bootable);
    put_found(object, found);
    return object;
}

int contents_print_json(const struct contents *contents, uint64_t size, FILE *out)
{
    static const char *const schemes[] = {"none", "dos", "gpt"};
    const struct partition_table *table = &contents->table;
    struct json *object, *list;
    int result;

    if (!json_available()) {
        return -ENOTSUP;
    }
    object = json_new_object();
    list = json_new_array();
    json_put_number(object, "size", size);
    json_put_text(object, "label-type", schemes[table->scheme]);
    if (table->scheme != PARTITION_SCHEME_NONE) {
        json_put_text(object, "label-id", table->id);
        json_put_number(object, "sector-size", table->sector_size);
    }
    put_found(object, &contents->whole);
    for (size_t i = 0; i < table->count; i++) {
        json_add(list, part_json(&table->list[i], &contents->parts[i]));
    }
    json_put(object, "partitions", list);
    result = json_print(object, out);
    json_free(object);
    return result;
}
