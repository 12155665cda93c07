/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "util/options.h"

#include <string.h>

#define NEAREST_NAME_MAX 64 /* bytes; the work of a comparison is its square */
#define NEAREST_DISTANCE 3

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
const struct option_spec *options_find(const struct option_spec *table, const char *given)
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

        /* An alias of a prefix has no name that could be shown; what is refused helps nobody. */
        if (off < least && strchr(spec->name, '*') == NULL && spec->type != OPTION_REFUSE) {
            least = off;
            nearest = spec->name;
        }
    }
    return nearest;
}
