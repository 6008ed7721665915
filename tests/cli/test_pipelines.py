"""Audits in pipelines: JUnit XML beside the exit code, and ONNX files as subjects."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

WORDS = ("--data", "digits", "-n", 25, "--eps", 0.05)
USER_MODULE = """
import torch

def linear():
    weights = torch.linspace(-1, 1, 640).view(10, 64).sin()
    return lambda x: x.flatten(1) @ weights.T

def failing():
    model = linear()
    def answer(x):
        if (16 * x).frac().any():
            raise RuntimeError("only <clean> digits")
        return model(x)
    return answer
"""


@pytest.fixture
def net(run) -> Path:
    """Write a linear classifier of digits, one image at a time, into the empty folder."""
    weights = np.random.default_rng(0).normal(size=(64, 10)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "weights"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 10])],
        [numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    Path("net.onnx").write_bytes(model.SerializeToString())
    return Path("net.onnx")


def test_an_onnx_file_is_audited_by_its_answers(run, net):
    audited = run("audit", net, *WORDS, "--access", "scores", "--budget", 60, "--json")
    assert audited.exit_code == 0, audited.output
    summary = json.loads(audited.stdout)
    assert summary["n"] == 25 and summary["backwards"] == 0
    assert run("verify", summary["run_dir"]).exit_code == 0


def test_gradients_of_an_onnx_file_are_refused(run, net):
    refused = run("audit", net, *WORDS)
    assert refused.exit_code == 2 and "--access scores" in refused.output
    assert not Path("runs").exists()


@pytest.mark.parametrize(("threshold", "code"), [(0.0, 0), (1.0, 1)])
def test_junit_beside_the_exit_code(run, threshold, code):
    Path("piped.py").write_text(USER_MODULE)
    words = ("audit", "piped:linear", *WORDS, "--budget", "quick", "--fail-under", threshold)
    audited = run(*words, "--junit", "out/audit.xml", "--json")
    assert audited.exit_code == code, audited.output
    cases = {case.get("name"): case for case in ET.parse("out/audit.xml").iter("testcase")}
    assert (cases["robust accuracy"].find("failure") is not None) == bool(code)
    findings = json.loads(audited.stdout)["findings"]
    assert sorted(cases) == sorted(["robust accuracy", *(finding["check"] for finding in findings)])
    for finding in findings:
        assert (cases[finding["check"]].find("failure") is not None) == (finding["status"] == "fail")


def test_junit_tells_of_images_that_ended_in_an_error(run):
    Path("piped.py").write_text(USER_MODULE)
    audited = run("audit", "piped:failing", *WORDS, "--budget", "quick", "--junit", "audit.xml")
    assert audited.exit_code == 2 and "ended in an error" in audited.output
    [error] = ET.parse("audit.xml").iter("error")
    assert "only <clean> digits" in error.text
