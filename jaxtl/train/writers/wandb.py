"""Lines, pictures and histograms for Weights & Biases."""

import uuid
from collections.abc import Mapping

import numpy as np

from jaxtl.train.writers.base import Run

# Seconds to wait for the server before the run begins.
_TIMEOUT = 30.0


class WandB:
    """Writes one run of Weights & Biases; where it goes, and as whom, `wandb login` and $WANDB_MODE say.

    Steps that are taken again are written again. Their values are the same to the bit, so curves do not change; that
    is why "step" is a metric of its own: W&B's own count must never fall.
    """

    def __init__(self, run: Run):
        """Begins the run, or goes on with the one of its id; raises what W&B raises, where it cannot."""
        import wandb

        self._wandb, self.id = wandb, run.ids.get("wandb") or uuid.uuid4().hex[:12]
        self._run = wandb.init(
            project=run.project,
            name=run.name,
            id=self.id,
            resume="allow",
            dir=run.workdir,
            config=dict(run.config),
            # The screen is the run's own.
            settings=wandb.Settings(console="off", silent=True, init_timeout=_TIMEOUT),
        )
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        offline = self._run.settings.mode == "offline"
        folder = self._run.settings.sync_dir
        self.place = f"offline; to send it: wandb sync {folder}" if offline else self._run.url or self.id

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Writes one point of each curve."""
        self._run.log({**values, "step": step})

    def image(self, name: str, pixels: np.ndarray, step: int) -> None:
        """Writes a picture, uint8 [H, W, 3]."""
        self._run.log({name: self._wandb.Image(pixels), "step": step})

    def histogram(self, name: str, values: np.ndarray, step: int) -> None:
        """Writes a histogram of values [n]."""
        self._run.log({name: self._wandb.Histogram(values), "step": step})

    def close(self, *, hurry: bool = False) -> None:
        """Sends what is left."""
        self._run.finish(exit_code=int(hurry))
