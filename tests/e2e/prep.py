#!/usr/bin/env python3
"""hai-prep: text, JSON lines and code become shards that hold exactly what docs/data.md says.

usage: prep.py HAI_PREP HAI_TOKENIZE

Shards are read here by a reader of our own, written after docs/data.md.
"""
import gzip
import json
import os
import re
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import time

from checks import check, closing, run

TINY = "tests/fixtures/tokenizer/tiny"
MIDDLE = {"<think>": "<｜fim▁begin｜>", "</think>": "<｜fim▁hole｜>", "<｜▁pad▁｜>": "<｜fim▁end｜>"}
WORDS = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi".split()


def page(number, n=400, other=()):
    """A text of n words that no other number has; those whose place is in `other` are changed."""
    return " ".join(WORDS[(i * 7 + number * 5) % len(WORDS)] + str((number * 7919 + i * i) % 9973) +
                    ("x" if i in other else "") for i in range(n))


def write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as f:
        f.write(text if isinstance(text, bytes) else text.encode())
    return path


def documents(folder):
    """Token ids of all documents of a folder, and its manifest."""
    with open(folder + "/manifest.json", encoding="utf-8") as f:
        manifest = json.load(f)
    found = []
    for shard in manifest["shards"]:
        with open(folder + "/" + shard["file"], "rb") as f:
            data = f.read()
        version, width, digest, n_vocab, block, n_tokens, n_documents, n_bytes = \
            struct.unpack_from("<IIQIIQQQ", data, 8)
        check(data[:8] == b"HAISHARD" and version == 1 and n_bytes == len(data), shard["file"])
        check(n_tokens == shard["tokens"] and n_documents == shard["documents"], str(shard))
        check(n_vocab == manifest["vocabulary"]["size"] and
              "%016x" % digest == manifest["vocabulary"]["digest"], shard["file"])
        ids = struct.unpack_from("<%d%s" % (n_tokens, "H" if width == 2 else "I"), data, 4096)
        at = 4096 + -(-n_tokens * width // 4096) * 4096
        index = struct.unpack_from("<%dQ" % n_documents, data, at) + (n_tokens,)
        check(at + 8 * n_documents + 8 * -(-n_tokens * width // block) == n_bytes, shard["file"])
        found += [ids[index[i]:index[i + 1]] for i in range(n_documents)]
    check(len(found) == manifest["documents"] and
          sum(map(len, found)) == manifest["tokens"], "totals of " + folder)
    return found, manifest


def as_text(ids):
    """A document of the tokenizer of bytes: its begin and end are checked and taken away."""
    check(ids[0] == 256 and ids[-1] == 257 and max(ids[1:-1], default=0) < 256, str(ids[:9]))
    return bytes(ids[1:-1]).decode()


def check_sources(prep, scratch):
    """Each kind of source, in order; several shards; everything counted."""
    texts = [page(1), "ümlaut 三\n", page(2)]
    write(scratch + "/t/a.txt", texts[0])
    write(scratch + "/t/b/c.txt.gz", gzip.compress(texts[1].encode()))
    write(scratch + "/t/d.txt", texts[2])
    write(scratch + "/t/none", b"\0binary")
    write(scratch + "/t/empty", "")
    lines = [page(3), "a\u0000b\n\u2028", "", page(4)]
    write(scratch + "/l.jsonl", "\n".join(json.dumps({"meta": {"body": 1}, "body": t})
                                          for t in lines) + "\n \n")
    write(scratch + "/m.jsonl.gz", gzip.compress(json.dumps({"body": page(5)}).encode()))
    code, out, err = run(prep, scratch + "/out", "--model", "bytes", "--text", scratch + "/t",
                         "--jsonl", scratch + "/?.jsonl*", "--field", "body",
                         "--shard-tokens", "3000")
    check(code == 0 and out.startswith(scratch + "/out: 7 documents") and not err, out + err)
    found, manifest = documents(scratch + "/out")
    check([as_text(d) for d in found] == texts + [lines[0], lines[1], lines[3], page(5)],
          "the documents differ")
    check(len(manifest["shards"]) > 2 and
          all(s["tokens"] >= 3000 for s in manifest["shards"][:-1]), str(manifest["shards"]))
    one, two = manifest["sources"]
    check(one["documents"] == 3 and one["files_not_text"] == 1 and one["files"] == 5 and
          one["dropped"] == {"exact": 0, "near": 0, "empty": 1}, str(one))
    check(two["documents"] == 4 and two["documents_seen"] == 5 and two["kind"] == "jsonl", str(two))
    code, out, err = run(prep, "--check", scratch + "/out")
    check(code == 0 and "7 documents" in out and "whole" in out, out + err)
    # The same again is the same bytes.
    run(prep, scratch + "/again", "--model", "bytes", "--text", scratch + "/t", "--jsonl",
        scratch + "/?.jsonl*", "--field", "body", "--shard-tokens", "3000")
    for shard in manifest["shards"]:
        with open(scratch + "/out/" + shard["file"], "rb") as a, \
                open(scratch + "/again/" + shard["file"], "rb") as b:
            check(a.read() == b.read(), shard["file"] + " differs")


def check_duplicates(prep, scratch):
    """Exact and near ones go, the first stays; what is no duplicate stays."""
    texts = [page(i) for i in range(20)]
    near = [page(i, other=(50, 300)) for i in range(20)]     # 10 of 396 shingles: 0.95
    far = [page(i, other=range(0, 400, 9)) for i in range(20)]
    write(scratch + "/dup.jsonl", "".join(json.dumps({"text": t}) + "\n"
                                          for t in texts + texts[:5] + near + far))
    for kind, n_exact, n_near in (("near", 5, 20), ("exact", 5, 0), ("none", 0, 0)):
        out = scratch + "/dup-" + kind
        code, said, err = run(prep, out, "--model", "bytes", "--jsonl", scratch + "/dup.jsonl",
                              "--dedup", kind, "-q")
        check(code == 0 and not said and not err, kind + ": " + err)
        found, manifest = documents(out)
        dropped = manifest["sources"][0]["dropped"]
        check(dropped == {"exact": n_exact, "near": n_near, "empty": 0}, kind + str(dropped))
        kept = [as_text(d) for d in found]
        check(kept[:20] == texts and kept[-20:] == far, kind + ": the wrong ones were kept")
    code, _, err = run(prep, scratch + "/x", "--model", "bytes", "--jsonl", scratch + "/dup.jsonl",
                       "--dedup-memory", "10KiB")
    check(code == 2 and "dup.jsonl:" in err and "--dedup-memory" in err, err)


def check_code(prep, scratch):
    """Files of a repository as one document, imported ones first; near-copies of it dropped."""
    for name in ("r1", "r2"):
        root = scratch + "/repos/" + name
        write(root + "/main.py", "import lib.util\nprint(1)")
        write(root + "/lib/__init__.py", "")
        write(root + "/lib/util.py", "from lib import deep\n" + page(9) + "\n")
        write(root + "/lib/deep.py", page(10) + "\n")
        write(root + "/z/a.c", '#include "b.h"\nint main;\n')
        write(root + "/z/b.h", "int b;\n")
        write(root + "/.git/config", "hidden")
        write(root + "/logo.png", b"\x89PNG\0")
    write(scratch + "/repos/r2/z/b.h", "int b2;\n")
    write(scratch + "/repos/r3/only.js", "let x = 1;\n")
    code, out, err = run(prep, scratch + "/code", "--model", "bytes", "--code",
                         scratch + "/repos/*")
    check(code == 0, out + err)
    found, manifest = documents(scratch + "/code")
    root = scratch + "/repos/r1/"
    wanted = ""
    for name in ("lib/deep.py", "lib/util.py", "main.py", "z/b.h", "z/a.c"):
        with open(root + name, encoding="utf-8") as f:
            wanted += ("" if wanted.endswith("\n") or not wanted else "\n") + \
                ("# " if name.endswith("py") else "// ") + name + "\n" + f.read()
    check([as_text(d) for d in found] == [wanted, "// only.js\nlet x = 1;\n"],
          "repositories: " + as_text(found[0]))
    source = manifest["sources"][0]
    check(source["dropped"]["near"] == 1 and source["documents_seen"] == 3, str(source))
    code, _, err = run(prep, scratch + "/plain", "--model", "bytes", "--no-paths", "--code",
                       scratch + "/repos/r3/")
    check(code == 0 and as_text(documents(scratch + "/plain")[0][0]) == "let x = 1;\n", err)


def check_middle(prep, tokenize, scratch):
    """Rewritten documents read back; which they are does not depend on what else is there."""
    with open(TINY + "/tokenizer.json", encoding="utf-8") as f:
        text = f.read()
    for old, new in MIDDLE.items():
        text = text.replace('"%s"' % old, '"%s"' % new)
    tokenizer = write(scratch + "/fim/tokenizer.json", text)
    texts = ["%d: if x < %d:  # <｜User｜>\n    return 'é%d'\n" % (i, i * i, i) for i in range(300)]
    write(scratch + "/fim.jsonl", "".join(json.dumps({"text": t}) + "\n" for t in texts))
    args = ["--tokenizer", tokenizer, "--jsonl", scratch + "/fim.jsonl", "--dedup", "none"]
    code, out, err = run(prep, scratch + "/fim-out", *args, "--fim", "0.5", "--seed", "3")
    check(code == 0 and "names no end token" in err, err)
    found, manifest = documents(scratch + "/fim-out")
    _, lines, _ = run(tokenize, "decode", "--tokenizer", tokenizer,
                      stdin="".join(json.dumps(list(d)) + "\n" for d in found))
    n_middle = 0
    for line, wanted in zip(lines.splitlines(), texts):
        whole = json.loads(line)
        parts = re.fullmatch("<｜fim▁begin｜>(.*)<｜fim▁hole｜>(.*)<｜fim▁end｜>(.*)", whole, re.S)
        n_middle += parts is not None
        check((parts[1] + parts[3] + parts[2] if parts else whole) == wanted, whole)
    # 150 expected, standard deviation 8.7.
    check(105 < n_middle < 195 and manifest["sources"][0]["middle"] == n_middle, str(n_middle))
    check("to be filled in: %d\n" % n_middle in out, out)
    user = 508
    check(not any(user in d for d in found), "text became a special token")
    run(prep, scratch + "/special", *args, "--special")
    check(all(user in d for d in documents(scratch + "/special")[0]), "--special")
    code, _, err = run(prep, scratch + "/x", "--model", TINY, "--jsonl", scratch + "/fim.jsonl",
                       "--fim", "1")
    check(code == 2 and "<｜fim▁begin｜>" in err, err)
    code, _, err = run(prep, scratch + "/named", *args[:4], "--fim", "1", "--fim-tokens",
                       ",".join(MIDDLE.values()), "-q")
    check(code == 0 and not err, err)


def bad_cases(scratch):
    """Arguments after OUT, exit status, what stderr says."""
    text, out = ["--text", scratch + "/t"], scratch + "/x"
    write(scratch + "/bad1.jsonl", '{"text": "a"}\n{"text": 7}\n')
    write(scratch + "/bad2.jsonl", '{"text": "a"}\n\n{"txt": "b"}\n')
    write(scratch + "/bad3.jsonl", '{"text": "a", "text": "b"}')
    write(scratch + "/bad4.jsonl", '{"text": "a\n')
    model = ["--model", "bytes"]
    return [
        ([], 2, "expected one folder"),
        ([out], 2, "--model or --tokenizer"),
        ([out, *model], 2, "--text, --jsonl or --code"),
        ([out, "more", *model, *text], 2, "one folder"),
        ([out, *model, "--tokenizer", "x", *text], 2, "one of --model and --tokenizer"),
        ([out, "--model", "/nowhere", *text], 2, "/nowhere"),
        ([out, "--nonsense"], 2, "usage:"),
        ([out, *model, *text, "--fim", "1.5"], 2, "--fim is 1.5; expected a number from 0 to 1"),
        ([out, *model, *text, "--fim-tokens", "a,b"], 2, "--fim-tokens is a,b"),
        ([out, *model, *text, "--bands", "7"], 2, "bands is 7; expected a divisor"),
        ([out, *model, *text, "--shingle", "0"], 2, "--shingle is 0"),
        ([out, *model, *text, "--dedup", "some"], 2, "near, exact or none"),
        ([out, *model, *text, "--dedup-memory", "7"], 2, "expected a size"),
        ([out, *model, *text, "--shard-tokens", "x"], 2, "--shard-tokens is x; expected"),
        ([out, *model, "--text", scratch + "/gone*"], 2, "/gone*: no such file"),
        ([out, *model, "--code", scratch + "/l.jsonl"], 2, "l.jsonl: expected a folder"),
        ([out, *model, "--text", scratch + "/t/empty"], 2, "no document with text"),
        ([out, *model, "--jsonl", scratch + "/bad1.jsonl"], 2,
         "/bad1.jsonl:2: byte 10: expected a string"),
        ([out, *model, "--jsonl", scratch + "/bad2.jsonl"], 2, "/bad2.jsonl:3: no member 'text'"),
        ([out, *model, "--jsonl", scratch + "/bad3.jsonl"], 2, ":1: 'text' is there twice"),
        ([out, *model, "--jsonl", scratch + "/bad4.jsonl"], 2, "/bad4.jsonl:1: byte"),
        ([scratch + "/out", *model, *text], 2, "is there already"),
        (["--check", scratch + "/t"], 2, "/t/manifest.json"),
        (["--check", scratch + "/out", *model], 2, "--check goes with nothing else"),
    ]


def check_errors(prep, scratch):
    for args, status, says in bad_cases(scratch):
        code, out, err = run(prep, *args)
        check(code == status and says in err and not out, "%s: exit %d: %s" % (args, code, err))
        check(not [f for f in os.listdir(scratch) if f.startswith("x")], "something is left")
    code, out, _ = run(prep, "--help")
    check(code == 0 and out.startswith("usage:"), out)
    # Damage in a block is found, and named.
    shard = scratch + "/out/shard-00001.hai"
    with open(shard, "r+b") as f:
        f.seek(5000)
        byte = f.read(1)
        f.seek(5000)
        f.write(bytes([byte[0] ^ 1]))
    code, _, err = run(prep, "--check", scratch + "/out")
    check(code == 2 and "shard-00001.hai: checksum of the block 0" in err, err)


def check_large(prep, scratch):
    """Memory does not grow with a file; a signal ends the work and leaves nothing."""
    path = scratch + "/large.jsonl"
    with open(path, "w", encoding="utf-8") as f:
        for i in range(60000):
            f.write(json.dumps({"text": page(i % 5000, n=60) + str(i)}) + "\n")
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    code, _, err = run(prep, scratch + "/large", "--model", "bytes", "--jsonl", path,
                       "--dedup-memory", "16MiB", "--dedup", "exact")
    after = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    size = os.path.getsize(path) // 1024
    check(code == 0, err)
    sanitized = before > 60000   # KiB of small runs: shadow memory
    check(sanitized or after < size, "%d KiB of memory for a file of %d KiB" % (after, size))
    fifo = scratch + "/fifo"
    os.mkfifo(fifo)
    with subprocess.Popen([prep, scratch + "/sig", "--model", "bytes", "--jsonl", fifo],
                          stderr=subprocess.DEVNULL) as p, open(fifo, "wb") as f:
        f.write(b'{"text": "a"}\n' * 200000)
        f.flush()
        time.sleep(0.2)
        p.send_signal(signal.SIGTERM)
        try:
            while p.poll() is None:
                f.write(b'{"text": "b"}\n' * 1000)
                f.flush()
        except BrokenPipeError:
            pass
    check(p.returncode == 143, "exit %d" % p.returncode)
    check(not [n for n in os.listdir(scratch) if n.startswith("sig")], str(os.listdir(scratch)))


def main():
    prep, tokenize = map(os.path.abspath, sys.argv[1:3])
    # With it, which meson sets, calloc touches all of the gigabyte set aside for duplicates.
    os.environ.pop("MALLOC_PERTURB_", None)
    with tempfile.TemporaryDirectory(prefix="hai-e2e-") as scratch:
        check_sources(prep, scratch)
        check_duplicates(prep, scratch)
        check_code(prep, scratch)
        check_middle(prep, tokenize, scratch)
        check_errors(prep, scratch)
        check_large(prep, scratch)
    return closing()


if __name__ == "__main__":
    sys.exit(main())
