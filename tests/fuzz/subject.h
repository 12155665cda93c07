/* SPDX-License-Identifier: MIT */
/*
 * An image under test: its file is in memory, its caches are as small as they
 * can be, what is behind it (where it names a backing file) and its data file
 * (where it has one) are those of bases.h, whatever their names.
 */
#ifndef FUZZ_SUBJECT_H
#define FUZZ_SUBJECT_H

#include "disk/image.h"
#include "util/log.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* How long the file may become: room enough for a write that is meant. */
#define SUBJECT_FILE_MOST (UINT64_C(12) << 20)

/* The directory is not there: no name in an image leads to a file of the host. */
#define SUBJECT_PATH "/nonexistent/fuzz/image.qcow2"

struct subject {
    struct log log; /* every line must be fit to print */
    struct image *image;
    char data_path[64];
    int data_fd; /* the data file's, -1 where it is not needed */
};

/*
 * Opens the bytes, which are copied. False when they are refused, with a
 * sentence that is as it should be. In any case to be closed. `data_file`: the
 * bytes of the data file, or NULL for those of bases.h.
 */
bool subject_open(struct subject *subject, const uint8_t *bytes, size_t size,
                  const uint8_t *data_file, size_t data_size, enum store_access access);
void subject_close(struct subject *subject);

/* The image file as it is now; valid until it changes. */
const uint8_t *subject_bytes(const struct subject *subject, size_t *size);

/* A copy of the data file for the caller to free; NULL without one. */
uint8_t *subject_data_file(const struct subject *subject, size_t *size);

/* Whether the host's room, as bounded, did not suffice for something. */
bool subject_was_full(const struct subject *subject);

/* Nothing in it that a terminal could take for a command. */
void expect_printable(const char *text);

/* A sentence is there, begins with the path, and can be printed. */
void expect_sentence(const struct error *error, int result);

#endif
