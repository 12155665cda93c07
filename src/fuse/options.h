/* SPDX-License-Identifier: MIT */
/*
 * The options of a mount: what stands behind -o. The table is the only place
 * that knows them; parsing, --help, the man page's list and shell completion
 * come from it.
 */
#ifndef FUSE_OPTIONS_H
#define FUSE_OPTIONS_H

#include "cache/sizes.h"
#include "util/options.h"

#define MOUNT_THREADS_DEFAULT 16
#define MOUNT_THREADS_MAX     256

/* As the user gave them. For options_parse(mount_option_table, ...) and options_release(). */
struct mount_options {
    struct option_bool read_only;
    struct option_bool read_write;
    struct option_bool force_share;
    struct option_bool allow_probed_backing;
    char *data_file; /* in place of the recorded name, or NULL */
    struct cache_options cache;
    struct option_number threads; /* the most workers */
    struct option_number uid;
    struct option_number gid;
    struct option_number mode;
    struct option_number umask;
    struct option_bool allow_other;
    struct option_bool allow_root;
    struct option_bool auto_unmount;
    char *fsname;  /* what stands in the mount table in place of the image's path, or NULL */
    char *subtype; /* in place of qcow2fs, or NULL */
    char *kernel;  /* mount flags for the kernel, comma-separated, as they came; or NULL */
};

extern const struct option_spec mount_option_table[];

#endif
