/* SPDX-License-Identifier: MIT */
/*
 * The requests of the kernel: each is decoded, given to the tree, the open
 * files or a view, and answered. Any number of threads serve requests at the
 * same time; none waits for another's read.
 */
#ifndef FUSE_OPS_H
#define FUSE_OPS_H

#include "disk/image.h"
#include "disk/writer.h"
#include "fuse/files.h"
#include "fuse/long_requests.h"
#include "fuse/lost.h"
#include "fuse/options.h"
#include "fuse/page_cache.h"
#include "fuse/source.h"
#include "fuse/stats.h"
#include "fuse/tree.h"

#include <pthread.h>

/* Bytes of the largest request; the kernel must be told the same when it mounts. */
#define OPS_REQUEST_MAX (1U << 20)

struct fuse_lowlevel_ops;
struct fuse_session;
struct later;
struct own_mount;

/* What the handlers work on: the user data of the session. */
struct filesystem {
    struct image *image;
    struct writer *writer; /* NULL where nothing can be written */
    struct log *log;
    struct tree *tree;
    struct files *files;
    struct fuse_session *fuse; /* the session's, to be set before the first request */
    struct own_mount *own;     /* likewise; with a writer */
    struct later *later;       /* what nobody who takes requests waits for; with a writer */
    struct later *old_end;     /* fuse/old_end's; with a writer */
    struct later *changes;     /* another one, for snapshots: it waits for requests, and so for the
                                  former, too */
    struct page_cache page_cache;
    bool kernel_caches_writes; /* it does not tell us of each at once; known after the start */
    bool is_growable;
    bool shows_zeros; /* for what cannot be read */
    bool may_shrink;
    bool unmaps; /* what is discarded */
    struct stats stats;
    struct lost lost;
    struct long_requests long_requests;
    pthread_key_t buffers;        /* each thread's buffer for what it answers */
    void (*ready)(void *context); /* called once, by some thread: the files can be used */
    void *ready_context;
};

/* What is in `source`, and `log`, are borrowed. 0, or a negative errno with a sentence. */
int filesystem_create(const struct source *source, const struct mount_options *options,
                      bool root_is_directory, struct log *log, struct filesystem **filesystem,
                      struct error *error);

/* No request may be under way. Frees the calling thread's buffer too. May be NULL. */
void filesystem_destroy(struct filesystem *filesystem);

extern const struct fuse_lowlevel_ops filesystem_operations;

#endif
