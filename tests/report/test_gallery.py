import dataclasses

import numpy as np

from jaxtl.report.confusion import Pair
from jaxtl.report.facts import Classified
from jaxtl.report.gallery import examples_of, least_certain, worst_mistakes

PROBABILITIES = np.array([[0.9, 0.1, 0.0], [0.5, 0.4, 0.1], [0.2, 0.7, 0.1], [0.6, 0.0, 0.4], [0.0, 0.0, 1.0]])
LABELS = np.array([1, 0, 0, 1, 2])
FOUND = Classified(list("abcde"), LABELS, PROBABILITIES.argmax(1), PROBABILITIES)


def test_the_surest_mistake_comes_first():
    assert worst_mistakes(FOUND).tolist() == [0, 2, 3]
    assert worst_mistakes(FOUND, limit=2).tolist() == [0, 2]
    assert worst_mistakes(dataclasses.replace(FOUND, labels=FOUND.predicted)).tolist() == []


def test_the_closest_two_classes_come_first():
    assert least_certain(PROBABILITIES, limit=3).tolist() == [1, 3, 2]
    assert least_certain(PROBABILITIES[:, :2], limit=1).tolist() == [4]


def test_examples_are_of_the_pair_alone():
    assert examples_of(Pair(1, 0, 2, 1.0), FOUND).tolist() == [0, 3]
    assert examples_of(Pair(1, 0, 2, 1.0), FOUND, limit=1).tolist() == [0]
    assert examples_of(Pair(2, 0, 0, 0.0), FOUND).tolist() == []
