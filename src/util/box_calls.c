/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "util/box_calls.h"

#ifndef HAVE_SECCOMP

bool box_is_built_in(void)
{
    return false;
}

struct box_filter *box_filter_begin(void)
{
    return NULL;
}

size_t box_filter_end(struct box_filter *filter, const struct box_needs *needs, bool opens,
                      pid_t process, struct sock_filter *program)
{
    (void)filter;
    (void)needs;
    (void)opens;
    (void)process;
    (void)program;
    return 0;
}

bool box_filter_install(const struct sock_filter *program, size_t count)
{
    (void)program;
    (void)count;
    return false;
}

#else

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <seccomp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41
#endif

/* FUSE_DEV_IOC_CLONE of linux/fuse.h, where newer kernels have more. */
#define FUSE_CLONE _IOR(229, 0, uint32_t)

#define LIBRARY "libseccomp.so.2"
#define FLAGS   (RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE)

/* --- what is let through ------------------------------------------------------------------------
 */

/* Of descriptors that are open, of memory, of threads, of signals to ourselves, of the time. */
static const int served[] = {
    SCMP_SYS(read),
    SCMP_SYS(write),
    SCMP_SYS(readv),
    SCMP_SYS(writev),
    SCMP_SYS(pread64),
    SCMP_SYS(pwrite64),
    SCMP_SYS(preadv),
    SCMP_SYS(pwritev),
    SCMP_SYS(preadv2),
    SCMP_SYS(pwritev2),
    SCMP_SYS(lseek),
    SCMP_SYS(_llseek),
    SCMP_SYS(fsync),
    SCMP_SYS(fdatasync),
    SCMP_SYS(sync_file_range),
    SCMP_SYS(sync_file_range2),
    SCMP_SYS(ftruncate),
    SCMP_SYS(ftruncate64),
    SCMP_SYS(fallocate),
    SCMP_SYS(fadvise64),
    SCMP_SYS(fadvise64_64),
    SCMP_SYS(arm_fadvise64_64),
    SCMP_SYS(copy_file_range),
    SCMP_SYS(splice),
    SCMP_SYS(vmsplice),
    SCMP_SYS(tee),
    SCMP_SYS(fstat),
    SCMP_SYS(fstat64),
    SCMP_SYS(fstatfs),
    SCMP_SYS(fstatfs64),
    SCMP_SYS(newfstatat), /* fstat(3); with a path it tells what stat(2) would, and opens nothing */
    SCMP_SYS(fstatat64),
    SCMP_SYS(statx),
    SCMP_SYS(close),
    SCMP_SYS(close_range),
    SCMP_SYS(dup),
    SCMP_SYS(dup2),
    SCMP_SYS(dup3),
    SCMP_SYS(fcntl),
    SCMP_SYS(fcntl64),
    SCMP_SYS(flock),
    SCMP_SYS(pipe),
    SCMP_SYS(pipe2),
    SCMP_SYS(eventfd2),
    SCMP_SYS(poll),
    SCMP_SYS(ppoll),
    SCMP_SYS(ppoll_time64),
    SCMP_SYS(munmap),
    SCMP_SYS(mremap),
    SCMP_SYS(madvise),
    SCMP_SYS(brk),
    SCMP_SYS(mlock),
    SCMP_SYS(mlock2),
    SCMP_SYS(munlock),
    SCMP_SYS(membarrier),
    SCMP_SYS(exit),
    SCMP_SYS(exit_group),
    SCMP_SYS(futex),
    SCMP_SYS(futex_time64),
    SCMP_SYS(futex_waitv),
    SCMP_SYS(set_robust_list),
    SCMP_SYS(get_robust_list),
    SCMP_SYS(rseq),
    SCMP_SYS(set_tid_address),
    SCMP_SYS(getpid),
    SCMP_SYS(getppid),
    SCMP_SYS(gettid),
    SCMP_SYS(getuid),
    SCMP_SYS(geteuid),
    SCMP_SYS(getgid),
    SCMP_SYS(getegid),
    SCMP_SYS(getuid32),
    SCMP_SYS(geteuid32),
    SCMP_SYS(getgid32),
    SCMP_SYS(getegid32),
    SCMP_SYS(sched_yield),
    SCMP_SYS(sched_getaffinity),
    SCMP_SYS(sched_getscheduler),
    SCMP_SYS(sched_getparam),
    SCMP_SYS(getcpu),
    SCMP_SYS(rt_sigaction),
    SCMP_SYS(rt_sigprocmask),
    SCMP_SYS(rt_sigreturn),
    SCMP_SYS(sigreturn),
    SCMP_SYS(rt_sigtimedwait),
    SCMP_SYS(rt_sigtimedwait_time64),
    SCMP_SYS(rt_sigsuspend),
    SCMP_SYS(rt_sigpending),
    SCMP_SYS(sigaltstack),
    SCMP_SYS(restart_syscall),
    SCMP_SYS(clock_gettime),
    SCMP_SYS(clock_gettime64),
    SCMP_SYS(clock_getres),
    SCMP_SYS(clock_getres_time64),
    SCMP_SYS(clock_nanosleep),
    SCMP_SYS(clock_nanosleep_time64),
    SCMP_SYS(nanosleep),
    SCMP_SYS(gettimeofday),
    SCMP_SYS(time),
    SCMP_SYS(getrandom),
    SCMP_SYS(getrlimit),
    SCMP_SYS(ugetrlimit),
    SCMP_SYS(getrusage),
    SCMP_SYS(sysinfo),
    SCMP_SYS(uname),
    SCMP_SYS(accept),
    SCMP_SYS(accept4),
    SCMP_SYS(recv),
    SCMP_SYS(recvfrom),
    SCMP_SYS(send),
    SCMP_SYS(getsockopt),
    SCMP_SYS(shutdown),
};

/* To open what something else has allowed. */
static const int opening[] = {
    SCMP_SYS(open),
    SCMP_SYS(openat),
};

/* To find a server, and to talk to it. */
static const int networking[] = {
    SCMP_SYS(open),       SCMP_SYS(openat),      SCMP_SYS(stat),        SCMP_SYS(stat64),
    SCMP_SYS(lstat),      SCMP_SYS(lstat64),     SCMP_SYS(access),      SCMP_SYS(faccessat),
    SCMP_SYS(faccessat2), SCMP_SYS(readlink),    SCMP_SYS(readlinkat),  SCMP_SYS(getdents64),
    SCMP_SYS(statfs),     SCMP_SYS(statfs64),    SCMP_SYS(mmap),        SCMP_SYS(mmap2),
    SCMP_SYS(mprotect),   SCMP_SYS(socket),      SCMP_SYS(socketpair),  SCMP_SYS(connect),
    SCMP_SYS(bind),       SCMP_SYS(getsockname), SCMP_SYS(getpeername), SCMP_SYS(setsockopt),
    SCMP_SYS(sendto),     SCMP_SYS(sendmsg),     SCMP_SYS(sendmmsg),    SCMP_SYS(recvmsg),
    SCMP_SYS(recvmmsg),   SCMP_SYS(ioctl),       SCMP_SYS(getcwd),
};

/* To talk to a server of this machine. */
static const int connecting[] = {
    SCMP_SYS(connect),    SCMP_SYS(getsockname), SCMP_SYS(getpeername),
    SCMP_SYS(setsockopt), SCMP_SYS(sendmsg),     SCMP_SYS(recvmsg),
};

/* To have files opened by another process, and to wait for its end. */
static const int asking[] = {
    SCMP_SYS(recvmsg),
    SCMP_SYS(wait4),
    SCMP_SYS(waitid),
};

static const int io_uring[] = {
    SCMP_SYS(io_uring_setup),
    SCMP_SYS(io_uring_enter),
    SCMP_SYS(io_uring_register),
};

#ifdef BOX_HAS_SANITIZER
/* A sanitizer looks at its own process: by /proc, and when it ends by a process of its own. */
static const int sanitizing[] = {
    SCMP_SYS(open),     SCMP_SYS(openat),     SCMP_SYS(readlink),  SCMP_SYS(readlinkat),
    SCMP_SYS(getdents), SCMP_SYS(getdents64), SCMP_SYS(ptrace),    SCMP_SYS(process_vm_readv),
    SCMP_SYS(clone),    SCMP_SYS(fork),       SCMP_SYS(wait4),     SCMP_SYS(waitid),
    SCMP_SYS(prctl),    SCMP_SYS(arch_prctl), SCMP_SYS(tgkill),    SCMP_SYS(tkill),
    SCMP_SYS(mmap),     SCMP_SYS(mmap2),      SCMP_SYS(mprotect),  SCMP_SYS(msync),
    SCMP_SYS(mincore),  SCMP_SYS(setrlimit),  SCMP_SYS(prlimit64), SCMP_SYS(personality),
    SCMP_SYS(getpgrp),  SCMP_SYS(access),     SCMP_SYS(stat),
};
#endif

/* What only somebody does who has taken the process over. */
static const int deadly[] = {
    SCMP_SYS(execve),
    SCMP_SYS(execveat),
#ifndef BOX_HAS_SANITIZER
    SCMP_SYS(ptrace),
    SCMP_SYS(process_vm_readv),
#endif
    SCMP_SYS(process_vm_writev),
    SCMP_SYS(pidfd_getfd),
    SCMP_SYS(mount),
    SCMP_SYS(umount),
    SCMP_SYS(umount2),
    SCMP_SYS(pivot_root),
    SCMP_SYS(chroot),
    SCMP_SYS(fsopen),
    SCMP_SYS(fsconfig),
    SCMP_SYS(fsmount),
    SCMP_SYS(fspick),
    SCMP_SYS(open_tree),
    SCMP_SYS(move_mount),
    SCMP_SYS(mount_setattr),
    SCMP_SYS(unshare),
    SCMP_SYS(setns),
    SCMP_SYS(bpf),
    SCMP_SYS(perf_event_open),
    SCMP_SYS(userfaultfd),
    SCMP_SYS(open_by_handle_at),
    SCMP_SYS(kexec_load),
    SCMP_SYS(kexec_file_load),
    SCMP_SYS(init_module),
    SCMP_SYS(finit_module),
    SCMP_SYS(delete_module),
    SCMP_SYS(reboot),
    SCMP_SYS(swapon),
    SCMP_SYS(swapoff),
    SCMP_SYS(acct),
    SCMP_SYS(quotactl),
    SCMP_SYS(iopl),
    SCMP_SYS(ioperm),
    SCMP_SYS(add_key),
    SCMP_SYS(request_key),
    SCMP_SYS(keyctl),
    SCMP_SYS(settimeofday),
    SCMP_SYS(clock_settime),
    SCMP_SYS(sethostname),
    SCMP_SYS(setdomainname),
};

#define NAMESPACES                                                                                \
    (CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | \
     CLONE_NEWNET)

/* The argument of clone(2) that has the flags. */
#if defined(__s390__) || defined(__CRIS__)
#define CLONE_FLAGS 1
#else
#define CLONE_FLAGS 0
#endif

#define IOCTL(request)                                    \
    {                                                     \
        SCMP_SYS(ioctl),                                  \
        {                                                 \
            1, SCMP_CMP_MASKED_EQ, 0xffffffffU, (request) \
        }                                                 \
    }

/* With one argument that is looked at. The numbers of ioctls and processes are of 32 bits. */
static const struct limited {
    int call;
    struct scmp_arg_cmp argument;
} limited[] = {
    /* No code is brought along, and none is made. */
    {SCMP_SYS(mmap), {2, SCMP_CMP_MASKED_EQ, PROT_EXEC, 0}},
    {SCMP_SYS(mmap2), {2, SCMP_CMP_MASKED_EQ, PROT_EXEC, 0}},
    {SCMP_SYS(mprotect), {2, SCMP_CMP_MASKED_EQ, PROT_EXEC, 0}},
    /* Threads, and no processes. clone3(2), which hides its flags, is said not to exist. */
    {SCMP_SYS(clone), {CLONE_FLAGS, SCMP_CMP_MASKED_EQ, CLONE_THREAD | NAMESPACES, CLONE_THREAD}},
    /* Limits are looked at. */
    {SCMP_SYS(prlimit64), {2, SCMP_CMP_EQ, 0, 0}},
    {SCMP_SYS(prctl), {0, SCMP_CMP_EQ, PR_SET_NAME, 0}},
    {SCMP_SYS(prctl), {0, SCMP_CMP_EQ, PR_GET_NAME, 0}},
    {SCMP_SYS(prctl), {0, SCMP_CMP_EQ, PR_GET_DUMPABLE, 0}},
    {SCMP_SYS(prctl), {0, SCMP_CMP_EQ, PR_SET_VMA, 0}},
    /* To whom a socket is connected. */
    {SCMP_SYS(sendto), {4, SCMP_CMP_EQ, 0, 0}},
    IOCTL(FUSE_CLONE),
    IOCTL(BLKGETSIZE64),
    IOCTL(BLKSSZGET),
    IOCTL(BLKROGET),
    IOCTL(BLKDISCARD),
    IOCTL(BLKZEROOUT),
};

/* Sockets that go further than this machine's own. */
static const struct limited families[] = {
    {SCMP_SYS(socket), {0, SCMP_CMP_EQ, AF_INET, 0}},
    {SCMP_SYS(socket), {0, SCMP_CMP_EQ, AF_INET6, 0}},
    {SCMP_SYS(socket), {0, SCMP_CMP_EQ, AF_PACKET, 0}},
    {SCMP_SYS(socket), {0, SCMP_CMP_EQ, AF_NETLINK, 0}},
    {SCMP_SYS(socket), {0, SCMP_CMP_EQ, AF_VSOCK, 0}},
};

/* Those of this machine. */
static const struct limited own_family[] = {
    {SCMP_SYS(socket), {0, SCMP_CMP_EQ, AF_UNIX, 0}},
};

/* Whether something is a terminal, and typing there unseen. By two interfaces of the kernel. */
static const struct limited typing[] = {
    IOCTL(TCGETS), IOCTL(TCSETSF), IOCTL(_IOC(_IOC_READ, 'T', 0x2a, 44)), /* TCGETS2 */
    IOCTL(_IOC(_IOC_WRITE, 'T', 0x2d, 44)),                               /* TCSETSF2 */
};

/* --- libseccomp
 * ----------------------------------------------------------------------------------- */

/* Loaded here and nowhere else: what does not serve pays nothing. */
struct library {
    __typeof__(&seccomp_init) init;
    __typeof__(&seccomp_attr_set) attr_set;
    __typeof__(&seccomp_rule_add_array) rule_add_array;
    __typeof__(&seccomp_export_bpf) export_bpf;
    __typeof__(&seccomp_release) release;
};

static bool load_library(struct library *library)
{
    void *handle = dlopen(LIBRARY, FLAGS);

    if (handle == NULL) {
        return false;
    }
    /* A symbol of a library is an object pointer for ISO C only. */
    *(void **)&library->init = dlsym(handle, "seccomp_init");
    *(void **)&library->attr_set = dlsym(handle, "seccomp_attr_set");
    *(void **)&library->rule_add_array = dlsym(handle, "seccomp_rule_add_array");
    *(void **)&library->export_bpf = dlsym(handle, "seccomp_export_bpf");
    *(void **)&library->release = dlsym(handle, "seccomp_release");
    return library->init != NULL && library->attr_set != NULL && library->rule_add_array != NULL &&
           library->export_bpf != NULL && library->release != NULL;
}

struct box_filter {
    struct library library;
    scmp_filter_ctx context;
    bool failed;
};

static void add(struct box_filter *filter, uint32_t action, int call,
                const struct scmp_arg_cmp *argument)
{
    int r = filter->library.rule_add_array(filter->context, action, call, argument != NULL ? 1 : 0,
                                           argument);

    /* What this processor's kernel does not have, or another call of this list stands for. */
    if (r != 0 && r != -EDOM && r != -EEXIST) {
        filter->failed = true;
    }
}

static void add_list(struct box_filter *filter, uint32_t action, const int *calls, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        add(filter, action, calls[i], NULL);
    }
}

static void add_limited(struct box_filter *filter, uint32_t action, const struct limited *calls,
                        size_t count)
{
    for (size_t i = 0; i < count; i++) {
        add(filter, action, calls[i].call, &calls[i].argument);
    }
}

#define COUNT(list)                       (sizeof(list) / sizeof((list)[0]))
#define ADD(filter, action, list)         add_list(filter, action, list, COUNT(list))
#define ADD_LIMITED(filter, action, list) add_limited(filter, action, list, COUNT(list))

static void add_process(struct box_filter *filter, pid_t process)
{
    const struct scmp_arg_cmp own = {0, SCMP_CMP_MASKED_EQ, 0xffffffffU, (unsigned)process};

    add(filter, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), &own);
    add(filter, SCMP_ACT_ALLOW, SCMP_SYS(kill), &own);
}

static void add_what_all_have(struct box_filter *filter)
{
    ADD(filter, SCMP_ACT_ALLOW, served);
    ADD_LIMITED(filter, SCMP_ACT_ALLOW, limited);
    ADD(filter, SCMP_ACT_KILL_PROCESS, deadly);
#ifdef BOX_HAS_SANITIZER
    ADD(filter, SCMP_ACT_ALLOW, sanitizing);
#endif
}

static void add_needs(struct box_filter *filter, const struct box_needs *needs, bool opens)
{
    if (opens) {
        ADD(filter, SCMP_ACT_ALLOW, opening);
    }
    if (needs->network) {
        ADD(filter, SCMP_ACT_ALLOW, networking);
    } else {
        ADD_LIMITED(filter, SCMP_ACT_KILL_PROCESS, families);
    }
    if (needs->local_server && !needs->network) {
        ADD(filter, SCMP_ACT_ALLOW, connecting);
        ADD_LIMITED(filter, SCMP_ACT_ALLOW, own_family);
    }
    if (needs->io_uring) {
        ADD(filter, SCMP_ACT_ALLOW, io_uring);
    }
    if (needs->opener) {
        ADD(filter, SCMP_ACT_ALLOW, asking);
    }
    if (needs->terminal) {
        ADD_LIMITED(filter, SCMP_ACT_ALLOW, typing);
    }
}

/* What older libraries do not know only costs time: a call is found by halving, not in a row. */
static bool set_up(struct box_filter *filter)
{
    const struct library *library = &filter->library;

    (void)library->attr_set(filter->context, SCMP_FLTATR_CTL_OPTIMIZE, 2);
    return library->attr_set(filter->context, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS) == 0;
}

/* The number of instructions; 0: it cannot be had. The library writes to files alone. */
static size_t export(const struct box_filter *filter, struct sock_filter *program)
{
    int file = memfd_create("filter", MFD_CLOEXEC);
    ssize_t count = -1;

    if (file < 0) {
        return 0;
    }
    if (filter->library.export_bpf(filter->context, file) == 0) {
        count = pread(file, program, BOX_PROGRAM_MAX * sizeof(*program), 0);
    }
    close(file);
    return count > 0 ? (size_t)count / sizeof(*program) : 0;
}

bool box_is_built_in(void)
{
    return true;
}

struct box_filter *box_filter_begin(void)
{
    struct box_filter *filter = calloc(1, sizeof(*filter));

    if (filter == NULL || !load_library(&filter->library)) {
        free(filter);
        return NULL;
    }
    filter->context = filter->library.init(SCMP_ACT_ERRNO(ENOSYS));
    if (filter->context == NULL || !set_up(filter)) {
        filter->failed = true;
    } else {
        add_what_all_have(filter);
    }
    return filter;
}

size_t box_filter_end(struct box_filter *filter, const struct box_needs *needs, bool opens,
                      pid_t process, struct sock_filter *program)
{
    size_t count = 0;

    if (filter == NULL) {
        return 0;
    }
    if (!filter->failed && program != NULL) {
        add_process(filter, process);
        add_needs(filter, needs, opens);
    }
    if (!filter->failed && program != NULL) {
        count = export(filter, program);
    }
    if (filter->context != NULL) {
        filter->library.release(filter->context);
    }
    free(filter);
    return count;
}

/*
 * Every thread that there is gets it; libgcrypt and sanitizers may have some. Kernels before 5.16
 * would slow down whoever has a filter, against speculation that no box is about.
 */
bool box_filter_install(const struct sock_filter *program, size_t count)
{
    const struct sock_fprog whole = {.len = (unsigned short)count,
                                     .filter = (struct sock_filter *)(uintptr_t)program};

    return count > 0 &&
           syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
                   SECCOMP_FILTER_FLAG_TSYNC | SECCOMP_FILTER_FLAG_SPEC_ALLOW, &whole) == 0;
}

#endif
