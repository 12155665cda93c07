/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "ctl/hash_files.h"

#include "fuse/names.h"
#include "store/nbd.h"
#include "store/opener.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct listing {
    struct hash_file **end; /* where the next goes */
    bool failed;            /* memory ran out */
};

/* Takes `name` over, which may be NULL for lack of memory. */
static void add(struct listing *listing, const struct hash_file *file, char *name)
{
    struct hash_file *added = name != NULL ? malloc(sizeof(*added)) : NULL;

    if (added == NULL) {
        free(name);
        listing->failed = true;
        return;
    }
    *added = *file;
    added->name = name;
    added->next = NULL;
    *listing->end = added;
    listing->end = &added->next;
}

static char *name_in_mount(const char *snapshot, const char *file)
{
    char *name;

    return asprintf(&name, "snapshots/%s/%s", snapshot, file) < 0 ? NULL : name;
}

static void add_snapshots(struct listing *listing, struct image *image)
{
    const struct snapshot_table *table = image->snapshots;
    char **names;

    if (names_make(table->snapshots, table->count, &names) < 0) {
        listing->failed = true;
        return;
    }
    for (size_t i = 0; i < table->count; i++) {
        const struct snapshot *snapshot = &table->snapshots[i];
        struct hash_file file = {.image = image, .snapshot = i};

        file.kind = HASH_SNAPSHOT;
        file.size = snapshot->disk_size;
        add(listing, &file, name_in_mount(names[i], "disk.raw"));
        if (snapshot->vm_state_size > 0) {
            file.kind = HASH_VM_STATE;
            file.size = snapshot->vm_state_size;
            add(listing, &file, name_in_mount(names[i], "vmstate.raw"));
        }
    }
    names_free(names, table->count);
}

/* By an absolute path, found from wherever the manifest is used; or by an address. */
static int add_host_file(struct listing *listing, struct store *store, const char *path,
                         struct error *error)
{
    struct hash_file file = {.kind = HASH_HOST_FILE, .store = store};
    struct store_info info;
    char *name = store_nbd_is_address(path) ? strdup(path) : opener_real_path(path);
    int result = name == NULL ? -errno : store_info(store, &info);

    if (result < 0) {
        free(name);
        return error_set(error, -result, "%s: cannot be looked at: %s", path, strerror(-result));
    }
    file.size = info.size;
    add(listing, &file, name);
    return 0;
}

int hash_files_list(struct image *image, struct view *disk, struct hash_file **files,
                    struct error *error)
{
    struct listing listing = {.end = files};
    const struct hash_file active = {.kind = HASH_DISK, .disk = disk, .size = view_size(disk)};
    int result = 0;

    *files = NULL;
    add(&listing, &active, strdup("disk.raw"));
    if (image->snapshots != NULL) {
        add_snapshots(&listing, image);
    }
    for (const struct image *each = image; each != NULL && result == 0; each = each->backing) {
        result = add_host_file(&listing, each->file, each->path, error);
        if (result == 0 && each->data_file_path != NULL) {
            result = add_host_file(&listing, each->data_file, each->data_file_path, error);
        }
    }
    if (result == 0 && listing.failed) {
        result = error_set(error, ENOMEM, "%s: out of memory", image->path);
    }
    if (result < 0) {
        hash_files_free(*files);
        *files = NULL;
    }
    return result;
}

void hash_files_free(struct hash_file *files)
{
    while (files != NULL) {
        struct hash_file *next = files->next;

        free(files->name);
        free(files->pieces);
        free(files->problem);
        free(files);
        files = next;
    }
}
