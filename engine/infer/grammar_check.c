/* Is it a schema, and one of the kind that grammar.h takes? Everything later may rely on it. */
#include "engine/infer/grammar_impl.h"

#include <stdio.h>

enum { POINTER_BYTES = 256 }; // a longer one is cut

enum form {
    FORM_IGNORED, // an annotation
    FORM_SCHEMA,  // true, false or an object
    FORM_SCHEMAS, // an array of schemas, not empty
    FORM_NAMED,   // an object of schemas
    FORM_NAMES,   // an array of different texts
    FORM_VALUES,  // an array, not empty
    FORM_VALUE,   // anything
    FORM_TYPE,    // a type or an array of types
    FORM_LENGTH,  // a whole number from 0
    FORM_NUMBER,  // a number
    FORM_TEXT,    // a text
    FORM_REF,     // "#..."
    FORM_FORMAT,  // the name of a format
    FORM_FALSE,   // false only: what is true is not supported
};

static const struct {
    const char *name;
    enum form form;
} keywords[] = {
    {"type",                 FORM_TYPE   },
    {"properties",           FORM_NAMED  },
    {"required",             FORM_NAMES  },
    {"additionalProperties", FORM_SCHEMA },
    {"items",                FORM_SCHEMA },
    {"prefixItems",          FORM_SCHEMAS},
    {"minItems",             FORM_LENGTH },
    {"maxItems",             FORM_LENGTH },
    {"enum",                 FORM_VALUES },
    {"const",                FORM_VALUE  },
    {"anyOf",                FORM_SCHEMAS},
    {"oneOf",                FORM_SCHEMAS},
    {"allOf",                FORM_SCHEMAS},
    {"$ref",                 FORM_REF    },
    {"$defs",                FORM_NAMED  },
    {"definitions",          FORM_NAMED  },
    {"minLength",            FORM_LENGTH },
    {"maxLength",            FORM_LENGTH },
    {"pattern",              FORM_TEXT   },
    {"format",               FORM_FORMAT },
    {"minimum",              FORM_NUMBER },
    {"maximum",              FORM_NUMBER },
    {"exclusiveMinimum",     FORM_NUMBER },
    {"exclusiveMaximum",     FORM_NUMBER },
    {"uniqueItems",          FORM_FALSE  },
    {"$schema",              FORM_IGNORED},
    {"$id",                  FORM_IGNORED},
    {"$comment",             FORM_IGNORED},
    {"title",                FORM_IGNORED},
    {"description",          FORM_IGNORED},
    {"default",              FORM_IGNORED},
    {"examples",             FORM_IGNORED},
    {"deprecated",           FORM_IGNORED},
    {"readOnly",             FORM_IGNORED},
    {"writeOnly",            FORM_IGNORED},
};

struct checker {
    const struct json *root;
    int64_t work; // what is left for following references
    char pointer[POINTER_BYTES];
    struct hai_err *err;
};

static int keyword_of(const char *name) {
    for (size_t i = 0; i < ARRAY_SIZE(keywords); i++)
        if (strcmp(name, keywords[i].name) == 0)
            return (int)i;
    return -1;
}

bool grammar_check_is_annotation(const char *keyword) {
    int at = keyword_of(keyword);

    return at >= 0 && (keywords[at].form == FORM_IGNORED || !strcmp(keyword, "$defs") ||
                       !strcmp(keyword, "definitions") || keywords[at].form == FORM_FALSE);
}

/* Append "/name"; returns the length before. */
static size_t down(struct checker *c, const char *name) {
    size_t before = strlen(c->pointer), n = before;

    for (const char *p = name - 1; n + 3 < POINTER_BYTES && (p < name || *p); p++) {
        if (p < name) {
            c->pointer[n++] = '/';
        } else if (*p == '~' || *p == '/') {
            c->pointer[n++] = '~';
            c->pointer[n++] = *p == '~' ? '0' : '1';
        } else {
            c->pointer[n++] = *p;
        }
    }
    c->pointer[n] = 0;
    return before;
}

static int fail(struct checker *c, int r, const char *text) {
    const char *at = c->pointer[0] ? c->pointer : "/";

    return hai_fail_at(c->err, r, NULL, at, NULL, "schema, %.100s: %s", at, text);
}

/* The next part of a pointer, unescaped, into ret. Returns false at its end or if it is too long.
 */
static bool next_part(const char **p, char *ret, size_t n_max) {
    size_t n = 0;

    if (**p != '/')
        return false;
    for (++*p; **p && **p != '/' && n + 1 < n_max; ++*p) {
        char c = **p;
        unsigned byte;
        int n_read = 0;
        if (c == '%' && sscanf(*p, "%%%2x%n", &byte, &n_read) == 1 && n_read == 3 && byte) {
            c = (char)byte;
            *p += 2;
        } else if (c == '~' && ((*p)[1] == '0' || (*p)[1] == '1')) {
            c = (*p)[1] == '0' ? '~' : '/';
            ++*p;
        }
        ret[n++] = c;
    }
    ret[n] = 0;
    return n + 1 < n_max;
}

static const struct json *element(const struct json *array, const char *number, int64_t *work) {
    char *end;
    long at = strtol(number, &end, 10);
    const struct json *v = json_first(array);

    if (*end || end == number || at < 0)
        return NULL;
    for (; v && at > 0; at--, --*work)
        v = json_next(v);
    return v;
}

/* Follows only ways on which there are schemas. */
const struct json *grammar_check_resolve(const struct json *root, const char *ref, int64_t *work) {
    const struct json *at = root;
    const char *p = ref + 1;
    char part[POINTER_BYTES];

    if (ref[0] != '#')
        return NULL;
    --*work;
    while (*p) {
        if (!next_part(&p, part, sizeof part) || json_kind(at) != JSON_KIND_OBJECT)
            return NULL;
        int keyword = keyword_of(part);
        if (keyword < 0)
            return NULL;
        at = json_get(at, part);
        enum form form = keywords[keyword].form;
        if (form == FORM_NAMED && next_part(&p, part, sizeof part))
            at = json_get(at, part);
        else if (form == FORM_SCHEMAS && next_part(&p, part, sizeof part))
            at = element(at, part, work);
        else if (form != FORM_SCHEMA)
            return NULL;
        if (!at)
            return NULL;
    }
    return at;
}

static int check(struct checker *c, const struct json *schema);

static int check_below(struct checker *c, const struct json *value, bool named) {
    int i = 0;

    if (json_kind(value) != (named ? JSON_KIND_OBJECT : JSON_KIND_ARRAY))
        return fail(c, -EINVAL, named ? "expected an object of schemas" : "expected an array");
    if (!named && json_count(value) == 0)
        return fail(c, -EINVAL, "expected at least one schema");
    for (const struct json *v = json_first(value); v; v = json_next(v), i++) {
        char number[16];
        snprintf(number, sizeof number, "%d", i);
        size_t before = down(c, named ? json_key(v) : number);
        int r = check(c, v);
        if (r < 0)
            return r;
        c->pointer[before] = 0;
    }
    return 0;
}

/* Names of types as JSON Schema has them. */
static bool is_type(const struct json *v) {
    static const char *const types[] = {"null",   "boolean", "integer", "number",
                                        "string", "array",   "object"};

    for (size_t i = 0; json_kind(v) == JSON_KIND_STRING && i < ARRAY_SIZE(types); i++)
        if (strcmp(json_as_string(v), types[i]) == 0)
            return true;
    return false;
}

static int check_list(struct checker *c, const struct json *value, enum form form) {
    if (form == FORM_TYPE && json_kind(value) == JSON_KIND_STRING)
        return is_type(value) ? 0 : fail(c, -EINVAL, "no type of JSON Schema");
    if (json_kind(value) != JSON_KIND_ARRAY)
        return fail(c, -EINVAL, "expected an array");
    if (form != FORM_NAMES && json_count(value) == 0)
        return fail(c, -EINVAL, "expected at least one value");
    for (const struct json *v = json_first(value); v; v = json_next(v)) {
        if (form == FORM_TYPE && !is_type(v))
            return fail(c, -EINVAL, "no type of JSON Schema");
        if (form == FORM_NAMES && json_kind(v) != JSON_KIND_STRING)
            return fail(c, -EINVAL, "expected texts");
    }
    return 0;
}

static int check_number(struct checker *c, const struct json *value, enum form form) {
    enum json_kind kind = json_kind(value);

    if (form == FORM_NUMBER) {
        if (kind != JSON_KIND_INT && kind != JSON_KIND_REAL)
            return fail(c, -EINVAL, "expected a number");
        return 0;
    }
    if (kind != JSON_KIND_INT || json_as_int(value) < 0)
        return fail(c, -EINVAL, "expected a whole number from 0");
    if (json_as_int(value) > GRAMMAR_LENGTH_MAX)
        return fail(c, -E2BIG, "expected at most " STR(16777216));
    return 0;
}

static int check_text(struct checker *c, const struct json *value, enum form form) {
    if (json_kind(value) != JSON_KIND_STRING)
        return fail(c, -EINVAL, "expected a text");
    const char *text = json_as_string(value);
    if (form == FORM_FORMAT && !grammar_regex_format(text))
        return fail(c, -ENOTSUP, "this format is not supported");
    if (form != FORM_REF)
        return 0;
    if (text[0] != '#')
        return fail(c, -ENOTSUP, "references to other documents are not supported");
    if (!grammar_check_resolve(c->root, text, &c->work))
        return fail(c, -EINVAL, "refers to no schema of this document");
    return c->work < 0 ? fail(c, -E2BIG, "references take too long to follow") : 0;
}

static int check_keyword(struct checker *c, const char *name, const struct json *value) {
    int keyword = keyword_of(name);

    if (keyword < 0)
        return fail(c, -ENOTSUP, "this keyword is not supported");
    enum form form = keywords[keyword].form;
    switch (form) {
    case FORM_SCHEMA:
        return check(c, value);
    case FORM_SCHEMAS:
    case FORM_NAMED:
        return check_below(c, value, form == FORM_NAMED);
    case FORM_NAMES:
    case FORM_VALUES:
    case FORM_TYPE:
        return check_list(c, value, form);
    case FORM_LENGTH:
    case FORM_NUMBER:
        return check_number(c, value, form);
    case FORM_TEXT:
    case FORM_REF:
    case FORM_FORMAT:
        return check_text(c, value, form);
    case FORM_FALSE:
        if (json_kind(value) != JSON_KIND_BOOL)
            return fail(c, -EINVAL, "expected true or false");
        return json_as_bool(value) ? fail(c, -ENOTSUP, "only false is supported") : 0;
    default:
        return 0;
    }
}

static int check(struct checker *c, const struct json *schema) {
    if (json_kind(schema) == JSON_KIND_BOOL)
        return 0;
    if (json_kind(schema) != JSON_KIND_OBJECT)
        return fail(c, -EINVAL, "expected a schema: an object, true or false");
    for (const struct json *v = json_first(schema); v; v = json_next(v)) {
        size_t before = down(c, json_key(v));
        int r = check_keyword(c, json_key(v), v);
        if (r < 0)
            return r;
        c->pointer[before] = 0;
    }
    return 0;
}

int grammar_check_schema(const struct json *schema, struct hai_err *err) {
    struct checker c = {.root = schema, .work = GRAMMAR_WORK_MAX, .err = err};

    return check(&c, schema);
}
