/* SPDX-License-Identifier: MIT */
/*
 * One mount, from its beginning to its end: the mount point, the kernel mount,
 * the way into the background, worker threads, signals, unmounting.
 *
 *     session_open()        mounted; nobody answers yet
 *     session_background()  two processes, and the first waits for the second
 *     session_serve()       requests are answered, until unmount or a signal
 *     session_close()       unmounted, all returned
 *
 * Of a disk that can be written the kernel may hold changes. It hands them over
 * when it is unmounted; before a signal ends the service, they are asked for.
 */
#ifndef FUSE_SESSION_H
#define FUSE_SESSION_H

#include "disk/image.h"
#include "disk/writer.h"
#include "fuse/announce.h"
#include "fuse/options.h"
#include "fuse/source.h"
#include "fuse/steward.h"
#include "util/error.h"
#include "util/log.h"

#include <stdbool.h>
#include <sys/types.h>

struct session;

struct session_settings {
    const struct source *source; /* its writer is not started yet */
    struct log *log;
    struct steward *steward; /* is told of the mount, and unmounts it */
    log_sink_fn
        *background_sink;    /* where the log goes once there is no terminal, with the steward */
    const char *mount_point; /* a regular file or a directory */
    const struct mount_options *options;
    struct announce *announce; /* is told when the raw file answers */
    bool debug;                /* every request is logged */
    bool single_threaded;
};

/*
 * Checks the mount point and mounts. `settings` and all that it names are
 * borrowed, and outlive the session. 0, or a negative errno with a sentence;
 * nothing is mounted then.
 */
int session_open(const struct session_settings *settings, struct session **session,
                 struct error *error);

enum session_process {
    SESSION_SERVER,  /* the one in the background: it serves */
    SESSION_DONE,    /* the one that was started: the raw file answers, its work is done */
    SESSION_GAVE_UP, /* likewise, but the server failed; it has said why, if there is no error */
};

/*
 * Makes a server process that has no terminal; the process that called waits
 * until the raw file answers or the server has failed. No thread may run. The
 * two share everything, the mount and the image included: unless *process is
 * SESSION_SERVER nothing may be closed or destroyed, only _exit() is right.
 * Returns 0, or a negative errno with a sentence; *process is set in both cases.
 */
int session_background(struct session *session, enum session_process *process, struct error *error);

/*
 * Hands over the socket on which qcow2ctl asks (registry_listen()), or -1. Before
 * session_serve(), which answers there where the disk can be written.
 */
void session_set_control(struct session *session, int listening);

/* The device of the files under the mount point; 0 where that could not be told. */
dev_t session_device(const struct session *session);

/* Returns 0 after an unmount or a signal to end; a negative errno with a sentence. */
int session_serve(struct session *session, struct error *error);

/* Unmounts, if that is not done yet. `session` may be NULL. */
void session_close(struct session *session);

/* The version of the libfuse that is used. */
const char *session_fuse_version(void);

#endif
