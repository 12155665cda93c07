/* SPDX-License-Identifier: MIT */
/* What the parts of the audit share. */
#ifndef IMAGE_AUDIT_INTERNAL_H
#define IMAGE_AUDIT_INTERNAL_H

#include "admin/audit.h"

/* Adds a finding about this image of the chain. */
void audit_add(struct audit *audit, enum audit_grade grade, const char *code,
               const struct inspection *image, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

/* The same, with a host offset. */
void audit_add_at(struct audit *audit, enum audit_grade grade, const char *code,
                  const struct inspection *image, uint64_t offset, const char *format, ...)
    __attribute__((format(printf, 6, 7)));

/* Its backing file, and its data file. */
void audit_names(struct audit *audit, const struct inspection *image);

void audit_slack(struct audit *audit, const struct inspection *image);

void audit_clusters(struct audit *audit, const struct inspection *image,
                    const struct audit_options *options);

#endif
