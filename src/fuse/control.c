/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "fuse/control.h"

#include "disk/at_snapshot.h"
#include "fuse/bitmaps.h"
#include "fuse/later.h"
#include "fuse/snapshots.h"
#include "util/control.h"
#include "util/process.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define PATIENCE_MILLISECONDS 2000 /* with who has connected, and asks nothing */

struct control {
    struct filesystem *filesystem;
    int listening;
    atomic_bool ends;
    pthread_t thread;
    struct control_message asked, answer;
};

/* --- snapshots and bitmaps ------------------------------------------------------- */

/* One question about them, while another thread works on it. */
struct task {
    struct later_job job;
    struct filesystem *filesystem;
    const struct control_message *asked;
    int socket;
    int result;
    struct error error;
    char id[64], name[512];
    pthread_mutex_t mutex;
    pthread_cond_t is_over;
    bool done;
};

/* Nobody waits for the answer any more. */
static bool is_gone(const void *context)
{
    const struct task *task = context;
    struct pollfd other = {.fd = task->socket, .events = POLLRDHUP};

    return poll(&other, 1, 0) > 0 && (other.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
}

static int missing(struct task *task, const char *what)
{
    return error_set(&task->error, EINVAL, "the request has no %s; it is not that of a qcow2ctl",
                     what);
}

/* By the thread that changes them: nobody else does meanwhile. */
static int find(struct task *task, uint64_t *key)
{
    struct filesystem *filesystem = task->filesystem;
    const struct snapshot_table *table = filesystem->image->snapshots;
    const char *wanted = control_get(task->asked, "name");
    size_t index;
    int r;

    if (wanted == NULL) {
        return missing(task, "name");
    }
    r = snapshot_choose(table, filesystem->image->path, wanted, true, &index, &task->error);
    if (r != 0) {
        return r;
    }
    snprintf(task->id, sizeof(task->id), "%s", table->snapshots[index].id);
    snprintf(task->name, sizeof(task->name), "%s", table->snapshots[index].name);
    return snapshots_key(filesystem, index, key, &task->error);
}

static int make(struct task *task)
{
    struct filesystem *filesystem = task->filesystem;
    const char *name = control_get(task->asked, "name");
    struct stop stop;
    uint64_t key;
    int r;

    if (name == NULL) {
        return missing(task, "name");
    }
    stop_init(&stop, &filesystem->long_requests.ending);
    stop_ask(&stop, is_gone, task);
    r = snapshots_make(filesystem, name, &stop, &key, &task->error);
    if (r == 0) {
        const struct snapshot_table *table = filesystem->image->snapshots;

        snprintf(task->id, sizeof(task->id), "%s", table->snapshots[table->count - 1].id);
        snprintf(task->name, sizeof(task->name), "%s", name);
    }
    return r;
}

static int change_bitmap(struct task *task, const char *ask)
{
    const char *granularity = control_get(task->asked, "granularity");
    const struct bitmaps_request request = {
        .ask = ask,
        .name = control_get(task->asked, "name"),
        .granularity = granularity != NULL ? strtoull(granularity, NULL, 10) : 0,
        .from = control_get(task->asked, "from"),
    };
    struct stop stop;

    if (request.name == NULL) {
        return missing(task, "name");
    }
    stop_init(&stop, &task->filesystem->long_requests.ending);
    stop_ask(&stop, is_gone, task);
    return bitmaps_change(task->filesystem, &request, &stop, &task->error);
}

static int change(struct task *task)
{
    const char *ask = control_get(task->asked, "ask");
    const char *new_name = control_get(task->asked, "new-name");
    uint64_t key = 0;
    int r;

    if (bitmaps_knows(ask)) {
        return change_bitmap(task, ask);
    }
    if (strcmp(ask, "snapshot-make") == 0) {
        return make(task);
    }
    r = find(task, &key);
    if (r != 0) {
        return r;
    }
    if (strcmp(ask, "snapshot-remove") == 0) {
        return snapshots_remove(task->filesystem, key, &task->error);
    }
    return new_name == NULL ? missing(task, "new-name")
                            : snapshots_rename(task->filesystem, key, new_name, &task->error);
}

static void serve(struct later_job *job, bool ending)
{
    struct task *task = (struct task *)job;
    int r = ending ? error_set(&task->error, ECANCELED, "%s: is being unmounted: nothing was done",
                               task->filesystem->image->path)
                   : change(task);

    pthread_mutex_lock(&task->mutex);
    task->result = r;
    task->done = true;
    pthread_cond_signal(&task->is_over);
    pthread_mutex_unlock(&task->mutex);
}

/* --- answers --------------------------------------------------------------------- */

static void put(struct control_message *answer, const char *name, const char *value)
{
    if (!control_put(answer, name, value)) {
        (void)control_put(answer, name, "");
    }
}

static void put_result(struct control_message *answer, int result, const struct error *error)
{
    char number[16];

    snprintf(number, sizeof(number), "%d", result < 0 ? -result : 0);
    put(answer, "error", number);
    if (result < 0) {
        put(answer, "message", error->code != 0 ? error->text : strerror(-result));
    }
}

static void answer_change(struct control *control, int socket)
{
    struct task task = {
        .job = {.serve = serve},
        .filesystem = control->filesystem,
        .asked = &control->asked,
        .socket = socket,
        .mutex = PTHREAD_MUTEX_INITIALIZER,
        .is_over = PTHREAD_COND_INITIALIZER,
    };

    if (!tree_makes_snapshots(task.filesystem->tree)) {
        task.result =
            error_set(&task.error, EROFS, "%s: its snapshots and bitmaps cannot be changed here",
                      task.filesystem->image->path);
    } else {
        later_do(task.filesystem->changes, &task.job);
        pthread_mutex_lock(&task.mutex);
        while (!task.done) {
            pthread_cond_wait(&task.is_over, &task.mutex);
        }
        pthread_mutex_unlock(&task.mutex);
    }
    put_result(&control->answer, task.result, &task.error);
    if (task.result == 0) {
        put(&control->answer, "id", task.id);
        put(&control->answer, "name", task.name);
    }
    pthread_cond_destroy(&task.is_over);
    pthread_mutex_destroy(&task.mutex);
}

static void put_number(struct control_message *answer, const char *name, uint64_t value)
{
    char number[24];

    snprintf(number, sizeof(number), "%" PRIu64, value);
    put(answer, name, number);
}

/* What qcow2ctl top shows. */
static void put_counters(struct control_message *answer, const struct filesystem *filesystem)
{
    struct stats_summary summary;

    stats_summarise(&filesystem->stats, filesystem->image, &summary);
    put_number(answer, "requests", summary.requests);
    put_number(answer, "reads", summary.reads);
    put_number(answer, "read-bytes", summary.bytes_read);
    put_number(answer, "writes", summary.writes);
    put_number(answer, "written-bytes", summary.bytes_written);
    put_number(answer, "syncs", summary.syncs);
    put_number(answer, "errors", summary.errors);
    put_number(answer, "cache-hits", summary.cache_hits);
    put_number(answer, "cache-misses", summary.cache_misses);
}

static void answer_status(struct control *control)
{
    const struct filesystem *filesystem = control->filesystem;

    put_result(&control->answer, 0, NULL);
    put_number(&control->answer, "dirty",
               filesystem->writer != NULL ? writer_dirty_bytes(filesystem->writer) : 0);
    put_counters(&control->answer, filesystem);
}

static void answer(struct control *control, int socket)
{
    const char *version = control_get(&control->asked, "version");
    const char *ask = control_get(&control->asked, "ask");
    struct error error = {0};

    control->answer.length = 0;
    if (version == NULL || ask == NULL || strcmp(version, CONTROL_VERSION) != 0) {
        put_result(&control->answer,
                   error_set(&error, EPROTO,
                             "this qcow2fs answers version " CONTROL_VERSION
                             " of what qcow2ctl asks, not %s; use the qcow2ctl that belongs to it",
                             version != NULL ? version : "none"),
                   &error);
    } else if (strcmp(ask, "status") == 0) {
        answer_status(control);
    } else if (bitmaps_knows(ask) || strcmp(ask, "snapshot-make") == 0 ||
               strcmp(ask, "snapshot-remove") == 0 || strcmp(ask, "snapshot-rename") == 0) {
        answer_change(control, socket);
    } else {
        put_result(&control->answer,
                   error_set(&error, EOPNOTSUPP, "this qcow2fs does not know how to do %s", ask),
                   &error);
    }
}

/* --- the thread ------------------------------------------------------------------ */

static void *run(void *argument)
{
    struct control *control = argument;

    while (!atomic_load(&control->ends)) {
        int socket = accept4(control->listening, NULL, NULL, SOCK_CLOEXEC);

        if (socket < 0) {
            if (errno != EINTR && errno != ECONNABORTED) {
                break; /* it was shut down; or there are no descriptors, and nobody is heard */
            }
            continue;
        }
        if (control_is_allowed(socket) &&
            control_receive(socket, PATIENCE_MILLISECONDS, &control->asked) == 0) {
            answer(control, socket);
            (void)control_send(socket, &control->answer);
        }
        close(socket);
    }
    return NULL;
}

int control_start(struct filesystem *filesystem, int listening, struct control **control)
{
    struct control *made;
    int r;

    *control = NULL;
    if (listening < 0) {
        return 0;
    }
    made = malloc(sizeof(*made));
    if (made == NULL) {
        close(listening);
        return -ENOMEM;
    }
    made->filesystem = filesystem;
    made->listening = listening;
    atomic_init(&made->ends, false);
    made->asked.length = 0;
    made->answer.length = 0;
    r = process_start_thread(&made->thread, NULL, run, made);
    if (r < 0) {
        close(listening);
        free(made);
        return r;
    }
    *control = made;
    return 0;
}

void control_stop(struct control *control)
{
    if (control == NULL) {
        return;
    }
    atomic_store(&control->ends, true);
    (void)shutdown(control->listening, SHUT_RDWR); /* accept() returns */
    pthread_join(control->thread, NULL);
    close(control->listening);
    free(control);
}
