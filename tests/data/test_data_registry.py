from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import unmask.data
from unmask.data import DATA_SETS, available, load_data
from unmask.data.registry import default_data_dir
from unmask.errors import DataError

WriteIdx = Callable[..., dict[str, np.ndarray]]


def test_the_names_are_these() -> None:
    assert list(DATA_SETS) == [
        "digits", "mnist", "fashion-mnist", "cifar10", "cifar100", "svhn", "tiny-imagenet", "imagenet", "imagenet-224",
    ]  # fmt: skip
    assert all(summary for summary in DATA_SETS.values())
    assert set(unmask.data.__all__) == {"DATA_SETS", "DataSet", "available", "load_data"}


@pytest.mark.parametrize("name", sorted(DATA_SETS))
def test_available_says_what_load_data_does(tmp_path: Path, name: str) -> None:
    if available(name, tmp_path):
        assert len(load_data(name, data_dir=tmp_path)) > 0
    else:
        with pytest.raises(DataError, match="was not found"):
            load_data(name, data_dir=tmp_path)
    assert available(name, tmp_path) == (name == "digits")
    assert list(tmp_path.iterdir()) == []


def test_the_folder_comes_from_the_argument_then_the_environment(
    tmp_path: Path, write_idx: WriteIdx, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, folder in enumerate(("named", "environment")):
        write_idx(tmp_path / folder / "MNIST" / "raw", "t10k", 2 + number, zipped=True)
    monkeypatch.setenv("UNMASK_DATA", str(tmp_path / "environment"))
    assert len(load_data("mnist", data_dir=str(tmp_path / "named"))) == 2
    assert len(load_data("mnist")) == 3


@pytest.mark.parametrize("value", [None, ""])
def test_without_the_environment_the_folder_is_the_cache(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.setenv("HOME", "/somebody")
    monkeypatch.delenv("UNMASK_DATA", raising=False)
    if value is not None:
        monkeypatch.setenv("UNMASK_DATA", value)
    assert default_data_dir() == Path("/somebody/.cache/unmask")


def test_a_tilde_means_home(tmp_path: Path, write_idx: WriteIdx, monkeypatch: pytest.MonkeyPatch) -> None:
    write_idx(tmp_path / "sets" / "MNIST" / "raw", "t10k", 2, zipped=True)
    np.savez(tmp_path / "mine.npz", x=np.zeros((1, 2, 2), np.uint8), y=np.array([0]))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(load_data("mnist", data_dir="~/sets")) == 2
    assert len(load_data("~/mine.npz")) == 1


def test_a_name_comes_before_a_folder_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "digits" / "cat").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert load_data("digits").name == "digits"
    with pytest.raises(DataError, match="not a folder of images"):
        load_data("./digits")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("minst", "no data set 'minst'. Did you mean 'mnist'.*Known: cifar10.*path of a .npz file"),
        ("MNIST", "no data set 'MNIST'"),
        ("absent.npz", "'absent.npz' does not exist"),
        ("some/folder", "'some/folder' does not exist"),
        ("notes.txt", "'notes.txt' is neither a .npz file nor a folder"),
        ("", "'' is neither"),
    ],
)
def test_an_unusable_name_says_what_would_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("notes.txt").write_text("x")
    with pytest.raises(DataError, match=message):
        load_data(spec)


def test_available_refuses_an_unknown_name() -> None:
    with pytest.raises(DataError, match="Did you mean 'svhn'"):
        available("svnh")


def test_most_returns_the_first_so_many() -> None:
    whole = load_data("digits")
    assert load_data("digits", most=5).ids.tolist() == whole.ids[:5].tolist()
    assert len(load_data("digits", most=10**6)) == len(whole)
    with pytest.raises(DataError, match="most is 0"):
        load_data("digits", most=0)


@pytest.mark.parametrize("spec", ["digits", "mine.npz", "imagenet"])
def test_image_size_is_for_folders_only(spec: str) -> None:
    with pytest.raises(DataError, match="folders of images only"):
        load_data(spec, image_size=32)
