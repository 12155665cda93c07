/* SPDX-License-Identifier: MIT */
/* qcow2fs: options in, exit code out. */
#include "config.h"

#include "disk/traces.h"
#include "fuse/announce.h"
#include "fuse/help.h"
#include "fuse/inherited.h"
#include "fuse/listing.h"
#include "fuse/options.h"
#include "fuse/session.h"
#include "fuse/source.h"
#include "fuse/steward.h"
#include "store/nbdkit.h"
#include "util/error.h"
#include "util/journal.h"
#include "util/log.h"
#include "util/memory.h"
#include "util/printable.h"
#include "util/process.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>
#include <unistd.h>

enum exit_status {
    EXIT_OK = 0,
    EXIT_FAILED = 1,
    EXIT_USAGE = 2,
};

enum action {
    ACTION_MOUNT,
    ACTION_HELP,
    ACTION_VERSION,
    ACTION_MAN,
    ACTION_NAMES,
};

struct command_line {
    enum action action;
    const char *image;
    const char *mount_point;
    char *served; /* the image, where nbdkit serves it */
    bool foreground;
    bool debug;
    bool single_threaded;
    int ready_descriptor; /* or -1 */
    struct inherited inherited;
    struct mount_options options;
};

/* --- what it says ----------------------------------------------------------- */

static void say(const char *text)
{
    printable_line(stderr, "qcow2fs: %s", text);
}

/* Behind the sentence. */
static void say_code(const struct command_line *line, const struct error *error)
{
    if (line->options.errno_told.value) {
        printable_line(stderr, ERROR_CODE_LINE, error->code);
    }
}

static void log_to_stderr(void *context, enum log_level level, const char *line)
{
    (void)context;
    (void)level;
    say(line);
}

/* What the steward does not get may still be read, where there is a terminal or the like. */
static void log_to_system(void *context, enum log_level level, const char *line)
{
    int priority = level == LOG_LEVEL_ERROR     ? LOG_ERR
                   : level == LOG_LEVEL_WARNING ? LOG_WARNING
                                                : LOG_INFO;

    if (steward_log(context, priority, line) != 0) {
        say(line);
    }
}

#define OPTION_READY_FD 256 /* getopt_long()'s number: no letter */

/* --- the command line ------------------------------------------------------- */

static int parse_help_topic(const char *topic, struct command_line *line, struct error *error)
{
    if (topic == NULL) {
        line->action = ACTION_HELP;
    } else if (strcmp(topic, "man") == 0) {
        line->action = ACTION_MAN;
    } else if (strcmp(topic, "names") == 0) {
        line->action = ACTION_NAMES;
    } else {
        return error_set(error, EINVAL, "there is no --help=%s; try --help", topic);
    }
    return 0;
}

static int take_positional(const char *argument, struct command_line *line, struct error *error)
{
    if (line->image == NULL) {
        line->image = argument;
    } else if (line->mount_point == NULL) {
        line->mount_point = argument;
    } else {
        return error_set(error, EINVAL,
                         "'%s' is one argument too many; give one image and one mount point",
                         argument);
    }
    return 0;
}

/* It was opened by who started this program, or it is a mistake. */
static int parse_descriptor(const char *text, struct command_line *line, struct error *error)
{
    char *end;
    long number;

    errno = 0;
    number = strtol(text, &end, 10);
    if (end == text || *end != '\0' || errno != 0 || number < 0 || number > INT_MAX ||
        fcntl((int)number, F_GETFD) < 0) {
        return error_set(
            error, EINVAL,
            "--ready-fd=%s: that is no descriptor that is open; give the number of one "
            "to be told on, as in 3>ready --ready-fd=3",
            text);
    }
    line->ready_descriptor = (int)number;
    return 0;
}

/* Flags of other programs: what is written here. */
static int refuse_flag(const char *flag, struct error *error)
{
    static const struct {
        const char *flags; /* separated by spaces */
        const char *hint;
    } hints[] = {
        {"-r --read-only --readonly", "to only read, write -o ro"},
        {"-w --rw --read-write", "it mounts for writing anyway, where it can"},
        {"-u --unmount --umount",
         "to unmount, use qcow2ctl umount MOUNTPOINT, umount or fusermount3 -u"},
        {"-p --partition --offset",
         "for a partition, use qcow2ctl mount -p NUMBER IMAGE DIRECTORY"},
        {"--snapshot",
         "to write to no image, write -o overlay; to mount one of its snapshots, -o "
         "at-snapshot=NAME; on a directory each is a file in it, snapshots/NAME/disk.raw"},
    };
    size_t length = strcspn(flag, "=");

    for (size_t i = 0; i < sizeof(hints) / sizeof(hints[0]); i++) {
        const char *at = hints[i].flags;

        while (*at != '\0') {
            size_t each = strcspn(at, " ");

            if (each == length && strncmp(at, flag, length) == 0) {
                return error_set(error, EINVAL, "unknown option %s; %s", flag, hints[i].hint);
            }
            at += each + strspn(at + each, " ");
        }
    }
    return error_set(error, EINVAL, "unknown option %s; try --help", flag);
}

/* What getopt_long() returned. */
static int take_option(int option, char **arguments, struct command_line *line, struct error *error)
{
    switch (option) {
    case 1: /* not an option: mount(8) puts its -o behind these */
        return take_positional(optarg, line, error);
    case 'f':
        line->foreground = true;
        return 0;
    case 'd':
        line->foreground = true;
        line->debug = true;
        return 0;
    case 's':
        line->single_threaded = true;
        return 0;
    case 'o':
        return mount_take_options(optarg,
                                  optarg != arguments[optind - 1] ? arguments[optind - 1] : NULL,
                                  &line->options, error);
    case OPTION_READY_FD:
        return parse_descriptor(optarg, line, error);
    case 'h':
        return parse_help_topic(optarg, line, error);
    case 'V':
        line->action = ACTION_VERSION;
        return 0;
    case ':':
        if (optopt == OPTION_READY_FD) {
            return error_set(error, EINVAL, "--ready-fd needs the number of a descriptor");
        }
        return error_set(error, EINVAL, "-%c needs a value; try --help", optopt);
    default:
        break;
    }
    if (strncmp(arguments[optind - 1], "--", 2) == 0) {
        return refuse_flag(arguments[optind - 1], error);
    }
    return refuse_flag((char[]){'-', (char)optopt, '\0'}, error);
}

/* What nbdkit serves is the image; with one operand that is where to. */
static int name_served(struct command_line *line, struct error *error)
{
    if (line->options.nbdkit == NULL) {
        return 0;
    }
    if (line->options.nbdkit[0] == '\0') {
        nbdkit_allow(NULL);
        return 0;
    }
    if (line->mount_point == NULL) {
        line->mount_point = line->image;
        line->image = NULL;
    }
    line->served = nbdkit_make_address(line->options.nbdkit, line->image);
    line->image = line->served;
    if (line->served == NULL) {
        return error_set(error, ENOMEM, "out of memory for the mount");
    }
    nbdkit_allow(line->served);
    return 0;
}

static int check_command_line(const struct command_line *line, struct error *error)
{
    if (line->action == ACTION_MOUNT && line->image == NULL) {
        return error_set(error, EINVAL, "which image, and where to? Try --help");
    }
    if (line->action == ACTION_MOUNT && line->mount_point == NULL) {
        return error_set(error, EINVAL, "where to? Give a mount point behind the image %s",
                         line->image);
    }
    if (line->options.allow_other.value && line->options.allow_root.value) {
        return error_set(error, EINVAL,
                         "allow_other and allow_root exclude each other; leave one out");
    }
    return 0;
}

/* 0 or a negative errno with a sentence. */
static int parse_command_line(int count, char **arguments, struct command_line *line,
                              struct error *error)
{
    static const struct option long_options[] = {
        {"help", optional_argument, NULL, 'h'},
        {"version", no_argument, NULL, 'V'},
        {"ready-fd", required_argument, NULL, OPTION_READY_FD},
        {NULL, 0, NULL, 0},
    };
    int option, r = 0;

    opterr = 0;
    /* "-": hand over the other arguments too, in their order; ":": tell what is missing. */
    while (r == 0 &&
           (option = getopt_long(count, arguments, "-:fdso:hV", long_options, NULL)) != -1) {
        r = take_option(option, arguments, line, error);
    }
    for (; r == 0 && optind < count; optind++) { /* behind -- */
        r = take_positional(arguments[optind], line, error);
    }
    if (r == 0) {
        r = name_served(line, error);
    }
    return r != 0 ? r : check_command_line(line, error);
}

/* --- mounting --------------------------------------------------------------- */

static void say_what_to_know(const struct command_line *line, const struct source *source,
                             struct log *log)
{
    struct traces traces = {.count = 0};

    if (source->why_read_only.code != 0) {
        log_line(log, LOG_LEVEL_WARNING, "mounting read-only: %s", source->why_read_only.text);
    }
    if (mount_is_read_only(&line->options) ||
        source->image->is_overlay) { /* who wished to write does not mind */
        traces_add_image(&traces, image_named(source->image));
        traces_tell(&traces, log, "mount as one of them");
    }
    if (line->options.locking.value == MOUNT_LOCKING_OFF) {
        log_line(log, LOG_LEVEL_WARNING,
                 "locking=off: nothing keeps another program from writing to the image meanwhile, "
                 "which destroys it");
    }
    if (source->writer != NULL && mount_cache_mode(&line->options) == STORE_CACHE_UNSAFE &&
        !image_is_thrown_away(source->image)) {
        log_line(log, LOG_LEVEL_WARNING,
                 "cache=unsafe: nothing is made stable; after a crash of the host the image may "
                 "be beyond repair");
    }
}

/* The absolute path, or what was given where that cannot be had; to be freed. */
static char *absolute(const char *path)
{
    char *resolved = strncmp(path, "/dev/fd/", 8) == 0 ? NULL : realpath(path, NULL);

    return resolved != NULL ? resolved : strdup(path);
}

/* NULL where that cannot be: the mount needs it not, and qcow2ctl does. */
static struct registry_entry *enter_registry(const struct source *source, const char *image,
                                             const char *mount_point, dev_t device, struct log *log,
                                             struct steward *steward)
{
    struct registry_entry *entry =
        listing_enter(image, &image_named(source->image)->is, mount_point, device,
                      source->writer != NULL, source->image->is_overlay);

    if (entry != NULL) {
        (void)steward_tell_registry(steward, entry);
    } else {
        log_line(log, LOG_LEVEL_WARNING,
                 "qcow2ctl list will not show this mount, nor qcow2ctl umount find it: a file for "
                 "it can be made neither in %s nor in /tmp: %s",
                 geteuid() == 0 ? "/run" : "XDG_RUNTIME_DIR", strerror(errno));
    }
    return entry;
}

/* Mounts, and returns when it is unmounted; or, in the process that was started, not at all. */
static int mount_and_serve(const struct command_line *line, struct source *source, struct log *log,
                           struct steward *steward, struct announce *announce,
                           struct registry_entry **entry, struct error *error)
{
    const struct session_settings settings = {
        .source = source,
        .log = log,
        .steward = steward,
        .background_sink = log_to_system,
        .mount_point = line->mount_point,
        .options = &line->options,
        .announce = announce,
        .debug = line->debug,
        .single_threaded = line->single_threaded,
    };
    enum session_process process = SESSION_SERVER;
    /* Later there is another working directory, and the mount point is our own to answer for. */
    char *image = absolute(line->image), *mount_point = absolute(line->mount_point);
    struct session *session;
    int r = image == NULL || mount_point == NULL
                ? error_set(error, ENOMEM, "out of memory for the mount")
                : session_open(&settings, &session, error);

    if (r != 0) {
        source_unmake(source);
        free(image);
        free(mount_point);
        return r;
    }
    (void)steward_tell_image(steward, image);
    if (line->foreground && journal_has_stderr()) {
        log_redirect(log, log_to_system, steward);
    }
    say_what_to_know(line, source, log);
    if (!line->foreground) {
        r = session_background(session, &process, error);
    }
    if (process != SESSION_SERVER) {
        /* All that there is to close, and to write, belongs to the server. */
        if (r != 0) {
            say(error->text);
            say_code(line, error);
        }
        _exit(r == 0 && process == SESSION_DONE ? EXIT_OK : EXIT_FAILED);
    }
    if (!line->foreground) {
        inherited_close(&line->inherited);
    }
    if (r == 0) {
        r = announce_pid(announce, steward, error);
    }
    if (r == 0) {
        *entry = enter_registry(source, image, mount_point, session_device(session), log, steward);
        session_set_control(session, registry_listen(*entry));
        r = session_serve(session, error);
        announce_stopping(announce);
    }
    session_close(session);
    free(image);
    free(mount_point);
    return r;
}

static void leave_registry(struct registry_entry *entry, struct steward *steward, int status,
                           const char *message)
{
    if (entry != NULL) {
        registry_end(entry, status, message);
        (void)steward_remove_registry(steward);
        registry_leave(entry);
    }
}

static enum exit_status open_and_mount(const struct command_line *line, struct log *log,
                                       struct steward *steward, struct error *error)
{
    struct registry_entry *entry = NULL;
    struct announce announce;
    struct source source;
    int r = source_open(line->image, &line->options, log, &source, error);

    if (r != 0) {
        return source.options_do_not_fit ? EXIT_USAGE : EXIT_FAILED;
    }
    r = announce_begin(&announce, line->options.pid_file, line->ready_descriptor, line->foreground);
    r = r == 0 ? mount_and_serve(line, &source, log, steward, &announce, &entry, error)
               : error_set(error, -r, "pid-file=%s: %s", line->options.pid_file, strerror(-r));
    if (source_close(&source, log, error) != 0) {
        r = -EIO;
    }
    announce_end(&announce);
    leave_registry(entry, steward, r == 0 ? EXIT_OK : EXIT_FAILED, error->text);
    return r == 0 ? EXIT_OK : EXIT_FAILED;
}

static enum exit_status mount_command(const struct command_line *line)
{
    enum exit_status status = EXIT_FAILED;
    struct steward *steward = NULL;
    struct error error = {0};
    struct log log;
    int r;

    memory_map_code();
    r = steward_start(line->options.sandbox.value != MOUNT_SANDBOX_OFF, &steward);
    memory_map_heap();

    log_init(&log, log_to_stderr, NULL);
    process_raise_descriptor_limit();
    signal(SIGXFSZ, SIG_IGN); /* a limit on the size of files is an error of the write, EFBIG */
    if (r != 0) {
        error_set(&error, -r, "no process for what is done later: %s", strerror(-r));
    } else {
        status = open_and_mount(line, &log, steward, &error);
    }
    nbdkit_stop();
    if (error.code != 0) {
        log_line(&log, LOG_LEVEL_ERROR, "%s", error.text);
        say_code(line, &error);
    }
    steward_stop(steward);
    log_release(&log);
    return status;
}

static enum exit_status run(const struct command_line *line)
{
    int r;

    switch (line->action) {
    case ACTION_MOUNT:
        return mount_command(line);
    case ACTION_HELP:
        help_print();
        break;
    case ACTION_VERSION:
        help_print_version();
        break;
    case ACTION_MAN:
        options_man(mount_option_table, stdout);
        break;
    case ACTION_NAMES:
        options_names(mount_option_table, stdout);
        break;
    }
    r = printable_flush(stdout);
    if (r != 0) {
        printable_line(stderr, "qcow2fs: the output could not be written: %s", strerror(-r));
        return EXIT_FAILED;
    }
    return EXIT_OK;
}

int main(int argc, char **argv)
{
    struct command_line line = {.action = ACTION_MOUNT, .ready_descriptor = -1};
    struct error error = {0};
    enum exit_status status;

    if (process_hold_standard_descriptors() != 0) {
        return EXIT_FAILED;
    }
    if (parse_command_line(argc, argv, &line, &error) != 0) {
        say(error.text);
        say_code(&line, &error);
        status = EXIT_USAGE;
    } else {
        inherited_find(&line.inherited, argv, line.ready_descriptor);
        status = run(&line);
    }
    inherited_release(&line.inherited);
    options_release(mount_option_table, &line.options);
    free(line.served);
    if (line.action == ACTION_MOUNT && process_may_leave_memory()) {
        _exit(status); /* who waits for the end need not wait for libraries that clean up */
    }
    return status;
}
