"""Images that cannot be read: told all at once, with what leaves them out."""

import contextlib
from collections.abc import Iterator, Sequence

from jaxtl import data
from jaxtl.errors import UserError


def broken_images(problems: Sequence[str], images: int) -> UserError:
    """Returns the error that names them.

    Args:
      problems: what is wrong with each, which begins with its path.
      images: how many were looked at.
    """
    return UserError(
        f"{len(problems)} of {images:,} images cannot be read:\n"
        + "\n".join(data.first_lines(problems))
        + "\nReplace them; or begin a run with --config.data.skip_broken=true, which leaves them out, and lists them."
    )


@contextlib.contextmanager
def all_named(*datasets: data.Dataset | None, workers: int = 0) -> Iterator[None]:
    """Within, an image that cannot be read ends in an error that names all of them, not the first alone."""
    try:
        yield
    except data.ImageError as error:
        given = [dataset for dataset in datasets if dataset is not None]
        problems = [line for dataset in given for line in data.find_broken(dataset, workers=workers).values()]
        raise broken_images(problems or [str(error)], sum(map(len, given))) from error
