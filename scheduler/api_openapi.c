#include "scheduler/api_openapi.h"

#include "lib/json_schema.h"
#include "scheduler/api_call.h"
#include "wire/messages.h"
#include <stdio.h>

static struct json *ref(const char *name) {
    struct json *o = json_new_object();
    _cleanup_free_ char *path = hai_asprintf("#/components/schemas/%s", name);

    json_add_string(o, "$ref", path);
    return o;
}

static struct json *typed(const char *type) {
    struct json *o = json_new_object();

    json_add_string(o, "type", type);
    return o;
}

static struct json *array_of(struct json *items, int64_t n_max) {
    struct json *o = typed("array");

    json_add(o, "items", items);
    if (n_max)
        json_add_int(o, "maxItems", n_max);
    return o;
}

static struct json *integer(const struct schema_field *field) {
    struct json *o = typed("integer");

    json_add_int(o, "minimum", field->min);
    if (field->max < INT64_MAX - 1)
        json_add_int(o, "maximum", field->max);
    return o;
}

static struct json *enumeration(const struct schema_field *field) {
    struct json *o = typed("string");
    struct json *values = json_add(o, "enum", json_new_array());

    for (int i = 0; i < field->enums->n_texts; i++)
        json_append(values, json_new_string(field->enums->texts[i]));
    return o;
}

static struct json *text(const char *format, int64_t n_max) {
    struct json *o = typed("string");

    if (format)
        json_add_string(o, "format", format);
    if (n_max)
        json_add_int(o, "maxLength", n_max);
    return o;
}

/* What a field may hold, leaving out that it may be null. */
static struct json *describe_value(const struct schema_field *field) {
    struct json *o;

    switch (field->type) {
    case SCHEMA_I64:
    case SCHEMA_SIZE:
        return integer(field);
    case SCHEMA_F64:
    case SCHEMA_DURATION:
        return typed("number");
    case SCHEMA_BOOL:
        return typed("boolean");
    case SCHEMA_ENUM:
        return enumeration(field);
    case SCHEMA_TIME:
        return text("date-time", 0);
    case SCHEMA_STR:
        return text(NULL, field->max);
    case SCHEMA_BLOB:
        return text("hex", 2 * field->max);
    case SCHEMA_SUB:
        return ref(field->sub()->name);
    case SCHEMA_LIST_SUB:
        return array_of(ref(field->sub()->name), field->n_max);
    case SCHEMA_LIST_STR:
        return array_of(text(NULL, field->max), field->n_max);
    case SCHEMA_LIST_I64:
        return array_of(typed("integer"), field->n_max);
    case SCHEMA_LIST_PAIR:
        o = typed("object");
        json_add(o, "additionalProperties", typed("string"));
        return o;
    default:
        return json_new_object(); // SCHEMA_JSON: any value
    }
}

static bool is_nullable(const struct schema_field *field) {
    switch (field->type) {
    case SCHEMA_BOOL:
    case SCHEMA_SUB:
    case SCHEMA_LIST_SUB:
    case SCHEMA_LIST_STR:
    case SCHEMA_LIST_I64:
    case SCHEMA_LIST_PAIR:
        return false;
    default:
        return field->def == S_ABSENT;
    }
}

static struct json *describe_field(const struct schema_field *field) {
    struct json *o = describe_value(field);

    if (json_get(o, "$ref")) {
        /* Siblings of $ref are ignored, so it goes one level down. */
        struct json *outer = json_new_object();
        json_append(json_add(outer, "allOf", json_new_array()), o);
        o = outer;
    }
    json_add_string(o, "description", field->doc);
    if (is_nullable(field))
        json_add_bool(o, "nullable", true);
    return o;
}

static struct json *describe_schema(const struct schema *schema) {
    struct json *o = typed("object");
    struct json *properties, *required = json_new_array();

    json_add_string(o, "description", schema->doc);
    properties = json_add(o, "properties", json_new_object());
    for (int i = 0; i < schema->n_fields; i++) {
        const struct schema_field *field = &schema->fields[i];
        _cleanup_free_ char *name = hai_alloc(strlen(field->name) + 1);
        json_schema_name(field, JSON_SCHEMA_WIRE, name);
        json_add(properties, name, describe_field(field));
        if (field->def == S_REQUIRED)
            json_append(required, json_new_string(name));
    }
    if (json_count(required))
        json_add(o, "required", required);
    else
        json_free(required);
    json_add_bool(o, "additionalProperties", false);
    return o;
}

static struct json *content(const char *type, struct json *schema) {
    struct json *o = json_new_object();

    json_add(json_add(o, type, json_new_object()), "schema", schema);
    return o;
}

static struct json *describe_answer(const struct api_route *route) {
    struct json *o = json_new_object();

    json_add_string(o, "description", route->doc);
    switch (route->answer) {
    case API_ANSWER_OBJECT:
        json_add(o, "content", content("application/json", ref(route->schema()->name)));
        break;
    case API_ANSWER_LIST:
        json_add(o, "content",
                 content("application/json", array_of(ref(route->schema()->name), 0)));
        break;
    default:
        json_add(o, "content", content("*/*", typed("string")));
        break;
    }
    return o;
}

static void add_parameter(struct json *list, const char *name, size_t n_bytes, const char *where,
                          const char *doc, size_t doc_bytes) {
    struct json *o = json_append(list, json_new_object());

    json_add(o, "name", json_new_string_n(name, n_bytes));
    json_add_string(o, "in", where);
    json_add_bool(o, "required", !strcmp(where, "path"));
    json_add(o, "description", json_new_string_n(doc, doc_bytes));
    json_add(o, "schema", typed("string"));
}

static struct json *describe_parameters(const struct api_route *route) {
    struct json *list = json_new_array();

    for (const char *p = route->path; (p = strchr(p, '{')); p++)
        add_parameter(list, p + 1, strcspn(p + 1, "}"), "path", p + 1, strcspn(p + 1, "}"));
    for (const char *p = route->query; p && *p;) {
        const char *colon = strchr(p, ':');
        size_t length = strcspn(p, ";");
        const char *doc = colon + 2;
        add_parameter(list, p, (size_t)(colon - p), "query", doc, (size_t)(p + length - doc));
        p += length;
        p += strspn(p, "; ");
    }
    return list;
}

static struct json *describe_route(const struct api_route *route) {
    struct json *o = json_new_object();
    struct json *responses;
    char status[8];

    json_add_string(o, "summary", route->doc);
    json_add_string(o, "x-scope", scope_text(route->scope));
    json_add(o, "parameters", describe_parameters(route));
    if (route->body) {
        struct json *body = json_add(o, "requestBody", json_new_object());
        json_add_bool(body, "required", route->body_needed);
        json_add(body, "content", content("application/json", ref(route->body()->name)));
    }
    responses = json_add(o, "responses", json_new_object());
    snprintf(status, sizeof status, "%d", route->status);
    json_add(responses, status, describe_answer(route));
    if (route->status == 201)
        json_add(responses, "200", describe_answer(route));
    struct json *failure = json_add(responses, "default", json_new_object());
    json_add_string(failure, "description", "an error");
    json_add(failure, "content", content("application/json", ref("api_error_reply")));
    if (route->scope == SCOPE_NONE)
        json_add(o, "security", json_new_array());
    return o;
}

static struct json *describe_paths(const struct api_route *routes, int n) {
    struct json *paths = json_new_object();

    for (int i = 0; i < n; i++) {
        struct json *path = json_get(paths, routes[i].path);
        if (!path)
            path = json_add(paths, routes[i].path, json_new_object());
        json_add(path, !strcmp(routes[i].method, "GET") ? "get" : "post",
                 describe_route(&routes[i]));
    }
    return paths;
}

void api_openapi_write(const struct api_route *routes, int n_routes, struct buf *ret) {
    _cleanup_(json_freep) struct json *o = json_new_object();
    int n;
    const struct schema *const *all = messages_all(&n);

    json_add_string(o, "openapi", "3.0.3");
    struct json *info = json_add(o, "info", json_new_object());
    json_add_string(info, "title", "hai control API");
    json_add_string(info, "version", HAI_VERSION);
    json_add(o, "paths", describe_paths(routes, n_routes));
    struct json *components = json_add(o, "components", json_new_object());
    struct json *schemas = json_add(components, "schemas", json_new_object());
    for (int i = 0; i < n; i++)
        json_add(schemas, all[i]->name, describe_schema(all[i]));
    struct json *security = json_add(components, "securitySchemes", json_new_object());
    struct json *bearer = json_add(security, "token", json_new_object());
    json_add_string(bearer, "type", "http");
    json_add_string(bearer, "scheme", "bearer");
    struct json *needed = json_append(json_add(o, "security", json_new_array()), json_new_object());
    json_add(needed, "token", json_new_array());
    json_dump(o, 1, ret);
}

void api_openapi_handle(struct api_call *call) {
    struct buf text = {0};

    api_openapi_write(call->s->routes, call->s->n_routes, &text);
    api_call_reply_text(call, 200, "application/json", &text);
}
