/* SPDX-License-Identifier: MIT */
/* What concerns the process as a whole, for who answers for it: main(), and the daemon's session.
 */
#ifndef PROCESS_H
#define PROCESS_H

#include <pthread.h>
#include <stdbool.h>
#include <sys/types.h>

/*
 * Opens the standard descriptors that are closed: a file that is opened later
 * must not become 0, 1 or 2, where who prints would write into it. 0 or a negative errno.
 */
int process_hold_standard_descriptors(void);

/* How many processors this process may use. */
unsigned process_processors(void);

/*
 * Threads that are made from now on have stacks of 1 MiB, of which the deepest call needs a
 * fraction. glibc keeps 40 MiB of the stacks of ended threads and unmaps the rest one by one: with
 * the usual 8 MiB that is most of the time that ending 16 threads takes.
 */
void process_limit_stacks(void);

/*
 * A thread that gets no signals: those are for the threads that wait for them. `name` is for top
 * and ps, up to 15 bytes that stay; NULL: that of the process. 0 or a negative errno.
 */
int process_start_thread(pthread_t *thread, const char *name, void *(*run)(void *context),
                         void *context);

/*
 * Whether memory may be left to the kernel at the end. Not where a sanitizer was built in, which
 * would call that a leak.
 */
bool process_may_leave_memory(void);

/* Who may send a process signals as it is his, whatever program it has become; false: there is
 * none. */
bool process_real_user(pid_t pid, uid_t *user);

/*
 * Calls `each` with the number of each FUSE connection that the process has a descriptor of, until
 * that returns true; whether it did. Kernels that do not say which connection is whose
 * (fuse_connection in fdinfo), and processes of others, have none.
 */
bool process_visit_connections(pid_t pid, bool (*each)(void *context, unsigned number),
                               void *context);

/*
 * 0 where that many descriptors can be had at this moment; -EMFILE, -ENFILE or -ENOMEM. For who
 * looks at many things, and would take what he cannot open for what is not there.
 */
int process_find_room(unsigned descriptors);

/* A long chain takes more descriptors than most shells allow at first. */
void process_raise_descriptor_limit(void);

#endif
