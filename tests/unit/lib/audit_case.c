/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "audit_case.h"

#include "admin/inspect.h"
#include "scratch.h"

#include <check.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* --- Images -------------------------------------------------------------------------- */

struct made make(const struct builder_options *options)
{
    struct made made = {.builder = builder_create(options)};

    return made;
}

struct made make_plain_image(void)
{
    struct builder_options options = builder_defaults();

    return make(&options);
}

void finish(struct made *made)
{
    made->bytes = builder_finish(made->builder, &made->size);
}

void write_file(struct made *made, size_t more)
{
    uint8_t *bytes = calloc(1, made->size + more);

    ck_assert_ptr_nonnull(bytes);
    memcpy(bytes, made->bytes, made->size);
    scratch_file("a.qcow2", bytes, made->size + more);
    free(bytes);
    builder_destroy(made->builder);
}

void make_file(const struct builder_options *options)
{
    struct made made = make(options);

    finish(&made);
    write_file(&made, 0);
}

/* --- Findings ------------------------------------------------------------------------ */

/* Notes of what most images have, and the suites do not ask for (test-ctl-audit.py does). */
static bool is_of_origin(const struct audit_finding *finding)
{
    return strcmp(finding->code, "made-by") == 0 || strcmp(finding->code, "entropy") == 0 ||
           strcmp(finding->code, "tables-out-of-order") == 0;
}

static void leave_out_origin(struct audit *audit)
{
    size_t kept = 0;

    for (size_t i = 0; i < audit->count; i++) {
        if (is_of_origin(&audit->findings[i])) {
            free(audit->findings[i].file);
            free(audit->findings[i].text);
        } else {
            audit->findings[kept++] = audit->findings[i];
        }
    }
    audit->count = kept;
}

struct audit *audit_file(const char *path)
{
    const struct audit_options options = {0};
    struct inspection *inspection;
    struct error error = {0};
    struct audit *audit;

    ck_assert_msg(inspect_open(path, &(struct inspect_options){.access = STORE_READ}, &inspection,
                               &error) == 0,
                  "%s", error.text);
    ck_assert_int_eq(audit_image(inspection, &options, &audit), 0);
    inspect_close(inspection);
    leave_out_origin(audit);
    return audit;
}

struct audit *audit_made(struct made *made)
{
    write_file(made, 0);
    return audit_file("a.qcow2");
}

struct audit *audit_finished(struct made *made)
{
    finish(made);
    return audit_made(made);
}

const struct audit_finding *find(const struct audit *audit, const char *code)
{
    for (size_t i = 0; i < audit->count; i++) {
        if (strcmp(audit->findings[i].code, code) == 0) {
            return &audit->findings[i];
        }
    }
    return NULL;
}

void expect(const struct audit *audit, enum audit_grade grade, const char *code, uint64_t offset,
            const char *text)
{
    const struct audit_finding *finding = find(audit, code);

    ck_assert_msg(finding != NULL, "no finding %s", code);
    ck_assert_str_eq(audit_grade_name(finding->grade), audit_grade_name(grade));
    ck_assert_msg(strstr(finding->text, text) != NULL, "no '%s' in: %s", text, finding->text);
    ck_assert_int_eq(finding->has_offset, offset != NOWHERE);
    if (offset != NOWHERE) {
        ck_assert_uint_eq(finding->offset, offset);
    }
}

void expect_only(enum audit_grade grade, const char *code, uint64_t offset, const char *text)
{
    struct audit *audit = audit_file("a.qcow2");

    expect(audit, grade, code, offset, text);
    for (size_t i = 0; i < audit->count; i++) {
        ck_assert_msg(strcmp(audit->findings[i].code, code) == 0, "also %s: %s",
                      audit->findings[i].code, audit->findings[i].text);
    }
    audit_free(audit);
}
