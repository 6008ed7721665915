"""The TensorBoard extra: scalars that read back as they were logged, and clear errors."""

import sys
from pathlib import Path

import pytest

from unmask.data import DataSet
from unmask.errors import OutputError, UnmaskError
from unmask.training import Training, clp, fit, tensorboard_log

TAGS = {"loss/cross_entropy", "loss/clean_logit_pairing", "learning_rate", "images_per_second", "attack_share"}


def read_scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_every_epoch_s_losses_rate_and_speed_can_be_read_back(few: DataSet, small, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra unmask[tensorboard] is not installed")
    lines: list[dict] = []
    with tensorboard_log(tmp_path / "board") as log:

        def both(line: dict) -> None:
            lines.append(line)
            log(line)

        fit(small, few, Training(clp(0.5), epochs=3), seed=0, log=both)
        before_the_end = read_scalars(tmp_path / "board")
    found = read_scalars(tmp_path / "board")
    assert found == before_the_end
    assert found.keys() == TAGS
    for name in ("cross_entropy", "clean_logit_pairing"):
        expected = [(line["epoch"], line["losses"][name]) for line in lines]
        assert [step for step, _ in found[f"loss/{name}"]] == [1, 2, 3]
        assert [value for _, value in found[f"loss/{name}"]] == pytest.approx(
            [value for _, value in expected], rel=1e-6
        )
    assert found["learning_rate"] == [(epoch, pytest.approx(1e-3)) for epoch in (1, 2, 3)]


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with (
        pytest.raises(UnmaskError, match=r"not installed.*pip install 'unmask\[tensorboard\]'"),
        tensorboard_log(tmp_path / "board"),
    ):
        raise AssertionError("the extra was found")
    assert not [*tmp_path.iterdir()]


def test_a_folder_that_cannot_be_made_is_an_output_error(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra unmask[tensorboard] is not installed")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"Cannot write .*file/board"), tensorboard_log(tmp_path / "file" / "board"):
        raise AssertionError("the folder was made")
