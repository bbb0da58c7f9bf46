#include "lib/pure/schema.h"

#include <stdio.h>

const char *schema_enum_text(const struct schema_enum *e, int value) {
    return value >= 0 && value < e->n_texts ? e->texts[value] : "?";
}

int schema_enum_parse(const struct schema_enum *e, const char *text) {
    for (int i = 0; i < e->n_texts; i++)
        if (hai_streq(e->texts[i], text))
            return i;
    return -EINVAL;
}

size_t schema_item_bytes(const struct schema_field *field) {
    switch (field->type) {
    case SCHEMA_LIST_SUB:
        return field->sub()->n_bytes;
    case SCHEMA_LIST_STR:
        return sizeof(char *);
    case SCHEMA_LIST_I64:
        return sizeof(int64_t);
    case SCHEMA_LIST_PAIR:
        return sizeof(struct schema_pair);
    default:
        return 0;
    }
}

void *schema_list_add(void *list, size_t item_bytes) {
    struct schema_list *l = list;

    if ((l->n & (l->n - 1)) == 0)
        l->items = hai_realloc_array(l->items, l->n ? 2 * l->n : 1, item_bytes);
    void *item = (char *)l->items + l->n * item_bytes;
    memset(item, 0, item_bytes);
    l->n++;
    return item;
}

static void init_number(const struct schema_field *f, void *at) {
    int64_t def = f->def == S_REQUIRED ? 0 : f->def;

    if (f->type == SCHEMA_BOOL)
        *(bool *)at = def > 0;
    else if (f->type == SCHEMA_ENUM)
        *(int *)at = def == S_ABSENT ? -1 : (int)def;
    else if (f->type == SCHEMA_F64)
        *(double *)at = def == S_ABSENT ? __builtin_nan("") : (double)def;
    else
        *(int64_t *)at = def;
}

void schema_init(const struct schema *schema, void *value) {
    memset(value, 0, schema->n_bytes);
    for (int i = 0; i < schema->n_fields; i++) {
        const struct schema_field *f = &schema->fields[i];
        void *at = (char *)value + f->offset;
        if (f->type == SCHEMA_SUB)
            schema_init(f->sub(), at);
        else if (f->type <= SCHEMA_SIZE)
            init_number(f, at);
    }
}

static void free_list(const struct schema_field *f, struct schema_list *list) {
    size_t n_bytes = schema_item_bytes(f);

    for (size_t i = 0; i < list->n; i++) {
        void *item = (char *)list->items + i * n_bytes;
        if (f->type == SCHEMA_LIST_SUB) {
            schema_free(f->sub(), item);
        } else if (f->type == SCHEMA_LIST_STR) {
            free(*(char **)item);
        } else if (f->type == SCHEMA_LIST_PAIR) {
            free(((struct schema_pair *)item)->key);
            free(((struct schema_pair *)item)->value);
        }
    }
    free(list->items);
}

void schema_free(const struct schema *schema, void *value) {
    if (!value)
        return;
    for (int i = 0; i < schema->n_fields; i++) {
        const struct schema_field *f = &schema->fields[i];
        void *at = (char *)value + f->offset;
        if (f->type <= SCHEMA_SIZE)
            continue;
        if (f->type == SCHEMA_STR || f->type == SCHEMA_JSON)
            free(*(char **)at);
        else if (f->type == SCHEMA_BLOB)
            free(((struct schema_blob *)at)->data);
        else if (f->type == SCHEMA_SUB)
            schema_free(f->sub(), at);
        else if (f->type >= SCHEMA_LIST_SUB)
            free_list(f, at);
    }
    memset(value, 0, schema->n_bytes);
}

static void copy_list(const struct schema_field *f, struct schema_list *dst,
                      const struct schema_list *src) {
    size_t n_bytes = schema_item_bytes(f);

    *dst = (struct schema_list){0};
    for (size_t i = 0; i < src->n; i++) {
        void *to = schema_list_add(dst, n_bytes);
        const void *from = (const char *)src->items + i * n_bytes;
        if (f->type == SCHEMA_LIST_SUB) {
            schema_copy(f->sub(), to, from);
        } else if (f->type == SCHEMA_LIST_STR) {
            *(char **)to = hai_strdup(*(char *const *)from);
        } else if (f->type == SCHEMA_LIST_PAIR) {
            const struct schema_pair *pair = from;
            *(struct schema_pair *)to =
                (struct schema_pair){hai_strdup(pair->key), hai_strdup(pair->value)};
        } else {
            *(int64_t *)to = *(const int64_t *)from;
        }
    }
}

void schema_copy(const struct schema *schema, void *dst, const void *src) {
    memcpy(dst, src, schema->n_bytes);
    for (int i = 0; i < schema->n_fields; i++) {
        const struct schema_field *f = &schema->fields[i];
        void *to = (char *)dst + f->offset;
        const void *from = (const char *)src + f->offset;
        if (f->type == SCHEMA_STR || f->type == SCHEMA_JSON) {
            *(char **)to = hai_strdup(*(char *const *)from);
        } else if (f->type == SCHEMA_BLOB) {
            const struct schema_blob *blob = from;
            uint8_t *data = blob->n_bytes ? hai_alloc(blob->n_bytes) : NULL;
            if (data)
                memcpy(data, blob->data, blob->n_bytes);
            *(struct schema_blob *)to = (struct schema_blob){data, blob->n_bytes};
        } else if (f->type == SCHEMA_SUB) {
            schema_copy(f->sub(), to, from);
        } else if (f->type >= SCHEMA_LIST_SUB) {
            copy_list(f, to, from);
        }
    }
}

/* A value on the way from the outermost struct to what is checked. It becomes a path only when
 * something is wrong: to write every path down took a fifth of applying an entry. */
struct spot {
    const struct spot *in; // NULL: the outermost
    const char *name;      // of a field; NULL: an element of the list it is in
    size_t index;
};

/* "job.nodes[2].gpus". Returns its length so far, at most HAI_ERR_WHERE_BYTES - 1. */
static size_t write_path(const struct spot *spot, char ret[static HAI_ERR_WHERE_BYTES]) {
    size_t n = spot->in ? write_path(spot->in, ret) : 0;
    size_t left = HAI_ERR_WHERE_BYTES - n;

    if (spot->name)
        (void)snprintf(ret + n, left, "%s%s", n ? "." : "", spot->name);
    else
        (void)snprintf(ret + n, left, "[%zu]", spot->index);
    return n + strlen(ret + n);
}

struct path {
    char text[HAI_ERR_WHERE_BYTES];
};

static struct path path_of(const struct spot *spot) {
    struct path path;

    write_path(spot, path.text);
    return path;
}

static int check_number(const struct schema_field *f, int64_t v, const struct spot *spot,
                        struct hai_err *err) {
    if ((v == S_ABSENT && f->def == S_ABSENT) || (v >= f->min && v <= f->max))
        return 0;
    struct path path = path_of(spot);
    return hai_fail_at(err, -ERANGE, "out_of_range", path.text, NULL,
                       "%s is %lld; expected %lld to %lld", path.text, (long long)v,
                       (long long)f->min, (long long)f->max);
}

static int check_text(const struct schema_field *f, const char *text, const struct spot *spot,
                      struct hai_err *err) {
    size_t n = text ? strlen(text) : 0;

    if (n ? (int64_t)n <= f->max : f->def != S_REQUIRED)
        return 0;
    struct path path = path_of(spot);
    if (!n)
        return hai_fail_at(err, -EINVAL, "missing", path.text, NULL,
                           "%s is missing; it must be given", path.text);
    return hai_fail_at(err, -ERANGE, "too_long", path.text, NULL,
                       "%s has %zu bytes; expected at most %lld", path.text, n, (long long)f->max);
}

static int check_enum(const struct schema_field *f, int v, const struct spot *spot,
                      struct hai_err *err) {
    if ((v >= 0 || (v == -1 && f->def == S_ABSENT)) && v < f->enums->n_texts)
        return 0;
    struct path path = path_of(spot);
    return hai_fail_at(err, -ERANGE, "out_of_range", path.text, NULL, "%s is no %s", path.text,
                       f->enums->name);
}

static int check_blob(const struct schema_field *f, const struct schema_blob *blob,
                      const struct spot *spot, struct hai_err *err) {
    if ((int64_t)blob->n_bytes <= f->max)
        return 0;
    struct path path = path_of(spot);
    return hai_fail_at(err, -ERANGE, "too_long", path.text, NULL, "%s has more than %lld bytes",
                       path.text, (long long)f->max);
}

static int check_in(const struct schema *schema, const void *value, const struct spot *in,
                    struct hai_err *err);

static int check_list(const struct schema_field *f, const struct schema_list *list,
                      const struct spot *spot, struct hai_err *err) {
    size_t n_bytes = schema_item_bytes(f);

    if ((int64_t)list->n > f->n_max) {
        struct path path = path_of(spot);
        return hai_fail_at(err, -ERANGE, "too_many", path.text, NULL,
                           "%s has %zu elements; expected at most %lld", path.text, list->n,
                           (long long)f->n_max);
    }
    for (size_t i = 0; i < list->n; i++) {
        const void *item = (const char *)list->items + i * n_bytes;
        struct spot at = {spot, NULL, i};
        int r = 0;
        if (f->type == SCHEMA_LIST_SUB)
            r = check_in(f->sub(), item, &at, err);
        else if (f->type == SCHEMA_LIST_STR)
            r = check_text(f, *(char *const *)item, &at, err);
        else if (f->type == SCHEMA_LIST_PAIR)
            r = check_text(f, ((const struct schema_pair *)item)->value, &at, err);
        else
            r = check_number(f, *(const int64_t *)item, &at, err);
        if (r < 0)
            return r;
    }
    return 0;
}

static int check_field(const struct schema_field *f, const void *at, const struct spot *spot,
                       struct hai_err *err) {
    switch (f->type) {
    case SCHEMA_I64:
    case SCHEMA_TIME:
    case SCHEMA_DURATION:
    case SCHEMA_SIZE:
        return check_number(f, *(const int64_t *)at, spot, err);
    case SCHEMA_ENUM:
        return check_enum(f, *(const int *)at, spot, err);
    case SCHEMA_STR:
    case SCHEMA_JSON:
        return check_text(f, *(char *const *)at, spot, err);
    case SCHEMA_BLOB:
        return check_blob(f, at, spot, err);
    case SCHEMA_SUB:
        return check_in(f->sub(), at, spot, err);
    case SCHEMA_LIST_SUB:
    case SCHEMA_LIST_STR:
    case SCHEMA_LIST_I64:
    case SCHEMA_LIST_PAIR:
        return check_list(f, at, spot, err);
    default:
        return 0;
    }
}

static int check_in(const struct schema *schema, const void *value, const struct spot *in,
                    struct hai_err *err) {
    for (int i = 0; i < schema->n_fields; i++) {
        const struct schema_field *f = &schema->fields[i];
        struct spot spot = {in, f->name, 0};
        int r = check_field(f, (const char *)value + f->offset, &spot, err);
        if (r < 0)
            return r;
    }
    return 0;
}

int schema_check(const struct schema *schema, const void *value, struct hai_err *err) {
    return check_in(schema, value, NULL, err);
}
