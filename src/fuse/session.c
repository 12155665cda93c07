/* SPDX-License-Identifier: MIT */
#include "config.h"

#define FUSE_USE_VERSION 312

#include "fuse/session.h"

#include "fuse/control.h"
#include "fuse/io_uring.h"
#include "fuse/kernel_options.h"
#include "fuse/later.h"
#include "fuse/messages.h"
#include "fuse/mount_point.h"
#include "fuse/ops.h"
#include "fuse/own_mount.h"
#include "fuse/server_box.h"
#include "fuse/signals.h"
#include "fuse/unmount.h"
#include "util/fuse_device.h"
#include "util/memory.h"
#include "util/mounts.h"
#include "util/process.h"

#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#define SYNC_SECONDS 60 /* for which a signal to end waits for what the kernel holds */

struct session {
    struct session_settings settings;
    char *mount_point; /* absolute */
    struct filesystem *filesystem;
    struct own_mount *own; /* with a writer */
    dev_t device;          /* as session_device() has it */
    bool was_told;         /* to end, by a signal */
    int unsaved;           /* the negative errno of what the kernel could not hand over; 0 */
    struct fuse_session *fuse;
    bool handles_signals;
    bool is_mounted;
    int over;      /* a pipe that nobody reads, for unmount() */
    int null;      /* in the server: /dev/null, or -1 */
    int ready;     /* in the server: the pipe to who waits, or -1 */
    int listening; /* until `control` has it, or -1 */
    struct control *control;
};

/* --- mounting --------------------------------------------------------------- */

static int make_fuse_session(struct session *session)
{
    struct fuse_args arguments = FUSE_ARGS_INIT(0, NULL);
    char *list = kernel_options(&session->settings);
    bool complete = list != NULL && fuse_opt_add_arg(&arguments, "qcow2fs") == 0 &&
                    fuse_opt_add_arg(&arguments, "-o") == 0 &&
                    fuse_opt_add_arg(&arguments, list) == 0;

    if (complete && session->settings.debug) {
        complete = fuse_opt_add_arg(&arguments, "-d") == 0;
    }
    if (complete) {
        session->fuse = fuse_session_new(&arguments, &filesystem_operations,
                                         sizeof(filesystem_operations), session->filesystem);
        session->filesystem->fuse = session->fuse;
        long_requests_end_with(&session->filesystem->long_requests, session->fuse);
    }
    fuse_opt_free_args(&arguments);
    free(list);
    return session->fuse != NULL ? 0 : -EINVAL;
}

/* As tree.h has it. */
static ino_t disk_inode(bool is_directory)
{
    return is_directory ? TREE_DISK : TREE_ROOT;
}

static dev_t find_device(const struct session *session)
{
    const char *told = session->settings.options->mounted_device;
    unsigned major_number, minor_number;

    if (told != NULL && sscanf(told, "%u:%u", &major_number, &minor_number) == 2) {
        return makedev(major_number, minor_number);
    }
    return mounts_device_at(session->mount_point);
}

/*
 * The kernel is told that its copy of the disk is out of date: it writes back what is dirty in it,
 * and answers when that is done. It needs no path.
 */
static int recall(void *context)
{
    struct session *session = context;
    ino_t inode = disk_inode(session->filesystem->tree->root_is_directory);
    int r = fuse_lowlevel_notify_inval_inode(session->fuse, inode, 0, 0);

    return r == -ENOENT ? 0 : r; /* the kernel knows nothing of it: so it holds nothing */
}

/* A descriptor is that of a mount which is made already, without a name. */
static bool has_name(const struct session *session)
{
    return strncmp(session->mount_point, "/dev/fd/", 8) != 0;
}

static int tell_steward(struct session *session)
{
    struct steward *steward = session->settings.steward;
    bool is_directory = session->filesystem->tree->root_is_directory;
    int r = steward_tell_mount(steward, session->mount_point, session->device,
                               session->settings.options->auto_unmount.value && has_name(session));
    char *disk;

    if (r != 0 || session->own == NULL) {
        return r;
    }
    if (asprintf(&disk, "%s%s", session->mount_point, is_directory ? "/disk.raw" : "") < 0) {
        return -ENOMEM;
    }
    r = steward_tell_disk(steward, disk, disk_inode(is_directory));
    free(disk);
    return r;
}

/*
 * Signals are handled from before the mount on: one that comes too early for
 * the loop ends it as soon as it begins, and nothing stays mounted.
 */
static int mount_quietly(struct session *session)
{
    int r = make_fuse_session(session);

    if (r != 0) {
        return r;
    }
    if (fuse_set_signal_handlers(session->fuse) != 0) {
        return -EINVAL;
    }
    session->handles_signals = true;
    page_cache_init(&session->filesystem->page_cache, session->mount_point);
    errno = 0;
    if (fuse_session_mount(session->fuse, session->mount_point) != 0) {
        return errno != 0 ? -errno : -EIO;
    }
    session->is_mounted = true;
    page_cache_find(&session->filesystem->page_cache, session->mount_point);
    session->device = find_device(session);
    if (session->own != NULL) {
        own_mount_set_recall(session->own, recall, session);
    }
    return tell_steward(session);
}

static int mount_image(struct session *session, struct error *error)
{
    struct messages messages;
    int r;

    messages_catch(&messages);
    r = mount_quietly(session);
    messages_release(&messages);
    if (r != 0) {
        const char *kernel = session->settings.options->kernel;

        return error_set(error, -r, "%s cannot be mounted on %s: %s%s",
                         image_named(session->settings.source->image)->path,
                         session->settings.mount_point,
                         messages.text[0] != '\0' ? messages.text : strerror(-r),
                         kernel != NULL && strstr(kernel, "context=") != NULL
                             ? "; context= and its like need a kernel that runs SELinux, and a "
                               "label that it knows"
                             : "");
    }
    if (messages.text[0] != '\0') {
        log_line(session->settings.log, LOG_LEVEL_WARNING, "%s", messages.text);
    }
    return 0;
}

static void on_ready(void *context);

static int open_own_mount(struct session *session, struct error *error)
{
    int r = own_mount_create(session->settings.steward, &session->own);

    session->filesystem->own = session->own;
    return r == 0 ? 0 : error_set(error, -r, "out of memory for the mount");
}

static int check_place(const struct session *session, bool is_directory, struct error *error)
{
    int r = fuse_device_check(error);

    return r == 0 && is_directory && !session->settings.options->nonempty.value
               ? mount_point_require_empty(session->mount_point, error)
               : r;
}

static int open_all(struct session *session, struct error *error)
{
    bool is_directory = false;
    int r = session->settings.options->io_uring.value ? io_uring_check(error) : 0;

    if (r == 0) {
        r = mount_point_find(session->settings.mount_point, session->settings.log,
                             &session->mount_point, &is_directory, error);
    }
    if (r == 0 && has_name(session)) {
        r = check_place(session, is_directory, error);
    }
    if (r == 0 && unmount_prepare(&session->over) != 0) {
        r = error_set(error, EMFILE, "no pipe for the mount");
    }
    if (r == 0 && !is_directory && session->settings.source->evidence != NULL) {
        r = error_set(error, ENOTDIR,
                      "%s is no directory, and evidence is shown in one; give one to mount on",
                      session->settings.mount_point);
    }
    if (r == 0) {
        r = filesystem_create(session->settings.source, session->settings.options, is_directory,
                              session->settings.log, &session->filesystem, error);
    }
    if (r == 0 && session->settings.source->writer != NULL) {
        r = open_own_mount(session, error);
    }
    if (r != 0) {
        return r;
    }
    if (session->settings.single_threaded) {
        long_requests_set_alone(&session->filesystem->long_requests);
    }
    session->filesystem->ready = on_ready;
    session->filesystem->ready_context = session;
    return mount_image(session, error);
}

int session_open(const struct session_settings *settings, struct session **session,
                 struct error *error)
{
    struct session *made = malloc(sizeof(*made));
    int r;

    if (made == NULL) {
        return error_set(error, ENOMEM, "out of memory for the mount");
    }
    *made = (struct session){
        .settings = *settings, .over = -1, .null = -1, .ready = -1, .listening = -1};
    messages_to_log(settings->log);
    r = open_all(made, error);
    if (r != 0) {
        session_close(made);
        return r;
    }
    *session = made;
    return 0;
}

/* Who may wait for requests that the other answers, first. */
static void stop_later(struct filesystem *filesystem)
{
    later_stop(filesystem->changes);
    later_stop(filesystem->later);
}

static void close_descriptor(int *descriptor)
{
    if (*descriptor >= 0) {
        close(*descriptor);
        *descriptor = -1;
    }
}

dev_t session_device(const struct session *session)
{
    return session->device;
}

void session_set_control(struct session *session, int listening)
{
    session->listening = listening;
}

static void unmount(struct session *session)
{
    unmount_by_steward(session->fuse, session->over,
                       has_name(session) ? session->settings.steward : NULL, session->mount_point,
                       session->settings.log);
    page_cache_release(&session->filesystem->page_cache);
}

void session_close(struct session *session)
{
    if (session == NULL) {
        return;
    }
    if (session->filesystem != NULL && session->filesystem->later != NULL) {
        /* While there is a connection for their answers. */
        later_stop(session->filesystem->old_end);
        stop_later(session->filesystem);
    }
    control_stop(session->control);
    close_descriptor(&session->listening);
    if (session->is_mounted) {
        unmount(session);
    }
    if (session->handles_signals) {
        fuse_remove_signal_handlers(session->fuse);
    }
    if (session->fuse != NULL) {
        fuse_session_destroy(session->fuse);
    }
    messages_to_log(NULL);
    own_mount_destroy(session->own);
    filesystem_destroy(session->filesystem);
    close_descriptor(&session->over);
    close_descriptor(&session->null);
    close_descriptor(&session->ready);
    free(session->mount_point);
    free(session);
}

/* --- into the background ---------------------------------------------------- */

/*
 * The kernel talks to us: whoever waits for that is told. In the server: lets go of the terminal,
 * and tells who waits for it. Runs in some thread, once.
 */
static void on_ready(void *context)
{
    struct session *session = context;

    announce_ready(session->settings.announce);
    if (session->ready < 0) {
        return;
    }
    log_redirect(session->settings.log, session->settings.background_sink,
                 session->settings.steward);
    dup2(session->null, STDIN_FILENO);
    dup2(session->null, STDOUT_FILENO);
    dup2(session->null, STDERR_FILENO);
    close_descriptor(&session->null);
    while (write(session->ready, "", 1) < 0 && errno == EINTR) {
    }
    close_descriptor(&session->ready);
}

/* The server failed: it has said why, unless it had no time for that. */
static int explain_failure(pid_t server, struct error *error)
{
    int status;

    while (waitpid(server, &status, 0) < 0) {
        if (errno != EINTR) {
            return error_set(error, errno, "the process in the background was lost: %s",
                             strerror(errno));
        }
    }
    if (WIFSIGNALED(status)) {
        return error_set(error, ECHILD,
                         "the process in the background was ended by signal %d (%s) before the "
                         "raw file answered",
                         WTERMSIG(status), strsignal(WTERMSIG(status)));
    }
    if (WEXITSTATUS(status) == 0) {
        return error_set(error, ECANCELED, "unmounted before the raw file answered");
    }
    return 0;
}

static int wait_for_server(struct session *session, pid_t server, int pipe_end,
                           enum session_process *process, struct error *error)
{
    bool told = false;
    ssize_t count;
    char byte;

    while ((count = read(pipe_end, &byte, 1)) < 0 && errno == EINTR) {
        if (fuse_session_exited(session->fuse) && !told) {
            /* A signal to end: the server, in a session of its own, did not get it. */
            kill(server, SIGTERM);
            told = true;
        }
    }
    close(pipe_end);
    if (count == 1) {
        *process = SESSION_DONE;
        return 0;
    }
    return explain_failure(server, error);
}

static int become_server(struct session *session, int pipe_end, struct error *error)
{
    session->ready = pipe_end;
    memory_map_code();
    setsid();
    if (chdir("/") != 0) {
        return error_set(error, errno, "/ cannot be made the working directory: %s",
                         strerror(errno));
    }
    session->null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (session->null < 0) {
        return error_set(error, errno, "/dev/null cannot be opened: %s", strerror(errno));
    }
    return 0;
}

int session_background(struct session *session, enum session_process *process, struct error *error)
{
    int pipe_ends[2];
    pid_t server;

    *process = SESSION_SERVER;
    if (pipe2(pipe_ends, O_CLOEXEC) != 0) {
        return error_set(error, errno, "no pipe to the background: %s", strerror(errno));
    }
    fflush(NULL);
    server = fork();
    if (server < 0) {
        int code = errno;

        close(pipe_ends[0]);
        close(pipe_ends[1]);
        return error_set(error, code, "no process in the background: %s", strerror(code));
    }
    if (server == 0) {
        close(pipe_ends[0]);
        return become_server(session, pipe_ends[1], error);
    }
    close(pipe_ends[1]);
    *process = SESSION_GAVE_UP;
    return wait_for_server(session, server, pipe_ends[0], process, error);
}

/* --- serving ---------------------------------------------------------------- */

/* None of them gets a signal: that must meet the thread that waits in the loop, and interrupt it.
 */
static int start_threads(struct session *session)
{
    int r;

    process_limit_stacks();
    image_may_start_threads(session->settings.source->image);
    r = cache_start_cleaner(session->settings.source->image->cache);
    if (r == 0 && session->settings.source->writer != NULL) {
        r = writer_start(session->settings.source->writer);
    }
    if (r == 0 && session->own != NULL) {
        r = own_mount_start(session->own);
    }
    if (r == 0 && session->settings.source->writer != NULL) {
        r = control_start(session->filesystem, session->listening, &session->control);
        session->listening = -1;
    }
    return r;
}

/*
 * The first request has been there since the mount, and is what most of those wait for who wait for
 * us (on_ready()): it needs none of the threads that take the others. Whatever else comes of it, an
 * unmount or a signal, the loop meets again.
 */
static void answer_first(struct fuse_session *fuse)
{
    struct fuse_buf buffer = {0};

    if (fuse_session_receive_buf(fuse, &buffer) > 0) {
        fuse_session_process_buf(fuse, &buffer);
    }
    free(buffer.mem);
}

static int loop(struct session *session)
{
    struct fuse_loop_config *config;
    int r;

    answer_first(session->fuse);
    if (session->settings.single_threaded) {
        return fuse_session_loop(session->fuse);
    }
    config = fuse_loop_cfg_create();
    if (config == NULL) {
        return -ENOMEM;
    }
    fuse_loop_cfg_set_clone_fd(config, server_box_opens_device(&session->filesystem->stats.box));
    fuse_loop_cfg_set_max_threads(
        config, mount_threads(session->settings.options, session->settings.source->image));
    r = fuse_session_loop_mt(session->fuse, config);
    fuse_loop_cfg_destroy(config);
    return r;
}

/* A signal to end has come. Called while requests are answered. */
static void save_what_the_kernel_holds(void *context)
{
    struct session *session = context;

    long_requests_end(&session->filesystem->long_requests);
    session->was_told = true;
    if (!image_is_thrown_away(session->settings.source->image)) {
        session->unsaved = own_mount_sync(session->own, SYNC_SECONDS);
    }
    stop_later(session->filesystem); /* they wait for the kernel, and that for answers */
}

/*
 * Where memory is short the kernel may wait for dirty pages to be written, and
 * those of our own mount are written by us: we must not be made to wait for
 * them. Only privileged processes may ask for that.
 */
static void avoid_waiting_for_ourselves(void)
{
    (void)prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
}

/* As loop(), with what a disk needs that can be written. */
static int loop_with_writer(struct session *session)
{
    struct signals *signals = NULL;
    int r = signals_start(session->fuse, save_what_the_kernel_holds, session, &signals);

    if (r == 0) {
        r = loop(session);
    }
    signals_stop(signals);
    return r;
}

/*
 * An unmount may overtake the last request, which nobody waits for (the release of a file that was
 * open over a lazy unmount): the kernel then tells who was about to take it of an aborted
 * connection. libfuse knows only the other way in which an unmount shows, ENODEV, for an end.
 */
static bool is_unmounted(int r)
{
    return r == -ECONNABORTED;
}

/*
 * Status 0 is a promise: all that was written is in the image.
 */
static int check_all_is_saved(struct session *session, struct error *error)
{
    const char *image = session->settings.source->image->path;
    int r = lost_explain(&session->filesystem->lost, image, error);

    if (r == 0 && session->unsaved != 0) {
        r = error_set(
            error, -session->unsaved,
            "%s: what was written last may be lost, the kernel could not hand it over: %s",
            has_name(session) ? session->mount_point : image, strerror(-session->unsaved));
    }
    if (r == 0 && !session->was_told && steward_sees_abort(session->settings.steward)) {
        r = error_set(error, ECONNABORTED,
                      "%s: the connection to the kernel was aborted (umount -f?): what it had not "
                      "handed over is lost; unmount %s",
                      image, session->mount_point);
    }
    return r;
}

int session_serve(struct session *session, struct error *error)
{
    bool writes = session->settings.source->writer != NULL;
    sigset_t before;
    int r;

    image_lock_keys(session->settings.source->image);
    if (writes) {
        avoid_waiting_for_ourselves();
    }
    r = server_box_enter(session->settings.source->image, session->settings.options,
                         session->settings.steward, &session->filesystem->stats.box, error);
    if (r != 0) {
        return r;
    }
    if (writes) {
        signals_block(&before);
    }
    r = start_threads(session);
    if (r != 0) {
        r = error_set(error, -r, "no thread for the caches: %s", strerror(-r));
    } else {
        /* Positive: the number of the signal that ended it; -1 (no errno): no thread. */
        r = writes ? loop_with_writer(session) : loop(session);
        if (is_unmounted(r)) {
            r = 0;
        }
        session->was_told |= r > 0;
        if (r < 0) {
            error_set(error, -r, "%s: requests can no longer be served: %s", session->mount_point,
                      r == -1 ? "no thread could be started" : strerror(-r));
        } else if (writes && !image_is_thrown_away(session->settings.source->image)) {
            r = check_all_is_saved(session, error);
        }
    }
    if (writes) {
        signals_unblock(&before);
    }
    return r < 0 ? r : 0;
}

const char *session_fuse_version(void)
{
    return fuse_pkgversion();
}
