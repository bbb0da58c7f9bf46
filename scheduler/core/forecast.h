/* forecast.h - when waiting jobs will start: the state led on in time.
 *
 * Pure and reading only. A forecast is made of a few draws, each a future that may come: what runs
 * ends after a run time drawn from predict.h's, what waits starts in the order of the queue
 * wherever there is room (room.h), as decide.c would do it, and what was submitted lately is
 * submitted again (arrivals.h). Who waits for others or for a time joins when these have ended or
 * it has come, if all ends well, and arrays go on (later.h). With time-sharing, what the policy
 * lets a job ask (order.h) leaves it its nodes and waits again. Reservations begin and end: their
 * jobs start there, others leave their nodes and wait again. Fair share and aging stay as they are
 * now. Faults are not foreseen. How long those like a job waited of late (waits.h) counts as one
 * more draw: where all draws agree it moves the median by nothing. Medians in place of draws were
 * tried first: of many jobs the first ends long before the median of any, so all waits came out too
 * long. Time goes on in steps that grow with its distance, up to a part of the mean run time: a
 * draw costs about as much as some hundred walks over the queue, more where more waits than the
 * cluster does in a few rounds.
 */
#pragma once
#include "scheduler/core/state.h"

enum { FORECAST_DRAWS = 5 };

struct forecast_job {
    int64_t id;
    int64_t start_us; // in half of the draws by then; INT64_MAX: not within the horizon
    int64_t late_us;  // in 9 of 10
    int64_t after;    // the job that it waited for, or that left its place last; 0: none
};

/* now_us    when: not before the state's time
 * only      stop when this job has started; 0: when all have
 * extra     a job that the state does not have, submitted now; or NULL
 * ret       one for each that waits in the order of the queue, then for each that joins later,
 * where an array starts with its first element; the caller frees *ret
 *
 * Returns how many. */
size_t forecast_run(const struct state *state, int64_t now_us, int64_t only,
                    const struct job *extra, struct forecast_job **ret);
