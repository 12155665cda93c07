/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "store/open_internal.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>

#define NAME_LENGTH 128 /* of a user or a group, for a sentence */
#define WHO_MAX     (2 * NAME_LENGTH + 32)
#define LOOKUP_SIZE 4096 /* of a line of the user or group database */

static const char *type_name(mode_t mode)
{
    switch (mode & S_IFMT) {
    case S_IFIFO:
        return "pipe";
    case S_IFSOCK:
        return "socket";
    case S_IFCHR:
        return "character device";
    default:
        return "special file";
    }
}

int open_refuse_type(const struct subject *subject, const struct place *place)
{
    if (place->kernel != NULL) {
        return error_set(subject->error, EINVAL,
                         "%s: this %s is a file of the kernel's own (%s), not one that could hold "
                         "a disk; name another",
                         subject->path, subject->what, place->kernel);
    }
    if (S_ISDIR(place->status.st_mode)) {
        return error_set(subject->error, EISDIR,
                         "%s: this %s is a directory; name a file in it, or a block device",
                         subject->path, subject->what);
    }
    return error_set(subject->error, EINVAL,
                     "%s: this %s is a %s; only a regular file or a block device can be opened",
                     subject->path, subject->what, type_name(place->status.st_mode));
}

static int missing(const struct subject *subject)
{
    struct stat status;

    if (lstat(subject->path, &status) == 0 && S_ISLNK(status.st_mode)) {
        return error_set(subject->error, ENOENT,
                         "%s: this %s is a symbolic link to a file that does not exist; correct "
                         "the link",
                         subject->path, subject->what);
    }
    return error_set(subject->error, ENOENT, "%s: no such %s; check the path", subject->path,
                     subject->what);
}

static const char *user_name(uid_t uid, char text[NAME_LENGTH])
{
    char buffer[LOOKUP_SIZE];
    struct passwd entry, *found;

    if (getpwuid_r(uid, &entry, buffer, sizeof(buffer), &found) == 0 && found != NULL) {
        snprintf(text, NAME_LENGTH, "%s", entry.pw_name);
    } else {
        snprintf(text, NAME_LENGTH, "%lu", (unsigned long)uid);
    }
    return text;
}

static const char *group_name(gid_t gid, char text[NAME_LENGTH])
{
    char buffer[LOOKUP_SIZE];
    struct group entry, *found;

    if (getgrgid_r(gid, &entry, buffer, sizeof(buffer), &found) == 0 && found != NULL) {
        snprintf(text, NAME_LENGTH, "%s", entry.gr_name);
    } else {
        snprintf(text, NAME_LENGTH, "%lu", (unsigned long)gid);
    }
    return text;
}

/* Who may do what is `needed` (permission bits as those of "others"), by the file's mode. */
static const char *who_may(const struct stat *status, mode_t needed, char text[WHO_MAX])
{
    bool user_may = ((status->st_mode >> 6) & needed) == needed;
    bool group_may = ((status->st_mode >> 3) & needed) == needed;
    char user[NAME_LENGTH], group[NAME_LENGTH];

    user_name(status->st_uid, user);
    group_name(status->st_gid, group);
    if (user_may && group_may) {
        snprintf(text, WHO_MAX, "user %s and group %s", user, group);
    } else if (user_may) {
        snprintf(text, WHO_MAX, "user %s alone", user);
    } else if (group_may) {
        snprintf(text, WHO_MAX, "group %s alone", group);
    } else {
        snprintf(text, WHO_MAX, "nobody but root");
    }
    return text;
}

/* open(2) said EACCES: says who could open the file. */
static int forbidden(const struct subject *subject)
{
    bool writes = subject->access == STORE_WRITE;
    const char *verb = writes ? "write" : "read";
    mode_t needed = writes ? S_IROTH | S_IWOTH : S_IROTH;
    char who[WHO_MAX];
    struct stat status;

    if (stat(subject->path, &status) != 0) {
        return error_set(subject->error, EACCES,
                         "%s: no permission to enter a directory on the way to this %s; change "
                         "the directory's permissions, or run as another user",
                         subject->path, subject->what);
    }
    if ((status.st_mode & needed) == needed) {
        return error_set(subject->error, EACCES,
                         "%s: no permission to %s this %s, though its mode %04o would allow it; "
                         "look for an access control list or a security policy that forbids it",
                         subject->path, verb, subject->what, (unsigned)status.st_mode & 07777u);
    }
    return error_set(subject->error, EACCES,
                     "%s: no permission to %s this %s: its mode %04o allows it to %s; change the "
                     "mode, or run as another user",
                     subject->path, verb, subject->what, (unsigned)status.st_mode & 07777u,
                     who_may(&status, needed, who));
}

const char *open_advice(int code)
{
    switch (code) {
    case EMFILE:
        return "; raise the limit of open files (ulimit -n)";
    case ENFILE:
        return "; close other programs, or raise the sysctl fs.file-max";
    case EROFS:
        return "; make the file system writable, or open it read-only";
    case EPERM:
        return "; it is immutable or append-only (lsattr shows that), or a policy forbids it: "
               "change that, or open it read-only";
    case ETXTBSY:
        return "; it is in use by the system, as a program or as swap space";
    case EWOULDBLOCK:
        return "; a file server holds a lease on it: try again in a minute";
    case ENXIO:
    case ENODEV:
        return "; check that the device is there";
    case EIO:
        return "; look for the cause in the system's log";
    default:
        return "; check the path";
    }
}

int open_forbidden_to_owner(const struct subject *subject, uid_t uid)
{
    char owner[NAME_LENGTH];

    return error_set(subject->error, EACCES,
                     "%s: this %s is named by an image of user %s, or behind one, who may not %s "
                     "it; change its permissions or the image's owner, or allow it with -o "
                     "trust-names (qcow2ctl: --trust-names)",
                     subject->path, subject->what, user_name(uid, owner),
                     subject->access == STORE_WRITE ? "write" : "read");
}

/* What the image names lies elsewhere. */
static int not_beneath(const struct subject *subject)
{
    return error_set(subject->error, EXDEV,
                     "%s: this %s is named by the image %s, and is no regular file in its "
                     "directory or below, not by way of .. or an absolute link either; name the "
                     "file yourself, or allow it with -o follow=files (qcow2ctl: --follow=files) "
                     "in place of follow=beside",
                     subject->path, subject->what, subject->options->named_by);
}

int open_failed(const struct subject *subject, int code)
{
    switch (code) {
    case ENOENT:
        return missing(subject);
    case EXDEV:
        return not_beneath(subject);
    case EACCES:
        return forbidden(subject);
    case ESTALE:
        return error_set(subject->error, ESTALE,
                         "%s: another file took the place of this %s while it was opened; try "
                         "again",
                         subject->path, subject->what);
    default:
        return error_set(subject->error, code, "%s: this %s cannot be opened: %s%s", subject->path,
                         subject->what, strerror(code), open_advice(code));
    }
}
