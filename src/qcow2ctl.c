/* SPDX-License-Identifier: MIT */
/* qcow2ctl: which command, and its exit status. */
#include "config.h"

#include "ctl/box.h"
#include "ctl/command.h"
#include "ctl/helper.h"
#include "disk/keys.h"
#include "store/nbdkit.h"
#include "util/box.h"
#include "util/error.h"
#include "util/json.h"
#include "util/log.h"
#include "util/printable.h"
#include "util/process.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct command *const commands[] = {
    &create_command,  &info_command,     &check_command,   &map_command,          &compare_command,
    &convert_command, &commit_command,   &rebase_command,  &measure_command,      &amend_command,
    &resize_command,  &snapshot_command, &bitmap_command,  &backup_point_command, &mount_command,
    &umount_command,  &attach_command,   &detach_command,  &list_command,         &hash_command,
    &diff_command,    &timeline_command, &salvage_command, &top_command,
};

#define COMMAND_COUNT (sizeof(commands) / sizeof(commands[0]))

static void say(const char *text)
{
    printable_line(stderr, "qcow2ctl: %s", text);
}

static void log_to_stderr(void *context, enum log_level level, const char *line)
{
    (void)context;
    (void)level;
    say(line);
}

/*
 * A line of standard error for a program: {"error": "...", "errno": 22, "status": 64}, or
 * {"warning": "..."}. For a person where memory ran out, or this build has no JSON.
 */
static void say_json(const char *kind, const char *text, int code, int status)
{
    struct json *object = json_new_object();

    json_put_text(object, kind, text);
    if (code != 0) {
        json_put_number(object, "errno", (uint64_t)code);
        json_put_number(object, "status", (uint64_t)status);
    }
    if (!json_available() || json_print_line(object, stderr) < 0) {
        say(text);
    }
    json_free(object);
}

static void log_as_json(void *context, enum log_level level, const char *line)
{
    (void)context;
    say_json(level == LOG_LEVEL_ERROR     ? "error"
             : level == LOG_LEVEL_WARNING ? "warning"
                                          : "info",
             line, 0, 0);
}

static void print_help(void)
{
    fputs("Usage: qcow2ctl COMMAND [OPTIONS] IMAGE ...\n"
          "\n"
          "Makes, describes, checks and changes qcow2 disk images. Mounting them is what\n"
          "qcow2fs does.\n"
          "\n",
          stdout);
    for (size_t i = 0; i < COMMAND_COUNT; i++) {
        printable_line(stdout, "  %-13s%s", commands[i]->name, commands[i]->summary);
    }
    fputs("\n"
          "  qcow2ctl COMMAND --help     all of a command, with examples\n"
          "  qcow2ctl --version          show the version, and what was built in\n",
          stdout);
}

static void print_version(void)
{
#ifdef HAVE_ZSTD
    const char *zstd = "yes";
#else
    const char *zstd = "no";
#endif
#ifdef HAVE_GCRYPT
    const char *gcrypt = "yes";
#else
    const char *gcrypt = "no";
#endif
#ifdef HAVE_JANSSON
    const char *jansson = "yes";
#else
    const char *jansson = "no";
#endif

    printable_line(stdout, "qcow2ctl %s", PACKAGE_VERSION);
    puts("zlib yes");
    printable_line(stdout, "libzstd %s", zstd);
    printable_line(stdout, "libgcrypt %s", gcrypt);
    printable_line(stdout, "jansson %s", jansson);
    printable_line(stdout, "libseccomp %s", box_is_built_in() ? "yes" : "no");
}

/* The name, with one letter wrong or so, still tells what was meant. */
static const struct command *find_command(const char *name, struct error *error)
{
    struct option_spec names[COMMAND_COUNT + 1] = {{0}};
    const char *nearest;

    for (size_t i = 0; i < COMMAND_COUNT; i++) {
        if (strcmp(commands[i]->name, name) == 0) {
            return commands[i];
        }
        names[i].name = commands[i]->name;
    }
    nearest = options_nearest(names, name);
    if (nearest != NULL) {
        error_set(error, EINVAL, "there is no command '%s'; did you mean %s?", name, nearest);
    } else {
        error_set(error, EINVAL, "there is no command '%s'; qcow2ctl --help lists them", name);
    }
    return NULL;
}

/*
 * Output that nobody got is a failure, of a command that had none so far; and nothing that its
 * status would answer.
 */
static int flush_output(struct ctl *ctl, int status)
{
    int r = printable_flush(stdout);

    if (r == 0) {
        return status;
    }
    if (ctl->error.code == 0) {
        ctl_not_printed(ctl, -r);
    }
    return ctl->command->unprinted_status != 0 ? ctl->command->unprinted_status : CTL_FAILED;
}

/* Of the command, which is in the table of each that takes images. */
static void allow_nbdkit(const struct ctl *ctl)
{
    const struct option_spec *spec = options_find(ctl->command->flags, "nbdkit");

    if (spec != NULL &&
        ((const struct option_bool *)(const void *)((const char *)ctl->options + spec->field))
            ->value) {
        nbdkit_allow(NULL);
    }
}

static int parse_and_run(struct ctl *ctl, int count, char **arguments)
{
    const char *help;
    int status;

    if (command_parse(ctl, count, arguments, &help) != 0) {
        return CTL_USAGE;
    }
    if (help == NULL) {
        allow_nbdkit(ctl);
        status = ctl->command->run(ctl);
    } else if (command_help(ctl->command, help, stdout)) {
        status = CTL_OK;
    } else {
        error_set(&ctl->error, EINVAL, "there is no --help=%s; try --help", help);
        return CTL_USAGE;
    }
    return flush_output(ctl, status);
}

static int run_command(const struct command *command, int count, char **arguments)
{
    struct ctl ctl = {.command = command};
    struct log log;
    int status;

    ctl.json = command_wants_json(command, count, arguments);
    log_init(&log, ctl.json ? log_as_json : log_to_stderr, NULL);
    ctl.log = &log;
    ctl.options = calloc(1, command->options_size);
    ctl.operands = calloc((size_t)count + 1, sizeof(*ctl.operands));
    if (ctl.options == NULL || ctl.operands == NULL) {
        error_set(&ctl.error, ENOMEM, "out of memory while starting");
        status = CTL_FAILED;
    } else {
        status = parse_and_run(&ctl, count, arguments);
        options_release(command->flags, ctl.options);
        if (command->values != NULL) {
            options_release(command->values, ctl.options);
        }
    }
    if (ctl.error.code != 0 && ctl.json) {
        say_json("error", ctl.error.text, ctl.error.code, status);
    } else if (ctl.error.code != 0) {
        log_line(&log, LOG_LEVEL_ERROR, "%s", ctl.error.text);
    }
    ctl_box_leave();
    keys_close(ctl.keys);
    free(ctl.operands);
    free(ctl.options);
    log_release(&log);
    return status;
}

/* What can stand first, for shell completion. */
static void print_names(void)
{
    for (size_t i = 0; i < COMMAND_COUNT; i++) {
        printable_line(stdout, "%s", commands[i]->name);
    }
    puts("--help\n-h\n--version\n-V");
}

int main(int argc, char **argv)
{
    const char *first = argc > 1 ? argv[1] : "";
    const struct command *command;
    struct error error = {0};
    int r;

    if (process_hold_standard_descriptors() != 0) {
        return CTL_FAILED;
    }
    signal(SIGXFSZ, SIG_IGN); /* a limit on the size of files is an error of the write, EFBIG */
    process_raise_descriptor_limit();
    if (helper_is_meant(argv[0])) {
        return helper_run(argc, argv);
    }
    if (strcmp(first, "--help") == 0 || strcmp(first, "-h") == 0 || strcmp(first, "help") == 0) {
        print_help();
    } else if (strcmp(first, "--version") == 0 || strcmp(first, "-V") == 0) {
        print_version();
    } else if (strcmp(first, "--help=names") == 0) {
        print_names();
    } else if (*first == '\0') {
        say("which command, and of which image? Try --help");
        return CTL_USAGE;
    } else {
        command = find_command(first, &error);
        if (command == NULL) {
            say(error.text);
            return CTL_USAGE;
        }
        return run_command(command, argc - 2, argv + 2);
    }
    r = printable_flush(stdout);
    if (r != 0) {
        error_set(&error, -r, "the output could not be written: %s", strerror(-r));
        say(error.text);
        return CTL_FAILED;
    }
    return CTL_OK;
}
