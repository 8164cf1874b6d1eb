"""The command ``papertune`` with a verb a step; the four scripts of ``finetune/`` are its verbs under the names of the specification.

Flags are made from the config dataclasses. Errors become one line and an exit code (``errors.py``). The first Ctrl-C lets the unit in
progress end and stops between two units; the second stops at once. Nothing heavy is imported before a step runs, so ``--help`` is quick.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import Field, fields
from importlib import import_module
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import Any, NoReturn

import click

from papertune import __version__
from papertune.config import CONFIGS, Config, PlanConfig, convert, flag_of, hints_of, is_list, words
from papertune.dataset.outputs import TRAIN, VAL
from papertune.errors import BadValue, ExitCode, Interrupted, PapertuneError, from_os_error
from papertune.events import Event, OnEvent, Report, Unit, ignore
from papertune.launch import launch

_HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 120}
_HANG_UP = getattr(signal, "SIGHUP", 0)  # which Windows has not
_WIDE = 24  # characters of choices that stand beside a flag; more go behind its note


class ListCommand(click.Command):
    """A command of which the flags in ``lists`` take several words: ``--input-dir ../pdfs ../ebooks``."""

    def __init__(self, *args: Any, lists: set[str], **attributes: Any) -> None:
        self.lists = lists
        super().__init__(*args, **attributes)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, list(_repeat_flags(args, self.lists)))


class StepCommand(ListCommand):
    """A step as a command. A setting whose flag is in capitals (``TITLE``) is typed without one."""

    def __init__(self, name: str, config: type[Config], defaults: Mapping[str, Any], *, as_script: bool = False) -> None:
        hints = hints_of(config)
        lists = {flag_of(spec) for spec in fields(config) if is_list(hints[spec.name])}
        options: list[click.Parameter] = [_parameter(spec, hints[spec.name]) for spec in fields(config)]
        callback = _runner(config, defaults, as_script)
        super().__init__(name, lists=lists, params=options, callback=callback, help=config.__doc__, context_settings=_HELP)


def run_step(config: Config, on_event: OnEvent) -> Report:
    """Runs the step that this config is for."""
    module = import_module(f"papertune.{_MODULES[config.step]}")
    report: Report = module.run(config, on_event=on_event)
    return report


def guarded(action: Callable[[], None]) -> int:
    """Runs ``action`` and turns whatever it raises into one line on standard error and an exit code."""
    try:
        action()
    except PapertuneError as error:
        return _refuse(error) if launch().first else error.exit_code  # the others stop with it, for the same reason
    except click.ClickException as error:
        _say(f"error[bad-flag]: {error.format_message().rstrip('.')}. See --help.")
        return ExitCode.USAGE
    except (KeyboardInterrupt, click.Abort):
        _say("Stopped at once. Run the same command again to go on.")
        return ExitCode.INTERRUPTED
    except click.exceptions.Exit as exit:
        return exit.exit_code
    except BrokenPipeError:
        return ExitCode.OK
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return _refuse(from_os_error(error, error.filename or "a file"))
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            return _refuse(BadValue(f"{error.filename} is longer than a path may be here.", "Name a shorter one."))
        _say(f"fault: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}. Please report it with {_keep_traceback()}")
        return ExitCode.FAULT
    return ExitCode.OK


def _refuse(error: PapertuneError) -> int:
    _say(f"error[{error.id}]: {error.what} {error.remedy}")
    return error.exit_code


def _keep_traceback() -> Path:
    with tempfile.NamedTemporaryFile("w", prefix="papertune-fault-", suffix=".txt", delete=False, encoding="utf-8") as file:
        file.write(f"papertune {__version__}\n{traceback.format_exc()}")
    return Path(file.name)


class CtrlC:
    """While active, the first Ctrl-C (or SIGTERM, or the terminal closing) makes the event sink raise Interrupted after the unit in progress.

    Work goes on without a display where there is nobody left to show it to: a terminal that was closed, ``tee`` ended by the same Ctrl-C.
    """

    def __init__(self, sink: OnEvent) -> None:
        self._sink, self._asked = sink, False

    def __call__(self, event: Event) -> None:
        try:
            self._sink(event)
        except OSError:
            self._sink = ignore
        if self._asked and isinstance(event, Unit):
            raise Interrupted

    def __enter__(self) -> CtrlC:
        asking = [number for number in (signal.SIGINT, signal.SIGTERM, _HANG_UP) if number and signal.getsignal(number) != signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._ask) for number in asking}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _frame: FrameType | None) -> None:
        if self._asked and number == _HANG_UP:  # a closing terminal says so twice
            return
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
        if launch().first:
            _say("Finishing the work in progress; press Ctrl-C again to stop at once.")


def execute(config: Config, *, as_script: bool = False) -> Report:
    """A step with a progress display, Ctrl-C handling and its report printed; of several processes by the first alone."""
    from papertune.progress import display, show_report

    if not launch().first:
        with CtrlC(ignore) as on_event:
            return run_step(config, on_event)
    with display() as sink, CtrlC(sink) as on_event:
        report = run_step(config, on_event)
    with suppress(OSError):  # nobody left to read it
        show_report(report, as_script=as_script)
    return report


def _runner(config: type[Config], defaults: Mapping[str, Any], as_script: bool) -> Callable[..., None]:
    def callback(**flags: Any) -> None:
        typed = {name: value for name, value in flags.items() if value is not None and value != ()}
        execute(config.resolve(typed, defaults=defaults), as_script=as_script)

    return callback


def _parameter(spec: Field[Any], hint: Any) -> click.Parameter:
    flag, default = flag_of(spec), spec.default
    note = spec.metadata["note"]
    if hint is bool:
        return click.Option([flag, spec.name], is_flag=True, flag_value=not default, default=None, help=note)

    def parse(_context: click.Context, _option: click.Parameter, value: Any) -> Any:
        if value is None or value == ():
            return None
        return convert(spec, hint, value, flag)

    if flag.isupper():
        count, shown = (-1, f"[{flag}]...") if is_list(hint) else (1, flag)
        return click.Argument([spec.name], type=str, nargs=count, required=not default, default=None, callback=parse, metavar=shown)
    help = note if default in (None, "", ()) or default is False else f"{note}  [default: {_shown(default)}]"
    choices = "|".join(spec.metadata["choices"])
    if len(choices) > _WIDE:
        help, choices = f"{help}  [{choices}]", "NAME"
    metavar = choices or words(hint).split()[-1].upper()
    return click.Option([flag, spec.name], type=str, multiple=is_list(hint), default=None, callback=parse, metavar=metavar, help=help)


def _shown(default: Any) -> str:
    """A default as the specification writes it: ``./pdfs``, not ``pdfs``."""
    if isinstance(default, tuple):
        return " ".join(map(_shown, default))
    if isinstance(default, Path):
        return str(default) if default.is_absolute() else f"./{default}"
    return f"{default:g}" if isinstance(default, float) else str(default)


def _repeat_flags(args: list[str], lists: set[str]) -> list[str]:
    """``--input-dir a b`` as ``--input-dir a --input-dir b``, which is the form click knows."""
    repeated: list[str] = []
    flag, values = "", 0
    for arg in args:
        if arg.startswith("-") and arg != "-":
            flag, values = arg if arg in lists else "", 0
        elif flag:
            values += 1
            if values > 1:
                repeated.append(flag)
        repeated.append(arg)
    return repeated


_MODULES = {
    "extract": "extract.stage",
    "prepare": "dataset.stage",
    "train": "train.stage",
    "export": "export.stage",
    "evaluate": "evaluate.stage",
    "check": "evaluate.check",
    "write": "write.stage",
    "analyze": "analyze.stage",
    "report": "report.stage",
}
_STEPS: dict[str, type[Config]] = {config.step: config for config in CONFIGS}


@click.group(context_settings=_HELP, epilog="Settings can also stand in papertune.toml; see docs/architecture.md.")
@click.version_option(__version__, prog_name="papertune")
def papertune() -> None:
    """From a folder of papers to a local model in Ollama that writes in their domain."""


for _name, _config in _STEPS.items():
    papertune.add_command(StepCommand(_name, _config, {}))
    if _name == "train":
        papertune.add_command(StepCommand("plan", PlanConfig, {}))


@papertune.command(cls=ListCommand, lists={"--input-dir"})
@click.option("--input-dir", multiple=True, help="Folders of papers; other settings come from papertune.toml.")
@click.option("--model", help="Base model, as for papertune train.")
def run(input_dir: tuple[str, ...], model: str | None) -> None:
    """All four steps, each skipped when nothing has changed, and report.html of them."""
    folders = {"input_dir": tuple(Path(folder) for folder in input_dir)} if input_dir else {}
    for config in _pipeline(folders, {"model": model} if model else {}):
        execute(config)


def _pipeline(extract_flags: Mapping[str, Any], train_flags: Mapping[str, Any]) -> list[Config]:
    """The settings of the four steps and of the report. Each reads what the one before it writes, wherever that is, unless it is told otherwise."""

    def step(name: str, flags: Mapping[str, Any] = MappingProxyType({}), **defaults: Any) -> Any:
        return _STEPS[name].resolve(flags, defaults=defaults)

    extract, lora = step("extract", extract_flags), step("train", train_flags).output_dir
    prepare = step("prepare", input_dir=extract.output_dir, trained=lora)
    files = {"train_file": prepare.output_dir / TRAIN, "val_file": prepare.output_dir / VAL}
    train = step("train", train_flags, **files, max_seq_len=prepare.max_tokens)
    export = step("export", lora_path=lora / "final", val_file=train.val_file)
    report = step("report", text_dir=extract.output_dir, dataset_dir=prepare.output_dir, lora_dir=lora, gguf=(export.gguf_path,))
    return [extract, prepare, train, export, report]


@papertune.command()
@click.option("--folder", default="demo", type=click.Path(path_type=Path), help="Where the demo's files go.  [default: demo]")
def demo(folder: Path) -> None:
    """The four steps on six small papers of our own with a toy model, without a GPU or an account."""
    from papertune.demo.walkthrough import walk

    walk(folder, execute)


@papertune.command()
def doctor() -> None:
    """What is missing for the real thing, each line with its fix."""
    from papertune.doctor import examine

    examine()


def main(args: list[str] | None = None) -> None:
    """The command ``papertune``."""
    _settle()
    _leave(guarded(lambda: papertune.main(args, prog_name="papertune", standalone_mode=False)))


def script(step: str, **defaults: Any) -> None:
    """A step under a script's own name: those of ``finetune/``, ``pdf_analyzer_pro.py``. ``defaults`` take the place of the config's."""
    _settle()
    command = StepCommand(Path(sys.argv[0]).name, _STEPS[step], defaults, as_script=True)
    _leave(guarded(lambda: command.main(standalone_mode=False)))


def _settle() -> None:
    """OpenMP threads that wait for work sleep instead of spinning, which on a busy machine costs most of the time: read when torch loads. What a
    terminal, or a file on Windows, has no letter for is printed as its number, and what was closed beforehand takes everything and shows nothing."""
    sys.stdout, sys.stderr = (stream or open(os.devnull, "w", encoding="utf-8") for stream in (sys.stdout, sys.stderr))  # noqa: SIM115
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _leave(code: int) -> NoReturn:
    """Ends with this code, and not with Python's own for output that nobody reads any more."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(code)


def _say(text: str) -> None:
    with suppress(OSError):
        print(f"papertune: {text}", file=sys.stderr, flush=True)
