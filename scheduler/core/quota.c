#include "scheduler/core/quota.h"
#include "lib/pure/plant.h"
#include "scheduler/core/order.h"
#include "scheduler/core/queue.h"

enum { KEY_BYTES = 2 * USER_NAME_MAX + GROUP_NAME_MAX + 32 };

static int64_t gpus_of(const struct job *job) {
    return order_gpus(job);
}

/* ---- records ---- */

static int compare_texts(const char *a, const char *b) {
    return strcmp(a ? a : "", b ? b : "");
}

static int compare_records(const struct state_quota *a, const struct state_quota *b) {
    int order = compare_texts(a->group, b->group);

    if (order == 0)
        order = a->priority > b->priority ? -1 : a->priority < b->priority;
    if (order == 0)
        order = (int)a->holder - (int)b->holder;
    return order ? order : compare_texts(a->name, b->name);
}

/* Where the record is, or would be. */
static size_t place_of(const struct state *state, const struct state_quota *quota) {
    size_t low = 0, high = state->n_quotas;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (compare_records(&state->quotas[middle], quota) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

const struct state_quota *quota_find(const struct state *state, enum quota_holder holder,
                                     const char *name, const char *group, int64_t priority) {
    struct state_quota wanted = {holder, (char *)name, (char *)group, priority, 0};
    size_t at = place_of(state, &wanted);

    return at < state->n_quotas && compare_records(&state->quotas[at], &wanted) == 0
               ? &state->quotas[at]
               : NULL;
}

bool quota_sound(const struct state *state) {
    for (size_t i = 0; i < state->n_quotas; i++)
        if (state_priority_level(state->quotas[i].priority) < 0 ||
            !state->quotas[i].name != (state->quotas[i].holder == QUOTA_HOLDER_EVERY) ||
            (i && compare_records(&state->quotas[i - 1], &state->quotas[i]) >= 0))
            return false;
    return true;
}

void quota_levels(struct state *state) {
    state->book.levels = 0;
    for (size_t i = 0; i < state->n_quotas; i++)
        state->book.levels |= UINT32_C(1) << state_priority_level(state->quotas[i].priority);
}

bool quota_put(struct state *state, const struct state_quota *quota) {
    size_t at = place_of(state, quota);
    bool known = at < state->n_quotas && compare_records(&state->quotas[at], quota) == 0;

    if (quota->gpus == S_ABSENT && !known)
        return false;
    if (quota->gpus == S_ABSENT) {
        schema_free(state_quota_schema(), &state->quotas[at]);
        state->n_quotas--;
        memmove(state->quotas + at, state->quotas + at + 1,
                (state->n_quotas - at) * sizeof *state->quotas);
        return true;
    }
    if (known && state->quotas[at].gpus == quota->gpus)
        return false;
    if (!known) {
        state->quotas =
            hai_realloc_array(state->quotas, state->n_quotas + 1, sizeof *state->quotas);
        memmove(state->quotas + at + 1, state->quotas + at,
                (state->n_quotas - at) * sizeof *state->quotas);
        state->n_quotas++;
        state->quotas[at] =
            (struct state_quota){quota->holder, quota->name ? hai_strdup(quota->name) : NULL,
                                 hai_strdup(quota->group), quota->priority, 0};
    }
    state->quotas[at].gpus = quota->gpus;
    return true;
}

/* The records that limit a job at a level: the user's own or everybody's, and the team's. */
static void records_of(const struct state *state, const struct job *job, int64_t priority,
                       const struct state_quota *ret[QUOTA_ACCOUNTS]) {
    const struct entry_job_spec *spec = &job->r.spec;

    ret[0] = quota_find(state, QUOTA_HOLDER_USER, spec->user, spec->group, priority);
    if (!ret[0])
        ret[0] = quota_find(state, QUOTA_HOLDER_EVERY, NULL, spec->group, priority);
    ret[1] =
        spec->team ? quota_find(state, QUOTA_HOLDER_TEAM, spec->team, spec->group, priority) : NULL;
}

/* ---- accounts and lines ---- */

static void account_key(char ret[static KEY_BYTES], enum quota_holder holder, int level,
                        const char *group, const char *name) {
    *ret++ = holder == QUOTA_HOLDER_TEAM ? 't' : 'u';
    *ret++ = (char)('0' + level);
    ret = stpcpy(stpcpy(ret, group), "\n");
    strcpy(ret, name);
}

static struct quota_account *account_find(const struct state *state, enum quota_holder holder,
                                          int level, const char *group, const char *name) {
    char key[KEY_BYTES];

    account_key(key, holder, level, group, name);
    return map_get_text(&state->book.accounts, key);
}

static struct quota_account *account_of(struct state *state, const struct state_quota *record,
                                        int level, const char *group, const char *name) {
    char key[KEY_BYTES];

    account_key(key, record->holder, level, group, name);
    struct quota_account *account = map_get_text(&state->book.accounts, key);
    if (account)
        return account;
    account = hai_new(struct quota_account);
    account->record = record;
    account->level = level;
    map_put_text(&state->book.accounts, key, account);
    return account;
}

static struct quota_line *line_new(struct state *state, const struct job *job, int level,
                                   const char *key) {
    const struct entry_job_spec *spec = &job->r.spec;
    const struct state_quota *records[QUOTA_ACCOUNTS];

    records_of(state, job, state_priority_at(level), records);
    if (!records[0] && !records[1])
        return NULL;
    struct quota_line *line = hai_alloc(sizeof *line + strlen(key) + 1);
    memset(line, 0, sizeof *line);
    strcpy(line->key, key);
    line->level = level;
    line->head = INT64_MAX;
    for (int i = 0; i < QUOTA_ACCOUNTS; i++) {
        if (!records[i])
            continue;
        line->accounts[i] =
            account_of(state, records[i], level, spec->group, i ? spec->team : spec->user);
        line->next[i] = line->accounts[i]->lines;
        line->accounts[i]->lines = line;
    }
    map_put_text(&state->book.lines, key, line);
    return line;
}

/* The key of a job's lines, but for the first character: the level. */
static void line_key(const struct job *job, char ret[static KEY_BYTES]) {
    const struct entry_job_spec *spec = &job->r.spec;

    ret[0] = ' ';
    char *end = stpcpy(stpcpy(ret + 1, spec->group), "\n");
    end = stpcpy(stpcpy(end, spec->user), "\n");
    strcpy(end, spec->team ? spec->team : "");
}

/* The line of a job at a level; NULL: nothing limits it there. */
static struct quota_line *line_of(struct state *state, const struct job *job, int level,
                                  char *key) {
    if (!(state->book.levels >> level & 1))
        return NULL;
    key[0] = (char)('0' + level);
    struct quota_line *line = map_get_text(&state->book.lines, key);
    return line ? line : line_new(state, job, level, key);
}

static void line_unref(struct state *state, struct quota_line *line) {
    if (--line->n)
        return;
    for (int i = 0; i < QUOTA_ACCOUNTS; i++) {
        struct quota_line **at = line->accounts[i] ? &line->accounts[i]->lines : NULL;
        while (at && *at != line)
            at = &(*at)->next[i];
        if (at)
            *at = line->next[i];
    }
    map_remove_text(&state->book.lines, line->key);
    free(line);
}

static void book_clear(struct quota_book *book) {
    size_t at = 0;

    for (struct map_item *item; (item = map_next(&book->lines, &at));)
        free(item->value);
    at = 0;
    for (struct map_item *item; (item = map_next(&book->accounts, &at));)
        free(item->value);
    map_free(&book->lines);
    map_free(&book->accounts);
    free(book->sorted);
    *book = (struct quota_book){0};
}

static bool fits_account(const struct quota_account *account, const struct job *job) {
    return account->used + gpus_of(job) <= account->record->gpus + HAI_PLANT(PLANT_QUOTA_OFF);
}

/* Something changed there that may let others in. */
static void touch(struct state *state, struct quota_line *line) {
    for (int i = 0; i < QUOTA_ACCOUNTS; i++) {
        struct quota_account *account = line->accounts[i];
        if (!account || account->touched || !account->n_listed)
            continue;
        account->touched = true;
        account->touched_next = state->book.touched;
        state->book.touched = account;
    }
}

/* ---- standing ---- */

static void list(struct quota_stand *stand) {
    struct quota_line *line = stand->line;
    struct quota_stand *before = line->last;

    while (before && queue_place(before->job) > queue_place(stand->job))
        before = before->prev;
    stand->prev = before;
    stand->next = before ? before->next : line->first;
    if (stand->next)
        stand->next->prev = stand;
    else
        line->last = stand;
    if (before)
        before->next = stand;
    else
        line->first = stand;
    line->head = queue_place(line->first->job);
}

static void unlist(struct quota_stand *stand) {
    struct quota_line *line = stand->line;

    if (stand->prev)
        stand->prev->next = stand->next;
    else
        line->first = stand->next;
    if (stand->next)
        stand->next->prev = stand->prev;
    else
        line->last = stand->prev;
    stand->next = stand->prev = NULL;
    line->head = line->first ? queue_place(line->first->job) : INT64_MAX;
}

static void count_listed(struct quota_line *line, int n) {
    for (int i = 0; i < QUOTA_ACCOUNTS; i++)
        if (line->accounts[i])
            line->accounts[i]->n_listed += n;
}

static bool larger_than_all(const struct quota_line *line, const struct job *job) {
    for (int i = 0; i < QUOTA_ACCOUNTS; i++)
        if (line->accounts[i] && gpus_of(job) > line->accounts[i]->record->gpus)
            return true;
    return false;
}

static void stand_leave(struct state *state, struct quota_stand *stand) {
    struct quota_line *line = stand->line;

    if (stand->listed) {
        unlist(stand);
        count_listed(line, -1);
        touch(state, line);
    }
    line_unref(state, line);
}

/* Its places are in an array of the job: lists are made once it is complete. Where it comes before
 * the one that held up others it may fit where that one did not. */
static void stand_in(struct state *state, struct job *job, struct quota_line *const *lines, int n) {
    job->stands = n ? hai_new_array(struct quota_stand, (size_t)n) : NULL;
    job->n_stands = n;
    for (int i = 0; i < n; i++) {
        struct quota_stand *stand = &job->stands[i];
        *stand = (struct quota_stand){
            .job = job, .line = lines[i], .listed = !larger_than_all(lines[i], job)};
        if (!stand->listed)
            continue;
        list(stand);
        count_listed(lines[i], 1);
        if (!stand->prev && stand->next)
            touch(state, lines[i]);
    }
}

/* The first n of its places stay. */
static void keep_stands(struct state *state, struct job *job, int n) {
    for (int i = n; i < job->n_stands; i++)
        stand_leave(state, &job->stands[i]);
    job->n_stands = n;
    if (n)
        return;
    free(job->stands);
    job->stands = NULL;
}

/* ---- being charged ---- */

static void take(struct job *job, struct quota_line *line, int sign) {
    for (int i = 0; i < QUOTA_ACCOUNTS; i++)
        if (line->accounts[i])
            line->accounts[i]->used += sign * gpus_of(job);
}

static void give_back(struct state *state, struct job *job) {
    struct quota_line *line = job->line;

    job->line = NULL;
    if (!line)
        return;
    take(job, line, -1);
    touch(state, line);
    line_unref(state, line);
}

/* line NULL: nothing limits it at that level. The caller has counted it in the line. */
static void charge(struct job *job, struct quota_line *line, int level) {
    job->r.over = S_ABSENT;
    job->r.priority = state_priority_at(level);
    job->line = line;
    if (line)
        take(job, line, 1);
}

/* The levels at which a job may be, as positions in PRIORITIES. */
static void range_of(const struct state *state, const struct job *job, int *ret_first,
                     int *ret_last) {
    *ret_first = *ret_last = state_priority_level(job->r.priority);
    if (!quota_is_auto(job))
        return;
    bool external = quota_external(state, job->r.spec.user);
    *ret_first = external ? state_priority_level(QUOTA_EXTERNAL_PRIORITY) : 0;
    *ret_last = PRIORITY_COUNT - 1;
}

/* A level above where `auto` begins at which nobody was given anything. */
static bool passes_over(const struct job *job, const struct quota_line *line, int level) {
    return quota_is_auto(job) && !line && state_priority_at(level) > QUOTA_AUTO_PRIORITY;
}

/* Is there a job before this one that the account has to serve first? */
static bool is_held_up(const struct quota_account *account, const struct job *job) {
    int at = account->record->holder == QUOTA_HOLDER_TEAM;

    for (const struct quota_line *line = account->lines; line; line = line->next[at])
        if (line->head < queue_place(job) &&
            (account->touched || !fits_account(account, line->first->job)))
            return true;
    return false;
}

/* It is not among those that stand: can it be charged before all of them that come later? */
static bool takes_at_once(const struct quota_line *line, const struct job *job) {
    if (line->head < queue_place(job))
        return false;
    for (int i = 0; i < QUOTA_ACCOUNTS; i++)
        if (line->accounts[i] &&
            (!fits_account(line->accounts[i], job) || is_held_up(line->accounts[i], job)))
            return false;
    return true;
}

/* Find its place. charged: the level at which it is charged already, -1: nowhere; at_once: it may
 * be charged where there is room and nobody stands before it. */
static void enter(struct state *state, struct job *job, int charged, bool at_once) {
    struct quota_line *lines[PRIORITY_COUNT], *line = NULL;
    int first, last, level, n = 0;
    bool found = false;
    char key[KEY_BYTES];

    if (state->n_quotas)
        line_key(job, key);
    range_of(state, job, &first, &last);
    if (charged >= 0)
        first = MIN(first, charged);
    for (level = first; level <= last && !found; level++) {
        line = line_of(state, job, level, key);
        if (level != charged && passes_over(job, line, level))
            continue;
        if (line)
            line->n++;
        found = level == charged || !line || (at_once && takes_at_once(line, job));
        if (!found)
            lines[n++] = line;
    }
    if (found) {
        charge(job, line, level - 1);
    } else {
        job->r.over = 1;
        job->r.priority = state_priority_at(last);
    }
    job->counted = true;
    stand_in(state, job, lines, n);
}

void quota_leave(struct state *state, struct job *job) {
    if (!job->counted)
        return;
    give_back(state, job);
    keep_stands(state, job, 0);
    job->r.over = S_ABSENT;
    job->counted = false;
}

void quota_follow(struct state *state, struct job *job, bool counts) {
    if (counts && !job->counted)
        enter(state, job, -1, true);
    else if (!counts)
        quota_leave(state, job);
}

void quota_move(struct state *state, struct job *job, int64_t place) {
    for (int i = 0; i < job->n_stands; i++)
        if (job->stands[i].listed)
            unlist(&job->stands[i]);
    job->r.place = place == job->r.id ? S_ABSENT : place;
    for (int i = 0; i < job->n_stands; i++)
        if (job->stands[i].listed) {
            list(&job->stands[i]);
            touch(state, job->stands[i].line);
        }
}

void quota_read(struct state *state, struct job *job, bool counts) {
    if (counts)
        enter(state, job, quota_is_over(job) ? -1 : state_priority_level(job->r.priority), false);
}

void quota_settled(struct state *state) {
    while (state->book.touched) {
        state->book.touched->touched = false;
        state->book.touched = state->book.touched->touched_next;
    }
}

/* ---- whose turn it is ---- */

static int compare_heads(const void *pa, const void *pb) {
    int64_t a = (*(struct quota_line *const *)pa)->head;
    int64_t b = (*(struct quota_line *const *)pb)->head;

    return a < b ? -1 : a > b;
}

static size_t sort_lines(struct quota_book *book, const struct quota_account *account) {
    int at = account->record->holder == QUOTA_HOLDER_TEAM;
    size_t n = 0;

    for (struct quota_line *line = account->lines; line; line = line->next[at]) {
        if (!line->first)
            continue;
        if (n == book->n_sorted_max) {
            book->n_sorted_max = MAX(2 * n, (size_t)16);
            book->sorted =
                hai_realloc_array(book->sorted, book->n_sorted_max, sizeof *book->sorted);
        }
        book->sorted[n++] = line;
    }
    if (n > 1)
        qsort(book->sorted, n, sizeof *book->sorted, compare_heads);
    return n;
}

/* The first job of the account that can be charged; NULL: none. */
static struct quota_stand *next_of(struct state *state, const struct quota_account *account) {
    size_t n = sort_lines(&state->book, account);

    for (size_t i = 0; i < n; i++) {
        struct quota_line *line = state->book.sorted[i];
        struct job *job = line->first->job;
        const struct quota_account *other = line->accounts[line->accounts[0] == account ? 1 : 0];
        if (!fits_account(account, job))
            return NULL;
        if (!other || other == account || (fits_account(other, job) && !is_held_up(other, job)))
            return line->first;
    }
    return NULL;
}

/* The account of the highest level. */
static struct quota_account **first_touched(struct state *state) {
    struct quota_account **best = &state->book.touched;

    for (struct quota_account **at = best; *at; at = &(*at)->touched_next)
        if ((*at)->level < (*best)->level)
            best = at;
    return best;
}

/* The job leaves its place below, and all lower ones. */
static void promote(struct state *state, struct quota_stand *stand) {
    struct quota_line *line = stand->line;
    struct job *job = stand->job;

    line->n++; // that of the stand goes
    give_back(state, job);
    keep_stands(state, job, (int)(stand - job->stands));
    charge(job, line, line->level);
}

struct job *quota_next(struct state *state) {
    while (state->book.touched) {
        struct quota_account **at = first_touched(state), *account = *at;
        struct quota_stand *stand = next_of(state, account);
        if (stand) {
            struct job *job = stand->job;
            promote(state, stand);
            return job;
        }
        account->touched = false;
        *at = account->touched_next;
    }
    return NULL;
}

/* Has it nodes, or had them and goes on by itself? It keeps its charge. */
static bool is_under_way(const struct job *job) {
    return state_job_live(job) || job->r.state == JOB_STATE_RECOVERING ||
           (job->r.state == JOB_STATE_SUSPENDED && state_reason_gives_way(job->r.reason));
}

void quota_rebuild(struct state *state, quota_changed_fn changed, const void *data) {
    for (struct job *job = state->jobs_first; job; job = job->next) {
        free(job->stands);
        job->stands = NULL;
        job->n_stands = 0;
        job->line = NULL;
    }
    book_clear(&state->book);
    quota_levels(state);
    for (struct job *job = state->jobs_first; job; job = job->next) {
        if (!job->counted)
            continue;
        bool anew = quota_is_over(job) || (!is_under_way(job) && changed(state, job, data));
        enter(state, job, anew ? -1 : state_priority_level(job->r.priority), false);
    }
    size_t at = 0;
    for (struct map_item *item; (item = map_next(&state->book.lines, &at));)
        touch(state, item->value);
}

/* ---- reading ---- */

int64_t quota_used(const struct state *state, enum quota_holder holder, const char *name,
                   const char *group, int64_t priority) {
    const struct quota_account *account =
        account_find(state, holder, state_priority_level(priority), group, name);

    return account ? account->used : 0;
}

static void lend(struct map *loans, const struct job *job, enum quota_holder holder,
                 const char *name) {
    char key[KEY_BYTES];

    if (!name)
        return;
    account_key(key, holder, state_priority_level(job->r.priority), job->r.spec.group, name);
    intptr_t sum = (intptr_t)map_get_text(loans, key) + (intptr_t)gpus_of(job);
    map_put_text(loans, key, (void *)sum);
}

void quota_loans(const struct state *state, struct map *ret) {
    *ret = (struct map){0};
    for (const struct job *job = state->live_first; job; job = job->live_next)
        if (quota_is_over(job)) {
            lend(ret, job, QUOTA_HOLDER_USER, job->r.spec.user);
            lend(ret, job, QUOTA_HOLDER_TEAM, job->r.spec.team);
        }
}

int64_t quota_borrowed(const struct map *loans, enum quota_holder holder, const char *name,
                       const char *group, int64_t priority) {
    char key[KEY_BYTES];

    account_key(key, holder, state_priority_level(priority), group, name);
    return (intptr_t)map_get_text(loans, key);
}

static int64_t ahead_of(const struct quota_account *account, const struct job *job) {
    int at = account->record->holder == QUOTA_HOLDER_TEAM;
    const struct quota_line *first = NULL;

    for (const struct quota_line *line = account->lines; line; line = line->next[at])
        if (line->head < (job->r.id ? queue_place(job) : INT64_MAX) &&
            (!first || line->head < first->head))
            first = line;
    return first ? first->first->job->r.id : 0;
}

int quota_limits(const struct state *state, const struct job *job, int64_t priority,
                 struct quota_limit ret[QUOTA_ACCOUNTS]) {
    const struct state_quota *records[QUOTA_ACCOUNTS];
    int level = state_priority_level(priority), n = 0;

    records_of(state, job, priority, records);
    for (int i = 0; i < QUOTA_ACCOUNTS; i++) {
        if (!records[i])
            continue;
        const struct quota_account *account =
            account_find(state, records[i]->holder, level, job->r.spec.group,
                         i ? job->r.spec.team : job->r.spec.user);
        ret[n++] = (struct quota_limit){records[i], account ? account->used : 0,
                                        account ? ahead_of(account, job) : 0};
    }
    return n;
}

bool quota_bars(const struct state *state, const struct job *job) {
    return quota_is_over(job) && !order_shares(state);
}

bool quota_external(const struct state *state, const char *user) {
    const struct state_user *known = state_user_find(state, user);

    return known && known->external == 1;
}

int quota_may_choose(const struct state *state, const char *user, enum scope scope,
                     struct hai_err *err) {
    if (scope >= SCOPE_OPERATE || !quota_external(state, user))
        return 0;
    return hai_fail_at(err, -EACCES, "denied", "priority", "leave it out, or say auto",
                       "%s is an external user, whose jobs have priority auto", user);
}

int64_t quota_auto_priority(const struct state *state, const char *user) {
    return quota_external(state, user) ? QUOTA_EXTERNAL_PRIORITY : QUOTA_AUTO_PRIORITY;
}

static const char *holder_word(const struct state_quota *record) {
    return record->holder == QUOTA_HOLDER_TEAM ? "team" : "user";
}

int quota_possible(const struct state *state, const struct job *job, struct hai_err *err) {
    struct quota_limit limits[QUOTA_ACCOUNTS], *small = NULL;
    int first, last;

    if (order_shares(state) || !job->r.spec.gpus_per_node)
        return 0;
    range_of(state, job, &first, &last);
    for (int level = first; level <= last; level++) {
        int n = quota_limits(state, job, state_priority_at(level), limits);
        small = NULL;
        for (int i = 0; i < n; i++)
            if (limits[i].record->gpus < gpus_of(job))
                small = &limits[i];
        if (!small)
            return 0;
    }
    return hai_fail_at(
        err, -EINVAL, "quota", "resources",
        "ask for fewer, or for more quota: hai "
        "quota list",
        "the job has %lld GPUs, and the quota of %s %s in group %s at "
        "priority %lld is %lld",
        (long long)gpus_of(job), holder_word(small->record),
        small->record->holder == QUOTA_HOLDER_TEAM ? job->r.spec.team : job->r.spec.user,
        job->r.spec.group, (long long)small->record->priority, (long long)small->record->gpus);
}

/* Would it be charged at once at a level? */
static bool would_fit(const struct state *state, const struct job *job, int64_t priority) {
    struct quota_limit limits[QUOTA_ACCOUNTS];
    int n = quota_limits(state, job, priority, limits);

    for (int i = 0; i < n; i++)
        if (limits[i].ahead || limits[i].used + gpus_of(job) > limits[i].record->gpus)
            return false;
    return n || !quota_is_auto(job) || priority <= QUOTA_AUTO_PRIORITY;
}

void quota_draft(const struct state *state, struct job *job) {
    int first, last;

    if (quota_is_auto(job))
        job->r.priority = quota_auto_priority(state, job->r.spec.user);
    if (!job->r.spec.gpus_per_node)
        return;
    range_of(state, job, &first, &last);
    for (int level = first; level <= last; level++)
        if (would_fit(state, job, state_priority_at(level))) {
            job->r.priority = state_priority_at(level);
            return;
        }
    job->r.priority = state_priority_at(last);
    job->r.over = 1;
}
