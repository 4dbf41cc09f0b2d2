"""The load report in its two forms, literally: the lines that a person reads, and weights.json."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from jaxtl.models import vit
from jaxtl.models.key_mapping import KeyMapping
from jaxtl.preprocessing import Pixels
from jaxtl.pretrained.formats.arrays import Arrays
from jaxtl.pretrained.open import Weights
from jaxtl.pretrained.report import LoadReport

DIGEST = "0123456789abcdef" * 4
WEIGHTS = Weights(
    location="hf:org/name",
    files=(Path("/cache/one.safetensors"), Path("/cache/two.safetensors")),
    arrays=Arrays("safetensors", {"a": (2,)}, {}),
    family=vit,
    key_mapping=KeyMapping("timm", "torch", ()),
    model="vit_ti16",
    num_classes=3,
    classes=("ant", "bee", "cat"),
    pixels=Pixels(224, 256, (0.485, 0.456, 0.406), (0.5, 0.25, 1.0), "bicubic"),
    pixels_from="the file",
    revision="fedcba9876543210",
    license="apache-2.0",
)
BARE = replace(WEIGHTS, num_classes=0, classes=None, pixels=None, pixels_from="", revision="", license="", model="")


def test_everything_that_became_of_a_source_stands_in_the_table():
    report = LoadReport.begin(WEIGHTS, head="new: other classes")
    report.sha256 = {"one.safetensors": DIGEST, "two.safetensors": DIGEST[::-1]}
    report.loaded = {
        "params/embed/kernel": {"from": ["patch_embed.weight"], "shape": [16, 16, 3, 8]},
        "params/qkv/kernel": {"from": ["q.weight", "k.weight", "v.weight"], "shape": [8, 24]},
        "params/cls": {"from": ["params/cls"], "shape": [1, 1, 8]},
    }
    report.resized = {"params/pos": "[1, 17, 8] -> [1, 37, 8]", "params/embed/kernel": "4 -> 3 channels"}
    report.dropped = {"head.weight": [3, 8], "head.bias": [3]}
    report.initialised = {f"params/new{i}": [i, 8] for i in range(6)}
    report.contradicted = {"epsilon": "1e-5 in place of 1e-6", "gelu": "tanh in place of exact"}
    report.notes = ["the width was read off its arrays", "a token more"]
    assert report.table().splitlines() == [
        "weights       hf:org/name @ fedcba987654",
        "format        safetensors, timm names, sha256 0123456789ab, fedcba987654",
        "license       apache-2.0",
        "pixels        256 -> 224 bicubic, mean 0.485 0.456 0.406, std 0.5 0.25 1 (from the file)",
        "classes       3, ant ... cat",
        "head          new: other classes",
        "loaded        3 leaves, 2 of them renamed",
        "resized       params/pos [1, 17, 8] -> [1, 37, 8]; params/embed/kernel 4 -> 3 channels",
        "dropped       head.weight [3, 8], head.bias [3]",
        "initialised   params/new0 [0, 8], params/new1 [1, 8], params/new2 [2, 8], params/new3 [3, 8] and 2 more",
        "contradicted  epsilon: 1e-5 in place of 1e-6; gelu: tanh in place of exact",
        "model         the width was read off its arrays; a token more",
    ]


def test_what_is_unknown_has_no_line_but_what_is_missing_does():
    assert LoadReport.begin(BARE, head="none").table().splitlines() == [
        "weights       hf:org/name",
        "format        safetensors, timm names",
        "pixels        unknown",
        "classes       none",
        "head          none",
    ]
    unnamed = LoadReport.begin(replace(BARE, num_classes=5), head="kept")
    assert "classes       5" in unnamed.table().splitlines()


@pytest.mark.parametrize(("count", "end"), [(4, "d3 [3]"), (5, "d3 [3] and 1 more")])
def test_four_arrays_are_shown_and_the_others_counted(count, end):
    report = LoadReport.begin(BARE, head="kept")
    report.dropped = {f"d{i}": [i] for i in range(count)}
    (line,) = (line for line in report.table().splitlines() if line.startswith("dropped"))
    assert line == f"dropped       d0 [0], d1 [1], d2 [2], {end}"


def test_weights_json_holds_everything_in_plain_values():
    report = LoadReport.begin(WEIGHTS, head="kept")
    report.loaded = {"params/cls": {"from": ["cls_token"], "shape": [1, 1, 8]}}
    found = report.to_json()
    assert found == {
        "location": "hf:org/name",
        "files": ["one.safetensors", "two.safetensors"],
        "revision": "fedcba9876543210",
        "license": "apache-2.0",
        "format": "safetensors",
        "naming": "timm",  # Files of before have this key.
        "model": "vit_ti16",
        "num_classes": 3,
        "classes": ["ant", "bee", "cat"],
        "pixels": {
            "size": 224,
            "resize": 256,
            "mean": [0.485, 0.456, 0.406],
            "std": [0.5, 0.25, 1.0],
            "interpolation": "bicubic",
        },
        "pixels_from": "the file",
        "head": "kept",
        "sha256": {},
        "loaded": {"params/cls": {"from": ["cls_token"], "shape": [1, 1, 8]}},
        "ones": {},
        "resized": {},
        "dropped": {},
        "initialised": {},
        "contradicted": {},
        "notes": [],
    }
    assert json.loads(json.dumps(found)) == found
    found["loaded"]["params/cls"]["from"].append("another")
    assert report.loaded["params/cls"]["from"] == ["cls_token"]


def test_accounts_do_not_share_what_is_added_to_them():
    one, two = (LoadReport.begin(WEIGHTS, head="kept") for _ in range(2))
    one.notes.append("mine")
    one.dropped["a"] = [2]
    assert (two.notes, two.dropped) == ([], {})


def test_counters_of_steps_are_told_apart_from_what_is_left_out():
    report = LoadReport.begin(BARE, head="kept")
    report.loaded = {"params/conv/kernel": {"from": ["conv.weight"], "shape": [3, 3, 3, 8]}}
    counters = {f"bn{i}.num_batches_tracked": [] for i in range(52)}
    report.dropped = {**counters, "classifier.weight": [5, 8]}
    said = "classifier.weight [5, 8]; 52 counters of steps (num_batches_tracked), which change no result"
    assert f"dropped       {said}" in report.table().splitlines()
    assert f"dropped   {said}" in report.summary()
    assert report.summary()[0].endswith(": 1 of 2 arrays loaded")
    assert len(report.to_json()["dropped"]) == 53
    report.dropped = counters
    assert report.summary()[0].endswith(": 1 of 1 arrays loaded")
