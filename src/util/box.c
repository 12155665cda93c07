/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "util/box.h"

#include "util/box_calls.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* --- Landlock, whose header may be older than the kernel (or newer) ------------------------- */

#ifdef SYS_landlock_create_ruleset

#define VERSION_ASKED 1U /* LANDLOCK_CREATE_RULESET_VERSION */
#define RULE_BENEATH  1  /* LANDLOCK_RULE_PATH_BENEATH */

/* Rights on files. */
#define RIGHT_WRITE_FILE (UINT64_C(1) << 1)
#define RIGHT_READ_FILE  (UINT64_C(1) << 2)
#define RIGHT_READ_DIR   (UINT64_C(1) << 3)
#define RIGHT_IOCTL      (UINT64_C(1) << 15)

#define RIGHTS_NET   UINT64_C(3) /* to bind and to connect by TCP */
#define RIGHTS_SCOPE UINT64_C(3) /* abstract sockets, and signals, of others */

/* By version of the interface, how many of the rights on files it has. */
static unsigned count_file_rights(long version)
{
    return version >= 5 ? 16 : version >= 3 ? 15 : version == 2 ? 14 : 13;
}

struct ruleset {
    uint64_t files;
    uint64_t network; /* since version 4 */
    uint64_t scoped;  /* since version 6 */
};

struct rule_beneath {
    uint64_t allowed;
    int32_t parent;
} __attribute__((packed));

static size_t ruleset_size(long version)
{
    return version >= 6   ? sizeof(struct ruleset)
           : version >= 4 ? offsetof(struct ruleset, scoped)
                          : offsetof(struct ruleset, network);
}

/* What is not there needs no rule. */
static bool allow(int ruleset, uint64_t handled, const char *path, uint64_t rights)
{
    struct rule_beneath rule = {.parent = open(path, O_PATH | O_CLOEXEC)};
    struct stat status;
    bool done;

    if (rule.parent < 0) {
        return true;
    }
    if (fstat(rule.parent, &status) == 0 && !S_ISDIR(status.st_mode)) {
        rights &= ~RIGHT_READ_DIR;
    }
    rule.allowed = rights & handled;
    done = syscall(SYS_landlock_add_rule, ruleset, RULE_BENEATH, &rule, 0) == 0;
    close(rule.parent);
    return done;
}

static bool allow_all(int ruleset, uint64_t handled, const struct box_needs *needs)
{
    bool done = true;

    if (needs->fuse_device) {
        done =
            allow(ruleset, handled, "/dev/fuse", RIGHT_READ_FILE | RIGHT_WRITE_FILE | RIGHT_IOCTL);
    }
    for (const char *const *path = needs->read; done && path != NULL && *path != NULL; path++) {
        done = allow(ruleset, handled, *path, RIGHT_READ_FILE | RIGHT_READ_DIR);
    }
#ifdef BOX_HAS_SANITIZER
    done = done && allow(ruleset, handled, "/proc", RIGHT_READ_FILE | RIGHT_READ_DIR);
#endif
    return done;
}

static long landlock_version(void)
{
    return syscall(SYS_landlock_create_ruleset, NULL, 0, VERSION_ASKED);
}

bool box_has_landlock(void)
{
    return landlock_version() >= 1;
}

static void restrict_files(const struct box_needs *needs, struct box *box)
{
    long version = landlock_version();
    struct ruleset rules = {.scoped = RIGHTS_SCOPE};
    int ruleset;

    if (version < 1) {
        return;
    }
    rules.files = (UINT64_C(1) << count_file_rights(version)) - 1;
    if (needs->network) {
        rules.scoped = 0; /* a server may have such an address */
    } else {
        rules.network = RIGHTS_NET;
    }
    ruleset = (int)syscall(SYS_landlock_create_ruleset, &rules, ruleset_size(version), 0);
    if (ruleset < 0) {
        return;
    }
    box->landlock = allow_all(ruleset, rules.files, needs) &&
                    syscall(SYS_landlock_restrict_self, ruleset, 0) == 0;
    box->network = box->landlock && version >= 6 && !needs->network;
    close(ruleset);
}

#else

bool box_has_landlock(void)
{
    return false;
}

static void restrict_files(const struct box_needs *needs, struct box *box)
{
    (void)needs;
    (void)box;
}

#endif

/* --- privileges ------------------------------------------------------------------------------ */

static bool drop_capabilities(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    const struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {{0}};

    return syscall(SYS_capset, &header, none) == 0;
}

void box_keep_to_mounts(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];
    const uint32_t kept =
        1U << CAP_SYS_ADMIN | 1U << CAP_DAC_OVERRIDE | 1U << CAP_DAC_READ_SEARCH | 1U << CAP_FOWNER;

    if (syscall(SYS_capget, &header, data) != 0) {
        return;
    }
    data[0].effective &= kept;
    data[0].permitted &= kept;
    data[1] = (struct __user_cap_data_struct){0};
    data[0].inheritable = 0;
    (void)syscall(SYS_capset, &header, data);
}

static bool keep_memory_apart(void)
{
    const struct rlimit none = {0};

    return setrlimit(RLIMIT_CORE, &none) == 0 && prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == 0;
}

/* --- the box ---------------------------------------------------------------------------------- */

/* `filter`: begun here, where no helper does it. */
static bool restrict_calls(const struct box_needs *needs, const struct box_helper *helper,
                           struct box_filter *filter, bool opens)
{
    struct sock_filter *program = malloc(BOX_PROGRAM_MAX * sizeof(*program));
    size_t count;
    bool done;

    if (helper != NULL && opens != box_has_landlock()) { /* it was told what turned out wrong */
        filter = box_filter_begin();
        helper = NULL;
    }
    if (program != NULL && helper != NULL) {
        count = helper->take(helper->context, program);
    } else {
        count = box_filter_end(filter, needs, opens, getpid(), program);
    }
    done = program != NULL && box_filter_install(program, count);
    free(program);
    return done;
}

void box_enter(const struct box_needs *needs, const struct box_helper *helper, struct box *box)
{
    bool forbidden = prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0;
    struct box_filter *filter = helper == NULL ? box_filter_begin() : NULL;

    *box = (struct box){.memory = keep_memory_apart()};
    if (forbidden) {
        restrict_files(needs, box);
        box->privileges = drop_capabilities();
        box->calls = restrict_calls(needs, helper, filter, box->landlock);
        /* What no system call opens needs nobody who says which. */
        box->files = box->landlock || (box->calls && !needs->network);
        box->network = !needs->network && (box->network || box->calls);
    }
}

const char *box_missing(const struct box *box)
{
    if (!box->privileges || !box->memory) {
        return "the kernel keeps a process from giving up privileges";
    }
    if (!box->calls) {
        return box_is_built_in()
                   ? "libseccomp.so.2, or what it asks of the kernel, is not there, so "
                     "that all system calls are left"
                   : "it was built without libseccomp, so that all system calls are left";
    }
    return box->files ? NULL : "the kernel has no Landlock, so that files can be opened";
}
