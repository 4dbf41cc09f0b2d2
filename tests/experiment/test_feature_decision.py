import pytest

from jaxtl.experiment.feature_decision import Decision, Features, Room, decide

MIB = 2**20
FEATURES = {"stop": "block1", "exact": True, "blended": False, "passes": 5.0, "size": 3 * MIB}
ROOM = {"memory": 4 * MIB, "disk": 8 * MIB}


@pytest.mark.parametrize(
    ("mode", "features", "room", "expected"),
    [
        ("auto", {}, {}, (True, "memory", "3.0 MiB of features fit into memory (4 MiB, data.cache_gib)")),
        ("on", {}, {}, (True, "memory", "3.0 MiB of features fit into memory (4 MiB, data.cache_gib)")),
        ("off", {}, {}, (False, "", "finetune.cache_features is off")),
        ("on", {"stop": ""}, {}, (False, "", "the first group trains, so nothing comes out the same twice")),
        ("auto", {"passes": 1.0}, {}, (False, "", "each view is shown once at most")),
        ("on", {"passes": 1.0}, {}, (True, "memory", "3.0 MiB of features fit into memory (4 MiB, data.cache_gib)")),
        (
            "auto",
            {},
            {"on_disk": True},
            (True, "disk", "3.0 MiB of features go to disk: finetune.cache_dir is set"),
        ),
        (
            "auto",
            {"size": 5 * MIB},
            {},
            (True, "disk", "5.0 MiB of features go to disk: 4 MiB of memory (data.cache_gib) are few"),
        ),
        (
            "on",
            {"size": 9 * MIB},
            {},
            (False, "", "9.0 MiB of features fit neither into memory nor on disk (8 MiB free to use)"),
        ),
    ],
)
def test_where_features_go_and_why(mode, features, room, expected):
    assert decide(mode, Features(**FEATURES | features), Room(**ROOM | room)) == Decision(*expected)


def test_views_that_change_are_cached_only_if_that_is_asked_for():
    changing = Features(**FEATURES | {"exact": False})
    assert not decide("auto", changing, Room(**ROOM)).cache
    assert "finetune.cache_views=K" in decide("auto", changing, Room(**ROOM)).reason
    assert decide("on", changing, Room(**ROOM)).cache


def test_blended_images_are_never_cached():
    for mode in ("auto", "on"):
        decision = decide(mode, Features(**FEATURES | {"blended": True}), Room(**ROOM))
        assert (decision.cache, decision.where) == (False, "")
        assert "augment.mixup" in decision.reason
