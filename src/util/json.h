/* SPDX-License-Identifier: MIT */
/*
 * JSON that we print: objects and arrays, built member by member, on top of the
 * library that configure found (jansson). A build without it has the same
 * functions, which make nothing: who calls them needs no #ifdef, only to ask
 * json_available() or json_require() first.
 *
 * Memory that runs out while a value is built makes that value, and each that
 * takes it in, incomplete; only the functions that print at the end can fail.
 * Not for two threads at once.
 */
#ifndef UTIL_JSON_H
#define UTIL_JSON_H

#include "util/error.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct json; /* an object or an array */

/* False where this build has no JSON library. */
bool json_available(void);

/* 0; -ENOTSUP with a sentence where this build has none. */
int json_require(struct error *error);

/* For the caller to give to json_put() or json_add(), or to json_free(). NULL, which every
 * function takes, stands for one that is incomplete. */
struct json *json_new_object(void);
struct json *json_new_array(void);
void json_free(struct json *json);

/*
 * Members of an object, in the order of the calls; a second one of that name
 * takes the place of the first. Text may be any bytes: what is not UTF-8 is
 * shown as U+FFFD, and what a terminal could take for a command is printed as
 * an escape (\u202E), which a program reads as the same text. A number of 2^63 or more, which the
 * library has not, loses its last digits. json_put() takes `value` over.
 */
void json_put_text(struct json *object, const char *key, const char *text);
void json_put_number(struct json *object, const char *key, uint64_t number);
void json_put_signed(struct json *object, const char *key, int64_t number);
void json_put_bool(struct json *object, const char *key, bool value);
void json_put(struct json *object, const char *key, struct json *value);

/* Items of an array. */
void json_add_text(struct json *array, const char *text);
void json_add_number(struct json *array, uint64_t number);
void json_add(struct json *array, struct json *value);

/*
 * Prints the value and a newline: indented by four columns, or in one line, for
 * lists of which each item is printed by itself. 0; -ENOMEM; the negative errno
 * when it could not be written.
 */
int json_print(const struct json *json, FILE *out);
int json_print_line(const struct json *json, FILE *out);

/* The same as json_print() prints, for the caller to free; NULL when memory ran out. */
char *json_text(const struct json *json);

#endif
