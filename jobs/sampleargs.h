/* sampleargs.h - the command-line options of sampling and stopping, for programs that generate.
 *
 * Names are those people know: temperature, top-p, frequency-penalty, presence-penalty, logit-bias,
 * stop and logprobs from OpenAI's API, top-k, min-p and repeat-penalty from llama.cpp.
 */
#pragma once
#include "engine/infer/sample.h"
#include "engine/infer/stop.h"

/* Values of the options in getopt's list, above all characters. */
enum {
    SAMPLEARGS_TEMPERATURE = 0x200,
    SAMPLEARGS_SEED,
    SAMPLEARGS_TOP_K,
    SAMPLEARGS_TOP_P,
    SAMPLEARGS_MIN_P,
    SAMPLEARGS_REPEAT,
    SAMPLEARGS_FREQUENCY,
    SAMPLEARGS_PRESENCE,
    SAMPLEARGS_BIAS,
    SAMPLEARGS_LOGPROBS,
    SAMPLEARGS_STOP,
    SAMPLEARGS_STOP_ID,
    SAMPLEARGS_KEEP_STOP,
};

/* Entries for an array of struct option. */
#define SAMPLEARGS_OPTIONS                                                                         \
    {"temperature", required_argument, NULL, SAMPLEARGS_TEMPERATURE},                              \
        {"seed", required_argument, NULL, SAMPLEARGS_SEED},                                        \
        {"top-k", required_argument, NULL, SAMPLEARGS_TOP_K},                                      \
        {"top-p", required_argument, NULL, SAMPLEARGS_TOP_P},                                      \
        {"min-p", required_argument, NULL, SAMPLEARGS_MIN_P},                                      \
        {"repeat-penalty", required_argument, NULL, SAMPLEARGS_REPEAT},                            \
        {"frequency-penalty", required_argument, NULL, SAMPLEARGS_FREQUENCY},                      \
        {"presence-penalty", required_argument, NULL, SAMPLEARGS_PRESENCE},                        \
        {"logit-bias", required_argument, NULL, SAMPLEARGS_BIAS},                                  \
        {"logprobs", required_argument, NULL, SAMPLEARGS_LOGPROBS},                                \
        {"stop", required_argument, NULL, SAMPLEARGS_STOP},                                        \
        {"stop-id", required_argument, NULL, SAMPLEARGS_STOP_ID}, {                                \
        "keep-stop", no_argument, NULL, SAMPLEARGS_KEEP_STOP                                       \
    }

/* The lines of --help about them. */
#define SAMPLEARGS_USAGE                                                                           \
    "  --temperature T    0: the likeliest token each time (default)\n"                            \
    "  --seed N           of the draws at other temperatures (default 0)\n"                        \
    "  --top-k N          draw among the N likeliest (0: all)\n"                                   \
    "  --top-p P          draw among the fewest likeliest with share P together (1: all)\n"        \
    "  --min-p P          draw among those with at least P times the largest share (0: all)\n"     \
    "  --repeat-penalty R        lower what the text has already, R above 1 (1: none)\n"           \
    "  --frequency-penalty F     lower what was generated, F for each time (0: none)\n"            \
    "  --presence-penalty F      lower what was generated at all, by F (0: none)\n"                \
    "  --logit-bias ID:B  add B to the logit of token ID (-inf: never); may be repeated\n"         \
    "  --logprobs N       print a JSON line a token: log probabilities of it and the N "           \
    "likeliest\n"                                                                                  \
    "  --stop TEXT        end before TEXT; may be repeated\n"                                      \
    "  --stop-id ID       end before token ID; may be repeated\n"                                  \
    "  --keep-stop        end after TEXT of --stop\n"

/* What the options said. options.biases points into it once sampleargs_rules has run. */
struct sampleargs {
    struct sample_options options;
    struct sample_bias biases[SAMPLE_BIASES_MAX];
    const char *stops[STOP_STRINGS_MAX];
    int32_t stop_ids[STOP_IDS_MAX];
    int n_stops, n_stop_ids;
    bool keep_stop;
};

/* No rule on, greedy. */
void sampleargs_init(struct sampleargs *a);

/* One option; code is one of the above and text its argument (kept). 0, or the exit status after a
 * message. */
int sampleargs_set(const char *program, int code, const char *text, struct sampleargs *a);

/* One option that is a number, by its name with hyphens or underscores ("top_p"). -ENOENT, err
 * untouched: there is none of that name; -EINVAL: out of range. */
int sampleargs_number(struct sampleargs *a, const char *name, double x, struct hai_err *err);

/* The rules of stopping. -EINVAL as stop_rules_new. */
int sampleargs_rules(struct sampleargs *a, struct stop_rules **ret, struct hai_err *err);
