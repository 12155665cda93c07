/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "util/options.h"

#include <stdlib.h>
#include <string.h>

#define PAGE_COLUMNS 80
#define NAME_COLUMN  2
#define TEXT_COLUMN  32

static const char *value_name(const struct option_spec *spec)
{
    return spec->value_name != NULL ? spec->value_name : "VALUE";
}

/* What stands around a value's name: a switch may do without one. */
struct value_marks {
    const char *before;
    const char *after;
};

/* False for an option that is written bare. */
static bool takes_value(const struct option_spec *spec, struct value_marks *marks)
{
    *marks = (struct value_marks){"=", ""};
    switch (spec->type) {
    case OPTION_SIZE:
    case OPTION_UINT:
    case OPTION_OCTAL:
    case OPTION_CHOICE:
    case OPTION_STRING:
    case OPTION_SEVERAL:
    case OPTION_KERNEL:
        return true;
    case OPTION_BOOL:
    case OPTION_OPTIONAL:
        *marks = (struct value_marks){"[=", "]"};
        break;
    case OPTION_PASS:
    case OPTION_PRESET:
    case OPTION_IGNORE:
    case OPTION_REFUSE:
        break;
    }
    return spec->value_name != NULL;
}

/* --- help ------------------------------------------------------------------- */

/* Writes words from TEXT_COLUMN to PAGE_COLUMNS, a new line where the next one does not fit. */
struct wrap {
    FILE *out;
    size_t column; /* where the next byte goes */
};

static void wrap_to_text_column(struct wrap *wrap)
{
    if (wrap->column > TEXT_COLUMN) {
        fputc('\n', wrap->out);
        wrap->column = 0;
    }
    fprintf(wrap->out, "%*s", (int)(TEXT_COLUMN - wrap->column), "");
    wrap->column = TEXT_COLUMN;
}

/* `end` is glued to the last word. */
static void wrap_words(struct wrap *wrap, const char *text, const char *end)
{
    for (text += strspn(text, " "); *text != '\0'; text += strspn(text, " ")) {
        size_t length = strcspn(text, " ");
        bool is_last = text[length + strspn(text + length, " ")] == '\0';
        size_t width = length + (is_last ? strlen(end) : 0);

        if (wrap->column > TEXT_COLUMN) {
            if (wrap->column + 1 + width > PAGE_COLUMNS) {
                wrap_to_text_column(wrap);
            } else {
                fputc(' ', wrap->out);
                wrap->column++;
            }
        }
        fprintf(wrap->out, "%.*s%s", (int)length, text, is_last ? end : "");
        wrap->column += width;
        text += length;
    }
}

/* What stands before a name: nothing in a list for -o, dashes for a program's flag. */
static void name_prefix(const struct option_spec *spec, bool is_flag, char prefix[8])
{
    const char letter[] = {'-', spec->letter, ',', ' ', '\0'};

    strcpy(prefix, is_flag && spec->letter != 0 ? letter : "");
    strcat(prefix, is_flag ? "--" : "");
}

static void help_entry(const struct option_spec *spec, bool is_flag, FILE *out)
{
    struct wrap wrap = {.out = out};
    struct value_marks marks;
    char prefix[8];

    name_prefix(spec, is_flag, prefix);
    wrap.column = NAME_COLUMN + strlen(prefix) + strlen(spec->name);
    fprintf(out, "%*s%s%s", NAME_COLUMN, "", prefix, spec->name);
    if (takes_value(spec, &marks)) {
        fprintf(out, "%s%s%s", marks.before, value_name(spec), marks.after);
        wrap.column += strlen(marks.before) + strlen(value_name(spec)) + strlen(marks.after);
    }
    if (wrap.column + 2 > TEXT_COLUMN) {
        fputc('\n', out);
        wrap.column = 0;
    }
    wrap_to_text_column(&wrap);
    wrap_words(&wrap, spec->help, "");
    if (spec->default_text != NULL) {
        wrap_words(&wrap, "(default:", "");
        wrap_words(&wrap, spec->default_text, ")");
    }
    fputc('\n', out);
}

static void help_table(const struct option_spec *table, bool is_flag, FILE *out)
{
    for (const struct option_spec *spec = table; spec->name != NULL; spec++) {
        if (spec->help != NULL) {
            help_entry(spec, is_flag, out);
        }
    }
}

void options_help(const struct option_spec *table, FILE *out)
{
    help_table(table, false, out);
}

void options_help_flags(const struct option_spec *table, FILE *out)
{
    help_table(table, true, out);
}

/* --- man page --------------------------------------------------------------- */

/* Plain text as roff: what it would set as typography, or take for an escape, as itself. */
static void put_roff(const char *text, FILE *out)
{
    for (; *text != '\0'; text++) {
        switch (*text) {
        case '-':
            fputs("\\-", out);
            break;
        case '\\':
            fputs("\\e", out);
            break;
        case '\'':
            fputs("\\(aq", out);
            break;
        case '`':
            fputs("\\(ga", out);
            break;
        case '^':
            fputs("\\(ha", out);
            break;
        case '~':
            fputs("\\(ti", out);
            break;
        default:
            fputc(*text, out);
            break;
        }
    }
}

static void man_entry(const struct option_spec *spec, bool is_flag, FILE *out)
{
    struct value_marks marks;
    char prefix[8];

    name_prefix(spec, is_flag, prefix);
    fputs(".TP\n\\fB", out);
    put_roff(prefix, out);
    put_roff(spec->name, out);
    fputs("\\fR", out);
    if (takes_value(spec, &marks)) {
        fprintf(out, "%s\\fI", marks.before);
        put_roff(value_name(spec), out);
        fprintf(out, "\\fR%s", marks.after);
    }
    /* At the start of a line a full stop would begin a request. */
    fputs(*spec->help == '.' ? "\n\\&" : "\n", out);
    put_roff(spec->help, out);
    if (spec->default_text != NULL) {
        fputs(" (default: ", out);
        put_roff(spec->default_text, out);
        fputc(')', out);
    }
    fputc('\n', out);
}

static void man_table(const struct option_spec *table, bool is_flag, FILE *out)
{
    for (const struct option_spec *spec = table; spec->name != NULL; spec++) {
        if (spec->help != NULL) {
            man_entry(spec, is_flag, out);
        }
    }
}

void options_man(const struct option_spec *table, FILE *out)
{
    man_table(table, false, out);
}

void options_man_flags(const struct option_spec *table, FILE *out)
{
    man_table(table, true, out);
}

/* --- names ------------------------------------------------------------------ */

/* name=word for each of the choices; an alias of a word counts as one. */
static void choice_lines(const struct option_spec *spec, const char *name, FILE *out)
{
    const char *word = spec->choices + strspn(spec->choices, " =");

    while (*word != '\0') {
        size_t length = strcspn(word, " =");

        fprintf(out, "%s=%.*s\n", name, (int)length, word);
        word += length + strspn(word + length, " =");
    }
}

/* All that can stand behind `name`, which has its dashes. */
static void name_lines(const struct option_spec *spec, const char *name, FILE *out)
{
    struct value_marks marks;

    if (spec->type == OPTION_BOOL) {
        fprintf(out, "%s\n%s=on\n%s=off\n", name, name, name);
    } else if (spec->choices != NULL) {
        choice_lines(spec, name, out);
    } else if (takes_value(spec, &marks)) {
        fprintf(out, "%s=<%s>\n", name, value_name(spec));
    } else {
        fprintf(out, "%s\n", name);
    }
    if (spec->type == OPTION_OPTIONAL) {
        fprintf(out, "%s\n", name);
    }
}

/* A prefix is no name that a shell could complete to. */
static bool can_be_completed(const struct option_spec *spec)
{
    return spec->help != NULL && strchr(spec->name, '*') == NULL;
}

void options_names(const struct option_spec *table, FILE *out)
{
    for (const struct option_spec *spec = table; spec->name != NULL; spec++) {
        if (can_be_completed(spec)) {
            name_lines(spec, spec->name, out);
        }
    }
}

void options_names_flags(const struct option_spec *table, FILE *out)
{
    for (const struct option_spec *spec = table; spec->name != NULL; spec++) {
        const char letter[] = {'-', spec->letter, '\0'};
        char *name;

        if (can_be_completed(spec) && asprintf(&name, "--%s", spec->name) >= 0) {
            name_lines(spec, name, out);
            free(name);
            if (spec->letter != 0) {
                name_lines(spec, letter, out);
            }
        }
    }
}
