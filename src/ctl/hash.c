/* SPDX-License-Identifier: MIT */
/*
 * qcow2ctl hash: digests of all states of an image, and of its files, as a manifest that sha256sum
 * -c takes where the image is mounted over a directory.
 *
 * One thread hashes one file from its beginning to its end; as many do at once as there are
 * processors. What is known to be zeros is not read, nor looked at: they get zeros of our own.
 */
#include "config.h"

#include "ctl/box.h"
#include "ctl/command.h"
#include "ctl/disk.h"
#include "ctl/hash_one.h"
#include "ctl/told_traces.h"
#include "util/checked.h"
#include "util/json.h"
#include "util/printable.h"
#include "util/process.h"
#include "util/progress.h"
#include "util/workers.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define JOBS_MAX  256
#define PIECE_MIN 65536

struct hash_options {
    struct common_flags common;
    struct option_number format, algorithm, jobs, piece;
};

/* In the order of DIGEST_ALGORITHMS. */
static const char *const algorithms[] = {"sha256", "sha1", "sha224", "sha384",
                                         "sha512", "md5",  "b2",     "b3"};

struct job {
    struct hash_file *file;
};

struct running {
    struct ctl *ctl;
    const struct hash_options *options;
    const char *path;
    struct ctl_disk disk;
    struct hash_file *files;
    struct hash_how how;
    struct workers *workers;
    unsigned jobs;
    uint8_t **buffers; /* HASH_BUFFER bytes, of each thread */
    struct json *list; /* what has been done, for JSON */
    uint64_t failed;   /* files without a digest */

    pthread_mutex_t mutex; /* a leaf, of the progress */
    struct progress progress;
    uint64_t done, total; /* bytes */
};

/* --- Work -------------------------------------------------------------------------------- */

static void show(void *context, uint64_t bytes)
{
    struct running *running = context;

    pthread_mutex_lock(&running->mutex);
    running->done += bytes;
    progress_show(&running->progress, running->done, running->total);
    pthread_mutex_unlock(&running->mutex);
}

static void work(void *context, void *argument, unsigned thread)
{
    struct running *running = context;
    const struct job *job = argument;

    hash_one(&running->how, job->file, running->buffers[thread]);
}

/* --- What is said ------------------------------------------------------------------------ */

static const char *kind_name(enum hash_kind kind)
{
    static const char *const names[] = {
        [HASH_DISK] = "disk",
        [HASH_SNAPSHOT] = "snapshot",
        [HASH_VM_STATE] = "vm-state",
        [HASH_HOST_FILE] = "file",
    };

    return names[kind];
}

static struct json *pieces_json(const struct running *running, const struct hash_file *file)
{
    struct json *array = json_new_array();

    for (uint64_t i = 0; i < hash_pieces(&running->how, file->size); i++) {
        json_add_text(array, file->pieces[i].digest);
    }
    return array;
}

static struct json *file_json(const struct running *running, const struct hash_file *file)
{
    struct json *object = json_new_object();

    json_put_text(object, "name", file->name);
    json_put_text(object, "kind", kind_name(file->kind));
    json_put_number(object, "size", file->size);
    if (file->problem != NULL) {
        json_put_text(object, "error", file->problem);
        return object;
    }
    json_put_text(object, "digest", file->digest);
    if (running->how.piece != 0) {
        json_put(object, "pieces", pieces_json(running, file));
    }
    return object;
}

/* The name as coreutils writes it, where it has a backslash or an end of line; for the caller. */
static char *escape(const char *name)
{
    char *escaped = malloc(2 * strlen(name) + 1), *to = escaped;

    for (; escaped != NULL && *name != '\0'; name++) {
        bool special = *name == '\\' || *name == '\n' || *name == '\r';

        if (special) {
            *to++ = '\\';
        }
        *to++ = *name == '\n' ? 'n' : *name == '\r' ? 'r' : *name;
    }
    if (escaped != NULL) {
        *to = '\0';
    }
    return escaped;
}

/*
 * Lines with a # are none to sha256sum -c. It takes no other escapes, so all else of a name is as
 * it is, unless somebody looks.
 */
static int print_file(const struct running *running, const struct hash_file *file)
{
    char *name = escape(file->name);

    if (name == NULL) {
        return error_set(&running->ctl->error, ENOMEM, "%s: out of memory", running->path);
    }
    for (uint64_t i = 0; i < hash_pieces(&running->how, file->size); i++) {
        uint64_t offset = i * running->how.piece;

        printable_exact_line(stdout, "# %s  %" PRIu64 "+%" PRIu64 "  %s", file->pieces[i].digest,
                             offset, min_u64(running->how.piece, file->size - offset), name);
    }
    printable_exact_line(stdout, "%s%s  %s", strcmp(name, file->name) != 0 ? "\\" : "",
                         file->digest, name);
    free(name);
    return 0;
}

/* What came of one, in the order of the list; each is told as soon as those before it are. */
static int take(struct running *running, struct hash_file *file)
{
    bool json = command_prints_json(&running->options->common);
    int r = 0;

    if (json) {
        json_add(running->list, file_json(running, file));
    } else if (file->problem == NULL) {
        r = print_file(running, file);
    }
    if (file->problem != NULL) {
        running->failed++;
        log_line(running->ctl->log, LOG_LEVEL_WARNING, "%s", file->problem);
    }
    free(file->pieces);
    file->pieces = NULL;
    return r;
}

static int print_json(struct running *running)
{
    struct json *object = json_new_object();
    int r;

    json_put_text(object, "filename", running->path);
    json_put_text(object, "algorithm", running->how.algorithm);
    if (running->how.piece != 0) {
        json_put_number(object, "piece-size", running->how.piece);
    }
    json_put(object, "files", running->list);
    running->list = NULL;
    r = ctl_print_json(running->ctl, object);
    json_free(object);
    return r;
}

/* --- All of it --------------------------------------------------------------------------- */

static int hash_all(struct running *running)
{
    struct hash_file *next = running->files;
    struct job *job;
    int r = 0;

    do {
        while (next != NULL && (job = workers_next(running->workers)) != NULL) {
            job->file = next;
            next = next->next;
            workers_submit(running->workers);
        }
        job = workers_oldest(running->workers);
        if (job != NULL) {
            r = take(running, job->file);
            workers_release(running->workers);
        }
    } while (job != NULL && r == 0);
    return r;
}

static int start(struct running *running)
{
    const struct hash_options *options = running->options;
    uint64_t jobs = options->jobs.set ? options->jobs.value : process_processors();
    struct workers_options workers = {.job_size = sizeof(struct job), .work = work};
    int r;

    running->jobs = (unsigned)min_u64(jobs, JOBS_MAX);
    workers.threads = running->jobs - 1; /* and the one that calls */
    workers.jobs = 2 * running->jobs;
    workers.context = running;
    running->buffers = calloc(running->jobs, sizeof(*running->buffers));
    for (unsigned i = 0; running->buffers != NULL && i < running->jobs; i++) {
        running->buffers[i] = malloc(HASH_BUFFER);
        if (running->buffers[i] == NULL) {
            return -ENOMEM;
        }
    }
    r = running->buffers != NULL ? workers_create(&workers, &running->workers) : -ENOMEM;
    return r;
}

static void stop(struct running *running)
{
    workers_destroy(running->workers);
    for (unsigned i = 0; running->buffers != NULL && i < running->jobs; i++) {
        free(running->buffers[i]);
    }
    free(running->buffers);
    hash_files_free(running->files);
    json_free(running->list);
    ctl_disk_close(&running->disk);
    pthread_mutex_destroy(&running->mutex);
}

/* Whether there is such a digest, before anything is opened. */
static int check_algorithm(const struct running *running)
{
    struct digest *digest;
    int r = digest_create(running->how.algorithm, &digest);

    digest_destroy(digest);
    if (r == -ENOSYS) {
        return error_set(&running->ctl->error, ENOSYS,
                         "a digest of %s needs %s, which is not here, or this program was built "
                         "without; install that library (and build it again), or choose another "
                         "--algorithm",
                         running->how.algorithm, digest_missing(running->how.algorithm));
    }
    return r == 0 ? 0
                  : error_set(&running->ctl->error, -r,
                              "the libgcrypt of this system does not have %s; choose another "
                              "--algorithm",
                              running->how.algorithm);
}

static int open_disk(struct running *running)
{
    const struct ctl_disk_request request = {
        .path = running->path,
        .format = running->options->format,
    };
    int r = ctl_disk_open(running->ctl, &request, &running->options->common, &running->disk);

    if (r == 0) {
        ctl_tell_traces(running->ctl, running->disk.image);
        image_may_start_threads(running->disk.image);
        r = hash_files_list(running->disk.image, running->disk.view, &running->files,
                            &running->ctl->error);
    }
    for (const struct hash_file *each = running->files; r == 0 && each != NULL; each = each->next) {
        /* A snapshot may say any size; that is only for the line of progress. */
        running->total = max_u64(running->total, running->total + each->size);
    }
    return r;
}

static int run(struct running *running)
{
    int r = start(running);

    if (r < 0) {
        return error_set(&running->ctl->error, -r, "%s: out of memory", running->path);
    }
    progress_begin(&running->progress, "qcow2ctl", "making digests", NULL);
    r = hash_all(running);
    progress_end(&running->progress);
    if (r == 0 && command_prints_json(&running->options->common)) {
        r = print_json(running);
    }
    if (r == 0 && running->failed > 0) {
        r = error_set(&running->ctl->error, EIO,
                      "%s: %" PRIu64 " of its files have no digest, as was told", running->path,
                      running->failed);
    }
    return r;
}

static int run_hash(struct ctl *ctl)
{
    const struct hash_options *options = ctl->options;
    struct running running = {
        .ctl = ctl,
        .options = options,
        .path = ctl->operands[0],
        .mutex = PTHREAD_MUTEX_INITIALIZER,
    };
    const struct ctl_box box = {.images = {ctl->operands[0]}, .decrypts = true};
    bool json = command_prints_json(&options->common);
    int r = json ? json_require(&ctl->error) : 0;

    running.how = (struct hash_how){
        .algorithm = algorithms[options->algorithm.set ? options->algorithm.value : 0],
        .piece = options->piece.value,
        .progress = show,
        .context = &running,
    };
    running.list = json ? json_new_array() : NULL;
    if (r == 0) {
        r = check_algorithm(&running);
    }
    if (r == 0) {
        r = ctl_box_enter(ctl, &options->common, &box);
    }
    if (r == 0) {
        r = open_disk(&running);
    }
    if (r == 0) {
        r = run(&running);
    }
    stop(&running);
    return r == 0 ? CTL_OK : CTL_FAILED;
}

#define FIELD(member) offsetof(struct hash_options, member)

static const struct option_spec hash_flags[] = {
    {.name = "format",
     .letter = 'f',
     .type = OPTION_CHOICE,
     .field = FIELD(format),
     .choices = CTL_DISK_FORMATS,
     .value_name = "FMT",
     .default_text = "what it looks like",
     .help = "the format of IMAGE: qcow2 or raw"},
    {.name = "algorithm",
     .letter = 'a',
     .type = OPTION_CHOICE,
     .field = FIELD(algorithm),
     .choices = DIGEST_ALGORITHMS,
     .value_name = "NAME",
     .default_text = "sha256",
     .help = "sha256, sha1, sha224, sha384, sha512, md5, b2 (BLAKE2b), or b3 (BLAKE3)"},
    {.name = "jobs",
     .letter = 'j',
     .type = OPTION_UINT,
     .field = FIELD(jobs),
     .min = 1,
     .max = JOBS_MAX,
     .value_name = "N",
     .default_text = "as many as processors",
     .help = "how many files are hashed at once"},
    {.name = "piecewise",
     .type = OPTION_SIZE,
     .field = FIELD(piece),
     .min = PIECE_MIN,
     .max = INT64_MAX,
     .value_name = "SIZE",
     .help = "also the digest of each piece of this size, as comments of the manifest"},
    FLAG_FORCE_SHARE(struct hash_options),
    FLAG_TRUST_NAMES(struct hash_options),
    FLAG_FOLLOW(struct hash_options),
    FLAG_KEY_FILE(struct hash_options),
    FLAG_KEY_ITERATIONS(struct hash_options),
    FLAG_LOCKING(struct hash_options),
    FLAG_SANDBOX(struct hash_options),
    {.name = "json",
     .type = OPTION_PRESET,
     .field = FIELD(common.output),
     .min = CTL_OUTPUT_JSON,
     .help = "print JSON: filename, algorithm, files (name, kind, size, digest, pieces)"},
    FLAG_OUTPUT(struct hash_options),
    {.name = NULL},
};

const struct command hash_command = {
    .name = "hash",
    .operands_text = "IMAGE",
    .min_operands = 1,
    .max_operands = 1,
    .summary = "print digests of a disk, its snapshots and its files",
    .description =
        "Reads the disk of an image, of each of its snapshots with their VM states, and\n"
        "the files of the host that these are made of (the image, what is behind it, data\n"
        "files), as many at once as there are processors, and prints their digests. What\n"
        "is known to be zeros is not read. The lines are those of sha256sum: where the\n"
        "image is mounted over a directory, sha256sum -c takes them there.\n",
    .examples = "  qcow2ctl hash evidence.qcow2 > evidence.sha256\n"
                "  qcow2fs -o ro evidence.qcow2 /mnt/e\n"
                "  (cd /mnt/e && sha256sum -c) < evidence.sha256\n"
                "  qcow2ctl hash -a sha1 --piecewise=1G --json evidence.qcow2\n",
    .options_size = sizeof(struct hash_options),
    .flags = hash_flags,
    .run = run_hash,
};
