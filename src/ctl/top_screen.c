/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "ctl/top_screen.h"

#include "ctl/interrupt.h"
#include "util/printable.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define LINE_SIZE 16384

struct top_screen {
    bool is_on;
    bool has_keys; /* standard input is the terminal */
    int signals;   /* signalfd */
    sigset_t before;
    struct termios keys; /* as they were */
};

static int open_signals(struct top_screen *screen)
{
    sigset_t ending;

    sigemptyset(&ending);
    sigaddset(&ending, SIGINT);
    sigaddset(&ending, SIGTERM);
    sigaddset(&ending, SIGHUP);
    screen->signals = signalfd(-1, &ending, SFD_CLOEXEC);
    return screen->signals >= 0 ? 0 : -errno;
}

int top_screen_open(bool wanted, struct top_screen **screen)
{
    struct top_screen *made = calloc(1, sizeof(*made));
    struct termios keys;
    int result;

    if (made == NULL) {
        return -ENOMEM;
    }
    result = open_signals(made);
    if (result < 0) {
        free(made);
        return result;
    }
    interrupt_hold(&made->before);
    made->is_on = wanted && isatty(STDOUT_FILENO) == 1;
    made->has_keys = made->is_on && tcgetattr(STDIN_FILENO, &made->keys) == 0;
    if (made->has_keys) {
        keys = made->keys;
        keys.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
        made->has_keys = tcsetattr(STDIN_FILENO, TCSANOW, &keys) == 0;
    }
    if (made->is_on) {
        fputs("\033[?1049h\033[?25l", stdout); /* another screen, without a cursor */
    }
    *screen = made;
    return 0;
}

void top_screen_close(struct top_screen *screen)
{
    sigset_t before = screen->before;

    if (screen->is_on) {
        fputs("\033[?25h\033[?1049l", stdout);
        (void)fflush(stdout);
    }
    if (screen->has_keys) {
        (void)tcsetattr(STDIN_FILENO, TCSANOW, &screen->keys);
    }
    close(screen->signals);
    free(screen);
    interrupt_release(&before);
}

bool top_screen_is_on(const struct top_screen *screen)
{
    return screen->is_on;
}

struct top_size top_screen_size(const struct top_screen *screen)
{
    struct winsize size;

    if (screen->is_on && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_row > 0 &&
        size.ws_col > 0) {
        return (struct top_size){size.ws_row, size.ws_col};
    }
    return (struct top_size){24, 80};
}

void top_screen_begin(struct top_screen *screen)
{
    if (screen->is_on) {
        fputs("\033[H", stdout);
    }
}

void top_screen_line(bool on, const char *format, ...)
{
    char line[LINE_SIZE];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(line, sizeof(line), format, arguments);
    va_end(arguments);
    if (on) {
        fputs("\033[K", stdout); /* nothing is left of what was there */
    }
    printable_line(stdout, "%s", line);
}

int top_screen_end(struct top_screen *screen)
{
    if (screen->is_on) {
        fputs("\033[J", stdout);
    }
    return fflush(stdout) == 0 ? 0 : -errno;
}

static long long now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (long long)time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

/* Whether it was q, or there is no terminal any more. */
static bool is_end(void)
{
    char key;
    ssize_t count = read(STDIN_FILENO, &key, 1);

    return count == 1 ? key == 'q' || key == 'Q' : count == 0 || errno != EINTR;
}

bool top_screen_wait(struct top_screen *screen, int milliseconds)
{
    struct pollfd waiting[] = {
        {.fd = screen->signals, .events = POLLIN},
        {.fd = screen->has_keys ? STDIN_FILENO : -1, .events = POLLIN},
    };
    long long until = now() + milliseconds;

    for (;;) {
        long long left = until - now();
        int ready = poll(waiting, 2, left > 0 ? (int)left : 0);

        if (ready > 0 && waiting[0].revents != 0) {
            return false; /* interrupt_release() lets it end the process */
        }
        if (ready > 0 && waiting[1].revents != 0 && is_end()) {
            return false;
        }
        if (ready == 0 && left <= 0) {
            return true;
        }
    }
}
