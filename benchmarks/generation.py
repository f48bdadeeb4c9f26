"""Does the embedded model draw what it is told? A picture sheet, and a number.

    python benchmarks/generation.py [--prompts 256] [--csv FILE] [--sheet FILE] [--docs]

A small classifier learns colours, shapes and places from real RefShapes scenes. It is then asked
about pictures drawn for captions such as "a red circle in the top left corner": is there something
of that colour, something of that shape, one thing that is both, and does it lie at that place? The
same questions are asked of real scenes with a true caption (how good the classifier is) and of the
drawn pictures with another picture's caption (what guessing gives).

Shapes: N pictures, G x G cells of a grid, A attributes (8 colours, then 8 shapes).
"""

from __future__ import annotations

import argparse
import csv
import os
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageDraw
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from refer.shapes.language import Facts
from refer.shapes.records import make_page
from refer.shapes.vocabulary import COLOURS, HELD_OUT, PLACE_AFTER, SHAPES
from vpd.pretrain.pipeline import draw
from vpd.zoo import EMBEDDED_FOLDER

REPO = Path(__file__).resolve().parents[1]
RESULTS = REPO / "benchmarks" / "results" / "generation.csv"
DOCS = REPO / "docs" / "embedded.md"
BEGIN, END = "<!-- generation:begin -->", "<!-- generation:end -->"
SHEET = REPO / "docs" / "generated.png"
GRID, SIZE, SEED = 8, 128, 1234
PLACES = ("top left", "top right", "bottom left", "bottom right", "left", "right", "top", "bottom")
ATTRIBUTES = (*COLOURS, *SHAPES)
Question = tuple[str, str, str]  # colour, shape, place


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=EMBEDDED_FOLDER)
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--scenes", type=int, default=4000, help="real scenes to learn from")
    parser.add_argument("--steps", type=int, default=30, help="sampling steps")
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--csv", type=Path, default=RESULTS)
    parser.add_argument("--sheet", type=Path, default=SHEET)
    parser.add_argument("--docs", action="store_true", help="write the table into docs/embedded.md")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    judge = Judge()
    learn(judge, *scenes(arguments.scenes, first=0))
    rng = np.random.default_rng(SEED)
    pictures, questions = real(arguments.prompts, rng)
    rows = {"real scenes, true captions": answers(judge, pictures, questions)}
    asked = [ask(rng) for _ in range(arguments.prompts)]
    pipe = StableDiffusionPipeline.from_pretrained(arguments.model, safety_checker=None)
    options = {"size": SIZE, "steps": arguments.steps, "guidance": arguments.guidance}
    started = time.monotonic()
    drawn = draw(pipe, [caption(question) for question in asked], **options)
    seconds = time.monotonic() - started
    made = torch.stack([torch.from_numpy(np.array(p)).permute(2, 0, 1) for p in drawn])
    rows["drawn for the caption"] = answers(judge, made, asked)
    rows["drawn, another one's caption"] = answers(judge, made, asked[1:] + asked[:1])
    write(arguments.csv, rows, arguments, seconds)
    print(arguments.csv.read_text())
    if arguments.docs:
        into_docs(rows)
    sheet(drawn[:24], [caption(question) for question in asked[:24]], arguments.sheet)


class Judge(nn.Module):
    """uint8 [N, 3, S, S] -> logits [N, A, G, G]: which attributes the thing centred there has."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for block, stride in enumerate((2, 2, 2, 2, 1)):
            after = width * min(4, 2 ** (block // 2))
            layers += [nn.Conv2d(before, after, 3, stride, 1), nn.BatchNorm2d(after), nn.ReLU()]
            layers += [nn.Conv2d(after, after, 3, 1, 1), nn.BatchNorm2d(after), nn.ReLU()]
            before = after
        self.layers = nn.Sequential(*layers, nn.Conv2d(before, len(ATTRIBUTES), 1))

    def forward(self, pictures: Tensor) -> Tensor:
        return self.layers(pictures.float() / 127.5 - 1)


def scenes(count: int, first: int) -> tuple[Tensor, Tensor]:
    """Real scenes uint8 [N, 3, S, S] and which attributes lie in which cell, float [N, A, G, G]."""
    pictures = torch.empty(count, 3, SIZE, SIZE, dtype=torch.uint8)
    truth = torch.zeros(count, len(ATTRIBUTES), GRID, GRID)
    for index in tqdm(range(count), desc="real scenes"):
        page = make_page(SEED, "train", first + index, SIZE, SIZE)
        pictures[index] = torch.from_numpy(page.picture).permute(2, 0, 1)
        facts = Facts(page.scene)
        for (colour, _, shape), u, v in zip(facts.looks, facts.u, facts.v, strict=True):
            for word in (colour, shape):
                truth[index, ATTRIBUTES.index(word), int(v * GRID), int(u * GRID)] = 1
    return pictures, truth


def learn(judge: Judge, pictures: Tensor, truth: Tensor, epochs: int = 12) -> None:
    optimizer = torch.optim.AdamW(judge.parameters(), lr=2e-3)
    steps = epochs * (len(pictures) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps)
    weight = torch.tensor(8.0)  # a cell seldom holds a thing
    judge.train()
    for _ in tqdm(range(steps), desc="classifier"):
        chosen = torch.randint(len(pictures), (64,))
        loss = F.binary_cross_entropy_with_logits(
            judge(pictures[chosen]), truth[chosen], pos_weight=weight
        )
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    judge.eval()


def ask(rng: np.random.Generator) -> Question:
    """A colour, a shape and a place; never a held-out pair, which training never showed."""
    while True:
        colour = str(rng.choice(list(COLOURS)))
        shape = str(rng.choice(SHAPES))
        if (colour, shape) not in HELD_OUT:
            return colour, shape, str(rng.choice(PLACES))


def caption(question: Question) -> str:
    colour, shape, place = question
    article = "an" if colour[0] in "aeiou" else "a"
    return f"{article} {colour} {shape} {PLACE_AFTER[place][0]}"


def real(count: int, rng: np.random.Generator) -> tuple[Tensor, list[Question]]:
    """Scenes that the classifier has not seen, each with a question whose answer is yes."""
    pictures, questions, index = [], [], 10**6
    while len(questions) < count:
        page = make_page(SEED, "train", index, SIZE, SIZE)
        index += 1
        facts = Facts(page.scene)
        true = [
            (colour, shape, place)
            for i, (colour, _, shape) in enumerate(facts.looks)
            for place in PLACES
            if facts.place(place)[0] >> i & 1
        ]
        if true:
            questions.append(true[rng.integers(len(true))])
            pictures.append(torch.from_numpy(page.picture).permute(2, 0, 1))
    return torch.stack(pictures), questions


@torch.no_grad()
def answers(judge: Judge, pictures: Tensor, questions: list[Question]) -> dict[str, float]:
    """Percent of pictures in which the classifier finds what the question names."""
    found = torch.cat([judge(part).sigmoid() for part in pictures.split(64)])
    yes = dict.fromkeys(("colour", "shape", "colour and shape", "place"), 0)
    for grid, (colour, shape, place) in zip(found, questions, strict=True):
        with_colour = grid[ATTRIBUTES.index(colour)]
        with_shape = grid[ATTRIBUTES.index(shape)]
        both = torch.minimum(with_colour, with_shape)
        row, column = divmod(int(both.argmax()), GRID)
        here = within((column + 0.5) / GRID, (row + 0.5) / GRID, place)
        yes["colour"] += bool(with_colour.max() > 0.5)
        yes["shape"] += bool(with_shape.max() > 0.5)
        yes["colour and shape"] += bool(both.max() > 0.5)
        yes["place"] += bool(both.max() > 0.5 and here)
    return {name: 100 * count / len(questions) for name, count in yes.items()}


def within(u: float, v: float, place: str) -> bool:
    """Whether a point (fractions of width and height) lies in the half or quarter named."""
    sides = {"left": u < 0.5, "right": u > 0.5, "top": v < 0.5, "bottom": v > 0.5}
    return all(sides[word] for word in place.split())


def write(
    path: Path, rows: dict[str, dict[str, float]], arguments: argparse.Namespace, seconds: float
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".partial")
    with open(draft, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["pictures", *next(iter(rows.values())), "count", "steps", "guidance", "seconds"]
        )
        for name, values in rows.items():
            cells = [f"{value:.1f}" for value in values.values()]
            extra = [arguments.steps, arguments.guidance, round(seconds)]
            writer.writerow(
                [name, *cells, arguments.prompts, *(extra if "drawn" in name else ["", "", ""])]
            )
    os.replace(draft, path)


def into_docs(rows: dict[str, dict[str, float]]) -> None:
    names = list(next(iter(rows.values())))
    lines = [f"| pictures | {' | '.join(names)} |", "|---|" + "---|" * len(names)]
    for name, values in rows.items():
        lines.append(f"| {name} | " + " | ".join(f"{values[n]:.1f}" for n in names) + " |")
    before, rest = DOCS.read_text().split(BEGIN)
    table = "\n".join(lines)
    picture = "![Pictures drawn for captions](generated.png)"
    DOCS.write_text(f"{before}{BEGIN}\n{table}\n\n{picture}\n{END}{rest.split(END)[1]}")


def sheet(pictures: list[Image.Image], prompts: list[str], path: Path, columns: int = 6) -> None:
    """Pictures with their prompts below."""
    width, height = SIZE + 8, SIZE + 34
    rows = -(-len(pictures) // columns)
    page = Image.new("RGB", (width * columns, height * rows), "white")
    pen = ImageDraw.Draw(page)
    for index, (picture, prompt) in enumerate(zip(pictures, prompts, strict=True)):
        x, y = index % columns * width + 4, index // columns * height + 4
        page.paste(picture, (x, y))
        words = prompt.split()
        pen.text((x, y + SIZE + 1), " ".join(words[:3]), fill="black")
        pen.text((x, y + SIZE + 13), " ".join(words[3:]), fill="black")
    page.save(path)


if __name__ == "__main__":
    main()
