/* engineargs.h - the command-line options of programs that run a serving engine. */
#pragma once
#include "engine/infer/engine.h"

/* Values of the options in getopt's list, above those of sampleargs.h. */
enum {
    ENGINEARGS_BACKEND = 0x300,
    ENGINEARGS_DTYPE,
    ENGINEARGS_THREADS,
    ENGINEARGS_FAST_PREFILL,
    ENGINEARGS_CACHE_DTYPE,
    ENGINEARGS_SLOTS,
    ENGINEARGS_CACHE_TOKENS,
    ENGINEARGS_DRAFTS,
};

/* Entries for an array of struct option: of where to compute, and of the engine. */
#define ENGINEARGS_PLACE_OPTIONS                                                                   \
    {"backend", required_argument, NULL, ENGINEARGS_BACKEND},                                      \
        {"dtype", required_argument, NULL, ENGINEARGS_DTYPE},                                      \
        {"threads", required_argument, NULL, ENGINEARGS_THREADS},                                  \
        {"cache-dtype", required_argument, NULL, ENGINEARGS_CACHE_DTYPE}, {                        \
        "fast-prefill", no_argument, NULL, ENGINEARGS_FAST_PREFILL                                 \
    }
#define ENGINEARGS_OPTIONS                                                                         \
    {"slots", required_argument, NULL, ENGINEARGS_SLOTS},                                          \
        {"cache-tokens", required_argument, NULL, ENGINEARGS_CACHE_TOKENS}, {                      \
        "drafts", required_argument, NULL, ENGINEARGS_DRAFTS                                       \
    }

/* The lines of --help about them. */
#define ENGINEARGS_PLACE_USAGE                                                                     \
    "  --backend B        ref, cpu (default) or cuda\n"                                            \
    "  --dtype bf16       round the weights to bf16 first; arithmetic stays float32\n"             \
    "  --threads N        compute with N threads (default: the processors there are)\n"            \
    "  --cache-dtype T    of keys and values that are kept: f32 (default), f16 or bf16\n"          \
    "  --fast-prefill     compute long pieces of a prompt in the form with the least work "        \
    "(latent\n"                                                                                    \
    "                     attention): faster, but an answer's last digits then depend on how "     \
    "its\n"                                                                                        \
    "                     prompt was cut and batched\n"
#define ENGINEARGS_USAGE                                                                           \
    "  --slots N          requests that run at once (default 32)\n"                                \
    "  --cache-tokens N   of all requests together (default 8192)\n"                               \
    "  --drafts D         guess ahead: none (default), text, or mtp by the model's own module\n"

/* engine_defaults with all processors, and requests as long as the cache. */
struct engine_options engineargs_defaults(void);

/* One option; 0, or the exit status after a message. */
int engineargs_set(const char *program, int code, const char *text, struct engine_options *o);
