/* forecast.h - when waiting jobs will start: the state led on in time.
 *
 * Pure and reading only. What runs ends when predict.h says, what waits starts in the order of the
 * queue wherever there is room (room.h), as decide.c would do it; with time-sharing, what the
 * policy lets a job ask (order.h) leaves it its nodes. Reservations begin and end: their jobs start
 * there, others leave their nodes. New submissions, faults and resumed victims are not foreseen.
 * Time goes on in steps that grow with its distance, up to a part of the mean run time: a forecast
 * costs about as much as some hundred walks over the queue, more where more waits than the cluster
 * does in a few rounds.
 */
#pragma once
#include "scheduler/core/state.h"

enum forecast_quantile {
    FORECAST_P50, // what runs ends when half of its like do
    FORECAST_P90,
};

struct forecast_job {
    int64_t id;
    int64_t start_us; // INT64_MAX: not within the horizon
    int64_t after;    // the job that ends or gives way last of those in its place; 0: none
};

/* now_us    when: not before the state's time
 * only      stop when this job has started; 0: when all have
 * extra     a job that the state does not have, submitted now; or NULL
 * ret       one for each that waits, in the order of the queue; the caller frees *ret
 *
 * Returns how many. */
size_t forecast_run(const struct state *state, int64_t now_us, enum forecast_quantile quantile,
                    int64_t only, const struct job *extra, struct forecast_job **ret);
