"""The pieces a report is put together from, as HTML."""

import base64
import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from patchcore_engine.errors import DataError
from patchcore_engine.evaluation import Example
from patchcore_engine.scoring import overlay

_JPEG_QUALITY = 86
_WIDEST_ROW = 5
_SETTING_NAMES = {
    "backbone": "Backbone",
    "weights_digest": "Weights digest",
    "precision": "Precision",
    "embedding": "Embedding",
    "resize": "Shorter side, pixels",
    "image_size": "Crop, pixels",
    "coreset_ratio": "Coreset ratio",
    "vectors": "Vectors kept",
    "patches": "Patches seen",
    "index": "Index",
    "score_mode": "Score mode",
    "reweight": "Score reweighted",
    "n_neighbors": "Neighbours for reweighting",
    "pictures": "Good pictures",
    "seed": "Seed",
}


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of merit: its name, its value, and what stands below it in small print."""

    name: str
    value: str
    note: str = ""


def page(title: str, subtitle: str, sections: Iterable[str]) -> str:
    """Return the whole page; `sections` are HTML, the other texts are plain."""
    template = Template((files("patchcore_engine") / "report.html").read_text(encoding="utf-8"))
    return template.substitute(title=escape(title), subtitle=escape(subtitle), body="\n".join(s for s in sections if s))


def section(title: str, note: str, *content: str) -> str:
    """Return a titled section, or nothing when it has no content."""
    if not any(content):
        return ""
    return f"<section>\n<h2>{escape(title)}</h2>\n<p>{escape(note)}</p>\n" + "\n".join(content) + "\n</section>"


def figure_row(figures: Sequence[Figure]) -> str:
    entries = (
        f"<div><dt>{escape(f.name)}</dt><dd>{escape(f.value)}<small>{escape(f.note)}</small></dd></div>"
        for f in figures
    )
    content = "".join(entries)
    columns = _WIDEST_ROW if len(figures) == _WIDEST_ROW else _WIDEST_ROW - 1
    return f'<dl class="figures" style="--columns: {columns}">{content}</dl>'


def plot(svg: str) -> str:
    return f'<figure class="wide">{svg}</figure>'


def plots_side_by_side(svgs: Iterable[str]) -> str:
    content = "".join(f"<figure>{svg}</figure>" for svg in svgs)
    return f'<div class="curves">{content}</div>' if content else ""


def picture(data: bytes, label: str) -> str:
    """Embed an encoded picture."""
    kind = "png" if data.startswith(b"\x89PNG") else "jpeg"
    return f'<img src="data:image/{kind};base64,{base64.b64encode(data).decode()}" alt="{escape(label)}">'


def example_gallery(examples: Sequence[Example]) -> str:
    """Show each example's picture beside its heat map; a light line is the edge of the true defect."""
    return '<div class="examples">' + "".join(map(_example, examples)) + "</div>" if examples else ""


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, own: int | None = None) -> str:
    """Return a table whose first column names the row and whose others hold numbers; row `own` stands out."""
    head = "".join(
        f'<th class="number">{escape(h)}</th>' if i else f"<th>{escape(h)}</th>" for i, h in enumerate(header)
    )
    body = "".join(
        f'<tr class="{"own" if position == own else ""}"><th>{escape(row[0])}</th>'
        + "".join(f'<td class="number">{escape(cell)}</td>' for cell in row[1:])
        + "</tr>"
        for position, row in enumerate(rows)
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def settings_list(settings: Iterable[tuple[str, str]]) -> str:
    entries = (f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in settings)
    return '<dl class="settings">' + "".join(entries) + "</dl>"


def settings_section(values: Mapping[str, Any]) -> str:
    """Return the section that names the settings among the manifest's `values`."""
    shown = [(title, _value(values[name])) for name, title in _SETTING_NAMES.items() if name in values]
    return section("Settings", "What the bank was made with.", settings_list(shown))


def score_text(value: float | None) -> str:
    """Show a figure from 0 to 1, or a dash for none."""
    return "-" if value is None else f"{value:.4f}"


def write_report(folder: Path, html: str, name: str = "report.html") -> Path:
    """Write `html` into `folder`, made if missing, and return the file's path. Raises DataError."""
    path = folder / name
    temporary = folder / f".{name}.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary.write_text(html, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise DataError(f"The report {path} can't be written: {error.strerror}.") from error
    return path


def overlay_with_truth(example: Example) -> NDArray[np.uint8]:
    """Lay the heat over the picture and draw the edge of the true defect; uint8 [s, s, 3] RGB."""
    shown = np.ascontiguousarray(overlay(example.pixels, example.levels))
    if example.mask is not None and example.mask.any():
        edges, _ = cv2.findContours(example.mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(shown, edges, -1, (0, 0, 0), 3, cv2.LINE_AA)
        cv2.drawContours(shown, edges, -1, (255, 255, 255), 1, cv2.LINE_AA)
    return shown


def picture_gallery(pictures: Iterable[tuple[NDArray[np.uint8], str, str]]) -> str:
    """Show pictures, uint8 [h, w, 3] RGB, each with a caption and a line of small print."""
    entries = (
        f"<figure>{picture(_jpeg(pixels), note)}"
        f"<figcaption>{escape(caption)}<br><span>{escape(note)}</span></figcaption></figure>"
        for pixels, caption, note in pictures
    )
    content = "".join(entries)
    return f'<div class="examples small">{content}</div>' if content else ""


def _example(example: Example) -> str:
    result = example.result
    pictures = picture(_jpeg(example.pixels), result.path) + picture(
        _jpeg(overlay_with_truth(example)), f"Heat map of {result.path}"
    )
    caption = (
        f'<span class="{result.outcome}">{result.outcome}</span> score {result.score:.3f}, p {result.p_value:.3f}'
        f"<br><span>{escape(result.path)}</span>"
    )
    return f'<figure><div class="pair">{pictures}</div><figcaption>{caption}</figcaption></figure>'


def _jpeg(pixels: NDArray[np.uint8]) -> bytes:
    _, data = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return data.tobytes()


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    text = str(value)
    return f"{text[:16]}..." if len(text) == 64 else text
