#include "engine/data/jinja_parse.h"
#include "engine/data/jinja_lex.h"

struct parser {
    const struct jinja_token *token; // the next one
    struct arena *arena;
    const char *name;
    int depth, n_loops;
    struct hai_err *err;
};

/* A list under construction. */
struct chain {
    struct jinja_node *first, **end;
};

static int expression(struct parser *x, struct jinja_node **ret);
static int statements(struct parser *x, const char *const *ends, struct jinja_node **ret);

static void chain_add(struct chain *c, struct jinja_node *node) {
    *(c->first ? c->end : &c->first) = node;
    c->end = &node->next;
}

static struct jinja_node *node_new(struct parser *x, enum jinja_type type) {
    struct jinja_node *node = arena_alloc(x->arena, sizeof *node);

    node->type = type;
    node->line = x->token->line;
    return node;
}

static int fail(const struct parser *x, int r, const char *what) {
    return hai_fail(x->err, r, "%s:%d: %s", x->name, x->token->line, what);
}

static int expected(const struct parser *x, const char *what) {
    bool end = x->token->kind == JINJA_TOKEN_END;
    bool tag_end =
        x->token->kind == JINJA_TOKEN_BLOCK_END || x->token->kind == JINJA_TOKEN_PRINT_END;

    return hai_fail(x->err, -EBADMSG, "%s:%d: expected %s before %s%.40s%s", x->name,
                    x->token->line, what, end || tag_end ? "" : "'",
                    end       ? "the end of the template"
                    : tag_end ? "the end of the tag"
                              : x->token->text,
                    end || tag_end ? "" : "'");
}

static int deeper(struct parser *x) {
    if (++x->depth > JINJA_DEPTH_MAX)
        return fail(x, -E2BIG, "nested too deep");
    return 0;
}

static bool is(const struct parser *x, enum jinja_token_kind kind, const char *text) {
    return x->token->kind == kind && hai_streq(x->token->text, text);
}

static bool is_op(const struct parser *x, const char *text) {
    return is(x, JINJA_TOKEN_OPERATOR, text);
}

static bool is_name(const struct parser *x, const char *text) {
    return is(x, JINJA_TOKEN_NAME, text);
}

static bool take_op(struct parser *x, const char *text) {
    bool found = is_op(x, text);
    x->token += found;
    return found;
}

static bool take_name(struct parser *x, const char *text) {
    bool found = is_name(x, text);
    x->token += found;
    return found;
}

static int need_op(struct parser *x, const char *text) {
    char what[8] = {'\'', text[0], '\''};
    return take_op(x, text) ? 0 : expected(x, what);
}

static int need_name(struct parser *x, const char **ret) {
    if (x->token->kind != JINJA_TOKEN_NAME)
        return expected(x, "a name");
    *ret = x->token++->text;
    return 0;
}

/* Elements up to a closing bracket; in a dict each is key: value. */
static int elements(struct parser *x, const char *closing, bool is_dict, struct jinja_node *to) {
    struct chain list = {0};
    int r = 0;

    while (r == 0 && !take_op(x, closing)) {
        struct jinja_node *node;
        if (list.first && need_op(x, ",") < 0)
            return -EBADMSG;
        if (take_op(x, closing))
            break;
        r = expression(x, &node);
        if (r == 0)
            chain_add(&list, node);
        if (r == 0 && is_dict) {
            r = need_op(x, ":");
            if (r == 0)
                r = expression(x, &node);
            if (r == 0)
                chain_add(&list, node);
        }
    }
    to->list = list.first;
    return r;
}

/* The arguments of a call, after its opening bracket. */
static int arguments(struct parser *x, struct jinja_node *to) {
    struct chain list = {0};

    while (!take_op(x, ")")) {
        const char *keyword = NULL;
        struct jinja_node *node;
        if (list.first && need_op(x, ",") < 0)
            return -EBADMSG;
        if (take_op(x, ")"))
            break;
        if (is_op(x, "*") || is_op(x, "**"))
            return fail(x, -ENOTSUP, "'*' before an argument is not built in");
        if (x->token->kind == JINJA_TOKEN_NAME && x->token[1].kind == JINJA_TOKEN_OPERATOR &&
            hai_streq(x->token[1].text, "=")) {
            keyword = x->token->text;
            x->token += 2;
        }
        int r = expression(x, &node);
        if (r < 0)
            return r;
        // A name may stand in two lists at once only if it is wrapped; so is every argument.
        struct jinja_node *argument = node_new(x, JINJA_GROUP);
        argument->a = node;
        argument->keyword = keyword;
        chain_add(&list, argument);
    }
    to->list = list.first;
    return 0;
}

static int string(struct parser *x, struct jinja_node *node) {
    _cleanup_(buf_free) struct buf text = {0};

    for (; x->token->kind == JINJA_TOKEN_STRING; x->token++) // neighbours are one
        buf_add(&text, x->token->text, x->token->n_bytes);
    char *copy = arena_alloc(x->arena, text.n_bytes + 1);
    if (text.n_bytes)
        memcpy(copy, text.data, text.n_bytes);
    node->value = (struct jinja_value){
        .kind = JINJA_STRING, .string = {copy, NULL, text.n_bytes}
    };
    return 0;
}

static int number(struct parser *x, struct jinja_node *node) {
    char digits[64];
    size_t n = 0;

    for (const char *p = x->token->text; *p; p++)
        if (*p != '_') {
            if (n == sizeof digits - 1)
                return fail(x, -E2BIG, "a number of too many digits");
            digits[n++] = *p;
        }
    digits[n] = 0;
    errno = 0;
    if (x->token->kind == JINJA_TOKEN_INT)
        node->value = jinja_value_int(strtoll(digits, NULL, 10));
    else
        node->value = (struct jinja_value){.kind = JINJA_REAL, .real = strtod(digits, NULL)};
    if (errno)
        return fail(x, -E2BIG, "a number that is too large");
    x->token++;
    return 0;
}

static void word(struct parser *x, struct jinja_node *node) {
    const char *name = x->token++->text;

    node->type = JINJA_CONSTANT;
    if (hai_streq(name, "true") || hai_streq(name, "True"))
        node->value = jinja_value_bool(true);
    else if (hai_streq(name, "false") || hai_streq(name, "False"))
        node->value = jinja_value_bool(false);
    else if (hai_streq(name, "none") || hai_streq(name, "None"))
        node->value = jinja_value_none();
    else {
        node->type = JINJA_NAME;
        node->name = name;
    }
}

static int primary(struct parser *x, struct jinja_node **ret) {
    struct jinja_node *node = *ret = node_new(x, JINJA_CONSTANT);

    switch (x->token->kind) {
    case JINJA_TOKEN_STRING:
        return string(x, node);
    case JINJA_TOKEN_INT:
    case JINJA_TOKEN_REAL:
        return number(x, node);
    case JINJA_TOKEN_NAME:
        word(x, node);
        return 0;
    default:
        break;
    }
    if (take_op(x, "[")) {
        node->type = JINJA_LIST_OF;
        return elements(x, "]", false, node);
    }
    if (take_op(x, "{")) {
        node->type = JINJA_DICT_OF;
        return elements(x, "}", true, node);
    }
    if (!take_op(x, "("))
        return expected(x, "a value");
    if (is_op(x, ")")) {
        node->type = JINJA_LIST_OF;
        node->flag = true;
        x->token++;
        return 0;
    }
    int r = expression(x, ret);
    if (r == 0 && is_op(x, ",")) {
        node->type = JINJA_LIST_OF;
        node->flag = true;
        x->token++;
        r = elements(x, ")", false, node);
        (*ret)->next = node->list;
        node->list = *ret;
        *ret = node;
        return r;
    }
    return r < 0 ? r : need_op(x, ")");
}

static int subscript(struct parser *x, struct jinja_node *node) {
    struct jinja_node **parts[] = {&node->b, &node->c, &node->d};
    int r = 0, i = 0;

    node->type = JINJA_ITEM;
    while (r == 0 && !is_op(x, "]")) {
        if (is_op(x, ":")) {
            node->type = JINJA_SLICE;
            x->token++;
            if (++i == ARRAY_SIZE(parts))
                return expected(x, "']'");
            continue;
        }
        if (*parts[i])
            return expected(x, "']'");
        r = expression(x, parts[i]);
    }
    if (r == 0 && node->type == JINJA_ITEM && !node->b)
        return expected(x, "an index");
    return r < 0 ? r : need_op(x, "]");
}

/* Does an argument without brackets follow the name of a test, as in `is divisibleby 3`? */
static bool test_argument(const struct parser *x) {
    switch (x->token->kind) {
    case JINJA_TOKEN_NAME:
        return !is_name(x, "else") && !is_name(x, "or") && !is_name(x, "and") &&
               !is_name(x, "if") && !is_name(x, "is") && !is_name(x, "in") && !is_name(x, "not");
    case JINJA_TOKEN_STRING:
    case JINJA_TOKEN_INT:
    case JINJA_TOKEN_REAL:
        return true;
    default:
        return is_op(x, "[") || is_op(x, "{");
    }
}

static int test(struct parser *x, struct jinja_node *node) {
    struct jinja_node *value;

    node->type = JINJA_TEST;
    node->flag = take_name(x, "not");
    int r = need_name(x, &node->name);
    if (r == 0 && take_op(x, "("))
        return arguments(x, node);
    if (r == 0 && test_argument(x)) {
        struct jinja_node *argument = node_new(x, JINJA_GROUP);
        r = primary(x, &value);
        argument->a = value;
        node->list = argument;
    }
    return r;
}

/* What follows a value: .name, [...] and (...), or else |filter, is test and (...), which bind less
 * than a sign. */
static int postfix(struct parser *x, bool filters, struct jinja_node **ret) {
    int r = 0;

    while (r == 0) {
        struct jinja_node *node = node_new(x, JINJA_ATTRIBUTE);
        node->a = *ret;
        if (!filters && take_op(x, ".")) {
            if (x->token->kind == JINJA_TOKEN_INT) {
                node->type = JINJA_ITEM;
                r = primary(x, &node->b);
            } else
                r = need_name(x, &node->name);
        } else if (!filters && take_op(x, "[")) {
            r = subscript(x, node);
        } else if (take_op(x, "(")) {
            node->type = JINJA_CALL;
            r = arguments(x, node);
        } else if (filters && take_op(x, "|")) {
            node->type = JINJA_FILTER;
            r = need_name(x, &node->name);
            if (r == 0 && take_op(x, "("))
                r = arguments(x, node);
        } else if (filters && take_name(x, "is")) {
            r = test(x, node);
        } else
            return 0;
        *ret = node;
    }
    return r;
}

static int unary(struct parser *x, bool filters, struct jinja_node **ret) {
    struct jinja_node *node = node_new(x, is_op(x, "-") ? JINJA_NEGATE : JINJA_PLUS);
    int r = deeper(x);

    if (r < 0)
        return r;
    if (take_op(x, "-") || take_op(x, "+")) {
        r = unary(x, false, &node->a);
        *ret = node;
    } else
        r = primary(x, ret);
    if (r == 0)
        r = postfix(x, false, ret);
    if (r == 0 && filters)
        r = postfix(x, true, ret);
    if (r == 0 && is_op(x, "**"))
        return fail(x, -ENOTSUP, "'**' is not built in");
    x->depth--;
    return r;
}

/* Operators of one level each, the tightest last. */
static int binary(struct parser *x, int level, struct jinja_node **ret) {
    static const char *const levels[][5] = {
        {"+", "-",  NULL, NULL},
        {"~", NULL, NULL, NULL},
        {"*", "//", "/",  "%" },
    };
    int r = level == ARRAY_SIZE(levels) ? unary(x, true, ret) : binary(x, level + 1, ret);

    while (r == 0 && level < (int)ARRAY_SIZE(levels)) {
        const char *op = NULL;
        for (const char *const *o = levels[level]; *o && !op; o++)
            op = is_op(x, *o) ? *o : NULL;
        if (!op)
            break;
        struct jinja_node *node = node_new(x, JINJA_BINARY);
        x->token++;
        node->op = op[1] ? 'i' : op[0];
        node->a = *ret;
        *ret = node;
        r = binary(x, level + 1, &node->b);
    }
    return r;
}

/* The comparison that comes next; 0: none. */
static char compare_op(struct parser *x) {
    static const struct {
        const char *text;
        char op;
    } ops[] = {
        {"==", '='},
        {"!=", '!'},
        {"<=", 'l'},
        {">=", 'g'},
        {"<",  '<'},
        {">",  '>'}
    };

    for (size_t i = 0; i < ARRAY_SIZE(ops); i++)
        if (take_op(x, ops[i].text))
            return ops[i].op;
    if (take_name(x, "in"))
        return 'i';
    if (is_name(x, "not") && x->token[1].kind == JINJA_TOKEN_NAME &&
        hai_streq(x->token[1].text, "in")) {
        x->token += 2;
        return 'n';
    }
    return 0;
}

static int comparison(struct parser *x, struct jinja_node **ret) {
    struct jinja_node *node = node_new(x, JINJA_COMPARE);
    struct chain list = {0};
    int r = binary(x, 0, ret);
    char op;

    while (r == 0 && (op = compare_op(x))) {
        struct jinja_node *side = node_new(x, JINJA_BINARY);
        side->op = op;
        r = binary(x, 0, &side->b);
        chain_add(&list, side);
    }
    if (r == 0 && list.first) {
        node->a = *ret;
        node->list = list.first;
        *ret = node;
    }
    return r;
}

static int negation(struct parser *x, struct jinja_node **ret) {
    struct jinja_node *node = node_new(x, JINJA_NOT);
    int r;

    if (!take_name(x, "not"))
        return comparison(x, ret);
    r = deeper(x);
    if (r == 0)
        r = negation(x, &node->a);
    x->depth--;
    *ret = node;
    return r;
}

static int logic(struct parser *x, bool is_or, struct jinja_node **ret) {
    int r = is_or ? logic(x, false, ret) : negation(x, ret);

    while (r == 0 && is_name(x, is_or ? "or" : "and")) {
        struct jinja_node *node = node_new(x, is_or ? JINJA_OR : JINJA_AND);
        x->token++;
        node->a = *ret;
        *ret = node;
        r = is_or ? logic(x, false, &node->b) : negation(x, &node->b);
    }
    return r;
}

static int expression(struct parser *x, struct jinja_node **ret) {
    int r = deeper(x);

    if (r == 0)
        r = logic(x, true, ret);
    while (r == 0 && is_name(x, "if")) {
        struct jinja_node *node = node_new(x, JINJA_CONDITION);
        x->token++;
        node->b = *ret;
        r = logic(x, true, &node->a);
        if (r == 0 && take_name(x, "else"))
            r = expression(x, &node->c);
        *ret = node;
    }
    x->depth--;
    return r;
}

static int end_block(struct parser *x) {
    if (x->token->kind != JINJA_TOKEN_BLOCK_END)
        return expected(x, "the end of the tag");
    x->token++;
    return 0;
}

/* A body up to `{% END %}`, which is stepped over. */
static int body(struct parser *x, const char *end, struct jinja_node **ret) {
    const char *const ends[] = {end, NULL};
    int r = statements(x, ends, ret);

    if (r < 0)
        return r;
    x->token++;
    return end_block(x);
}

/* After "if" or "elif". */
static int if_statement(struct parser *x, struct jinja_node *node) {
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    int r = deeper(x);

    node->type = JINJA_IF;
    if (r == 0)
        r = expression(x, &node->a);
    if (r == 0)
        r = end_block(x);
    if (r == 0)
        r = statements(x, ends, &node->list);
    if (r < 0)
        return r;
    if (take_name(x, "elif")) {
        node->other = node_new(x, JINJA_IF);
        r = if_statement(x, node->other);
    } else if (take_name(x, "else")) {
        r = end_block(x);
        if (r == 0)
            r = body(x, "endif", &node->other);
    } else {
        x->token++;
        r = end_block(x);
    }
    x->depth--;
    return r;
}

/* name, name, ... */
static int targets(struct parser *x, struct jinja_node **ret) {
    struct chain list = {0};
    bool bracket = take_op(x, "(");

    do {
        struct jinja_node *node = node_new(x, JINJA_NAME);
        int r = need_name(x, &node->name);
        if (r < 0)
            return r;
        chain_add(&list, node);
    } while (take_op(x, ","));
    *ret = list.first;
    return bracket ? need_op(x, ")") : 0;
}

static int for_statement(struct parser *x, struct jinja_node *node) {
    static const char *const ends[] = {"else", "endfor", NULL};
    int r = targets(x, &node->targets);

    node->type = JINJA_FOR;
    if (r == 0 && !take_name(x, "in"))
        r = expected(x, "'in'");
    if (r == 0)
        r = logic(x, true, &node->a); // "if" belongs to the loop
    if (r == 0 && take_name(x, "if"))
        r = expression(x, &node->b);
    if (r == 0 && is_name(x, "recursive"))
        return fail(x, -ENOTSUP, "'recursive' loops are not built in");
    if (r == 0)
        r = end_block(x);
    x->n_loops++;
    if (r == 0)
        r = statements(x, ends, &node->list);
    x->n_loops--;
    if (r < 0)
        return r;
    bool has_else = take_name(x, "else");
    x->token += !has_else;
    r = end_block(x);
    return r == 0 && has_else ? body(x, "endfor", &node->other) : r;
}

static int set_statement(struct parser *x, struct jinja_node *node) {
    int r;

    node->type = JINJA_SET;
    if (x->token->kind == JINJA_TOKEN_NAME && x->token[1].kind == JINJA_TOKEN_OPERATOR &&
        hai_streq(x->token[1].text, ".")) {
        node->type = JINJA_SET_MEMBER;
        r = primary(x, &node->b);
        x->token++;
        if (r == 0)
            r = need_name(x, &node->name);
    } else
        r = targets(x, &node->targets);
    if (r < 0)
        return r;
    if (node->type == JINJA_SET && x->token->kind == JINJA_TOKEN_BLOCK_END) {
        x->token++;
        return body(x, "endset", &node->list);
    }
    r = need_op(x, "=");
    if (r == 0)
        r = expression(x, &node->a);
    if (r == 0 && is_op(x, ",")) { // a tuple without brackets
        struct jinja_node *list = node_new(x, JINJA_LIST_OF);
        struct jinja_node **end = &node->a->next;
        list->list = node->a;
        list->flag = true;
        node->a = list;
        while (r == 0 && take_op(x, ",")) {
            r = expression(x, end);
            end = r == 0 ? &(*end)->next : end;
        }
    }
    return r < 0 ? r : end_block(x);
}

static int macro_statement(struct parser *x, struct jinja_node *node) {
    struct chain parameters = {0};
    int r = need_name(x, &node->name), n_loops = x->n_loops;

    node->type = JINJA_MACRO_DEF;
    if (r == 0)
        r = need_op(x, "(");
    while (r == 0 && !take_op(x, ")")) {
        if (parameters.first && need_op(x, ",") < 0)
            return -EBADMSG;
        if (take_op(x, ")"))
            break;
        struct jinja_node *p = node_new(x, JINJA_NAME);
        r = need_name(x, &p->name);
        if (r == 0 && take_op(x, "="))
            r = expression(x, &p->a);
        chain_add(&parameters, p);
    }
    node->targets = parameters.first;
    if (r == 0)
        r = end_block(x);
    x->n_loops = 0; // break and continue do not reach out of a macro
    if (r == 0)
        r = body(x, "endmacro", &node->list);
    x->n_loops = n_loops;
    return r;
}

/* `{% raw %}` would need its text before the lexer cuts it; no chat template has it. */
static int statement(struct parser *x, struct jinja_node *node) {
    const char *name = x->token->text;

    if (x->token->kind != JINJA_TOKEN_NAME)
        return expected(x, "a statement");
    x->token++;
    if (hai_streq(name, "if"))
        return if_statement(x, node);
    if (hai_streq(name, "for"))
        return for_statement(x, node);
    if (hai_streq(name, "set"))
        return set_statement(x, node);
    if (hai_streq(name, "macro"))
        return macro_statement(x, node);
    if (hai_streq(name, "generation")) { // marks what an assistant said, for training
        node->type = JINJA_GROUP;
        int r = end_block(x);
        return r < 0 ? r : body(x, "endgeneration", &node->list);
    }
    if (hai_streq(name, "break") || hai_streq(name, "continue")) {
        node->type = name[0] == 'b' ? JINJA_BREAK : JINJA_CONTINUE;
        if (!x->n_loops)
            return fail(x, -EBADMSG, "'break' or 'continue' outside of a loop");
        return end_block(x);
    }
    x->token--;
    return hai_fail(x->err, -ENOTSUP, "%s:%d: statement '%.40s' is not built in", x->name,
                    x->token->line, name);
}

/* Is the next tag one of these? Then the token after its opening is next. */
static bool at_one_of(struct parser *x, const char *const *ends) {
    if (x->token->kind != JINJA_TOKEN_BLOCK || x->token[1].kind != JINJA_TOKEN_NAME)
        return false;
    while (*ends && !hai_streq(x->token[1].text, *ends))
        ends++;
    x->token += *ends != NULL;
    return *ends;
}

static int one(struct parser *x, struct jinja_node **ret) {
    struct jinja_node *node = *ret = node_new(x, JINJA_TEXT);
    int r;

    switch (x->token->kind) {
    case JINJA_TOKEN_TEXT:
        node->value = (struct jinja_value){
            .kind = JINJA_STRING, .string = {x->token->text, NULL, x->token->n_bytes}
        };
        x->token++;
        return 0;
    case JINJA_TOKEN_PRINT:
        node->type = JINJA_PRINT;
        x->token++;
        r = expression(x, &node->a);
        if (r == 0 && x->token->kind != JINJA_TOKEN_PRINT_END)
            r = expected(x, "'}}'");
        x->token++;
        return r;
    default:
        x->token++;
        return statement(x, node);
    }
}

/* Statements up to one of the tags named, whose name is the next token; ends[0] NULL: to the end of
 * the template. */
static int statements(struct parser *x, const char *const *ends, struct jinja_node **ret) {
    struct chain list = {0};
    int r = deeper(x);

    while (r == 0 && !at_one_of(x, ends)) {
        struct jinja_node *node;
        if (x->token->kind == JINJA_TOKEN_END) {
            if (!ends[0])
                break;
            return hai_fail(x->err, -EBADMSG, "%s:%d: the template ends without '%s'", x->name,
                            x->token->line, ends[1] ? ends[ends[2] ? 2 : 1] : ends[0]);
        }
        r = one(x, &node);
        if (r == 0)
            chain_add(&list, node);
    }
    x->depth--;
    *ret = list.first;
    return r;
}

int jinja_parse(const char *text, size_t n_bytes, const char *name, struct arena *arena,
                struct jinja_node **ret, struct hai_err *err) {
    static const char *const none[] = {NULL};
    struct jinja_token *tokens;
    int r = jinja_lex(text, n_bytes, name, arena, &tokens, err);

    if (r < 0)
        return r;
    struct parser x = {.token = tokens, .arena = arena, .name = name, .err = err};
    return statements(&x, none, ret);
}
