"""A picture as the page shows it: what was said of it, what it is, and its place among the pictures kept."""

from __future__ import annotations

from typing import Any

from headstart.evaluation.interpret import Example
from headstart.evaluation.report import wording
from headstart.evaluation.report.gallery import Gallery, Group
from headstart.evaluation.report.pictures import Pictures


class Cards:
    """Makes the cards of a page; the first card of a row has an anchor that others can link to."""

    def __init__(self, pictures: Pictures, *, tags: bool) -> None:
        self.pictures = pictures
        self.tags = tags
        self.anchored: set[int] = set()

    def card(self, example: Example, *, heat: bool = False) -> dict[str, Any]:
        """What the template shows of a picture, with an anchor the first time."""
        first = example.index not in self.anchored
        self.anchored.add(example.index)
        anchor = f"p{example.index}" if first else ""
        return self.small(example) | {
            "anchor": anchor,
            "heat": self.pictures.heat(example.index) if heat else "",
        }

    def small(self, example: Example) -> dict[str, Any]:
        """What the template shows of a picture that has its card elsewhere."""
        return {
            "anchor": "",
            "heat": "",
            "thumbnail": example.index if self.pictures.thumbnail(example.index) else None,
            "path": example.path,
            "truth": example.truth,
            "prediction": example.prediction,
            "right": example.truth == example.prediction,
            "loss": wording.number(example.loss, 2),
            "probability": "" if example.tag else wording.probability(example.probability),
            "truth_probability": "" if example.tag else wording.probability(example.truth_probability),
            "about": f"{wording.visible(example.tag)} at {wording.probability(example.probability)}"
            if example.tag
            else "",
        }

    def group(self, group: Group) -> dict[str, Any]:
        """A title with its cards."""
        return {"title": group.title, "cards": [self.card(each) for each in group.examples]}

    def gallery(self, each: Gallery, names: tuple[str, ...]) -> dict[str, Any]:
        """A gallery that a link opens, with the link that leads back to where it was opened."""
        truth, prediction = each.place
        return {
            "id": gallery_id(each.place),
            "back": back_id(each.place),
            "tag": self.tags,
            "truth": names[truth],
            "prediction": names[prediction],
            "right": truth == prediction,
            "count": each.count,
            "shown": len(each.examples),
            "groups": [self.group(group) for group in each.groups],
        }


def gallery_id(place: tuple[int, int]) -> str:
    """The anchor of a gallery, by the numbers of truth and prediction."""
    return f"g{place[0]}-{place[1]}"


def back_id(place: tuple[int, int]) -> str:
    """The anchor of what opens a gallery."""
    return f"c{place[0]}-{place[1]}"
