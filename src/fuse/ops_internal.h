/* SPDX-License-Identifier: MIT */
/* What the files of the request handlers share: ops.c and ops_*.c; ops_table.c has them all. */
#ifndef FUSE_OPS_INTERNAL_H
#define FUSE_OPS_INTERNAL_H

#include "fuse/ops.h"

#include <fuse_lowlevel.h>

/* What every handler begins with. */
struct filesystem *ops_begin(fuse_req_t request, enum request_kind kind);

/* Fails the request with a negative errno. */
void ops_fail(fuse_req_t request, int r);

/* The node of an inode; also of a file that is open where no name leads to it any more. */
bool ops_node(const struct filesystem *filesystem, uint64_t inode, struct node *node);

/* Seconds for which the kernel may keep the attributes of a node. */
double ops_timeout(const struct filesystem *filesystem, const struct node *node);

/* What is answered where the directory of a snapshot was made: 0, or a negative errno. */
int ops_snapshot_entry(struct filesystem *filesystem, uint64_t key, struct fuse_entry_param *entry);

/* Whether who asked was interrupted, for stop_ask(). */
bool ops_is_interrupted(const void *request);

static inline struct open_file *ops_file(const struct fuse_file_info *info)
{
    return (struct open_file *)(uintptr_t)info->fh;
}

/*
 * The kernel asks for the attributes of an open file before it takes in a write
 * that it may cache; -ENOSPC once for who has written past the end of the disk.
 */
int ops_check_past_end(fuse_req_t request, const struct fuse_file_info *info);

/*
 * At least `size` bytes that belong to this thread, aligned for direct I/O;
 * what was in them is lost. NULL when memory ran out.
 */
char *ops_buffer(struct filesystem *filesystem, size_t size);

void op_init(void *user_data, struct fuse_conn_info *connection);
void op_statfs(fuse_req_t request, fuse_ino_t inode);
void op_lookup(fuse_req_t request, fuse_ino_t parent, const char *name);
void op_getattr(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *info);
void op_opendir(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *info);
void op_readdir(fuse_req_t request, fuse_ino_t inode, size_t size, off_t offset,
                struct fuse_file_info *info);
void op_readdirplus(fuse_req_t request, fuse_ino_t inode, size_t size, off_t offset,
                    struct fuse_file_info *info);
void op_readlink(fuse_req_t request, fuse_ino_t inode);
void op_read(fuse_req_t request, fuse_ino_t inode, size_t size, off_t offset,
             struct fuse_file_info *info);
void op_lseek(fuse_req_t request, fuse_ino_t inode, off_t offset, int whence,
              struct fuse_file_info *info);
void op_open(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *info);
void op_release(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *info);
void op_setattr(fuse_req_t request, fuse_ino_t inode, struct stat *attributes, int to_set,
                struct fuse_file_info *info);
void op_write(fuse_req_t request, fuse_ino_t inode, const char *data, size_t size, off_t offset,
              struct fuse_file_info *info);
void op_fallocate(fuse_req_t request, fuse_ino_t inode, int mode, off_t offset, off_t length,
                  struct fuse_file_info *info);
void op_flush(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *info);
void op_fsync(fuse_req_t request, fuse_ino_t inode, int data_only, struct fuse_file_info *info);
void op_mkdir(fuse_req_t request, fuse_ino_t parent, const char *name, mode_t mode);
void op_rmdir(fuse_req_t request, fuse_ino_t parent, const char *name);
void op_rename(fuse_req_t request, fuse_ino_t parent, const char *name, fuse_ino_t new_parent,
               const char *new_name, unsigned flags);
void op_refuse_name(fuse_req_t request, fuse_ino_t parent, const char *name);
void op_refuse_mknod(fuse_req_t request, fuse_ino_t parent, const char *name, mode_t mode,
                     dev_t device);
void op_refuse_create(fuse_req_t request, fuse_ino_t parent, const char *name, mode_t mode,
                      struct fuse_file_info *info);
void op_refuse_symlink(fuse_req_t request, const char *target, fuse_ino_t parent, const char *name);
void op_refuse_link(fuse_req_t request, fuse_ino_t inode, fuse_ino_t parent, const char *name);

#endif
