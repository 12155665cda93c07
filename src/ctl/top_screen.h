/* SPDX-License-Identifier: MIT */
/*
 * A terminal whose screen is drawn again and again, and is as it was afterwards, whatever ends the
 * program but SIGKILL; or, where standard output is none, just lines. Signals that would end the
 * process wait for top_screen_wait().
 */
#ifndef CTL_TOP_SCREEN_H
#define CTL_TOP_SCREEN_H

#include <stdbool.h>

struct top_screen;

struct top_size {
    int rows, columns;
};

/* The screen is used only where it is `wanted` and there is one. 0 or a negative errno. */
int top_screen_open(bool wanted, struct top_screen **screen);

/* Puts all back; a signal that has waited ends the process here. */
void top_screen_close(struct top_screen *screen);

/* Whether there is a screen; else there are lines. */
bool top_screen_is_on(const struct top_screen *screen);

/* As it is now; 24 rows of 80 columns where there is none. */
struct top_size top_screen_size(const struct top_screen *screen);

/* A picture: begin, lines, end, which is 0, or a negative errno where it could not be written. `on`
 * as top_screen_is_on(). */
void top_screen_begin(struct top_screen *screen);
void top_screen_line(bool on, const char *format, ...) __attribute__((format(printf, 2, 3)));
int top_screen_end(struct top_screen *screen);

/* False where it is to end: by a signal, or by q at the terminal. */
bool top_screen_wait(struct top_screen *screen, int milliseconds);

#endif
