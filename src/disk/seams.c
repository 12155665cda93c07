/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "disk/seams.h"

#include "util/deadline.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

/* The other request is under way, or comes when one of those before it has been answered. */
#define WAIT_MS 50

/* How many times more somebody may wait in vain, once a part was taken. */
#define PATIENCE 4

struct seams {
    uint64_t cluster_size;
    pthread_mutex_t mutex; /* guards what follows, and the parts; a leaf */
    struct seam_part *offered;
    unsigned patience;
};

struct seams *seams_create(uint64_t cluster_size)
{
    struct seams *seams = calloc(1, sizeof(*seams));

    if (seams != NULL) {
        seams->cluster_size = cluster_size;
        pthread_mutex_init(&seams->mutex, NULL);
    }
    return seams;
}

void seams_destroy(struct seams *seams)
{
    if (seams != NULL) {
        pthread_mutex_destroy(&seams->mutex);
        free(seams);
    }
}

/* Whether the two are a cluster. */
static bool fit(const struct seams *seams, const struct seam_part *one,
                const struct seam_part *other)
{
    const struct seam_part *first = one->from == 0 ? one : other;
    const struct seam_part *second = one->from == 0 ? other : one;

    return first->cluster == second->cluster && first->from == 0 && first->to == second->from &&
           second->to == seams->cluster_size;
}

static void remove_offer(struct seams *seams, const struct seam_part *part)
{
    struct seam_part **at = &seams->offered;

    while (*at != part) {
        at = &(*at)->next;
    }
    *at = part->next;
}

static void init_condition(pthread_cond_t *condition)
{
    pthread_condattr_t attributes;

    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(condition, &attributes);
    pthread_condattr_destroy(&attributes);
}

struct seam_part *seams_meet(struct seams *seams, struct seam_part *part)
{
    struct seam_part *other;

    pthread_mutex_lock(&seams->mutex);
    for (other = seams->offered; other != NULL && !fit(seams, part, other); other = other->next) {
    }
    if (other != NULL) {
        remove_offer(seams, other);
        other->state = SEAM_TAKEN;
        seams->patience = PATIENCE;
    } else {
        part->state = SEAM_OFFERED;
        part->next = seams->offered;
        init_condition(&part->changed);
        seams->offered = part;
    }
    pthread_mutex_unlock(&seams->mutex);
    return other;
}

void seams_answer(struct seams *seams, struct seam_part *taken, int result)
{
    pthread_mutex_lock(&seams->mutex);
    taken->state = SEAM_ANSWERED;
    taken->result = result;
    pthread_cond_signal(&taken->changed);
    pthread_mutex_unlock(&seams->mutex);
}

/* Until somebody has taken it, or none comes. With the mutex held. */
static void wait_for_other(struct seams *seams, struct seam_part *part)
{
    struct timespec until = deadline_after(WAIT_MS);
    bool late = seams->patience == 0;

    while (part->state == SEAM_OFFERED && !late) {
        late = pthread_cond_timedwait(&part->changed, &seams->mutex, &until) == ETIMEDOUT;
    }
}

int seams_end(struct seams *seams, struct seam_part *part)
{
    int result = 1;

    pthread_mutex_lock(&seams->mutex);
    wait_for_other(seams, part);
    if (part->state == SEAM_OFFERED) {
        remove_offer(seams, part);
        seams->patience -= seams->patience > 0 ? 1 : 0;
    } else {
        while (part->state != SEAM_ANSWERED) {
            pthread_cond_wait(&part->changed, &seams->mutex);
        }
        result = part->result;
    }
    pthread_mutex_unlock(&seams->mutex);
    pthread_cond_destroy(&part->changed);
    return result;
}
