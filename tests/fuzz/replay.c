/* SPDX-License-Identifier: MIT */
/*
 * main() of a fuzz target where there is no fuzzer:
 *
 *     fuzz-NAME                    TAP: the corpus, then seeded changes of it and of the seeds
 *     fuzz-NAME FILE...            runs these inputs
 *     fuzz-NAME --seeds DIRECTORY  writes the seeds there, for the fuzzer to begin with
 *     fuzz-NAME --seed=N ...       begins the changes with another seed
 *     fuzz-NAME --seconds=N ...    and goes on for that long, of CPU time
 *
 * The input that fails is left in the current directory, as fail-NAME.
 */
#include "config.h"

#include "chance.h"
#include "target.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define HANG_SECONDS   10  /* of CPU time; a busy machine is no hang */
#define SLEEP_SECONDS  120 /* a deadlock takes none */
#define RANDOM_SECONDS 8
#define ROUNDS_MOST    4000 /* without --seconds: the same work on every machine that can do it */

struct input {
    uint8_t *data;
    size_t size;
};

struct corpus {
    struct input *inputs;
    size_t count;
};

/* What a signal's handler needs, which gets no context: the input that runs now. */
static struct {
    const uint8_t *data;
    size_t size;
    char path[64];
} current;

void __sanitizer_set_death_callback(void (*callback)(void)) __attribute__((weak));

static _Noreturn void stop(const char *what)
{
    perror(what);
    exit(EXIT_FAILURE);
}

static void keep_current(void)
{
    int file = open(current.path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);

    if (file >= 0 && write(file, current.data, current.size) == (ssize_t)current.size) {
        static const char text[] = "Bail out! an input failed, and is left in the file ";

        (void)!write(STDOUT_FILENO, text, sizeof(text) - 1);
        (void)!write(STDOUT_FILENO, current.path, strlen(current.path));
        (void)!write(STDOUT_FILENO, "\n", 1);
    }
}

static void on_signal(int number)
{
    static const char hang[] = "an input takes more than 10 seconds\n";

    keep_current();
    if (number == SIGALRM || number == SIGPROF) {
        (void)!write(STDERR_FILENO, hang, sizeof(hang) - 1);
        number = SIGABRT;
    }
    signal(number, SIG_DFL);
    raise(number);
}

static void watch(void)
{
    snprintf(current.path, sizeof(current.path), "fail-%s", target_name);
    signal(SIGALRM, on_signal);
    signal(SIGPROF, on_signal);
    signal(SIGABRT, on_signal);
    if (__sanitizer_set_death_callback != NULL) {
        __sanitizer_set_death_callback(keep_current);
        return;
    }
    signal(SIGSEGV, on_signal);
    signal(SIGBUS, on_signal);
    signal(SIGFPE, on_signal);
    signal(SIGILL, on_signal);
}

/* 0: no limit. */
static void limit_time(unsigned busy, unsigned asleep)
{
    const struct itimerval timer = {.it_value = {.tv_sec = busy}};

    setitimer(ITIMER_PROF, &timer, NULL);
    alarm(asleep);
}

/* On memory of exactly that size, so that a sanitizer sees every step beyond it. */
static void run(const uint8_t *data, size_t size)
{
    uint8_t *copy = malloc(size > 0 ? size : 1);

    if (copy == NULL) {
        stop("malloc");
    }
    memcpy(copy, data, size);
    current.data = copy;
    current.size = size;
    limit_time(HANG_SECONDS, SLEEP_SECONDS);
    LLVMFuzzerTestOneInput(copy, size);
    limit_time(0, 0);
    free(copy);
}

/* --- Inputs
 * ------------------------------------------------------------------------------------------ */

static void add(struct corpus *corpus, uint8_t *data, size_t size)
{
    corpus->inputs = realloc(corpus->inputs, (corpus->count + 1) * sizeof(*corpus->inputs));
    if (corpus->inputs == NULL) {
        stop("realloc");
    }
    corpus->inputs[corpus->count++] = (struct input){data, size};
}

static void add_file(struct corpus *corpus, const char *path)
{
    FILE *file = fopen(path, "rbe");
    long size;
    uint8_t *data;

    if (file == NULL || fseek(file, 0, SEEK_END) != 0 || (size = ftell(file)) < 0) {
        stop(path);
    }
    rewind(file);
    data = malloc((size_t)size + 1);
    if (data == NULL || fread(data, 1, (size_t)size, file) != (size_t)size) {
        stop(path);
    }
    fclose(file);
    add(corpus, data, (size_t)size);
}

static int is_input(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

/* In the order of their names, so that a seed means the same everywhere. */
static void add_directory(struct corpus *corpus, const char *directory)
{
    struct dirent **entries;
    int count = scandir(directory, &entries, is_input, alphasort);

    if (count < 0) {
        stop(directory);
    }
    for (int i = 0; i < count; i++) {
        char *path;

        if (asprintf(&path, "%s/%s", directory, entries[i]->d_name) < 0) {
            stop("asprintf");
        }
        add_file(corpus, path);
        free(path);
        free(entries[i]);
    }
    free(entries);
}

static void add_seeds(struct corpus *corpus)
{
    struct input seed;

    for (unsigned i = 0; (seed.data = target_seed(i, &seed.size)) != NULL; i++) {
        add(corpus, seed.data, seed.size);
    }
}

static void release(struct corpus *corpus)
{
    for (size_t i = 0; i < corpus->count; i++) {
        free(corpus->inputs[i].data);
    }
    free(corpus->inputs);
}

/* --- Changes of them
 * --------------------------------------------------------------------------------- */

static size_t change_bytes(struct chance *chance, uint8_t *data, size_t size, size_t most)
{
    size_t at = size > 0 ? chance_below(chance, size) : 0;

    switch (chance_below(chance, 5)) {
    case 0: /* a bit */
        data[at] = (uint8_t)(data[at] ^ 1 << chance_below(chance, 8));
        break;
    case 1: /* cut off */
        size = at;
        break;
    case 2: /* a byte more */
        if (size < most) {
            memmove(data + at + 1, data + at, size - at);
            data[at] = (uint8_t)chance_u64(chance);
            size++;
        }
        break;
    case 3: /* a few at the end */
        for (uint64_t count = chance_below(chance, 16); count > 0 && size < most; count--) {
            data[size++] = (uint8_t)chance_u64(chance);
        }
        break;
    default:
        data[at] = (uint8_t)chance_u64(chance);
    }
    return size;
}

static void run_changed(struct chance *chance, const struct input *input, uint8_t *room)
{
    size_t size = input->size < target_most ? input->size : target_most;
    uint64_t changes = 1 + chance_below(chance, 4);

    memcpy(room, input->data, size);
    for (; changes > 0; changes--) {
        if (LLVMFuzzerCustomMutator != NULL && chance_below(chance, 8) != 0) {
            size = LLVMFuzzerCustomMutator(room, size, target_most, (unsigned)chance_u64(chance));
        } else {
            size = change_bytes(chance, room, size, target_most);
        }
    }
    run(room, size);
}

/* How many were run. */
static uint64_t run_random(const struct corpus *corpus, uint64_t seed, unsigned seconds)
{
    clock_t end = clock() + (clock_t)(seconds > 0 ? seconds : RANDOM_SECONDS) * CLOCKS_PER_SEC;
    uint8_t *room = malloc(target_most + 1);
    struct chance chance = {seed};
    uint64_t rounds = 0;

    if (room == NULL) {
        stop("malloc");
    }
    while (clock() < end && (seconds > 0 || rounds < ROUNDS_MOST)) {
        run_changed(&chance, &corpus->inputs[chance_below(&chance, corpus->count)], room);
        rounds++;
    }
    free(room);
    return rounds;
}

/* --- As a test
 * ---------------------------------------------------------------------------------------- */

static void run_all(const struct corpus *corpus)
{
    for (size_t i = 0; i < corpus->count; i++) {
        run(corpus->inputs[i].data, corpus->inputs[i].size);
    }
}

static void run_as_test(uint64_t seed, unsigned seconds)
{
    const char *sources = getenv("QCOW2FS_SRCDIR");
    struct corpus corpus = {0};
    char *directory;
    uint64_t rounds;

    if (asprintf(&directory, "%s/tests/fuzz/corpus/%s", sources != NULL ? sources : ".",
                 target_name) < 0) {
        stop("asprintf");
    }
    add_directory(&corpus, directory);
    free(directory);
    printf("1..2\n");
    run_all(&corpus);
    printf("ok 1 - the %zu inputs of the corpus do no harm (%s)\n", corpus.count, target_name);
    fflush(stdout);
    add_seeds(&corpus);
    rounds = run_random(&corpus, seed, seconds);
    printf("# %" PRIu64 " inputs from seed %" PRIu64 "\n", rounds, seed);
    printf("ok 2 - inputs made at random from the corpus do no harm (%s)\n", target_name);
    release(&corpus);
}

int main(int count, char **arguments)
{
    struct corpus corpus = {0};
    uint64_t seed = 1;
    unsigned seconds = 0;
    int i;

    watch();
    for (i = 1; i < count && strncmp(arguments[i], "--", 2) == 0; i++) {
        if (strcmp(arguments[i], "--seeds") == 0 && i + 1 < count) {
            seeds_write(arguments[i + 1]);
            return EXIT_SUCCESS;
        }
        if (strncmp(arguments[i], "--seed=", 7) == 0) {
            seed = strtoull(arguments[i] + 7, NULL, 10);
        } else if (strncmp(arguments[i], "--seconds=", 10) == 0) {
            seconds = (unsigned)strtoul(arguments[i] + 10, NULL, 10);
        } else {
            fprintf(stderr, "%s: unknown option %s; see tests/fuzz/README.md\n", arguments[0],
                    arguments[i]);
            return 2;
        }
    }
    if (i == count) {
        run_as_test(seed, seconds);
        return EXIT_SUCCESS;
    }
    for (; i < count; i++) {
        add_file(&corpus, arguments[i]);
    }
    run_all(&corpus);
    release(&corpus);
    printf("%d inputs did no harm\n", count - 1);
    return EXIT_SUCCESS;
}
