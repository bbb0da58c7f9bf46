#!/usr/bin/env python3
"""Plants violations in copies of a small clean tree: tests/tidy must find each, and only there."""

import importlib.machinery
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
loader = importlib.machinery.SourceFileLoader("tidy", os.path.join(HERE, "tidy"))
tidy = importlib.util.module_from_spec(importlib.util.spec_from_loader("tidy", loader))
loader.exec_module(tidy)

HEADER = """/* {name}.h - stands in for a module.
 */
#pragma once
#include "lib/base.h"

int {name}_get(int a);
"""
SOURCE = """#include "{folder}/{name}.h"

int {name}_get(int a) {{
    return a + 1;
}}
"""
LONG = "int feasible_get(int a) {\n" + "    a++;\n" * 68 + "    return a;\n}\n"
BODY = '#include "scheduler/core/feasible.h"\n\n'

# rule, file, its text (None: text appended to the clean file), what the finding says
PLANTED = [
    ("check_includes", "cli/verb.c", '#include "scheduler/core/feasible.h"\n',
     "may not be included"),
    ("check_includes", "agent/core/plan.c", '#include "lib/text.h"\n', "may not be included"),
    ("check_includes", "wire/post.c", '#include "text.h"\n', "not a path from the root"),
    ("check_includes", "odd/post.c", "", "STYLE table does not know"),
    ("check_fences", "scheduler/daemon.c", "#include <sqlite3.h>\n", "fenced"),
    ("check_fences", "agent/daemon.c", "#include <systemd/sd-event.h>\n", "fenced"),
    ("check_fences", "agent/daemon.c", "#include <pthread.h>\n", "fenced"),
    ("check_fences", "agent/daemon.c", "#include <zlib.h>\n", "fenced"),
    ("check_fences", "scheduler/core/clock.c", "#include <time.h>\n", "in a pure module"),
    ("check_cycles", "lib/text.h", HEADER.format(name="text") + '#include "lib/words.h"\n',
     "includes itself"),
    ("check_base_names", "sim/text.c", "\n", "is taken"),
    ("check_lengths", "lib/text.c", "int x;\n" * 800, "800 lines"),
    ("check_lengths", "scheduler/core/feasible.c", BODY + LONG, "feasible_get has 71 lines"),
    ("check_lengths", "scheduler/core/feasible.c",
     BODY + LONG.replace("(int a) {", "(int a,\n                 int b) {"), "has 72 lines"),
    ("check_headers", "lib/text.h", "#pragma once\n", "opens without"),
    ("check_headers", "lib/text.h", "/* text.h - says. */\n", "pragma once"),
    ("check_form", "lib/text.c", '#include "lib/text.h"\nint  text_get( int a ){return a;}\n',
     "clang-format"),
    ("check_developer", "lib/text.c", "// see /" + "Users/someone\n", "developer"),
    ("check_developer", "docs/a.md", "cd /home/" + "someone/hai\n", "developer"),
    ("check_developer", "lib/text.c", "// TO" + "DO\n", "unfinished"),
    ("check_citations", "lib/text.c", "// as DESIGN" + ".md says\n", "not in the repository"),
    ("check_unit_lists", "tests/unit/test_words.c", "\n", "not in tests/unit/meson.build"),
    ("check_map", "docs/ARCHITECTURE.md", "| `lib/gone.c` | |\n", "is not there"),
    ("check_map", "docs/ARCHITECTURE.md", "| `text_get` `text_lost` |\n", "called text_lost"),
    ("check_core_symbols", "scheduler/core/feasible.c",
     BODY + "#include <time.h>\nint feasible_get(int a) {\n    return (int)time(NULL) + a;\n}\n",
     "refers to time"),
    ("check_core_symbols", "scheduler/core/feasible.c",
     BODY + "int feasible_get(int a) {\n    static int calls;\n    return a + calls++;\n}\n",
     "variables outside functions"),
    ("check_core_floats", "scheduler/core/feasible.c",
     BODY + "int feasible_get(int a) {\n    return (int)(a * 0.3);\n}\n", "floating point"),
    ("check_core_floats", "agent/core/plan.c",
     '#include "agent/core/plan.h"\n\nint plan_get(int a) {\n    double d = a;\n'
     "    return d < 3 ? 1 : 2;\n}\n", "floating point"),
    ("check_exports", "lib/text.c",
     '#include "lib/text.h"\nint words_take(void);\nint words_take(void) {\n    return 1;\n}\n',
     "exports words_take"),
]


def write(root, name, text):
    path = os.path.join(root, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as f:
        f.write(text)


def clean_tree(root):
    for folder, name in (("lib", "text"), ("lib", "words"), ("scheduler/core", "feasible"),
                         ("agent/core", "plan")):
        include = '#include "lib/text.h"\n' if name == "words" else ""
        write(root, f"{folder}/{name}.h", HEADER.format(name=name) + include)
        write(root, f"{folder}/{name}.c", SOURCE.format(name=name, folder=folder))
    write(root, "lib/base.h", "/* base.h - stands in. */\n#pragma once\n#include <stddef.h>\n")
    write(root, "tests/unit/meson.build", "'text': []\n")
    write(root, "tests/unit/test_text.c", "")
    shutil.copy(os.path.join(os.path.dirname(HERE), ".clang-format"), root)


def compile_tree(root, build):
    """Objects and a compile_commands.json, as meson would leave them."""
    os.makedirs(build)
    listed = []
    for folder, _, names in os.walk(root):
        for name in names:
            source = os.path.relpath(os.path.join(folder, name), root)
            if not source.endswith(".c") or source.startswith(("tests/", "odd/")):
                continue
            obj = os.path.join(build, source.replace("/", "_") + ".o")
            # As meson writes them: paths from the build folder.
            command = ["cc", "-I", root, "-c", os.path.join(root, source), "-o", obj]
            subprocess.run(command, check=True)
            listed.append({"directory": build, "file": os.path.join(root, source), "output": obj,
                           "command": " ".join(command)})
    with open(os.path.join(build, "compile_commands.json"), "w") as f:
        json.dump(listed, f)


def findings(root, rule, with_build):
    build = None
    if with_build:
        build = os.path.join(root, "build")
        shutil.rmtree(build, ignore_errors=True)
        compile_tree(root, build)
    tree = tidy.Tree(root, build)
    if with_build:
        tree.files = [name for name in tree.files if not name.startswith("build/")]
    reason = getattr(tidy, rule)(tree)
    return tree.findings, reason


def main():
    passed = failed = skipped = 0
    compiled = {"check_core_symbols", "check_core_floats", "check_exports"}
    with tempfile.TemporaryDirectory() as tmp:
        clean = os.path.join(tmp, "clean")
        clean_tree(clean)
        cases = [(rule.__name__, None, None, None) for rule in tidy.RULES] + PLANTED
        for at, (rule, name, text, says) in enumerate(cases):
            root = os.path.join(tmp, str(at))
            shutil.copytree(clean, root)
            if name:
                write(root, name, text)
            found, reason = findings(root, rule, rule in compiled)
            right = not found if name is None else found and all(
                f.startswith(os.path.splitext(name)[0]) and says in f for f in found)
            if reason:
                skipped += 1
                print(f"skipped: {rule}: {reason}")
            elif right:
                passed += 1
            else:
                failed += 1
                print(f"FAILED {rule} with {name}: found {found}, expected {says}")
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
