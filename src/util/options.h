/* SPDX-License-Identifier: MIT */
/*
 * Options of the form name[=value], in a comma-separated list as after -o.
 *
 * One table says all about an option; parsing, --help, the man page's list and
 * shell completion come from it. A name may be written with dashes or with
 * underscores (QEMU's and libvirt's spelling): the two count as the same
 * letter. A comma, or a backslash, inside a value is written with a backslash
 * before it, or the value, where it is one of OPTION_KERNEL, in double quotes. Empty items are
 * passed over, as mount(8) may leave them.
 */
#ifndef UTIL_OPTIONS_H
#define UTIL_OPTIONS_H

#include "util/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum option_type {
    OPTION_BOOL,     /* struct option_bool; bare, or =on|off|yes|no|true|false|1|0 */
    OPTION_SIZE,     /* struct option_number, in bytes; as size_parse() takes it */
    OPTION_UINT,     /* struct option_number; decimal */
    OPTION_OCTAL,    /* struct option_number; a file mode */
    OPTION_CHOICE,   /* struct option_number; one of `choices`, as the number of its place */
    OPTION_STRING,   /* char *, owned by the target */
    OPTION_OPTIONAL, /* the same; bare it is "" */
    OPTION_PASS,    /* char *: collects name[=value] items, comma-separated, escaped as they came */
    OPTION_SEVERAL, /* char *: each value that was given, with a newline behind it; a newline, or a
                       backslash, in a value has a backslash before it */
    OPTION_PRESET,  /* struct option_number; without a value: `min` is what it stands for */
    OPTION_IGNORE,  /* accepted with or without a value, no field; the name may end in * */
    OPTION_KERNEL, /* as OPTION_PASS, of a value that is quoted in the list where it has commas, and
                      handed on so: a label of SELinux */
    OPTION_REFUSE, /* what others call it: `default_text` says what is meant here */
};

struct option_bool {
    bool set; /* whether the user gave it */
    bool value;
};

struct option_number {
    bool set;
    uint64_t value;
};

struct option_spec {
    const char *name;    /* NULL ends the table */
    const char *aliases; /* other names, separated by spaces, or NULL */
    enum option_type type;
    size_t field;      /* offsetof() the field in the target */
    uint64_t min, max; /* of a number, both allowed */
    /* Words separated by spaces; = stands before another word for one. Of OPTION_OPTIONAL: what a
     * shell offers, and nobody checks. */
    const char *choices;
    bool opposite;            /* of a switch: what is written is the opposite of what is meant */
    const char *value_name;   /* how --help calls the value, or NULL */
    const char *default_text; /* for --help, or NULL */
    const char *meant; /* of a switch: what another word may have been meant to be, or NULL */
    const char *help;  /* one sentence for --help; NULL hides it there */
    char letter;       /* of a program's flag: -l is short for --name; or 0 */
};

/*
 * Parses `list` into `target`, whose fields are zero before the first call; a
 * later item overrides an earlier one. Returns 0, or -EINVAL with a sentence
 * that names the item and, for an unknown name, the nearest known one;
 * -ENOMEM. options_release() frees the strings, after a failure too.
 */
int options_parse(const struct option_spec *table, void *target, const char *list,
                  struct error *error);
void options_release(const struct option_spec *table, void *target);

/*
 * The next value of a list of OPTION_SEVERAL that has one, without its escapes, in `value`, which
 * has room for all of the list; where the list goes on.
 */
const char *options_next_several(const char *list, char *value);

/* The option of that name, also by an alias; NULL where there is none. */
const struct option_spec *options_find(const struct option_spec *table, const char *name);

/* Whether it cannot be written without a value. */
bool option_needs_value(const struct option_spec *spec);

/*
 * Sets one option of `target`; `given` is how the user wrote its name (for
 * sentences), `value` is NULL where there was none. As options_parse().
 */
int options_set(const struct option_spec *spec, void *target, const char *given, const char *value,
                struct error *error);

/* The known name nearest to `name`, or NULL when none is near. */
const char *options_nearest(const struct option_spec *table, const char *name);

/* The table as --help shows it, wrapped at 80 columns: name=VALUE, help, (default). */
void options_help(const struct option_spec *table, FILE *out);

/* The same for a program's flags: -l, --name=VALUE. */
void options_help_flags(const struct option_spec *table, FILE *out);

/* The table as man(7) source: .TP, name, help, default, one entry an option that has help. */
void options_man(const struct option_spec *table, FILE *out);

void options_man_flags(const struct option_spec *table, FILE *out);

/*
 * What can be written of the options with help, for shell completion: a line
 * for each name alone that can stand so, for each name=word, and name=<WHAT>
 * where the value is no word of the table. Of flags both --name and -l.
 */
void options_names(const struct option_spec *table, FILE *out);
void options_names_flags(const struct option_spec *table, FILE *out);

#endif
