/* SPDX-License-Identifier: MIT */
/*
 * What a process gives up before it looks at bytes of strangers: rights that it does not need any
 * more, so that a mistake of ours is not the host's. All that it needs is open already; what is
 * left to it is to read and write that.
 *
 *     privileges    no exec gives it any (no_new_privs), and it has no capabilities
 *     memory        no core dump, and no other process of the user looks into it
 *     system calls  those of serving; others fail with ENOSYS, so that the C library does without,
 *                   and those that only an attacker makes end the process (libseccomp)
 *     files         nothing is opened by a path any more (Landlock; where the kernel has none, by
 *                   the system calls, which then leave out what is allowed below)
 *     network       no TCP, no abstract sockets, no signals to other processes (Landlock)
 *
 * A thread passes it on to those that it starts: to be entered before there are any.
 */
#ifndef UTIL_BOX_H
#define UTIL_BOX_H

#include <linux/filter.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define BOX_PROGRAM_MAX 4096 /* instructions, as the kernel has it */

/* What is allowed besides. */
struct box_needs {
    bool fuse_device; /* each thread opens /dev/fuse for itself */
    bool io_uring;
    bool opener;             /* descriptors come from another process, which is waited for */
    bool terminal;           /* it is asked what is one, and keys are typed there */
    bool network;            /* connections to servers, by name, in all ways of libnbd */
    bool local_server;       /* connections by sockets that have a place in the file system */
    const char *const *read; /* files and directories for that, NULL at the end; or NULL */
};

/* What is in force. */
struct box {
    bool privileges, memory, calls, files, network; /* as above */
    bool landlock; /* without it nothing at all can be opened, or with `network` everything */
};

/* Whether this build has what filters system calls. */
bool box_is_built_in(void);

/* Whether the kernel has it. */
bool box_has_landlock(void);

/*
 * Another process, which puts the filter of system calls together meanwhile (box_filter_end() with
 * the same needs, and for this process, with `opens` as box_has_landlock() says it): its program,
 * room for BOX_PROGRAM_MAX instructions, and their number, or 0.
 */
struct box_helper {
    size_t (*take)(void *context, struct sock_filter *program);
    void *context;
};

/*
 * Does all that the kernel and the build can do, and says in `box` what that was. `helper` may be
 * NULL.
 */
void box_enter(const struct box_needs *needs, const struct box_helper *helper, struct box *box);

/* Keeps of the capabilities of root what unmounting needs, and reaching a mount. */
void box_keep_to_mounts(void);

/* What is not in force, and why, as the end of a sentence; NULL: nothing is missing. */
const char *box_missing(const struct box *box);

#endif
