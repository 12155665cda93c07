/* SPDX-License-Identifier: MIT */
/*
 * Requests that may take long: a search for data or holes, the discarding or
 * preallocation of a range, another size. What ends one before it is done is its
 * struct stop: that who asked was interrupted, or that the daemon ends.
 *
 * That somebody was interrupted is a request, too, and so are the reads of all
 * others: so of the threads that take requests one at least does nothing that
 * takes long. A request that would be one too many waits here, and is done by
 * the next thread that has ended such a one; its own thread takes others.
 *
 * One leaf mutex, held for a moment.
 */
#ifndef FUSE_LONG_REQUESTS_H
#define FUSE_LONG_REQUESTS_H

#include "util/stop.h"

#include <pthread.h>
#include <stdint.h>
#include <sys/stat.h>

struct fuse_req;
struct fuse_session;
struct open_file;

/* What a request asks for, in the words of the kernel. */
struct long_request {
    struct long_request *next; /* that waits; the module's */
    struct fuse_req *request;
    struct stop stop;
    /* Does what is asked for, calls long_request_end(), and answers. */
    void (*serve)(struct long_request *asked);
    struct open_file *file; /* NULL: none was given */
    uint64_t inode;
    int mode; /* of fallocate(); of lseek(): whence; of setattr(): what to set */
    uint64_t offset;
    uint64_t length;
    struct stat attributes; /* of setattr() */
};

struct long_requests {
    pthread_mutex_t mutex; /* guards what is below it */
    struct stop ending;    /* of the daemon; `requested` before it takes no more requests */
    unsigned most;         /* that are served at the same time */
    unsigned serving;
    bool alone; /* one thread takes all requests: it cannot wait for what others would serve */
    struct long_request *first, **last; /* those that wait */
};

/* Of a session whose requests are taken by `threads` threads, or more than can be occupied: 0. */
void long_requests_init(struct long_requests *all, unsigned threads);
void long_requests_destroy(struct long_requests *all);

/* Of a session that has one thread, however many were said. */
void long_requests_set_alone(struct long_requests *all);

/* From here on the end of the session is that of the requests, too. */
void long_requests_end_with(struct long_requests *all, struct fuse_session *fuse);

/* All that are under way, and all to come, end soon. Any thread, at any time. */
void long_requests_end(struct long_requests *all);

/*
 * Has `asked` served: now, or later, from a copy. Fails the request with ENOMEM
 * where there is no memory for that.
 */
void long_requests_take(struct long_requests *all, const struct long_request *asked);

/* Has it served now, which cannot take long. */
void long_requests_serve(struct long_requests *all, const struct long_request *asked);

/* Whether there are requests that wait for the end of others. */
bool long_requests_wait(struct long_requests *all);

/* Before the answer: nobody interrupts it any more. */
void long_request_end(struct long_request *asked);

#endif
