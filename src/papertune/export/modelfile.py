"""The Modelfile that tells Ollama how to run the exported model: a base model that goes on writing from what it is given.

Grammar: ``INSTRUCTION value`` a line, or a value between triple quotes over several lines (Ollama's docs/modelfile.md). Values that could
end their quotes, open a template or start a line of their own are refused. The file's last line, a comment, holds the SHA-256 of the lines
before it, which tells a file that a person has changed from one that may be written anew.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from papertune.errors import BadValue
from papertune.files import as_bytes

TEMPLATE = "{{ .Prompt }}"  # nothing around the prompt: the model goes on from it
_NAME = re.compile(r"(?:[\w.-]+(?::\d+)?/)?(?:[\w-]+/)?[A-Za-z0-9_][\w.-]{0,79}(?::[A-Za-z0-9_][\w.-]{0,79})?", re.ASCII)
_MARK = b"# Written by papertune, which replaces this file while it is unchanged: "
_CONTEXT = 4096  # tokens; a longer context takes memory whether it is used or not


@dataclass(frozen=True, slots=True)
class Modelfile:
    """``gguf`` is the file's name as seen from the Modelfile."""

    gguf: str
    parameters: Mapping[str, float | int | str]
    template: str = TEMPLATE
    licence: str = ""

    def text(self) -> str:
        """Raises BadValue when a value cannot be written safely."""
        lines = [f"FROM ./{checked_file(self.gguf)}", f'TEMPLATE """{self.template}"""']
        for name, value in self.parameters.items():
            written = f'"{_plain(value, name)}"' if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else str(value)
            lines.append(f"PARAMETER {name} {written}")
        if self.licence:
            if '"""' in self.licence or self.licence.startswith('"') or self.licence.endswith('"'):
                raise BadValue('The licence holds """ or has a quote at an end, where quotes of the Modelfile stand.', "Leave the licence away.")
            lines.append(f'LICENSE """{self.licence}"""')
        return "\n".join(lines) + "\n"


def marked(text: str) -> bytes:
    """The bytes of a Modelfile with this text."""
    lines = as_bytes(text)
    return lines + _mark_of(lines)


def is_unchanged(file: bytes) -> bool:
    """Whether the bytes of a Modelfile are as papertune wrote them."""
    lines = file[: max(0, file.rfind(_MARK))]
    return file == lines + _mark_of(lines)


def _mark_of(lines: bytes) -> bytes:
    return _MARK + hashlib.sha256(lines).hexdigest()[:16].encode() + b"\n"


def parameters(context_length: int, window: int | None, stop: str) -> dict[str, float | int | str]:
    """Settings for long text: a base model repeats itself when sampled too greedily, and wanders when sampled too freely.

    The context is kept within the sliding window, because llama.cpp's Mistral attends to everything: beyond the window it would do what the
    model was never trained for.
    """
    return {
        "num_ctx": min(context_length, window or context_length, _CONTEXT),
        "num_predict": 1024,
        "temperature": 0.8,
        "top_p": 0.95,
        "min_p": 0.05,
        "repeat_penalty": 1.1,
        "repeat_last_n": 256,
        "stop": stop,
    }


def checked_name(name: str) -> str:
    """``name`` when Ollama would take it: ``[host/][namespace/]model[:tag]``. Raises BadValue."""
    if not _NAME.fullmatch(name):
        what = f"--ollama-name: {name!r} is no name for a model."
        raise BadValue(what, "Use letters, digits, dots, dashes and underscores, such as scientific-mistral.")
    return name


def checked_file(name: str) -> str:
    """A GGUF file's ``name`` when a Modelfile can hold it. Raises BadValue."""
    return _plain(name, "the GGUF file name")


def _plain(value: str, what: str) -> str:
    if any(c in value for c in '\n\r\0"') or "{{" in value or value != value.strip():
        raise BadValue(f"{value!r} cannot stand in a Modelfile ({what}).", "Choose a name without quotes, line breaks or {{.")
    return value
