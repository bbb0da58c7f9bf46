/* timefmt.h - clocks, and how points in time and durations are written.
 *
 * All values are int64 microseconds. JSON and --utc use ISO 8601 in UTC with milliseconds; people
 * see local time. Durations that people write carry a unit.
 */
#pragma once
#include "lib/base.h"
#include "lib/pure/buf.h"

enum {
    TIMEFMT_ISO_BYTES = 32, // of every text made here, terminating zero included
    TIMEFMT_US_PER_S = 1000000,
};

int64_t timefmt_now_us(void);       // since 1970, may jump
int64_t timefmt_monotonic_us(void); // CLOCK_MONOTONIC: stands still while suspended
int64_t timefmt_boottime_us(void);  // CLOCK_BOOTTIME: leases and deadlines that outlive suspends

/* `2026-11-23T13:11:40.102Z`, cut to milliseconds. Years 0 to 9999; outside it is clamped. */
void timefmt_iso(int64_t us, char ret[static TIMEFMT_ISO_BYTES]);

/* Read that form; the fraction may have 0 to 9 digits (cut to microseconds), and only Z is known as
 * zone. -EINVAL otherwise, also for dates that do not exist. */
int timefmt_iso_parse(const char *text, int64_t *ret_us);

/* Local time for people: `14:18`, with the date (`Nov 22 14:18`, another year: `2025-11-22 14:18`)
 * if that is not the day of now_us. utc: the ISO form instead. */
void timefmt_local(int64_t us, int64_t now_us, bool utc, char ret[static TIMEFMT_ISO_BYTES]);

/* The same with milliseconds, `14:11:39.871`: for log lines and events. */
void timefmt_clock(int64_t us, int64_t now_us, bool utc, char ret[static TIMEFMT_ISO_BYTES]);

/* Read what people write for a time: the ISO form, or local time as `2026-11-23 18:00`,
 * `2026-11-23T18:00`, both also with seconds, or `18:00`: the next one after now_us. -EINVAL: none
 * of these, or a time that the local clock never shows. */
int timefmt_local_parse(const char *text, int64_t now_us, int64_t *ret_us);

/* Read `90s`, `30m`, `6h`, `3d`, `1h30m`, `0.5s`; units us ms s m h d w, each at most once and in
 * falling order. A bare number is an error (-EINVAL), a negative or overlong one -ERANGE. */
int timefmt_duration_parse(const char *text, int64_t *ret_us, struct hai_err *err);

/* For people, two units at most, cut: `0.24s`, `9s`, `18m02s`, `3h05m`, `2d04h`. Negative is 0. */
void timefmt_duration(int64_t us, char ret[static TIMEFMT_ISO_BYTES]);

/* Exactly, so that timefmt_duration_parse gives the same value: `1h30m`, `3d`, `250ms`. */
void timefmt_duration_exact(int64_t us, char ret[static 64]);

/* Append microseconds as decimal seconds without a trailing zero: `1.5`, `-0.25`, `60`. Exact. */
void timefmt_seconds(int64_t us, struct buf *ret);
