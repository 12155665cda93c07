/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "fuse/shown_bitmaps.h"

#include "meta/bitmap.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXTENT_TEXT_MAX  64 /* bytes of a line */
#define EXTENTS_TEXT_MAX (UINT64_C(256) << 20)

struct shown_bitmap {
    uint64_t key;
    char *name;      /* in the directory of bitmaps */
    char *file_name; /* in that of the mount */
};

struct shown_bitmaps {
    const struct image *image;
    struct log *log;
    pthread_mutex_t mutex; /* guards all below */
    struct shown_bitmap *list;
    size_t count; /* in the order of keys */
    uint64_t next_key;
    pthread_mutex_t room_mutex; /* guards what is below; held while bits are copied */
    uint64_t room;              /* bytes that copies may still take */
};

/* --- The list -------------------------------------------------------------------------------- */

static void free_list(struct shown_bitmap *list, size_t count)
{
    for (size_t i = 0; i < count && list != NULL; i++) {
        free(list[i].name);
        free(list[i].file_name);
    }
    free(list);
}

/* The names of files for those of bitmaps; NULL: no memory. */
static char **make_names(const struct bitmap_directory *directory)
{
    struct names_source *sources = calloc(directory->count + 1, sizeof(*sources));
    char(*ids)[24] = calloc(directory->count + 1, sizeof(*ids));
    char **names = NULL;

    for (size_t i = 0; sources != NULL && ids != NULL && i < directory->count; i++) {
        snprintf(ids[i], sizeof(ids[i]), "%zu", i + 1);
        sources[i] = (struct names_source){.name = directory->bitmaps[i].name, .id = ids[i]};
    }
    if (sources != NULL && ids != NULL &&
        names_make_unique(sources, directory->count, &names) != 0) {
        names = NULL;
    }
    free(ids);
    free(sources);
    return names;
}

static const struct shown_bitmap *find_name(const struct shown_bitmaps *shown, const char *name,
                                            bool is_file_name)
{
    for (size_t i = 0; i < shown->count; i++) {
        const struct shown_bitmap *each = &shown->list[i];

        if (strcmp(is_file_name ? each->file_name : each->name, name) == 0) {
            return each;
        }
    }
    return NULL;
}

static int by_key(const void *a, const void *b)
{
    const struct shown_bitmap *first = a, *second = b;

    return first->key < second->key ? -1 : first->key > second->key;
}

/* Nobody else changes the list, so it can be read without the mutex. */
static struct shown_bitmap *make_list(struct shown_bitmaps *shown,
                                      const struct bitmap_directory *directory)
{
    struct shown_bitmap *list = calloc(directory->count + 1, sizeof(*list));
    char **names = make_names(directory);
    bool enough = list != NULL && names != NULL;
    uint64_t next_key = shown->next_key;

    for (size_t i = 0; enough && i < directory->count; i++) {
        const struct shown_bitmap *old = find_name(shown, directory->bitmaps[i].name, false);

        list[i].key = old != NULL ? old->key : next_key++;
        list[i].file_name = names[i];
        names[i] = NULL;
        list[i].name = strdup(directory->bitmaps[i].name);
        enough = list[i].name != NULL;
    }
    names_free(names, directory->count);
    if (!enough) {
        free_list(list, directory->count);
        return NULL;
    }
    qsort(list, directory->count, sizeof(*list), by_key);
    shown->next_key = next_key;
    return list;
}

void shown_bitmaps_update(struct shown_bitmaps *shown)
{
    const struct image *image = shown->image;
    struct bitmap_directory *directory = NULL;
    struct shown_bitmap *list = NULL, *old;
    size_t count = 0, old_count;
    struct error error;

    if (image == NULL) {
        return;
    }
    if (bitmap_directory_read(image->file, image->header, image->path, &directory, &error) != 0) {
        log_line(shown->log, LOG_LEVEL_WARNING, "%s; its bitmaps are not shown", error.text);
    } else {
        list = make_list(shown, directory);
        count = directory->count;
        bitmap_directory_free(directory);
        if (list == NULL) {
            return;
        }
    }
    pthread_mutex_lock(&shown->mutex);
    old = shown->list;
    old_count = shown->count;
    shown->list = list;
    shown->count = count;
    pthread_mutex_unlock(&shown->mutex);
    free_list(old, old_count);
}

int shown_bitmaps_create(const struct image *image, struct log *log, struct shown_bitmaps **shown)
{
    struct shown_bitmaps *made = calloc(1, sizeof(*made));

    if (made == NULL) {
        return -ENOMEM;
    }
    made->image = image;
    made->log = log;
    made->room = changed_memory();
    pthread_mutex_init(&made->mutex, NULL);
    pthread_mutex_init(&made->room_mutex, NULL);
    if (image != NULL && image->header->bitmap_count > 0) {
        shown_bitmaps_update(made);
    }
    *shown = made;
    return 0;
}

void shown_bitmaps_destroy(struct shown_bitmaps *shown)
{
    if (shown != NULL) {
        free_list(shown->list, shown->count);
        pthread_mutex_destroy(&shown->mutex);
        pthread_mutex_destroy(&shown->room_mutex);
        free(shown);
    }
}

/* --- Looking --------------------------------------------------------------------------------- */

size_t shown_bitmaps_count(struct shown_bitmaps *shown)
{
    size_t count;

    pthread_mutex_lock(&shown->mutex);
    count = shown->count;
    pthread_mutex_unlock(&shown->mutex);
    return count;
}

bool shown_bitmaps_next(struct shown_bitmaps *shown, uint64_t key, uint64_t *found,
                        char name[NAMES_MAX + 1])
{
    size_t low = 0, high;
    bool is_there;

    pthread_mutex_lock(&shown->mutex);
    high = shown->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (shown->list[middle].key < key) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    is_there = low < shown->count;
    if (is_there) {
        *found = shown->list[low].key;
        strcpy(name, shown->list[low].file_name); /* at most NAMES_MAX bytes */
    }
    pthread_mutex_unlock(&shown->mutex);
    return is_there;
}

bool shown_bitmaps_get(struct shown_bitmaps *shown, uint64_t key, char name[NAMES_MAX + 1])
{
    uint64_t found;

    return shown_bitmaps_next(shown, key, &found, name) && found == key;
}

bool shown_bitmaps_find(struct shown_bitmaps *shown, const char *name, uint64_t *key)
{
    const struct shown_bitmap *found;

    pthread_mutex_lock(&shown->mutex);
    found = find_name(shown, name, true);
    if (found != NULL) {
        *key = found->key;
    }
    pthread_mutex_unlock(&shown->mutex);
    return found != NULL;
}

/* --- Copies ---------------------------------------------------------------------------------- */

/* In the directory of bitmaps; NULL: gone, or no memory. For free(). */
static char *own_name(struct shown_bitmaps *shown, uint64_t key)
{
    char *name = NULL;

    pthread_mutex_lock(&shown->mutex);
    for (size_t i = 0; i < shown->count && name == NULL; i++) {
        if (shown->list[i].key == key) {
            name = strdup(shown->list[i].name);
        }
    }
    pthread_mutex_unlock(&shown->mutex);
    return name;
}

int shown_bitmaps_copy(struct shown_bitmaps *shown, struct writer *writer, uint64_t key,
                       struct changed **changed, struct error *error)
{
    char *name = own_name(shown, key);
    int r;

    if (name == NULL) {
        return error_set(error, ENOENT, "%s: has no such bitmap any more", shown->image->path);
    }
    pthread_mutex_lock(&shown->room_mutex);
    r = changed_copy(shown->image, writer, name, &shown->room, changed, error);
    pthread_mutex_unlock(&shown->room_mutex);
    free(name);
    return r;
}

void shown_bitmaps_let_go(struct shown_bitmaps *shown, struct changed *changed)
{
    pthread_mutex_lock(&shown->room_mutex);
    changed_free(changed, &shown->room);
    pthread_mutex_unlock(&shown->room_mutex);
}

char *shown_bitmaps_extents(struct shown_bitmaps *shown, const struct changed *changed,
                            uint64_t size)
{
    uint64_t begin, end, count = 0;
    size_t room, length;
    char *text;

    for (uint64_t at = 0; changed_next(changed, at, size, &begin, &end); at = end) {
        count++;
    }
    if (count > EXTENTS_TEXT_MAX / EXTENT_TEXT_MAX) {
        log_limited(shown->log, LOG_LEVEL_ERROR,
                    "%s: a bitmap has %" PRIu64 " ranges that have changed, and extents.json would "
                    "be too long; look for them with SEEK_DATA in disk.raw",
                    shown->image->path, count);
        return NULL;
    }
    room = (size_t)(count + 3) * EXTENT_TEXT_MAX;
    text = malloc(room);
    if (text == NULL) {
        return NULL;
    }
    length = (size_t)snprintf(
        text, room, "{\"size\": %" PRIu64 ", \"granularity\": %" PRIu64 ",\n \"extents\": [", size,
        changed_granularity(changed));
    for (uint64_t at = 0; changed_next(changed, at, size, &begin, &end); at = end) {
        length += (size_t)snprintf(text + length, room - length,
                                   "%s\n{\"start\": %" PRIu64 ", \"length\": %" PRIu64 "}",
                                   at > 0 ? "," : "", begin, end - begin);
    }
    snprintf(text + length, room - length, "\n]}\n");
    return text;
}
