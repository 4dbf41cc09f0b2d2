"""What is frozen lies beside the checkpoints once, as long as one of them needs it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxtl.checkpoints import orbax_io, writer
from jaxtl.checkpoints.frozen import Frozen
from jaxtl.checkpoints.manager import Checkpoints, read_best
from jaxtl.errors import UserError

BODY = jnp.arange(6.0).reshape(2, 3)
REST = {"step": jnp.zeros((), jnp.int32)}


def variables(step, body=BODY):
    return {"params": {"body": {"kernel": body}, "head": {"kernel": jnp.full(3, float(step))}}}


def body_frozen():
    return Frozen({"params/body/kernel"})


def save(folder, scores, frozen=None, **options):
    with Checkpoints(folder) as checkpoints:
        frozen = frozen or body_frozen()
        for step, score in scores.items():
            checkpoints.save(step, variables(step, **options), REST, {}, score, frozen)


def restore(folder):
    """Returns (step, head, body, problems) of the newest that is whole; its like has other weights."""
    with Checkpoints(folder) as checkpoints:
        step, found, _, _ = checkpoints.restore_latest(lambda _: (variables(0, jnp.zeros((2, 3))), REST))
        params = found["params"]
        return step, params["head"]["kernel"].tolist(), params["body"]["kernel"].tolist(), checkpoints.problems


def files_of(folder):
    return {path: path.stat().st_mtime_ns for path in (folder / "frozen").rglob("*") if path.is_file()}


def flip(folder):
    largest = max(files_of(folder), key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)


def test_it_is_written_once_by_this_process_and_those_that_go_on(tmp_path):
    folder = tmp_path / "checkpoints"
    save(folder, {1: 0.5, 2: 0.9})
    (name,) = [path.name for path in (folder / "frozen").iterdir()]
    before = files_of(folder)
    assert restore(folder) == (2, [2, 2, 2], BODY.tolist(), [])
    with Checkpoints(folder) as checkpoints:
        checkpoints.restore_latest(lambda _: (variables(0), REST))
        checkpoints.save(3, variables(3), REST, {}, 0.1, body_frozen())
    save(folder, {4: 0.2})  # Begun without reading a checkpoint, it looks first whether what is there is whole.
    assert files_of(folder) == before
    for step in (3, 4):
        metadata = orbax_io.read_metadata(folder / str(step))
        assert metadata["frozen"] == name
        assert list(metadata["digests"]["frozen"]) == ["['params']['body']['kernel']"]
        assert list(metadata["digests"]["variables"]) == ["['params']['head']['kernel']"]
    step, best = read_best(tmp_path)
    assert step == 2
    np.testing.assert_array_equal(best["params"]["body"]["kernel"], BODY)


def test_it_stays_while_a_checkpoint_needs_it_and_no_longer(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, variables(1), REST, {}, 0.9, body_frozen())
        later, all_trains = body_frozen(), Frozen()
        for step in (2, 3):  # The next stage: step 1 stays, as the best.
            checkpoints.save(step, variables(step, BODY + 1), REST, {}, 0.1, later)
        for step in (4, 5):
            checkpoints.save(step, variables(step, BODY + step), REST, {}, 0.2, all_trains)
        checkpoints.wait()
        np.testing.assert_array_equal(checkpoints.read_variables(1)["params"]["body"]["kernel"], BODY)
        np.testing.assert_array_equal(checkpoints.read_variables(5)["params"]["body"]["kernel"], BODY + 5)
    needed = orbax_io.read_metadata(tmp_path / "1")["frozen"]
    assert [path.name for path in (tmp_path / "frozen").iterdir()] == [needed]
    (tmp_path / "frozen" / "half.orbax-checkpoint-tmp").mkdir()  # As a process leaves it that dies while it writes.
    (tmp_path / "1" / "host" / "metadata").rename(tmp_path / "metadata")
    with Checkpoints(tmp_path):
        pass
    assert len(list((tmp_path / "frozen").iterdir())) == 2  # Nobody knows what step 1 needs.
    (tmp_path / "metadata").rename(tmp_path / "1" / "host" / "metadata")
    with Checkpoints(tmp_path, read_only=True):
        pass
    assert len(list((tmp_path / "frozen").iterdir())) == 2
    save(tmp_path, {6: 0.95, 7: 0.3}, frozen=all_trains)
    assert not list((tmp_path / "frozen").iterdir())


def test_of_a_stage_that_begins_while_writing_pauses_it_is_written_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "_PAUSE", 1000)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, variables(1), REST, {}, 0.1, Frozen())
        frozen = body_frozen()
        for step in (2, 3, 4, 5):  # Of which 2 and 3 are gone by the time the others are written.
            checkpoints.save(step, variables(step), REST, {}, 0.1 * step, frozen)
    assert restore(tmp_path) == (5, [5, 5, 5], BODY.tolist(), [])


def test_damage_to_it_is_told_by_whoever_reads(tmp_path):
    folder = tmp_path / "checkpoints"
    save(folder, {1: 0.5})
    (name,) = [path.name for path in (folder / "frozen").iterdir()]
    flip(folder)
    told = rf"checkpoint 1 cannot be read: its frozen arrays, in frozen/{name}: .*\nNo checkpoint in .* is whole"
    with pytest.raises(UserError, match=told):
        read_best(tmp_path)
    with pytest.raises(UserError, match=rf"checkpoint 1 is damaged: its frozen arrays, in frozen/{name}: "):
        restore(folder)
    assert (folder / "1").is_dir()  # A person may put the file back.


def test_where_the_run_has_the_same_arrays_it_goes_on_with_them_and_writes_them_again(tmp_path):
    folder = tmp_path / "checkpoints"
    save(folder, {1: 0.5})
    flip(folder)
    with Checkpoints(folder) as checkpoints:
        step, found, _, _ = checkpoints.restore_latest(lambda _: (variables(0), REST))
        assert (step, checkpoints.problems) == (1, [])
        np.testing.assert_array_equal(found["params"]["body"]["kernel"], BODY)
        np.testing.assert_array_equal(found["params"]["head"]["kernel"], [1, 1, 1])
        (told,) = checkpoints.repairs
        assert told.startswith("its frozen arrays, in frozen/")
        assert told.endswith("; the run's weights are the same, and are written again")
        checkpoints.save(2, found, REST, {}, 0.6, body_frozen())
    assert restore(folder) == (2, [1, 1, 1], BODY.tolist(), [])
    assert read_best(tmp_path)[0] == 2


def test_a_run_of_the_layout_before_goes_on(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, variables(1), REST, {}, 0.9)
    save(tmp_path, {2: 0.1})
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        for step in (1, 2):
            found = checkpoints.read_variables(step)["params"]
            np.testing.assert_array_equal(found["body"]["kernel"], BODY)
            np.testing.assert_array_equal(found["head"]["kernel"], np.full(3, step))


def test_arrays_cut_over_devices_come_back_whole(tmp_path):
    mesh = Mesh(np.asarray(jax.devices()[:2]), ("fsdp",))
    save(tmp_path, {1: 0.5}, body=jax.device_put(BODY, NamedSharding(mesh, PartitionSpec("fsdp"))))
    assert restore(tmp_path) == (1, [1, 1, 1], BODY.tolist(), [])


def test_what_cannot_be_written_of_it_is_told_and_the_next_save_writes_it(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    frozen = body_frozen()
    with Checkpoints(tmp_path) as checkpoints:
        with monkeypatch.context() as patch:
            patch.setattr(orbax_io, "write_tree", full)
            checkpoints.save(1, variables(1), REST, {}, 0.5, frozen)
            assert checkpoints.steps() == []
        with pytest.raises(UserError, match=r"checkpoint of step 1 cannot be written .*\n.* begins anew"):
            checkpoints.save(2, variables(2), REST, {}, 0.5, frozen)
        checkpoints.save(3, variables(3), REST, {}, 0.5, frozen)
    assert restore(tmp_path) == (3, [3, 3, 3], BODY.tolist(), [])
