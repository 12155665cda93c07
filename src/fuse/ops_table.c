/* SPDX-License-Identifier: MIT */
/*
 * All request handlers, each with the clock around it. What a handler gives to another thread (a
 * search for holes, zeros) counts as long as the handler had it.
 */
#include "config.h"

#define FUSE_USE_VERSION 312

#include "fuse/ops_internal.h"

/* The request is gone once it is answered, but not what it was asked of. */
#define TIMED(op, kind, parameters, arguments)                       \
    static void timed_##op parameters                                \
    {                                                                \
        struct filesystem *filesystem = fuse_req_userdata(request);  \
        uint64_t begun = stats_clock();                              \
                                                                     \
        op arguments;                                                \
        stats_took(&filesystem->stats, kind, stats_clock() - begun); \
    }

TIMED(op_statfs, REQUEST_STATFS, (fuse_req_t request, fuse_ino_t inode), (request, inode))
TIMED(op_lookup, REQUEST_LOOKUP, (fuse_req_t request, fuse_ino_t parent, const char *name),
      (request, parent, name))
TIMED(op_getattr, REQUEST_GETATTR,
      (fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *info), (request, inode, info))
TIMED(op_setattr, REQUEST_SETATTR,
      (fuse_req_t request, fuse_ino_t inode, struct stat *attributes, int to_set,
       struct fuse_file_info *info),
      (request, inode, attributes, to_set, info))
TIMED(op_opendir, REQUEST_OPENDIR,
      (fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *info), (request, inode, info))
TIMED(op_readlink, REQUEST_LOOKUP, (fuse_req_t request, fuse_ino_t inode), (request, inode))
TIMED(op_readdir, REQUEST_READDIR,
      (fuse_req_t request, fuse_ino_t inode, size_t size, off_t offset,
       struct fuse_file_info *info),
      (request, inode, size, offset, info))
TIMED(op_readdirplus, REQUEST_READDIR,
      (fuse_req_t request, fuse_ino_t inode, size_t size, off_t offset,
       struct fuse_file_info *info),
      (request, inode, size, offset, info))
TIMED(op_open, REQUEST_OPEN, (fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *info),
      (request, inode, info))
TIMED(op_release, REQUEST_RELEASE,
      (fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *info), (request, inode, info))
TIMED(op_read, REQUEST_READ,
      (fuse_req_t request, fuse_ino_t inode, size_t size, off_t offset,
       struct fuse_file_info *info),
      (request, inode, size, offset, info))
TIMED(op_write, REQUEST_WRITE,
      (fuse_req_t request, fuse_ino_t inode, const char *data, size_t size, off_t offset,
       struct fuse_file_info *info),
      (request, inode, data, size, offset, info))
TIMED(op_fallocate, REQUEST_FALLOCATE,
      (fuse_req_t request, fuse_ino_t inode, int mode, off_t offset, off_t length,
       struct fuse_file_info *info),
      (request, inode, mode, offset, length, info))
TIMED(op_flush, REQUEST_FLUSH, (fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *info),
      (request, inode, info))
TIMED(op_fsync, REQUEST_FSYNC,
      (fuse_req_t request, fuse_ino_t inode, int data_only, struct fuse_file_info *info),
      (request, inode, data_only, info))
TIMED(op_lseek, REQUEST_LSEEK,
      (fuse_req_t request, fuse_ino_t inode, off_t offset, int whence, struct fuse_file_info *info),
      (request, inode, offset, whence, info))
TIMED(op_mkdir, REQUEST_MKDIR,
      (fuse_req_t request, fuse_ino_t parent, const char *name, mode_t mode),
      (request, parent, name, mode))
TIMED(op_rmdir, REQUEST_RMDIR, (fuse_req_t request, fuse_ino_t parent, const char *name),
      (request, parent, name))
TIMED(op_rename, REQUEST_RENAME,
      (fuse_req_t request, fuse_ino_t parent, const char *name, fuse_ino_t new_parent,
       const char *new_name, unsigned flags),
      (request, parent, name, new_parent, new_name, flags))

/*
 * What is not here is answered by libfuse with what is right: forget needs
 * nothing, since inodes are not counted; ENOSYS to getxattr and listxattr makes
 * the kernel stop asking.
 */
const struct fuse_lowlevel_ops filesystem_operations = {
    .init = op_init,
    .statfs = timed_op_statfs,
    .lookup = timed_op_lookup,
    .getattr = timed_op_getattr,
    .setattr = timed_op_setattr,
    .opendir = timed_op_opendir,
    .readlink = timed_op_readlink,
    .readdir = timed_op_readdir,
    .readdirplus = timed_op_readdirplus,
    .open = timed_op_open,
    .release = timed_op_release,
    .read = timed_op_read,
    .write = timed_op_write,
    .fallocate = timed_op_fallocate,
    .flush = timed_op_flush,
    .fsync = timed_op_fsync,
    .lseek = timed_op_lseek,
    .mkdir = timed_op_mkdir,
    .rmdir = timed_op_rmdir,
    .rename = timed_op_rename,
    .unlink = op_refuse_name,
    .mknod = op_refuse_mknod,
    .create = op_refuse_create,
    .symlink = op_refuse_symlink,
    .link = op_refuse_link,
};
