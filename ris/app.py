"""The web page: drop a picture, type expressions, see masks. Works without a network.

Needs gradio (the extra `app`); import it where the page is wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from refer.errors import ReferError
from ris.asking import Asker
from ris.errors import OptionError, RISError
from vpd.errors import VPDError

TITLE = "Segment what a sentence refers to"
FONTS = ["system-ui", "sans-serif"]
MONO = ["ui-monospace", "monospace"]
KEEP_UPLOADS = 3600  # seconds

Example = tuple[str, str]  # picture path, expressions one a line


def build(asker: Asker, examples: Sequence[Example] = ()) -> gr.Blocks:
    """The page; `examples` are offered below the form."""

    def answer(path: str | None, text: str) -> tuple[Any, list[list[str]]]:
        try:
            found = asker.ask(path, text)
        except (RISError, ReferError, VPDError) as error:
            raise gr.Error(str(error), duration=None, print_exception=False) from error
        return found.picture, found.rows

    with gr.Blocks(
        title=TITLE, analytics_enabled=False, delete_cache=(KEEP_UPLOADS, KEEP_UPLOADS)
    ) as page:
        gr.Markdown(f"# {TITLE}")
        with gr.Row():
            with gr.Column():
                upload = gr.Image(label="Picture", type="filepath", sources=["upload", "clipboard"])
                # The file as it was sent: gradio would decode it here and hide what is wrong with
                # it. Set on the one object, since a subclass makes gradio write a .pyi beside us.
                upload.preprocess = _as_sent(Path(upload.GRADIO_CACHE))
                text = gr.Textbox(
                    label="Expressions, one a line",
                    placeholder="the dog on the left\nthe cup behind it",
                    lines=3,
                )
                button = gr.Button("Segment", variant="primary")
            with gr.Column():
                drawn = gr.Image(
                    label="Masks", format="png", interactive=False, buttons=["download"]
                )
                rows = gr.Dataframe(
                    headers=["expression", "answer", "score"],
                    datatype="str",
                    interactive=False,
                    wrap=True,
                    column_widths=["45%", "35%", "20%"],
                    label="Answers (score: mean probability inside the mask)",
                )
        if examples:
            gr.Examples([list(example) for example in examples], [upload, text])
        button.click(answer, [upload, text], [drawn, rows], concurrency_limit=1)
    return page


def serve(page: gr.Blocks, *, host: str, port: int, share: bool, max_mb: int) -> None:
    """Serve a page of `build` until Ctrl-C. Raises OptionError for a port that is taken."""
    try:
        page.launch(
            server_name=host,
            server_port=port,
            share=share,
            max_file_size=max_mb * gr.FileSize.MB,
            theme=gr.themes.Default(font=FONTS, font_mono=MONO),
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            enable_monitoring=False,
            footer_links=[],
        )
    except OSError as error:
        raise OptionError(
            f"cannot serve at {host}:{port}: the port is taken, or the address is none of this "
            "machine's; give another --port or --host"
        ) from error
    finally:
        page.close(verbose=False)


def _as_sent(folder: Path) -> Callable[[Any], str | None]:
    """Makes an upload its path. Only files in `folder`, where gradio puts uploads, are taken: a
    request that leaves out gradio's own mark of a file passes its check with any path."""

    def preprocess(payload: Any) -> str | None:
        if payload is None or not payload.path:
            return None
        path = Path(payload.path).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise gr.Error("the picture is no upload of this page", print_exception=False)
        return str(path)

    return preprocess
