#include "jobs/choices.h"
#include "jobs/inout.h"
#include "jobs/promptline.h"

#include <math.h>

void choices_question_free(struct choices_question *q) {
    json_free(q->tree);
}

static int read_choices(const struct json *list, struct choices_question *ret,
                        struct hai_err *err) {
    if (!list || json_kind(list) != JSON_KIND_ARRAY || json_count(list) < 2 ||
        json_count(list) > CHOICES_MAX)
        return hai_fail(err, -EINVAL, "choices: expected a list of 2 to %d texts", CHOICES_MAX);
    for (const struct json *v = json_first(list); v; v = json_next(v)) {
        if (json_kind(v) != JSON_KIND_STRING || !json_as_string_bytes(v))
            return hai_fail(err, -EINVAL, "choices: number %d is no text", ret->n);
        ret->texts[ret->n++] = json_as_string(v);
    }
    return 0;
}

static int read_answer(const struct json *v, struct choices_question *ret, struct hai_err *err) {
    if (v && json_kind(v) == JSON_KIND_STRING)
        for (ret->answer = 0; ret->answer < ret->n; ret->answer++)
            if (hai_streq(ret->texts[ret->answer], json_as_string(v)))
                return 0;
    if (!v || json_kind(v) != JSON_KIND_INT || json_as_int(v) < 0 || json_as_int(v) >= ret->n)
        return hai_fail(err, -EINVAL,
                        "answer: expected a whole number from 0 to %d, or the text of a choice",
                        ret->n - 1);
    ret->answer = (int)json_as_int(v);
    return 0;
}

int choices_parse(const char *text, size_t n_bytes, struct choices_question *ret,
                  struct hai_err *err) {
    static const char *const known[] = {"id", "prompt", "choices", "answer", NULL};

    *ret = (struct choices_question){0};
    int r = json_parse(text, n_bytes, NULL, &ret->tree, err);
    if (r < 0)
        return r;
    if (json_kind(ret->tree) != JSON_KIND_OBJECT)
        return hai_fail(err, -EBADMSG, "expected an object with prompt, choices and answer");
    for (const struct json *v = json_first(ret->tree); v; v = json_next(v)) {
        int i = 0;
        while (known[i] && !hai_streq(known[i], json_key(v)))
            i++;
        if (!known[i])
            return hai_fail(err, -EINVAL, "unknown field '%.64s'", json_key(v));
    }
    ret->prompt = json_get_string(ret->tree, "prompt", NULL);
    if (!ret->prompt || !*ret->prompt)
        return hai_fail(err, -EINVAL, "prompt: expected text");
    r = read_choices(json_get(ret->tree, "choices"), ret, err);
    return r < 0 ? r : read_answer(json_get(ret->tree, "answer"), ret, err);
}

/* A question with the tokens of each choice, prompt included. */
struct asked {
    struct choices_question question;
    struct token_list ids[CHOICES_MAX];
    int64_t n_prompt[CHOICES_MAX]; // tokens before the choice's
};

struct list {
    struct asked **items;
    size_t n, n_max;
    int64_t n_tokens_max;
};

static void list_free(struct list *list) {
    for (size_t i = 0; i < list->n; i++) {
        choices_question_free(&list->items[i]->question);
        for (int k = 0; k < CHOICES_MAX; k++)
            token_list_free(&list->items[i]->ids[k]);
        free(list->items[i]);
    }
    free(list->items);
}

static int encode(struct tokenizer *t, struct asked *a, int64_t *n_max, struct hai_err *err) {
    const struct choices_question *q = &a->question;
    _cleanup_(token_list_free) struct token_list prompt = {0};
    int r = promptline_encode(t, q->prompt, strlen(q->prompt), &prompt, err);

    for (int k = 0; r == 0 && k < q->n; k++) {
        _cleanup_free_ char *text = hai_asprintf("%s%s", q->prompt, q->texts[k]);
        struct token_list *ids = &a->ids[k];
        size_t n = 0;
        r = promptline_encode(t, text, strlen(text), ids, err);
        while (n < prompt.n && n + 1 < ids->n && prompt.ids[n] == ids->ids[n])
            n++;
        a->n_prompt[k] = (int64_t)n;
        *n_max = MAX(*n_max, (int64_t)ids->n);
        if (r == 0 && !n)
            r = hai_fail(err, -EINVAL, "choice %d: nothing comes before its first token", k);
    }
    return r;
}

static int read_all(FILE *in, const char *path, struct tokenizer *t, int64_t n_position,
                    struct list *list, struct hai_err *err) {
    _cleanup_free_ char *text = NULL;
    size_t text_max = 0;
    int64_t line = 0;
    ssize_t n;
    int r = 0;

    while (r == 0 && (n = getline(&text, &text_max, in)) >= 0) {
        line++;
        if (strspn(text, " \t\r\n") == (size_t)n)
            continue;
        if (list->n == list->n_max) {
            list->n_max = MAX(2 * list->n_max, (size_t)64);
            list->items = hai_realloc_array(list->items, list->n_max, sizeof(struct asked *));
        }
        struct asked *a = list->items[list->n++] = hai_new(struct asked);
        if (n > CHOICES_LINE_BYTES_MAX || list->n > CHOICES_QUESTIONS_MAX)
            r = hai_fail(err, -EFBIG, "longer than %d bytes, or more than %d questions",
                         CHOICES_LINE_BYTES_MAX, CHOICES_QUESTIONS_MAX);
        if (r == 0)
            r = choices_parse(text, (size_t)n, &a->question, err);
        if (r == 0)
            r = encode(t, a, &list->n_tokens_max, err);
        if (r == 0 && list->n_tokens_max > n_position)
            r = hai_fail(err, -EINVAL, "%lld tokens; the model takes %lld",
                         (long long)list->n_tokens_max, (long long)n_position);
        if (r < 0)
            hai_err_prefix(err, "%s:%lld: ", in == stdin ? "stdin" : path, (long long)line);
    }
    if (r == 0 && ferror(in))
        r = hai_fail(err, -EIO, "%s: %m", path);
    return r < 0 || list->n ? r : hai_fail(err, -ENODATA, "%s: no questions", path);
}

/* Adds up log-probabilities while rows come. */
struct score {
    const int32_t *ids;
    int64_t n_vocab, at, first; // at: the row that comes next; rows from first on count
    double sum;
};

static double log_probability(const float *row, int64_t n_vocab, int32_t id) {
    double sum = 0;
    float largest = row[0];

    for (int64_t i = 1; i < n_vocab; i++)
        largest = MAX(largest, row[i]);
    for (int64_t i = 0; i < n_vocab; i++)
        sum += exp((double)row[i] - largest);
    return (double)row[id] - largest - log(sum);
}

static int take_rows(void *userdata, const float *rows, int64_t n_rows, struct hai_err *err) {
    struct score *s = userdata;

    for (int64_t i = 0; i < n_rows; i++, s->at++)
        if (s->at >= s->first)
            s->sum += log_probability(rows + i * s->n_vocab, s->n_vocab, s->ids[s->at + 1]);
    return 0;
}

/* Scores of a question's choices. What they begin with alike is computed once. */
static int score(struct generate *g, const struct asked *a, double *ret, struct hai_err *err) {
    int r = 0;

    for (int k = 0; r == 0 && k < a->question.n; k++) {
        const struct token_list *ids = &a->ids[k];
        struct score s = {ids->ids, generate_config(g)->n_vocab, 0, a->n_prompt[k] - 1, 0};
        while (k && s.at < s.first && s.at + 1 < (int64_t)a->ids[k - 1].n &&
               a->ids[k - 1].ids[s.at] == ids->ids[s.at])
            s.at++;
        r = generate_logits_from(g, ids->ids, (int64_t)ids->n - 1, s.at, take_rows, &s, err);
        ret[k] = s.sum;
        if (r == 0 && !isfinite(s.sum))
            r = hai_fail(err, -EDOM, "a log-probability is not finite");
    }
    return r;
}

static void dump(const struct asked *a, const double *scores, int best, int best_per_byte,
                 FILE *out) {
    const struct json *id = json_get(a->question.tree, "id");
    _cleanup_(buf_free) struct buf line = {0};

    buf_add_u8(&line, '{');
    if (id) {
        buf_add_str(&line, "\"id\": ");
        json_dump(id, 0, &line);
        buf_add_str(&line, ", ");
    }
    buf_printf(&line, "\"answer\": %d, \"chosen\": %d, \"chosen_per_byte\": %d, \"logprobs\": [",
               a->question.answer, best, best_per_byte);
    for (int k = 0; k < a->question.n; k++) {
        buf_add_str(&line, k ? ", " : "");
        json_dump_real(scores[k], &line);
    }
    buf_add_str(&line, "], \"bytes\": [");
    for (int k = 0; k < a->question.n; k++)
        buf_printf(&line, "%s%zu", k ? ", " : "", strlen(a->question.texts[k]));
    buf_add_str(&line, "]}\n");
    fwrite(line.data, 1, line.n_bytes, out);
}

static int answer(struct generate *g, const struct asked *a, FILE *out, struct choices_result *ret,
                  struct hai_err *err) {
    double scores[CHOICES_MAX], per_byte[CHOICES_MAX];
    int best = 0, best_per_byte = 0;
    int r = score(g, a, scores, err);

    if (r < 0)
        return r;
    for (int k = 0; k < a->question.n; k++) {
        per_byte[k] = scores[k] / (double)strlen(a->question.texts[k]);
        best = scores[k] > scores[best] ? k : best;
        best_per_byte = per_byte[k] > per_byte[best_per_byte] ? k : best_per_byte;
    }
    ret->n_questions++;
    ret->n_right += best == a->question.answer;
    ret->n_right_per_byte += best_per_byte == a->question.answer;
    if (out)
        dump(a, scores, best, best_per_byte, out);
    return out && ferror(out) ? hai_fail(err, -EIO, "writing failed") : 0;
}

/* The questions of a file, whole in memory before the other file is opened for writing. */
static int read_file(const char *path, const char *out_path, struct tokenizer *t,
                     int64_t n_position, struct list *list, FILE **ret_out, struct hai_err *err) {
    FILE *in;

    int r = inout_open_in(path, &in, err);
    if (r < 0)
        return r;
    r = inout_check(in, path, out_path, err);
    if (r == 0)
        r = read_all(in, path, t, n_position, list, err);
    if (in != stdin)
        fclose(in);
    return r < 0 || !out_path ? r : inout_open_out(out_path, ret_out, err);
}

static int answer_all(struct generate *g, const struct list *list, FILE *out,
                      void (*said)(void *userdata, int64_t done, int64_t all), void *userdata,
                      struct choices_result *ret, struct hai_err *err) {
    int r = 0;

    for (size_t i = 0; r == 0 && i < list->n; i++) {
        r = answer(g, list->items[i], out, ret, err);
        if (said)
            said(userdata, (int64_t)i + 1, (int64_t)list->n);
    }
    return r;
}

int choices_run(const char *model, const struct generate_place *place, const char *path,
                const char *out_path, void (*said)(void *userdata, int64_t done, int64_t all),
                void *userdata, struct choices_result *ret, struct hai_err *err) {
    _cleanup_(tokenizer_freep) struct tokenizer *t = NULL;
    _cleanup_(generate_freep) struct generate *g = NULL;
    _cleanup_(list_free) struct list list = {0};
    struct model_config config;
    FILE *out = NULL;

    *ret = (struct choices_result){0};
    int r = config_read(model, &config, err);
    if (r == 0)
        r = tokenizer_read(model, &t, err);
    if (r == 0)
        r = read_file(path, out_path, t, config.n_position, &list, &out, err);
    if (r == 0)
        r = generate_open(model, place, list.n_tokens_max, &g, err);
    if (r == 0)
        r = answer_all(g, &list, out, said, userdata, ret, err);
    if (out && (out == stdout ? fflush(out) : fclose(out)) && r == 0)
        r = hai_fail(err, -errno, "%s: %m", out_path);
    return r;
}
