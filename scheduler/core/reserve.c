#include "scheduler/core/reserve.h"
#include "scheduler/core/attempt.h"
#include "scheduler/core/claim.h"
#include "scheduler/core/queue.h"

#include <stdio.h>

enum { TIME_BYTES = 64, NAMED_MAX = 4 };

/* ---- texts ---- */

/* The form that clients turn into local time. Source: Hinnant, "chrono-compatible low-level date
 * algorithms", civil_from_days. */
static void time_text(int64_t us, char ret[static TIME_BYTES]) {
    int64_t ms = us / 1000, of_day = ms % 86400000;
    int64_t days = ms / 86400000 + 719468;
    int64_t era = days / 146097, of_era = days % 146097;
    int64_t years = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
    int64_t of_year = of_era - (365 * years + years / 4 - years / 100);
    int64_t part = (5 * of_year + 2) / 153, day = of_year - (153 * part + 2) / 5 + 1;
    int64_t month = part < 10 ? part + 3 : part - 9;

    (void)snprintf(ret, TIME_BYTES, "%04lld-%02lld-%02lldT%02lld:%02lld:%02lld.%03lldZ",
                   (long long)(years + 400 * era + (month <= 2)), (long long)month, (long long)day,
                   (long long)(of_day / 3600000), (long long)(of_day / 60000 % 60),
                   (long long)(of_day / 1000 % 60), (long long)(of_day % 1000));
}

/* "until TIME" or "until it is removed". */
static void until_text(const struct state_reserve *reserve, char ret[static TIME_BYTES]) {
    char at[TIME_BYTES];

    if (reserve->until_us == S_ABSENT) {
        (void)snprintf(ret, TIME_BYTES, "until it is removed");
        return;
    }
    time_text(reserve->until_us, at);
    (void)snprintf(ret, TIME_BYTES, "until %.40s", at);
}

static bool is_maintenance(const struct state_reserve *reserve) {
    return !reserve->users.n;
}

bool reserve_active(const struct state *state, const struct state_reserve *reserve) {
    return reserve->from_us <= state->r.time_us;
}

/* Nodes in service, of a group and zones, that a reservation keeps from the need: it has them, or
 * takes them too soon. */
static int64_t count_nodes(const struct state *state, const struct place_need *need,
                           const struct state_reserve *reserve) {
    bool active = reserve_active(state, reserve);
    int64_t n = 0;

    for (size_t i = 0; i < reserve->nodes.n; i++) {
        const struct node *node = state->nodes[reserve->nodes.items[i]];
        bool kept = active
                        ? !need->reserve
                        : node->reserved == need->reserve && node->coming_us == reserve->from_us &&
                              place_too_soon(need, node->coming_us, state->r.time_us);
        n += kept && state_node_usable(node) && (node->groups & UINT64_C(1) << need->group) &&
             (need->zones & UINT64_C(1) << node->zone);
    }
    return n;
}

int64_t reserve_say(const struct state *state, const struct place_need *need, char *ret,
                    size_t size) {
    int64_t n_all = 0;
    int n_named = 0;
    char when[TIME_BYTES], at[TIME_BYTES];
    size_t used = 0;

    ret[0] = 0;
    for (size_t i = 0; i < state->n_reserves; i++) {
        const struct state_reserve *reserve = &state->reserves[i];
        int64_t n = count_nodes(state, need, reserve);
        n_all += n;
        if (!n || n_named == NAMED_MAX)
            continue;
        time_text(reserve->from_us, at);
        (void)snprintf(when, sizeof when, "from %.40s", at);
        if (reserve_active(state, reserve))
            until_text(reserve, when);
        int wrote = snprintf(ret + used, size - used, "%s%lld node%s reserved (%s, %s)",
                             n_named++ ? ", " : "", (long long)n, n == 1 ? " is" : "s are",
                             reserve->name, when);
        used = MIN(used + (size_t)MAX(wrote, 0), size - 1);
    }
    return n_all;
}

bool reserve_say_waits(const struct state *state, const struct job *job, char *ret, size_t size) {
    const struct state_reserve *reserve =
        job->r.reserve == S_ABSENT ? NULL : state_reserve_find(state, job->r.reserve);
    char at[TIME_BYTES];

    if (!reserve || reserve_active(state, reserve))
        return false;
    time_text(reserve->from_us, at);
    (void)snprintf(ret, size, "waits for reservation %s, which begins at %s", reserve->name, at);
    return true;
}

/* ---- what follows from the records ---- */

/* The next time at which one begins or ends. */
static void set_timer(struct state *state) {
    int64_t at_us = INT64_MAX;

    for (size_t i = 0; i < state->n_reserves; i++) {
        const struct state_reserve *reserve = &state->reserves[i];
        if (!reserve_active(state, reserve))
            at_us = MIN(at_us, reserve->from_us);
        else if (reserve->until_us != S_ABSENT)
            at_us = MIN(at_us, reserve->until_us);
    }
    timers_set(&state->timers, &state->reserve_due, at_us);
}

/* By node, when the next reservation that has not begun does; 0: none. The caller frees. */
static int64_t *coming(const struct state *state, bool *ret_planned) {
    int64_t *at_us = hai_new_array(int64_t, (size_t)MAX(state->n_nodes, 1));

    *ret_planned = false;
    for (size_t i = 0; i < state->n_reserves; i++) {
        const struct state_reserve *reserve = &state->reserves[i];
        if (reserve_active(state, reserve))
            continue;
        *ret_planned = true;
        for (size_t k = 0; k < reserve->nodes.n; k++) {
            int64_t *at = &at_us[reserve->nodes.items[k]];
            *at = *at ? MIN(*at, reserve->from_us) : reserve->from_us;
        }
    }
    return at_us;
}

void reserve_derive(struct state *state) {
    _cleanup_free_ int64_t *at_us = coming(state, &state->reserve_planned);

    for (int i = 0; i < state->n_nodes; i++)
        state->nodes[i]->coming_us = at_us[i];
    for (size_t i = 0; i < state->n_reserves; i++) {
        const struct state_reserve *reserve = &state->reserves[i];
        for (size_t k = 0; k < reserve->nodes.n && reserve_active(state, reserve); k++)
            state->nodes[reserve->nodes.items[k]]->reserved = reserve->number;
    }
    set_timer(state);
}

bool reserve_sound(const struct state *state) {
    if (state->n_reserves > RESERVES_MAX)
        return false;
    for (size_t i = 0; i < state->n_reserves; i++) {
        const struct state_reserve *reserve = &state->reserves[i];
        if (reserve->number > state->r.last_reserve || !reserve->nodes.n ||
            (i && reserve->number <= state->reserves[i - 1].number))
            return false;
        for (size_t k = 0; k < reserve->nodes.n; k++)
            if (reserve->nodes.items[k] >= state->n_nodes ||
                (k && reserve->nodes.items[k] <= reserve->nodes.items[k - 1]))
                return false;
    }
    return true;
}

/* What waits asks for something else once there are plans, and when there are none any more. */
static void ask_anew(struct state *state) {
    for (struct job *job = state->jobs_first; job; job = job->next)
        if (job->queued) {
            queue_remove(state, job);
            mutate_follow_state(state, job);
        }
}

/* A claim to nodes that are taken before its job is done with them is of no use. */
static void drop_claims(struct mutate *c) {
    for (struct job *job = c->state->claimants, *next; job; job = next) {
        struct place_need need = place_need_of(c->state, job);
        bool soon = false;
        next = job->claimant_next;
        for (size_t i = 0; i < job->r.claim.n && !soon; i++)
            soon = place_too_soon(&need, c->state->nodes[job->r.claim.items[i].node]->coming_us,
                                  c->entry->time_us);
        if (soon)
            mutate_claim_drop(c, job);
    }
}

/* Reservations came, went or began. */
static void follow(struct mutate *c, bool drops) {
    struct state *state = c->state;
    bool planned;
    _cleanup_free_ int64_t *at_us = coming(state, &planned);

    for (int i = 0; i < state->n_nodes; i++) {
        struct node *node = state->nodes[i];
        if (node->coming_us == at_us[i])
            continue;
        mutate_freed(state, node->groups); // or less: who could start may be hopeless now
        node->coming_us = at_us[i];
        mutate_node(c, i, false);
    }
    if (planned != state->reserve_planned) {
        state->reserve_planned = planned;
        ask_anew(state);
    }
    if (drops)
        drop_claims(c);
    set_timer(state);
}

/* ---- beginning and end ---- */

static void set_node(struct mutate *c, int number, int64_t reserve) {
    struct node *node = c->state->nodes[number];

    if (node->reserved == reserve)
        return;
    node->reserved = reserve;
    mutate_freed(c->state, node->groups); // for whom it is there now
    mutate_node(c, number, false);
    claim_node_out(c, number);
}

static void clear_out(struct mutate *c, struct job *job, const struct state_reserve *reserve) {
    bool maintenance = is_maintenance(reserve);
    char until[TIME_BYTES];

    if (job->r.phase != DESIRED_PHASE_RUN || job->r.reserve == reserve->number)
        return; // it ends already, or is here by right
    until_text(reserve, until);
    _cleanup_free_ char *text =
        hai_asprintf("gives way to %s %s, %s", maintenance ? "maintenance" : "reservation",
                     reserve->name, until);
    attempt_clear_out(c, job, maintenance ? REASON_MAINTENANCE : REASON_RESERVED, text);
}

/* Jobs that have ranks on the node and do not belong to the reservation leave. */
static void clear_node(struct mutate *c, int number, const struct state_reserve *reserve) {
    const struct node *node = c->state->nodes[number];
    size_t n = node->n_jobs;
    _cleanup_free_ int64_t *ids = hai_new_array(int64_t, n); // the list may change below

    if (n)
        memcpy(ids, node->jobs, n * sizeof *ids);
    for (size_t i = 0; i < n; i++)
        clear_out(c, state_job_find(c->state, ids[i]), reserve);
}

/* The nodes are the reservation's. */
static void occupy(struct mutate *c, const struct state_reserve *reserve) {
    for (size_t i = 0; i < reserve->nodes.n; i++)
        set_node(c, (int)reserve->nodes.items[i], reserve->number);
    for (size_t i = 0; i < reserve->nodes.n; i++)
        clear_node(c, (int)reserve->nodes.items[i], reserve);
}

static bool lists(const struct state_reserve *reserve, const char *user) {
    for (size_t i = 0; i < reserve->users.n; i++)
        if (hai_streq(reserve->users.items[i], user))
            return true;
    return false;
}

static void begin(struct mutate *c, const struct state_reserve *reserve) {
    char until[TIME_BYTES];

    until_text(reserve, until);
    effects_event(c->fx, c->entry, EVENT_RESERVED, NULL, -1, -1, "%s begins: %zu node%s, %s",
                  reserve->name, reserve->nodes.n, reserve->nodes.n == 1 ? "" : "s", until);
    occupy(c, reserve);
}

/* Jobs that may not use the reservation any more (all: it is over) are like any others from now on.
 */
static void let_go(struct mutate *c, const struct state_reserve *reserve, bool all) {
    for (struct job *job = c->state->jobs_first; job; job = job->next) {
        if (job->r.reserve != reserve->number || state_job_ended(job) ||
            (!all && lists(reserve, job->r.spec.user)))
            continue;
        queue_remove(c->state, job);
        mutate_claim_drop(c, job);
        job->r.reserve = S_ABSENT;
        mutate_follow(c, job);
        effects_event(c->fx, c->entry, EVENT_CHANGED, job, -1, -1,
                      "reservation %s is over for it; it may run on any node of its group",
                      reserve->name);
    }
}

static void free_nodes(struct mutate *c, const struct state_reserve *reserve) {
    for (size_t i = 0; i < reserve->nodes.n; i++) {
        int node = (int)reserve->nodes.items[i];
        if (c->state->nodes[node]->reserved == reserve->number)
            set_node(c, node, 0);
    }
}

static void end(struct mutate *c, size_t at, const char *why) {
    struct state *state = c->state;
    struct state_reserve reserve = state->reserves[at];

    free_nodes(c, &reserve);
    let_go(c, &reserve, true);
    effects_event(c->fx, c->entry, EVENT_UNRESERVED, NULL, -1, -1, "%s %s", reserve.name, why);
    state->n_reserves--;
    memmove(state->reserves + at, state->reserves + at + 1,
            (state->n_reserves - at) * sizeof reserve);
    schema_free(state_reserve_schema(), &reserve);
}

void reserve_due(struct mutate *c) {
    struct state *state = c->state;
    int64_t now_us = c->entry->time_us;

    for (size_t i = state->n_reserves; i-- > 0;)
        if (state->reserves[i].until_us != S_ABSENT && state->reserves[i].until_us <= now_us)
            end(c, i, "is over");
    for (size_t i = 0; i < state->n_reserves; i++) {
        const struct state_reserve *reserve = &state->reserves[i];
        if (reserve->from_us <= now_us &&
            state->nodes[reserve->nodes.items[0]]->reserved != reserve->number)
            begin(c, reserve);
    }
    follow(c, false);
}

/* ---- entries ---- */

static int compare_numbers(const void *pa, const void *pb) {
    int64_t a = *(const int64_t *)pa, b = *(const int64_t *)pb;

    return a < b ? -1 : a > b;
}

/* Numbers of the nodes, ascending, each once. */
static int find_nodes(struct mutate *c, const struct entry_reserve_set *in,
                      struct state_reserve *ret) {
    size_t n = 0;

    if (!in->nodes.n)
        return hai_fail_at(&c->reply->err, -EINVAL, "invalid", "nodes", NULL,
                           "reservation %s has no nodes", in->name);
    ret->nodes.items = hai_new_array(int64_t, in->nodes.n);
    for (size_t i = 0; i < in->nodes.n; i++) {
        int number;
        int r = mutate_find_node(c, in->nodes.items[i], &number);
        if (r < 0)
            return r;
        ret->nodes.items[i] = number;
    }
    qsort(ret->nodes.items, in->nodes.n, sizeof *ret->nodes.items, compare_numbers);
    for (size_t i = 0; i < in->nodes.n; i++)
        if (!i || ret->nodes.items[i] != ret->nodes.items[n - 1])
            ret->nodes.items[n++] = ret->nodes.items[i];
    ret->nodes.n = n;
    return 0;
}

static int check_users(struct mutate *c, const struct entry_reserve_set *in) {
    for (size_t i = 0; i < in->users.n; i++)
        if (!state_user_find(c->state, in->users.items[i]))
            return hai_fail_at(&c->reply->err, -EINVAL, "unknown_user", "users", NULL,
                               "there is no user %s", in->users.items[i]);
    return 0;
}

static int64_t until_of(const struct state_reserve *reserve) {
    return reserve->until_us == S_ABSENT ? INT64_MAX : reserve->until_us;
}

/* Has another reservation one of the nodes at one of the times? */
static int check_overlap(struct mutate *c, const struct state_reserve *new) {
    for (size_t i = 0; i < c->state->n_reserves; i++) {
        const struct state_reserve *old = &c->state->reserves[i];
        if (old->number == new->number || new->from_us >= until_of(old) ||
            old->from_us >= until_of(new))
            continue;
        bool shorter = new->nodes.n < old->nodes.n;
        const struct state_reserve *few = shorter ? new : old, *many = shorter ? old : new;
        for (size_t k = 0; k < few->nodes.n; k++) {
            int node = (int)few->nodes.items[k];
            char until[TIME_BYTES], from[TIME_BYTES];
            if (!state_reserve_has(many, node))
                continue;
            until_text(old, until);
            time_text(old->from_us, from);
            return hai_fail_at(&c->reply->err, -EEXIST, "conflict", "nodes", NULL,
                               "%s is reserved by %s from %s %s", c->state->nodes[node]->r.name,
                               old->name, from, until);
        }
    }
    return 0;
}

static int check_times(struct mutate *c, const struct entry_reserve_set *in, int64_t from_us) {
    if (in->until_us == S_ABSENT || in->until_us > from_us)
        return 0;
    return hai_fail_at(&c->reply->err, -EINVAL, "out_of_range", "until", NULL,
                       "reservation %s would be over before it begins", in->name);
}

/* The record that the entry makes; what it owns is the caller's also on failure. */
static int make(struct mutate *c, struct entry_reserve_set *in, const struct state_reserve *old,
                struct state_reserve *ret) {
    int64_t now_us = c->entry->time_us;

    schema_init(state_reserve_schema(), ret);
    ret->number = old ? old->number : MAX(c->state->r.last_reserve, 0) + 1;
    ret->from_us = MAX(in->from_us, now_us);
    if (old && reserve_active(c->state, old) && in->from_us <= now_us)
        ret->from_us = old->from_us; // it goes on
    ret->until_us = in->until_us;
    int r = check_times(c, in, MAX(ret->from_us, now_us));
    if (r == 0)
        r = find_nodes(c, in, ret);
    if (r == 0)
        r = check_users(c, in);
    if (r == 0)
        r = check_overlap(c, ret);
    if (r < 0)
        return r;
    ret->name = TAKE_PTR(in->name);
    ret->reason = TAKE_PTR(in->reason);
    ret->by = hai_strdup(c->name);
    ret->users.items = TAKE_PTR(in->users.items);
    ret->users.n = in->users.n;
    in->users.n = 0;
    return 0;
}

static bool same(const struct state_reserve *a, const struct state_reserve *b) {
    bool equal = a->from_us == b->from_us && a->until_us == b->until_us &&
                 a->nodes.n == b->nodes.n && a->users.n == b->users.n &&
                 hai_streq(a->reason, b->reason);

    for (size_t i = 0; equal && i < a->nodes.n; i++)
        equal = a->nodes.items[i] == b->nodes.items[i];
    for (size_t i = 0; equal && i < a->users.n; i++)
        equal = hai_streq(a->users.items[i], b->users.items[i]);
    return equal;
}

/* Put the record where the old one was, or at the end. */
static struct state_reserve *put(struct state *state, const struct state_reserve *old,
                                 const struct state_reserve *new) {
    size_t at = old ? (size_t)(old - state->reserves) : state->n_reserves;

    if (old) {
        schema_free(state_reserve_schema(), &state->reserves[at]);
    } else {
        state->reserves =
            hai_realloc_array(state->reserves, ++state->n_reserves, sizeof *state->reserves);
        state->r.last_reserve = new->number;
    }
    state->reserves[at] = *new;
    return &state->reserves[at];
}

/* A changed reservation: nodes that it leaves are free, and its jobs must be one of its users'. */
static void change(struct mutate *c, const struct state_reserve *old,
                   const struct state_reserve *new) {
    bool active = reserve_active(c->state, new);

    for (size_t i = 0; i < old->nodes.n; i++) {
        int node = (int)old->nodes.items[i];
        if (c->state->nodes[node]->reserved == old->number &&
            (!active || !state_reserve_has(new, node)))
            set_node(c, node, 0);
    }
    let_go(c, new, false);
}

int reserve_set(struct mutate *c, struct entry_reserve_set *in) {
    struct state *state = c->state;
    struct state_reserve new;

    int r = mutate_need(c, SCOPE_OPERATE, "reserving nodes");
    if (r < 0)
        return r;
    const struct state_reserve *old = state_reserve_named(state, in->name);
    if (!old && state->n_reserves >= RESERVES_MAX)
        return hai_fail_at(&c->reply->err, -E2BIG, "too_many", NULL, NULL,
                           "there are %d reservations; no more are taken", RESERVES_MAX);
    r = make(c, in, old, &new);
    c->reply->id = new.number;
    if (r < 0 || (old && same(old, &new))) {
        schema_free(state_reserve_schema(), &new);
        return r;
    }
    effects_event(c->fx, c->entry, EVENT_RESERVED, NULL, -1, -1, "%s: %zu node%s, set by %s%s%s",
                  new.name, new.nodes.n, new.nodes.n == 1 ? "" : "s", c->name,
                  new.reason ? ": " : "", new.reason ? new.reason : "");
    bool goes_on = old && reserve_active(state, old);
    if (old)
        change(c, old, &new);
    const struct state_reserve *reserve = put(state, old, &new);
    if (reserve_active(state, reserve) && goes_on)
        occupy(c, reserve);
    else if (reserve_active(state, reserve))
        begin(c, reserve);
    follow(c, true);
    c->reply->changed = true;
    return 0;
}

int reserve_remove(struct mutate *c, const struct entry_reserve_remove *in) {
    int r = mutate_need(c, SCOPE_OPERATE, "removing a reservation");

    if (r < 0)
        return r;
    const struct state_reserve *reserve = state_reserve_named(c->state, in->name);
    if (!reserve)
        return hai_fail_at(&c->reply->err, -ENOENT, "not_found", NULL, NULL,
                           "there is no reservation %s", in->name);
    c->reply->id = reserve->number;
    _cleanup_free_ char *why = hai_asprintf("is removed by %s", c->name);
    end(c, (size_t)(reserve - c->state->reserves), why);
    follow(c, false);
    c->reply->changed = true;
    return 0;
}

int reserve_join(const struct state *state, struct job *job, struct hai_err *err) {
    const struct entry_job_spec *spec = &job->r.spec;

    if (!spec->reservation)
        return 0;
    const struct state_reserve *reserve = state_reserve_named(state, spec->reservation);
    if (!reserve)
        return hai_fail_at(err, -EINVAL, "unknown_reservation", "resources.reservation", NULL,
                           "there is no reservation %s, or it is over", spec->reservation);
    if (is_maintenance(reserve))
        return hai_fail_at(err, -EACCES, "denied", "resources.reservation", NULL,
                           "reservation %s is for maintenance; no job may use it", reserve->name);
    if (!lists(reserve, spec->user))
        return hai_fail_at(err, -EACCES, "denied", "resources.reservation", NULL,
                           "%s may not use reservation %s", spec->user, reserve->name);
    job->r.reserve = reserve->number;
    return 0;
}

/* ---- ahead of time ---- */

int64_t reserve_next_us(const struct state *state) {
    int64_t at_us = INT64_MAX, now_us = state->r.time_us;

    for (size_t i = 0; i < state->n_reserves; i++) {
        const struct state_reserve *reserve = &state->reserves[i];
        if (reserve->from_us > now_us)
            at_us = MIN(at_us, reserve->from_us);
        else if (until_of(reserve) > now_us)
            at_us = MIN(at_us, until_of(reserve));
    }
    return at_us;
}

struct reserve_part *reserve_parts(const struct state *state) {
    struct reserve_part *parts = hai_new_array(struct reserve_part, (size_t)MAX(state->n_nodes, 1));

    for (size_t i = 0; i < state->n_reserves; i++) {
        const struct state_reserve *reserve = &state->reserves[i];
        for (size_t k = 0; k < reserve->nodes.n && until_of(reserve) > state->r.time_us; k++) {
            struct reserve_part *part = &parts[reserve->nodes.items[k]];
            if (reserve_active(state, reserve))
                part->reserve = reserve->number;
            else if (!part->coming_us || reserve->from_us < part->coming_us)
                part->coming_us = reserve->from_us;
        }
    }
    return parts;
}
