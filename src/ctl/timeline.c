/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "ctl/box.h"
#include "ctl/command.h"

#include "admin/inspect.h"
#include "ctl/open.h"
#include "ctl/told_traces.h"
#include "util/json.h"
#include "util/printable.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

struct timeline_options {
    struct common_flags common;
    struct option_bool body;
};

/* What the image says of one moment; or of a thing that has no time. */
struct event {
    struct timespec when;
    bool is_timed;
    const char *what; /* a word that does not change */
    const char *file; /* of the chain, of which it is; borrowed, as what follows */
    const char *name; /* of a snapshot or bitmap, or NULL */
    const char *id;   /* of a snapshot, or NULL */
    const struct snapshot *snapshot;
    size_t number; /* in which order they were found */
};

struct timeline {
    struct ctl *ctl;
    const struct inspection *image;
    struct event *events;
    size_t count, room;
    bool no_memory;
};

/* --- Gathering ----------------------------------------------------------------------- */

static void add(struct timeline *timeline, const struct event *event)
{
    if (timeline->count == timeline->room) {
        size_t room = 2 * timeline->room + 64;
        struct event *events = reallocarray(timeline->events, room, sizeof(*events));

        if (events == NULL) {
            timeline->no_memory = true;
            return;
        }
        timeline->events = events;
        timeline->room = room;
    }
    timeline->events[timeline->count] = *event;
    timeline->events[timeline->count].number = timeline->count;
    timeline->count++;
}

static void add_file(struct timeline *timeline, const char *path, const struct store_info *info)
{
    const struct event events[] = {
        {.what = "accessed", .when = info->atime},
        {.what = "modified", .when = info->mtime},
        {.what = "changed", .when = info->ctime},
    };

    for (size_t i = 0; i < sizeof(events) / sizeof(events[0]); i++) {
        struct event event = events[i];

        event.file = path;
        event.is_timed = event.when.tv_sec != 0; /* a server tells none */
        if (event.is_timed) {
            add(timeline, &event);
        }
    }
}

/*
 * The clock of a machine stands while it does, so it was started at the time that it tells, or
 * before.
 */
static void add_start(struct timeline *timeline, struct event event)
{
    uint64_t clock = event.snapshot->vm_clock_nsec;
    int64_t seconds = (int64_t)(clock / 1000000000);

    if (!event.is_timed || clock == 0 || seconds > event.when.tv_sec) {
        return;
    }
    event.what = "machine-started";
    event.when.tv_sec -= (time_t)seconds; /* no more than that is */
    event.when.tv_nsec -= (long)(clock % 1000000000);
    if (event.when.tv_nsec < 0) {
        event.when.tv_nsec += 1000000000;
        event.when.tv_sec--;
    }
    add(timeline, &event);
}

static void add_snapshots(struct timeline *timeline, const struct inspection *image)
{
    for (size_t i = 0; image->snapshots != NULL && i < image->snapshots->count; i++) {
        const struct snapshot *snapshot = &image->snapshots->snapshots[i];
        const struct event event = {
            .what = "snapshot",
            .when = {snapshot->date_sec, (long)(snapshot->date_nsec % 1000000000)},
            .is_timed = snapshot->date_sec != 0,
            .file = image->path,
            .name = snapshot->name,
            .id = snapshot->id,
            .snapshot = snapshot,
        };

        add(timeline, &event);
        add_start(timeline, event);
    }
}

static void add_bitmaps(struct timeline *timeline, const struct inspection *image)
{
    for (size_t i = 0; image->bitmaps != NULL && i < image->bitmaps->count; i++) {
        const struct event event = {
            .what = "bitmap", .file = image->path, .name = image->bitmaps->bitmaps[i].name};

        add(timeline, &event);
    }
}

/* By time; what has none is last. */
static int order(const void *a, const void *b)
{
    const struct event *one = a, *other = b;

    if (one->is_timed != other->is_timed) {
        return one->is_timed ? -1 : 1;
    }
    if (one->when.tv_sec != other->when.tv_sec) {
        return one->when.tv_sec < other->when.tv_sec ? -1 : 1;
    }
    if (one->when.tv_nsec != other->when.tv_nsec) {
        return one->when.tv_nsec < other->when.tv_nsec ? -1 : 1;
    }
    return one->number < other->number ? -1 : 1;
}

static int gather(struct timeline *timeline)
{
    for (const struct inspection *image = timeline->image; image != NULL; image = image->backing) {
        add_file(timeline, image->path, &image->info);
        if (image->data_file_found) {
            add_file(timeline, image->data_file_path, &image->data_file_info);
        }
        add_snapshots(timeline, image);
        add_bitmaps(timeline, image);
    }
    if (timeline->no_memory) {
        return error_set(&timeline->ctl->error, ENOMEM, "%s: out of memory", timeline->image->path);
    }
    qsort(timeline->events, timeline->count, sizeof(timeline->events[0]), order);
    return 0;
}

/* --- For people, and as JSON --------------------------------------------------------- */

#define WHEN_MAX 64

/* "2024-05-01T12:00:00.000000000Z", or "" without a time. */
static void format_when(const struct event *event, char text[WHEN_MAX])
{
    struct tm parts;
    size_t length = 0;

    if (event->is_timed && gmtime_r(&event->when.tv_sec, &parts) != NULL) {
        length = strftime(text, WHEN_MAX - 12, "%Y-%m-%dT%H:%M:%S", &parts);
    }
    if (length > 0) {
        snprintf(text + length, WHEN_MAX - length, ".%09ldZ", event->when.tv_nsec % 1000000000);
    } else {
        text[0] = '\0';
    }
}

static void print_events(const struct timeline *timeline)
{
    for (size_t i = 0; i < timeline->count; i++) {
        const struct event *event = &timeline->events[i];
        char when[WHEN_MAX];

        format_when(event, when);
        if (event->id != NULL) {
            printable_line(stdout, "%-30s  %-15s  %s: '%s' (id %s)", when[0] != '\0' ? when : "-",
                           event->what, event->file, event->name, event->id);
        } else {
            printable_line(stdout, "%-30s  %-15s  %s%s%s%s", when[0] != '\0' ? when : "-",
                           event->what, event->file, event->name != NULL ? ": '" : "",
                           event->name != NULL ? event->name : "", event->name != NULL ? "'" : "");
        }
    }
}

static struct json *event_json(const struct event *event)
{
    struct json *object = json_new_object();
    char when[WHEN_MAX];

    format_when(event, when);
    if (event->is_timed) {
        json_put_text(object, "time", when);
        json_put_signed(object, "seconds", event->when.tv_sec);
        json_put_signed(object, "nanoseconds", event->when.tv_nsec % 1000000000);
    }
    json_put_text(object, "event", event->what);
    json_put_text(object, "file", event->file);
    if (event->name != NULL) {
        json_put_text(object, "name", event->name);
    }
    if (event->id != NULL) {
        json_put_text(object, "id", event->id);
        json_put_number(object, "vm-clock-nsec", event->snapshot->vm_clock_nsec);
    }
    return object;
}

static int print_json(const struct timeline *timeline)
{
    struct json *list = json_new_array();
    int r;

    for (size_t i = 0; i < timeline->count; i++) {
        json_add(list, event_json(&timeline->events[i]));
    }
    r = ctl_print_json(timeline->ctl, list);
    json_free(list);
    return r;
}

/* --- The body that mactime reads ------------------------------------------------------ */

/* MD5|name|inode|mode_as_string|UID|GID|size|atime|mtime|ctime|crtime; 0: not known */
struct body_line {
    const char *file, *kind, *name;
    const struct store_info *info; /* or NULL */
    uint64_t size;
    int64_t created;
};

/* The letters of fls: a type of the directory, one of the inode, and the permissions. */
static void format_mode(const struct store_info *info, char mode[13])
{
    static const char letters[] = "rwxrwxrwx";
    char type = info == NULL ? '-' : S_ISBLK(info->mode) ? 'b' : 'r';

    snprintf(mode, 13, "%c/%c---------", type, type);
    for (int bit = 0; info != NULL && bit < 9; bit++) {
        if ((info->mode & 0400U >> bit) != 0) {
            mode[3 + bit] = letters[bit];
        }
    }
}

/*
 * A bar would be the end of the field; and what follows a % would be decoded by mactime, to a
 * character that a terminal obeys, say.
 */
static char *escape(const char *text)
{
    char *copy = malloc(3 * strlen(text) + 1), *to = copy;

    for (; copy != NULL && *text != '\0'; text++) {
        if (*text == '|' || *text == '%') {
            to += sprintf(to, "%%%02X", (unsigned)*text);
        } else {
            *to++ = *text;
        }
    }
    if (copy != NULL) {
        *to = '\0';
    }
    return copy;
}

static int print_body_line(struct timeline *timeline, const struct body_line *line)
{
    const struct store_info *info = line->info;
    char *file = escape(line->file), *name = escape(line->name);
    char mode[13];

    format_mode(info, mode);
    if (file != NULL && name != NULL) {
        printable_line(stdout,
                       "0|%s%s%s%s|%" PRIu64 "|%s|%" PRIu64 "|%" PRIu64 "|%" PRIu64 "|%" PRId64
                       "|%" PRId64 "|%" PRId64 "|%" PRId64,
                       file, line->kind, name, line->kind[0] != '\0' ? ")" : "",
                       info != NULL ? (uint64_t)info->inode : 0, mode,
                       info != NULL ? (uint64_t)info->uid : 0,
                       info != NULL ? (uint64_t)info->gid : 0, line->size,
                       info != NULL ? (int64_t)info->atime.tv_sec : 0,
                       info != NULL ? (int64_t)info->mtime.tv_sec : 0,
                       info != NULL ? (int64_t)info->ctime.tv_sec : 0, line->created);
    }
    timeline->no_memory |= file == NULL || name == NULL;
    free(file);
    free(name);
    return timeline->no_memory
               ? error_set(&timeline->ctl->error, ENOMEM, "%s: out of memory", line->file)
               : 0;
}

static int print_body_file(struct timeline *timeline, const char *path,
                           const struct store_info *info)
{
    const struct body_line line = {
        .file = path, .kind = "", .name = "", .info = info, .size = info->size};

    return print_body_line(timeline, &line);
}

/* Snapshots, and the machine's starts, in the order of the events. */
static int print_body(struct timeline *timeline)
{
    int r = 0;

    for (const struct inspection *image = timeline->image; image != NULL && r == 0;
         image = image->backing) {
        r = print_body_file(timeline, image->path, &image->info);
        if (r == 0 && image->data_file_found) {
            r = print_body_file(timeline, image->data_file_path, &image->data_file_info);
        }
    }
    for (size_t i = 0; i < timeline->count && r == 0; i++) {
        const struct event *event = &timeline->events[i];
        struct body_line line = {.file = event->file,
                                 .name = event->name,
                                 .created = event->is_timed ? event->when.tv_sec : 0};

        if (event->name == NULL) {
            continue; /* a file, told already */
        }
        line.size = event->snapshot != NULL ? event->snapshot->disk_size : 0;
        line.kind = event->snapshot == NULL                ? " (bitmap "
                    : strcmp(event->what, "snapshot") == 0 ? " (snapshot "
                                                           : " (machine started before snapshot ";
        r = print_body_line(timeline, &line);
    }
    return r;
}

/* --- The command --------------------------------------------------------------------- */

static int show(struct timeline *timeline, const struct timeline_options *options)
{
    int r = gather(timeline);

    if (r != 0 || options->common.quiet.value) {
        return r;
    }
    if (command_prints_json(&options->common)) {
        return print_json(timeline);
    }
    if (options->body.value) {
        return print_body(timeline);
    }
    print_events(timeline);
    return 0;
}

static int run_timeline(struct ctl *ctl)
{
    const struct timeline_options *options = ctl->options;
    struct inspect_options how = {
        .access = options->common.force_share.value ? STORE_READ_SHARED : STORE_READ,
        .names = ctl_names(&options->common),
        .no_locks = options->common.locking.value == CTL_LOCKING_OFF,
    };
    const struct ctl_box box = {.images = {ctl->operands[0]}};
    struct timeline timeline = {.ctl = ctl};
    struct inspection *image = NULL;
    int r = 0;

    if (command_prints_json(&options->common)) {
        r = options->body.value
                ? error_set(&ctl->error, EINVAL, "--body is no JSON; leave one of them out")
                : json_require(&ctl->error);
    }
    if (r == 0) {
        r = ctl_box_enter(ctl, &options->common, &box);
    }
    if (r == 0) {
        r = inspect_open(ctl->operands[0], &how, &image, &ctl->error);
    }
    if (r == 0) {
        timeline.image = image;
        ctl_tell_inspected_traces(ctl, image);
        r = show(&timeline, options);
    }
    free(timeline.events);
    if (r == 0 && inspect_problem(image) != NULL) {
        r = error_set(&ctl->error, EINVAL, "%s", inspect_problem(image));
    }
    inspect_close(image);
    return r == 0 ? CTL_OK : CTL_FAILED;
}

static const struct option_spec timeline_flags[] = {
    {.name = "body",
     .type = OPTION_BOOL,
     .field = offsetof(struct timeline_options, body),
     .help = "print the body file that mactime reads: a line for each file, snapshot and bitmap"},
    {.name = "json",
     .type = OPTION_PRESET,
     .field = offsetof(struct timeline_options, common.output),
     .min = CTL_OUTPUT_JSON,
     .help = "print JSON: a list of events, in the order of their times"},
    FLAG_OUTPUT(struct timeline_options),
    FLAG_QUIET(struct timeline_options),
    FLAG_FORCE_SHARE(struct timeline_options),
    FLAG_TRUST_NAMES(struct timeline_options),
    FLAG_FOLLOW(struct timeline_options),
    FLAG_LOCKING(struct timeline_options),
    FLAG_SANDBOX(struct timeline_options),
    {.name = NULL},
};

const struct command timeline_command = {
    .name = "timeline",
    .operands_text = "IMAGE",
    .min_operands = 1,
    .max_operands = 1,
    .summary = "list what an image says about time",
    .description =
        "Lists, in the order of their times, when the host's files of the chain were last\n"
        "read, written and changed, when each snapshot was made, and, by the clock of the\n"
        "machine that a snapshot records, when that was started: then or before, since\n"
        "the clock stands while the machine does. Bitmaps have names alone, and are last.\n"
        "All times are UTC. Nothing is changed, times of access included, where the host\n"
        "allows that.\n",
    .examples = "  qcow2ctl timeline evidence.qcow2\n"
                "  qcow2ctl timeline --body evidence.qcow2 >body && mactime -b body\n",
    .options_size = sizeof(struct timeline_options),
    .flags = timeline_flags,
    .run = run_timeline,
};
