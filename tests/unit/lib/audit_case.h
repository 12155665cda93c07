/* SPDX-License-Identifier: MIT */
/*
 * What the suites of the audit share: images of which single bytes are changed,
 * written as "a.qcow2" to the scratch directory, and what must be found in them.
 */
#ifndef UNIT_AUDIT_CASE_H
#define UNIT_AUDIT_CASE_H

#include "admin/audit.h"
#include "builder.h"

#include <stddef.h>
#include <stdint.h>

#define CLUSTER ((size_t)65536) /* bytes, of all these images */

/* An image in the making, and its bytes once it is finished. */
struct made {
    struct builder *builder;
    uint8_t *bytes;
    size_t size;
};

struct made make(const struct builder_options *options);
struct made make_plain_image(void);
void finish(struct made *made);

/* Writes the finished image, with `more` zeros behind it; its bytes are gone then. */
void write_file(struct made *made, size_t more);

/* An image of nothing but these options, written. */
void make_file(const struct builder_options *options);

/* The audit of a file; of an image that is written first; of one that is finished before that.
 * To be freed. Without what tells of an image's origin. */
struct audit *audit_file(const char *path);
struct audit *audit_made(struct made *made);
struct audit *audit_finished(struct made *made);

/* The first finding with that code, NULL where there is none. */
const struct audit_finding *find(const struct audit *audit, const char *code);

#define NOWHERE UINT64_MAX /* a finding without an offset */

/* There is such a finding, with the text in its sentence. */
void expect(const struct audit *audit, enum audit_grade grade, const char *code, uint64_t offset,
            const char *text);

/* The image "a.qcow2" has that finding, and no other. */
void expect_only(enum audit_grade grade, const char *code, uint64_t offset, const char *text);

#endif
