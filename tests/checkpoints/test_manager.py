import contextlib
import gc
import os
import resource
import shutil
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtl.checkpoints import orbax_io
from jaxtl.checkpoints.digests import digests
from jaxtl.checkpoints.manager import Checkpoints, read_best
from jaxtl.errors import UserError
from jaxtl.parallel import processes

VARIABLES = {"params": {"a": {"kernel": jnp.arange(6.0).reshape(2, 3)}}, "batch_stats": {"b": {"mean": jnp.ones(3)}}}
REST = {"step": jnp.zeros((), jnp.int32), "opt_state": optax.adam(1.0).init(VARIABLES["params"])}


def save(folder, scores):
    with Checkpoints(folder) as checkpoints:
        for step, score in scores.items():
            variables = jax.tree.map(lambda x, step=step: x + step, VARIABLES)
            checkpoints.save(step, variables, REST, {"note": step / 3}, score)


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_what_was_saved_comes_back(tmp_path):
    save(tmp_path, {3: 0.5})
    with Checkpoints(tmp_path) as checkpoints:
        step, variables, rest, host = checkpoints.restore_latest(lambda step: (VARIABLES, REST))
    assert (step, host) == (3, {"note": 1.0})
    same(variables, jax.tree.map(lambda x: x + 3, VARIABLES))
    same(rest, REST)
    assert type(rest["opt_state"]) is type(REST["opt_state"])


@pytest.mark.parametrize(
    ("scores", "kept", "best"),
    [
        ({1: 0.5, 2: 0.9, 3: 0.9, 4: 0.6, 5: 0.1}, [2, 4, 5], 2),  # Of equal scores the earliest.
        ({1: 0.1, 2: 0.2, 3: 0.3}, [2, 3], 3),
        ({1: 0.9, 2: 0.2, 3: None}, [1, 2, 3], 1),  # One without a score, as a stop between evaluations leaves.
        ({1: -2.0, 2: -1.0, 3: -3.0, 4: -4.0}, [2, 3, 4], 2),
    ],
)
def test_the_latest_two_and_the_best_are_kept(tmp_path, scores, kept, best):
    save(tmp_path / "checkpoints", scores)
    with Checkpoints(tmp_path / "checkpoints", read_only=True) as checkpoints:
        assert checkpoints.steps() == kept
        assert checkpoints.best() == best
    step, variables = read_best(tmp_path)
    assert step == best
    same(variables, jax.tree.map(lambda x: np.asarray(x) + best, VARIABLES))


def flip(folder, step, item):
    files = [path for path in (folder / str(step) / item).rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)


def truncate(folder, step, item):
    for path in (folder / str(step) / item).rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", [flip, truncate])
@pytest.mark.parametrize("item", ["variables", "rest", "host"])
def test_a_damaged_checkpoint_is_reported_and_the_one_before_taken(tmp_path, damage, item):
    save(tmp_path, {1: 0.5, 2: 0.6})
    damage(tmp_path, 2, item)
    with Checkpoints(tmp_path) as checkpoints:
        step, variables, _, _ = checkpoints.restore_latest(lambda step: (VARIABLES, REST))
        assert step == 1
        assert len(checkpoints.problems) == 1
        assert checkpoints.problems[0].startswith("checkpoint 2 is damaged: ")
        assert checkpoints.steps() == [1]  # The damaged one is out of the way, so that its step can be saved again.
        assert (tmp_path / "damaged-2" / item).is_dir()
    same(variables, jax.tree.map(lambda x: x + 1, VARIABLES))


def test_a_checkpoint_of_another_structure_is_not_called_damaged(tmp_path):
    save(tmp_path, {1: 0.5, 2: 0.6})
    other = {**REST, "opt_state": optax.sgd(1.0, momentum=0.9).init(VARIABLES["params"])}
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(UserError, match=r"checkpoint 2 and this run differ in 4 arrays, such as \['opt_state'\]"):
            checkpoints.restore_latest(lambda step: (VARIABLES, other))
        assert (checkpoints.steps(), checkpoints.problems) == ([1, 2], [])


def test_no_whole_checkpoint_is_an_error(tmp_path):
    save(tmp_path / "checkpoints", {1: 0.5})
    truncate(tmp_path / "checkpoints", 1, "variables")
    with Checkpoints(tmp_path / "checkpoints") as checkpoints, pytest.raises(UserError, match="No checkpoint is whole"):
        checkpoints.restore_latest(lambda step: (VARIABLES, REST))
    with pytest.raises(UserError, match=r"(?s)checkpoint 1 cannot be read.*No checkpoint in .* is whole"):
        read_best(tmp_path)


def test_an_empty_or_missing_folder(tmp_path):
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.restore_latest(lambda step: (VARIABLES, REST)) is None
        assert checkpoints.best() is None
    with pytest.raises(UserError, match="is empty"):
        read_best(tmp_path)
    with pytest.raises(UserError, match="holds no checkpoints"):
        read_best(tmp_path / "nowhere")


def test_digests_tell_which_array_differs():
    before = digests(VARIABLES)
    changed = {**VARIABLES, "batch_stats": {"b": {"mean": jnp.array([1.0, 1.0, 1.0000001])}}}
    assert [path for path in before if before[path] != digests(changed)[path]] == ["['batch_stats']['b']['mean']"]


def test_where_the_best_is_damaged_the_next_best_is_read(tmp_path, capsys):
    save(tmp_path / "checkpoints", {1: 0.9, 2: 0.1, 3: 0.5})
    flip(tmp_path / "checkpoints", 1, "variables")
    step, variables = read_best(tmp_path)
    assert step == 3
    same(variables, jax.tree.map(lambda x: np.asarray(x) + 3, VARIABLES))
    assert "checkpoint 1 cannot be read" in capsys.readouterr().err


def test_so_many_of_the_latest_and_of_the_best_are_kept(tmp_path):
    with Checkpoints(tmp_path, keep_latest=1, keep_best=2) as checkpoints:
        for step, score in {1: 0.9, 2: 0.5, 3: 0.8, 4: 0.1, 5: 0.2}.items():
            checkpoints.save(step, VARIABLES, REST, {}, score)
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.steps() == [1, 3, 5]
        assert checkpoints.ranked() == [1, 3, 5]


def test_a_read_that_stumbles_once_costs_nothing(tmp_path, monkeypatch):
    save(tmp_path, {1: 0.5, 2: 0.6})
    read, failures = Checkpoints._read_metadata, iter([OSError(5, "Input/output error")])

    def stumble(self, step):
        for error in failures:
            raise error
        return read(self, step)

    monkeypatch.setattr(Checkpoints, "_read_metadata", stumble)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore_latest(lambda step: (VARIABLES, REST))[0] == 2
        assert not checkpoints.problems


def test_a_step_can_be_saved_again_and_comes_back_if_that_is_cut_short(tmp_path):
    save(tmp_path, {1: None})
    save(tmp_path, {1: 0.5})
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.ranked() == [1]
    (tmp_path / "1").rename(tmp_path / "replaced-1")  # As a process leaves it that dies in between.
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [1]
        assert checkpoints.restore_latest(lambda step: (VARIABLES, REST))[0] == 1


@contextlib.contextmanager
def small_files(folder):
    """Files can hold no more than 100 bytes, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def lost_permission(folder):
    """The folder takes no new files; the superuser, whom modes do not hold, becomes somebody else for a while."""
    folder.chmod(0o555)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
        folder.chmod(0o755)


def settled(folder, *, quiet=0.2):
    """Waits until nobody has written below a folder for a while: Orbax' threads go on after an error is told."""
    seen, since = None, time.monotonic()
    while time.monotonic() - since < quiet:
        now = sorted(map(str, folder.rglob("*")))
        if now != seen:
            seen, since = now, time.monotonic()
        time.sleep(0.02)


@pytest.fixture
def collected():
    """What a failed save leaves behind is told in the test that caused it, not in whichever runs later."""
    yield
    gc.collect()


# Orbax leaves tasks behind that fail, too.
@pytest.mark.usefixtures("collected")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("again", [False, True])  # Whether the step that is refused was there before.
@pytest.mark.parametrize("trouble", [small_files, lost_permission])
def test_what_cannot_be_written_is_told_and_what_was_stays_good(trouble, again):
    folder = Path(tempfile.mkdtemp(dir="/tmp"))  # pytest's own folders are closed to everybody else.
    folder.chmod(0o755)
    try:
        save(folder, {1: 0.5, 2: None} if again else {1: 0.5})
        # Closed before the trouble ends: Orbax' threads go on for a while after the first error.
        with trouble(folder), pytest.raises(UserError) as told:
            save(folder, {2: 0.6})
        assert f"the checkpoint of step 2 cannot be written to {folder}" in str(told.value)
        assert f"Make room, or fix the permissions, and start again; the run goes on from step {2 if again else 1}" in (
            str(told.value)
        )
        assert len(str(told.value).splitlines()) == 2
        settled(folder)
        with Checkpoints(folder) as checkpoints:
            step, variables, _, _ = checkpoints.restore_latest(lambda step: (VARIABLES, REST))
            assert step == (2 if again else 1)
            same(variables, jax.tree.map(lambda x: x + step, VARIABLES))
            checkpoints.save(2, VARIABLES, REST, {}, 0.6)  # The half of one that is left does no harm.
        with Checkpoints(folder, read_only=True) as checkpoints:
            assert checkpoints.steps() == [1, 2]
            assert checkpoints.ranked() == [2, 1]
    finally:
        shutil.rmtree(folder)


def test_a_folder_that_is_a_file_is_told(tmp_path):
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(UserError, match=r"checkpoints cannot be written to .*checkpoints"):
        Checkpoints(tmp_path / "checkpoints")


def test_a_score_that_was_changed_is_damage_too(tmp_path, capsys):
    save(tmp_path / "checkpoints", {1: 0.5, 2: 0.25})
    (path,) = (tmp_path / "checkpoints" / "2" / "host").glob("metadata*")
    path.write_text(path.read_text().replace('"score": 0.25', '"score": 0.75'))
    assert read_best(tmp_path)[0] == 1
    assert "checkpoint 2 cannot be read: the loop's numbers differ" in capsys.readouterr().err
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.restore_latest(lambda step: (VARIABLES, REST))[0] == 1
        assert "checkpoint 2 is damaged" in checkpoints.problems[0]


def test_a_save_that_a_lost_process_broke_is_not_called_a_full_disk(tmp_path, monkeypatch):
    def lost(*_, **__):
        try:
            raise jax.errors.JaxRuntimeError("UNKNOWN: Gloo AllGather failed: Connection closed by peer")
        except jax.errors.JaxRuntimeError as error:
            raise ValueError("save failed") from error

    with Checkpoints(tmp_path) as checkpoints:
        monkeypatch.setattr(processes, "is_multiprocess", lambda: True)
        monkeypatch.setattr(orbax_io, "start_save", lost)
        with pytest.raises(
            UserError, match=r"since another process is gone: .*\nStart all again; the run begins anew"
        ) as told:
            checkpoints.save(1, VARIABLES, REST, {}, None)
        monkeypatch.undo()
    assert processes.status_of(told.value) == processes.PEERS_MISSING


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ("", "ValueError"),
        ("one\ntwo", "one"),
        ("x" * 3000, "x" * 198 + " …"),
        ("y" * 300 + " os_error_code='28'", "No space left on device"),
    ],
)
def test_a_reason_is_one_short_line(message, text):
    assert orbax_io.reason(ValueError(message)) == text


def test_one_that_was_closed_takes_nothing_that_the_next_one_writes(tmp_path, monkeypatch):
    # Orbax' own cleaning up, which it does in a thread: late, as on a busy machine.
    from orbax.checkpoint._src.path import temporary_paths

    clean, delay = temporary_paths.cleanup_temporary_paths, [0.0]

    async def late(*arguments, **options):
        time.sleep(delay[0])
        return await clean(*arguments, **options)

    monkeypatch.setattr(temporary_paths, "cleanup_temporary_paths", late)
    folder = tmp_path / "checkpoints"
    for step in range(1, 9):
        delay[0] = 0.01 * step
        with Checkpoints(folder):
            pass
        delay[0] = 0.0
        save(folder, {step: 0.5})
    (folder / "9.orbax-checkpoint-tmp").mkdir()
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.steps()[-1] == 8
        assert not (folder / "9.orbax-checkpoint-tmp").exists()
