#include "engine/train/trainconf.h"
#include "engine/data/sampler.h"
#include "engine/model/model.h"
#include "engine/train/initial.h"
#include "lib/fileio.h"
#include "lib/size.h"
#include "lib/yaml.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

enum {
    FILE_BYTES_MAX = 1 << 20,
    FILES_MAX = 65536,
    TOKENS_MAX = 1 << 28, // of one forward pass
    SHARE_MAX = 1 << 30,  // of one rank's part of a step
};

enum kind {
    KIND_TEXT,    // char *
    KIND_WHOLE,   // int64_t
    KIND_NUMBER,  // double
    KIND_SIZE,    // int64_t
    KIND_TEXTS,   // files
    KIND_SOURCES, // struct sourceconf, of one stage
    KIND_STAGES,  // struct sourceconf
    KIND_PARTS,   // struct schedule_parts
    KIND_SHAPE,   // schedule kind
    KIND_CURVE,   // "linear" or "cosine"
    KIND_BACKEND, // "ref" or "cpu"
    KIND_OVER,    // "sequence" or "micro_batch"
    KIND_EXACT,   // "preferred" or "required"
    KIND_PRECISION,
    KIND_FORMAT,
    KIND_SUM,
    KIND_WITHIN, // "within" or "across"
    KIND_METHOD, // "pretrain" or "sft"
    KIND_LONG,   // "refuse" or "cut"
};

/* Every key: block ("" for the top), name, how it is read and where it goes, bounds. */
#define AT(field) offsetof(struct trainconf, field)
static const struct key {
    const char *block, *name;
    enum kind kind;
    size_t at;
    double low, high;
} keys[] = {
    {"",           "model",               KIND_TEXT,      AT(model),                  0,     0                },
    {"",           "method",              KIND_METHOD,    AT(sft),                    0,     0                },
    {"",           "init",                KIND_TEXT,      AT(init),                   0,     0                },
    {"",           "out",                 KIND_TEXT,      AT(out),                    0,     0                },
    {"",           "log",                 KIND_TEXT,      AT(log),                    0,     0                },
    {"",           "metrics",             KIND_TEXT,      AT(metrics),                0,     0                },
    {"",           "steps",               KIND_WHOLE,     AT(steps),                  1,     1e12             },
    {"",           "batch",               KIND_WHOLE,     AT(batch),                  1,     1 << 24          },
    {"",           "micro_batch",         KIND_WHOLE,     AT(micro_batch),            1,     1 << 20          },
    {"",           "seq",                 KIND_WHOLE,     AT(seq),                    2,     1 << 24          },
    {"",           "seed",                KIND_WHOLE,     AT(seed),                   0,     9e15             },
    {"",           "threads",             KIND_WHOLE,     AT(threads),                1,     MODEL_THREADS_MAX},
    {"",           "backend",             KIND_BACKEND,   AT(backend),                0,     0                },
    {"",           "exact",               KIND_EXACT,     AT(exact),                  0,     0                },
    {"",           "precision",           KIND_PRECISION, AT(precision.kind),         0,     0                },
    {"",           "fp8",                 KIND_FORMAT,    AT(precision.format),       0,     0                },
    {"",           "accumulate",          KIND_SUM,       AT(precision.sum),          0,     0                },
    {"data",       "files",               KIND_TEXTS,     AT(files),                  0,     0                },
    {"data",       "sources",             KIND_SOURCES,   AT(sources),                0,     0                },
    {"data",       "form",                KIND_TEXT,      AT(chat_form),              0,     0                },
    {"data",       "long",                KIND_LONG,      AT(cut),                    0,     0                },
    {"data",       "record",              KIND_TEXT,      AT(record),                 0,     0                },
    {"data",       "stages",              KIND_STAGES,    AT(sources),                0,     0                },
    {"data",       "documents",           KIND_WITHIN,    AT(within),                 0,     0                },
    {"data",       "tokenizer",           KIND_TEXT,      AT(tokenizer),              0,     0                },
    {"data",       "max",                 KIND_SIZE,      AT(max_bytes),              0,     0                },
    {"schedule",   "kind",                KIND_SHAPE,     AT(schedule.kind),          0,     0                },
    {"schedule",   "warmup",              KIND_WHOLE,     AT(schedule.warmup),        0,     1e12             },
    {"schedule",   "final",               KIND_NUMBER,    AT(schedule.final),         0,     1                },
    {"schedule",   "factor",              KIND_NUMBER,    AT(schedule.factor),        0,     1                },
    {"schedule",   "at",                  KIND_PARTS,     AT(schedule.at),            0,     1                },
    {"schedule",   "decay",               KIND_NUMBER,    AT(schedule.decay),         0,     1                },
    {"schedule",   "curve",               KIND_CURVE,     AT(schedule.curve),         0,     0                },
    {"schedule",   "tail_at",             KIND_PARTS,     AT(schedule.tail_at),       0,     1                },
    {"schedule",   "tail",                KIND_PARTS,     AT(schedule.tail),          0,     1                },
    {"ramp",       "from",                KIND_WHOLE,     AT(schedule.ramp.from),     1,     1 << 24          },
    {"ramp",       "tokens",              KIND_WHOLE,     AT(schedule.ramp.tokens),   1,     1e15             },
    {"ramp",       "multiple",            KIND_WHOLE,     AT(schedule.ramp.multiple), 1,     1 << 24          },
    {"optimizer",  "lr",                  KIND_NUMBER,    AT(schedule.rate),          1e-12, 1e3              },
    {"optimizer",  "beta1",               KIND_NUMBER,    AT(beta1),                  0,     0.99999          },
    {"optimizer",  "beta2",               KIND_NUMBER,    AT(beta2),                  0,     0.99999          },
    {"optimizer",  "eps",                 KIND_NUMBER,    AT(eps),                    1e-30, 1                },
    {"optimizer",  "weight_decay",        KIND_NUMBER,    AT(weight_decay),           0,     100              },
    {"optimizer",  "clip",                KIND_NUMBER,    AT(clip),                   0,     1e9              },
    {"loss",       "mtp_weight",          KIND_NUMBER,    AT(mtp_weight),             0,     100              },
    {"loss",       "balance_alpha",       KIND_NUMBER,    AT(balance_alpha),          0,     100              },
    {"loss",       "device_alpha",        KIND_NUMBER,    AT(device_alpha),           0,     100              },
    {"loss",       "communication_alpha", KIND_NUMBER,    AT(communication_alpha),    0,     100              },
    {"loss",       "balance_groups",      KIND_WHOLE,     AT(balance_groups),         1,     1024             },
    {"loss",       "max_groups",          KIND_WHOLE,     AT(max_groups),             1,     1024             },
    {"loss",       "balance_over",        KIND_OVER,      0,                          0,     0                },
    {"loss",       "bias_rate",           KIND_NUMBER,    AT(bias_rate),              0,     1                },
    {"loss",       "bias_until",          KIND_NUMBER,    AT(bias_until),             0,     1                },
    {"dropping",   "capacity",            KIND_NUMBER,    AT(drop_capacity),          0,     1024             },
    {"dropping",   "whole",               KIND_NUMBER,    AT(drop_whole),             0,     1                },
    {"ema",        "decay",               KIND_NUMBER,    AT(ema_decay),              0,     0.9999999        },
    {"spikes",     "loss",                KIND_NUMBER,    AT(spikes.loss),            0,     1e6              },
    {"spikes",     "norm",                KIND_NUMBER,    AT(spikes.norm),            0,     1e6              },
    {"spikes",     "window",              KIND_WHOLE,     AT(spikes.window),          8,     SPIKES_WINDOW_MAX},
    {"spikes",     "patience",            KIND_WHOLE,     AT(spikes.patience),        0,     1000             },
    {"spikes",     "back",                KIND_WHOLE,     AT(spikes.backs),           0,     1000             },
    {"checkpoint", "dir",                 KIND_TEXT,      AT(ckpt_dir),               0,     0                },
    {"checkpoint", "every",               KIND_WHOLE,     AT(ckpt_every),             0,     1e12             },
    {"checkpoint", "keep",                KIND_WHOLE,     AT(ckpt_keep),              1,     1e6              },
};
#undef AT

void trainconf_init(struct trainconf *conf) {
    *conf = (struct trainconf){
        .steps = 1000,
        .batch = 8,
        .seq = 256,
        .threads = 1,
        .backend = K_BACKEND_CPU,
        .schedule = {.kind = SCHEDULE_COSINE,
                     .rate = 3e-4,
                     .final = 0.1,
                     .factor = 0.316,
                     .at = {{0.8, 0.9}, 2},
                     .decay = 0.1},
        .beta1 = 0.9,
        .beta2 = 0.95,
        .eps = 1e-8,
        .weight_decay = 0.1,
        .clip = 1,
        .mtp_weight = 0.3,
        .balance_alpha = -1,
        .balance_groups = 1,
        .max_groups = 1,
        .bias_rate = 0.001,
        .bias_until = 1,
        .drop_whole = 0.1,
        .spikes = {.window = 100,   .patience = 3, .backs = 3},
        .ckpt_every = 100,
        .ckpt_keep = 3,
    };
}

static void files_free(struct trainconf *conf) {
    for (size_t i = 0; i < conf->n_files; i++)
        free(conf->files[i]);
    free(TAKE_PTR(conf->files));
    conf->n_files = 0;
}

void trainconf_free(struct trainconf *conf) {
    files_free(conf);
    free(conf->model);
    free(conf->init);
    free(conf->out);
    free(conf->log);
    free(conf->metrics);
    free(conf->tokenizer);
    free(conf->ckpt_dir);
    free(conf->record);
    free(conf->chat_form);
    sourceconf_free(&conf->sources);
}

struct reader {
    const char *path;
    struct trainconf *conf;
    struct hai_err *err;
};

static int fail_at(const struct reader *x, int line, int column, const char *code, const char *hint,
                   const char *format, ...) _printf_(6, 7);

static int fail_at(const struct reader *x, int line, int column, const char *code, const char *hint,
                   const char *format, ...) {
    char where[HAI_ERR_WHERE_BYTES], text[HAI_ERR_TEXT_BYTES];
    va_list ap;

    va_start(ap, format);
    (void)vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    (void)snprintf(where, sizeof where, "%s:%d:%d", x->path, line, column);
    return hai_fail_at(x->err, -EINVAL, code, where, hint, "%s", text);
}

/* "seq is 1; expected 2 to 16777216" */
static int bad_value(const struct reader *x, const struct key *key, const struct json *v,
                     const char *expected) {
    _cleanup_(buf_free) struct buf text = {0};

    json_dump(v, 0, &text);
    return fail_at(x, json_line(v), json_column(v), "bad_value", NULL, "%s is %.100s; expected %s",
                   key->name, buf_cstr(&text), expected);
}

static int read_number(const struct reader *x, const struct key *key, const struct json *v,
                       double *ret) {
    char expected[80];
    bool whole = key->kind == KIND_WHOLE;

    snprintf(expected, sizeof expected, "a %snumber from %.10g to %.10g", whole ? "whole " : "",
             key->low, key->high);
    if (json_kind(v) != JSON_KIND_INT && (whole || json_kind(v) != JSON_KIND_REAL))
        return bad_value(x, key, v, expected);
    *ret = json_as_real(v);
    if (!(*ret >= key->low && *ret <= key->high))
        return bad_value(x, key, v, expected);
    return 0;
}

static int read_text(const struct reader *x, const struct key *key, const struct json *v,
                     char **ret) {
    if (json_kind(v) != JSON_KIND_STRING || !json_as_string(v)[0])
        return bad_value(x, key, v, "text");
    hai_strset(ret, json_as_string(v));
    return 0;
}

static int read_files(const struct reader *x, const struct key *key, const struct json *v) {
    struct trainconf *conf = x->conf;

    files_free(conf);
    if (json_kind(v) == JSON_KIND_STRING) {
        conf->files = hai_new_array(char *, 1);
        conf->files[conf->n_files++] = hai_strdup(json_as_string(v));
        return 0;
    }
    if (json_kind(v) != JSON_KIND_ARRAY || !json_count(v) || json_count(v) > FILES_MAX)
        return bad_value(x, key, v, "a list of paths");
    conf->files = hai_new_array(char *, json_count(v));
    for (const struct json *f = json_first(v); f; f = json_next(f)) {
        if (json_kind(f) != JSON_KIND_STRING)
            return bad_value(x, key, f, "a path");
        conf->files[conf->n_files++] = hai_strdup(json_as_string(f));
    }
    return 0;
}

static int read_parts(const struct reader *x, const struct key *key, const struct json *v,
                      struct schedule_parts *ret) {
    if (json_kind(v) != JSON_KIND_ARRAY || json_count(v) > SCHEDULE_PARTS_MAX)
        return bad_value(x, key, v, "a list of at most 16 numbers from 0 to 1");
    ret->n = 0;
    for (const struct json *p = json_first(v); p; p = json_next(p)) {
        int r = read_number(x, key, p, &ret->values[ret->n++]);
        if (r < 0)
            return r;
    }
    return 0;
}

static int read_size(const struct reader *x, const struct key *key, const struct json *v,
                     int64_t *ret) {
    if (json_kind(v) != JSON_KIND_STRING || size_parse(json_as_string(v), ret, NULL) < 0)
        return bad_value(x, key, v, "a size with its unit, such as 8MiB");
    return 0;
}

/* One of two words: which, as a bool. */
static int read_choice(const struct reader *x, const struct key *key, const struct json *v,
                       const char *text) {
    static const struct {
        enum kind kind;
        const char *no, *yes;
    } choices[] = {
        {KIND_EXACT,  "preferred", "required"},
        {KIND_WITHIN, "across",    "within"  },
        {KIND_METHOD, "pretrain",  "sft"     },
        {KIND_LONG,   "refuse",    "cut"     },
    };
    char expected[40];
    size_t i = 0;

    while (choices[i].kind != key->kind)
        i++;
    bool yes = hai_streq(text, choices[i].yes);
    snprintf(expected, sizeof expected, "%s or %s", choices[i].no, choices[i].yes);
    if (!yes && !hai_streq(text, choices[i].no))
        return bad_value(x, key, v, expected);
    *(bool *)((uint8_t *)x->conf + key->at) = yes;
    return 0;
}

/* One of a few words. */
static int read_word(const struct reader *x, const struct key *key, const struct json *v) {
    const char *text = json_kind(v) == JSON_KIND_STRING ? json_as_string(v) : "";
    struct trainconf *conf = x->conf;
    int r;

    switch (key->kind) {
    case KIND_SHAPE:
        r = schedule_kind_parse(text);
        if (r < 0)
            return bad_value(x, key, v, "constant, cosine, multi_step or wsd");
        conf->schedule.kind = r;
        return 0;
    case KIND_CURVE:
        r = schedule_curve_parse(text);
        if (r < 0)
            return bad_value(x, key, v, "linear or cosine");
        conf->schedule.curve = r;
        return 0;
    case KIND_BACKEND:
        if (k_backend_parse(text, &conf->backend, NULL) < 0)
            return bad_value(x, key, v, "ref or cpu");
        return 0;
    case KIND_OVER:
        if (!hai_streq(text, "sequence") && !hai_streq(text, "micro_batch"))
            return bad_value(x, key, v, "sequence or micro_batch");
        conf->balance_micro_batch = hai_streq(text, "micro_batch");
        return 0;
    case KIND_PRECISION:
        r = precision_parse(text);
        if (r < 0)
            return bad_value(x, key, v, "f32, bf16 or fp8");
        conf->precision.kind = (enum precision_kind)r;
        return 0;
    case KIND_FORMAT:
        r = precision_format_parse(text);
        if (r < 0)
            return bad_value(x, key, v, "e4m3, e5m2 or hybrid");
        conf->precision.format = (enum precision_format)r;
        return 0;
    case KIND_SUM:
        r = precision_sum_parse(text);
        if (r < 0)
            return bad_value(x, key, v, "fp32, hopper14 or hopper14_promoted");
        conf->precision.sum = (enum k_sum)r;
        return 0;
    default:
        return read_choice(x, key, v, text);
    }
}

static int read_value(const struct reader *x, const struct key *key, const struct json *v) {
    void *at = (uint8_t *)x->conf + key->at;
    double number = 0;
    int r;

    switch (key->kind) {
    case KIND_TEXT:
        return read_text(x, key, v, at);
    case KIND_WHOLE:
        r = read_number(x, key, v, &number);
        if (r == 0)
            *(int64_t *)at = (int64_t)number;
        return r;
    case KIND_NUMBER:
        r = read_number(x, key, v, &number);
        if (r == 0)
            *(double *)at = number;
        return r;
    case KIND_SIZE:
        return read_size(x, key, v, at);
    case KIND_TEXTS:
        return read_files(x, key, v);
    case KIND_SOURCES:
        return sourceconf_read_sources(v, x->path, at, x->err);
    case KIND_STAGES:
        return sourceconf_read_stages(v, x->path, at, x->err);
    case KIND_PARTS:
        return read_parts(x, key, v, at);
    default:
        return read_word(x, key, v);
    }
}

/* The nearest name of a block, or NULL if none is near. Blocks are names of the top. */
static const char *nearest(const char *block, const char *name) {
    const char *best = NULL;
    int best_distance = 4;

    for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
        const char *other = hai_streq(keys[i].block, block) ? keys[i].name
                            : !block[0]                     ? keys[i].block
                                                            : NULL;
        int d = other ? hai_distance(name, other) : best_distance;
        if (d < best_distance) {
            best_distance = d;
            best = other;
        }
    }
    return best;
}

static int unknown(const struct reader *x, const char *block, const struct json *v) {
    const char *near = nearest(block, json_key(v));
    char hint[HAI_ERR_HINT_BYTES] = "";

    if (near)
        snprintf(hint, sizeof hint, "did you mean '%s'?", near);
    return fail_at(x, json_key_line(v), json_key_column(v), "unknown_field", hint,
                   "unknown field '%.60s'%s%s%s%s%s", json_key(v), block[0] ? " in '" : "", block,
                   block[0] ? "'" : "", near ? "; " : "", hint);
}

static bool is_block(const char *name) {
    for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
        if (keys[i].block[0] && hai_streq(keys[i].block, name))
            return true;
    return false;
}

static int read_block(const struct reader *x, const char *block, const struct json *object) {
    int r = 0;

    if (json_kind(object) != JSON_KIND_OBJECT)
        return fail_at(x, MAX(json_line(object), 1), MAX(json_column(object), 1), "bad_value", NULL,
                       "%s%s: expected keys and values", block[0] ? block : "file", "");
    for (const struct json *v = json_first(object); r == 0 && v; v = json_next(v)) {
        const struct key *key = NULL;
        for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
            if (hai_streq(keys[i].block, block) && hai_streq(keys[i].name, json_key(v)))
                key = &keys[i];
        if (key)
            r = read_value(x, key, v);
        else if (!block[0] && is_block(json_key(v)))
            r = read_block(x, json_key(v), v);
        else
            r = unknown(x, block, v);
    }
    return r;
}

int trainconf_read(const char *path, struct trainconf *conf, struct hai_err *err) {
    _cleanup_(json_freep) struct json *root = NULL;
    _cleanup_(buf_free) struct buf text = {0};
    const struct reader x = {path, conf, err};
    int r = fileio_read_file(path, FILE_BYTES_MAX, &text, err);

    if (r == 0)
        r = yaml_parse(text.data, text.n_bytes, path, &root, err);
    if (r == 0)
        r = read_block(&x, "", root);
    return r;
}

void trainconf_set(struct trainconf *conf, const char *model, const char *out,
                   const char *const *files, size_t n_files) {
    if (model)
        hai_strset(&conf->model, model);
    if (out)
        hai_strset(&conf->out, out);
    if (!n_files)
        return;
    sourceconf_free(&conf->sources);
    files_free(conf);
    conf->files = hai_new_array(char *, n_files);
    for (; conf->n_files < n_files; conf->n_files++)
        conf->files[conf->n_files] = hai_strdup(files[conf->n_files]);
}

/* Losses and dropping over groups of experts need those; what looks at a micro-batch needs one that
 * is the same at any number of ranks. */
static int check_balance(const struct trainconf *conf, int world, struct hai_err *err) {
    bool drops = conf->drop_capacity > 0;
    const char *user = conf->device_alpha > 0          ? "loss.device_alpha"
                       : conf->communication_alpha > 0 ? "loss.communication_alpha"
                       : drops                         ? "dropping.capacity"
                                                       : NULL;

    if (user && conf->balance_groups < 2)
        return hai_fail(err, -EINVAL,
                        "loss.balance_groups is %" PRId64 "; expected at least 2 for %s",
                        conf->balance_groups, user);
    if (conf->max_groups > conf->balance_groups)
        return hai_fail(err, -EINVAL,
                        "loss.max_groups is %" PRId64
                        "; expected at most loss.balance_groups, %" PRId64,
                        conf->max_groups, conf->balance_groups);
    if (!drops && !conf->balance_micro_batch)
        return 0;
    user = drops ? "dropping.capacity" : "loss.balance_over: micro_batch";
    if (!conf->micro_batch)
        return hai_fail(err, -EINVAL,
                        "'micro_batch' is missing; %s expects it, so that the number of ranks "
                        "changes nothing",
                        user);
    const struct schedule_ramp *ramp = &conf->schedule.ramp;
    int64_t step = ramp->multiple ? ramp->multiple : ramp->from ? ramp->from : conf->batch;
    if (step % (world * conf->micro_batch))
        return hai_fail(err, -EINVAL,
                        "micro_batch is %" PRId64 "; %s expects %s, %" PRId64
                        ", to be a multiple of it times the ranks, %d",
                        conf->micro_batch, user,
                        ramp->multiple ? "ramp.multiple"
                        : ramp->from   ? "ramp.from"
                                       : "batch",
                        step, world);
    return 0;
}

const char *trainconf_model(const struct trainconf *conf) {
    return conf->model                                    ? conf->model
           : conf->init && initial_has_config(conf->init) ? conf->init
                                                          : NULL;
}

const char *trainconf_tokenizer(const struct trainconf *conf) {
    return conf->tokenizer                                   ? conf->tokenizer
           : conf->init && initial_has_tokenizer(conf->init) ? conf->init
                                                             : "bytes";
}

int trainconf_check(const struct trainconf *conf, int world, struct hai_err *err) {
    if (!trainconf_model(conf))
        return hai_fail(err, -EINVAL, "'model' is missing; expected a config.json or its folder");
    if (!conf->n_files == !conf->sources.n)
        return hai_fail(err, -EINVAL,
                        "%s; expected files, folders or patterns of text in 'data.files', or "
                        "folders of shards in 'data.sources' or 'data.stages'",
                        conf->n_files ? "'data.files' and folders of shards are both there"
                                      : "'data.files' is missing");
    if (conf->sft && conf->sources.n)
        return hai_fail(err, -EINVAL,
                        "folders of shards with 'method: sft'; expected files of conversations in "
                        "'data.files'");
    if (conf->backend == K_BACKEND_CUDA)
        return hai_fail(err, -ENOSYS, "backend cuda: not built");
    int64_t share = sampler_share(conf->batch, 0, world).n; // the first rank's is the largest
    if (conf->batch < world)
        return hai_fail(err, -EINVAL,
                        "batch is %" PRId64 "; expected one sample or more for each "
                        "of the %d ranks",
                        conf->batch, world);
    if (MAX(conf->micro_batch, INT64_C(1)) * conf->seq > TOKENS_MAX ||
        (!conf->micro_batch && share * conf->seq > TOKENS_MAX))
        return hai_fail(err, -EINVAL, "more than %d tokens at once; expected a smaller micro_batch",
                        TOKENS_MAX);
    if (share * conf->seq > SHARE_MAX)
        return hai_fail(err, -EINVAL,
                        "batch and seq make %" PRId64 " tokens a step on each of %d ranks; "
                        "expected at most %d",
                        share * conf->seq, world, SHARE_MAX);
    int r = check_balance(conf, world, err);
    if (r < 0)
        return r;
    struct schedule schedule;
    trainconf_schedule(conf, &schedule);
    return schedule_check(&schedule, err);
}

void trainconf_schedule(const struct trainconf *conf, struct schedule *ret) {
    *ret = conf->schedule;
    ret->steps = conf->steps;
    ret->batch = conf->batch;
    ret->seq = conf->seq;
}
