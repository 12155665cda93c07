/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "ctl/command.h"

#include "util/json.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* The arguments, one after the other. */
struct arguments {
    char **next;
    char **end;
    bool only_operands; /* behind -- */
};

static int out_of_memory(struct error *error)
{
    return error_set(error, ENOMEM, "out of memory while reading the command line");
}

/*
 * In QEMU's lists a comma inside a value is written twice, and a backslash is
 * a letter as any other; in ours both take a backslash. NULL: out of memory.
 */
static char *list_from_qemu(const char *list)
{
    char *ours = malloc(2 * strlen(list) + 1);
    char *to = ours;

    if (ours == NULL) {
        return NULL;
    }
    for (; *list != '\0'; list++) {
        if (*list == '\\' || (list[0] == ',' && list[1] == ',')) {
            *to++ = '\\';
            list += *list == ',';
        }
        *to++ = *list;
    }
    *to = '\0';
    return ours;
}

static int take_list(struct ctl *ctl, const char *list)
{
    char *ours;
    int r;

    if (list == NULL) {
        return error_set(&ctl->error, EINVAL, "-o needs a value: name=value[,name=value...]");
    }
    if (strcmp(list, "help") == 0 || strcmp(list, "?") == 0) {
        return error_set(&ctl->error, EINVAL, "qcow2ctl %s --help lists what -o takes",
                         ctl->command->name);
    }
    ours = list_from_qemu(list);
    if (ours == NULL) {
        return out_of_memory(&ctl->error);
    }
    r = options_parse(ctl->command->values, ctl->options, ours, &ctl->error);
    free(ours);
    return r;
}

/* --- flags ------------------------------------------------------------------ */

static const struct option_spec *find_letter(const struct option_spec *table, char letter)
{
    for (const struct option_spec *spec = table; spec->name != NULL; spec++) {
        if (spec->letter == letter) {
            return spec;
        }
    }
    return NULL;
}

/* The value that stands in an argument of its own; NULL where there is none. */
static const char *next_value(struct arguments *arguments)
{
    return arguments->next < arguments->end ? *arguments->next++ : NULL;
}

static int unknown_flag(struct ctl *ctl, const char *name, const char *given)
{
    const char *nearest = options_nearest(ctl->command->flags, name);

    if (nearest != NULL) {
        return error_set(&ctl->error, EINVAL, "unknown option %s; did you mean --%s?", given,
                         nearest);
    }
    return error_set(&ctl->error, EINVAL, "unknown option %s; qcow2ctl %s --help lists them", given,
                     ctl->command->name);
}

/* --name, --name=value, --name value. */
static int take_long(struct ctl *ctl, const char *given, struct arguments *arguments,
                     const char **help)
{
    char *name = strdup(given);
    char *value = name != NULL ? strchr(name, '=') : NULL;
    const struct option_spec *spec;
    int r = 0;

    if (name == NULL) {
        return out_of_memory(&ctl->error);
    }
    if (value != NULL) {
        *value++ = '\0';
    }
    spec = options_find(ctl->command->flags, name + 2);
    if (strcmp(name, "--help") == 0) {
        *help = value != NULL ? given + (value - name) : "";
    } else if (strcmp(name, "--options") == 0 && ctl->command->values != NULL) {
        r = take_list(ctl, value != NULL ? value : next_value(arguments));
    } else if (spec == NULL) {
        r = unknown_flag(ctl, name + 2, name);
    } else {
        const char *taken =
            value == NULL && option_needs_value(spec) ? next_value(arguments) : value;

        r = options_set(spec, ctl->options, name, taken, &ctl->error);
    }
    free(name);
    return r;
}

/* -q, -qU, -fqcow2, -f qcow2. */
static int take_letters(struct ctl *ctl, const char *letters, struct arguments *arguments,
                        const char **help)
{
    int r = 0;

    while (r == 0 && *letters != '\0') {
        const char given[] = {'-', *letters, '\0'};
        const struct option_spec *spec = find_letter(ctl->command->flags, *letters);
        bool is_list = *letters == 'o' && ctl->command->values != NULL;
        const char *value = NULL;

        letters++;
        if (is_list || (spec != NULL && option_needs_value(spec))) {
            value = *letters != '\0' ? letters : next_value(arguments);
            letters = "";
        }
        if (is_list) {
            r = take_list(ctl, value);
        } else if (given[1] == 'h') {
            *help = "";
        } else if (spec == NULL) {
            r = unknown_flag(ctl, given, given);
        } else {
            r = options_set(spec, ctl->options, given, value, &ctl->error);
        }
    }
    return r;
}

/* - alone, and what could be a size (resize IMAGE -1G), are none. */
static bool is_flag(const char *argument)
{
    return argument[0] == '-' && argument[1] != '\0' && strchr("0123456789.", argument[1]) == NULL;
}

/* list and top have none. */
static const char *before_operands(const struct command *command)
{
    return *command->operands_text != '\0' ? " " : "";
}

static int check_operands(struct ctl *ctl)
{
    const struct command *command = ctl->command;
    const char *space = before_operands(command);

    if (ctl->operand_count < command->min_operands) {
        return error_set(&ctl->error, EINVAL,
                         "something is missing; write qcow2ctl %s [OPTIONS]%s%s, or see --help",
                         command->name, space, command->operands_text);
    }
    if (ctl->operand_count > command->max_operands) {
        return error_set(
            &ctl->error, EINVAL, "'%s' is one argument too many; write qcow2ctl %s [OPTIONS]%s%s",
            ctl->operands[command->max_operands], command->name, space, command->operands_text);
    }
    return 0;
}

int command_parse(struct ctl *ctl, int count, char **given, const char **help)
{
    struct arguments arguments = {.next = given, .end = given + count};
    int r = 0;

    *help = NULL;
    while (r == 0 && *help == NULL && arguments.next < arguments.end) {
        char *argument = *arguments.next++;

        if (arguments.only_operands || !is_flag(argument)) {
            ctl->operands[ctl->operand_count++] = argument;
        } else if (strcmp(argument, "--") == 0) {
            arguments.only_operands = true;
        } else if (argument[1] == '-') {
            r = take_long(ctl, argument, &arguments, help);
        } else {
            r = take_letters(ctl, argument + 1, &arguments, help);
        }
    }
    return r != 0 || *help != NULL ? r : check_operands(ctl);
}

bool command_wants_json(const struct command *command, int count, char **arguments)
{
    bool json = false;

    if (options_find(command->flags, "json") == NULL) {
        return false;
    }
    for (int i = 0; i < count && strcmp(arguments[i], "--") != 0; i++) {
        const char *how = NULL;

        if (strcmp(arguments[i], "--json") == 0) {
            json = true;
        } else if (strncmp(arguments[i], "--output=", 9) == 0) {
            how = arguments[i] + 9;
        } else if (strcmp(arguments[i], "--output") == 0 && i + 1 < count) {
            how = arguments[++i];
        }
        json = how != NULL ? strcmp(how, "json") == 0 : json;
    }
    return json;
}

/* --- what is printed ----------------------------------------------------------- */

void ctl_done(struct ctl *ctl, const char *path, const char *what)
{
    ctl->done.path = path;
    ctl->done.what = what;
}

int ctl_not_printed(struct ctl *ctl, int code)
{
    return ctl->done.what != NULL
               ? error_set(&ctl->error, code, "%s: %s, but that could not be printed: %s",
                           ctl->done.path, ctl->done.what, strerror(code))
               : error_set(&ctl->error, code, "the output could not be written: %s",
                           strerror(code));
}

int ctl_print_json(struct ctl *ctl, const struct json *json)
{
    int r = json_print(json, stdout);

    if (r == 0 && fflush(stdout) != 0) {
        r = -errno;
    }
    return r < 0 ? ctl_not_printed(ctl, -r) : 0;
}

bool command_prints_json(const struct common_flags *common)
{
    return common->output.value == CTL_OUTPUT_JSON;
}

/* --- help ------------------------------------------------------------------- */

static void print_help(const struct command *command, FILE *out)
{
    fprintf(out, "Usage: qcow2ctl %s [OPTIONS]%s%s\n\n%s\n", command->name,
            before_operands(command), command->operands_text, command->description);
    options_help_flags(command->flags, out);
    if (command->values != NULL) {
        fputs("  -o, --options=NAME=VALUE,...  what the image is to be, see below\n", out);
    }
    fputs("  -h, --help                    show this\n", out);
    if (command->values != NULL) {
        fputs("\nNAMES for -o; - and _ in a name are the same, and SIZE takes k, M, G, T:\n", out);
        options_help(command->values, out);
    }
    fprintf(out, "\nExamples:\n%s", command->examples);
}

bool command_help(const struct command *command, const char *topic, FILE *out)
{
    if (*topic == '\0') {
        print_help(command, out);
    } else if (strcmp(topic, "man") == 0) {
        options_man_flags(command->flags, out);
        if (command->values != NULL) {
            options_man(command->values, out);
        }
    } else if (strcmp(topic, "names") == 0) {
        options_names_flags(command->flags, out);
        if (command->values != NULL) {
            fputs("--options=<LIST>\n-o=<LIST>\n", out);
        }
        fputs("--help\n-h\n", out);
    } else if (strcmp(topic, "values") == 0 && command->values != NULL) {
        options_names(command->values, out);
    } else {
        return false;
    }
    return true;
}
