/* SPDX-License-Identifier: MIT */
/*
 * For LD_PRELOAD of qcow2fs, or of qcow2ctl: somebody who has taken it over. In one of the threads
 * that answer, at its first answer with data, or where $INSIDE_READS is set when it first reads
 * of a file that has the magic of an image, it tries what the words of $INSIDE_TRIES say, and
 * writes to the file $INSIDE_SAYS, which is open by then, for each "WORD: begun", and what errno
 * came of it, 0 for none.
 *
 * $INSIDE_HIDES is a library that dlopen() does not find. With $INSIDE_OLD the kernel has no
 * Landlock.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/reboot.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static int says = -1;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static ssize_t (*read_at)(int fd, void *buffer, size_t size, off64_t offset);
static int (*reply_buf)(void *request, const char *buffer, size_t size);
static void *(*open_library)(const char *name, int flags);
static long (*system_call)(long number, ...);

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("INSIDE_SAYS");

    *(void **)&reply_buf = dlsym(RTLD_NEXT, "fuse_reply_buf");
    *(void **)&open_library = dlsym(RTLD_NEXT, "dlopen");
    *(void **)&read_at = dlsym(RTLD_NEXT, "pread64");
    *(void **)&system_call = dlsym(RTLD_NEXT, "syscall");
    if (path != NULL) {
        says = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
    }
}

void *dlopen(const char *name, int flags)
{
    const char *hidden = getenv("INSIDE_HIDES");

    if (name != NULL && hidden != NULL && strcmp(name, hidden) == 0) {
        return NULL;
    }
    if (open_library == NULL) {
        *(void **)&open_library = dlsym(RTLD_NEXT, "dlopen");
    }
    return open_library(name, flags);
}

/*
 * Landlock has no functions of the C library's. A filter of the kernel's own would refuse it, too;
 * but with one no ordinary user's fusermount3 may mount.
 */
long syscall(long number, ...)
{
    long words[6];
    va_list list;

    va_start(list, number);
    for (size_t i = 0; i < 6; i++) {
        words[i] = va_arg(list, long);
    }
    va_end(list);
    if (system_call == NULL) {
        *(void **)&system_call = dlsym(RTLD_NEXT, "syscall");
    }
#ifdef SYS_landlock_create_ruleset
    if (number == SYS_landlock_create_ruleset && getenv("INSIDE_OLD") != NULL) {
        errno = ENOSYS;
        return -1;
    }
#endif
    return system_call(number, words[0], words[1], words[2], words[3], words[4], words[5]);
}

static long open_to(int flags, const char *variable)
{
    const char *path = variable != NULL ? getenv(variable) : "/etc/passwd";

    return open(path, flags | O_CLOEXEC, 0666);
}

static long talk_to(int family)
{
    int to = socket(family, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(9)};

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return to < 0 ? -1 : connect(to, (const struct sockaddr *)&address, sizeof(address));
}

static long start_process(void)
{
    pid_t pid = fork();

    if (pid == 0) {
        _exit(0);
    }
    return pid < 0 ? -1 : waitpid(pid, NULL, 0);
}

static long make_code(void)
{
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    return page == MAP_FAILED ? -1 : mprotect(page, 4096, PROT_READ | PROT_EXEC);
}

static long run_program(void)
{
    char *const words[] = {"/bin/true", NULL};

    return execve(words[0], words, NULL);
}

/* What cannot be refused: what each of the others is told apart from. */
static long nothing(void)
{
    return getpid();
}

static long try(const char *word)
{
    const char *victim = getenv("INSIDE_VICTIM");
    char byte = 'x';

#define IS(name) (strcmp(word, name) == 0)
    return IS("read-passwd")   ? open_to(O_RDONLY, NULL)
           : IS("read-image")  ? open("/proc/self/exe", O_RDONLY)
           : IS("write-file")  ? open_to(O_WRONLY, "INSIDE_VICTIM")
           : IS("make-file")   ? open_to(O_WRONLY | O_CREAT | O_EXCL, "INSIDE_NEW")
           : IS("list")        ? open("/", O_RDONLY | O_DIRECTORY)
           : IS("unlink")      ? unlink(victim)
           : IS("unlinkat")    ? unlinkat(AT_FDCWD, victim, 0)
           : IS("rename")      ? rename(victim, getenv("INSIDE_NEW"))
           : IS("link")        ? link(victim, getenv("INSIDE_NEW"))
           : IS("symlink")     ? symlink("/", getenv("INSIDE_NEW"))
           : IS("mkdir")       ? mkdir(getenv("INSIDE_NEW"), 0777)
           : IS("mknod")       ? mknod(getenv("INSIDE_NEW"), S_IFIFO | 0666, 0)
           : IS("chmod")       ? chmod(victim, 0777)
           : IS("chown")       ? chown(victim, 1, 1)
           : IS("truncate")    ? truncate(victim, 0)
           : IS("process")     ? start_process()
           : IS("kill")        ? kill(getppid(), 0)
           : IS("code")        ? make_code()
           : IS("unix")        ? talk_to(AF_UNIX)
           : IS("dumpable")    ? prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
           : IS("terminal")    ? ioctl(0, TIOCSTI, &byte)
           : IS("io-uring")    ? syscall(SYS_io_uring_setup, 1, NULL)
           : IS("inet")        ? talk_to(AF_INET)
           : IS("inet6")       ? talk_to(AF_INET6)
           : IS("packet")      ? talk_to(AF_PACKET)
           : IS("exec")        ? run_program()
           : IS("ptrace")      ? ptrace(PTRACE_ATTACH, getppid(), NULL, NULL)
           : IS("vm-write")    ? syscall(SYS_process_vm_writev, getppid(), NULL, 0, NULL, 0, 0)
           : IS("mount")       ? mount("none", "/tmp", "tmpfs", 0, NULL)
           : IS("umount")      ? umount2(victim, MNT_DETACH)
           : IS("unshare")     ? unshare(CLONE_NEWUSER)
           : IS("setns")       ? setns(0, 0)
           : IS("chroot")      ? chroot("/")
           : IS("bpf")         ? syscall(SYS_bpf, 0, NULL, 0)
           : IS("userfaultfd") ? syscall(SYS_userfaultfd, 0)
           : IS("perf")        ? syscall(SYS_perf_event_open, NULL, 0, -1, -1, 0)
           : IS("module")      ? syscall(SYS_init_module, NULL, 0, "")
           : IS("kexec")       ? syscall(SYS_kexec_load, 0, 0, NULL, 0)
           : IS("reboot")      ? syscall(SYS_reboot, 0, 0, 0, NULL)
           : IS("keyctl")      ? syscall(SYS_keyctl, 0, 0, 0, 0, 0)
           : IS("handle")      ? syscall(SYS_open_by_handle_at, -1, NULL, 0)
           : IS("nothing")     ? nothing()
                               : (errno = EINVAL, -1);
#undef IS
}

static void try_all(void)
{
    char *words = getenv("INSIDE_TRIES"), *rest = NULL;

    words = words != NULL ? strdup(words) : NULL;
    for (char *word = words != NULL ? strtok_r(words, " ", &rest) : NULL; word != NULL;
         word = strtok_r(NULL, " ", &rest)) {
        errno = 0;
        dprintf(says, "%s: begun\n", word);
        dprintf(says, "%s: %d\n", word, try(word) < 0 ? errno : 0);
    }
    free(words);
}

int fuse_reply_buf(void *request, const char *buffer, size_t size)
{
    if (size > 0) {
        pthread_once(&once, try_all);
    }
    return reply_buf(request, buffer, size);
}

static ssize_t read_image(int fd, void *buffer, size_t size, off64_t offset)
{
    ssize_t count = read_at(fd, buffer, size, offset);

    if (getenv("INSIDE_READS") != NULL && offset == 0 && count >= 4 &&
        memcmp(buffer, "QFI\xfb", 4) == 0) {
        pthread_once(&once, try_all);
    }
    return count;
}

ssize_t pread(int fd, void *buffer, size_t size, off_t offset)
{
    return read_image(fd, buffer, size, offset);
}

ssize_t pread64(int fd, void *buffer, size_t size, off64_t offset)
{
    return read_image(fd, buffer, size, offset);
}

ssize_t __pread_chk(int fd, void *buffer, size_t size, off_t offset, size_t room)
{
    (void)room;
    return read_image(fd, buffer, size, offset);
}

ssize_t __pread64_chk(int fd, void *buffer, size_t size, off64_t offset, size_t room)
{
    (void)room;
    return read_image(fd, buffer, size, offset);
}
