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

#define SHOWN_MAX        200 /* bytes of an item or value in a sentence */
#define COMPLAINT_MAX    1024
#define NEAREST_NAME_MAX 64 /* bytes; the work of a comparison is its square */
#define NEAREST_DISTANCE 3

/* One item of the list. */
struct item {
    char *raw;   /* as it came */
    char *name;  /* up to the first =; the start of an allocation */
    char *value; /* behind it, unescaped; NULL without a = */
};

/* --- names ------------------------------------------------------------------ */

/* Goes through the names of an option: its name, then its aliases. Zero to begin. */
struct name {
    const char *text;
    size_t length;
    const char *aliases; /* those still to come */
};

static bool next_name(const struct option_spec *spec, struct name *name)
{
    if (name->text == NULL) {
        name->text = spec->name;
        name->length = strlen(spec->name);
        name->aliases = spec->aliases;
        return true;
    }
    if (name->aliases == NULL) {
        return false;
    }
    name->text = name->aliases + strspn(name->aliases, " ");
    name->length = strcspn(name->text, " ");
    name->aliases = name->text + name->length;
    return name->length > 0;
}

/* x-* stands for all names that begin so. */
static bool is_prefix(const struct option_spec *spec, const struct name *name)
{
    return spec->type == OPTION_IGNORE && name->text[name->length - 1] == '*';
}

static char fold_dash(char letter)
{
    return letter == '_' ? '-' : letter;
}

/* `text` may end early. */
static bool begins_with(const char *text, const char *beginning, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        if (fold_dash(text[i]) != fold_dash(beginning[i])) {
            return false;
        }
    }
    return true;
}

/* A whole name goes before a prefix, wherever they stand in the table. */
static const struct option_spec *find(const struct option_spec *table, const char *given)
{
    const struct option_spec *by_prefix = NULL;

    for (const struct option_spec *spec = table; spec->name != NULL; spec++) {
        struct name name = {0};

        while (next_name(spec, &name)) {
            if (is_prefix(spec, &name)) {
                if (by_prefix == NULL && begins_with(given, name.text, name.length - 1)) {
                    by_prefix = spec;
                }
            } else if (begins_with(given, name.text, name.length) && given[name.length] == '\0') {
                return spec;
            }
        }
    }
    return by_prefix;
}

static size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Whether the letters differ, for somebody who mistyped: not by case, not by - and _. */
static bool differ(char a, char b)
{
    char folded_a = fold_dash(a);
    char folded_b = fold_dash(b);

    folded_a = folded_a >= 'A' && folded_a <= 'Z' ? (char)(folded_a | 0x20) : folded_a;
    folded_b = folded_b >= 'A' && folded_b <= 'Z' ? (char)(folded_b | 0x20) : folded_b;
    return folded_a != folded_b;
}

/*
 * The fewest letters to insert, remove, replace, or swap with their neighbour
 * (each at most once) that make one name of the other: optimal string
 * alignment. Both have at most NEAREST_NAME_MAX bytes.
 */
static size_t distance(const char *a, size_t a_length, const char *b, size_t b_length)
{
    /* rows[i % 3][j]: between the first i letters of a and the first j of b. */
    size_t rows[3][NEAREST_NAME_MAX + 1];

    for (size_t i = 0; i <= a_length; i++) {
        size_t *row = rows[i % 3];
        const size_t *above = rows[(i + 2) % 3];
        const size_t *second_above = rows[(i + 1) % 3];

        row[0] = i;
        for (size_t j = 1; j <= b_length; j++) {
            if (i == 0) {
                row[j] = j;
                continue;
            }
            row[j] = above[j - 1] + differ(a[i - 1], b[j - 1]);
            row[j] = min_size(row[j], min_size(above[j], row[j - 1]) + 1);
            if (i > 1 && j > 1 && !differ(a[i - 1], b[j - 2]) && !differ(a[i - 2], b[j - 1])) {
                row[j] = min_size(row[j], second_above[j - 2] + 1);
            }
        }
    }
    return rows[a_length % 3][b_length];
}

/* How far a name of so many letters may be off: a third, but never all of it. */
static size_t distance_allowed(size_t length)
{
    size_t allowed = min_size(length < 3 ? 1 : length / 3, NEAREST_DISTANCE);

    return length > allowed ? allowed : 0;
}

/* The distance to the nearest name of the option that can be written; SIZE_MAX without one. */
static size_t distance_to(const struct option_spec *spec, const char *given, size_t length)
{
    struct name name = {0};
    size_t least = SIZE_MAX;

    while (next_name(spec, &name)) {
        if (!is_prefix(spec, &name) && name.length <= NEAREST_NAME_MAX) {
            least = min_size(least, distance(given, length, name.text, name.length));
        }
    }
    return least;
}

const char *options_nearest(const struct option_spec *table, const char *name)
{
    size_t length = strnlen(name, NEAREST_NAME_MAX + 1);
    const char *nearest = NULL;
    size_t least;

    if (length > NEAREST_NAME_MAX) {
        return NULL;
    }
    least = distance_allowed(length) + 1;
    for (const struct option_spec *spec = table; spec->name != NULL; spec++) {
        size_t off = distance_to(spec, name, length);

        /* An alias of a prefix has no name that could be shown. */
        if (off < least && strchr(spec->name, '*') == NULL) {
            least = off;
            nearest = spec->name;
        }
    }
    return nearest;
}

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

static int set_string(const struct option_spec *spec, void *target, const struct item *item,
                      struct error *error)
{
    char **field = field_of(spec, target);
    char *copy = strdup(item->value);

    if (copy == NULL) {
        return out_of_memory(error);
    }
    free(*field);
    *field = copy;
    return 0;
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

/* --- the list --------------------------------------------------------------- */

static bool needs_value(enum option_type type)
{
    return type == OPTION_SIZE || type == OPTION_UINT || type == OPTION_OCTAL ||
           type == OPTION_CHOICE || type == OPTION_STRING;
}

static int apply(const struct option_spec *table, void *target, const struct item *item,
                 struct error *error)
{
    const struct option_spec *spec = find(table, item->name);

    if (spec == NULL) {
        return *item->name == '\0' ? reject(item, error, "there is no name before the =")
                                   : reject_unknown(table, item, error);
    }
    if (needs_value(spec->type) && item->value == NULL) {
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
    case OPTION_PASS:
        return add_passed(spec, target, item, error);
    case OPTION_IGNORE:
        break;
    }
    return 0;
}

static bool is_escape(const char *text)
{
    return text[0] == '\\' && (text[1] == ',' || text[1] == '\\');
}

/* Bytes up to the comma that ends the item, or to the end of the list. */
static size_t item_length(const char *list)
{
    size_t length = 0;

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
        size_t length = item_length(list);
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
        if (spec->type == OPTION_STRING || spec->type == OPTION_PASS) {
            char **field = field_of(spec, target);

            /* Several options may pass into one field. */
            free(*field);
            *field = NULL;
        }
    }
}
