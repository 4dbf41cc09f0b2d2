import re
from pathlib import Path

import pytest

from jaxtl import recipes
from jaxtl.errors import UserError

CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(text, name="mine"):
    Path("configs").mkdir(exist_ok=True)
    path = Path("configs") / f"{name}.py"
    path.write_text(text)
    return path


def test_a_name_is_a_file_of_configs_else_a_recipe_of_jaxtl():
    assert recipes.locate("lp_ft") == recipes.Located(CONFIGS / "lp_ft.py", "")
    own = write("", "lp_ft")
    assert recipes.locate("lp_ft:x") == recipes.Located(own, "x")


def test_a_path_that_is_not_there_is_the_recipe_of_that_name_and_says_so():
    found = recipes.locate("configs/vit_flowers.py:ti16")
    assert (found.path, found.variant) == (CONFIGS / "vit_flowers.py", "ti16")
    assert found.note == (
        "note: there is no file configs/vit_flowers.py here; taken is the one that comes with jaxtl, "
        f"{CONFIGS / 'vit_flowers.py'}"
    )
    own = write("", "vit_flowers")
    assert recipes.locate("configs/vit_flowers.py:ti16") == recipes.Located(own, "ti16")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("vit_flower", "there is no file vit_flower, and no such recipe comes with jaxtl; did you mean vit_flowers?"),
        (
            "a/b.py:c",
            "--config=a/b.py:c: there is no file a/b.py, and no such recipe comes with jaxtl. `jaxtl configs`",
        ),
        ("lp_ft.txt", "there is no file lp_ft.txt"),
        ("", "there is no file"),
    ],
)
def test_what_is_not_found_is_an_error(given, message):
    with pytest.raises(UserError, match=re.escape(message)):
        recipes.locate(given)


def test_what_a_recipe_says_of_itself_is_read_without_running_it():
    path = write('"""Mine.\n\nMore.\n"""\nVARIANTS = {"": 1, "big": 2}\nraise SystemExit\n')
    assert recipes.read(path) == recipes.Recipe(path, "Mine.\n\nMore.", ("", "big"))
    assert recipes.read(write("def f(:", "broken")).docstring.startswith("It cannot be read: ")
    assert [recipe.name for recipe in recipes.every()][:3] == ["broken", "mine", "cifar100"]


def test_a_copy_replaces_nothing():
    assert recipes.copy("vit_flowers:ti16").read_text() == (CONFIGS / "vit_flowers.py").read_text()
    with pytest.raises(UserError, match=r"configs/vit_flowers.py is there already, and stays as it is"):
        recipes.copy("vit_flowers")
    with pytest.raises(UserError, match=r"no recipe lpft comes with jaxtl; did you mean lp_ft\? They are: cifar100, "):
        recipes.copy("lpft")


def test_a_file_may_have_no_variants():
    path = write("def get_config():\n    return 3\n")
    assert recipes.run(str(path)) == 3
    with pytest.raises(UserError, match=r"mine.py has no variants, since its get_config\(\) takes no argument"):
        recipes.run(f"{path}:big")


@pytest.mark.parametrize(
    ("text", "given", "message"),
    [
        ("VARIANTS = {'a': 1, 'b': 2}\ndef get_config(v=''): return v", "mine:c", "no variant 'c'; it has: 'a', 'b'."),
        ("x = 1\ny = x.z", "mine", "--config=mine: configs/mine.py, line 2: AttributeError: 'int' object has no"),
        ("def get_config(variant=''):\n    return {}[variant]", "mine:c", "mine.py, line 2: KeyError: 'c'"),
        ("def get_config(", "mine", "configs/mine.py, line 1: SyntaxError"),
        ("x = 1", "mine", 'configs/mine.py must define get_config(variant="")'),
    ],
)
def test_what_is_wrong_with_a_file_names_its_line(text, given, message):
    write(text)
    with pytest.raises(UserError, match=re.escape(message)):
        recipes.run(given)


def test_a_variant_that_must_be_given():
    with pytest.raises(UserError, match=r"the config needs a variant, as in FILE:a; it has: 'a', 'b'"):
        recipes.choose_variant("", {"a": 1, "b": 2})
    with pytest.raises(UserError, match=r"the config has no variants: leave ':a' out"):
        recipes.choose_variant("a", {"": 1})


def test_a_path_to_another_folder_is_not_taken_for_a_recipe():
    with pytest.raises(UserError, match=r"--config=my/vit_flowers\.py:ti16: there is no file my/vit_flowers\.py"):
        recipes.locate("my/vit_flowers.py:ti16")
