/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "suite.h"
#include "util/registry_places.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define PATH_MAX_HERE 128

/* Users that nobody else is: no two of these tests, and no two runs of them, meet in /tmp. */
static uid_t victim, other;
static char plain[64]; /* the name that the victim's directory would have */

/* --- what is found, and by whom ---------------------------------------------------------- */

struct found {
    unsigned count;
    char path[PATH_MAX_HERE]; /* of the last one that is the victim's */
};

static int note(void *context, int directory)
{
    struct found *found = context;
    char link[64], path[PATH_MAX_HERE];
    ssize_t length;

    snprintf(link, sizeof(link), "/proc/self/fd/%d", directory);
    length = readlink(link, path, sizeof(path) - 1);
    close(directory);
    if (length > 0) {
        path[length] = '\0';
        if (strncmp(path, plain, strlen(plain)) == 0) {
            found->count++;
            memcpy(found->path, path, sizeof(path));
        }
    }
    return 0;
}

/* Those that this process looks at. */
static struct found look(void)
{
    struct found found = {0};

    ck_assert_int_eq(registry_places_visit(note, &found), 0);
    return found;
}

/* The path of the directory that this process is given, or of none. */
static void make(char path[PATH_MAX_HERE])
{
    struct found found = {0};
    int directory = registry_place_make();

    path[0] = '\0';
    if (directory >= 0) {
        (void)note(&found, directory);
        memcpy(path, found.path, sizeof(found.path));
    }
}

/*
 * Runs `work` in a process of the victim's, and fails unless it returned true. The path that it
 * leaves in `path` comes back, the victim's.
 */
static void as_victim(bool (*work)(char path[PATH_MAX_HERE]), char path[PATH_MAX_HERE])
{
    int ends[2], status;
    pid_t pid;

    ck_assert_int_eq(pipe2(ends, O_CLOEXEC), 0);
    pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        bool well = setresgid(victim, victim, victim) == 0 &&
                    setresuid(victim, victim, victim) == 0 && unsetenv("XDG_RUNTIME_DIR") == 0 &&
                    prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) == 0 && work(path);

        _exit(well && write(ends[1], path, PATH_MAX_HERE) == PATH_MAX_HERE ? 0 : 1);
    }
    close(ends[1]);
    ck_assert_int_eq(read(ends[0], path, PATH_MAX_HERE), PATH_MAX_HERE);
    close(ends[0]);
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert_int_eq(status, 0);
}

/* --- what the victim does ------------------------------------------------------------------ */

/* A directory, and it is what he finds himself, whatever lies beside it, and what he gets again. */
static bool make_and_look(char path[PATH_MAX_HERE])
{
    struct found found;
    char again[PATH_MAX_HERE];

    make(path);
    found = look();
    make(again);
    return path[0] != '\0' && found.count == 1 && strcmp(found.path, path) == 0 &&
           strcmp(again, path) == 0;
}

/* Root of a namespace of users, in which he alone is known. */
static bool make_as_root_of_a_namespace(char path[PATH_MAX_HERE])
{
    char line[32];
    int map, length = snprintf(line, sizeof(line), "0 %u 1\n", (unsigned)victim);

    if (unshare(CLONE_NEWUSER) != 0) { /* in a chroot, say: there are none then */
        return make_and_look(path);
    }
    map = open("/proc/self/uid_map", O_WRONLY | O_CLOEXEC);
    return map >= 0 && write(map, line, (size_t)length) == length && close(map) == 0 &&
           geteuid() == 0 && make_and_look(path);
}

/* --- the tests ------------------------------------------------------------------------------ */

/* Also what a test that failed has left, which ran in a process of its own. */
static void remove_all(void)
{
    DIR *stream = opendir("/tmp");
    struct dirent *item;

    (void)umount2(plain, MNT_DETACH | UMOUNT_NOFOLLOW);
    ck_assert_ptr_nonnull(stream);
    while ((item = readdir(stream)) != NULL) {
        if (strncmp(item->d_name, plain + strlen("/tmp/"), strlen(plain + strlen("/tmp/"))) == 0 &&
            unlinkat(dirfd(stream), item->d_name, AT_REMOVEDIR) != 0) {
            (void)unlinkat(dirfd(stream), item->d_name, 0);
        }
    }
    closedir(stream);
}

static void begin(void)
{
    victim = 1000000000U + (uid_t)getpid();
    other = victim + 500000000U;
    snprintf(plain, sizeof(plain), "/tmp/qcow2fs-%u", (unsigned)victim);
}

static void take_name(const char *suffix, uid_t owner, mode_t mode)
{
    char path[PATH_MAX_HERE];

    snprintf(path, sizeof(path), "%s%s", plain, suffix);
    ck_assert_int_eq(mkdir(path, 0700), 0);
    ck_assert_int_eq(chown(path, owner, owner), 0);
    ck_assert_int_eq(chmod(path, mode), 0);
}

/* One with another name than the plain one, which root finds, too. */
static void check_is_beside(const char *path)
{
    struct found found = look();
    struct stat status;

    ck_assert_int_eq(strncmp(path, plain, strlen(plain)), 0);
    ck_assert_int_eq(path[strlen(plain)], '.');
    ck_assert_int_eq(lstat(path, &status), 0);
    ck_assert_uint_eq(status.st_uid, victim);
    ck_assert_uint_eq(status.st_mode, S_IFDIR | 0700);
    ck_assert_uint_eq(found.count, 1);
    ck_assert_str_eq(found.path, path);
}

START_TEST(whoever_is_the_first_has_the_plain_name)
{
    char path[PATH_MAX_HERE];

    as_victim(make_and_look, path);
    ck_assert_str_eq(path, plain);
    ck_assert_str_eq(look().path, plain);
}
END_TEST

START_TEST(a_name_that_another_took_first_keeps_nobody_off_the_list)
{
    char path[PATH_MAX_HERE];

    take_name("", other, 0700);
    as_victim(make_and_look, path);
    check_is_beside(path);
}
END_TEST

START_TEST(nor_do_names_that_another_took_beside_it)
{
    char path[PATH_MAX_HERE];

    take_name("", other, 0777);
    take_name(".1", other, 0755);
    take_name(".aaaaaa", other, 01777);
    take_name(".bbbbbb", 0, 0755);
    as_victim(make_and_look, path);
    check_is_beside(path);
}
END_TEST

START_TEST(a_directory_that_others_may_write_to_is_not_used)
{
    char path[PATH_MAX_HERE];

    take_name("", victim, 0770);
    as_victim(make_and_look, path);
    check_is_beside(path);
}
END_TEST

START_TEST(no_link_is_followed)
{
    char path[PATH_MAX_HERE], own[PATH_MAX_HERE + 16];

    snprintf(own, sizeof(own), "%s-own", plain);
    ck_assert_int_eq(mkdir(own, 0700), 0);
    ck_assert_int_eq(chown(own, victim, victim), 0);
    ck_assert_int_eq(symlink(own, plain), 0);
    as_victim(make_and_look, path);
    ck_assert_int_eq(rmdir(own), 0);
    check_is_beside(path);
}
END_TEST

START_TEST(nothing_is_opened_that_is_mounted_there)
{
    char path[PATH_MAX_HERE];
    int r;

    take_name("", victim, 0700);
    r = mount("registry-test", plain, "tmpfs", 0, "mode=700");
    if (r == 0) {
        r = chown(plain, victim, victim);
        as_victim(make_and_look, path);
        ck_assert_int_eq(umount2(plain, MNT_DETACH), 0);
        ck_assert_int_eq(r, 0);
        ck_assert_int_eq(path[strlen(plain)], '.');
    }
}
END_TEST

START_TEST(the_root_of_a_namespace_has_the_name_of_who_he_is_outside)
{
    char path[PATH_MAX_HERE];

    as_victim(make_as_root_of_a_namespace, path);
    ck_assert_str_eq(path, plain);
    ck_assert_str_eq(look().path, plain);
}
END_TEST

START_TEST(and_nobody_keeps_him_off_the_list_either)
{
    char path[PATH_MAX_HERE];

    take_name("", other, 0700);
    as_victim(make_as_root_of_a_namespace, path);
    check_is_beside(path);
}
END_TEST

START_TEST(the_directory_of_a_session_comes_first)
{
    char runtime[] = "/tmp/registry-test.XXXXXX", path[PATH_MAX_HERE];
    struct stat status;

    ck_assert_ptr_nonnull(mkdtemp(runtime));
    ck_assert_int_eq(setenv("XDG_RUNTIME_DIR", runtime, 1), 0);
    snprintf(path, sizeof(path), "%s/qcow2fs", runtime);
    if (geteuid() != 0) {
        int directory = registry_place_make();

        ck_assert_int_ge(directory, 0);
        close(directory);
        ck_assert_int_eq(stat(path, &status), 0);
        ck_assert_int_eq(rmdir(path), 0);
    }
    ck_assert_int_eq(rmdir(runtime), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("registry_places");
    TCase *tests = tcase_create("all");

    tcase_add_unchecked_fixture(tests, begin, remove_all);
    tcase_add_checked_fixture(tests, remove_all, remove_all);
    tcase_add_test(tests, the_directory_of_a_session_comes_first);
    if (geteuid() == 0) { /* who becomes somebody else */
        tcase_add_test(tests, whoever_is_the_first_has_the_plain_name);
        tcase_add_test(tests, a_name_that_another_took_first_keeps_nobody_off_the_list);
        tcase_add_test(tests, nor_do_names_that_another_took_beside_it);
        tcase_add_test(tests, a_directory_that_others_may_write_to_is_not_used);
        tcase_add_test(tests, no_link_is_followed);
        tcase_add_test(tests, nothing_is_opened_that_is_mounted_there);
        tcase_add_test(tests, the_root_of_a_namespace_has_the_name_of_who_he_is_outside);
        tcase_add_test(tests, and_nobody_keeps_him_off_the_list_either);
    }
    suite_add_tcase(suite, tests);
    return suite_main(suite);
}
