/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "util/json.h"

#include "util/printable.h"

#include <errno.h>

int json_require(struct error *error)
{
    if (json_available()) {
        return 0;
    }
    return error_set(error, ENOTSUP,
                     "JSON cannot be printed: this program was built without the library jansson; "
                     "install it (Debian: libjansson-dev) and build again");
}

#ifdef HAVE_JANSSON

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#define REPLACEMENT "\xef\xbf\xbd" /* U+FFFD */

struct json {
    json_t *value;
    bool is_incomplete;
};

bool json_available(void)
{
    return true;
}

/* Takes `value` over. */
static struct json *new_json(json_t *value)
{
    struct json *json = value != NULL ? malloc(sizeof(*json)) : NULL;

    if (json == NULL) {
        json_decref(value);
        return NULL;
    }
    *json = (struct json){.value = value};
    return json;
}

struct json *json_new_object(void)
{
    return new_json(json_object());
}

struct json *json_new_array(void)
{
    return new_json(json_array());
}

void json_free(struct json *json)
{
    if (json != NULL) {
        json_decref(json->value);
        free(json);
    }
}

/* How many bytes the UTF-8 sequence at `text` has; 0 where none begins. The library decides. */
static size_t sequence_length(const char *text)
{
    for (size_t length = 1; length <= 4 && text[length - 1] != '\0'; length++) {
        json_t *letter = json_stringn(text, length);

        if (letter != NULL) {
            json_decref(letter);
            return length;
        }
    }
    return 0;
}

static json_t *text_value(const char *text)
{
    json_t *string = json_string(text);
    char *copy, *to;

    if (string != NULL) {
        return string;
    }
    copy = malloc((sizeof(REPLACEMENT) - 1) * strlen(text) + 1);
    if (copy == NULL) {
        return NULL;
    }
    for (to = copy; *text != '\0';) {
        size_t length = sequence_length(text);

        to = length > 0 ? (char *)mempcpy(to, text, length) : stpcpy(to, REPLACEMENT);
        text += length > 0 ? length : 1;
    }
    *to = '\0';
    string = json_string(copy);
    free(copy);
    return string;
}

/* Numbers of an image are up to 2^64 - 1; the library's integers are signed. */
static json_t *number_value(uint64_t number)
{
    return number <= INT64_MAX ? json_integer((json_int_t)number) : json_real((double)number);
}

/* Both take `value` over, also when it is NULL. */
static void put(struct json *object, const char *key, json_t *value)
{
    if (object == NULL) {
        json_decref(value);
    } else if (json_object_set_new(object->value, key, value) != 0) {
        object->is_incomplete = true;
    }
}

static void add(struct json *array, json_t *value)
{
    if (array == NULL) {
        json_decref(value);
    } else if (json_array_append_new(array->value, value) != 0) {
        array->is_incomplete = true;
    }
}

/* Leaves of `json` only what the library knows. */
static json_t *unwrap(struct json *into, struct json *json)
{
    json_t *value = json != NULL ? json->value : NULL;

    if (into != NULL && json != NULL) {
        into->is_incomplete |= json->is_incomplete;
    }
    free(json);
    return value;
}

void json_put_text(struct json *object, const char *key, const char *text)
{
    put(object, key, text_value(text));
}

void json_put_number(struct json *object, const char *key, uint64_t number)
{
    put(object, key, number_value(number));
}

void json_put_signed(struct json *object, const char *key, int64_t number)
{
    put(object, key, json_integer(number));
}

void json_put_bool(struct json *object, const char *key, bool value)
{
    put(object, key, json_boolean(value));
}

void json_put(struct json *object, const char *key, struct json *value)
{
    put(object, key, unwrap(object, value));
}

void json_add_text(struct json *array, const char *text)
{
    add(array, text_value(text));
}

void json_add_number(struct json *array, uint64_t number)
{
    add(array, number_value(number));
}

void json_add(struct json *array, struct json *value)
{
    add(array, unwrap(array, value));
}

/* JSON's escape of a code point: of two parts where it lies beyond U+FFFF. */
static char *put_escape(char *to, uint32_t code)
{
    if (code > 0xffff) {
        to += sprintf(to, "\\u%04X", 0xd800 + ((code - 0x10000) >> 10));
        code = 0xdc00 + ((code - 0x10000) & 0x3ff);
    }
    return to + sprintf(to, "\\u%04X", code);
}

#define ESCAPE_MAX 12 /* bytes of it */

/*
 * The library escapes C0 controls alone. What else a terminal could take for a
 * command is escaped here, so that it is the same text for a program. All of it
 * stands inside strings: between these there are only ASCII, blanks and newlines.
 */
static size_t command_at(const char *text, uint32_t *code)
{
    size_t length = *text != '\n' ? printable_decode(text, code) : 0;

    return length > 0 && printable_is_command(*code) ? length : 0;
}

/* Takes `text` over; nearly always there is nothing to do, and no copy is made. NULL: no memory. */
static char *escape(char *whole)
{
    const char *text = whole;
    size_t commands = 0;
    char *escaped, *to;
    uint32_t code;

    for (; *text != '\0'; text++) {
        commands += command_at(text, &code) > 0;
    }
    if (commands == 0) {
        return whole;
    }
    escaped = malloc((size_t)(text - whole) + commands * ESCAPE_MAX + 1);
    to = escaped;
    for (text = whole; escaped != NULL && *text != '\0';) {
        size_t length = command_at(text, &code);

        if (length > 0) {
            to = put_escape(to, code);
            text += length;
        } else {
            *to++ = *text++;
        }
    }
    if (escaped != NULL) {
        *to = '\0';
    }
    free(whole);
    return escaped;
}

/* For the caller to free; NULL when memory ran out. */
static char *dump(const struct json *json, size_t flags)
{
    char *text;

    if (json == NULL || json->is_incomplete) {
        return NULL;
    }
    text = json_dumps(json->value, flags);
    return text != NULL ? escape(text) : NULL;
}

static int print(const struct json *json, size_t flags, FILE *out)
{
    char *text = dump(json, flags);
    int r = text == NULL ? -ENOMEM : 0;

    errno = 0;
    if (r == 0 && fprintf(out, "%s\n", text) < 0) {
        r = errno != 0 ? -errno : -EIO;
    }
    free(text);
    return r;
}

int json_print(const struct json *json, FILE *out)
{
    return print(json, JSON_INDENT(4), out);
}

int json_print_line(const struct json *json, FILE *out)
{
    return print(json, 0, out);
}

char *json_text(const struct json *json)
{
    char *text = dump(json, JSON_INDENT(4));
    char *lines = NULL;

    if (text != NULL && asprintf(&lines, "%s\n", text) < 0) {
        lines = NULL;
    }
    free(text);
    return lines;
}

#else

bool json_available(void)
{
    return false;
}

struct json *json_new_object(void)
{
    return NULL;
}

struct json *json_new_array(void)
{
    return NULL;
}

void json_free(struct json *json)
{
    (void)json;
}

void json_put_text(struct json *object, const char *key, const char *text)
{
    (void)object, (void)key, (void)text;
}

void json_put_number(struct json *object, const char *key, uint64_t number)
{
    (void)object, (void)key, (void)number;
}

void json_put_signed(struct json *object, const char *key, int64_t number)
{
    (void)object, (void)key, (void)number;
}

void json_put_bool(struct json *object, const char *key, bool value)
{
    (void)object, (void)key, (void)value;
}

void json_put(struct json *object, const char *key, struct json *value)
{
    (void)object, (void)key, (void)value;
}

void json_add_text(struct json *array, const char *text)
{
    (void)array, (void)text;
}

void json_add_number(struct json *array, uint64_t number)
{
    (void)array, (void)number;
}

void json_add(struct json *array, struct json *value)
{
    (void)array, (void)value;
}

int json_print(const struct json *json, FILE *out)
{
    (void)json, (void)out;
    return -ENOTSUP;
}

int json_print_line(const struct json *json, FILE *out)
{
    (void)json, (void)out;
    return -ENOTSUP;
}

char *json_text(const struct json *json)
{
    (void)json;
    return NULL;
}

#endif
