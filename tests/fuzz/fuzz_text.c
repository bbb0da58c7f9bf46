/* The small forms, a line each: what is read as a duration, size, time or set of numbers is written
 * and read again as the same value. */
#include "lib/pure/idset.h"
#include "lib/size.h"
#include "lib/timefmt.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

static void duration(const char *text) {
    char out[64];
    int64_t value;
    int64_t again = -1;

    if (timefmt_duration_parse(text, &value, NULL) < 0)
        return;
    timefmt_duration_exact(value, out);
    int r = timefmt_duration_parse(out, &again, NULL);
    assert(r == 0);
    assert(again == value);
    timefmt_duration(value, out);
}

static void size(const char *text) {
    char out[SIZE_TEXT_BYTES];
    int64_t value;
    int64_t again = -1;

    if (size_parse(text, &value, NULL) < 0)
        return;
    size_exact(value, out);
    int r = size_parse(out, &again, NULL);
    assert(r == 0);
    assert(again == value);
    size_human(value, out);
}

static void time_point(const char *text) {
    char out[TIMEFMT_ISO_BYTES];
    int64_t value;
    int64_t again = -1;

    if (timefmt_iso_parse(text, &value) < 0)
        return;
    timefmt_iso(value, out);
    int r = timefmt_iso_parse(out, &again);
    assert(r == 0);
    assert(value - again >= 0);
    assert(value - again < 1000); // cut to milliseconds
}

static void ids(const char *text) {
    _cleanup_(idset_free) struct idset set = {0};
    _cleanup_(idset_free) struct idset again = {0};
    _cleanup_(buf_free) struct buf out = {0};

    if (idset_parse(&set, text, 5000) < 0)
        return;
    idset_print(&set, &out);
    int r = idset_parse(&again, buf_cstr(&out), 5000);
    assert(r == 0);
    assert(idset_equal(&set, &again));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes) {
    _cleanup_free_ char *text = hai_alloc(n_bytes + 1);
    char *rest = text;

    if (n_bytes)
        memcpy(text, data, n_bytes);
    for (char *line; (line = strsep(&rest, "\n"));) {
        duration(line);
        size(line);
        time_point(line);
        ids(line);
    }
    return 0;
}
