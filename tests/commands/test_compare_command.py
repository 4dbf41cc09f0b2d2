import jax
import pytest
from compared import NAMES, write_run, write_unfinished

from jaxtl.commands import compare
from jaxtl.experiment import comparison_page
from jaxtl.main import main


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return [str(write_run(tmp_path / name, seed=seed)) for seed, name in enumerate("ab")]


def test_it_prints_the_tables_and_writes_them_and_a_page(runs, tmp_path, capsys, monkeypatch):
    # It reads and writes files alone: JAX takes all devices where it is asked for a process, too.
    for name in ("process_index", "process_count", "devices", "local_devices", "default_backend"):
        monkeypatch.setattr(jax, name, None)
    assert main(["compare", *runs]) == 0
    printed = capsys.readouterr().out
    assert "Differences from a on the same 30 images" in printed
    assert printed.splitlines()[-1] == "compare/compare.html compare/compare.md compare/compare.json"
    assert (tmp_path / "compare" / "compare.md").read_text() in printed


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["{a}"], "compare needs two runs or more"),
        (["{a}", "{b}", "{a}"], "is given twice: give each run once."),
        (["{a}", "{a}/nothing"], "error: there is no folder"),
        (["{a}", "{b}", "--output={a}"], "is the workdir of a run"),
        (["{a}", "{b}", "--config.train.seed=1"], "takes no --config.train.seed"),
    ],
)
def test_what_is_wrong_is_told(runs, arguments, told, capsys):
    words = [text.format(a=runs[0], b=runs[1]) for text in arguments]
    assert main(["compare", *words]) == 1
    assert told in capsys.readouterr().err


def test_the_flag_that_compares_the_shared_images_is_named(runs, tmp_path, capsys):
    write_run(tmp_path / "fewer", splits={"test": NAMES[:20]})
    assert main(["compare", runs[0], "fewer"]) == 1
    assert capsys.readouterr().err.endswith("; with shared those alone are compared.\n(set with --shared)\n")


def test_from_python(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(comparison_page, "learning_curves", lambda curves, marks: [])
    found = compare.run([*runs, write_unfinished(tmp_path / "begun")], tmp_path / "out", split="val")
    assert (found.split, found.paired.baseline) == ("val", "a")
    assert (tmp_path / "out" / "compare.html").exists()
    assert "begun is not finished" in capsys.readouterr().out
