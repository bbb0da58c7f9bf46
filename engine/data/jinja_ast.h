/* jinja_ast.h - a template as a tree: what the parser makes and the renderer walks. */
#pragma once
#include "engine/data/jinja_value.h"

enum jinja_type {
    // expressions
    JINJA_CONSTANT,  // value
    JINJA_NAME,      // name
    JINJA_LIST_OF,   // list: the elements; flag: a tuple
    JINJA_DICT_OF,   // list: key, value, key, value, ...
    JINJA_ATTRIBUTE, // a.name
    JINJA_ITEM,      // a[b]
    JINJA_SLICE,     // a[b:c:d], each of the three may be NULL
    JINJA_CALL,      // a(list)
    JINJA_FILTER,    // a|name(list)
    JINJA_TEST,      // a is name(list); flag: is not
    JINJA_NOT,
    JINJA_NEGATE,
    JINJA_PLUS,
    JINJA_AND,
    JINJA_OR,
    JINJA_BINARY,    // a op b; op a character of "+-*/%~", or 'i' for //, 'p' for **
    JINJA_COMPARE,   // a, then list of JINJA_BINARY with op and b: "<>=!lg", 'i' in, 'n' not in
    JINJA_CONDITION, // b if a else c; c may be NULL
    // statements
    JINJA_TEXT,       // value
    JINJA_PRINT,      // a
    JINJA_IF,         // a, list, other
    JINJA_FOR,        // targets, a, b: condition or NULL, list, other
    JINJA_SET,        // targets = a; a NULL: what list prints
    JINJA_SET_MEMBER, // b.name = a
    JINJA_MACRO_DEF,  // name, targets with defaults in a, list
    JINJA_BREAK,
    JINJA_CONTINUE,
    JINJA_GROUP, // list
};

/* Arguments of calls are nodes in a list whose `keyword` is the name, or NULL. */
struct jinja_node {
    enum jinja_type type;
    int line;
    char op;
    bool flag;
    const char *name, *keyword;
    struct jinja_value value;
    struct jinja_node *a, *b, *c, *d;
    struct jinja_node *list, *other, *targets;
    struct jinja_node *next; // in the list that this one stands in
};
