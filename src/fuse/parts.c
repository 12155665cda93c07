/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "fuse/parts.h"

#include "disk/view.h"
#include "guest/label.h"
#include "guest/partitions.h"
#include "util/checked.h"
#include "util/stop.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SNAPSHOTS_KEPT     8    /* whose tables are not read again */
#define LABEL_MILLISECONDS 1000 /* for which labels are looked for on one disk ... */
#define LABELS_AT_LEAST    16   /* ... of so many partitions also on a machine that stood still */

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
    uint64_t disk;
    uint64_t disk_size; /* bytes, at that time */
    struct partition_table table;
    uint64_t *serials;          /* of the partitions, by index */
    struct guest_label *labels; /* likewise; NULL: not read */
    struct named named[PART_KEYS];
};

struct shelves {
    pthread_mutex_t mutex; /* guards all */
    uint64_t serial;       /* the last that was given away */
    struct shelf active;
    struct shelf snapshots[SNAPSHOTS_KEPT];
    size_t next; /* of those, the one to make room */
};

int parts_create(struct image *image, struct shown *shown, struct log *log, struct parts **parts)
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
    made->shown = shown;
    made->log = log;
    atomic_init(&made->head_end, 0);
    atomic_init(&made->tail_begin, UINT64_MAX);
    atomic_init(&made->is_stale, false);
    atomic_init(&made->has_labels, false);
    pthread_mutex_init(&made->shelves->mutex, NULL);
    *parts = made;
    return 0;
}

static void forget_names(struct named *named)
{
    names_free(named->names, named->count);
    free(named->members);
    *named = (struct named){.is_made = false};
}

static void clear(struct shelf *shelf)
{
    for (size_t key = 0; key < PART_KEYS; key++) {
        forget_names(&shelf->named[key]);
    }
    free(shelf->labels);
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

/* A view of a disk, for as long as something is read from it. */
struct disk_view {
    struct view *view;
    struct shown_snapshot *snapshot; /* NULL of the active disk */
};

static int open_view(struct parts *parts, uint64_t disk, struct disk_view *opened)
{
    struct error error = {0};
    int r;

    *opened = (struct disk_view){0};
    if (disk == PARTS_ACTIVE) {
        return view_open_active(parts->image, &opened->view);
    }
    r = shown_use(parts->shown, disk - 1, SHOWN_DISK, &opened->snapshot, &opened->view, &error);
    if (r != 0 && r != -ENOMEM && r != -ENOENT) {
        log_limited(parts->log, LOG_LEVEL_ERROR, "%s", error.code != 0 ? error.text : strerror(-r));
        r = -EIO;
    }
    return r;
}

static void close_view(struct parts *parts, struct disk_view *opened)
{
    if (opened->snapshot != NULL) {
        shown_leave(parts->shown, opened->snapshot, SHOWN_DISK);
    } else {
        view_close(opened->view);
    }
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

static int fill(struct parts *parts, uint64_t disk, struct reader *reader, struct shelf *shelf)
{
    struct disk_view opened;
    int r = open_view(parts, disk, &opened);

    if (r != 0) {
        return r;
    }
    reader->view = opened.view;
    shelf->disk = disk;
    shelf->disk_size = view_size(reader->view);
    r = partitions_read(read_disk, reader, shelf->disk_size, &shelf->table);
    close_view(parts, &opened);
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

static int read_snapshot(struct parts *parts, uint64_t disk, struct shelf **shelf)
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
static int get_shelf(struct parts *parts, uint64_t disk, struct shelf **shelf)
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

static bool is_of_file_system(enum part_key key)
{
    return key == PART_BY_LABEL || key == PART_BY_UUID;
}

struct part_reader {
    struct view *view;
    uint64_t start;
};

static int read_part(void *context, uint64_t offset, void *buffer, size_t length)
{
    const struct part_reader *reader = context;

    return view_read(reader->view, reader->start + offset, buffer, length);
}

/* One that cannot be read has none; what reads it will say why. */
static void fill_labels(struct parts *parts, struct shelf *shelf, struct view *view)
{
    struct stop stop;

    stop_init(&stop, NULL);
    stop_after(&stop, LABEL_MILLISECONDS);
    for (size_t i = 0; i < shelf->table.count; i++) {
        const struct partition *partition = &shelf->table.list[i];
        struct part_reader reader = {view, partition->start};

        if (i >= LABELS_AT_LEAST && stop_requested(&stop)) {
            log_limited(parts->log, LOG_LEVEL_WARNING,
                        "%s: labels were looked for in %zu of %zu partitions only: it takes too "
                        "long",
                        parts->image->path, i, shelf->table.count);
            break;
        }
        if (!partition->extended) {
            (void)guest_label_read(read_part, &reader, partition->size, &shelf->labels[i]);
        }
    }
}

/* Reads the labels, unless those that are there still hold. */
static int get_labels(struct parts *parts, struct shelf *shelf)
{
    struct disk_view opened;
    int r;

    if (shelf->labels != NULL && (shelf->disk != PARTS_ACTIVE || atomic_load(&parts->has_labels))) {
        return 0;
    }
    free(shelf->labels);
    forget_names(&shelf->named[PART_BY_LABEL]);
    forget_names(&shelf->named[PART_BY_UUID]);
    shelf->labels = calloc(shelf->table.count + 1, sizeof(*shelf->labels));
    if (shelf->labels == NULL) {
        return -ENOMEM;
    }
    if (shelf->disk == PARTS_ACTIVE) {
        atomic_store(&parts->has_labels, true); /* until something changes, now already */
    }
    r = open_view(parts, shelf->disk, &opened);
    if (r != 0) {
        free(shelf->labels);
        shelf->labels = NULL;
        return r;
    }
    fill_labels(parts, shelf, opened.view);
    close_view(parts, &opened);
    return 0;
}

static const char *name_by(const struct shelf *shelf, size_t index, enum part_key key)
{
    const struct partition *partition = &shelf->table.list[index];

    switch (key) {
    case PART_BY_LABEL:
        return shelf->labels[index].label;
    case PART_BY_PARTLABEL:
        return partition->name;
    case PART_BY_PARTUUID:
        return partition->uuid;
    case PART_BY_TYPE:
        return partition->type;
    case PART_BY_UUID:
        break;
    }
    return shelf->labels[index].uuid;
}

struct number_text {
    char text[sizeof("65536")];
};

/* `ids` and `sources` have room for one more than there are partitions. */
static int make_names(const struct shelf *shelf, enum part_key key, struct number_text *ids,
                      struct names_source *sources, struct named *named)
{
    const struct partition_table *table = &shelf->table;

    for (size_t i = 0; i < table->count; i++) {
        const char *name = name_by(shelf, i, key);
        size_t index = named->count;

        if (name[0] != '\0') {
            snprintf(ids[index].text, sizeof(ids[index].text), "%u", table->list[i].number);
            sources[index] = (struct names_source){.name = name, .id = ids[index].text};
            named->members[named->count++] = i;
        }
    }
    return names_make_unique(sources, named->count, &named->names);
}

static int get_named(struct parts *parts, struct shelf *shelf, enum part_key key,
                     struct named **found)
{
    struct named *named = &shelf->named[key];
    size_t room = shelf->table.count + 1;
    struct number_text *ids;
    struct names_source *sources;
    int r = is_of_file_system(key) ? get_labels(parts, shelf) : 0;

    *found = named;
    if (named->is_made || r != 0) {
        return r;
    }
    r = -ENOMEM;
    ids = calloc(room, sizeof(*ids));
    sources = calloc(room, sizeof(*sources));
    named->members = calloc(room, sizeof(*named->members));
    if (ids != NULL && sources != NULL && named->members != NULL) {
        r = make_names(shelf, key, ids, sources, named);
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

int parts_find(struct parts *parts, uint64_t disk, unsigned number, struct part *part)
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

int parts_at(struct parts *parts, uint64_t disk, uint64_t index, struct part *part)
{
    struct shelf *shelf;
    int r;

    pthread_mutex_lock(&parts->shelves->mutex);
    r = get_shelf(parts, disk, &shelf);
    if (r == 0 && index >= shelf->table.count) {
        r = -ENOENT;
    }
    if (r == 0) {
        tell(shelf, in_memory(index), part);
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
static int look_up(struct parts *parts, uint64_t disk, enum part_key key, const char *name,
                   uint64_t index, char found_name[NAMES_MAX + 1], struct part *part)
{
    struct shelf *shelf;
    struct named *named;
    int r;

    pthread_mutex_lock(&parts->shelves->mutex);
    r = get_shelf(parts, disk, &shelf);
    if (r == 0) {
        r = get_named(parts, shelf, key, &named);
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

int parts_find_name(struct parts *parts, uint64_t disk, enum part_key key, const char *name,
                    struct part *part)
{
    return look_up(parts, disk, key, name, 0, NULL, part);
}

int parts_name_at(struct parts *parts, uint64_t disk, enum part_key key, uint64_t index,
                  char name[NAMES_MAX + 1], struct part *part)
{
    return look_up(parts, disk, key, NULL, index, name, part);
}

void parts_forget_gone(struct parts *parts)
{
    struct shelves *shelves = parts->shelves;
    struct shown_facts facts;

    pthread_mutex_lock(&shelves->mutex);
    for (size_t i = 0; i < SNAPSHOTS_KEPT; i++) {
        struct shelf *shelf = &shelves->snapshots[i];

        if (shelf->is_read && !shown_get(parts->shown, shelf->disk - 1, &facts)) {
            clear(shelf);
        }
    }
    pthread_mutex_unlock(&shelves->mutex);
}
