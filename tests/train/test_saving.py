"""What a checkpoint need hold once; the way there and back is tested with the loop."""

from jaxtl.train.saving import frozen_in

VARIABLES = {
    "params": {"stem": {"kernel": 1, "bn": {"scale": 2}}, "head": {"kernel": 3, "bias": 4}},
    "batch_stats": {"stem": {"bn": {"mean": 5}}, "head": {"bn": {"mean": 6}}},
    "counters": {"stem": {"calls": 7}},
}


def test_frozen_is_what_no_step_moves_and_known_for_it():
    groups = {"stem/kernel": "frozen", "stem/bn/scale": "frozen", "head/kernel": "head", "head/bias": "frozen"}
    # Statistics move where a parameter of their module does; of other collections nobody knows.
    assert frozen_in(VARIABLES, groups).paths == {
        "params/stem/kernel",
        "params/stem/bn/scale",
        "params/head/bias",
        "batch_stats/stem/bn/mean",
    }
    everything = dict.fromkeys(groups, "all")
    assert frozen_in(VARIABLES, everything).paths == frozenset()
