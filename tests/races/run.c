/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "run.h"

#include "remote.h"
#include "schedule.h"

#include "crypto/cipher.h"
#include "crypto/library.h"
#include "disk/chain.h"
#include "disk/writer_internal.h"
#include "meta/mapping_internal.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define INTERVAL 1 /* second between write-backs, and between cleanings of the cache */

#define REMOTE_ROOM (UINT64_C(24) << 20) /* bytes of an export behind the image */

void run_wrong(struct run *run, const char *format, ...)
{
    va_list arguments;

    if (atomic_exchange(&run->wrong, true)) {
        return; /* what follows may follow from it */
    }
    fputs("WRONG: ", run->out);
    va_start(arguments, format);
    vfprintf(run->out, format, arguments);
    va_end(arguments);
    fputc('\n', run->out);
}

/* --- Opening and closing --------------------------------------------------------------------- */

static void keep_line(void *context, enum log_level level, const char *line)
{
    struct run *run = context;

    (void)level;
    snprintf(run->last_line, sizeof(run->last_line), "%s", line);
}

/* The image opened the real data file, which has nothing to say: ours takes its place. */
static void put_data_file(struct run *run, struct store *data_file)
{
    struct image *image = run->image;

    if (image->data_file != image->file) {
        store_close(image->data_file);
        image->data_file = data_file;
        image->active->source.data_file = data_file;
    }
}

/* As an overlay has a key that nothing in its file tells of; so QEMU can judge the tables. */
static int put_key(struct run *run, struct error *error)
{
    static const uint8_t key[] = "the races' two keys, which differ";
    const char *mode = run->plan.template->kind->encrypted;
    const struct cipher_kind kind = {"aes", mode, "plain64", ""};
    int result = mode != NULL ? cipher_create(&kind, key, 32, &run->image->cipher) : 0;

    return result < 0 ? error_set(error, -result, "no key: %s", strerror(-result)) : 0;
}

static int put_backing(struct run *run, struct error *error)
{
    const struct template *template = run->plan.template;
    struct image *overlay = run->image;
    int result = 0;

    for (size_t i = 0; i < template->backing_count && result == 0; i++) {
        const struct image_options options = {.access = STORE_READ};
        const struct image_request request = {
            .path = "backing",
            .what = "backing file",
            .format = template->backing_is_raw[i] ? IMAGE_RAW : IMAGE_QCOW2,
            .number = i + 1,
            .file = host_store(run->backing[i]),
        };

        result = image_open_one(&request, &options, &run->log, &overlay->backing, error);
        overlay = overlay->backing;
    }
    return result;
}

static int attach_cache(struct run *run, struct error *error)
{
    struct cache_options options = {.clean_interval = {true, INTERVAL}};

    if (run->plan.tiny_caches) {
        options.l2_size = (struct option_number){true, 1024};
        options.l2_entry_size = (struct option_number){true, 512};
        options.refcount_size = (struct option_number){true, CACHE_REFCOUNT_MIN_CLUSTERS *
                                                                 run->image->header->cluster_size};
        options.data_size = (struct option_number){true, UINT64_C(1) << 20};
    }
    return image_attach_cache(run->image, &options, error);
}

static int open_parts(struct run *run, const struct writer_options *writer, struct error *error)
{
    int result = put_key(run, error);

    if (result == 0) {
        result = put_backing(run, error);
    }
    if (result == 0) {
        result = attach_cache(run, error);
    }
    if (result == 0) {
        result = view_open_active(run->image, &run->view);
    }
    for (size_t i = 0; i < run->plan.template->kind->snapshots && result == 0; i++) {
        result = view_open_snapshot(run->image, i, &run->snapshots[i], error);
    }
    if (result == 0 && writer != NULL) {
        result = writer_open(run->image, writer, &run->writer, error);
    }
    if (result == 0 && writer != NULL && run->options->seed % 4 == 3) { /* as if it were large */
        writer_look_at_counts(run->writer);
    }
    return result;
}

bool run_open(struct run *run, struct host *const *hosts, const struct writer_options *writer,
              struct error *error)
{
    const struct template *template = run->plan.template;
    const struct image_options options = {
        .access = STORE_READ, .data_file = hosts[1] != NULL ? template->data_path : NULL};
    const struct image_request request = {
        .path = template->path,
        .what = "image",
        .format = IMAGE_QCOW2,
        .file = run->plan.remote ? remote_store(run, hosts[0], error) : host_store(hosts[0]),
    };

    run->writer = NULL;
    run->view = NULL;
    memset(run->snapshots, 0, sizeof(run->snapshots));
    run->last_line[0] = '\0';
    log_init(&run->log, keep_line, run);
    if (request.file == NULL ||
        image_open_one(&request, &options, &run->log, &run->image, error) < 0) {
        log_release(&run->log);
        return false;
    }
    put_data_file(run, hosts[1] != NULL ? host_store(hosts[1]) : NULL);
    if (open_parts(run, writer, error) < 0) {
        (void)run_close(run);
        return false;
    }
    return true;
}

int run_close(struct run *run)
{
    int result = 0;

    view_close(run->view);
    for (size_t i = 0; i < TEMPLATE_SNAPSHOTS; i++) {
        view_close(run->snapshots[i]);
    }
    if (run->writer != NULL) {
        result = writer_close(run->writer);
    }
    image_close(run->image);
    log_release(&run->log);
    return result;
}

/* --- What the threads work on --------------------------------------------------------------- */

static void make_hosts(struct run *run)
{
    const struct template *template = run->plan.template;

    run->trouble.seed = run->options->seed;
    run->trouble.tears = template->kind->encrypted != NULL;
    run->hosts[0] =
        host_create(template->image.bytes, template->image.size, &run->trouble, run->plan.fills);
    if (run->plan.remote) {
        host_fix_size(run->hosts[0], template->image.size + REMOTE_ROOM);
        remote_forget(run);
    }
    if (template->kind->data_file) {
        run->hosts[1] =
            host_create(template->data.bytes, template->data.size, &run->trouble, false);
    }
    for (size_t i = 0; i < template->backing_count; i++) {
        run->backing[i] =
            host_create(template->backing[i].bytes, template->backing[i].size, NULL, false);
    }
}

static void release_hosts(struct run *run)
{
    for (size_t i = 0; i < 2; i++) {
        host_destroy(run->hosts[i]);
        for (size_t crash = 0; crash < run->crash_count; crash++) {
            host_destroy(run->crashes[crash].hosts[i]);
        }
    }
    for (size_t i = 0; i < TEMPLATE_BACKING; i++) {
        host_destroy(run->backing[i]);
    }
}

static void make_history(struct run *run)
{
    const struct file_bytes *contents = &run->plan.template->contents;

    history_init(&run->history, run->plan.grains);
    run->history.every_return_is_stable = run->plan.write_through;
    for (uint64_t grain = 0; grain < contents->size / GRAIN; grain++) {
        if (!grain_value(contents->bytes + grain * GRAIN, &run->history.initial[grain])) {
            die("the image holds a grain of several values");
        }
    }
    run->bitmaps.saved = run->history.initial;
}

static void run_threads(struct run *run)
{
    struct worker workers[THREADS_MAX];
    unsigned i;

    for (i = 0; i < run->plan.threads; i++) {
        workers[i] = (struct worker){
            .run = run, .number = i + 1, .chance = chance_from(run->options->seed, 31, i)};
        if (pthread_create(&workers[i].thread, NULL, worker_run, &workers[i]) != 0) {
            die("no thread can be created");
        }
    }
    for (i = 0; i < run->plan.threads; i++) {
        pthread_join(workers[i].thread, NULL);
    }
}

/* The host is in order again; so is everything else, unless a sync failed (R7). */
static void heal(struct run *run)
{
    int result;

    atomic_store(&run->trouble.full, false);
    atomic_store(&run->trouble.failing, 0);
    atomic_store(&run->trouble.syncs_fail, false);
    result = writer_flush(run->writer);
    if (result < 0 && run->bitmaps.point_failed) { /* nobody knows what the header names (R7) */
        atomic_fetch_add(&run->trouble.failed_syncs, 1);
    }
    if (result < 0 && atomic_load(&run->trouble.failed_syncs) == 0) {
        run_wrong(run, "with a host in order, the last flush failed: %s; %s", strerror(-result),
                  run->last_line);
    }
}

/* Opens, works, closes: the part that the schedule governs. */
static void work(struct run *run)
{
    const struct plan *plan = &run->plan;
    const struct writer_options options = {
        .write_through = plan->write_through,
        .discard = plan->discard,
        .growable = plan->growable,
        .compress = plan->template->kind->compresses ? "" : NULL,
        .lazy_refcounts = {.set = true, .value = plan->lazy},
        .interval = INTERVAL,
        .tables_at_once = 1,       /* disks are small: others get in between */
        .check = WRITER_CHECK_OFF, /* it is as it was made; and see open_parts() */
    };
    struct error error = {0};
    int result;

    if (!run_open(run, run->hosts, &options, &error)) {
        return run_wrong(run, "it cannot be opened: %s", error.text);
    }
    if (plan->starts_threads) {
        image_may_start_threads(run->image);
    } else {
        image_may_read_ahead(run->image);
    }
    if (writer_start(run->writer) < 0 || cache_start_cleaner(run->image->cache) < 0) {
        die("no thread can be created");
    }
    run_threads(run);
    heal(run);
    snapshots_close(run);
    result = run_close(run);
    if (result < 0 && atomic_load(&run->trouble.failed_syncs) == 0) {
        run_wrong(run, "it could not be closed: %s; %s", strerror(-result), run->last_line);
    }
}

/* --- One run ------------------------------------------------------------------------------------
 */

static struct run *current;

static void tell_deadlock(void)
{
    fprintf(current->out, "WRONG: seed %" PRIu64 ": nobody can run\n", current->options->seed);
    plan_tell(current, current->out);
    history_tell(&current->history, current->out);
    fflush(current->out);
}

bool run_once(const struct run_options *options, struct totals *totals, FILE *out)
{
    struct run *run = grab(sizeof(*run));
    struct schedule_options schedule = {.free = options->free, .seed = options->seed};
    bool right;

    run->options = options;
    run->out = out;
    pthread_mutex_init(&run->change_mutex, NULL);
    pthread_mutex_init(&run->made_mutex, NULL);
    current = run;
    plan_make(run);
    make_hosts(run);
    make_history(run);
    schedule.often = run->plan.often;
    schedule.longest = run->plan.longest;
    schedule_on_deadlock(tell_deadlock);
    schedule_begin(&schedule);
    work(run);
    totals->points += schedule_points();
    totals->switches += schedule_switches();
    schedule_end();
    right = run_verify(run);
    if (!right || options->tell) {
        plan_tell(run, out);
    }
    if (options->tell) {
        history_tell(&run->history, out);
    }
    totals->runs++;
    totals->operations += atomic_load(&run->operations);
    totals->crashes += run->crash_count;
    bitmaps_release(run);
    snapshots_release(run);
    history_release(&run->history);
    release_hosts(run);
    free(run);
    return right;
}
