from __future__ import annotations

import pytest

from retort.cli.report import print_report


def row(name: str, **more: object) -> dict[str, object]:
    test = {"test.correct": 9.0, "test.images": 10.0, "test.accuracy": 0.9, "test.calibration_error": 0.1}
    return {
        **{"name": name, "architecture": "resnet8", "test": {"best": test}, "parameters": 7, "best_epoch": 0},
        **more,
    }


def test_an_early_stop_is_shown_with_each_network_s_epochs(capsys: pytest.CaptureFixture[str]) -> None:
    whole = {"epochs": 2, "of_epochs": 2, "steps": 8, "of_steps": 8}
    short = {"epochs": 1, "of_epochs": 4, "steps": 1500, "of_steps": 6000}
    networks = [row("teacher", trained=None), row("a", trained=whole), row("b", trained=short)]
    print_report("distill", {"stopped_early": True, "left_out": ["c"], "ship": "best", "networks": networks})
    assert capsys.readouterr().out.splitlines()[-3:] == [
        "Training was stopped early.",
        "b was trained for 1 of 4 epochs (1,500 of 6,000 steps).",
        "c was left out: its training had not begun.",
    ]


def test_warnings_come_first(capsys: pytest.CaptureFixture[str]) -> None:
    print_report("distill", {"warnings": ["a is at chance"], "ship": "best", "networks": [row("a")]})
    assert capsys.readouterr().out.startswith("Warning: a is at chance.\n")


def test_a_report_of_an_older_job_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    print_report("distill", {"ship": "best", "networks": [row("student")]})
    shown = capsys.readouterr().out
    assert "90.00%" in shown
    assert "early" not in shown


def test_the_columns_are_those_of_the_task(capsys: pytest.CaptureFixture[str]) -> None:
    test = {"test": {"best": {"test.psnr": 31.4567}}}
    print_report("distill", {"ship": "best", "columns": ["psnr", "ssim"], "networks": [row("student", **test)]})
    head, _, shown = filter(str.strip, capsys.readouterr().out.splitlines())
    assert head.split() == ["network", "architecture", "test", "psnr", "ssim", "parameters", "best", "epoch"]
    assert shown.split() == ["student", "resnet8", "31.457", "7", "0"]
