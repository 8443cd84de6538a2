"""The page of detc graph, in a browser."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from browser import Browser
from handmade import Builder, fpn_detector

from detc.compiler.draw import to_html
from detc.compiler.elaborate import elaborate
from detc.compiler.graph import Graph
from detc.compiler.modules import Loader

SPECS = Path(__file__).parents[2] / "specs"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    started = Browser()
    yield started
    started.close()


@pytest.fixture(autouse=True)
def no_errors(browser: Browser) -> Iterator[None]:
    browser.errors.clear()
    yield
    assert browser.errors == []


def graph_of(spec: str, name: str) -> Graph:
    return elaborate(Loader((SPECS,)).load(SPECS / spec), name).graph


def shown(browser: Browser, graph: Graph, tmp_path: Path, path: str = "") -> None:
    page = tmp_path / "page.html"
    page.write_text(to_html(graph, path), encoding="utf-8")
    browser.open(page)


def boxes(browser: Browser) -> list[str]:
    """The label paths of all boxes that are drawn."""
    found: list[str] = browser.run("[...document.querySelectorAll('[data-part]')].map(g => g.shows.path)")
    return found


def box_of(browser: Browser, path: str) -> str:
    """What selects the box of a component."""
    number = browser.run(f"parts.find(p => p.path === '{path}').id")
    return f"[data-part='{number}']"


def switch(browser: Browser, view: str) -> None:
    browser.run(f"(v => {{ v.value = '{view}'; v.dispatchEvent(new Event('change')); }})(byId('view'))")


def side(browser: Browser) -> str:
    return str(browser.run("document.getElementById('side').textContent"))


@pytest.fixture(scope="module")
def nas_fpn() -> Graph:
    return graph_of("nas_fpn.det", "retinanet_r50_nasfpn_crop640_50e")


def test_a_person_goes_from_the_detector_to_an_op(browser: Browser, nas_fpn: Graph, tmp_path: Path) -> None:
    shown(browser, nas_fpn, tmp_path)
    cell, join = "neck.fpn_stages.0", "neck.fpn_stages.0.sum_44_4"
    assert {"backbone", "neck", "bbox_head", cell} <= set(boxes(browser))
    assert join not in boxes(browser)
    browser.click(box_of(browser, cell))
    assert join in boxes(browser)
    assert "NASFPNCell" in side(browser)
    browser.run("fit()")
    browser.click(box_of(browser, join))
    assert f"{join}.out_conv" in boxes(browser)
    browser.run("fit()")
    browser.click(box_of(browser, f"{join}.out_conv"))
    browser.run("fit()")
    browser.click(box_of(browser, f"{join}.out_conv.conv"))
    told = side(browser)
    # 256 channels to 256 by 3x3 with a bias, at stride 16 of the padded 640 pixels.
    assert "590,080" in told
    assert f"{256 * 256 * 9 * 40 * 40 / 1e6:.2f} M" in told
    assert "(N, 256, H/16, W/16)" in told or "[N, 256," in told
    assert "blocks.det" in told and "conv" in told
    assert f"{join}.out_conv.conv.weight [256, 256, 3, 3]" in told


def test_a_sign_closes_what_was_opened(browser: Browser, nas_fpn: Graph, tmp_path: Path) -> None:
    shown(browser, nas_fpn, tmp_path)
    assert "neck.fpn_stages.0" in boxes(browser)
    browser.click(f"{box_of(browser, 'neck')} > .sign")
    assert sorted(boxes(browser)) == ["backbone", "bbox_head", "neck"]


def test_a_search_finds_a_key(browser: Browser, nas_fpn: Graph, tmp_path: Path) -> None:
    shown(browser, nas_fpn, tmp_path)
    key = "neck.fpn_stages.3.gp_64_4.out_conv.conv.weight"
    browser.press("/")
    browser.write("stages.3 gp_64_4 conv.weight")
    assert browser.run("[...document.querySelectorAll('#hits div')].map(d => d.textContent)") == [key]
    browser.press("Enter")
    assert browser.run("document.querySelector('code.hit').textContent").startswith(key)
    assert "neck.fpn_stages.3.gp_64_4.out_conv.conv" in boxes(browser)
    assert browser.run("parts[picked].path") == "neck.fpn_stages.3.gp_64_4.out_conv.conv"
    # What was found is in sight.
    x, y, wide, high = browser.run(
        "(() => { const r = document.querySelector('.picked > rect').getBoundingClientRect();"
        " return [r.x, r.y, innerWidth, innerHeight]; })()"
    )
    assert 0 < x < wide and 0 < y < high


def test_nothing_found_is_said(browser: Browser, tmp_path: Path) -> None:
    shown(browser, fpn_detector(), tmp_path)
    browser.press("/")
    browser.write("no such thing")
    assert browser.run("document.getElementById('hits').textContent") == "nothing found"


def test_a_view_shows_its_own_part(browser: Browser, tmp_path: Path) -> None:
    shown(browser, graph_of("retinanet.det", "retinanet_r50_fpn_1x"), tmp_path, "bbox_head")
    ops = "[...document.querySelectorAll('[data-part]')].map(g => g.shows.name)"
    found = {}
    for view in ("forward", "train", "predict"):
        switch(browser, view)
        found[view] = set(browser.run(ops))
    assert "nms" in found["predict"] and not {"nms", "focal_loss"} & found["forward"]
    assert "focal_loss" in found["train"] and "nms" not in found["train"]


def test_keys_lead_everywhere(browser: Browser, nas_fpn: Graph, tmp_path: Path) -> None:
    shown(browser, nas_fpn, tmp_path)
    at = "parts[picked].path"
    browser.press("ArrowRight")
    first = browser.run(at)
    assert first == "backbone"
    browser.press("Enter")
    assert "backbone.layer1.0" in boxes(browser)
    browser.press("Enter")
    assert browser.run(at).startswith("backbone.")
    browser.press("Escape")
    assert browser.run(at) == "backbone"
    browser.press("Backspace")
    assert "backbone.layer1.0" not in boxes(browser)
    seen = {browser.run(at)}
    for _ in range(14):
        browser.press("ArrowRight")
        seen.add(browser.run(at))
    assert {"backbone", "neck.fpn_stages.0", "neck.fpn_stages.6", "bbox_head"} <= seen
    assert browser.run("document.activeElement.shows.id === picked")


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("nas_fpn.det", "retinanet_r50_nasfpn_crop640_50e"),
        ("cascade_rcnn.det", "cascade_mask_rcnn_r50_fpn_1x"),
        ("fpg.det", "mask_rcnn_r50_fpg_crop640_50e"),
    ],
)
def test_large_graphs_open_to_the_last_op(browser: Browser, tmp_path: Path, spec: str, name: str) -> None:
    graph = graph_of(spec, name)
    shown(browser, graph, tmp_path)
    start = time.monotonic()
    for _ in range(8):
        browser.run("byId('more').click()")
    spent = time.monotonic() - start
    ops = browser.run("[...document.querySelectorAll('[data-part]')].filter(g => g.shows.node).length")
    assert ops == len(graph.view("predict"))
    # A hang would take minutes; how quick it is belongs in a measurement.
    assert spent < 20


@pytest.mark.parametrize("view", ["predict", "train"])
@pytest.mark.parametrize(("row", "opened"), [("nas_fpn", 2), ("cascade_rcnn", 0), ("cascade_rcnn", 1)])
def test_boxes_do_not_overlap_and_hold_their_text(
    browser: Browser, tmp_path: Path, row: str, opened: int, view: str
) -> None:
    name = {"nas_fpn": "retinanet_r50_nasfpn_crop640_50e", "cascade_rcnn": "cascade_mask_rcnn_r50_fpn_1x"}[row]
    shown(browser, graph_of(f"{row}.det", name), tmp_path)
    switch(browser, view)
    for _ in range(opened):
        browser.run("byId('more').click()")
    # Of tiny text a browser tells the size of the smallest that it draws.
    browser.run("(() => { at.k = 1; move(); })()")
    wrong = browser.run(
        """(() => {
          const groups = [...document.querySelectorAll('.box')], wrong = [];
          const rects = groups.map(g => g.querySelector(':scope > rect').getBBox());
          groups.forEach((g, i) => g.querySelectorAll(':scope > text').forEach(t => {
            const b = t.getBBox(), r = rects[i];
            if (b.x < r.x || b.x + b.width > r.x + r.width || b.y < r.y - 2 || b.y + b.height > r.y + r.height + 2)
              wrong.push(t.textContent);
          }));
          groups.forEach((g, i) => groups.slice(0, i).forEach((h, j) => {
            const a = rects[i], b = rects[j];
            const beside = a.x >= b.x + b.width || b.x >= a.x + a.width;
            const apart = beside || a.y >= b.y + b.height || b.y >= a.y + a.height;
            const holds = (one, other) => around[one.shows.nodes[0]].includes(other.shows.id);
            const ends = [g, h].some(group => group.classList.contains("end"));
            if (!apart && (ends || !(holds(g, h) || holds(h, g)))) wrong.push(`${g.shows.name} on ${h.shows.name}`);
          }));
          return wrong;
        })()"""
    )
    assert wrong == []


EVIL = '</script><script>window.evil = 1</script><img src=x onerror="window.evil = 1"><!--<script>'


def test_a_spec_cannot_inject_anything(browser: Browser, tmp_path: Path) -> None:
    b = Builder(EVIL)
    conv = b.conv(EVIL, b.image, 8)
    evil = b.node(f"@DATA@ {EVIL}", "relu", {"x": conv}, b.types[conv.node])
    graph = b.graph({"forward": {EVIL: evil}})
    nodes = {node.name: replace(node, attrs={**node.attrs, EVIL: EVIL, "__proto__": EVIL}) for node in graph.nodes}
    shown(browser, graph.replaced(nodes=nodes), tmp_path)
    browser.run("byId('more').click()")
    for part in range(browser.run("parts.length")):
        browser.run(f"pick({part})")
        assert part or EVIL in side(browser)
    browser.press("/")
    browser.write("script")
    assert browser.run("window.evil") is None
    assert browser.run("document.querySelectorAll('img').length") == 0
    assert browser.run("document.querySelectorAll('script').length") == 2
    assert browser.run("document.title") == EVIL


def test_the_policy_stops_other_scripts(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(to_html(fpn_detector()).replace("</body>", "<script>window.evil = 1</script></body>"))
    browser.open(page)
    assert browser.run("window.evil") is None
    assert len(browser.errors) == 1 and "Content Security Policy" in browser.errors.pop()


def test_what_has_no_label_is_one_box(browser: Browser, tmp_path: Path) -> None:
    shown(browser, graph_of("cascade_rcnn.det", "cascade_mask_rcnn_r50_fpn_1x"), tmp_path)
    names = browser.run("[...document.querySelectorAll('[data-part]')].map(g => g.shows.name)")
    assert names.count("Propose") == 1
    number = browser.run("parts.find(p => p.name === 'Propose' && alive(p)).id")
    browser.click(f"[data-part='{number}']")
    assert "Propose(proposals)(maps, image)" in side(browser)
    names = browser.run("[...document.querySelectorAll('[data-part]')].map(g => g.shows.name)")
    assert "nms" in names
