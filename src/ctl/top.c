/* SPDX-License-Identifier: MIT */
/* qcow2ctl top: what all mounts of this machine do, live. */
#include "config.h"

#include "ctl/command.h"
#include "ctl/daemon.h"
#include "ctl/stack.h"
#include "ctl/top_screen.h"
#include "util/json.h"
#include "util/printable.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define INTERVAL_DEFAULT 2   /* seconds */
#define INTERVAL_ONCE    1   /* of the two looks of --once */
#define NAME_COLUMNS     24  /* of an image, in 80 columns */
#define OTHER_COLUMNS    55  /* of the numbers */
#define ANSWER_MS        300 /* one that makes a snapshot just now is not waited for */
#define TEXT_MAX         32

struct top_options {
    struct common_flags common;
    struct option_bool once;
    struct option_number interval;
};

/* What is counted, as the daemon names it; the first are shown as rates. */
enum counter {
    READS,
    READ_BYTES,
    WRITES,
    WRITTEN_BYTES,
    SYNCS,
    REQUESTS,
    ERRORS,
    HITS,
    MISSES,
    COUNTERS,
};

static const char *const counter_names[COUNTERS] = {
    [READS] = "reads",
    [READ_BYTES] = "read-bytes",
    [WRITES] = "writes",
    [SYNCS] = "syncs",
    [WRITTEN_BYTES] = "written-bytes",
    [REQUESTS] = "requests",
    [ERRORS] = "errors",
    [HITS] = "cache-hits",
    [MISSES] = "cache-misses",
};

/* One mount, as it was at one moment. */
struct sample {
    pid_t pid;
    int64_t since;
    bool answers; /* else only that it is there is known */
    double when;  /* seconds, of a clock that goes on */
    uint64_t counters[COUNTERS];
    uint64_t dirty; /* bytes */
};

struct samples {
    struct stacks stacks;
    struct sample *list; /* one for each of them */
};

/* What a mount does between two samples. */
struct activity {
    const struct stack *stack;
    const struct sample *now;
    bool known;             /* there are two that answered */
    double rates[COUNTERS]; /* in a second */
    double hits;            /* of all lookups; negative: there were none */
};

static double clock_seconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* --- asking -------------------------------------------------------------------------------- */

static void take_sample(const struct stack *stack, struct sample *sample)
{
    static struct control_message request, answer;
    struct error error;
    const char *text;

    *sample = (struct sample){.pid = stack->daemon.pid, .since = stack->daemon.since};
    daemon_begin(&request, "status");
    if (daemon_ask(stack, &request, ANSWER_MS, &answer, &error) != 0) {
        return;
    }
    sample->when = clock_seconds();
    sample->answers = control_get(&answer, counter_names[READS]) != NULL;
    for (int i = 0; i < COUNTERS; i++) {
        text = control_get(&answer, counter_names[i]);
        sample->counters[i] = text != NULL ? strtoull(text, NULL, 10) : 0;
    }
    text = control_get(&answer, "dirty");
    sample->dirty = text != NULL ? strtoull(text, NULL, 10) : 0;
}

static void samples_release(struct samples *samples)
{
    free(samples->list);
    stacks_release(&samples->stacks);
    *samples = (struct samples){0};
}

/* 0 or -ENOMEM. */
static int samples_take(struct samples *samples)
{
    int result;

    *samples = (struct samples){0};
    result = stacks_find(&samples->stacks);
    if (result == 0) {
        samples->list = calloc(samples->stacks.count + 1, sizeof(*samples->list));
        if (samples->list == NULL) {
            samples_release(samples);
            return -ENOMEM;
        }
    }
    for (size_t i = 0; result == 0 && i < samples->stacks.count; i++) {
        take_sample(&samples->stacks.list[i], &samples->list[i]);
    }
    return result;
}

/* --- comparing ----------------------------------------------------------------------------- */

static const struct sample *find_before(const struct samples *before, const struct sample *now)
{
    for (size_t i = 0; i < before->stacks.count; i++) {
        if (before->list[i].pid == now->pid && before->list[i].since == now->since) {
            return &before->list[i];
        }
    }
    return NULL;
}

static struct activity compare(const struct samples *before, const struct samples *after, size_t i)
{
    struct activity activity = {
        .stack = &after->stacks.list[i],
        .now = &after->list[i],
        .hits = -1,
    };
    const struct sample *old = find_before(before, activity.now);
    double seconds, lookups;

    if (old == NULL || !old->answers || !activity.now->answers || activity.now->when <= old->when) {
        return activity;
    }
    activity.known = true;
    seconds = activity.now->when - old->when;
    for (int k = 0; k < COUNTERS; k++) {
        activity.rates[k] = (double)(activity.now->counters[k] - old->counters[k]) / seconds;
    }
    lookups = activity.rates[HITS] + activity.rates[MISSES];
    if (lookups > 0) {
        activity.hits = activity.rates[HITS] / lookups;
    }
    return activity;
}

/* The busiest first; then the oldest. */
static int by_work(const void *left, const void *right)
{
    const struct activity *a = left, *b = right;
    double work_a = a->rates[READ_BYTES] + a->rates[WRITTEN_BYTES];
    double work_b = b->rates[READ_BYTES] + b->rates[WRITTEN_BYTES];

    if (work_a != work_b) {
        return work_a > work_b ? -1 : 1;
    }
    return a->now->pid < b->now->pid ? -1 : a->now->pid > b->now->pid;
}

/* All of them, for the caller to free; NULL when memory ran out. */
static struct activity *compare_all(const struct samples *before, const struct samples *after)
{
    struct activity *all = calloc(after->stacks.count + 1, sizeof(*all));

    for (size_t i = 0; all != NULL && i < after->stacks.count; i++) {
        all[i] = compare(before, after, i);
    }
    if (all != NULL) {
        qsort(all, after->stacks.count, sizeof(*all), by_work);
    }
    return all;
}

/* --- for people ------------------------------------------------------------------------------ */

/* At most five letters: "0", "12", "1234", "12.3k", "123M"; in steps of 1000, or of 1024. */
static const char *short_number(double number, double step, char text[TEXT_MAX])
{
    static const char units[] = "\0kMGTPE";
    int unit = 0;

    while (number >= (unit == 0 ? 9999.5 : step == 1000 ? 999.5 : 1023.5) && unit < 6) {
        number /= step;
        unit++;
    }
    snprintf(text, TEXT_MAX, "%.*f%.1s", unit > 0 && number < 99.95 ? 1 : 0, number, units + unit);
    return text;
}

static const char *rate(const struct activity *activity, enum counter counter, char text[TEXT_MAX])
{
    bool bytes = counter == READ_BYTES || counter == WRITTEN_BYTES;

    return activity->known ? short_number(activity->rates[counter], bytes ? 1024 : 1000, text)
                           : "-";
}

/* The end of the name, in exactly so many columns. */
static void put_name(const char *name, int columns, char *text)
{
    char clean[4096];
    const char *at = clean;
    uint32_t code;
    int length = 0;

    snprintf(clean, sizeof(clean), "%s", name);
    printable_clean(clean);
    for (const char *c = clean; *c != '\0'; length++) {
        size_t bytes = printable_decode(c, &code);

        c += bytes > 0 ? bytes : 1;
    }
    for (int skip = length > columns ? length - columns + 1 : 0; skip > 0; skip--) {
        size_t bytes = printable_decode(at, &code);

        at += bytes > 0 ? bytes : 1;
    }
    sprintf(text, "%s%s%*s", length > columns ? "<" : "", at,
            length < columns ? columns - length : 0, "");
}

static void print_one(const struct activity *activity, int columns, bool screen)
{
    char name[8192], hits[TEXT_MAX] = "-", texts[6][TEXT_MAX];

    put_name(activity->stack->daemon.image, columns, name);
    if (activity->hits >= 0) {
        snprintf(hits, sizeof(hits), "%.0f%%", activity->hits * 100);
    }
    top_screen_line(
        screen, "%s %6s %7s %6s %7s %6s %5s %6s %4s", name, rate(activity, READS, texts[0]),
        rate(activity, READ_BYTES, texts[1]), rate(activity, WRITES, texts[2]),
        rate(activity, WRITTEN_BYTES, texts[3]), rate(activity, SYNCS, texts[4]), hits,
        activity->now->answers ? short_number((double)activity->now->dirty, 1024, texts[5]) : "-",
        activity->now->counters[ERRORS] > 0 ? "yes" : "no");
}

static void print_frame(const struct activity *all, size_t count, struct top_size size, bool screen)
{
    int columns = size.columns > 79 ? size.columns - 1 - OTHER_COLUMNS : NAME_COLUMNS;
    size_t shown = count;
    char text[512];
    time_t now = time(NULL);
    struct tm parts;

    if (columns > 200) {
        columns = 200;
    }
    /* Two lines are above them, and one below. */
    if (screen && size.rows > 4 && count > (size_t)size.rows - 3) {
        shown = (size_t)size.rows - 4;
    }
    if (localtime_r(&now, &parts) == NULL ||
        strftime(text, sizeof(text), "%H:%M:%S", &parts) == 0) {
        text[0] = '\0';
    }
    top_screen_line(screen, "qcow2ctl top   %s   mounts: %zu%s", text, count,
                    screen ? "   (q ends this)" : "");
    put_name("IMAGE", columns, text);
    top_screen_line(screen, "%s READ/s  READ B WRIT/s WRITE B SYNC/s  HITS  DIRTY ERRS", text);
    for (size_t i = 0; i < shown; i++) {
        print_one(&all[i], columns, screen);
    }
    if (shown < count) {
        top_screen_line(screen, "and %zu that do less", count - shown);
    }
}

/* --- for programs ---------------------------------------------------------------------------- */

static struct json *activity_json(const struct activity *activity)
{
    struct json *object = json_new_object(), *total = json_new_object(), *rates = json_new_object();
    const struct registry_record *daemon = &activity->stack->daemon;

    json_put_text(object, "image", daemon->image);
    json_put_text(object, "mount-point", daemon->mount_point);
    json_put_number(object, "pid", (uint64_t)daemon->pid);
    json_put_bool(object, "answers", activity->now->answers);
    if (activity->now->answers) {
        for (int i = 0; i < COUNTERS; i++) {
            json_put_number(total, counter_names[i], activity->now->counters[i]);
            json_put_number(rates, counter_names[i], (uint64_t)(activity->rates[i] + 0.5));
        }
        json_put_number(object, "dirty", activity->now->dirty);
        json_put(object, "total", total);
        if (activity->known) {
            json_put(object, "per-second", rates);
            return object;
        }
    } else {
        json_free(total);
    }
    json_free(rates);
    return object;
}

static int print_json(const struct activity *all, size_t count)
{
    struct json *list = json_new_array();
    int result;

    for (size_t i = 0; i < count; i++) {
        json_add(list, activity_json(&all[i]));
    }
    result = json_print_line(list, stdout);
    json_free(list);
    return result == 0 && fflush(stdout) != 0 ? -errno : result;
}

/* --- again and again ---------------------------------------------------------------------------
 */

static int show(const struct top_options *options, struct top_screen *screen,
                const struct samples *before, const struct samples *after)
{
    struct activity *all = compare_all(before, after);
    int result = 0;

    if (all == NULL) {
        return -ENOMEM;
    }
    if (options->common.output.value == CTL_OUTPUT_JSON) {
        result = print_json(all, after->stacks.count);
    } else {
        top_screen_begin(screen);
        print_frame(all, after->stacks.count, top_screen_size(screen), top_screen_is_on(screen));
        result = top_screen_end(screen);
    }
    free(all);
    return result;
}

static int watch(const struct top_options *options, struct top_screen *screen)
{
    struct samples before, after;
    int milliseconds = 1000 * (options->interval.set ? (int)options->interval.value
                               : options->once.value ? INTERVAL_ONCE
                                                     : INTERVAL_DEFAULT);
    bool goes_on = true;
    int result = samples_take(&before);

    if (result < 0) {
        return result;
    }
    if (!options->once.value && options->common.output.value != CTL_OUTPUT_JSON) {
        result = show(options, screen, &before, &before); /* not an empty screen meanwhile */
    }
    while (result == 0 && goes_on) {
        goes_on = top_screen_wait(screen, milliseconds);
        if (!goes_on) {
            break;
        }
        result = samples_take(&after);
        if (result == 0) {
            result = show(options, screen, &before, &after);
            samples_release(&before);
            before = after;
        }
        goes_on = !options->once.value;
    }
    samples_release(&before);
    return result;
}

static int run_top(struct ctl *ctl)
{
    const struct top_options *options = ctl->options;
    bool json = options->common.output.value == CTL_OUTPUT_JSON;
    struct top_screen *screen;
    int result;

    if (json && json_require(&ctl->error) != 0) {
        return CTL_FAILED;
    }
    result = top_screen_open(!json && !options->once.value, &screen);
    if (result == 0) {
        result = watch(options, screen);
        top_screen_close(screen);
    }
    if (result < 0) {
        error_set(&ctl->error, -result, "what is mounted cannot be shown: %s", strerror(-result));
        return CTL_FAILED;
    }
    return CTL_OK;
}

static const struct option_spec top_flags[] = {
    {
        .name = "once",
        .type = OPTION_BOOL,
        .field = offsetof(struct top_options, once),
        .help = "show what is done within one interval, of 1 second, and end",
    },
    {
        .name = "interval",
        .type = OPTION_UINT,
        .field = offsetof(struct top_options, interval),
        .min = 1,
        .max = 3600,
        .value_name = "SECONDS",
        .default_text = "2",
        .help = "how often it is shown anew",
    },
    {
        .name = "json",
        .type = OPTION_PRESET,
        .field = offsetof(struct top_options, common.output),
        .min = CTL_OUTPUT_JSON,
        .help = "print JSON, a list in a line for each interval",
    },
    {.name = NULL},
};

const struct command top_command = {
    .name = "top",
    .operands_text = "",
    .min_operands = 0,
    .max_operands = 0,
    .summary = "show live what all mounts do",
    .description =
        "Shows what each running qcow2fs of this user, or, for root, of all does: the\n"
        "reads, writes and syncs in a second, their bytes, which part of the lookups\n"
        "found what they wanted in a cache, how many bytes of tables are not saved yet,\n"
        "and whether requests have failed since it was mounted. The busiest come first.\n"
        "At a terminal q ends it; elsewhere one list follows another until a signal ends\n"
        "it.\n",
    .examples = "  qcow2ctl top --once\n"
                "  qcow2ctl top --once --json\n",
    .options_size = sizeof(struct top_options),
    .flags = top_flags,
    .run = run_top,
};
