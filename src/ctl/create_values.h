/* SPDX-License-Identifier: MIT */
/* What a new image is to be: the -o of create, and of the other commands that make one. */
#ifndef CTL_CREATE_VALUES_H
#define CTL_CREATE_VALUES_H

#include "admin/create.h"
#include "store/new_file.h"
#include "util/log.h"
#include "util/options.h"

/* The first member of the options of each such command. Zeros: not given. */
struct create_values {
    struct option_number size, compat, cluster_size, refcount_bits, compression_type, preallocation;
    struct option_bool lazy_refcounts, extended_l2, data_file_raw, encryption, nocow;
    struct option_number extent_size_hint;
    char *backing_file, *backing_format, *data_file;
    struct option_number encrypt_format, cipher, cipher_mode, iv, iv_hash, hash, iteration_time;
    char *key_secret;
};

/* The table, for struct command. */
extern const struct option_spec create_values[];

/*
 * Refuses options of an encryption that is not asked for, or of another one. 0, or a negative errno
 * with a sentence.
 */
int create_values_check(const struct create_values *values, const char *path, struct error *error);

/* Whether the image is to be encrypted. */
bool create_values_encrypt(const struct create_values *values);

/* Sets all but size; the names are borrowed. */
void create_values_take(const struct create_values *values, struct create_parameters *parameters);

/* Whether anything was given at all. */
bool create_values_given(const struct create_values *values);

/* Asks the host for what the values want of a file; one that it cannot give is logged. */
void create_values_hint(const struct create_values *values, const char *path, struct new_file *file,
                        struct log *log);

/* Refuses a device that has fewer than `needed` bytes, with a sentence. */
int create_check_device(const char *path, struct store *store, uint64_t needed,
                        struct error *error);

#endif
