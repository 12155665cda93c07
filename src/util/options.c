/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "util/options.h"

#include "util/checked.h"
#include "util/printable.h"
#include "util/size.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define SHOWN_MAX     200 /* bytes of an item or value in a sentence */
#define COMPLAINT_MAX 1024

/* One item of the list. */
struct item {
    char *raw;   /* as it came */
    char *name;  /* up to the first =; the start of an allocation */
    char *value; /* behind it, unescaped; NULL without a = */
};

/* --- sentences -------------------------------------------------------------- */

/* A part of a list that a sentence quotes, cut so that the rest of the sentence is seen. */
struct quote {
    char text[SHOWN_MAX + sizeof("...")];
};

static const char *quote(const char *text, struct quote *quoted)
{
    size_t length = strnlen(text, SHOWN_MAX + 1);
    const char *end = "";

    if (length > SHOWN_MAX) {
        length = printable_cut(text, SHOWN_MAX);
        end = "...";
    }
    snprintf(quoted->text, sizeof(quoted->text), "%.*s%s", (int)length, text, end);
    return quoted->text;
}

static int reject(const struct item *item, struct error *error, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* -EINVAL, and "option ITEM: " with what is wrong with it. */
static int reject(const struct item *item, struct error *error, const char *format, ...)
{
    char complaint[COMPLAINT_MAX];
    struct quote raw;
    va_list arguments;

    va_start(arguments, format);
    printable_format(complaint, sizeof(complaint), format, arguments);
    va_end(arguments);
    return error_set(error, EINVAL, "option %s: %s", quote(item->raw, &raw), complaint);
}

static int reject_unknown(const struct option_spec *table, const struct item *item,
                          struct error *error)
{
    const char *nearest = options_nearest(table, item->name);
    struct quote name;

    if (nearest == NULL) {
        return error_set(error, EINVAL, "unknown option '%s'; --help lists the known ones",
                         quote(item->name, &name));
    }
    return error_set(error, EINVAL, "unknown option '%s'; did you mean %s?",
                     quote(item->name, &name), nearest);
}

static int out_of_memory(struct error *error)
{
    return error_set(error, ENOMEM, "out of memory while reading the options");
}

/* --- values ----------------------------------------------------------------- */

static void *field_of(const struct option_spec *spec, void *target)
{
    return (char *)target + spec->field;
}

static int set_bool(const struct option_spec *spec, void *target, const struct item *item,
                    struct error *error)
{
    static const struct {
        const char *word;
        bool value;
    } words[] = {
        {"on", true},   {"off", false},   {"yes", true}, {"no", false},
        {"true", true}, {"false", false}, {"1", true},   {"0", false},
    };
    struct option_bool *field = field_of(spec, target);
    struct quote value;

    if (item->value == NULL) {
        *field = (struct option_bool){.set = true, .value = !spec->opposite};
        return 0;
    }
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        if (strcmp(item->value, words[i].word) == 0) {
            *field = (struct option_bool){.set = true, .value = words[i].value != spec->opposite};
            return 0;
        }
    }
    if (spec->meant != NULL) {
        return reject(item, error, "'%s' is neither on nor off; %s", quote(item->value, &value),
                      spec->meant);
    }
    return reject(item, error, "'%s' is neither on nor off; write %s, or %s=off",
                  quote(item->value, &value), item->name, item->name);
}

/* 0, -EINVAL when it is not a number, -ERANGE when it exceeds 64 bits. */
static int parse_digits(const char *text, unsigned base, uint64_t *number)
{
    bool fits = true;

    *number = 0;
    if (*text == '\0') {
        return -EINVAL;
    }
    for (; *text != '\0'; text++) {
        if (*text < '0' || (unsigned)(*text - '0') >= base) {
            return -EINVAL;
        }
        fits = fits && checked_mul(*number, base, number) &&
               checked_add(*number, (uint64_t)(*text - '0'), number);
    }
    return fits ? 0 : -ERANGE;
}

static int parse_number(enum option_type type, const char *text, uint64_t *number)
{
    if (type == OPTION_SIZE) {
        return size_parse(text, number);
    }
    return parse_digits(text, type == OPTION_OCTAL ? 8 : 10, number);
}

/* Rounded for reading only where that names the same size. */
static void show_size(uint64_t bytes, char text[SIZE_TEXT_MAX])
{
    char written[SIZE_TEXT_MAX];
    uint64_t named;
    char *space;

    size_format(bytes, text);
    memcpy(written, text, sizeof(written));
    space = strchr(written, ' ');
    memmove(space, space + 1, strlen(space));
    if (size_parse(written, &named) != 0 || named != bytes) {
        snprintf(text, SIZE_TEXT_MAX, "%" PRIu64 " B", bytes);
    }
}

static void show_number(enum option_type type, uint64_t number, char text[SIZE_TEXT_MAX])
{
    if (type == OPTION_SIZE) {
        show_size(number, text);
    } else if (type == OPTION_OCTAL) {
        snprintf(text, SIZE_TEXT_MAX, "%#" PRIo64, number);
    } else {
        snprintf(text, SIZE_TEXT_MAX, "%" PRIu64, number);
    }
}

static int reject_number(const struct option_spec *spec, const struct item *item,
                         struct error *error)
{
    struct quote value;
    const char *wrong =
        spec->type == OPTION_SIZE ? "a size; write bytes or a number with a suffix, as in 64K, 10G"
        : spec->type == OPTION_OCTAL ? "a file mode; write it in octal digits, as in 0640"
                                     : "a number; write it in decimal digits, without a sign";

    return reject(item, error, "'%s' is not %s", quote(item->value, &value), wrong);
}

static int reject_range(const struct option_spec *spec, const struct item *item,
                        struct error *error)
{
    char min[SIZE_TEXT_MAX];
    char max[SIZE_TEXT_MAX];
    struct quote value;

    show_number(spec->type, spec->min, min);
    show_number(spec->type, spec->max, max);
    if (spec->min == spec->max) {
        return reject(item, error, "%s is out of range; it must be %s", quote(item->value, &value),
                      max);
    }
    return reject(item, error, "%s is out of range; it must be from %s to %s",
                  quote(item->value, &value), min, max);
}

static int set_number(const struct option_spec *spec, void *target, const struct item *item,
                      struct error *error)
{
    struct option_number *field = field_of(spec, target);
    uint64_t number;
    int status = parse_number(spec->type, item->value, &number);

    if (status == -EINVAL) {
        return reject_number(spec, item, error);
    }
    if (status == -ERANGE || number < spec->min || number > spec->max) {
        return reject_range(spec, item, error);
    }
    *field = (struct option_number){.set = true, .value = number};
    return 0;
}

/* One of the words of a choice. */
struct choice {
    const char *word;
    size_t length;
    uint64_t number; /* of its place; those that mean the same share one */
};

/* The next word of the choices, from all zero on; false past the last. */
static bool next_choice(const struct option_spec *spec, struct choice *choice)
{
    const char *word = choice->word != NULL ? choice->word + choice->length : spec->choices;

    if (choice->word != NULL && *word == ' ') {
        choice->number++;
    }
    word += strspn(word, " =");
    choice->word = word;
    choice->length = strcspn(word, " =");
    return choice->length > 0;
}

static int reject_choice(const struct option_spec *spec, const struct item *item,
                         struct error *error)
{
    char known[SHOWN_MAX] = "";
    struct choice choice = {0};
    size_t length = 0;
    struct quote value;

    while (next_choice(spec, &choice) && length + choice.length + 3 < sizeof(known)) {
        length += (size_t)snprintf(known + length, sizeof(known) - length, "%s%.*s",
                                   length > 0 ? ", " : "", (int)choice.length, choice.word);
    }
    return reject(item, error, "'%s' is not possible; write one of %s", quote(item->value, &value),
                  known);
}

static int set_choice(const struct option_spec *spec, void *target, const struct item *item,
                      struct error *error)
{
    struct option_number *field = field_of(spec, target);
    struct choice choice = {0};

    while (next_choice(spec, &choice)) {
        if (strlen(item->value) == choice.length &&
            memcmp(item->value, choice.word, choice.length) == 0) {
            *field = (struct option_number){.set = true, .value = choice.number};
            return 0;
        }
    }
    return reject_choice(spec, item, error);
}

static int set_preset(const struct option_spec *spec, void *target, const struct item *item,
                      struct error *error)
{
    struct option_number *field = field_of(spec, target);

    if (item->value != NULL) {
        return reject(item, error, "it takes no value; write %s alone", item->name);
    }
    *field = (struct option_number){.set = true, .value = spec->min};
    return 0;
}

static int set_string(const struct option_spec *spec, void *target, const struct item *item,
                      struct error *error)
{
    char **field = field_of(spec, target);
    char *copy = strdup(item->value != NULL ? item->value : "");

    if (copy == NULL) {
        return out_of_memory(error);
    }
    free(*field);
    *field = copy;
    return 0;
}

/* With nothing behind the = it is what a script makes of a variable that is not set. */
static int set_optional(const struct option_spec *spec, void *target, const struct item *item,
                        struct error *error)
{
    if (item->value != NULL && *item->value == '\0') {
        return error_set(error, EINVAL, "%s= is empty; write %s alone, or a value behind it",
                         item->name, item->name);
    }
    return set_string(spec, target, item, error);
}

static int add_passed(const struct option_spec *spec, void *target, const struct item *item,
                      struct error *error)
{
    char **field = field_of(spec, target);
    size_t before = *field == NULL ? 0 : strlen(*field);
    size_t added = strlen(item->raw);
    char *longer = realloc(*field, before + 1 + added + 1);

    if (longer == NULL) {
        return out_of_memory(error);
    }
    if (before > 0) {
        longer[before++] = ',';
    }
    memcpy(longer + before, item->raw, added + 1);
    *field = longer;
    return 0;
}

static int add_several(const struct option_spec *spec, void *target, const struct item *item,
                       struct error *error)
{
    char **field = field_of(spec, target), *to;
    size_t before = *field == NULL ? 0 : strlen(*field);
    char *longer = realloc(*field, before + 2 * strlen(item->value) + 2);

    if (longer == NULL) {
        return out_of_memory(error);
    }
    to = longer + before;
    for (const char *from = item->value; *from != '\0'; from++) {
        if (*from == '\n' || *from == '\\') {
            *to++ = '\\';
        }
        *to++ = *from;
    }
    strcpy(to, "\n");
    *field = longer;
    return 0;
}

const char *options_next_several(const char *list, char *value)
{
    while (*list != '\n') {
        list += *list == '\\';
        *value++ = *list++;
    }
    *value = '\0';
    return list + 1;
}

/* The value without the quotes around it; its length. */
static const char *unquoted(const char *value, size_t *length)
{
    *length = strlen(value);
    if (*length >= 2 && value[0] == '"' && value[*length - 1] == '"') {
        *length -= 2;
        return value + 1;
    }
    return value;
}

/* Passes NAME="VALUE" on, the commas escaped for who splits the list next. */
static int add_quoted(const struct option_spec *spec, void *target, const struct item *item,
                      struct error *error)
{
    size_t length, to;
    const char *value = unquoted(item->value, &length);
    struct item passed = {.name = item->name};
    int status;

    if (memchr(value, '"', length) != NULL) {
        return reject(item, error, "there is a quote within its value");
    }
    passed.raw = malloc(strlen(item->name) + 2 * length + 4);
    if (passed.raw == NULL) {
        return out_of_memory(error);
    }
    to = (size_t)sprintf(passed.raw, "%s=\"", item->name);
    for (size_t i = 0; i < length; i++) {
        if (value[i] == ',' || value[i] == '\\') {
            passed.raw[to++] = '\\';
        }
        passed.raw[to++] = value[i];
    }
    passed.raw[to++] = '"';
    passed.raw[to] = '\0';
    status = add_passed(spec, target, &passed, error);
    free(passed.raw);
    return status;
}

/* --- the list --------------------------------------------------------------- */

bool option_needs_value(const struct option_spec *spec)
{
    enum option_type type = spec->type;

    return type == OPTION_SIZE || type == OPTION_UINT || type == OPTION_OCTAL ||
           type == OPTION_CHOICE || type == OPTION_STRING || type == OPTION_KERNEL ||
           type == OPTION_SEVERAL;
}

/* 0 when the value suits the type, as far as there has to be one. */
static int set_field(const struct option_spec *spec, void *target, const struct item *item,
                     struct error *error)
{
    if (option_needs_value(spec) && item->value == NULL) {
        return reject(item, error, "its value is missing; write %s=%s", item->name,
                      spec->value_name != NULL ? spec->value_name : "VALUE");
    }
    switch (spec->type) {
    case OPTION_BOOL:
        return set_bool(spec, target, item, error);
    case OPTION_SIZE:
    case OPTION_UINT:
    case OPTION_OCTAL:
        return set_number(spec, target, item, error);
    case OPTION_CHOICE:
        return set_choice(spec, target, item, error);
    case OPTION_STRING:
        return set_string(spec, target, item, error);
    case OPTION_OPTIONAL:
        return set_optional(spec, target, item, error);
    case OPTION_PASS:
        return add_passed(spec, target, item, error);
    case OPTION_SEVERAL:
        return add_several(spec, target, item, error);
    case OPTION_PRESET:
        return set_preset(spec, target, item, error);
    case OPTION_KERNEL:
        return add_quoted(spec, target, item, error);
    case OPTION_REFUSE:
        return reject(item, error, "%s", spec->default_text);
    case OPTION_IGNORE:
        break;
    }
    return 0;
}

static int apply(const struct option_spec *table, void *target, const struct item *item,
                 struct error *error)
{
    const struct option_spec *spec = options_find(table, item->name);

    if (spec == NULL) {
        return *item->name == '\0' ? reject(item, error, "there is no name before the =")
                                   : reject_unknown(table, item, error);
    }
    return set_field(spec, target, item, error);
}

int options_set(const struct option_spec *spec, void *target, const char *given, const char *value,
                struct error *error)
{
    struct item item = {.name = strdup(given), .value = NULL};
    bool is_letter = given[0] == '-' && given[1] != '-';
    const char *between = value == NULL ? "" : is_letter ? " " : "=";
    int status;

    item.raw = NULL;
    if (asprintf(&item.raw, "%s%s%s", given, between, value != NULL ? value : "") < 0) {
        item.raw = NULL;
    }
    if (value != NULL) {
        item.value = strdup(value);
    }
    if (item.name == NULL || item.raw == NULL || (value != NULL && item.value == NULL)) {
        status = out_of_memory(error);
    } else {
        status = set_field(spec, target, &item, error);
    }
    free(item.value);
    free(item.raw);
    free(item.name);
    return status;
}

static bool is_escape(const char *text)
{
    return text[0] == '\\' && (text[1] == ',' || text[1] == '\\');
}

/* Bytes of a value in quotes at the beginning of the list, if it may be so, with NAME= before it.
 */
static size_t quoted_length(const struct option_spec *table, const char *list)
{
    size_t name_length = strcspn(list, "=,");
    const struct option_spec *spec;
    const char *end;
    char name[32];

    if (strncmp(list + name_length, "=\"", 2) != 0 || name_length >= sizeof(name)) {
        return 0;
    }
    memcpy(name, list, name_length);
    name[name_length] = '\0';
    spec = options_find(table, name);
    end = strchr(list + name_length + 2, '"');
    return spec != NULL && spec->type == OPTION_KERNEL && end != NULL ? (size_t)(end + 1 - list)
                                                                      : 0;
}

/* Bytes up to the comma that ends the item, or to the end of the list. */
static size_t item_length(const struct option_spec *table, const char *list)
{
    size_t length = quoted_length(table, list);

    while (list[length] != '\0' && list[length] != ',') {
        length += is_escape(list + length) ? 2 : 1;
    }
    return length;
}

static void unescape(char *text)
{
    char *to = text;

    for (const char *from = text; *from != '\0'; from++) {
        if (is_escape(from)) {
            from++;
        }
        *to++ = *from;
    }
    *to = '\0';
}

static int apply_raw(const struct option_spec *table, void *target, const char *raw,
                     size_t raw_length, struct error *error)
{
    struct item item = {.raw = strndup(raw, raw_length), .name = strndup(raw, raw_length)};
    int status;

    if (item.raw == NULL || item.name == NULL) {
        status = out_of_memory(error);
    } else {
        item.value = strchr(item.name, '=');
        if (item.value != NULL) {
            *item.value++ = '\0';
            unescape(item.value);
        }
        status = apply(table, target, &item, error);
    }
    free(item.name);
    free(item.raw);
    return status;
}

int options_parse(const struct option_spec *table, void *target, const char *list,
                  struct error *error)
{
    while (*list != '\0') {
        size_t length = item_length(table, list);
        int status = length > 0 ? apply_raw(table, target, list, length, error) : 0;

        if (status != 0) {
            return status;
        }
        list += length;
        list += *list == ',';
    }
    return 0;
}

void options_release(const struct option_spec *table, void *target)
{
    for (const struct option_spec *spec = table; spec->name != NULL; spec++) {
        if (spec->type == OPTION_STRING || spec->type == OPTION_OPTIONAL ||
            spec->type == OPTION_PASS || spec->type == OPTION_SEVERAL ||
            spec->type == OPTION_KERNEL) {
            char **field = field_of(spec, target);

            /* Several options may pass into one field. */
            free(*field);
            *field = NULL;
        }
    }
}
