"""The one evaluator: a compiled step over all batches of a data set."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import optax

from jaxtl.data.dataset import Dataset
from jaxtl.data.loader import Batch
from jaxtl.evaluate.accumulate import Accumulators, Loss, Prepare, accumulate_batches, eval_step
from jaxtl.parallel.partitioner import Partitioner

Variables = Mapping[str, Any]


def _never() -> bool:
    return False


@dataclass(frozen=True)
class Evaluator:
    """Measures variables on data sets with one compiled step.

    Attributes:
      step: (variables, batch), both on the devices -> accumulators.
      partitioner: how batches get to the devices, and accumulators back.
      batches: data set -> this host's rows of its batches, each of the size that the step was compiled for.
    """

    step: Callable[[Any, Any], Accumulators]
    partitioner: Partitioner
    batches: Callable[[Dataset], Iterator[Batch]]

    def __call__(self, variables: Any, dataset: Dataset, stop: Callable[[], bool] = _never) -> dict[str, np.ndarray]:
        """Returns the accumulators of the whole data set, as `accumulate.eval_step` names them.

        Args:
          variables: on the devices.
          dataset: at least one example.
          stop: asked after each batch whether to leave it at that.

        Raises:
          Stopped: `stop` said so.
        """
        return accumulate_batches(
            lambda *arguments: self.partitioner.gather(self.step(*arguments)),
            variables,
            map(self.partitioner.shard_batch, self.batches(dataset)),
            stop=stop,
        )


def compile_evaluator(
    model: Any,
    variables: Any,
    partitioner: Partitioner,
    *,
    batches: Callable[[Dataset], Iterator[Batch]],
    dummy: Batch,
    loss_fn: Loss = optax.softmax_cross_entropy_with_integer_labels,
    prepare: Prepare | None = None,
) -> Evaluator:
    """Compiles the evaluation of a model.

    Args:
      model: called as model.apply(variables, images, train=False).
      variables: on the devices.
      partitioner: of the step.
      batches: data set -> this host's rows of its batches.
      dummy: a batch of this host, of the shapes that `batches` gives.
      loss_fn: (logits [B, C], labels [B]) -> loss of each example [B].
      prepare: batch -> batch, run on the devices before the model (normalisation).
    """
    step = partial(eval_step, model=model, loss_fn=loss_fn, prepare=prepare)
    return Evaluator(partitioner.compile(step, variables, partitioner.shard_batch(dummy)), partitioner, batches)
