/* ggufconfig.h - the config.json that a GGUF file's metadata amounts to. */
#pragma once
#include "lib/pure/buf.h"
#include "storage/gguf.h"

/* Append the text of a config.json. -EINVAL: a key is missing, unknown or of another kind;
 * -ENOTSUP: an architecture or option this engine does not have. */
int ggufconfig_model(const struct gguf *g, struct buf *ret, struct hai_err *err);
