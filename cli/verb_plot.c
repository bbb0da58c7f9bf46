/* hai plot: the curves of a training job, from the metrics file that hai-train writes. */
#include "cli/curves.h"
#include "cli/terminal.h"
#include "cli/verbs.h"
#include "cli/view.h"
#include "lib/fileio.h"
#include "lib/json_schema.h"
#include "lib/yaml.h"
#include "wire/messages.h"

#include <langinfo.h>
#include <locale.h>
#include <stdio.h>
#include <sys/stat.h>

enum { CONFIG_BYTES_MAX = 1 << 20, ROWS = 12, COLUMNS = 80 };

static const struct option options[] = {
    {0,       "curve", "NAME", "this member of the metrics (default: loss and tokens_per_s; repeat)"},
    {0, "svg", "FILE", "write the curves as a picture"},
    {0      },
};

static const char *const usual[] = {"loss", "tokens_per_s"};

/* path, if it is not absolute, seen from a job's working directory. */
static char *from_dir(const char *dir, const char *path) {
    return path[0] == '/' || !dir || !dir[0] ? hai_strdup(path) : hai_asprintf("%s/%s", dir, path);
}

/* Where the training file says that metrics go; `out` of the job goes over the file's. */
static int path_of_config(const char *workdir, const struct job_train *train, char **ret,
                          struct hai_err *err) {
    _cleanup_free_ char *path = from_dir(workdir, train->config);
    _cleanup_(json_freep) struct json *tree = NULL;
    _cleanup_(buf_free) struct buf text = {0};
    int r = fileio_read_file(path, CONFIG_BYTES_MAX, &text, err);

    if (r == 0)
        r = yaml_parse(text.data, text.n_bytes, path, &tree, err);
    if (r < 0)
        return r;
    const char *metrics = json_get_string(tree, "metrics", NULL);
    const char *out = train->out ? train->out : json_get_string(tree, "out", NULL);
    if (!metrics && !out)
        return hai_fail(err, -EINVAL, "%s: neither 'metrics' nor 'out'; the run writes no metrics",
                        path);
    _cleanup_free_ char *file =
        metrics ? hai_strdup(metrics) : hai_asprintf("%s/metrics.jsonl", out);
    *ret = from_dir(workdir, file);
    return 0;
}

static int path_of_job(struct cli *cli, const char *job, char **ret, struct hai_err *err) {
    _cleanup_(buf_free) struct buf target = {0};
    _cleanup_(json_freep) struct json *tree = NULL;
    struct job_spec spec = {0};

    cli_job_target(job, "/spec", &target);
    int r = cli_ask(cli, "GET", buf_cstr(&target), NULL, NULL, &tree, err);
    if (r < 0)
        return r;
    r = json_schema_decode(job_spec_schema(), tree, JSON_SCHEMA_WIRE, JSON_SCHEMA_IGNORE_UNKNOWN,
                           NULL, &spec, NULL, err);
    if (r < 0)
        return -EPROTO;
    if (spec.kind != JOB_KIND_TRAIN)
        r = hai_fail(err, -EINVAL, "job %s is of another kind than train; give its metrics file",
                     job ? job : "(the last one)");
    else
        r = path_of_config(spec.workdir, &spec.train, ret, err);
    schema_free(job_spec_schema(), &spec);
    return r;
}

/* A file that is there, or a job. */
static int find_path(struct cli *cli, char **ret, struct hai_err *err) {
    const char *word = cli->n_words ? cli->words[0] : NULL;
    struct stat st;

    if (word && (strchr(word, '/') || (stat(word, &st) == 0 && S_ISREG(st.st_mode)))) {
        *ret = hai_strdup(word);
        return 0;
    }
    return path_of_job(cli, word, ret, err);
}

/* The curves asked for; with an unknown one the message names those that there are. */
static int choose(const struct cli *cli, const struct curves *c, const struct curve **ret,
                  size_t *ret_n, struct hai_err *err) {
    const char *names[CURVES_MAX];
    size_t n = 0;

    for (int i = 0; i < cli->n_values && n < CURVES_MAX; i++)
        if (hai_streq(cli->values[i].option->name, "curve"))
            names[n++] = cli->values[i].value;
    for (size_t i = 0; n == 0 && i < ARRAY_SIZE(usual); i++)
        if (curves_find(c, usual[i]))
            ret[(*ret_n)++] = curves_find(c, usual[i]);
    for (size_t i = 0; i < n; i++) {
        const struct curve *found = curves_find(c, names[i]);
        if (!found) {
            _cleanup_(buf_free) struct buf known = {0};
            for (size_t k = 0; k < c->n; k++)
                buf_printf(&known, "%s%s", k ? ", " : "", c->items[k].name);
            return hai_fail(err, -EINVAL, "--curve is '%s'; expected one of %s", names[i],
                            buf_cstr(&known));
        }
        ret[(*ret_n)++] = found;
    }
    return 0;
}

static void print_text(const struct curves *c, const struct curve *const *chosen, size_t n) {
    _cleanup_(buf_free) struct buf out = {0};
    uint16_t rows, columns;

    terminal_size(&rows, &columns);
    setlocale(LC_CTYPE, "");
    bool braille = hai_streq(nl_langinfo(CODESET), "UTF-8");
    for (size_t i = 0; i < n; i++)
        curves_text(c, chosen[i], columns ? columns : COLUMNS, ROWS, braille, &out);
    view_print(&out);
}

static void print_json(const struct curves *c, const struct curve *const *chosen, size_t n) {
    _cleanup_(json_freep) struct json *root = json_new_object();
    struct json *steps = json_new_array();

    for (size_t i = 0; i < c->n_steps; i++)
        json_append(steps, json_new_int(c->first_step + (int64_t)i));
    json_add(root, "step", steps);
    for (size_t k = 0; k < n; k++) {
        struct json *values = json_new_array();
        for (size_t i = 0; i < c->n_steps; i++)
            json_append(values, json_new_real(chosen[k]->values[i]));
        json_add(root, chosen[k]->name, values);
    }
    cli_print_json(root);
}

static int show(const struct cli *cli, const struct curves *c, const char *path,
                struct hai_err *err) {
    const struct curve *chosen[CURVES_MAX];
    const char *svg = cli_option(cli, "svg");
    size_t n = 0;
    int r = choose(cli, c, chosen, &n, err);

    if (r < 0)
        return r;
    if (svg) {
        _cleanup_(buf_free) struct buf picture = {0};
        curves_svg(c, chosen, n, path, &picture);
        r = fileio_replace(svg, picture.data, picture.n_bytes, 0644, err);
        if (r < 0)
            return r;
        cli_note(cli, "%s: %zu curves over %zu steps", svg, n, c->n_steps);
    }
    if (cli->json)
        print_json(c, chosen, n);
    else if (!svg)
        print_text(c, chosen, n);
    if (c->n_skipped)
        cli_note(cli, "%zu batches were passed over", c->n_skipped);
    return 0;
}

static int run(struct cli *cli) {
    _cleanup_free_ char *path = NULL;
    struct curves curves = {0};
    struct hai_err err = {0};
    int r = find_path(cli, &path, &err);

    if (r == 0)
        r = curves_read(path, &curves, &err);
    if (r == 0)
        r = show(cli, &curves, path, &err);
    curves_free(&curves);
    return r < 0 ? cli_fail(cli, r, &err) : CLI_OK;
}

const struct verb verb_plot = {
    .name = "plot",
    .group = "watch",
    .args = "[JOB|FILE]",
    .help = "curves of a training job: loss, throughput, expert load",
    .detail =
        "Reads the metrics that hai-train appends to (OUT/metrics.jsonl), where this machine\n"
        "sees the job's folder; FILE is such a file.",
    .examples = "  hai plot 42\n  hai plot 42 --curve loss --curve grad_norm --svg loss.svg\n"
                "  hai plot out/llama-1m/metrics.jsonl\n",
    .options = options,
    .words_max = 1,
    .run = run,
};
