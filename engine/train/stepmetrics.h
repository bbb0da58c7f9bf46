/* stepmetrics.h - one line of JSON for every step, for programs and `hai plot`.
 *
 * Appended and never rewritten: after a restart steps are there again, and the last line of a step
 * counts. docs/training.md lists the members.
 */
#pragma once
#include "engine/train/trainer.h"
#include "lib/pure/buf.h"

/* What a step's line says beside its report. */
struct stepmetrics {
    const struct trainer_report *report;
    double step_s;                 // of the whole step
    int64_t tokens;                // of the step, all ranks
    const struct expertload *load; // NULL without experts
    double utilisation; // of the peak of float32 multiply-adds of all ranks; 0: not known
};

/* The line, with its line feed. */
void stepmetrics_line(const struct stepmetrics *step, struct buf *b);

/* Float32 operations a second of this thread: the best of three looks, for other programs share
 * the machine. 0: not known. */
double stepmetrics_peak(void);

/* Bytes of memory that this process has now; 0: not known. */
int64_t stepmetrics_memory(void);
