/* choices.h - multiple choice: which of some continuations a model finds likeliest.
 *
 * A line of the file: {"prompt": TEXT, "choices": [TEXT, ...], "answer": N from 0 or the text of a
 * choice}, and perhaps an "id". The score of a choice is the sum of the log-probabilities of its
 * tokens after the prompt's; the model chooses the highest, of equals the first. Longer choices
 * have lower sums, so the sum per byte of the choice is given beside it (both are usual in
 * published figures). Prompt and choice are encoded as one text, as the model would read it: tokens
 * that begin in the prompt and end in the choice count for the choice.
 */
#pragma once
#include "engine/data/tokenizer.h"
#include "engine/infer/generate.h"
#include "lib/json.h"

#include <stdio.h>

enum {
    CHOICES_MAX = 64,                // of one question
    CHOICES_QUESTIONS_MAX = 1 << 20, // of a file
    CHOICES_LINE_BYTES_MAX = 16 << 20,
};

struct choices_question {
    struct json *tree;  // the line, owned
    const char *prompt; // in the tree, and so are the choices
    const char *texts[CHOICES_MAX];
    int n, answer;
};
void choices_question_free(struct choices_question *q);

/* Read a line. ret may own something after a failure, too. -EBADMSG: no JSON object; -EINVAL: a
 * field is missing, unknown or out of range. */
int choices_parse(const char *text, size_t n_bytes, struct choices_question *ret,
                  struct hai_err *err);

struct choices_result {
    int64_t n_questions, n_right, n_right_per_byte;
};

/* Answer all questions of a file ("-": stdin). Questions are read and encoded first: a bad line is
 * an error before anything is computed, with FILE:LINE.
 *
 * out_path  NULL, or a file that gets a line for each: {"id", "answer", "chosen",
 * "chosen_per_byte", "logprobs": [...], "bytes": [...]}; untouched if a question is bad said NULL,
 * or called after every question with how many are done, of how many
 *
 * -ENODATA: no questions; -EINVAL also: both files are the same. */
int choices_run(const char *model, const struct generate_place *place, const char *path,
                const char *out_path, void (*said)(void *userdata, int64_t done, int64_t all),
                void *userdata, struct choices_result *ret, struct hai_err *err);
