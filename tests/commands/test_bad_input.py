"""Each mistake ends with one or two lines that name it, exit status 1 (2 for wrong usage), and no traceback."""

import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
from safetensors.numpy import save_file


def check(result, *fragments, status=1):
    code, _, err = result
    assert code == status, err
    assert "Traceback" not in err
    for fragment in fragments:
        assert fragment in err
    return err


def test_unknown_key_names_the_nearest(train):
    err = check(train("--config.optimizer.lr=1", "--config.train.epoch=2"), "config.optimizer.learning_rate")
    assert "config.train.epochs" in err


def test_all_problems_of_a_config_at_once(train):
    check(
        train(
            "--config.model.name=vit_b17",
            "--config.optimizer.learning_rate=-1",
            "--config.train.batch_size=0",
            "--config.optimizer.schedule=cosin",
            "--config.finetune.layer_decay=0",
        ),
        "did you mean 'vit_b16'",
        "optimizer.learning_rate is -1.0, but it must be positive",
        "train.batch_size is 0",
        "'cosine', 'linear', 'constant', 'step'",
        "finetune.layer_decay",
    )


@pytest.mark.parametrize(
    ("flag", "fragment"),
    [
        (
            "--config.train.batch_size=many",
            "config.train.batch_size is 'many', but it must be a whole number, such as 32",
        ),
        ("--config.log.to=tensorbord", "names with commas of: tensorboard, wandb, mlflow, or ''"),
        ("--config.train.steps=0 --config.train.epochs=0", "give one of them"),
        ("--config.train.epochs=3 --config.train.steps=3", "give one of them"),
        ("--config.optimizer.warmup_steps=12", "the run has 12 steps"),
        ("--config.optimizer.name=adam --config.optimizer.weight_decay=0.1", 'use "adamw"'),
        ("--config.train.accumulate=3", "no multiple of train.accumulate"),
        ("--config.train.batch_size=7", "cannot be shared out evenly over 2 devices: give a multiple of 2, such as 8"),
        (
            "--config.train.mesh={'data':3}",
            "must be the number of devices, 2: give {'data': -1, 'fsdp': k}",
        ),
        ("--config.train.mesh={'fsdp':4}", "must be the number of devices, 2"),
        ("--config.train.mesh={'model':2}", "a dict with 'data' and 'fsdp'"),
        ("--config.train.parallel=pmap --config.train.mesh={'fsdp':2}", '"pmap" cannot shard the state: give "jit"'),
        ("--config.train.parallel=tpu", "one of: 'jit', 'pmap'"),
        ("--config.train.parallel=pmap --config.train.accumulate=8", "give a multiple of 16"),
        ("--config.train.sampling=root", "train.sampling is 'root', but it must be one of: '', 'balanced', 'sqrt'."),
        (
            "--config.train.sampling=sqrt --config.train.class_weights=balanced",
            'train.sampling and train.class_weights "balanced" would both favour rare classes: give one of them.',
        ),
        ("--config.train.precision=float8", "'float32', 'bfloat16', 'float16'"),
        ("--config.model.attention=flash", "model.attention is 'flash', but it must be one of: 'auto', 'cudnn', "),
        (
            "--config.model.name=resnet20_cifar --config.model.attention=xla",
            "model 'resnet20_cifar' has no attention; leave it at auto.\n(set with --config.model.attention)",
        ),
        ("--config.finetune.unfreeze=blok1", "The groups are: embed block0 block1 head"),
        ("--config.finetune.lr_multipliers={'x.*':1}", "'x.*' fits no group"),
        ("--config.data.source=flowers", "tfds:NAME, folder:DIR, csv:FILE, jsonl:FILE, npz:FILE"),
        ("--config.data.train=trian", "has no split 'trian'"),
        ("--config.data.train=train[50%:50%]", "is empty"),
        ("--config.data.val=train[:10%]", "train"),
    ],
)
def test_wrong_values(train, flag, fragment):
    check(train(*flag.split()), fragment)


@pytest.mark.slow
def test_a_rule_that_cuts_one_block_of_a_stack_only(train):
    flags = ("--config.model.name=vit_petals:depth=4,width=16,heads=2,patch=8", "--config.model.scan=True")
    rules = "--config.train.sharding={'params/block1/mlp/fc1/kernel':('fsdp',)}"
    check(train(*flags, rules), "shard params/block0/mlp/fc1/kernel and params/block1/mlp/fc1/kernel in different ways")


def test_missing_weight_file(train, tmp_path):
    check(train(f"--config.model.weights={tmp_path / 'none.safetensors'}"), "none.safetensors")


def test_weights_of_another_architecture_list_all_misfits(train, tmp_path):
    blocks = {"cls_token": np.zeros((1, 1, 16)), "pos_embed": np.zeros((1, 5, 16))}
    save_file({name: array.astype(np.float32) for name, array in blocks.items()}, tmp_path / "other.safetensors")
    err = check(train(f"--config.model.weights={tmp_path / 'other.safetensors'}"))
    assert len(err) < 2000


def test_a_pickle_that_is_more_than_tensors_is_not_run(train, tmp_path):
    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    (tmp_path / "model.pth").write_bytes(pickle.dumps(Payload()))
    check(train(f"--config.model.weights={tmp_path / 'model.pth'}"), "model.pth")
    assert not (tmp_path / "executed").exists()


def test_empty_folder(train, tmp_path):
    (tmp_path / "empty").mkdir()
    check(train(source=f"folder:{tmp_path / 'empty'}"), "empty")


def test_a_class_without_images(train, pictures):
    (pictures / "train" / "yellow").mkdir()
    check(train(), "yellow")


def test_one_class_only(train, pictures):
    for split in ("train", "test"):
        for name in ("red", "green"):
            shutil.rmtree(pictures / split / name)
    check(train(), "one class only, blue")


@pytest.mark.parametrize("broken", [b"no image", b""])
def test_a_corrupt_image_is_named_before_the_first_step(train, pictures, tmp_path, broken):
    (pictures / "train" / "red" / "007.png").write_bytes(broken)
    check(train(), "007.png")
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_truncated_image_is_named_before_the_first_step(train, pictures):
    path = pictures / "test" / "blue" / "103.png"
    path.write_bytes(path.read_bytes()[:-400])
    check(train(), "103.png")


def test_all_corrupt_images_are_told_at_once_by_their_paths_and_can_be_left_out(train, pictures, tmp_path):
    for path in ("train/red/002.png", "train/blue/004.png", "test/green/101.png"):
        (pictures / path).write_bytes(b"no image")
    err = check(train(), "3 of 78 images cannot be read:", "--config.data.skip_broken=true, which leaves them out")
    lines = [line.partition(" is no image")[0] for line in err.splitlines()[1:4]]
    paths = ("train/red/002.png", "train/blue/004.png", "test/green/101.png")
    assert sorted(lines) == sorted(str(pictures / path) for path in paths)


@pytest.mark.slow
def test_corrupt_images_are_left_out_where_that_is_asked_for(train, pictures):
    for path in ("train/red/002.png", "test/green/101.png"):
        (pictures / path).write_bytes(b"no image")
    status, out, err = train("--config.data.skip_broken=true", "--config.train.steps=2")
    assert (status, err) == (0, "")
    assert "2 images cannot be read, and are left out:\n" in out
    assert f"  {pictures}/test/green/101.png is no image that Pillow reads" in out


def test_workdir_that_cannot_be_written(train, tmp_path):
    (tmp_path / "file").write_text("")
    check(train(workdir="file"), "--workdir", "give another folder")
    check(train(workdir="file/below"), "--workdir", "give another folder")


def test_missing_config_file(jaxtl):
    check(jaxtl("train", "--config=nothing.py", "--workdir=w"), "there is no file nothing.py")


def test_unknown_variant(jaxtl, request):
    config = request.config.rootpath / "configs" / "vit_flowers.py"
    check(jaxtl("train", f"--config={config}:b64", "--workdir=w"), "has no variant 'b64'", "'demo'")


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["trian"], "there is no command trian; did you mean train?"),
        (["flowers"], "there is no command flowers. The commands are: train, eval,"),
        ([], "--workdir"),
        (["--config=x.py"], "--workdir"),
        (["--config=x", "--workdir=w", "--lr=1"], "--lr=1"),
        (["--config=x", "--workdir=w", "--workdir", "v"], "--workdir is given twice"),
        (
            ["--config=x", "--workdir=w", "--config.train.seed=1", "--config.train.seed=1"],
            "--config.train.seed is given",
        ),
        (["bench", "--config=x", "--workdir=w", "--steps=3", "--steps=4"], "--steps is given twice"),
    ],
)
def test_wrong_usage_has_status_2(jaxtl, arguments, fragment):
    check(jaxtl(*arguments), "usage:", fragment, status=2)


def test_without_a_config_there_must_be_data(jaxtl):
    fragments = ("there are no data: give a recipe or a config", "--config.data.source=folder:DIR")
    check(jaxtl("train", "--workdir=w"), *fragments)


def test_predict_and_export_need_a_run(jaxtl, tmp_path):
    for command in ("predict", "explain"):
        check(jaxtl(command, f"--workdir={tmp_path}", "a.png"), "give the --workdir of a run")
    both = jaxtl("export", f"--workdir={tmp_path}", "--output=a.bin")
    check(both, "give the --workdir of a run", "--output=a.bin must end in .safetensors")


@pytest.mark.parametrize(
    ("location", "fragment"),
    [
        ("none.safetensors", "no weight file 'none.safetensors'"),
        ("run:none", "run:none is no run"),
        ("hf:org/none", "hf:org/none: model.safetensors is not in the cache"),
        ("https://127.0.0.1:1/none.npz", "none.npz is not in the cache"),
    ],
)
def test_describe_refuses_missing_weights_as_train_does(
    jaxtl, train, config_file, tmp_path, monkeypatch, location, fragment
):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    flag = f"--config.model.weights={location}"
    described = jaxtl("describe", f"--config={config_file}", "--config.data.source=folder:nowhere", flag)
    err = check(described, fragment, '--config.model.weights=""')
    assert check(train(flag), fragment).splitlines()[0] == err.splitlines()[0]


@pytest.mark.slow
def test_the_real_process_exits_with_1_and_no_traceback(tmp_path):
    command = [sys.executable, "-m", "jaxtl.main", "--config=nothing.py", f"--workdir={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr == (
        "error: --config=nothing.py: there is no file nothing.py, and no such recipe comes with jaxtl. "
        "`jaxtl configs` lists them.\n"
    )


@pytest.mark.slow
def test_a_reader_that_has_seen_enough_gets_no_traceback(tmp_path):
    command = f"{sys.executable} -m jaxtl.main describe --config=configs/vit_flowers.py:demo --leaves | head -n 1"
    shell = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert shell.stdout.startswith("weights")
    assert "Traceback" not in shell.stderr
    assert "BrokenPipe" not in shell.stderr


def test_a_run_that_never_began_leaves_no_folder(train, tmp_path):
    flags = ("--config.augment.crop=resize_crop", "--config.augment.resize=4")
    check(train(*flags, workdir="new/run"), "augment.resize is 4, but the crop is 16 pixels")
    assert not (tmp_path / "new").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("")
    check(train(*flags, workdir="mine"), "augment.resize is 4")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]
