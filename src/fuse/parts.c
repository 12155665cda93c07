/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "fuse/parts.h"

#include "disk/view.h"
#include "guest/partitions.h"
#include "util/checked.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SNAPSHOTS_KEPT 8 /* whose tables are not read again */

/* Those partitions that have a name by one key. */
struct named {
    bool is_made;
    size_t count;
    size_t *members; /* their indexes in the table */
    char **names;
};

/* What was read of one disk. */
struct shelf {
    bool is_read;
    size_t disk;
    uint64_t disk_size; /* bytes, at that time */
    struct partition_table table;
    uint64_t *serials; /* of the partitions, by index */
    struct named named[PART_KEYS];
};

struct shelves {
    pthread_mutex_t mutex; /* guards all */
    uint64_t serial;       /* the last that was given away */
    struct shelf active;
    struct shelf snapshots[SNAPSHOTS_KEPT];
    size_t next; /* of those, the one to make room */
};

int parts_create(struct image *image, struct log *log, struct parts **parts)
{
    struct parts *made = calloc(1, sizeof(*made));

    if (made != NULL) {
        made->shelves = calloc(1, sizeof(*made->shelves));
    }
    if (made == NULL || made->shelves == NULL) {
        free(made);
        return -ENOMEM;
    }
    made->image = image;
    made->log = log;
    atomic_init(&made->head_end, 0);
    atomic_init(&made->tail_begin, UINT64_MAX);
    atomic_init(&made->is_stale, false);
    pthread_mutex_init(&made->shelves->mutex, NULL);
    *parts = made;
    return 0;
}

static void clear(struct shelf *shelf)
{
    for (size_t key = 0; key < PART_KEYS; key++) {
        names_free(shelf->named[key].names, shelf->named[key].count);
        free(shelf->named[key].members);
    }
    partitions_free(&shelf->table);
    free(shelf->serials);
    *shelf = (struct shelf){.is_read = false};
}

void parts_destroy(struct parts *parts)
{
    if (parts == NULL) {
        return;
    }
    clear(&parts->shelves->active);
    for (size_t i = 0; i < SNAPSHOTS_KEPT; i++) {
        clear(&parts->shelves->snapshots[i]);
    }
    pthread_mutex_destroy(&parts->shelves->mutex);
    free(parts->shelves);
    free(parts);
}

/* --- reading a table -------------------------------------------------------- */

/* Remembers at which ends of the disk it was read from. */
struct reader {
    struct view *view;
    uint64_t head_end, tail_begin;
};

static int read_disk(void *context, uint64_t offset, void *buffer, size_t length)
{
    struct reader *reader = context;
    uint64_t end = offset + length;

    if (end <= view_size(reader->view) / 2) {
        reader->head_end = max_u64(reader->head_end, end);
    } else {
        reader->tail_begin = min_u64(reader->tail_begin, offset);
    }
    return view_read(reader->view, offset, buffer, length);
}

static int open_view(struct parts *parts, size_t disk, struct view **view)
{
    struct error error = {0};
    int r;

    if (disk == PARTS_ACTIVE) {
        return view_open_active(parts->image, view);
    }
    r = view_open_snapshot(parts->image, disk - 1, view, &error);
    if (r != 0 && r != -ENOMEM) {
        log_limited(parts->log, LOG_LEVEL_ERROR, "%s", error.code != 0 ? error.text : strerror(-r));
        r = -EIO;
    }
    return r;
}

static void say_remarks(struct parts *parts, const struct shelf *shelf)
{
    static const struct {
        enum partition_remark remark;
        const char *text;
    } remarks[] = {
        {PARTITION_BACKUP_USED, "the first GPT is damaged, its backup at the end is shown"},
        {PARTITION_GPT_DAMAGED, "neither copy of the GPT can be used"},
        {PARTITION_CHAIN_DAMAGED, "the chain of logical partitions is damaged; those behind the "
                                  "damage are not shown"},
        {PARTITION_TOO_MANY, "there are more partitions than are shown"},
    };

    for (size_t i = 0; i < sizeof(remarks) / sizeof(remarks[0]); i++) {
        if ((shelf->table.remarks & (unsigned)remarks[i].remark) != 0) {
            log_limited(parts->log, LOG_LEVEL_WARNING, "%s: %s%s", parts->image->path,
                        shelf->disk == PARTS_ACTIVE ? "" : "in a snapshot, ", remarks[i].text);
        }
    }
}

static int fill(struct parts *parts, size_t disk, struct reader *reader, struct shelf *shelf)
{
    int r = open_view(parts, disk, &reader->view);

    if (r != 0) {
        return r;
    }
    shelf->disk = disk;
    shelf->disk_size = view_size(reader->view);
    r = partitions_read(read_disk, reader, shelf->disk_size, &shelf->table);
    view_close(reader->view);
    if (r == 0) {
        shelf->serials = calloc(shelf->table.count + 1, sizeof(*shelf->serials));
        r = shelf->serials != NULL ? 0 : -ENOMEM;
    }
    if (r != 0) {
        clear(shelf);
        return r == -ENOMEM ? r : -EIO;
    }
    shelf->is_read = true;
    return 0;
}

/* Whoever has not moved keeps the serial number that he had. Both are ordered by number. */
static void number_serials(struct shelves *shelves, const struct shelf *old, struct shelf *now)
{
    uint64_t serial = shelves->serial + 1;
    size_t j = 0;

    for (size_t i = 0; i < now->table.count; i++) {
        const struct partition *part = &now->table.list[i], *before;

        while (j < old->table.count && old->table.list[j].number < part->number) {
            j++;
        }
        before = j < old->table.count ? &old->table.list[j] : NULL;
        if (before != NULL && before->number == part->number && before->start == part->start &&
            before->size == part->size) {
            now->serials[i] = old->serials[j];
        } else {
            now->serials[i] = serial;
            shelves->serial = serial;
        }
    }
}

/* Until it is known from where the table is read, any change may be one of it. */
static int read_active(struct parts *parts)
{
    struct shelves *shelves = parts->shelves;
    struct reader reader = {.tail_begin = UINT64_MAX};
    struct shelf now = {.is_read = false};
    bool was_stale;
    int r;

    atomic_store(&parts->head_end, UINT64_MAX);
    was_stale = atomic_exchange(&parts->is_stale, false);
    r = fill(parts, PARTS_ACTIVE, &reader, &now);
    if (r != 0) {
        /* What is shelved stays as stale, or as unread, as it was. */
        atomic_store(&parts->is_stale, was_stale || shelves->active.is_read);
        return r;
    }
    atomic_store(&parts->tail_begin, reader.tail_begin);
    atomic_store(&parts->head_end, reader.head_end);
    number_serials(shelves, &shelves->active, &now);
    if (now.table.remarks != shelves->active.table.remarks) {
        say_remarks(parts, &now);
    }
    clear(&shelves->active);
    shelves->active = now;
    return 0;
}

static int read_snapshot(struct parts *parts, size_t disk, struct shelf **shelf)
{
    struct shelves *shelves = parts->shelves;
    struct reader reader = {.tail_begin = UINT64_MAX};
    struct shelf now = {.is_read = false};
    int r = fill(parts, disk, &reader, &now);

    if (r != 0) {
        return r;
    }
    say_remarks(parts, &now);
    *shelf = &shelves->snapshots[shelves->next];
    shelves->next = (shelves->next + 1) % SNAPSHOTS_KEPT;
    clear(*shelf);
    **shelf = now;
    return 0;
}

/* That of the disk as it is now. Under the mutex. */
static int get_shelf(struct parts *parts, size_t disk, struct shelf **shelf)
{
    struct shelves *shelves = parts->shelves;

    if (disk == PARTS_ACTIVE) {
        *shelf = &shelves->active;
        if ((*shelf)->is_read && !atomic_load(&parts->is_stale) &&
            (*shelf)->disk_size == parts->image->virtual_size) {
            return 0;
        }
        return read_active(parts);
    }
    for (size_t i = 0; i < SNAPSHOTS_KEPT; i++) {
        *shelf = &shelves->snapshots[i];
        if ((*shelf)->is_read && (*shelf)->disk == disk) {
            return 0;
        }
    }
    return read_snapshot(parts, disk, shelf);
}

/* --- names ------------------------------------------------------------------ */

/* Where a partition has its name by each key, as a string. */
static const size_t name_offsets[PART_KEYS] = {
    [PART_BY_PARTLABEL] = offsetof(struct partition, name),
    [PART_BY_PARTUUID] = offsetof(struct partition, uuid),
    [PART_BY_TYPE] = offsetof(struct partition, type),
};

struct number_text {
    char text[sizeof("65536")];
};

/* `ids` and `sources` have room for one more than there are partitions. */
static int make_names(const struct partition_table *table, enum part_key key,
                      struct number_text *ids, struct names_source *sources, struct named *named)
{
    for (size_t i = 0; i < table->count; i++) {
        const char *name = (const char *)&table->list[i] + name_offsets[key];
        size_t index = named->count;

        if (name[0] != '\0') {
            snprintf(ids[index].text, sizeof(ids[index].text), "%u", table->list[i].number);
            sources[index] = (struct names_source){.name = name, .id = ids[index].text};
            named->members[named->count++] = i;
        }
    }
    return names_make_unique(sources, named->count, &named->names);
}

static int get_named(struct shelf *shelf, enum part_key key, struct named **found)
{
    struct named *named = &shelf->named[key];
    size_t room = shelf->table.count + 1;
    struct number_text *ids;
    struct names_source *sources;
    int r = -ENOMEM;

    *found = named;
    if (named->is_made) {
        return 0;
    }
    ids = calloc(room, sizeof(*ids));
    sources = calloc(room, sizeof(*sources));
    named->members = calloc(room, sizeof(*named->members));
    if (ids != NULL && sources != NULL && named->members != NULL) {
        r = make_names(&shelf->table, key, ids, sources, named);
    }
    free(ids);
    free(sources);
    if (r != 0) {
        free(named->members);
        *named = (struct named){.is_made = false};
        return r;
    }
    named->is_made = true;
    return 0;
}

/* --- looking them up -------------------------------------------------------- */

static void tell(const struct shelf *shelf, size_t index, struct part *part)
{
    const struct partition *partition = &shelf->table.list[index];

    *part = (struct part){
        .number = partition->number,
        .serial = shelf->serials[index],
        .start = partition->start,
        .size = partition->size,
    };
}

static int find_in(const struct shelf *shelf, unsigned number, struct part *part)
{
    const struct partition *found = partitions_find(&shelf->table, number);

    if (found == NULL) {
        return -ENOENT;
    }
    tell(shelf, (size_t)(found - shelf->table.list), part);
    return 0;
}

int parts_find(struct parts *parts, size_t disk, unsigned number, struct part *part)
{
    struct shelf *shelf;
    int r;

    pthread_mutex_lock(&parts->shelves->mutex);
    r = get_shelf(parts, disk, &shelf);
    if (r == 0) {
        r = find_in(shelf, number, part);
    }
    pthread_mutex_unlock(&parts->shelves->mutex);
    return r;
}

int parts_at(struct parts *parts, size_t disk, uint64_t index, struct part *part)
{
    struct shelf *shelf;
    int r;

    pthread_mutex_lock(&parts->shelves->mutex);
    r = get_shelf(parts, disk, &shelf);
    if (r == 0 && index >= shelf->table.count) {
        r = -ENOENT;
    }
    if (r == 0) {
        tell(shelf, index, part);
    }
    pthread_mutex_unlock(&parts->shelves->mutex);
    return r;
}

/* Its index, or their number where there is none. */
static size_t find_name(const struct named *named, const char *name)
{
    size_t i = 0;

    while (i < named->count && strcmp(named->names[i], name) != 0) {
        i++;
    }
    return i;
}

/* The one of that name; where `name` is NULL, the one with that index. */
static int look_up(struct parts *parts, size_t disk, enum part_key key, const char *name,
                   uint64_t index, char found_name[NAMES_MAX + 1], struct part *part)
{
    struct shelf *shelf;
    struct named *named;
    int r;

    pthread_mutex_lock(&parts->shelves->mutex);
    r = get_shelf(parts, disk, &shelf);
    if (r == 0) {
        r = get_named(shelf, key, &named);
    }
    if (r == 0) {
        index = name != NULL ? find_name(named, name) : index;
        r = index < named->count ? 0 : -ENOENT;
    }
    if (r == 0) {
        tell(shelf, named->members[index], part);
        if (found_name != NULL) {
            snprintf(found_name, NAMES_MAX + 1, "%s", named->names[index]);
        }
    }
    pthread_mutex_unlock(&parts->shelves->mutex);
    return r;
}

int parts_find_name(struct parts *parts, size_t disk, enum part_key key, const char *name,
                    struct part *part)
{
    return look_up(parts, disk, key, name, 0, NULL, part);
}

int parts_name_at(struct parts *parts, size_t disk, enum part_key key, uint64_t index,
                  char name[NAMES_MAX + 1], struct part *part)
{
    return look_up(parts, disk, key, NULL, index, name, part);
}
