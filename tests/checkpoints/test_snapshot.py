import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxtl.checkpoints import snapshot
from jaxtl.checkpoints.snapshot import bytes_by_device, copied, has_room

BOTH = Mesh(np.asarray(jax.devices()[:2]), ("data",))
WHOLE, ROWS = NamedSharding(BOTH, PartitionSpec()), NamedSharding(BOTH, PartitionSpec("data"))


def state():
    return {
        "whole": jax.device_put(jnp.arange(6.0).reshape(2, 3), WHOLE),
        "rows": jax.device_put(jnp.arange(4, dtype=jnp.bfloat16), ROWS),
        "host": np.array([1.5, 2.5]),
    }


def test_a_copy_keeps_values_types_and_places():
    before = state()
    after = copied(before)
    for key in ("whole", "rows"):
        assert after[key].sharding == before[key].sharding
        assert after[key].dtype == before[key].dtype
    assert after["host"].dtype == np.float64
    jax.tree.map(np.testing.assert_array_equal, after, before)


def test_a_copy_outlives_what_happens_to_the_original():
    before = state()
    after = copied(before)
    before["host"][:] = 0
    overwrite = jax.jit(lambda x: x * 0, donate_argnums=0)
    overwrite(before["whole"]), overwrite(before["rows"])
    assert before["whole"].is_deleted()
    np.testing.assert_array_equal(after["whole"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(after["rows"].astype(jnp.float32), [0, 1, 2, 3])
    np.testing.assert_array_equal(after["host"], [1.5, 2.5])


def test_what_a_copy_takes_on_each_device():
    first, second = jax.devices()[:2]
    alone = jax.device_put(jnp.zeros(5), second)
    assert bytes_by_device([*jax.tree.leaves(state()), alone]) == {first: 24 + 4, second: 24 + 4 + 20}


@pytest.mark.parametrize(
    ("needed", "stats", "fits"),
    [
        (10**12, None, True),  # A CPU tells nothing of its memory.
        (10**12, {"bytes_in_use": 5}, True),
        (54, {"bytes_limit": 100, "bytes_in_use": 40}, True),
        (55, {"bytes_limit": 100, "bytes_in_use": 40}, False),
        # The next step will take as much as the steps before.
        (54, {"bytes_limit": 100, "bytes_in_use": 10, "peak_bytes_in_use": 40}, True),
        (55, {"bytes_limit": 100, "bytes_in_use": 10, "peak_bytes_in_use": 40}, False),
    ],
)
def test_room_is_what_the_steps_never_took(needed, stats, fits):
    assert has_room(needed, stats) is fits


def test_without_room_there_is_no_copy(monkeypatch):
    monkeypatch.setattr(snapshot, "has_room", lambda needed, stats: needed < 28)
    assert copied(state()) is None
    monkeypatch.setattr(snapshot, "has_room", lambda needed, stats: needed <= 28)
    assert copied(state()) is not None
