/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "fuse/names.h"

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The most that an ID takes of a name: what is left must tell the names apart for the eye. */
#define ID_MAX 127

/* A file name that is being written; what does not fit is left out from there on. */
struct quoted {
    char text[NAMES_MAX + 1];
    size_t length;
    size_t limit; /* bytes, at most NAMES_MAX */
    bool full;
};

static void quoted_start(struct quoted *quoted, size_t limit)
{
    quoted->length = 0;
    quoted->limit = limit;
    quoted->full = false;
    quoted->text[0] = '\0';
}

/* Appends one unit, a character or a %XX: all of it or nothing. */
static void quoted_append(struct quoted *quoted, const char *unit, size_t length)
{
    if (quoted->full || length > quoted->limit - quoted->length) {
        quoted->full = true;
        return;
    }
    memcpy(quoted->text + quoted->length, unit, length);
    quoted->length += length;
    quoted->text[quoted->length] = '\0';
}

static void quoted_append_escape(struct quoted *quoted, unsigned char byte)
{
    static const char digits[] = "0123456789ABCDEF";
    char unit[3] = {'%', digits[byte >> 4], digits[byte & 15]};

    quoted_append(quoted, unit, sizeof(unit));
}

static bool is_continuation(unsigned char byte)
{
    return (byte & 0xc0) == 0x80;
}

/* Bytes of the UTF-8 character at `text` (RFC 3629: shortest form, no surrogates), 0 if none. */
static size_t utf8_length(const char *text)
{
    const unsigned char *byte = (const unsigned char *)text;

    if (byte[0] < 0x80) {
        return byte[0] != '\0';
    }
    if (byte[0] >= 0xc2 && byte[0] <= 0xdf) {
        return is_continuation(byte[1]) ? 2 : 0;
    }
    if ((byte[0] & 0xf0) == 0xe0) {
        bool overlong = byte[0] == 0xe0 && byte[1] < 0xa0;
        bool surrogate = byte[0] == 0xed && byte[1] > 0x9f;

        return is_continuation(byte[1]) && !overlong && !surrogate && is_continuation(byte[2]) ? 3
                                                                                               : 0;
    }
    if (byte[0] >= 0xf0 && byte[0] <= 0xf4) {
        bool overlong = byte[0] == 0xf0 && byte[1] < 0x90;
        bool too_high = byte[0] == 0xf4 && byte[1] > 0x8f;

        return is_continuation(byte[1]) && !overlong && !too_high && is_continuation(byte[2]) &&
                       is_continuation(byte[3])
                   ? 4
                   : 0;
    }
    return 0;
}

/* C0, DEL, and the C1 controls U+0080 to U+009F, some of which are commands to a terminal. */
static bool is_control(const char *text)
{
    const unsigned char *byte = (const unsigned char *)text;

    return byte[0] < 0x20 || byte[0] == 0x7f || (byte[0] == 0xc2 && byte[1] < 0xa0);
}

static void quoted_append_text(struct quoted *quoted, const char *text)
{
    while (*text != '\0' && !quoted->full) {
        unsigned char byte = (unsigned char)*text;
        size_t length = utf8_length(text);

        if (length == 0 || is_control(text) || byte == '/' || byte == '%') {
            quoted_append_escape(quoted, byte);
            text++;
        } else {
            quoted_append(quoted, text, length);
            text += length;
        }
    }
}

/* Quotes the name, cut to `limit` bytes. */
static void quote_name(struct quoted *quoted, const struct names_source *source, size_t limit)
{
    quoted_start(quoted, limit);
    if (source->name[0] == '\0') {
        quoted_append(quoted, "id-", 3);
        quoted_append_text(quoted, source->id);
    } else if (strcmp(source->name, ".") == 0) {
        quoted_append_escape(quoted, '.');
    } else if (strcmp(source->name, "..") == 0) {
        quoted_append_escape(quoted, '.');
        quoted_append_escape(quoted, '.');
    } else {
        quoted_append_text(quoted, source->name);
    }
}

/* "NAME" followed by an ending that is kept whole. */
static void quote_with_ending(struct quoted *quoted, const struct names_source *source,
                              const char *ending)
{
    size_t length = strlen(ending);

    quote_name(quoted, source, NAMES_MAX - length);
    memcpy(quoted->text + quoted->length, ending, length + 1);
    quoted->length += length;
}

static void quote_with_id(struct quoted *quoted, const struct names_source *source)
{
    struct quoted ending;

    quoted_start(&ending, 1 + ID_MAX);
    quoted_append(&ending, "@", 1);
    quoted_append_text(&ending, source->id);
    quote_with_ending(quoted, source, ending.text);
}

static void quote_with_index(struct quoted *quoted, const struct names_source *source, size_t index)
{
    char ending[32];

    snprintf(ending, sizeof(ending), "%%#%zu", index);
    quote_with_ending(quoted, source, ending);
}

static int compare_names(const void *a, const void *b, void *context)
{
    char **names = context;

    return strcmp(names[*(const size_t *)a], names[*(const size_t *)b]);
}

/* Marks in `shared` the names that are not alone. `order` is scratch space. */
static void find_shared(char **names, size_t *order, bool *shared, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        order[i] = i;
        shared[i] = false;
    }
    qsort_r(order, count, sizeof(*order), compare_names, names);
    for (size_t i = 1; i < count; i++) {
        if (strcmp(names[order[i - 1]], names[order[i]]) == 0) {
            shared[order[i - 1]] = true;
            shared[order[i]] = true;
        }
    }
}

static int replace_name(char **name, const struct quoted *quoted)
{
    char *copy = strdup(quoted->text);

    if (copy == NULL) {
        return -ENOMEM;
    }
    free(*name);
    *name = copy;
    return 0;
}

static int make_unique(const struct names_source *sources, size_t count, char **names,
                       size_t *order, bool *shared)
{
    struct quoted quoted;
    int r = 0;

    for (size_t i = 0; i < count && r == 0; i++) {
        quote_name(&quoted, &sources[i], NAMES_MAX);
        r = replace_name(&names[i], &quoted);
    }
    if (r != 0) {
        return r;
    }
    find_shared(names, order, shared, count);
    for (size_t i = 0; i < count && r == 0; i++) {
        if (shared[i]) {
            quote_with_id(&quoted, &sources[i]);
            r = replace_name(&names[i], &quoted);
        }
    }
    if (r != 0) {
        return r;
    }
    find_shared(names, order, shared, count);
    for (size_t i = 0; i < count && r == 0; i++) {
        if (shared[i]) {
            quote_with_index(&quoted, &sources[i], i);
            r = replace_name(&names[i], &quoted);
        }
    }
    return r;
}

int names_make_unique(const struct names_source *sources, size_t count, char ***names)
{
    char **made = calloc(count + 1, sizeof(*made));
    size_t *order = calloc(count + 1, sizeof(*order));
    bool *shared = calloc(count + 1, sizeof(*shared));
    int r = -ENOMEM;

    if (made != NULL && order != NULL && shared != NULL) {
        r = make_unique(sources, count, made, order, shared);
    }
    free(order);
    free(shared);
    if (r != 0) {
        names_free(made, count);
        return r;
    }
    *names = made;
    return 0;
}

int names_make(const struct snapshot *snapshots, size_t count, char ***names)
{
    struct names_source *sources = calloc(count + 1, sizeof(*sources));
    int r = -ENOMEM;

    if (sources != NULL) {
        for (size_t i = 0; i < count; i++) {
            sources[i] = (struct names_source){snapshots[i].name, snapshots[i].id};
        }
        r = names_make_unique(sources, count, names);
    }
    free(sources);
    return r;
}

/* The value of a hexadecimal digit as it is written here, or -1. */
static int digit(char character)
{
    if (character >= '0' && character <= '9') {
        return character - '0';
    }
    return character >= 'A' && character <= 'F' ? character - 'A' + 10 : -1;
}

int names_unquote(const char *file_name, char name[NAMES_MAX + 1])
{
    const struct names_source source = {.name = name, .id = ""};
    const char *at = file_name;
    struct quoted quoted;
    size_t length = 0;

    if (strlen(file_name) > NAMES_MAX) {
        return -ENAMETOOLONG;
    }
    while (*at != '\0') {
        if (at[0] == '%' && digit(at[1]) >= 0 && digit(at[2]) >= 0) {
            name[length++] = (char)(digit(at[1]) << 4 | digit(at[2]));
            at += 3;
        } else {
            name[length++] = *at++;
        }
    }
    name[length] = '\0';
    quote_name(&quoted, &source, NAMES_MAX);
    return name[0] != '\0' && strcmp(quoted.text, file_name) == 0 ? 0 : -EINVAL;
}

void names_free(char **names, size_t count)
{
    if (names == NULL) {
        return;
    }
    for (size_t i = 0; i < count; i++) {
        free(names[i]);
    }
    free(names);
}
