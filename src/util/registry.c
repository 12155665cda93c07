/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "util/registry.h"

#include "util/process.h"
#include "util/registry_belief.h"
#include "util/registry_places.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/openat2.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define RECORD_MAX (64 * 1024) /* bytes of a file that are read */
#define SOCKET     ".control"  /* behind the name of the file, of the socket beside it */

#define SAME_NUMBER_MAX 16 /* processes of one number, in several namespaces */

#define ROOM 8 /* descriptors, more than it takes to look at one record */

struct registry_entry {
    int directory, descriptor;
    char name[24];
};

/* --- the content ---------------------------------------------------------------- */

/* Where one value goes. */
static void take_pair(struct registry_record *record, const char *name, const char *value)
{
    if (strcmp(name, "pid") == 0) {
        record->pid = (pid_t)strtol(value, NULL, 10);
    } else if (strcmp(name, "image") == 0) {
        free(record->image);
        record->image = strdup(value);
    } else if (strcmp(name, "mount-point") == 0) {
        free(record->mount_point);
        record->mount_point = strdup(value);
    } else if (strcmp(name, "writable") == 0) {
        record->writable = *value == '1';
    } else if (strcmp(name, "overlay") == 0) {
        record->overlay = *value == '1';
    } else if (strcmp(name, "since") == 0) {
        record->since = strtoll(value, NULL, 10);
    } else if (strcmp(name, "major") == 0) {
        record->major = strtoull(value, NULL, 10);
    } else if (strcmp(name, "minor") == 0) {
        record->minor = strtoull(value, NULL, 10);
    } else if (strcmp(name, "image-major") == 0) {
        record->image_major = strtoull(value, NULL, 10);
    } else if (strcmp(name, "image-minor") == 0) {
        record->image_minor = strtoull(value, NULL, 10);
    } else if (strcmp(name, "image-inode") == 0) {
        record->image_inode = strtoull(value, NULL, 10);
    } else if (strcmp(name, "status") == 0) {
        record->has_ended = true;
        record->status = (int)strtol(value, NULL, 10);
    } else if (strcmp(name, "message") == 0) {
        free(record->message);
        record->message = strdup(value);
    }
}

/* 0; -EINVAL for a file that is not (yet) complete; a negative errno. */
static int load(int descriptor, struct registry_record *record)
{
    char *text = malloc(RECORD_MAX + 1);
    struct stat status;
    ssize_t length;

    memset(record, 0, sizeof(*record));
    record->process = -1;
    if (text == NULL) {
        return -ENOMEM;
    }
    length = pread(descriptor, text, RECORD_MAX, 0);
    if (length < 0 || fstat(descriptor, &status) != 0) {
        int code = errno;

        free(text);
        return -code;
    }
    text[length] = '\0';
    record->user = status.st_uid;
    for (char *pair = text, *next; pair < text + length; pair = next) {
        char *value = strchr(pair, '=');

        next = pair + strlen(pair) + 1;
        if (value != NULL) {
            *value = '\0';
            take_pair(record, pair, value + 1);
        }
    }
    free(text);
    if (record->message == NULL) {
        record->message = strdup("");
    }
    if (record->image == NULL || record->mount_point == NULL || record->message == NULL ||
        record->pid <= 0) {
        registry_release(record);
        return -EINVAL;
    }
    return 0;
}

void registry_release(struct registry_record *record)
{
    free(record->image);
    free(record->mount_point);
    free(record->message);
    memset(record, 0, sizeof(*record));
    record->process = -1;
}

/* --- which file the image is ------------------------------------------------------- */

bool registry_knows_image(const struct registry_record *record)
{
    return record->image_major != 0 || record->image_minor != 0 || record->image_inode != 0;
}

void registry_set_image(struct registry_record *record, const struct statx *status)
{
    bool is_node = S_ISBLK(status->stx_mode);

    record->image_major = is_node ? status->stx_rdev_major : status->stx_dev_major;
    record->image_minor = is_node ? status->stx_rdev_minor : status->stx_dev_minor;
    record->image_inode = is_node ? 0 : status->stx_ino;
}

bool registry_is_image(const struct registry_record *record, const struct statx *status)
{
    struct registry_record other = {.pid = 0};

    registry_set_image(&other, status);
    return registry_knows_image(record) && record->image_major == other.image_major &&
           record->image_minor == other.image_minor && record->image_inode == other.image_inode;
}

/* --- the socket beside a file ---------------------------------------------------- */

void registry_remove(int directory, const char *name)
{
    char socket_name[64];

    snprintf(socket_name, sizeof(socket_name), "%.32s" SOCKET, name);
    (void)unlinkat(directory, socket_name, 0);
    (void)unlinkat(directory, name, 0);
}

/* By way of the directory's descriptor, as an address has room for 107 bytes. */
static struct sockaddr_un socket_address(int directory, const char *name)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/%.32s" SOCKET, directory,
             name);
    return address;
}

int registry_listen(const struct registry_entry *entry)
{
    struct sockaddr_un address;
    int listening;

    if (entry == NULL) {
        return -1;
    }
    address = socket_address(entry->directory, entry->name);
    listening = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (listening >= 0 &&
        (bind(listening, (const struct sockaddr *)&address, sizeof(address)) != 0 ||
         listen(listening, 8) != 0)) {
        close(listening);
        return -1;
    }
    return listening;
}

/* As registry_connect(). */
static int connect_within(const struct sockaddr_un *address, int milliseconds)
{
    const struct timeval limit = {.tv_sec = milliseconds / 1000,
                                  .tv_usec = milliseconds % 1000 * 1000};
    int connected = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0), result = 0;

    if (connected < 0) {
        return -errno;
    }
    if ((milliseconds >= 0 &&
         setsockopt(connected, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)) != 0) ||
        connect(connected, (const struct sockaddr *)address, sizeof(*address)) != 0) {
        result = errno == EAGAIN ? -ETIMEDOUT : -errno;
    }
    if (result != 0) {
        close(connected);
    }
    return result == 0 ? connected : result;
}

int registry_connect(int descriptor, int milliseconds)
{
    char link[48], path[4096];
    struct sockaddr_un address;
    int directory, result;
    ssize_t length;
    char *slash;

    snprintf(link, sizeof(link), "/proc/self/fd/%d", descriptor);
    length = readlink(link, path, sizeof(path) - 1);
    if (length <= 0) {
        return length < 0 ? -errno : -ENOENT;
    }
    path[length] = '\0';
    slash = strrchr(path, '/');
    if (slash == NULL || slash == path) {
        return -ENOENT;
    }
    *slash = '\0';
    directory = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0) {
        return -errno;
    }
    address = socket_address(directory, slash + 1);
    result = connect_within(&address, milliseconds);
    close(directory);
    return result;
}

/* Whether its daemon has ended; the lock is held then. */
static bool has_ended(int descriptor)
{
    return flock(descriptor, LOCK_EX | LOCK_NB) == 0;
}

/* --- the daemon --------------------------------------------------------------- */

static bool write_record(int descriptor, const struct registry_record *record)
{
    return dprintf(descriptor,
                   "writable=%d%coverlay=%d%csince=%" PRId64 "%cmajor=%" PRIu64 "%cminor=%" PRIu64
                   "%cimage-major=%" PRIu64 "%cimage-minor=%" PRIu64 "%cimage-inode=%" PRIu64
                   "%cimage=%s%cmount-point=%s%cpid=%ld%c",
                   record->writable, 0, record->overlay, 0, record->since, 0, record->major, 0,
                   record->minor, 0, record->image_major, 0, record->image_minor, 0,
                   record->image_inode, 0, record->image, 0, record->mount_point, 0,
                   (long)record->pid, 0) > 0;
}

/* Whether a process has it that lives: of another namespace, as this one has the number here. */
static bool is_taken(int directory, const char *name)
{
    int descriptor = openat(directory, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    bool taken = descriptor >= 0 && !has_ended(descriptor);

    if (descriptor >= 0) {
        close(descriptor);
    }
    return taken;
}

/* Named after the process. 0 or a negative errno. */
static int make_file(struct registry_entry *entry, pid_t pid)
{
    unsigned number = 0;

    snprintf(entry->name, sizeof(entry->name), "%ld", (long)pid);
    while (is_taken(entry->directory, entry->name)) {
        if (++number == SAME_NUMBER_MAX) {
            return -EBUSY;
        }
        snprintf(entry->name, sizeof(entry->name), "%ld.%u", (long)pid, number);
    }
    registry_remove(entry->directory, entry->name);
    entry->descriptor = openat(entry->directory, entry->name,
                               O_RDWR | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0600);
    return entry->descriptor >= 0 ? 0 : -errno;
}

struct registry_entry *registry_enter(const struct registry_record *record)
{
    struct registry_entry *entry = calloc(1, sizeof(*entry));
    int result;

    if (entry == NULL) {
        return NULL;
    }
    entry->descriptor = -1;
    entry->directory = registry_place_make();
    result = entry->directory >= 0 ? make_file(entry, record->pid) : entry->directory;
    /* Who looks at it just now lets go of it at once. */
    if (result == 0 &&
        (flock(entry->descriptor, LOCK_EX) != 0 || !write_record(entry->descriptor, record))) {
        result = -errno;
        registry_remove(entry->directory, entry->name);
    }
    if (result != 0) {
        registry_leave(entry);
        errno = -result;
        return NULL;
    }
    return entry;
}

int registry_directory(const struct registry_entry *entry)
{
    return entry->directory;
}

const char *registry_name(const struct registry_entry *entry)
{
    return entry->name;
}

void registry_end(const struct registry_entry *entry, int status, const char *message)
{
    (void)dprintf(entry->descriptor, "message=%s%cstatus=%d%c", message, 0, status, 0);
}

void registry_leave(struct registry_entry *entry)
{
    if (entry->descriptor >= 0) {
        close(entry->descriptor);
    }
    if (entry->directory >= 0) {
        close(entry->directory);
    }
    free(entry);
}

/* --- the others ------------------------------------------------------------------ */

struct visit {
    int (*each)(void *context, const struct registry_record *record, int descriptor);
    void *context;
};

static bool has_owner_of(int directory, int descriptor)
{
    struct stat around, file;

    return fstat(directory, &around) == 0 && fstat(descriptor, &file) == 0 &&
           around.st_uid == file.st_uid;
}

static int visit_record(const struct visit *visit, struct registry_record *record, int descriptor)
{
    int process = pidfd_open(record->pid, 0), result = 0;

    record->process = process;
    if (registry_believes(record)) {
        result = visit->each(visit->context, record, descriptor);
    }
    if (process >= 0) {
        close(process);
    }
    return result;
}

/* Nothing that is mounted there, whose server could keep us waiting: where the kernel can do that.
 */
static int open_file(int directory, const char *name)
{
    const struct open_how how = {
        .flags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC,
        .resolve = RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS,
    };
    int descriptor = (int)syscall(SYS_openat2, directory, name, &how, sizeof(how));

    if (descriptor < 0 && (errno == ENOSYS || errno == EPERM)) { /* or a filter of calls cannot */
        descriptor = openat(directory, name, (int)how.flags);
    }
    return descriptor;
}

static void remove_dead(int directory, const char *name, int descriptor)
{
    struct stat now, then;

    /* Not one that came into being under this name just now. */
    if (fstat(descriptor, &then) == 0 && fstatat(directory, name, &now, AT_SYMLINK_NOFOLLOW) == 0 &&
        now.st_ino == then.st_ino && then.st_size > 0) {
        registry_remove(directory, name);
    }
}

/*
 * What cannot be opened in another user's directory is his own doing. In one's own it may have
 * gone, or be nothing of ours; else nobody knows what it says.
 */
static int judge_failure(int directory, int code)
{
    static const int meaningless[] = {ENOENT, EACCES, EPERM, ELOOP, ENXIO, EXDEV};
    struct stat status;

    if (fstat(directory, &status) == 0 && status.st_uid != geteuid()) {
        return 0;
    }
    for (size_t i = 0; i < sizeof(meaningless) / sizeof(meaningless[0]); i++) {
        if (code == meaningless[i]) {
            return 0;
        }
    }
    return -code;
}

static int visit_opened(const struct visit *visit, int directory, int descriptor)
{
    struct registry_record record;
    int result;

    if (!has_owner_of(directory, descriptor)) {
        return 0;
    }
    result = load(descriptor, &record);
    if (result != 0) {
        return result == -ENOMEM ? result : 0;
    }
    result = visit_record(visit, &record, descriptor);
    registry_release(&record);
    return result;
}

static int visit_file(const struct visit *visit, int directory, const char *name)
{
    int result = process_find_room(ROOM), descriptor;

    if (result != 0) {
        return result;
    }
    descriptor = open_file(directory, name);
    if (descriptor < 0) {
        return judge_failure(directory, errno);
    }
    if (has_ended(descriptor)) {
        remove_dead(directory, name, descriptor);
    } else {
        result = visit_opened(visit, directory, descriptor);
    }
    close(descriptor);
    return result;
}

/* Closes `directory`. */
static int visit_directory(void *context, int directory)
{
    DIR *stream = fdopendir(directory);
    struct dirent *item;
    int result = 0;

    if (stream == NULL) {
        result = -errno;
        close(directory);
        return result;
    }
    while (result == 0 && (item = readdir(stream)) != NULL) {
        if (item->d_name[0] >= '1' && item->d_name[0] <= '9') {
            result = visit_file(context, dirfd(stream), item->d_name);
        }
    }
    closedir(stream);
    return result;
}

int registry_visit(int (*each)(void *context, const struct registry_record *record, int descriptor),
                   void *context)
{
    struct visit visit = {.each = each, .context = context};
    int result = process_find_room(ROOM);

    return result == 0 ? registry_places_visit(visit_directory, &visit) : result;
}

/*
 * A lock has no event to wait for with a limit, but the process has; the lock
 * then says for certain.
 */
static int wait_for_process(pid_t pid, int milliseconds)
{
    struct pollfd end = {.fd = pidfd_open(pid, 0), .events = POLLIN};
    int count;

    if (end.fd < 0) {
        return errno == ESRCH ? 0 : -errno;
    }
    do {
        count = poll(&end, 1, milliseconds);
    } while (count < 0 && errno == EINTR);
    close(end.fd);
    return count == 0 ? -ETIMEDOUT : 0;
}

int registry_wait(int descriptor, int milliseconds, struct registry_record *record)
{
    int result = load(descriptor, record);

    if (result != 0) {
        return result;
    }
    if (!has_ended(descriptor)) {
        result = wait_for_process(record->pid, milliseconds);
        if (result == 0 && !has_ended(descriptor) && milliseconds >= 0) {
            result = -ETIMEDOUT;
        }
    }
    registry_release(record);
    if (result == 0) {
        while (flock(descriptor, LOCK_SH) != 0 && errno == EINTR) {
        }
        /* What it added it may have added since the first look, even if it had ended at the second.
         */
        result = load(descriptor, record);
    }
    return result;
}
