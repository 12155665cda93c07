/* SPDX-License-Identifier: MIT */
/*
 * Which requests may be under way: all, none while the image is changed as a whole, or the writes
 * that whoever does that lets pass (writer_pause() and what follows it in writer_internal.h).
 */
#include "config.h"

#include "disk/writer_internal.h"

void writer_leave(struct writer *writer, unsigned generation)
{
    inflight_leave(&writer->inflight, generation);
    if (atomic_fetch_sub(&writer->changing, 1) == 1 && atomic_load(&writer->paused) != PAUSE_NONE) {
        pthread_mutex_lock(&writer->paused_mutex);
        pthread_cond_broadcast(&writer->paused_changed);
        pthread_mutex_unlock(&writer->paused_mutex);
    }
}

/*
 * Until all requests may begin, or writes, where `writes`. True: it has begun by that, so that who
 * waited gets in also where the next pause follows at once.
 */
static bool wait_for_pause(struct writer *writer, bool writes)
{
    bool begun;

    pthread_mutex_lock(&writer->paused_mutex);
    writer->waiting++;
    while (atomic_load(&writer->paused) != PAUSE_NONE &&
           !(writes && atomic_load(&writer->paused) == PAUSE_BUT_WRITES)) {
        pthread_cond_wait(&writer->paused_changed, &writer->paused_mutex);
    }
    begun = atomic_load(&writer->paused) == PAUSE_NONE;
    atomic_fetch_add(&writer->changing, begun);
    if (--writer->waiting == 0) {
        pthread_cond_broadcast(&writer->paused_changed);
    }
    pthread_mutex_unlock(&writer->paused_mutex);
    return begun;
}

unsigned writer_enter(struct writer *writer, uint64_t from, uint64_t to)
{
    for (;;) {
        unsigned generation;
        bool writes = to > 0;
        int paused;

        atomic_fetch_add(&writer->changing, 1);
        generation = inflight_enter(&writer->inflight);
        paused = atomic_load(&writer->paused);
        if (paused == PAUSE_NONE) {
            return generation;
        }
        if (paused == PAUSE_BUT_WRITES) { /* the disk keeps its size as long as this counts */
            writes = writes && to <= view_size(writer->view);
            if (writes && writer->admit(writer->admit_context, from, to)) {
                return generation;
            }
            writes = false;
        }
        writer_leave(writer, generation);
        if (wait_for_pause(writer, writes)) {
            return inflight_enter(&writer->inflight);
        }
    }
}

static int wait_for_requests(struct writer *writer)
{
    pthread_mutex_lock(&writer->paused_mutex);
    atomic_store(&writer->paused, PAUSE_ALL);
    while (atomic_load(&writer->changing) > 0) {
        pthread_cond_wait(&writer->paused_changed, &writer->paused_mutex);
    }
    pthread_mutex_unlock(&writer->paused_mutex);
    allocator_end_packing(writer->allocator);
    return commit_flush(writer->commit);
}

int writer_pause(struct writer *writer)
{
    unsigned generation;
    int result = writer_begin(writer, &generation), /* R6, and whether it may be changed at all */
        flushed;

    writer_leave(writer, generation);
    pthread_mutex_lock(&writer->pause_mutex);
    flushed = wait_for_requests(writer);
    return result == 0 ? flushed : result;
}

static void set_pause(struct writer *writer, enum pause pause)
{
    atomic_store(&writer->changed, true);
    pthread_mutex_lock(&writer->paused_mutex);
    atomic_store(&writer->paused, pause);
    pthread_cond_broadcast(&writer->paused_changed);
    pthread_mutex_unlock(&writer->paused_mutex);
}

void writer_pause_but_writes(struct writer *writer, writer_admit_fn *admit, void *context)
{
    writer->admit = admit;
    writer->admit_context = context;
    set_pause(writer, PAUSE_BUT_WRITES);
}

void writer_pause_nobody(struct writer *writer)
{
    set_pause(writer, PAUSE_NONE);
    pthread_mutex_lock(&writer->paused_mutex);
    while (writer->waiting > 0) {
        pthread_cond_wait(&writer->paused_changed, &writer->paused_mutex);
    }
    pthread_mutex_unlock(&writer->paused_mutex);
}

int writer_pause_again(struct writer *writer)
{
    return wait_for_requests(writer);
}

void writer_resume(struct writer *writer)
{
    writer_pause_nobody(writer);
    pthread_mutex_unlock(&writer->pause_mutex);
    writer_mark_corrupt(writer);
}
