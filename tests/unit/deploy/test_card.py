"""A model card says what a bundle is, to people and to the hub, whatever its names hold."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from headstart.deploy import About, Manifest, Member, Preprocessing, Provenance, TrainingStep, model_card
from headstart.deploy.card import MAX_CARD_BYTES, MOST_CLASSES
from headstart.deploy.card_header import LICENCES, figures_by_part
from headstart.deploy.manifest import NoveltyRule
from headstart.deploy.markdown import code, one_line, plain, table
from headstart.evaluation import SetRule
from headstart.types import Task

HUB = Provenance("hub timm/resnet34.a1_in1k", "ab" * 32, "apache-2.0")
PART = Preprocessing(size=(224, 320), short_side=256)
ABOUT = About(
    pictures={"train": 120, "valid": 40},
    counts={"train": (50, 40, 30), "valid": (20, 15, 5)},
    note="The model was chosen among 4 by these validation figures, so they are a little optimistic.",
    decided={
        "log_loss_before": {"value": 0.31},
        "log_loss_after": {"value": 0.25},
        "ece_after": {"value": 0.031},
        "coverage": {"value": 0.92, "low": 0.8, "high": 0.97},
        "set_size": {"value": 1.25},
        "turned_away": {"value": 0.06, "low": 0.02, "high": 0.13},
    },
    steps=(
        TrainingStep("Head", True, 2, {"value": 0.1, "low": 0.05, "high": 0.2}),
        TrainingStep("Whole network", False, 7, {"value": -0.01, "low": -0.05, "high": 0.02}),
        TrainingStep("Lower rates"),
    ),
    settings={"seed": "0", "augmentation": "mirrors left and right"},
    versions={"torch": "2.9.0"},
)
PLAIN = Manifest(
    members=(Member("resnet34.a1_in1k", PART, weights=HUB),),
    classes=("cat", "dog", "鳥"),
    temperature=1.3,
    metrics={
        "valid accuracy": {"value": 0.9, "low": 0.8, "high": 0.95},
        "valid macro_f1": {"value": 0.875, "low": 0.75, "high": 0.9375},
        "valid log_loss": {"value": 0.25, "low": 0.2, "high": 0.3},
    },
    data="f00d",
    headstart="0.1.0",
    about=ABOUT,
)
DECIDED = replace(PLAIN, sets=SetRule("least", 0.9, 0.8), novelty=NoveltyRule(0.4, 0.05), tta=True)
TAGS = replace(PLAIN, task=Task.MULTI_LABEL, thresholds=(0.25, 0.5, 0.75))
ENSEMBLE = replace(
    PLAIN,
    members=(
        Member("resnet34.a1_in1k", PART, weights=HUB, file="model-1.safetensors"),
        Member(
            "resnet50",
            PART,
            weights=Provenance("file own.safetensors", "cd" * 32),
            file="model-2.safetensors",
        ),
    ),
    about=replace(ABOUT, out_of_fold=True, pictures={"folds": 160}, counts={"folds": (70, 55, 35)}),
    metrics={"test accuracy": {"value": 0.9, "low": 0.8, "high": 0.95}},
)
ALL = {"plain": PLAIN, "decided": DECIDED, "tags": TAGS, "ensemble": ENSEMBLE}


def head_of(card: str) -> dict[str, Any]:
    """The front matter, cut out as the hub cuts it out."""
    found = re.match(r"^(\s*---[\r\n]+)([\S\s]*?)([\r\n]+---(\r\n|\r|\n|$))", card)
    assert found is not None
    fields = yaml.safe_load(found.group(2))
    assert isinstance(fields, dict)
    return fields


def text_of(card: str) -> str:
    return card.split("\n---\n", 1)[1]


class Cells(HTMLParser):
    """The text of every cell of the tables of a page, and every tag that is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.tags: list[str] = []
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag in ("td", "th"):
            self._inside = True
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.cells[-1] += data


def rendered(markdown: str) -> Cells:
    """The page as a browser would get it from the hub: HTML of one's own is let through, so it would show."""
    cells = Cells()
    cells.feed(MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown))
    return cells


# --- the head -----------------------------------------------------------------------------------------


def test_the_head_says_what_the_hub_asks_for() -> None:
    head = head_of(model_card(PLAIN))
    assert head["library_name"] == "headstart"
    assert head["pipeline_tag"] == "image-classification"
    assert head["license"] == "apache-2.0"
    assert head["base_model"] == "timm/resnet34.a1_in1k"
    assert head["base_model_relation"] == "finetune"
    assert head["metrics"] == ["accuracy", "f1", "log_loss"]
    (entry,) = head["model-index"]
    (result,) = entry["results"]
    assert result["dataset"] == {
        "type": "imagefolder",
        "name": "own pictures",
        "split": "validation",
        "revision": "f00d",
    }
    assert [figure["value"] for figure in result["metrics"]] == [0.9, 0.875, 0.25]


@pytest.mark.parametrize("name", ALL)
def test_the_hubs_own_reader_finds_every_figure_and_writes_the_same_head(name: str) -> None:
    hub = pytest.importorskip("huggingface_hub")
    manifest = ALL[name]
    card = hub.ModelCard(model_card(manifest))
    known = [figure for part in figures_by_part(manifest).values() for figure in part.values()]
    assert [each.metric_value for each in card.data.eval_results] == [each["value"] for each in known]
    assert {each.dataset_type for each in card.data.eval_results} == {"imagefolder"}
    assert hub.ModelCard(str(card)).data.to_dict() == card.data.to_dict() == head_of(model_card(manifest))


def test_figures_of_several_parts_are_results_of_their_own_and_those_of_the_test_part_come_first() -> None:
    both = {"valid accuracy": {"value": 0.9}, "test accuracy": {"value": 0.8}, "my score": {"value": 2.5}}
    (entry,) = head_of(model_card(replace(PLAIN, metrics=both)))["model-index"]
    assert [result["dataset"].get("split") for result in entry["results"]] == ["test", "validation", None]
    assert entry["results"][2]["metrics"] == [{"type": "my_score", "value": 2.5, "name": "my score"}]
    assert "Accuracy 80.0% on test pictures." in text_of(model_card(replace(PLAIN, metrics=both)))


def test_figures_of_folds_are_not_called_those_of_a_test_part() -> None:
    card = model_card(ENSEMBLE)
    assert head_of(card)["model-index"][0]["results"][0]["dataset"]["split"] == "out-of-fold"
    assert "160 out-of-fold pictures" in text_of(card)
    assert "test pictures" not in text_of(card)
    both = {"valid accuracy": {"value": 0.9}, "test accuracy": {"value": 0.8}}
    pictures = {"folds": 160, "test": 30}
    apart = replace(ENSEMBLE, metrics=both, about=replace(ABOUT, out_of_fold=False, pictures=pictures))
    (entry,) = head_of(model_card(apart))["model-index"]
    assert [result["dataset"]["split"] for result in entry["results"]] == ["test", "out-of-fold"]
    assert "30 test pictures" in text_of(model_card(apart))


def test_without_figures_there_is_no_index_and_the_card_says_how_to_get_them() -> None:
    for metrics in ({}, {"valid accuracy": {"value": None, "low": None, "high": None}}):
        card = model_card(replace(PLAIN, metrics=metrics))
        assert not {"metrics", "model-index"} & set(head_of(card))
        assert "headstart evaluate model PICTURES" in text_of(card)


@pytest.mark.parametrize(
    ("given_licences", "expected"),
    [
        (["apache-2.0"], {"license": "apache-2.0"}),
        (["CC-BY-NC-4.0"], {"license": "cc-by-nc-4.0"}),
        ([""], {}),
        (["dinov3-license"], {"license": "other", "license_name": "dinov3-license"}),
        (["a: b\n---\n# no"], {"license": "other", "license_name": "a-b-no"}),
        (["鳥"], {"license": "other", "license_name": "unnamed"}),
        (["apache-2.0", "apache-2.0"], {"license": "apache-2.0"}),
        (["apache-2.0", "mit"], {"license": "other", "license_name": "several"}),
    ],
)
def test_a_licence_is_one_that_the_hub_knows_or_other_with_its_name(
    given_licences: list[str], expected: dict[str, str]
) -> None:
    members = tuple(
        Member("resnet34", PART, weights=Provenance("file a.safetensors", "", licence))
        for licence in given_licences
    )
    head = head_of(model_card(replace(PLAIN, members=members)))
    assert {key: value for key, value in head.items() if key.startswith("license")} == expected


def test_every_licence_that_timm_names_is_known_to_be_the_hubs_or_other() -> None:
    timm = pytest.importorskip("timm")
    named = {timm.get_pretrained_cfg(name).license for name in timm.list_models(pretrained=True)} - {None}
    # Those are no identifiers of the hub's; a new one is to be looked up once.
    others = {
        "cvnets-license",
        "dinov3-license",
        "fastvit-license",
        "mobileone-license",
        "nvidia-open-model-license",
        "qwen-community-1.0",
        "sapiens2-license",
        "seer-license",
    }
    assert named - LICENCES <= others


@pytest.mark.parametrize(
    "source", ["file resnet34.safetensors", "scratch", "hub None", "hub ../../x", "hub a/b/c"]
)
def test_only_weights_of_the_hub_have_a_base_model(source: str) -> None:
    member = replace(PLAIN.members[0], weights=Provenance(source))
    card = model_card(replace(PLAIN, members=(member,)))
    assert "base_model" not in head_of(card)
    assert "https://huggingface.co/" not in card


# --- what it says ---------------------------------------------------------------------------------------


def test_the_card_says_what_was_measured_and_what_not() -> None:
    text = text_of(model_card(DECIDED))
    for said in (
        "Accuracy 90.0% on 40 validation pictures (80.0% … 95.0%). The model was chosen among 4",
        "validation figures flatter a little",
        "`鳥` had fewer than 10 pictures to judge by",
        "| Log loss | 0.250 | 0.200 … 0.300 |",
        "| `dog` | 40 | 15 |",
        "160 pictures: 120 training, 40 validation.",
        "a temperature of 1.3. On pictures that did not choose it, the log loss falls from 0.310 to 0.250.",
        "The expected calibration error is 3.1% on pictures that it was not fitted to.",
        "of pictures that did not set their limit, they hold it for 92.0% (80.0% … 97.0%).",
        "A set has 1.25 classes on average.",
        "5% of known pictures exceed; of known pictures that did not set it, 6.0% (2.0% … 13.0%) do.",
        "| Whole network | undone | 7 | -0.010 (-0.050 … 0.020) |",
        "headstart predict model pictures/",
        "320 x 224 pixels",
        "headstart 0.1.0, torch 2.9.0",
        "[timm/resnet34.a1\\_in1k](https://huggingface.co/timm/resnet34.a1_in1k)",
    ):
        assert said in text, said
    assert "cannot say none of these" not in text
    assert "cannot say none of these" in text_of(model_card(PLAIN))


def test_tags_have_their_thresholds() -> None:
    text = text_of(model_card(TAGS))
    assert "| tag | training | validation | said from |" in text
    assert "| `cat` | 50 | 20 | 0.25 |" in text
    assert "none of these" not in text
    assert "multi-label-image-classification" in head_of(model_card(TAGS))["tags"]


def test_an_ensemble_names_every_network_and_what_is_not_known_of_it() -> None:
    text = text_of(model_card(ENSEMBLE))
    assert "# 2 networks of resnet34.a1\\_in1k and resnet50 for 3 classes" in text
    assert "| 2 | `resnet50` | the file `own.safetensors` | `cdcdcdcdcdcdcdcd` | not recorded |" in text
    assert "`manifest.json`" in text


def test_a_card_of_a_bundle_that_tells_nothing_says_what_it_does_not_know() -> None:
    text = text_of(model_card(replace(PLAIN, about=None, metrics={}, data="", headstart="")))
    assert text.count("not recorded") >= 3
    assert "None" not in text


def test_many_classes_are_cut_and_the_card_stays_small() -> None:
    names = tuple(f"{number} " + "鳥" * 900 for number in range(50_000))
    counts = {"train": (1,) * 50_000, "valid": (0,) * 50_000}
    card = model_card(
        replace(
            PLAIN,
            classes=names,
            about=replace(ABOUT, counts=counts, settings={str(n): "x" * 1000 for n in range(100)}),
            metrics={f"metric {'m' * 900} {number}": {"value": 0.5} for number in range(1000)},
            members=PLAIN.members * 64,
        )
    )
    assert f"And {50_000 - MOST_CLASSES:,} more" in card
    assert len(card.encode()) < MAX_CARD_BYTES / 4


# --- names that mean something elsewhere ----------------------------------------------------------------

HOSTILE = [
    "a|b",
    "`",
    "``a`",
    "a\nb",
    "---",
    "\n---\nlicense: mit",
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[a](javascript:alert(1))",
    "![a](http://a.example/b.png)",
    "# a",
    "&lt;",
    "a\\",
    "\\|",
    "{{ a }}",
    "!!python/object/apply:os.system ['true']",
    "*a*",
    "كلب",
    "\u202edog",
    "a\u2028b",
    " a ",
    " ",
    "\t",
    "yes",
    "null",
    "@someone #1 $x$",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_is_shown_as_it_is_and_means_nothing(name: str) -> None:
    card = model_card(
        replace(
            PLAIN,
            classes=("cat", name, "dog"),
            metrics={f"valid {name}": {"value": 0.5}, name: {"value": 0.25}},
            about=replace(ABOUT, note=f"Note {name}", settings={name: name}, versions={name: name}),
            members=(replace(PLAIN.members[0], weights=Provenance(f"file {name}", name, name)),),
            data=name,
        )
    )
    head, page = head_of(card), rendered(text_of(card))
    assert head.keys() >= {"library_name", "model-index"}
    assert head.get("license") in (*LICENCES, "other")
    # As a class, and as the name and the text of a setting.
    assert [cell.strip() for cell in page.cells].count(one_line(name).strip()) >= 3
    assert not {"script", "img", "h3"} & set(page.tags)
    assert page.tags.count("h1") == 1
    assert page.tags.count("h2") == 9
    assert page.tags.count("a") == 0
    assert "\u202e" not in card


def test_an_unescaped_name_would_be_noticed() -> None:
    page = rendered(table(["class"], [["<script>alert(1)</script>"], ["a|b"]]))
    assert "script" in page.tags
    assert "a|b" not in page.cells


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=60))
@example("``")
@example("\\||\\")
@example(" `")
@settings(max_examples=200, deadline=None)
def test_any_name_comes_out_of_a_table_as_it_went_in(name: str) -> None:
    assert "".join(rendered(table(["a"], [[code(name)]])).cells[1:]).strip() == one_line(name).strip()
    page = rendered(table(["a"], [[plain(name)]]))
    assert page.cells[1].split() == one_line(name).split()
    assert set(page.tags) == {"table", "thead", "tr", "th", "tbody", "td"}


texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
shares = st.fixed_dictionaries(
    {"value": st.none() | st.floats(-1e9, 1e9), "low": st.none() | st.floats(0, 1)}
)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    classes = tuple(draw(st.lists(texts, min_size=2, max_size=6, unique=True)))
    tags = draw(st.booleans())
    parts = draw(st.lists(st.sampled_from(["train", "valid", "test"]), unique=True))
    counts = st.lists(st.integers(0, 10**9), min_size=len(classes), max_size=len(classes)).map(tuple)
    about = About(
        pictures={part: draw(st.integers(0, 10**9)) for part in parts},
        counts={part: draw(counts) for part in parts},
        out_of_fold=draw(st.booleans()),
        note=draw(texts | st.just("")),
        decided=draw(st.dictionaries(st.sampled_from(["coverage", "ece_after", "set_size"]), shares)),
        steps=tuple(
            TrainingStep(draw(texts), draw(st.none() | st.booleans()), 1, draw(shares)) for _ in parts
        ),
        settings=draw(st.dictionaries(texts, texts, max_size=3)),
    )
    count = draw(st.integers(1, 3))
    provenance = st.builds(Provenance, texts | texts.map("hub {}".format), texts, texts | st.just("mit"))
    return Manifest(
        members=tuple(Member("resnet34", PART, weights=draw(provenance)) for _ in range(count)),
        classes=classes,
        task=Task.MULTI_LABEL if tags else Task.SINGLE_LABEL,
        temperature=draw(st.floats(0.01, 100)),
        thresholds=(0.5,) * len(classes) if tags else None,
        metrics=draw(st.dictionaries(texts | texts.map("valid {}".format), shares, max_size=4)),
        data=draw(texts | st.just("")),
        about=draw(st.none() | st.just(about)),
        novelty=draw(st.none() | st.just(NoveltyRule(0.4, 0.05))),
    )


@given(manifests())
@settings(max_examples=100, deadline=None)
def test_any_manifest_has_one_card_whose_head_parses_and_whose_text_has_its_sections(
    manifest: Manifest,
) -> None:
    card = model_card(manifest)
    assert card == model_card(replace(manifest))
    assert card.endswith("\n")
    head, page = head_of(card), rendered(text_of(card))
    assert head["library_name"] == "headstart"
    known = sum(len(part) for part in figures_by_part(manifest).values())
    results = [
        figure
        for entry in head.get("model-index", ())
        for each in entry["results"]
        for figure in each["metrics"]
    ]
    assert len(results) == known
    assert all(type(figure["value"]) is float and figure["type"] for figure in results)
    assert (page.tags.count("h1"), page.tags.count("h2")) == (1, 9)
