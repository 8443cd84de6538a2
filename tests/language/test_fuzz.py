"""Whatever the text, the compiler answers with a graph or with diagnostics, soon."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from fuzzing import campaign
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detc.compiler.elaborate import elaborate
from detc.compiler.modules import Loader, specs_folder
from detc.dsl.diagnostics import DiagnosticError
from detc.dsl.parser import parse
from detc.dsl.render import to_json, to_text
from detc.dsl.source import Source

TEXTS = [f.read_text() for f in sorted(specs_folder().rglob("*.det")) if f.stat().st_size < 12_000]
WORDS = """
{ } ( ) [ ] , : = |> -> .. ..< + - * // / % ** & == < if else then for in return with not none true 0 1 2 3.5 "s" `l{i}`
x p c[3] block op neck head model record let detector default import freeze init tie train predict loss relu max_pool(2)
3..7 ResNet(18) BatchNorm2d() x.levels x.channels
"""
PIECES = [*WORDS.split(), "conv: Conv2d(8, 3)", "{3: x}", "{a = x}"]


def answer(text: str, folder: Path) -> None:
    """Compile; the only exception that may come out is a diagnostic that can be shown."""
    path = folder / "fuzz.det"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    try:
        module = Loader().load(path)
        for detector in module.detectors:
            elaborate(module, detector.name)
    except DiagnosticError as error:
        assert error.diagnostics
        for diagnostic in error.diagnostics:
            to_text(diagnostic)
            to_json(diagnostic)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.lists(st.sampled_from(PIECES), max_size=60))
def test_words_in_any_order(words: list[str]) -> None:
    try:
        parse(Source("fuzz", " ".join(words)))
    except DiagnosticError as error:
        assert error.diagnostics


@settings(max_examples=150, deadline=None)
@given(text=st.text(max_size=200))
def test_any_text(text: str) -> None:
    try:
        parse(Source("fuzz", text))
    except DiagnosticError as error:
        for diagnostic in error.diagnostics:
            to_text(diagnostic)


SMALL = """
import ConvModule, Stack from "lib/blocks.det"
record Sizes(base: int = 4, more: [int] = [1, 2]) { both = [base * m for m in more] }
block Body(channels: int = 8, norm: block? = BatchNorm2d, sizes: Sizes = Sizes())(x: feature) -> pyramid {
    for i in 0 ..< len(sizes.both) {
        x = x |> `layer{i + 1}`[0]: ConvModule(channels * 2 ** i, 3, stride = 2, norm = norm)
        p[i] = x
    }
    y = p[0] + resize(p[1] |> lateral: Conv2d(channels, 1), like = p[0])
    if channels > 4 { freeze layer1 } else { require channels in 1..4, "few" }
    init Conv2d.weight: normal(0.01)
    return {0: y |> Stack(2, ConvModule(channels)), 1: p[1]}
}
model Only(body: block)(image: feature) -> pyramid { return image |> body: body }
detector a : Only { body = Body() }
detector b = a with { body.channels = 16  body.sizes.base = 2  classes = ["x"] }
default a
"""


@pytest.mark.parametrize("seed", range(12))
def test_small_changes_to_a_spec(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    for _ in range(25):
        text = list(SMALL)
        for _ in range(chance.randint(1, 4)):
            place = chance.randrange(len(text))
            match chance.randrange(4):
                case 0:
                    del text[place : place + chance.randint(1, 8)]
                case 1:
                    text.insert(place, chance.choice(PIECES))
                case 2:
                    text[place] = chance.choice(PIECES) + " "
                case 3:
                    other = chance.randrange(len(text))
                    text[place], text[other] = text[other], text[place]
        answer("".join(text), tmp_path)


@pytest.mark.parametrize("seed", range(6))
def test_bytes_of_the_library_changed(seed: int) -> None:
    chance = random.Random(seed)
    for text in TEXTS:
        place = chance.randrange(len(text))
        changed = text[:place] + chance.choice(PIECES) + text[place + chance.randint(0, 3) :]
        try:
            parse(Source("fuzz", changed))
        except DiagnosticError as error:
            assert error.diagnostics


def test_a_short_campaign_finds_nothing() -> None:
    """A long one is `python tests/support/fuzzing.py --inputs 1000000`; what it found is in files.md and types.md."""
    found: list[dict[str, object]] = []
    done = campaign(1500, 0, found.append)
    assert not found, found[0]
    assert done.keys() == {"mutated", "grown", "compiled"}
