/* promptfile.h - many prompts from a file through one engine: a JSON object a line in (promptline.h
 * says which), one a line out, in the order of the input.
 *
 * An answer: {"id": as given, "text", "token_ids", "finish_reason": "stop" or "length", "usage":
 * {"prompt_tokens", "prompt_cache_hit_tokens", "completion_tokens"}, "logprobs": where asked for}.
 * A line that could not be read or run: {"id", "line", "error": {"code", "message"}}; the others
 * are not disturbed. At most PROMPTFILE_LINES_MAX lines are in memory; answers are written as soon
 * as all before them are, so a run that was cut short has whole lines.
 */
#pragma once
#include "engine/infer/engine.h"
#include "jobs/promptline.h"

enum { PROMPTFILE_LINES_MAX = 1024 };

struct promptfile_options {
    const char *program;          // named in messages
    const char *model;            // a folder
    const char *input, *output;   // "-": stdin, stdout
    struct engine_options engine; // n_requests_max is set here
    struct promptline defaults;   // of every line
    const char *prefix_cache;     // a file to start from and to write at the end; NULL: none
    bool quiet;                   // no progress, no closing line
};

/* Returns the number of lines that failed (each was named on stderr), or a negative errno: of the
 * model, of reading, of writing; -EINVAL: output is the same file as input. */
int promptfile_run(const struct promptfile_options *o, struct hai_err *err);
