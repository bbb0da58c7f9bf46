/* ggufwords.h - the tokenizer of a GGUF file in Hugging Face form.
 *
 * Files of the kind "gpt2" (byte-level BPE) carry tokens, their kinds, merges, and the name of the
 * pre-tokenizer; what that name stands for is known here for DeepSeek's series, Qwen2 and Llama 3.
 * Llama 3's name also means that words of the vocabulary need no merges, and that texts begin with
 * the begin token where the file does not say. Source: llama.cpp, src/llama-vocab.cpp.
 */
#pragma once
#include "lib/pure/buf.h"
#include "storage/gguf.h"

/* Append the text of tokenizer.json. -ENOTSUP: another kind of tokenizer, or a pre-tokenizer whose
 * name is not known; -EINVAL: lists that do not fit each other. */
int ggufwords_tokenizer(const struct gguf *g, struct buf *ret, struct hai_err *err);

/* The text of tokenizer_config.json: begin and end token, chat template. */
int ggufwords_config(const struct gguf *g, struct buf *ret, struct hai_err *err);
