"""The form of attention of a run: the config's, the one it began with, or the fastest; no GPU is needed to tell."""

import json
from dataclasses import replace

import pytest

from jaxtl import config as config_lib
from jaxtl.experiment import attention, input_pipeline, options
from jaxtl.experiment.build import build
from jaxtl.profiling import attention_timing
from jaxtl.train import loop

SHORT = ("--config.train.steps=2", "--config.train.eval_every=0")


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """Makes the choice believe in a GPU on which "xla" is fastest; gives what was timed."""
    timed = []

    def time(form, workload):
        timed.append((form, workload))
        return {"xla": 1e-3, "plain": 2e-3}[form]

    monkeypatch.setattr(attention, "backend", lambda: "gpu")
    monkeypatch.setattr(attention, "_cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(attention_timing, "_time", time)
    return timed


@pytest.fixture
def built(monkeypatch):
    """Gives the forms of attention that evaluations are compiled with."""
    forms, compile_as_before = [], input_pipeline.compile_evaluator

    def compile_evaluator(model, *arguments, **options):
        forms.append(model.attention)
        return compile_as_before(model, *arguments, **options)

    monkeypatch.setattr(input_pipeline, "compile_evaluator", compile_evaluator)
    return forms


def outline(config):
    """Returns the experiment of a config, of shapes alone, for the devices that are here."""
    return replace(build(config, abstract=True), partitioner=options.partitioner(config))


def stored(workdir):
    return json.loads((workdir / "attention.json").read_text())


@pytest.mark.slow
def test_on_a_cpu_nothing_is_timed(train, tmp_path, built):
    status, out, err = train(*SHORT)
    assert (status, err) == (0, "")
    assert "attention" not in out
    assert not (tmp_path / "run" / "attention.json").exists()
    assert built == ["auto"]


@pytest.mark.slow
def test_on_a_gpu_the_fastest_is_taken_and_noted(train, tmp_path, gpu, built):
    status, out, err = train(*SHORT)
    assert (status, err) == (0, "")
    assert "attention: xla 1 ms, plain 2 for 4 x 5 tokens of float32 on cpu (measured)\n" in out
    assert stored(tmp_path / "run") == {"form": "xla", "device": "cpu"}
    assert built == ["xla"]
    # Two devices share the batch of 8.
    workload = attention_timing.Workload(4, 5, 2, 8, "float32", train=True)
    assert gpu == [("xla", workload), ("plain", workload)]
    status, out, _ = train(*SHORT, workdir="other")
    assert "(cached)" in out
    assert len(gpu) == 2


@pytest.mark.slow
def test_where_the_head_alone_trains_the_forward_pass_is_timed(train, gpu):
    flags = ("--config.finetune.unfreeze=head", "--config.train.accumulate=2")
    assert "for 2 x 5 tokens of float32, forward alone, on cpu" in train(*SHORT, *flags)[1]


@pytest.mark.slow
def test_a_run_goes_on_with_the_form_that_it_began_with(train, tmp_path, gpu, built, monkeypatch):
    saves, save = [], loop.save

    def interrupted(*arguments, **options):
        saves.append(1)
        if len(saves) > 1:
            raise KeyboardInterrupt
        return save(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "save", interrupted)
        assert train()[0] == 130
    assert stored(tmp_path / "run")["form"] == "xla"
    # Neither times that are gone nor others that are faster now change it.
    (tmp_path / "cache" / "attention.json").unlink()
    monkeypatch.setattr(attention_timing, "_time", lambda form, workload: {"xla": 2.0, "plain": 1.0}[form])
    status, out, err = train()
    assert (status, err) == (0, "")
    assert "attention: xla, as the run began\n" in out
    assert built == ["xla", "xla"]


@pytest.mark.parametrize(
    ("noted", "form", "line"),
    [
        ({"form": "plain", "device": "cpu"}, "plain", "attention: plain, as the run began\n"),
        ({"form": "plain", "device": "NVIDIA A100-SXM4-80GB"}, "xla", "attention: xla 1 ms, plain 2 for "),
        # It began before forms were timed, or elsewhere.
        (None, "auto", "attention: auto, as the run began\n"),
    ],
)
def test_what_a_run_noted_counts_on_the_same_card(config, tmp_path, gpu, capsys, monkeypatch, noted, form, line):
    monkeypatch.setattr(attention.files, "has_checkpoints", lambda workdir: True)
    if noted:
        (tmp_path / "attention.json").write_text(json.dumps(noted))
    chosen = attention.with_fastest_attention(outline(config), workdir=tmp_path)
    assert chosen.model.module.attention == form
    assert line in capsys.readouterr().out
    assert stored(tmp_path) == {"form": form, "device": "cpu"}


@pytest.fixture
def config():
    c = config_lib.default()
    c.model.name = "vit_petals:depth=2,width=16,heads=2,patch=8"
    c.model.image_size = 16
    c.data.source = "folder:nowhere"
    c.train.steps = 1
    return c


@pytest.mark.filterwarnings("ignore:attention 'cudnn' is refused")
@pytest.mark.parametrize(("form", "used"), [("cudnn", "xla"), ("xla", "xla"), ("plain", "plain")])
def test_what_the_config_says_counts_and_nothing_is_timed(config, tmp_path, gpu, capsys, form, used):
    config.model.attention = form
    experiment = outline(config)
    assert experiment.model.module.attention == form
    chosen = attention.with_fastest_attention(experiment, workdir=tmp_path)
    # Without cuDNN, as here, JAX refuses it: the run remembers what computes.
    assert chosen.model.module.attention == used
    assert (gpu, capsys.readouterr().out) == ([], "")
    assert stored(tmp_path) == {"form": used, "device": "cpu"}


def test_a_model_without_attention_is_left_alone(config, gpu, capsys):
    config.model.name, config.model.image_size = "resnet20_cifar", 32
    experiment = outline(config)
    assert attention.with_fastest_attention(experiment) is experiment
    assert (gpu, capsys.readouterr().out) == ([], "")


@pytest.mark.slow
def test_bench_and_eval_take_the_fastest_too(jaxtl, train, config_file, pictures, tmp_path, gpu, built):
    flags = (f"--config={config_file}", f"--config.data.source=folder:{pictures}")
    status, out, err = jaxtl("bench", *flags, f"--workdir={tmp_path / 'b'}", "--steps=2")
    assert (status, err) == (0, "")
    assert out.count("attention: xla 1 ms, plain 2 for 4 x 5 tokens of float32 on cpu (measured)") == 1
    train(*SHORT)
    weights = f"--config.model.weights=run:{tmp_path / 'run'}"
    status, out, err = jaxtl("eval", *flags, f"--workdir={tmp_path / 'e'}", weights, "--config.eval.batch_size=16")
    assert (status, err) == (0, "")
    assert out.count("attention: xla 1 ms, plain 2 for 8 x 5 tokens of float32, forward alone, on cpu (measured)") == 1
    assert built[-1] == "xla"
