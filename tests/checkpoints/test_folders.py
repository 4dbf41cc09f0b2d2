from jaxtl.checkpoints import folders


def step(folder, name, text="saved"):
    (folder / name).mkdir()
    (folder / name / "array").write_text(text)


def test_steps_are_the_folders_that_are_numbers_or_wait_to_be_so_again(tmp_path):
    for name in ("10", "2", "replaced-7", "damaged-3", "notes"):
        step(tmp_path, name)
    assert folders.steps_in(tmp_path) == [2, 7, 10]
    assert folders.steps_in(tmp_path / "missing") == []


def test_a_step_that_is_saved_again_comes_back_if_that_is_cut_short(tmp_path):
    step(tmp_path, "4")
    aside = folders.set_aside(tmp_path, 4)
    assert (aside.name, folders.steps_in(tmp_path)) == ("replaced-4", [4])
    folders.put_back(tmp_path)
    assert (tmp_path / "4" / "array").read_text() == "saved"
    assert not aside.exists()


def test_what_was_replaced_goes_once_the_new_one_is_whole(tmp_path):
    step(tmp_path, "4", "old")
    aside = folders.set_aside(tmp_path, 4)
    step(tmp_path, "4", "new")
    folders.put_back(tmp_path)
    assert (tmp_path / "4" / "array").read_text() == "new"
    assert not aside.exists()


def test_damaged_steps_get_names_that_nothing_has(tmp_path):
    assert folders.damaged_name(tmp_path, 3).name == "damaged-3"
    step(tmp_path, "damaged-3")
    assert folders.damaged_name(tmp_path, 3).name == "damaged-3-2"


def test_what_was_being_written_when_its_process_ended_goes(tmp_path):
    for name in ("1", "2.orbax-checkpoint-tmp", "3.orbax-checkpoint-tmp-123", "damaged-4"):
        step(tmp_path, name)
    folders.remove_unfinished(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "damaged-4"]
