/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "store/kernel_files.h"

#include <linux/magic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

#define MOUNTS "/proc/self/mountinfo"

/* By the type that statfs(2) tells. Those that linux/magic.h does not name stand in the kernel's
 * sources, each in its own file system. */
static const struct {
    uint32_t type;
    const char *name;
} kernels[] = {
    {PROC_SUPER_MAGIC, "procfs"},
    {SYSFS_MAGIC, "sysfs"},
    {TRACEFS_MAGIC, "tracefs"},
    {DEBUGFS_MAGIC, "debugfs"},
    {SECURITYFS_MAGIC, "securityfs"},
    {SELINUX_MAGIC, "selinuxfs"},
    {SMACK_MAGIC, "smackfs"},
    {AAFS_MAGIC, "apparmorfs"},
    {CGROUP_SUPER_MAGIC, "cgroup"},
    {CGROUP2_SUPER_MAGIC, "cgroup2"},
    {BPF_FS_MAGIC, "bpf"},
    {0x62656570, "configfs"},
    {DEVPTS_SUPER_MAGIC, "devpts"},
    {EFIVARFS_MAGIC, "efivarfs"},
    {PSTOREFS_MAGIC, "pstore"},
    {RDTGROUP_SUPER_MAGIC, "resctrl"},
    {BINFMTFS_MAGIC, "binfmt_misc"},
    {BINDERFS_SUPER_MAGIC, "binder"},
    {NSFS_MAGIC, "nsfs"},
    {PIPEFS_MAGIC, "pipefs"},
    {SOCKFS_MAGIC, "sockfs"},
    {ANON_INODE_FS_MAGIC, "anon_inodefs"},
    {DMA_BUF_MAGIC, "dmabuf"},
    {SECRETMEM_MAGIC, "secretmem"},
    {DEVMEM_MAGIC, "devmem"},
    {BDEVFS_MAGIC, "bdev"},
    {MTD_INODE_FS_MAGIC, "mtd_inodefs"},
    {USBDEVICE_SUPER_MAGIC, "usbfs"},
    {0x50494446, "pidfs"},
    {0x65735543, "fusectl"},
    {0x19800202, "mqueue"},
    {0x67596969, "rpc_pipefs"},
    {0x6e667364, "nfsd"},
    {XENFS_SUPER_MAGIC, "xenfs"},
    {AUTOFS_SUPER_MAGIC, "autofs"},
    {OPENPROM_SUPER_MAGIC, "openpromfs"},
    {0xaee71ee7, "gadgetfs"},
    {0x0a647361, "functionfs"},
    {0x12061983, "hypfs"},
    {0x2bad1dea, "inotifyfs"},
};

/* Whether the line of mountinfo is of a devtmpfs with this number. */
static bool is_devtmpfs(const char *line, dev_t device)
{
    unsigned major_number, minor_number;
    const char *type = strstr(line, " - ");

    return type != NULL && strncmp(type + 3, "devtmpfs ", 9) == 0 &&
           sscanf(line, "%*u %*u %u:%u ", &major_number, &minor_number) == 2 &&
           makedev(major_number, minor_number) == device;
}

/* The kernel's /dev calls itself a tmpfs; only the table of mounts tells them apart. */
static bool is_of_devtmpfs(dev_t device)
{
    FILE *mounts = fopen(MOUNTS, "re");
    char *line = NULL;
    size_t size = 0;
    bool found = false;

    if (mounts == NULL) {
        return false;
    }
    while (!found && getline(&line, &size, mounts) > 0) {
        found = is_devtmpfs(line, device);
    }
    free(line);
    fclose(mounts);
    return found;
}

const char *kernel_file_system(int fd, dev_t device)
{
    struct statfs host;
    uint32_t type;

    if (fstatfs(fd, &host) != 0) {
        return NULL;
    }
    type = (uint32_t)host.f_type; /* a signed word of any size, by architecture */
    for (size_t i = 0; i < sizeof(kernels) / sizeof(kernels[0]); i++) {
        if (kernels[i].type == type) {
            return kernels[i].name;
        }
    }
    return (type == TMPFS_MAGIC || type == RAMFS_MAGIC) && is_of_devtmpfs(device) ? "devtmpfs"
                                                                                  : NULL;
}
