"""The command line: lists of folders, one line an error, and two kinds of Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import re
import runpy
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from papertune import cli, errors
from papertune.errors import ExitCode, Interrupted, PapertuneError
from papertune.events import Event, Notice, Started, Unit
from papertune.progress import PlainLines, duration

ROOT = Path(__file__).parents[2]
LISTS = {"--input-dir"}


@pytest.mark.parametrize(
    ("typed", "known_to_click"),
    [
        (["--input-dir", "a", "b", "--workers", "2"], ["--input-dir", "a", "--input-dir", "b", "--workers", "2"]),
        (["--input-dir", "a", "--input-dir", "b"], ["--input-dir", "a", "--input-dir", "b"]),
        (["--device", "cpu", "--no-resume"], ["--device", "cpu", "--no-resume"]),
        (["--input-dir"], ["--input-dir"]),
    ],
)
def test_a_list_flag_takes_several_words(typed: list[str], known_to_click: list[str]) -> None:
    assert cli._repeat_flags(typed, LISTS) == known_to_click


def fail(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize("error", sorted(errors.all_errors(), key=lambda e: e.id), ids=lambda e: e.id)
def test_every_error_is_one_line_with_its_id_and_exit_code(error: type[PapertuneError], capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.guarded(lambda: fail(error("The file a\nb is bad.", "Mend it.")))
    said = capsys.readouterr().err
    assert code == error.exit_code
    assert said == f"papertune: error[{error.id}]: The file a\\nb is bad. Mend it.\n"


def test_run_reads_each_step_where_the_one_before_it_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = '[extract]\noutput-dir = "t"\n[prepare]\noutput-dir = "d"\nmax-tokens = 256\n[train]\noutput-dir = "l"\n'
    (tmp_path / "papertune.toml").write_text(settings)
    ran: list[Any] = []
    monkeypatch.setattr(cli, "execute", ran.append)
    cli.papertune.commands["run"].main(["--input-dir", "a", "b", "--model", "tiny"], standalone_mode=False)
    extract, prepare, train, export, report = ran
    assert (extract.input_dir, prepare.input_dir, prepare.trained) == ((Path("a"), Path("b")), Path("t"), Path("l"))
    assert (train.model, train.train_file, train.val_file, train.max_seq_len) == ("tiny", Path("d/train.jsonl"), Path("d/val.jsonl"), 256)
    assert (export.lora_path, export.val_file) == (Path("l/final"), Path("d/val.jsonl"))
    assert (report.text_dir, report.dataset_dir, report.lora_dir) == (Path("t"), Path("d"), Path("l"))


def test_a_letter_that_the_output_has_not_is_no_fault(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "papertune", "prepare", "--help"]
    answer = subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONIOENCODING": "cp1252"}, capture_output=True, check=False)
    assert (answer.returncode, answer.stderr) == (0, b"")
    assert b"\\u2248" in answer.stdout


def test_every_error_stands_in_the_documentation() -> None:
    text = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (\S+)", text, re.M)
    assert sorted(headings) == sorted({error.id for error in errors.all_errors()} | {"bad-flag"})
    assert len(headings) == len(set(headings))


def test_the_command_reference_is_current() -> None:
    written = runpy.run_path(str(ROOT / "docs" / "write_commands.py"))
    assert written["PLACE"].read_text(encoding="utf-8") == written["text"](), "run make docs"


def test_a_fault_of_papertune_is_one_line_and_keeps_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.guarded(lambda: fail(KeyError("oops"))) == ExitCode.FAULT
    said = capsys.readouterr().err
    kept = Path(re.search(r"report it with (\S+)", said)[1])  # type: ignore[index]
    assert said.count("\n") == 1
    assert "KeyError" in kept.read_text()
    kept.unlink()


def test_the_first_ctrl_c_waits_for_the_unit_and_the_second_does_not() -> None:
    seen: list[Event] = []
    with cli.CtrlC(seen.append) as on_event:
        on_event(Unit(1))
        os.kill(os.getpid(), signal.SIGINT)
        on_event(Notice("half way through unit 2"))
        with pytest.raises(Interrupted):
            on_event(Unit(2))
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert seen == [Unit(1), Notice("half way through unit 2"), Unit(2)]


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no such signal")
def test_a_terminal_that_closes_is_one_ctrl_c_however_often_it_says_so() -> None:
    with cli.CtrlC(lambda _: None) as on_event:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGHUP)
        with pytest.raises(Interrupted):
            on_event(Unit(1))


WORK = """
import sys, time
from pathlib import Path
from papertune import cli
from papertune.config import PrepareConfig
from papertune.events import Notice, Report, Started, Unit

def work(config, on_event):
    on_event(Started("Working", 30, "units"))
    for number in range(1, 31):
        time.sleep(0.02)
        on_event(Notice(f"line {number}"))
        Path("done").write_text(str(number))
        on_event(Unit(number))
    return Report("prepare")

cli.run_step = work
cli._settle()
cli._leave(cli.guarded(lambda: cli.execute(PrepareConfig())))
"""


@pytest.mark.skipif(os.name == "nt", reason="pipes and terminals of POSIX")
def test_work_goes_on_when_nobody_reads_its_lines_any_more(tmp_path: Path) -> None:
    command, environ = [sys.executable, "-c", WORK], {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environ) as run:
        assert run.stdout is not None
        run.stdout.readline()
        run.stdout.close()
    assert run.returncode == 0
    assert (tmp_path / "done").read_text() == "30"


@pytest.mark.skipif(os.name == "nt", reason="pipes and terminals of POSIX")
@pytest.mark.parametrize("disowned", [True, False])
def test_work_outlives_its_terminal_or_ends_with_what_it_has(disowned: bool, tmp_path: Path) -> None:
    import pty

    child, terminal = pty.fork()
    if child == 0:
        os.chdir(tmp_path)
        if disowned:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        os.execve(sys.executable, [sys.executable, "-c", WORK], {**os.environ, "PYTHONPATH": str(ROOT / "src")})
    while b"line 3" not in os.read(terminal, 4096):
        pass
    os.close(terminal)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    done = int((tmp_path / "done").read_text())
    assert (code, done) == (0, 30) if disowned else (code == ExitCode.INTERRUPTED and 3 <= done < 30)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["extract", "--device", "tpu"], 2, "error[bad-value]: --device: 'tpu'"),
        (["extract", "--colour"], 2, "error[bad-flag]: No such option"),
        (["train", "--lr", "fast"], 2, "error[bad-value]: --lr: 'fast' is not a number"),
        (["prepare", "--overlap", "3000"], 2, "error[bad-value]: --overlap 3000"),
        (["nonsense"], 2, "error[bad-flag]: No such command"),
        (["plan", "--model", "/no/such/model"], 3, "error[bad-model]: --model /no/such/model"),
        (["plan", "--model", "one/two/three"], 3, "error[bad-model]: --model one/two/three"),
        (["plan", "--gpu", "RTX 3070", "--model", "long" * 99], 2, "error[bad-value]: " + "long" * 99 + " is longer than"),
    ],
)
def test_wrong_words_get_one_line(words: list[str], code: int, said: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    answer = subprocess.run([sys.executable, "-m", "papertune", *words], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stdout) == (code, "")
    assert answer.stderr.startswith(f"papertune: {said}")
    assert answer.stderr.count("\n") == 1


@pytest.mark.skipif(os.name == "nt", reason="a shell closes them")
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_command_whose_output_is_closed_does_its_work(closed: str, tmp_path: Path) -> None:
    (tmp_path / "extracted_text").mkdir()
    for name in "abc":
        (tmp_path / "extracted_text" / f"{name}.txt").write_text(f"The root {name} took up water all summer long, as was seen. " * 30)
    words = f"{sys.executable} -m papertune prepare {closed}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    assert subprocess.run(["sh", "-c", words], cwd=tmp_path, env=environment, check=False).returncode == 0
    assert (tmp_path / "dataset" / "train.jsonl").is_file()


def test_plain_lines_say_how_far_and_how_long() -> None:
    lines: list[str] = []
    clock = iter([0.0, 0.0, 0.0, 20.0, 21.0, 40.0]).__next__
    sink = PlainLines(lines.append, clock)
    sink(Started("Reading papers", 10, "files", done=2))
    sink(Unit(3))
    sink(Unit(6, figures={"pages/s": "40"}))
    sink(Unit(7))
    sink(Notice("No GPU.", "warning"))
    sink(Unit(10))
    assert lines == [
        "Reading papers: 2 of 10 files done\n",
        "  6 of 10 files, pages/s 40, about 20 s left\n",
        "Warning: No GPU.\n",
        "  10 of 10 files\n",
    ]


def test_work_of_unknown_size_is_counted() -> None:
    lines: list[str] = []
    sink = PlainLines(lines.append, iter([0.0, 0.0, 20.0]).__next__)
    sink(Started("Reading the examples", None, "examples"))
    sink(Unit(22_000))
    assert lines == ["Reading the examples\n", "  22,000 examples\n"]


def test_a_step_that_knows_better_says_how_long_it_takes() -> None:
    lines: list[str] = []
    sink = PlainLines(lines.append, iter([0.0, 0.0, 20.0]).__next__)
    sink(Started("Training", 10, "steps"))
    sink(Unit(5, left=300.0))
    assert lines[-1] == "  5 of 10 steps, about 5 min left\n"


def test_nothing_is_guessed_from_first_steps_that_take_longer() -> None:
    lines: list[str] = []
    sink = PlainLines(lines.append, iter([0.0, 0.0, 20.0, 40.0]).__next__)
    sink(Started("Training", 10, "steps", uneven=True))
    sink(Unit(1))
    sink(Unit(3, left=14.0))
    assert lines[1:] == ["  1 of 10 steps\n", "  3 of 10 steps, about 14 s left\n"]


@pytest.mark.skipif(os.name == "nt", reason="there are no such terminals")
@pytest.mark.parametrize("columns", ["80", "100", "160"])
def test_a_terminal_shows_a_bar_and_what_is_left_once_that_is_known(columns: str) -> None:
    import pty

    steps = """
import time
from papertune.events import Started, Unit
from papertune.progress import display
with display() as sink:
    sink(Started("Training", 9, "steps", uneven=True))
    for done, left in ((1, None), (2, None), (3, 240.0)):
        sink(Unit(done, figures={"loss": "9.073", "tokens/s": "6,133", "memory": "0.5 GiB", "held-out bits/byte": "3.313"}, left=left))
        time.sleep(0.3)
"""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": columns}
    child = subprocess.Popen([sys.executable, "-c", steps], stderr=theirs, env=environment)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # the end of a terminal
        while part := os.read(ours, 4096):
            shown += part
    os.close(ours)
    assert child.wait() == 0
    text = shown.decode()
    assert set(re.findall(r"[1-9]/9", text)) >= {"2/9", "3/9"}
    assert set(re.findall(r"-:--:--|\d+:\d\d:\d\d|\d+ min", text)) == {"-:--:--", "4 min"}
    assert {"━", "9.073", "6,133", "3.313"} <= {*re.findall("━|[0-9][0-9.,]{4}", text)}


@pytest.mark.parametrize(("seconds", "words"), [(40, "40 s"), (300, "5 min"), (7800, "2 h 10 min")])
def test_durations_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words
