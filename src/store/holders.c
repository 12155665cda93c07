/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "store/holders.h"

#include "util/registry.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#define SEARCH_NS     UINT64_C(500000000)
#define PROC_PATH_MAX 64
#define FDINFO_MAX    4096
#define COMM_MAX      64
#define DIGITS        "0123456789"

struct search {
    dev_t device;
    ino_t inode;
    uint64_t deadline_ns;         /* CLOCK_MONOTONIC */
    pid_t locking[HOLDERS_MAX];   /* have it open, and a lock on it */
    pid_t open_only[HOLDERS_MAX]; /* have it open */
    unsigned locking_count, open_only_count;
};

static uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static bool search_over(const struct search *search)
{
    return search->locking_count == HOLDERS_MAX || now_ns() >= search->deadline_ns;
}

/* The number that the entry's whole name is, or -1. */
static long entry_number(const struct dirent *entry)
{
    size_t length = strlen(entry->d_name);

    if (length == 0 || length > 9 || strspn(entry->d_name, DIGITS) != length) {
        return -1;
    }
    return strtol(entry->d_name, NULL, 10);
}

/* Reads a small file of /proc as a string; false when that fails. */
static bool read_text(const char *path, char *text, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t length;

    if (fd < 0) {
        return false;
    }
    length = read(fd, text, size - 1);
    close(fd);
    text[length > 0 ? length : 0] = '\0';
    return length > 0;
}

/* Whether descriptor `number` in the folder `fds` (/proc/PID/fd) is the file. */
static bool is_the_file(const struct search *search, int fds, const char *number)
{
    struct statx found;

    /* Any file of any process is asked about: never wait for a server that may hang. */
    if (statx(fds, number, AT_STATX_DONT_SYNC, STATX_INO, &found) != 0) {
        return false;
    }
    return found.stx_ino == search->inode &&
           makedev(found.stx_dev_major, found.stx_dev_minor) == search->device;
}

static bool holds_lock(pid_t pid, long fd)
{
    char path[PROC_PATH_MAX];
    char text[FDINFO_MAX];

    snprintf(path, sizeof(path), "/proc/%ld/fdinfo/%ld", (long)pid, fd);
    return read_text(path, text, sizeof(text)) && strstr(text, "\nlock:") != NULL;
}

static void look_at_process(struct search *search, pid_t pid)
{
    char path[PROC_PATH_MAX];
    bool opened = false, locked = false;
    const struct dirent *entry;
    DIR *fds;

    snprintf(path, sizeof(path), "/proc/%ld/fd", (long)pid);
    fds = opendir(path);
    if (fds == NULL) {
        return;
    }
    while (!locked && !search_over(search) && (entry = readdir(fds)) != NULL) {
        long number = entry_number(entry);

        if (number >= 0 && is_the_file(search, dirfd(fds), entry->d_name)) {
            opened = true;
            locked = holds_lock(pid, number);
        }
    }
    closedir(fds);
    if (locked) {
        search->locking[search->locking_count++] = pid;
    } else if (opened && search->open_only_count < HOLDERS_MAX) {
        search->open_only[search->open_only_count++] = pid;
    }
}

static void look_at_all(struct search *search)
{
    DIR *processes = opendir("/proc");
    const struct dirent *entry;

    if (processes == NULL) {
        return;
    }
    while (!search_over(search) && (entry = readdir(processes)) != NULL) {
        long pid = entry_number(entry);

        if (pid > 0 && pid != getpid()) {
            look_at_process(search, (pid_t)pid);
        }
    }
    closedir(processes);
}

static bool serves_file(const struct registry_record *record, const struct search *search)
{
    struct statx found;

    if (registry_knows_image(record) && record->image_inode != 0) {
        return record->image_inode == search->inode &&
               makedev((unsigned)record->image_major, (unsigned)record->image_minor) ==
                   search->device;
    }
    return statx(AT_FDCWD, record->image, AT_STATX_DONT_SYNC, STATX_INO, &found) == 0 &&
           found.stx_ino == search->inode &&
           makedev(found.stx_dev_major, found.stx_dev_minor) == search->device;
}

/*
 * The daemons of this program: what they have open nobody may see, not even their own user, once
 * they serve (util/box), but they are registered.
 */
static int look_at_daemon(void *context, const struct registry_record *record, int descriptor)
{
    struct search *search = context;

    (void)descriptor;
    if (record->pid != getpid() && serves_file(record, search)) {
        search->locking[search->locking_count++] = record->pid;
    }
    return search_over(search);
}

static void append_process(char *text, pid_t pid)
{
    size_t used = strlen(text);
    char path[PROC_PATH_MAX];
    char name[COMM_MAX];

    snprintf(path, sizeof(path), "/proc/%ld/comm", (long)pid);
    if (!read_text(path, name, sizeof(name))) {
        return; /* it has ended meanwhile */
    }
    name[strcspn(name, "\n")] = '\0';
    snprintf(text + used, HOLDERS_TEXT_MAX - used, "%s%s (pid %ld)", used == 0 ? "" : ", ", name,
             (long)pid);
}

const char *holders_find(dev_t device, ino_t inode, char text[HOLDERS_TEXT_MAX])
{
    struct search search = {
        .device = device,
        .inode = inode,
        .deadline_ns = now_ns() + SEARCH_NS,
    };
    bool locks = false;

    look_at_all(&search);
    if (search.locking_count == 0) {
        (void)registry_visit(look_at_daemon, &search);
    }
    locks = search.locking_count > 0;
    text[0] = '\0';
    for (unsigned i = 0; i < (locks ? search.locking_count : search.open_only_count); i++) {
        append_process(text, locks ? search.locking[i] : search.open_only[i]);
    }
    return text;
}
