/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "util/prompt.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

static int write_all(int terminal, const char *text)
{
    size_t length = strlen(text);

    while (length > 0) {
        ssize_t written = write(terminal, text, length);

        if (written < 0 && errno != EINTR) {
            return -errno;
        }
        text += written > 0 ? written : 0;
        length -= written > 0 ? (size_t)written : 0;
    }
    return 0;
}

/* Byte by byte: what comes behind the line belongs to who reads next. */
static int read_line(int terminal, char interrupt, char *answer, size_t size, size_t *length)
{
    bool too_long = false;

    *length = 0;
    for (;;) {
        char letter;
        ssize_t count = read(terminal, &letter, 1);

        if (count < 0) {
            return -errno;
        }
        if (count == 0) { /* Ctrl-D, or nobody is there any more: no answer */
            return -ECANCELED;
        }
        if (letter == interrupt) {
            return -EINTR;
        }
        if (letter == '\n') {
            return too_long ? -EMSGSIZE : 0;
        }
        if (*length == size) {
            too_long = true;
        } else {
            answer[(*length)++] = letter;
        }
    }
}

/* With the echo off before the question is there; Ctrl-C leaves the terminal as it was, too. */
static int read_hidden(int terminal, const char *question, char *answer, size_t size,
                       size_t *length)
{
    struct termios before, hidden;
    sigset_t all, old;
    int result;

    if (tcgetattr(terminal, &before) != 0) {
        return -errno;
    }
    hidden = before;
    hidden.c_lflag &= ~(tcflag_t)(ECHO | ISIG);
    hidden.c_lflag |= ICANON;
    hidden.c_cc[VEOL] = hidden.c_cc[VINTR]; /* a letter that ends the line */
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, &old);
    if (tcsetattr(terminal, TCSAFLUSH, &hidden) != 0) {
        result = -errno;
    } else {
        result = write_all(terminal, question);
        if (result == 0) {
            result = read_line(terminal, (char)before.c_cc[VINTR], answer, size, length);
        }
        tcsetattr(terminal, TCSAFLUSH, &before);
    }
    sigprocmask(SIG_SETMASK, &old, NULL);
    return result;
}

/* What the terminal would have done; in a box (util/box.h) nobody but us can be told. */
static void interrupt(void)
{
    if (kill(0, SIGINT) != 0) {
        raise(SIGINT);
    }
}

int prompt_open(void)
{
    int terminal = isatty(STDIN_FILENO) == 1 ? open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY) : -1;

    return terminal >= 0 ? terminal : -ENOTTY;
}

int prompt_hidden(int terminal, const char *question, char *answer, size_t size, size_t *length)
{
    int result;

    *length = 0;
    if (terminal < 0) {
        return -ENOTTY;
    }
    result = read_hidden(terminal, question, answer, size, length);
    (void)write_all(terminal, "\n");
    if (result == -EINTR) {
        interrupt();
    }
    return result;
}
