/* SPDX-License-Identifier: MIT */
/*
 * The options of a mount: what stands behind -o. The table is the only place
 * that knows them; parsing, --help, the man page's list and shell completion
 * come from it.
 */
#ifndef FUSE_OPTIONS_H
#define FUSE_OPTIONS_H

#include "cache/sizes.h"
#include "disk/image.h"
#include "disk/writer.h"
#include "store/file.h"
#include "store/read_cache.h"
#include "util/options.h"

#define MOUNT_THREADS_DEFAULT 16
#define MOUNT_THREADS_REMOTE  64
#define MOUNT_THREADS_MAX     256

/* What becomes of the space of what is discarded. */
enum mount_discard {
    MOUNT_DISCARD_UNMAP,
    MOUNT_DISCARD_IGNORE,
};

enum mount_locking {
    MOUNT_LOCKING_ON,
    MOUNT_LOCKING_OFF,
};

/* util/box.h; strict: all of it, or no mount. */
enum mount_sandbox {
    MOUNT_SANDBOX_ON,
    MOUNT_SANDBOX_OFF,
    MOUNT_SANDBOX_STRICT,
};

enum mount_format {
    MOUNT_FORMAT_QCOW2,
    MOUNT_FORMAT_RAW,
};

/* As the user gave them. For options_parse(mount_option_table, ...) and options_release(). */
struct mount_options {
    struct option_bool read_only; /* what the later one of ro and rw says */
    struct option_bool force_share;
    struct option_bool allow_probed_backing;
    struct option_bool trust_names;
    struct option_bool shown_to_others;      /* by what is put on top of the disk */
    struct option_bool errno_told;           /* behind the sentence of an error */
    struct option_number follow;             /* enum image_follow */
    char *key_files;                         /* for keys_open(), or NULL */
    struct option_number key_iterations_max; /* 0: any */
    struct option_number locking;            /* enum mount_locking */
    char *data_file;                         /* in place of the recorded name, or NULL */
    char *backing_file;                      /* likewise */
    char *at_snapshot;                       /* ID or name of the one that is shown, or NULL */
    char *salvage;                           /* "", "zeros", or NULL */
    struct option_number cluster_size, virtual_size, l1_offset; /* bytes, for salvaging */
    struct option_bool evidence; /* show what is beside the disks; implies ro */
    struct option_number format; /* enum mount_format; recognised where it may be */
    char *overlay;               /* "" for one that is thrown away, its file, or NULL */
    struct option_bool snapshot; /* QEMU's word for the former */
    char *overlay_dir;           /* where the file of one that is thrown away is made, or NULL */
    struct option_number overlay_max; /* bytes */
    struct cache_options cache;
    struct option_number cache_mode;      /* enum store_cache */
    struct option_number nbd_timeout;     /* seconds */
    char *read_cache;                     /* the file of one, or NULL */
    struct option_number read_cache_size; /* bytes */
    struct option_bool read_cache_keep;
    char *nbdkit;                           /* words of a server to be run, or "", or NULL */
    struct option_number discard;           /* enum mount_discard */
    struct option_bool growable;            /* a write past the end makes the disk larger */
    char *compress;                         /* what is new: type, "" for the image's, or NULL */
    struct option_bool shrink;              /* truncating the file may make the disk smaller */
    struct option_bool lazy_refcounts;      /* in place of the image's own bit */
    struct option_bool repair;              /* of counts; only where marked dirty if not set */
    struct option_number check;             /* of counts, enum writer_check; auto */
    struct option_number metadata_interval; /* seconds */
    struct option_number threads;           /* the most workers */
    struct option_bool io_uring;            /* how requests come from the kernel */
    struct option_number uid;
    struct option_number gid;
    struct option_number mode;
    struct option_number umask;
    struct option_bool allow_other;
    struct option_bool allow_root;
    struct option_bool auto_unmount;
    struct option_number sandbox; /* enum mount_sandbox */
    struct option_bool nonempty;  /* a directory that is not empty may be mounted on */
    char *fsname;         /* what stands in the mount table in place of the image's path, or NULL */
    char *subtype;        /* in place of qcow2fs, or NULL */
    char *pid_file;       /* gets the number of the daemon's process; or NULL */
    char *mounted_device; /* MAJOR:MINOR of a mount that has no name, from who made it; or NULL */
    char *kernel;         /* mount flags and labels for the kernel, comma-separated; or NULL */
};

extern const struct option_spec mount_option_table[];

/*
 * A list of them, as options_parse(). `whole`: the argument that it is part of, as in -oro, or
 * NULL; a file may have such a name, which a wildcard of a shell finds, and it runs no program.
 */
int mount_take_options(const char *list, const char *whole, struct mount_options *options,
                       struct error *error);

/* The most that take requests: more where a request of this chain is waiting for a server, mostly.
 */
unsigned mount_threads(const struct mount_options *options, const struct image *image);

/* Seconds that an NBD server may take for a request. */
unsigned mount_nbd_timeout(const struct mount_options *options);

/* Whether nothing is to be written: ro, or what implies it. */
bool mount_is_read_only(const struct mount_options *options);

/* cache=, or its default. */
enum store_cache mount_cache_mode(const struct mount_options *options);

/* Which files are opened that an image names, and with whose rights. */
struct image_names mount_names(const struct mount_options *options);

/* What the image is said to be; and whether that is seen by looking at it. */
enum image_format mount_format(const struct mount_options *options);
bool mount_recognises_format(const struct mount_options *options);

/* Whether something else is written to than the image; the file that is kept, or NULL. */
bool mount_has_overlay(const struct mount_options *options);
const char *mount_overlay_file(const struct mount_options *options);

/* Whether what is said of overlays and snapshots fits together. -EINVAL with a sentence. */
int mount_check_overlay(const struct mount_options *options, struct error *error);

/* Whether what is said of compressing can be done to an image that is written. -EINVAL likewise. */
int mount_check_compress(const struct mount_options *options, struct error *error);

/*
 * Whether what is said of a read cache fits together; -EINVAL likewise. *cache is what it is to be,
 * with a path of NULL where there is to be none.
 */
int mount_read_cache(const struct mount_options *options, struct read_cache_options *cache,
                     struct error *error);

/* What a writer is to do by these options. */
void mount_writer_options(const struct mount_options *options, struct writer_options *writer);

#endif
