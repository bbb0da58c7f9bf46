/* clients.h - simulated callers of the scheduler, and what they may hold it to.
 *
 * A request is appended at once; its answer leaves the scheduler with the commit, may be lost on
 * the way, and is lost with a scheduler that is killed before the commit. A caller without an
 * answer asks again with the same idempotency key. What it was told then has to be so ever after:
 *
 *   - submit: one job for a key, however often it was asked for, under the id that was told;
 *   - stop: the job has ended or is going to;
 *   - priority: a register, one for each job. Its value is that of the last change that was
 *     acknowledged, or of one that overlaps it or came later: one whose answer is still awaited.
 *
 * Jobs do not depend on one another in this, and a single register or a set-once flag is
 * linearizable if every read returns such a value, so no search over histories is needed.
 */
#pragma once
#include "sim/rng.h"
#include "sim/world.h"

enum clients_kind { CLIENTS_SUBMIT, CLIENTS_STOP, CLIENTS_SET };

struct clients_op {
    enum clients_kind kind;
    struct entry_job_spec spec; // submit; its name comes from the key
    int64_t key;                // submit
    int64_t job;                // what it is about; submit: the id that was told
    int64_t value;              // set: priority
    bool force;                 // stop
    bool sent;                  // applied, the answer waits for the commit
    bool done;                  // answered
    int r;                      // the answer
    int64_t id;
    int64_t at_us;    // neither: ask (again) then
    int64_t begun_us; // first asked
    int64_t done_us;
};

struct clients {
    struct world *world;
    struct rng *rng;
    struct clients_op *ops;
    size_t n, n_max;
    size_t first_open; // none before it waits for an answer
    int64_t n_retries, n_lost;
    struct hai_err err; // the first broken promise
};

void clients_init(struct clients *c, struct world *world, struct rng *rng);
void clients_free(struct clients *c);

/* Ask. A spec names no jobs by text, and no array: its elements have its name. Returns what the
 * scheduler answers, if it lives until then. */
int clients_submit(struct clients *c, const struct entry_job_spec *spec);
int clients_stop(struct clients *c, int64_t job, bool force);
int clients_set(struct clients *c, int64_t job, int64_t priority);

/* Ask again where an answer is missing; now and then the network brings an old request once more.
 */
void clients_retry(struct clients *c);

/* The scheduler committed what it applied: answers go out, most arrive. */
void clients_commit(struct clients *c);

/* It was killed: what it had not committed never happened. */
void clients_crash(struct clients *c);

/* Is everything so that was told? Returns 0, or -EINVAL with what is not. */
int clients_check(const struct clients *c, struct hai_err *err);
