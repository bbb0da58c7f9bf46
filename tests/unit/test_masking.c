#include "lib/json.h"
#include "scheduler/masking.h"
#include "tests/unit/core_steps.h"

static const struct {
    const char *text, *masked;
    int r;
} cases[] = {
    {"{\"message\":\"node a1 is lost.\"}",               "{\"message\":\"node a node is lost.\"}", 0       },
    {"{\"name\":\"a1\"}\n",                              "{\"name\":\"a1\"}\n",                    0       },
    {"{\"message\":\"a2 starts now on a1,a2\"}",
     "{\"message\":\"node-1 starts now on node-2,node-1\"}",                                       0       },
    {"{\"message\":\"a2.example.com, a9.example.com\"}",
     "{\"message\":\"a node.example.com, a9.example.com\"}",                                       0       },
    {"{\"message\":",                                    "{\"message\":",                          -EBADMSG},
};

TEST(names_of_nodes_are_masked)
{
    struct world w;

    small_cluster(&w, 1, 2);
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        _cleanup_(buf_free) struct buf text = {0};
        struct hai_err err = {0};
        buf_add_str(&text, cases[i].text);
        CHECK_EQ(masking_apply(w.state, &text, &err), cases[i].r, "%s: %s", cases[i].text,
                 err.text);
        CHECK_STR(buf_cstr(&text), cases[i].masked);
    }
    world_free(&w);
}

/* Once an assertion: the scheduler ended when a guest asked for a list that was too long. */
TEST(what_is_too_long_is_an_error)
{
    struct buf text = {.n_bytes = (size_t)JSON_BYTES_MAX + 1};
    struct hai_err err = {0};
    struct world w;

    small_cluster(&w, 1, 1);
    text.data = calloc(1, text.n_bytes); // never touched
    CHECK_EQ(masking_apply(w.state, &text, &err), -EFBIG);
    CHECK_EQ(err.r, -EFBIG);
    free(text.data);
    world_free(&w);
}
