import re

from jaxtl.train.screen import Screen, duration


def test_lines_for_a_person_hold_what_he_follows(capsys):
    values = {"loss": 0.51234, "accuracy": 0.875, "grad_norm": 3.0, "learning_rate": 0.008, "images_per_second": 52.4}
    with Screen(30, steps_per_epoch=9.5) as screen:
        screen.line(10, "train", values)
        screen.line(30, "val", {"accuracy": 0.9, "loss": 0.25, "precision": 0.5, "f1": 0.8})
    assert capsys.readouterr().out.splitlines() == [
        "epoch 2/4  step 10/30  train  loss 0.5123  accuracy 87.5 %  learning rate 0.008  52 images/s",
        "epoch 4/4  step 30/30  val    loss 0.25  accuracy 90.0 %  F1 80.0 %",
    ]
    with Screen(1000) as screen:
        screen.advance()
        screen.line(1, "train", {"loss": 1.0, "skipped": 2})
    assert re.fullmatch(r"step 1/1000  train  loss 1  2 steps left out  \d+ s left\n", capsys.readouterr().out)


def test_times_for_a_person():
    assert [duration(seconds) for seconds in (0.4, 59.4, 200, 3599.6, 7510)] == [
        "0 s",
        "59 s",
        "3 min 20 s",
        "1 h 0 min",
        "2 h 5 min",
    ]
