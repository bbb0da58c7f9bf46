/* reply.h - what apply answers to whoever asked; its parts (change.h) fill it in.
 *
 * Pure.
 */
#pragma once
#include "lib/base.h"

/* The answer to whoever asked.
 *
 * id        job_submit, token_create: the id; else the job that the entry was about
 * repeated  job_submit: the same key and body came before, id is the first's; nothing new
 * changed   the entry changed something (a second stop does not)
 * err       why it was refused; code is the word of the API's errors: not_found, denied, ended,
 *           conflict, stale, impossible, unknown_group, unknown_zone, out_of_range, too_many, ...
 */
struct apply_reply {
    int64_t id;
    bool repeated;
    bool changed;
    struct hai_err err;
};
