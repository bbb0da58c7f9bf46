/* jsonrules.h - hold a program's output to JSON: a grammar for its model and tokenizer, as the
 * hooks that sampling asks for masks. engine/infer/grammar.h says what schemas may hold.
 */
#pragma once
#include "engine/data/tokenizer.h"
#include "engine/infer/grammar.h"
#include "engine/infer/sample.h"
#include "engine/model/config.h"

/* The schema of any JSON object. */
#define JSONRULES_OBJECT "{\"type\": \"object\"}"

/* What a model's tokens are to grammars; its end tokens and the tokenizer's end texts. */
struct grammar_vocab *jsonrules_vocab(const struct tokenizer *t, const struct model_config *config);

struct jsonrules;

/* schema_path  a file with a JSON Schema; NULL: any object
 * The model's end tokens and the tokenizer's end the text. Errors as grammar_new, or of reading. */
int jsonrules_new(const struct tokenizer *tokenizer, const struct model_config *config,
                  const char *schema_path, struct jsonrules **ret, struct hai_err *err);
void jsonrules_free(struct jsonrules *rules);
DEFINE_CLEANUP(struct jsonrules *, jsonrules_free)

/* Of one text, from its start, which they end where nothing more may come. Live as long as the
 * rules. */
const struct sample_hooks *jsonrules_hooks(const struct jsonrules *rules);
