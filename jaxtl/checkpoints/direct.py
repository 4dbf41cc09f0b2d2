"""The best variables of a run read by tensorstore alone: Orbax takes half a second to import, and as long to begin.

It knows the layout that Orbax writes (OCDBT and zarr), and trusts nothing: each array is held to its SHA-256. Where
anything is otherwise than it knows, `read_best` of `manager` reads instead, and says what is wrong.
"""

import json
from pathlib import Path
from typing import Any

from jaxtl.checkpoints.digests import digest_json, verify
from jaxtl.checkpoints.folders import steps_in
from jaxtl.checkpoints.retention import ranked
from jaxtl.parallel import processes
from jaxtl.trees import Tree, flatten, nest


def read_best(workdir: Path) -> tuple[int, Tree]:
    """Returns (step, variables as numpy arrays) of the best checkpoint of a run, as `manager.read_best` does.

    Raises:
      UserError: the folder holds no checkpoint, or none that is whole.
    """
    if not processes.is_multiprocess():
        try:
            return _read_best(workdir / "checkpoints")
        # Orbax has formats and errors of many kinds; each means: not as it is known here.
        except Exception:
            pass
    from jaxtl.checkpoints import manager

    return manager.read_best(workdir)


def _read_best(folder: Path) -> tuple[int, Tree]:
    """Reads the step with the highest score; any error means that a whole one is not where it is looked for."""
    metadata = {step: _metadata(folder / str(step)) for step in steps_in(folder)}
    step = ranked({step: found["score"] for step, found in metadata.items()})[0]
    known, frozen = metadata[step]["digests"], metadata[step].get("frozen")
    variables = _read_tree(folder / str(step) / "variables")
    verify(variables, known["variables"])
    if frozen:
        others = _read_tree(folder / "frozen" / frozen)
        verify(others, known["frozen"])
        variables = nest({**flatten(variables), **flatten(others)})
    return step, variables


def _metadata(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "host" / "metadata").read_text())
    if digest_json({key: found[key] for key in found if key != "sha256"}) != found["sha256"]:
        raise ValueError("the loop's numbers differ from what was saved")
    return found


def _read_tree(folder: Path) -> Tree:
    """Returns the arrays of one item in nested dicts; all are read at once."""
    import tensorstore

    listed = json.loads((folder / "_METADATA").read_text())
    driver = "zarr3" if listed.get("use_zarr3") else "zarr"
    context = tensorstore.Context()
    opened = {}
    for entry in listed["tree_metadata"].values():
        keys = [str(key["key"]) for key in entry["key_metadata"]]
        store = {"driver": "ocdbt", "base": f"file://{folder.absolute()}/", "path": ".".join(keys) + "/"}
        spec = {"driver": driver, "kvstore": store}
        opened["/".join(keys)] = tensorstore.open(spec, open=True, read=True, context=context)
    reading = {path: each.result().read() for path, each in opened.items()}
    return nest({path: each.result() for path, each in reading.items()})
