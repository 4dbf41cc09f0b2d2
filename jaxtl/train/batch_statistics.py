"""BatchNorm statistics computed anew: those of other weights, as of their mean, do not fit.

After `update_bn` of stochastic weight averaging (Izmailov et al., 2018, https://arxiv.org/abs/1803.05407).
"""

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from jaxtl.finetune.freezing import force
from jaxtl.trees import Params, flatten, nest

COLLECTION = "batch_stats"


def differing_modules(trees: Iterable[Mapping[str, Params]]) -> set[str]:
    """Returns the paths of the modules whose BatchNorm statistics are not the same in all variables.

    Those that are the same belong to what stayed frozen, and fit its weights, which are the same, too.

    >>> one, other = ({"batch_stats": {"a": {"mean": np.zeros(1)}, "b": {"mean": np.ones(1) * i}}} for i in (0, 1))
    >>> differing_modules([one, other])
    {'b'}
    """
    first, *others = (flatten(tree.get(COLLECTION, {})) for tree in trees)
    return {
        path.rpartition("/")[0]
        for path, leaf in first.items()
        if any(not np.array_equal(np.asarray(leaf), np.asarray(other[path])) for other in others)
    }


def batch_statistics(
    variables: Mapping[str, Any], images: jax.Array, *, model: nn.Module, modules: Collection[str]
) -> dict[str, jax.Array]:
    """Returns the statistics of one batch by path, as those modules see it.

    They normalise with what they find; the others use their running statistics, and dropout is off.

    Args:
      variables: parameters and collections of the model.
      images: [B, H, W, C], as the model takes them.
      model: a Linen module called as model.apply(variables, images, train=True).
      modules: paths of modules below "batch_stats".
    """
    with _statistics_of(modules):
        _, updated = model.apply(variables, images, train=True, mutable=[COLLECTION])
    found = flatten(updated[COLLECTION])
    return {path: leaf for path, leaf in found.items() if path.rpartition("/")[0] in modules}


@contextlib.contextmanager
def _statistics_of(modules: Collection[str]) -> Iterator[None]:
    def intercept(
        call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], context: nn.module.InterceptorContext
    ) -> Any:
        module = context.module
        if context.method_name != "__call__":
            return call(*args, **kwargs)
        if isinstance(module, nn.Dropout):
            kwargs = force(module, kwargs, "deterministic")
        elif isinstance(module, nn.BatchNorm):
            if "/".join(map(str, module.path)) in modules:
                # Running statistics that keep nothing of themselves are those of the batch.
                object.__setattr__(module, "momentum", 0.0)
            else:
                kwargs = force(module, kwargs, "use_running_average")
        return call(*args, **kwargs)

    with nn.intercept_methods(intercept):
        yield


def with_mean_statistics(variables: Mapping[str, Params], of_batches: Iterable[Mapping[str, Any]]) -> dict[str, Params]:
    """Returns the variables with the mean of the statistics of batches, each counting alike.

    Args:
      variables: whose other leaves stay.
      of_batches: what `batch_statistics` gives for batches of one size.
    """
    total: dict[str, np.ndarray] = {}
    count = 0
    for found in of_batches:
        count += 1
        for path, leaf in found.items():
            total[path] = np.asarray(leaf, np.float64) + total.get(path, 0)
    before = flatten(variables)
    new = {f"{COLLECTION}/{path}": np.asarray(summed / count) for path, summed in total.items()}
    return nest({**before, **{path: leaf.astype(before[path].dtype) for path, leaf in new.items()}})
