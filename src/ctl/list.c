/* SPDX-License-Identifier: MIT */
/* qcow2ctl list: what is mounted by qcow2fs, and what stands on it. */
#include "config.h"

#include "ctl/command.h"
#include "ctl/daemon.h"
#include "ctl/stack.h"
#include "util/json.h"
#include "util/printable.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct list_options {
    struct common_flags common;
};

/* ISO 8601, of this place. */
static void format_time(int64_t seconds, char text[32])
{
    time_t time = (time_t)seconds;
    struct tm parts;

    if (localtime_r(&time, &parts) == NULL ||
        strftime(text, 32, "%Y-%m-%dT%H:%M:%S%z", &parts) == 0) {
        snprintf(text, 32, "?");
    }
}

#define ANSWER_MILLISECONDS                                               \
    300 /* for one that makes a snapshot just now, the list does not wait \
         */

/* Bytes of tables that are not on the disk yet; false: there are none, or it does not say. */
static bool find_dirty(const struct stack *stack, uint64_t *dirty)
{
    static struct control_message request, answer;
    struct error error;
    const char *text = NULL;

    if (stack->daemon.writable) {
        daemon_begin(&request, "status");
        if (daemon_ask(stack, &request, ANSWER_MILLISECONDS, &answer, &error) == 0) {
            text = control_get(&answer, "dirty");
        }
    }
    *dirty = text != NULL ? strtoull(text, NULL, 10) : 0;
    return text != NULL;
}

static struct json *stack_json(const struct stack *stack)
{
    struct json *object = json_new_object(), *loops = json_new_array(), *mounts = json_new_array();
    uint64_t dirty;
    char since[32];

    format_time(stack->daemon.since, since);
    json_put_text(object, "image", stack->daemon.image);
    json_put_text(object, "mode", stack->daemon.writable ? "rw" : "ro");
    json_put_bool(object, "overlay", stack->daemon.overlay);
    json_put_text(object, "mount-point", stack->daemon.mount_point);
    json_put_number(object, "pid", (uint64_t)stack->daemon.pid);
    json_put_number(object, "uid", stack->daemon.user);
    if (stack->daemon.is_image_doubted) {
        json_put_bool(object, "image-doubted", true);
    }
    json_put_text(object, "since", since);
    if (find_dirty(stack, &dirty)) {
        json_put_number(object, "dirty", dirty);
    }
    for (size_t i = 0; i < stack->loop_count; i++) {
        json_add_text(loops, stack->loops[i].name);
    }
    json_put(object, "loop-devices", loops);
    for (size_t i = 0; i < stack->mount_count; i++) {
        json_add_text(mounts, stack->mounts[i].path);
    }
    json_put(object, "file-systems", mounts);
    return object;
}

static int print_json(const struct stacks *stacks)
{
    struct json *list = json_new_array();
    int result;

    for (size_t i = 0; i < stacks->count; i++) {
        json_add(list, stack_json(&stacks->list[i]));
    }
    result = json_print(list, stdout);
    json_free(list);
    return result;
}

/* What may be written. */
static const char *mode_text(const struct registry_record *daemon)
{
    if (!daemon->writable) {
        return "read-only";
    }
    return daemon->overlay ? "read-only, with an overlay that is written" : "read-write";
}

/* That of another user's which nothing but his own file says. */
static const char *doubt_text(const struct registry_record *daemon)
{
    return daemon->is_image_doubted ? ", as its user says" : "";
}

static void print_text(const struct stack *stack)
{
    uint64_t dirty;
    char since[32], elsewhere[PATH_MAX];

    format_time(stack->daemon.since, since);
    printable_line(stdout, "%s  (%s, process %ld, since %s%s)", stack->daemon.image,
                   mode_text(&stack->daemon), (long)stack->daemon.pid, since,
                   doubt_text(&stack->daemon));
    if (stack->daemon.mount_point[0] != '\0') {
        printable_line(stdout, "    raw disk at    %s", stack->daemon.mount_point);
    } else if (stack_is_elsewhere(stack, elsewhere, sizeof(elsewhere))) {
        printable_line(stdout, "    raw disk at    %s, in another mount namespace", elsewhere);
    }
    for (size_t i = 0; i < stack->loop_count; i++) {
        printable_line(stdout, "    loop device    %s", stack->loops[i].name);
    }
    for (size_t i = 0; i < stack->mount_count; i++) {
        printable_line(stdout, "    files at       %s", stack->mounts[i].path);
    }
    if (find_dirty(stack, &dirty) && dirty > 0) {
        printable_line(stdout, "    not yet saved  %" PRIu64 " bytes of tables", dirty);
    }
}

static int run_list(struct ctl *ctl)
{
    const struct list_options *options = ctl->options;
    struct stacks stacks;
    int result;

    if (options->common.output.value == CTL_OUTPUT_JSON && json_require(&ctl->error) != 0) {
        return CTL_FAILED;
    }
    result = stacks_find(&stacks);
    if (result == 0 && options->common.output.value == CTL_OUTPUT_JSON) {
        result = print_json(&stacks);
    } else if (result == 0) {
        for (size_t i = 0; i < stacks.count; i++) {
            print_text(&stacks.list[i]);
        }
    }
    if (result == 0 && stacks.silent_count > 0) {
        log_line(ctl->log, LOG_LEVEL_WARNING,
                 "%s: whoever serves its file does not answer, so nobody can tell whose it is",
                 stacks.silent);
    }
    if (result < 0) {
        error_set(&ctl->error, -result, "what is mounted cannot be told: %s", strerror(-result));
        return CTL_FAILED;
    }
    stacks_release(&stacks);
    return CTL_OK;
}

static const struct option_spec list_flags[] = {
    {
        .name = "json",
        .type = OPTION_PRESET,
        .field = offsetof(struct list_options, common.output),
        .min = CTL_OUTPUT_JSON,
        .help = "print JSON",
    },
    {.name = NULL},
};

const struct command list_command = {
    .name = "list",
    .operands_text = "",
    .min_operands = 0,
    .max_operands = 0,
    .summary = "list the images that are mounted, and what stands on them",
    .description =
        "Lists each running qcow2fs of this user, or, for root, of all: its image,\n"
        "whether it writes, where its raw disk is mounted, the loop devices on that, and\n"
        "the file systems mounted from these.\n",
    .examples = "  qcow2ctl list\n"
                "  qcow2ctl list --json\n",
    .options_size = sizeof(struct list_options),
    .flags = list_flags,
    .run = run_list,
};
