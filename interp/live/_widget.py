"""The live page as an `anywidget`: in a notebook, with the notebook's model behind it.

The page's module asks by message: {"id": 7, "kind": "head", "args": {...}} → {"id": 7, "answer": {...}}. A
kernel takes one message after the other, so nothing runs beside anything else.
"""

from __future__ import annotations

from typing import Any

from interp.live._page import Page, module, source
from interp.live._serve import LARGEST, Asking

_INSTALL = (
    "a widget needs the package anywidget: pip install 'interp-workbench[widget]'. Without it, `page` itself "
    "shows the page in a notebook, with the answers that were made beforehand."
)


def reply(asking: Asking, message: Any) -> dict[str, Any] | None:
    """The message that answers a message; None for what is no question."""
    if not isinstance(message, dict) or not isinstance(message.get("id"), int):
        return None
    kind, args = message.get("kind"), message.get("args", {})
    if not isinstance(kind, str) or not isinstance(args, dict) or len(str(args)) > LARGEST:
        answer: dict[str, Any] = {"error": 'a question is {"id": 7, "kind": "grid", "args": {...}}.'}
    else:
        answer = asking.ask(kind, args)
    return {"id": message["id"], "answer": answer}


def make(page: Page) -> Any:
    """The widget of a page. Raises ImportError, with what to install, where anywidget is not there."""
    try:
        import anywidget  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(_INSTALL) from error
    if page.answers.model is None:
        raise ValueError("this page has no model to ask. Give model= and task= to interp.explore.")
    asking = Asking(page.answers)

    class Live(anywidget.AnyWidget):
        _esm, _css = module(), source("page.css")

        def __init__(self) -> None:
            super().__init__()
            self.on_msg(self._answer)

        def _answer(self, widget: Any, message: Any, buffers: Any) -> None:
            answer = reply(asking, message)
            if answer is not None:
                self.send(answer)

    return Live()
