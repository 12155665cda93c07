/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "fuse/shown.h"

#include "util/deadline.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct shown_snapshot {
    uint64_t key;
    pthread_mutex_t mutex;    /* guards what is below it, ... */
    struct snapshot snapshot; /* name and ID are those of its directory, for sentences */
    char *
        name; /* of its directory; ... and this as well as the list's: with either it can be read */
    struct view *views[SHOWN_VIEWS]; /* NULL while nobody has it open */
    unsigned open[SHOWN_VIEWS];
    /* Guarded by the mutex of the list: */
    unsigned users; /* of views, and who is about to be one */
    bool is_listed;
    bool is_claimed;
};

struct shown {
    struct image *image;
    pthread_mutex_t mutex; /* guards what follows */
    pthread_cond_t left;   /* somebody has closed the last view of a snapshot */
    size_t count, vm_states;
    struct shown_snapshot **list;   /* in the order of the table, and of the keys */
    struct shown_snapshot **sorted; /* by name */
    uint64_t next_key;
    bool is_behind; /* image->snapshots; that of who changes it */
};

/* --- one snapshot ----------------------------------------------------------- */

static void free_snapshot(struct shown_snapshot *snapshot)
{
    if (snapshot != NULL) {
        pthread_mutex_destroy(&snapshot->mutex);
        free(snapshot->name);
        free(snapshot);
    }
}

static struct shown_snapshot *copy_snapshot(const struct snapshot *from)
{
    struct shown_snapshot *made = calloc(1, sizeof(*made));

    if (made != NULL) {
        pthread_mutex_init(&made->mutex, NULL);
        made->snapshot = *from;
        made->snapshot.id = made->snapshot.name = NULL;
    }
    return made;
}

/* Each has an L1 table of its own; those of a hostile image that do not show the same. */
static bool is_same(const struct snapshot *a, const struct snapshot *b)
{
    return a->l1_offset == b->l1_offset && a->l1_entries == b->l1_entries &&
           a->disk_size == b->disk_size && a->vm_state_size == b->vm_state_size &&
           a->date_sec == b->date_sec && a->date_nsec == b->date_nsec;
}

/* --- the list --------------------------------------------------------------- */

/* The first whose key is not below `key`; their number where there is none. With the mutex held. */
static size_t position(const struct shown *shown, uint64_t key)
{
    size_t low = 0, high = shown->count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (shown->list[middle]->key < key) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

/* NULL where there is none. With the mutex held. */
static struct shown_snapshot *find_key(const struct shown *shown, uint64_t key)
{
    size_t at = position(shown, key);

    return at < shown->count && shown->list[at]->key == key ? shown->list[at] : NULL;
}

static int compare_names(const void *a, const void *b)
{
    const struct shown_snapshot *const *first = a, *const *second = b;

    return strcmp((*first)->name, (*second)->name);
}

/* What comes to be shown, made without a lock. */
struct next {
    size_t count;
    struct shown_snapshot **list, **sorted;
    bool *is_new;
    char **names; /* of the directories */
};

static void free_next(struct next *next)
{
    for (size_t i = 0; i < next->count && next->list != NULL && next->is_new != NULL; i++) {
        if (next->is_new[i]) {
            free_snapshot(next->list[i]);
        }
    }
    names_free(next->names, next->count);
    free(next->is_new);
    free(next->list);
    free(next->sorted);
}

/*
 * Finds those that are shown already, which are in the same order. Nobody else changes the list, so
 * it can be read without the mutex.
 */
static int prepare(const struct shown *shown, const struct snapshot_table *table, struct next *next)
{
    size_t old = 0, room = next->count + 1;
    int r = table != NULL ? names_make(table->snapshots, table->count, &next->names) : 0;

    next->list = calloc(room, sizeof(struct shown_snapshot *));
    next->sorted = calloc(room, sizeof(struct shown_snapshot *));
    next->is_new = calloc(room, sizeof(*next->is_new));
    if (r != 0 || next->list == NULL || next->sorted == NULL || next->is_new == NULL) {
        return -ENOMEM;
    }
    for (size_t i = 0; i < next->count; i++) {
        const struct snapshot *snapshot = &table->snapshots[i];

        while (old < shown->count && !is_same(&shown->list[old]->snapshot, snapshot)) {
            old++;
        }
        next->is_new[i] = old == shown->count;
        next->list[i] = next->is_new[i] ? copy_snapshot(snapshot) : shown->list[old++];
        if (next->list[i] == NULL) {
            return -ENOMEM;
        }
    }
    return 0;
}

static void take_name(struct next *next, size_t index)
{
    struct shown_snapshot *snapshot = next->list[index];

    pthread_mutex_lock(&snapshot->mutex);
    free(snapshot->name);
    snapshot->name = next->names[index];
    snapshot->snapshot.id = snapshot->snapshot.name = snapshot->name;
    pthread_mutex_unlock(&snapshot->mutex);
    next->names[index] = NULL;
}

/* With the mutex held. What is left in `next` afterwards is the old list. */
static void show(struct shown *shown, struct next *next)
{
    struct shown_snapshot **old = shown->list, **old_sorted = shown->sorted;
    size_t old_count = shown->count;

    for (size_t i = 0; i < old_count; i++) {
        old[i]->is_listed = false;
    }
    shown->vm_states = 0;
    for (size_t i = 0; i < next->count; i++) {
        struct shown_snapshot *snapshot = next->list[i];

        if (next->is_new[i]) {
            snapshot->key = shown->next_key++;
        }
        snapshot->is_listed = true;
        shown->vm_states += snapshot->snapshot.vm_state_size > 0;
        take_name(next, i);
        next->sorted[i] = snapshot;
    }
    qsort(next->sorted, next->count, sizeof(struct shown_snapshot *), compare_names);
    for (size_t i = 0; i < old_count; i++) {
        if (!old[i]->is_listed && old[i]->users == 0) {
            free_snapshot(old[i]);
        }
    }
    shown->list = next->list;
    shown->sorted = next->sorted;
    shown->count = next->count;
    next->list = old;
    next->sorted = old_sorted;
    memset(next->is_new, 0, next->count * sizeof(*next->is_new)); /* nothing is this one's */
}

int shown_update(struct shown *shown)
{
    const struct snapshot_table *table = shown->image->snapshots;
    struct next next = {.count = table != NULL ? table->count : 0};
    int r = prepare(shown, table, &next);

    if (r == 0) {
        pthread_mutex_lock(&shown->mutex);
        show(shown, &next);
        pthread_mutex_unlock(&shown->mutex);
    }
    free_next(&next);
    shown->is_behind = r != 0;
    return r;
}

int shown_settle(struct shown *shown)
{
    return shown->is_behind ? shown_update(shown) : 0;
}

int shown_create(struct image *image, struct shown **shown)
{
    struct shown *made = calloc(1, sizeof(*made));
    int r;

    if (made == NULL) {
        return -ENOMEM;
    }
    made->image = image;
    pthread_mutex_init(&made->mutex, NULL);
    deadline_condition(&made->left);
    r = shown_update(made);
    if (r != 0) {
        shown_destroy(made);
        return r;
    }
    *shown = made;
    return 0;
}

void shown_destroy(struct shown *shown)
{
    if (shown == NULL) {
        return;
    }
    for (size_t i = 0; i < shown->count; i++) {
        free_snapshot(shown->list[i]);
    }
    pthread_cond_destroy(&shown->left);
    pthread_mutex_destroy(&shown->mutex);
    free(shown->list);
    free(shown->sorted);
    free(shown);
}

/* --- looking ---------------------------------------------------------------- */

void shown_count(struct shown *shown, size_t *count, size_t *vm_states)
{
    pthread_mutex_lock(&shown->mutex);
    *count = shown->count;
    *vm_states = shown->vm_states;
    pthread_mutex_unlock(&shown->mutex);
}

bool shown_get(struct shown *shown, uint64_t key, struct shown_facts *facts)
{
    const struct shown_snapshot *found;

    pthread_mutex_lock(&shown->mutex);
    found = find_key(shown, key);
    if (found != NULL) {
        *facts = (struct shown_facts){
            .disk_size = found->snapshot.disk_size,
            .vm_state_size = found->snapshot.vm_state_size,
            .date_sec = found->snapshot.date_sec,
            .date_nsec = found->snapshot.date_nsec,
        };
    }
    pthread_mutex_unlock(&shown->mutex);
    return found != NULL;
}

/* With the mutex held; NULL where there is none. */
static const struct shown_snapshot *find_name(const struct shown *shown, const char *name)
{
    size_t low = 0, high = shown->count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(name, shown->sorted[middle]->name);

        if (order == 0) {
            return shown->sorted[middle];
        }
        if (order < 0) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return NULL;
}

bool shown_find(struct shown *shown, const char *name, uint64_t *key)
{
    const struct shown_snapshot *found;

    pthread_mutex_lock(&shown->mutex);
    found = find_name(shown, name);
    if (found != NULL) {
        *key = found->key;
    }
    pthread_mutex_unlock(&shown->mutex);
    return found != NULL;
}

bool shown_next(struct shown *shown, uint64_t key, uint64_t *found, char name[NAMES_MAX + 1])
{
    size_t at;
    bool is_there;

    pthread_mutex_lock(&shown->mutex);
    at = position(shown, key);
    is_there = at < shown->count;
    if (is_there) {
        *found = shown->list[at]->key;
        strcpy(name, shown->list[at]->name); /* at most NAMES_MAX bytes */
    }
    pthread_mutex_unlock(&shown->mutex);
    return is_there;
}

bool shown_index(struct shown *shown, uint64_t key, size_t *index)
{
    bool is_there;

    pthread_mutex_lock(&shown->mutex);
    *index = position(shown, key);
    is_there = find_key(shown, key) != NULL;
    pthread_mutex_unlock(&shown->mutex);
    return is_there;
}

bool shown_key(struct shown *shown, size_t index, uint64_t *key)
{
    bool is_there;

    pthread_mutex_lock(&shown->mutex);
    is_there = index < shown->count;
    if (is_there) {
        *key = shown->list[index]->key;
    }
    pthread_mutex_unlock(&shown->mutex);
    return is_there;
}

bool shown_last(struct shown *shown, uint64_t *key)
{
    size_t count, vm_states;

    shown_count(shown, &count, &vm_states);
    return count > 0 && shown_key(shown, count - 1, key);
}

/* --- views ------------------------------------------------------------------ */

/* One user less. */
static void let_go(struct shown *shown, struct shown_snapshot *snapshot)
{
    bool is_gone;

    pthread_mutex_lock(&shown->mutex);
    snapshot->users--;
    is_gone = snapshot->users == 0 && !snapshot->is_listed;
    pthread_cond_broadcast(&shown->left);
    pthread_mutex_unlock(&shown->mutex);
    if (is_gone) {
        free_snapshot(snapshot);
    }
}

static int open_view(struct shown *shown, struct shown_snapshot *snapshot, enum shown_view which,
                     struct view **view, struct error *error)
{
    int r = 0;

    pthread_mutex_lock(&snapshot->mutex);
    if (snapshot->views[which] == NULL) {
        r = view_open_saved(shown->image, &snapshot->snapshot, which == SHOWN_VM_STATE,
                            &snapshot->views[which], error);
    }
    if (r == 0) {
        snapshot->open[which]++;
        *view = snapshot->views[which];
    } else {
        snapshot->views[which] = NULL;
    }
    pthread_mutex_unlock(&snapshot->mutex);
    return r;
}

int shown_use(struct shown *shown, uint64_t key, enum shown_view which,
              struct shown_snapshot **snapshot, struct view **view, struct error *error)
{
    struct shown_snapshot *found;
    int r = -ENOENT;

    pthread_mutex_lock(&shown->mutex);
    found = find_key(shown, key);
    if (found != NULL && !found->is_claimed) {
        found->users++;
        r = 0;
    }
    pthread_mutex_unlock(&shown->mutex);
    if (r == 0) {
        r = open_view(shown, found, which, view, error);
        if (r != 0) {
            let_go(shown, found);
        }
    }
    *snapshot = found;
    return r;
}

void shown_leave(struct shown *shown, struct shown_snapshot *snapshot, enum shown_view which)
{
    struct view *unused = NULL;

    pthread_mutex_lock(&snapshot->mutex);
    if (--snapshot->open[which] == 0) {
        unused = snapshot->views[which];
        snapshot->views[which] = NULL;
    }
    pthread_mutex_unlock(&snapshot->mutex);
    view_close(unused);
    let_go(shown, snapshot); /* not before: the view has threads that read */
}

/* --- removing --------------------------------------------------------------- */

int shown_claim(struct shown *shown, uint64_t key, unsigned milliseconds, size_t *index)
{
    struct timespec until = deadline_after(milliseconds);
    struct shown_snapshot *found;
    int waited = 0, r = 0;

    pthread_mutex_lock(&shown->mutex);
    found = find_key(shown, key);
    while (found != NULL && found->users > 0 && waited == 0) {
        waited = pthread_cond_timedwait(&shown->left, &shown->mutex, &until);
        found = find_key(shown, key);
    }
    if (found == NULL) {
        r = -ENOENT;
    } else if (found->users > 0) {
        r = -EBUSY;
    } else {
        found->is_claimed = true;
        *index = position(shown, key);
    }
    pthread_mutex_unlock(&shown->mutex);
    return r;
}

void shown_unclaim(struct shown *shown, uint64_t key)
{
    struct shown_snapshot *found;

    pthread_mutex_lock(&shown->mutex);
    found = find_key(shown, key);
    if (found != NULL) {
        found->is_claimed = false;
    }
    pthread_mutex_unlock(&shown->mutex);
}
