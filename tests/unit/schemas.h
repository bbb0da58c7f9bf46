/* schemas.h - a small reader of JSON Schema, for tests of engine/infer/grammar.h: does a value
 * satisfy a schema? It knows nothing of how grammars do it. Also makes schemas and values at
 * random.
 */
#pragma once
#include "lib/json.h"

/* root: where references begin. Keywords it does not know are taken to hold. */
bool schemas_check(const struct json *root, const struct json *schema, const struct json *value);

/* A number below n. */
typedef uint32_t (*schemas_random_f)(uint32_t n);

/* The keys of the random schemas' objects; NULL ends them. */
extern const char *const schemas_names[];

/* A schema of keywords that grammars support; it may be one that nothing satisfies. */
struct json *schemas_random(schemas_random_f below);

/* A value that satisfies the schema, or NULL if none was found. Properties are in the schema's
 * order, others after them, or with any_order in any. */
struct json *schemas_sample(const struct json *root, const struct json *schema, bool any_order,
                            schemas_random_f below, int depth);
