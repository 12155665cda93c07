/* SPDX-License-Identifier: MIT */
/* Memory that is there or ends the program, numbers by chance that can be repeated, programs. */
#ifndef CRASH_TOOLS_H
#define CRASH_TOOLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Ends the program: the instrument itself failed, which says nothing of an image. */
_Noreturn void die(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Zeroed memory. */
void *grab(size_t size);

/* `array` with room for one element more than `count`; what is new is not zeroed. */
void *room(void *array, size_t count, size_t *capacity, size_t size);

/* Numbers that depend on the seed alone (splitmix64). */
struct chance {
    uint64_t state;
};

struct chance chance_from(uint64_t seed, uint64_t a, uint64_t b);
uint64_t chance_next(struct chance *chance);

/* From 0 to before `limit`, which is > 0. */
uint64_t chance_below(struct chance *chance, uint64_t limit);

/* A number for a name. */
uint64_t hash_name(const char *name);

/*
 * Runs a program with these arguments (NULL at the end) and no output; its exit
 * status. Dies where it cannot be run, or ended by a signal.
 */
int run_program(const char *const *arguments);

/* What the argument NAME=VALUE sets: a text, or a number. */
struct setting {
    const char *name;
    const char **text;
    uint64_t *number; /* where `text` is NULL */
};

/* Takes all arguments. Dies where one is none of the settings, or its value is no number. */
void take_settings(int count, char **arguments, const struct setting *settings,
                   size_t setting_count);

/* Buffers of a megabyte come and go with each state: not from the kernel each time. */
void tools_keep_memory(void);

/* A directory of its own; and away with it and its files. */
char *scratch_make(void);
void scratch_remove(char *directory);

/* Whole files, small ones. */
void write_file(const char *path, const void *data, uint64_t size);
uint8_t *read_file(const char *path, uint64_t *size);

#endif
