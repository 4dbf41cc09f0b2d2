"""The embedded data set "petals": drawn flowers, 64x64, as a TFDS builder that needs neither network nor TensorFlow.

Importing this module makes the names known to TFDS:

    builder = tfds.builder("petals/transfer", data_dir=..., file_format="array_record")
    builder.download_and_prepare()
    source = builder.as_data_source(split="train")

Config "pretrain" has 49 species with many pictures each, config "transfer" has 12 others with few pictures each. The
pictures depend on the species, the split and their number only, so a set prepared twice has the same bytes.
"""

import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from jaxtl.data.sources import petals_render as render

_SEED = 20_26


def _species(colour: int, shape: int, shift: int) -> render.Species:
    # Rows of an orthogonal array over the integers modulo 7: two species of the same shift share one trait at most, so
    # no single trait tells many of them apart, and other shifts give other species.
    return render.Species(
        colour=list(render.COLOURS)[colour],
        shape=list(render.SHAPES)[shape],
        count=render.COUNTS[(colour + shape + shift) % 7],
        pattern=list(render.PATTERNS)[(colour + 2 * shape + shift) % 7],
        centre=list(render.CENTRES)[(colour + 3 * shape + shift) % 7],
    )


PRETRAIN = tuple(_species(colour, shape, shift=0) for colour in range(7) for shape in range(7))
# Three species to each of four colours: colour alone gives one answer in three.
TRANSFER = tuple(_species(colour, shape, shift=3) for colour in (0, 1, 4, 5) for shape in (0, 2, 3))


@dataclass
class PetalsConfig(tfds.core.BuilderConfig):
    """A set of species and the number of pictures of each species in each split."""

    species: tuple[render.Species, ...] = ()
    train: int = 0
    validation: int = 0
    test: int = 0


class Petals(tfds.core.GeneratorBasedBuilder):
    """Flowers drawn with numpy; see the module's docstring."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS: ClassVar[list[PetalsConfig]] = [
        PetalsConfig(
            name="pretrain",
            description="49 species to pretrain a small network on.",
            species=PRETRAIN,
            train=600,
            validation=20,
            test=20,
        ),
        PetalsConfig(
            name="transfer",
            description="12 other species with few pictures each, to transfer to.",
            species=TRANSFER,
            train=24,
            validation=10,
            test=50,
        ),
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Drawn flowers: species differ in colour, petal shape, petal count, pattern and centre.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(render.SIDE, render.SIDE, 3), encoding_format="png"),
                    "label": tfds.features.ClassLabel(names=[species.name for species in self.builder_config.species]),
                }
            ),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        del dl_manager  # Nothing is downloaded.
        config = self.builder_config
        return {
            split: self._generate_examples(split, getattr(config, split)) for split in ("train", "validation", "test")
        }

    def _generate_examples(self, split: str, per_species: int) -> Iterator[tuple[str, dict]]:
        for species in self.builder_config.species:
            for number in range(per_species):
                # TFDS encodes arrays with TensorFlow, but takes an encoded file as it is.
                png = io.BytesIO()
                Image.fromarray(picture(species, split, number)).save(png, format="png")
                yield f"{species.name}_{number:04d}", {"image": png.getvalue(), "label": species.name}


def picture(species: render.Species, split: str, number: int) -> np.ndarray:
    """Returns picture `number` of a species in a split, uint8 [64, 64, 3], always the same."""
    return render.draw(species, np.random.default_rng([_SEED, zlib.crc32(f"{species.name}/{split}".encode()), number]))
