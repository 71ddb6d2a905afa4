"""Greedy episodes as an animated GIF."""

from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from envs import MazeSpec
from envs.render import COLOURS, rgb
from train.files.writing import replacing
from train.watch.terminal import ACTIONS, Moment

PANEL, LINE, BAR = 190, 20, 84  # pixels: width beside the board, height of a line, longest bar
INK, FAINT, PAPER = COLOURS[" "], (190, 190, 184), (250, 249, 245)


def picture(moment: Moment, spec: MazeSpec, tile: int) -> Image.Image:
    """The moment as a picture: the board, and beside it the step and the Q values."""
    board = Image.fromarray(rgb(moment.board, spec, tile))
    actions = spec.actions
    height = max(board.height, (actions + 5) * LINE)
    image = Image.new("RGB", (board.width + PANEL, height), PAPER)
    image.paste(board, (0, (height - board.height) // 2))
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(13)
    left, top = board.width + 16, LINE // 2
    said = (moment.end or "doors changed" * moment.changed).capitalize()
    head = (f"Episode {moment.episode}, step {moment.step}", f"Reward {moment.reward:.2f}", said)
    for i, text in enumerate(head):
        draw.text((left, top + i * LINE), text, INK, font)
    for action, value in enumerate(moment.q):
        y = top + (action + 4) * LINE
        colour = COLOURS["@"] if action == moment.action else FAINT
        long = round(BAR * min(max(value, 0.0), 1.0))
        if action == moment.action:
            draw.polygon([(left - 9, y + 4), (left - 9, y + 12), (left - 4, y + 8)], INK)
        draw.text((left, y), ACTIONS[action], INK, font)
        draw.rectangle((left + 26, y + 2, left + 26 + long, y + 14), colour)
        draw.line((left + 26, y, left + 26, y + 16), INK)
        draw.text((left + 34 + BAR, y), f"{value:.2f}", INK, font)
    return image


def write_gif(path: Path, played: Iterator[Moment], spec: MazeSpec, tile: int, delay: float) -> int:
    """Write the moments to a GIF and return how many frames; the file is whole or not there."""
    with replacing(path) as part, part.open("wb") as file:  # a bad path fails here
        shown = list(played)
        milliseconds = [max(20, round(1000 * delay * (4 if m.end else 1))) for m in shown]
        first, *rest = (picture(moment, spec, tile) for moment in shown)
        first.save(file, "GIF", save_all=True, append_images=rest, duration=milliseconds, loop=0)
    return len(shown)
