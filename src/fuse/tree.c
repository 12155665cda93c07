/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "fuse/tree.h"

#include "admin/info.h"
#include "fuse/names.h"
#include "fuse/stats.h"
#include "fuse/tree_internal.h"
#include "util/checked.h"
#include "util/id_map.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define INODE_SNAPSHOTS_BEGIN UINT64_C(16)
#define INODES_A_SNAPSHOT     UINT64_C(4)

#define BLOCK_SIZE_MIN (UINT64_C(4) << 10)
#define BLOCK_SIZE_MAX (UINT64_C(1) << 20)

#define SPARSE_LEAST UINT64_C(4096)

#define WRITE_BITS ((mode_t)0222)
#define READ_BITS  ((mode_t)0444)

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

/* Whether nothing was in the overlay when it was mounted. */
static bool is_new_overlay(const struct image *image)
{
    return image->is_overlay && (image->is_new || !image->is_kept);
}

/*
 * The disk was changed when any of the files was that hold it: a backup that goes by times must
 * not pass over a disk whose backing image was replaced.
 */
static int find_times(struct image *image, struct timespec *mtime, struct timespec *ctime)
{
    int r = 0;

    *mtime = *ctime = (struct timespec){.tv_sec = 0};
    /* An overlay that was just made changes nothing yet. */
    for (const struct image *each = is_new_overlay(image) ? image_named(image) : image;
         each != NULL && r == 0; each = each->backing) {
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
    bool knows_group = is_root && id_map_knows_group(file->gid);
    int r = narrow_to_chain(image_named(tree->image), knows_group ? file->gid : getegid(), &mode);

    if (tree->is_writable && (!is_root || tree->image->is_overlay)) {
        /* Who mounts has opened it for writing, if only as one of its group; or it is not written.
         */
        mode |= S_IWUSR;
    }
    /* Who is root in a user namespace alone may not know them: then they are his. */
    tree->uid = is_root && id_map_knows_user(file->uid) ? file->uid : geteuid();
    tree->gid = knows_group ? file->gid : getegid();
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
    const struct image *image = image_named(tree->image);
    struct store_info file, overlay;
    int r = store_info(image->file, &file);

    if (r == 0 && is_new_overlay(tree->image)) {
        r = store_info(tree->image->file, &overlay);
        tree->unwritten = overlay.mtime;
    }
    if (r == 0) {
        r = find_times(tree->image, &tree->mtime, &tree->ctime);
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

/* Whose bitmaps are shown. They do not know what goes to an overlay. */
static const struct image *bitmaps_of(const struct image *image)
{
    return image->is_overlay || image->format != IMAGE_QCOW2 ? NULL : image;
}

int tree_create(const struct source *source, const struct mount_options *options,
                bool root_is_directory, struct writer *writer, struct log *log, struct tree **tree,
                struct error *error)
{
    struct tree *made = calloc(1, sizeof(*made));
    struct image *image = source->image;
    int r;

    if (made == NULL) {
        return error_set(error, ENOMEM, "out of memory for the files under the mount point");
    }
    made->image = image;
    made->evidence = source->evidence;
    made->salvage_json = source->salvage_json;
    made->root_is_directory = root_is_directory;
    made->is_writable = writer != NULL;
    made->writer = writer;
    pthread_mutex_init(&made->info_mutex, NULL);
    pthread_mutex_init(&made->change_mutex, NULL);
    atomic_init(&made->info_is_old, false);
    atomic_init(&made->changes, 0);
    r = set_attributes(made, options, error);
    if (r == 0 && shown_create(image_named(image), &made->shown) != 0) {
        r = error_set(error, ENOMEM, "%s: out of memory for its snapshots", image->path);
    }
    if (r == 0 && shown_bitmaps_create(bitmaps_of(image), log, &made->bitmaps) != 0) {
        r = error_set(error, ENOMEM, "%s: out of memory for its bitmaps", image->path);
    }
    if (r == 0 && parts_create(image, made->shown, log, &made->parts) != 0) {
        r = error_set(error, ENOMEM, "%s: out of memory for the partitions", image->path);
    }
    if (r == 0 && root_is_directory && made->is_writable && image_info_available() &&
        tree_info_length(made) == 0) {
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
    pthread_mutex_destroy(&tree->change_mutex);
    parts_destroy(tree->parts);
    shown_destroy(tree->shown);
    shown_bitmaps_destroy(tree->bitmaps);
    tree_info_leave(tree->info);
    free(tree);
}

/* --- inodes ----------------------------------------------------------------- */

uint64_t snapshot_inode(uint64_t snapshot, enum node_kind kind)
{
    return INODE_SNAPSHOTS_BEGIN + snapshot * INODES_A_SNAPSHOT + (uint64_t)(kind - NODE_SNAPSHOT);
}

static bool snapshot_exists(const struct tree *tree, uint64_t snapshot, bool with_vm_state)
{
    struct shown_facts facts;

    return tree->root_is_directory && shown_get(tree->shown, snapshot, &facts) &&
           (!with_vm_state || facts.vm_state_size > 0);
}

static size_t count_snapshots(const struct tree *tree, size_t *vm_states)
{
    size_t count;

    shown_count(tree->shown, &count, vm_states);
    if (!tree->root_is_directory) {
        count = *vm_states = 0;
    }
    return count;
}

static bool exists(const struct tree *tree, const struct node *node)
{
    switch (node->kind) {
    case NODE_ROOT:
        return tree->root_is_directory;
    case NODE_DISK:
        return tree->root_is_directory == (node->inode != TREE_ROOT);
    case NODE_SNAPSHOTS:
        return tree->root_is_directory;
    case NODE_INFO:
        return tree->root_is_directory && image_info_available();
    case NODE_STATS:
        return tree->root_is_directory && stats_available();
    case NODE_SALVAGE:
        return tree->root_is_directory && tree->salvage_json != NULL;
    case NODE_METRICS:
        return tree->root_is_directory;
    case NODE_SNAPSHOT:
    case NODE_SNAPSHOT_DISK:
        return snapshot_exists(tree, node->snapshot, false);
    case NODE_SNAPSHOT_VMSTATE:
        return snapshot_exists(tree, node->snapshot, true);
    case NODE_BITMAPS:
    case NODE_BITMAP:
    case NODE_BITMAP_DISK:
    case NODE_BITMAP_EXTENTS:
    case NODE_EVIDENCE:
    case NODE_EVIDENCE_TABLES:
    case NODE_EVIDENCE_RAW:
    case NODE_EVIDENCE_JSON:
    case NODE_PARTITIONS:
    case NODE_PARTITION:
    case NODE_LINKS:
    case NODE_LINK:
        break; /* bitmaps_node(), evidence_node() and partitions_node() know */
    }
    return false;
}

bool tree_node(const struct tree *tree, uint64_t inode, struct node *node)
{
    static const enum node_kind fixed[] = {
        [2] = NODE_DISK,  [3] = NODE_SNAPSHOTS, [INODE_INFO] = NODE_INFO,
        [5] = NODE_STATS, [6] = NODE_SALVAGE,   [7] = NODE_METRICS};

    *node = (struct node){.inode = inode};
    if (inode == TREE_ROOT) {
        node->kind = tree->root_is_directory ? NODE_ROOT : NODE_DISK;
    } else if (inode >= INODE_PARTITIONS_BEGIN) {
        return partitions_node(tree, inode, node);
    } else if (inode >= INODE_INFO_BEGIN) {
        node->kind = NODE_INFO;
        if (inode - INODE_INFO_BEGIN > atomic_load(&tree->changes)) {
            return false;
        }
    } else if (inode >= INODE_EVIDENCE_BEGIN) {
        return evidence_node(tree, inode, node);
    } else if (inode >= INODE_BITMAPS_BEGIN) {
        return bitmaps_node(tree, inode, node);
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

bool tree_snapshot(const struct tree *tree, uint64_t key, struct node *node)
{
    return tree_node(tree, snapshot_inode(key, NODE_SNAPSHOT), node);
}

mode_t tree_type(const struct node *node)
{
    switch (node->kind) {
    case NODE_ROOT:
    case NODE_SNAPSHOTS:
    case NODE_SNAPSHOT:
    case NODE_BITMAPS:
    case NODE_BITMAP:
    case NODE_EVIDENCE:
    case NODE_EVIDENCE_TABLES:
    case NODE_PARTITIONS:
    case NODE_LINKS:
        return S_IFDIR;
    case NODE_LINK:
        return S_IFLNK;
    default:
        return S_IFREG;
    }
}

bool tree_is_directory(const struct node *node)
{
    return tree_type(node) == S_IFDIR;
}

bool tree_is_active(const struct node *node)
{
    return node->kind == NODE_DISK || (node->kind == NODE_PARTITION && node->disk == PARTS_ACTIVE);
}

bool tree_names_change(const struct tree *tree, const struct node *node)
{
    if (is_below_partitions(node)) {
        return tree->is_writable && node->disk == PARTS_ACTIVE;
    }
    return tree_makes_snapshots(tree) &&
           (node->kind == NODE_SNAPSHOTS || node->kind == NODE_SNAPSHOT ||
            node->kind == NODE_ROOT || node->kind == NODE_BITMAPS || node->kind == NODE_BITMAP);
}

bool tree_makes_snapshots(const struct tree *tree)
{
    return tree->is_writable && !tree->image->is_overlay;
}

bool tree_is_made_at_open(const struct tree *tree, const struct node *node)
{
    return node->kind == NODE_STATS || node->kind == NODE_METRICS ||
           node->kind == NODE_BITMAP_DISK || node->kind == NODE_BITMAP_EXTENTS ||
           (node->kind == NODE_INFO && tree->is_writable);
}

bool tree_changes(const struct tree *tree, const struct node *node)
{
    return tree_is_made_at_open(tree, node) || (tree_is_active(node) && tree->is_writable);
}

uint64_t tree_inode_count(const struct tree *tree)
{
    uint64_t directories = tree->root_is_directory ? 1 + PART_KEYS : 0; /* of each partitions/ */
    uint64_t count = 1 + directories;
    size_t vm_states, snapshots = count_snapshots(tree, &vm_states);
    struct node node;

    for (uint64_t inode = TREE_ROOT + 1; inode < INODE_SNAPSHOTS_BEGIN; inode++) {
        count += tree_node(tree, inode, &node);
    }
    return count + snapshots * (2 + directories) + vm_states + bitmaps_inode_count(tree) +
           evidence_inode_count(tree);
}

/* --- attributes ------------------------------------------------------------- */

uint64_t tree_size(struct tree *tree, const struct node *node)
{
    const struct image *image = tree->image;
    struct shown_facts facts = {0};
    char target[TREE_TARGET_MAX];

    switch (node->kind) {
    case NODE_DISK:
        return min_u64(image->virtual_size, INT64_MAX);
    case NODE_SNAPSHOT_DISK:
    case NODE_SNAPSHOT_VMSTATE:
        (void)shown_get(tree->shown, node->snapshot, &facts);
        return min_u64(node->kind == NODE_SNAPSHOT_DISK ? facts.disk_size : facts.vm_state_size,
                       INT64_MAX);
    case NODE_BITMAP_DISK:
        return bitmap_disk_size(tree, node);
    case NODE_INFO:
        return tree_info_length(tree);
    case NODE_SALVAGE:
        return strlen(tree->salvage_json);
    case NODE_EVIDENCE_RAW:
        return evidence_size(tree->evidence, node->evidence);
    case NODE_EVIDENCE_JSON:
        return evidence_json_length(tree->evidence, node->evidence);
    case NODE_PARTITION:
        return min_u64(node->part.size, INT64_MAX);
    case NODE_LINK:
        tree_link_target(node, target);
        return strlen(target);
    case NODE_ROOT:
    case NODE_SNAPSHOTS:
    case NODE_STATS:
    case NODE_METRICS:
    case NODE_SNAPSHOT:
    case NODE_BITMAPS:
    case NODE_BITMAP:
    case NODE_BITMAP_EXTENTS:
    case NODE_EVIDENCE:
    case NODE_EVIDENCE_TABLES:
    case NODE_PARTITIONS:
    case NODE_LINKS:
        break;
    }
    return 0;
}

/* Units of 512 bytes that a file occupies; of a snapshot or a partition one can say only what it is
   at most. */
static int count_blocks(const struct tree *tree, const struct node *node, struct stat *attributes)
{
    uint64_t size = (uint64_t)attributes->st_size;
    uint64_t bytes;
    int r;

    if (node->kind == NODE_INFO || node->kind == NODE_STATS || node->kind == NODE_SALVAGE ||
        node->kind == NODE_METRICS || node->kind == NODE_EVIDENCE_JSON ||
        node->kind == NODE_BITMAP_EXTENTS) {
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
    if (node->kind == NODE_BITMAP_DISK && size > SPARSE_LEAST) {
        /* What looks like a file without holes is not asked for them. */
        bytes = max_u64(min_u64(bytes, size - SPARSE_LEAST), SPARSE_LEAST);
    }
    attributes->st_blocks = (blkcnt_t)div_round_up(bytes, 512);
    return 0;
}

/* "." and "..", and the ".." of each directory in it. */
static nlink_t count_links(const struct tree *tree, const struct node *node)
{
    size_t vm_states;

    switch (node->kind) {
    case NODE_ROOT:
        /* partitions/, snapshots/, bitmaps/ and evidence/ */
        return 4 + (shown_bitmaps_count(tree->bitmaps) > 0) + (tree->evidence != NULL);
    case NODE_SNAPSHOTS:
        return 2 + count_snapshots(tree, &vm_states);
    case NODE_SNAPSHOT:
        return 3;
    case NODE_PARTITIONS:
        return 2 + PART_KEYS;
    case NODE_EVIDENCE:
        return 3;
    case NODE_BITMAPS:
        return 2 + shown_bitmaps_count(tree->bitmaps);
    case NODE_BITMAP:
    case NODE_EVIDENCE_TABLES:
    case NODE_LINKS:
        return 2;
    default:
        return 1;
    }
}

static void set_directory(const struct tree *tree, const struct node *node, struct stat *attributes)
{
    struct shown_facts facts;

    attributes->st_mode = S_IFDIR | tree->directory_mode;
    if (node->kind == NODE_SNAPSHOTS && tree_makes_snapshots(tree)) {
        /* Who may write the disk may make and remove its snapshots. */
        attributes->st_mode |= tree->file_mode & WRITE_BITS;
    }
    /* Its files have the time of the image: their content may change with what is behind it. */
    if (node->kind == NODE_SNAPSHOT && shown_get(tree->shown, node->snapshot, &facts) &&
        facts.date_sec != 0) {
        attributes->st_mtim.tv_sec = (time_t)facts.date_sec;
        attributes->st_mtim.tv_nsec = (long)(facts.date_nsec % 1000000000);
    }
}

/* While the disk is written to, its times go on; those of what is behind it stay as they were. */
static int current_times(const struct tree *tree, struct stat *attributes)
{
    struct store_info info;
    int r;

    if (is_new_overlay(tree->image)) {
        r = store_info(tree->image->file, &info);
        if (r != 0 || !is_later(&info.mtime, &tree->unwritten)) {
            return r;
        }
    }
    r = add_times(tree->image->file, &attributes->st_mtim, &attributes->st_ctim);
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
        set_directory(tree, node, attributes);
        return 0;
    }
    attributes->st_size = (off_t)tree_size(tree, node);
    if (node->kind == NODE_LINK) {
        attributes->st_mode = S_IFLNK | 0777;
        return 0;
    }
    attributes->st_mode = S_IFREG | tree->file_mode;
    if (!tree_is_active(node)) {
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
    unsigned long block = (unsigned long)tree->block_size;
    uint64_t used, room;

    if (image_allocated(tree->image, &used) == 0 &&
        store_room(tree->image->data_file, &room) == 0) {
        space->f_bfree = room / block;
        space->f_blocks = div_round_up(used, block) + space->f_bfree;
    }
    space->f_bavail = space->f_bfree;
    space->f_bsize = space->f_frsize = block;
    space->f_files = tree_inode_count(tree);
}
