#include "jobs/sampleargs.h"
#include "jobs/jobexit.h"
#include "jobs/modelargs.h"

#include <math.h>

void sampleargs_init(struct sampleargs *a) {
    *a = (struct sampleargs){.options = sample_defaults()};
}

/* "ID:BIAS" */
static int add_bias(const char *program, const char *text, struct sampleargs *a) {
    char *end;
    long id = strtol(text, &end, 10);
    const char *colon = end;

    if (end == text || *end != ':' || id < 0 || id >= SAMPLE_VOCAB_MAX)
        return jobexit_usage(program, "--logit-bias is '%s'; expected ID:BIAS", text);
    double bias = strtod(colon + 1, &end);
    if (end == colon + 1 || *end || isnan(bias) || bias > 1e6)
        return jobexit_usage(program, "--logit-bias is '%s'; expected a bias of at most 1e6", text);
    if (a->options.n_biases == SAMPLE_BIASES_MAX)
        return jobexit_usage(program, "--logit-bias more than %d times", SAMPLE_BIASES_MAX);
    a->biases[a->options.n_biases++] = (struct sample_bias){(int32_t)id, (float)bias};
    return 0;
}

static int add_stop(const char *program, const char *text, struct sampleargs *a) {
    if (!*text || strlen(text) > STOP_BYTES_MAX)
        return jobexit_usage(program, "--stop has %zu bytes; expected 1 to %d", strlen(text),
                             STOP_BYTES_MAX);
    if (a->n_stops == STOP_STRINGS_MAX)
        return jobexit_usage(program, "--stop more than %d times", STOP_STRINGS_MAX);
    a->stops[a->n_stops++] = text;
    return 0;
}

static int add_stop_id(const char *program, const char *text, struct sampleargs *a) {
    double id;
    int status = modelargs_number(program, "--stop-id", text, 0, SAMPLE_VOCAB_MAX - 1, true, &id);

    if (status)
        return status;
    if (a->n_stop_ids == STOP_IDS_MAX)
        return jobexit_usage(program, "--stop-id more than %d times", STOP_IDS_MAX);
    a->stop_ids[a->n_stop_ids++] = (int32_t)id;
    return 0;
}

/* Options that are one number. The smallest positive double stands for "above 0". */
static const struct {
    int code;
    const char *name;
    double low, high;
    bool whole;
} numbers[] = {
    {SAMPLEARGS_TEMPERATURE, "--temperature",       0,    1000,                false},
    {SAMPLEARGS_SEED,        "--seed",              0,    9e15,                true },
    {SAMPLEARGS_TOP_K,       "--top-k",             0,    SAMPLE_VOCAB_MAX,    true },
    {SAMPLEARGS_TOP_P,       "--top-p",             1e-9, 1,                   false},
    {SAMPLEARGS_MIN_P,       "--min-p",             0,    1,                   false},
    {SAMPLEARGS_REPEAT,      "--repeat-penalty",    1e-9, 100,                 false},
    {SAMPLEARGS_FREQUENCY,   "--frequency-penalty", -100, 100,                 false},
    {SAMPLEARGS_PRESENCE,    "--presence-penalty",  -100, 100,                 false},
    {SAMPLEARGS_LOGPROBS,    "--logprobs",          0,    SAMPLE_LOGPROBS_MAX, true },
};

static void set_number(int code, double x, struct sample_options *o) {
    switch (code) {
    case SAMPLEARGS_TEMPERATURE:
        o->temperature = x;
        break;
    case SAMPLEARGS_SEED:
        o->seed = (uint64_t)x;
        break;
    case SAMPLEARGS_TOP_K:
        o->top_k = (int32_t)x;
        break;
    case SAMPLEARGS_TOP_P:
        o->top_p = x;
        break;
    case SAMPLEARGS_MIN_P:
        o->min_p = x;
        break;
    case SAMPLEARGS_REPEAT:
        o->repeat_penalty = x;
        break;
    case SAMPLEARGS_FREQUENCY:
        o->frequency_penalty = x;
        break;
    case SAMPLEARGS_PRESENCE:
        o->presence_penalty = x;
        break;
    default:
        o->n_logprobs = (int32_t)x;
    }
}

int sampleargs_set(const char *program, int code, const char *text, struct sampleargs *a) {
    double x;

    if (code == SAMPLEARGS_BIAS)
        return add_bias(program, text, a);
    if (code == SAMPLEARGS_STOP)
        return add_stop(program, text, a);
    if (code == SAMPLEARGS_STOP_ID)
        return add_stop_id(program, text, a);
    if (code == SAMPLEARGS_KEEP_STOP) {
        a->keep_stop = true;
        return 0;
    }
    for (size_t i = 0; i < ARRAY_SIZE(numbers); i++) {
        if (numbers[i].code != code)
            continue;
        int status = modelargs_number(program, numbers[i].name, text, numbers[i].low,
                                      numbers[i].high, numbers[i].whole, &x);
        if (!status)
            set_number(code, x, &a->options);
        return status;
    }
    return JOBEXIT_USAGE;
}

/* Is this the option --NAME, with hyphens or underscores? */
static bool is_named(const char *option, const char *name) {
    option += 2;
    for (; *option && (*option == *name || (*option == '-' && *name == '_')); option++)
        name++;
    return !*option && !*name;
}

int sampleargs_number(struct sampleargs *a, const char *name, double x, struct hai_err *err) {
    for (size_t i = 0; i < ARRAY_SIZE(numbers); i++) {
        if (!is_named(numbers[i].name, name))
            continue;
        if (!(x >= numbers[i].low && x <= numbers[i].high) || (numbers[i].whole && x != floor(x)))
            return hai_fail(err, -EINVAL, "%s is %.10g; expected a %snumber from %.10g to %.10g",
                            name, x, numbers[i].whole ? "whole " : "", numbers[i].low,
                            numbers[i].high);
        set_number(numbers[i].code, x, &a->options);
        return 0;
    }
    return -ENOENT;
}

int sampleargs_rules(struct sampleargs *a, struct stop_rules **ret, struct hai_err *err) {
    a->options.biases = a->biases;
    return stop_rules_new(a->stops, a->n_stops, a->stop_ids, a->n_stop_ids, a->keep_stop, ret, err);
}
