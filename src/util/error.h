/* SPDX-License-Identifier: MIT */
/*
 * One sentence that tells a person what is wrong. Filled by the functions that
 * open, create or check; printed by main() alone.
 *
 * A sentence names the file, what is wrong with it, the value that was found,
 * and what the user can do. It has no trailing full stop or newline.
 */
#ifndef UTIL_ERROR_H
#define UTIL_ERROR_H

#define ERROR_TEXT_MAX 2048

/* The line behind its sentence by which qcow2fs tells qcow2ctl the code (-o errno-told). */
#define ERROR_CODE_LINE "  errno %d"

struct error {
    int code; /* a positive errno, 0 while nothing is wrong */
    char text[ERROR_TEXT_MAX];
};

/*
 * Fills `error` (which may be NULL) with the sentence, cut to fit, and returns
 * -code, so that a function can end with `return error_set(...)`. Bytes of the
 * text that a terminal could take for a command (control characters that come
 * from an image or a file name) are shown as `?`.
 */
int error_set(struct error *error, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
