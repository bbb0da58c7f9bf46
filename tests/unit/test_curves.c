/* Metrics as curves: which lines count, and what the pictures look like. */
#include "cli/curves.h"
#include "tests/unit/test.h"

#include <math.h>

static int parse(const char *text, struct curves *ret, struct hai_err *err) {
    return curves_parse(text, strlen(text), "m.jsonl", ret, err);
}

TEST(the_last_line_of_a_step_counts)
{
    struct curves c = {0};
    struct hai_err err = {0};

    CHECK_EQ(parse("{\"step\":3,\"loss\":4,\"lr\":0.1}\n{\"step\":4,\"loss\":3.5,\"note\":\"x\"}\n"
                   "{\"step\":5,\"loss\":9,\"skipped\":\"loss 9\"}\n{\"step\":4,\"loss\":3.25}\n"
                   "{\"step\":6,\"loss\":null}\n{\"step\":7,\"lo",
                   &c, &err),
             0, "%s", err.text);
    CHECK_EQ(c.first_step, 3);
    CHECK_EQ(c.n_steps, 4);
    CHECK_EQ(c.n, 2);
    CHECK_EQ(c.n_skipped, 1);
    const double *loss = curves_find(&c, "loss")->values;
    CHECK(loss[0] == 4 && loss[1] == 3.25 && isnan(loss[2]) && isnan(loss[3]));
    CHECK(curves_find(&c, "lr")->values[0] == 0.1 && isnan(curves_find(&c, "lr")->values[1]));
    CHECK(!curves_find(&c, "note") && !curves_find(&c, "step"));
    curves_free(&c);
}

TEST(what_is_refused)
{
    static const struct {
        const char *text;
        int r;
        const char *says;
    } cases[] = {
        {"",                                      -ENODATA, "m.jsonl: no step"                       },
        {"{\"step\":1",                           -ENODATA, "m.jsonl: no step"                       },
        {"{\"step\":1}\nx\n",                     -EBADMSG, "m.jsonl:2: "                            },
        {"{\"step\":1}\n{\"loss\":1}\n",          -EBADMSG, "m.jsonl:2: no line of metrics; expected"},
        {"{\"step\":-1}\n",                       -EBADMSG, "m.jsonl:1: "                            },
        {"{\"step\":\"1\"}\n",                    -EBADMSG, "m.jsonl:1: "                            },
        {"[1]\n",                                 -EBADMSG, "m.jsonl:1: "                            },
        {"{\"step\":0}\n{\"step\":9e9}\n",        -EBADMSG, "m.jsonl:2: "                            },
        {"{\"step\":0}\n{\"step\":9000000000}\n", -EFBIG,   "m.jsonl: has steps 0 to 9000000000"     },
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct curves c = {0};
        struct hai_err err = {0};
        CHECK_EQ(parse(cases[i].text, &c, &err), cases[i].r, "%zu: %s", i, err.text);
        CHECK(!strncmp(err.text, cases[i].says, strlen(cases[i].says)), "%zu: %s", i, err.text);
    }
}

/* Without braille every column of a falling line has its star one row below. */
TEST(a_line_falls)
{
    _cleanup_(buf_free) struct buf text = {0}, picture = {0}, braille = {0}, svg = {0};
    struct curves c = {0};
    struct hai_err err = {0};

    for (int i = 0; i < 20; i++)
        buf_printf(&text, "{\"step\":%d,\"loss\":%d}\n", i + 1, 20 - i);
    CHECK_EQ(parse(buf_cstr(&text), &c, &err), 0);
    curves_text(&c, &c.items[0], 30, 7, false, &picture);
    CHECK_STR(buf_cstr(&picture), "loss, last 1\n"
                                  "      20 |***\n"
                                  "         |   *****\n"
                                  "    10.5 |        ****\n"
                                  "         |            *****\n"
                                  "       1 |                 ***\n"
                                  "          1                 20\n");
    curves_text(&c, &c.items[0], 30, 5, true, &braille);
    CHECK(strstr(buf_cstr(&braille), "\xe2\xa0"), "%s", buf_cstr(&braille));
    const struct curve *one = &c.items[0];
    curves_svg(&c, &one, 1, "a <run>", &svg);
    CHECK(strstr(buf_cstr(&svg), "a &lt;run>") && strstr(buf_cstr(&svg), "<polyline"));
    CHECK(strstr(buf_cstr(&svg), ">20</text>"));
    curves_free(&c);
}

/* A gap ends the line; a curve that does not move lies in the middle; no value at all draws none.
 */
TEST(gaps_and_flat_curves)
{
    _cleanup_(buf_free) struct buf picture = {0}, svg = {0};
    struct curves c = {0};
    struct hai_err err = {0};
    size_t n_lines = 0;

    CHECK_EQ(
        parse("{\"step\":1,\"a\":5}\n{\"step\":2,\"a\":null,\"b\":null}\n{\"step\":3,\"a\":5}\n",
              &c, &err),
        0);
    CHECK_EQ(c.n, 1);
    curves_text(&c, &c.items[0], 30, 5, false, &picture);
    CHECK(strstr(buf_cstr(&picture), "       5 |*******       ******"), "%s", buf_cstr(&picture));
    const struct curve *one = &c.items[0];
    curves_svg(&c, &one, 1, "", &svg);
    for (const char *at = buf_cstr(&svg); (at = strstr(at, "<polyline")); at++)
        n_lines++;
    CHECK_EQ(n_lines, 2);
    curves_free(&c);
}
