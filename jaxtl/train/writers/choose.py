"""The writers by their names: which there are, what they need, and how they are opened."""

import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence

from jaxtl.errors import UserError, writing
from jaxtl.train.writers.background import InBackground, first_line
from jaxtl.train.writers.base import Run, Writer
from jaxtl.train.writers.mlflow import MLflow
from jaxtl.train.writers.tensorboard import TensorBoard
from jaxtl.train.writers.wandb import WandB

Remote = WandB | MLflow
# Those that may need a network: what they are made of, the packages that they import, and what helps if they fail.
_REMOTE: Mapping[str, tuple[Callable[[Run], Remote], tuple[str, ...], str]] = {
    "wandb": (WandB, ("wandb",), "run `wandb login`, or set WANDB_MODE=offline and send the run later"),
    "mlflow": (
        MLflow,
        ("mlflow", "sqlalchemy", "alembic"),
        "set MLFLOW_TRACKING_URI to a server that answers, or to a file, as in sqlite:////home/me/mlflow.db",
    ),
}
NAMES = ("tensorboard", *_REMOTE)


def parse_names(text: str) -> list[str]:
    """Returns the names in a list with commas, each once.

    >>> parse_names("tensorboard, wandb")
    ['tensorboard', 'wandb']
    """
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def check_installed(names: Sequence[str]) -> None:
    """Raises a UserError if packages that writers need are not installed; imports none of them."""
    problems = []
    for name in names:
        needed = _REMOTE[name][1] if name in _REMOTE else ()
        if missing := [package for package in needed if importlib.util.find_spec(package) is None]:
            verb = "is" if len(missing) == 1 else "are"
            what = f"{' and '.join(missing)} {verb} not installed"
            problems.append(f"nothing can be written to {name}, since {what}: pip install 'jaxtl[{name}]'.")
    if problems:
        raise UserError("\n".join(problems), arguments=("to",))


def open_writers(names: Sequence[str], run: Run, *, begun: bool) -> tuple[list[Writer], dict[str, str]]:
    """Opens writers, and says where what they write can be seen.

    Args:
      names: of `NAMES`.
      run: what they are told.
      begun: whether the run has been going before: what cannot be opened then is noted, and left out.

    Returns:
      The writers, and what those that may need a network call the run, by their names.

    Raises:
      UserError: a file cannot be written, or of a run that only begins, a server cannot be reached or wants a login.
    """
    writers: list[Writer] = []
    ids = dict(run.ids)
    for name in names:
        if name == "tensorboard":
            folder = run.workdir / "events"
            with writing(folder):
                writers.append(TensorBoard(folder, from_step=run.from_step))
            continue
        make, _, remedy = _REMOTE[name]
        try:
            writer = make(run)
        # Whatever such a program raises: a run that goes on shall do so without it.
        except Exception as error:
            problem = f"{name} cannot be written to: {first_line(error)}"
            if not begun:
                for opened in writers:
                    opened.close(hurry=True)
                raise UserError(f"{problem}; {remedy}.", arguments=("to",)) from error
            print(f"note: {problem}; the run goes on without it", file=sys.stderr)
            continue
        ids[name] = writer.id
        print(f"{name:<9} {writer.place}")
        writers.append(InBackground(writer, name))
    return writers, ids
