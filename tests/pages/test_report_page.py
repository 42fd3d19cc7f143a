"""The page of a run and of several: its structure, whatever the content."""

import collections
import dataclasses
import html.parser
import itertools
import json
import re
from collections.abc import Iterator

import jinja2
import numpy as np
import pytest
import report_content

from dcjax.pages import content, report, templating

_VOID = {"meta", "link", "img", "br", "wbr", "input"}  # elements without an end


@dataclasses.dataclass
class Element:
    tag: str
    attributes: dict[str, str | None]
    children: list["Element | str"] = dataclasses.field(default_factory=list)

    def walk(self) -> Iterator["Element"]:
        yield self
        for child in self.children:
            if isinstance(child, Element):
                yield from child.walk()

    def find(self, tag: str, **attributes: str) -> list["Element"]:
        wanted = {key.rstrip("_"): value for key, value in attributes.items()}
        return [x for x in self.walk() if x.tag == tag and wanted.items() <= x.attributes.items()]

    def text(self) -> str:
        return "".join(x if isinstance(x, str) else x.text() for x in self.children)


class _Builder(html.parser.HTMLParser):
    """Builds the tree of a page in which every element is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open = [Element("document", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(attrs) == len(dict(attrs)), f"an attribute twice in {tag}: {attrs}"
        element = Element(tag, dict(attrs))
        self.open[-1].children.append(element)
        if tag not in _VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].children.append(Element(tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def parse(page: str) -> Element:
    builder = _Builder()
    builder.feed(page)
    builder.close()
    (document,) = builder.open
    return document


def _small(**changes: int) -> content.Report:
    sizes = {"num_queries": 1, "num_neighbors": 4, "num_on_map": 20} | changes
    return report_content.create_report(report_content.digit_images(60), **sizes)


def test_sections_follow_in_order_with_ids_and_headings() -> None:
    document = parse(report.render(_small()))
    (main,) = document.find("main")
    sections = [x for x in main.children if isinstance(x, Element)]
    assert [x.attributes["id"] for x in sections] == [
        "good",
        "failures",
        "division",
        "training",
        "map",
    ]
    links = [x.attributes["href"] for nav in document.find("nav") for x in nav.find("a")]
    assert links == [f"#{x.attributes['id']}" for x in sections]
    levels = [int(x.tag[1]) for x in document.walk() if re.fullmatch("h[1-6]", x.tag)]
    assert levels[:2] == [1, 2]
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    ids = [x.attributes["id"] for x in document.walk() if "id" in x.attributes]
    assert len(ids) == len(set(ids))
    for table in document.find("div", role="region"):
        assert table.attributes["aria-label"]
        assert table.attributes["tabindex"] == "0"  # it scrolls


def test_what_is_referred_to_exists_and_nothing_is_loaded() -> None:
    for page in (report.render(_small()), report.render_comparison(_comparison(3))):
        document = parse(page)
        ids = {x.attributes.get("id") for x in document.walk()}
        for element in document.walk():
            for name, value in element.attributes.items():
                for target in re.findall(r"url\(#([^)]+)\)", value or ""):
                    assert target in ids
                if name in ("href", "src") and element.tag != "a":
                    assert value.startswith(("#", "data:"))
                if (value or "").startswith("#") and name == "href":
                    assert value[1:] in ids
                assert not name.startswith("on")
                if name in ("aria-labelledby", "aria-describedby"):
                    assert value in ids


def test_only_the_scripts_of_the_policy_are_inside() -> None:
    document = parse(report.render(_small()))
    scripts = [x.text() for x in document.find("script") if "type" not in x.attributes]
    assert scripts == [templating.static_text(name) for name in ("page.js", "map.js")]
    (policy,) = [
        x.attributes["content"]
        for x in document.find("meta")
        if x.attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy == templating.self_contained_policy(scripts)
    assert "default-src 'none'" in policy
    # The digest of "alert(1)", computed by openssl.
    known = "'sha256-bhHHL3z2vDgxUt0W3dWQOrprscmda2Y5pLsLg4GF+pI='"
    assert known in templating.self_contained_policy(["alert(1)"])


def test_hostile_names_are_texts() -> None:
    names = report_content.HOSTILE_NAMES
    images = report_content.named(report_content.digit_images(60), names)
    hostile = dataclasses.replace(
        report_content.create_report(images, num_on_map=20), title=names[0], state=names[2]
    )
    tame = report_content.create_report(
        report_content.named(images, [f"n{i}" for i in range(len(names))]), num_on_map=20
    )
    tame = dataclasses.replace(tame, title="t", state="s")
    documents = [parse(report.render(x)) for x in (hostile, tame)]
    tags = [
        collections.Counter(x.tag for x in document.walk() if x.tag != "wbr")
        for document in documents
    ]
    assert tags[0] == tags[1]
    text = documents[0].text()
    for name in names:
        assert name in text
    comparison = parse(
        report.render_comparison(report_content.create_comparison(images, names[:4]))
    )
    assert [x.tag for x in comparison.walk()].count("script") == 1
    for name in names[:4]:
        assert name in comparison.text()


def test_file_names_that_are_not_utf_8_are_escaped() -> None:
    names = [b"caf\xe9.jpg".decode("utf-8", "surrogateescape")]
    images = report_content.named(report_content.digit_images(20), names)
    page = report.render(report_content.create_report(images, num_on_map=10))
    assert "caf\\udce9.jpg" in parse(page.encode("utf-8").decode("utf-8")).text()


def test_the_data_of_the_map_is_json_that_stays_in_its_element() -> None:
    names = report_content.HOSTILE_NAMES
    images = report_content.named(report_content.digit_images(30), names)
    full = report_content.create_report(images, num_on_map=30)
    document = parse(report.render(full))
    (element,) = document.find("script", id="map-data")
    assert "<" not in element.text()
    data = json.loads(element.text())
    assert [data["classes"][number] for _, number, _ in data["images"]] == [
        image.class_name for image in full.map.images
    ]
    assert {len(points) for points in data["projections"]} == {30}


def test_the_same_content_gives_the_same_bytes() -> None:
    assert report.render(_small()) == report.render(_small())
    assert report.render_comparison(_comparison(2)) == report.render_comparison(_comparison(2))


def test_scores_are_those_of_the_content_to_the_last_digit() -> None:
    full = _small()
    document = parse(report.render(full))
    (table,) = [x for x in document.find("table") if "Scores in percent" in x.text()]
    for row in table.find("tbody")[0].find("tr"):
        (name,) = [x.text() for x in row.find("th")]
        shown = [x for x in row.find("td") if x.text()]
        assert [float(x.attributes["data-value"]) for x in shown] == list(
            full.summary.scores[name].values()
        )
        assert [x.text() for x in shown] == [
            f"{100 * value:.2f}" for value in full.summary.scores[name].values()
        ]


def test_hits_and_misses_differ_in_shape_and_word() -> None:
    full = _small(num_neighbors=8)
    document = parse(report.render(full))
    neighbors = [
        neighbor
        for rankings in (*(x.rankings for x in full.failures.rankings), full.divisions.subspaces)
        for ranking in rankings
        for found in ranking.neighbors.values()
        for neighbor in found
    ]
    tiles = [x for strip in document.find("ol", class_="strip") for x in strip.find("figure")]
    assert len(tiles) == len(neighbors)
    assert {neighbor.is_hit for neighbor in neighbors} == {True, False}
    for tile, neighbor in zip(tiles, neighbors, strict=True):
        (use,) = tile.find("use")
        assert use.attributes["href"] == ("#mark-hit" if neighbor.is_hit else "#mark-miss")
        assert ("right class" if neighbor.is_hit else "wrong class") in tile.text()
        assert f"{neighbor.distance:.3f}" in tile.text()
        assert neighbor.image.class_name in tile.text()


def test_names_of_pairs_are_copied_as_a_table() -> None:
    full = _small()
    document = parse(report.render(full))
    (button,) = [x for x in document.find("button") if x.text() == "Copy all file names"]
    lines = button.attributes["data-copy"].splitlines()
    assert [line.split("\t") for line in lines] == [
        [pair.first.name, pair.second.name] for pair in full.failures.pairs
    ]


def test_a_part_that_is_missing_says_why() -> None:
    reasons = {name: f"no {name}, since & <so>." for name in _PARTS}
    document = parse(report.render(dataclasses.replace(_small(), **reasons)))
    notices = [x.text() for x in document.find("p", class_="notice")]
    assert notices == list(reasons.values())
    assert not document.find("script", id="map-data")
    # And parts of parts.
    full = _small()
    partial = dataclasses.replace(
        full,
        state="stopped after epoch 3 of 20",
        failures=dataclasses.replace(full.failures, pairs="no pairs"),
        divisions=dataclasses.replace(full.divisions, masks="no masks", subspaces="no subspaces"),
        training=dataclasses.replace(full.training, loss="no loss", images_per_second="no speed"),
    )
    notices = [x.text() for x in parse(report.render(partial)).find("p", class_="notice")]
    assert notices == [
        "The run is not finished: stopped after epoch 3 of 20",
        "no pairs",
        "no masks",
        "no subspaces",
        "no loss",
        "no speed",
    ]


_PARTS = ("failures", "divisions", "training", "map")


def test_little_content_is_a_page_too() -> None:
    images = report_content.digit_images(10)
    few = report_content.create_report(images, num_clusters=1, num_on_map=10, num_epochs=1)
    nothing = np.empty(0)
    bare = dataclasses.replace(
        few,
        summary=content.Summary([], {}, "recall_at_1", [], []),
        failures=content.Failures([], [], 0, []),
        divisions=dataclasses.replace(
            few.divisions,
            epochs=nothing,
            num_clusters=nothing,
            sizes=[],
            agreement=nothing,
            agreement_with_labels=nothing,
            effects={},
            clusters=[],
            negatives=(np.nan, np.nan),
            share_separated=np.nan,
            modes=[],
        ),
        training=content.Training("no loss", {}, "no speed", nothing, {}),
        map=content.Map(
            [content.Projection("PCA", np.zeros((1, 2)))], images[:1], 1, [], nothing, nothing
        ),
    )
    blind = dataclasses.replace(
        few.map, images=[dataclasses.replace(x, picture=None) for x in few.map.images]
    )
    unseen = content.Pair(blind.images[0], blind.images[1], 0.0)
    page = report.render(
        dataclasses.replace(few, failures=dataclasses.replace(few.failures, pairs=[unseen]))
    )
    assert [x.text() for x in parse(page).find("span", class_="picture missing")] == [
        "no picture"
    ] * 2
    for report_of in (few, bare, dataclasses.replace(few, map=blind)):
        document = parse(report.render(report_of))
        assert "nan" not in document.text()
        assert len(document.find("h2")) == 5


def test_many_classes_share_colors_and_have_no_legend() -> None:
    digits = report_content.digit_images(40)
    for num_classes, is_named in ((16, True), (17, False)):
        images = [
            dataclasses.replace(image, class_name=f"class {i % num_classes:02d}")
            for i, image in enumerate(digits)
        ]
        page = report.render(report_content.create_report(images, num_on_map=40))
        assert ("colours and shapes repeat" in page) == (not is_named)
        groups = [
            (group.attributes["class"], group.attributes["style"])
            for group in parse(page).find("figure", class_="projection")[0].find("g")
        ]
        assert len(groups) == num_classes
        assert len(set(groups)) == 16


def test_points_of_the_map_keep_their_proportions() -> None:
    points = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 1.0]])
    images = report_content.digit_images(3)
    full = _small()
    shown = content.Map([content.Projection("PCA", points)], images, 3, [], *[np.ones(2)] * 2)
    document = parse(report.render(dataclasses.replace(full, map=shown)))
    data = json.loads(document.find("script", id="map-data")[0].text())
    left, right, up = np.array(data["projections"][0])
    assert left[1] == right[1]
    assert left[0] == up[0]
    assert (right - left)[0] == pytest.approx(4 * (left - up)[1], rel=0.01)


def test_comparisons_of_two_and_three_runs() -> None:
    for number in (2, 3):
        comparison = _comparison(number)
        document = parse(report.render_comparison(comparison))
        assert len(document.find("h2")) == 4
        names = list(comparison.scores)
        for ranking in document.find("div", class_="found"):
            spaces = [x.text() for x in ranking.find("bdi", class_="name strong")]
            assert spaces == names
        (lead,) = document.find("p", class_="lead")
        assert lead.text().startswith(names[-1])
        links = [x.attributes["href"] for x in document.find("ul", class_="reports")[0].find("a")]
        assert links == list(comparison.reports.values())
    words = [x.text() for x in document.walk() if "word" in (x.attributes.get("class") or "")]
    assert words == ["better", "unclear", "better", "unclear"]


def test_a_run_without_curves_and_scores_is_compared_by_what_it_has() -> None:
    comparison = _comparison(2)
    first, second = comparison.scores
    partial = dataclasses.replace(
        comparison,
        scores={first: {"nmi": 0.5}, second: {}},
        differences={},
        rankings=[],
        training={first: "The run kept no curves.", second: "Nor did this."},
        settings={},
        reports={},
    )
    notices = [
        x.text() for x in parse(report.render_comparison(partial)).find("p", class_="notice")
    ]
    assert notices == [
        "No run has the score that selects the best epoch: Recall@1.",
        "There are no queries to show.",
        f"{first}: The run kept no curves.",
        f"{second}: Nor did this.",
        "All settings are equal.",
    ]


def test_a_comparison_without_differences_says_why() -> None:
    partial = dataclasses.replace(_comparison(2), differences="Drawn & random.")
    document = parse(report.render_comparison(partial))
    assert "Drawn & random." in [x.text() for x in document.find("p", class_="notice")]
    assert not [x for x in document.walk() if "difference" in (x.attributes.get("class") or "")]


def test_masks_are_shown_without_effective_dimensions() -> None:
    full = _small()
    masks = dataclasses.replace(full.divisions.masks, effective_dimension=None)
    divisions = dataclasses.replace(full.divisions, masks=masks)
    page = report.render(dataclasses.replace(full, divisions=divisions))
    assert "The mask of each cluster" in page
    assert "Cosines of each two masks" in page
    assert "Effective dimension of subspaces" not in page
    assert "which cannot be shown" in page


def test_values_that_a_template_names_but_lacks_are_errors() -> None:
    with pytest.raises(jinja2.UndefinedError, match="'policy' is undefined"):
        templating.render("document.html", scripts=[], sections=[])


def test_numbers_are_written_for_people() -> None:
    assert templating.format_number(-0.0001) == "0.000"
    assert templating.format_number(-1.5, 1) == "\N{MINUS SIGN}1.5"
    assert templating.format_number(float("nan")) == "\N{EN DASH}"
    assert templating.format_percent(0.64125) == "64.12"
    assert templating.format_count(1234567) == "1,234,567"
    durations = [templating.format_duration(x) for x in (0.04, 59.94, 59.96, 3599.6, 7325)]
    assert durations == ["0.0 s", "59.9 s", "1 min 0 s", "1 h 0 min", "2 h 2 min"]


def _comparison(number: int) -> content.Comparison:
    runs = [f"runs/{letter}" for letter in "abc"[:number]]
    return report_content.create_comparison(report_content.digit_images(60), runs)
