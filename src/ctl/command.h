/* SPDX-License-Identifier: MIT */
/*
 * What qcow2ctl knows of a command. One file in src/ctl holds each; the tables
 * in it are the only place that knows its options: parsing, --help, the man
 * page's lists and shell completion come from them.
 */
#ifndef CTL_COMMAND_H
#define CTL_COMMAND_H

#include "disk/image.h"
#include "meta/luks.h"
#include "util/error.h"
#include "util/log.h"
#include "util/options.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

struct json;
struct keys;

/*
 * A command may have others, which mean what its help says. A command line that is wrong, whatever
 * the files are, has one status in all commands, EX_USAGE of sysexits.h: 1 is damage or a failure,
 * and 2 and 3 are what qemu-img check, and so ours, says of an image.
 */
enum ctl_status {
    CTL_OK = 0,
    CTL_FAILED = 1,
    CTL_USAGE = 64,
};

/* What a command runs with. */
struct ctl {
    const struct command *command;
    void *options;   /* the command's own structure, filled from its tables */
    char **operands; /* what is neither an option nor its value */
    size_t operand_count;
    struct log *log;
    struct error error; /* printed, where it has a sentence, after the command has returned */
    struct keys *keys;  /* NULL until a command asks for them (ctl_keys()) */
    bool json;          /* --json: errors and log lines are JSON, too, one object a line */
    struct {
        const char *path, *what; /* NULL: nothing */
    } done;                      /* what was done, and is still to be printed: ctl_done() */
};

struct command {
    const char *name;
    const char *operands_text; /* "IMAGE [SIZE]" */
    size_t min_operands, max_operands;
    const char *summary;              /* a line of the list of commands, no full stop */
    const char *description;          /* paragraphs for --help, each line at most 80 columns */
    const char *examples;             /* commands, one a line */
    size_t options_size;              /* of the structure that both tables fill */
    const struct option_spec *flags;  /* --name, and -l for those with a letter */
    const struct option_spec *values; /* what -o takes: name=value,...; NULL without -o */
    /*
     * The exit status. One that fails sets ctl->error, of which the first
     * letters are a file name or a value, and which may be the last of many lines.
     */
    int (*run)(struct ctl *ctl);
    /* The status where what was found could not be printed; 0: CTL_FAILED. Not one of an answer. */
    int unprinted_status;
};

/*
 * The file has been changed, made, ...: "is made". Whatever becomes of what is printed of that, the
 * sentence says so.
 */
void ctl_done(struct ctl *ctl, const char *path, const char *what);

/* The sentence that standard output could not be written, for that errno, which it returns
 * negative. */
int ctl_not_printed(struct ctl *ctl, int code);

/* Prints it at once, and says so where that cannot be done. 0 or a negative errno. */
int ctl_print_json(struct ctl *ctl, const struct json *json);

extern const struct command amend_command;
extern const struct command attach_command;
extern const struct command backup_point_command;
extern const struct command bitmap_command;
extern const struct command check_command;
extern const struct command commit_command;
extern const struct command compare_command;
extern const struct command convert_command;
extern const struct command create_command;
extern const struct command detach_command;
extern const struct command diff_command;
extern const struct command hash_command;
extern const struct command info_command;
extern const struct command list_command;
extern const struct command map_command;
extern const struct command measure_command;
extern const struct command mount_command;
extern const struct command rebase_command;
extern const struct command resize_command;
extern const struct command salvage_command;
extern const struct command snapshot_command;
extern const struct command timeline_command;
extern const struct command top_command;
extern const struct command umount_command;

/* Flags that several commands have, under the names of qemu-img. Zero: not given. */
enum ctl_output {
    CTL_OUTPUT_HUMAN,
    CTL_OUTPUT_JSON,
};

enum ctl_locking {
    CTL_LOCKING_ON,
    CTL_LOCKING_OFF,
};

enum ctl_sandbox {
    CTL_SANDBOX_ON,
    CTL_SANDBOX_OFF,
    CTL_SANDBOX_STRICT,
};

struct common_flags {
    struct option_number format; /* qcow2 is the only choice */
    struct option_number output; /* enum ctl_output */
    struct option_bool quiet;
    struct option_bool progress;
    struct option_bool force_share;
    struct option_bool trust_names;
    struct option_bool nbdkit;
    struct option_number follow;  /* enum image_follow */
    struct option_number locking; /* enum ctl_locking */
    struct option_number sandbox; /* enum ctl_sandbox */
    char *key_files;              /* for keys_open(), or NULL */
    struct option_number key_iterations_max;
};

/* Whether JSON is to be printed. */
bool command_prints_json(const struct common_flags *common);

/* Entries of a flag table; `target` has a member `struct common_flags common`. */
#define FLAG_FORMAT(target)                                                                \
    {                                                                                      \
        .name = "format", .letter = 'f', .type = OPTION_CHOICE,                            \
        .field = offsetof(target, common.format), .choices = "qcow2", .value_name = "FMT", \
        .help = "the image's format: qcow2, the only one"                                  \
    }
#define FLAG_JSON(target)                                                                \
    {                                                                                    \
        .name = "json", .type = OPTION_PRESET, .field = offsetof(target, common.output), \
        .min = CTL_OUTPUT_JSON, .help = "print JSON, with the keys of qemu-img"          \
    }
#define FLAG_OUTPUT(target)                                                                        \
    {                                                                                              \
        .name = "output", .type = OPTION_CHOICE, .field = offsetof(target, common.output),         \
        .choices = "human json", .value_name = "HOW", .help = "human, or json: the same as --json" \
    }
#define FLAG_QUIET(target)                                                          \
    {                                                                               \
        .name = "quiet", .letter = 'q', .type = OPTION_BOOL,                        \
        .field = offsetof(target, common.quiet), .help = "print nothing but errors" \
    }
#define FLAG_PROGRESS(target)                                                           \
    {                                                                                   \
        .name = "progress", .letter = 'p', .type = OPTION_BOOL,                         \
        .field = offsetof(target, common.progress),                                     \
        .help = "accepted as of qemu-img; on a terminal, progress is shown in any case" \
    }
#define FLAG_FORCE_SHARE(target)                                                                \
    {                                                                                           \
        .name = "force-share", .letter = 'U', .type = OPTION_BOOL,                              \
        .field = offsetof(target, common.force_share),                                          \
        .help =                                                                                 \
            "read the image also while another program writes to it; what is seen may then be " \
            "inconsistent"                                                                      \
    }

#define FLAG_TRUST_NAMES(target)                                                                   \
    {                                                                                              \
        .name = "trust-names", .type = OPTION_BOOL, .field = offsetof(target, common.trust_names), \
        .help = "open the files that an image names although its owner, another user, may not"     \
    }
/* qcow2ctl.c acts on it. */
#define FLAG_NBDKIT(target)                                                                     \
    {                                                                                           \
        .name = "nbdkit", .type = OPTION_BOOL, .field = offsetof(target, common.nbdkit),        \
        .help = "a name nbdkit:WORDS that you give is meant to be an address: run nbdkit with " \
                "these words"                                                                   \
    }
/* And FLAG_NBDKIT, for all who open what is named otherwise than in the file system. */
#define FLAG_FOLLOW(target)                                                                    \
    {.name = "follow",                                                                         \
     .type = OPTION_CHOICE,                                                                    \
     .field = offsetof(target, common.follow),                                                 \
     .choices = IMAGE_FOLLOW_CHOICES,                                                          \
     .value_name = IMAGE_FOLLOW_CHOICES_HELP,                                                  \
     .default_text = "files",                                                                  \
     .help = "which names that an image brings along are opened: files of this machine; all, " \
             "also servers; beside, only regular files in that image's directory or below; "   \
             "none"},                                                                          \
        FLAG_NBDKIT(target)
#define FLAG_LOCKING(target)                                                                  \
    {                                                                                         \
        .name = "locking", .type = OPTION_CHOICE, .field = offsetof(target, common.locking),  \
        .choices = "on off", .value_name = "on|off", .default_text = "on",                    \
        .help = "off: take no locks, on a file system that has none; then nothing keeps two " \
                "programs from writing to one image"                                          \
    }

#define FLAG_SANDBOX(target)                                                                   \
    {                                                                                          \
        .name = "sandbox", .type = OPTION_CHOICE, .field = offsetof(target, common.sandbox),   \
        .choices = "on off strict", .value_name = "on|off|strict", .default_text = "on",       \
        .help = "read images in a process that has given up opening files, starting programs " \
                "and the network; strict: fail where the kernel or the build cannot do that"   \
    }

#define FLAG_KEY_FILE(target)                                                                    \
    {                                                                                            \
        .name = "key-file", .type = OPTION_SEVERAL, .field = offsetof(target, common.key_files), \
        .value_name = "FILE",                                                                    \
        .help = "a file with the key of an encrypted image, all of its bytes (- is standard "    \
                "input); to be given again for the key of another image of the chain"            \
    }
#define FLAG_KEY_ITERATIONS(target)                                                      \
    {                                                                                    \
        .name = "key-iterations-max", .type = OPTION_UINT,                               \
        .field = offsetof(target, common.key_iterations_max), .max = UINT32_MAX,         \
        .value_name = "N", .default_text = LUKS_ITERATIONS_MAX_TEXT,                     \
        .help = "the most iterations that an encrypted image may ask for; 0: any number" \
    }

/*
 * Parses what stands behind the command's name into ctl->options and
 * ctl->operands. 0, or -EINVAL with a sentence. *help is set instead where that
 * was asked for: its value, or "" for a bare --help.
 */
int command_parse(struct ctl *ctl, int count, char **arguments, const char **help);

/*
 * Whether --json or --output=json stands in the arguments, which may be wrong otherwise: what is
 * said of that is JSON then.
 */
bool command_wants_json(const struct command *command, int count, char **arguments);

/* What --help, --help=man and --help=names print; false when there is no such topic. */
bool command_help(const struct command *command, const char *topic, FILE *out);

#endif
