/* SPDX-License-Identifier: MIT */
#include "config.h"

#define FUSE_USE_VERSION 312

#include "fuse/old_end.h"

#include "fuse/later.h"
#include "fuse/messages.h"
#include "fuse/own_mount.h"
#include "util/checked.h"
#include "util/deadline.h"

#include <errno.h>
#include <fuse_lowlevel.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

struct clearing {
    struct later_job job;
    struct fuse_session *fuse;
    uint64_t inode, from, to;
    /*
     * The zeros. The kernel takes them from here when it has the page, and only then: where this
     * cannot be read any more, it changes nothing (EFAULT).
     */
    void *zeros;
    size_t page_size;
    pthread_mutex_t mutex; /* guards what follows */
    pthread_cond_t changed;
    bool is_done, is_given_up; /* who is second frees it */
    int result;
};

static uint64_t page_size(void)
{
    return (uint64_t)sysconf(_SC_PAGESIZE);
}

bool old_end_shares_page(uint64_t old_end, uint64_t offset)
{
    return old_end / page_size() == offset / page_size();
}

static void destroy(struct clearing *clearing)
{
    munmap(clearing->zeros, clearing->page_size);
    pthread_cond_destroy(&clearing->changed);
    pthread_mutex_destroy(&clearing->mutex);
    free(clearing);
}

static int create(const struct filesystem *filesystem, struct clearing **clearing)
{
    struct clearing *made = calloc(1, sizeof(*made));

    if (made == NULL) {
        return -ENOMEM;
    }
    made->page_size = (size_t)page_size();
    made->zeros = mmap(NULL, made->page_size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (made->zeros == MAP_FAILED) {
        free(made);
        return -ENOMEM;
    }
    made->fuse = filesystem->fuse;
    pthread_mutex_init(&made->mutex, NULL);
    deadline_condition(&made->changed);
    *clearing = made;
    return 0;
}

/* A file that the kernel does not know has no pages; a kernel that cannot be told, as it was. */
static int store_zeros(const struct clearing *clearing)
{
    struct fuse_bufvec zeros = FUSE_BUFVEC_INIT((size_t)(clearing->to - clearing->from));
    int r;

    zeros.buf[0].mem = clearing->zeros;
    messages_quiet(true); /* of EFAULT */
    r = fuse_lowlevel_notify_store(clearing->fuse, clearing->inode, (off_t)clearing->from, &zeros,
                                   0);
    messages_quiet(false);
    return r == -ENOENT || r == -ENOSYS ? 0 : r;
}

/* In the thread that nobody waits for. */
static void serve(struct later_job *job, bool ending)
{
    struct clearing *clearing = (struct clearing *)job;
    int r = ending ? -EINTR : store_zeros(clearing);
    bool is_given_up;

    pthread_mutex_lock(&clearing->mutex);
    clearing->result = r;
    clearing->is_done = true;
    is_given_up = clearing->is_given_up;
    pthread_cond_signal(&clearing->changed);
    pthread_mutex_unlock(&clearing->mutex);
    if (is_given_up) {
        destroy(clearing);
    }
}

static int wait_for(struct clearing *clearing, unsigned patience)
{
    struct timespec until = deadline_after(patience);
    int r = 0;

    pthread_mutex_lock(&clearing->mutex);
    while (!clearing->is_done && r == 0) {
        r = pthread_cond_timedwait(&clearing->changed, &clearing->mutex, &until);
    }
    if (clearing->is_done) {
        r = clearing->result;
        pthread_mutex_unlock(&clearing->mutex);
        destroy(clearing);
        return r;
    }
    /* From here on the kernel finds no zeros any more, whenever it gets hold of the page. */
    r = mprotect(clearing->zeros, clearing->page_size, PROT_NONE) == 0 ? -EINTR : -errno;
    clearing->is_given_up = true;
    pthread_mutex_unlock(&clearing->mutex);
    return r;
}

/* Where the part of the page that is to be zeros ends; `old_end`: there is none. */
static uint64_t end_of_rest(uint64_t old_end, uint64_t to)
{
    uint64_t end;

    if (!checked_round_up(old_end, page_size(), &end)) {
        return old_end;
    }
    return max_u64(old_end, min_u64(end, to));
}

int old_end_clear(struct filesystem *filesystem, uint64_t inode, uint64_t old_end, uint64_t to,
                  unsigned patience)
{
    struct clearing *clearing;
    uint64_t end = end_of_rest(old_end, to);
    int r;

    if (end == old_end) {
        return 0;
    }
    r = create(filesystem, &clearing);
    if (r != 0) {
        return r;
    }
    clearing->job.serve = serve;
    clearing->inode = inode;
    clearing->from = old_end;
    clearing->to = end;
    later_do(filesystem->old_end, &clearing->job);
    return wait_for(clearing, patience);
}

void old_end_keep(struct filesystem *filesystem, uint64_t old_end, uint64_t to)
{
    if (end_of_rest(old_end, to) > old_end) {
        own_mount_restore_size(filesystem->own);
    }
}
