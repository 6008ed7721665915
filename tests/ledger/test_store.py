import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import unmask.ledger
from unmask.errors import LedgerError, OutputError
from unmask.ledger import ExampleEvent, FindingEntry, Ledger, PlanEntry, Run, ThreatEntry, load_run
from unmask.ledger.queries import counts, statuses, survivors_after

SOURCE = Path(unmask.ledger.__file__).parents[2]
FINDING = FindingEntry(check="gradients", status="warn", summary="flat", evidence={"share": 0.5}, next_step="try more")


def same_run(a: Run, b: Run) -> None:
    assert a.events.keys() == b.events.keys()
    for name in a.events:
        assert a.events[name].dtype == b.events[name].dtype or a.events[name].dtype.kind == "U", name
        assert_array_equal(a.events[name], b.events[name], err_msg=name)
    for one, other in zip(a.inputs() + a.adversarial(), b.inputs() + b.adversarial(), strict=True):
        assert_array_equal(one, other, strict=True)
    assert (a.spec, a.findings, a.result) == (b.spec, b.findings, b.result)


def test_a_new_run_writes_spec_and_inputs_first(tmp_path, scenario):
    with scenario.open(tmp_path / "a" / "run") as ledger:
        assert not ledger.resumed
        assert not ledger.sealed
        assert ledger.events() == []
        assert ledger.recorded(0) == frozenset()
    assert {path.name for path in (tmp_path / "a" / "run").iterdir()} == {
        "spec.json",
        "inputs.safetensors",
        "events.jsonl",
        "run.lock",
    }
    run = load_run(tmp_path / "a" / "run")
    ids, labels, images = run.inputs()
    assert_array_equal(ids, scenario.ids)
    assert_array_equal(labels, scenario.labels)
    assert_array_equal(images, scenario.images, strict=True)
    assert run.spec == scenario.spec()
    assert run.result is None
    assert set(statuses(run)) == {"not_run"}


def test_round_trip_through_commit_reopen_and_seal(tmp_path, scenario, result):
    with scenario.play(scenario.open(tmp_path / "run")) as ledger:
        ledger.write_findings([FINDING])
        events, best, live = ledger.events(), ledger.best(), ledger.run()
        assert ledger.recorded(3) == {104, 105, 106, 107, 108, 109}
    loaded = load_run(tmp_path / "run")
    same_run(live, loaded)
    with scenario.open(tmp_path / "run") as again:
        assert again.resumed
        assert again.events() == events
        assert again.findings() == [FINDING]
        assert_array_equal(again.best()[1], best[1], strict=True)
        again.seal(result)
        sealed = again.run()
        same_run(sealed, load_run(tmp_path / "run"))
    for name in live.events:
        assert_array_equal(live.events[name], sealed.events[name])
    assert not (tmp_path / "run" / "adversarial").exists()
    assert (tmp_path / "run" / "events.jsonl").exists()


def test_a_memory_ledger_equals_a_file_ledger(tmp_path, scenario, result):
    runs = []
    for place in (None, tmp_path / "run"):
        with scenario.play(scenario.open(place), size=3) as ledger:
            ledger.write_findings([FINDING])
            ledger.seal(result)
            assert ledger.sealed
            runs.append((ledger.run(), ledger.events(), ledger.findings()))
    same_run(runs[0][0], runs[1][0])
    assert runs[0][1:] == runs[1][1:]


def test_events_come_back_as_python_numbers_whatever_came_in(tmp_path, scenario):
    given = ExampleEvent(
        0,
        "clean",
        0,
        np.int64(100),
        "survived",
        np.float32(np.inf),
        float("nan"),
        np.int64(1),
        np.float64("nan"),
        np.int32(1),
        0,
        None,
        np.float64(0.5),
    )
    for place in (None, tmp_path / "run"):
        with scenario.open(place) as ledger:
            ledger.commit(
                [given], np.empty((0, 1, 2, 3), np.float32), [], round=0, attack="clean", restart=0, seconds=1
            )
            event = ledger.events()[0]
        assert type(event.id) is int
        assert type(event.seconds) is float
        assert np.isnan(event.margin)
        assert event.loss is None
        assert np.isnan(event.distance)
    line = (tmp_path / "run" / "events.jsonl").read_text().splitlines()[0]
    assert json.loads(line, parse_constant=pytest.fail)["margin"] is None
    with scenario.open(tmp_path / "run") as ledger:
        assert ledger.events() == [event]


def test_best_is_the_image_kept_last(tmp_path, scenario):
    with scenario.play(scenario.open(tmp_path / "run")) as ledger:
        ids, x_adv = ledger.best()
    # 101 and 103 fell before round 3; 102 fell in round 1; 109 is odd and never broke, so nothing of it was kept.
    last = {101: 1, 102: 1, 103: 2, 104: 3, 105: 3, 106: 3, 107: 3, 108: 3}
    assert ids.tolist() == sorted(last)
    assert_array_equal(x_adv, np.stack([scenario.image(last[i], i) for i in sorted(last)]))


def test_images_that_are_not_bytes_are_kept_to_the_bit(tmp_path, scenario):
    images = scenario.images + np.float32(1e-7)
    with Ledger.open(
        tmp_path / "run", scenario.spec(), ids=scenario.ids, labels=scenario.labels, images=images
    ) as ledger:
        assert_array_equal(ledger.run().inputs()[2], images, strict=True)
    assert (tmp_path / "run" / "inputs.safetensors").stat().st_size > images.nbytes


# --------------------------------------------------------------------------------------------------------------- resume


def test_a_batch_torn_at_any_byte_is_cut_off_and_the_resumed_run_ends_the_same(tmp_path, make_scenario):
    scenario = make_scenario(ids=np.arange(100, 111))  # leaves one example for the last batch, and an image of it
    run_dir = tmp_path / "run"
    with scenario.play(scenario.open(run_dir), size=3) as ledger:
        whole = ledger.events()
    journal = run_dir / "events.jsonl"
    content = journal.read_bytes()
    before = content.rindex(b'{"kind":"commit"', 0, content.rindex(b'{"kind":"commit"'))
    start = content.index(b"\n", before) + 1
    shard = run_dir / "adversarial" / "3-110.safetensors"
    kept = shard.read_bytes()
    assert len(content) - start > 250
    for end in range(start, len(content)):
        journal.write_bytes(content[:end])
        shard.write_bytes(kept)
        with scenario.open(run_dir) as ledger:
            assert ledger.events() == whole[:-1]
            assert journal.stat().st_size == start
            assert not shard.exists()
            if end % 97 == 0 or end == len(content) - 1:
                assert scenario.play(ledger, size=3).events() == whole
                assert journal.read_bytes() == content
                assert shard.read_bytes() == kept


def test_a_reader_leaves_a_torn_batch_out_and_changes_nothing(tmp_path, scenario):
    run_dir = tmp_path / "run"
    scenario.play(scenario.open(run_dir), size=3).close()
    content = (run_dir / "events.jsonl").read_bytes()
    (run_dir / "events.jsonl").write_bytes(content[:-5])
    run = load_run(run_dir)
    assert len(run.events["id"]) == 29
    assert run.adversarial()[0].tolist() == [101, 102, 103, 104, 105, 106, 108]
    assert (run_dir / "events.jsonl").read_bytes() == content[:-5]
    assert (run_dir / "adversarial" / "3-107.safetensors").exists()


def test_zeros_behind_the_last_commit_are_a_torn_batch(tmp_path, scenario):
    run_dir = tmp_path / "run"
    with scenario.play(scenario.open(run_dir)) as ledger:
        whole = ledger.events()
    with (run_dir / "events.jsonl").open("ab") as stream:
        stream.write(bytes(2_500_000))
    with scenario.open(run_dir) as ledger:
        assert ledger.events() == whole


def test_orphan_shards_and_drafts_are_removed_and_strange_files_left(tmp_path, scenario):
    run_dir = tmp_path / "run"
    scenario.play(scenario.open(run_dir), rounds=2).close()
    folder = run_dir / "adversarial"
    committed = {path.name for path in folder.iterdir()}
    for name in ("9-104.safetensors", ".3-104.safetensors.tmp", "notes.txt"):
        (folder / name).write_bytes(b"x")
    (run_dir / ".result.json.tmp").write_bytes(b"x")
    scenario.open(run_dir).close()
    assert {path.name for path in folder.iterdir()} == committed | {"notes.txt"}
    assert not (run_dir / ".result.json.tmp").exists()


def test_a_kill_between_batches_loses_nothing_and_frees_the_lock(tmp_path, scenario):
    scenario.play(scenario.open(tmp_path / "run"), rounds=1).close()
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "import numpy as np\n"
        "from unmask.ledger import ExampleEvent, Ledger, load_run\n"
        "run = load_run(sys.argv[1])\n"
        "ids, labels, images = run.inputs()\n"
        "ledger = Ledger.open(Path(sys.argv[1]), run.spec, ids=ids, labels=labels, images=images)\n"
        "row = ExampleEvent(1, 'pgd-40', 0, 101, 'broken', .1, 1.6, 2, .3, 41, 40, 3, .25)\n"
        "x_adv = np.zeros((1, 1, 2, 3), np.float32)\n"
        "ledger.commit([row], x_adv, [101], round=1, attack='pgd-40', restart=0, seconds=.25)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")], env=environment(), check=False)
    assert done.returncode == -9
    with scenario.open(tmp_path / "run") as ledger:
        assert ledger.recorded(1) == {101}
        assert ledger.best()[0].tolist() == [101]
        assert counts(scenario.play(ledger).run())["survived"] == 2


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(SOURCE)}


def test_a_second_process_is_refused(tmp_path, scenario):
    code = (
        "import sys\n"
        "from unmask.errors import LedgerError\n"
        "from unmask.ledger import Ledger, load_run\n"
        "run = load_run(sys.argv[1])\n"
        "ids, labels, images = run.inputs()\n"
        "try:\n"
        "    Ledger.open(sys.argv[1], run.spec, ids=ids, labels=labels, images=images)\n"
        "except LedgerError as error:\n"
        "    print(error)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    with scenario.open(tmp_path / "run"):
        held = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
        with pytest.raises(LedgerError, match="another process"):
            scenario.open(tmp_path / "run")
    free = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    assert f"The run {tmp_path / 'run'} is being written by another process" in held.stdout
    assert free.stdout == ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "seed is recorded as 0 and given as 1"),
        ({"budget": "quick"}, 'budget is recorded as "standard" and given as "quick"'),
        ({"claim": None}, 'claim is recorded as "pgd-40" and given as null'),
        ({"version": "9"}, 'version is recorded as "0.1.0" and given as "9"'),
        ({"threat": ThreatEntry(norm="linf", eps="8/255")}, 'threat.eps is recorded as "0.3" and given as "8/255"'),
    ],
)
def test_another_run_is_refused_by_the_name_of_the_field(tmp_path, scenario, changes, message):
    scenario.play(scenario.open(tmp_path / "run"), rounds=1).close()
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    with pytest.raises(LedgerError, match="another --run-dir") as caught:
        scenario.open(tmp_path / "run", **changes)
    assert message in str(caught.value)
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}


def test_every_changed_field_is_named_deep_in_the_plan_too(tmp_path, scenario):
    scenario.open(tmp_path / "run").close()
    spec = scenario.spec()
    plan = [*spec.plan[:1], spec.plan[1].model_copy(update={"settings": {"steps": 50}}), spec.plan[2]]
    model = spec.model.model_copy(update={"fingerprint": "weights-b"})
    data = spec.data.model_copy(update={"fingerprint": "data-b"})
    with pytest.raises(LedgerError) as caught:
        scenario.open(tmp_path / "run", plan=plan, model=model, data=data)
    for part in (
        'model.fingerprint is recorded as "weights-a" and given as "weights-b"',
        'data.fingerprint is recorded as "data-a" and given as "data-b"',
        "plan[1].settings.steps is recorded as 40 and given as 50",
        "plan[1].settings.step_size is recorded as 0.01 and given as null",
    ):
        assert part in str(caught.value)
    longer = [*spec.plan, PlanEntry(attack="square", role="search")]
    with pytest.raises(LedgerError, match=r'plan is recorded as \["clean", "pgd-40", "apgd"\]'):
        scenario.open(tmp_path / "run", plan=longer)


def test_what_does_not_change_the_outcome_may_change(tmp_path, scenario):
    scenario.play(scenario.open(tmp_path / "run"), rounds=1).close()
    changes = {"batch_size": 9, "created": "2021", "hardware": {"gpu": "none"}, "packages": {"numpy": "9"}}
    with scenario.open(tmp_path / "run", **changes) as ledger:
        assert ledger.spec == scenario.spec()
        assert len(ledger.events()) == 10


def test_other_ids_under_the_same_fingerprint_are_refused(tmp_path, scenario, make_scenario):
    scenario.open(tmp_path / "run").close()
    with pytest.raises(LedgerError, match="records other ids"):
        make_scenario(ids=np.arange(10)).open(tmp_path / "run")


def test_a_run_stopped_before_its_inputs_were_written_is_taken_up(tmp_path, scenario):
    scenario.open(tmp_path / "run").close()
    (tmp_path / "run" / "inputs.safetensors").unlink()
    with scenario.open(tmp_path / "run") as ledger:
        assert ledger.resumed
    assert_array_equal(load_run(tmp_path / "run").inputs()[2], scenario.images)


def test_a_run_stopped_before_its_spec_was_written_begins_anew(tmp_path, scenario):
    (tmp_path / "run.lock").touch()
    (tmp_path / ".spec.json.tmp").write_text("{")
    with scenario.open(tmp_path) as ledger:
        assert not ledger.resumed


# ----------------------------------------------------------------------------------------------- folders and full disks


def test_a_foreign_folder_is_refused_and_not_touched(tmp_path, scenario):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(LedgerError, match=r"holds files that are not a ledger \('thesis.tex'"):
        scenario.open(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_path_that_cannot_be_a_folder_is_an_output_error(tmp_path, scenario):
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(OutputError, match=f"Cannot write {place}"):
            scenario.open(place)


def no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


class FullDisk:
    """Lets `room` more bytes through `os.write`, then fails with ENOSPC, as a disk does that fills up in mid-write."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
        self.room = room
        self._write = os.write
        monkeypatch.setattr(os, "write", self.write)

    def write(self, descriptor: int, data: bytes) -> int:
        if self.room == 0:
            no_space()
        done = self._write(descriptor, bytes(data)[: self.room])
        self.room -= done
        return done


# Between them they stop in the shard, at the start, in the middle and one byte before the end of the lines.
@pytest.mark.parametrize("share", [0, 0.01, 0.2, 0.25, 0.5, 0.9, 1])
def test_a_full_disk_keeps_all_that_was_committed(tmp_path, scenario, monkeypatch, share):
    run_dir = tmp_path / "run"
    with scenario.play(scenario.open(tmp_path / "other"), rounds=2) as ledger, monkeypatch.context() as patch:
        disk = FullDisk(patch, 10**6)
        scenario.commit(ledger, 2, [103, 104, 105, 106])
        room = int(share * (10**6 - disk.room - 1))
    with scenario.play(scenario.open(run_dir), rounds=2) as ledger:
        before, best = ledger.events(), ledger.best()
        with monkeypatch.context() as patch:
            FullDisk(patch, room)
            with pytest.raises(OutputError, match=r"No space left on device\. Free some space"):
                scenario.commit(ledger, 2, [103, 104, 105, 106])
        assert ledger.events() == before
        assert ledger.recorded(2) == frozenset()
        same = load_run(run_dir)
        assert len(same.events["id"]) == len(before)
    with scenario.open(run_dir) as again:
        assert again.events() == before
        assert_array_equal(again.best()[1], best[1])
    with scenario.open(run_dir) as again, scenario.play(scenario.open(None)) as memory:
        assert scenario.play(again).events() == memory.events()


def test_the_same_process_can_go_on_once_there_is_space(tmp_path, scenario, monkeypatch):
    with scenario.play(scenario.open(tmp_path / "run"), rounds=2) as ledger:
        with monkeypatch.context() as patch:
            FullDisk(patch, 900)
            patch.setattr(os, "ftruncate", no_space)  # even the cutting back fails
            with pytest.raises(OutputError):
                scenario.commit(ledger, 2, [103, 104, 105, 106])
        live = scenario.play(ledger).events()
    with scenario.open(tmp_path / "run") as again, scenario.play(scenario.open(None)) as memory:
        assert again.events() == live == memory.events()


@pytest.mark.parametrize("passed", [0, 1, 2])  # fails on the images, on their folder, on the lines
def test_a_sync_that_fails_is_no_commit(tmp_path, scenario, monkeypatch, passed):
    with scenario.play(scenario.open(tmp_path / "run"), rounds=2) as ledger:
        before, sync, calls = ledger.events(), os.fsync, []
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", lambda fd: calls.append(fd) or (sync if len(calls) <= passed else no_space)(fd))
            with pytest.raises(OutputError):
                scenario.commit(ledger, 2, [103, 104])
            with pytest.raises(OutputError):
                ledger.write_findings([FINDING])
        assert len(calls) == passed + 2
        assert ledger.findings() == []
        assert ledger.events() == before
    with scenario.open(tmp_path / "run") as again:
        assert again.events() == before
        assert again.findings() == []


def test_a_disk_full_at_the_start_or_at_the_seal_can_be_tried_again(tmp_path, scenario, monkeypatch, result):
    for room in (0, 100, 1500):
        with monkeypatch.context() as patch:
            FullDisk(patch, room)
            with pytest.raises(OutputError):
                scenario.open(tmp_path / "run")
    with scenario.play(scenario.open(tmp_path / "other")) as ledger, monkeypatch.context() as patch:
        disk = FullDisk(patch, 10**6)
        ledger.seal(result)
    with scenario.play(scenario.open(tmp_path / "run")) as ledger:
        for share in (0, 0.1, 0.5, 0.9, 1):  # in the table, the images, the last byte of the marker
            with monkeypatch.context() as patch:
                FullDisk(patch, int(share * (10**6 - disk.room - 1)))
                with pytest.raises(OutputError):
                    ledger.seal(result)
            assert not ledger.sealed
            assert len(load_run(tmp_path / "run").adversarial()[0]) == 8
        ledger.seal(result)
    assert load_run(tmp_path / "run").result == result


# -------------------------------------------------------------------------------------------------------------- sealing


def test_a_sealed_run_reopens_complete_and_takes_nothing_more(tmp_path, scenario, result):
    with scenario.play(scenario.open(tmp_path / "run")) as ledger:
        ledger.write_findings([FINDING])
        ledger.seal(result)
        ledger.seal(result)
        events, best = ledger.events(), ledger.best()
    with scenario.open(tmp_path / "run") as again:
        assert again.sealed
        assert again.resumed
        assert again.result == result
        assert again.events() == events
        assert scenario.batches(again, 4) == []
        assert_array_equal(again.best()[0], best[0], strict=True)
        assert_array_equal(again.best()[1], best[1], strict=True)
        again.seal(result)
        again.write_findings([FINDING])
        with pytest.raises(LedgerError, match="sealed"):
            again.seal(result.model_copy(update={"robust_accuracy": 0.9}))
        with pytest.raises(LedgerError, match="sealed"):
            again.write_findings([])
        with pytest.raises(LedgerError, match="sealed"):
            scenario.commit(again, 3, [108])


def test_shards_left_by_a_kill_right_after_the_seal_are_removed(tmp_path, scenario, result):
    with scenario.play(scenario.open(tmp_path / "run")) as ledger:
        ledger.seal(result)
        best = ledger.best()
    (tmp_path / "run" / "adversarial").mkdir()
    (tmp_path / "run" / "adversarial" / "1-100.safetensors").write_bytes(b"x")
    with scenario.open(tmp_path / "run") as again:
        assert_array_equal(again.best()[1], best[1])
    assert not (tmp_path / "run" / "adversarial").exists()


def test_an_unfinished_run_cannot_be_sealed(tmp_path, scenario, result):
    for place in (None, tmp_path / "run"):
        with scenario.play(scenario.open(place), rounds=3) as ledger:
            with pytest.raises(LedgerError, match="6 events are still missing"):
                ledger.seal(result)
            assert not ledger.sealed


def test_a_run_loaded_before_the_seal_still_finds_its_images(tmp_path, scenario, result):
    with scenario.play(scenario.open(tmp_path / "run")) as ledger:
        run = load_run(tmp_path / "run")
        before = run.adversarial()
        ledger.seal(result)
    assert_array_equal(run.adversarial()[1], before[1])


# ------------------------------------------------------------------------------------------------- wrong use of the API


@pytest.mark.parametrize("in_memory", [True, False])
def test_rows_that_do_not_belong_are_refused_and_nothing_is_written(tmp_path, scenario, in_memory):
    ledger = scenario.play(scenario.open(None if in_memory else tmp_path / "run"), rounds=2)
    events = ledger.events()
    none = np.empty((0, 1, 2, 3), np.float32)
    one = np.zeros((1, 1, 2, 3), np.float32)

    def row(example: int = 103, **changes: object) -> ExampleEvent:
        return scenario.event(2, "pgd-40", 1, example)._replace(status="survived")._replace(**changes)

    def refused(match: str, rows: list[ExampleEvent], x_adv: np.ndarray = none, kept: tuple[int, ...] = ()) -> None:
        with pytest.raises(LedgerError, match=match):
            ledger.commit(rows, x_adv, kept, round=2, attack="pgd-40", restart=1, seconds=0.1)
        assert ledger.events() == events

    refused("at least one example", [])
    refused("another round", [row(round=1)])
    refused("another round", [row(), row(104, attack="apgd")])
    refused("Example 999 .* not among", [row(999)])
    refused("two events in one round", [row(), row()])
    refused("Example 101 .* broken in an earlier round", [row(101)])
    refused("Example 103 .* is broken, but its image was not given", [row(status="broken")])
    refused("Example 104 .* no event in the batch", [row()], one, (104,))
    refused("different example ids", [row()], np.zeros((2, 1, 2, 3), np.float32), (103, 103))
    refused("float32 of shape", [row()], one.astype(np.float64), (103,))
    refused("float32 of shape", [row()], np.zeros((1, 3, 2, 1), np.float32), (103,))
    refused("status: Input should be", [row(status="cracked")])
    refused("forwards: Input should be greater", [row(forwards=-1)])
    refused("seconds", [row(seconds=float("nan"))])
    with pytest.raises(LedgerError, match="recorded in this round before"):
        rows = [scenario.event(1, "pgd-40", 0, 109)]
        ledger.commit(rows, none, [], round=1, attack="pgd-40", restart=0, seconds=0.1)
    with pytest.raises(LedgerError, match="4 rounds"):
        ledger.commit([row(round=7)], none, [], round=7, attack="pgd-40", restart=1, seconds=0.1)
    with pytest.raises(LedgerError, match="not those of the event's round"):
        ledger.commit([row(restart=0)], none, [], round=2, attack="pgd-40", restart=0, seconds=0.1)
    ledger.close()
    ledger.close()
    with pytest.raises(LedgerError, match="closed"):
        scenario.commit(ledger, 2, [103])


def test_inputs_that_do_not_fit_the_spec_are_refused(scenario):
    good = {"ids": scenario.ids, "labels": scenario.labels, "images": scenario.images}
    for changes, match in (
        ({"ids": scenario.ids[:9]}, "announces"),
        ({"images": scenario.images.reshape(10, 2, 3, 1)}, "announces"),
        ({"ids": [1] * 10}, "different from each other"),
        ({"ids": np.arange(-5, 5)}, "not negative"),
    ):
        with pytest.raises(LedgerError, match=match):
            Ledger.open(None, scenario.spec(), **(good | changes))


def test_evidence_is_recorded_as_plain_json():
    given = FindingEntry(
        check="c", status="ok", summary="", evidence={"a": np.float32(0.5), "b": (1, np.arange(2)), "c": float("inf")}
    )
    assert given.evidence == {"a": 0.5, "b": [1, [0, 1]], "c": None}
    with pytest.raises(ValueError, match="cannot be written to a ledger"):
        FindingEntry(check="c", status="ok", summary="", evidence={"a": object()})


@pytest.mark.parametrize(
    ("plan", "match"),
    [
        ([PlanEntry(attack="pgd", role="search"), PlanEntry(attack="clean", role="clean")], "comes first"),
        ([PlanEntry(attack="clean", role="clean", restarts=2)], "runs once"),
        ([PlanEntry(attack="clean", role="search")], "alone"),
        ([PlanEntry(attack="a", role="search", restarts=10**6)] * 2, "more than 1000000 rounds"),
        ([PlanEntry(attack="pgd-40", role="search")], "no plan entry with the role 'claim'"),
    ],
)
def test_a_plan_that_contradicts_itself_is_no_spec(scenario, plan, match):
    with pytest.raises(ValueError, match=match):
        scenario.spec(plan=plan)


# ---------------------------------------------------------------------------------------- processes that write together


def two_writers(run_dir, scenario, last_round):
    """Play a run by two writers that take every other example; returns both ledgers, open."""
    pair = [scenario.open(run_dir), scenario.open(run_dir, writer=1)]
    for number in range(last_round + 1):
        entry = pair[0].spec.rounds()[number]
        turn = {"round": number, "attack": entry.attack, "restart": entry.restart}
        standing = [int(i) for i in survivors_after(pair[0].run(), number - 1)]
        for mine, ledger, other in ((standing[::2], *pair), (standing[1::2], *pair[::-1])):
            scenario.commit(ledger, number, mine)
            rows = [scenario.event(number, entry.attack, entry.restart, example) for example in mine]
            kept = [row.id for row in rows if number > 0 and (row.status == "broken" or row.id % 2 == 0)]
            x_adv = np.array([scenario.image(number, example) for example in kept], dtype=np.float32)
            other.commit(rows, x_adv, kept, **turn, seconds=1.0, elsewhere=True)
    return pair


def test_what_two_wrote_together_equals_what_one_writes(tmp_path, scenario, result):
    with scenario.play(scenario.open(tmp_path / "alone")) as ledger:
        events, best = ledger.events(), ledger.best()
        ledger.seal(result)
    leader, other = two_writers(tmp_path / "run", scenario, 3)
    for ledger in (leader, other):
        assert ledger.events() == events
        for ours, theirs in zip(ledger.best(), best, strict=True):
            assert_array_equal(ours, theirs)
    assert load_run(tmp_path / "run").adversarial()[0].tolist() == best[0].tolist()
    other.seal(result)
    assert not (tmp_path / "run" / "result.json").exists()
    leader.seal(result)
    for ledger in (leader, other):
        ledger.close()
    together, alone = load_run(tmp_path / "run"), load_run(tmp_path / "alone")
    same_run(together, alone)
    for name in ("events.jsonl", "events-1.jsonl"):
        assert (tmp_path / "run" / name).stat().st_size


def test_one_writer_goes_on_from_what_two_left_and_cuts_only_its_own_journal(tmp_path, scenario):
    run_dir = tmp_path / "run"
    for ledger in two_writers(run_dir, scenario, 2):
        ledger.close()
    torn = run_dir / "events-1.jsonl"
    torn.write_bytes(torn.read_bytes()[:-5])
    with scenario.open(run_dir) as ledger, scenario.play(scenario.open(None)) as memory:
        assert ledger.resumed and 0 < len(ledger.recorded(2)) < 7
        assert scenario.play(ledger).events() == memory.events()
        assert_array_equal(ledger.best()[1], memory.best()[1])
    assert not torn.read_bytes().endswith(b"\n")
    with (
        scenario.open(run_dir),
        scenario.open(run_dir, writer=1) as other,
        scenario.play(scenario.open(None)) as memory,
    ):
        assert other.events() == memory.events()
        assert torn.read_bytes().endswith(b"\n")


def test_no_stranger_gets_in_while_one_of_two_writers_lives(tmp_path, scenario):
    leader, other = two_writers(tmp_path / "run", scenario, 1)
    leader.close()
    with pytest.raises(LedgerError, match="being written by another process"):
        scenario.open(tmp_path / "run")
    other.close()
    scenario.open(tmp_path / "run").close()


def test_a_second_writer_that_does_not_see_the_run_says_so(tmp_path, scenario):
    with pytest.raises(LedgerError, match=r"Process 1 finds no run in .* on a disk that all processes share"):
        scenario.open(tmp_path / "run", writer=1)
    with scenario.open(tmp_path / "run"), pytest.raises(LedgerError, match="seed is recorded as 0 and given as 1"):
        scenario.open(tmp_path / "run", writer=1, seed=1)


def test_a_fault_is_named_by_the_journal_that_holds_it(tmp_path, scenario):
    for ledger in two_writers(tmp_path / "run", scenario, 1):
        ledger.close()
    journal = tmp_path / "run" / "events-1.jsonl"
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join([*lines, *lines]) + "\n")
    with pytest.raises(LedgerError, match=rf"{journal}, line \d+: the example has two events in one round"):
        load_run(tmp_path / "run")
