"""A campaign against the front end: random programs of the grammar, and mutations of the specs.

`python tests/support/fuzzing.py --inputs 100000 --seed 0` runs that many inputs. Whatever the text, the front end must
answer with a tree, a graph or diagnostics that can be shown: no other exception, within a second of processor time, and
without the process growing beyond 500 MB. What it finds is printed as JSON lines, with the input.

Inputs are of three kinds. `mutated`: a declaration of a spec, its bytes and tokens changed, parsed. `grown`: a program
grown from the rules of dsl/grammar.lark, parsed and its names resolved. `compiled`: a small program in which all parts
of the language occur, its tokens changed for others, compiled with the library.
"""

from __future__ import annotations

import argparse
import functools
import json
import random
import re
import resource
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from detc.compiler.elaborate import elaborate
from detc.compiler.modules import Loader, specs_folder
from detc.compiler.resolve import resolve
from detc.dsl.diagnostics import DiagnosticError
from detc.dsl.parser import lark_of, parse
from detc.dsl.render import to_json, to_text
from detc.dsl.source import Source

MOST_SECONDS = 1.0
MOST_BYTES = 500 * 10**6
# Of a hundred inputs: parsing takes a millisecond, compiling ten and more.
SHARES = {"mutated": 66, "grown": 28, "compiled": 6}

_TOKEN = re.compile(r'"(?:[^"\\\n]|\\.)*"|`[^`\n]*`|#[^\n]*|\w+|\s+|\.\.<|[|\-=]>|\*\*|[=!<>]=|\.\.|//|.', re.DOTALL)
_ITEM = re.compile(r"^(?=(?:##|import|let|record|block|neck|head|cell|model|op|detector|default)\b)", re.MULTILINE)
_BYTES = [
    b"\x00",
    b"\xff",
    b"\xc3",
    b"\xef\xbb\xbf",
    b"\r",
    b"\t",
    b"\\",
    b'"',
    b"`",
    b"#",
    b"\xf0\x9f\xa6\x81",
    b"\x0c",
]

SMALL = """
import ConvModule, Stack from "lib/blocks.det"
record Sizes(base: int = 4, more: [int] = [1, 2]) { both = [base * m for m in more] }
op shifted(by: int = 1)(x: tensor) -> (y: tensor) { require by > 0, "few"  y.shape = x.shape  y.dtype = x.dtype }
block Body(channels: int = 8, norm: block? = BatchNorm2d, sizes: Sizes = Sizes())(x: feature) -> pyramid {
    for i in 0 ..< len(sizes.both) {
        x = x |> `layer{i + 1}`[0]: ConvModule(channels * 2 ** i, 3, stride = 2, norm = norm)
        p[i] = x
    }
    y = p[0] + resize(p[1] |> lateral: Conv2d(channels, 1), like = p[0])
    if channels > 4 and norm != none { freeze layer1 } else { require channels in 1..4, "few" }
    init Conv2d.weight: normal(0.01)
    fused = (a, b) -> a + b
    return {0: fused(y, y) |> Stack(2, ConvModule(channels)), 1: p[1]}
}
model Only(body: block)(image: feature) -> pyramid { return image |> body: body }
let wide(by: int = 2) = Body(channels = 8 * by)
detector a : Only { body = Body() }
detector b = a with { body.channels = 16  body.sizes.base = 2  classes = ["x"]  reported { box_ap = 1.5 } }
detector c = a with { body = wide(3) }
default a
"""


# What a token may become, beside the others of its kind.
_VALUES = {
    "number": ("0", "1", "3", "1000", "2.5", "1e999", "9999999999999999999999", "x"),
    "word": ("x", "p", "none", "true", "channels", "body", "image", "layer1", "Conv2d", "resize", "len", "c"),
    "sign": ("+", "-", "*", "/", "//", "**", "%", "==", "<", "..", "..<", "&", "|>"),
}


def _kind(token: str) -> str:
    if token[0].isdigit():
        return "number"
    if token[0].isalpha():
        return "word"
    return "sign" if token in _VALUES["sign"] else token[0]


def _declarations() -> list[str]:
    """The declarations of all specs, each with its comments."""
    texts = (path.read_text() for path in sorted(specs_folder().rglob("*.det")))
    found = [part for text in texts for part in _ITEM.split(text)]
    return [part for part in found if 20 < len(part) < 1500]


class Inputs:
    """Random inputs; the seed decides them all."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.declarations = _declarations()
        words = Counter(token for part in self.declarations for token in _TOKEN.findall(part) if not token.isspace())
        self.words = [word for word, _ in words.most_common(600)]
        self.small = _TOKEN.findall(SMALL)
        self.grammar = _Grammar(self.chance, self.words)

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        kinds = [kind for kind, share in SHARES.items() for _ in range(share)]
        while True:
            kind = self.chance.choice(kinds)
            yield kind, getattr(self, kind)()

    def mutated(self) -> bytes:
        text = self.chance.choice(self.declarations)
        if self.chance.random() < 0.5:
            return self._tokens(_TOKEN.findall(text)).encode()
        data = bytearray(text.encode())
        for _ in range(self.chance.choice((1, 1, 2, 4, 16))):
            place = self.chance.randrange(len(data) + 1)
            match self.chance.randrange(5):
                case 0:
                    data[place:place] = self.chance.choice(_BYTES)
                case 1:
                    del data[place : place + self.chance.choice((1, 1, 4, 40))]
                case 2:
                    data[place : place + 1] = bytes([self.chance.randrange(256)])
                case 3:
                    other = self.chance.randrange(len(data) + 1)
                    data[place:place] = data[other : other + self.chance.choice((1, 8, 60))]
                case 4:
                    data[place:place] = self.chance.choice(b"{}()[]<>|,:=.").to_bytes(1, "big") * self.chance.choice(
                        (1, 2, 300)
                    )
        return bytes(data)

    def grown(self) -> bytes:
        return self.grammar.program().encode()

    def compiled(self) -> bytes:
        """Tokens changed for others of their kind, so that most programs reach the elaborator."""
        tokens = list(self.small)
        for _ in range(self.chance.choice((1, 1, 2, 3))):
            place = self.chance.choice([number for number, token in enumerate(tokens) if not token.isspace()])
            kind = _kind(tokens[place])
            tokens[place] = self.chance.choice([*_VALUES.get(kind, ()), *(t for t in tokens if _kind(t) == kind)])
        return "".join(tokens).encode()

    def _tokens(self, tokens: list[str]) -> str:
        for _ in range(self.chance.choice((1, 1, 2, 3))):
            place = self.chance.randrange(len(tokens))
            match self.chance.randrange(4):
                case 0:
                    tokens[place] = self.chance.choice(self.words)
                case 1:
                    tokens[place] = self.chance.choice(tokens)
                case 2:
                    other = self.chance.randrange(len(tokens))
                    tokens[place], tokens[other] = tokens[other], tokens[place]
                case 3:
                    tokens.insert(place, f" {self.chance.choice(self.words)} ")
        return "".join(tokens)


class _Grammar:
    """Grows programs from the rules of the language."""

    # More than this many rules within each other: only the shortest way out.
    DEPTH = 14

    def __init__(self, chance: random.Random, words: list[str]) -> None:
        lark = lark_of(start=["start", "expr"])
        self.chance = chance
        self.rules: dict[str, list[list[Any]]] = {}
        for rule in lark.rules:
            self.rules.setdefault(str(rule.origin.name), []).append(list(rule.expansion))
        self.patterns = {terminal.name: terminal.pattern for terminal in lark.terminals}
        names = [word for word in words if re.fullmatch(r"[A-Za-z_]\w*", word)]
        self.samples: dict[str, Callable[[], str]] = {
            "NAME": lambda: chance.choice(names),
            "STRING": lambda: chance.choice(['"s"', '"lib/ops.det"', '""', '"\\""']),
            "TEMPLATE": lambda: chance.choice(["`l{i}`", "`a`", "`{`", "`{1 + 2}x`"]),
            "NUMBER": lambda: chance.choice(["0", "1", "2", "7", "1.5", "1e999", "99999999999999999999", "0.1e-3"]),
            "KIND": lambda: chance.choice(["block", "neck", "head", "model", "cell", "backbone"]),
            "WEIGHT": lambda: chance.choice(["weight", "buffer"]),
            "COMPARE": lambda: chance.choice(["==", "!=", "<", ">="]),
            "OPTIONAL": lambda: "?",
        }
        self.least = self._least()

    def _least(self) -> dict[str, int]:
        """How many rules within each other each rule needs at least."""
        least = dict.fromkeys(self.rules, 10**6)
        for _ in self.rules:
            for name, ways in self.rules.items():
                least[name] = min(
                    1 + max([least.get(str(s.name), 0) for s in way if not s.is_term], default=0) for way in ways
                )
        return least

    def program(self) -> str:
        parts: list[str] = []
        for _ in range(self.chance.randint(1, 4)):
            self._grow("item", 0, parts)
        return " ".join(parts)

    def _grow(self, name: str, depth: int, parts: list[str]) -> None:
        ways = self.rules[name]
        if depth > self.DEPTH or len(parts) > 200:
            ways = sorted(
                ways, key=lambda way: max([self.least[str(s.name)] for s in way if not s.is_term], default=0)
            )[:1]
        for symbol in self.chance.choice(ways):
            if symbol.is_term:
                parts.append(self._terminal(str(symbol.name)))
            else:
                self._grow(str(symbol.name), depth + 1, parts)

    def _terminal(self, name: str) -> str:
        if name in self.samples:
            return self.samples[name]()
        pattern = self.patterns[name]
        if pattern.type == "str":
            return str(pattern.value)
        # A keyword in its place, or one of several signs.
        alternatives = re.sub(r"\(\?[=!].*\)$", "", pattern.value).replace("(?:", "").replace(")", "").replace("\\", "")
        return self.chance.choice(alternatives.split("|")) or "|"


def answer(kind: str, data: bytes, folder: Path) -> None:
    """Gives an input to the front end, and shows what it says. Any exception from here is a finding."""
    try:
        if kind == "compiled":
            path = folder / "fuzz.det"
            path.write_bytes(data)
            module = Loader().load(path)
            if not resolve(module):
                for detector in module.detectors:
                    elaborate(module, detector.name)
        elif kind == "grown":
            path = folder / "fuzz.det"
            path.write_bytes(data)
            module = Loader().load(path)
            for diagnostic in resolve(module):
                to_text(diagnostic)
        else:
            parse(Source("fuzz", data.decode("utf-8", "replace")))
    except DiagnosticError as error:
        assert error.diagnostics
        for diagnostic in error.diagnostics:
            to_text(diagnostic)
            to_json(diagnostic)


def campaign(count: int, seed: int, tell: Callable[[dict[str, Any]], None]) -> Counter[str]:
    """Runs so many inputs; findings go to `tell`. How many of each kind there were."""
    done: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="detc-fuzz-") as folder:
        answer("compiled", SMALL.encode(), Path(folder))  # what is imported and cached on first use is no finding
        for kind, data in Inputs(seed):
            if sum(done.values()) == count:
                return done
            done[kind] += 1
            start, memory = time.process_time(), _memory()
            finding = functools.partial(_finding, kind, data)
            try:
                answer(kind, data, Path(folder))
            except Exception:
                tell(finding("exception", traceback.format_exc()))
            taken = time.process_time() - start
            if taken > MOST_SECONDS:
                tell(finding("slow", f"{taken:.2f} s"))
            if _memory() > MOST_BYTES and memory <= MOST_BYTES:
                tell(finding("memory", f"{_memory()} bytes"))
    return done


def _finding(kind: str, data: bytes, what: str, detail: str) -> dict[str, Any]:
    return {"what": what, "kind": kind, "input": data.decode("utf-8", "backslashreplace"), "detail": detail}


def _memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    start = time.monotonic()
    found = 0

    def tell(finding: dict[str, Any]) -> None:
        nonlocal found
        found += 1
        print(json.dumps(finding), flush=True)

    done = campaign(options.inputs, options.seed, tell)
    said = ", ".join(f"{count} {kind}" for kind, count in done.items())
    print(f"{said}: {found} findings in {time.monotonic() - start:.0f} s, {_memory() / 1e6:.0f} MB", file=sys.stderr)


if __name__ == "__main__":
    main()
