/* messages.h - the structs of messages.def and the enums they use.
 *
 * Encode and decode with lib/json_schema.h, release with schema_free(NAME_schema(), &value).
 */
#pragma once
#include "lib/limits.h"
#include "lib/pure/schema.h"
#include "lib/pure/terms.h"

#define JOB_KINDS(P, X) X(P, COMMAND, "command") X(P, TRAIN, "train")
DECLARE_ENUM(job_kind, JOB_KIND, JOB_KINDS);

#define STREAM_KINDS(P, X) X(P, LOG, "log") X(P, ATTACH, "attach") X(P, SHELL, "shell")
DECLARE_ENUM(stream_kind, STREAM_KIND, STREAM_KINDS);

// clang-format off
#include "lib/pure/schema_structs.h"
#include "wire/messages.def"
#include "lib/pure/schema_undef.h"
// clang-format on

/* Every message of the list, for the description of the API and the documentation. */
const struct schema *const *messages_all(int *ret_n);
