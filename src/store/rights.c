/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "store/rights.h"

#include "util/process.h"

#include <errno.h>
#include <grp.h>
#include <limits.h>
#include <linux/capability.h>
#include <pthread.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#define LOOKUP_SIZE  16384 /* of a line of the user database */
#define GROUPS_FIRST 64
#define GROUPS_MAX   65536 /* the kernel's limit */
#define NO_GROUP     65534 /* of a user who is in no database: one that owns nothing */

/* glibc's functions of these names change all threads; the system calls change the caller. */
#ifdef SYS_setgroups32
#define SETGROUPS SYS_setgroups32
#else
#define SETGROUPS SYS_setgroups
#endif

bool rights_differ(uid_t uid)
{
    return uid != geteuid() && uid != 0;
}

/* A user, and the groups that he is in. */
struct identity {
    uid_t uid;
    gid_t gid;
    gid_t *groups; /* his own one included */
    int count;
};

/* 0 or -ENOMEM. */
static int find_groups(const char *name, struct identity *identity)
{
    for (int room = GROUPS_FIRST; room <= GROUPS_MAX; room *= 4) {
        identity->groups = calloc((size_t)room, sizeof(gid_t));
        if (identity->groups == NULL) {
            return -ENOMEM;
        }
        identity->count = room;
        if (getgrouplist(name, identity->gid, identity->groups, &identity->count) >= 0) {
            return 0;
        }
        free(identity->groups);
    }
    identity->groups = NULL; /* then he has none of them */
    identity->count = 0;
    return 0;
}

static int identify(uid_t uid, struct identity *identity)
{
    char *buffer = malloc(LOOKUP_SIZE);
    struct passwd entry, *found = NULL;
    int result = 0;

    *identity = (struct identity){.uid = uid, .gid = NO_GROUP};
    if (buffer == NULL) {
        return -ENOMEM;
    }
    if (getpwuid_r(uid, &entry, buffer, LOOKUP_SIZE, &found) == 0 && found != NULL) {
        identity->gid = entry.pw_gid;
        result = find_groups(entry.pw_name, identity);
    }
    free(buffer);
    return result;
}

/* --- Asking the kernel ---------------------------------------------------------------------- */

struct assumption {
    struct identity identity;
    void (*work)(void *context);
    void *context;
    int result;
};

/* Of the calling thread alone. The ids first: they need what is given up at the end. */
static int become(const struct identity *identity)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3];

    memset(none, 0, sizeof(none));
    if (syscall(SETGROUPS, (size_t)identity->count, identity->groups) != 0) {
        return -EPERM;
    }
    setfsgid(identity->gid);
    setfsuid(identity->uid);
    /* They tell of no failure; what is no id changes nothing, and tells what there is. */
    if ((gid_t)setfsgid((gid_t)-1) != identity->gid ||
        (uid_t)setfsuid((uid_t)-1) != identity->uid) {
        return -EPERM;
    }
    return syscall(SYS_capset, &header, none) == 0 ? 0 : -EPERM;
}

static void *run(void *context)
{
    struct assumption *assumption = context;

    assumption->result = become(&assumption->identity);
    if (assumption->result == 0) {
        assumption->work(assumption->context);
    }
    return NULL;
}

int rights_assume(uid_t uid, void (*work)(void *context), void *context)
{
    struct assumption assumption = {.work = work, .context = context};
    pthread_t thread;
    int result = identify(uid, &assumption.identity);

    if (result < 0) {
        return result;
    }
    result = process_start_thread(&thread, NULL, run, &assumption);
    if (result == 0) {
        pthread_join(thread, NULL);
        result = assumption.result;
    }
    free(assumption.identity.groups);
    return result;
}

/* --- By modes --------------------------------------------------------------------------------- */

static bool is_member(const struct identity *identity, gid_t gid)
{
    bool member = gid == identity->gid && gid != NO_GROUP;

    for (int i = 0; i < identity->count && !member; i++) {
        member = identity->groups[i] == gid;
    }
    return member;
}

static bool mode_allows(const struct identity *identity, const struct stat *status, mode_t needed)
{
    unsigned shift = 0;

    if (status->st_uid == identity->uid) {
        shift = 6;
    } else if (is_member(identity, status->st_gid)) {
        shift = 3;
    }
    return ((status->st_mode >> shift) & needed) == needed;
}

/* Whether there is, or may be, a list besides the mode. */
static bool has_list(const char *path)
{
    return getxattr(path, "system.posix_acl_access", NULL, 0) >= 0 ||
           (errno != ENODATA && errno != EOPNOTSUPP);
}

static bool allows(const struct identity *identity, const char *path, mode_t needed,
                   struct stat *status)
{
    return stat(path, status) == 0 && mode_allows(identity, status, needed) && !has_list(path);
}

/* Each directory of an absolute path; `path` is whole again at the end. */
static bool can_get_to(const struct identity *identity, char *path)
{
    struct stat status;
    bool may = allows(identity, "/", S_IXOTH, &status);

    for (char *slash = strchr(path + 1, '/'); slash != NULL && may;
         slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        may = allows(identity, path, S_IXOTH, &status);
        *slash = '/';
    }
    return may;
}

bool rights_by_mode(uid_t uid, int fd, mode_t needed)
{
    struct identity identity = {0};
    char self[64], path[PATH_MAX];
    struct stat opened, named;
    ssize_t length;
    bool may;

    snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
    length = readlink(self, path, sizeof(path) - 1);
    if (length <= 0 || path[0] != '/' || identify(uid, &identity) < 0) {
        return false;
    }
    path[length] = '\0';
    may = can_get_to(&identity, path) && allows(&identity, path, needed, &named) &&
          fstat(fd, &opened) == 0 && opened.st_dev == named.st_dev && opened.st_ino == named.st_ino;
    free(identity.groups);
    return may;
}
