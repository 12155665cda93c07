/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "fuse/options.h"

#include "admin/overlay.h"
#include "meta/luks.h"
#include "util/checked.h"

#include <assert.h>
#include <stddef.h>

/* The choices of cache= are in the order of the enumeration. */
static_assert(STORE_CACHE_WRITEBACK == 0 && STORE_CACHE_NONE == 1 &&
                  STORE_CACHE_WRITETHROUGH == 2 && STORE_CACHE_DIRECTSYNC == 3 &&
                  STORE_CACHE_UNSAFE == 4,
              "see cache= in the table");

#define FIELD(name) offsetof(struct mount_options, name)

/* A flag that libfuse hands to mount(2). */
#define KERNEL_FLAG .type = OPTION_PASS, .field = FIELD(kernel)

/* A label of SELinux, for the kernel. */
#define LABEL .type = OPTION_KERNEL, .field = FIELD(kernel), .value_name = "LABEL"

/* What is called otherwise here. */
#define HINT(what) .type = OPTION_REFUSE, .default_text = what

/* What mount(8), fstab and other FUSE programs know, and what changes nothing here. */
#define IGNORED .type = OPTION_IGNORE

/* uid_t and gid_t -1 mean "no change" to the kernel; nobody can have them. */
#define ID_MAX (UINT64_C(0xffffffff) - 1)

const struct option_spec mount_option_table[] = {
    {.name = "ro",
     .type = OPTION_BOOL,
     .field = FIELD(read_only),
     .help = "Mount read-only: nothing of the image is changed, and others may read it, too."},
    {.name = "rw",
     .type = OPTION_BOOL,
     .field = FIELD(read_only),
     .opposite = true,
     .help = "Mount for reading and writing. This is the default; of ro and rw the later one "
             "counts."},
    {.name = "overlay",
     .type = OPTION_OPTIONAL,
     .field = FIELD(overlay),
     .value_name = "FILE",
     .help =
         "Write to another image in place of IMAGE, which is opened as for ro: not a byte nor a "
         "time of it changes. Without FILE all that was written ends with the mount. FILE keeps "
         "it: a qcow2 image with IMAGE behind it, which is made where it does not exist, and "
         "gone on with where it does. IMAGE may be a raw disk, too."},
    {.name = "snapshot",
     .type = OPTION_BOOL,
     .field = FIELD(snapshot),
     .value_name = "on|off",
     .meant = "for a snapshot of the image: at-snapshot=NAME, or mount on a directory: each is a "
              "file in it, snapshots/NAME/disk.raw",
     .help = "overlay without FILE, in QEMU's word."},
    {.name = "overlay-dir",
     .type = OPTION_STRING,
     .field = FIELD(overlay_dir),
     .value_name = "DIR",
     .help = "The directory in which overlay without FILE has its file, which has no name.",
     .default_text = "$TMPDIR, or /var/tmp"},
    {.name = "overlay-max",
     .type = OPTION_SIZE,
     .field = FIELD(overlay_max),
     .min = OVERLAY_MAX_MIN,
     .max = INT64_MAX,
     .value_name = "SIZE",
     .help = "How long the file of the overlay may become: what needs more fails with ENOSPC.",
     .default_text = "as the host has room"},
    {.name = "at-snapshot",
     .type = OPTION_STRING,
     .field = FIELD(at_snapshot),
     .value_name = "NAME|ID",
     .help = "Show the disk as it is in this internal snapshot, in place of its active state: "
             "read-only or, with overlay, to be written."},
    {.name = "evidence",
     .type = OPTION_BOOL,
     .field = FIELD(evidence),
     .help =
         "Show what is in the image beside its disks, too, under a directory: evidence/ has the "
         "clusters that no table refers to, slack, and the tables. Implies ro."},
    {.name = "salvage",
     .type = OPTION_OPTIONAL,
     .field = FIELD(salvage),
     .value_name = "zeros",
     .help =
         "Show what can be had of a damaged image: what its header and tables no longer say is "
         "found as well as it can be, and salvage.json under a directory tells what is certain, "
         "deduced and missing. What cannot be read is EIO; with =zeros it reads as zeros. "
         "Implies ro."},
    {.name = "cluster-size",
     .type = OPTION_SIZE,
     .field = FIELD(cluster_size),
     .min = 512,
     .max = UINT64_C(2) << 20,
     .value_name = "SIZE",
     .help = "With salvage: the cluster size, whatever the header says."},
    {.name = "virtual-size",
     .type = OPTION_SIZE,
     .field = FIELD(virtual_size),
     .min = 1,
     .max = INT64_MAX,
     .value_name = "SIZE",
     .help = "With salvage: the size of the disk, likewise."},
    {.name = "l1-offset",
     .type = OPTION_SIZE,
     .field = FIELD(l1_offset),
     .min = 512,
     .max = INT64_MAX,
     .value_name = "OFFSET",
     .help = "With salvage: where in the file the L1 table is, likewise."},
    {.name = "format",
     .type = OPTION_CHOICE,
     .field = FIELD(format),
     .choices = "qcow2 raw",
     .value_name = "qcow2|raw",
     .help = "What IMAGE is. raw needs overlay, and tells that it is a raw disk whatever its first "
             "bytes, which a guest could write, look like.",
     .default_text = "qcow2; with overlay, what it looks like"},
    {.name = "force-share",
     .type = OPTION_BOOL,
     .field = FIELD(force_share),
     .help =
         "Open the image although another program, a running virtual machine for one, has it "
         "open for writing. What is read may then be a mixture of old and new, or fail. The mount "
         "is read-only, but with overlay."},
    {.name = "allow-probed-backing",
     .type = OPTION_BOOL,
     .field = FIELD(allow_probed_backing),
     .help = "Follow file names found in a backing image whose format is not recorded but "
             "guessed. A guest that could write to a raw backing image can have put any file "
             "name of this host into it."},
    {.name = "data-file",
     .type = OPTION_STRING,
     .field = FIELD(data_file),
     .value_name = "PATH",
     .help = "The external data file of the image, in place of the name recorded in it.",
     .default_text = "the recorded name"},
    {.name = "backing-file",
     .type = OPTION_STRING,
     .field = FIELD(backing_file),
     .value_name = "PATH",
     .help = "The backing file of the image, in place of the name recorded in it: for one that has "
             "moved.",
     .default_text = "the recorded name"},
    {.name = "key-file",
     .type = OPTION_SEVERAL,
     .field = FIELD(key_files),
     .value_name = "FILE",
     .help = "A file with the key of an encrypted image: all of its bytes, also a newline at the "
             "end. To be given more than once where the images of a chain have different keys: "
             "each is tried. - is standard input. Without any, a systemd credential named "
             "qcow2fs.key is the key, or it is asked for at the terminal."},
    {.name = "key-iterations-max",
     .type = OPTION_UINT,
     .field = FIELD(key_iterations_max),
     .max = UINT32_MAX,
     .value_name = "N",
     .help = "The most iterations of the key derivation that an encrypted image may ask for, which "
             "each takes time; 0: as many as it wants.",
     .default_text = LUKS_ITERATIONS_MAX_TEXT},
    {.name = "follow",
     .type = OPTION_CHOICE,
     .field = FIELD(follow),
     .choices = IMAGE_FOLLOW_CHOICES,
     .value_name = IMAGE_FOLLOW_CHOICES_HELP,
     .help = "Which files an image may bring along by naming them, as its backing file or data "
             "file. files: regular files and block devices of this machine. all: also addresses of "
             "NBD servers. beside: only regular files in the directory of the image that names "
             "them, or below. none: only what you name, with backing-file or data-file.",
     .default_text = "files"},
    {.name = "trust-names",
     .type = OPTION_BOOL,
     .field = FIELD(trust_names),
     .help =
         "Open the files that an image names although its owner, another user than you, may "
         "not read them, or not write its data file. Without this option such an image is "
         "refused with allow_other, and by qcow2ctl mount and attach; a data file that its owner may not write in any case."},
    {.name = "sandbox",
     .type = OPTION_CHOICE,
     .field = FIELD(sandbox),
     .choices = "on off strict",
     .value_name = "on|off|strict",
     .help = "Once all is open and mounted, the daemon gives up its capabilities, all system calls "
             "but those of serving, opening files, and core dumps. on: as far as the kernel and "
             "this build can; what is missing is said once. strict: do not mount where anything of "
             "that is missing.",
     .default_text = "on"},
    {.name = "locking",
     .type = OPTION_CHOICE,
     .field = FIELD(locking),
     .choices = "on off",
     .value_name = "on|off",
     .help = "off: take no locks, which a file system without any needs for writing. Then nothing "
             "keeps two programs from writing to one image, which destroys it.",
     .default_text = "on"},
    {.name = "cache",
     .type = OPTION_CHOICE,
     .field = FIELD(cache_mode),
     .choices = "writeback none writethrough directsync unsafe",
     .value_name = "MODE",
     .help =
         "How writing reaches the image, in QEMU's words: writeback, none (past the page cache "
         "of the host), writethrough (stable before each write returns), directsync (both of "
         "these), or unsafe (nothing is made stable, ever: for an image that can be made again).",
     .default_text = "writeback"},
    {.name = "nbd-timeout",
     .type = OPTION_UINT,
     .field = FIELD(nbd_timeout),
     .min = 1,
     .max = 86400,
     .value_name = "SECONDS",
     .help = "How long a request waits for an NBD server that does not answer, or that is away and "
             "comes again, before it fails with EIO.",
     .default_text = "60"},
    {.name = "read-cache",
     .type = OPTION_STRING,
     .field = FIELD(read_cache),
     .value_name = "FILE",
     .help =
         "Keep what is read of a server in FILE, so that it comes from there once. FILE is a new "
         "one, which has no name and ends with the mount, unless read-cache-keep says otherwise. "
         "Of several servers in a chain the first one has it.",
     .default_text = "none"},
    {.name = "read-cache-size",
     .type = OPTION_SIZE,
     .field = FIELD(read_cache_size),
     .min = READ_CACHE_SIZE_MIN,
     .max = INT64_MAX,
     .value_name = "SIZE",
     .help = "The most that the file of read-cache takes.",
     .default_text = "1G"},
    {.name = "read-cache-keep",
     .type = OPTION_BOOL,
     .field = FIELD(read_cache_keep),
     .help = "The file of read-cache stays, and the next mount goes on with it. You say with this "
             "that nothing but mounts with it change what the server has: only its size, and a few "
             "blocks, are compared."},
    {.name = "nbdkit",
     .type = OPTION_OPTIONAL,
     .field = FIELD(nbdkit),
     .value_name = "WORDS",
     .help = "Run nbdkit with these words for as long as the mount is there, and mount what it "
             "serves: nbdkit='curl url=https://HOST/FILE'. IMAGE is the last of the words then, "
             "and may be left out. No shell looks at them; they are separated by spaces, and taken "
             "together by quotes. Without WORDS: names nbdkit:WORDS that you give (IMAGE, "
             "backing-file, data-file) are meant to be addresses, and not of files.",
     .default_text = "none"},
    {.name = "discard",
     .type = OPTION_CHOICE,
     .field = FIELD(discard),
     .choices = "unmap=on ignore=off",
     .value_name = "unmap|ignore",
     .help = "Whether what is discarded (fstrim, blkdiscard, fallocate --punch-hole) gives its "
             "space in the image back. It reads as zeros in both cases.",
     .default_text = "unmap"},
    {.name = "compress",
     .type = OPTION_OPTIONAL,
     .field = FIELD(compress),
     .choices = "zlib zstd",
     .value_name = "zlib|zstd",
     .help =
         "Compress what is written, in whole clusters, to where the image has nothing yet: for a "
         "disk that is filled once. What is written there later, or in parts of clusters, or does "
         "not get smaller, is stored plain. The type is the one that the image was made with."},
    {.name = "growable",
     .type = OPTION_BOOL,
     .field = FIELD(growable),
     .help = "Make the disk larger when something is written past its end, in place of an error. "
             "The kernel then hands over each write at once."},
    {.name = "shrink",
     .type = OPTION_BOOL,
     .field = FIELD(shrink),
     .help = "Let truncate(2) and ftruncate(2) make the disk smaller, too: all behind its new end "
             "is lost. Without it they fail with EPERM where they would, as dd does without "
             "conv=notrunc."},
    {.name = "lazy-refcounts",
     .type = OPTION_BOOL,
     .field = FIELD(lazy_refcounts),
     .value_name = "on|off",
     .help = "Write the counts of used clusters only at the end. After a crash the image is marked "
             "dirty, and is repaired when it is next mounted for writing. Version 3 only.",
     .default_text = "what the image says"},
    {.name = "repair",
     .type = OPTION_BOOL,
     .field = FIELD(repair),
     .value_name = "on|off",
     .help =
         "Whether an image is repaired whose counts of used clusters are wrong; with off one that "
         "is marked dirty is refused, unless ro is given too. Without this option such an image is "
         "repaired, and one whose counts are found to be too low (see check) is only read. With "
         "on an image of any size is compared as a whole first.",
     .default_text = "on where it is marked dirty"},
    {.name = "check",
     .type = OPTION_CHOICE,
     .field = FIELD(check),
     .choices = "auto off on", /* enum writer_check */
     .value_name = "auto|on|off",
     .help = "Whether the counts of used clusters are compared with what is used before the image "
             "is written, since new data overwrites what is wrongly counted as free. auto does so "
             "where it takes some 100 ms at most (up to about 1 TiB of data), and looks only at "
             "the tables of a larger image, and at what they name when they are read; where counts "
             "are too low, or entries call a cluster their own that is shared, writing fails with "
             "EROFS. With on the mount is refused then.",
     .default_text = "auto"},
    {.name = "metadata-interval",
     .type = OPTION_UINT,
     .field = FIELD(metadata_interval),
     .max = 3600,
     .value_name = "SECONDS",
     .help = "Write changed metadata to the image after this time; 0 means only when something is "
             "synced, or the caches are full of it.",
     .default_text = "5"},
    {.name = "l2-cache-size",
     .type = OPTION_SIZE,
     .field = FIELD(cache.l2_size),
     .max = INT64_MAX,
     .value_name = "SIZE",
     .help = "Memory for L2 tables. To have the mapping of the whole disk in memory, a disk "
             "needs its size * 8 / cluster size (* 16 with extended L2 entries). At most two of "
             "l2-cache-size, refcount-cache-size and cache-size can be given.",
     .default_text = "what the disks of the chain need, at most 1/128 of the memory, 32M to "
                     "256M"},
    {.name = "l2-cache-entry-size",
     .type = OPTION_SIZE,
     .field = FIELD(cache.l2_entry_size),
     .min = 512,
     .max = UINT64_C(2) << 20,
     .value_name = "SIZE",
     .help = "How much of an L2 table is read and dropped at once: a power of two, from 512 to "
             "the cluster size.",
     .default_text =
         "4K; where the L2 cache maps all of the disk 64K if that takes more than 32M, or an "
         "image is on a server, or more if that prefers it"},
    {.name = "refcount-cache-size",
     .type = OPTION_SIZE,
     .field = FIELD(cache.refcount_size),
     .max = INT64_MAX,
     .value_name = "SIZE",
     .help = "Memory for refcount blocks. Only writing needs them.",
     .default_text = "4 clusters"},
    {.name = "cache-size",
     .type = OPTION_SIZE,
     .field = FIELD(cache.size),
     .max = INT64_MAX,
     .value_name = "SIZE",
     .help = "Memory for L2 tables and refcount blocks together."},
    {.name = "data-cache-size",
     .type = OPTION_SIZE,
     .field = FIELD(cache.data_size),
     .max = INT64_MAX,
     .value_name = "SIZE",
     .help = "Memory for decompressed clusters, taken as they are read.",
     .default_text = "1/32 of the memory, 32M to 1G"},
    {.name = "cache-clean-interval",
     .type = OPTION_UINT,
     .field = FIELD(cache.clean_interval),
     .max = 604800,
     .value_name = "SECONDS",
     .help = "Drop what the caches hold and nobody used for this long, and return the memory to "
             "the system; 0 means never.",
     .default_text = "600"},
    {.name = "threads",
     .type = OPTION_UINT,
     .field = FIELD(threads),
     .min = 1,
     .max = MOUNT_THREADS_MAX,
     .value_name = "N",
     .help = "The most requests that are served at the same time.",
     .default_text = "16; 64 where a file of the image is on a server"},
    {.name = "io-uring",
     .type = OPTION_BOOL,
     .field = FIELD(io_uring),
     .value_name = "on|off",
     .help = "Take requests from the kernel through io_uring: less work for each, but no more of "
             "them at the same time than there are processors. Needs libfuse 3.18, built with "
             "io_uring, and /sys/module/fuse/parameters/enable_uring set to Y.",
     .default_text = "off"},
    {.name = "pid-file",
     .type = OPTION_STRING,
     .field = FIELD(pid_file),
     .value_name = "FILE",
     .help = "Write the number of the daemon's process into FILE; it is taken away when the image "
             "is final.",
     .default_text = "none"},
    {.name = "uid",
     .type = OPTION_UINT,
     .field = FIELD(uid),
     .max = ID_MAX,
     .value_name = "ID",
     .help = "The owner of the files.",
     .default_text = "the user who mounts; the owner of the image file for root"},
    {.name = "gid",
     .type = OPTION_UINT,
     .field = FIELD(gid),
     .max = ID_MAX,
     .value_name = "ID",
     .help = "The group of the files.",
     .default_text = "the group of who mounts; that of the image file for root"},
    {.name = "mode",
     .type = OPTION_OCTAL,
     .field = FIELD(mode),
     .max = 0777,
     .value_name = "MODE",
     .help = "The permissions of the files, in octal, less those to write where nothing can be "
             "written. A directory can be searched by all who can read it.",
     .default_text =
         "those of the image file, less what a file behind it does not grant; its owner "
         "can always read"},
    {.name = "umask",
     .type = OPTION_OCTAL,
     .field = FIELD(umask),
     .max = 0777,
     .value_name = "MODE",
     .help = "Permissions to take away, in octal.",
     .default_text = "0"},
    {.name = "allow_other",
     .type = OPTION_BOOL,
     .field = FIELD(allow_other),
     .help = "Let other users in, as far as the permissions allow. Needs root, or "
             "user_allow_other in /etc/fuse.conf."},
    {.name = "allow_root",
     .type = OPTION_BOOL,
     .field = FIELD(allow_root),
     .help = "Let root in too, to attach a loop device for one. Needs what allow_other needs, "
             "and excludes it."},
    {.name = "auto_unmount",
     .type = OPTION_BOOL,
     .field = FIELD(auto_unmount),
     .help = "Unmount even if the daemon is killed."},
    {.name = "nonempty",
     .type = OPTION_BOOL,
     .field = FIELD(nonempty),
     .help = "Mount on a directory that is not empty, and hide what is in it."},
    {.name = "fsname",
     .type = OPTION_STRING,
     .field = FIELD(fsname),
     .value_name = "NAME",
     .help = "The source that the mount table shows.",
     .default_text = "the path of the image"},
    {.name = "subtype",
     .type = OPTION_STRING,
     .field = FIELD(subtype),
     .value_name = "NAME",
     .help = "The type that the mount table shows, behind \"fuse.\".",
     .default_text = "qcow2fs"},

    {.name = "suid", KERNEL_FLAG},
    {.name = "nosuid", KERNEL_FLAG},
    {.name = "dev", KERNEL_FLAG},
    {.name = "nodev", KERNEL_FLAG},
    {.name = "exec", KERNEL_FLAG},
    {.name = "noexec", KERNEL_FLAG},
    {.name = "atime", KERNEL_FLAG},
    {.name = "noatime", KERNEL_FLAG},
    {.name = "sync", KERNEL_FLAG},
    {.name = "async", KERNEL_FLAG},
    {.name = "dirsync", KERNEL_FLAG},
    {.name = "context", LABEL},
    {.name = "fscontext", LABEL},
    {.name = "defcontext", LABEL},
    {.name = "rootcontext", LABEL},

    {.name = "offset",
     HINT("the whole disk is shown; for a partition of it: qcow2ctl mount -p NUMBER IMAGE DIR, or "
          "losetup --offset on the raw disk")},
    {.name = "partition",
     HINT("the whole disk is shown; for a partition of it: qcow2ctl mount -p NUMBER IMAGE DIR")},

    {.name = "default_permissions", IGNORED}, /* always asked for */
    {.name = "defaults", IGNORED},
    {.name = "auto", IGNORED},
    {.name = "noauto", IGNORED},
    {.name = "user", IGNORED},
    {.name = "nouser", IGNORED},
    {.name = "users", IGNORED},
    {.name = "owner", IGNORED},
    {.name = "group", IGNORED},
    {.name = "nofail", IGNORED},
    {.name = "_netdev", IGNORED},
    {.name = "_rnetdev", IGNORED},
    {
        .name = "mounted-device", /* of qcow2ctl, which mounts without a name */
        .type = OPTION_STRING,
        .field = FIELD(mounted_device),
    },
    {
        .name = "shown-to-others", /* of qcow2ctl, which puts something on top that is for all */
        .type = OPTION_BOOL,
        .field = FIELD(shown_to_others),
    },
    {
        .name = "errno-told", /* of qcow2ctl, which passes it on */
        .type = OPTION_BOOL,
        .field = FIELD(errno_told),
    },
    {.name = "x-*", IGNORED},
    {.name = "X-*", IGNORED},
    {.name = "comment*", IGNORED},
    {.name = "uhelper", IGNORED},
    {.name = "helper", IGNORED},
    {.name = "diratime", IGNORED},
    {.name = "nodiratime", IGNORED},
    {.name = "relatime", IGNORED},
    {.name = "norelatime", IGNORED},
    {.name = "strictatime", IGNORED},
    {.name = "nostrictatime", IGNORED},
    {.name = "lazytime", IGNORED},
    {.name = "nolazytime", IGNORED},
    {.name = "iversion", IGNORED},
    {.name = "noiversion", IGNORED},
    {.name = "mand", IGNORED},
    {.name = "nomand", IGNORED},
    {.name = "silent", IGNORED},
    {.name = "loud", IGNORED},
    {.name = "symfollow", IGNORED},
    {.name = "nosymfollow", IGNORED},
    {.name = "seclabel", IGNORED},
    {.name = "blkdev", IGNORED},
    {.name = "loop", IGNORED},
    {.name = "big_writes", IGNORED},
    {.name = "max_read", IGNORED},
    {.name = NULL},
};

unsigned mount_threads(const struct mount_options *options, const struct image *image)
{
    if (options->threads.set) {
        return (unsigned)options->threads.value;
    }
    while (image != NULL && !image_is_on_server(image)) {
        image = image->backing;
    }
    return image != NULL ? MOUNT_THREADS_REMOTE : MOUNT_THREADS_DEFAULT;
}

unsigned mount_nbd_timeout(const struct mount_options *options)
{
    return options->nbd_timeout.set ? (unsigned)options->nbd_timeout.value
                                    : STORE_NBD_TIMEOUT_DEFAULT;
}

enum store_cache mount_cache_mode(const struct mount_options *options)
{
    return options->cache_mode.set ? (enum store_cache)options->cache_mode.value
                                   : STORE_CACHE_WRITEBACK;
}

struct image_names mount_names(const struct mount_options *options)
{
    enum image_rights rights = options->allow_other.value || options->shown_to_others.value
                                   ? IMAGE_NAMES_OF_OWNER
                                   : IMAGE_NAMES_PRIVATE;

    return (struct image_names){
        .rights = options->trust_names.value ? IMAGE_NAMES_TRUSTED : rights,
        .follow = (enum image_follow)options->follow.value,
    };
}
