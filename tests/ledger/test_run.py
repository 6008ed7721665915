import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.testing import assert_array_equal
from safetensors.numpy import load_file, save_file

from unmask.errors import LedgerError
from unmask.ledger import FindingEntry, PlanEntry, load_run

SCRIPT = "<script>alert('x')</script>\"&\u202e\u0000"


@pytest.fixture
def run_dir(tmp_path, scenario) -> Path:
    """A run that went through its plan and is not sealed: 32 example lines and 10 commits."""
    scenario.play(scenario.open(tmp_path / "run")).close()
    return tmp_path / "run"


@pytest.fixture
def sealed_dir(run_dir, scenario, result) -> Path:
    with scenario.open(run_dir) as ledger:
        ledger.seal(result)
    return run_dir


def edit(path: Path, line: int, **changes: object) -> None:
    lines = path.read_text().splitlines()
    lines[line - 1] = json.dumps(json.loads(lines[line - 1]) | changes, separators=(",", ":"))
    path.write_text("\n".join(lines) + "\n")


def test_a_folder_without_a_ledger_is_no_run(tmp_path):
    for place in (tmp_path, tmp_path / "absent", str(tmp_path)):
        with pytest.raises(LedgerError, match=r"holds no ledger: there is no spec\.json"):
            load_run(place)
    (tmp_path / "file").write_text("x")
    with pytest.raises(LedgerError, match="Not a directory"):
        load_run(tmp_path / "file")


def test_reading_changes_nothing(sealed_dir):
    before = {path: path.read_bytes() for path in sealed_dir.rglob("*") if path.is_file()}
    run = load_run(sealed_dir)
    run.inputs()
    run.adversarial()
    assert before == {path: path.read_bytes() for path in sealed_dir.rglob("*") if path.is_file()}


def test_the_table_of_a_sealed_run_says_what_its_lines_say(sealed_dir):
    table = load_run(sealed_dir).events
    (sealed_dir / "events.parquet").unlink()
    lines = load_run(sealed_dir).events
    assert table.keys() == lines.keys()
    for name in table:
        assert_array_equal(table[name], lines[name], err_msg=name)


def test_strings_are_kept_as_data(tmp_path, scenario):
    plan = [*scenario.plan[:2], PlanEntry(attack="apgd", role="search", description=SCRIPT, settings={SCRIPT: SCRIPT})]
    with scenario.open(tmp_path / "run", name=SCRIPT, plan=plan) as ledger:
        finding = FindingEntry(check=SCRIPT, status="fail", summary=SCRIPT, evidence={SCRIPT: SCRIPT})
        ledger.write_findings([finding])
    run = load_run(tmp_path / "run")
    assert run.spec.name == SCRIPT
    assert run.spec.plan[2].settings == {SCRIPT: SCRIPT}
    assert run.findings == (finding,)
    assert all(path.name.replace(".", "").isalnum() for path in (tmp_path / "run").iterdir())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{not json", "Invalid JSON"),
        ("[]", "Input should be an object"),
        ("", "Invalid JSON"),
        ('{"kind":"gossip"}', "'example', 'commit'"),
        ("[" * 100_000, "Invalid JSON"),
        ('{"kind":"example","attack":"' + "a" * 1_000_001 + '"}', "longer than 1,000,000 bytes"),
        ("\x00" * 50, "Invalid JSON"),
    ],
)
def test_a_damaged_line_is_named(run_dir, scenario, text, reason):
    journal = run_dir / "events.jsonl"
    lines = journal.read_text().splitlines()
    lines[6] = text
    journal.write_text("\n".join(lines) + "\n")
    for read in (load_run, scenario.open):
        with pytest.raises(LedgerError, match=reason) as caught:
            read(run_dir)
        assert f"{journal}, line 7: " in str(caught.value)
        assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("line", "changes", "named", "reason"),
    [
        (2, {"status": "<b>fine</b>"}, 2, "status"),
        (2, {"id": "101"}, 2, "id: Input should be a valid integer"),
        (2, {"id": 10**30}, 2, "id"),
        (2, {"id": -1}, 2, "id"),
        (2, {"forwards": -5}, 2, "forwards"),
        (2, {"margin": "high"}, 2, "margin"),
        (2, {"note": "x"}, 2, "note: Extra inputs"),
        (2, {"id": 999}, 2, "not among the run's examples"),
        (3, {"id": 101}, 3, "two events in one round"),
        (6, {"id": 100}, 6, "two events in one round"),
        (14, {"id": 100}, 14, "broken in an earlier round"),
        # What belongs together is known at the commit line, the fifth.
        (2, {"attack": "pgd-40"}, 5, r"does not belong to round 0 \(clean, restart 0\)"),
        (5, {"n": 3}, 5, "the commit counts 3 examples, the lines before it hold 4"),
        (5, {"round": 2}, 5, "does not belong to round 2"),
    ],
)
def test_an_edited_line_is_named(run_dir, line, changes, named, reason):
    edit(run_dir / "events.jsonl", line, **changes)
    with pytest.raises(LedgerError, match=reason) as caught:
        load_run(run_dir)
    assert f"{run_dir / 'events.jsonl'}, line {named}: " in str(caught.value)


def test_a_number_that_is_none_is_refused_in_a_line(run_dir):
    journal = run_dir / "events.jsonl"
    journal.write_text(journal.read_text().replace('"loss":1.5,', '"loss":NaN,', 1))
    with pytest.raises(LedgerError, match="line 1: "):
        load_run(run_dir)


def test_a_round_outside_the_plan_is_named(run_dir):
    journal = run_dir / "events.jsonl"
    journal.write_text(journal.read_text().replace('"round":3', '"round":4'))
    with pytest.raises(LedgerError, match=r"line 35: the plan has 4 rounds"):
        load_run(run_dir)


@pytest.mark.parametrize("name", ["spec.json", "findings.json", "result.json"])
def test_a_damaged_document_is_named(sealed_dir, scenario, name):
    for text in ("{", "[1]", '{"schema_version":1,"name":3}', "\udcff"):
        (sealed_dir / name).write_bytes(text.encode("utf-8", "surrogateescape"))
        for read in (load_run, scenario.open):
            with pytest.raises(LedgerError, match=str(sealed_dir / name)):
                read(sealed_dir)


def test_an_enormous_document_is_not_read(run_dir):
    with (run_dir / "findings.json").open("wb") as stream:
        stream.truncate(10**9)
    with pytest.raises(LedgerError, match=r"findings\.json is larger than"):
        load_run(run_dir)


def test_a_ledger_of_a_later_format_says_so(run_dir):
    text = (run_dir / "spec.json").read_text()
    (run_dir / "spec.json").write_text(text.replace('"schema_version": 1', '"schema_version": 2'))
    with pytest.raises(LedgerError, match="written in ledger format 2; this version of unmask reads format 1"):
        load_run(run_dir)


def test_damaged_and_missing_arrays_are_named(run_dir, scenario):
    inputs = run_dir / "inputs.safetensors"
    whole, arrays = inputs.read_bytes(), load_file(inputs)
    shard = next((run_dir / "adversarial").iterdir())

    def refused(match: str) -> None:
        for read in (load_run, scenario.open):
            with pytest.raises(LedgerError, match=match):
                read(run_dir)

    for content in (b"", b"\xff" * 64, whole[:-1], whole[:40]):
        inputs.write_bytes(content)
        refused(f"Cannot read {inputs}")
    save_file({"ids": arrays["ids"]}, inputs)
    refused("holds no array 'labels'")
    save_file(arrays | {"ids": arrays["ids"].astype(np.float32)}, inputs)
    refused(r"'ids' is F32 \(10,\), expected I64 of shape 10")
    save_file(arrays | {"ids": np.full(10, 100)}, inputs)
    refused("an id occurs twice")
    save_file(arrays | {"images": arrays["images"][:, :, :1]}, inputs)
    with pytest.raises(LedgerError, match="'images' is U8"):
        load_run(run_dir).inputs()
    inputs.write_bytes(whole)
    shard.write_bytes(b"junk")
    with pytest.raises(LedgerError, match=f"Cannot read {shard}"):
        load_run(run_dir).adversarial()
    save_file({"ids": np.arange(9), "x_adv": np.zeros((9, 1, 2, 3), np.float32)}, shard)
    with pytest.raises(LedgerError, match="holds 9 images"):
        scenario.open(run_dir)
    shard.unlink()
    with pytest.raises(LedgerError, match=f"{shard} is missing"):
        scenario.open(run_dir)
    inputs.unlink()
    with pytest.raises(LedgerError, match=f"{inputs} is missing"):
        load_run(run_dir)


def test_a_damaged_table_of_a_sealed_run_is_named(sealed_dir):
    path = sealed_dir / "events.parquet"
    whole, table = path.read_bytes(), pq.read_table(path)

    def refused(match: str) -> None:
        with pytest.raises(LedgerError, match=match):
            load_run(sealed_dir)

    for content in (b"", b"PAR1 junk PAR1", whole[:-7], whole[:100]):
        path.write_bytes(content)
        refused(f"Cannot read {path}")
    pq.write_table(table.drop_columns(["margin"]), path)
    refused("does not hold the columns of a ledger")
    pq.write_table(pa.concat_tables([table] * 2), path)
    refused("holds 64 events, the plan allows 40")
    pq.write_table(pa.concat_tables([table, table.slice(0, 1)]), path)
    refused("row 32: the example has two events in one round")
    holes = pa.array([None, *table["id"].to_pylist()[1:]], pa.int64())
    pq.write_table(table.set_column(table.schema.get_field_index("id"), "id", holes), path)
    refused("lacks values in the column 'id'")
