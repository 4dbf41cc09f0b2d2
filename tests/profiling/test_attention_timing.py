import json

import jax
import pytest

from jaxtl.models.layers import attention
from jaxtl.profiling import attention_timing
from jaxtl.profiling.attention_timing import Workload, candidates, choose, measure

VIT_B = Workload(batch=128, tokens=197, heads=12, head_width=64, dtype="bfloat16", train=True)
TINY = Workload(batch=2, tokens=5, heads=2, head_width=8, dtype="float32", train=True)
SECONDS = {"cudnn": 4.1e-4, "xla": 9.3e-4, "plain": 1.02e-3}


@pytest.fixture
def timed(monkeypatch):
    """Puts fixed times in place of measured ones; gives the forms that were asked for, and the times to change."""
    asked, seconds = [], dict(SECONDS)

    def time(form, workload):
        asked.append(form)
        return seconds[form]

    monkeypatch.setattr(attention_timing, "_time", time)
    monkeypatch.setattr(attention_timing, "candidates", lambda workload: ("cudnn", "xla", "plain"))
    return asked, seconds


def pretend_card(monkeypatch, name):
    device = type("Device", (), {"device_kind": name})
    monkeypatch.setattr(attention_timing.jax, "local_devices", lambda: [device])


def test_the_fastest_is_chosen_and_all_times_are_printed(timed, monkeypatch, capsys):
    pretend_card(monkeypatch, "NVIDIA H100 80GB HBM3")
    assert choose(VIT_B) == "cudnn"
    assert capsys.readouterr().out == (
        "attention: cudnn 0.41 ms, xla 0.93, plain 1.02 for 128 x 197 tokens of bfloat16 on NVIDIA H100 80GB HBM3 "
        "(measured)\n"
    )
    timed[1]["plain"] = 2e-4
    assert choose(Workload(128, 197, 12, 64, "bfloat16", train=False)) == "plain"
    assert capsys.readouterr().out == (
        "attention: plain 0.2 ms, cudnn 0.41, xla 0.93 for 128 x 197 tokens of bfloat16, forward alone, on NVIDIA H100 "
        "80GB HBM3 (measured)\n"
    )


@pytest.mark.parametrize(
    ("clock", "forms"),
    [
        ([0, 0.0, 1.0, 2.0], ["cudnn", "xla", "plain"]),
        ([0, 0.0, 4.9, 5.0], ["cudnn", "xla"]),
        ([0, 0.0, 7.0], ["cudnn"]),
        ([0, 6.0], []),
    ],
)
def test_no_form_is_begun_once_the_budget_is_spent(timed, clock, forms):
    assert measure(VIT_B, budget_seconds=5.0, clock=iter(clock).__next__) == {form: SECONDS[form] for form in forms}
    assert timed[0] == forms


def test_without_any_time_the_usual_form_is_taken_and_nothing_is_kept(timed, tmp_path, capsys):
    assert choose(VIT_B, tmp_path, budget_seconds=0.0) == "auto"
    assert (
        "no form could be timed for 128 x 197 tokens of bfloat16 on cpu: cuDNN's is used if" in capsys.readouterr().out
    )
    assert list(tmp_path.iterdir()) == []


def test_a_form_that_fails_is_left_out_and_named(timed, monkeypatch):
    def fail(form, workload):
        if form == "cudnn":
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory\nand more")
        return SECONDS[form]

    monkeypatch.setattr(attention_timing, "_time", fail)
    with pytest.warns(
        UserWarning, match="'cudnn' cannot be timed for 128 x 197 .*: RESOURCE_EXHAUSTED: out of memory$"
    ):
        assert measure(VIT_B) == {"xla": 9.3e-4, "plain": 1.02e-3}


def test_times_are_kept_by_card_shape_and_dtype(timed, tmp_path, monkeypatch, capsys):
    asked, seconds = timed
    folder = tmp_path / "cache"
    pretend_card(monkeypatch, "NVIDIA A100-SXM4-80GB")
    assert choose(VIT_B, folder) == "cudnn"
    seconds["cudnn"] = 9.0
    asked.clear()
    assert choose(VIT_B, folder) == "cudnn"
    assert asked == []
    assert capsys.readouterr().out.endswith("on NVIDIA A100-SXM4-80GB (cached)\n")
    key = f"NVIDIA A100-SXM4-80GB, jax {jax.__version__}, 12 heads of 64, 128 x 197 tokens of bfloat16"
    assert json.loads((folder / "attention.json").read_text()) == {key: SECONDS}

    others = [{"batch": 64}, {"tokens": 257}, {"heads": 6}, {"head_width": 32}, {"dtype": "float16"}, {"train": False}]
    for other in others:
        assert choose(attention_timing.replace(VIT_B, **other), folder) == "xla", other
    pretend_card(monkeypatch, "NVIDIA H100 80GB HBM3")
    assert choose(VIT_B, folder) == "xla"
    assert asked == 7 * ["cudnn", "xla", "plain"]
    assert len(json.loads((folder / "attention.json").read_text())) == 8
    assert [path.name for path in folder.iterdir()] == ["attention.json"]


def test_times_that_the_budget_left_incomplete_are_not_kept(timed, tmp_path, monkeypatch):
    monkeypatch.setattr(attention_timing, "measure", lambda workload, budget_seconds: {"cudnn": 4.1e-4})
    assert choose(VIT_B, tmp_path) == "cudnn"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", '{"KEY": 3}', '{"KEY": {"cudnn": "fast"}}', '{"KEY": {"flash": 1.0}}']
)
def test_a_damaged_file_is_written_anew(timed, tmp_path, text):
    key = f"cpu, jax {jax.__version__}, 12 heads of 64, 128 x 197 tokens of bfloat16"
    (tmp_path / "attention.json").write_text(text.replace("KEY", key))
    assert choose(VIT_B, tmp_path) == "cudnn"
    assert json.loads((tmp_path / "attention.json").read_text()) == {key: SECONDS}


def test_a_folder_that_cannot_be_written_is_no_reason_to_stop(timed, tmp_path):
    (tmp_path / "file").write_text("")
    assert choose(VIT_B, tmp_path / "file") == "cudnn"


def test_of_a_large_batch_a_part_is_timed(timed, capsys):
    choose(Workload(4096, 197, 12, 64, "bfloat16", train=True))
    assert "for 144 x 197 tokens" in capsys.readouterr().out
    choose(Workload(3, 20000, 16, 64, "bfloat16", train=True))
    assert "for 1 x 20000 tokens" in capsys.readouterr().out


def test_refused_forms_are_no_candidates(monkeypatch):
    assert candidates(VIT_B) == ("xla", "plain")  # A CPU has no cuDNN.
    monkeypatch.setattr(attention_timing, "backend", lambda: "gpu")
    monkeypatch.setattr(attention_timing, "capability", lambda: "9.0")
    asked = []

    def refused(form, query, key, value, real):
        asked.append((form, query.shape, real))
        return "too many tokens" if form == "xla" else ""

    monkeypatch.setattr(attention_timing, "refused", refused)
    assert candidates(VIT_B) == ("cudnn", "plain")
    # cuDNN takes an even number of tokens.
    assert asked[:2] == [("cudnn", (128, 198, 12, 64), 197), ("xla", (128, 197, 12, 64), 197)]
    assert candidates(TINY) == ("plain",)  # Nor has cuDNN float32.


@pytest.mark.parametrize("train", [True, False])
def test_times_are_taken(train):
    times = measure(attention_timing.replace(TINY, train=train), budget_seconds=60)
    assert list(times) == ["xla", "plain"]
    assert all(0 < seconds < 1 for seconds in times.values())


def test_every_form_is_known():
    assert set(SECONDS) == set(attention.FORMS)
