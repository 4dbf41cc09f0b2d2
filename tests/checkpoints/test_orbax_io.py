"""Steps as Orbax writes and reads them: every array comes back bit for bit, and what is broken is an error."""

import os
import shutil
import threading

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

from jaxtl.checkpoints import orbax_io
from jaxtl.checkpoints.retention import Retention
from jaxtl.parallel import processes

VARIABLES = {"params": {"dense": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}}}
REST = {"step": np.int32(3)}


def opened(folder, *, read_only=False, latest=9):
    return orbax_io.open_manager(folder, Retention(lambda step: None, latest=latest, best=0), read_only=read_only)


def save(folder, *steps, variables=VARIABLES, rest=REST, metadata=None, latest=9):
    manager = opened(folder, latest=latest)
    for step in steps:
        orbax_io.start_save(manager, step, variables=variables, rest=rest, metadata=metadata or {})
        orbax_io.wait(manager)
    orbax_io.close(manager)


def read_trees(manager, step, variables=VARIABLES, rest=REST):
    return orbax_io.read_trees(manager, step, rest=rest)


def read_metadata(manager, step):
    return orbax_io.read_metadata(manager.directory / str(step))


@pytest.fixture
def reader(tmp_path):
    """Opens the folder for reading, and closes it after the test."""
    managers = []

    def read(folder=tmp_path):
        managers.append(opened(folder, read_only=True))
        return managers[-1]

    yield read
    for manager in managers:
        orbax_io.close(manager)


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert type(a) in (np.ndarray, *((type(b),) if np.isscalar(b) else ()))
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_every_kind_of_array_comes_back_bit_for_bit(tmp_path, reader):
    odd = np.array([np.nan, -0.0, np.inf, 1e-45], np.float32)
    variables = {
        "params": {
            "float32": odd,
            "bfloat16": odd.astype(ml_dtypes.bfloat16),
            "float16": np.array([65504, -0.0, 6e-8], np.float16),
            "int32": np.array([[-(2**31), 2**31 - 1]], np.int32),
            "uint8": np.arange(256, dtype=np.uint8).reshape(2, 2, 64),
            "bool": np.array([True, False]),
            "one": np.ones((1, 1, 1), np.float32),
        },
        "batch_stats": {"a/b": {"mean": np.zeros(3, np.float32)}},
    }
    rest = {
        "step": jnp.asarray(7, jnp.int32),
        "rng": jax.random.key_data(jax.random.key(5)),
        "opt_state": optax.chain(optax.scale_by_adam(), optax.identity()).init({"w": jnp.ones((2, 2))}),
        "ema": {"params/float32": odd[::-1].copy()},
    }
    save(tmp_path, 1, variables=variables, rest=rest)
    found, others = read_trees(reader(), 1, variables, rest)
    assert_same(found, variables)
    assert_same(others, jax.device_get(rest))
    assert_same(orbax_io.read_variables(reader(), 1), variables)


@pytest.mark.parametrize(
    ("variables", "rest"),
    [
        ({"params": {}}, {"step": np.int32(0)}),
        ({"params": {"w": np.ones(2, np.float32)}, "batch_stats": {}}, {"step": np.int32(0), "scaling": {}}),
        ({"params": {"w": np.ones(2, np.float32)}}, {"opt_state": (optax.EmptyState(), {}), "step": np.int32(0)}),
    ],
    ids=["no parameters", "empty collections", "empty states"],
)
def test_trees_that_are_empty_in_part_come_back(tmp_path, reader, variables, rest):
    save(tmp_path, 1, variables=variables, rest=rest)
    found, others = read_trees(reader(), 1, variables, rest)
    assert_same(found, variables)
    assert_same(others, rest)


def test_arrays_that_lie_on_several_devices_come_back_whole(tmp_path, reader):
    mesh = jax.make_mesh((2,), ("data",))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    variables = {"params": {"w": jax.device_put(np.arange(8.0, dtype=np.float32).reshape(4, 2), rows)}}
    save(tmp_path, 1, variables=variables)
    expected = jax.device_get(variables)
    assert_same(read_trees(reader(), 1, variables)[0], expected)
    assert_same(orbax_io.read_variables(reader(), 1), expected)


def test_metadata_are_json_and_come_back_exactly(tmp_path, reader):
    metadata = {"score": 0.1 + 0.2, "none": None, "loop": {"window": {"loss": 1e-300}, "names": ["ä", "b"]}, "n": 2**53}
    save(tmp_path, 4, metadata=metadata)
    assert read_metadata(reader(), 4) == metadata


def test_so_many_steps_are_kept_as_the_retention_says(tmp_path, reader):
    save(tmp_path, 1, 5, 9, 12, latest=2)
    assert sorted(reader().all_steps()) == [9, 12]
    assert sorted(name for name in os.listdir(tmp_path) if name.isdigit()) == ["12", "9"]


def test_a_half_written_step_is_no_step(tmp_path, reader):
    save(tmp_path, 1)
    # As a process leaves it that is killed while it writes.
    shutil.copytree(tmp_path / "1", tmp_path / "2.orbax-checkpoint-tmp-1234567890")
    assert list(reader().all_steps()) == [1]
    save(tmp_path, 2)
    assert sorted(reader().all_steps()) == [1, 2]


def test_folders_of_other_names_are_no_steps_and_stay(tmp_path, reader):
    save(tmp_path, 1)
    for name in ("replaced-7", "damaged-1", "notes"):
        (tmp_path / name).mkdir()
    save(tmp_path, 2)
    assert sorted(reader().all_steps()) == [1, 2]
    assert {"replaced-7", "damaged-1", "notes"} <= set(os.listdir(tmp_path))


def truncated(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", [truncated, lambda path: path.unlink()], ids=["truncated", "missing"])
@pytest.mark.parametrize("item", ["variables", "rest", "host"])
def test_files_that_are_cut_or_gone_are_an_error_of_one_short_line(tmp_path, reader, item, damage):
    save(tmp_path, 1)
    read = read_metadata if item == "host" else read_trees
    read(reader(), 1)
    for path in (tmp_path / "1" / item).rglob("*"):
        if path.is_file():
            damage(path)
    with pytest.raises(Exception) as told:  # noqa: PT011 - Of which kind depends on who stumbles over it.
        read(reader(), 1)
    line = orbax_io.reason(told.value)
    assert 0 < len(line) <= 200
    assert "\n" not in line


def test_a_step_that_is_not_there_is_an_error(tmp_path, reader):
    save(tmp_path, 1)
    for read in (read_metadata, orbax_io.read_variables):
        with pytest.raises(Exception):  # noqa: B017, PT011
            read(reader(), 2)


def fails(times):
    """Something to read that fails so many times, and a list of its attempts."""
    attempts = []

    def read():
        attempts.append(len(attempts))
        if len(attempts) <= times:
            raise OSError("Input/output error")
        return "read"

    return read, attempts


def test_what_fails_once_is_read_again_and_what_fails_twice_is_not():
    for times, expected in ((0, 1), (1, 2)):
        read, attempts = fails(times)
        assert orbax_io.twice(read) == "read"
        assert len(attempts) == expected
    read, attempts = fails(2)
    with pytest.raises(OSError, match="Input/output"):
        orbax_io.twice(read)
    assert len(attempts) == 2


def test_one_of_several_processes_does_not_read_again_alone(monkeypatch):
    monkeypatch.setattr(processes, "is_multiprocess", lambda: True)
    read, attempts = fails(1)
    with pytest.raises(OSError, match="Input/output"):
        orbax_io.twice(read)
    assert len(attempts) == 1


class Failing:
    """A manager that raises so many errors, one a call, before it closes."""

    def __init__(self, *errors):
        self.errors, self.closed = list(errors), False

    def close(self):
        if self.errors:
            raise self.errors.pop(0)
        self.closed = True


def test_all_is_closed_and_the_first_error_is_told():
    manager = Failing(OSError("first"), ValueError("second"), OSError("third"))
    with pytest.raises(OSError, match="first"):
        orbax_io.close(manager)
    assert manager.closed
    manager = Failing()
    orbax_io.close(manager)
    assert manager.closed


def test_threads_that_still_write_are_waited_for_and_no_others():
    never, done = threading.Event(), []

    def write(seconds):
        never.wait(seconds)
        done.append(seconds)

    other = threading.Thread(target=never.wait, args=(60,), name="jaxtl-other", daemon=True)
    other.start()
    for name, seconds in (("async_save", 0.02), ("save_finalize", 0.1)):
        threading.Thread(target=write, args=(seconds,), name=name).start()
    orbax_io.join_threads()
    assert done == [0.02, 0.1]
    assert other.is_alive()
    never.set()
