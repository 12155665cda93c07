/* SPDX-License-Identifier: MIT */
/*
 * An image and its backing chain, opened, validated and locked. This module
 * owns the stores, the parsed metadata and the chain; what the guest sees of
 * it is read through a view (disk/view.h).
 *
 * After image_open() the chain does not change while it is mounted read-only,
 * so the fields below are read without a lock.
 */
#ifndef IMAGE_IMAGE_H
#define IMAGE_IMAGE_H

#include "cache/cache.h"
#include "codec/codec.h"
#include "meta/header.h"
#include "meta/mapping.h"
#include "meta/snapshot.h"
#include "store/file.h"
#include "util/error.h"
#include "util/log.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The longest chain that is opened; one image needs one or two file descriptors. */
#define IMAGE_CHAIN_MAX 1000

struct cipher;
struct inflight;
struct keys;
struct resolved;
struct sectors;
struct team;

enum image_format {
    IMAGE_QCOW2,
    IMAGE_RAW,
};

/*
 * With whose rights the files are opened that an image names, where its owner is another user than
 * who runs this program: an image must not lead him to what its owner cannot reach himself. Each
 * image's names are those of that image's owner; names that the user gives are the user's. An image
 * of an NBD server has no owner: what it names is opened only where names are trusted.
 */
enum image_rights {
    IMAGE_NAMES_OF_OWNER, /* the owner's */
    IMAGE_NAMES_PRIVATE,  /* the user's, who keeps to himself what he sees; to be written, the
                             owner's */
    IMAGE_NAMES_TRUSTED,  /* the user's: he knows what they lead to */
};

/* Which names are followed at all. Those that the user gives always are. */
enum image_follow {
    IMAGE_FOLLOW_FILES,  /* regular files and block devices of this machine, wherever they are */
    IMAGE_FOLLOW_ALL,    /* also addresses of servers */
    IMAGE_FOLLOW_BESIDE, /* regular files in the directory of the image that names them, or below */
    IMAGE_FOLLOW_NONE,
};

/* For tables of options: in the order of the enumeration. */
#define IMAGE_FOLLOW_CHOICES      "files all beside none"
#define IMAGE_FOLLOW_CHOICES_HELP "files|all|beside|none"

/* The policy for what images name. All zero: the most careful about rights, files followed. */
struct image_names {
    enum image_rights rights;
    enum image_follow follow;
};

struct image_options {
    enum image_format format; /* of the active image; a raw one is only read, and has no header */
    bool recognised;          /* it is what the file looks like, in place of that */
    enum store_access access; /* of the active image; the images behind it are only read */
    enum store_cache cache;   /* of all of them */
    unsigned nbd_timeout;     /* of all of them, as in struct store_file_options */
    /* Of the first file of the chain that is on a server; borrowed until it is open, or NULL. */
    const struct read_cache_options *read_cache;
    struct image_names names; /* that they bring along */
    bool no_locks;            /* of all of them */
    bool alone; /* the active image's tables are all that is wanted: what is behind stays closed */
    bool allow_probed; /* a backing file of unrecorded format may name further files */
    /* Of the active image: its file, open already, which image_open() takes over; or NULL. */
    struct store *opened;
    const char *data_file;    /* in place of the active image's recorded name, or NULL */
    const char *backing_file; /* likewise */
    bool backing_named; /* the active image's recorded name is one that the user has given now */
    const char
        *at_snapshot; /* name or ID of the snapshot that it shows, which is only read; or NULL */
    /* For what is encrypted; borrowed until the chain is open. NULL: its data is not wanted, and
       cannot be read. */
    struct keys *keys;
    uint64_t first_number; /* the active image's: 1 where another is to be put before it */
    enum codec_backend codec;
};

/* What tells whether another file of the host is the same one; zeros of what a server has. */
struct image_file {
    dev_t device;
    ino_t inode;
    dev_t node; /* the block device that it is; 0: it is none */
};

struct image {
    enum image_format format;
    uint64_t number; /* 0 for the active image; the owner in cache keys */
    char *path;      /* as it was opened: given by the user or made from the overlay's name */
    struct log *log;
    struct store *file;
    struct store *data_file; /* where DATA extents lie: `file` unless there is an external one */
    char *data_file_path;    /* NULL without an external data file */
    struct image_file is, data_is; /* `file` and `data_file`, as long as they are open */
    _Atomic uint64_t virtual_size; /* bytes; a writer may change it */
    _Atomic uint64_t cuts;         /* how often it became smaller, before anything was dropped */
    bool is_device;                /* the file is a block device */
    uint64_t file_size;            /* bytes, when it was opened */
    uint64_t preferred;            /* bytes, of requests to `file`: as in struct store_info */
    struct image *backing;         /* NULL at the end of the chain */

    /* qcow2 only */
    struct header *header;
    struct snapshot_table *snapshots; /* of the active image; NULL in those behind it */
    struct mapping *active;           /* of the active L1 table, or of at_snapshot's */
    const struct snapshot
        *at_snapshot;      /* of `snapshots`: what is shown in place of the active state */
    struct cipher *cipher; /* of its data clusters (disk/encrypted.h); NULL where there is no key */
    struct team *team;     /* who share the work of that; NULL: a thread does its own */
    struct codec *codec;   /* NULL where this build cannot read the compression type */
    struct cache *cache;   /* the daemon's, set by image_attach_cache() */
    /* R4: where reads count as under way while there is a writer; else NULL */
    struct inflight *inflight;
    struct sectors *sectors; /* of an encrypted image: which are being written; likewise */
    /* Nothing forks any more, so reading may start threads of its own. */
    _Atomic bool may_start_threads;
    struct resolved *behind; /* of the active image: what is behind it; NULL where that is little */
    /* Of the active image: made by admin/overlay to be written in place of the one behind it. */
    bool is_overlay;
    bool is_kept;         /* the overlay, in the file `path`; else it ends with this process */
    bool is_new;          /* likewise, and that file was made with this */
    uint64_t overlay_max; /* bytes of its file; 0: no bound */
};

/* The image that the user has named: where there is an overlay, the one behind it. */
static inline struct image *image_named(struct image *image)
{
    return image->is_overlay ? image->backing : image;
}

/* Whether nothing of what is written to it outlives this process. */
static inline bool image_is_thrown_away(const struct image *image)
{
    return image->is_overlay && !image->is_kept;
}

/*
 * Opens the image at `path` and all that it needs to be read. On failure
 * nothing is left open, and `error` has the sentence. `log` outlives the image.
 */
int image_open(const char *path, const struct image_options *options, struct log *log,
               struct image **image, struct error *error);

/*
 * Resolves `options` for this chain, makes the cache and gives it to every
 * image of the chain. To be called once, before the first view is read.
 * image_close() destroys it.
 */
int image_attach_cache(struct image *image, const struct cache_options *options,
                       struct error *error);

/* What the arithmetic of cache sizes needs; the header's refcount order must be possible. */
void image_cache_geometry(const struct header *header, uint64_t file_size,
                          struct cache_geometry *geometry);

/* Closes what is behind `image`, of a chain that has no cache yet, as if it named nothing. */
void image_part_from_backing(struct image *image);

/*
 * Locks what is known of keys in memory again, in a process that was forked after image_open(). A
 * warning in the log where that cannot be.
 */
void image_lock_keys(const struct image *image);

/* Whether its file or its data file is; of this image alone, not of those behind it. */
bool image_is_on_server(const struct image *image);

/*
 * From now on the process does not fork, so that reading the chain may start threads: at most once,
 * before it is read by several.
 */
void image_may_start_threads(struct image *image);

/* The same of its files alone: for who has threads of its own that decompress. */
void image_may_read_ahead(struct image *image);

/* Closes the whole chain. Every view on it must be closed. `image` may be NULL. */
void image_close(struct image *image);

/*
 * The same for who ends the process at once: what the cache holds is left to the kernel, which
 * takes all of it back in less time than the cache takes to give back its blocks one by one.
 */
void image_close_to_exit(struct image *image);

/* Bytes of host space that the image file and its data file occupy now. 0 or a negative errno. */
int image_allocated(const struct image *image, uint64_t *bytes);

#endif
