"""Whether the features of a frozen prefix are computed once, where they are kept, and why."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Features:
    """What there would be to keep.

    Attributes:
      stop: the last group of the frozen prefix; "" if there is none.
      exact: whether the features of an image are the same each time it is shown.
      blended: whether images are mixed with each other before the model sees them.
      passes: how often each view of an image is shown during the run.
      size: bytes of all features.
    """

    stop: str
    exact: bool
    blended: bool
    passes: float
    size: int


@dataclass(frozen=True)
class Room:
    """Where features may lie: bytes in memory and on disk, and whether they are to lie on disk in any case."""

    memory: int
    disk: int
    on_disk: bool = False


@dataclass(frozen=True)
class Decision:
    """Whether features are cached, where ("memory", "disk" or ""), and why."""

    cache: bool
    where: str
    reason: str


def decide(mode: str, features: Features, room: Room) -> Decision:
    """Decides whether to cache features; `mode` is finetune.cache_features: "auto", "on" or "off"."""
    size = f"{features.size / 2**20:,.1f} MiB of features"
    if mode == "off":
        return Decision(False, "", "finetune.cache_features is off")
    if not features.stop:
        return Decision(False, "", "the first group trains, so nothing comes out the same twice")
    if features.blended:
        return Decision(False, "", "augment.mixup and augment.cutmix blend images, which features cannot follow")
    if mode == "auto" and not features.exact:
        return Decision(
            False,
            "",
            "augmentation shows another view each time (finetune.cache_views=K keeps K views of each image, "
            "finetune.cache_features=on the plain one)",
        )
    if mode == "auto" and features.passes <= 1:
        return Decision(False, "", "each view is shown once at most")
    memory = f"{room.memory / 2**20:,.0f} MiB"
    if not room.on_disk and features.size <= room.memory:
        return Decision(True, "memory", f"{size} fit into memory ({memory}, data.cache_gib)")
    if features.size <= room.disk:
        why = "finetune.cache_dir is set" if room.on_disk else f"{memory} of memory (data.cache_gib) are few"
        return Decision(True, "disk", f"{size} go to disk: {why}")
    free = f"{room.disk / 2**20:,.0f} MiB free to use"
    return Decision(False, "", f"{size} fit neither into memory nor on disk ({free})")
