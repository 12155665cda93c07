/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "meta/feature.h"

#include "meta/format.h"

const struct feature known_features[] = {
    {FEATURE_TYPE_INCOMPATIBLE, 0, "dirty bit"},
    {FEATURE_TYPE_INCOMPATIBLE, 1, "corrupt bit"},
    {FEATURE_TYPE_INCOMPATIBLE, 2, "external data file"},
    {FEATURE_TYPE_INCOMPATIBLE, 3, "compression type"},
    {FEATURE_TYPE_INCOMPATIBLE, 4, "extended L2 entries"},
    {FEATURE_TYPE_COMPATIBLE, 0, "lazy refcounts"},
    {FEATURE_TYPE_AUTOCLEAR, 0, "bitmaps"},
    {FEATURE_TYPE_AUTOCLEAR, 1, "raw external data"},
};

const size_t known_feature_count = sizeof(known_features) / sizeof(known_features[0]);

const char *feature_type_name(uint8_t type)
{
    static const char *const names[] = {
        [FEATURE_TYPE_INCOMPATIBLE] = "incompatible",
        [FEATURE_TYPE_COMPATIBLE] = "compatible",
        [FEATURE_TYPE_AUTOCLEAR] = "autoclear",
    };

    return type < sizeof(names) / sizeof(names[0]) ? names[type] : NULL;
}
