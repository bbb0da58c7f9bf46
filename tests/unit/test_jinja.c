#include "engine/data/jinja.h"
#include "tests/unit/test.h"

static const char values[] =
    "{\"x\": 3, \"y\": -7, \"f\": 1.5, \"s\": \"  Hi you \\n\", \"u\": \"\\u6bd5\\u8001 e\", "
    "\"l\": [1, 2, 3], \"d\": {\"b\": 1, \"a\": \"it's\"}, \"n\": null, \"t\": true, "
    "\"m\": [{\"role\": \"system\", \"content\": \"S\"}, {\"role\": \"user\", \"content\": "
    "\"U\"}]}";

/* The result, or what went wrong, in out. */
static int render(const char *template, struct buf *out, struct buf *marks, struct hai_err *err) {
    _cleanup_(json_freep) struct json *v = NULL;
    _cleanup_(jinja_freep) struct jinja *j = NULL;

    CHECK_EQ(json_parse(values, strlen(values), NULL, &v, err), 0, "%s", err->text);
    int r = jinja_new(template, strlen(template), "t", &j, err);
    const struct jinja_input input = {.values = v, .mark = 1, .now_s = 86400};
    return r < 0 ? r : jinja_render(j, &input, out, marks, err);
}

/* Expected texts are those of Python's jinja2 as transformers sets it up. */
static const struct {
    const char *template, *text;
} cases[] = {
  // white space
    {"a\n",                                                                                             "a"                                        },
    {"a\n\n",                                                                                           "a\n"                                      },
    {"a\r\nb\r\n",                                                                                      "a\nb"                                     },
    {"{% if x %}\n  yes\n{% endif %}\nend",                                                             "  yes\nend"                               },
    {"  {% if x %}a{% endif %}  \n b",                                                                  "a  \n b"                                  },
    {" a {%- if x -%} b {%- endif -%} c ",                                                              " ab"
                                           "c "                                                          },
    {"{%+ if x %} b{% endif +%}\nc",                                                                    " b\nc"                                    },
    {"a {# no #} b\n  {# no #}\nc {#- no -#} d",                                                        "a  b\ncd"                                 },
    {"  {{ x }}\n  {{- x }}",                                                                           "  33"                                     },
    {"{{ '}}' }}{{ {'a': {'b': 1}}.a.b }}",                                                             "}}1"                                      },
 // expressions
    {"{{ x + y }} {{ x / 2 }} {{ x // 2 }} {{ y // 2 }} {{ y % 3 }} {{ -x|abs }} {{ 1e3 }}",
     "-4 1.5 1 -4 2 3 1000.0"                                                                                                                      },
    {"{{ 1 + 2 * 3 }} {{ 2 ~ 3 * 4 }} {{ 7 - 2 - 1 }} {{ (1 + 2) * 3 }}",                               "7 212 4 9"                                },
    {"{{ not x is defined }} {{ z is defined }} {{ 1 < 2 < 3 }} {{ 1 < 2 > 3 }} {{ 1 == 1.0 }}",
     "False False True False True"                                                                                                                 },
    {"{{ 'i' in s }} {{ 4 not in l }} {{ 'b' in d }} {{ x is divisibleby 3 }} {{ x is odd }}",
     "True True True True True"                                                                                                                    },
    {"{{ 'a' if x else 'b' }}{{ 'a' if not x }}",                                                       "a"                                        },
    {"{{ n }} {{ t }} {{ l }} {{ d }} {{ z }} {{ (1, 'a') }} {{ (1,) }}",
     "None True [1, 2, 3] {'b': 1, 'a': \"it's\"}  (1, 'a') (1,)"                                                                                  },
    {"{{ l[0] }}{{ l[-1] }}{{ l[9] }}{{ l[1:] }}{{ l[::-1] }}{{ l[5:] }}",                              "13[2, 3][3, 2, 1][]"                      },
    {"{{ u[0] }}|{{ u[1:3] }}|{{ u[::-1] }}|{{ u|length }}|{{ u[-1:] }}",                               "毕|老 |e 老毕|4|e"                    },
    {"{{ d.a }}{{ d['b'] }}{{ d.q is defined }}{{ d.get('q', 5) }}{{ d.items()|list }}",
     "it's1False5[('b', 1), ('a', \"it's\")]"                                                                                                      },
    {"{{ 'a' 'b' \"c\" }}{{ 'it\\'s\\n' }}{{ '\\u6bd5' }}{{ 'a' ~ 1 ~ n ~ 1.0 }}",
     "abcit's\n毕a1None1.0"                                                                                                                       },
 // text
    {"{{ s|trim }}|{{ s.strip() }}|{{ s.lstrip() }}|{{ s.rstrip('\\n u') }}|{{ 'xxa'.strip('x') }}",
     "Hi you|Hi you|Hi you \n|  Hi yo|a"                                                                                                           },
    {"{{ 'a,b,c'.split(',', 1) }} {{ ' a  b '.split() }} {{ ' a b  c '.split(none, 1) }}",
     "['a', 'b,c'] ['a', 'b'] ['a', 'b  c ']"                                                                                                      },
    {"{{ 'a</think>b'.split('</think>')[-1] }} {{ 'ab'.startswith('a') }} {{ 'ab'.endswith('x') }}",
     "b True False"                                                                                                                                },
    {"{{ 'aXbX'.replace('X', '--') }} {{ 'aa'|replace('a', 'b', 1) }} {{ 'hi You'|title }}",
     "a--b-- ba Hi You"                                                                                                                            },
    {"{{ 'a\\nb\\n\\nc'|indent(2) }} {{ l|join('-') }} {{ m|map(attribute='role')|join(', ') }}",
     "a\n  b\n\n  c 1-2-3 system, user"                                                                                                            },
    {"{{ m|selectattr('role', 'equalto', 'user')|list|length }} {{ l|select('odd')|list }} "
     "{{ l|reject('equalto', 2)|join }}",                                                          "1 [1, 3] 13"                              },
    {"{{ z|default('d') }} {{ n|d('x') }} {{ ''|default('e', true) }} {{ '12'|int + 1 }}",
     "d None e 13"                                                                                                                                 },
    {"{{ d|tojson }} {{ 'é\"\\n<'|tojson }} {{ [1, none, true, 1.5]|tojson }}",
     "{\"b\": 1, \"a\": \"it's\"} \"é\\\"\\n<\" [1, null, true, 1.5]"                                                                             },
    {"{{ [{'a': [1]}, {}]|tojson(indent=1) }}",                                                         "[\n {\n  \"a\": [\n   1\n  ]\n },\n {}\n]"},
 // statements
    {"{% for i in l %}{{ loop.index }}{{ loop.first }}{{ loop.last }}{{ loop.length }} {% endfor "
     "%}",                                                                                         "1TrueFalse3 2FalseFalse3 3FalseTrue3 "    },
    {"{% for i in l if i != 2 %}{{ i }}{{ loop.revindex0 }}{% else %}none{% endfor %}"
     "{% for i in [] %}x{% else %}none{% endfor %}",                                               "1130none"                                 },
    {"{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}{% for c in 'ab' %}{{ c }}.{% endfor "
     "%}",                                                                                         "b=1;a=it's;a.b."                          },
    {"{% set a = 1 %}{% for i in l %}{% set a = a + i %}{{ a }}{% endfor %}{{ a }}",                    "2341"                                     },
    {"{% set ns = namespace(c=0) %}{% for i in range(9) %}{% if i == 5 %}{% break %}{% endif %}"
     "{% if i is even %}{% continue %}{% endif %}{% set ns.c = ns.c + i %}{% endfor %}{{ ns.c }}", "4"                                        },
    {"{% macro f(a, b='B') %}<{{ a }}{{ b }}>{% endmacro %}{{ f(1) }}{{ f(b=2, a=1) }}{{ f() }}",
     "<1B><12><B>"                                                                                                                                 },
    {"{% set z %} {{ x }} {% endset %}[{{ z }}]{% set a, b = 1, 2 %}{{ a }}{{ b }}",                    "[ 3 ]12"                                  },
    {"{% if z %}1{% elif x == 3 %}2{% else %}3{% endif %}",                                             "2"                                        },
    {"{% generation %}g{% endgeneration %}",                                                            "g"                                        },
    {"{{ strftime_now('%d %b %Y') }} {{ strftime_now is defined }}",                                    "02 Jan 1970 True"                         },
};

TEST(as_jinja2)
{
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        _cleanup_(buf_free) struct buf out = {0}, marks = {0};
        struct hai_err err = {0};
        CHECK_EQ(render(cases[i].template, &out, &marks, &err), 0, "%s: %s", cases[i].template,
                 err.text);
        CHECK_STR(buf_cstr(&out), cases[i].text, "%s", cases[i].template);
        CHECK_EQ(out.n_bytes, marks.n_bytes);
    }
}

static const struct {
    const char *template;
    int r;
    const char *says;
} refused[] = {
    {"{{ x",                                                                              -EBADMSG, "t:1: {{ without }}"          },
    {"\n{% if x %}",                                                                      -EBADMSG, "'endif'"                     },
    {"{% for x in l %}",                                                                  -EBADMSG, "'endfor'"                    },
    {"{# x",                                                                              -EBADMSG, "comment"                     },
    {"{{ 'x }}",                                                                          -EBADMSG, "string"                      },
    {"a\n{{ x + }}",                                                                      -EBADMSG, "t:2: expected a value"       },
    {"{{ x) }}",                                                                          -EBADMSG, "bracket"                     },
    {"{% endif %}",                                                                       -ENOTSUP, "'endif'"                     },
    {"{% break %}",                                                                       -EBADMSG, "loop"                        },
    {"\n\n{% include 'x' %}",                                                             -ENOTSUP, "t:3: statement 'include'"    },
    {"{{ x|nosuch }}",                                                                    -ENOTSUP, "filter 'nosuch'"             },
    {"{{ x is nosuch }}",                                                                 -ENOTSUP, "test 'nosuch'"               },
    {"{{ nosuch(1) }}",                                                                   -ENOTSUP, "function 'nosuch'"           },
    {"{{ s.nosuch() }}",                                                                  -ENOTSUP, "method 'nosuch'"             },
    {"{{ l.append(1) }}",                                                                 -ENOTSUP, "method 'append'"             },
    {"{{ x ** 2 }}",                                                                      -ENOTSUP, "'**'"                        },
    {"{{ z.a.b }}",                                                                       -EINVAL,  "'z' is undefined"            },
    {"{{ d.q.r }}",                                                                       -EINVAL,  "'q' is undefined"            },
    {"{{ 'a' + 1 }}",                                                                     -EINVAL,  "text and a whole number"     },
    {"{{ z + 1 }}",                                                                       -EINVAL,  "'z' is undefined"            },
    {"{{ 1 // 0 }}",                                                                      -EINVAL,  "division"                    },
    {"{{ 9223372036854775807 + 1 }}",                                                     -EINVAL,  "too large"                   },
    {"{{ 99999999999999999999 }}",                                                        -E2BIG,   "too large"                   },
    {"\n{{ raise_exception('no ' ~ x) }}",                                                -EINVAL,  "t:2: the template says: no 3"},
    {"{% set d.a = 1 %}",                                                                 -EINVAL,  "namespace"                   },
    {"{% set a, b = l %}",                                                                -EINVAL,  "2 names"                     },
    {"{{ l|tojson(separators=1) }}",                                                      -ENOTSUP, "'separators'"                },
    {"{{ 'é'|upper }}",                                                                  -ENOTSUP, "ASCII"                       },
    {"{{ s|trim(1, 2) }}",                                                                -EINVAL,  "at most 1"                   },
 // hostile ones
    {"{% set r = range(9999) %}{% for a in r %}{% for b in r %}{% endfor %}{% endfor %}", -E2BIG,
     "more than"                                                                                                                  },
    {"{% set ns = namespace(a='xxxxxxxxxxxxxxxx') %}{% for i in range(99) %}"
     "{% set ns.a = ns.a ~ ns.a %}{% endfor %}",                                     -E2BIG,   "more than"                   },
    {"{{ range(9999999999) }}",                                                           -E2BIG,   "more than"                   },
    {"{% macro f(a) %}{{ f(a) }}{% endmacro %}{{ f(1) }}",                                -E2BIG,   "too deep"                    },
    {"{% set ns = namespace(a=[]) %}{% for i in range(300) %}{% set ns.a = [ns.a] %}{% endfor %}"
     "{{ ns.a }}",                                                                   -E2BIG,   "too deep"                    },
    {"{% set ns = namespace(a=[]) %}{% for i in range(300) %}{% set ns.a = [ns.a] %}{% endfor %}"
     "{{ ns.a == ns.a }}",                                                           -E2BIG,   "too deep"                    },
};

TEST(refused_templates)
{
    for (size_t i = 0; i < ARRAY_SIZE(refused); i++) {
        _cleanup_(buf_free) struct buf out = {0}, marks = {0};
        struct hai_err err = {0};
        CHECK_EQ(render(refused[i].template, &out, &marks, &err), refused[i].r, "%s: %s",
                 refused[i].template, err.text);
        CHECK(strstr(err.text, refused[i].says), "%s: %s", refused[i].template, err.text);
        CHECK_EQ(out.n_bytes, 0);
    }
}

/* Nesting that only the parser sees. */
TEST(deep_templates)
{
    static const char *const parts[][2] = {
        {"(",            ")"          },
        {"[",            "]"          },
        {"not ",         ""           },
        {"-",            ""           },
        {"x[",           "]"          },
        {"1 if 0 else ", ""           },
        {"{'a': ",       "}"          },
        {"{% if x %}",   "{% endif %}"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
        _cleanup_(buf_free) struct buf text = {0}, out = {0}, marks = {0};
        struct hai_err err = {0};
        bool is_block = parts[i][0][1] == '%';
        buf_add_str(&text, is_block ? "" : "{{ ");
        for (int j = 0; j < 20000; j++)
            buf_add_str(&text, parts[i][0]);
        buf_add_str(&text, "1");
        for (int j = 0; j < 20000; j++)
            buf_add_str(&text, parts[i][1]);
        buf_add_str(&text, is_block ? "" : " }}");
        CHECK_EQ(render(buf_cstr(&text), &out, &marks, &err), -E2BIG, "%s: %s", parts[i][0],
                 err.text);
    }
}

/* Who wrote what: T the template, v a value. */
TEST(marks_follow)
{
    static const struct {
        const char *template, *marks;
    } marked[] = {
        {"a{{ u }}b",                                               "Tvvvvvvvv"
                      "T"                                                        },
        {"{{ 'x' + m[1].role }}",                                   "Tvvvv"                           },
        {"{{ (m[1].content ~ '-')|trim }}",                         "vT"                              },
        {"{{ s.strip()[0] }}{{ 'ab'[1] }}",                         "vT"                              },
        {"{{ 'a-b'.replace('-', m[1].content) }}",                  "TvT"                             },
        {"{{ ['a', m[1].content]|join(',') }}",                     "TTv"                             },
        {"{{ m[1]|tojson }}",                                       "TTvvvvTTTTvvvvTTTTvvvvvvvTTTTvTT"},
        {"{% set z %}{{ m[1].content }}!{% endset %}{{ z|upper }}", "vT"                              },
        {"{% for c in m[1].role %}{{ c }}.{% endfor %}",            "vTvTvTvT"                        },
        {"{{ m[1].role.split('s')[1] ~ x }}",                       "vvT"                             },
    };

    for (size_t i = 0; i < ARRAY_SIZE(marked); i++) {
        _cleanup_(buf_free) struct buf out = {0}, marks = {0};
        struct hai_err err = {0};
        CHECK_EQ(render(marked[i].template, &out, &marks, &err), 0, "%s", err.text);
        for (size_t j = 0; j < marks.n_bytes; j++)
            marks.data[j] = marks.data[j] ? 'v' : 'T';
        CHECK_STR(buf_cstr(&marks), marked[i].marks, "%s: %s", marked[i].template, buf_cstr(&out));
    }
}
