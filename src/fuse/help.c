/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "fuse/help.h"

#include "fuse/options.h"
#include "fuse/session.h"
#include "util/printable.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

static const char help_text[] =
    "Usage: qcow2fs [-f] [-d] [-s] [-o OPT[,OPT...]] IMAGE MOUNTPOINT\n"
    "\n"
    "Shows a qcow2 disk image as a raw file. Where MOUNTPOINT is a regular file, that\n"
    "path becomes the raw disk; where it is a directory, the disk appears in it as\n"
    "disk.raw, and each internal snapshot as snapshots/NAME/disk.raw; mkdir, rmdir\n"
    "and mv in snapshots/ make, remove and rename them.\n"
    "\n"
    "  -f                          stay in the foreground\n"
    "  -d                          the same, and show every request\n"
    "  -s                          serve one request at a time, in one thread\n"
    "  --ready-fd=N                write a newline to descriptor N, and close it,\n"
    "                              once the raw disk is there\n"
    "  -o OPT[,OPT...]             mount options, see below\n"
    "  -h, --help                  show this\n"
    "  -V, --version               show the version, and what was built in\n"
    "\n"
    "Look at an image and its snapshots:\n"
    "  qcow2fs -o ro disk.qcow2 /mnt/image\n"
    "\n"
    "Attach it as a block device, with its partitions, to read and write:\n"
    "  touch disk.raw\n"
    "  qcow2fs disk.qcow2 disk.raw\n"
    "  losetup --find --show --partscan disk.raw\n"
    "\n"
    "Examine evidence: every state of the disk, and nothing written to it:\n"
    "  qcow2fs -o ro evidence.qcow2 /mnt/case\n"
    "  sha256sum /mnt/case/disk.raw /mnt/case/snapshots/*/disk.raw\n"
    "\n"
    "Give it to a tool that must write, which ends with the mount:\n"
    "  qcow2fs -o overlay evidence.qcow2 /mnt/case\n"
    "\n"
    "Unmount:\n"
    "  umount MOUNTPOINT           or, as an ordinary user:\n"
    "  fusermount3 -u MOUNTPOINT\n"
    "\n"
    "Mount options; - and _ in a name are the same, and SIZE takes k, M, G, T:\n";

void help_print(void)
{
    fputs(help_text, stdout);
    options_help(mount_option_table, stdout);
}

void help_print_version(void)
{
    static const struct {
        const char *name;
        bool is_in;
    } libraries[] = {
        {"zlib", true},
#ifdef HAVE_ZSTD
        {"libzstd", true},
#else
        {"libzstd", false},
#endif
#ifdef HAVE_LIBDEFLATE
        {"libdeflate", true},
#else
        {"libdeflate", false},
#endif
#ifdef HAVE_GCRYPT
        {"libgcrypt", true},
#else
        {"libgcrypt", false},
#endif
#ifdef HAVE_LIBNBD
        {"libnbd", true},
#else
        {"libnbd", false},
#endif
#ifdef HAVE_SECCOMP
        {"libseccomp", true},
#else
        {"libseccomp", false},
#endif
#ifdef HAVE_JANSSON
        {"jansson", true},
#else
        {"jansson", false},
#endif
    };

    printable_line(stdout, "qcow2fs %s", PACKAGE_VERSION);
    printable_line(stdout, "libfuse %s", session_fuse_version());
    for (size_t i = 0; i < sizeof(libraries) / sizeof(libraries[0]); i++) {
        printable_line(stdout, "%s %s", libraries[i].name, libraries[i].is_in ? "yes" : "no");
    }
}
