"""The page holds the exact numbers, escapes everything, and needs nothing but itself."""

import base64
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from tsn_toolkit.report.page import render_report

VOID = {"meta", "img", "br"}
GRAPH = '<svg xmlns="http://www.w3.org/2000/svg" width="40" height="20"><rect width="40" height="20"/></svg>'
HOSTILE = "<script>alert(1)</script>\"'&{{ 7*7 }}"


class Page(HTMLParser):
    """Checks that tags are balanced; collects text and the attributes that load something."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [str(value) for name, value in attrs if name in {"src", "href", "srcset", "data", "action"}]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.fixture
def html(summary: dict[str, Any], inspection: dict[str, Any], parity: Any) -> str:
    return render_report(summary, inspection=inspection, graph_svg=GRAPH, parity=parity, recipe_text="name: digits\nseed: 7\n", name="digits")


def test_exact_numbers_stand_in_the_page(html: str) -> None:
    text = Page(html).text
    for number in ("17,885", "5,210", "21,345", "152,040", "154,112", "760,200", "201,320", "24,871", "11,021", "0.9437", "0.9296", "0.9776"):
        assert number in text, number


def test_ratios_are_of_the_numbers_beside_them(html: str) -> None:
    text = Page(html).text
    assert "0.116 of one dense fp32 model, all heads (150 KiB)" in text  # 17885 / 154112
    assert "0.0235 of 5 separate dense fp32 models (742 KiB)" in text  # 17885 / 760200
    assert "0.559 of dense" in text  # 691200 / 1236992
    assert "0.715" in text  # 0.0213 / 0.0298


def test_headline_means_are_over_all_tasks(html: str) -> None:
    text = Page(html).text
    assert "Mean accuracy from the store 0.9776 dense 0.9860 exported, cpu_onnxruntime: 0.9748" in text


def test_the_headline_is_what_the_store_answers_after_the_last_task(summary: dict[str, Any], inspection: dict[str, Any], parity: Any) -> None:
    changed = {**summary, "R": [[0.9, None], [0.5, 0.8]], "acc": 0.65, "tasks": summary["tasks"][:2], "superseded_bytes": 9_000}
    changed["tasks"][0]["accuracy"]["store"], changed["tasks"][1]["accuracy"]["store"] = 0.9, 0.8
    text = Page(render_report(changed, inspection=inspection, graph_svg=GRAPH, parity=parity, recipe_text="name: r\n", name="r")).text
    assert "Mean accuracy from the store 0.6500 dense 0.9930 each task when it was committed: 0.8500" in text
    assert "9,000 of the bytes are older revisions" in text


def test_a_slower_model_and_a_failed_gate_are_marked(html: str) -> None:
    text = Page(html).text
    assert text.count("slower") == 1
    assert "beside dense fp32 in the same runtime, 1 thread." in text
    assert "Packages through both gates 4 of 5" in text
    assert "top-1 agreement is 0.9577 on 71 samples" in text


@pytest.mark.parametrize("kinds", [0, 1, 3, 4, 6])
def test_warnings_beyond_three_are_folded_away(summary: dict[str, Any], inspection: dict[str, Any], kinds: int) -> None:
    """Each kind is said of all five tasks, so that five times as many warnings make as many lines as there are kinds."""
    summary["warnings"] = [f"{task['name']}, target {kind}: slow" for kind in range(kinds) for task in summary["tasks"]]
    html = render_report(summary, inspection=inspection)
    page = Page(html)
    assert ("Warnings" in page.text, page.tags.count("details")) == (kinds > 0, int(kinds > 3))
    assert [page.text.count(f"target {kind}: slow (5 tasks: digits-0-1, ") for kind in range(kinds)] == [1] * kinds
    if kinds > 3:
        shown, hidden = html.split("<details>")
        assert f"<summary>{kinds - 3} more</summary>" in hidden
        assert "target 2: slow" in shown and "target 3: slow" not in shown and "target 3: slow" in hidden.split("</details>")[0]


def test_nothing_is_loaded_from_elsewhere(html: str) -> None:
    page = Page(html)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", html)
    assert "script" not in page.tags and "link" not in page.tags
    assert page.loads == ["data:image/svg+xml;base64," + base64.b64encode(GRAPH.encode()).decode()]


def test_hostile_names_are_escaped(summary: dict[str, Any], inspection: dict[str, Any], parity: Any) -> None:
    summary["tasks"][0]["name"] = HOSTILE
    summary["dense_reference"] = HOSTILE
    summary["versions"] = {HOSTILE: HOSTILE}
    summary["warnings"] = [HOSTILE]
    summary["tasks"][0]["accuracy"]["exported"] = {HOSTILE: 0.5}
    inspection["parts"][0]["path"] = HOSTILE
    inspection["tasks"][0]["name"] = HOSTILE
    inspection["sharing"]["owners"][0] = inspection["sharing"]["tasks"][0] = HOSTILE
    parity = {HOSTILE: {HOSTILE: {"failures": [HOSTILE]}}}
    html = render_report(
        summary,
        inspection=inspection,
        graph_svg=f"<svg>{HOSTILE}</svg>",
        parity=parity,
        recipe_text=HOSTILE,
        name=HOSTILE,
    )
    page = Page(html)
    assert "script" not in page.tags
    assert page.text.count(HOSTILE) >= 13


def test_sharing_is_shown_by_owner_task_layer_and_group(html: str) -> None:
    text = Page(html).text
    for title in ("By owner", "With other tasks", "Weights used, by layer", "Units kept, by group"):
        assert title in text
    for number in ("0.3125", "0.0625", "0.5625", "0.1875"):  # of conv1's weights used, and read by one task alone; 9 and 3 of its 16 units
        assert text.count(number) == 5, number


def test_optional_keys_may_be_missing() -> None:
    text = Page(render_report({}, inspection={})).text
    assert "not measured" in text
    text = Page(render_report({"tasks": [{"name": "only"}], "store_bytes": 12}, inspection={"parts": [{"path": "manifest.json", "bytes": 12}]})).text
    assert "there is only one task" in text and "other 12" in text


@pytest.mark.parametrize("key", ["dense_reference", "R", "acc", "bwt", "fwt", "store_bytes", "denominators", "seed", "versions", "warnings", "tasks"])
@pytest.mark.parametrize("none", [False, True], ids=["missing", "null"])
def test_any_key_may_be_missing_or_null(summary: dict[str, Any], inspection: dict[str, Any], key: str, none: bool) -> None:
    summary = {**summary, key: None} if none else {name: value for name, value in summary.items() if name != key}
    assert Page(render_report(summary, inspection=inspection)).text.startswith(" Run")


@pytest.mark.parametrize("key", ["accuracy", "bytes", "macs", "latency_ms"])
def test_any_key_of_a_task_may_be_missing(summary: dict[str, Any], inspection: dict[str, Any], key: str) -> None:
    del summary["tasks"][2][key]
    assert "not measured" in Page(render_report(summary, inspection=inspection)).text


def test_the_same_run_gives_the_same_page(html: str, summary: dict[str, Any], inspection: dict[str, Any], parity: Any) -> None:
    again = render_report(summary, inspection=inspection, graph_svg=GRAPH, parity=parity, recipe_text="name: digits\nseed: 7\n", name="digits")
    assert again == html
