"""Serve a web page: drop a picture, type expressions, see masks: ris app --weights FOLDER"""

from __future__ import annotations

import argparse
from pathlib import Path

from ris.commands import loading


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--weights", required=True, help="checkpoint folder, Hub id of one, or "
                        "released .pth")  # fmt: skip
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at; 0.0.0.0 lets "
                        "other machines in, without a password (default: %(default)s)")  # fmt: skip
    parser.add_argument("--port", type=int, default=7860, help="(default: %(default)s)")
    parser.add_argument("--share", action="store_true", help="a public address through gradio's "
                        "servers; pictures then pass through them")  # fmt: skip
    parser.add_argument("--max-mb", type=int, default=20, help="largest upload in megabytes "
                        "(default: %(default)s)")  # fmt: skip
    parser.add_argument("--device", help="cpu, cuda, ... (default: cuda where there is one)")
    loading.add(parser)
    loading.add_size(parser)


def run(arguments: argparse.Namespace) -> None:
    import os
    import tempfile

    # Read when gradio is imported: it would tell its makers of every start.
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from ris.errors import OptionError
    from vpd.errors import missing_extra

    try:  # before the weights, which take long to read
        from ris.app import build, serve
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise OptionError(str(missing_extra("gradio", "app", "ris app"))) from error
    from ris.allocator import keep_heap
    from ris.asking import Asker
    from ris.devices import choose_device
    from ris.predictor import Predictor

    if not 0 < arguments.port < 65536:
        raise OptionError(f"--port is {arguments.port}; want 1 to 65535")
    if arguments.max_mb < 1:
        raise OptionError(f"--max-mb is {arguments.max_mb}; want 1 or more")
    extra = {**loading.options(arguments, arguments.weights), **loading.size(arguments)}
    if choose_device(arguments.device).type == "cpu":
        keep_heap()
    predictor = Predictor.from_pretrained(arguments.weights, device=arguments.device, **extra)
    dataset = str(predictor.info.get("dataset", ""))
    with tempfile.TemporaryDirectory(prefix="ris-examples-") as folder:
        page = build(Asker(predictor), examples_for(Path(folder), dataset))
        serve(
            page,
            host=arguments.host,
            port=arguments.port,
            share=arguments.share,
            max_mb=arguments.max_mb,
        )


def examples_for(folder: Path, dataset: str, count: int = 3) -> list[tuple[str, str]]:
    """Pictures and expressions that a model of `dataset` can be asked, made in `folder`.

    Only for generated data: a model of RefCOCO can be asked about photographs, and none ships here.
    """
    if dataset not in ("refshapes", "grefshapes"):
        return []
    from refer import REFER
    from refer.shapes import generate

    generate(folder, train=0, val=count, test_a=0, test_b=0, workers=1, progress=False, seed=1)
    refer = REFER(folder, "refshapes")
    made = []
    for image_id, refs in refer.imgToRefs.items():
        lines = [ref["sentences"][0]["sent"] for ref in refs]
        made.append((str(refer.image_path(image_id)), "\n".join(lines)))
    return made
