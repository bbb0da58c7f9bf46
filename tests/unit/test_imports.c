#include "engine/data/imports.h"
#include "tests/unit/test.h"

enum { FILES_MAX = 8 };

static const struct {
    const char *name;
    struct {
        const char *path, *text;
    } files[FILES_MAX];
    const char *order; // paths, in the order expected
} cases[] = {
    {"without imports, by path",    {{"b.py", ""}, {"a/z.c", ""}, {"a.py", ""}},                     "a.py a/z.c b.py"},
    {"Python, absolute",
     {{"a.py", "import os, c as x, b\n"}, {"b.py", "\tfrom c import thing\n"}, {"c.py", "x = 1\n"}},
     "c.py b.py a.py"                                                                                                 },
    {"Python, a package below src",
     {{"src/p/__init__.py", "from p.core import run\n"},
      {"src/p/core.py", "from . import util\n"},
      {"src/p/util.py", ""},
      {"src/app.py", "import p\n"},
      {"setup.py", "import setuptools"}},
     // util is imported from the package whose __init__ imports core: the circle is entered at
     // __init__, so this comes last of it.
     "setup.py src/p/util.py src/p/core.py src/p/__init__.py src/app.py"                                              },
    {"Python, relative",
     {{"p/a.py", "from .b import x\nfrom ..top import (y, z)\n"},
      {"p/b.py", "from .c import d\n"},
      {"p/c/__init__.py", ""},
      {"p/c/d.py", ""},
      {"top.py", ""}},
     "p/c/__init__.py p/c/d.py p/b.py top.py p/a.py"                                                                  },
    {"Python, beside before above",
     {{"a/main.py", "import util"}, {"a/util.py", ""}, {"util.py", ""}},
     "a/util.py a/main.py util.py"                                                                                    },
    {"C",
     {{"a.c", "#include \"z.h\"\n# include <b/y.h>\n#include <stdio.h>\n"},
      {"b/y.h", "#include \"x.h\"\n"},
      {"b/x.h", ""},
      {"include/w.h", ""},
      {"z.h", "  #\tinclude <w.h>"}},
     "include/w.h z.h b/x.h b/y.h a.c"                                                                                },
    {"C, up and over",
     {{"a/m.c", "#include \"../b/n.h\"\n#include \"../../../c.h\"\n"}, {"b/n.h", ""}, {"c.h", ""}},
     "b/n.h a/m.c c.h"                                                                                                },
    {"JavaScript and TypeScript",
     {{"a.js", "import x from './lib/u';\nconst b = require(\"./b.js\"), c = require('fs');\n"},
      {"b.js", "export * from './lib'\n"},
      {"lib/index.ts", "import './v'\n"},
      {"lib/u.tsx", "const y = await import('../lib/v');"},
      {"lib/v.mjs", ""}},
     "lib/v.mjs lib/u.tsx lib/index.ts b.js a.js"                                                                     },
    {"a circle, and itself",
     {{"a.py", "import b\nimport a"}, {"b.py", "import c"}, {"c.py", "import a"}, {"d.py", ""}},
     "c.py b.py a.py d.py"                                                                                            },
    {"no import at all",
     {{"a.py", "important = 1\nimport\nfrom\nfrom b\nimport  .b\n"},
      {"b.py", "x = 'import a'\n"},
      {"c.c", "#includes \"d.h\"\n#include \"\n#include \"../../../d.h\"\n#include\n#"},
      {"d.h", "// #include \"c.c\"\n"}},
     "a.py b.py c.c d.h"                                                                                              },
};

static const size_t reversed[FILES_MAX] = {7, 6, 5, 4, 3, 2, 1, 0};

/* The same order however the files were listed. */
TEST(order)
{
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
        for (int backwards = 0; backwards < 2; backwards++) {
            const char *paths[FILES_MAX], *texts[FILES_MAX];
            char found[256] = "";
            size_t n = 0, order[FILES_MAX];
            for (size_t k = 0; k < FILES_MAX; k++) {
                size_t at = backwards ? reversed[k] : k;
                if (!cases[i].files[at].path)
                    continue;
                paths[n] = cases[i].files[at].path;
                texts[n++] = cases[i].files[at].text;
            }
            _cleanup_(imports_freep) struct imports *m = imports_new(paths, n);
            for (size_t k = 0; k < n; k++)
                imports_scan(m, k, texts[k], strlen(texts[k]));
            imports_order(m, order);
            for (size_t k = 0; k < n; k++) {
                strcat(found, k ? " " : "");
                strcat(found, paths[order[k]]);
            }
            CHECK_STR(found, cases[i].order, "%s", cases[i].name);
        }
}

/* A chain as long as a large repository: no recursion. */
TEST(long_chain)
{
    enum { N = 20000 };
    _cleanup_free_ const char **paths = hai_new_array(const char *, N);
    _cleanup_free_ size_t *order = hai_new_array(size_t, N);

    for (int i = 0; i < N; i++)
        paths[i] = hai_asprintf("m%05d.py", i);
    struct imports *m = imports_new(paths, N);
    for (int i = 0; i + 1 < N; i++) {
        _cleanup_free_ char *text = hai_asprintf("import m%05d\n", i + 1);
        imports_scan(m, (size_t)i, text, strlen(text));
        CHECK_EQ(imports_count(m, (size_t)i), 1);
        CHECK(imports_has(m, (size_t)i, (size_t)i + 1));
    }
    imports_order(m, order);
    for (size_t i = 0; i < N; i++)
        CHECK_EQ(order[i], N - 1 - i);
    imports_free(m);
    for (int i = 0; i < N; i++)
        free((char *)(uintptr_t)paths[i]);
}
