#include "scheduler/turn.h"

#include "lib/digest.h"
#include "lib/log.h"
#include "lib/pure/tlv.h"
#include "lib/timefmt.h"
#include "scheduler/projection.h"
#include "scheduler/restore.h"

enum {
    BATCH_MAX = 2048,       // entries of one transaction, so that none takes long
    RETRY_US = 1000 * 1000, // ticks and proposals after a failed commit
};

struct input {
    enum entry_kind kind;
    size_t payload; // offset
    size_t payload_bytes;
    char principal[PRINCIPAL_MAX + 1];
    turn_reply_fn fn;
    void *data;
};

/* A growing list of inputs and the bytes of their payloads. */
struct inputs {
    struct input *items;
    size_t n, n_max;
    struct buf payloads;
};

struct result {
    int r;
    struct apply_reply reply;
};

struct turn {
    struct turn_hooks hooks;
    struct store *store;
    struct rows *rows;
    struct entry_log *log;
    struct state *state;
    struct effects *fx;
    struct decide *decide;
    struct decide_list proposals;
    struct inputs waiting;
    struct inputs batch; // being committed
    struct entry *entries;
    struct result *results;
    int64_t clock_offset_us; // log time - CLOCK_BOOTTIME
    int64_t retry_us;        // not before: ticks, after a failed commit
    bool undecided;          // proposals were lost with a commit, or the last decision was not at
                             // its end: decide again by a tick
    int64_t append_us;       // CLOCK_MONOTONIC
    struct turn_stats stats;
#ifdef HAI_PLANT_EARLY_REPLY
    struct inputs late;
    struct entry late_entries[BATCH_MAX];
#endif
};

int64_t turn_now_us(const struct turn *turn) {
    return timefmt_boottime_us() + turn->clock_offset_us;
}

const struct state *turn_state(const struct turn *turn) {
    return turn->state;
}

struct rows *turn_rows(const struct turn *turn) {
    return turn->rows;
}

struct entry_log *turn_log(const struct turn *turn) {
    return turn->log;
}

struct turn_stats turn_stats(const struct turn *turn) {
    return turn->stats;
}

void turn_digest(const struct turn *turn, uint8_t ret[static DIGEST_BYTES]) {
    _cleanup_(buf_free) struct buf bytes = {0};

    state_encode(turn->state, &bytes);
    digest_sha256(bytes.data, bytes.n_bytes, ret);
}

static struct input *add_input(struct inputs *inputs) {
    if (inputs->n == inputs->n_max) {
        inputs->n_max = inputs->n_max ? 2 * inputs->n_max : 64;
        inputs->items = hai_realloc_array(inputs->items, inputs->n_max, sizeof *inputs->items);
    }
    return &inputs->items[inputs->n++];
}

static void set_input(struct inputs *inputs, enum entry_kind kind, const char *principal,
                      size_t payload, turn_reply_fn fn, void *data) {
    struct input *input = add_input(inputs);

    *input = (struct input){.kind = kind,
                            .payload = payload,
                            .payload_bytes = inputs->payloads.n_bytes - payload,
                            .fn = fn,
                            .data = data};
    assert(strlen(principal) <= PRINCIPAL_MAX);
    strcpy(input->principal, principal);
}

void turn_append(struct turn *turn, enum entry_kind kind, const void *payload,
                 const char *principal, turn_reply_fn fn, void *data) {
    size_t at = turn->waiting.payloads.n_bytes;

    tlv_encode(entry_schema(kind), payload, &turn->waiting.payloads);
    set_input(&turn->waiting, kind, principal, at, fn, data);
}

static void add_tick(struct turn *turn, int64_t now_us) {
    int64_t due_us = turn->undecided ? turn->retry_us : state_next_wakeup(turn->state);
    struct entry_tick tick;

    if (due_us > now_us || now_us < turn->retry_us)
        return;
    schema_init(entry_tick_schema(), &tick);
    tick.due_us = due_us;
    turn_append(turn, ENTRY_TICK, &tick, "system:hai", NULL, NULL);
}

/* Move the first inputs that wait into the batch. */
static void take_batch(struct turn *turn) {
    struct inputs *from = &turn->waiting, *to = &turn->batch;

    to->n = 0;
    buf_clear(&to->payloads);
    if (from->n <= BATCH_MAX) {
        struct inputs swap = *from;
        *from = *to;
        *to = swap;
        return;
    }
    for (size_t i = 0; i < BATCH_MAX; i++) {
        struct input *input = add_input(to);
        *input = from->items[i];
        input->payload = to->payloads.n_bytes;
        buf_add(&to->payloads, from->payloads.data + from->items[i].payload,
                from->items[i].payload_bytes);
    }
    size_t gone = from->items[BATCH_MAX].payload;
    buf_drop(&from->payloads, gone);
    from->n -= BATCH_MAX;
    memmove(from->items, from->items + BATCH_MAX, from->n * sizeof *from->items);
    for (size_t i = 0; i < from->n; i++)
        from->items[i].payload -= gone;
}

/* Entries for the batch: indexes follow the log, times the clock, both always ascending. */
static void make_entries(struct turn *turn) {
    int64_t index = entry_log_committed(turn->log);
    int64_t time_us = turn->state->r.time_us;
    int64_t now_us = turn_now_us(turn);

    for (size_t i = 0; i < turn->batch.n; i++) {
        const struct input *input = &turn->batch.items[i];
        time_us = MAX(time_us + 1, now_us);
        turn->entries[i] = (struct entry){
            .index = ++index,
            .term = 1, // one scheduler, never another leader
            .time_us = time_us,
            .principal = input->principal,
            .kind = input->kind,
            .version = entry_version(input->kind),
            .payload = turn->batch.payloads.data + input->payload,
            .payload_bytes = input->payload_bytes,
        };
    }
}

static void answer_all(struct turn *turn) {
    for (size_t i = 0; i < turn->batch.n; i++) {
        const struct input *input = &turn->batch.items[i];
        const struct result *result = &turn->results[i];
        if (input->fn)
            input->fn(input->data, turn->entries[i].index, result->r, &result->reply);
    }
}

static void propose(struct turn *turn) {
    decide_list_clear(&turn->proposals);
    decide_run(turn->decide, turn->state, &turn->proposals);
    turn->undecided = decide_unfinished(turn->decide);
    for (size_t i = 0; i < turn->proposals.n; i++) {
        const struct decide_proposal *proposal = &turn->proposals.items[i];
        size_t at = turn->waiting.payloads.n_bytes;
        buf_add(&turn->waiting.payloads, proposal->payload.data, proposal->payload.n_bytes);
        set_input(&turn->waiting, proposal->kind, "system:hai", at, NULL, NULL);
    }
}

static void on_committed(struct turn *turn) {
    for (size_t i = 0; i < turn->batch.n; i++) {
        struct result *result = &turn->results[i];
        *result = (struct result){0};
        result->r = apply_entry(turn->state, &turn->entries[i], turn->fx, &result->reply);
    }
    turn->undecided = false;
    turn->stats.n_entries += (int64_t)turn->batch.n;
    turn->stats.n_commits++;
    projection_add(turn->rows, turn->state, turn->fx);
    if (turn->hooks.on_applied)
        turn->hooks.on_applied(turn->hooks.data, turn->fx, turn->state->r.index);
    propose(turn);
    answer_all(turn);
    effects_clear(turn->fx);
}

static void on_not_committed(struct turn *turn, int r, const struct hai_err *err) {
    log_error("nothing was saved of %zu entries: %s", turn->batch.n, hai_err_text(err));
    turn->stats.n_failed++;
    turn->retry_us = turn_now_us(turn) + RETRY_US;
    for (size_t i = 0; i < turn->batch.n; i++) {
        turn->results[i] = (struct result){.r = -EIO};
        hai_fail_at(&turn->results[i].reply.err, -EIO, "not_saved", NULL, "try again",
                    "the scheduler could not save this: %s", hai_err_text(err));
    }
    answer_all(turn);
    /* What was proposed is gone, so what it was derived from must be looked at again. */
    decide_free(turn->decide);
    turn->decide = decide_new();
    turn->undecided = true;
}

static void on_append_done(void *data, int r, const struct hai_err *err) {
    struct turn *turn = data;
    int64_t took_us = timefmt_monotonic_us() - turn->append_us;

    turn->stats.longest_commit_us = MAX(turn->stats.longest_commit_us, took_us);
    if (r < 0)
        on_not_committed(turn, r, err);
    else
        on_committed(turn);
}

#ifdef HAI_PLANT_EARLY_REPLY
/* The planted fault of tests/fault: a batch is applied and answered a turn before it is committed.
 * The kill storm must find it. */
static void on_late_done(void *data, int r, const struct hai_err *err) {
}

static void append_late(struct turn *turn) {
    if (turn->late.n)
        entry_log_append(turn->log, turn->late_entries, turn->late.n, on_late_done, turn);
    turn->late.n = 0;
}

static void append_batch(struct turn *turn) {
    on_append_done(turn, 0, NULL);
    struct inputs swap = turn->late;
    turn->late = turn->batch;
    turn->batch = swap;
    memcpy(turn->late_entries, turn->entries, turn->late.n * sizeof *turn->entries);
}
#else
static void append_late(struct turn *turn) {
}

static void append_batch(struct turn *turn) {
    entry_log_append(turn->log, turn->entries, turn->batch.n, on_append_done, turn);
}
#endif

void turn_run(struct turn *turn) {
    add_tick(turn, turn_now_us(turn));
    if (!turn->waiting.n)
        return;
    append_late(turn);
    take_batch(turn);
    make_entries(turn);
    turn->append_us = timefmt_monotonic_us();
    append_batch(turn);
    if (turn->waiting.n && turn->hooks.on_again)
        turn->hooks.on_again(turn->hooks.data);
}

size_t turn_batch_size(const struct turn *turn) {
    return turn->batch.n;
}

bool turn_placed_next(const struct turn *turn, int64_t job, struct buf *ret) {
    for (size_t i = 0; i < turn->proposals.n; i++) {
        const struct decide_proposal *proposal = &turn->proposals.items[i];
        struct entry_place place;
        if (proposal->kind != ENTRY_PLACE ||
            tlv_decode(entry_place_schema(), proposal->payload.data, proposal->payload.n_bytes,
                       &place, NULL) < 0)
            continue;
        bool found = place.job == job;
        for (size_t n = 0; found && n < place.nodes.n; n++)
            buf_printf(ret, "%s%s", n ? ", " : "", place.nodes.items[n].node);
        schema_free(entry_place_schema(), &place);
        if (found)
            return true;
    }
    return false;
}

int64_t turn_due_us(const struct turn *turn) {
    int64_t due_us = turn->undecided ? turn->retry_us : state_next_wakeup(turn->state);

    return due_us == INT64_MAX ? due_us : MAX(due_us, turn->retry_us);
}

static void on_started(void *data, int64_t index, int r, const struct apply_reply *reply) {
    struct hai_err *err = data;

    if (r < 0)
        *err = reply->err;
}

/* The start is in the log before anything else happens: leases that an earlier scheduler granted
 * are reckoned from it. */
static int commit_start(struct turn *turn, struct hai_err *err) {
    struct entry_sched_start start;
    struct hai_err failure = {0};

    schema_init(entry_sched_start_schema(), &start);
    start.version = (char *)HAI_VERSION;
    turn_append(turn, ENTRY_SCHED_START, &start, "system:hai", on_started, &failure);
    turn_run(turn);
    if (failure.r < 0 && err)
        *err = failure;
    return failure.r;
}

int turn_open(struct store *store, const struct turn_hooks *hooks, struct turn **ret,
              struct hai_err *err) {
    _cleanup_(turn_closep) struct turn *turn = hai_new(struct turn);
    int r;

    turn->hooks = *hooks;
    turn->store = store;
    turn->fx = effects_new();
    turn->decide = decide_new();
    turn->entries = hai_new_array(struct entry, BATCH_MAX);
    turn->results = hai_new_array(struct result, BATCH_MAX);
    r = rows_new(store, &turn->rows, err);
    if (r == 0)
        r = log_sqlite_new(store, turn->rows, &turn->log, err);
    if (r == 0)
        r = restore_state(store, turn->log, turn->rows, turn->fx, &turn->state,
                          &turn->stats.n_replayed, err);
    /* Of a day that was cut off in parts some rows are in the tables and made again: whoever adds
     * up what is written and what waits would count them twice. */
    if (r == 0)
        r = rows_flush(turn->rows, err);
    if (r < 0)
        return r;
    int64_t now_us = MAX(timefmt_now_us(), turn->state->r.time_us + 1);
    turn->clock_offset_us = now_us - timefmt_boottime_us();
    r = commit_start(turn, err);
    if (r == 0)
        *ret = TAKE_PTR(turn);
    return r;
}

static void free_inputs(struct inputs *inputs) {
    free(inputs->items);
    buf_free(&inputs->payloads);
}

void turn_close(struct turn *turn) {
    struct hai_err err = {0};

    if (!turn)
        return;
    if (turn->rows && rows_flush(turn->rows, &err) < 0)
        log_warning("outstanding rows are written at the next start: %s", hai_err_text(&err));
    log_sqlite_free(turn->log);
    rows_free(turn->rows);
    state_free(turn->state);
    effects_free(turn->fx);
    decide_free(turn->decide);
    decide_list_free(&turn->proposals);
    free_inputs(&turn->waiting);
    free_inputs(&turn->batch);
    free(turn->entries);
    free(turn->results);
    free(turn);
}
