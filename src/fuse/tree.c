/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "fuse/tree.h"

#include "admin/info.h"
#include "fuse/names.h"
#include "fuse/stats.h"
#include "util/checked.h"

#include <errno.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define INODE_SNAPSHOTS_BEGIN UINT64_C(16)
#define INODES_A_SNAPSHOT     UINT64_C(4)

#define BLOCK_SIZE_MIN (UINT64_C(4) << 10)
#define BLOCK_SIZE_MAX (UINT64_C(1) << 20)

#define INFO_LARGE (1U << 20) /* bytes */

#define WRITE_BITS ((mode_t)0222)
#define READ_BITS  ((mode_t)0444)

static const char disk_name[] = "disk.raw";
static const char vmstate_name[] = "vmstate.raw";

/* --- making it -------------------------------------------------------------- */

static bool is_later(const struct timespec *a, const struct timespec *b)
{
    return a->tv_sec != b->tv_sec ? a->tv_sec > b->tv_sec : a->tv_nsec > b->tv_nsec;
}

/* A change of a part of the disk is one of the disk. */
static int add_times(struct store *part, struct timespec *mtime, struct timespec *ctime)
{
    struct store_info info;
    int r = store_info(part, &info);

    if (r == 0) {
        *mtime = is_later(&info.mtime, mtime) ? info.mtime : *mtime;
        *ctime = is_later(&info.ctime, ctime) ? info.ctime : *ctime;
    }
    return r;
}

/*
 * The disk was changed when any of the files was that hold it: a backup that goes by times must
 * not pass over a disk whose backing image was replaced.
 */
static int find_times(const struct image *image, struct timespec *mtime, struct timespec *ctime)
{
    int r = 0;

    *mtime = *ctime = (struct timespec){.tv_sec = 0};
    for (const struct image *each = image; each != NULL && r == 0; each = each->backing) {
        r = add_times(each->file, mtime, ctime);
        if (r == 0) {
            r = add_times(each->data_file, mtime, ctime);
        }
    }
    return r;
}

/*
 * Takes from `mode`, of a file of group `gid`, what the mode of a file that is a part of the disk
 * does not grant: the bits of its group count for that group alone, for others those of others.
 */
static int narrow(struct store *file, gid_t gid, mode_t counts, mode_t *mode)
{
    struct store_info info;
    mode_t group;
    int r = store_info(file, &info);

    if (r == 0) {
        group = info.gid == gid ? info.mode & S_IRWXG : (info.mode & S_IRWXO) << 3;
        *mode &= (mode_t)~counts | S_IRWXU | group | (info.mode & S_IRWXO);
    }
    return r;
}

/* Nobody sees through the mount what the files of the chain would not show him. */
static int narrow_to_chain(const struct image *image, gid_t gid, mode_t *mode)
{
    int r = narrow(image->data_file, gid, READ_BITS | WRITE_BITS, mode);

    for (const struct image *each = image; each != NULL && r == 0; each = each->backing) {
        r = narrow(each->file, gid, READ_BITS, mode);
        if (r == 0) {
            r = narrow(each->data_file, gid, READ_BITS, mode);
        }
    }
    return r;
}

static int set_permissions(struct tree *tree, const struct store_info *file,
                           const struct mount_options *options)
{
    bool is_root = geteuid() == 0;
    mode_t write_bits = tree->is_writable ? WRITE_BITS : 0;
    mode_t mode = (file->mode & (READ_BITS | write_bits)) | S_IRUSR;
    int r = narrow_to_chain(tree->image, is_root ? file->gid : getegid(), &mode);

    if (!is_root && tree->is_writable) {
        mode |= S_IWUSR; /* who mounts has opened it for writing, if only as one of its group */
    }
    tree->uid = is_root ? file->uid : geteuid();
    tree->gid = is_root ? file->gid : getegid();
    if (options->uid.set) {
        tree->uid = (uid_t)options->uid.value;
    }
    if (options->gid.set) {
        tree->gid = (gid_t)options->gid.value;
    }
    if (options->mode.set) {
        mode = (mode_t)options->mode.value & (mode_t) ~(WRITE_BITS & ~write_bits);
    }
    if (options->umask.set) {
        mode &= ~(mode_t)options->umask.value;
    }
    tree->file_mode = mode;
    /* Who may read may search. */
    tree->directory_mode = (mode & ~WRITE_BITS) | (mode & READ_BITS) >> 2;
    return r;
}

static void set_block_size(struct tree *tree)
{
    const struct header *header = tree->image->header;
    uint64_t size = header != NULL ? header->cluster_size : BLOCK_SIZE_MIN;

    tree->block_size = (blksize_t)max_u64(min_u64(size, BLOCK_SIZE_MAX), BLOCK_SIZE_MIN);
}

static int set_attributes(struct tree *tree, const struct mount_options *options,
                          struct error *error)
{
    const struct image *image = tree->image;
    struct store_info file;
    int r = store_info(image->file, &file);

    if (r == 0) {
        r = find_times(image, &tree->mtime, &tree->ctime);
    }
    if (r == 0) {
        r = set_permissions(tree, &file, options);
    }
    if (r != 0) {
        return error_set(error, -r, "%s: the attributes of the image cannot be read: %s",
                         image->path, strerror(-r));
    }
    tree->atime = file.atime;
    set_block_size(tree);
    return 0;
}

static int compare_names(const void *a, const void *b, void *context)
{
    char **names = context;

    return strcmp(names[*(const size_t *)a], names[*(const size_t *)b]);
}

static int set_names(struct tree *tree, struct error *error)
{
    const struct snapshot_table *table = tree->image->snapshots;
    int r;

    tree->snapshot_count = table != NULL ? table->count : 0;
    if (tree->snapshot_count == 0) {
        return 0;
    }
    r = names_make(table->snapshots, table->count, &tree->names);
    tree->sorted = calloc(table->count, sizeof(*tree->sorted));
    if (r != 0 || tree->sorted == NULL) {
        return error_set(error, ENOMEM, "%s: out of memory for the names of %zu snapshots",
                         tree->image->path, table->count);
    }
    for (size_t i = 0; i < table->count; i++) {
        tree->sorted[i] = i;
    }
    qsort_r(tree->sorted, table->count, sizeof(*tree->sorted), compare_names, tree->names);
    return 0;
}

int tree_create(const struct image *image, const struct mount_options *options,
                bool root_is_directory, bool is_writable, struct tree **tree, struct error *error)
{
    struct tree *made = calloc(1, sizeof(*made));
    int r;

    if (made == NULL) {
        return error_set(error, ENOMEM, "out of memory for the files under the mount point");
    }
    made->image = image;
    made->root_is_directory = root_is_directory;
    made->is_writable = is_writable;
    pthread_mutex_init(&made->info_mutex, NULL);
    r = set_attributes(made, options, error);
    if (r == 0 && root_is_directory) {
        r = set_names(made, error);
    }
    if (r == 0 && root_is_directory && is_writable && image_info_available() &&
        tree_info(made) == NULL) {
        r = error_set(error, ENOMEM, "%s: out of memory for info.json", image->path);
    }
    if (r != 0) {
        tree_destroy(made);
        return r;
    }
    *tree = made;
    return 0;
}

void tree_destroy(struct tree *tree)
{
    if (tree == NULL) {
        return;
    }
    pthread_mutex_destroy(&tree->info_mutex);
    names_free(tree->names, tree->snapshot_count);
    free(tree->sorted);
    free(tree->info);
    free(tree);
}

/* --- inodes ----------------------------------------------------------------- */

static uint64_t snapshot_inode(size_t snapshot, enum node_kind kind)
{
    return INODE_SNAPSHOTS_BEGIN + snapshot * INODES_A_SNAPSHOT + (uint64_t)(kind - NODE_SNAPSHOT);
}

static bool has_vmstate(const struct tree *tree, size_t snapshot)
{
    return tree->image->snapshots->snapshots[snapshot].vm_state_size > 0;
}

static bool exists(const struct tree *tree, const struct node *node)
{
    switch (node->kind) {
    case NODE_ROOT:
        return tree->root_is_directory;
    case NODE_DISK:
        return tree->root_is_directory == (node->inode != TREE_ROOT);
    case NODE_SNAPSHOTS:
        return tree->snapshot_count > 0; /* 0 where the mount point is a file */
    case NODE_INFO:
        return tree->root_is_directory && image_info_available();
    case NODE_STATS:
        return tree->root_is_directory && stats_available();
    case NODE_SNAPSHOT:
    case NODE_SNAPSHOT_DISK:
        return node->snapshot < tree->snapshot_count;
    case NODE_SNAPSHOT_VMSTATE:
        return node->snapshot < tree->snapshot_count && has_vmstate(tree, node->snapshot);
    }
    return false;
}

bool tree_node(const struct tree *tree, uint64_t inode, struct node *node)
{
    static const enum node_kind fixed[] = {
        [2] = NODE_DISK, [3] = NODE_SNAPSHOTS, [4] = NODE_INFO, [5] = NODE_STATS};

    *node = (struct node){.inode = inode};
    if (inode == TREE_ROOT) {
        node->kind = tree->root_is_directory ? NODE_ROOT : NODE_DISK;
    } else if (inode >= INODE_SNAPSHOTS_BEGIN) {
        uint64_t number = inode - INODE_SNAPSHOTS_BEGIN;

        if (number % INODES_A_SNAPSHOT > NODE_SNAPSHOT_VMSTATE - NODE_SNAPSHOT) {
            return false;
        }
        node->kind = NODE_SNAPSHOT + (enum node_kind)(number % INODES_A_SNAPSHOT);
        node->snapshot = number / INODES_A_SNAPSHOT;
    } else if (inode >= 2 && inode < sizeof(fixed) / sizeof(fixed[0])) {
        node->kind = fixed[inode];
    } else {
        return false;
    }
    return exists(tree, node);
}

bool tree_is_directory(const struct node *node)
{
    return node->kind == NODE_ROOT || node->kind == NODE_SNAPSHOTS || node->kind == NODE_SNAPSHOT;
}

bool tree_is_made_at_open(const struct node *node)
{
    return node->kind == NODE_STATS;
}

bool tree_changes(const struct tree *tree, const struct node *node)
{
    return tree_is_made_at_open(node) || (node->kind == NODE_DISK && tree->is_writable);
}

uint64_t tree_inode_count(const struct tree *tree)
{
    uint64_t count = 1;
    struct node node;

    for (uint64_t inode = TREE_ROOT + 1; inode < INODE_SNAPSHOTS_BEGIN; inode++) {
        count += tree_node(tree, inode, &node);
    }
    for (size_t i = 0; i < tree->snapshot_count; i++) {
        count += 2 + (uint64_t)has_vmstate(tree, i);
    }
    return count;
}

/* --- names ------------------------------------------------------------------ */

/* Entries that a directory has at fixed places, when they exist. */
struct fixed_entry {
    const char *name;
    uint64_t inode;
};

static const struct fixed_entry root_entries[] = {
    {disk_name, 2},
    {"info.json", 4},
    {"snapshots", 3},
    {"stats.json", 5},
};
#define ROOT_ENTRIES (sizeof(root_entries) / sizeof(root_entries[0]))

static bool root_entry(const struct tree *tree, uint64_t number, const char **name,
                       struct node *node)
{
    for (size_t i = 0; i < ROOT_ENTRIES; i++) {
        if (tree_node(tree, root_entries[i].inode, node) && number-- == 0) {
            *name = root_entries[i].name;
            return true;
        }
    }
    return false;
}

static bool snapshot_entry(const struct tree *tree, size_t snapshot, uint64_t number,
                           const char **name, struct node *node)
{
    enum node_kind kind = number == 0 ? NODE_SNAPSHOT_DISK : NODE_SNAPSHOT_VMSTATE;

    *name = number == 0 ? disk_name : vmstate_name;
    return number <= 1 && tree_node(tree, snapshot_inode(snapshot, kind), node);
}

static bool dot_entry(const struct tree *tree, const struct node *directory, uint64_t position,
                      const char **name, struct node *node)
{
    uint64_t inode = directory->inode;

    *name = position == 0 ? "." : "..";
    if (position == 1) {
        inode = directory->kind == NODE_SNAPSHOT ? 3 : TREE_ROOT;
    }
    return tree_node(tree, inode, node);
}

bool tree_entry(const struct tree *tree, const struct node *directory, uint64_t position,
                const char **name, struct node *node)
{
    if (!tree_is_directory(directory)) {
        return false;
    }
    if (position < 2) {
        return dot_entry(tree, directory, position, name, node);
    }
    position -= 2;
    switch (directory->kind) {
    case NODE_ROOT:
        return root_entry(tree, position, name, node);
    case NODE_SNAPSHOT:
        return snapshot_entry(tree, directory->snapshot, position, name, node);
    default:
        break;
    }
    if (position >= tree->snapshot_count) {
        return false;
    }
    *name = tree->names[position];
    return tree_node(tree, snapshot_inode(position, NODE_SNAPSHOT), node);
}

/* Its index, or SIZE_MAX. */
static size_t find_snapshot(const struct tree *tree, const char *name)
{
    size_t low = 0;
    size_t high = tree->snapshot_count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(name, tree->names[tree->sorted[middle]]);

        if (order == 0) {
            return tree->sorted[middle];
        }
        if (order < 0) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return SIZE_MAX;
}

bool tree_lookup(const struct tree *tree, const struct node *directory, const char *name,
                 struct node *node)
{
    const char *entry;

    if (directory->kind == NODE_SNAPSHOTS) {
        size_t snapshot = find_snapshot(tree, name);

        return snapshot != SIZE_MAX &&
               tree_node(tree, snapshot_inode(snapshot, NODE_SNAPSHOT), node);
    }
    for (uint64_t i = 2; tree_entry(tree, directory, i, &entry, node); i++) {
        if (strcmp(entry, name) == 0) {
            return true;
        }
    }
    return false;
}

/* --- attributes ------------------------------------------------------------- */

const char *tree_info(struct tree *tree)
{
    const char *info;

    pthread_mutex_lock(&tree->info_mutex);
    if (tree->info == NULL) {
        tree->info = image_info_json(tree->image);
        /* What it was made of took several times as much; of 65536 snapshots more than 100 MiB. */
        if (tree->info != NULL && strlen(tree->info) > INFO_LARGE) {
            malloc_trim(0);
        }
    }
    info = tree->info;
    pthread_mutex_unlock(&tree->info_mutex);
    return info;
}

uint64_t tree_size(struct tree *tree, const struct node *node)
{
    const struct image *image = tree->image;
    const char *info;

    switch (node->kind) {
    case NODE_DISK:
        return min_u64(image->virtual_size, INT64_MAX);
    case NODE_SNAPSHOT_DISK:
        return min_u64(image->snapshots->snapshots[node->snapshot].disk_size, INT64_MAX);
    case NODE_SNAPSHOT_VMSTATE:
        return min_u64(image->snapshots->snapshots[node->snapshot].vm_state_size, INT64_MAX);
    case NODE_INFO:
        info = tree_info(tree);
        return info != NULL ? strlen(info) : 0;
    case NODE_ROOT:
    case NODE_SNAPSHOTS:
    case NODE_STATS:
    case NODE_SNAPSHOT:
        break;
    }
    return 0;
}

/* Units of 512 bytes that a file occupies; of a snapshot one can say only what it is at most. */
static int count_blocks(const struct tree *tree, const struct node *node, struct stat *attributes)
{
    uint64_t size = (uint64_t)attributes->st_size;
    uint64_t bytes;
    int r;

    if (node->kind == NODE_INFO || node->kind == NODE_STATS) {
        attributes->st_blocks = (blkcnt_t)div_round_up(size, 512);
        return 0;
    }
    r = image_allocated(tree->image, &bytes);
    if (r != 0) {
        return r;
    }
    if (node->kind != NODE_DISK) {
        bytes = min_u64(bytes, size);
    }
    attributes->st_blocks = (blkcnt_t)div_round_up(bytes, 512);
    return 0;
}

/* "." and "..", and the ".." of each directory in it. */
static nlink_t count_links(const struct tree *tree, const struct node *node)
{
    switch (node->kind) {
    case NODE_ROOT:
        return 2 + (tree->snapshot_count > 0);
    case NODE_SNAPSHOTS:
        return 2 + tree->snapshot_count;
    case NODE_SNAPSHOT:
        return 2;
    default:
        return 1;
    }
}

/* While the disk is written to, its times go on; those of what is behind it stay as they were. */
static int current_times(const struct tree *tree, struct stat *attributes)
{
    int r = add_times(tree->image->file, &attributes->st_mtim, &attributes->st_ctim);

    return r == 0 ? add_times(tree->image->data_file, &attributes->st_mtim, &attributes->st_ctim)
                  : r;
}

int tree_attributes(struct tree *tree, const struct node *node, struct stat *attributes)
{
    *attributes = (struct stat){
        .st_ino = node->inode,
        .st_nlink = count_links(tree, node),
        .st_uid = tree->uid,
        .st_gid = tree->gid,
        .st_blksize = tree->block_size,
        .st_atim = tree->atime,
        .st_mtim = tree->mtime,
        .st_ctim = tree->ctime,
    };
    if (tree_is_directory(node)) {
        attributes->st_mode = S_IFDIR | tree->directory_mode;
        return 0;
    }
    attributes->st_mode = S_IFREG | tree->file_mode;
    attributes->st_size = (off_t)tree_size(tree, node);
    if (node->kind != NODE_DISK) {
        attributes->st_mode &= ~WRITE_BITS;
    } else if (tree->is_writable) {
        int r = current_times(tree, attributes);

        if (r != 0) {
            return r;
        }
    }
    return count_blocks(tree, node, attributes);
}

void tree_space(const struct tree *tree, struct statvfs *space)
{
    uint64_t block = (uint64_t)tree->block_size, used, room;

    if (image_allocated(tree->image, &used) == 0 &&
        store_room(tree->image->data_file, &room) == 0) {
        space->f_bfree = room / block;
        space->f_blocks = div_round_up(used, block) + space->f_bfree;
    }
    space->f_bavail = space->f_bfree;
    space->f_bsize = space->f_frsize = block;
    space->f_files = tree_inode_count(tree);
}
