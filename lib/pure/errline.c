#include "lib/pure/errline.h"

#include <stdio.h>

/* Are the last parts of two paths the same, "--gpus-per-node" and "resources.gpus_per_node"? */
static bool same_field(const char *a, const char *b, size_t n_b) {
    const char *dot_a = strrchr(a, '.'), *dot_b = memrchr(b, '.', n_b);

    a = dot_a ? dot_a + 1 : a + (strncmp(a, "--", 2) == 0 ? 2 : 0);
    if (dot_b) {
        n_b -= (size_t)(dot_b + 1 - b);
        b = dot_b + 1;
    }
    if (strlen(a) != n_b || n_b == 0)
        return false;
    for (size_t i = 0; i < n_b; i++)
        if (a[i] != b[i] && !(a[i] == '-' && b[i] == '_'))
            return false;
    return true;
}

const char *errline_text(const struct hai_err *err, char ret[static ERRLINE_BYTES]) {
    const char *where = err->where, *text = hai_err_text(err);
    size_t n_where = strlen(where);
    size_t n_field = strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789_.[]"); // its first word
    bool flag = strncmp(where, "--", 2) == 0;
    bool same = text[n_field] == ' ' && same_field(where, text, n_field);

    // not_before is that of --begin; "there is no ..." names no field.
    if (flag && strncmp(text + n_field, " is ", 4) == 0 && strcspn(text, "._") < n_field)
        same = true;
    if (same && (flag || n_where > n_field)) // the longer path of the two
        (void)snprintf(ret, ERRLINE_BYTES, "%s%s", where, text + n_field);
    else if (n_where == 0 || same || (strncmp(text, where, n_where) == 0 && text[n_where] == '.'))
        (void)snprintf(ret, ERRLINE_BYTES, "%s", text);
    else
        (void)snprintf(ret, ERRLINE_BYTES, "%s: %s", where, text);
    return ret;
}
