/* rank.h - the rank contract, seen from a rank: what a job's process tells its node's agent and
 * hears from it. Any program can use it; a job that does not is still a job.
 *
 * Never blocks training: there is no thread, and everything but rank_open and rank_gather returns
 * at once, whatever the agent does. While the agent is away (it may be restarted under running
 * ranks) the newest progress and all unanswered requests are kept and sent again when it is back.
 * How the agent relays rendezvous and checkpoints is agent/'s business.
 *
 * The protocol itself, for other languages: rank/rankproto.h.
 */
#pragma once
#include "lib/base.h"
#include "rank/rankproto.h"

struct rank;

/* Connect to the agent.
 *
 * wait_us  how long to wait for an agent that is away
 *
 * Returns 1, or 0 and *ret NULL when the process does not run under hai (HAI_SOCKET is not set).
 * All functions below do nothing for NULL, so a program works the same by hand. -EINVAL: RANK or
 * HAI_SOCKET is not what hai sets; -ETIMEDOUT; -EPROTO.
 */
int rank_open(int64_t wait_us, struct rank **ret, struct hai_err *err);

/* Sends what is outstanding as far as it goes without waiting, and frees. */
void rank_close(struct rank *rank);
DEFINE_CLEANUP(struct rank *, rank_close)

int64_t rank_job(const struct rank *rank);
int64_t rank_attempt(const struct rank *rank);
int64_t rank_epoch(const struct rank *rank); // directories of checkpoints carry it

/* The attempt's secret, the same on all ranks: [RANK_SECRET_BYTES]; collectives open their
 * connections with it. NULL for NULL. */
const uint8_t *rank_secret(const struct rank *rank);

/* Where a rank is. What is not known: step, steps, left_us -1; loss, rate NaN; unit NULL. */
struct rank_progress {
    int64_t step;
    int64_t steps;
    double loss;
    double rate;      // per second, in unit
    const char *unit; // of the count: tokens, samples; not tokens/s
    int64_t left_us;
};

/* Report progress. Call it at every step: it sends at most every 50 ms, the newest only. */
void rank_progress(struct rank *rank, const struct rank_progress *progress);

/* Say what the rank does now (train, eval, save, load, compile) and that no progress for
 * at_most_s is no hang; 0: no promise. */
void rank_phase(struct rank *rank, const char *name, int64_t at_most_s);

/* Ask to record a checkpoint that is complete and durable. Returns at once; the agent repeats it
 * until the scheduler has answered, and the answer comes through rank_next.
 *
 * digest  SHA-256 of its manifest.json, 64 hexadecimal digits
 *
 * -EINVAL: a line feed in dir, or a bad digest; -ENOBUFS: RANK_COMMITS_MAX are without an answer.
 */
int rank_commit(struct rank *rank, int64_t step, const char *dir, const char *digest,
                struct hai_err *err);

enum rank_event_kind {
    RANK_EVENT_COMMITTED, // the checkpoint of `step` is recorded
    RANK_EVENT_REFUSED,   // it is not, and will not be: `text` says why
    RANK_EVENT_TERMINATE, // the job is being ended: SIGKILL comes in seconds
    RANK_EVENT_SUSPEND,   // the same, to go on later: save now
    RANK_EVENT_COUNT,
};

struct rank_event {
    enum rank_event_kind kind;
    int64_t step;
    int64_t seconds;
    char text[256];
};

/* Take the next thing the agent said, and send what is outstanding. 1, or 0 for nothing. */
int rank_next(struct rank *rank, struct rank_event *ret);

/* Ready for reading when rank_next has something; -1 while the agent is away. For poll(2). */
int rank_fd(const struct rank *rank);

struct rank_value {
    uint8_t *data;
    size_t n_bytes; // 0 to RANK_VALUE_MAX
};

/* All-gather: give this rank's value, wait until every rank of the attempt has given one under the
 * same round, get them all.
 *
 * round    new for every all-gather of an attempt
 * n        ranks of the attempt (WORLD_SIZE)
 * ret      [n], by rank; free the content with rank_values_free
 *
 * -ETIMEDOUT: not all came within wait_us; -EINVAL, -ENOBUFS: bad round or value, too many rounds;
 * -EPROTO: the agent knows another number of ranks. NULL rank with n 1: the own value.
 */
int rank_gather(struct rank *rank, const char *round, const void *value, size_t n_bytes,
                int64_t wait_us, int n, struct rank_value *ret, struct hai_err *err);
void rank_values_free(struct rank_value *values, int n);
