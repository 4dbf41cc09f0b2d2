"""The one evaluator: a compiled step over all batches of a data set."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxtl.data.dataset import Dataset
from jaxtl.data.loader import Batch
from jaxtl.evaluate.accumulate import Accumulators, Loss, Prepare, Rows, add_up, eval_step, fetch_batches
from jaxtl.parallel.partitioner import Partitioner

Variables = Mapping[str, Any]
# Steps from variables and a batch, or all batches, to accumulators and rows, or those of each batch.
Step = Callable[..., tuple[Accumulators, Rows]]


def _never() -> bool:
    return False


@dataclass(frozen=True)
class Resident:
    """A data set that stays on the devices, and is measured by one program.

    Attributes:
      dataset: the data set.
      batches: all of them, on the devices.
      step: (variables, batches) -> what the step gives for each batch, stacked; None where there is one batch alone.
    """

    dataset: Dataset
    batches: Sequence[Any]
    step: Step | None


@dataclass(frozen=True)
class Evaluator:
    """Measures variables on data sets with one compiled step.

    Attributes:
      step: (variables, batch), both on the devices -> accumulators, and the rows that they were computed from.
      partitioner: how batches get to the devices, and accumulators back.
      batches: data set -> this host's rows of its batches, each of the size that the step was compiled for.
      resident: a data set whose batches are on the devices already.
    """

    step: Step
    partitioner: Partitioner
    batches: Callable[[Dataset], Iterator[Batch]]
    resident: Resident | None = None

    def __call__(self, variables: Any, dataset: Dataset, stop: Callable[[], bool] = _never) -> dict[str, np.ndarray]:
        """Returns the accumulators of the whole data set, as `accumulate.eval_step` names them.

        Args:
          variables: on the devices.
          dataset: at least one example.
          stop: asked after each batch whether to leave it at that.

        Raises:
          Stopped: `stop` said so.
        """
        # The rows stay on the devices: nobody asks for them.
        return add_up(self._fetch(variables, dataset, stop, lambda result: result[0]))

    def with_logits(
        self, variables: Any, dataset: Dataset, stop: Callable[[], bool] = _never
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Returns the accumulators as a call does, and from the same pass float32 logits [n, C] in the set's order.

        Every process gets the logits of all. Padding is not in them.
        """
        logits: list[np.ndarray] = []

        def accumulators() -> Iterator[Accumulators]:
            for of_batch, rows in self._fetch(variables, dataset, stop, lambda result: result):
                logits.append(np.asarray(rows["logits"])[np.asarray(rows["mask"]) > 0])
                yield of_batch

        total, found = add_up(accumulators()), np.concatenate(logits)
        if len(found) != len(dataset):
            raise ValueError(f"the batches have {len(found)} examples, but the data set has {len(dataset)}")
        return total, found

    def _fetch(
        self, variables: Any, dataset: Dataset, stop: Callable[[], bool], wanted: Callable[[Any], Any]
    ) -> Iterator[Any]:
        """Yields what is wanted of the step's result, for each batch, on the host."""
        gather, there = self.partitioner.gather, self.resident
        if there is None or dataset is not there.dataset:
            batches: Any = map(self.partitioner.shard_batch, self.batches(dataset))
        elif there.step is None:
            batches = there.batches
        else:
            stacked = jax.device_get(gather(wanted(there.step(variables, there.batches))))
            return fetch_batches(lambda _, result: result, variables, _unstacked(stacked), stop=stop)
        return fetch_batches(lambda *given: gather(wanted(self.step(*given))), variables, batches, stop=stop)


def _unstacked(stacked: Any) -> Iterator[Any]:
    for number in range(len(jax.tree.leaves(stacked)[0])):
        yield jax.tree.map(itemgetter(number), stacked)


def _each(
    variables: Any, batches: Sequence[Batch], *, step: Step, axis_name: str | None = None
) -> tuple[Accumulators, Rows]:
    """Returns what the step gives for each batch, stacked: what adds it up is the same as for batches one by one."""
    given = {} if axis_name is None else {"axis_name": axis_name}
    stacked = jax.tree.map(lambda *rows: jnp.stack(rows), *batches)
    return jax.lax.map(lambda batch: step(variables, batch, **given), stacked)


def compile_evaluator(
    model: Any,
    variables: Any,
    partitioner: Partitioner,
    *,
    batches: Callable[[Dataset], Iterator[Batch]],
    dummy: Batch,
    loss_fn: Loss = optax.softmax_cross_entropy_with_integer_labels,
    prepare: Prepare | None = None,
    resident: Dataset | None = None,
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
      resident: a data set whose batches are few and small, to be put on the devices once and measured by one program.
    """
    step = partial(eval_step, model=model, loss_fn=loss_fn, prepare=prepare)
    compiled = partitioner.compile(step, variables, partitioner.shard_batch(dummy))
    if resident is None:
        return Evaluator(compiled, partitioner, batches)
    there = [partitioner.shard_batch(batch) for batch in batches(resident)]
    of_all = partitioner.compile(partial(_each, step=step), variables, there) if len(there) > 1 else None
    return Evaluator(compiled, partitioner, batches, Resident(resident, there, of_all))
