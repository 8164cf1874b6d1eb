"""Writing: an article with all its sections comes out whole, whatever breaks on the way; through Ollama and from a GGUF file."""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from papertune import prompts
from papertune.base import open_base
from papertune.config import ExportConfig, WriteConfig
from papertune.errors import BadValue, CannotWrite, OllamaUnavailable, SettingsChanged
from papertune.events import Event, Notice, Unit
from papertune.export import stage as export
from papertune.ollama import Ollama, address
from papertune.records import Example
from papertune.sampling import Sampling
from papertune.write.guard import Guard
from papertune.write.stage import run
from tests.adapters import random_adapter
from tests.fake_ollama import Body, Break, Drop, FakeOllama, Refuse, Slow, Stall

SECTIONS = ("Introduction", "Soils", "Methods", "Results", "Discussion", "Conclusions")
WORDS = [f"{a}{b}{c}" for a in ("wa", "so", "ri", "fe", "lu") for b in ("ter", "lin", "mor", "dan") for c in ("", "s", "ed", "al")]


def prose(request: Body) -> Iterable[str]:
    """Sentences of invented words, another text for another prompt and the same for the same."""
    draw = random.Random(hashlib.sha256(request["prompt"].encode()).digest())
    for k in range(30):
        sentence = " ".join(draw.choices(WORDS, k=draw.randint(8, 18))).capitalize() + "."
        yield from re.findall(r"\S+\s*", sentence + ("\n\n" if k % 4 == 3 else " "))


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("papertune.ollama._PAUSE", 0.01)


@pytest.fixture
def ollama() -> Iterator[FakeOllama]:
    with FakeOllama(answers=prose) as server:
        server.models["scientific-mistral:latest"] = {}
        yield server


@pytest.fixture
def config(ollama: FakeOllama, tmp_path: Path) -> Callable[..., WriteConfig]:
    def make(**changes: object) -> WriteConfig:
        settings: dict[str, object] = {
            "title": "Water in the root zone",
            "output": tmp_path / "article.md",
            "sections": SECTIONS,
            "words": 600,
            "host": ollama.url,
            "timeout": 2.0,
            "against": tmp_path / "train.jsonl",
            "text_dir": tmp_path / "texts",
        }
        return WriteConfig(**{**settings, **changes})  # type: ignore[arg-type]

    return make


def headings(path: Path) -> list[str]:
    return re.findall(r"^## (.*)$", path.read_text(), re.MULTILINE)


def test_all_sections_are_written_in_order_and_at_length(config: Callable[..., WriteConfig]) -> None:
    report = run(config())
    text = config().output.read_text()
    assert text.startswith("# Water in the root zone\n\n## Introduction\n\n")
    assert headings(config().output) == list(SECTIONS)
    lengths = [len(part.split()) for part in re.split(r"^## .*$", text, flags=re.MULTILINE)[1:]]
    assert all(100 <= length <= 140 for length in lengths)
    assert text.rstrip().endswith(".")
    assert report.states == {"ok": 6}
    assert report.next_command.startswith("papertune check ")


def test_prompts_are_in_the_format_of_training_and_fit_the_context(config: Callable[..., WriteConfig], ollama: FakeOllama) -> None:
    run(config(context=512))
    for body in ollama.sent("/api/generate"):
        assert body["raw"] is True
        assert body["prompt"].startswith("# Water in the root zone\n\n## ")
        assert len(body["prompt"].encode()) // 3 + body["options"]["num_predict"] < body["options"]["num_ctx"] == 512
    last = ollama.sent("/api/generate")[-1]["prompt"]
    assert last.rindex("## Conclusions\n\n") > last.index("## Discussion\n\n")


def test_the_prompt_carries_headings_first_sentences_and_the_end_of_the_section_before() -> None:
    before = [("One", "First words here. Second words."), ("Two", "Alpha words. Beta words. Gamma words.")]
    made = prompts.section("T", before, ("Three",), "Begun already.", room=1000, count=len)
    assert made == "# T\n\n## One\n\nFirst words here.\n\n…\n\n## Two\n\nAlpha words. Beta words. Gamma words.\n\n## Three\n\nBegun already."
    for room in range(40, 140, 7):
        assert len(prompts.section("T", before, ("Three",), "Begun already.", room=room, count=len)) <= room
    assert prompts.section("T", before, ("Three",), "Begun already. And on.", room=36, count=len) == "# T\n\n## Three\n\n…\n\nAnd on."


@pytest.mark.parametrize(
    "fault", [Drop(0), Drop(25), Break(7), Slow(0.002), Refuse(503, "server busy"), Stall(10)], ids=lambda fault: type(fault).__name__
)
def test_what_breaks_on_the_way_is_taken_up_again(config: Callable[..., WriteConfig], ollama: FakeOllama, fault: object) -> None:
    ollama.faults[:] = [fault, None] * 2  # type: ignore[list-item]
    events: list[Event] = []
    run(config(timeout=0.4), on_event=events.append)
    assert headings(config().output) == list(SECTIONS)
    told = [event.text for event in events if isinstance(event, Notice) and "trying again" in event.text]
    assert bool(told) != isinstance(fault, Slow)


def test_text_before_a_break_is_neither_lost_nor_written_twice(ollama: FakeOllama) -> None:
    ollama.answers = lambda request: re.findall(r"\S+ ", "one two three four five six "[len(request["prompt"]) - 1 :])
    ollama.faults[:] = [Drop(2), Break(1), Stall(0)]
    writer = Ollama(ollama.url, "scientific-mistral", context=512, timeout=0.3, say=lambda _: None)
    assert "".join(writer.write(">", Sampling(), 50)) == "one two three four five six "


def test_a_server_that_stays_away_is_an_error_and_the_finished_sections_stay(config: Callable[..., WriteConfig], ollama: FakeOllama) -> None:
    def leave(event: Event) -> None:
        if isinstance(event, Unit) and event.done == 2:
            ollama.faults[:] = [Refuse(500)] * 99

    with pytest.raises(OllamaUnavailable, match="5 times"):
        run(config(), on_event=leave)
    ollama.faults.clear()
    report = run(config())
    assert report.states == {"fresh": 2, "ok": 4}
    assert headings(config().output) == list(SECTIONS)


@pytest.mark.parametrize(("host", "model", "says"), [("http://127.0.0.1:9", "x", "ollama serve"), ("", "unknown", "ollama create unknown")])
def test_without_server_or_model_one_line_says_what_to_do(
    config: Callable[..., WriteConfig], ollama: FakeOllama, monkeypatch: pytest.MonkeyPatch, host: str, model: str, says: str
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", ollama.url)
    with pytest.raises(OllamaUnavailable, match=says):
        run(config(host=host, model=model))
    monkeypatch.undo()
    assert run(config()).states == {"ok": 6}  # with another model: what wrote nothing is nothing to go on with


def test_ollama_host_is_read_as_ollama_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for given, meant in {
        "": "http://127.0.0.1:11434",
        "box:99": "http://box:99",
        "0.0.0.0": "http://127.0.0.1:11434",
        "https://box/path/": "https://box:443/path",
        "[::1]:7": "http://[::1]:7",
    }.items():
        monkeypatch.setenv("OLLAMA_HOST", given)
        assert address() == meant
    assert address("other:5") == "http://other:5"


@pytest.mark.parametrize("given", ["http://localhost:abc", "127.0.0.1:99999", "[::1", "my host", "a..b"])
def test_an_address_that_is_none_is_told(config: Callable[..., WriteConfig], monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    with pytest.raises(BadValue, match=re.escape(f"--host {given} is no address of a server: ")):
        run(config(host=given))
    monkeypatch.setenv("OLLAMA_HOST", given)
    with pytest.raises(BadValue, match=re.escape(f"OLLAMA_HOST {given} is no address of a server: ")):
        run(config(host=""))


def test_a_server_that_answers_with_an_error_is_not_called_absent(config: Callable[..., WriteConfig], ollama: FakeOllama) -> None:
    ollama.routes["POST", "/api/show"] = lambda _ollama, handler, _rest: handler.answer({"error": "model file is corrupt"}, 500)
    with pytest.raises(OllamaUnavailable, match=rf"{ollama.url} cannot open scientific-mistral: model file is corrupt\. See its log"):
        run(config())


@pytest.mark.parametrize("seconds", [1e12, float("inf"), float("nan")])
def test_a_wait_without_end_is_refused(config: Callable[..., WriteConfig], seconds: float) -> None:
    with pytest.raises(BadValue, match="--timeout"):
        config(timeout=seconds)


def kill_within(config: WriteConfig, heading: str, seconds: float = 60) -> None:
    """Runs the step in a process of its own and kills it when it has begun to write under this heading."""
    imports = "from pathlib import PosixPath\nfrom papertune.config import WriteConfig\nfrom papertune.write.stage import run\n"
    code = f"{imports}run({config!r})"
    process = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + seconds
    while not (config.output and config.output.exists() and re.search(rf"## {heading}\n\n\s*\S", config.output.read_text())):
        assert process.poll() is None, "ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_after_kill_9_the_article_comes_out_as_if_nothing_had_happened(config: Callable[..., WriteConfig], ollama: FakeOllama) -> None:
    whole = config().output.with_name("whole.md")
    run(config(output=whole))
    for heading in ("Soils", "Results"):
        ollama.faults[:] = [Slow(0.001)] * 200
        kill_within(config(), heading)
    ollama.faults.clear()
    report = run(config())
    assert report.states["fresh"] >= 3
    assert config().output.read_text() == whole.read_text()
    assert not list(whole.parent.glob("*.edited-*"))  # what was broken off is no one's edit


def test_a_finished_article_is_left_alone_even_when_edited(config: Callable[..., WriteConfig], ollama: FakeOllama) -> None:
    run(config())
    config().output.write_text("Edited by hand.")
    asked = len(ollama.sent("/api/generate"))
    assert run(config()).fresh
    assert config().output.read_text() == "Edited by hand."
    assert len(ollama.sent("/api/generate")) == asked


@pytest.mark.parametrize("where", ["finished", "broken off"])
def test_edits_to_an_unfinished_article_are_kept(config: Callable[..., WriteConfig], ollama: FakeOllama, tmp_path: Path, where: str) -> None:
    run(config(output=tmp_path / "whole.md"))
    ollama.faults[:] = [None] * 2 + [Drop(60), *[Drop(0)] * 5]
    with pytest.raises(OllamaUnavailable):
        run(config())
    draft = config().output.read_text()
    begun = draft.rindex("## ")
    assert len(draft[begun:].split()) > 20
    words = draft[:begun].split()[-1] if where == "finished" else draft.split()[-1]
    edited = draft.replace(words, "MINE")
    for number in ("", "-2"):
        config().output.write_text(edited)
        ollama.faults[:] = [Drop(0)] * 5
        events: list[Event] = []
        with pytest.raises(OllamaUnavailable):
            run(config(), on_event=events.append)
        kept = tmp_path / f"article.edited-{hashlib.sha256(edited.encode()).hexdigest()[:8]}{number}.md"
        assert kept.read_text() == edited
        assert any(isinstance(event, Notice) and event.level == "warning" and kept.name in event.text for event in events)
    ollama.faults.clear()
    run(config())
    assert config().output.read_text() == (tmp_path / "whole.md").read_text()
    assert len(list(tmp_path.glob("article.edited-*"))) == 2


def test_another_article_or_a_file_of_the_users_is_never_written_over(config: Callable[..., WriteConfig], tmp_path: Path) -> None:
    run(config())
    with pytest.raises(SettingsChanged, match="another title"):
        run(config(title="Something else"))
    (tmp_path / "mine.md").write_text("Mine.")
    with pytest.raises(CannotWrite, match=r"mine\.md exists"):
        run(config(output=tmp_path / "mine.md"))


def test_a_model_that_was_trained_anew_does_not_go_on_with_the_article_of_the_old_one(
    config: Callable[..., WriteConfig], ollama: FakeOllama, gguf: Path, tmp_path: Path
) -> None:
    run(config())
    ollama.models["scientific-mistral:latest"] = {"files": {"model.gguf": "sha256:1"}}
    with pytest.raises(SettingsChanged, match=r"article\.md was begun by another model than scientific-mistral is now"):
        run(config())
    del ollama.routes["GET", "/api/tags"]
    assert run(config()).fresh  # where the server does not tell, the name alone counts
    assert run(config(host="http://127.0.0.1:9")).fresh
    model = shutil.copy(gguf, tmp_path / "model.gguf")
    changes: dict[str, object] = {"gguf": model, "words": 50, "sections": SECTIONS[:1], "threads": 1, "context": 512, "output": tmp_path / "b.md"}
    run(config(**changes))
    assert run(config(**changes)).fresh
    random_adapter(open_base("tiny"), tmp_path / "final", size=0.01, seed=1)
    export.run(ExportConfig(lora_path=tmp_path / "final", gguf_path=model))
    assert model.stat().st_size == gguf.stat().st_size
    with pytest.raises(SettingsChanged, match=r"begun by another model than .*model\.gguf is now"):
        run(config(**changes))


def test_the_title_names_the_file_and_must_be_there(config: Callable[..., WriteConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(config(title="Wasser & Böden: ein Überblick", output=None, words=60)).written == [Path("wasser-boden-ein-uberblick.md")]
    with pytest.raises(BadValue, match="TITLE"):
        run(config(title=" "))


def test_the_model_is_asked_for_an_outline(config: Callable[..., WriteConfig], ollama: FakeOllama) -> None:
    contents = " Water retention\n3. Roots and soil pores\n4. Field methods\n5. References\n6. 12.3 $$$\n7. Yield\n8. Concl"
    ollama.answers = lambda request: [contents] if "## Contents" in request["prompt"] else prose(request)
    run(config(sections=()))
    assert headings(config().output) == ["Introduction", "Water retention", "Roots and soil pores", "Field methods", "Yield", "Conclusions"]


def test_without_a_usable_outline_the_usual_sections_are_taken_and_said_so(config: Callable[..., WriteConfig]) -> None:
    events: list[Event] = []
    run(config(sections=(), words=60), on_event=events.append)
    assert headings(config().output) == ["Introduction", "Background", "Methods", "Results", "Discussion", "Conclusions"]
    assert any(isinstance(event, Notice) and "outline" in event.text for event in events)


def test_an_outline_file_may_be_written_as_people_write_them(config: Callable[..., WriteConfig], tmp_path: Path) -> None:
    (tmp_path / "outline.md").write_text("## Introduction\n\n- Roots\n2. Pores in soil\n  3.1 Deep water\n* Roots\n")
    run(config(sections=(), outline=tmp_path / "outline.md", words=60))
    assert headings(config().output) == ["Introduction", "Roots", "Pores in soil", "Deep water"]
    with pytest.raises(BadValue, match="--outline"):
        run(config(sections=(), outline=tmp_path / "none.md", output=tmp_path / "other.md"))


def test_a_model_that_runs_in_circles_is_stopped(config: Callable[..., WriteConfig], ollama: FakeOllama) -> None:
    ollama.answers = lambda _request: ["The same water stands in the same pores. "] * 200
    report = run(config())
    assert config().output.read_text().count("The same water") == 1
    assert headings(config().output) == list(SECTIONS)
    assert report.states == {"ok": 1, "empty": 5}


def test_a_model_that_begins_the_next_section_itself_has_ended_this_one(config: Callable[..., WriteConfig], ollama: FakeOllama) -> None:
    ollama.answers = lambda request: [*list(prose(request))[:60], "\n\n## Its own heading\n\n", "Not wanted here at all."]
    run(config())
    assert headings(config().output) == list(SECTIONS)
    assert "Not wanted" not in config().output.read_text()


@pytest.mark.parametrize(
    ("sentence", "fault"),
    [
        ("Water is held in the pores of the soil by capillary forces.", ""),
        ("In the present study the roots of beech took up water mostly from below.", ""),
        ("The roots of the tree took up the water that the soil had held since the spring rains began.", "repeats"),
        ("of the of the of the of the of the of the of the of the", "repeats"),
        ("{}[]();;== 4 /// ::::", "drifts"),
        ("… —", "drifts"),
    ],
)
def test_the_guard_knows_prose_from_circles(sentence: str, fault: str) -> None:
    guard = Guard()
    guard.keep("The roots of the tree took up the water that the soil had held since the spring rains.")
    assert guard.fault(sentence) == fault


def test_copies_from_the_training_text_are_told(config: Callable[..., WriteConfig], ollama: FakeOllama, tmp_path: Path) -> None:
    stolen = " ".join(f"w{i}ord" for i in range(60)).capitalize() + "."
    (tmp_path / "train.jsonl").write_text(Example("a#0", "smith", stolen, source="smith2019.pdf", pages=(3, 3)).to_json() + "\n")
    ollama.answers = lambda request: [stolen + " "] if "## Soils" not in request["prompt"] else prose(request)
    shown = dict(run(config()).summary)
    assert shown["copied"].endswith("tokens or more; longest " + shown["copied"].split()[-1])
    assert any(value.startswith("smith2019.pdf, page 3: “W0ord w1ord") for value in shown.values())


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gguf")
    random_adapter(open_base("tiny"), folder / "final", size=0.01)
    export.run(ExportConfig(lora_path=folder / "final", gguf_path=folder / "tiny.gguf"))
    return folder / "tiny.gguf"


def test_a_gguf_writes_without_ollama_the_same_every_time(gguf: Path) -> None:
    from papertune.llama import Gguf

    with Gguf(gguf, context=256, threads=1) as writer:
        first = list(writer.write("# Water\n\n", Sampling(seed=5), 40))
        again = list(writer.write("# Water\n\n", Sampling(seed=5), 40))
        other = list(writer.write("# Water\n\n", Sampling(seed=6), 40))
        assert first == again != other
        assert len("".join(writer.write("# Water\n\n" * 500, Sampling(), 8))) > 0
        greedy = Sampling(temperature=0.0, repeat_penalty=1.0)
        assert "".join(writer.write("# Water\n\n", greedy, 8)) == "".join(writer.write("# Water\n\n", greedy, 8))


def test_a_model_that_writes_no_prose_still_fills_every_section(config: Callable[..., WriteConfig], gguf: Path) -> None:
    events: list[Event] = []
    report = run(config(gguf=gguf, words=60, sections=SECTIONS[:3], threads=1, context=512), on_event=events.append)
    assert report.states == {"ok": 3}
    assert headings(config().output) == list(SECTIONS[:3])
    assert any(isinstance(event, Notice) and "taken as it comes" in event.text for event in events)


def served(ollama: FakeOllama, gguf: Path) -> None:
    """The server answers with what this model writes."""
    from papertune.llama import Gguf

    ended: dict[str, bool] = {}

    def answers(request: Body) -> Generator[str, None, None]:
        options = request["options"]
        sampling = Sampling(**{field.name: options[field.name] for field in fields(Sampling)})
        with Gguf(gguf, context=options["num_ctx"], threads=1) as model:
            ended[request["prompt"]] = yield from model.write(request["prompt"], sampling, options["num_predict"])

    ollama.answers = answers
    ollama.done_reason = lambda request: "stop" if ended[request["prompt"]] else "length"


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
@pytest.mark.parametrize("through", ["a GGUF", "Ollama that breaks"])
def test_3000_words_by_the_demos_model_end_and_survive_kill_9(
    config: Callable[..., WriteConfig], ollama: FakeOllama, demo_gguf: Path, tmp_path: Path, through: str
) -> None:
    changes: dict[str, object] = {"words": 3000, "gguf": demo_gguf, "threads": 1} if through == "a GGUF" else {"words": 3000, "timeout": 1.0}
    served(ollama, demo_gguf)
    faults = [Drop(25), Slow(0.001), Break(40), Slow(0.001), Stall(30), Refuse(503, "server busy"), Drop(0)]
    ollama.faults[:] = faults * 12
    whole = tmp_path / "whole.md"
    report = run(config(**changes, output=whole))
    assert report.states == {"ok": 6}
    assert headings(whole) == list(SECTIONS)
    assert dict(report.summary)["words"].endswith(" of 3,000 asked")
    parts = re.split(r"^## .*$", whole.read_text(), flags=re.MULTILINE)[1:]
    assert all(450 <= len(part.split()) <= 650 for part in parts)
    for heading in ("Soils", "Results"):
        ollama.faults[:] = [Slow(0.001), *faults] * 12
        kill_within(config(**changes), heading, seconds=600)
        kept = config().output.read_text().split(f"## {heading}\n")[0]
    ollama.faults[:] = faults * 12
    assert run(config(**changes)).states["fresh"] >= 3
    text = config().output.read_text()
    assert headings(config().output) == list(SECTIONS)
    assert text.split()[: len(kept.split())] == kept.split()  # sections that were whole stay; only spaces at their ends go
    if through == "a GGUF":  # behind a connection that breaks, the words hang on where it broke
        assert text == whole.read_text()
