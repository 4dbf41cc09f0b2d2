"""Lines, pictures and quantiles for MLflow."""

import logging
import os
import time
from collections.abc import Mapping

import numpy as np

from jaxtl.train.writers.base import Run

# MLflow would wait for a server for many minutes: so many tries, and seconds for each.
_LIMITS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
# So many parameters fit into one request.
_PARAMS = 100
_QUANTILES = {"lowest": 0.0, "median": 0.5, "highest": 1.0}


class MLflow:
    """Writes one run of MLflow, into the store that $MLFLOW_TRACKING_URI says.

    Steps that are taken again are written again, with values that are the same to the bit.
    """

    def __init__(self, run: Run):
        """Begins the run, or goes on with the one of its id; raises what MLflow raises, where it cannot."""
        for name, value in _LIMITS.items():
            os.environ.setdefault(name, value)
        import mlflow
        from mlflow.entities import Metric, Param
        from mlflow.tracking import MlflowClient

        # Importing MLflow sets levels of its own. Of a new file it would tell each migration.
        for name in ("alembic", "mlflow"):
            logging.getLogger(name).setLevel(logging.WARNING)
        self._metric, self._client = Metric, MlflowClient()
        if "mlflow" in run.ids:
            self.id = run.ids["mlflow"]
            self._client.update_run(self.id, status="RUNNING")
        else:
            found = self._client.get_experiment_by_name(run.project)
            experiment = found.experiment_id if found else self._client.create_experiment(run.project)
            self.id = self._client.create_run(experiment, run_name=run.name).info.run_id
            params = [Param(key, str(value)) for key, value in run.config.items()]
            for start in range(0, len(params), _PARAMS):
                self._client.log_batch(self.id, params=params[start : start + _PARAMS])
        self.place = f"run {self.id} in {mlflow.get_tracking_uri()}"

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Writes one point of each curve."""
        now = int(1000 * time.time())
        self._client.log_batch(self.id, metrics=[self._metric(name, x, now, step) for name, x in values.items()])

    def image(self, name: str, pixels: np.ndarray, step: int) -> None:
        """Writes a picture, uint8 [H, W, 3]."""
        self._client.log_image(self.id, pixels, key=name, step=step)

    def histogram(self, name: str, values: np.ndarray, step: int) -> None:
        """Writes the lowest, the median and the highest of values [n]: MLflow has no histograms."""
        self.scalars({f"{name}/{word}": float(np.quantile(values, at)) for word, at in _QUANTILES.items()}, step)

    def close(self, *, hurry: bool = False) -> None:
        """Says that the run is over, or was cut short."""
        self._client.set_terminated(self.id, status="KILLED" if hurry else "FINISHED")
