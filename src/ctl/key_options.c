/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "ctl/key_options.h"
#include "util/options.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

struct object {
    char *id, *file;
};

/* --- Lists, as OPTION_SEVERAL makes them ---------------------------------------------------- */

/* A list of one value, owned; NULL: out of memory. */
static char *make_list(const char *value)
{
    char *list = malloc(2 * strlen(value) + 2), *to = list;

    if (list == NULL) {
        return NULL;
    }
    for (; *value != '\0'; value++) {
        if (*value == '\n' || *value == '\\') {
            *to++ = '\\';
        }
        *to++ = *value;
    }
    *to++ = '\n';
    *to = '\0';
    return list;
}

/* --- QEMU's objects --------------------------------------------------------------------------- */

/* Cuts off the next word of `text`, where ",," is a comma of it; where the rest begins, or NULL. */
static char *cut_word(char *text)
{
    char *to = text;

    for (; *text != '\0'; text++) {
        if (*text == ',' && text[1] != ',') {
            *to = '\0';
            return text + 1;
        }
        text += *text == ',';
        *to++ = *text;
    }
    *to = '\0';
    return NULL;
}

static int refuse_word(const char *word, struct error *error)
{
    const char *value = strchr(word, '=');
    int length = value != NULL ? (int)(value - word) : (int)strlen(word);

    if (strncmp(word, "data=", strlen("data=")) == 0) { /* of which nothing is repeated */
        return error_set(error, EINVAL,
                         "--object: data= would show the key to all who can list processes; put "
                         "it into a file, and use file=FILE");
    }
    return error_set(error, EINVAL,
                     "--object: '%.*s' is not understood; write secret,id=ID,file=FILE, where the "
                     "file holds the key as it is",
                     length, word);
}

/* Points into `text`, which it cuts up. */
static int parse_object(char *text, struct object *object, struct error *error)
{
    char *rest = cut_word(text);
    int result = strcmp(text, "secret") == 0 || strcmp(text, "qom-type=secret") == 0
                     ? 0
                     : refuse_word(text, error);

    *object = (struct object){0};
    while (rest != NULL && result == 0) {
        char *word = rest;

        rest = cut_word(word);
        if (strncmp(word, "id=", strlen("id=")) == 0) {
            object->id = word + strlen("id=");
        } else if (strncmp(word, "file=", strlen("file=")) == 0) {
            object->file = word + strlen("file=");
        } else if (strcmp(word, "format=raw") != 0) {
            result = refuse_word(word, error);
        }
    }
    if (result == 0 && (object->id == NULL || object->file == NULL)) {
        result = error_set(error, EINVAL,
                           "--object: a secret needs an id and a file; write "
                           "secret,id=ID,file=FILE");
    }
    return result;
}

/* The file of the object `id`, as a list; all objects must be ones that are understood. */
static int find_object(const char *objects, const struct key_option *key, char **list,
                       struct error *error)
{
    char *text = malloc(strlen(objects) + 1);
    struct object object;
    int result = 0;

    if (text == NULL) {
        return error_set(error, ENOMEM, "out of memory");
    }
    while (*objects != '\0' && result == 0) {
        objects = options_next_several(objects, text);
        result = parse_object(text, &object, error);
        if (result == 0 && key->id != NULL && strcmp(object.id, key->id) == 0) {
            free(*list);
            *list = make_list(object.file);
            result = *list == NULL ? error_set(error, ENOMEM, "out of memory") : 0;
        }
    }
    free(text);
    return result;
}

int key_option_list(const struct key_option *key, const char *objects, char **list,
                    struct error *error)
{
    int result;

    *list = NULL;
    if (key->files != NULL && key->id != NULL) {
        return error_set(error, EINVAL,
                         "the key is given twice, with %s and with %s; leave out one", key->flag,
                         key->option);
    }
    result = find_object(objects != NULL ? objects : "", key, list, error);
    if (result == 0 && key->id != NULL && *list == NULL) {
        result = error_set(error, EINVAL,
                           "%s=%s: there is no such secret; add --object "
                           "secret,id=%s,file=FILE, or use %s=FILE",
                           key->option, key->id, key->id, key->flag);
    }
    if (result == 0 && key->files != NULL) {
        *list = strdup(key->files);
        result = *list == NULL ? error_set(error, ENOMEM, "out of memory") : 0;
    }
    if (result < 0) {
        free(*list);
        *list = NULL;
    }
    return result;
}
