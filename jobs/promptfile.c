#include "jobs/promptfile.h"
#include "engine/data/tokenline.h"
#include "jobs/answer.h"
#include "jobs/inout.h"
#include "jobs/jsonrules.h"
#include "jobs/progress.h"
#include "jobs/schemacache.h"

#include <inttypes.h>
#include <stdio.h>

enum state { WAITING, RUNNING, ENDED }; // WAITING: there was no room

/* A line, from reading to writing. */
struct item {
    struct run *run;
    int64_t line;
    enum state state;
    bool failed, has_answer;
    struct promptline prompt;
    struct stop_rules *rules;
    struct grammar *grammar;
    struct answer answer;
    struct buf text, logprobs;
    struct batcher_ending ending;
    struct hai_err err;
};

struct run {
    const struct promptfile_options *options;
    struct engine *engine;
    struct tokenizer *tokenizer; // NULL: the model has none
    struct chat *chat;           // NULL: none
    struct schemacache *schemas; // made with the first schema
    FILE *in, *out;
    struct item *items[PROMPTFILE_LINES_MAX];     // a ring: head is the oldest not yet written
    int64_t n_lines, n_read, n_written, n_failed; // lines; those with something on them
    int64_t n_new, n_prompt, n_hit;               // tokens
    int64_t start_us;
    struct progress progress;
    struct hai_err step_err; // of the last pass that failed
};

static void item_free(struct item *x) {
    if (!x)
        return;
    if (x->grammar)
        schemacache_drop(x->run->schemas, x->grammar);
    if (x->has_answer)
        answer_free(&x->answer);
    stop_rules_free(x->rules);
    promptline_free(&x->prompt);
    buf_free(&x->text);
    buf_free(&x->logprobs);
    free(x);
}

static void run_free(struct run *run) {
    engine_free(run->engine);
    for (size_t i = 0; i < PROMPTFILE_LINES_MAX; i++)
        item_free(run->items[i]);
    schemacache_free(run->schemas);
    chat_free(run->chat);
    tokenizer_free(run->tokenizer);
    if (run->in && run->in != stdin)
        fclose(run->in);
    if (run->out && run->out != stdout)
        fclose(run->out);
}

static int take(void *userdata, int64_t id, const struct sample_result *token) {
    struct item *x = userdata;
    bool ends = answer_add(&x->answer, token->id, &x->text);

    if (x->prompt.sample.options.n_logprobs >= 0 && !stop_rules_has_id(x->rules, token->id)) {
        buf_add_str(&x->logprobs, x->logprobs.n_bytes ? ", " : "");
        answer_dump_logprobs(token, &x->logprobs);
    }
    x->run->n_new++;
    return ends;
}

static void end(void *userdata, const struct batcher_ending *ending, const struct hai_err *err) {
    struct item *x = userdata;

    answer_end(&x->answer, &x->text);
    x->ending = *ending;
    x->err = *err;
    x->state = ENDED;
    x->failed = ending->end == BATCHER_END_FAILED;
    x->run->n_prompt += ending->n_prompt;
    x->run->n_hit += ending->n_hit;
}

static int take_grammar(struct run *run, struct item *x, struct hai_err *err) {
    const struct model_config *config = model_config_of(engine_model(run->engine));

    if (!x->prompt.schema || x->grammar)
        return 0;
    if (!run->tokenizer)
        return hai_fail(err, -ENOTSUP, "JSON only: the model has no tokenizer");
    if (!run->schemas)
        run->schemas = schemacache_new(jsonrules_vocab(run->tokenizer, config));
    return schemacache_take(run->schemas, x->prompt.schema, strlen(x->prompt.schema), &x->grammar,
                            err);
}

/* Hand a line to the engine; it stays WAITING where there is no room yet. */
static void start(struct run *run, struct item *x) {
    int r = take_grammar(run, x, &x->err);

    if (r == 0) {
        const struct engine_request request = {.weight = 1,
                                               .priority = x->prompt.priority,
                                               .ids = x->prompt.ids.ids,
                                               .n_ids = (int32_t)x->prompt.ids.n,
                                               .n_new_max = (int32_t)x->prompt.n_new_max,
                                               .sample = x->prompt.sample.options,
                                               .grammar = x->grammar,
                                               .ignore_eos = x->prompt.ignore_eos,
                                               .take = take,
                                               .end = end,
                                               .userdata = x};
        int64_t id;
        r = engine_submit(run->engine, &request, &id, &x->err);
    }
    x->state = r == 0 ? RUNNING : r == -EAGAIN ? WAITING : ENDED;
    x->failed = x->state == ENDED;
}

/* Read and start the next line; 0: there is none. Lines of white space are passed over. */
static int read_line(struct run *run, char **text, size_t *text_max, struct hai_err *err) {
    ssize_t n;

    do {
        n = getline(text, text_max, run->in);
        if (n < 0)
            return ferror(run->in) ? hai_fail(err, -EIO, "%s: %m", run->options->input) : 0;
        run->n_lines++;
    } while (strspn(*text, " \t\r\n") == (size_t)n);
    struct item *x = hai_new(struct item);
    x->run = run;
    x->line = run->n_lines;
    run->items[++run->n_read % PROMPTFILE_LINES_MAX] = x;
    int r = n > PROMPTLINE_BYTES_MAX
                ? hai_fail(&x->err, -EFBIG, "longer than %d bytes", PROMPTLINE_BYTES_MAX)
                : promptline_read(*text, (size_t)n, &run->options->defaults, run->tokenizer,
                                  run->chat, &x->prompt, &x->err);
    if (r == 0)
        r = sampleargs_rules(&x->prompt.sample, &x->rules, &x->err);
    if (r < 0) {
        x->failed = true;
        x->state = ENDED;
        return 1;
    }
    answer_start(&x->answer, run->tokenizer, x->rules);
    x->has_answer = true;
    start(run, x);
    return 1;
}

static void dump(const struct item *x, struct buf *ret) {
    const struct json *id = json_get(x->prompt.tree, "id");

    buf_add_u8(ret, '{');
    if (id) {
        buf_add_str(ret, "\"id\": ");
        json_dump(id, 0, ret);
        buf_add_str(ret, ", ");
    }
    if (x->failed) {
        buf_printf(ret,
                   "\"line\": %" PRId64 ", \"error\": {\"code\": \"%s\", \"message\": ", x->line,
                   x->err.code[0] ? x->err.code : "failed");
        const char *text = hai_err_text(&x->err);
        json_dump_string(text, strlen(text), ret);
        buf_add_str(ret, "}}\n");
        return;
    }
    if (x->run->tokenizer) {
        buf_add_str(ret, "\"text\": ");
        tokenline_add_text(&x->text, ret);
        buf_add_str(ret, ", ");
    }
    buf_add_str(ret, "\"token_ids\": ");
    tokenline_add_ids(&x->answer.ids, ret);
    buf_add_str(ret, ", ");
    answer_dump_usage(x->ending.end, x->ending.n_prompt, x->ending.n_hit, x->ending.n_new, ret);
    if (x->prompt.sample.options.n_logprobs >= 0) {
        buf_add_str(ret, ", \"logprobs\": [");
        buf_add(ret, x->logprobs.data, x->logprobs.n_bytes);
        buf_add_u8(ret, ']');
    }
    buf_add_str(ret, "}\n");
}

static void report(struct run *run, struct item *x) {
    run->n_failed++;
    if (!x->err.text[0] && run->step_err.text[0])
        x->err = run->step_err;
    progress_clear(&run->progress);
    fprintf(stderr, "%s: %s:%" PRId64 ": %s%s%s\n", run->options->program,
            hai_streq(run->options->input, "-") ? "stdin" : run->options->input, x->line,
            x->err.where, x->err.where[0] ? ": " : "", hai_err_text(&x->err));
}

/* Write what has ended, as long as nothing before it is missing. */
static int write_ended(struct run *run, struct hai_err *err) {
    bool wrote = false;

    while (run->n_written < run->n_read) {
        struct item **at = &run->items[(run->n_written + 1) % PROMPTFILE_LINES_MAX];
        if ((*at)->state != ENDED)
            break;
        run->n_written++;
        _cleanup_(buf_free) struct buf line = {0};
        if ((*at)->failed)
            report(run, *at);
        dump(*at, &line);
        item_free(*at);
        *at = NULL;
        wrote = true;
        if (fwrite(line.data, 1, line.n_bytes, run->out) < line.n_bytes)
            break;
    }
    if (ferror(run->out) || (wrote && fflush(run->out)))
        return hai_fail(err, -EIO, "writing to %s failed",
                        run->out == stdout ? "stdout" : run->options->output);
    return 0;
}

/* Start who waits; false: there is still no room. */
static bool start_waiting(struct run *run) {
    for (int64_t n = run->n_written + 1; n <= run->n_read; n++) {
        struct item *x = run->items[n % PROMPTFILE_LINES_MAX];
        if (x->state == WAITING)
            start(run, x);
        if (x->state == WAITING)
            return false;
    }
    return true;
}

/* Read as long as there is room. Returns 0 at the end of the input. */
static int fill(struct run *run, char **text, size_t *text_max, struct hai_err *err) {
    while (run->n_read - run->n_written < PROMPTFILE_LINES_MAX) {
        int r = read_line(run, text, text_max, err);
        if (r <= 0)
            return r;
        struct item *last = run->items[run->n_read % PROMPTFILE_LINES_MAX];
        if (last->state == WAITING)
            break;
        // What is bad is said at once, and what is good starts before all is read.
        struct batcher_counts counts;
        batcher_count(engine_batcher(run->engine), &counts);
        if (counts.n_waiting >= 4 * run->options->engine.n_slots)
            break;
    }
    return 1;
}

static void say_progress(struct run *run) {
    double s = (double)(engine_now_us() - run->start_us) / 1e6;
    struct batcher_counts counts;

    batcher_count(engine_batcher(run->engine), &counts);
    progress_say(
        &run->progress, "%" PRId64 " lines answered, %d running, %d waiting, %.0f new tokens/s",
        run->n_written, counts.n_resident, counts.n_waiting, (double)run->n_new / MAX(s, 1e-3));
}

static int loop(struct run *run, struct hai_err *err) {
    _cleanup_free_ char *text = NULL;
    size_t text_max = 0;
    int more = 1;

    for (;;) {
        if (start_waiting(run) && more > 0)
            more = fill(run, &text, &text_max, err);
        int r = more < 0 ? more : write_ended(run, err);
        if (r < 0)
            return r;
        if (!more && run->n_written == run->n_read)
            return 0;
        // A pass that failed has ended those who were part of it; the others go on.
        (void)engine_step(run->engine, &run->step_err);
        say_progress(run);
    }
}

/* A cache that is of no use is no failure: it is said, and the run starts cold. */
static void load_cache(struct run *run) {
    const char *path = run->options->prefix_cache;
    struct hai_err err = {0};

    int r = engine_cache_load(run->engine, path, &err);
    if (r < 0 && r != -ENOENT)
        fprintf(stderr, "%s: %s; starting without\n", run->options->program, hai_err_text(&err));
    else if (!run->options->quiet)
        fprintf(stderr, "%s: %s: %d pages loaded\n", run->options->program, path, MAX(r, 0));
}

static int open_all(struct run *run, struct hai_err *err) {
    const struct promptfile_options *o = run->options;
    struct engine_options options = o->engine;
    struct hai_err ignored = {0};

    int r = inout_open_in(o->input, &run->in, err);
    if (r == 0)
        r = inout_check(run->in, o->input, o->output, err);
    if (r < 0)
        return r;
    r = tokenizer_read(o->model, &run->tokenizer, err);
    if (r < 0 && r != -ENOENT)
        return r;
    // Without a tokenizer ids can be continued, without a template texts can.
    if (run->tokenizer)
        (void)chat_open(o->model, run->tokenizer, NULL, &run->chat, &ignored);
    options.n_requests_max = PROMPTFILE_LINES_MAX;
    options.prefix_file = o->prefix_cache != NULL;
    r = engine_open(o->model, &options, &run->engine, err);
    return r < 0 ? r : inout_open_out(o->output, &run->out, err);
}

int promptfile_run(const struct promptfile_options *o, struct hai_err *err) {
    _cleanup_(run_free) struct run run = {.options = o};
    int r = open_all(&run, err);

    if (r < 0)
        return r;
    progress_start(&run.progress, o->quiet);
    if (o->prefix_cache)
        load_cache(&run);
    run.start_us = engine_now_us();
    r = loop(&run, err);
    progress_clear(&run.progress);
    if (r == 0 && o->prefix_cache)
        r = engine_cache_save(run.engine, o->prefix_cache, INT32_MAX, err);
    if (r < 0)
        return r;
    double s = (double)(engine_now_us() - run.start_us) / 1e6;
    if (!o->quiet)
        fprintf(stderr,
                "%s: %" PRId64 " lines, %" PRId64 " failed; %" PRId64 " prompt tokens, %" PRId64
                " of them from the cache; %" PRId64 " new tokens in %.2f s, %.1f tokens/s\n",
                o->program, run.n_read, run.n_failed, run.n_prompt, run.n_hit, run.n_new, s,
                (double)run.n_new / MAX(s, 1e-6));
    return (int)MIN(run.n_failed, (int64_t)INT_MAX);
}
